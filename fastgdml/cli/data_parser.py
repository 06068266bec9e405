"""Arguments and options of `dataset`, `predict` and `get`: from anyone's data to predictions."""

from __future__ import annotations

import argparse
from typing import Protocol

from .cluster_options import add_cluster_options
from .values import positive_int, seed

SOURCE_HELP = (
    "npz of this and other projects, XYZ of any kind, folder of DeePMD-kit, anything that ASE reads (trajectories, "
    "databases, VASP, FHI-aims, ORCA, CP2K, Gaussian, ...), a shipped example, a fingerprint, or - for XYZ on the "
    "standard input"
)
OUTPUT_HELP = "file to write; its name ends in .npz, .xyz, .extxyz or .traj; - is XYZ on the standard output"


class Add(Protocol):
    """What adds a command: its name, its module in `fastgdml.cli`, what it does."""

    def __call__(self, name: str, module: str, text: str) -> argparse.ArgumentParser:
        """Return the parser of the command."""
        ...


def part(text: str) -> tuple[str, int | float | None]:
    """Parse a part of a split, as train=1000, valid=0.1 or test=rest."""
    name, _, size = text.partition("=")
    try:
        value = None if size == "rest" else float(size) if "." in size else int(size)
    except ValueError:
        value = -1
    if not name or (value is not None and (value <= 0 or (isinstance(value, float) and value >= 1))):
        raise argparse.ArgumentTypeError(
            f"{text} is not name=size, with a number of frames, a fraction between 0 and 1, or 'rest'"
        )
    return name, value


def add_data_commands(add: Add) -> None:
    """Add the commands."""
    dataset = add("dataset", "data", "convert, merge, split, thin, shuffle, check and label datasets")
    actions = dataset.add_subparsers(title="actions", dest="action", required=True, metavar="<action>")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text.capitalize() + ".", allow_abbrev=False)

    convert = action("convert", "convert files to a dataset, or to extended XYZ or a trajectory of ASE")
    merge = action("merge", "put several sources into one file, in the units of the first")
    split = action("split", "divide frames at random among files")
    thin = action("thin", "keep every k-th frame, or so many drawn at random")
    shuffle = action("shuffle", "put frames into a random order")
    dedup = action("dedup", "remove frames that repeat the geometry of others, up to rigid motions")
    info = action("info", "say what is in a source")
    check = action("check", "look for signs of wrong units, signs, duplicates and other faults, and say what to do")
    label = action("label", "compute energies and forces by a model or a calculator of ASE")
    predict = add("predict", "predict", "predict the energies and forces of geometries")
    get = add("get", "get", "list and download published datasets and models")

    for command in (convert, merge, split, thin, shuffle, dedup, info, check, label):
        command.add_argument("sources", metavar="<source>", nargs="+", help=SOURCE_HELP)
    predict.add_argument("model", metavar="<model>", help="model file, npz or flat")
    predict.add_argument("sources", metavar="<source>", nargs="+", help=SOURCE_HELP)
    for command in (convert, merge, thin, shuffle, dedup, label, predict):
        add_output(command)

    for command in (convert, merge, split, thin, shuffle, dedup, info, check, label, predict):
        add_reading(command, labels=command is not label)
    for command in (convert, merge, split, thin, shuffle, dedup, label, predict):
        add_writing(command)
    convert.add_argument(
        "--split-by-formula",
        dest="split_by_formula",
        action="store_true",
        help="one file for each kind of molecule or order of atoms, named <file>-<formula>",
    )
    for command in (convert, merge, label):
        command.add_argument("--resume", action="store_true", help="finish what a killed run left in <file>.part")
    for command in (split, thin, shuffle):
        command.add_argument("--seed", metavar="<seed>", type=seed, default=0, help="seed of the draw (default: 0)")
    split.add_argument(
        "--into",
        metavar="<name>=<size>",
        type=part,
        nargs="+",
        required=True,
        help="parts, as train=1000 valid=0.1 test=rest; files are named <source>-<name>.npz",
    )
    split.add_argument("--prefix", metavar="<prefix>", help="start of the file names (default: name of the source)")
    split.add_argument("--in_order", action="store_true", help="divide in the order of the frames")
    how_many = thin.add_mutually_exclusive_group(required=True)
    how_many.add_argument("--every", metavar="<k>", type=positive_int, help="keep each k-th frame")
    how_many.add_argument(
        "--n", metavar="<n>", type=positive_int, help="keep n, stratified by energy as training points are"
    )
    by = label.add_mutually_exclusive_group(required=True)
    by.add_argument("--model", metavar="<model>", help="model file")
    by.add_argument(
        "--calculator",
        metavar="<module:factory>",
        help="function or class that makes a calculator of ASE, as ase.calculators.emt:EMT",
    )
    predict.add_argument("--virial", action="store_true", help="also write virials (npz, XYZ), or the stress (.traj)")
    predict.add_argument(
        "--std", action="store_true", help="also write standard deviations, by a model that was trained with --std"
    )
    predict.add_argument("--no_labels", action="store_true", help="do not compare with labels of the input")
    for command in (label, predict):
        command.add_argument(
            "--any_cell", action="store_true", help="use a model of one periodic cell in other cells, too"
        )
        add_threads(command)
        command.add_argument(
            "--backend", choices=("cpu", "gpu", "auto"), default="cpu", help="where to compute (default: cpu)"
        )

    add_cluster_options(predict)
    _add_get(get)

    for command in (convert, merge, split, thin, shuffle, dedup, info, check, label):
        add_output_options(command)


def add_output_options(command: argparse.ArgumentParser) -> None:
    """Add the options that say what is printed."""
    output = command.add_mutually_exclusive_group()
    output.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    output.add_argument("--json", action="store_true", help="print results as lines of JSON")


def add_vibrations(add: Add) -> None:
    """Add the command."""
    command = add("vibrations", "vibrations", "frequencies, zero-point energy and thermochemistry at a minimum")
    command.add_argument("model", metavar="<model>", help="model file, npz or flat")
    command.add_argument("geometry", metavar="<geometry>", help="file whose first frame is where to start")
    command.add_argument(
        "--no_optimise", dest="optimise", action="store_false", help="stay there instead of moving to a minimum first"
    )
    command.add_argument("--fmax", metavar="<f>", type=float, default=1e-4, help="final force, eV/Ang (default: 1e-4)")
    command.add_argument(
        "--steps", metavar="<n>", type=positive_int, default=2000, help="most steps of the optimisation (default: 2000)"
    )
    command.add_argument(
        "-T",
        "--temperature",
        metavar="<K>",
        type=float,
        default=298.15,
        help="of the gas or crystal (default: 298.15)",
    )
    command.add_argument("--pressure", metavar="<Pa>", type=float, default=101325.0, help="(default: 101325)")
    command.add_argument(
        "--symmetry_number", metavar="<n>", type=positive_int, default=1, help="of the rotations (default: 1)"
    )
    command.add_argument("--spin", metavar="<s>", type=float, default=0.0, help="total electronic spin (default: 0)")
    command.add_argument("-o", "--output", metavar="<file>", help="write the geometry as extended XYZ")
    command.add_argument("--modes", metavar="<file>", help="write the modes, animated, as extended XYZ")
    command.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_threads(command)


def _add_get(get: argparse.ArgumentParser) -> None:
    get.add_argument("kind", metavar="dataset|model", choices=("dataset", "model"), nargs="?", help="what to get")
    get.add_argument("names", metavar="<name>", nargs="*", help="what to download; without names, a list is printed")
    get.add_argument("--online", action="store_true", help="ask the server for its list")
    get.add_argument(
        "-o", "--output", metavar="<folder>", help="copy the files here, too (default: they stay in the cache folder)"
    )
    get.add_argument("--url", metavar="<url>", help="another server with the same folders (default: sgdml's)")
    get.add_argument("--overwrite", action="store_true", help="replace existing files")


def add_threads(command: argparse.ArgumentParser) -> None:
    """Add the option of the number of threads."""
    command.add_argument(
        "-p", "--max_processes", metavar="<n>", type=positive_int, help="number of threads (default: all)"
    )


def add_output(command: argparse.ArgumentParser) -> None:
    """Add the file to write."""
    command.add_argument("-o", "--output", metavar="<file>", required=True, help=OUTPUT_HELP)


def add_writing(command: argparse.ArgumentParser) -> None:
    """Add the options of files of frames that are written."""
    command.add_argument(
        "--to", dest="to_e_unit", metavar="<unit>", help="convert to this unit of energy, as kcal/mol or eV"
    )
    command.add_argument("--to_r_unit", metavar="<unit>", help="convert to this unit of length, as Ang or Bohr")
    command.add_argument("--name", metavar="<name>", help="name of the system, to record")
    command.add_argument("--theory", metavar="<theory>", help="level of theory, to record")
    command.add_argument("--overwrite", action="store_true", help="replace existing files")


def add_reading(command: argparse.ArgumentParser, labels: bool) -> None:
    """Add the options of sources; `labels`: of their labels, too."""
    command.add_argument(
        "--format", metavar="<format>", help="format of the sources: npz, xyz, deepmd, or a name that ASE knows"
    )
    command.add_argument("--e_unit", metavar="<unit>", help="unit of energy of sources that do not record it")
    command.add_argument("--r_unit", metavar="<unit>", help="unit of length of sources that do not record it")
    command.add_argument("--no_cell", dest="cell", action="store_false", default=None, help="leave out cells")
    command.add_argument("--cell", dest="cell", action="store_true", help="take the cell in files of i-PI")
    if not labels:
        return
    command.add_argument("--f_unit", metavar="<unit>", help="unit of forces, as Hartree/Bohr, if it is another")
    command.add_argument("--energy", metavar="<name>", help="what the energies are called, if there are several")
    command.add_argument("--forces", metavar="<name>", help="what the forces are called, if there are several")
    command.add_argument("--no_E", dest="use_E", action="store_false", help="leave out energies")
    command.add_argument(
        "--gradients", action="store_true", help="the forces of the source are gradients: turn their sign"
    )
    command.add_argument("--forces_file", metavar="<file>", help="forces in another XYZ file, as i-PI and CP2K write")
    command.add_argument("--energies_file", metavar="<file>", help="table of energies, as i-PI's properties")
