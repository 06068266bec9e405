"""All frames of sources at once: in another order, fewer of them, without duplicates, in several files.

They are kept on disk meanwhile.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .cell import Cell
from .convert import Work, stream
from .descriptor import from_R, n_pairs, pair_permutation
from .errors import DataError, UsageError
from .formats import Facts, Frames, ReadOptions
from .formats.frames import chunk_frames, formula
from .formats.npz import Spool
from .formats.targets import NpzTarget, open_target, require_free, target_format
from .progress import Callback, Step
from .reading import (
    Reader,
    Report,
    UnitOptions,
    Written,
)
from .sampling import draw_stratified, draw_uniform, generator
from .types import IntArray
from .writing import Sink, WriteOptions, require_other_file

_log = logging.getLogger(__name__)

# Descriptors that differ by less than this fraction belong to the same geometry.
_SAME_GEOMETRY = 1e-9

Choice = Callable[[Spool, "IntArray | None"], "list[tuple[str, IntArray]]"]


def rearrange(
    sources: Sequence[str | os.PathLike[str]],
    targets: Sequence[str],
    choose: Choice,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Keep all frames on disk, and write chosen ones to one or several files.

    Parameters
    ----------
    sources : sequence of path-like
        As in `convert`.
    targets : sequence of str
        The files that `choose` may name.
    choose : callable
        Makes, of all frames and the permutations that are recorded with them, a list of files with the numbers of their
        frames.
    read, units, write, callback
        As in `convert`.
    """
    write = write or WriteOptions()
    if write.resume or write.split_by_formula:
        raise UsageError("--resume and --split-by-formula are options of 'convert'.")
    for path in targets:
        if path == "-":
            raise UsageError("Frames in another order are written to files, not to the standard output.")
        target_format(path)
        require_free(path, write.overwrite)
    if any(target_format(path) == "traj" for path in targets):
        units = replace(units or UnitOptions(), to_e_unit="eV", to_r_unit="Ang")
    reader = Reader(sources, read, units)
    try:
        for path in targets:
            require_other_file(reader.paths, path)
        shelf = NpzTarget(targets[0])
        sink = Sink(targets[0], reader, replace(write, overwrite=True), only=shelf)
    except BaseException:
        reader.close()
        raise
    step = Step(callback, "Reading")
    try:
        for frames in reader.chunks():
            sink.write(frames)
            step(*reader.progress(), f"{shelf.n:,} frames")
        if not shelf.n:
            raise DataError("There are no frames.")
        step.done(f"{shelf.n:,} frames")
        spool = shelf.spool
        facts = sink.facts_of(next(iter(sink.kinds)))
        chosen = choose(spool, None if facts.perms is None else facts.perms.astype(np.int64))
        step = Step(callback, "Writing", len(chosen))
        for i, (path, order) in enumerate(chosen):
            own = facts if write.name or reader.facts.name else replace(facts, name=Path(path).stem)
            reader.report.files.append(_emit(spool, path, order, own))
            step(i + 1, len(chosen))
        step.done()
        reader.report.n_removed = spool.n - len(np.unique(np.concatenate([order for _, order in chosen])))
    finally:
        shelf.discard()
        reader.close()
    return reader.report


def _emit(spool: Spool, path: str, order: IntArray, facts: Facts) -> Written:
    if not len(order):
        raise UsageError(f"No frames are left for '{path}'.")
    kind = formula(spool.z)
    if target_format(path) == "npz":
        return Written(path, len(order), kind, spool.save(path, facts, order).decode("ascii"))
    target = open_target(path)
    try:
        step = chunk_frames(spool.n_atoms)
        for first in range(0, len(order), step):
            target.write(spool.read(order[first : first + step]), facts)
        target.finish(facts)
    except BaseException:
        target.discard()
        raise
    return Written(path, len(order), kind)


def thin(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    every: int,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Keep frames 0, every, 2 every, ...; see `convert`."""
    if every < 1:
        raise UsageError(f"every is {every}; a positive number is needed.")
    if write is not None and write.resume:
        raise UsageError("--resume is an option of 'convert'.")
    removed = 0

    def stage(frames: Frames) -> Frames:
        nonlocal removed
        kept = frames.part(np.arange(-frames.first % every, len(frames), every))
        removed += len(frames) - len(kept)
        return kept

    report = stream(sources, target, read, units, write, callback, Work("Thinning", stage, resumable=False))
    report.n_removed = removed
    return report


def draw(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    n: int,
    seed: int = 0,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Keep n frames drawn at random, in their order, stratified by energy if there are energies.

    Parameters
    ----------
    sources, target, read, units, write, callback
        As in `convert`.
    n : int
        How many.
    seed : int
        Seed of the draw.
    """
    path = os.fspath(target)

    def choose(spool: Spool, _: IntArray | None) -> list[tuple[str, IntArray]]:
        E, rng = spool.array("E"), generator(seed)
        drawn = draw_uniform(spool.n, n, rng) if E is None else draw_stratified(E, n, rng)
        return [(path, np.sort(drawn))]

    return rearrange(sources, [path], choose, read, units, write, callback)


def shuffle(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    seed: int = 0,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Put all frames into a random order; see `convert`."""
    path = os.fspath(target)
    return rearrange(
        sources, [path], lambda spool, _: [(path, generator(seed).permutation(spool.n))], read, units, write, callback
    )


def split(
    sources: Sequence[str | os.PathLike[str]],
    targets: Sequence[tuple[str, int | float | None]],
    seed: int | None = 0,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Divide frames at random among files, no frame in two of them.

    Parameters
    ----------
    sources, read, units, write, callback
        As in `convert`.
    targets : sequence of (str, int or float or None)
        Files, and how many frames each gets: a number, a fraction (a float less than 1), or None for all that are left.
    seed : int or None
        Seed of the draw; None divides in the order of the frames.
    """
    paths = [path for path, _ in targets]
    if len(set(paths)) != len(paths):
        raise UsageError("Two parts have the same file name.")
    if sum(size is None for _, size in targets) > 1:
        raise UsageError("Only one part can be the rest.")

    def choose(spool: Spool, _: IntArray | None) -> list[tuple[str, IntArray]]:
        sizes = [
            -1 if size is None else round(size * spool.n) if isinstance(size, float) else size for _, size in targets
        ]
        given = sum(size for size in sizes if size >= 0)
        if given > spool.n:
            raise UsageError(f"The parts ask for {given} frames; there are {spool.n}.")
        order = np.arange(spool.n) if seed is None else generator(seed).permutation(spool.n)
        parts, first = [], 0
        for path, size in zip(paths, sizes, strict=True):
            count = spool.n - given if size < 0 else size
            parts.append((path, np.sort(order[first : first + count])))
            first += count
        return parts

    return rearrange(sources, paths, choose, read, units, write, callback)


def dedup(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Keep the first of frames with the same geometry, up to rigid motions; see `convert`.

    Permutations that a dataset records count as the same, too.
    """
    path = os.fspath(target)

    def choose(spool: Spool, perms: IntArray | None) -> list[tuple[str, IntArray]]:
        return [(path, _first_of_duplicates(spool, perms))]

    return rearrange(sources, [path], choose, read, units, write, callback)


def _first_of_duplicates(spool: Spool, perms: IntArray | None) -> IntArray:
    """Return the frames of a spool that repeat none before them."""
    # Sums of descriptors are equal for duplicates: only frames whose sums agree are compared.
    step = chunk_frames(spool.n_atoms)
    total = np.empty(spool.n)
    for first in range(0, spool.n, step):
        total[first : first + step] = _descriptors(spool, slice(first, first + step)).sum(axis=1)
    order = np.argsort(total, kind="stable")
    near = np.diff(total[order]) <= _SAME_GEOMETRY * np.abs(total[order][1:])
    images = [] if perms is None else [pair_permutation(p) for p in np.atleast_2d(perms)]
    keep = np.ones(spool.n, dtype=bool)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], near, [False])).astype(np.int8)))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        group = np.sort(order[first : last + 1])
        kept = np.empty((0, n_pairs(spool.n_atoms)))
        for start in range(0, len(group), step):
            part = group[start : start + step]
            for frame, x in zip(part, _descriptors(spool, part), strict=True):
                tolerance = _SAME_GEOMETRY * np.abs(x).max()
                if any((np.abs(kept - x[image]).max(axis=1, initial=0) <= tolerance).any() for image in [..., *images]):
                    keep[frame] = False
                else:
                    kept = np.vstack((kept, x))
    return np.flatnonzero(keep)


def _descriptors(spool: Spool, which: slice | IntArray) -> npt.NDArray[np.float64]:
    frames = spool.read(which)
    return from_R(frames.R, None if frames.lattice is None else Cell(frames.lattice), 1)[0]
