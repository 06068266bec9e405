"""`fastgdml export`: a model for another program."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UsageError
from ..exchange import export_sgdml
from ..model import load_model
from .console import Console


def run(args: argparse.Namespace, console: Console) -> None:
    """Write the model in the format that is asked for."""
    model = load_model(args.model)
    target = Path(args.target)
    if target.exists() and not args.overwrite:
        raise UsageError(f"'{target}' exists. Give -o to overwrite it, or another name.")
    export_sgdml(target, model)
    console.done(f"Wrote '{target}' for {args.format}")
