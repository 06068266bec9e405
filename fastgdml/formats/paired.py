"""Positions and forces in two XYZ files and energies in a table, as i-PI and CP2K write them.

Frames that belong together are found by the number of their MD step, since the files may be written at different
intervals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..errors import DataError, FileFormatError, UsageError
from .frames import Frame, Frames, FrameSource, ReadOptions, place
from .xyz import XYZSource, close_text, ipi_unit, open_text

Stepped = Iterator[tuple[int | None, Any]]


class PairedSource(FrameSource):
    """Reader of positions in XYZ with their forces, and energies, in other files."""

    def __init__(self, path: str, options: ReadOptions) -> None:
        super().__init__(path)
        own = replace(options, use_F=False, use_E=options.use_E and options.energies_file is None)
        if options.energies_file is not None:
            own = replace(own, energy=None)
        self._positions = XYZSource(path, own)
        self._forces: XYZSource | None = None
        self._energies: Energies | None = None
        self._sign = -1.0 if options.gradients else 1.0
        try:
            self.facts = self._positions.facts
            self.facts.gradients = options.gradients
            if options.forces_file is not None:
                bare = ReadOptions(use_E=False, use_F=False, cell=False)
                self._forces = XYZSource(options.forces_file, bare)
                self.facts.forces = options.forces_file
                if "CELL" in self._forces.comment:
                    self.facts.f_unit = ipi_unit(self._forces.comment, "f", "force")
            if options.energies_file is not None and options.use_E:
                self._energies = Energies(options.energies_file, options.energy)
                self.facts.energy = f"{options.energies_file}: {self._energies.name}"
                self.facts.e_unit = self._energies.unit or self.facts.e_unit
        except BaseException:
            self.close()
            raise

    def chunks(self) -> Iterator[Frames]:
        """Yield the frames; see `FrameSource.chunks`."""
        yield from self._gather(self._frames())

    def progress(self) -> tuple[int, int]:
        """Return how many bytes of the positions are read, and how many there are."""
        return self._positions.progress()

    def close(self) -> None:
        """Close the files."""
        for part in (self._positions, self._forces, self._energies):
            if part is not None:
                part.close()

    def _frames(self) -> Iterator[Frame]:
        parts: list[Stepped] = [self._positions.steps()]
        names = [self.path]
        for part in (self._forces, self._energies):
            if part is not None:
                parts.append(part.steps())
                names.append(part.path)
        number = 0
        matcher = Matcher(parts, names)
        for values in matcher.values():
            frame = values[0]
            rest = list(values[1:])
            E, F = frame.E, None
            if self._forces is not None:
                forces = rest.pop(0)
                if len(forces.z) != len(frame.z) or (forces.z != frame.z).any():
                    raise DataError(f"{place(self.path, number)}: its atoms are others than those of {names[1]}.")
                F = forces.R * self._sign
            if self._energies is not None:
                E = rest.pop(0)
            yield frame._replace(E=E, F=F)
            number += 1
        if number == 0:
            raise DataError(f"{' and '.join(names)} have no MD step in common.")
        if matcher.skipped:
            self.facts.left_out.add(f"{matcher.skipped} frames that are not in all of {', '.join(names)}")


class Matcher:
    """Finds values of the same MD step in several files.

    Files without step numbers are taken frame by frame, and must be equally long.

    Attributes
    ----------
    skipped : int
        Frames of the first file that are not in all others.
    """

    def __init__(self, parts: list[Stepped], names: list[str]) -> None:
        self._parts = parts
        self._names = names
        self.skipped = 0

    def values(self) -> Iterator[list[Any]]:
        """Yield the values of steps that all files have."""
        n = 0
        heads = [next(part, None) for part in self._parts]
        numbered = all(head is not None and head[0] is not None for head in heads)
        while None not in heads:
            found = [head for head in heads if head is not None]
            steps = [step for step, _ in found]
            if not numbered or len(set(steps)) == 1:
                yield [value for _, value in found]
                n += 1
                heads = [next(part, None) for part in self._parts]
                continue
            latest = max(step for step in steps if step is not None)
            for i, step in enumerate(steps):
                if step is not None and step < latest:
                    self.skipped += i == 0
                    heads[i] = next(self._parts[i], None)
        if not numbered and any(head is not None for head in heads):
            short = [name for head, name in zip(heads, self._names, strict=True) if head is None]
            raise DataError(
                f"{' and '.join(short)} ends after {n} frames, the files that go with it are longer. Without step "
                "numbers in all of them, nobody knows which frames belong together."
            )
        if heads[0] is not None:
            self.skipped += 1 + sum(1 for _ in self._parts[0])


class Energies:
    """A table of numbers: i-PI's properties, with a head that names the columns, or plain columns.

    Parameters
    ----------
    path : str
        The file.
    column : str, optional
        Name of the column, or its number, counted from 0. By default i-PI's potential, or the only column.
    """

    def __init__(self, path: str, column: str | None) -> None:
        self.path = path
        self._file, _ = open_text(path)
        self.unit: str | None = None
        self._pending: list[list[str]] = []
        self._line = 0
        self._step: int | None = None
        try:
            self._find(column)
        except BaseException:
            self.close()
            raise

    def _find(self, column: str | None) -> None:
        """Read the head, and find the column."""
        columns: dict[str, tuple[int, str]] = {}
        for words, text in self._lines():
            match = re.match(r"#\s*(?:column|cols\.)\s+(\d+)(?:-\d+)?\s+-->\s+([^\s:{(]+)(.*)", text)
            if match:
                columns[match[2]] = (int(match[1]) - 1, text)
            if words:
                self._pending.append(words)
                break
        if not self._pending:
            raise FileFormatError(f"{self.path} holds no numbers.")
        if "step" in columns:
            self._step = columns["step"][0]
        width = len(self._pending[0])
        if column is None and "potential" in columns:
            column = "potential"
        if column is None and width == 1:
            column = "0"
        if column in columns:
            self._column, head = columns[column]
            self.unit = ipi_unit(head, re.escape(column), "energy")
        elif column is not None and column.isdigit() and int(column) < width:
            self._column = int(column)
        else:
            listed = ", ".join(columns) if columns else f"0 to {width - 1}"
            raise UsageError(
                f"Which column of {self.path} has the energies? Say --energy COLUMN, a name or number of: {listed}."
            )
        self.name = f"column {column}"

    def _lines(self) -> Iterator[tuple[list[str], str]]:
        for raw in self._file:
            self._line += 1
            text = raw.decode("utf-8", "replace").strip()
            yield ([] if not text or text.startswith("#") else text.replace(",", " ").split()), text

    def steps(self) -> Stepped:
        """Yield the step, where the table has it, and the energy."""
        for words in self._pending:
            yield self._numbers(words)
        for words, _ in self._lines():
            if words:
                yield self._numbers(words)

    def _numbers(self, words: list[str]) -> tuple[int | None, float]:
        try:
            step = None if self._step is None else int(float(words[self._step]))
            return step, float(words[self._column])
        except (ValueError, IndexError):
            raise DataError(f"{self.path}, line {self._line}: no number in {self.name}.") from None

    def close(self) -> None:
        """Close the file."""
        close_text(self._file)
