"""The instruction sets on offer are those that the processor has and the system lets programs use."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

CPUINFO = Path("/proc/cpuinfo")

# Flags that each level of the x86-64 psABI adds. The system hides those whose registers it does not save.
V2 = {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}
V3 = V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
V4 = V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}


def instruction_set(folder, name=None):
    """The kernels that a new process takes, or None where it refuses.

    It starts in ``folder``: in the source folder it would import the package that is not built.
    """
    environment = {key: value for key, value in os.environ.items() if key != "FASTGDML_ISA"}
    if name:
        environment["FASTGDML_ISA"] = name
    command = [sys.executable, "-c", "from fastgdml import _core; print(_core.isa_name())"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "instruction set" in done.stderr, done.stderr
    return done.stdout.strip() or None


@pytest.mark.skipif(platform.machine() != "x86_64" or not CPUINFO.exists(), reason="reads /proc/cpuinfo of x86-64")
def test_instruction_sets_are_those_of_the_processor(tmp_path):
    flags = set(re.search(r"^flags\s*:(.*)$", CPUINFO.read_text(), re.MULTILINE).group(1).split())
    expected = {"baseline": True, "v3": flags >= V3, "v4": flags >= V4}
    for name, has in expected.items():
        assert instruction_set(tmp_path, name) == (name if has else None)
    assert instruction_set(tmp_path) == [name for name, has in expected.items() if has][-1]
