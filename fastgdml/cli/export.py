"""`fastgdml export`: a model for another program."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UsageError
from ..exchange import export_sgdml
from ..flat import export_flat
from ..model import load_model
from .console import Console

_FORMATS = {"flat": (export_flat, "the C library"), "sgdml": (export_sgdml, "sgdml")}


def run(args: argparse.Namespace, console: Console) -> None:
    """Write the model in the format that is asked for."""
    target = Path(args.target)
    kind = args.format or ("flat" if target.suffix == ".fgdml" else None)
    if kind is None:
        raise UsageError(
            f"For which program is '{target}'? Give --format sgdml, or --format flat for the C library (names that end "
            "with .fgdml need no --format)."
        )
    model = load_model(args.model)
    if target.exists() and not args.overwrite:
        raise UsageError(f"'{target}' exists. Give -o to overwrite it, or another name.")
    write, reader = _FORMATS[kind]
    write(target, model)
    console.done(f"Wrote '{target}' for {reader}")
