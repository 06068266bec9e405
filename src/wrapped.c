/* Molecules that a program has wrapped into its periodic cell, made whole (fastgdml_make_whole).
 *
 * Whether a molecule was wrapped is not told, and programs that do not wrap it give cells without meaning: then atoms must
 * stay. So a molecule is moved only where both hold: as it comes, two atoms are further apart than the training set gives
 * reason for, which knows the longest distance of each pair; and images of atoms are nearer to their neighbours.
 */
#include "model.h"
#include "lammps/whole.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Distances up to this many times the longest one in training are taken for the molecule's own. */
static const double stretch = 1.25;

/* Least distance of a molecule from its periodic images, in longest edges of its tree. */
static const double clearance = 1.25;

typedef struct {
    const gdml_model *model;
    gdml_cell cell;
    double *reach;                /* [D] longest distance of each pair in training, or NULL: not found out yet */
    int32_t *order, *parent;      /* [N] */
    double *distance, *r;         /* [N], [N][3] */
} work;

static fastgdml_status no_memory(void)
{
    return gdml_fail(FASTGDML_ERROR_MEMORY, "no memory for the distances of the training set");
}

static fastgdml_status find_reach(work *w)
{
    const gdml_model *const m = w->model;
    const size_t n_atoms = (size_t)m->predictor.n_atoms, n_desc = n_atoms * (n_atoms - 1) / 2;
    const size_t n_train = (size_t)m->n_train, n_perms = (size_t)m->predictor.n_perms;
    int32_t *const images = malloc(n_perms * n_desc * sizeof *images);
    double *const x = malloc((2 * n_desc + 1) * n_train * sizeof *x);
    double *const least = malloc(n_desc * sizeof *least);
    w->reach = malloc(n_desc * sizeof *w->reach);
    const int is_allocated = images && x && least && w->reach;
    if (is_allocated) {
        gdml_model_arrays(m, images, x, x + n_desc * n_train, x + 2 * n_desc * n_train);
        for (size_t k = 0; k < n_desc; ++k) {
            least[k] = INFINITY;
            w->reach[k] = 0;
        }
        for (size_t i = 0; i < n_train; ++i)
            for (size_t k = 0; k < n_desc; ++k) least[k] = fmin(least[k], x[i * n_desc + k]);
        for (size_t p = 0; p < n_perms; ++p)
            for (size_t k = 0; k < n_desc; ++k)
                w->reach[k] = fmax(w->reach[k], (m->weights ? m->weights[k] : 1) / least[images[p * n_desc + k]]);
    }
    free(images);
    free(x);
    free(least);
    return is_allocated ? FASTGDML_SUCCESS : no_memory();
}

/* No two atoms are so far apart that one could have a nearer image (see gdml_fold). */
static int is_compact(const work *w, const double *r)
{
    double diagonal = 0;
    for (int i = 0; i < 3; ++i) {
        const double *const row = w->cell.inverse + 3 * i;
        double low = INFINITY, high = -INFINITY, least = INFINITY, most = -INFINITY;
        for (int64_t a = 0; a < w->model->predictor.n_atoms; ++a) {
            const double f = row[0] * r[3 * a] + row[1] * r[3 * a + 1] + row[2] * r[3 * a + 2];
            low = fmin(low, f);
            high = fmax(high, f);
            least = fmin(least, r[3 * a + i]);
            most = fmax(most, r[3 * a + i]);
        }
        if (!(high - low < 0.5)) return 0;
        diagonal += (most - least) * (most - least);
    }
    return diagonal <= w->cell.safe;
}

typedef struct {
    int64_t a, b;
    double length, ratio;         /* distance, by its reach */
} pair;

/* The pair of atoms that is furthest beyond its reach. */
static pair furthest(const work *w, const double *r)
{
    pair most = {0};
    const double *reach = w->reach;
    for (int64_t b = 1; b < w->model->predictor.n_atoms; ++b) {
        for (int64_t a = 0; a < b; ++a, ++reach) {
            double squared = 0;
            for (int k = 0; k < 3; ++k) squared += (r[3 * b + k] - r[3 * a + k]) * (r[3 * b + k] - r[3 * a + k]);
            const double length = sqrt(squared), ratio = length / *reach;
            if (ratio > most.ratio) most = (pair){a, b, length, ratio};
        }
    }
    return most;
}

static fastgdml_status make_whole(work *w, int64_t geometry, double *r)
{
    const int64_t n = w->model->predictor.n_atoms;
    if (is_compact(w, r)) return FASTGDML_SUCCESS;
    for (int64_t i = 0; i < 3 * n; ++i)
        if (!isfinite(r[i])) return FASTGDML_SUCCESS;      /* prediction says so */
    if (!w->reach) {
        const fastgdml_status status = find_reach(w);
        if (status) return status;
    }
    const pair given = furthest(w, r);
    if (given.ratio <= stretch) return FASTGDML_SUCCESS;
    char what[160];
    snprintf(what, sizeof what, "geometry %lld: atoms %lld and %lld are %.4g apart, in training at most %.4g",
             (long long)geometry, (long long)given.a + 1, (long long)given.b + 1, given.length,
             given.length / given.ratio);
    memcpy(w->r, r, 3 * (size_t)n * sizeof *r);
    gdml_molecule_tree(n, r, &w->cell, w->order, w->parent, w->distance);
    gdml_make_whole(n, w->r, &w->cell, w->order, w->parent, INFINITY);
    if (gdml_image_contact(n, w->r, &w->cell, w->order, w->parent) < clearance)
        return gdml_fail(FASTGDML_ERROR_GEOMETRY,
                         "%s; if the molecule was wrapped into its cell, the cell is too small to tell where it ends: take a "
                         "larger one", what);
    double moved = 0, size = 0;
    for (int64_t i = 0; i < 3 * n; ++i) {
        moved = fmax(moved, fabs(w->r[i] - r[i]));
        size = fmax(size, fabs(r[i]));
    }
    if (moved <= 1e-9 * size) return FASTGDML_SUCCESS;     /* by rounding: it is stretched, not wrapped */
    const pair whole = furthest(w, w->r);
    if (whole.ratio > stretch)
        return gdml_fail(FASTGDML_ERROR_GEOMETRY,
                         "%s, and as those of a molecule that was wrapped into its cell atoms %lld and %lld are %.4g apart: "
                         "is the cell right, and is the molecule whole?",
                         what, (long long)whole.a + 1, (long long)whole.b + 1, whole.length);
    memcpy(r, w->r, 3 * (size_t)n * sizeof *r);
    return FASTGDML_SUCCESS;
}

fastgdml_status fastgdml_make_whole(const fastgdml_model *m, int64_t n_geo, const double *lattice, double *r)
{
    if (!m || !lattice || (!r && n_geo > 0))
        return gdml_fail(FASTGDML_ERROR_ARGUMENT, "fastgdml_make_whole: an argument is NULL");
    if (n_geo < 0) return gdml_fail(FASTGDML_ERROR_ARGUMENT, "fastgdml_make_whole: n_geo is %lld", (long long)n_geo);
    work w = {.model = m};
    if (m->periodicity != GDML_MOLECULE || gdml_cell_init(&w.cell, lattice, 1)) return FASTGDML_SUCCESS;
    const size_t n = (size_t)m->predictor.n_atoms;
    w.order = malloc(2 * n * sizeof *w.order);
    w.distance = malloc(4 * n * sizeof *w.distance);
    fastgdml_status status = w.order && w.distance ? FASTGDML_SUCCESS : no_memory();
    if (!status) {
        w.parent = w.order + n;
        w.r = w.distance + n;
    }
    for (int64_t geo = 0; !status && geo < n_geo; ++geo) status = make_whole(&w, geo, r + 3 * geo * (int64_t)n);
    free(w.order);
    free(w.distance);
    free(w.reach);
    return status;
}
