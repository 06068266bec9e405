"""Types of the native core (src/_core.pyx); shapes and meanings are documented there."""

from typing import Any

import numpy as np
import numpy.typing as npt

from .group import GroupTables

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
def low_rank_project(u: npt.NDArray[np.float32], b: _F8, n_threads: int) -> _F8: ...
def low_rank_subtract(u: npt.NDArray[np.float32], t: _F8, b: _F8, n_threads: int) -> None: ...
def low_rank_project_shorts(u: npt.NDArray[np.int16], factor: _F8, b: _F8, n_threads: int) -> _F8: ...
def low_rank_subtract_shorts(u: npt.NDArray[np.int16], factor: _F8, t: _F8, b: _F8, n_threads: int) -> None: ...
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

def trace_derivatives(
    x: _F8, g: _F8, tables: GroupTables, sig: float, row_begin: _I8, row_coord: _I4, a: _F8, n_threads: int
) -> _F8: ...
def tile_size(n_train: int, n_rows: int) -> int: ...
def pair_classes(images: _I4, max_images: int = ...) -> dict[str, _I4]: ...
def energy_factor(unit: str, to: str) -> float: ...
def length_factor(unit: str, to: str) -> float: ...

class Model:
    address: int
    n_pair_images: int
    def properties(self) -> dict[str, Any]: ...
    def check_lattice(self, lattice: _F8) -> None: ...
    def arrays(self) -> tuple[_I4, _F8, _F8, _F8 | None]: ...
    def samples(self) -> tuple[_F8, _F8 | None, _F8]: ...
    def image(self) -> bytes: ...
    def set_jacobian_dot(self, g: _F8, vectors: _F8, energies: _F8 | None, n_threads: int) -> None: ...
    def predict(
        self, R: _F8, cells: Cells | None, energies: bool, forces: bool, virials: bool, n_threads: int
    ) -> tuple[Any, Any, Any, int]: ...
    def predict_std(self, R: _F8, cells: Cells | None, n_threads: int) -> tuple[_F8, _F8, _F8, _F8, _F8, int]: ...
    def hessian(self, R: _F8, cells: Cells | None, n_threads: int) -> tuple[_F8, _F8, _F8, int]: ...
    def predict_descriptors(self, x: _F8, g: _F8, E: _F8, F: _F8, n_threads: int) -> None: ...

def model_from_arrays(
    z: _I4,
    pair_images: _I4,
    x: _F8,
    v: _F8 | None,
    energies: _F8 | None,
    has_energies: bool,
    sig: float,
    std: float,
    c: float,
    *,
    periodic: bool = ...,
    minimum_image: bool = ...,
    lattice: _F8 | None = ...,
    energy_unit: bytes = ...,
    length_unit: bytes = ...,
    name: bytes = ...,
    theory: bytes = ...,
    weights: _F8 | None = ...,
    std_v: _F8 | None = ...,
    std_energies: _F8 | None = ...,
    std_c: _F8 | None = ...,
    std_scale: float = ...,
) -> Model: ...
def model_from_file(path: bytes) -> Model: ...
