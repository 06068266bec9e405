"""Arrays of the host and of the device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np
import psutil


def to_numpy(array: Any) -> np.ndarray:
    """Return a NumPy array with the values of a NumPy or CuPy array."""
    return np.asarray(array.get() if hasattr(array, "get") else array)


def take(array: Any, xp: ModuleType) -> tuple[Any, bool]:
    """Return float64 data, and whether it lies on the device. Nothing is copied between host and device."""
    if xp is np or isinstance(array, np.ndarray):
        return np.asarray(array, dtype=np.float64), False
    if isinstance(array, xp.ndarray):
        with on_device(device_of(array), xp):  # elsewhere, CuPy would make a copy there
            return xp.asarray(array, dtype=xp.float64), True
    if hasattr(array, "__cuda_array_interface__"):
        return xp.asarray(array, dtype=xp.float64), True
    if hasattr(array, "__dlpack__"):
        host = array.__dlpack_device__()[0] == 1  # kDLCPU
        return (np if host else xp).from_dlpack(array).astype(np.float64, copy=False), not host
    return np.asarray(array, dtype=np.float64), False


def free_memory(xp: ModuleType) -> int:
    """Return the bytes that can still be allocated: device memory for CuPy, host memory for NumPy."""
    if xp is np:
        return int(psutil.virtual_memory().available)
    return int(xp.cuda.runtime.memGetInfo()[0]) + int(xp.get_default_memory_pool().free_bytes())


def release(xp: ModuleType) -> None:
    """Give unused memory of CuPy's pool back to the device, so that it can be cut anew."""
    if xp is not np:
        xp.get_default_memory_pool().free_all_blocks()


def synchronize(xp: ModuleType) -> None:
    """Wait for what was asked of the current device on the current stream."""
    if xp is not np:
        xp.cuda.get_current_stream().synchronize()


def synchronize_device(xp: ModuleType) -> None:
    """Wait for what was asked of the current device on any stream."""
    if xp is not np:
        xp.cuda.Device().synchronize()


def visible_devices(xp: ModuleType) -> Sequence[int]:
    """Return the numbers of all devices, that of the current one first."""
    if xp is np:
        return [0]
    current = int(xp.cuda.Device().id)
    return [current, *(k for k in range(int(xp.cuda.runtime.getDeviceCount())) if k != current)]


def device_of(array: Any) -> int:
    """Return the number of the device that an array of CuPy lies on."""
    return int(array.device.id)


def on_device(number: int, xp: ModuleType) -> AbstractContextManager[Any]:
    """Return a context in which a device is the current one."""
    return nullcontext() if xp is np else xp.cuda.Device(number)


def new_stream(xp: ModuleType) -> Any:
    """Return a stream of the current device, to use as a context: work on it overlaps with that on others."""
    return nullcontext() if xp is np else xp.cuda.Stream(non_blocking=True)


def copy_to_host(array: Any, out: np.ndarray, stream: Any) -> None:
    """Write an array to one of the host, after the work on the stream that computes it."""
    if isinstance(array, np.ndarray):
        out[...] = array
    else:
        array.get(stream=stream, out=out)


def copy_async(target: Any, source: Any, stream: Any, xp: ModuleType) -> None:
    """Copy between pinned memory and the device, on a stream, without a wait; may be captured.

    One of the arrays is a NumPy array made by `pinned`, the other one lies on the device; both are contiguous and of
    one size. The methods of CuPy's arrays refuse to copy while a stream is being captured, whatever the memory is.
    """
    runtime = xp.cuda.runtime
    if isinstance(source, np.ndarray):
        addresses, kind = (target.data.ptr, source.ctypes.data), runtime.memcpyHostToDevice
    else:
        addresses, kind = (target.ctypes.data, source.data.ptr), runtime.memcpyDeviceToHost
    runtime.memcpyAsync(*addresses, source.nbytes, kind, stream.ptr)


def pinned(n: int, xp: ModuleType) -> np.ndarray:
    """Return an uninitialised array (n,) on the host that a device can copy from and to on its own."""
    return np.frombuffer(xp.cuda.alloc_pinned_memory(8 * n), np.float64, n)
