/* The public interface (fastgdml.h): checks of arguments, and the loops of prediction without Python. */
#include "model.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

#define REQUIRE(condition, ...) \
    if (!(condition)) return gdml_fail(FASTGDML_ERROR_ARGUMENT, __VA_ARGS__)

uint32_t fastgdml_abi_version(void)
{
    return FASTGDML_ABI_VERSION;
}

const char *fastgdml_version(void)
{
    return GDML_VERSION;
}

/* ---- models ----------------------------------------------------------------------------------------------------- */

fastgdml_status fastgdml_model_load(const char *path, fastgdml_model **out)
{
    REQUIRE(out, "fastgdml_model_load: out is NULL");
    *out = NULL;
    REQUIRE(path, "fastgdml_model_load: path is NULL");
    void *image;
    size_t size;
    gdml_image_origin origin;
    fastgdml_status status = gdml_file_load(path, &image, &size, &origin);
    if (status) return status;
    status = gdml_model_open(image, size, origin, path, out);
    if (status) gdml_image_free(image, size, origin);
    return status;
}

static int is_permutation(int64_t n, const int32_t *perm, char *seen)
{
    memset(seen, 0, (size_t)n);
    for (int64_t a = 0; a < n; ++a) {
        if (perm[a] < 0 || perm[a] >= n || seen[perm[a]]) return 0;
        seen[perm[a]] = 1;
    }
    return 1;
}

/* images [P][D]: pair (q[a], q[b]) of pair (a, b), q the inverse of p; scratch: [N] */
static void pair_images_of(int64_t n_perms, int64_t n_atoms, const int32_t *perms, int32_t *inverse, int32_t *images)
{
    for (int64_t p = 0; p < n_perms; ++p) {
        for (int32_t a = 0; a < n_atoms; ++a) inverse[perms ? perms[p * n_atoms + a] : a] = a;
        for (int64_t a = 1; a < n_atoms; ++a) {
            for (int64_t b = 0; b < a; ++b) {
                const int32_t one = inverse[a], other = inverse[b], high = one > other ? one : other;
                *images++ = high * (high - 1) / 2 + (one > other ? other : one);
            }
        }
    }
}

static fastgdml_status check_numbers(const char *what, const double *numbers, int64_t n)
{
    for (int64_t i = 0; i < n; ++i)
        REQUIRE(isfinite(numbers[i]), "fastgdml_model_from_arrays: %s[%lld] is %g, not finite", what, (long long)i,
                numbers[i]);
    return FASTGDML_SUCCESS;
}

static fastgdml_status check_arrays(const fastgdml_arrays *a, int64_t n_perms)
{
    const char *const here = "fastgdml_model_from_arrays";
    REQUIRE(a->n_atoms >= 2 && a->n_atoms <= 1 << 15, "%s: n_atoms is %lld", here, (long long)a->n_atoms);
    REQUIRE(a->n_train >= 1 && a->n_train < INT_MAX, "%s: n_train is %lld", here, (long long)a->n_train);
    REQUIRE(a->n_perms >= 0 && a->n_perms < INT_MAX, "%s: n_perms is %lld", here, (long long)a->n_perms);
    REQUIRE(a->perms || a->n_perms == 0, "%s: perms is NULL, n_perms is %lld", here, (long long)a->n_perms);
    REQUIRE(a->descriptors && a->coefficients, "%s: descriptors or coefficients are NULL", here);
    const int64_t n_desc = a->n_atoms * (a->n_atoms - 1) / 2;
    REQUIRE(n_perms <= INT_MAX / n_desc, "%s: %lld permutations of %lld pairs are too many", here, (long long)n_perms,
            (long long)n_desc);
    REQUIRE(a->sig > 0 && isfinite(a->sig), "%s: sig is %g, not a positive number", here, a->sig);
    const double scalars[2] = {a->std, a->c};
    fastgdml_status status = check_numbers("std, c", scalars, 2);
    if (!status) status = check_numbers("descriptors", a->descriptors, a->n_train * n_desc);
    if (!status) status = check_numbers("coefficients", a->coefficients, a->n_train * n_desc);
    if (!status && a->energy_coefficients)
        status = check_numbers("energy_coefficients", a->energy_coefficients, a->n_train);
    if (status) return status;
    gdml_cell cell;
    REQUIRE(a->image_rule == FASTGDML_IMAGE_ROUNDING || a->image_rule == FASTGDML_IMAGE_MINIMUM,
            "%s: image_rule is %d", here, (int)a->image_rule);
    REQUIRE(!a->lattice || gdml_cell_init(&cell, a->lattice, a->image_rule == FASTGDML_IMAGE_MINIMUM),
            "%s: lattice vectors are linearly dependent or not finite", here);
    for (int64_t i = 0; a->atomic_numbers && i < a->n_atoms; ++i)
        REQUIRE(a->atomic_numbers[i] >= 0 && a->atomic_numbers[i] < 200, "%s: atomic_numbers[%lld] is %d", here,
                (long long)i, (int)a->atomic_numbers[i]);
    REQUIRE((!a->energy_unit || strlen(a->energy_unit) < GDML_UNIT_LENGTH) &&
                (!a->length_unit || strlen(a->length_unit) < GDML_UNIT_LENGTH),
            "%s: the name of a unit has more than %d characters", here, GDML_UNIT_LENGTH - 1);
    return FASTGDML_SUCCESS;
}

fastgdml_status fastgdml_model_from_arrays(const fastgdml_arrays *a, fastgdml_model **out)
{
    REQUIRE(out, "fastgdml_model_from_arrays: out is NULL");
    *out = NULL;
    REQUIRE(a, "fastgdml_model_from_arrays: arrays is NULL");
    const int64_t n_perms = a->n_perms > 0 ? a->n_perms : 1;
    fastgdml_status status = check_arrays(a, n_perms);
    if (status) return status;
    const int64_t n_desc = a->n_atoms * (a->n_atoms - 1) / 2;
    int32_t *const images = malloc(sizeof *images * (size_t)(n_perms * n_desc));
    int32_t *const of_atoms = calloc(2 * (size_t)a->n_atoms, sizeof *of_atoms);
    if (!images || !of_atoms) {
        status = gdml_fail(FASTGDML_ERROR_MEMORY, "no memory for the tables of %lld permutations", (long long)n_perms);
        goto done;
    }
    for (int64_t p = 0; p < a->n_perms; ++p) {
        if (is_permutation(a->n_atoms, a->perms + p * a->n_atoms, (char *)of_atoms)) continue;
        status = gdml_fail(FASTGDML_ERROR_ARGUMENT, "fastgdml_model_from_arrays: perms[%lld] is no permutation",
                           (long long)p);
        goto done;
    }
    pair_images_of(n_perms, a->n_atoms, a->n_perms ? a->perms : NULL, of_atoms, images);
    memset(of_atoms, 0, 2 * (size_t)a->n_atoms * sizeof *of_atoms);
    const gdml_model_parts parts = {
        .n_atoms = a->n_atoms,
        .n_train = a->n_train,
        .n_perms = n_perms,
        .z = a->atomic_numbers ? a->atomic_numbers : of_atoms,
        .pair_images = images,
        .x = a->descriptors,
        .v = a->coefficients,
        .energies = a->energy_coefficients,
        .sig = a->sig,
        .std = a->std,
        .c = a->c,
        .periodicity = a->lattice ? GDML_ONE_CELL : GDML_MOLECULE,
        .minimum_image = a->image_rule == FASTGDML_IMAGE_MINIMUM,
        .lattice = a->lattice,
        .energy_unit = a->energy_unit,
        .length_unit = a->length_unit,
    };
    status = gdml_model_new(&parts, out);
    if (status == FASTGDML_ERROR_FORMAT) status = FASTGDML_ERROR_ARGUMENT;   /* scaled by sig, a number overflowed */
done:
    free(images);
    free(of_atoms);
    return status;
}

void fastgdml_model_free(fastgdml_model *m)
{
    if (!m) return;
    gdml_image_free(m->image, m->image_size, m->origin);
    free(m);
}

int fastgdml_model_n_atoms(const fastgdml_model *m)
{
    return m ? (int)m->predictor.n_atoms : 0;
}

int64_t fastgdml_model_n_train(const fastgdml_model *m)
{
    return m ? m->n_train : 0;
}

int64_t fastgdml_model_n_perms(const fastgdml_model *m)
{
    return m ? m->predictor.n_perms : 0;
}

const int32_t *fastgdml_model_atomic_numbers(const fastgdml_model *m)
{
    return m ? m->z : NULL;
}

const char *fastgdml_model_energy_unit(const fastgdml_model *m)
{
    return m ? m->energy_unit : "";
}

const char *fastgdml_model_length_unit(const fastgdml_model *m)
{
    return m ? m->length_unit : "";
}

int fastgdml_model_is_periodic(const fastgdml_model *m)
{
    return m && m->periodicity != GDML_MOLECULE;
}

fastgdml_status fastgdml_model_lattice(const fastgdml_model *m, double *lattice)
{
    REQUIRE(m && lattice, "fastgdml_model_lattice: an argument is NULL");
    REQUIRE(m->periodicity == GDML_ONE_CELL, "fastgdml_model_lattice: the model %s",
            m->periodicity == GDML_MOLECULE ? "is of a molecule" : "was trained in several cells");
    memcpy(lattice, m->lattice, sizeof m->lattice);
    return FASTGDML_SUCCESS;
}

/* Lengths of the columns of a lattice, and their angles in degrees: second and third, third and first, first and second. */
static void edges_and_angles(const double *l, double *six)
{
    for (int i = 0; i < 3; ++i) six[i] = sqrt(l[i] * l[i] + l[3 + i] * l[3 + i] + l[6 + i] * l[6 + i]);
    for (int i = 0; i < 3; ++i) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        const double dot = l[j] * l[k] + l[3 + j] * l[3 + k] + l[6 + j] * l[6 + k];
        six[3 + i] = acos(dot / (six[j] * six[k])) * (180 / acos(-1.0));
    }
}

/* Whether L^T L, the products of the lattice vectors, are equal: what a rotation leaves alone. */
static int same_products(const double *one, const double *other)
{
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j <= i; ++j) {
            double dot = 0, other_dot = 0, ii = 0, jj = 0;
            for (int k = 0; k < 9; k += 3) {
                dot += one[k + i] * one[k + j];
                other_dot += other[k + i] * other[k + j];
                ii += one[k + i] * one[k + i];
                jj += one[k + j] * one[k + j];
            }
            if (!(fabs(dot - other_dot) <= 1e-4 * sqrt(ii * jj))) return 0;
        }
    }
    return 1;
}

fastgdml_status fastgdml_model_check_lattice(const fastgdml_model *m, const double *lattice)
{
    REQUIRE(m && lattice, "fastgdml_model_check_lattice: an argument is NULL");
    if (m->periodicity != GDML_ONE_CELL || same_products(m->lattice, lattice)) return FASTGDML_SUCCESS;
    double given[6], own[6];
    edges_and_angles(lattice, given);
    edges_and_angles(m->lattice, own);
    return gdml_fail(FASTGDML_ERROR_GEOMETRY,
                     "the cell has edges %.6g %.6g %.6g and angles %.6g %.6g %.6g, the model was trained with %.6g %.6g "
                     "%.6g and %.6g %.6g %.6g (lengths in the model's unit)",
                     given[0], given[1], given[2], given[3], given[4], given[5], own[0], own[1], own[2], own[3], own[4],
                     own[5]);
}

/* ---- prediction ------------------------------------------------------------------------------------------------- */

/* OpenMP runtimes hang in a child process that was forked after a parallel region, so such a child runs serially. */
#if defined(_OPENMP) && !defined(_WIN32)
static pthread_once_t watch_forks_once = PTHREAD_ONCE_INIT;
static int forked;

static void note_fork(void)
{
    forked = 1;
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, note_fork);
}
#endif

static int resolve_threads(int n_threads)
{
#ifdef _OPENMP
    enum { MOST_THREADS = 1024 };                          /* the runtime ends the program where the system gives fewer */
    if (n_threads == 1) return 1;
#ifndef _WIN32
    pthread_once(&watch_forks_once, watch_forks);
    if (forked) return 1;
#endif
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

fastgdml_status fastgdml_predict(const fastgdml_model *m, int64_t n_geo, const double *r, const double *lattice,
                                 double *energy, double *forces, double *virial, int n_threads)
{
    REQUIRE(m, "fastgdml_predict: model is NULL");
    REQUIRE(n_geo >= 0, "fastgdml_predict: n_geo is %lld", (long long)n_geo);
    REQUIRE(r || n_geo == 0, "fastgdml_predict: r is NULL");
    REQUIRE(!lattice || m->periodicity != GDML_MOLECULE,
            "fastgdml_predict: the model is of a molecule and cannot be used with a lattice");
    REQUIRE(lattice || m->periodicity != GDML_CELL_GIVEN,
            "fastgdml_predict: the model was trained in several cells: give the lattice to predict in");
    gdml_cell cell;
    REQUIRE(!lattice || gdml_cell_init(&cell, lattice, m->minimum_image),
            "fastgdml_predict: lattice vectors are linearly dependent or not finite");
    if (n_geo == 0) return FASTGDML_SUCCESS;

    gdml_evaluation e = {
        .model = m,
        .kernels = m->kernels,
        .n_geo = n_geo,
        .r = r,
        .cells = lattice ? &cell : m->periodicity == GDML_ONE_CELL ? &m->cell : NULL,
        .energy = energy,
        .force = forces,
        .virial = virial,
    };
    gdml_plan(&e, resolve_threads(n_threads));
    const size_t scratch_bytes = (size_t)e.n_threads * e.scratch_bytes;
    const size_t sums_bytes = e.over_tiles ? sizeof(double) * (size_t)(e.n_held * e.n_sums) : 0;
    char *scratch = gdml_scratch_new(scratch_bytes + sums_bytes);
    if (!scratch)
        return gdml_fail(FASTGDML_ERROR_MEMORY, "fastgdml_predict: no memory for %.1f MB of scratch",
                         1e-6 * (double)(scratch_bytes + sums_bytes));
    const int64_t unusable = e.over_tiles ? predict_tiles(&e, scratch, (double *)(scratch + scratch_bytes))
                                          : predict_blocks(&e, scratch);
    gdml_scratch_free(scratch);
    if (unusable < n_geo)
        return gdml_fail(FASTGDML_ERROR_GEOMETRY,
                         "fastgdml_predict: geometry %lld has atoms at the same place or positions that are not finite",
                         (long long)unusable);
    return FASTGDML_SUCCESS;
}
