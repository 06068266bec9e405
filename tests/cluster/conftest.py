"""One cluster for all tests of the wing: a scheduler and two workers, command-line processes."""

import warnings

import pytest
from support.cluster import Processes, wait_for

pytest.importorskip("distributed", reason="Dask is not installed: pip install '.[dask]'")


@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    found = Processes(tmp_path_factory.mktemp("dask"))
    try:
        found.start_scheduler()
        found.keep(2)
        yield found
    finally:
        found.stop()


@pytest.fixture
def other(tmp_path_factory):
    """A scheduler of one's own."""
    found = Processes(tmp_path_factory.mktemp("other"))
    found.start_scheduler()
    yield found
    found.stop()


@pytest.fixture
def cluster(processes):
    """A connection to two workers."""
    from fastgdml.cluster import connect

    processes.keep(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with connect(processes.address, patience=60) as found:
            wait_for(found, 2)
            yield found
