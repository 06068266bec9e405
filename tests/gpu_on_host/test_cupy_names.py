"""Every name of CuPy that the package uses exists in CuPy, which imports without a device, and takes these arguments.

The stand-in of cuda_on_host has only what it was given: it cannot tell that a name is wrong.
"""

import ast
import importlib
import re
from importlib.resources import files

import pytest

from fastgdml.gpu import cholesky as gpu_cholesky

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: pip install cupy-cuda13x (70 MB, needs no device)")

MODULES = {path.name: path.read_text() for path in (files("fastgdml") / "gpu").iterdir() if path.name.endswith(".py")}
# Of the libraries that only a machine with CUDA has: name, arguments.
LIBRARIES = {
    "cublas": {
        "dgemm": "handle transa transb m n k alpha A lda B ldb beta C ldc",
        "dgemv": "handle trans m n alpha A lda x incx beta y incy",
        "dtrsm": "handle side uplo trans diag m n alpha Aarray lda Barray ldb",
    },
    "cusolver": {
        "dpotrf_bufferSize": "handle uplo n A lda",
        "dpotrf": "handle uplo n A lda work lwork devInfo",
    },
}


def dotted(node):
    """The names of a.b.c, or None where it starts with something else."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else None


def names_used():
    """The names after `xp` (or `self._xp`, `m.xp`, ...) in the modules of the package, and where they are."""
    found = {}
    for module, source in MODULES.items():
        for node in ast.walk(ast.parse(source)):
            chain = dotted(node) if isinstance(node, ast.Attribute) else None
            for owner in ("xp", "_xp"):
                if chain and owner in chain[:-1]:
                    found.setdefault(".".join(chain[chain.index(owner) + 1 :]), module)
    return found


def test_names_are_found():
    assert {"empty", "cuda.Stream", "cuda.runtime.getDeviceCount", "RawModule"} <= set(names_used())


@pytest.mark.parametrize("name", sorted(names_used()))
def test_names_exist(name):
    owner = cupy
    for part in name.split("."):
        assert hasattr(owner, part), f"cupy.{name}, used in gpu/{names_used()[name]}"
        owner = getattr(owner, part)


def test_methods_and_arguments():
    for owner, names in [
        (cupy.cuda.Stream, "begin_capture end_capture synchronize wait_event __enter__"),
        (cupy.cuda.Event, "record"),
        (cupy.cuda.Graph, "launch"),
        (cupy.cuda.Device, "id attributes synchronize __enter__"),
        (cupy.ndarray, "get data device nbytes flags diagonal swapaxes"),
        (cupy.cuda.MemoryPool, "free_bytes free_all_blocks used_bytes set_limit get_limit"),
        (cupy.RawKernel, "max_dynamic_shared_size_bytes"),
        (cupy.cuda.runtime, "memcpyHostToDevice memcpyDeviceToHost CUDARuntimeError getDeviceProperties"),
    ]:
        for name in names.split():
            assert hasattr(owner, name), (owner, name)
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, RuntimeError)
    assert "disable_timing (bool)" in cupy.cuda.Event.__doc__
    for name, arguments in {
        "memcpyPeerAsync": "dst dstDevice src srcDevice size stream",
        "deviceCanAccessPeer": "device peerDevice",
        "deviceEnablePeerAccess": "peerDevice",
    }.items():
        signature = getattr(cupy.cuda.runtime, name).__doc__.partition("(")[2].partition(")")[0]
        assert [argument.split()[-1] for argument in signature.split(",")] == arguments.split()
    assert cupy.cuda.runtime.memcpyAsync.__doc__.startswith("memcpyAsync(intptr_t dst, intptr_t src, size_t size, int")


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries(library):
    try:
        module = gpu_cholesky._library(importlib.import_module("cupy_backends.cuda.libs"), library)
    except ImportError as error:
        pytest.skip(f"needs the library itself, pip install nvidia-{library} (300 MB): {str(error)[:60]}")
    for name, arguments in LIBRARIES[library].items():
        signature = getattr(module, name).__doc__.partition("(")[2].partition(")")[0]
        assert [argument.split()[-1] for argument in signature.split(",")] == arguments.split()
    if library == "cublas":
        constants = {name for source in MODULES.values() for name in re.findall(r"\bCUBLAS_\w+", source)}
        assert constants
        assert [name for name in constants if not hasattr(module, name)] == []
