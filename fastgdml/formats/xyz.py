"""XYZ files: plain, extended, and as sgdml writes them.

A frame is a line with the number of atoms, a comment line, and a line for each atom. In extended XYZ the comment holds
``key=value`` pairs, of which ``Properties`` describes the columns and ``Lattice`` has the lattice vectors one after the
other. sgdml's older files have a bare energy as comment, and forces in columns 5 to 7.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..elements import SYMBOLS
from ..errors import DataError, FileFormatError, UsageError
from ..units import length_factor
from .frames import Array, Facts, Frame, Frames, FrameSource, IntArray, ReadOptions, place, require_whole_cell
from .names import Labels

_PAIR = re.compile(
    r"""([^\s=,"']+)\s*=\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\{[^}]*\}|\[[^=]*\](?=\s|$)|[^\s,"']+)"""
)
_CP2K = re.compile(r"\s*i\s*=\s*\d+\s*,\s*time\s*=")
_IPI = re.compile(r"CELL[({\[](abcABC|H|GENH)[)}\]]:\s*((?:[-+0-9.eE]+\s+)+)")
_STEP = re.compile(r"Step:\s*(\d+)|^\s*i\s*=\s*(\d+)\s*,")
_NUMBERS = {symbol.encode(): number for number, symbol in enumerate(SYMBOLS) if number}
_MOST_ATOMS = 10_000_000
# Keys of the comment that are no labels.
_META = {"i", "time", "step", "properties", "lattice", "pbc", "e_unit", "r_unit", "name", "theory", "perms"}


class Column(NamedTuple):
    """Some columns of the lines of atoms."""

    name: str
    kind: str
    width: int
    start: int


class RawFrame(NamedTuple):
    """The text of a frame."""

    line: int
    comment: str
    atoms: list[bytes]


class XYZSource(FrameSource):
    """Reader of XYZ files, also compressed with gzip; ``-`` is the standard input."""

    def __init__(self, path: str, options: ReadOptions) -> None:
        super().__init__("standard input" if path == "-" else path)
        self._file, self._size = open_text(path)
        self._labels = Labels(self.path, options, self.facts)
        self._options = options
        self._raw = raw_frames(self._file, self.path)
        self._layouts: dict[bytes | int, list[Column]] = {}
        self._kinds: dict[bytes, IntArray] = {}
        try:
            self._first = next(self._raw, None)
            if self._first is None:
                raise FileFormatError(f"{self.path} holds no frames.")
            self._read_facts(self._first.comment)
            self._frame(self._first, 0)  # labels are known from the first frame
        except BaseException:
            self.close()
            raise

    def chunks(self) -> Iterator[Frames]:
        """Yield the frames; see `FrameSource.chunks`."""
        yield from self._gather(frame for _, frame in self.steps())

    def progress(self) -> tuple[int, int]:
        """Return how many bytes are read, and how many there are."""
        return progress_of(self._file, self._size) if self._size else (self.n_read, 0)

    def close(self) -> None:
        """Close the file."""
        close_text(self._file)

    def _read_facts(self, comment: str) -> None:
        entries = parse_comment(comment)
        facts = self.facts
        facts.e_unit, facts.r_unit = entries.get("e_unit"), entries.get("r_unit")
        facts.name, facts.theory = entries.get("name"), entries.get("theory")
        if _CP2K.match(comment):
            facts.e_unit, facts.r_unit, facts.f_unit = "Hartree", "Ang", "Hartree/Bohr"
        if _IPI.search(comment):
            facts.r_unit = ipi_unit(comment, "positions", "length")
            if self._options.cell is None:
                raise UsageError(
                    f"{self.path} is of i-PI, which writes a cell for molecules, too. Give --cell if the system is "
                    "periodic, or --no_cell for a molecule."
                )
        if "perms" in entries:
            try:
                facts.perms = np.array(json.loads(entries["perms"]), dtype=np.int64)
            except ValueError:
                raise DataError(f"{place(self.path, 0)}: 'perms' in the comment is no list of permutations.") from None

    def steps(self) -> Iterator[tuple[int | None, Frame]]:
        """Yield the number of the MD step, where the comment tells it, and the frame."""
        number = 0
        raw: RawFrame | None = self._first
        while raw is not None:
            match = _STEP.search(raw.comment)
            yield (None if match is None else int(match[1] or match[2])), self._frame(raw, number)
            number += 1
            raw = next(self._raw, None)

    @property
    def comment(self) -> str:
        """The comment of the first frame."""
        return "" if self._first is None else self._first.comment

    def _frame(self, raw: RawFrame, number: int) -> Frame:
        where = place(self.path, number)
        n_atoms = len(raw.atoms)
        entries = parse_comment(raw.comment)
        layout = self._layout(entries, raw, where)
        words = b" ".join(raw.atoms).split()
        width = layout[-1].start + layout[-1].width
        if len(words) != n_atoms * width:
            for i, line in enumerate(raw.atoms):
                if len(line.split()) != width:
                    raise DataError(
                        f"{where}, line {raw.line + 2 + i}: {width} columns expected, {len(line.split())} found."
                    )
        z = self._atomic_numbers(layout, words, width, raw, where)
        per_frame: dict[str, Any] = {k: _value(v) for k, v in entries.items() if k.lower() not in _META}
        per_atom: dict[str, Any] = {}
        R = None
        for column in layout:
            if column.name.lower() in ("pos", "positions") and column.width == 3:
                R = _floats(column, words, width, raw, where)
            elif column.kind == "R" and column.width == 3:
                per_atom[column.name] = _floats(column, words, width, raw, where)
            elif column.name.lower() not in ("species", "z", "element", "symbols"):
                self.facts.left_out.add(column.name)
        if R is None:
            raise DataError(f"{where}: no column 'pos:R:3' in its Properties; there are no positions.")
        if not entries:
            bare = raw.comment.split()
            energy = _number(bare[0]) if len(bare) == 1 else None
            if energy is not None:
                per_frame["energy"] = energy
                if "columns_5-7" in per_atom:
                    per_atom["forces"] = per_atom.pop("columns_5-7")
        E, F = self._labels.of(per_frame, per_atom, n_atoms, number)
        return Frame(z, R, E, F, self._lattice_of(raw.comment, entries, where))

    def _lattice_of(self, comment: str, entries: Mapping[str, str], where: str) -> Array | None:
        if self._options.cell is False:
            if _IPI.search(comment) or "lattice" in map(str.lower, entries):
                self.facts.left_out.add("cell")
            return None
        if _IPI.search(comment):
            return _ipi_lattice(comment, str(self.facts.r_unit), where)
        return _lattice_of(entries, where)

    def _layout(self, entries: Mapping[str, str], raw: RawFrame, where: str) -> list[Column]:
        described = next((value for key, value in entries.items() if key.lower() == "properties"), None)
        key: bytes | int = len(raw.atoms[0].split()) if described is None else described.encode()
        if key not in self._layouts:
            self._layouts[key] = (
                _plain_layout(int(key), where) if isinstance(key, int) else _described(str(described), where)
            )
        return self._layouts[key]

    def _atomic_numbers(
        self, layout: list[Column], words: list[bytes], width: int, raw: RawFrame, where: str
    ) -> IntArray:
        column = next((c for c in layout if c.name.lower() in ("species", "element", "symbols") and c.width == 1), None)
        column = column or next((c for c in layout if c.name == "Z" and c.width == 1), None)
        if column is None:
            raise DataError(f"{where}: no column 'species:S:1' in its Properties; the elements are not told.")
        symbols = words[column.start :: width]
        key = b" ".join(symbols)
        if key not in self._kinds:
            if len(self._kinds) > 100:
                self._kinds.clear()
            self._kinds[key] = np.array(
                [_atomic_number(s, f"{where}, line {raw.line + 2 + i}") for i, s in enumerate(symbols)], dtype=np.int64
            )
        return self._kinds[key]


def open_text(path: str) -> tuple[BinaryIO, int]:
    """Open a file for reading, unpacked if it is compressed with gzip. Return it and its size, 0 if unknown."""
    if path == "-":
        return sys.stdin.buffer, 0
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed by the source)
        size = os.fstat(file.fileno()).st_size
        if file.peek(2)[:2] == b"\x1f\x8b":
            return gzip.GzipFile(fileobj=file), size  # type: ignore[return-value]
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror}.") from None
    return file, size


def close_text(file: BinaryIO) -> None:
    """Close a file of `open_text`, unless it is the standard input."""
    if file is sys.stdin.buffer:
        return
    inner = getattr(file, "fileobj", None)
    file.close()
    if inner is not None:
        inner.close()


def progress_of(file: BinaryIO, size: int) -> tuple[int, int]:
    """Return how many bytes of a file of `open_text` are read, and its size."""
    inner = getattr(file, "fileobj", None) or file
    return min(inner.tell(), size), size


def raw_frames(file: BinaryIO, path: str) -> Iterator[RawFrame]:
    """Yield the text of the frames of an XYZ file.

    Raises
    ------
    DataError
        If a frame is cut off or starts with something other than a number of atoms.
    FileFormatError
        If the file cannot be read on.
    """
    line, number = 0, 0
    try:
        while head := file.readline(1 << 16):
            line += 1
            if not head.strip():
                continue
            try:
                n_atoms = int(head)
            except ValueError:
                n_atoms = 0
            if not 0 < n_atoms <= _MOST_ATOMS:
                shown = head[:40].decode("utf-8", "replace").strip()
                if number == 0:
                    raise FileFormatError(
                        f"{path} is no XYZ file: it starts with '{shown}' instead of a number of atoms. If it is of "
                        "another kind, name it with --format."
                    )
                raise DataError(f"{place(path, number)}, line {line}: '{shown}' where the number of atoms should be.")
            comment = file.readline(1 << 24)
            atoms = list(islice(file, n_atoms))
            if len(atoms) < n_atoms:
                raise DataError(
                    f"{place(path, number)} ends after {len(atoms)} of {n_atoms} atoms, in line "
                    f"{line + 1 + len(atoms)}: the file is cut off. Remove this frame."
                )
            yield RawFrame(line, comment.decode("utf-8", "replace").strip(), atoms)
            line += 1 + n_atoms
            number += 1
    except (EOFError, OSError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{path} cannot be read beyond frame {number}: {error}.") from None


def parse_comment(comment: str) -> dict[str, str]:
    """Return the key=value pairs of a comment line, quotes removed."""
    if "=" not in comment:
        return {}
    return {key: _unquoted(value) for key, value in _PAIR.findall(comment)}


def _unquoted(value: str) -> str:
    if value[0] in "\"'" and value[-1] == value[0] and len(value) > 1:
        return re.sub(r"\\(.)", r"\1", value[1:-1]) if "\\" in value else value[1:-1]
    return value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    try:  # 1.0D+00, as Fortran writes
        return float(re.sub("[dD]", "e", text, count=1)) if re.fullmatch(r"[-+.\d]+[dD][-+]?\d+", text) else None
    except ValueError:
        return None


def _value(text: str) -> Any:
    number = _number(text)
    return text if number is None else number


def _floats(column: Column, words: list[bytes], width: int, raw: RawFrame, where: str) -> Array:
    n_atoms = len(raw.atoms)
    result = np.empty((n_atoms, 3))
    for k in range(3):
        texts = words[column.start + k :: width]
        try:
            result[:, k] = list(map(float, texts))
        except ValueError:
            for i, text in enumerate(texts):
                number = _number(text.decode("utf-8", "replace"))
                if number is None:
                    raise DataError(
                        f"{where}, line {raw.line + 2 + i}: '{text.decode('utf-8', 'replace')}' in '{column.name}' is "
                        "no number."
                    ) from None
                result[i, k] = number
    return result


def _atomic_number(symbol: bytes, where: str) -> int:
    if symbol in _NUMBERS:
        return _NUMBERS[symbol]
    text = symbol.decode("utf-8", "replace")
    if text.isdigit() and 0 < int(text) < len(SYMBOLS):
        return int(text)
    match = re.fullmatch(r"([A-Za-z]{1,2})(?:[\d_].*)?", text)  # labels, as C12, and cl, CL
    if match and (known := _NUMBERS.get(match[1].capitalize().encode())):
        return known
    raise DataError(f"{where}: '{text}' is no element.")


def _described(properties: str, where: str) -> list[Column]:
    parts = properties.split(":")
    columns, start = [], 0
    for i in range(0, len(parts), 3):
        name, kind, width = (*parts[i : i + 3], "", "")[:3]
        if kind not in ("S", "I", "R", "L") or not width.isdigit() or not 0 < int(width) < 1000:
            raise DataError(f"{where}: Properties={properties} is not name:kind:columns, repeated.")
        columns.append(Column(name, kind, int(width), start))
        start += int(width)
    return columns


def _plain_layout(width: int, where: str) -> list[Column]:
    if width < 4:
        raise DataError(f"{where}: a line of an atom has {width} columns; an element and three coordinates are needed.")
    columns = [Column("species", "S", 1, 0), Column("pos", "R", 3, 1)]
    if width >= 7:
        columns.append(Column("columns_5-7", "R", 3, 4))
    if width not in (4, 7):
        start = 4 if width < 7 else 7
        columns.append(Column(f"columns_{start + 1}-{width}", "S", width - start, start))
    return columns


def _lattice_of(entries: Mapping[str, str], where: str) -> Array | None:
    lower = {key.lower(): value for key, value in entries.items() if key.lower() in ("lattice", "pbc")}
    if "lattice" not in lower:
        return None
    numbers = [_number(word) for word in re.sub(r"[\[\],{}]", " ", lower["lattice"]).split()]
    if len(numbers) != 9 or None in numbers:
        raise DataError(f'{where}: Lattice="{lower["lattice"]}" is not nine numbers.')
    pbc = [True] * 3
    if "pbc" in lower:
        flags = re.sub(r"[\[\],{}]", " ", lower["pbc"]).lower().split()
        pbc = [flag in ("t", "true", "1") for flag in flags]
        if len(pbc) != 3:
            raise DataError(f'{where}: pbc="{lower["pbc"]}" is not three of T and F.')
    return require_whole_cell(np.array(numbers, dtype=np.float64).reshape(3, 3).T, pbc, where)


def ipi_unit(comment: str, what: str, kind: str) -> str:
    """Return the unit that a comment or column of i-PI names, as in positions{angstrom}; atomic units by default.

    Parameters
    ----------
    comment : str
        The text.
    what : str
        What is in the unit; another word before braces is taken as well.
    kind : {'length', 'energy', 'force'}
        What to call an atomic unit.
    """
    match = re.search(rf"\b{what}\w*\{{([^}}]*)\}}", comment)
    name = (match[1] if match else "").strip()
    if name in ("", "automatic", "atomic_unit"):
        return {"length": "Bohr", "energy": "Hartree", "force": "Hartree/Bohr"}[kind]
    known = {"electronvolt": "eV", "ev/ang": "eV/Ang", "angstrom": "Ang", "kilocal/mol": "kcal/mol"}
    known |= {"kilocal/mol/ang": "kcal/mol/Ang", "kcal/mol/ang": "kcal/mol/Ang", "kilojoule/mol": "kJ/mol"}
    known |= {"nanometer": "nm", "milliatomic_unit": "mHa", "kiloj/mol": "kJ/mol", "millielectronvolt": "meV"}
    return known.get(name, name)


def _ipi_lattice(comment: str, r_unit: str, where: str) -> Array:
    match = _IPI.search(comment)
    numbers = [] if match is None else [float(word) for word in match[2].split()]
    kind = "" if match is None else match[1]
    if len(numbers) != (6 if kind == "abcABC" else 9):
        raise DataError(f"{where}: the cell in '{comment}' is not complete.")
    # i-PI keeps vectors as columns, too
    lattice = lattice_of_lengths(*numbers) if kind == "abcABC" else np.array(numbers).reshape(3, 3)
    unit = ipi_unit(comment, "cell", "length")
    return lattice if unit == r_unit else lattice * length_factor(unit, r_unit)


def lattice_of_lengths(a: float, b: float, c: float, alpha: float, beta: float, gamma: float) -> Array:
    """Return the lattice with these lengths and angles (degrees): columns, a along x, b in the xy plane."""
    cos_a, cos_b, cos_c = (float(np.cos(np.radians(angle))) if angle != 90 else 0.0 for angle in (alpha, beta, gamma))
    sin_c = float(np.sqrt(1 - cos_c**2))
    cy = (cos_a - cos_b * cos_c) / sin_c
    cz = float(np.sqrt(max(0.0, 1 - cos_b**2 - cy**2)))
    return np.array([[a, b * cos_c, c * cos_b], [0.0, b * sin_c, c * cy], [0.0, 0.0, c * cz]])


# ---- writing ----------------------------------------------------------------------------------------------------


def xyz_frames(frames: Frames, facts: Facts) -> str:
    """Return frames in extended XYZ. The digits are enough to give the same numbers again.

    Units are in every comment; name, theory level and permutations in that of frame 0.
    """
    symbols = [SYMBOLS[int(number)] for number in frames.z]
    columns = "Properties=species:S:1:pos:R:3" + (":forces:R:3" if frames.F is not None else "")
    columns += ":force_std:R:1" if frames.F_std is not None else ""
    tail = "".join(
        f" {key}={_quoted(value)}" for key, value in (("e_unit", facts.e_unit), ("r_unit", facts.r_unit)) if value
    )
    lines: list[str] = []
    for i in range(len(frames)):
        comment = columns
        if frames.lattice is not None:
            comment = f'Lattice="{_row(frames.lattice[i].T)}" {comment} pbc="T T T"'
        if frames.E is not None:
            comment += f" energy={float(frames.E[i])!r}"
        if frames.E_std is not None:
            comment += f" energy_std={float(frames.E_std[i])!r}"
        if frames.virial is not None:
            comment += f' virial="{_row(frames.virial[i])}"'
        comment += tail
        if frames.first + i == 0:
            for key in ("name", "theory"):
                if getattr(facts, key):
                    comment += f" {key}={_quoted(getattr(facts, key))}"
            if facts.perms is not None:
                comment += f" perms={_quoted(json.dumps(facts.perms.tolist()))}"
        lines += (str(len(symbols)), comment)
        table = frames.R[i] if frames.F is None else np.hstack((frames.R[i], frames.F[i]))
        if frames.F_std is not None:
            table = np.column_stack((table, frames.F_std[i]))
        lines += (
            f"{symbol:<2} " + " ".join(map(repr, row)) for symbol, row in zip(symbols, table.tolist(), strict=True)
        )
    return "\n".join(lines) + "\n"


def _row(matrix: Array) -> str:
    return " ".join(map(repr, matrix.ravel().tolist()))


def _quoted(text: str) -> str:
    text = " ".join(text.split())
    if re.fullmatch(r"[A-Za-z0-9_./+-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_xyz_name(path: str) -> bool:
    """Return whether a file name is one of XYZ files."""
    name = Path(path).name.lower().removesuffix(".gz")
    return name.endswith((".xyz", ".extxyz", ".exyz"))
