/* Energies, forces and Hessians of geometries: the steps of evaluate.c with those of hessian.c beside them, and the loops
 * over geometries, or over tiles of training points, which the Python module and the C library share.
 *
 * Every tile gives partial sums that are added in the order of the tiles, whichever loop runs in parallel: results do not
 * depend on the number of threads.
 */
#include "model.h"

#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* Pairs under all permutations of training points below which a parallel region costs more than it saves. */
static const int64_t parallel_threshold = 10000;
/* Tiles whose sums are held at a time, for each thread, when the tiles of one geometry run in parallel. */
static const int64_t tiles_per_thread = 2;

/* Where the parts of the scratch of a thread are; all but `kernel` and `tile_sums` are needed by one thread only when the
 * tiles of a geometry are divided among threads. */
typedef struct {
    char *prediction;
    char *prepared;
    char *kernel;
    double *tile_sums;            /* of hessian.c, of one tile */
    double *sums;                 /* of hessian.c */
    size_t bytes;
} parts;

/* scratch: NULL asks for `bytes` only. */
static parts parts_of(const gdml_hessian_evaluation *e, char *scratch)
{
    const gdml_predictor *p = &e->prediction.model->predictor;
    const gdml_second_derivatives *k = e->prediction.kernels->hessian;
    const size_t sums = gdml_whole_steps(sizeof(double) * (size_t)k->n_sums(p));
    const size_t prepared = e->prediction.scratch_bytes;
    const size_t kernel = prepared + gdml_whole_steps(k->prepared(p));
    const size_t tile_sums = kernel + gdml_whole_steps(k->scratch(p));
    parts at = {.prediction = scratch, .bytes = tile_sums + 2 * sums};
    if (!scratch) return at;                               /* nothing may be added to NULL */
    at.prepared = scratch + prepared;
    at.kernel = scratch + kernel;
    at.tile_sums = (double *)(scratch + tile_sums);
    at.sums = (double *)(scratch + tile_sums + sums);
    return at;
}

void gdml_hessian_plan(gdml_hessian_evaluation *e, int n_threads)
{
    const gdml_predictor *p = &e->prediction.model->predictor;
    const int64_t n_geo = e->prediction.n_geo;
    const int64_t work = p->n_tiles * p->tile * p->n_perms * (p->n_atoms * (p->n_atoms - 1) / 2);
    if (n_threads < 1 || work * n_geo < parallel_threshold) n_threads = 1;
    e->prediction.n_geo = 1;                               /* one geometry a block */
    gdml_plan(&e->prediction, 1);
    e->prediction.n_geo = e->prediction.n_blocks = n_geo;
    const int64_t loop = work < parallel_threshold || n_geo > p->n_tiles ? n_geo : p->n_tiles;
    if (n_threads > loop) n_threads = (int)loop;
    e->n_threads = n_threads;
    e->over_tiles = n_geo < n_threads;
    e->n_held = p->n_tiles < tiles_per_thread * n_threads ? p->n_tiles : tiles_per_thread * n_threads;
    e->n_prediction_sums = gdml_n_sums(p);
    e->n_sums = e->prediction.kernels->hessian->n_sums(p);
    e->thread_bytes = parts_of(e, NULL).bytes;
    const size_t held = sizeof(double) * (size_t)(e->n_held * (e->n_prediction_sums + e->n_sums));
    e->scratch_bytes = (size_t)n_threads * e->thread_bytes + (e->over_tiles ? held : 0);
}

static void add(int64_t n, const double *from, double *to)
{
    for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

static int64_t begin(const gdml_hessian_evaluation *e, int64_t geo, const parts *at, gdml_block *block)
{
    const int64_t unusable = gdml_block_begin(&e->prediction, geo, at->prediction, block);
    e->prediction.kernels->hessian->prepare(&e->prediction.model->predictor, block->query, at->prepared);
    memset(at->sums, 0, sizeof(double) * (size_t)e->n_sums);
    return unusable;
}

/* Add what one tile gives to sums of the prediction, and set those of the Hessian. */
static void tile(const gdml_hessian_evaluation *e, const gdml_block *block, int64_t number, const void *prepared,
                 double *prediction_sums, double *sums, const parts *at)
{
    const gdml_kernels *k = e->prediction.kernels;
    const gdml_predictor *p = &e->prediction.model->predictor;
    k->prediction->tile(p, number, 1, block->images, 1, prediction_sums, at->prediction);
    memset(sums, 0, sizeof(double) * (size_t)e->n_sums);
    k->hessian->tile(p, number, prepared, sums, at->kernel);
}

static void end(const gdml_hessian_evaluation *e, int64_t geo, const parts *at, gdml_block *block)
{
    const gdml_model *m = e->prediction.model;
    const int64_t n_coord = 3 * m->predictor.n_atoms;
    gdml_block_end(&e->prediction, block);
    e->prediction.kernels->hessian->collect(&m->predictor, block->query, at->sums, m->std,
                                            e->hessian + geo * n_coord * n_coord);
}

static int64_t one_geometry(const gdml_hessian_evaluation *e, int64_t geo, char *scratch)
{
    gdml_block block;
    const parts at = parts_of(e, scratch);
    const int64_t unusable = begin(e, geo, &at, &block);
    for (int64_t t = 0; t < e->prediction.model->predictor.n_tiles; ++t) {
        tile(e, &block, t, at.prepared, block.sums, at.tile_sums, &at);
        add(e->n_sums, at.tile_sums, at.sums);
    }
    end(e, geo, &at, &block);
    return unusable;
}

#ifdef _OPENMP
static char *of_thread(const gdml_hessian_evaluation *e, char *scratch)
{
    return scratch + (size_t)omp_get_thread_num() * e->thread_bytes;
}

/* One geometry after the other, parallel over tiles. */
static int64_t over_tiles(const gdml_hessian_evaluation *e, char *scratch)
{
    const int64_t n_tiles = e->prediction.model->predictor.n_tiles, n_geo = e->prediction.n_geo;
    double *held = (double *)(scratch + (size_t)e->n_threads * e->thread_bytes);
    const int64_t stride = e->n_prediction_sums + e->n_sums;
    int64_t unusable = -1;
    for (int64_t geo = 0; geo < n_geo; ++geo) {
        gdml_block block;
        const parts at = parts_of(e, scratch);
        const int64_t found = begin(e, geo, &at, &block);
        if (unusable < 0) unusable = found;
        for (int64_t first = 0; first < n_tiles; first += e->n_held) {
            const int64_t n = n_tiles - first < e->n_held ? n_tiles - first : e->n_held;
            memset(held, 0, sizeof(double) * (size_t)(n * stride));
#pragma omp parallel for num_threads(e->n_threads) schedule(static)
            for (int64_t t = 0; t < n; ++t) {
                const parts own = parts_of(e, of_thread(e, scratch));
                double *sums = held + t * stride;
                tile(e, &block, first + t, at.prepared, sums, sums + e->n_prediction_sums, &own);
            }
            for (int64_t t = 0; t < n; ++t) {
                add(e->n_prediction_sums, held + t * stride, block.sums);
                add(e->n_sums, held + t * stride + e->n_prediction_sums, at.sums);
            }
        }
        end(e, geo, &at, &block);
    }
    return unusable;
}
#endif

int64_t gdml_hessians(const gdml_hessian_evaluation *e, void *scratch)
{
    const int64_t n_geo = e->prediction.n_geo;
    int64_t unusable = n_geo;
#ifdef _OPENMP
    if (e->over_tiles) return over_tiles(e, scratch);
    if (e->n_threads > 1) {
#pragma omp parallel for num_threads(e->n_threads) schedule(dynamic) reduction(min : unusable)
        for (int64_t geo = 0; geo < n_geo; ++geo)
            if (one_geometry(e, geo, of_thread(e, scratch)) >= 0 && geo < unusable) unusable = geo;
        return unusable < n_geo ? unusable : -1;
    }
#endif
    for (int64_t geo = 0; geo < n_geo; ++geo)              /* without OpenMP's runtime */
        if (one_geometry(e, geo, scratch) >= 0 && geo < unusable) unusable = geo;
    return unusable < n_geo ? unusable : -1;
}
