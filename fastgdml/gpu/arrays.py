"""Arrays of the host and of the device."""

from __future__ import annotations

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
    if isinstance(array, xp.ndarray) or hasattr(array, "__cuda_array_interface__"):
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
