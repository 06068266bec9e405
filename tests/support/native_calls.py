"""A valid call of every function of the extension modules, and ways to spoil an argument.

As a program it calls every function with each argument spoiled in turn, and says on standard output what it is about to
do, so that whoever started it knows which call ended the process.
"""

import numpy as np

from fastgdml import _core, _packed
from fastgdml.descriptor import from_R
from fastgdml.group import GroupTables

N, M, D, P = 4, 3, 6, 2
PERMS = np.array([[0, 1, 2, 3], [1, 0, 2, 3]])


def geometries(n_geo=M):
    R = 1.5 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    return R + 0.1 * np.random.default_rng(0).normal(size=(n_geo, N, 3))


def model(energies=True):
    x, _ = from_R(geometries())
    pair = GroupTables.from_perms(PERMS).pair
    samples = {"std_v": random(2, *x.shape), "std_energies": random(2, M) if energies else None, "std_c": np.ones(2)}
    parts = (np.ones(N, np.int32), pair, x, x.copy(), np.ones(M), energies, 2.0, 1.0, 0.0)
    return _core.model_from_arrays(*parts, **samples)


def assembly(packed=False):
    x, g = from_R(geometries())
    begin, coord = 3 * N * np.arange(M + 1), np.tile(np.arange(3 * N, dtype=np.int32), M)
    n = 3 * N * M
    data = np.zeros(n * (n + 1) // 2 if packed else n * n)
    tables = GroupTables.from_perms(PERMS)
    return [x, g, tables, 2.0, begin, coord, np.arange(M), begin.copy(), coord.copy(), data, 1.0, packed]


def positive(n):
    A = np.random.default_rng(1).normal(size=(n, n))
    return np.asfortranarray(A @ A.T + n * np.eye(n))


def packed(n=5):
    A, a = positive(n), np.zeros(n * (n + 1) // 2)
    _packed.add_blocks(a, n, np.array([0, n]), np.ascontiguousarray(A[None]))
    return a


def factor(n=5):
    a = packed(n)
    assert _packed.cholesky(a, n, 1) == 0
    return a


def cells():
    return _core.Cells(6.0 * np.eye(3)[None], True)


def random(*shape):
    return np.random.default_rng(2).random(shape)


def molecules():
    """Geometries, descriptors and Jacobians."""
    return geometries(), *from_R(geometries())


PAIRS = np.array([[0, 1], [0, 2], [1, 2]])
PAIR_IMAGES = GroupTables.from_perms(PERMS).pair

# Every function by name: what returns it and valid arguments, made anew.
CALLS = {
    "isa_name": lambda: (_core.isa_name, []),
    "openmp_version": lambda: (_core.openmp_version, []),
    "Scratch": lambda: (_core.Scratch, [2, 100]),
    "Cells": lambda: (_core.Cells, [np.stack([np.eye(3), 2 * np.eye(3)]), True]),
    "Cells.tables": lambda: (cells().tables, []),
    "descriptors": lambda: (_core.descriptors, [geometries(), cells(), *molecules()[1:], 2]),
    "KernelAssembly": lambda: (_core.KernelAssembly, assembly()),
    "KernelAssembly of a packed matrix": lambda: (_core.KernelAssembly, assembly(packed=True)),
    "KernelAssembly.fill": lambda: (_core.KernelAssembly(*assembly()).fill, [np.array([[0, 0, 3], [2, 1, 2]]), 2]),
    "trace_derivatives": lambda: (_core.trace_derivatives, [*assembly()[:6], positive(3 * N * M), 2]),
    "tile_size": lambda: (_core.tile_size, [100, 10]),
    "pair_classes": lambda: (_core.pair_classes, [PAIR_IMAGES.copy(), 100]),
    "Model": lambda: (_core.Model, []),
    "Model.properties": lambda: (model().properties, []),
    "Model.check_lattice": lambda: (model().check_lattice, [np.eye(3)]),
    "Model.arrays": lambda: (model().arrays, []),
    "Model.image": lambda: (model().image, []),
    "Model.set_jacobian_dot": lambda: (
        model().set_jacobian_dot,
        [molecules()[2], random(M, 3 * N), np.ones(M), 2],
    ),
    "Model.predict": lambda: (model().predict, [geometries().reshape(M, -1), cells(), True, True, True, 2]),
    "Model.predict_std": lambda: (model().predict_std, [geometries().reshape(M, -1), cells(), 2]),
    "Model.samples": lambda: (model().samples, []),
    "Model.hessian": lambda: (model().hessian, [geometries().reshape(M, -1), cells(), 2]),
    "Model.predict_descriptors": lambda: (
        model().predict_descriptors,
        [*molecules()[1:], np.zeros(M), np.zeros((M, 3 * N)), 2],
    ),
    "model_from_arrays": lambda: (
        _core.model_from_arrays,
        [np.ones(N, np.int32), PAIR_IMAGES.copy(), molecules()[1], random(M, D), np.ones(M), True, 2.0, 1.0, 0.0],
    ),
    "model_from_file": lambda: (_core.model_from_file, [b"no such file"]),
    "energy_factor": lambda: (_core.energy_factor, ["eV", "kcal/mol"]),
    "length_factor": lambda: (_core.length_factor, ["Ang", "Bohr"]),
    "low_rank_project": lambda: (_core.low_rank_project, [random(50, 16).astype(np.float32), random(50), 2]),
    "low_rank_subtract": lambda: (
        _core.low_rank_subtract,
        [random(50, 16).astype(np.float32), random(16), random(50), 2],
    ),
    "low_rank_project_shorts": lambda: (
        _core.low_rank_project_shorts,
        [np.ones((50, 16), np.int16), random(50), random(50), 2],
    ),
    "low_rank_subtract_shorts": lambda: (
        _core.low_rank_subtract_shorts,
        [np.ones((50, 16), np.int16), random(50), random(16), random(50), 2],
    ),
    "match_all_pairs": lambda: (
        _core.match_all_pairs,
        [
            random(M, N, N),
            random(M, N, N),
            np.eye(N),
            PAIRS.copy(),
            np.zeros((3, N), np.int32),
            np.zeros(3),
            np.zeros(3),
            2,
        ],
    ),
    "spanning_tree": lambda: (_core.spanning_tree, [M, PAIRS.copy(), np.array([2, 0, 1])]),
    "add_blocks": lambda: (_packed.add_blocks, [packed(), 5, np.array([0, 2, 5]), np.ones((2, 3, 3))]),
    "cholesky": lambda: (_packed.cholesky, [packed(), 5, 2, 2]),
    "solve": lambda: (_packed.solve, [factor(), 5, np.ones(10), 2]),
    "invert_factor": lambda: (_packed.invert_factor, [factor(), 5, 2, 2]),
    "factor_columns": lambda: (_packed.factor_columns, [factor(), 5, 1, 4, np.zeros((5, 3))]),
    "cholesky_dense": lambda: (_packed.cholesky_dense, [positive(5), 2, 2]),
    "solve_cholesky": lambda: (_packed.solve_cholesky, [positive(5), np.ones(5), 2]),
    "set_residual": lambda: (
        _packed.set_residual,
        [packed().astype(np.float32), 5, 1, positive(4)[:, :2], np.asfortranarray(np.ones((5, 3))), 1e-6, 2],
    ),
    "isolate": lambda: (_packed.isolate, [packed().astype(np.float32), 5, np.array([0, 3])]),
    "cholesky_single": lambda: (_packed.cholesky_single, [packed().astype(np.float32), 5, 2, 2]),
    "solve_single": lambda: (_packed.solve_single, [factor().astype(np.float32), np.ones(5, np.float32), 2]),
    "solve_triangular_right": lambda: (
        _packed.solve_triangular_right,
        [positive(5), np.asfortranarray(np.ones((3, 5))), 2, 2],
    ),
    "add_gram": lambda: (_packed.add_gram, [np.ones((3, 5)), positive(5), 2]),
    "inverse_roots": lambda: (_packed.inverse_roots, [np.ones((2, 3, 3)), 1e-10, 1e-2, 2]),
    "multiply_triangles": lambda: (_packed.multiply_triangles, [np.ones((2, 3, 3)), np.ones(6), True, 2]),
    "explained_blocks": lambda: (_packed.explained_blocks, [np.asfortranarray(np.ones((6, 5))), 3, 2]),
    "split_low_rank": lambda: (
        _packed.split_low_rank,
        [
            np.asfortranarray(np.ones((6, 5))),
            np.ones((2, 3, 3)),
            np.arange(5),
            np.zeros((6, 8), np.float32),
            np.zeros((6, 8), np.int16),
            np.ones(6),
            np.zeros((6, 2)),
            np.zeros((6, 3), np.float32),
            2,
        ],
    ),
    "add_split_gram": lambda: (
        _packed.add_split_gram,
        [np.ones((3, 2)), np.ones((3, 3), np.float32), positive(5), np.zeros((3, 3), np.float32, order="F"), 2],
    ),
}


def other_arrays(a):
    """Arrays that are not what an array is: in shape, type, order or content."""
    yield from (a[:0], a[1:], a[..., :0], a[..., :-1], np.concatenate([a, a]), np.concatenate([a, a], axis=-1))
    yield from (a.ravel(), a[None], a[()].sum(), a.reshape(-1)[:1].copy(), np.zeros((0,) * a.ndim, a.dtype))
    yield from (a.astype(complex), a.astype(np.float16), a.astype(np.int16), a.astype(object), a.astype("S"))
    yield from (a[..., ::-1], np.asfortranarray(a), np.ascontiguousarray(a), np.repeat(a, 2, axis=-1)[..., ::2])
    yield from (a.astype(a.dtype.newbyteorder()), np.ones(a.shape, a.dtype), memoryview(a.tobytes()))
    for value in (-1, -(2**31), 0, 5, 10**6, 2**31 - 1):
        if a.dtype.kind == "i" and not np.iinfo(a.dtype).min <= value <= np.iinfo(a.dtype).max:
            continue
        b = a.copy(order="K")
        b.reshape(-1, order="A")[-1] = value
        yield b
        yield np.full_like(a, value)
    if a.dtype.kind == "f":
        for value in (np.nan, np.inf, 1e308, -1e-320):
            yield np.full_like(a, value)
    read_only = a.copy(order="K")
    read_only.flags.writeable = False
    yield read_only


def other_tables(tables):
    """Index tables of another group, and of none: each table spoiled."""
    yield GroupTables.from_perms([[0, 1, 2], [1, 0, 2]])
    for name in GroupTables.__dataclass_fields__:
        for value in (*other_arrays(getattr(tables, name)), None):
            fields = {each: getattr(tables, each) for each in GroupTables.__dataclass_fields__}
            yield type("Tables", (), {**fields, name: value})


def others(argument):
    """What may stand in the place of an argument."""
    if isinstance(argument, np.ndarray):
        yield from other_arrays(argument)
    elif isinstance(argument, GroupTables):
        yield from other_tables(argument)
    elif isinstance(argument, _core.Cells):
        yield from (_core.Cells(np.zeros((0, 3, 3)), True), _core.Cells(np.stack([np.eye(3)] * 7), True))
    elif isinstance(argument, str):
        yield from ("", "no unit", "a\0b", "\udc80", "x" * 10_000)
    elif isinstance(argument, bytes):
        yield from (b"", b"a\0b", b"/", b"x" * 10_000)
    else:
        yield from (-1, 0, 1, 7, -(2**31), 2**31 - 1, 2**70, float("nan"), float("inf"))
    yield from (None, "text", [], object())


def spoiled(name):
    """Call a function with each argument spoiled in turn; return how many calls were refused and how many were not."""
    refused = taken = 0
    for at in range(len(CALLS[name]()[1])):
        argument = CALLS[name]()[1][at]
        if isinstance(argument, GroupTables) and name != "KernelAssembly":
            continue  # they all take them through one function
        for number, other in enumerate(others(argument)):
            function, arguments = CALLS[name]()
            print(
                f"{name}: argument {at}, other {number}: {type(other).__name__} {getattr(other, 'shape', '')}",
                flush=True,
            )
            try:
                function(*arguments[:at], other, *arguments[at + 1 :])
                taken += 1
            except (ValueError, TypeError, OverflowError, OSError, MemoryError, AttributeError, BufferError):
                refused += 1
    return refused, taken


def uninitialised():
    """Objects that were made without what fills them."""
    for method in ("properties", "arrays", "samples", "image"):
        for maker in (_core.Model, lambda: _core.Model.__new__(_core.Model)):
            try:
                getattr(maker(), method)()
            except ValueError:
                continue
            raise AssertionError(method)
    for use in (
        lambda: _core.KernelAssembly.__new__(_core.KernelAssembly).fill(np.array([[0, 0, 1]]), 1),
        lambda: _core.Model().predict(np.zeros((1, 12)), None, True, True, True, 1),
        lambda: _core.Model().predict_std(np.zeros((1, 12)), None, 1),
        lambda: _core.Model().hessian(np.zeros((1, 12)), None, 1),
        lambda: _core.Model().address,
        lambda: _core.Model().n_pair_images,
    ):
        try:
            use()
        except ValueError:
            continue
        raise AssertionError("used what is not there")


if __name__ == "__main__":
    uninitialised()
    for each in CALLS:
        print("found", each, *spoiled(each), sep=" | ", flush=True)
