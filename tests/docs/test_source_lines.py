"""Links from the documentation to lines of the source, by name."""

import importlib.util

import pytest
from support.paths import ROOT

SOURCE = """#define WIDTH 3
static int fold(int a);
static int fold(int a)
{
    return fold_twice(a);
}
/* sum of all (5) */
class Thing:
    def go(self):
        return fold(1)
"""


@pytest.fixture(scope="module")
def line_of():
    pytest.importorskip("sphinx", reason="needs Sphinx: pip install '.[docs]'")
    spec = importlib.util.spec_from_file_location("source_lines", ROOT / "docs" / "_ext" / "source_lines.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.line_of


@pytest.mark.parametrize(
    ("name", "line"),
    [("WIDTH", 1), ("fold", 3), ("fold_twice", 5), ("sum of all (5)", 7), ("Thing", 8), ("go", 9), ("none", None)],
)
def test_names_are_found_where_they_are_defined(line_of, name, line):
    assert line_of(SOURCE, name) == line


@pytest.mark.parametrize(
    ("path", "name", "begins"),
    [
        ("src/adjoint.c", "gdml_force_from_descriptor", "void gdml_force_from_descriptor("),
        ("src/kernels.c", "descriptor", "static int64_t descriptor("),
        ("fastgdml/permutations.py", "find_perms", "def find_perms("),
        ("fastgdml/labels.py", "Labels", "class Labels"),
    ],
)
def test_definitions_of_the_source(line_of, path, name, begins):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.splitlines()[line_of(text, name) - 1].startswith(begins)
