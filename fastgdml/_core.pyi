"""Types of the native core (src/_core.pyx); shapes and meanings are documented there."""

import numpy as np
import numpy.typing as npt

from .group import GroupTables
from .pair_classes import PairClasses

_F8 = npt.NDArray[np.float64]
_I8 = npt.NDArray[np.int64]
_I4 = npt.NDArray[np.int32]

def isa_name() -> str: ...
def openmp_version() -> int: ...

class Cells:
    n_cells: int
    def __init__(self, lattices: _F8, minimum: bool) -> None: ...
    def tables(self) -> tuple[_F8, _F8, _F8]: ...

def descriptors(R: _F8, cells: Cells | None, x: _F8, g: _F8, n_threads: int) -> tuple[int, int] | None: ...
def lay_out_jacobian_dot(g: _F8, vectors: _F8, order: _I8, tiles: _F8, n_threads: int) -> None: ...
def low_rank_project(u: npt.NDArray[np.float32], b: _F8, n_threads: int) -> _F8: ...
def low_rank_subtract(u: npt.NDArray[np.float32], t: _F8, b: _F8, n_threads: int) -> None: ...
def match_all_pairs(
    vectors: _F8,
    distances: _F8,
    penalty: _F8,
    pairs: _I8,
    perms: _I4,
    before: _F8,
    after: _F8,
    n_threads: int,
) -> None: ...
def spanning_tree(n: int, edges: _I8, order: _I8) -> _I8: ...

class KernelAssembly:
    lanes: int
    def __init__(
        self,
        x: _F8,
        g: _F8,
        tables: GroupTables,
        sig: float,
        row_begin: _I8,
        row_coord: _I4,
        col_point: _I8,
        col_begin: _I8,
        col_coord: _I4,
        data: _F8,
        scale: float,
        packed: bool,
    ) -> None: ...
    def fill(self, items: _I8, n_threads: int) -> None: ...

class Predictor:
    def __init__(
        self,
        n_atoms: int,
        classes: PairClasses,
        train: _F8,
        energy: _F8 | None,
        sig: float,
        std: float,
        c: float,
    ) -> None: ...
    def predict(self, R: _F8, cells: Cells | None, E: _F8, F: _F8, n_threads: int) -> int: ...
    def predict_descriptors(self, x: _F8, g: _F8, E: _F8, F: _F8, n_threads: int) -> None: ...
