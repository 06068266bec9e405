# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Linear algebra on symmetric matrices in rectangular full packed storage (LAPACK's TRANSR='N', UPLO='L').

A module of its own because SciPy's LAPACK takes as long to import as everything else, and only training needs it.
"""

from libc.stdint cimport int64_t
from scipy.linalg.cython_lapack cimport dpftrf, dpftrs


cdef extern from "gdml.h" nogil:
    int64_t gdml_rfp_index(int64_t n, int64_t row, int64_t col)


def add_blocks(double[::1] a, int64_t n, const int64_t[::1] begin, const double[:, :, ::1] blocks):
    """Add the lower triangles of symmetric blocks (M, m, m) to the diagonal blocks of a packed matrix."""
    cdef int64_t i, r, c, size
    with nogil:
        for i in range(blocks.shape[0]):
            size = begin[i + 1] - begin[i]
            for c in range(size):
                for r in range(c, size):
                    a[gdml_rfp_index(n, begin[i] + r, begin[i] + c)] += blocks[i, r, c]


def cholesky(double[::1] a, int n):
    """Cholesky factor in place (LAPACK dpftrf, TRANSR='N', UPLO='L'). Returns LAPACK's info."""
    cdef int info = 0
    with nogil:
        dpftrf(b"N", b"L", &n, &a[0], &info)
    return info


def solve(double[::1] a, int n, double[::1] rhs):
    """Solve in place with the factor from `cholesky`. Returns LAPACK's info."""
    cdef int info = 0, one = 1
    with nogil:
        dpftrs(b"N", b"L", &n, &one, &a[0], &rhs[0], &n, &info)
    return info
