/* Evaluation of a model: blocks of geometries, each in steps that the parallel loops of the Python module (_core.pyx)
 * and of the C library (capi.c) share.
 *
 * Every tile of training points gives partial sums, and partial sums are added in the order of the tiles, whichever
 * loop runs in parallel: results do not depend on the number of threads.
 */
#include "model.h"

#include <math.h>
#include <string.h>

/* Pair-images of training data below which a parallel region costs more than it saves (about 30 us of work). */
static const int64_t parallel_threshold = 60000;
/* Bytes of scratch of one thread above which fewer geometries are predicted together: large permutation groups. */
static const size_t scratch_limit = (size_t)1 << 25;
/* Geometries that are predicted together: training data are read once for all of them. More are better where these come
 * from memory, not from a cache, and fewer where each has the sums of many samples. */
enum { TOGETHER = 8, TOGETHER_FROM_MEMORY = GDML_QUERY_BLOCK, TOGETHER_WITH_SAMPLES = 4 };
static const int64_t cached_numbers = (int64_t)1 << 20;
/* Tiles whose sums are held at a time, for each thread, when the tiles of one block run in parallel. */
static const int64_t tiles_per_thread = 4;

/* Room for one array of D numbers. */
static int64_t padded_desc(const gdml_model *model)
{
    const int64_t n = model->predictor.n_atoms, n_desc = n * (n - 1) / 2;
    return (n_desc + GDML_MAX_LANES - 1) / GDML_MAX_LANES * GDML_MAX_LANES;
}

/* Vectors of coefficients that are evaluated: the model's, and those of its samples. */
static int64_t n_vectors(const gdml_evaluation *e)
{
    return e->force_std ? 1 + e->model->samples.n : 1;
}

/* Numbers that the sums of one geometry take. */
static int64_t n_sums(const gdml_evaluation *e)
{
    return n_vectors(e) * gdml_n_sums(&e->model->predictor);
}

static size_t kernel_bytes(const gdml_evaluation *e, int64_t n_query)
{
    const gdml_kernels *k = e->kernels;
    return (e->force_std ? k->deviations->scratch : k->prediction->scratch)(&e->model->predictor, n_query);
}

static size_t block_bytes(const gdml_evaluation *e, int64_t n_query)
{
    const gdml_predictor *p = &e->model->predictor;
    const int64_t own_force = e->force_std ? 3 * p->n_atoms : 0;
    const size_t bytes = kernel_bytes(e, n_query) +
                         sizeof(double) * (size_t)(n_query * (5 * padded_desc(e->model) + gdml_n_images(p) + n_sums(e)) +
                                                   own_force);
    return gdml_whole_steps(bytes);
}

static int64_t most_together(const gdml_evaluation *e)
{
    const gdml_predictor *p = &e->model->predictor;
    if (e->force_std) return TOGETHER_WITH_SAMPLES;
    const int64_t numbers = p->n_tiles * p->tile * p->n_atoms * (p->n_atoms - 1);
    return numbers > cached_numbers ? TOGETHER_FROM_MEMORY : TOGETHER;
}

void gdml_plan(gdml_evaluation *e, int n_threads)
{
    const gdml_predictor *p = &e->model->predictor;
    const int64_t work = p->n_tiles * p->tile * gdml_n_images(p);
    if (n_threads < 1 || work * e->n_geo < parallel_threshold) n_threads = 1;
    const int64_t most = most_together(e);
    int64_t n_query = e->n_geo / n_threads;
    if (n_query > most) n_query = most;
    if (n_query < 1) n_query = 1;
    while (n_query > 1 && block_bytes(e, n_query) > scratch_limit) --n_query;
    e->n_query = n_query;
    e->n_blocks = (e->n_geo + n_query - 1) / n_query;
    const int64_t loop = work < parallel_threshold || e->n_blocks > p->n_tiles ? e->n_blocks : p->n_tiles;
    if (n_threads > loop) n_threads = (int)loop;
    e->n_threads = n_threads;
    e->over_tiles = e->n_blocks < n_threads;
    e->n_held = p->n_tiles < tiles_per_thread * n_threads ? p->n_tiles : tiles_per_thread * n_threads;
    e->n_sums = n_query * n_sums(e);
    e->scratch_bytes = block_bytes(e, n_query);
}

int64_t gdml_block_begin(const gdml_evaluation *e, int64_t block, void *scratch, gdml_block *b)
{
    const gdml_predictor *p = &e->model->predictor;
    const int64_t n_atoms = p->n_atoms, n_desc = n_atoms * (n_atoms - 1) / 2, room = padded_desc(e->model);
    int64_t unusable = -1;
    b->first = block * e->n_query;
    b->n_query = e->n_geo - b->first < e->n_query ? e->n_geo - b->first : e->n_query;
    b->scratch = scratch;
    double *at = (double *)((char *)scratch + kernel_bytes(e, e->n_query));
    for (int64_t i = 0; i < b->n_query; ++i, at += 5 * room) {
        const int64_t geo = b->first + i;
        gdml_query *q = b->query + i;
        q->force_x = at + 4 * room;
        if (e->r) {
            q->x = at;
            q->g = at + room;
            const gdml_cell *cell = e->cells ? e->cells + geo * e->cell_step : NULL;
            if (e->kernels->descriptor(n_atoms, e->r + 3 * n_atoms * geo, cell, q->x, q->g) >= 0 && unusable < 0)
                unusable = geo;
            gdml_scale_descriptor(n_desc, e->model->weights, q->x, q->g);
        } else {                                           /* only read */
            q->x = (double *)(e->x + geo * n_desc);
            q->g = (double *)(e->g + 3 * geo * n_desc);
        }
    }
    b->images = at;
    b->sums = at + b->n_query * gdml_n_images(p);
    e->kernels->prediction->images(p, b->n_query, b->query, b->images);
    memset(b->sums, 0, sizeof(double) * (size_t)(b->n_query * n_sums(e)));
    return unusable;
}

void gdml_block_tile(const gdml_evaluation *e, const gdml_block *b, int64_t tile, double *sums, void *scratch)
{
    const gdml_predictor *p = &e->model->predictor;
    if (e->force_std)
        e->kernels->deviations->tile(p, &e->model->samples, tile, b->n_query, b->images, sums, scratch);
    else
        e->kernels->prediction->tile(p, tile, b->n_query, b->images, e->force || e->virial, sums, scratch);
}

void gdml_add_sums(const gdml_evaluation *e, int64_t n_tiles, const double *tile_sums, gdml_block *b)
{
    const int64_t n = b->n_query * n_sums(e);
    for (int64_t t = 0; t < n_tiles; ++t)
        for (int64_t k = 0; k < n; ++k) b->sums[k] += tile_sums[t * e->n_sums + k];
}

/* Root mean squares over the samples of what they predict, the forces' over the three components. */
static void deviations(const gdml_evaluation *e, gdml_block *b)
{
    const gdml_model *m = e->model;
    const int64_t n_atoms = m->predictor.n_atoms, n_samples = m->samples.n;
    const int64_t n_own = b->n_query * gdml_n_sums(&m->predictor);
    double *force = b->sums + b->n_query * n_sums(e);
    for (int64_t i = 0; i < b->n_query; ++i) {
        e->energy_std[b->first + i] = 0.0;
        memset(e->force_std + (b->first + i) * n_atoms, 0, sizeof(double) * (size_t)n_atoms);
    }
    for (int64_t s = 0; s < n_samples; ++s) {
        e->kernels->prediction->collect(&m->predictor, b->n_query, b->images, b->sums + (1 + s) * n_own, b->query);
        for (int64_t i = 0; i < b->n_query; ++i) {
            const double energy = m->std * b->query[i].energy + m->std_c[s];
            double *squares = e->force_std + (b->first + i) * n_atoms;
            e->energy_std[b->first + i] += energy * energy;
            gdml_force_from_descriptor(n_atoms, b->query[i].g, b->query[i].force_x, m->std, force);
            for (int64_t a = 0; a < n_atoms; ++a)
                for (int k = 0; k < 3; ++k) squares[a] += force[3 * a + k] * force[3 * a + k];
        }
    }
    for (int64_t i = b->first; i < b->first + b->n_query; ++i) {
        e->energy_std[i] = m->std_scale * sqrt(e->energy_std[i] / (double)n_samples);
        for (double *f = e->force_std + i * n_atoms; f < e->force_std + (i + 1) * n_atoms; ++f)
            *f = m->std_scale * sqrt(*f / (double)(3 * n_samples));
    }
}

void gdml_block_end(const gdml_evaluation *e, gdml_block *b)
{
    const gdml_model *m = e->model;
    const int64_t n_atoms = m->predictor.n_atoms;
    e->kernels->prediction->collect(&m->predictor, b->n_query, b->images, b->sums, b->query);
    for (int64_t i = 0; i < b->n_query; ++i) {
        const gdml_query *q = b->query + i;
        const int64_t geo = b->first + i;
        if (e->energy) e->energy[geo] = m->std * q->energy + m->c;
        if (e->force)
            gdml_force_from_descriptor(n_atoms, q->g, q->force_x, m->std, e->force + 3 * n_atoms * geo);
        if (e->virial)
            gdml_virial_from_descriptor(n_atoms * (n_atoms - 1) / 2, q->x, q->g, m->weights, q->force_x, m->std,
                                        e->virial + 9 * geo);
    }
    if (e->force_std) deviations(e, b);
}

int64_t gdml_evaluate_block(const gdml_evaluation *e, int64_t block, void *scratch)
{
    gdml_block state;
    const int64_t unusable = gdml_block_begin(e, block, scratch, &state);
    for (int64_t t = 0; t < e->model->predictor.n_tiles; ++t) gdml_block_tile(e, &state, t, state.sums, scratch);
    gdml_block_end(e, &state);
    return unusable;
}
