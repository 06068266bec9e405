"""CUDA kernels on the processor, for tests on machines without a device.

A .cu file of the package is compiled, as it is, by the host's C++ compiler (cuda_on_host.h says how its threads run
and what mistakes are found)::

    kernel = cuda_on_host.load("assembly")                # a kernel of fastgdml/gpu/cuda, called like a CuPy kernel:
    kernel((n_blocks,), (256,), (array, np.int32(n), np.float64(sig)), shared_mem=4096)

    xp = cuda_on_host.host_cupy()                         # an array module that is not NumPy; its RawModule compiles so
    K = fastgdml.gpu.kernel.assemble_lower(training, rows, xp=xp)    # all of the device's path
    K.get()                                               # the NumPy array

    with cuda_on_host.counted() as traffic:               # bytes that go to_device, to_host, between devices
        K.get()

With several devices, an array that one copies without waiting for the other is a RaceError.

Arrays of `host_cupy` refuse what CuPy refuses: they do not mix with NumPy arrays and become none without get(). In
tests use the fixture `host_cupy` of conftest, which skips where there is no compiler.
"""

import types

from . import blas
from .arrays import DeviceArray, HostCupy, host_cupy
from .kernel import HostKernel, KernelError, compile_kernel, compiler, load
from .runtime import RaceError, counted

# What stands for cupy_backends.cuda.libs, whose attributes these are.
libraries = types.SimpleNamespace(cublas=blas, cusolver=blas)

__all__ = [
    "DeviceArray",
    "HostCupy",
    "HostKernel",
    "KernelError",
    "RaceError",
    "blas",
    "compile_kernel",
    "compiler",
    "counted",
    "host_cupy",
    "libraries",
    "load",
]
