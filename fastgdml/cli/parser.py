"""Arguments and options of the command line: sgdml's, and a few more."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from .._version import __version__
from .cluster_options import add_training_options
from .data_parser import add_data_commands, add_output_options, add_threads, add_vibrations
from .learn_parser import add_learn_commands
from .report_parser import add_report_commands
from .values import positive_float, positive_int, seed, several, sigma

_DATASET_HELP = "dataset file (.npz), name of a shipped example (ethanol), or fingerprint"


def tolerance(text: str) -> float:
    """Parse a number between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


class _Version(argparse.Action):
    """Print the configuration, which takes imports that other commands need not wait for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=kwargs.get("help"))

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from ..config import configuration_text

        print(f"{parser.prog} {__version__}\n\n{configuration_text()}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="fastgdml", description="Train, test and inspect sGDML force fields.", allow_abbrev=False
    )
    parser.add_argument("--version", action=_Version, help="show versions, instruction set, threads and exit")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="<command>")

    def add(name: str, module: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".", allow_abbrev=False)
        command.set_defaults(module=module)
        if name not in ("dataset", "completion"):  # the actions of the former have them; the latter prints a script
            add_output_options(command)
        return command

    everything = add("all", "all", "reconstruct a force field from beginning to end")
    create = add("create", "create", "create training task(s)")
    train = add("train", "train", "train model(s) from task(s)")
    resume = add("resume", "resume", "go on with the training of an unconverged model")
    validate = add("validate", "validate", "validate model(s)")
    select = add("select", "select", "select the best performing model")
    test = add("test", "test", "test model(s)")
    show = add("show", "show", "print details of a dataset, task or model file")
    export = add("export", "export", "write a model for another program")
    reset = add("reset", "reset", "delete all caches")
    for add_more in (add_data_commands, add_vibrations, add_learn_commands):
        add_more(add)

    for command in (everything, create):
        _add_points(command)
    everything.add_argument(
        "n_test",
        metavar="<n_test>",
        type=positive_int,
        nargs="?",
        help="number of test points (default: all that are left)",
    )
    for command in (everything, create):
        _add_task_options(command)
    train.add_argument("task_dir", metavar="<task_dir_or_file>", help="task directory or file")
    train.add_argument("valid_dataset", metavar="<valid_dataset>", help=f"validation dataset: {_DATASET_HELP}")
    resume.add_argument("model", metavar="<model_file>", help="model of the iterative solver, as _unconv_model-....npz")
    resume.add_argument("train_dataset", metavar="<train_dataset>", help=f"training dataset: {_DATASET_HELP}")
    resume.add_argument("valid_dataset", metavar="<valid_dataset>", help=f"validation dataset: {_DATASET_HELP}")
    validate.add_argument("model_dir", metavar="<model_dir_or_file>", help="model directory or file")
    validate.add_argument("dataset", metavar="<valid_dataset>", help=f"validation dataset: {_DATASET_HELP}")
    test.add_argument("model_dir", metavar="<model_dir_or_file>", help="model directory or file")
    test.add_argument("dataset", metavar="<test_dataset>", help=f"test dataset: {_DATASET_HELP}")
    test.add_argument(
        "n_test",
        metavar="<n_test>",
        type=positive_int,
        nargs="?",
        help="number of test points (default: all that are left)",
    )
    select.add_argument("model_dir", metavar="<model_dir>", help="directory with validated models")
    show.add_argument("file", metavar="<file>", help="dataset, task or model file, or a shipped example")
    export.add_argument("model", metavar="<model>", help="model file")
    export.add_argument("target", metavar="<file>", help="file to write")
    export.add_argument(
        "--format",
        choices=("flat", "sgdml"),
        help="flat: for the C library and MD engines (default for names in .fgdml); sgdml: a model that sgdml "
        "1.0.3 reads (datasets and tasks need no export)",
    )
    reset.add_argument("-y", "--yes", action="store_true", help="do not ask")

    for command in (everything, select):
        command.add_argument("--model_file", metavar="<file>", help="name of the final model file")
    for command in (everything, train, select):
        _add_comparison(command)
    for command in (everything, create, test):
        command.add_argument(
            "--seed",
            metavar="<seed>",
            type=seed,
            help="seed of the random draws (default: a new one, recorded in the files)",
        )
    for command in (everything, train, resume):
        _add_solver_options(command)
        _add_std_options(command)
    add_training_options(resume, distribute=False)
    for command in (everything, train):
        _add_search_options(command)
    test.add_argument("--std", action="store_true", help="also compare standard deviations with errors")
    for command in (everything, train, resume, validate, test):
        _add_machine_options(command)
    for command in (everything, create, train, resume, validate, select, test, export):
        command.add_argument("-o", "--overwrite", action="store_true", help="overwrite existing files")
    add_report_commands(add, _add_machine_options)
    return parser


def _add_points(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "dataset",
        metavar="<dataset>",
        help=f"{_DATASET_HELP}; all points are drawn from here unless there are separate datasets",
    )
    command.add_argument("n_train", metavar="<n_train>", type=positive_int, help="number of training points")
    command.add_argument("n_valid", metavar="<n_valid>", type=positive_int, help="number of validation points")


def _add_task_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-v", "--validation_dataset", dest="valid_dataset", metavar="<dataset>", help="separate validation dataset"
    )
    command.add_argument("-t", "--test_dataset", dest="test_dataset", metavar="<dataset>", help="separate test dataset")
    command.add_argument(
        "-s",
        "--sig",
        dest="sigs",
        metavar="<s>",
        type=sigma,
        nargs="+",
        help="length scales sigma: integers and/or ranges <start>:[<step>:]<stop>, or auto: find it with few trainings "
        "(default: 10:10:90)",
    )
    symmetry = command.add_mutually_exclusive_group()
    symmetry.add_argument("--gdml", action="store_true", help="ignore symmetries (GDML)")
    symmetry.add_argument(
        "--perms_from", metavar="<file>", help="take permutations from this dataset, task or model file"
    )
    command.add_argument(
        "--max_group",
        metavar="<n>",
        type=positive_int,
        default=100,
        help="give up on symmetry groups of this size; crystals may need thousands (default: 100, as sgdml)",
    )
    energies = command.add_mutually_exclusive_group()
    energies.add_argument("--no_E", dest="use_E", action="store_false", help="train without energies")
    energies.add_argument("--E_cstr", dest="use_E_cstr", action="store_true", help="constrain energies point by point")
    command.add_argument("--task_dir", metavar="<dir>", help="name of the task directory")
    command.add_argument(
        "--lam", metavar="<lambda>", type=positive_float, default=1e-10, help="regularisation (default: 1e-10)"
    )
    command.add_argument(
        "--image_rule",
        choices=("minimum", "rounding"),
        default="minimum",
        help="periodic cells: nearest image of a neighbour, or sgdml's rule (default: minimum)",
    )
    command.add_argument(
        "--weights",
        choices=("none", "orbits", "types"),
        default="none",
        help="learn weights of pairs of atoms instead of searching sigma: one for those that symmetry exchanges, or "
        "one for those of the same elements and bonds in between (default: none, as sgdml)",
    )


def _add_solver_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--solver",
        choices=("auto", "closed", "cg"),
        default="auto",
        help="closed form, conjugate gradients, or the faster of those that fit into memory (default: auto)",
    )
    command.add_argument(
        "--tol",
        metavar="<tol>",
        type=tolerance,
        default=1e-4,
        help="relative residual at which conjugate gradients stop (default: 1e-4)",
    )
    command.add_argument("--max_iter", metavar="<n>", type=positive_int, help="most steps of conjugate gradients")
    command.add_argument(
        "--early_stop",
        action="store_true",
        help="stop conjugate gradients when the force error on the validation points no longer falls",
    )


def _add_search_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--lazy", action="store_true", help="skip tasks that were tried before")
    add_training_options(command, distribute=True)


def _add_comparison(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--by",
        choices=("validation", "loo"),
        default="validation",
        help="what models of a search are compared by: the force RMSE on the validation points, or the force MAE of "
        "leaving out training points, for which they need --std (default: validation)",
    )


def _add_std_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--std",
        dest="n_std",
        metavar="<n>",
        type=several,
        default=0,
        help="samples for standard deviations of predictions, as 16 (default: none)",
    )
    command.add_argument(
        "--std_groups",
        metavar="<groups>",
        help="training points to leave out together for --std: 'auto' finds correlated ones; a number of blocks in the "
        "order of the dataset; or a text file with the group of each geometry of the dataset (default: each alone)",
    )


def _add_machine_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-m",
        "--max_memory",
        metavar="<GB>",
        type=positive_float,
        help="memory limit in GB (default: all that is free)",
    )
    add_threads(command)
    device = command.add_mutually_exclusive_group()
    device.add_argument(
        "--backend",
        choices=("cpu", "gpu", "auto"),
        default="cpu",
        help="where to compute; auto: on a GPU if CuPy finds one (default: cpu)",
    )
    device.add_argument(
        "--cpu", dest="backend", action="store_const", const="cpu", help="the same as --backend cpu, as in sgdml"
    )
