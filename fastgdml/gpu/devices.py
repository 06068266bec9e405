"""Several devices that solve one system of equations: what each holds, and how arrays get from one to the other.

The first device is home: all vectors lie there, whole. Each device has the whole training set, and computes the rows of
its own part of the training points. One thread of the host asks all of them for work; they wait for each other by
events, never for the host. What they give is put together in the order of the devices, so that no result depends on
which one is done first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

from ..training_set import TrainingSet
from .arrays import on_device


class Devices:
    """Devices in a fixed order, the first of which is home, the current one in all calls.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    numbers : sequence of int
        Their numbers.
    """

    def __init__(self, xp: ModuleType, numbers: Sequence[int]) -> None:
        self.xp = xp
        self._numbers = tuple(numbers)
        for there in self._numbers[1:]:
            self._connect(self._numbers[0], there)
            self._connect(there, self._numbers[0])

    def __len__(self) -> int:
        return len(self._numbers)

    def on(self, k: int) -> AbstractContextManager[Any]:
        """Return a context in which device k, counted from home, is the current one."""
        return on_device(self._numbers[k], self.xp)

    def send(self, array: Any, k: int) -> Any:
        """Return an array of home, contiguous in either order, on device k; home has it already.

        What home was asked for before is done first. The array must be left as it is until a later `fetch` from k.
        """
        if k == 0:
            return array
        with self.on(k):
            out = self.xp.empty(array.shape, array.dtype, order="F" if array.flags.f_contiguous else "C")
            self._copy(out, array, k, to=k)
        return out

    def fetch(self, out: Any, array: Any, k: int) -> None:
        """Write a contiguous array of device k to one of home; what home is asked for later waits for it."""
        if k == 0:
            out[...] = array
            return
        with self.on(k):
            self._copy(out, array, k, to=0)
            done = self._recorded()
        with self.on(0):
            self.xp.cuda.get_current_stream().wait_event(done)

    def _copy(self, target: Any, source: Any, k: int, to: int) -> None:
        """Copy between home and device k, the current one, once home has done what it was asked for."""
        with self.on(0):
            ready = self._recorded()
        stream, here, home = self.xp.cuda.get_current_stream(), self._numbers[k], self._numbers[0]
        stream.wait_event(ready)
        numbers = (here, home) if to == k else (home, here)
        self.xp.cuda.runtime.memcpyPeerAsync(
            target.data.ptr, numbers[0], source.data.ptr, numbers[1], source.nbytes, stream.ptr
        )

    def _recorded(self) -> Any:
        """Return an event of the current device that comes after all that it was asked for."""
        event = self.xp.cuda.Event(disable_timing=True)
        event.record(self.xp.cuda.get_current_stream())
        return event

    def _connect(self, here: int, there: int) -> None:
        """Let device `here` reach the memory of `there` past the host, where the machine allows it."""
        runtime = self.xp.cuda.runtime
        with on_device(here, self.xp):
            if runtime.deviceCanAccessPeer(here, there):
                try:
                    runtime.deviceEnablePeerAccess(there)
                except runtime.CUDARuntimeError as error:
                    if "PeerAccessAlreadyEnabled" not in str(error):
                        raise


@dataclass(frozen=True)
class DividedTraining:
    """A training set in the memory of devices, and its points divided among them.

    Attributes
    ----------
    training : TrainingSet
        On the host.
    devices : Devices
        The devices; no more than there are points.
    here : list of TrainingSet
        For each device the whole set, with arrays there.
    points : list of range
        For each device its points.
    """

    training: TrainingSet
    devices: Devices
    here: list[TrainingSet]
    points: list[range]

    @classmethod
    def of(cls, training: TrainingSet, xp: ModuleType, numbers: Sequence[int] = (0,)) -> DividedTraining:
        """Copy a training set to devices, the first of which is the current one."""
        devices = Devices(xp, numbers[: training.n_train])
        here = []
        for k in range(len(devices)):
            with devices.on(k):
                x, g = (xp.asarray(array, dtype=xp.float64) for array in (training.x, training.g))
                here.append(replace(training, x=x, g=g))
        bounds = np.linspace(0, training.n_train, len(devices) + 1).astype(int).tolist()
        points = [range(first, stop) for first, stop in pairwise(bounds)]
        return cls(training, devices, here, points)

    @property
    def xp(self) -> ModuleType:
        """The array module."""
        return self.devices.xp

    def rows(self, k: int) -> slice:
        """Return the rows of the points of device k."""
        n_coord = self.training.n_coord
        return slice(self.points[k].start * n_coord, self.points[k].stop * n_coord)
