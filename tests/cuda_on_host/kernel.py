"""Compile a CUDA kernel for the processor and call it like a kernel of CuPy."""

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np

from .runtime import current_device, order, submit

HERE = Path(__file__).resolve().parent
# Bytes before and after each array: NaN, and checked after the run.
GUARD = 4096
# Dynamic shared memory that a thread block may have without asking for more.
SHARED_MEMORY = 48 * 1024
# The threads of a device are global variables of the library.
_running = threading.Lock()


class KernelError(AssertionError):
    """A kernel was called wrongly or did what it must not do."""


def compiler():
    """Return the path of a C++ compiler, or None."""
    return shutil.which("g++")


def load(name, kernel=None, options=()):
    """Return the kernel of the package's cuda/`name`.cu; `kernel` is its name if that is not the file's."""
    import fastgdml.gpu

    path = Path(fastgdml.gpu.__file__).parent / "cuda" / f"{name}.cu"
    return compile_kernel(path.read_text(), kernel or name, options)


def compile_kernel(code, name, options=()):
    """Return the kernel `name` of CUDA source code; of the options, definitions (-D) count."""
    bound = re.search(r"__launch_bounds__\(\s*(\d+)[^)]*\)\s*" + name + r"\s*\(", code)
    return HostKernel(_library(code, name, tuple(options)), name, int(bound[1]) if bound else 1024)


@functools.cache
def _library(code, name, options):
    dynamic = dict(re.findall(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?(\w+)\s+(\w+)\s*\[\s*\]", code))
    size = "cuda_on_host::max_dynamic_shared"
    lines = [f'#include "{HERE / "cuda_on_host.h"}"', '#line 1 "kernel.cu"', code]
    lines += [f"alignas(16) thread_local {of} {array}[{size} / sizeof({of})];" for of, array in dynamic.items()]
    lines += [f"CUDA_ON_HOST_ENTRY({name}, {next(iter(dynamic.values()), 'nullptr')})"]
    definitions = [option for option in options if option.startswith("-D")]
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
        source.write_text("\n".join(lines))
        # Checks of the C library know nothing of jumps between stacks; contraction would be the compiler's choice.
        # Hidden: what has one name in all libraries must not become one.
        flags = [
            "-std=c++20",
            "-O1",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-U_FORTIFY_SOURCE",
            "-ffp-contract=off",
        ]
        command = [compiler(), *flags, *definitions, str(source), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KernelError(f"{name} does not compile on the host:\n{done.stderr}")
        return ctypes.CDLL(str(library))


class HostKernel:
    """A kernel for the processor, with the interface of `cupy.RawKernel`."""

    def __init__(self, library, name, max_threads):
        self.name, self._library, self._max_threads = name, library, max_threads
        library.cuda_on_host_launch.restype = library.cuda_on_host_signature.restype = ctypes.c_char_p
        signature = library.cuda_on_host_signature().decode()
        self._types = signature.split(",") if signature else []
        self.max_dynamic_shared_size_bytes = SHARED_MEMORY

    def __call__(self, grid, block, args, *, shared_mem=0):
        submit(lambda: self._launch(grid, block, args, shared_mem))

    def _launch(self, grid, block, args, shared_mem):
        for arg in args:
            if hasattr(arg, "host"):
                _check_device(self.name, arg)
        grid, block = (tuple(map(int, size)) + (1,) * (3 - len(size)) for size in (grid, block))
        if min(grid) < 1 or min(block) < 1 or np.prod(block) > self._max_threads:
            raise KernelError(f"{self.name}: no launch with grid {grid}, block {block} (at most {self._max_threads})")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise KernelError(
                f"{self.name}: {shared_mem} bytes of dynamic shared memory, "
                f"{self.max_dynamic_shared_size_bytes} allowed"
            )
        if len(args) != len(self._types):
            raise KernelError(f"{self.name} takes {len(self._types)} arguments, got {len(args)}")
        regions = _Regions([arg for arg in map(_array, args) if arg is not None])
        values = []
        for number, (arg, code) in enumerate(zip(args, self._types, strict=True)):
            array = _array(arg)
            given = "P" + array.dtype.str[1:] if array is not None else np.asarray(arg).dtype.str[1:]
            null = code[0] == "P" and array is None and np.asarray(arg).dtype.itemsize == 8 and arg == 0
            if not (given == code or (code == "PV" and given[0] == "P") or null):
                raise KernelError(f"{self.name}: argument {number} is {given}, the kernel takes {code}")
            values.append(np.array(regions.address(array) if array is not None else arg))
        addresses = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values])
        sizes = [(ctypes.c_uint * 3)(*size) for size in (grid, block)]
        with _running:
            error = self._library.cuda_on_host_launch(*sizes, ctypes.c_size_t(shared_mem), addresses)
        if error is not None:
            raise KernelError(f"{self.name}: {error.decode()}")
        regions.write_back(self.name)


def _check_device(name, arg):
    """Raise an error if an array of the device is used on another one; which arrays a kernel writes is not known."""
    if arg.device.id != current_device():
        raise KernelError(f"{name}: an array of device {arg.device.id} on device {current_device()}")
    order.access(current_device(), np.lib.array_utils.byte_bounds(arg.host), writes=False)


def _array(arg):
    """Return the NumPy array of an argument that is one, or None."""
    array = getattr(arg, "host", arg)
    return array if isinstance(array, np.ndarray) and array.ndim > 0 else None


class _Regions:
    """Copies of the memory of arrays between guard zones; overlapping arrays share one."""

    def __init__(self, arrays):
        spans = sorted(np.lib.array_utils.byte_bounds(array) for array in arrays)
        merged = []
        for low, high in spans:
            if merged and low < merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], high)
            else:
                merged.append([low, high])
        self._copies = []
        for low, high in merged:
            copy = np.full(high - low + 2 * GUARD + 64, 0xFF, dtype=np.uint8)
            start = GUARD + (low - copy.ctypes.data - GUARD) % 64  # aligned like the original
            copy[start : start + high - low] = _bytes(low, high)
            self._copies.append((low, high, copy, start))

    def address(self, array):
        at = array.ctypes.data
        # `low < high` fails for empty arrays, which no kernel may touch.
        for low, high, copy, start in self._copies:
            if low <= at < high:
                return copy.ctypes.data + start + at - low
        return 0

    def write_back(self, name):
        for low, high, copy, start in self._copies:
            size = high - low
            if (copy[:start] != 0xFF).any() or (copy[start + size :] != 0xFF).any():
                raise KernelError(f"{name} wrote outside an array of {size} bytes")
            _bytes(low, high)[:] = copy[start : start + size]


def _bytes(low, high):
    return np.ctypeslib.as_array((ctypes.c_ubyte * (high - low)).from_address(low))
