# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: binding=False, freethreading_compatible=True
"""Linear algebra on symmetric matrices, most of it in rectangular full packed storage (LAPACK's TRANSR='N', UPLO='L').

A module of its own because SciPy's LAPACK takes as long to import as everything else, and only training needs it.
"""

from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY, fabsf, frexp, ldexp, sqrt
from libc.stdint cimport int16_t, int64_t

import numpy as np

from scipy.linalg.cython_blas cimport (
    dgemm, dgemv, dsyrk, dtrsm, dtrsv, sgemm, sgemv, ssyrk, strsm, strsv,
)
from scipy.linalg.cython_lapack cimport dpftrs, dpotrf, dtrtri, spotrf

from gdml cimport gdml_rfp_index


cdef extern from "cholesky.h" nogil:
    ctypedef struct gdml_blas:
        size_t size
        void *one
        void *minus_one
        void (*gemm)(char *, char *, int *, int *, int *, void *, void *, int *, void *, int *, void *, void *,
                     int *) noexcept nogil
        void (*syrk)(char *, char *, int *, int *, void *, void *, int *, void *, void *, int *) noexcept nogil
        void (*trsm)(char *, char *, char *, char *, int *, int *, void *, void *, int *, void *, int *) noexcept nogil
        void (*potrf)(char *, int *, void *, int *, int *) noexcept nogil
    ctypedef struct gdml_symmetric:
        int n, n1, ld, ld_rectangle
        void *leading
        void *rectangle
        void *trailing
    ctypedef struct gdml_tile_task:
        int i, rows, j, columns, k
    ctypedef struct gdml_factorization:
        gdml_symmetric matrix
        gdml_blas blas
        int tile, solves
        int *progress
        int info
    int gdml_count_tiles(const gdml_symmetric *matrix, int tile)
    void gdml_factorization_begin(gdml_factorization *f)
    int gdml_next_tasks(gdml_factorization *f, gdml_tile_task *tasks, int most)
    void gdml_do_tasks(gdml_factorization *f, const gdml_tile_task *tasks, int n_tasks, int n_threads)


cdef int require(bint condition, str message) except -1:
    if not condition:
        raise ValueError(message)
    return 0


cdef int require_packed(int64_t size, int64_t n) except -1:
    """Raise ValueError unless an array of this size holds a packed matrix of order n."""
    return require(n >= 0 and size == n * (n + 1) // 2, f"a has {size} elements, no packed matrix of order {n}")


cdef int require_square(str name, object a, int64_t n) except -1:
    return require(a.shape[0] == n and a.shape[1] == n and n < 1 << 31,
                   f"{name} has shape {tuple(a.shape[:2])}; ({n}, {n}) expected")


def add_blocks(double[::1] a not None, int64_t n, const int64_t[::1] begin not None,
               const double[:, :, ::1] blocks not None):
    """Add the lower triangles of symmetric blocks (M, m, m) to the diagonal blocks of a packed matrix."""
    cdef int64_t i, r, c, size
    require_packed(a.shape[0], n)
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


# Linear algebra is divided among threads of our own, each of which calls BLAS with one thread (callers see to that):
# the bits are the same for any number of threads, because what one does at a time does not depend on it; and threads of
# BLAS that wait for work would keep processors busy.
cdef enum:
    STRIP = 256  # rows or columns of a triangular solve
    TILE = 512  # rows and columns of a product
    CHUNK = 512  # terms of its sums
    FEW_ROWS = 32  # of a small triangle at once
    ROOT_TRIES = 8  # with a shift that grows tenfold
    COLUMNS = 32  # of a matrix that is multiplied by a vector
    LEAF = 128  # order of triangles that LAPACK inverts
    SIDES = 64  # right-hand sides
    PANEL = 128  # columns that a low-rank part is subtracted from

# Order of the tiles of a factorisation: the products of smaller ones are slower, of larger ones there are too few.
TILE_ORDER = 320
# Operations between two looks at signals: a fraction of a second of BLAS on one core.
cdef double STRIDE = 1e10


cdef int look_at_signals() except -1 nogil:
    """Let the handlers of signals run, as of Ctrl-C, and raise what they raise."""
    with gil:
        PyErr_CheckSignals()
    return 0


cdef int threads_of(int n_threads, int n_tasks) noexcept nogil:
    """Return how many threads are of use: at least one, and no more than there are tasks, or than machines have."""
    return max(1, min(n_threads, n_tasks, 1024))


cdef int between_signals(int n_threads, int n_tasks, double operations) noexcept nogil:
    """Return how many tasks, of so many operations each, to do between two looks at signals."""
    return min(n_tasks, max(threads_of(n_threads, n_tasks), <int> min(STRIDE / operations, <double> n_tasks)))


cdef int divide(char side, char uplo, char trans, int m, int n, double scale, double *factor, double *b, int ld,
                int n_threads) except -1 nogil:
    """B (m, n) := scale op(F)^-1 B (side 'L') or scale B op(F)^-1 ('R') of the triangle `uplo` of F, both with leading
    dimension ld, in strips of columns or rows."""
    cdef:
        bint left = side == b"L"
        int extent = n if left else m, n_strips = (extent + STRIP - 1) // STRIP, first = 0, last, i, size
        double operations = <double> STRIP * (m if left else n) ** 2
    while first < n_strips:
        last = first + between_signals(n_threads, n_strips - first, operations)
        for i in prange(first, last, num_threads=threads_of(n_threads, last - first), schedule="dynamic"):
            size = min(STRIP, extent - i * STRIP)
            if left:
                dtrsm(b"L", &uplo, &trans, b"N", &m, &size, &scale, factor, &ld, b + <int64_t> i * STRIP * ld, &ld)
            else:
                dtrsm(b"R", &uplo, &trans, b"N", &size, &n, &scale, factor, &ld, b + i * STRIP, &ld)
        first = last
        look_at_signals()
    return 0


cdef int invert(char uplo, int n, double *a, int lda, int leaf, int n_threads) except -1 nogil:
    """Inverse of the triangle `uplo` of A in place, halved down to an order of `leaf`. Returns LAPACK's info."""
    cdef:
        int info = 0, n1 = n // 2, n2 = n - n // 2
        double *last = a + n1 + <int64_t> n1 * lda
        double *off
    if n <= leaf:
        dtrtri(&uplo, b"N", &n, a, &lda, &info)
        return info
    if uplo == b"L":
        off = a + n1
        divide(b"L", uplo, b"N", n2, n1, -1.0, last, off, lda, n_threads)
        divide(b"R", uplo, b"N", n2, n1, 1.0, a, off, lda, n_threads)
    else:
        off = a + <int64_t> n1 * lda
        divide(b"L", uplo, b"N", n1, n2, -1.0, a, off, lda, n_threads)
        divide(b"R", uplo, b"N", n1, n2, 1.0, last, off, lda, n_threads)
    info = invert(uplo, n1, a, lda, leaf, n_threads)
    if info:
        return info
    info = invert(uplo, n2, last, lda, leaf, n_threads)
    return info + n1 if info else 0


ctypedef fused real:
    float
    double


cdef gdml_symmetric parts_of(real[::1] a, int n) except *:
    """Return the parts of a packed matrix."""
    cdef:
        gdml_symmetric p
        real *data = &a[0] if a.shape[0] else NULL
        real *leading = data + (1 if n % 2 == 0 else 0)
    require_packed(a.shape[0], n)
    p.n = n
    p.n1 = n - n // 2
    p.ld = p.ld_rectangle = n + 1 if n % 2 == 0 else n
    p.leading = leading
    p.rectangle = leading + p.n1
    p.trailing = data + (0 if n % 2 == 0 else n)
    return p


cdef void gemm_double(char *ta, char *tb, int *m, int *n, int *k, void *alpha, void *a, int *lda, void *b, int *ldb,
                      void *beta, void *c, int *ldc) noexcept nogil:
    dgemm(ta, tb, m, n, k, <double *> alpha, <double *> a, lda, <double *> b, ldb, <double *> beta, <double *> c, ldc)


cdef void gemm_single(char *ta, char *tb, int *m, int *n, int *k, void *alpha, void *a, int *lda, void *b, int *ldb,
                      void *beta, void *c, int *ldc) noexcept nogil:
    sgemm(ta, tb, m, n, k, <float *> alpha, <float *> a, lda, <float *> b, ldb, <float *> beta, <float *> c, ldc)


cdef void syrk_double(char *uplo, char *trans, int *n, int *k, void *alpha, void *a, int *lda, void *beta, void *c,
                      int *ldc) noexcept nogil:
    dsyrk(uplo, trans, n, k, <double *> alpha, <double *> a, lda, <double *> beta, <double *> c, ldc)


cdef void syrk_single(char *uplo, char *trans, int *n, int *k, void *alpha, void *a, int *lda, void *beta, void *c,
                      int *ldc) noexcept nogil:
    ssyrk(uplo, trans, n, k, <float *> alpha, <float *> a, lda, <float *> beta, <float *> c, ldc)


cdef void trsm_double(char *side, char *uplo, char *trans, char *diag, int *m, int *n, void *alpha, void *a, int *lda,
                      void *b, int *ldb) noexcept nogil:
    dtrsm(side, uplo, trans, diag, m, n, <double *> alpha, <double *> a, lda, <double *> b, ldb)


cdef void trsm_single(char *side, char *uplo, char *trans, char *diag, int *m, int *n, void *alpha, void *a, int *lda,
                      void *b, int *ldb) noexcept nogil:
    strsm(side, uplo, trans, diag, m, n, <float *> alpha, <float *> a, lda, <float *> b, ldb)


cdef void potrf_double(char *uplo, int *n, void *a, int *lda, int *info) noexcept nogil:
    dpotrf(uplo, n, <double *> a, lda, info)


cdef void potrf_single(char *uplo, int *n, void *a, int *lda, int *info) noexcept nogil:
    spotrf(uplo, n, <float *> a, lda, info)


cdef double ONE = 1.0, MINUS_ONE = -1.0
cdef float ONE_SINGLE = 1.0, MINUS_ONE_SINGLE = -1.0
cdef gdml_blas DOUBLE = gdml_blas(sizeof(double), &ONE, &MINUS_ONE, gemm_double, syrk_double, trsm_double, potrf_double)
cdef gdml_blas SINGLE = gdml_blas(sizeof(float), &ONE_SINGLE, &MINUS_ONE_SINGLE, gemm_single, syrk_single, trsm_single,
                                  potrf_single)


cdef int factorize(gdml_blas blas, gdml_symmetric matrix, bint solves, int tile, int n_threads) except -1:
    """Cholesky factor in place, or only the rectangle divided. Returns LAPACK's info."""
    require(tile > 0, f"tiles of order {tile}")
    cdef:
        gdml_factorization f
        int side = gdml_count_tiles(&matrix, tile), n_tasks
        int[::1] progress = np.zeros(max(side * side, 1), dtype=np.intc)
        # Between two looks at signals as many tasks as take a fraction of a second, of about four tiles each.
        int most = threads_of(n_threads, 1024) * max(1, <int> min(STRIDE / (8.0 * tile ** 3), 1e5))
        int[:, ::1] tasks = np.empty((most, 5), dtype=np.intc)
        gdml_tile_task *data = <gdml_tile_task *> &tasks[0, 0]
    f.blas, f.matrix, f.solves, f.tile, f.progress = blas, matrix, solves, tile, &progress[0]
    with nogil:
        gdml_factorization_begin(&f)
        while f.info == 0:
            n_tasks = gdml_next_tasks(&f, data, most)
            if n_tasks == 0:
                break
            gdml_do_tasks(&f, data, n_tasks, threads_of(n_threads, n_tasks))
            look_at_signals()
    return f.info


def cholesky(double[::1] a not None, int n, int n_threads, int tile=TILE_ORDER):
    """Cholesky factor in place, as LAPACK's dpftrf (TRANSR='N', UPLO='L') gives it. Returns LAPACK's info.

    Ctrl-C acts within a fraction of a second, also on matrices that take minutes; so it does in what follows.
    """
    return factorize(DOUBLE, parts_of(a, n), False, tile, n_threads)


def solve(double[::1] a not None, int n, double[::1] rhs not None, int n_threads):
    """Solve in place with the factor from `cholesky`, for one right-hand side or several."""
    require_packed(a.shape[0], n)
    require(rhs.shape[0] % max(n, 1) == 0, f"right-hand sides have {rhs.shape[0]} elements, no multiple of {n}")
    if n == 0 or rhs.shape[0] == 0:
        return
    cdef int info = 0, n_rhs = <int> (rhs.shape[0] // n), n_tasks = (n_rhs + SIDES - 1) // SIDES, i, some
    for i in prange(n_tasks, nogil=True, num_threads=threads_of(n_threads, n_tasks), schedule="static"):
        some = min(SIDES, n_rhs - i * SIDES)
        # Its info tells of wrong arguments only.
        dpftrs(b"N", b"L", &n, &some, &a[0], &rhs[<int64_t> i * SIDES * n], &n, &info)


def invert_factor(double[::1] a not None, int n, int n_threads, int leaf=LEAF):
    """Replace a packed factor from `cholesky` by its inverse, block by block. Returns LAPACK's info."""
    require(leaf > 0, f"leaves of order {leaf}")
    cdef:
        int info = 0, n2 = n // 2
        gdml_symmetric p = parts_of(a, n)
    if n == 0:
        return 0
    with nogil:
        if n2 > 0:
            divide(b"L", b"U", b"T", n2, p.n1, -1.0, <double *> p.trailing, <double *> p.rectangle, p.ld, n_threads)
            divide(b"R", b"L", b"N", n2, p.n1, 1.0, <double *> p.leading, <double *> p.rectangle, p.ld, n_threads)
        info = invert(b"L", p.n1, <double *> p.leading, p.ld, leaf, n_threads)
        if info == 0 and n2 > 0:
            info = invert(b"U", n2, <double *> p.trailing, p.ld, leaf, n_threads)
            if info > 0:
                info += p.n1
    return info


def factor_columns(const double[::1] a not None, int64_t n, int64_t first, int64_t last, double[:, ::1] out not None):
    """Write columns first to last of a packed lower triangle to out (n, last - first), zeros above the diagonal."""
    require_packed(a.shape[0], n)
    require(0 <= first <= last <= n and out.shape[0] == n and out.shape[1] == last - first,
            f"columns {first} to {last} of {n} do not fit {out.shape[0]} by {out.shape[1]} numbers")
    cdef int64_t r, c
    with nogil:
        for r in range(n):
            for c in range(first, last):
                out[r, c - first] = a[gdml_rfp_index(n, r, c)] if r >= c else 0.0


# ---- dense matrices, in Fortran order ---------------------------------------------------------------------------

def cholesky_dense(double[::1, :] a not None, int n_threads, int tile=TILE_ORDER):
    """Lower Cholesky factor in place; the upper triangle is left alone. See `cholesky`."""
    require_square("a", a, a.shape[0])
    cdef:
        gdml_symmetric matrix
        int n = <int> a.shape[0]
    matrix.n = matrix.n1 = matrix.ld = matrix.ld_rectangle = n
    matrix.leading = matrix.rectangle = matrix.trailing = &a[0, 0] if n else NULL
    return factorize(DOUBLE, matrix, False, tile, n_threads)


def solve_cholesky(const double[::1, :] factor not None, const double[::1] rhs not None, int n_threads):
    """Solve with a factor from `cholesky_dense`, which is read once forwards and once backwards."""
    require_square("factor", factor, rhs.shape[0])
    solution = np.array(rhs)
    cdef:
        double[::1] x = solution
        int n = <int> x.shape[0]
        double *f = <double *> &factor[0, 0] if n else NULL
    if n:
        substitute_lower[double](f, n, n, &x[0], n_threads)
        substitute_lower_back[double](f, n, n, &x[0], n_threads)
    return solution


# Triangular solves of one vector, in strips of columns of the triangle.

cdef void substitute_lower(real *f, int n, int ld, real *x, int n_threads) noexcept nogil:
    """x := F^-1 x of a lower triangle F."""
    cdef int first = 0, size
    while first < n:
        size = min(STRIP, n - first)
        divide_vector[real](b"L", b"N", size, ld, f + first + <int64_t> first * ld, x + first)
        subtract_rows[real](n - first - size, size, ld, f + first + size + <int64_t> first * ld, x + first,
                            x + first + size, n_threads)
        first += STRIP


cdef void substitute_lower_back(real *f, int n, int ld, real *x, int n_threads) noexcept nogil:
    """x := F^-T x."""
    cdef int first = (n + STRIP - 1) // STRIP * STRIP, size
    while first > 0:
        first -= STRIP
        size = min(STRIP, n - first)
        subtract_columns[real](n - first - size, size, ld, f + first + size + <int64_t> first * ld, x + first + size,
                               x + first, n_threads)
        divide_vector[real](b"L", b"T", size, ld, f + first + <int64_t> first * ld, x + first)


cdef void substitute_upper(real *f, int n, int ld, real *x, int n_threads) noexcept nogil:
    """x := F^-T x of an upper triangle F."""
    cdef int first = 0, size
    while first < n:
        size = min(STRIP, n - first)
        divide_vector[real](b"U", b"T", size, ld, f + first + <int64_t> first * ld, x + first)
        subtract_columns[real](size, n - first - size, ld, f + first + <int64_t> (first + size) * ld, x + first,
                               x + first + size, n_threads)
        first += STRIP


cdef void substitute_upper_back(real *f, int n, int ld, real *x, int n_threads) noexcept nogil:
    """x := F^-1 x."""
    cdef int first = (n + STRIP - 1) // STRIP * STRIP, size
    while first > 0:
        first -= STRIP
        size = min(STRIP, n - first)
        divide_vector[real](b"U", b"N", size, ld, f + first + <int64_t> first * ld, x + first)
        subtract_rows[real](first, size, ld, f + <int64_t> first * ld, x + first, x, n_threads)


cdef void divide_vector(char uplo, char trans, int n, int ld, real *a, real *x) noexcept nogil:
    cdef int one = 1
    if real is double:
        dtrsv(&uplo, &trans, b"N", &n, a, &ld, x, &one)
    else:
        strsv(&uplo, &trans, b"N", &n, a, &ld, x, &one)


cdef void subtract_rows(int m, int n, int ld, real *a, real *x, real *y, int n_threads) noexcept nogil:
    """y -= A x, of A (m, n), in strips of rows."""
    cdef int i, n_tasks = (m + STRIP - 1) // STRIP
    for i in prange(n_tasks, num_threads=threads_of(n_threads, n_tasks), schedule="static"):
        subtract_product[real](b"N", min(STRIP, m - i * STRIP), n, ld, a + i * STRIP, x, y + i * STRIP)


cdef void subtract_columns(int m, int n, int ld, real *a, real *x, real *y, int n_threads) noexcept nogil:
    """y -= A^T x, of A (m, n), in strips of columns."""
    cdef int i, n_tasks = (n + COLUMNS - 1) // COLUMNS if m else 0
    for i in prange(n_tasks, num_threads=threads_of(n_threads, n_tasks), schedule="static"):
        subtract_product[real](b"T", m, min(COLUMNS, n - i * COLUMNS), ld, a + <int64_t> i * COLUMNS * ld, x,
                               y + i * COLUMNS)


cdef void subtract_product(char trans, int m, int n, int ld, real *a, real *x, real *y) noexcept nogil:
    """y -= A x (trans 'N') or y -= A^T x ('T'), of A (m, n)."""
    cdef:
        int one = 1
        real plus_one = 1.0, minus_one = -1.0
    if real is double:
        dgemv(&trans, &m, &n, &minus_one, a, &ld, x, &one, &plus_one, y, &one)
    else:
        sgemv(&trans, &m, &n, &minus_one, a, &ld, x, &one, &plus_one, y, &one)


def solve_triangular_right(const double[::1, :] factor not None, double[::1, :] b not None, int n_threads,
                           int tile=TILE_ORDER):
    """Replace B (m, n) by B F^-T, F a lower triangular factor (n, n)."""
    require_square("factor", factor, b.shape[1])
    require(b.shape[0] < 1 << 30 and b.shape[1] < 1 << 30, f"b has {b.shape[0]} rows and {b.shape[1]} columns")
    cdef:
        gdml_symmetric matrix
        int m = <int> b.shape[0], n = <int> b.shape[1]
    if m == 0 or n == 0:
        return
    matrix.n, matrix.n1, matrix.ld, matrix.ld_rectangle = n + m, n, n, m
    matrix.leading, matrix.rectangle, matrix.trailing = <double *> &factor[0, 0], &b[0, 0], NULL
    factorize(DOUBLE, matrix, True, tile, n_threads)


def add_gram(const double[:, ::1] a not None, double[::1, :] c not None, int n_threads):
    """Add A^T A, A (m, n), to the lower triangle of C (n, n)."""
    require_square("c", c, a.shape[1])
    cdef:
        int m = <int> a.shape[0], n = <int> a.shape[1], first = 0, last, t, row, column, height, width
        double one = 1.0
        double *data
        double *total
    if m == 0 or n == 0:
        return
    data, total = <double *> &a[0, 0], &c[0, 0]  # in Fortran's order A is A^T, (n, m)
    cdef:
        int[:, ::1] tiles = np.array([(i, j) for j in range(0, n, TILE) for i in range(j, n, TILE)], dtype=np.intc)
        int n_tiles = <int> tiles.shape[0]
    while first < n_tiles:
        last = first + between_signals(n_threads, n_tiles - first, 2.0 * m * min(n, TILE) ** 2)
        for t in prange(first, last, nogil=True, num_threads=threads_of(n_threads, last - first), schedule="dynamic"):
            row, column = tiles[t, 0], tiles[t, 1]
            height, width = min(TILE, n - row), min(TILE, n - column)
            if row == column:
                dsyrk(b"L", b"N", &width, &m, &one, data + column, &n, &one, total + column + <int64_t> column * n, &n)
            else:
                dgemm(b"N", b"T", &height, &width, &m, &one, data + row, &n, data + column, &n, &one,
                      total + row + <int64_t> column * n, &n)
        first = last
        PyErr_CheckSignals()


# ---- the preconditioner: its blocks, and its low-rank part ------------------------------------------------------

def inverse_roots(const double[:, :, ::1] blocks not None, double lam, double share, int n_threads):
    """Lower triangles R_i, shape (m, q, q), with R_i^T R_i = (B_i + s_i I)^-1 of symmetric blocks B_i (m, q, q).

    s_i is lam and `share` of the Frobenius norm of B_i, more where B_i has, by rounding errors, eigenvalues below that.
    Returned are the triangles, and the first block without one, or -1.
    """
    cdef:
        int m = <int> blocks.shape[0], q = <int> blocks.shape[1], i
    require(blocks.shape[2] == q, f"blocks are {q} by {blocks.shape[2]}")
    found = np.zeros((m, q, q))
    if m * q == 0:
        return found, -1
    cdef:
        double[:, :, ::1] roots = found
        int[::1] info = np.zeros(m, dtype=np.intc)
    for i in prange(m, nogil=True, num_threads=threads_of(n_threads, m), schedule="static"):
        info[i] = inverse_root(q, &blocks[i, 0, 0], lam, share, &roots[i, 0, 0])
    bad = np.flatnonzero(info)
    return found, int(bad[0]) if len(bad) else -1


cdef int inverse_root(int q, const double *block, double lam, double share, double *root) noexcept nogil:
    """Set the lower triangle R, R^T R = (B + s I)^-1; return whether it does not exist."""
    cdef:
        int64_t size = <int64_t> q * q, j
        int r, c, _attempt, info
        double norm = 0.0
        char upper = b"U", general = b"N"
    for j in range(size):
        norm += block[j] * block[j]
    norm = sqrt(norm)
    if not norm < INFINITY:  # factorisations do not look for those
        return 1
    for _attempt in range(ROOT_TRIES):
        for j in range(size):
            root[j] = block[j]
        for r in range(q):
            root[<int64_t> r * (q + 1)] += lam + share * norm
        # The upper triangle in Fortran's order is the lower one here.
        dpotrf(&upper, &q, root, &q, &info)
        if info == 0:
            dtrtri(&upper, &general, &q, root, &q, &info)
        if info == 0:
            for r in range(q):
                for c in range(r + 1, q):
                    root[<int64_t> r * q + c] = 0.0
            return 0
        share = 10.0 * share
    return 1


def multiply_triangles(const double[:, :, ::1] triangles not None, const double[::1] x not None, bint transposed,
                       int n_threads):
    """R_i x_i, or R_i^T x_i, of lower triangles R_i (m, q, q), zero above, and x (m q,), shape (m q,)."""
    cdef:
        int m = <int> triangles.shape[0], q = <int> triangles.shape[1], i
    # In the cache they are read before another thread has woken up.
    n_threads = n_threads if triangles.size > 1 << 18 else 1
    require(triangles.shape[2] == q and x.shape[0] == <int64_t> m * q,
            f"{m} blocks of {q} by {triangles.shape[2]} with {x.shape[0]} numbers")
    product = np.zeros(m * q)
    cdef double[::1] y = product
    if m * q == 0:
        return product
    for i in prange(m, nogil=True, num_threads=threads_of(n_threads, m), schedule="static"):
        multiply_triangle(q, &triangles[i, 0, 0], &x[i * q], transposed, &y[i * q])
    return product


cdef void multiply_triangle(int q, const double *triangle, const double *x, bint transposed, double *y) noexcept nogil:
    """Add R x or R^T x to y, by strips of rows up to the diagonal."""
    cdef:
        int first = 0, rows, columns, inc = 1
        double one = 1.0
        double *strip
        char turn = b"T", plain = b"N"
    while first < q:
        rows = min(FEW_ROWS, q - first)
        columns, strip = first + rows, <double *> triangle + <int64_t> first * q
        if transposed:
            dgemv(&plain, &columns, &rows, &one, strip, &q, <double *> x + first, &inc, &one, y, &inc)
        else:
            dgemv(&turn, &columns, &rows, &one, strip, &q, <double *> x, &inc, &one, y + first, &inc)
        first += rows


def explained_blocks(const double[::1, :] low_rank not None, int q, int n_threads):
    """L_i L_i^T of each block L_i of q rows of L (m q, k), shape (m, q, q)."""
    require(q > 0 and low_rank.shape[0] % q == 0, f"{low_rank.shape[0]} rows are no blocks of {q}")
    cdef:
        int ld = <int> low_rank.shape[0], k = <int> low_rank.shape[1], m = ld // q, i, r, c
        double one = 1.0, zero = 0.0
        char lower = b"L", plain = b"N"
    found = np.zeros((m, q, q))
    cdef double[:, :, ::1] blocks = found
    if k == 0:
        return found
    for i in prange(m, nogil=True, num_threads=threads_of(n_threads, m), schedule="static"):
        dsyrk(&lower, &plain, &q, &k, &one, <double *> &low_rank[i * q, 0], &ld, &zero, &blocks[i, 0, 0], &q)
        for c in range(q):  # the lower triangle in Fortran's order is the upper one here
            for r in range(c):
                blocks[i, c, r] = blocks[i, r, c]
    return found


cdef void split_row(int64_t k, int64_t n_large, const double *row, const int64_t *order, float *large, int16_t *small,
                    double *factor, double *exact_large, float *exact_small) noexcept nogil:
    """Round a row of U, its columns in an order, to floats and to integers times a power of two."""
    cdef:
        int64_t c
        int exponent
        float largest = 0.0, inverse, value
        # Adding and subtracting it rounds a small number to an integer.
        float shifter = 12582912.0
    for c in range(n_large):
        large[c] = <float> row[order[c]]
        exact_large[c] = large[c]
    for c in range(k - n_large):
        value = <float> row[order[n_large + c]]
        exact_small[c] = value
        largest = max(largest, fabsf(value))
    if largest < 1e-30:  # its inverse is no float
        largest = 0.0
    frexp(largest / 32767.0, &exponent)
    factor[0] = ldexp(1.0, exponent)
    inverse = <float> ldexp(1.0, -exponent)
    for c in range(k - n_large):
        value = (exact_small[c] * inverse + shifter) - shifter
        small[c] = <int16_t> value
        exact_small[c] = value * <float> factor[0]


def split_low_rank(const double[::1, :] low_rank not None, const double[:, :, ::1] roots not None,
                   const int64_t[::1] order not None, float[:, ::1] large not None, int16_t[:, ::1] small not None,
                   double[::1] factor not None, double[:, ::1] exact_large not None, float[:, ::1] exact_small not None,
                   int n_threads):
    """Round U = R L (m q, k), its columns in an order: the first as floats, the rest as integers.

    roots (m, q, q) are the blocks R of (2) of `preconditioner`. Written are `large`, then `factor` times `small`, whose
    further columns are left alone, and the rounded numbers again, as `add_split_gram` needs them.
    """
    cdef:
        int ld = <int> low_rank.shape[0], k = <int> low_rank.shape[1], q = <int> roots.shape[1]
        int m = <int> roots.shape[0], i, r
        int n_large = <int> exact_large.shape[1]
        double one = 1.0, zero = 0.0
        char plain = b"N", transposed = b"T"
        int n_used = threads_of(n_threads, m)
        double[:, :, ::1] scaled = np.empty((n_used, q, k))
        double *rows
    require(m * q == ld and roots.shape[2] == q, f"{ld} rows with {m} blocks of {q} by {roots.shape[2]}")
    require(order.shape[0] == k and np.array_equal(np.sort(order), np.arange(k)), f"order is none of {k} columns")
    for name, array, least in (("large", large, n_large), ("small", small, k - n_large)):
        require(array.shape[0] == ld and array.shape[1] >= least, f"{name} has shape {tuple(array.shape[:2])}")
    require(factor.shape[0] == ld and exact_large.shape[0] == ld and 0 < n_large <= k
            and exact_small.shape[0] == ld and exact_small.shape[1] == k - n_large,
            f"{ld} rows, {k} columns: {factor.shape[0]} factors, {exact_large.shape[0]} by {n_large} and "
            f"{exact_small.shape[0]} by {exact_small.shape[1]} numbers")
    cdef:
        int16_t *small_data = &small[0, 0] if small.shape[1] else NULL
        float *exact_small_data = &exact_small[0, 0] if k > n_large else NULL
        int64_t n_small = small.shape[1], n_exact = k - n_large, at
    for i in prange(m, nogil=True, num_threads=n_used, schedule="static"):
        rows = &scaled[threadid(), 0, 0]
        dgemm(&transposed, &plain, &k, &q, &q, &one, <double *> &low_rank[i * q, 0], &ld, <double *> &roots[i, 0, 0],
              &q, &zero, rows, &k)
        for r in range(q):
            at = <int64_t> i * q + r
            split_row(k, n_large, rows + <int64_t> r * k, &order[0], &large[at, 0], small_data + at * n_small,
                      &factor[at], &exact_large[at, 0], exact_small_data + at * n_exact)


cdef struct Split:
    # m rows of U: n1 large columns of doubles and n2 small ones of floats, both stored by rows.
    int m, n1, n2
    double *large
    float *small


cdef void add_tile(const Split *u, int row, int column, double *gram, float *gram_small,
                   double *widened) noexcept nogil:
    """Add U^T U of the columns from `row` and those from `column` on to the lower triangles of gram, or gram_small."""
    cdef:
        int n = u.n1 + u.n2, ns = u.n2, height, width = min(TILE, (u.n1 if column < u.n1 else n) - column)
        int first, here, r, c
        double one = 1.0
        float one_small = 1.0
        float *small
        float *other
        double *to = gram + row + <int64_t> column * n
    if row < u.n1:  # both are large
        height = min(TILE, u.n1 - row)
        if row == column:
            dsyrk(b"L", b"N", &height, <int *> &u.m, &one, u.large + row, <int *> &u.n1, &one, to, &n)
        else:
            dgemm(b"N", b"T", &height, &width, <int *> &u.m, &one, u.large + row, <int *> &u.n1, u.large + column,
                  <int *> &u.n1, &one, to, &n)
        return
    height = min(TILE, n - row)
    small = u.small + (row - u.n1)
    if column >= u.n1:  # both are small
        other = u.small + (column - u.n1)
        gram_small += row - u.n1 + <int64_t> (column - u.n1) * ns
        if row == column:
            ssyrk(b"L", b"N", &height, <int *> &u.m, &one_small, small, &ns, &one_small, gram_small, &ns)
        else:
            sgemm(b"N", b"T", &height, &width, <int *> &u.m, &one_small, small, &ns, other, &ns, &one_small,
                  gram_small, &ns)
        return
    # Of a small with a large column single precision would leave an error of 1e-7 times both norms, up to one.
    first = 0
    while first < u.m:
        here = min(CHUNK, u.m - first)
        for r in range(here):
            for c in range(height):
                widened[r * height + c] = small[<int64_t> (first + r) * ns + c]
        dgemm(b"N", b"T", &height, &width, &here, &one, widened, &height,
              u.large + <int64_t> first * u.n1 + column, <int *> &u.n1, &one, to, &n)
        first += here


def add_split_gram(const double[:, ::1] exact_large not None, const float[:, ::1] exact_small not None,
                   double[::1, :] gram not None, float[::1, :] gram_small not None, int n_threads):
    """Add U^T U, of U = [exact_large, exact_small], to the lower triangle of gram (k, k).

    The products of small columns with each other, which need no more than single precision, go to gram_small instead.
    """
    cdef:
        Split u
        int n, t, first = 0, last
        double operations
        double *total
        float *total_small
    require(exact_small.shape[0] == exact_large.shape[0], f"{exact_large.shape[0]} and {exact_small.shape[0]} rows")
    u.m, u.n1, u.n2 = <int> exact_large.shape[0], <int> exact_large.shape[1], <int> exact_small.shape[1]
    n = u.n1 + u.n2
    require_square("gram", gram, n)
    require_square("gram_small", gram_small, u.n2)
    if u.m == 0 or n == 0:
        return
    u.large = <double *> &exact_large[0, 0] if u.n1 else NULL
    u.small = <float *> &exact_small[0, 0] if u.n2 else NULL
    total, total_small = &gram[0, 0], &gram_small[0, 0] if u.n2 else NULL
    starts = [*range(0, u.n1, TILE), *range(u.n1, n, TILE)]
    cdef:
        int[:, ::1] tiles = np.array([(r, c) for c in starts for r in starts if r >= c], dtype=np.intc)
        int n_tiles = <int> tiles.shape[0], n_used = threads_of(n_threads, n_tiles)
        double[:, ::1] widened = np.empty((n_used, TILE * CHUNK))
    operations = 2.0 * u.m * n * n / n_tiles
    while first < n_tiles:
        last = first + between_signals(n_used, n_tiles - first, operations)
        for t in prange(first, last, nogil=True, num_threads=n_used, schedule="dynamic"):
            add_tile(&u, tiles[t, 0], tiles[t, 1], total, total_small, &widened[threadid(), 0])
        first = last
        PyErr_CheckSignals()


# ---- packed matrices in single precision ------------------------------------------------------------------------

def set_residual(float[::1] residual not None, int n, int first, double[::1, :] columns not None,
                 const double[::1, :] low_rank not None, double shift, int n_threads):
    """Set columns of a packed matrix, from the diagonal of row `first` on, to those of A - U U^T.

    `columns` (n - first, w) are the ones of A, which are overwritten, `low_rank` is U (n, k).
    """
    require(0 <= first <= n and columns.shape[0] == n - first and columns.shape[1] <= n - first,
            f"{columns.shape[0]} by {columns.shape[1]} columns from row {first} of {n}")
    require(low_rank.shape[0] == n and low_rank.shape[1] < 1 << 31, f"low_rank has {low_rank.shape[0]} rows, not {n}")
    cdef:
        gdml_symmetric p = parts_of(residual, n)
        int w = <int> columns.shape[1], k = <int> low_rank.shape[1], n_tasks = (w + PANEL - 1) // PANEL, i
        double *A
        double *U
    if w == 0:
        return
    A, U = &columns[0, 0], <double *> &low_rank[0, 0] if k else NULL
    for i in prange(n_tasks, nogil=True, num_threads=threads_of(n_threads, n_tasks), schedule="dynamic"):
        set_columns(p, first + i * PANEL, min(PANEL, w - i * PANEL), A + i * PANEL + <int64_t> i * PANEL * (n - first),
                    n - first, U, k, shift)


cdef void set_columns(gdml_symmetric p, int first, int w, double *A, int ld_a, double *U, int k,
                      double shift) noexcept nogil:
    """Set columns of A - U U^T, A and what is set from the diagonal of the first one on."""
    cdef:
        int m = p.n - first, r, c, n_leading = max(0, min(w, p.n1 - first))
        int64_t ld = p.ld
        double one = 1.0, minus_one = -1.0
        float *leading = <float *> p.leading + first * (ld + 1)
        float *trailing = <float *> p.trailing + (first - p.n1) * (ld + 1)
    if k:
        dgemm(b"N", b"T", &m, &w, &k, &minus_one, U + first, &p.n, U + first, &p.n, &one, A, &ld_a)
    for c in range(w):
        A[<int64_t> c * (ld_a + 1)] *= 1.0 + shift
    for c in range(n_leading):
        for r in range(c, m):
            leading[c * ld + r] = <float> A[<int64_t> c * ld_a + r]
    for r in range(n_leading, m):  # stored as their transposes
        for c in range(n_leading, min(w, r + 1)):
            trailing[r * ld + c] = <float> A[<int64_t> c * ld_a + r]


def isolate(float[::1] a not None, int n, const int64_t[::1] rows not None):
    """Make some rows and columns of a packed matrix those of the identity."""
    require_packed(a.shape[0], n)
    cdef int64_t i, j, row
    for i in range(rows.shape[0]):
        row = rows[i]
        require(0 <= row < n, f"row {row} of {n}")
        for j in range(n):
            a[gdml_rfp_index(n, max(row, j), min(row, j))] = 1.0 if j == row else 0.0


def cholesky_single(float[::1] a not None, int n, int n_threads, int tile=TILE_ORDER):
    """`cholesky` in single precision."""
    return factorize(SINGLE, parts_of(a, n), False, tile, n_threads)


def solve_single(float[::1] a not None, const float[::1] rhs not None, int n_threads):
    """Solve with a factor from `cholesky_single`, which is read once forwards and once backwards."""
    cdef:
        int n = <int> rhs.shape[0], n2 = n // 2
        gdml_symmetric p = parts_of(a, n)
        float *x1
        float *x2
    solution = np.array(rhs)
    cdef float[::1] x = solution
    if n == 0:
        return solution
    x1, x2 = &x[0], &x[0] + p.n1
    with nogil:
        substitute_lower[float](<float *> p.leading, p.n1, p.ld, x1, n_threads)
        subtract_rows[float](n2, p.n1, p.ld, <float *> p.rectangle, x1, x2, n_threads)
        substitute_upper[float](<float *> p.trailing, n2, p.ld, x2, n_threads)
        substitute_upper_back[float](<float *> p.trailing, n2, p.ld, x2, n_threads)
        subtract_columns[float](n2, p.n1, p.ld, <float *> p.rectangle, x2, x1, n_threads)
        substitute_lower_back[float](<float *> p.leading, p.n1, p.ld, x1, n_threads)
    return solution
