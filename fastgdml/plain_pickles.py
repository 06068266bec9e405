"""Pickles of plain data, as archives of other programs hold them, read without executing anything, in bounded memory.

A pickle is a program for a stack machine that may call any function. This one knows none: the names that pickles of
NumPy's arrays refer to stand for records of what they are told, and the arrays are made from these, checked. NumPy's
own classes trust the state that they are given: a forged dtype makes NumPy take bytes for pointers.

A few bytes can stand for much: a list that holds the list before it twice, forty times; a place in the memory of the
machine with a number of nine digits; an array made of one string again and again. So steps are counted, and what is
made is bounded by the length of the pickle.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# A dictionary of errors takes some 20 steps, an array of 1000 arrays some 20,000.
_MAX_STEPS = 2_000_000
# Elements without a size, empty texts, take no bytes of the pickle.
_MAX_EMPTY = 100_000


class UnsafePickleError(Exception):
    """A pickle is no plain data; the message says what it is instead."""


def load_plain(data: bytes) -> Any:
    """Return the plain data of a pickle: numbers, texts, lists, tuples, sets, dictionaries, NumPy's arrays and scalars.

    Raises
    ------
    UnsafePickleError
        If it is damaged, refers to anything else, or would grow beyond its own size.
    """
    try:
        return _Machine(data).run()
    except UnsafePickleError:
        raise
    except Exception as error:  # a hostile pickle may raise anything
        raise UnsafePickleError(str(error) or type(error).__name__) from None


@dataclass
class _Name:
    """A global that a pickle refers to."""

    name: str


class _Dtype:
    """Stands for numpy.dtype: a plain number, text or object type and its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[biufcSUO]\d{0,9}|\?", code)):
            raise UnsafePickleError(f"type {code!r}")
        self._code, self._order = code, "="

    def set_state(self, state: Any) -> None:
        _, order, subarray, names, fields = state[:5]
        if (subarray, names, fields) != (None, None, None) or order not in ("<", ">", "=", "|"):
            raise UnsafePickleError("structured type")
        self._order = order

    def make(self) -> np.dtype:
        order: Any = self._order
        return np.dtype(self._code).newbyteorder(order)


class _Array:
    """Stands for numpy.ndarray."""

    state: Any = None

    def set_state(self, state: Any) -> None:
        self.state = state


class _Machine:
    """Runs one pickle."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self._memo: dict[int, Any] = {}
        # What arrays and copies may take, in bytes, and how many things the result may hold.
        self._bytes_left = 8 * len(data) + 2**16
        self._items_left = 4 * len(data) + 1000

    def run(self) -> Any:
        """Return the result."""
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(self._data)):
            if steps > _MAX_STEPS:
                raise UnsafePickleError(f"more than {_MAX_STEPS:,} steps")
            if opcode.name == "STOP":
                return self._plain(self.stack.pop())
            self._step(opcode.name, argument)
        raise UnsafePickleError("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif name in _BUILDERS:
            _BUILDERS[name](self)
        elif name == "GLOBAL":
            self.stack.append(_named(*argument.split(" ", 1)))
        elif name not in ("PROTO", "FRAME"):
            raise UnsafePickleError(f"it has the instruction {name}")

    # ---- instructions -------------------------------------------------------------------------------------------

    def since_mark(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def push(self, item: Any) -> None:
        self.stack.append(item)

    def last(self, n: int) -> list[Any]:
        items = self.stack[len(self.stack) - n :]
        if len(items) != n:
            raise UnsafePickleError("the stack is empty")
        del self.stack[len(self.stack) - n :]
        return items

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise UnsafePickleError("a list is missing")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise UnsafePickleError("a dictionary is missing")
        target.update(_dictionary(items))

    def add_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise UnsafePickleError("a set is missing")
        target.update(_keys(items))

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def push_global(self) -> None:
        self.push(_named(*self.last(2)))

    def build(self) -> None:
        (state,) = self.last(1)
        target = self.stack[-1]
        if not isinstance(target, _Dtype | _Array):
            raise UnsafePickleError(f"it sets the state of a {type(target).__name__}")
        target.set_state(state)

    def reduce(self) -> None:
        function, arguments = self.last(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise UnsafePickleError("it calls what is no function")
        self.push(_CALLS[function.name](self, *arguments))

    # ---- calls --------------------------------------------------------------------------------------------------

    def reconstruct(self, kind: Any, shape: Any, _code: Any) -> _Array:
        if kind != _Name("numpy.ndarray") or shape != (0,):
            raise UnsafePickleError("unusual array")
        return _Array()

    def scalar(self, dtype: Any, data: Any) -> Any:
        return self._array(dtype, data, (1,), "C")[0]

    def frombuffer(self, buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
        if order == "K" and axes is not None:  # neither C nor Fortran order: axes of an array in C order, exchanged
            return self._array(dtype, buffer, shape, "C").transpose(axes)
        return self._array(dtype, buffer, shape, order)

    def encode(self, text: Any, encoding: Any) -> bytes:
        if encoding != "latin1" or not isinstance(text, str):
            raise UnsafePickleError("unusual text encoding")
        self._spend(len(text))
        return text.encode("latin1")

    def no_bytes(self) -> bytes:  # bytes(), as old protocols write bytes of length zero
        return b""

    # ---- arrays -------------------------------------------------------------------------------------------------

    def _spend(self, n_bytes: int) -> None:
        self._bytes_left -= n_bytes
        if self._bytes_left < 0:
            raise UnsafePickleError("it grows beyond its own size")

    def _array(self, dtype: Any, data: Any, shape: Any, order: Any) -> np.ndarray:
        if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
            raise UnsafePickleError("unusual array")
        if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)):
            raise UnsafePickleError(f"shape {shape!r}")
        kind, size = dtype.make(), math.prod(shape)
        if kind.hasobject:
            # Objects are listed in C order, in whichever order the array lies in memory.
            if not isinstance(data, list) or len(data) != size:
                raise UnsafePickleError("array of another size")
            array = np.empty(size, dtype=object)
            for i, item in enumerate(data):
                array[i] = self._plain(item)
            return array.reshape(shape)
        if kind.itemsize == 0:  # empty texts
            if size > _MAX_EMPTY:
                raise UnsafePickleError(f"{size:,} empty texts")
            return np.zeros(shape, dtype=kind)
        if not isinstance(data, str | bytes | bytearray):
            raise UnsafePickleError("array without content")
        if len(data) != size * kind.itemsize:
            raise UnsafePickleError("array of another size")
        self._spend(2 * len(data))
        content = bytearray(data.encode("latin1") if isinstance(data, str) else data)
        array = np.frombuffer(content, dtype=kind)
        if kind.kind == "U" and not are_characters(array):
            raise UnsafePickleError("text beyond Unicode")
        return array.reshape(shape, order="F" if order == "F" else "C")

    def _plain(self, value: Any, depth: int = 0) -> Any:
        """Replace stand-ins by what they stand for."""
        self._items_left -= 1
        if self._items_left < 0 or depth > 200:
            raise UnsafePickleError("it grows beyond its own size")
        if isinstance(value, _Array):
            if value.state is None:
                raise UnsafePickleError("array without content")
            _, shape, dtype, fortran, data = value.state
            array = self._array(dtype, data, shape, "F" if fortran else "C")
            return array.astype(array.dtype.newbyteorder("="), copy=False)  # as NumPy's unpickling does
        if isinstance(value, dict):
            return {key: self._plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._plain(item, depth + 1) for item in value)
        if isinstance(value, int) and abs(value) >= 2**64:
            raise UnsafePickleError("an integer of more than 64 bits")
        if value is None or isinstance(
            value, bool | int | float | str | bytes | set | frozenset | np.generic | np.ndarray
        ):
            return value
        raise UnsafePickleError(value.name if isinstance(value, _Name) else type(value).__name__)


def are_characters(array: np.ndarray) -> bool:
    """Return whether a text array holds characters only; other numbers stop Python when they become a text."""
    if not array.size:
        return True
    codes = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).ravel().view(np.uint32)
    return codes.size == 0 or int(codes.max()) <= 0x10FFFF


def _keys(items: list[Any]) -> list[Any]:
    """Return what may be a key: what is hashed in one step."""
    for item in items:
        if not (item is None or isinstance(item, bool | int | float | str | bytes | np.generic)):
            raise UnsafePickleError(f"a key is a {type(item).__name__}")
    return items


def _dictionary(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(_keys(items[::2]), items[1::2], strict=True))


def _named(module: Any, name: Any) -> _Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise UnsafePickleError("a name is no text")
    full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
    if full not in _CALLS and full != "numpy.ndarray":
        raise UnsafePickleError(f"it refers to {module}.{name}")
    return _Name(full)


# What the names in pickles of arrays stand for.
_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": lambda _, *arguments: _Dtype(*arguments),
    "numpy.core.multiarray._reconstruct": _Machine.reconstruct,
    "numpy.core.multiarray.scalar": _Machine.scalar,
    "numpy.core.numeric._frombuffer": _Machine.frombuffer,
    "_codecs.encode": _Machine.encode,
    "__builtin__.bytes": _Machine.no_bytes,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
_BUILDERS: dict[str, Callable[[_Machine], object]] = {
    "MARK": lambda m: m.marks.append(len(m.stack)),
    "EMPTY_LIST": lambda m: m.push([]),
    "EMPTY_DICT": lambda m: m.push({}),
    "EMPTY_SET": lambda m: m.push(set()),
    "LIST": lambda m: m.push(m.since_mark()),
    "TUPLE": lambda m: m.push(tuple(m.since_mark())),
    "DICT": lambda m: m.push(_dictionary(m.since_mark())),
    "FROZENSET": lambda m: m.push(frozenset(_keys(m.since_mark()))),
    "TUPLE1": lambda m: m.push(tuple(m.last(1))),
    "TUPLE2": lambda m: m.push(tuple(m.last(2))),
    "TUPLE3": lambda m: m.push(tuple(m.last(3))),
    "APPEND": lambda m: m.extend(m.last(1)),
    "APPENDS": lambda m: m.extend(m.since_mark()),
    "SETITEM": lambda m: m.set_items(m.last(2)),
    "SETITEMS": lambda m: m.set_items(m.since_mark()),
    "ADDITEMS": lambda m: m.add_items(m.since_mark()),
    "POP": lambda m: m.last(1),
    "POP_MARK": lambda m: m.since_mark(),
    "DUP": lambda m: m.push(m.stack[-1]),
    "MEMOIZE": _Machine.memoize,
    "STACK_GLOBAL": _Machine.push_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
