"""Run the smallest case of each CUDA kernel and compare with the processor: what compute-sanitizer is to watch.

    PYTHONPATH=tests compute-sanitizer --tool memcheck python tests/gpu/each_kernel.py

Each array has memory of its own, not a part of CuPy's pool: an access beyond its end is seen. Prints a line a kernel;
exit status 1 if a result is wrong.
"""

import sys

import cupy
from support.gpu_checks import check_assembly_with_oracle, check_low_rank, check_rectangles_and_diagonal_blocks
from support.gpu_models import CELLS, assert_close, make_model
from support.molecules import random_molecules, symmetric_group_of_three

from fastgdml.gpu import predict as gpu_predict
from fastgdml.gpu.predict import GPUPredictor
from fastgdml.predict import GDMLPredict


def assembly():
    for energies in (False, True):
        check_assembly_with_oracle(symmetric_group_of_three(4), 4, 3, energies, cupy)
    check_rectangles_and_diagonal_blocks(symmetric_group_of_three(5), True, cupy)


def predictions(terms, precision="double"):
    """Few geometries, or with 1 term many; more than one tile, all options."""
    before, gpu_predict._FUSED_TERMS = gpu_predict._FUSED_TERMS, terms
    try:
        for cell in ("molecule", "minimum"):
            model = make_model(9, symmetric_group_of_three(4), CELLS[cell], energies=True)
            R = random_molecules(3, 4, seed=5).reshape(3, -1)
            predictor, expected = GPUPredictor.from_model(model, precision=precision), GDMLPredict(model)
            for data in (R, R, cupy.asarray(R)):  # launches, a graph, data on the device
                assert_close(predictor.predict(data, return_virial=True), expected.predict(R, return_virial=True), 1e-9)
    finally:
        gpu_predict._FUSED_TERMS = before


CASES = {
    "assembly": assembly,
    "project, subtract": lambda: check_low_rank(1100, 70, cupy),
    "tile_sums, forces, virials": lambda: predictions(2**62),
    "tile_sums_mixed": lambda: predictions(2**62, "mixed"),
    "weights": lambda: predictions(1),
    "weights, products of digits": lambda: predictions(1, "mixed"),
}


def main():
    cupy.cuda.set_allocator(None)
    failed = []
    for name, case in CASES.items():
        try:
            case()
        except Exception as error:
            failed.append(name)
            print(f"{name}: FAILED: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        else:
            print(f"{name}: right", flush=True)
    cupy.cuda.get_current_stream().synchronize()
    print(f"{len(CASES) - len(failed)} of {len(CASES)} cases are right")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
