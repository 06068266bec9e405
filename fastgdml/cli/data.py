"""`fastgdml dataset`: convert, merge, split, thin, shuffle, dedup, info, check, label."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..convert import convert
from ..formats import ReadOptions
from ..reading import Report, UnitOptions
from ..rearrange import dedup, draw, shuffle, split, thin
from ..writing import WriteOptions
from .console import Console


def run(args: argparse.Namespace, console: Console) -> None:
    """Do what is asked for."""
    _ACTIONS[args.action](args, console)


def read_options(args: argparse.Namespace) -> ReadOptions:
    """Return how to read the sources."""
    return ReadOptions(
        energy=getattr(args, "energy", None),
        forces=getattr(args, "forces", None),
        use_E=getattr(args, "use_E", True) and not getattr(args, "no_labels", False),
        use_F=not getattr(args, "no_labels", False),
        gradients=getattr(args, "gradients", False),
        format=args.format,
        forces_file=getattr(args, "forces_file", None),
        energies_file=getattr(args, "energies_file", None),
        cell=args.cell,
    )


def unit_options(args: argparse.Namespace) -> UnitOptions:
    """Return the units of the sources, and those to convert to."""
    return UnitOptions(
        e_unit=args.e_unit,
        r_unit=args.r_unit,
        f_unit=getattr(args, "f_unit", None),
        to_e_unit=getattr(args, "to_e_unit", None),
        to_r_unit=getattr(args, "to_r_unit", None),
    )


def write_options(args: argparse.Namespace) -> WriteOptions:
    """Return how to write."""
    return WriteOptions(
        name=args.name,
        theory=args.theory,
        split_by_formula=getattr(args, "split_by_formula", False),
        overwrite=args.overwrite,
        resume=getattr(args, "resume", False),
    )


def _common(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    return {
        "read": read_options(args),
        "units": unit_options(args),
        "write": write_options(args),
        "callback": console.progress,
    }


def _convert(args: argparse.Namespace, console: Console) -> None:
    report(convert(args.sources, args.output, **_common(args, console)), console)


def _split(args: argparse.Namespace, console: Console) -> None:
    prefix = args.prefix or (Path(args.sources[0]).stem if args.sources[0] != "-" else "split")
    targets = [(f"{prefix}-{name}.npz", size) for name, size in args.into]
    seed = None if args.in_order else args.seed
    report(split(args.sources, targets, seed, **_common(args, console)), console)


def _thin(args: argparse.Namespace, console: Console) -> None:
    options = _common(args, console)
    if args.every is not None:
        report(thin(args.sources, args.output, args.every, **options), console)
    else:
        report(draw(args.sources, args.output, args.n, args.seed, **options), console)


def _shuffle(args: argparse.Namespace, console: Console) -> None:
    report(shuffle(args.sources, args.output, args.seed, **_common(args, console)), console)


def _dedup(args: argparse.Namespace, console: Console) -> None:
    result = dedup(args.sources, args.output, **_common(args, console))
    console.info(f"{result.n_removed:,} frames repeat the geometry of others.")
    report(result, console)


def _label(args: argparse.Namespace, console: Console) -> None:
    from ..labelling import PredictOptions, label_by_calculator, label_by_model

    common = _common(args, console)
    if args.model is not None:
        options = PredictOptions(any_cell=args.any_cell, max_processes=args.max_processes, backend=args.backend)
        report(label_by_model(args.sources, args.output, args.model, options, **common), console)
        return
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a file beside the data is what people have
    report(label_by_calculator(args.sources, args.output, args.calculator, **common), console)


def _info(args: argparse.Namespace, console: Console) -> None:
    from ..inspection import summarise

    summary = summarise(args.sources, read_options(args), unit_options(args), console.progress)
    for kind in summary.kinds:
        console.heading(f"{kind.formula}, {len(kind.z)} atoms, {kind.n_frames:,} frames")
        console.properties(kind.rows(summary.e_unit, summary.r_unit))
    console.result(summary.as_dict())
    sources(summary.report, console)


def _check(args: argparse.Namespace, console: Console) -> None:
    from ..inspection import check

    result = check(args.sources, read_options(args), unit_options(args), console.progress)
    for finding in result.findings:
        (console.info if finding.level == "note" else console.warning)(str(finding))
    if not result.findings:
        console.done("Nothing looks wrong.", result.scope)
    else:
        console.info(f"{len(result.findings)} findings ({result.scope}).")
    console.result({"frames": result.n_frames, "findings": [asdict(finding) for finding in result.findings]})


def report(result: Report, console: Console, more: dict[str, Any] | None = None) -> None:
    """Print what was read and written."""
    sources(result, console)
    units = f"{result.e_unit or 'unknown unit'}, {result.r_unit or 'unknown unit'}"
    if not (result.e_unit and result.r_unit):
        console.warning("The units are not all known: give --e_unit and --r_unit, so that nobody has to guess later.")
    elif any(f.path.endswith(("xyz", "-")) for f in result.files) and (result.e_unit, result.r_unit) != ("eV", "Ang"):
        console.info(f"Units are {units}, as each comment says; other programs take XYZ to be in eV and Ang (--to eV).")
    for file in result.files:
        name = "standard output" if file.path == "-" else f"'{file.path}'"
        tail = f", fingerprint {file.fingerprint}" if file.fingerprint else ""
        console.done(f"Wrote {name}: {file.n_frames:,} frames of {file.formula}, in {units}{tail}")
    console.result(
        {
            "sources": [
                {
                    "path": source.path,
                    "frames": source.n_frames,
                    "energy": source.facts.energy,
                    "forces": source.facts.forces,
                    "gradients": source.facts.gradients,
                    "left_out": sorted(source.facts.left_out),
                }
                for source in result.sources
            ],
            "files": [asdict(file) for file in result.files],
            "e_unit": result.e_unit,
            "r_unit": result.r_unit,
            "removed": result.n_removed,
            "seconds": result.seconds,
            **(more or {}),
        }
    )


def sources(result: Report, console: Console) -> None:
    """Print what the sources hold, and what of it was taken."""
    for source in result.sources:
        facts = source.facts
        forces = f"forces '{facts.forces}'" if facts.forces else "no forces"
        if facts.gradients:
            forces = f"forces from gradients '{facts.forces}', with the opposite sign"
        energies = f"energies '{facts.energy}'" if facts.energy else "no energies"
        console.info(f"{source.path}: {source.n_frames:,} frames, {energies}, {forces}")
        if facts.left_out:
            console.info(f"{source.path}: left out: {', '.join(sorted(facts.left_out))}")


_ACTIONS = {
    "convert": _convert,
    "merge": _convert,
    "split": _split,
    "thin": _thin,
    "shuffle": _shuffle,
    "dedup": _dedup,
    "info": _info,
    "check": _check,
    "label": _label,
}
