"""The native core as the extension modules see it: of each header what they use, documented there."""

from libc.stdint cimport int32_t, int64_t


cdef extern from "gdml.h" nogil:
    ctypedef enum gdml_storage:
        GDML_DENSE
        GDML_RFP
    ctypedef struct gdml_cell:
        double basis[9]
        double inverse[9]
        int64_t n_shifts
        double shift[26][3]
    const char *gdml_cell_init(gdml_cell *cell, const double *lattice, int minimum)
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
    ctypedef struct gdml_low_rank:
        void (*project)(int64_t, int64_t, const void *, const double *, const double *, double *) noexcept nogil
        void (*subtract)(int64_t, int64_t, const void *, const double *, const double *, double *) noexcept nogil
    ctypedef struct gdml_assembly:
        size_t (*scratch)(const gdml_group *) noexcept nogil
        void (*tile)(const gdml_kernel_job *, int64_t, int64_t, int64_t, void *) noexcept nogil
    ctypedef struct gdml_trace_job:
        gdml_group group
        double sig
        const double *x
        const double *g
        const double *a
        int64_t n_rows
        const int64_t *row_begin
        const int32_t *row_coord
    ctypedef struct gdml_trace:
        size_t (*scratch)(const gdml_group *) noexcept nogil
        void (*row)(const gdml_trace_job *, int64_t, double *, void *) noexcept nogil
    ctypedef struct gdml_kernels:
        const char *name
        int lanes
        int64_t (*descriptor)(int64_t, const double *, const gdml_cell *, double *, double *) noexcept nogil
        const gdml_assembly *assembly
        const gdml_low_rank *low_rank
        const gdml_trace *trace
    const gdml_kernels *gdml_select_kernels(const char *isa)
    void gdml_jacobian_dot(int64_t, const double *, const double *, double *)
    void gdml_match(int64_t, const double *, const double *, const double *, const double *, const double *,
                    int32_t *, double *, double *, double *, int32_t *)
    int64_t gdml_spanning_tree(int64_t, int64_t, const int64_t *, const int64_t *, int64_t *, int64_t *)
    int64_t gdml_rfp_index(int64_t n, int64_t row, int64_t col)


cdef extern from "system.h" nogil:
    ctypedef enum gdml_image_origin:
        GDML_BUILT
    void *gdml_scratch_new(size_t n_bytes)
    void gdml_scratch_free(void *scratch)


cdef extern from "fastgdml.h" nogil:
    ctypedef enum fastgdml_status:
        FASTGDML_SUCCESS
        FASTGDML_ERROR_FILE
        FASTGDML_ERROR_FORMAT
        FASTGDML_ERROR_MEMORY
    ctypedef struct fastgdml_model:
        pass
    const char *fastgdml_last_error()
    fastgdml_status fastgdml_model_load(const char *path, fastgdml_model **out)
    void fastgdml_model_free(fastgdml_model *model)
    fastgdml_status fastgdml_model_check_lattice(const fastgdml_model *model, const double *lattice)
    fastgdml_status fastgdml_energy_factor(const char *from_unit, const char *to_unit, double *factor)
    fastgdml_status fastgdml_length_factor(const char *from_unit, const char *to_unit, double *factor)


cdef extern from "model.h" nogil:
    int GDML_MAX_IMAGES
    int GDML_MOLECULE
    int GDML_ONE_CELL
    int GDML_CELL_GIVEN
    ctypedef struct gdml_predictor:
        int64_t n_atoms
        int64_t n_perms
        int64_t n_tiles
        const double *energy
        double sig
    ctypedef struct gdml_samples:
        int64_t n
        const double *energy
    ctypedef struct gdml_model "struct fastgdml_model":
        gdml_predictor predictor
        gdml_samples samples
        double std_scale
        const gdml_kernels *kernels
        int64_t n_train
        const int32_t *z
        const double *weights
        double std
        double c
        int periodicity
        int minimum_image
        gdml_image_origin origin
        double lattice[9]
        char *energy_unit
        char *length_unit
        char *name
        char *theory
    ctypedef struct gdml_pair_classes:
        int64_t n_classes
        int64_t n_images
        int64_t n_pair_images
        int32_t *order
        int32_t *class_begin
        int32_t *class_image
        int32_t *image_begin
        int32_t *image_pair
        int32_t *perm_image
        int32_t *image_perm_begin
        int32_t *image_perm
    int gdml_pair_classes_new(gdml_pair_classes *, int64_t, int64_t, const int32_t *, int64_t)
    void gdml_pair_classes_free(gdml_pair_classes *)
    ctypedef struct gdml_model_samples:
        int64_t n
        const double *v
        const double *energies
        const double *c
        double scale
    ctypedef struct gdml_model_parts:
        gdml_model_samples samples
        int64_t n_atoms
        int64_t n_train
        int64_t n_perms
        const int32_t *z
        const int32_t *pair_images
        const double *x
        const double *v
        const double *energies
        int has_energies
        const double *weights
        double sig
        double std
        double c
        int periodicity
        int minimum_image
        const double *lattice
        const char *energy_unit
        const char *length_unit
        const char *name
        const char *theory
    fastgdml_status gdml_model_new(const gdml_model_parts *parts, gdml_model **out)
    void gdml_model_set_coefficients(gdml_model *, int64_t, int64_t, const double *, const double *)
    void gdml_model_arrays(const gdml_model *, int32_t *, double *, double *, double *)
    void gdml_model_samples_of(const gdml_model *, double *, double *, double *)
    const void *gdml_model_image(gdml_model *, size_t *)
    int64_t gdml_tile_size(int64_t n_train, int64_t n_rows)
    int64_t gdml_n_images(const gdml_predictor *model)
    ctypedef struct gdml_evaluation:
        const gdml_model *model
        const gdml_kernels *kernels
        int64_t n_geo
        const double *r
        const gdml_cell *cells
        int64_t cell_step
        const double *x
        const double *g
        double *energy
        double *force
        double *virial
        double *energy_std
        double *force_std
        int n_threads
        int over_tiles
        int64_t n_query
        int64_t n_blocks
        int64_t n_held
        int64_t n_sums
        size_t scratch_bytes
    ctypedef struct gdml_block:
        pass
    void gdml_plan(gdml_evaluation *evaluation, int n_threads)
    int64_t gdml_evaluate_block(const gdml_evaluation *evaluation, int64_t block, void *scratch)
    int64_t gdml_block_begin(const gdml_evaluation *evaluation, int64_t block, void *scratch, gdml_block *state)
    void gdml_block_tile(const gdml_evaluation *evaluation, const gdml_block *state, int64_t tile, double *sums,
                         void *scratch)
    void gdml_block_end(const gdml_evaluation *evaluation, gdml_block *state)
    ctypedef struct gdml_hessian_evaluation:
        gdml_evaluation prediction
        double *hessian
        int n_threads
        size_t scratch_bytes
    void gdml_hessian_plan(gdml_hessian_evaluation *evaluation, int n_threads)
    int64_t gdml_hessians(const gdml_hessian_evaluation *evaluation, void *scratch)
    void gdml_add_sums(const gdml_evaluation *evaluation, int64_t n_tiles, const double *tile_sums, gdml_block *state)
