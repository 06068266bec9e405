"""The scripts that prove the GPU backend on another machine: what they refuse, and that a failed build ends the run."""

import subprocess

import pytest
from support.paths import ROOT

TOOLS = ROOT / "tools"
if not TOOLS.is_dir():
    pytest.skip("the tools are not beside the tests: run them in a checkout", allow_module_level=True)


def run(script, *arguments):
    command = ["bash", str(TOOLS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("device_check.sh", []),
        ("device_check.sh", ["--fast", "out"]),
        ("device_check.sh", ["--pack", "/there/is/no/such/folder", "out"]),
        ("device_check.sh", ["--seconds"]),
        ("device_pack.sh", []),
    ],
)
def test_usage(script, arguments):
    done = run(script, *arguments)
    assert done.returncode == 2
    assert f"bash tools/{script}" in done.stderr


def test_a_failed_build_ends_the_run(tmp_path):
    # An interpreter that builds nothing.
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$2" = "import sys; print(sys.executable)" ] && echo "$0" && exit\nexit 3\n')
    python.chmod(0o755)
    done = run("device_check.sh", "--python", python, "--seconds", "60", tmp_path / "out")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("build: FAILED (3)")
    assert lines[-1] == "there is no package to check: see build.log"
    assert (tmp_path / "out" / "summary.txt").read_text() == done.stdout
