"""The order of the native core: small files, one that knows the operating system."""

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
pytestmark = pytest.mark.skipif(not SOURCE.exists(), reason="needs the source tree")


def test_no_file_is_longer_than_one_reads():
    lines = {path.name: len(path.read_text().splitlines()) for path in SOURCE.rglob("*.[ch]")}
    assert {name: n for name, n in lines.items() if n > 500} == {}
    assert len(lines) > 20


def test_one_file_knows_the_operating_system():
    # The public header needs it for programs that use the library.
    asking = {path.name for path in SOURCE.rglob("*.[ch]") if re.search(r"\b(_WIN32|__APPLE__)\b", path.read_text())}
    assert asking == {"system.c", "fastgdml.h"}


def test_the_processor_is_asked_itself():
    # __builtin_cpu_supports answers no to all where the compiler's run-time library does not fill in its table.
    asking = {path.name for path in SOURCE.rglob("*.[ch]") if re.search(r"__builtin_cpu_\w+ *\(", path.read_text())}
    assert asking == set()
    assert re.search(r"__get_cpuid\(", (SOURCE / "system.c").read_text())
