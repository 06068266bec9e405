# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: binding=False, freethreading_compatible=True
"""Bindings to the native core: memoryviews in, OpenMP loops over training blocks, C kernels without the GIL.

No arithmetic of the method lives here. Shapes and indices are checked before a pointer is taken, with ValueError: C
trusts them. That numbers make sense is checked by the modules that call this one.
"""

import os

from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange, threadid
from libc.stdint cimport int16_t, int32_t, int64_t
from libc.string cimport memset

cimport numpy as cnp
import numpy as np

from gdml cimport (
    FASTGDML_ERROR_FILE, FASTGDML_ERROR_FORMAT, FASTGDML_ERROR_MEMORY, FASTGDML_SUCCESS, GDML_BUILT, GDML_CELL_GIVEN,
    GDML_DENSE,
    GDML_MAX_IMAGES, GDML_MOLECULE, GDML_ONE_CELL, GDML_RFP, fastgdml_energy_factor, fastgdml_last_error,
    fastgdml_length_factor, fastgdml_model, fastgdml_model_check_lattice, fastgdml_model_free, fastgdml_model_load,
    fastgdml_status, gdml_add_sums, gdml_block, gdml_block_begin, gdml_block_end, gdml_block_tile, gdml_cell,
    gdml_cell_init, gdml_evaluate_block, gdml_evaluation, gdml_group,
    gdml_hessian_evaluation, gdml_hessian_plan, gdml_hessians, gdml_jacobian_dot, gdml_kernel_job, gdml_kernels,
    gdml_low_rank, gdml_match, gdml_model, gdml_model_arrays, gdml_model_image, gdml_model_new, gdml_model_parts,
    gdml_model_samples_of, gdml_model_set_coefficients, gdml_n_images, gdml_pair_classes, gdml_pair_classes_free,
    gdml_pair_classes_new,
    gdml_plan, gdml_scratch_free, gdml_scratch_new, gdml_select_kernels, gdml_spanning_tree, gdml_term, gdml_tile_size,
    gdml_trace_job,
)

from .threads import prediction_threads

cnp.import_array()


cdef int check(fastgdml_status status) except -1:
    """Raise what a status stands for."""
    if status == FASTGDML_SUCCESS:
        return 0
    message = fastgdml_last_error().decode(errors="replace")
    if status == FASTGDML_ERROR_MEMORY:
        raise MemoryError(message)
    if status in (FASTGDML_ERROR_FILE, FASTGDML_ERROR_FORMAT):
        raise OSError(message)
    raise ValueError(message)


# ---- checks of arguments ----------------------------------------------------------------------------------------

cdef int refuse(str message) except -1:
    raise ValueError(message)


cdef int require(bint condition, str message) except -1:
    if not condition:
        raise ValueError(message)
    return 0


cdef int require_shape(str name, object found, tuple wanted) except -1:
    """Raise ValueError unless the shape of an argument is the one wanted."""
    shape = tuple(found.shape[:len(wanted)])
    if found.ndim != len(wanted) or shape != wanted:
        raise ValueError(f"{name} has shape {tuple(found.shape[:found.ndim])}; {wanted} expected")
    return 0


cdef int64_t pairs_of(int64_t n_atoms) except -1:
    """Number of pairs of atoms, of which there must be at least one."""
    if n_atoms < 2 or n_atoms > 1 << 15:
        raise ValueError(f"there are {n_atoms} atoms; 2 to {1 << 15} expected")
    return n_atoms * (n_atoms - 1) // 2


cdef int64_t atoms_of(int64_t n_desc) except -1:
    """Number of atoms that have so many pairs."""
    cdef int64_t n = 2
    while n * (n - 1) // 2 < n_desc:
        n += 1
    if n_desc < 1 or n * (n - 1) // 2 != n_desc:
        raise ValueError(f"descriptors have {n_desc} elements, which is no number of pairs of atoms")
    return n


ctypedef fused integer:
    int32_t
    int64_t


cdef int within(str name, const integer[::1] table, int64_t end) except -1:
    """Raise ValueError unless all numbers of a table are in 0..end-1."""
    cdef int64_t i, bad = -1
    for i in range(table.shape[0]):
        if table[i] < 0 or table[i] >= end:
            bad = i
            break
    if bad >= 0:
        raise ValueError(f"{name} holds {table[bad]}; numbers from 0 to {end - 1} expected")
    return 0


cdef int offsets(str name, const int64_t[::1] begin, int64_t n, int64_t last) except -1:
    """Raise ValueError unless begin (n + 1,) goes from 0 to last without a step down."""
    cdef int64_t i
    cdef bint fits = begin.shape[0] == n + 1 and begin[0] == 0 and begin[n] == last
    if fits:
        for i in range(n):
            fits = fits and begin[i] <= begin[i + 1]
    if not fits:
        raise ValueError(f"{name} must have {n + 1} numbers that ascend from 0 to {last}")
    return 0


cdef int coordinates(str name, const int64_t[::1] begin, const int32_t[::1] coord, int64_t n, int64_t end) except -1:
    """Raise ValueError unless each of n points has ascending coordinates in 0..end-1."""
    cdef int64_t i, k
    cdef bint ascend = True
    offsets(f"{name}_begin", begin, n, coord.shape[0])
    within(f"{name}_coord", coord, end)
    for i in range(n):
        for k in range(begin[i] + 1, begin[i + 1]):
            ascend = ascend and coord[k] > coord[k - 1]
    return require(ascend, f"{name}_coord must ascend within each point")


cdef int threads_of(int n_threads) noexcept nogil:
    """Threads of a parallel loop: at least one, and no more than any runtime can give."""
    return 1 if n_threads < 1 else 1024 if n_threads > 1024 else n_threads


cdef const gdml_kernels *select_kernels() except NULL:
    """The kernels named by FASTGDML_ISA, else the best that this processor runs."""
    name = os.environ.get("FASTGDML_ISA")
    encoded = name.encode() if name else None
    cdef const char *isa = NULL
    if encoded is not None:
        isa = encoded
    cdef const gdml_kernels *kernels = gdml_select_kernels(isa)
    if kernels is NULL:
        raise RuntimeError(
            f"FASTGDML_ISA={name}: no such instruction set here; use baseline, v3 or v4 (x86-64 levels that this "
            "processor supports) or unset the variable."
        )
    return kernels


def isa_name():
    """Name of the instruction set in use: baseline, v3 or v4."""
    return select_kernels().name.decode()


# Multiplications of one thread between two looks at signals, as of Ctrl-C: a fraction of a second.
cdef double SIGNAL_STRIDE = 3e8


cdef int64_t pieces_at_once(double operations, int n_threads) noexcept nogil:
    """Return how many pieces of so many operations to compute until signals are looked at; enough for all threads."""
    cdef double n = SIGNAL_STRIDE * n_threads / (operations + 1)
    return max(16 * n_threads, <int64_t> n)


cdef class Scratch:
    """Aligned memory, `n_bytes` for each of n_threads threads. Allocated outside the parallel regions."""
    cdef char *data
    cdef size_t stride

    def __cinit__(self, int n_threads, size_t n_bytes):
        if n_threads <= 0:                                # no message is made in the path of a single prediction
            refuse(f"scratch is wanted for {n_threads} threads")
        self.stride = (n_bytes + 255) // 256 * 256        # threads never share a cache line
        self.data = <char *> gdml_scratch_new(n_threads * self.stride)
        if self.data is NULL:
            raise MemoryError(f"No memory for {n_threads} threads with {n_bytes / 2**20:.1f} MiB of scratch each.")

    def __dealloc__(self):
        gdml_scratch_free(self.data)

    cdef void *at(self, int64_t thread) noexcept nogil:
        return self.data + thread * self.stride


cdef extern from *:
    """
    #ifdef _OPENMP
    #define GDML_OPENMP _OPENMP
    #else
    #define GDML_OPENMP 0
    #endif
    """
    int GDML_OPENMP


def openmp_version():
    """Date of the OpenMP standard that the parallel loops were compiled for, 0 without OpenMP."""
    return GDML_OPENMP


# ---- descriptor -------------------------------------------------------------------------------------------------

cdef class Cells:
    """Periodic cells, prepared: one for all geometries, or one for each.

    Parameters
    ----------
    lattices : lattice vectors as columns (n, 3, 3), invertible
    minimum : fold to the nearest image, or by sGDML's rule
    """
    cdef gdml_cell *cell
    cdef readonly int64_t n_cells

    def __cinit__(self, const double[:, :, ::1] lattices not None, bint minimum):
        cdef int64_t i
        cdef const char *problem
        require_shape("lattices", lattices, (lattices.shape[0], 3, 3))
        self.n_cells = lattices.shape[0]
        self.cell = <gdml_cell *> gdml_scratch_new(max(self.n_cells, <int64_t> 1) * sizeof(gdml_cell))
        if self.cell is NULL:
            raise MemoryError(f"No memory for {self.n_cells} cells.")
        for i in range(self.n_cells):
            problem = gdml_cell_init(&self.cell[i], &lattices[i, 0, 0], minimum)
            if problem is not NULL:
                raise ValueError((<bytes> problem).decode() + (f" (cell {i})" if self.n_cells > 1 else ""))

    def __dealloc__(self):
        gdml_scratch_free(self.cell)

    cdef int64_t step(self, int64_t n_geo) except -1:
        """Cells from one geometry to the next, of so many geometries."""
        if self.n_cells != 1 and self.n_cells != n_geo:
            raise ValueError(f"there are {self.n_cells} cells for {n_geo} geometries")
        return self.n_cells > 1

    def tables(self):
        """Bases (n, 3, 3), their inverses (n, 3, 3), and shifts (n, n_shifts, 3), zeros where a cell has fewer."""
        cdef int64_t i, k, m, most = 0
        for i in range(self.n_cells):
            most = max(most, self.cell[i].n_shifts)
        cdef double[:, ::1] basis = np.empty((self.n_cells, 9))
        cdef double[:, ::1] inverse = np.empty((self.n_cells, 9))
        cdef double[:, :, ::1] shift = np.zeros((self.n_cells, most, 3))
        for i in range(self.n_cells):
            for k in range(9):
                basis[i, k] = self.cell[i].basis[k]
                inverse[i, k] = self.cell[i].inverse[k]
            for k in range(self.cell[i].n_shifts):
                for m in range(3):
                    shift[i, k, m] = self.cell[i].shift[k][m]
        return np.asarray(basis).reshape(-1, 3, 3), np.asarray(inverse).reshape(-1, 3, 3), np.asarray(shift)


def descriptors(const double[:, :, ::1] R not None, Cells cells, double[:, ::1] x not None,
                double[:, :, ::1] g not None, int n_threads):
    """Fill x (M, D) and g (M, D, 3). Return the first geometry with coincident atoms and the pair, or None.

    cells : one, or one for each geometry; None for molecules
    """
    cdef:
        const gdml_kernels *kernels = select_kernels()
        int64_t n_geo = R.shape[0], n_atoms = R.shape[1], i, bad_geo = -1
        const gdml_cell *cell = NULL
        int64_t step = 0
        int64_t[::1] bad = np.full(n_geo, -1, dtype=np.int64)
    require_shape("R", R, (n_geo, n_atoms, 3))
    require_shape("x", x, (n_geo, pairs_of(n_atoms)))
    require_shape("g", g, (n_geo, x.shape[1], 3))
    if cells is not None:
        cell = cells.cell
        step = cells.step(n_geo)
    if n_geo == 0:
        return None
    for i in prange(n_geo, nogil=True, num_threads=threads_of(n_threads), schedule="static"):
        bad[i] = kernels.descriptor(n_atoms, &R[i, 0, 0], cell_at(cell, i * step), &x[i, 0], &g[i, 0, 0])
    for i in range(n_geo):
        if bad[i] >= 0:
            bad_geo = i
            break
    return None if bad_geo < 0 else (bad_geo, bad[bad_geo])


cdef inline const gdml_cell *cell_at(const gdml_cell *cells, int64_t i) noexcept nogil:
    return NULL if cells is NULL else cells + i


# ---- kernel matrix ----------------------------------------------------------------------------------------------

cdef const int32_t *rows32(str name, const int32_t[:, ::1] table, int64_t n, int64_t m) except? NULL:
    """The numbers of a table (n, m); n -1: any."""
    require_shape(name, table, (table.shape[0] if n < 0 else n, m))
    return &table[0, 0] if table.shape[0] and m else NULL


cdef int check_permutations(const gdml_group *group) except -1:
    """Raise ValueError unless `inverse` inverts `perm`, and `pair` is what it does to pairs of atoms."""
    cdef:
        int64_t p, a, b, k, n = group.n_atoms, n_desc = n * (n - 1) // 2
        const int32_t *perm = group.perm
        const int32_t *inverse = group.inverse
        const int32_t *pair = group.pair
        int32_t one, other
        bint fits = True
    with nogil:
        for p in range(group.n_perms):
            for a in range(n):
                fits = fits and 0 <= perm[p * n + a] < n and inverse[p * n + perm[p * n + a]] == a
            k = p * n_desc
            for a in range(n if fits else 0):
                one = inverse[p * n + a]
                for b in range(a):
                    other = inverse[p * n + b]
                    fits = fits and pair[k] == (one * (one - 1) // 2 + other if one > other
                                                else other * (other - 1) // 2 + one)
                    k += 1
    return require(fits, "the tables of permutations contradict each other")


cdef int check_terms(str name, const int64_t[::1] begin, const int32_t[:, ::1] terms,
                     const gdml_group *group) except -1:
    """Raise ValueError unless terms (n, 3) name atoms, sources and subsets of the group."""
    cdef int64_t i
    cdef bint fits = True
    offsets(f"{name}_begin", begin, group.n_atoms * group.n_atoms, terms.shape[0])
    for i in range(terms.shape[0]):
        fits = (fits and 0 <= terms[i, 0] < group.n_atoms and 0 <= terms[i, 1] < group.n_atoms
                and 0 <= terms[i, 2] < group.n_subsets)
    return require(fits, f"{name}_term names an atom or a subset that there is not")


cdef int check_partners(const int64_t[::1] fixed_begin, const int32_t[::1] fixed, const int64_t[::1] moving_begin,
                        const int32_t[::1] moving, int64_t n) except -1:
    """Raise ValueError unless the partners of each atom are all others, each once."""
    cdef int64_t a, k
    cdef int64_t[::1] seen = np.full(n, -1, dtype=np.int64)
    cdef bint fits = True
    offsets("fixed_begin", fixed_begin, n, fixed.shape[0])
    offsets("moving_begin", moving_begin, n, moving.shape[0])
    within("fixed", fixed, n)
    within("moving", moving, n)
    for a in range(n):
        seen[a] = a
        for k in range(fixed_begin[a], fixed_begin[a + 1]):
            fits = fits and seen[fixed[k]] != a
            seen[fixed[k]] = a
        for k in range(moving_begin[a], moving_begin[a + 1]):
            fits = fits and seen[moving[k]] != a
            seen[moving[k]] = a
        fits = fits and fixed_begin[a + 1] - fixed_begin[a] + moving_begin[a + 1] - moving_begin[a] == n - 1
    return require(fits, "fixed and moving must name each partner of each atom once")


cdef gdml_group native_group(tables, int64_t n_desc) except *:
    """The tables of a GroupTables as C pointers, checked; the caller keeps the GroupTables alive."""
    cdef:
        gdml_group group
        const int32_t[:, ::1] perm = tables.perm, column_term = tables.column_term, image_term = tables.image_term
        const int64_t[::1] subset_begin = tables.subset_begin, column_begin = tables.column_begin
        const int64_t[::1] image_begin = tables.image_begin, fixed_begin = tables.fixed_begin
        const int64_t[::1] moving_begin = tables.moving_begin
        const int32_t[::1] subset_perm = tables.subset_perm, fixed = tables.fixed, moving = tables.moving
    for name in ("perm", "inverse", "pair", "column_term", "image_term", "subset_begin", "column_begin", "image_begin",
                 "fixed_begin", "moving_begin", "subset_perm", "fixed", "moving"):
        require(getattr(tables, name) is not None, "a table of permutations is missing")
    group.n_perms = perm.shape[0]
    group.n_atoms = atoms_of(n_desc)
    group.n_subsets = subset_begin.shape[0] - 1
    require(group.n_perms > 0, "there are no permutations")
    group.perm = rows32("perm", perm, -1, group.n_atoms)
    group.inverse = rows32("inverse", tables.inverse, group.n_perms, group.n_atoms)
    group.pair = rows32("pair", tables.pair, group.n_perms, n_desc)
    check_permutations(&group)
    offsets("subset_begin", subset_begin, group.n_subsets, subset_perm.shape[0])
    within("subset_perm", subset_perm, group.n_perms)
    rows32("column_term", column_term, -1, 3)
    rows32("image_term", image_term, -1, 3)
    check_terms("column", column_begin, column_term, &group)
    check_terms("image", image_begin, image_term, &group)
    check_partners(fixed_begin, fixed, moving_begin, moving, group.n_atoms)
    group.subset_begin = &subset_begin[0]
    group.subset_perm = &subset_perm[0]
    group.column_begin = &column_begin[0]
    group.column_term = <const gdml_term *> &column_term[0, 0]
    group.image_begin = &image_begin[0]
    group.image_term = <const gdml_term *> &image_term[0, 0]
    group.fixed_begin = &fixed_begin[0]
    group.fixed = &fixed[0]
    group.moving_begin = &moving_begin[0]
    group.moving = &moving[0]
    return group


cdef class KernelAssembly:
    """A kernel matrix to be filled piece by piece, so that callers can report progress between pieces.

    Parameters
    ----------
    x, g : descriptors (M, D) and compressed Jacobians (M, D, 3)
    tables : index tables of the permutation group, a GroupTables
    row_begin, row_coord : which coordinates of each training point are rows
    col_point, col_begin, col_coord : which points, and which of their coordinates, are columns
    data : flat output; dense column-major, or rectangular full packed
    """
    cdef gdml_kernel_job job
    cdef readonly int lanes
    cdef tuple keep_alive

    def __init__(self, const double[:, ::1] x not None, const double[:, :, ::1] g not None, object tables, double sig,
                 const int64_t[::1] row_begin not None, const int32_t[::1] row_coord not None,
                 const int64_t[::1] col_point not None, const int64_t[::1] col_begin not None,
                 const int32_t[::1] col_coord not None, double[::1] data not None, double scale, bint packed):
        cdef int64_t n_train = x.shape[0], n_rows = row_coord.shape[0], n_cols = col_coord.shape[0]
        self.keep_alive = None
        require(n_train > 0, "there are no training points")
        require(sig > 0, f"sig is {sig}")
        require_shape("g", g, (n_train, x.shape[1], 3))
        self.job.group = native_group(tables, x.shape[1])
        coordinates("row", row_begin, row_coord, n_train, 3 * self.job.group.n_atoms + 1)
        coordinates("col", col_begin, col_coord, col_point.shape[0], 3 * self.job.group.n_atoms + 1)
        within("col_point", col_point, n_train)
        require_shape("data", data, (n_rows * (n_rows + 1) // 2 if packed else n_rows * n_cols,))
        require(not packed or (np.array_equal(col_point, np.arange(n_train)) and np.array_equal(row_begin, col_begin)
                               and np.array_equal(row_coord, col_coord)),
                "rows and columns of a packed matrix must be the same")
        self.lanes = select_kernels().lanes
        self.job.n_train = x.shape[0]
        self.job.sig = sig
        self.job.x = &x[0, 0]
        self.job.g = &g[0, 0, 0]
        self.job.target.storage = GDML_RFP if packed else GDML_DENSE
        self.job.target.data = &data[0]
        self.job.target.n_rows = row_coord.shape[0]
        self.job.target.scale = scale
        self.job.target.row_begin = &row_begin[0]
        self.job.target.row_coord = &row_coord[0]
        self.job.target.n_col_points = col_point.shape[0]
        self.job.target.col_point = &col_point[0]
        self.job.target.col_begin = &col_begin[0]
        self.job.target.col_coord = &col_coord[0]
        self.keep_alive = (x, g, tables, row_begin, row_coord, col_point, col_begin, col_coord, data)

    def fill(self, const int64_t[:, ::1] items not None, int n_threads):
        """Compute the work items (first training point of a tile of rows, first and last column point)."""
        require(self.keep_alive is not None, "this object was not initialised")
        require_shape("items", items, (items.shape[0], 3))
        cdef:
            const gdml_kernels *kernels = select_kernels()
            int n_used = threads_of(n_threads)
            Scratch scratch = Scratch(n_used, kernels.assembly.scratch(&self.job.group))
            int64_t i
        for i in range(items.shape[0]):
            if not (0 <= items[i, 0] < self.job.n_train and
                    0 <= items[i, 1] <= items[i, 2] <= self.job.target.n_col_points):
                refuse(f"item {i} is {np.asarray(items[i])}: no training point, or no columns")
        for i in prange(items.shape[0], nogil=True, num_threads=n_used, schedule="dynamic", chunksize=1):
            kernels.assembly.tile(&self.job, items[i, 0], items[i, 1], items[i, 2], scratch.at(threadid()))


def trace_derivatives(const double[:, ::1] x not None, const double[:, :, ::1] g not None, object tables, double sig,
                      const int64_t[::1] row_begin not None, const int32_t[::1] row_coord not None,
                      const double[::1, :] a not None, int n_threads):
    """Derivatives (D,) of tr(A K) by the logarithms of weights of pairs; see trace.c.

    Parameters
    ----------
    x, g : descriptors (M, D) and compressed Jacobians (M, D, 3)
    tables : index tables of the permutation group, a GroupTables
    row_begin, row_coord : which coordinates of each training point are rows, without energies
    a : symmetric matrix A in Fortran order, of which the lower triangle is read
    """
    cdef:
        const gdml_kernels *kernels = select_kernels()
        gdml_trace_job job
        Scratch scratch
        int n_used = threads_of(n_threads)
        int64_t i, first = 0, last, n_train = x.shape[0]
        double[:, ::1] rows = np.empty((n_train, x.shape[1]))
    require(n_train > 0, "there are no training points")
    require_shape("g", g, (n_train, x.shape[1], 3))
    require_shape("a", a, (row_coord.shape[0], row_coord.shape[0]))
    job.group = native_group(tables, x.shape[1])
    coordinates("row", row_begin, row_coord, n_train, 3 * job.group.n_atoms)
    job.sig = sig
    job.x = &x[0, 0]
    job.g = &g[0, 0, 0]
    job.a = &a[0, 0]
    job.n_rows = a.shape[0]
    job.row_begin = &row_begin[0]
    job.row_coord = &row_coord[0]
    scratch = Scratch(n_used, kernels.trace.scratch(&job.group))
    while first < n_train:
        last = min(first + 16 * n_used, n_train)
        for i in prange(first, last, nogil=True, num_threads=n_used, schedule="dynamic", chunksize=1):
            kernels.trace.row(&job, n_train - 1 - i, &rows[n_train - 1 - i, 0], scratch.at(threadid()))
        PyErr_CheckSignals()
        first = last
    return np.asarray(rows).sum(axis=0)


# ---- prediction -------------------------------------------------------------------------------------------------

def tile_size(int64_t n_train, int64_t n_rows):
    """Number of training points that prediction takes at a time; see gdml_tile_size."""
    require(0 < n_train < 1 << 31 and 0 < n_rows < 1 << 31, f"there are {n_train} points and {n_rows} rows")
    return gdml_tile_size(n_train, n_rows)


def pair_classes(const int32_t[:, ::1] images not None, int64_t max_images=GDML_MAX_IMAGES):
    """The classes of pairs with images (P, D), a dict of the tables of gdml_pair_classes."""
    cdef gdml_pair_classes c
    cdef int64_t n_perms = images.shape[0]
    require(images.shape[0] > 0 and images.shape[1] > 0 and images.shape[0] * images.shape[1] < 1 << 31,
            f"images of shape {(images.shape[0], images.shape[1])}")
    within[int32_t]("images", np.asarray(images).ravel(), images.shape[1])
    if not gdml_pair_classes_new(&c, n_perms, images.shape[1], &images[0, 0], max_images):
        raise MemoryError("No memory for the tables of permutations.")
    try:
        return {
            "order": int32_copy(c.order, images.shape[1]),
            "class_begin": int32_copy(c.class_begin, c.n_classes + 1),
            "class_image": int32_copy(c.class_image, c.n_classes + 1),
            "image_begin": int32_copy(c.image_begin, c.n_classes + 1),
            "image_pair": int32_copy(c.image_pair, c.n_pair_images),
            "perm_image": int32_copy(c.perm_image, c.n_classes * n_perms).reshape(-1, n_perms),
            "image_perm_begin": int32_copy(c.image_perm_begin, c.n_images + 1),
            "image_perm": int32_copy(c.image_perm, c.n_classes * n_perms),
        }
    finally:
        gdml_pair_classes_free(&c)


cdef object int32_copy(const int32_t *table, int64_t n):
    return np.array(<const int32_t[:n]> table) if n else np.empty(0, dtype=np.int32)


cdef class Model:
    """A model of the C library, laid out for prediction. Safe to share between threads while coefficients stay.

    Made by the functions `model_from_arrays` and `model_from_file`.
    """
    cdef gdml_model *model

    def __dealloc__(self):
        fastgdml_model_free(<fastgdml_model *> self.model)

    cdef gdml_model *get(self) except NULL:
        """The model that the functions which make one have put here."""
        if self.model is NULL:
            refuse("this object holds no model: make one with model_from_arrays or model_from_file")
        return self.model

    @property
    def address(self):
        """The fastgdml_model *, valid as long as this object."""
        return <size_t> self.get()

    @property
    def n_pair_images(self):
        """Distinct images of all pairs under the permutations, sum_h n_h D_h."""
        return gdml_n_images(&self.get().predictor)

    def properties(self):
        """What the model records, by the keys of model files; strings empty where unknown."""
        cdef const gdml_model *m = self.get()
        entries = {
            "z": np.array(<const int32_t[:m.predictor.n_atoms]> m.z, dtype=np.int64),
            "sig": m.predictor.sig,
            "std": m.std,
            "c": m.c,
            "n_train": m.n_train,
            "n_perms": m.predictor.n_perms,
            "e_unit": m.energy_unit.decode(errors="replace"),
            "r_unit": m.length_unit.decode(errors="replace"),
            "dataset_name": m.name.decode(errors="replace"),
            "dataset_theory": m.theory.decode(errors="replace"),
            "periodic": m.periodicity != GDML_MOLECULE,
            "minimum_image": bool(m.minimum_image),
            "n_std": m.samples.n,
            "std_scale": m.std_scale if m.samples.n else 1.0,
        }
        if m.weights is not NULL:
            n_desc = m.predictor.n_atoms * (m.predictor.n_atoms - 1) // 2
            entries["desc_weights"] = np.array(<const double[:n_desc]> m.weights)
        if m.periodicity == GDML_ONE_CELL:
            entries["lattice"] = np.array([m.lattice[i] for i in range(9)]).reshape(3, 3)
        return entries

    def check_lattice(self, const double[:, ::1] lattice not None):
        """Raise ValueError unless the model was trained in this cell (columns, its unit), which may be turned."""
        require_shape("lattice", lattice, (3, 3))
        check(fastgdml_model_check_lattice(<fastgdml_model *> self.get(), &lattice[0, 0]))

    def arrays(self):
        """What the model was made from: pair_images, x, v, energies of `model_from_arrays`; energies may be None."""
        cdef int64_t n_atoms = self.get().predictor.n_atoms, n_train = self.model.n_train
        cdef int64_t n_desc = n_atoms * (n_atoms - 1) // 2
        cdef int32_t[:, ::1] images = np.empty((self.model.predictor.n_perms, n_desc), dtype=np.int32)
        cdef double[:, ::1] x = np.empty((n_train, n_desc)), v = np.empty((n_train, n_desc))
        cdef double[::1] energies = np.empty(n_train)
        gdml_model_arrays(self.model, &images[0, 0], &x[0, 0], &v[0, 0], &energies[0])
        return (np.asarray(images), np.asarray(x), np.asarray(v),
                np.asarray(energies) if self.model.predictor.energy else None)

    def samples(self):
        """Its samples for standard deviations: std_v, std_energies (or None), std_c of `model_from_arrays`."""
        cdef int64_t n_atoms = self.get().predictor.n_atoms, n_train = self.model.n_train, n_std = self.model.samples.n
        cdef double[:, :, ::1] v = np.empty((n_std, n_train, n_atoms * (n_atoms - 1) // 2))
        cdef double[:, ::1] energies = np.empty((n_std, n_train))
        cdef double[::1] c = np.empty(n_std)
        if n_std:
            gdml_model_samples_of(self.model, &v[0, 0, 0], &energies[0, 0], &c[0])
        return np.asarray(v), np.asarray(energies) if self.model.samples.energy else None, np.asarray(c)

    def image(self):
        """The content of a model file."""
        cdef size_t size = 0
        cdef const char *data = <const char *> gdml_model_image(self.get(), &size)
        return data[:size]

    def set_jacobian_dot(self, const double[:, :, ::1] g not None, const double[:, ::1] vectors not None,
                         const double[::1] energies, int n_threads):
        """Replace the coefficients by J v of g (M, D, 3) and vectors (M, 3 N), and those of energies (M,)."""
        cdef:
            int64_t n_atoms = self.get().predictor.n_atoms, n_train = self.model.n_train, j
            int64_t n_desc = pairs_of(n_atoms)
            int n_used = threads_of(n_threads)
            Scratch scratch = Scratch(n_used, n_desc * sizeof(double))
            double *v
            const double *energy = NULL if energies is None else &energies[0]
        require(self.model.origin == GDML_BUILT, "the coefficients of a model file cannot be replaced")
        require_shape("g", g, (n_train, n_desc, 3))
        require_shape("vectors", vectors, (n_train, 3 * n_atoms))
        if energies is not None:
            require_shape("energies", energies, (n_train,))
        for j in prange(n_train, nogil=True, num_threads=n_used, schedule="static"):
            v = <double *> scratch.at(threadid())
            gdml_jacobian_dot(n_atoms, &g[j, 0, 0], &vectors[j, 0], v)
            gdml_model_set_coefficients(self.model, j, j + 1, v, NULL if energy is NULL else energy + j)

    def predict(self, cnp.ndarray R not None, Cells cells, bint energies, bint forces, bint virials, int n_threads):
        """Predict R (n_geo, 3 N), C-contiguous float64.

        cells : one, or one for each geometry; None for molecules

        Returns energies (n_geo,), forces (n_geo, 3 N), virials (n_geo, 3, 3), None where not wanted, and the first
        geometry with coincident atoms, or -1.
        """
        # NumPy's C interface, because with memoryviews a single geometry would take half as long again.
        cdef gdml_evaluation e
        if (cnp.PyArray_NDIM(R) != 2 or cnp.PyArray_TYPE(R) != cnp.NPY_DOUBLE or not cnp.PyArray_ISCARRAY_RO(R)
                or cnp.PyArray_DIM(R, 1) != 3 * self.get().predictor.n_atoms):
            refuse(f"R of {R.dtype} and shape {np.shape(R)}; C-contiguous float64 of shape (n_geo, "
                   f"{3 * self.model.predictor.n_atoms}) expected")
        cdef cnp.npy_intp[3] shape = [cnp.PyArray_DIM(R, 0), cnp.PyArray_DIM(R, 1), 0]
        E = F = virial = None
        memset(&e, 0, sizeof(e))
        e.n_geo = shape[0]
        e.r = <const double *> cnp.PyArray_DATA(R)
        if cells is not None:
            e.cells = cells.cell
            e.cell_step = cells.step(e.n_geo)
        if energies:
            E = cnp.PyArray_EMPTY(1, shape, cnp.NPY_DOUBLE, 0)
            e.energy = <double *> cnp.PyArray_DATA(E)
        if forces:
            F = cnp.PyArray_EMPTY(2, shape, cnp.NPY_DOUBLE, 0)
            e.force = <double *> cnp.PyArray_DATA(F)
        if virials:
            shape[1] = shape[2] = 3
            virial = cnp.PyArray_EMPTY(3, shape, cnp.NPY_DOUBLE, 0)
            e.virial = <double *> cnp.PyArray_DATA(virial)
        return E, F, virial, -1 if e.n_geo == 0 else self.evaluate(&e, n_threads)

    def predict_std(self, const double[:, ::1] R not None, Cells cells, int n_threads):
        """Predictions of R (n_geo, 3 N), and their standard deviations, of a model with samples.

        cells : one, or one for each geometry; None for molecules

        Returns energies (n_geo,), forces (n_geo, 3 N), virials (n_geo, 3, 3), standard deviations of energies (n_geo,)
        and forces (n_geo, N), and the first geometry with coincident atoms, or -1.
        """
        require_shape("R", R, (R.shape[0], 3 * self.get().predictor.n_atoms))
        cdef:
            gdml_evaluation e
            double[::1] E = np.empty(R.shape[0]), E_std = np.empty(R.shape[0])
            double[:, ::1] F = np.empty((R.shape[0], R.shape[1])), F_std = np.empty((R.shape[0], R.shape[1] // 3))
            double[:, :, ::1] virial = np.empty((R.shape[0], 3, 3))
            int64_t bad = -1
        require(self.model.samples.n > 0, "the model has no samples for standard deviations")
        memset(&e, 0, sizeof(e))
        if R.shape[0]:
            e.n_geo = R.shape[0]
            e.r = &R[0, 0]
            if cells is not None:
                e.cells = cells.cell
                e.cell_step = cells.step(e.n_geo)
            e.energy = &E[0]
            e.force = &F[0, 0]
            e.virial = &virial[0, 0, 0]
            e.energy_std = &E_std[0]
            e.force_std = &F_std[0, 0]
            bad = self.evaluate(&e, n_threads)
        return np.asarray(E), np.asarray(F), np.asarray(virial), np.asarray(E_std), np.asarray(F_std), bad

    def hessian(self, const double[:, ::1] R not None, Cells cells, int n_threads):
        """Energies, forces and second derivatives of R (n_geo, 3 N).

        cells : one, or one for each geometry; None for molecules

        Returns energies (n_geo,), forces (n_geo, 3 N), Hessians (n_geo, 3 N, 3 N), and the first geometry with
        coincident atoms, or -1.
        """
        require_shape("R", R, (R.shape[0], 3 * self.get().predictor.n_atoms))
        cdef:
            gdml_hessian_evaluation e
            double[::1] E = np.empty(R.shape[0])
            double[:, ::1] F = np.empty((R.shape[0], R.shape[1]))
            double[:, :, ::1] H = np.empty((R.shape[0], R.shape[1], R.shape[1]))
            int64_t bad = -1
        memset(&e, 0, sizeof(e))
        if R.shape[0]:
            e.prediction.model = self.model
            e.prediction.kernels = self.model.kernels
            e.prediction.n_geo = R.shape[0]
            e.prediction.r = &R[0, 0]
            if cells is not None:
                e.prediction.cells = cells.cell
                e.prediction.cell_step = cells.step(R.shape[0])
            e.prediction.energy = &E[0]
            e.prediction.force = &F[0, 0]
            e.hessian = &H[0, 0, 0]
            gdml_hessian_plan(&e, threads_of(n_threads))
            if e.n_threads == 1:
                bad = self.evaluate_hessians(&e)
            else:
                gdml_hessian_plan(&e, prediction_threads.join(threads_of(n_threads)))
                try:
                    bad = self.evaluate_hessians(&e)
                finally:
                    prediction_threads.leave()
        return np.asarray(E), np.asarray(F), np.asarray(H), bad

    cdef int64_t evaluate_hessians(self, const gdml_hessian_evaluation *e) except -2:
        cdef Scratch scratch = Scratch(1, e.scratch_bytes)
        cdef int64_t bad
        with nogil:
            bad = gdml_hessians(e, scratch.at(0))
        return bad

    def predict_descriptors(self, const double[:, ::1] x not None, const double[:, :, ::1] g not None,
                            double[::1] E not None, double[:, ::1] F not None, int n_threads):
        """Energies and forces for descriptors x (n_geo, D) and compressed Jacobians g (n_geo, D, 3)."""
        cdef gdml_evaluation e
        cdef int64_t n_atoms = self.get().predictor.n_atoms
        require_shape("x", x, (x.shape[0], pairs_of(n_atoms)))
        require_shape("g", g, (x.shape[0], x.shape[1], 3))
        require_shape("E", E, (x.shape[0],))
        require_shape("F", F, (x.shape[0], 3 * n_atoms))
        if x.shape[0] == 0:
            return
        memset(&e, 0, sizeof(e))
        e.n_geo = x.shape[0]
        e.x = &x[0, 0]
        e.g = &g[0, 0, 0]
        e.energy = &E[0]
        e.force = &F[0, 0]
        self.evaluate(&e, n_threads)

    cdef int64_t evaluate(self, gdml_evaluation *e, int n_threads) except -2:
        e.model = self.get()
        e.kernels = self.model.kernels
        n_threads = threads_of(n_threads)
        gdml_plan(e, n_threads)
        if e.n_threads == 1:
            return self.predict_blocks(e)
        # Calls that are under way at once in several Python threads share the processors.
        gdml_plan(e, prediction_threads.join(n_threads))
        try:
            return self.predict_tiles(e) if e.over_tiles else self.predict_blocks(e)
        finally:
            prediction_threads.leave()

    cdef int64_t predict_blocks(self, const gdml_evaluation *e) except -2:
        """Parallel over blocks of geometries."""
        cdef:
            Scratch scratch = Scratch(e.n_threads, e.scratch_bytes)
            int64_t b, first = 0, last, bad = -1
            int64_t at_once = pieces_at_once(<double> e.n_query * self.model.n_train * (1 + self.model.samples.n) *
                                             gdml_n_images(&self.model.predictor), e.n_threads)
            int64_t[::1] unusable
        if e.n_threads > 1:
            unusable = np.empty(e.n_blocks, dtype=np.int64)
        while first < e.n_blocks:
            last = min(first + at_once, e.n_blocks)
            if e.n_threads == 1:
                with nogil:
                    for b in range(first, last):
                        bad = first_of(bad, gdml_evaluate_block(e, b, scratch.at(0)))
            else:
                for b in prange(first, last, nogil=True, num_threads=e.n_threads, schedule="dynamic", chunksize=1):
                    unusable[b] = gdml_evaluate_block(e, b, scratch.at(threadid()))
                for b in range(first, last):
                    bad = first_of(bad, unusable[b])
            PyErr_CheckSignals()
            first = last
        return bad

    cdef int64_t predict_tiles(self, const gdml_evaluation *e) except -2:
        """One block of geometries after the other, parallel over tiles of training points."""
        cdef:
            Scratch scratch = Scratch(e.n_threads, e.scratch_bytes)
            gdml_block block
            int64_t b, t, n, begin, bad = -1, n_tiles = self.model.predictor.n_tiles
            double[:, ::1] sums = np.empty((e.n_held, e.n_sums))
        for b in range(e.n_blocks):
            bad = first_of(bad, gdml_block_begin(e, b, scratch.at(0), &block))
            for begin in range(0, n_tiles, e.n_held):
                n = min(e.n_held, n_tiles - begin)
                memset(&sums[0, 0], 0, n * e.n_sums * sizeof(double))
                for t in prange(n, nogil=True, num_threads=e.n_threads, schedule="static"):
                    gdml_block_tile(e, &block, begin + t, &sums[t, 0], scratch.at(threadid()))
                gdml_add_sums(e, n, &sums[0, 0], &block)
                PyErr_CheckSignals()
            gdml_block_end(e, &block)
        return bad


cdef inline int64_t first_of(int64_t known, int64_t found) noexcept nogil:
    return found if known < 0 else known


def model_from_arrays(const int32_t[::1] z not None, const int32_t[:, ::1] pair_images not None,
                      const double[:, ::1] x not None,
                      const double[:, ::1] v, const double[::1] energies, bint has_energies, double sig, double std,
                      double c, *, bint periodic=False, bint minimum_image=False, const double[:, ::1] lattice=None,
                      bytes energy_unit=b"", bytes length_unit=b"", bytes name=b"", bytes theory=b"",
                      const double[::1] weights=None, const double[:, :, ::1] std_v=None,
                      const double[:, ::1] std_energies=None, const double[::1] std_c=None, double std_scale=1.0):
    """Make a Model.

    Parameters
    ----------
    z : atomic numbers (N,)
    pair_images : pair of the query that stands for each pair of the training points, (P, D)
    x, v : descriptors and J alpha of the training points (M, D); v None: zero until they are set
    energies : coefficients of energy constraints (M,), or None
    has_energies : whether there is room for such coefficients
    sig, std, c : length scale, scale and offset of the energy
    periodic, minimum_image, lattice : whether there is a cell, by which rule, and which (None: given at each call)
    energy_unit, length_unit, name, theory : texts to record, cut where they are too long
    weights : of pairs (D,), or None
    std_v, std_energies, std_c : of samples for standard deviations, J alpha (S, M, D), coefficients of energy
        constraints (S, M) or None, and offsets of the energy (S,); None: there are none
    std_scale : what standard deviations are multiplied by
    """
    cdef gdml_model_parts parts
    cdef Model made = Model()
    memset(&parts, 0, sizeof(parts))
    require(x.shape[0] > 0, "a model needs at least one training point")
    require_shape("x", x, (x.shape[0], pairs_of(z.shape[0])))
    require_shape("pair_images", pair_images, (max(pair_images.shape[0], 1), x.shape[1]))
    for each, argument, wanted in (("v", v, (x.shape[0], x.shape[1])), ("energies", energies, (x.shape[0],)),
                                   ("weights", weights, (x.shape[1],)), ("lattice", lattice, (3, 3))):
        if argument is not None:
            require_shape(each, argument, wanted)
    parts.n_atoms = z.shape[0]
    parts.n_train = x.shape[0]
    parts.n_perms = pair_images.shape[0]
    parts.z = &z[0]
    parts.pair_images = &pair_images[0, 0]
    parts.x = &x[0, 0]
    parts.v = NULL if v is None else &v[0, 0]
    parts.energies = NULL if energies is None else &energies[0]
    parts.has_energies = has_energies
    parts.weights = NULL if weights is None else &weights[0]
    if std_v is not None:
        require(std_v.shape[0] > 0 and std_c is not None, "samples have no constants, or there are none")
        require_shape("std_v", std_v, (std_v.shape[0], x.shape[0], x.shape[1]))
        require_shape("std_c", std_c, (std_v.shape[0],))
        if std_energies is not None:
            require_shape("std_energies", std_energies, (std_v.shape[0], x.shape[0]))
        parts.samples.n = std_v.shape[0]
        parts.samples.v = &std_v[0, 0, 0]
        parts.samples.energies = NULL if std_energies is None else &std_energies[0, 0]
        parts.samples.c = &std_c[0]
        parts.samples.scale = std_scale
    parts.sig = sig
    parts.std = std
    parts.c = c
    parts.periodicity = GDML_MOLECULE if not periodic else GDML_CELL_GIVEN if lattice is None else GDML_ONE_CELL
    parts.minimum_image = minimum_image
    parts.lattice = NULL if lattice is None else &lattice[0, 0]
    parts.energy_unit = energy_unit
    parts.length_unit = length_unit
    parts.name = name
    parts.theory = theory
    check(gdml_model_new(&parts, &made.model))
    return made


def model_from_file(bytes path):
    """Map a flat model file."""
    cdef Model made = Model()
    require(path is not None and 0 not in path, "a file name without a zero byte is expected")
    check(fastgdml_model_load(path, <fastgdml_model **> &made.model))
    return made


def energy_factor(str unit not None, str to not None):
    """Size of a unit of energy in another. Raises ValueError when one is unknown."""
    cdef double factor
    check(fastgdml_energy_factor(unit.encode(), to.encode(), &factor))
    return factor


def length_factor(str unit not None, str to not None):
    """Size of a unit of length in another. Raises ValueError when one is unknown."""
    cdef double factor
    check(fastgdml_length_factor(unit.encode(), to.encode(), &factor))
    return factor


# ---- preconditioner ---------------------------------------------------------------------------------------------

# Pieces of rows that are summed apart, whatever the number of threads, so that results do not depend on it.
cdef int64_t LOW_RANK_PIECES = 32


cdef object project_pieces(const char *u, int64_t row_bytes, int64_t n, int64_t k, const double *factor,
                           const double[::1] b, int n_threads):
    """U^T b, of rows of so many bytes; factor is NULL for floats."""
    cdef:
        const gdml_low_rank *kernels = select_kernels().low_rank
        int64_t i, first, last
        double[:, ::1] sums = np.zeros((LOW_RANK_PIECES, k))
    require(k % 8 == 0, f"u has {k} columns, no multiple of 8")
    require_shape("b", b, (n,))
    for i in prange(LOW_RANK_PIECES, nogil=True, num_threads=threads_of(n_threads), schedule="static"):
        first = n * i // LOW_RANK_PIECES
        last = n * (i + 1) // LOW_RANK_PIECES
        if last > first and k > 0:
            kernels.project(last - first, k, u + first * row_bytes, factor + first if factor != NULL else NULL,
                            &b[first], &sums[i, 0])
    return np.asarray(sums).sum(axis=0)


cdef int subtract_pieces(const char *u, int64_t row_bytes, int64_t n, int64_t k, const double *factor,
                         const double[::1] t, double[::1] b, int n_threads) except -1:
    """b -= U t in place, of rows of so many bytes; factor is NULL for floats."""
    cdef:
        const gdml_low_rank *kernels = select_kernels().low_rank
        int64_t i, first, last
    require(k % 8 == 0, f"u has {k} columns, no multiple of 8")
    require_shape("t", t, (k,))
    require_shape("b", b, (n,))
    for i in prange(LOW_RANK_PIECES, nogil=True, num_threads=threads_of(n_threads), schedule="static"):
        first = n * i // LOW_RANK_PIECES
        last = n * (i + 1) // LOW_RANK_PIECES
        if last > first and k > 0:
            kernels.subtract(last - first, k, u + first * row_bytes, factor + first if factor != NULL else NULL,
                             &t[0], &b[first])
    return 0


cdef const char *floats_of(const float[:, ::1] u) noexcept:
    return <const char *> &u[0, 0] if u.shape[0] and u.shape[1] else NULL


cdef const char *shorts_of(const int16_t[:, ::1] u) noexcept:
    return <const char *> &u[0, 0] if u.shape[0] and u.shape[1] else NULL


cdef const double *factors_of(const double[::1] factor, int64_t n) except? NULL:
    require_shape("factor", factor, (n,))
    return &factor[0] if n else NULL


def low_rank_project(const float[:, ::1] u not None, const double[::1] b not None, int n_threads):
    """U^T b of u (n, k), k a multiple of 8, and b (n,)."""
    return project_pieces(floats_of(u), 4 * u.shape[1], u.shape[0], u.shape[1], NULL, b, n_threads)


def low_rank_subtract(const float[:, ::1] u not None, const double[::1] t not None, double[::1] b not None,
                      int n_threads):
    """b -= U t in place, of u (n, k), k a multiple of 8, t (k,) and b (n,)."""
    subtract_pieces(floats_of(u), 4 * u.shape[1], u.shape[0], u.shape[1], NULL, t, b, n_threads)


def low_rank_project_shorts(const int16_t[:, ::1] u not None, const double[::1] factor not None,
                            const double[::1] b not None, int n_threads):
    """As `low_rank_project`, of U = factor[:, None] * u."""
    cdef int64_t n = u.shape[0], k = u.shape[1]
    return project_pieces(shorts_of(u), 2 * k, n, k, factors_of(factor, n), b, n_threads)


def low_rank_subtract_shorts(const int16_t[:, ::1] u not None, const double[::1] factor not None,
                             const double[::1] t not None, double[::1] b not None, int n_threads):
    """As `low_rank_subtract`, of U = factor[:, None] * u."""
    cdef int64_t n = u.shape[0], k = u.shape[1]
    subtract_pieces(shorts_of(u), 2 * k, n, k, factors_of(factor, n), t, b, n_threads)


# ---- permutation search -----------------------------------------------------------------------------------------

def match_all_pairs(const double[:, :, ::1] vectors not None, const double[:, :, ::1] distances not None,
                    const double[:, ::1] penalty not None, const int64_t[:, ::1] pairs not None,
                    int32_t[:, ::1] perms not None, double[::1] before not None, double[::1] after not None,
                    int n_threads):
    """Match geometry pairs[k, 0] to pairs[k, 1] for every k; see gdml_match for the outputs."""
    cdef:
        int64_t n = vectors.shape[1], k, i, j
        int n_used = threads_of(n_threads)
        Scratch scratch = Scratch(n_used, (n * n + 3 * n) * sizeof(double) + 3 * n * sizeof(int32_t))
        double *work
    require_shape("vectors", vectors, (vectors.shape[0], n, n))
    require_shape("distances", distances, (vectors.shape[0], n, n))
    require_shape("penalty", penalty, (n, n))
    require_shape("pairs", pairs, (pairs.shape[0], 2))
    require_shape("perms", perms, (pairs.shape[0], n))
    require_shape("before", before, (pairs.shape[0],))
    require_shape("after", after, (pairs.shape[0],))
    within[int64_t]("pairs", np.asarray(pairs).ravel(), vectors.shape[0])
    for k in prange(pairs.shape[0] if n else 0, nogil=True, num_threads=n_used, schedule="static"):
        work = <double *> scratch.at(threadid())
        i = pairs[k, 0]
        j = pairs[k, 1]
        gdml_match(n, &vectors[i, 0, 0], &vectors[j, 0, 0], &distances[i, 0, 0], &distances[j, 0, 0], &penalty[0, 0],
                   &perms[k, 0], &before[k], &after[k], work, <int32_t *> (work + n * n + 3 * n))


def spanning_tree(int64_t n, const int64_t[:, ::1] edges not None, const int64_t[::1] order not None):
    """Numbers of the edges of a minimum spanning tree; `order` lists edges by ascending weight."""
    require(0 < n <= edges.shape[0] + 1, f"a tree of {n} nodes of {edges.shape[0]} edges")
    require_shape("edges", edges, (edges.shape[0], 2))
    within[int64_t]("edges", np.asarray(edges).ravel(), n)
    within("order", order, edges.shape[0])
    cdef:
        int64_t[::1] tree = np.empty(n, dtype=np.int64)
        int64_t[::1] parent = np.empty(n, dtype=np.int64)
        int64_t n_tree = 0
    if order.shape[0]:
        n_tree = gdml_spanning_tree(n, order.shape[0], &edges[0, 0], &order[0], &tree[0], &parent[0])
    return np.asarray(tree[:n_tree])
