"""`fastgdml export`: a model for another program."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UsageError
from ..exchange import export_sgdml
from ..flat import export_flat
from ..model import load_model
from ..npz import FLAT_MODEL, SGDML_MODEL, require_free
from .console import Console

_FORMATS = {"flat": (export_flat, FLAT_MODEL, "the C library"), "sgdml": (export_sgdml, SGDML_MODEL, "sgdml")}


def run(args: argparse.Namespace, console: Console) -> None:
    """Write the model in the format that is asked for."""
    target = Path(args.target)
    kind = args.format or ("flat" if target.suffix == ".fgdml" else None)
    if kind is None:
        raise UsageError(
            f"For which program is '{target}'? Give --format sgdml, or --format flat for the C library (names that end "
            "with .fgdml need no --format)."
        )
    write, written, reader = _FORMATS[kind]
    require_free(target, written, args.overwrite)
    write(target, load_model(args.model))
    console.done(f"Wrote '{target}' for {reader}")
    console.result({"event": "model_exported", "path": str(target), "format": kind})
