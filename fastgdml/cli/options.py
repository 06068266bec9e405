"""Options of the command line as the arguments of what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..dataset import Dataset, load_dataset
from ..errors import DataError, FileFormatError, UsageError
from ..length_scale import AUTO
from ..npz import load_npz
from ..perms import check_perms
from ..search import DEFAULT_SIGMAS, SearchOptions, Trainer
from ..types import IntArray


def trainer_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a `Trainer`; `resume`, which compares no models, lacks one."""
    groups = options["std_groups"]
    if groups is not None and not options["n_std"]:
        raise UsageError("--std_groups belongs to --std <n>, which is not given.")
    found = {field.name: options[field.name] for field in fields(Trainer) if field.name in options}
    return found | {"std_groups": None if groups is None else _std_groups(groups)}


def _std_groups(argument: str) -> str | int | tuple[int, ...]:
    """Return what --std_groups asks for: 'auto', a number of blocks, or the numbers in a file."""
    if argument == AUTO:
        return argument
    if argument.isdecimal():
        return int(argument)
    try:
        with open(argument, encoding="utf-8") as file:
            return tuple(int(line) for line in file.read().split())
    except OSError as error:
        raise UsageError(f"--std_groups {argument}: 'auto', a number, or a file: {error.strerror}.") from None
    except ValueError as error:
        raise FileFormatError(f"{argument} holds something else than integers, one a geometry: {error}.") from None


def search_options(options: Mapping[str, Any], valid_dataset: Dataset) -> SearchOptions:
    """Return the options of a search."""
    return SearchOptions(
        lam=options["lam"],
        perms=None if options["perms_from"] is None else _perms_from(options["perms_from"]),
        use_sym=not options["gdml"],
        use_E=options["use_E"],
        use_E_cstr=options["use_E_cstr"],
        seed=options["seed"],
        max_group_size=options["max_group"],
        image_rule=options["image_rule"],
        weights=options["weights"],
        valid_dataset=valid_dataset,
        directory=options["task_dir"],
        overwrite=options["overwrite"],
    )


def sigmas(parts: list[list[int] | str] | None) -> list[int] | str:
    """Return the length scales that -s names, or the default ones, or 'auto'."""
    if parts is None:
        return list(DEFAULT_SIGMAS)
    if AUTO in parts:
        if len(parts) > 1:
            raise UsageError("-s auto finds the length scale itself: it excludes others.")
        return AUTO
    return sorted({sig for part in parts for sig in part if not isinstance(sig, str)})


def load_dataset_argument(argument: str | None, default: Dataset) -> Dataset:
    """Load an optional dataset argument; without it, use `default`."""
    return default if argument is None else load_dataset(argument)


def _perms_from(path: str) -> IntArray:
    entries = load_npz(path, {"perms"})
    if "perms" not in entries:
        raise FileFormatError(f"{path} contains no permutations (key 'perms').")
    try:
        return check_perms(entries["perms"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
