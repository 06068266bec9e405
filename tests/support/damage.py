"""Kinds of damage to one entry of a dataset, task or model."""

import numpy as np


def _one(value, array):
    """The array with one element replaced; floats, if the value is none of its type."""
    changed = np.array(array, dtype=np.float64 if array.dtype.kind in "iufb" else array.dtype)
    if changed.size and changed.dtype.kind == "f":
        changed.flat[-1] = value
        return changed
    return np.array(value)


def _object(content):
    array = np.empty((), dtype=object)
    array[()] = content
    return array


# From an array to what stands in its place; None: the entry is missing.
DAMAGE = {
    "missing": lambda a: None,
    "text": lambda a: np.array("abc"),
    "texts": lambda a: np.full(a.shape, "x\x1b[31m\u202e"),
    "bytes": lambda a: np.array(b"\xff\xfe"),
    "surrogate": lambda a: np.array("\ud800"),
    "empty text": lambda a: np.array(""),
    "complex": lambda a: np.zeros(a.shape, dtype=complex),
    "date": lambda a: np.zeros(a.shape, dtype="M8[s]"),
    "structure": lambda a: np.zeros(a.shape, dtype=[("a", "f8"), ("b", "i4")]),
    "flags": lambda a: np.ones(a.shape, dtype=bool),
    "None": lambda a: _object(None),
    "dictionary": lambda a: _object({"mae": [1, {2: 3}]}),
    "objects": lambda a: np.array([1, "a", None, {}], dtype=object),
    "ragged": lambda a: np.array([[1], [1, 2]], dtype=object),
    "scalar": lambda a: np.array(1.0),
    "no axis": lambda a: a.ravel()[0] if a.size else np.array(0),
    "one more axis": lambda a: a[None],
    "one more axis behind": lambda a: a[..., None],
    "shorter": lambda a: a[:-1] if a.ndim else a,
    "longer": lambda a: np.concatenate([a, a[-1:]]) if a.ndim and a.size else np.zeros(2),
    "turned": lambda a: a.T if a.ndim > 1 else a,
    "flat": lambda a: a.ravel(),
    "empty": lambda a: np.empty(0),
    "empty and wide": lambda a: np.empty((0, 2**40)),
    "wide and empty": lambda a: np.empty((2**40, 0)),
    "zeros": lambda a: np.zeros(a.shape),
    "NaN": lambda a: _one(np.nan, a),
    "all NaN": lambda a: np.full(a.shape, np.nan),
    "inf": lambda a: _one(np.inf, a),
    "-inf": lambda a: np.full(a.shape, -np.inf),
    "negative": lambda a: _one(-1, a),
    "all negative": lambda a: np.full(a.shape, -3),
    "half": lambda a: _one(0.5, a),
    "huge": lambda a: _one(1e300, a),
    "all huge": lambda a: np.full(a.shape, 1e308),
    "tiny": lambda a: np.full(a.shape, 1e-308),
    "huge integer": lambda a: np.full(a.shape, 2**62),
    "unsigned": lambda a: np.full(a.shape, 2**64 - 1, dtype=np.uint64),
    "shifted": lambda a: a + 2**32 if a.dtype.kind in "iu" else a,
    "single": lambda a: a.astype(np.float16) if a.dtype.kind == "f" else a,
    "long": lambda a: a.astype(np.longdouble) if a.dtype.kind == "f" else a,
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


def damaged(entries, key, kind):
    """The entries with one of them damaged."""
    with np.errstate(all="ignore"):
        value = DAMAGE[kind](np.asarray(entries[key]))
    others = {k: v for k, v in entries.items() if k != key}
    return others if value is None else {**others, key: value}
