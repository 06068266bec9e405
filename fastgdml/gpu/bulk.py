"""Many geometries on one device, by products of large matrices."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from .arrays import free_memory, synchronize
from .kernel import load_cuda
from .model import DeviceModel
from .slices import multiply

# Part of the free device memory that batches of predictions may take: CuPy's pool and cuBLAS need some, too.
_MEMORY_FRACTION = 0.6
# Largest number of elements of one temporary of a batch: more does not run faster, and smaller batches leave more to
# overlap. The products still have a thousand blocks of output.
_MAX_ELEMENTS = 2**26
# As __launch_bounds__ in weights.cu.
_WEIGHTS_THREADS = 128


class Bulk:
    """Predict from descriptors by matrix products.

    With q = sqrt(5) / sigma, Y = q times the permuted query descriptors (n_geo P, D), X = q times the training
    descriptors (M, D), both centred, V = J alpha (M, D) and e = alphas_E / q, equations (5) and (9) of
    src/prediction.c read

        rho^2 = |y|^2 + |x|^2 - 2 Y X^T,    T = Y V^T - x.v,    A = 5 exp(-rho) / (3 sigma^2)
        E = sum A [(1 + rho) T + (3 + 3 rho + rho^2) e] / q
        -dE/dY = sum A (T + (1 + rho) e) (Y - X) - A (1 + rho) V

    With precision 'mixed' the products of matrices are those of `slices`; all else is in double precision.

    Parameters
    ----------
    model : DeviceModel
        On the device that is to predict, which must be the current one in all calls.
    """

    def __init__(self, model: DeviceModel) -> None:
        self._model = model
        xp = model.xp
        # The way back through the permutations, as one index into (P D,).
        self._back = model.back + model.n_desc * xp.arange(model.n_perms)[:, None]
        # Columns +1 and -1 at the two atoms of each pair: J^T as a matrix product.
        a, b = np.tril_indices(model.n_atoms, -1)
        ends = np.zeros((model.n_desc, model.n_atoms))
        ends[np.arange(model.n_desc), b] = 1.0
        ends[np.arange(model.n_desc), a] = -1.0
        self._ends = xp.asarray(ends)
        self._weights = _weights_function(xp)
        # Other streams read these.
        synchronize(xp)

    @property
    def bytes_per_geometry(self) -> int:
        """Memory that a batch takes for each geometry."""
        m = self._model
        # The products of digits have an integer, a float32, and what they are converted to beside each result.
        products = 12 if m.precision == "mixed" else 2
        return 8 * (products * m.n_perms * m.n_train + 3 * products * m.n_perms * m.n_desc + 16 * m.n_desc)

    def batch_size(self, n_geo: int, n_at_once: int = 1) -> int:
        """Return how many of `n_geo` geometries to predict at once, if `n_at_once` batches share the free memory."""
        m = self._model
        fits = int(_MEMORY_FRACTION * free_memory(m.xp)) // (n_at_once * self.bytes_per_geometry)
        widest = m.n_perms * max(2 * m.n_train, 3 * m.n_desc)
        return max(1, min(n_geo, fits, _MAX_ELEMENTS // widest))

    def predict(self, x: Any, g: Any, virials: bool) -> tuple[Any, Any, Any]:
        """Return energies (n_geo,), forces (n_geo, 3 N) and virials (n_geo, 3, 3), or None, from x and J."""
        m, xp, n_geo = self._model, self._model.xp, len(x)
        y = (m.q * x)[:, m.images].reshape(-1, m.n_desc)
        # After the permutation, so that sets of permutations that are no group are right, too.
        y -= m.center
        mixed = m.precision == "mixed"
        st = multiply(y, m.row_slices, xp) if mixed else y @ m.xv.T
        yy = (y * y).sum(axis=1)
        w1_sum, e = self._weights(st, yy, m.x_dot_x, m.x_dot_v, m.energies, 5.0 / (3.0 * m.sig**2))
        E = (m.std / m.q) * e.reshape(n_geo, -1).sum(axis=1) + m.c
        y *= w1_sum[:, None]
        if mixed:
            for part, slices in enumerate(m.column_slices):
                y -= multiply(st[:, part * m.n_train : (part + 1) * m.n_train], slices, xp)
        else:
            y -= st @ m.xv
        # Back through the permutations, summed over them.
        minus_dE_dx = y.reshape(n_geo, -1)[:, self._back].sum(axis=1)
        f = g * (m.std * minus_dE_dx)[:, :, None]
        F = xp.tensordot(f, self._ends, axes=(1, 0)).transpose(0, 2, 1).reshape(n_geo, -1)
        return E, F, -xp.matmul(f.transpose(0, 2, 1), self._differences(x, g)) if virials else None

    def _differences(self, x: Any, g: Any) -> Any:
        """Return the differences of positions (n_geo, D, 3), g w^2 / x^3."""
        cubed = x * x * x
        return g / (cubed if self._model.weights is None else cubed / self._model.weights**2)[:, :, None]


def _weights_function(xp: ModuleType) -> Callable[..., tuple[Any, Any]]:
    """Return the function (st, yy, xx, xv, energies, factor) -> (w1_sum, e_sum) that cuda/weights.cu describes."""
    if xp is np:
        return _weights_numpy
    kernel = load_cuda("weights", xp)

    def weights(st: Any, yy: Any, xx: Any, xv: Any, energies: Any, factor: float) -> tuple[Any, Any]:
        w1_sum, e_sum = xp.empty(len(st)), xp.empty(len(st))
        arguments = (st, yy, xx, xv, energies, w1_sum, e_sum, np.int32(len(xx)), np.float64(factor))
        kernel((len(st),), (_WEIGHTS_THREADS,), arguments)
        return w1_sum, e_sum

    return weights


def _weights_numpy(st: Any, yy: Any, xx: Any, xv: Any, energies: Any, factor: float) -> tuple[Any, Any]:
    s, t = st[:, : len(xx)], st[:, len(xx) :]
    squared = np.maximum(yy[:, None] + xx - 2.0 * s, 0.0)
    rho = np.sqrt(squared)
    projection = t - xv
    a = factor * np.exp(-rho)
    t[:] = a * (1.0 + rho)
    s[:] = a * projection + t * energies
    return s.sum(axis=1), (t * projection + (3.0 * t + a * squared) * energies).sum(axis=1)
