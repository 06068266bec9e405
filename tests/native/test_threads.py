import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import fastgdml
from fastgdml import _core
from fastgdml.errors import DataError
from fastgdml.model import save_model
from fastgdml.predict import GDMLPredict
from fastgdml.threads import ThreadShare, blas_threads, prediction_threads, resolve_n_threads


def blas_numbers():
    """The numbers of threads that the libraries of BLAS have now."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_explicit_number():
    assert resolve_n_threads(3) == 3
    assert resolve_n_threads(0) == 1


def test_omp_num_threads_is_a_bound(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert resolve_n_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert 1 <= resolve_n_threads() <= (os.cpu_count() or 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    assert resolve_n_threads() >= 1


def predict_in_child(model, R, queue):
    queue.put(GDMLPredict(model).predict(R)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_predicts_and_does_not_hang(ethanol, ethanol_model):
    R = ethanol["R"][:500].reshape(500, -1)
    expected = GDMLPredict(ethanol_model, max_processes=2).predict(R)[1]  # a parallel region before the fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=predict_in_child, args=(ethanol_model, R, queue))
    child.start()
    try:
        np.testing.assert_array_equal(queue.get(timeout=60), expected)
        child.join(timeout=60)
        assert child.exitcode == 0
    finally:
        child.kill()


def test_show_config(capsys):
    shown = fastgdml.show_config(mode="dicts")
    assert shown["instruction set"] == _core.isa_name()
    assert shown["threads"] == resolve_n_threads()
    assert fastgdml.show_config() is None
    assert str(shown["blas"]) in capsys.readouterr().out


def test_calls_at_once_share_the_threads():
    share = ThreadShare()
    assert [share.join(8), share.join(8), share.join(8)] == [8, 4, 2]
    for _ in range(3):
        share.leave()
    assert share.join(4) == 4
    assert share.join(1) == 1


def test_a_call_that_fails_gives_its_threads_back(ethanol_model, ethanol):
    predictor = GDMLPredict(ethanol_model, max_processes=2)
    for _ in range(3):
        with pytest.raises(DataError):
            predictor.predict(np.zeros((1000, 27)))
    assert prediction_threads.join(2) == 2
    prediction_threads.leave()


def test_isa_is_one_of_the_known():
    assert _core.isa_name() in ("baseline", "v3", "v4")


def test_unknown_isa_is_an_error(monkeypatch):
    monkeypatch.setenv("FASTGDML_ISA", "v9")
    with pytest.raises(RuntimeError, match="FASTGDML_ISA=v9"):
        _core.isa_name()


@pytest.fixture
def python(tmp_path):
    """Run code in a new interpreter, away from the source folder."""
    return lambda code: subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode


def test_training_loads_lapack_without_scipy_linalg_and_leaves_that_usable(python):
    code = (
        "import sys, fastgdml.train; assert 'scipy.linalg' not in sys.modules;"
        "import scipy.linalg, scipy.linalg.cython_lapack as c; from scipy.linalg import cython_lapack;"
        "assert c is cython_lapack and 'dpftrf' in c.__pyx_capi__;"
        "import numpy as np; assert np.allclose(scipy.linalg.cholesky(np.eye(3)), np.eye(3))"
    )
    assert python(code) == 0
    code = "import scipy.linalg, fastgdml.train"
    assert python(code) == 0


def test_importing_the_package_is_light(python):
    code = "import sys, fastgdml; sys.exit('numpy' in sys.modules)"
    assert python(code) == 0


def test_limits_of_blas_hold_in_every_thread_and_end():
    before = blas_numbers()
    inside, outside = threading.Barrier(3), threading.Barrier(3)
    seen = []

    def work(n_threads):
        with blas_threads(n_threads):
            with blas_threads(1):
                seen.append(blas_numbers())
            inside.wait(30)
            outside.wait(30)

    workers = [threading.Thread(target=work, args=(n_threads,)) for n_threads in (1, 2)]
    for worker in workers:
        worker.start()
    inside.wait(30)
    assert blas_numbers() == {1}  # the smaller of the two
    with blas_threads(2):
        assert blas_numbers() == {1}
    outside.wait(30)
    for worker in workers:
        worker.join()
    assert seen == [{1}, {1}]
    assert blas_numbers() == before


# Predicts on two threads, then sleeps; prints the processor time that was taken meanwhile, the least and the most.
IDLE = """
import os, sys, time
from threadpoolctl import threadpool_info
from fastgdml.dataset import load_dataset
from fastgdml.predict import GDMLPredict
predictor = GDMLPredict(sys.argv[1], max_processes=2)
R = load_dataset("ethanol")["R"][:500].reshape(500, -1)
times = []
for _ in range(10):
    predictor.predict(R)
    start = time.process_time()
    time.sleep(0.05)
    times.append(time.process_time() - start)
libraries = {library["prefix"] for library in threadpool_info() if library["user_api"] == "openmp"}
print(min(times), max(times), "GOMP_SPINCOUNT" in os.environ, *libraries)
"""


def idle_times(folder, model, **environment):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", IDLE, str(model)]
    env = kept | environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    least, most, spins_in_environment, *libraries = done.stdout.split()
    if libraries != ["libgomp"]:
        pytest.skip(f"the OpenMP library is not GCC's, but {libraries}")
    assert spins_in_environment == str("GOMP_SPINCOUNT" in environment)  # as it was
    return float(least), float(most)


@pytest.mark.skipif(resolve_n_threads() < 2, reason="needs two processors")
def test_threads_without_work_sleep_soon(tmp_path, ethanol_model):
    save_model(tmp_path / "model.npz", ethanol_model)
    least, _ = idle_times(tmp_path, tmp_path / "model.npz")
    assert least < 2e-3
    _, most = idle_times(tmp_path, tmp_path / "model.npz", GOMP_SPINCOUNT="10000000")  # what the user says counts
    assert most > 1e-2
    least, _ = idle_times(tmp_path, tmp_path / "model.npz", OMP_WAIT_POLICY="passive")
    assert least < 2e-3
