"""`fastgdml completion`: the script that makes a shell complete commands, options and file names."""

from __future__ import annotations

import argparse
import sys

from ..errors import UsageError
from .console import Console
from .parser import build_parser

# Arguments by what they name, where a shell offers files and folders.
_FOLDERS = {"model_dir", "task_dir", "search"}
_FILES = {
    "dataset",
    "valid_dataset",
    "test_dataset",
    "train_dataset",
    "model",
    "model_file",
    "file",
    "target",
    "sources",
    "output",
    "plot",
    "learning_curve",
    "perms_from",
    "forces_file",
    "energies_file",
}


def run(args: argparse.Namespace, console: Console) -> None:
    """Print the script to standard output."""
    sys.stdout.write(script(args.shell))


def script(shell: str) -> str:
    """Return the script for a shell, made from the parser of the command line.

    Raises
    ------
    UsageError
        If shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise UsageError("Completion takes shtab: pip install 'fastgdml[completion]'") from None
    parser = build_parser()
    _mark_files(parser, shtab.FILE, shtab.DIRECTORY)
    return str(shtab.complete(parser, shell)).rstrip("\n") + "\n"


def _mark_files(parser: argparse.ArgumentParser, file: object, folder: object) -> None:
    for action in parser._actions:  # noqa: SLF001 (argparse has no public list of them)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                _mark_files(command, file, folder)
        elif action.dest in _FILES | _FOLDERS and action.choices is None:
            action.complete = folder if action.dest in _FOLDERS else file  # type: ignore[attr-defined]
