/* Prediction in the public interface (fastgdml.h): checks of arguments, and the parallel loops without Python. */
#include "model.h"

#include <math.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define REQUIRE(condition, ...) \
    if (!(condition)) return gdml_fail(FASTGDML_ERROR_ARGUMENT, __VA_ARGS__)

/* OpenMP's threads do not survive a fork, and GCC's runtime waits for them in the child for ever, whoever has used them
 * in the parent: this library, the host program or another library. So a process that was forked runs serially. */
static int resolve_threads(int n_threads)
{
#ifdef _OPENMP
    enum { MOST_THREADS = 1024 };                          /* the runtime ends the program where the system gives fewer */
    if (n_threads == 1) return 1;
    if (gdml_forked()) return 1;
    if (n_threads > 0) return n_threads < MOST_THREADS ? n_threads : MOST_THREADS;
    const int wanted = omp_get_max_threads(), processors = omp_get_num_procs();
    return wanted < processors ? wanted : processors;
#else
    (void)n_threads;
    return 1;
#endif
}

static void *scratch_of(const gdml_evaluation *e, char *scratch)
{
#ifdef _OPENMP
    return scratch + (size_t)omp_get_thread_num() * e->scratch_bytes;
#else
    (void)e;
    return scratch;
#endif
}

/* Parallel over blocks of geometries. Returns the first geometry that cannot be evaluated, or n_geo. */
static int64_t predict_blocks(const gdml_evaluation *e, char *scratch)
{
    int64_t unusable = e->n_geo;
    if (e->n_threads == 1) {                               /* without OpenMP's runtime */
        for (int64_t b = 0; b < e->n_blocks; ++b) {
            const int64_t geo = gdml_evaluate_block(e, b, scratch);
            if (geo >= 0 && geo < unusable) unusable = geo;
        }
        return unusable;
    }
#ifdef _OPENMP
#pragma omp parallel for num_threads(e->n_threads) schedule(dynamic) reduction(min : unusable)
#endif
    for (int64_t b = 0; b < e->n_blocks; ++b) {
        const int64_t geo = gdml_evaluate_block(e, b, scratch_of(e, scratch));
        if (geo >= 0 && geo < unusable) unusable = geo;
    }
    return unusable;
}

/* One block after the other, parallel over tiles of training points; sums [n_held][n_sums]. */
static int64_t predict_tiles(const gdml_evaluation *e, char *scratch, double *sums)
{
    const int64_t n_tiles = e->model->predictor.n_tiles;
    int64_t unusable = e->n_geo;
    for (int64_t b = 0; b < e->n_blocks; ++b) {
        gdml_block block;
        const int64_t geo = gdml_block_begin(e, b, scratch, &block);
        if (geo >= 0 && geo < unusable) unusable = geo;
        for (int64_t first = 0; first < n_tiles; first += e->n_held) {
            const int64_t n = n_tiles - first < e->n_held ? n_tiles - first : e->n_held;
            memset(sums, 0, sizeof *sums * (size_t)(n * e->n_sums));
#ifdef _OPENMP
#pragma omp parallel for num_threads(e->n_threads) schedule(static)
#endif
            for (int64_t t = 0; t < n; ++t)
                gdml_block_tile(e, &block, first + t, sums + t * e->n_sums, scratch_of(e, scratch));
            gdml_add_sums(e, n, sums, &block);
        }
        gdml_block_end(e, &block);
    }
    return unusable;
}

/* What both functions demand of their arguments. Prepares the cell, if there is a lattice. */
static fastgdml_status check_arguments(const char *function, const fastgdml_model *m, int64_t n_geo, const double *r,
                                       const double *lattice, gdml_cell *cell)
{
    REQUIRE(m, "%s: model is NULL", function);
    REQUIRE(n_geo >= 0, "%s: n_geo is %lld", function, (long long)n_geo);
    REQUIRE(r || n_geo == 0, "%s: r is NULL", function);
    REQUIRE(!lattice || m->periodicity != GDML_MOLECULE,
            "%s: the model is of a molecule and cannot be used with a lattice", function);
    REQUIRE(lattice || m->periodicity != GDML_CELL_GIVEN,
            "%s: the model was trained in several cells: give the lattice to predict in", function);
    const char *const problem = lattice ? gdml_cell_init(cell, lattice, m->minimum_image) : NULL;
    REQUIRE(!problem, "%s: %s", function, problem);
    return FASTGDML_SUCCESS;
}

static fastgdml_status fail_for_memory(const char *function, size_t n_bytes)
{
    return gdml_fail(FASTGDML_ERROR_MEMORY, "%s: no memory for %.1f MB of scratch", function, 1e-6 * (double)n_bytes);
}

static fastgdml_status fail_for_geometry(const char *function, int64_t geometry)
{
    return gdml_fail(FASTGDML_ERROR_GEOMETRY,
                     "%s: geometry %lld has atoms at the same place or positions that are not finite", function,
                     (long long)geometry);
}

/* The first geometry for which any of n numbers [n_geo][n] is not finite, or n_geo. */
static int64_t first_overflow(int64_t n_geo, int64_t n, const double *numbers)
{
    for (int64_t i = 0; numbers && i < n_geo * n; ++i)
        if (!isfinite(numbers[i])) return i / n;
    return n_geo;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static fastgdml_status fail_for_overflow(const char *function, int64_t geometry)
{
    return gdml_fail(FASTGDML_ERROR_GEOMETRY,
                     "%s: the energy of geometry %lld, or a derivative of it, is too large for a double: atoms nearly at the "
                     "same place, or a model with numbers out of all proportion", function, (long long)geometry);
}

/* Evaluate what is wanted, the results in `e`, of n_geo geometries. */
static fastgdml_status predict(const char *function, gdml_evaluation *e, const fastgdml_model *m, int64_t n_geo,
                               const double *r, const double *lattice, int n_threads)
{
    gdml_cell cell;
    const fastgdml_status status = check_arguments(function, m, n_geo, r, lattice, &cell);
    if (status) return status;
    if (n_geo == 0) return FASTGDML_SUCCESS;

    e->model = m;
    e->kernels = m->kernels;
    e->n_geo = n_geo;
    e->r = r;
    e->cells = lattice ? &cell : m->periodicity == GDML_ONE_CELL ? &m->cell : NULL;
    gdml_plan(e, resolve_threads(n_threads));
    const size_t scratch_bytes = (size_t)e->n_threads * e->scratch_bytes;
    const size_t sums_bytes = e->over_tiles ? sizeof(double) * (size_t)(e->n_held * e->n_sums) : 0;
    char *scratch = gdml_scratch_new(scratch_bytes + sums_bytes);
    if (!scratch) return fail_for_memory(function, scratch_bytes + sums_bytes);
    const int64_t unusable = e->over_tiles ? predict_tiles(e, scratch, (double *)(scratch + scratch_bytes))
                                           : predict_blocks(e, scratch);
    gdml_scratch_free(scratch);
    if (unusable < n_geo) return fail_for_geometry(function, unusable);
    const int64_t n_atoms = m->predictor.n_atoms;
    int64_t overflow = least(first_overflow(n_geo, 1, e->energy), first_overflow(n_geo, 9, e->virial));
    overflow = least(overflow, first_overflow(n_geo, 3 * n_atoms, e->force));
    overflow = least(overflow, first_overflow(n_geo, 1, e->energy_std));
    overflow = least(overflow, first_overflow(n_geo, n_atoms, e->force_std));
    return overflow < n_geo ? fail_for_overflow(function, overflow) : FASTGDML_SUCCESS;
}

fastgdml_status fastgdml_predict(const fastgdml_model *m, int64_t n_geo, const double *r, const double *lattice,
                                 double *energy, double *forces, double *virial, int n_threads)
{
    gdml_evaluation e = {.energy = energy, .force = forces, .virial = virial};
    return predict(__func__, &e, m, n_geo, r, lattice, n_threads);
}

fastgdml_status fastgdml_predict_std(const fastgdml_model *m, int64_t n_geo, const double *r, const double *lattice,
                                     double *energy, double *forces, double *virial, double *energy_std,
                                     double *force_std, int n_threads)
{
    REQUIRE(m, "fastgdml_predict_std: model is NULL");
    REQUIRE((energy_std && force_std) || n_geo == 0, "fastgdml_predict_std: energy_std or force_std is NULL");
    REQUIRE(m->samples.n,
            "fastgdml_predict_std: the model has no samples for standard deviations: train it with --std 16");
    gdml_evaluation e = {
        .energy = energy,
        .force = forces,
        .virial = virial,
        .energy_std = energy_std,
        .force_std = force_std,
    };
    return predict(__func__, &e, m, n_geo, r, lattice, n_threads);
}

fastgdml_status fastgdml_hessian(const fastgdml_model *m, int64_t n_geo, const double *r, const double *lattice,
                                 double *energy, double *forces, double *hessian, int n_threads)
{
    gdml_cell cell;
    const fastgdml_status status = check_arguments(__func__, m, n_geo, r, lattice, &cell);
    if (status) return status;
    REQUIRE(hessian || n_geo == 0, "fastgdml_hessian: hessian is NULL");
    if (n_geo == 0) return FASTGDML_SUCCESS;

    gdml_hessian_evaluation e = {
        .prediction = {
            .model = m,
            .kernels = m->kernels,
            .n_geo = n_geo,
            .r = r,
            .cells = lattice ? &cell : m->periodicity == GDML_ONE_CELL ? &m->cell : NULL,
            .energy = energy,
            .force = forces,
        },
        .hessian = hessian,
    };
    gdml_hessian_plan(&e, resolve_threads(n_threads));
    void *scratch = gdml_scratch_new(e.scratch_bytes);
    if (!scratch) return fail_for_memory(__func__, e.scratch_bytes);
    const int64_t unusable = gdml_hessians(&e, scratch);
    gdml_scratch_free(scratch);
    if (unusable >= 0) return fail_for_geometry(__func__, unusable);
    const int64_t n = 3 * m->predictor.n_atoms;
    const int64_t overflow = least(first_overflow(n_geo, 1, energy),
                                   least(first_overflow(n_geo, n, forces), first_overflow(n_geo, n * n, hessian)));
    return overflow < n_geo ? fail_for_overflow(__func__, overflow) : FASTGDML_SUCCESS;
}
