"""The rules of imports in the package, read from its source.

The package is a house of floors: a module imports from floors below its own, never from its own floor or from above,
neither at load nor inside a function. A room is a module or a subpackage; within a subpackage there are no floors.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# From the ground up. A new module gets its place here: the lowest floor above all that it imports.
FLOORS = (
    "_version errors types elements length_scale _core _packed",
    "native",
    "files archive memory plain_pickles progress backend c_library perms",
    "threads npz lapack",
    "ipi_client units entries config cell catalog search_events",
    "descriptor",
    "group neighbours",
    "permutations sampling training_set diagnostics pair_types",
    "kernel operator dataset frames findings",
    "overlap task formats properties task_folder",
    "task_creation labels model reading samples correlation",
    "model_arrays inspection writing",
    "solvers flat exchange engine convert",
    "legacy gpu preparation training_checks rearrange evidence uncertainty",
    "sigma_trials predict",
    "evaluate early_stop drivers selection weights",
    "train labelling vibrations",
    "search_jobs",
    "search datasets learning",
    "learning_curve doctor point_selection",
    "cluster report",
    "cli",
    "__main__ compat",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}

# Heavy, or of use to some only: imported inside functions, but for each other.
LATE = {"gpu", "cluster", "report"}
# Who may import these at all.
IMPORTED_BY = {
    "_core": {"native"},
    "_packed": {"lapack"},
    "cli": {"__main__", "compat"},
    "drivers": {"compat", "labelling", "learning", "vibrations"},
    "compat": set(),
}
# What prints, or reads a command line; the library logs and raises.
CONSOLE = {"cli", "compat", "c_library", "ipi_client"}
CONSOLE_MODULES = {"argparse", "rich"}


def violations(package: Path) -> list[str]:
    """Return what breaks the rules in a package folder, a line each."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts == ("__init__",):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = path.relative_to(package)
        found += [f"{where}:{line}: {fault}" for line, fault in sorted(_faults(tree, parts))]
    return found


def _faults(tree: ast.Module, parts: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    room = parts[0]
    late = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    # What a file does when it is run as a program.
    programs = [node for node in tree.body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)]
    scripts = {id(node) for program in programs for node in ast.walk(program)}
    for node in ast.walk(tree):
        for target in _imported(node, parts):
            if target == room:
                continue
            if room not in FLOOR or target not in FLOOR:
                yield node.lineno, f"{room if room not in FLOOR else target} has no floor in tests/house/rules.py"
            elif FLOOR[target] >= FLOOR[room]:
                yield node.lineno, f"{room} imports {target}, which is not below it"
            if target in LATE and id(node) not in late and room not in LATE:
                yield node.lineno, f"{target} is imported at load; import it inside the function that needs it"
            if room not in IMPORTED_BY.get(target, {room}):
                yield node.lineno, f"{room} may not import {target}"
        if room not in CONSOLE:
            names = {name.split(".")[0] for name in _modules(node)}
            for name in sorted(names & CONSOLE_MODULES):
                yield node.lineno, f"{name} is for the command line only"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and id(node) not in scripts:
                yield node.lineno, "print; the library logs and raises"


def _modules(node: ast.AST) -> list[str]:
    """Return the absolute modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module else []


def _imported(node: ast.AST, parts: tuple[str, ...]) -> list[str]:
    """Return the rooms of the package that a statement of the module `parts` imports."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
        return [name[1] for name in names if name[0] == "fastgdml" and len(name) > 1]
    if not isinstance(node, ast.ImportFrom):
        return []
    module = node.module.split(".") if node.module else []
    full = ["fastgdml", *parts[: len(parts) - node.level], *module] if node.level else module
    if full[:1] != ["fastgdml"]:
        return []
    return [full[1]] if len(full) > 1 else [alias.name for alias in node.names]
