# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: binding=False, freethreading_compatible=True
"""Linear algebra on symmetric matrices, most of it in rectangular full packed storage (LAPACK's TRANSR='N', UPLO='L').

A module of its own because SciPy's LAPACK takes as long to import as everything else, and only training needs it.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t

import numpy as np

from scipy.linalg.cython_blas cimport dgemm, dsyrk, dtrsm
from scipy.linalg.cython_lapack cimport dpftrs, dpotrf, dpotrs, dtrtri

from gdml cimport gdml_rfp_index


cdef int require(bint condition, str message) except -1:
    if not condition:
        raise ValueError(message)
    return 0


cdef int require_packed(const double[::1] a, int64_t n) except -1:
    """Raise ValueError unless an array holds a packed matrix of order n."""
    return require(n >= 0 and a.shape[0] == n * (n + 1) // 2,
                   f"a has {a.shape[0]} elements, no packed matrix of order {n}")


cdef int require_square(str name, object a, int64_t n) except -1:
    return require(a.shape[0] == n and a.shape[1] == n and n < 1 << 31,
                   f"{name} has shape {tuple(a.shape[:2])}; ({n}, {n}) expected")


def add_blocks(double[::1] a not None, int64_t n, const int64_t[::1] begin not None,
               const double[:, :, ::1] blocks not None):
    """Add the lower triangles of symmetric blocks (M, m, m) to the diagonal blocks of a packed matrix."""
    cdef int64_t i, r, c, size
    require_packed(a, n)
    require(begin.shape[0] == blocks.shape[0] + 1 and blocks.shape[1] == blocks.shape[2],
            f"{blocks.shape[0]} blocks of {blocks.shape[1]} by {blocks.shape[2]} with {begin.shape[0]} places")
    for i in range(blocks.shape[0]):
        require(0 <= begin[i] <= begin[i + 1] <= n and begin[i + 1] - begin[i] <= blocks.shape[1],
                f"block {i} goes from {begin[i]} to {begin[i + 1]}")
    with nogil:
        for i in range(blocks.shape[0]):
            size = begin[i + 1] - begin[i]
            for c in range(size):
                for r in range(c, size):
                    a[gdml_rfp_index(n, begin[i] + r, begin[i] + c)] += blocks[i, r, c]


# Orders up to this are left to BLAS and LAPACK whole. OpenBLAS 0.3.30 overruns a buffer in the threaded dsyrk, which
# its dpotrf calls, when few threads share a large matrix: two threads crash at order 28500. Matrix products and
# triangular solves are cut to size by OpenBLAS itself, so larger matrices are halved until they fit.
LARGEST_WHOLE = 4096
# Operations between two looks at signals: a fraction of a second of BLAS on one core.
cdef double STRIDE = 1e10


cdef int look_at_signals() except -1 nogil:
    """Let the handlers of signals run, as of Ctrl-C, and raise what they raise."""
    with gil:
        PyErr_CheckSignals()
    return 0


cdef int stripe(int whole, double operations, int least) noexcept nogil:
    """Return how much of an extent with this many operations to do at a time."""
    cdef double n = STRIDE / operations * whole
    return whole if n >= whole else max(least, <int> n // 64 * 64)


cdef int multiply(char trans_a, char trans_b, int m, int n, int k, double scale, double *a, double *b, int ld,
                  double *c, int ldc) except -1 nogil:
    """C (m, n) += scale op(A) op(B), some columns at a time. Each element is summed alike in any of the pieces."""
    cdef:
        double one = 1.0
        int width = stripe(n, 2.0 * m * n * k, 256), first = 0, here
    while first < n:
        here = min(width, n - first)
        dgemm(&trans_a, &trans_b, &m, &here, &k, &scale, a, &ld,
              b + (first if trans_b == b"T" else <int64_t> first * ld), &ld, &one, c + <int64_t> first * ldc, &ldc)
        first += here
        look_at_signals()
    return 0


cdef int divide(char side, char uplo, char trans, int m, int n, double scale, double *factor, double *b,
                int ld) except -1 nogil:
    """B (m, n) := scale op(F)^-1 B (side 'L') or scale B op(F)^-1 ('R') of the triangle `uplo` of F, both with leading
    dimension ld, some columns or rows at a time."""
    cdef:
        bint left = side == b"L"
        int extent = n if left else m, step = stripe(extent, <double> m * n * (m if left else n), 256), first = 0, here
        int64_t stride = ld if left else 1
    while first < extent:
        here = min(step, extent - first)
        if left:
            dtrsm(&side, &uplo, &trans, b"N", &m, &here, &scale, factor, &ld, b + first * stride, &ld)
        else:
            dtrsm(&side, &uplo, &trans, b"N", &here, &n, &scale, factor, &ld, b + first * stride, &ld)
        first += here
        look_at_signals()
    return 0


cdef int add_product(double scale, char uplo, char trans, int n, int k, double *a, int lda, double *c, int ldc,
                     int largest) except -1 nogil:
    """C += scale A A^T (trans 'N') or scale A^T A (trans 'T'); of C, of order n, the triangle `uplo`."""
    cdef:
        double one = 1.0
        char other = b"T" if trans == b"N" else b"N"
        int n1 = n // 2, n2 = n - n // 2
        double *a2 = a + n1 if trans == b"N" else a + <int64_t> n1 * lda
    if n <= largest and (<double> n * n * k <= 2 * STRIDE or n < 1024):
        dsyrk(&uplo, &trans, &n, &k, &scale, a, &lda, &one, c, &ldc)
        return look_at_signals()
    add_product(scale, uplo, trans, n1, k, a, lda, c, ldc, largest)
    if uplo == b"L":
        multiply(trans, other, n2, n1, k, scale, a2, a, lda, c + n1, ldc)
    else:
        multiply(trans, other, n1, n2, k, scale, a, a2, lda, c + <int64_t> n1 * ldc, ldc)
    add_product(scale, uplo, trans, n2, k, a2, lda, c + n1 + <int64_t> n1 * ldc, ldc, largest)
    return 0


cdef int factor(char uplo, int n, double *a, int lda, int largest) except -1 nogil:
    """Cholesky factor of the triangle `uplo` of A in place: L L^T or U^T U. Returns LAPACK's info."""
    cdef:
        int info = 0, n1 = n // 2, n2 = n - n // 2
        double *off
    if n <= largest:
        dpotrf(&uplo, &n, a, &lda, &info)
        look_at_signals()
        return info
    info = factor(uplo, n1, a, lda, largest)
    if info:
        return info
    if uplo == b"L":
        off = a + n1
        divide(b"R", uplo, b"T", n2, n1, 1.0, a, off, lda)
        add_product(-1.0, uplo, b"N", n2, n1, off, lda, a + n1 + <int64_t> n1 * lda, lda, largest)
    else:
        off = a + <int64_t> n1 * lda
        divide(b"L", uplo, b"T", n1, n2, 1.0, a, off, lda)
        add_product(-1.0, uplo, b"T", n2, n1, off, lda, a + n1 + <int64_t> n1 * lda, lda, largest)
    info = factor(uplo, n2, a + n1 + <int64_t> n1 * lda, lda, largest)
    return info + n1 if info else 0


cdef int invert(char uplo, int n, double *a, int lda, int largest) except -1 nogil:
    """Inverse of the triangle `uplo` of A in place. Returns LAPACK's info."""
    cdef:
        int info = 0, n1 = n // 2, n2 = n - n // 2
        double *last = a + n1 + <int64_t> n1 * lda
        double *off
    if n <= largest:
        dtrtri(&uplo, b"N", &n, a, &lda, &info)
        look_at_signals()
        return info
    if uplo == b"L":
        off = a + n1
        divide(b"L", uplo, b"N", n2, n1, -1.0, last, off, lda)
        divide(b"R", uplo, b"N", n2, n1, 1.0, a, off, lda)
    else:
        off = a + <int64_t> n1 * lda
        divide(b"L", uplo, b"N", n1, n2, -1.0, a, off, lda)
        divide(b"R", uplo, b"N", n1, n2, 1.0, last, off, lda)
    info = invert(uplo, n1, a, lda, largest)
    if info:
        return info
    info = invert(uplo, n2, last, lda, largest)
    return info + n1 if info else 0


cdef struct Parts:
    # A packed matrix: the leading triangle of order n1 (lower), the rectangle (n2, n1) below it, and the trailing
    # triangle (upper), all with leading dimension ld.
    int n1, n2, ld
    double *leading
    double *rectangle
    double *trailing


cdef Parts parts_of(double *a, int n) noexcept nogil:
    cdef Parts p
    p.n1 = n - n // 2
    p.n2 = n // 2
    p.ld = n + 1 if n % 2 == 0 else n
    p.leading = a + (1 if n % 2 == 0 else 0)
    p.rectangle = p.leading + p.n1
    p.trailing = a + (0 if n % 2 == 0 else n)
    return p


def cholesky(double[::1] a not None, int n, int largest=LARGEST_WHOLE):
    """Cholesky factor in place, as LAPACK's dpftrf (TRANSR='N', UPLO='L') gives it. Returns LAPACK's info.

    Between its blocks signals are looked at, so that Ctrl-C acts soon, also on matrices that take minutes.
    The factorisation is one step of the blocked algorithm on the three parts of the packed matrix.
    Matrices of an order up to `largest` are left to LAPACK whole.
    """
    require_packed(a, n)
    require(largest > 0, f"largest is {largest}")
    if n == 0:
        return 0
    cdef:
        int info = 0
        Parts p = parts_of(&a[0], n)
    with nogil:
        info = factor(b"L", p.n1, p.leading, p.ld, largest)
        if info == 0 and p.n2 > 0:
            divide(b"R", b"L", b"T", p.n2, p.n1, 1.0, p.leading, p.rectangle, p.ld)
            add_product(-1.0, b"U", b"N", p.n2, p.n1, p.rectangle, p.ld, p.trailing, p.ld, largest)
            info = factor(b"U", p.n2, p.trailing, p.ld, largest)
            if info > 0:
                info += p.n1
    return info


def solve(double[::1] a not None, int n, double[::1] rhs not None):
    """Solve in place with the factor from `cholesky`, for one right-hand side or several. Returns LAPACK's info."""
    require_packed(a, n)
    require(rhs.shape[0] % max(n, 1) == 0, f"right-hand sides have {rhs.shape[0]} elements, no multiple of {n}")
    cdef int info = 0, n_rhs = <int> (rhs.shape[0] // n) if n else 0
    if n_rhs:
        with nogil:
            dpftrs(b"N", b"L", &n, &n_rhs, &a[0], &rhs[0], &n, &info)
    return info


def invert_factor(double[::1] a not None, int n, int largest=LARGEST_WHOLE):
    """Replace a packed factor from `cholesky` by its inverse, block by block as there. Returns LAPACK's info."""
    require_packed(a, n)
    require(largest > 0, f"largest is {largest}")
    if n == 0:
        return 0
    cdef:
        int info = 0
        Parts p = parts_of(&a[0], n)
    with nogil:
        if p.n2 > 0:
            divide(b"L", b"U", b"T", p.n2, p.n1, -1.0, p.trailing, p.rectangle, p.ld)
            divide(b"R", b"L", b"N", p.n2, p.n1, 1.0, p.leading, p.rectangle, p.ld)
        info = invert(b"L", p.n1, p.leading, p.ld, largest)
        if info == 0 and p.n2 > 0:
            info = invert(b"U", p.n2, p.trailing, p.ld, largest)
            if info > 0:
                info += p.n1
    return info


def factor_columns(const double[::1] a not None, int64_t n, int64_t first, int64_t last, double[:, ::1] out not None):
    """Write columns first to last of a packed lower triangle to out (n, last - first), zeros above the diagonal."""
    require_packed(a, n)
    require(0 <= first <= last <= n and out.shape[0] == n and out.shape[1] == last - first,
            f"columns {first} to {last} of {n} do not fit {out.shape[0]} by {out.shape[1]} numbers")
    cdef int64_t r, c
    with nogil:
        for r in range(n):
            for c in range(first, last):
                out[r, c - first] = a[gdml_rfp_index(n, r, c)] if r >= c else 0.0


# ---- dense matrices, in Fortran order ---------------------------------------------------------------------------

def cholesky_dense(double[::1, :] a not None, int largest=LARGEST_WHOLE):
    """Lower Cholesky factor in place; the upper triangle is left alone. Returns LAPACK's info."""
    require_square("a", a, a.shape[0])
    require(largest > 0, f"largest is {largest}")
    cdef int n = <int> a.shape[0], info = 0
    if n:
        with nogil:
            info = factor(b"L", n, &a[0, 0], n, largest)
    return info


def solve_cholesky(const double[::1, :] factor not None, const double[::1] rhs not None):
    """Solve with a factor from `cholesky_dense`."""
    require_square("factor", factor, rhs.shape[0])
    cdef int n = <int> factor.shape[0], one = 1, info = 0
    solution = np.array(rhs)
    cdef double[::1] x = solution
    if n:
        with nogil:
            dpotrs(b"L", &n, &one, <double *> &factor[0, 0], &n, &x[0], &n, &info)
    return solution


def solve_triangular_right(const double[::1, :] factor not None, double[::1, :] b not None):
    """Replace B (m, n) by B F^-T, F a lower triangular factor (n, n)."""
    require_square("factor", factor, b.shape[1])
    cdef int m = <int> b.shape[0], n = <int> b.shape[1]
    cdef double one = 1.0
    if m and n:
        with nogil:
            dtrsm(b"R", b"L", b"T", b"N", &m, &n, &one, <double *> &factor[0, 0], &n, &b[0, 0], &m)


def add_gram(const double[:, ::1] a not None, double[::1, :] c not None, int largest=LARGEST_WHOLE):
    """Add A^T A, A (m, n), to the lower triangle of C (n, n)."""
    require_square("c", c, a.shape[1])
    require(largest > 0, f"largest is {largest}")
    cdef int m = <int> a.shape[0], n = <int> a.shape[1]
    if m and n:
        with nogil:
            # In Fortran's order A is A^T, (n, m).
            add_product(1.0, b"L", b"N", n, m, <double *> &a[0, 0], n, &c[0, 0], n, largest)
