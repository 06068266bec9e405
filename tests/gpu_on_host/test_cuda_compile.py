"""The CUDA kernels compile with NVRTC, the compiler that CuPy uses at run time. No device is needed.

Each test prints what the assembler says of registers and memory: pytest -rP tests/gpu_on_host/test_cuda_compile.py
"""

import ctypes
import importlib.util
import re
from importlib.resources import files
from pathlib import Path

import pytest

SOURCES = sorted(path.name for path in (files("fastgdml") / "gpu" / "cuda").iterdir() if path.name.endswith(".cu"))


@pytest.fixture(scope="module")
def nvrtc():
    """The library of NVRTC from NVIDIA's wheels."""
    nvidia = importlib.util.find_spec("nvidia")
    found = [
        library
        for folder in (nvidia.submodule_search_locations if nvidia else [])
        for library in Path(folder).glob("**/libnvrtc.so*")
    ]
    if not found:
        pytest.skip("NVRTC is not installed: pip install '.[nvrtc]' (90 MB, needs no device)")
    return ctypes.CDLL(str(found[0]))


def compiled(nvrtc, source, architecture, *options):
    """Compile a kernel and return what the compiler says; an error fails the test."""
    code = (files("fastgdml") / "gpu" / "cuda" / source).read_text()
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), source.encode(), 0, None, None) == 0
    options = [f"--gpu-architecture={architecture}".encode(), *options]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert status == 0, log.value.decode()
    return log.value.decode()


@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
@pytest.mark.parametrize("source", SOURCES)
def test_kernels_compile_without_warnings(source, architecture, nvrtc):
    assert compiled(nvrtc, source, architecture) == ""


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("source", SOURCES)
def test_kernels_fit_their_registers(source, architecture, nvrtc):
    log = compiled(nvrtc, source, architecture, b"--ptxas-options=-v")
    print(log)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert frames
    assert set(frames) == {("0", "0", "0")}


def test_errors_are_found(nvrtc, monkeypatch, tmp_path):
    (tmp_path / "gpu" / "cuda").mkdir(parents=True)
    (tmp_path / "gpu" / "cuda" / "wrong.cu").write_text("#include <vector>\n")
    monkeypatch.setitem(globals(), "files", lambda package: tmp_path)
    with pytest.raises(AssertionError, match="vector"):
        compiled(nvrtc, "wrong.cu", "compute_80")
