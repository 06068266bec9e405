"""Ranges of geometries for one or several workers, and how one works through them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

from .arrays import release

_log = logging.getLogger(__name__)


class Ranges:
    """Cuts n_geo geometries into ranges and hands them out, also to several threads."""

    def __init__(self, n_geo: int) -> None:
        self.n_geo = n_geo
        self._next = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> tuple[int, int]:
        """Return (begin, end) of the next `size` geometries or fewer; begin == end when there are none left."""
        with self._lock:
            begin = self._next
            self._next = min(begin + size, self.n_geo)
            return begin, self._next


def work_through(
    ranges: Ranges,
    size: int,
    streams: Iterator[AbstractContextManager[Any]],
    compute: Callable[[int, int], Any],
    collect: Callable[[int, int, Any, Any], None],
    xp: ModuleType,
) -> int:
    """Compute batch by batch until no range is left; smaller batches when memory runs out.

    While the device computes one batch, the next one is launched, and the results of the one before are collected.

    Parameters
    ----------
    ranges : Ranges
        What is to be done.
    size : int
        Geometries of a batch.
    streams : iterator of contexts
        Each batch is computed in the next one.
    compute : callable
        (begin, end) to the results of these geometries. Called in the context of a stream.
    collect : callable
        Called with (begin, end, results, stream), batch after batch.
    xp : module
        numpy or cupy.

    Returns
    -------
    int
        `size`, or the smaller one that it came down to.

    Raises
    ------
    MemoryError
        If there is no memory for one geometry.
    """
    waiting: tuple[int, int, Any, Any] | None = None
    begin = end = 0
    while True:
        if begin == end:
            begin, end = ranges.take(size)
            if begin == end:
                break
        stop = min(begin + size, end)
        stream = next(streams)
        results, error = _try(compute, begin, stop, stream)
        if error is not None:
            # What waits holds memory, too.
            if waiting is not None:
                collect(*waiting)
                waiting = None
            elif stop - begin == 1:
                raise error
            size = max(1, (stop - begin) // 2)
            _log.info("Out of memory with %d geometries a batch; trying %d.", stop - begin, size)
            release(xp)
            continue
        if waiting is not None:
            collect(*waiting)
        waiting = (begin, stop, results, stream)
        begin = stop
    if waiting is not None:
        collect(*waiting)
    return size


def _try(
    compute: Callable[[int, int], Any], begin: int, end: int, stream: AbstractContextManager[Any]
) -> tuple[Any, MemoryError | None]:
    """Return the results, or the error of the allocator; the memory of a failed batch is free by then."""
    try:
        with stream:
            return compute(begin, end), None
    except MemoryError as error:  # CuPy's OutOfMemoryError is one
        # Its traceback holds on to the arrays of the batch.
        return None, error.with_traceback(None)
