"""The binary interface of the C library: what programs were compiled with stays, as long as FASTGDML_ABI_VERSION does.

`abi_1.txt` has the declarations of the headers, a line each, without comments. What is added to the headers is added
there: python tests/house/test_abi.py. What changes or goes needs another version, with a file of its own.
"""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
HEADERS = HERE.parents[1] / "src" / "include"
pytestmark = pytest.mark.skipif(not HEADERS.exists(), reason="needs the source tree")


def declarations(text):
    """The declarations of a header: functions, types with all their members, and macros with a value."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL).replace("\\\n", " ")
    macros = [line for line in text.splitlines() if re.match(r"#define (?!FASTGDML_API\b)\w+ +\S", line)]
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    code = code.replace('extern "C" {', "").replace("FASTGDML_API", "")
    found, depth, start = [], 0, 0
    for at, letter in enumerate(code):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == ";" and depth == 0:
            found.append(code[start : at + 1])
            start = at + 1
    return [" ".join(text.split()) for text in macros + found]


def interface():
    return [line for name in ("fastgdml.h", "fastgdml_lammps.h") for line in declarations((HEADERS / name).read_text())]


def version():
    return re.search(r"#define FASTGDML_ABI_VERSION (\d+)u", (HEADERS / "fastgdml.h").read_text())[1]


def test_what_programs_were_compiled_with_is_there():
    recorded = (HERE / f"abi_{version()}.txt").read_text().splitlines()
    assert len(recorded) > 30
    assert set(recorded) - set(interface()) == set(), "changed or gone: this needs another FASTGDML_ABI_VERSION"
    assert set(interface()) - set(recorded) == set(), "new: record it, python tests/house/test_abi.py"


def test_changes_are_seen():
    struct = "struct a {\n    int n; /* ; */\n    double x;\n};\n"
    before = f"{struct}FASTGDML_API int f(const struct a *a,\n    int n);\n#define N 3\n"
    assert declarations(before) == ["#define N 3", "struct a { int n; double x; };", "int f(const struct a *a, int n);"]
    for old, new in (("double x", "float x"), ("    int n; /* ; */\n", ""), ("int n)", "long n)"), ("N 3", "N 4")):
        assert declarations(before.replace(old, new)) != declarations(before)


if __name__ == "__main__":
    (HERE / f"abi_{version()}.txt").write_text("".join(f"{line}\n" for line in interface()))
