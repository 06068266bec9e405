"""The order of the tests: each file by itself, under a name of its own."""

import re
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
FILES = sorted(TESTS.rglob("*.py"))


def test_no_test_imports_another():
    importing = re.compile(r"^\s*(?:from|import) (?:conftest|tests\b|test_\w+)", re.MULTILINE)
    assert [path.name for path in FILES if importing.search(path.read_text(encoding="utf-8"))] == []
    assert importing.search("x = 1\n    from test_lammps import Simulation")


def test_every_file_has_a_name_of_its_own():
    tests = [path for path in FILES if path.name.startswith("test_")]
    assert [name for name, count in Counter(path.name for path in tests).items() if count > 1] == []
    assert len(tests) > 50
