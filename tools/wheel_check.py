#!/usr/bin/env python3
"""Check an installed wheel: the instruction set in use is the best of the processor, and a force field can be trained.

python tools/wheel_check.py        (outside the source folder, in the environment that the wheel is installed in)
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from fastgdml import _core

FLAGS = {
    "v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "v3": {"avx2", "fma", "bmi2"},
}


def expected() -> set[str]:
    """Return the instruction sets that may be in use on this processor: one, where the system tells its features."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {"baseline"}
    features = ""
    if Path("/proc/cpuinfo").exists():
        features = Path("/proc/cpuinfo").read_text(encoding="utf-8").replace("_", "")
    elif sys.platform == "darwin":
        done = subprocess.run(["sysctl", "machdep.cpu"], capture_output=True, text=True, check=True)
        features = done.stdout
    else:
        return {"v3", "v4"}  # machines that build for others have AVX2
    words = set(re.findall(r"\w+", features.lower()))
    return {next((name for name, flags in FLAGS.items() if flags <= words), "baseline")}


def main() -> None:
    """Check, and print what was found."""
    used = _core.isa_name()
    if used not in expected():
        sys.exit(f"the wheel uses the instruction set {used}, this processor has {expected()}")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(Path(sysconfig.get_path("scripts")) / "fastgdml"),
            "all",
            "ethanol",
            "50",
            "50",
            "50",
            "-s",
            "20",
        ]
        subprocess.run(command, cwd=folder, check=True)
    print(f"instruction set {used}, OpenMP {_core.openmp_version() or 'none'}, {Path(_core.__file__).name}")


if __name__ == "__main__":
    main()
