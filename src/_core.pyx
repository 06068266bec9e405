# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Bindings to the native core: memoryviews in, OpenMP loops over training blocks, C kernels without the GIL.

No arithmetic of the method lives here. Arguments are C-contiguous arrays whose shapes the calling modules
guarantee; the public functions of those modules check what users pass.
"""

import os

from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

import numpy as np


cdef extern from "gdml.h" nogil:
    int GDML_QUERY_BLOCK
    int GDML_MAX_LANES
    ctypedef enum gdml_storage:
        GDML_DENSE
        GDML_RFP
    ctypedef struct gdml_cell:
        double basis[9]
        double inverse[9]
        int64_t n_shifts
        double shift[26][3]
    int gdml_cell_init(gdml_cell *cell, const double *lattice, int minimum)
    ctypedef struct gdml_term:
        pass
    ctypedef struct gdml_group:
        int64_t n_atoms
        int64_t n_perms
        int64_t n_subsets
        const int32_t *perm
        const int32_t *inverse
        const int32_t *pair
        const int64_t *subset_begin
        const int32_t *subset_perm
        const int64_t *column_begin
        const gdml_term *column_term
        const int64_t *image_begin
        const gdml_term *image_term
        const int64_t *fixed_begin
        const int32_t *fixed
        const int64_t *moving_begin
        const int32_t *moving
    ctypedef struct gdml_kernel_target:
        gdml_storage storage
        double *data
        int64_t n_rows
        double scale
        const int64_t *row_begin
        const int32_t *row_coord
        int64_t n_col_points
        const int64_t *col_point
        const int64_t *col_begin
        const int32_t *col_coord
    ctypedef struct gdml_kernel_job:
        gdml_group group
        int64_t n_train
        double sig
        const double *x
        const double *g
        gdml_kernel_target target
    ctypedef struct gdml_predictor:
        int64_t n_atoms
        int64_t n_perms
        int64_t n_classes
        int64_t n_tiles
        int64_t tile
        const int32_t *class_begin
        const int32_t *class_image
        const int32_t *image_begin
        const int32_t *image_pair
        const int32_t *perm_image
        const int32_t *image_perm_begin
        const int32_t *image_perm
        const double *train
        const double *energy
        double sig
    ctypedef struct gdml_query:
        double *x
        double *g
        double *force_x
        double energy
    ctypedef struct gdml_low_rank:
        void (*project)(int64_t, int64_t, const float *, const double *, double *) noexcept nogil
        void (*subtract)(int64_t, int64_t, const float *, const double *, double *) noexcept nogil
    ctypedef struct gdml_kernels:
        const char *name
        int lanes
        int64_t (*descriptor)(int64_t, const double *, const gdml_cell *, double *, double *) noexcept nogil
        size_t (*kernel_scratch)(const gdml_group *) noexcept nogil
        void (*kernel_tile)(const gdml_kernel_job *, int64_t, int64_t, int64_t, void *) noexcept nogil
        void (*predict_images)(const gdml_predictor *, int64_t, const gdml_query *, double *) noexcept nogil
        size_t (*predict_scratch)(const gdml_predictor *, int64_t) noexcept nogil
        void (*predict_tile)(const gdml_predictor *, int64_t, int64_t, const double *, double *,
                             void *) noexcept nogil
        void (*predict_collect)(const gdml_predictor *, int64_t, const double *, const double *,
                                gdml_query *) noexcept nogil
        const gdml_low_rank *low_rank
    const gdml_kernels *gdml_select_kernels(const char *isa)
    int64_t gdml_n_images(const gdml_predictor *model)
    int64_t gdml_n_sums(const gdml_predictor *model)
    void gdml_force_from_descriptor(int64_t, const double *, const double *, double, double *)
    void gdml_jacobian_dot(int64_t, const double *, const double *, double *)
    void *gdml_scratch_new(size_t n_bytes)
    void gdml_scratch_free(void *scratch)
    void gdml_match(int64_t, const double *, const double *, const double *, const double *, const double *,
                    int32_t *, double *, double *, double *, int32_t *)

    int64_t gdml_spanning_tree(int64_t, int64_t, const int64_t *, const int64_t *, int64_t *, int64_t *)


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


cdef class Scratch:
    """Aligned memory, `n_bytes` for each of n_threads threads. Allocated outside the parallel regions."""
    cdef char *data
    cdef size_t stride

    def __cinit__(self, int n_threads, size_t n_bytes):
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

    def __cinit__(self, const double[:, :, ::1] lattices, bint minimum):
        cdef int64_t i
        self.n_cells = lattices.shape[0]
        self.cell = <gdml_cell *> gdml_scratch_new(max(self.n_cells, <int64_t> 1) * sizeof(gdml_cell))
        if self.cell is NULL:
            raise MemoryError(f"No memory for {self.n_cells} cells.")
        for i in range(self.n_cells):
            if not gdml_cell_init(&self.cell[i], &lattices[i, 0, 0], minimum):
                raise ValueError(f"cell {i} cannot be inverted")

    def __dealloc__(self):
        gdml_scratch_free(self.cell)

    cdef int64_t step(self) noexcept nogil:
        """Cells from one geometry to the next."""
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


def descriptors(const double[:, :, ::1] R, Cells cells, double[:, ::1] x, double[:, :, ::1] g, int n_threads):
    """Fill x (M, D) and g (M, D, 3). Return the first geometry with coincident atoms and the pair, or None.

    cells : one, or one for each geometry; None for molecules
    """
    cdef:
        const gdml_kernels *kernels = select_kernels()
        int64_t n_geo = R.shape[0], n_atoms = R.shape[1], i, bad_geo = -1
        const gdml_cell *cell = NULL
        int64_t step = 0
        int64_t[::1] bad = np.full(n_geo, -1, dtype=np.int64)
    if cells is not None:
        cell = cells.cell
        step = cells.step()
    if n_geo == 0 or n_atoms < 2:
        return None
    for i in prange(n_geo, nogil=True, num_threads=n_threads, schedule="static"):
        bad[i] = kernels.descriptor(n_atoms, &R[i, 0, 0], cell_at(cell, i * step), &x[i, 0], &g[i, 0, 0])
    for i in range(n_geo):
        if bad[i] >= 0:
            bad_geo = i
            break
    return None if bad_geo < 0 else (bad_geo, bad[bad_geo])


cdef inline const gdml_cell *cell_at(const gdml_cell *cells, int64_t i) noexcept nogil:
    return NULL if cells is NULL else cells + i


# ---- kernel matrix ----------------------------------------------------------------------------------------------

cdef const int32_t *int32_table(const int32_t[::1] table) noexcept:
    return &table[0] if table.shape[0] else NULL


cdef const int64_t *int64_table(const int64_t[::1] table) noexcept:
    return &table[0] if table.shape[0] else NULL


cdef gdml_group native_group(tables) except *:
    """The tables of a GroupTables as C pointers; the caller keeps the GroupTables alive."""
    cdef gdml_group group
    group.n_perms, group.n_atoms = tables.perm.shape
    group.n_subsets = len(tables.subset_begin) - 1
    group.perm = int32_table(tables.perm.ravel())
    group.inverse = int32_table(tables.inverse.ravel())
    group.pair = int32_table(tables.pair.ravel())
    group.subset_begin = int64_table(tables.subset_begin)
    group.subset_perm = int32_table(tables.subset_perm)
    group.column_begin = int64_table(tables.column_begin)
    group.column_term = <const gdml_term *> int32_table(tables.column_term.ravel())
    group.image_begin = int64_table(tables.image_begin)
    group.image_term = <const gdml_term *> int32_table(tables.image_term.ravel())
    group.fixed_begin = int64_table(tables.fixed_begin)
    group.fixed = int32_table(tables.fixed)
    group.moving_begin = int64_table(tables.moving_begin)
    group.moving = int32_table(tables.moving)
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

    def __init__(self, const double[:, ::1] x, const double[:, :, ::1] g, object tables, double sig,
                 const int64_t[::1] row_begin, const int32_t[::1] row_coord, const int64_t[::1] col_point,
                 const int64_t[::1] col_begin, const int32_t[::1] col_coord, double[::1] data, double scale,
                 bint packed):
        self.keep_alive = (x, g, tables, row_begin, row_coord, col_point, col_begin, col_coord, data)
        self.lanes = select_kernels().lanes
        self.job.group = native_group(tables)
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

    def fill(self, const int64_t[:, ::1] items, int n_threads):
        """Compute the work items (first training point of a tile of rows, first and last column point)."""
        cdef:
            const gdml_kernels *kernels = select_kernels()
            Scratch scratch = Scratch(n_threads, kernels.kernel_scratch(&self.job.group))
            int64_t i
        for i in prange(items.shape[0], nogil=True, num_threads=n_threads, schedule="dynamic", chunksize=1):
            kernels.kernel_tile(&self.job, items[i, 0], items[i, 1], items[i, 2], scratch.at(threadid()))


# ---- prediction -------------------------------------------------------------------------------------------------

# Pair-images of training data below which a parallel region costs more than it saves (about 30 us of work).
cdef int64_t PARALLEL_THRESHOLD = 60000
# Bytes of scratch of one thread above which fewer geometries are predicted together: large permutation groups.
cdef size_t SCRATCH_LIMIT = 2**25


# Tiles whose sums are held at a time, for each thread, when the tiles of one block of geometries run in parallel.
cdef int64_t TILES_PER_THREAD = 4


cdef struct query_block:
    # What one thread needs to predict a block of geometries.
    gdml_query query[4]        # GDML_QUERY_BLOCK
    double *images             # [gdml_n_images][n_query]
    double *sums               # [gdml_n_sums][n_query]
    void *scratch


cdef struct geometries:
    # What to predict: coordinates, or descriptors and Jacobians computed before.
    const double *r            # [n_geo][N][3] or NULL
    const gdml_cell *cells     # NULL for molecules
    int64_t cell_step          # 1 if every geometry has its own
    const double *x            # [n_geo][D]
    const double *g            # [n_geo][D][3]


cdef class Predictor:
    """A model laid out for prediction; immutable, safe to share between threads.

    Parameters
    ----------
    n_atoms : number of atoms
    classes : the pair classes of the permutations, a PairClasses
    train : (n_tiles, 2, D, tile) descriptors, scaled, and J alpha of the training points
    energy : (n_tiles, tile) coefficients of energy constraints, scaled, or None
    sig : length scale
    std, c : scale and offset of the energy
    """
    cdef gdml_predictor model
    cdef double std, c
    cdef int64_t n_desc, padded_desc, n_pair_images
    cdef tuple keep_alive

    def __init__(self, int64_t n_atoms, object classes, const double[:, :, :, ::1] train,
                 const double[:, ::1] energy, double sig, double std, double c):
        self.keep_alive = (classes, train, energy)
        self.model.n_atoms = n_atoms
        self.model.n_classes, self.model.n_perms = classes.perm_image.shape
        self.model.n_tiles = train.shape[0]
        self.model.tile = train.shape[3]
        self.model.class_begin = int32_table(classes.class_begin)
        self.model.class_image = int32_table(classes.class_image)
        self.model.image_begin = int32_table(classes.image_begin)
        self.model.image_pair = int32_table(classes.image_pair)
        self.model.perm_image = int32_table(classes.perm_image.ravel())
        self.model.image_perm_begin = int32_table(classes.image_perm_begin)
        self.model.image_perm = int32_table(classes.image_perm)
        self.model.train = &train[0, 0, 0, 0]
        self.model.energy = NULL if energy is None else &energy[0, 0]
        self.model.sig = sig
        self.std = std
        self.c = c
        self.n_desc = train.shape[2]
        self.padded_desc = (self.n_desc + GDML_MAX_LANES - 1) // GDML_MAX_LANES * GDML_MAX_LANES
        self.n_pair_images = len(classes.image_pair)

    cdef size_t block_size(self, const gdml_kernels *kernels, int64_t n_query) noexcept nogil:
        return (kernels.predict_scratch(&self.model, n_query)
                + n_query * (5 * self.padded_desc + gdml_n_images(&self.model) + gdml_n_sums(&self.model))
                * sizeof(double))

    cdef query_block block(self, const gdml_kernels *kernels, int64_t n_query, void *memory) noexcept nogil:
        cdef:
            query_block block
            int64_t i, d = self.padded_desc
            double *at = <double *> (<char *> memory + kernels.predict_scratch(&self.model, n_query))
        block.scratch = memory
        for i in range(n_query):
            block.query[i].x = at
            block.query[i].g = at + d
            block.query[i].force_x = at + 4 * d
            at = at + 5 * d
        block.images = at
        block.sums = at + n_query * gdml_n_images(&self.model)
        return block

    cdef int64_t prepare(self, const gdml_kernels *kernels, const geometries *geo, int64_t first, int64_t n_query,
                         query_block *block) noexcept nogil:
        """Set up the queries of a block; returns the first with coincident atoms, or -1."""
        cdef int64_t i, bad = -1
        for i in range(n_query):
            if geo.r is NULL:
                block.query[i].x = <double *> geo.x + (first + i) * self.n_desc
                block.query[i].g = <double *> geo.g + 3 * (first + i) * self.n_desc
            elif kernels.descriptor(self.model.n_atoms, geo.r + 3 * self.model.n_atoms * (first + i),
                                    cell_at(geo.cells, (first + i) * geo.cell_step), block.query[i].x,
                                    block.query[i].g) >= 0 and bad < 0:
                bad = first + i
        kernels.predict_images(&self.model, n_query, block.query, block.images)
        memset(block.sums, 0, n_query * gdml_n_sums(&self.model) * sizeof(double))
        return bad

    cdef void finish(self, const gdml_kernels *kernels, int64_t n_query, query_block *block, double *energy,
                     double *force) noexcept nogil:
        cdef int64_t i
        kernels.predict_collect(&self.model, n_query, block.images, block.sums, block.query)
        for i in range(n_query):
            energy[i] = self.std * block.query[i].energy + self.c
            gdml_force_from_descriptor(self.model.n_atoms, block.query[i].g, block.query[i].force_x, self.std,
                                       force + 3 * self.model.n_atoms * i)

    def predict(self, const double[:, ::1] R, Cells cells, double[::1] E, double[:, ::1] F, int n_threads):
        """Energies and forces of R (n_geo, 3 N). Returns the first geometry with coincident atoms, or -1.

        cells : one, or one for each geometry; None for molecules
        """
        cdef geometries geo = geometries(NULL, NULL, 0, NULL, NULL)
        if R.shape[0]:
            geo.r = &R[0, 0]
        if cells is not None:
            geo.cells = cells.cell
            geo.cell_step = cells.step()
        return self.evaluate(&geo, R.shape[0], E, F, n_threads)

    def predict_descriptors(self, const double[:, ::1] x, const double[:, :, ::1] g, double[::1] E,
                            double[:, ::1] F, int n_threads):
        """The same for descriptors x (n_geo, D) and compressed Jacobians g (n_geo, D, 3)."""
        cdef geometries geo
        if x.shape[0]:
            geo = geometries(NULL, NULL, 0, &x[0, 0], &g[0, 0, 0])
            self.evaluate(&geo, x.shape[0], E, F, n_threads)

    cdef int64_t evaluate(self, const geometries *geo, int64_t n_geo, double[::1] E, double[:, ::1] F,
                          int n_threads) except -2:
        """Predict n_geo geometries.

        Every tile of training points gives partial sums, and partial sums are added in the order of the tiles,
        whichever loop runs in parallel: results do not depend on the number of threads.
        """
        cdef:
            const gdml_kernels *kernels = select_kernels()
            int64_t n_query = min(<int64_t> GDML_QUERY_BLOCK, max(<int64_t> 1, n_geo // n_threads))
            int64_t n_blocks
            int64_t work = self.model.n_tiles * self.model.tile * self.n_pair_images
        if n_geo == 0:
            return -1
        while n_query > 1 and self.block_size(kernels, n_query) > SCRATCH_LIMIT:
            n_query -= 1
        n_blocks = (n_geo + n_query - 1) // n_query
        if work * n_geo < PARALLEL_THRESHOLD:
            n_threads = 1
        elif n_blocks < n_threads and work < PARALLEL_THRESHOLD:
            n_threads = <int> n_blocks
        if n_blocks >= n_threads:
            return self.predict_blocks(kernels, geo, n_geo, n_query, n_blocks, &E[0], &F[0, 0], n_threads)
        return self.predict_tiles(kernels, geo, n_geo, n_query, &E[0], &F[0, 0], n_threads)

    cdef int64_t predict_blocks(self, const gdml_kernels *kernels, const geometries *geo, int64_t n_geo,
                                int64_t n_query, int64_t n_blocks, double *E, double *F, int n_threads) except -2:
        """Parallel over blocks of geometries."""
        cdef:
            Scratch scratch = Scratch(n_threads, self.block_size(kernels, n_query))
            int64_t b
            int64_t[::1] bad = np.full(n_blocks, -1, dtype=np.int64)
        for b in prange(n_blocks, nogil=True, num_threads=n_threads, schedule="dynamic", chunksize=1):
            bad[b] = self.predict_block(kernels, geo, n_geo, n_query, b, E, F, scratch.at(threadid()))
        for b in range(n_blocks):
            if bad[b] >= 0:
                return bad[b]
        return -1

    cdef int64_t predict_block(self, const gdml_kernels *kernels, const geometries *geo, int64_t n_geo,
                               int64_t n_query, int64_t b, double *E, double *F, void *memory) noexcept nogil:
        cdef:
            query_block block = self.block(kernels, n_query, memory)
            int64_t t, first = b * n_query, bad
            int64_t n = min(n_query, n_geo - first)
        bad = self.prepare(kernels, geo, first, n, &block)
        for t in range(self.model.n_tiles):
            kernels.predict_tile(&self.model, t, n, block.images, block.sums, block.scratch)
        self.finish(kernels, n, &block, E + first, F + 3 * self.model.n_atoms * first)
        return bad

    cdef int64_t predict_tiles(self, const gdml_kernels *kernels, const geometries *geo, int64_t n_geo,
                               int64_t n_query, double *E, double *F, int n_threads) except -2:
        """One block of geometries after the other, parallel over tiles of training points."""
        cdef:
            Scratch scratch = Scratch(n_threads, self.block_size(kernels, n_query))
            query_block block = self.block(kernels, n_query, scratch.at(0))
            int64_t t, k, n, begin, end, first = 0, bad, first_bad = -1
            int64_t n_sums = gdml_n_sums(&self.model), n_tiles = self.model.n_tiles
            double[:, ::1] sums = np.empty((min(n_tiles, TILES_PER_THREAD * n_threads), n_query * n_sums))
        while first < n_geo:
            n = min(n_query, n_geo - first)
            bad = self.prepare(kernels, geo, first, n, &block)
            if bad >= 0 and first_bad < 0:
                first_bad = bad
            begin = 0
            while begin < n_tiles:
                end = min(begin + sums.shape[0], n_tiles)
                for t in prange(begin, end, nogil=True, num_threads=n_threads, schedule="static"):
                    memset(&sums[t - begin, 0], 0, n * n_sums * sizeof(double))
                    kernels.predict_tile(&self.model, t, n, block.images, &sums[t - begin, 0],
                                         scratch.at(threadid()))
                for t in range(end - begin):
                    for k in range(n * n_sums):
                        block.sums[k] += sums[t, k]
                begin = end
            self.finish(kernels, n, &block, E + first, F + 3 * self.model.n_atoms * first)
            first += n
        return first_bad


def lay_out_jacobian_dot(const double[:, :, ::1] g, const double[:, ::1] vectors, const int64_t[::1] order,
                         double[:, :, :, ::1] tiles, int n_threads):
    """Put J v of g (M, D, 3) and vectors (M, 3 N) into tiles (n_tiles, 2, D, tile) as coefficients; see tiles.py."""
    cdef:
        int64_t n_desc = g.shape[1], tile = tiles.shape[3], n_atoms = vectors.shape[1] // 3, j, k
        Scratch scratch = Scratch(n_threads, n_desc * sizeof(double))
        double *v
        double *out
    for j in prange(g.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        v = <double *> scratch.at(threadid())
        gdml_jacobian_dot(n_atoms, &g[j, 0, 0], &vectors[j, 0], v)
        out = &tiles[j // tile, 1, 0, j % tile]
        for k in range(n_desc):
            out[k * tile] = v[order[k]]


# ---- preconditioner ---------------------------------------------------------------------------------------------

# Pieces of rows that are summed apart, whatever the number of threads, so that results do not depend on it.
cdef int64_t LOW_RANK_PIECES = 32


def low_rank_project(const float[:, ::1] u, const double[::1] b, int n_threads):
    """U^T b of u (n, k), k a multiple of 8, and b (n,)."""
    cdef:
        const gdml_low_rank *kernels = select_kernels().low_rank
        int64_t n = u.shape[0], k = u.shape[1], i, first, last
        double[:, ::1] sums = np.zeros((LOW_RANK_PIECES, k))
    for i in prange(LOW_RANK_PIECES, nogil=True, num_threads=n_threads, schedule="static"):
        first = n * i // LOW_RANK_PIECES
        last = n * (i + 1) // LOW_RANK_PIECES
        if last > first:
            kernels.project(last - first, k, &u[first, 0], &b[first], &sums[i, 0])
    return np.asarray(sums).sum(axis=0)


def low_rank_subtract(const float[:, ::1] u, const double[::1] t, double[::1] b, int n_threads):
    """b -= U t in place, of u (n, k), k a multiple of 8, t (k,) and b (n,)."""
    cdef:
        const gdml_low_rank *kernels = select_kernels().low_rank
        int64_t n = u.shape[0], k = u.shape[1], i, first, last
    for i in prange(LOW_RANK_PIECES, nogil=True, num_threads=n_threads, schedule="static"):
        first = n * i // LOW_RANK_PIECES
        last = n * (i + 1) // LOW_RANK_PIECES
        if last > first:
            kernels.subtract(last - first, k, &u[first, 0], &t[0], &b[first])


# ---- permutation search -----------------------------------------------------------------------------------------

def match_all_pairs(const double[:, :, ::1] vectors, const double[:, :, ::1] distances, const double[:, ::1] penalty,
                    const int64_t[:, ::1] pairs, int32_t[:, ::1] perms, double[::1] before, double[::1] after,
                    int n_threads):
    """Match geometry pairs[k, 0] to pairs[k, 1] for every k; see gdml_match for the outputs."""
    cdef:
        int64_t n = vectors.shape[1], k, i, j
        Scratch scratch = Scratch(n_threads, (n * n + 3 * n) * sizeof(double) + 3 * n * sizeof(int32_t))
        double *work
    for k in prange(pairs.shape[0], nogil=True, num_threads=n_threads, schedule="static"):
        work = <double *> scratch.at(threadid())
        i = pairs[k, 0]
        j = pairs[k, 1]
        gdml_match(n, &vectors[i, 0, 0], &vectors[j, 0, 0], &distances[i, 0, 0], &distances[j, 0, 0], &penalty[0, 0],
                   &perms[k, 0], &before[k], &after[k], work, <int32_t *> (work + n * n + 3 * n))


def spanning_tree(int64_t n, const int64_t[:, ::1] edges, const int64_t[::1] order):
    """Numbers of the edges of a minimum spanning tree; `order` lists edges by ascending weight."""
    cdef:
        int64_t[::1] tree = np.empty(n, dtype=np.int64)
        int64_t[::1] parent = np.empty(n, dtype=np.int64)
        int64_t n_tree = 0
    if order.shape[0]:
        n_tree = gdml_spanning_tree(n, order.shape[0], &edges[0, 0], &order[0], &tree[0], &parent[0])
    return np.asarray(tree[:n_tree])
