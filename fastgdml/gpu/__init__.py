"""Training and prediction on a CUDA device: the twins of `descriptor`, `kernel`, `predict` and the solvers.

Functions have the names of their twins and take the array module `xp`, CuPy or NumPy: everything but the CUDA kernels
in cuda/ also runs, and is tested, without a device. All is computed in double precision, but for predictions with
precision 'mixed' (`slices`).
"""
