"""Arguments and options of `learn` and `select-points`."""

from __future__ import annotations

import argparse

from .data_parser import SOURCE_HELP, Add, add_output, add_reading, add_threads, add_writing
from .values import positive_float, positive_int, seed


def add_learn_commands(add: Add) -> None:
    """Add the commands."""
    _add_learn(add("learn", "learn", "learn a model on the fly, from one geometry and a calculator"))
    _add_select_points(add("select-points", "select_points", "select geometries to train on, or to label, from a pool"))


def _add_learn(learn: argparse.ArgumentParser) -> None:
    learn.add_argument("start", metavar="<start>", help="file of one geometry, of any format that fastgdml reads")
    learn.add_argument(
        "--calculator",
        metavar="<module:factory>",
        required=True,
        help="function or class that makes a calculator of ASE, as tblite.ase:TBLite",
    )
    learn.add_argument("-o", "--output", metavar="<file>", required=True, help="model to write, .npz")
    learn.add_argument(
        "-T",
        "--temperature",
        metavar="<K>",
        type=positive_float,
        default=500.0,
        help="of the trajectory (default: 500)",
    )
    learn.add_argument(
        "--target-mae",
        metavar="<error>",
        type=positive_float,
        default=0.3,
        help="stop when the mean absolute error of forces on control points is this, in kcal/mol/Ang unless --to and "
        "--to_r_unit say otherwise (default: 0.3)",
    )
    learn.add_argument(
        "--max-calls", metavar="<n>", type=positive_int, default=300, help="most calls of the calculator (default: 300)"
    )
    learn.add_argument(
        "--interval",
        metavar="<n>",
        type=positive_int,
        default=200,
        help="steps of the trajectory between control points (default: 200)",
    )
    learn.add_argument("--dt", metavar="<fs>", type=positive_float, default=0.5, help="time step, fs (default: 0.5)")
    learn.add_argument(
        "--friction",
        metavar="<1/fs>",
        type=positive_float,
        default=0.01,
        help="of the Langevin dynamics, 1/fs (default: 0.01)",
    )
    learn.add_argument(
        "--n_control",
        metavar="<n>",
        type=positive_int,
        default=20,
        help="the last so many control points are compared with the target (default: 20)",
    )
    learn.add_argument(
        "-s",
        "--sig",
        metavar="<s>",
        type=positive_float,
        help="length scale sigma (default: that with the smallest leave-one-out errors)",
    )
    learn.add_argument("--gdml", action="store_true", help="ignore symmetries (GDML)")
    learn.add_argument(
        "--seed", metavar="<seed>", type=seed, default=0, help="seed of displacements and dynamics (default: 0)"
    )
    learn.add_argument("--folder", metavar="<folder>", help="what is kept of the run (default: <output>-learn)")
    learn.add_argument(
        "--to", dest="to_e_unit", metavar="<unit>", default="kcal/mol", help="unit of energy of the labels"
    )
    learn.add_argument("--to_r_unit", metavar="<unit>", default="Ang", help="unit of length of the labels")
    learn.add_argument("--name", metavar="<name>", help="name of the system, to record")
    learn.add_argument("--theory", metavar="<theory>", help="level of theory, to record (default: the calculator)")
    learn.add_argument("--format", metavar="<format>", help="format of <start>: npz, xyz, deepmd, or a name ASE knows")
    learn.add_argument("--r_unit", metavar="<unit>", help="unit of length of <start>, if it does not record it")
    learn.add_argument("--no_cell", dest="cell", action="store_false", default=None, help="leave out the cell")
    learn.add_argument("--cell", dest="cell", action="store_true", help="take the cell in files of i-PI")
    add_threads(learn)
    learn.add_argument("--overwrite", action="store_true", help="replace a model that is not of this run")


def _add_select_points(select: argparse.ArgumentParser) -> None:
    select.add_argument("pool", metavar="<pool>", help=SOURCE_HELP)
    select.add_argument("n", metavar="<n>", type=positive_int, help="number of geometries to select")
    add_output(select)
    add_reading(select, labels=True)
    add_writing(select)
    select.add_argument(
        "--unlabelled",
        action="store_true",
        help="select as from a pool without labels, although it has them",
    )
    select.add_argument(
        "-s",
        "--sig",
        metavar="<s>",
        type=positive_float,
        help="length scale sigma (default: that with the smallest leave-one-out errors; 20 without labels)",
    )
    select.add_argument("--seed", metavar="<seed>", type=seed, default=0, help="seed of the draws (default: 0)")
    add_threads(select)
