"""Searches, learning curves, predictions and trainings on several machines, by Dask.

    from fastgdml.cluster import connect
    from fastgdml.search import run

    with connect("local:2") as cluster:  # or an address, or connect(client=...)
        run(directory, "ethanol", executor=cluster)

`dask.distributed` moves work and data, and finds out what is lost; here stands only what is to be done with them.
"""

from ..errors import UsageError

try:
    import distributed  # noqa: F401
except ImportError:
    raise UsageError("Clusters need Dask: pip install 'fastgdml[dask]'") from None

from .chunks import Chunks
from .connection import Cluster, connect
from .train import ClusterTrain, ClusterTrainer

__all__ = ["Chunks", "Cluster", "ClusterTrain", "ClusterTrainer", "connect"]
