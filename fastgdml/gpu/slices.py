"""Products of float64 matrices from exact products of float32 matrices, for cards whose float64 units are few.

Consumer cards do 64 float32 operations in the time of one in float64, but a float32 product rounds, and the sums of a
force field cancel to a part in 1e6 and less. So nothing may be rounded. Each row of A is written in fixed point,

    A_ik = 2^(e_i - B S) q_ik,    |q_ik| <= 2^(B S - 1),    q_ik = sum_s 2^(B (S - 1 - s)) h_s,ik,    |h_s| <= 2^(B - 1)

with e_i from the largest element of the row, and S digits h of B = 8 bits; likewise the rows of B^T. Products of two
digits are at most 2^14: up to 1024 of them add up in float32 without any rounding, in any order. All pairs of digits
with s + t = o are one product, of digits side by side, and the orders o = 0 .. S - 1 are added in 64-bit integers, with
room for the K 2^(B (S + 1) - 2) that they may reach. So the result does not depend on the library, the device, or the
number of geometries. All other factors are powers of two.

What is lost is the fixed point itself, half a unit an element, and the orders o >= S. With K columns

    |(A B^T)_ij - result| <= K (S + 2) / 4 * 2^(e_i + f_j - B S)  (1 + 2^(2 - B))                                    (1)

as half a unit of each factor times the largest of the other gives K / 2, and order o = S has S - 1 pairs of at most
2^(2 B - 2), K (S - 1) / 4; each later order weighs 2^-B times as much. e_i is at most two more than the binary
logarithm of the largest element: with S = 6 the error is below 1.2e-13 K max_k |A_ik| max_k |B_jk|.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

BITS = 8
N_SLICES = 6
# Products of two digits that float32 adds up exactly: 2^24 / 2^(2 BITS - 2).
_EXACT_TERMS = 2 ** (24 - (2 * BITS - 2))
# Columns whose digits, up to N_SLICES of them side by side, stay within that.
_MAX_COLUMNS = _EXACT_TERMS // N_SLICES


class Sliced:
    """The digits of B (m, K) for products A B^T, cut into parts of the columns.

    Attributes
    ----------
    parts : list of (digits, exponents)
        Of each part of k columns: digits (m, S k) in float32, the lowest ones first, and exponents (m,).
    """

    def __init__(self, matrix: Any, xp: ModuleType) -> None:
        self.parts = [_digits(matrix[:, first:stop], xp, False) for first, stop in _parts(matrix.shape[1])]


def multiply(a: Any, b: Sliced, xp: ModuleType) -> Any:
    """Return A B^T, (n, m) in float64, of A (n, K) in float64 and the digits of B (m, K)."""
    total = 0.0
    for (first, stop), (digits_b, f) in zip(_parts(a.shape[1]), b.parts, strict=True):
        digits_a, e = _digits(a[:, first:stop], xp, True)
        k, width = stop - first, digits_b.shape[1]
        exact = xp.zeros((len(a), len(digits_b)), dtype=xp.int64)
        for order in range(N_SLICES):
            used = (order + 1) * k
            # Digit s of A lies above digit order - s of B.
            exact <<= BITS
            exact += (digits_a[:, :used] @ digits_b[:, width - used :].T).astype(xp.int64)
        total = total + xp.ldexp(exact.astype(xp.float64), e[:, None] + f - BITS * (N_SLICES + 1))
    return total


def error_bound(a: Any, b: Any) -> Any:
    """Return the bound of equation (1), (n, m), for NumPy arrays A (n, K) and B (m, K)."""
    bound = np.zeros((len(a), len(b)))
    for first, stop in _parts(a.shape[1]):
        e, f = (_exponents(matrix[:, first:stop], np) for matrix in (a, b))
        unit = np.ldexp(1.0 + 2.0 ** (2 - BITS), e[:, None] + f - BITS * N_SLICES)
        bound += (stop - first) * (N_SLICES + 2) / 4 * unit
    return bound


def _parts(n_columns: int) -> list[tuple[int, int]]:
    """Return ranges of columns of nearly one size, as few as possible."""
    n_parts = -(-n_columns // _MAX_COLUMNS)
    return [(n_columns * k // n_parts, n_columns * (k + 1) // n_parts) for k in range(n_parts)]


def _exponents(matrix: Any, xp: ModuleType) -> Any:
    """Return e (n,) with |elements| <= 2^(e - 1) in each row."""
    return xp.frexp(xp.abs(matrix).max(axis=1))[1].astype(xp.int32) + 1


def _digits(matrix: Any, xp: ModuleType, leading_first: bool) -> tuple[Any, Any]:
    n_rows, n_columns = matrix.shape
    e = _exponents(matrix, xp)
    rest = xp.rint(xp.ldexp(matrix, (BITS * N_SLICES - e)[:, None])).astype(xp.int64)
    digits = xp.empty((n_rows, N_SLICES, n_columns), dtype=xp.float32)
    half = 1 << (BITS - 1)
    for s in reversed(range(N_SLICES)):
        # The lowest digit, between -half and half; what is left is a multiple of 2^BITS.
        digit = ((rest + half) & ((1 << BITS) - 1)) - half if s else rest
        digits[:, s if leading_first else N_SLICES - 1 - s] = digit
        rest = (rest - digit) >> BITS
    return digits.reshape(n_rows, -1), e
