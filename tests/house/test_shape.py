"""Bounds on the shape of the code: what has a name is passed under it, what is read from a file is converted once."""

import ast
import re
from pathlib import Path

import fastgdml

PACKAGE = Path(fastgdml.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
# float(task["sig"]), np.asarray(model.get("perms")) and their like
CONVERSION = re.compile(
    r"\b(?:float|int|bool|str|text|asarray|atleast_[12]d|ascontiguousarray|np\.array)\(\s*\w+(?:\[|\.get\()[\"']"
)


# Where entries are read and converted, once; and files of other programs.
BOUNDARY = ("task.py", "model.py", "model_arrays.py", "properties.py", "samples.py", "uncertainty.py", "formats/")


def functions():
    for name, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                yield name, source, node


def lines_of_code(source, function):
    """Lines of a function's body that are no docstring, comment or blank."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    lines = source.splitlines()[body[0].lineno - 1 : function.end_lineno] if body else []
    return [line for line in lines if line.strip() and not line.strip().startswith("#")]


def test_a_training_set_is_passed_as_one():
    taking_parts = [
        f"{name}: {function.name}"
        for name, _, function in functions()
        if {"tables", "sig"} <= {argument.arg for argument in function.args.args + function.args.kwonlyargs}
    ]
    assert len(taking_parts) <= 2, taking_parts


def test_arrays_have_one_name():
    definitions = [
        name for name, source in SOURCES.items() for _ in re.findall(r"^(?:Int|Int32)?Array = ", source, re.MULTILINE)
    ]
    assert definitions == ["types.py"] * 3


def test_entries_are_converted_once():
    found = {name: CONVERSION.findall(source) for name, source in SOURCES.items() if not name.startswith(BOUNDARY)}
    assert sum(map(len, found.values())) < 40, {name: each for name, each in found.items() if each}
    assert len(CONVERSION.findall(SOURCES["task.py"])) > 5  # the expression finds them


def test_commands_alone_know_their_arguments():
    """In cli/, a Namespace is given to `run`, and in data.py to the runs of its many commands."""
    knowing = [
        f"{name}: {function.name}"
        for name, _, function in functions()
        if name.startswith("cli/")
        and any("Namespace" in ast.unparse(arg.annotation) for arg in function.args.args if arg.annotation)
        and function.name != "run"
    ]
    assert [each for each in knowing if not each.startswith("cli/data.py")] == []


def test_the_search_stands_once():
    """Nobody else trains a task for several sigmas."""
    root = PACKAGE.parent
    files = [*PACKAGE.rglob("*.py"), *(root / "benchmarks").glob("*.py")]
    again = [path.name for path in files if re.search(r"\{\*\*task, \"sig\": sig\}", path.read_text(encoding="utf-8"))]
    assert again == []


def test_training_reads_as_the_method():
    source = SOURCES["train.py"]
    assert len(source.splitlines()) <= 450
    assert CONVERSION.findall(source) == []
    long = [
        (function.name, len(lines_of_code(source, function)))
        for name, source, function in functions()
        if name in ("train.py", "task_creation.py", "early_stop.py", "labels.py")
        and len(lines_of_code(source, function)) > 50
    ]
    assert long == []
