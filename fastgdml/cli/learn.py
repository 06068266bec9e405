"""`fastgdml learn`: a model from one geometry and a calculator."""

from __future__ import annotations

import argparse
import math
import os
import sys
from dataclasses import asdict
from typing import Any

from ..formats import ReadOptions
from ..learning import Errors, Files, Learned, LearnOptions, learn
from ..learning.records import EXTREME, HIGH, Call
from .console import Console

# Calls between two lines of a log that is no terminal.
_LINES_EVERY = 10


def run(args: argparse.Namespace, console: Console) -> None:
    """Learn, and print what is spent and what comes of it."""
    options = LearnOptions(
        temperature=args.temperature,
        target_mae=args.target_mae,
        max_calls=args.max_calls,
        interval=args.interval,
        time_step=args.dt,
        friction=args.friction,
        n_control=args.n_control,
        sig=args.sig,
        use_sym=not args.gdml,
        seed=args.seed,
        max_processes=args.max_processes,
    )
    files = Files(
        folder=args.folder,
        overwrite=args.overwrite,
        name=args.name,
        theory=args.theory,
        read=ReadOptions(use_E=False, use_F=False, format=args.format, cell=args.cell),
        r_unit=args.r_unit,
        e_unit=args.to_e_unit,
        to_r_unit=args.to_r_unit,
    )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a file beside the data is what people have
    console.info(f"Errors and the target are in {args.to_e_unit}/{args.to_r_unit}.")

    def on_call(call: Call, errors: Errors) -> None:
        if call.outcome in (HIGH, EXTREME):
            console.info(f"Call {call.number}: the energy is too high for the temperature, the trajectory steps back.")
        if call.number % _LINES_EVERY == 0 and not console.is_terminal:
            known = "" if math.isnan(errors.mae) else f", error {errors.mae:.4g} on {errors.n} control points"
            console.info(f"{call.number} calls, {call.state.step * args.dt / 1000:.2f} ps{known}")
        console.result(_plain(call))

    learned = learn(args.start, args.output, args.calculator, options, files, console.progress, on_call)
    _print(learned, console, args.target_mae)


def _plain(call: Call) -> dict[str, Any]:
    keys = (
        "number",
        "why",
        "outcome",
        "E",
        "mae",
        "rmse",
        "e_error",
        "f_std",
        "limit",
        "seconds",
        "message",
        "n_train",
        "sig",
    )
    return {"step": call.state.step, **{key: getattr(call, key) for key in keys}}


def _print(learned: Learned, console: Console, target: float) -> None:
    errors = learned.control
    console.properties(
        [
            ("Calls", f"{learned.n_calls:,} of the calculator"),
            ("Trajectory", f"{learned.picoseconds:.2f} ps"),
            ("Model", f"{learned.n_train:,} points, sigma {learned.sig:g}, {learned.n_perms} permutations"),
            ("Energy error", f"{errors.e_mae:.4f}/{errors.e_rmse:.4f} {learned.unit.partition('/')[0]}"),
            ("Force error", f"{errors.mae:.4f}/{errors.rmse:.4f} {learned.unit} (MAE/RMSE, {errors.n} control points)"),
        ]
    )
    if not learned.reached:
        console.warning(
            f"The target, {target:g} {learned.unit}, is not met. The same command with more --max-calls goes on."
        )
    console.done(f"Wrote '{learned.model}', '{learned.dataset}', '{learned.calls}', '{learned.report}'")
    values = {
        key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in asdict(learned).items()
    }
    console.result(values)
