"""Arguments and options of `report`, `learning-curve`, `doctor` and `completion`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from .cluster_options import add_cluster_options
from .data_parser import Add, add_threads
from .values import int_or_range, positive_float, positive_int, seed


def add_report_commands(add: Add, add_computing: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands; `add_computing` adds the options of memory, threads and backend."""
    _add_report(add("report", "report", "write a page about a model: what it is, how accurate, where it fails"))
    curve = add("learning-curve", "learning_curve", "train with several numbers of points and compare the errors")
    _add_learning_curve(curve)
    add_computing(curve)
    doctor = add("doctor", "doctor", "say what is installed and what is missing, and test it")
    doctor.add_argument("--no_test", dest="test", action="store_false", help="leave out the self-test")
    completion = add("completion", "completion", "print what makes a shell complete commands and options")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def _add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument("model", metavar="<model>", help="model file, npz or flat")
    report.add_argument(
        "dataset",
        metavar="<dataset>",
        nargs="?",
        help="labelled geometries to compare with, those that the model has not seen; without them, what is recorded",
    )
    report.add_argument(
        "-o", "--output", metavar="<file>", required=True, help="file to write, .html, .png, .pdf, .json or .md"
    )
    report.add_argument(
        "--format", choices=("html", "png", "pdf", "json", "md"), help="format (default: by the name of the file)"
    )
    report.add_argument(
        "--n_test",
        metavar="<n>",
        type=positive_int,
        default=2000,
        help="most geometries to compare with (default: 2000)",
    )
    report.add_argument("--seed", metavar="<seed>", type=seed, default=0, help="seed of their draw (default: 0)")
    report.add_argument(
        "--n_worst", metavar="<n>", type=positive_int, default=4, help="geometries with large errors (default: 4)"
    )
    report.add_argument("--search", metavar="<folder>", help="folder with the models of the search for sigma")
    report.add_argument("--learning-curve", metavar="<file>", help="learning curve of `fastgdml learning-curve`, CSV")
    report.add_argument("--no_timing", dest="timing", action="store_false", help="do not measure the speed")
    add_threads(report)
    report.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _add_learning_curve(curve: argparse.ArgumentParser) -> None:
    curve.add_argument("dataset", metavar="<dataset>", help="dataset file, shipped example, or fingerprint")
    curve.add_argument(
        "sizes",
        metavar="<n>",
        type=int_or_range,
        nargs="+",
        help="numbers of training points: integers and/or ranges <start>:[<step>:]<stop>",
    )
    curve.add_argument("-o", "--output", metavar="<file>", required=True, help="file to write, CSV")
    curve.add_argument("--plot", metavar="<file>", help="picture to draw, .svg, .png or .pdf")
    curve.add_argument(
        "-s",
        "--sig",
        dest="sigs",
        metavar="<s>",
        type=int_or_range,
        nargs="+",
        help="length scales sigma to choose from (default: 10:10:50)",
    )
    curve.add_argument(
        "--sigma_per_size", action="store_true", help="choose sigma for every size (default: for the largest only)"
    )
    curve.add_argument(
        "--n_valid", metavar="<n>", type=positive_int, default=200, help="points that sigma is chosen by (default: 200)"
    )
    curve.add_argument("--n_test", metavar="<n>", type=positive_int, default=1000, help="test points (default: 1000)")
    curve.add_argument("--seed", metavar="<seed>", type=seed, default=0, help="seed of the draws (default: 0)")
    curve.add_argument(
        "--lam", metavar="<lambda>", type=positive_float, default=1e-10, help="regularisation (default: 1e-10)"
    )
    curve.add_argument("--gdml", action="store_true", help="ignore symmetries (GDML)")
    curve.add_argument("--no_E", dest="use_E", action="store_false", help="train without energies")
    curve.add_argument(
        "--solver", choices=("auto", "closed", "cg"), default="auto", help="solver of the trainings (default: auto)"
    )
    add_cluster_options(curve)
    curve.add_argument("--overwrite", action="store_true", help="replace existing files")
