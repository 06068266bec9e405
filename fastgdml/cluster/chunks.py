"""Predictions of trajectories: chunks go to workers, results come back in their order, and what is finished is kept.

The client reads and writes, because most formats have to be read from their beginning and one file is written in one
place; the workers compute. Chunks that are finished lie in a folder beside the target until that is complete, so that
the same command, given again, predicts the others only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FastGDMLError, UsageError
from ..labelling import Asked, Wanted
from ..npz import TEXT, load_npz, replacing, save_npz
from ..predict import GDMLPredict
from ..types import Array
from .connection import LOST, Call, Cluster, require_memory
from .rows import threads_here

_log = logging.getLogger(__name__)

# A chunk, the file that keeps its prediction, and that or the call that makes it.
_Pending = tuple[Asked, "Path | None", "tuple[Array, ...] | Call"]

# Chunks under way for each worker: one is computed while the next one travels.
_AHEAD = 3
# Seconds between looks at how many workers there are.
_LOOK = 1.0


class Chunks:
    """Predicts chunks on the workers of a cluster: what `PredictOptions.elsewhere` takes.

    Parameters
    ----------
    cluster : Cluster
        From `connect`.
    target : path-like, optional
        The file that is going to be written. Finished chunks lie in the folder ``TARGET.chunks`` until `finished` is
        called. Without it, and with ``-``, nothing is kept.
    n_threads : int, optional
        Most threads of a worker.
    """

    def __init__(
        self, cluster: Cluster, target: str | os.PathLike[str] | None = None, n_threads: int | None = None
    ) -> None:
        self._cluster, self._n_threads = cluster, n_threads
        kept = target is not None and os.fspath(target) != "-"
        self.folder = Path(f"{os.fspath(target)}.chunks") if kept and target is not None else None
        # How many chunks were predicted, and how many an earlier run had finished.
        self.n_predicted = self.n_found = 0
        self._n_workers, self._looked = 1, -math.inf

    def __call__(
        self, predictor: GDMLPredict, wanted: Wanted, asked: Iterator[Asked]
    ) -> Iterator[tuple[Asked, tuple[Array, ...]]]:
        """Yield chunks with their predictions, in their order. See `fastgdml.labelling.Elsewhere`.

        Raises
        ------
        ClusterError
            If workers have no memory for the model, or die of it, or the scheduler is lost for good.
        UsageError
            If the folder holds chunks of another model or job.
        """
        self._require_memory(predictor)
        self._open(predictor, wanted)
        model = self._cluster.submit(_hold, predictor)
        pending: deque[_Pending] = deque()
        try:
            for one in asked:
                path = self._path(one)
                found = None if path is None else _load(path, wanted.names)
                if found is None:
                    call = self._cluster.submit(_predict, model, one.R, one.lattice, wanted, self._n_threads)
                    pending.append((one, path, call))
                else:
                    self.n_found += 1
                    pending.append((one, path, found))
                while len(pending) >= self._most():
                    yield self._next(pending, wanted.names)
            while pending:
                yield self._next(pending, wanted.names)
        finally:
            for _, _, what in pending:
                if isinstance(what, Call):
                    what.cancel()
        if self.n_found:
            _log.info("%d of %d chunks were finished by an earlier run.", self.n_found, self.n_found + self.n_predicted)

    def _most(self) -> int:
        """Return how many chunks may be under way, by the number of workers, which may come and go."""
        now = time.monotonic()
        if now > self._looked + _LOOK:
            with suppress(*LOST, OSError):  # what waits for a chunk sees to that
                self._n_workers = self._cluster.n_workers()
            self._looked = now
        return _AHEAD * max(1, self._n_workers)

    def _next(self, pending: deque[_Pending], names: tuple[str, ...]) -> tuple[Asked, tuple[Array, ...]]:
        """Return the oldest chunk with its prediction; what is finished of the others is kept as well."""
        one, path, what = pending[0]
        result = self._received(path, what, names)
        pending.popleft()
        for i, (other, other_path, call) in enumerate(pending):
            if isinstance(call, Call) and call.done():
                pending[i] = (other, other_path, self._received(other_path, call, names))
        return one, result

    def _received(self, path: Path | None, what: tuple[Array, ...] | Call, names: tuple[str, ...]) -> tuple[Array, ...]:
        if not isinstance(what, Call):
            return what
        result: tuple[Array, ...] = what.result()
        self.n_predicted += 1
        if path is not None:
            save_npz(path, dict(zip(names, result, strict=True)))
        return result

    def finished(self) -> None:
        """Delete the folder: the target is complete."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    # ---- folder -----------------------------------------------------------------------------------------------------

    def _open(self, predictor: GDMLPredict, wanted: Wanted) -> None:
        """Make the folder, or go on with it."""
        if self.folder is None:
            return
        model = hashlib.sha256(predictor.native.image()).hexdigest()
        job = {"what": "chunks of fastgdml predict", "model": model, **asdict(wanted)}
        note = self.folder / "job.json"
        if note.is_file():
            try:
                before = json.loads(note.read_text(encoding="utf-8"))
            except ValueError:
                before = None
            if before != job:
                raise UsageError(
                    f"'{self.folder}' holds chunks of a prediction by another model or with other options. Delete it, "
                    "or write to another file."
                )
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise UsageError(f"'{self.folder}', where chunks are to be kept, is something else. Move it away.")
        self.folder.mkdir(exist_ok=True)
        with replacing(note, TEXT) as file:
            file.write(json.dumps(job).encode())

    def _path(self, one: Asked) -> Path | None:
        """Return the file of a chunk: its first frame, and what its geometries hash to."""
        if self.folder is None:
            return None
        digest = hashlib.sha256(np.ascontiguousarray(one.R).tobytes())
        if one.lattice is not None:
            digest.update(np.ascontiguousarray(one.lattice).tobytes())
        return self.folder / f"{one.frames.first:012d}-{digest.hexdigest()[:32]}.npz"

    def _require_memory(self, predictor: GDMLPredict) -> None:
        """Raise ClusterError if a worker has no room for the model, once as it comes and once as it is used."""
        require_memory(self._cluster.workers(), 3 * len(predictor.native.image()), "Its copies of the model")


def _load(path: Path, names: tuple[str, ...]) -> tuple[Array, ...] | None:
    """Return a finished chunk; None if there is none, or it is damaged, and is deleted."""
    if not path.is_file():
        return None
    try:
        entries = load_npz(path)
        return tuple(np.asarray(entries[name]) for name in names)
    except (FastGDMLError, KeyError):
        path.unlink()
        return None


def _hold(predictor: GDMLPredict) -> GDMLPredict:
    return predictor


def _predict(
    predictor: GDMLPredict, R: Array, lattice: Array | None, wanted: Wanted, n_threads: int | None
) -> tuple[Any, ...]:
    """Predict a chunk on a worker."""
    predictor.n_threads = threads_here(n_threads)
    return wanted.predicted(predictor, R, lattice)
