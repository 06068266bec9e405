"""`fastgdml vibrations`: frequencies and thermochemistry of a model at a minimum."""

from __future__ import annotations

import argparse

from rich.table import Table

from ..npz import TEXT, require_unused
from ..vibrations import VibrationalModes, VibrationOptions, vibrations
from .console import Console


def run(args: argparse.Namespace, console: Console) -> None:
    """Optimise, compute, print, and write what is asked for."""
    for target in (args.output, args.modes):
        if target is not None:
            require_unused(target, TEXT, args.overwrite)
    options = VibrationOptions(
        optimise=args.optimise,
        fmax=args.fmax,
        steps=args.steps,
        temperature=args.temperature,
        pressure=args.pressure,
        symmetry_number=args.symmetry_number,
        spin=args.spin,
        max_processes=args.max_processes,
    )
    found = vibrations(args.model, args.geometry, options, console.progress)
    _print(found, console)
    if args.output is not None:
        found.write_geometry(args.output)
        console.done(f"Geometry in '{args.output}'")
    if args.modes is not None:
        found.write_modes(args.modes)
        console.done(f"Modes in '{args.modes}'")
    console.result(found.as_dict())


def _print(found: VibrationalModes, console: Console) -> None:
    table = Table("mode", "frequency (cm^-1)", "energy (meV)", box=None)
    for column in table.columns:
        column.justify = "right"
    mev = 0.12398419843320026
    for number, frequency in enumerate(found.frequencies):
        imaginary = "i" if frequency < 0 else " "
        table.add_row(str(number), f"{abs(frequency):.1f}{imaginary}", f"{mev * abs(frequency):.2f}{imaginary}")
    console.table(table)
    rows = [
        ("Potential energy", f"{found.energy:.6f} eV"),
        ("Largest force", f"{found.fmax:.2e} eV/Ang"),
        ("Zero-point energy", f"{found.zero_point_energy:.6f} eV"),
    ]
    thermo = found.thermochemistry()
    if thermo is not None:
        where = f"{thermo['temperature']:.2f} K" + (f", {thermo['pressure']:.0f} Pa" if "pressure" in thermo else "")
        rows += [("At", where)]
        names = {"enthalpy": "Enthalpy", "internal_energy": "Internal energy", "free_energy": "Free energy"}
        rows += [(names[key], f"{thermo[key]:.6f} eV") for key in names if key in thermo]
        rows.insert(-1, ("Entropy", f"{thermo['entropy']:.8f} eV/K"))
    console.text()
    console.properties(rows)
    if found.n_imaginary:
        console.warning(
            f"{found.n_imaginary} frequencies are imaginary: this is no minimum, and there is no thermochemistry. "
            + ("Start from another geometry." if found.options.optimise else "Leave out --no_optimise to move there.")
        )
    elif found.fmax > 0.05:
        console.warning("The forces are not small: frequencies have a meaning at stationary points only.")
