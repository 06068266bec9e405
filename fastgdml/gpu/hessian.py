"""Hessians on one device, by products of matrices; the twin of src/hessian.c."""

from __future__ import annotations

from typing import Any

import numpy as np

from .model import DeviceModel

_TINY = 1e-300


class Hessians:
    """Energies, forces and second derivatives, one geometry after the other.

    In the notation of src/hessian.c, with dense Jacobians: for each permutation, equation (14) is a product of the
    training data (2 M, D) with the permuted Jacobian (D, 3 N), and the sum over training points of (13) another one.

    Parameters
    ----------
    model : DeviceModel
        On the device that is to compute, which must be the current one in all calls.
    """

    def __init__(self, model: DeviceModel) -> None:
        self._model = model
        xp, n_atoms, n_desc = model.xp, model.n_atoms, model.n_desc
        a, b = np.tril_indices(n_atoms, -1)
        ends = np.zeros((n_desc, n_atoms))
        ends[np.arange(n_desc), b] = 1.0
        ends[np.arange(n_desc), a] = -1.0
        self._ends = xp.asarray(ends)

    def evaluate(self, x: Any, g: Any) -> tuple[Any, Any, Any]:
        """Return E (), F (3 N,) and H (3 N, 3 N) of one geometry from its descriptor (D,) and Jacobian (D, 3)."""
        m, xp, ends = self._model, self._model.xp, self._ends
        X, V = m.xv[: m.n_train], m.xv[m.n_train :]
        jacobian = (ends[:, :, None] * g[:, None, :]).reshape(m.n_desc, -1)
        y = (m.q * x)[m.images] - m.center
        energy, total = xp.zeros(()), xp.zeros(())
        gradient = xp.zeros(m.n_desc)  # dE/dx / A sqrt(5) s
        first = xp.zeros((3 * m.n_atoms, 3 * m.n_atoms))
        for p in range(m.n_perms):
            # |y - x|^2 from the differences: what cancels in the products would matter near training points.
            d = y[p] - X
            squared = (d * d).sum(axis=1)
            t = (d * V).sum(axis=1)
            rho = xp.sqrt(squared)
            k = xp.exp(-rho)
            w1, w2 = k * (t + (1.0 + rho) * m.energies), k * (1.0 + rho)
            energy += (w2 * t + (3.0 * w2 + k * squared) * m.energies).sum()
            total += w1.sum()
            gradient += (w2 @ V - w1 @ d)[m.back[p]]
            moved = jacobian[m.images[p]]
            a = d @ moved
            b = (0.5 * (t / xp.maximum(rho, _TINY) + m.energies))[:, None] * a - V @ moved
            first += a.T @ (k[:, None] * b)
        front = 5.0 / (3.0 * m.sig**2)
        slope = front * gradient
        A = front * m.q
        F = -(m.std * slope) @ jacobian
        H = A * (first + first.T) + self._pair_blocks(x, g, slope, A * total)
        return m.std * (front / m.q) * energy + m.c, F, m.std * H

    def _pair_blocks(self, x: Any, g: Any, slope: Any, weight: Any) -> Any:
        """Return the matrix (3 N, 3 N) of the blocks of equation (15)."""
        m, xp = self._model, self._model.xp
        inverse = xp.where(x > 0.0, 1.0 / xp.maximum(x, _TINY), 0.0)
        blocks = (3.0 * slope * inverse - weight)[:, None, None] * g[:, :, None] * g[:, None, :]
        diagonal = slope * (g * g).sum(axis=1) * inverse
        blocks -= diagonal[:, None, None] * xp.eye(3)
        # (1, -1) (1, -1)^T for the two atoms of a pair, times its block
        rows = self._ends[:, :, None, None] * blocks[:, None]
        matrix = xp.tensordot(rows, self._ends, axes=(0, 0))  # (N, 3, 3, N)
        H = matrix.transpose(0, 1, 3, 2).reshape(3 * m.n_atoms, 3 * m.n_atoms)
        return 0.5 * (H + H.T)
