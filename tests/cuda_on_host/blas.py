"""The routines of cuBLAS and cuSOLVER that the package uses, for addresses on the host."""

import ctypes

import numpy as np
import scipy.linalg

CUBLAS_OP_N, CUBLAS_OP_T = 0, 1
CUBLAS_SIDE_LEFT, CUBLAS_SIDE_RIGHT = 0, 1
CUBLAS_FILL_MODE_LOWER = CUBLAS_DIAG_NON_UNIT = 0
_WORKSPACE = 7


def view(address, rows, cols, stride):
    """Return the matrix at an address, columns `stride` elements apart."""
    size = (cols - 1) * stride + rows
    flat = np.ctypeslib.as_array((ctypes.c_double * size).from_address(address))
    return np.lib.stride_tricks.as_strided(flat, (rows, cols), (8, 8 * stride))


def value(address):
    return view(address, 1, 1, 1)[0, 0]


def dpotrf_bufferSize(handle, uplo, n, a, lda):
    return _WORKSPACE


def dpotrf(handle, uplo, n, a, lda, work, n_work, info):
    assert n_work == _WORKSPACE
    A = view(a, n, n, lda)
    result, status = scipy.linalg.lapack.dpotrf(np.tril(A), lower=1)
    A[np.tril_indices(n)] = result[np.tril_indices(n)]
    ctypes.c_int32.from_address(info).value = status


def dtrsm(handle, side, uplo, trans, diag, m, n, alpha, a, lda, b, ldb):
    L = np.tril(view(a, *[m if side == CUBLAS_SIDE_LEFT else n] * 2, lda))
    op = L.T if trans else L
    B = view(b, m, n, ldb)
    B[:] = value(alpha) * (np.linalg.solve(op, B) if side == CUBLAS_SIDE_LEFT else np.linalg.solve(op.T, B.T).T)


def dgemm(handle, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    assert (trans_a, trans_b) == (CUBLAS_OP_N, CUBLAS_OP_T)
    C = view(c, m, n, ldc)
    C[:] = value(beta) * C + value(alpha) * view(a, m, k, lda) @ view(b, n, k, ldb).T


def dgemv(handle, trans, m, n, alpha, a, lda, x, incx, beta, y, incy):
    A = view(a, m, n, lda).T if trans else view(a, m, n, lda)
    out = view(y, A.shape[0], 1, 1)
    out[:] = value(beta) * out + value(alpha) * A @ view(x, A.shape[1], 1, 1)
