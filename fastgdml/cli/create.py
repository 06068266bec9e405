"""`fastgdml create`: one task file for each sigma of a search."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..cell import image_rule_of
from ..dataset import Dataset, check_same_system, load_dataset
from ..errors import DataError, FileFormatError, UsageError
from ..group import check_perms
from ..npz import MODEL, TASK, kind_of, load_npz, path_type, require_kind, text
from ..overlap import is_drawn_from
from ..sampling import new_seed
from ..task import Task, load_task, save_task, task_dir_name, task_file_name
from ..train import GDMLTrain
from .console import Console
from .files import list_files, load_dataset_argument, make_folder, remove, require_folder
from .show import dataset_properties

DEFAULT_SIGMAS = list(range(10, 100, 10))


def run(args: argparse.Namespace, console: Console) -> None:
    """Create the tasks and say how to train them."""
    console.title("TASK CREATION")
    dataset = load_dataset(args.dataset)
    valid_dataset = load_dataset_argument(args.valid_dataset, dataset)
    dataset_properties(console, dataset)
    console.text()
    task_dir = create_tasks(args, dataset, valid_dataset, console)
    console.title("NEXT STEP", f"fastgdml train {task_dir} {args.valid_dataset or args.dataset}")


def create_tasks(
    args: argparse.Namespace,
    dataset: Dataset,
    valid_dataset: Dataset,
    console: Console,
    check: Callable[[Task, Path], None] | None = None,
) -> Path:
    """Create the tasks of a search, or complete those of an interrupted one. Returns their directory.

    `check` sees a task and the directory before anything is written or deleted, and may raise.
    """
    sigs = DEFAULT_SIGMAS if args.sigs is None else sorted({sig for part in args.sigs for sig in part})
    check_same_system(dataset, valid_dataset, "training dataset", "validation dataset")
    task_dir = Path(
        task_dir_name(dataset, args.n_train, not args.gdml, args.use_E, args.use_E_cstr)
        if args.task_dir is None
        else args.task_dir
    )
    if args.task_dir == "":
        raise UsageError("The name of the --task_dir is empty.")
    require_folder(task_dir)
    is_there = path_type(task_dir) == "directory"
    existing = list_files(task_dir, "task") if is_there and not args.overwrite else []
    if existing:
        template = load_task(existing[0])
        _require_same_search(template, existing, args, sigs, dataset, valid_dataset, task_dir)
        console.info(f"Resuming the search in '{task_dir}'.")
    else:
        template = _new_template(args, sigs[0], dataset, valid_dataset, console)
    if check is not None:
        check(template, task_dir)
    tasks = [{**template, "sig": sig} for sig in sigs]
    for task in tasks:
        task.pop("tried_training", None)
        require_kind(task_dir / task_file_name(task), TASK)
    if args.overwrite and is_there:
        remove_search(task_dir)
    make_folder(task_dir)

    n_written = 0
    for task in tasks:
        path = task_dir / task_file_name(task)
        if path_type(path) == "nothing":
            save_task(path, task)
            n_written += 1
    if n_written:
        console.done(f"Wrote {n_written} of {len(sigs)} tasks with {args.n_train} training points each to '{task_dir}'")
    return task_dir


def _new_template(
    args: argparse.Namespace, sig: int, dataset: Dataset, valid_dataset: Dataset, console: Console
) -> Task:
    perms = None
    if args.perms_from is not None:
        entries = load_npz(args.perms_from, {"perms"})
        if "perms" not in entries:
            raise FileFormatError(f"{args.perms_from} contains no permutations (key 'perms').")
        try:
            perms = check_perms(entries["perms"])
        except DataError as error:
            raise DataError(f"{args.perms_from}: {error}") from None
    if args.use_E and "E" not in valid_dataset:
        raise UsageError("The validation dataset has no energies (key 'E'); use --no_E or another dataset.")
    seed = new_seed() if args.seed is None else args.seed
    console.info(f"Seed: {seed}" + ("" if args.seed is not None else " (repeat this run with --seed)"))
    if "E" not in dataset:
        console.warning("The dataset has no energies: points are drawn uniformly instead of stratified by energy.")
    if "lattice" in dataset:
        several = ", one cell for each geometry" if np.ndim(dataset["lattice"]) == 3 else ""
        console.info(f"Lattice vectors found: periodic boundary conditions are applied{several}.")
    return GDMLTrain().create_task(
        dataset,
        args.n_train,
        valid_dataset,
        args.n_valid,
        sig,
        lam=args.lam,
        perms=perms,
        use_sym=not args.gdml,
        use_E=args.use_E,
        use_E_cstr=args.use_E_cstr,
        callback=console.progress,
        seed=seed,
        max_group_size=args.max_group,
        image_rule=args.image_rule,
    )


def _require_same_search(
    template: Task,
    existing: list[Path],
    args: argparse.Namespace,
    sigs: list[int],
    dataset: Dataset,
    valid_dataset: Dataset,
    task_dir: Path,
) -> None:
    """Raise UsageError unless the tasks found are part of the search that is asked for."""
    differences = []
    if not is_drawn_from(template, "train", dataset):
        differences.append(f"training dataset (fingerprint {text(template['md5_train'])})")
    else:
        check_same_system(template, dataset, "task", "training dataset")
    if not is_drawn_from(template, "valid", valid_dataset):
        differences.append(f"validation dataset (fingerprint {text(template['md5_valid'])})")
    found: dict[str, object] = {
        "n_train": len(template["idxs_train"]),
        "n_valid": len(template["idxs_valid"]),
        "--lam": float(template["lam"]),
        "--gdml": not bool(template["use_sym"]),
        "--no_E": not bool(template["use_E"]),
        "--E_cstr": bool(template["use_E_cstr"]),
    }
    wanted: dict[str, object] = {
        "n_train": args.n_train,
        "n_valid": args.n_valid,
        "--lam": args.lam,
        "--gdml": args.gdml,
        "--no_E": not args.use_E,
        "--E_cstr": args.use_E_cstr,
    }
    if "lattice" in template:
        found["--image_rule"], wanted["--image_rule"] = image_rule_of(template), args.image_rule
    if args.seed is not None:
        found["--seed"], wanted["--seed"] = int(template.get("seed", -1)), args.seed
    differences += [f"{key} ({found[key]}, not {wanted[key]})" for key in wanted if found[key] != wanted[key]]
    if args.perms_from is not None:
        perms = np.atleast_2d(load_npz(args.perms_from, {"perms"}).get("perms", []))
        if not np.array_equal(perms, template["perms"]):
            differences.append("--perms_from")
    extra = sorted({float(load_npz(path, {"sig"})["sig"]) for path in existing} - set(sigs))
    if extra:
        differences.append(f"--sig (tasks for {', '.join(f'{sig:g}' for sig in extra)} are there)")
    if differences:
        raise UsageError(
            f"'{task_dir}' holds an unfinished search that differs in {'; '.join(differences)}. Give -o to overwrite "
            "it, the same arguments to continue it, or another --task_dir."
        )


def remove_search(task_dir: Path) -> None:
    """Delete the task and model files of a search, and its directory if nothing else is in it.

    Only files with the names that a search gives them are touched.
    """
    for kind in ("task", "model"):
        for path in list_files(task_dir, kind):
            if path.name.startswith(f"{kind}-train"):
                remove(path)
    for path in task_dir.glob("_unconv_model-train*.npz"):
        if kind_of(path) == MODEL:
            remove(path)
    if not any(task_dir.iterdir()) and task_dir.resolve() != Path.cwd():
        remove(task_dir)
