/* The public interface (fastgdml.h): models made, asked and freed. capi_predict.c predicts with them. */
#include "model.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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
    if (!status && a->weights) status = check_numbers("weights", a->weights, n_desc);
    if (status) return status;
    gdml_cell cell;
    REQUIRE(a->image_rule == FASTGDML_IMAGE_ROUNDING || a->image_rule == FASTGDML_IMAGE_MINIMUM,
            "%s: image_rule is %d", here, (int)a->image_rule);
    const char *const problem =
        a->lattice ? gdml_cell_init(&cell, a->lattice, a->image_rule == FASTGDML_IMAGE_MINIMUM) : NULL;
    REQUIRE(!problem, "%s: %s", here, problem);
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
        .weights = a->weights,
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
    if (status == FASTGDML_ERROR_FORMAT) status = FASTGDML_ERROR_ARGUMENT;   /* weights, or a number that sig made overflow */
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

int64_t fastgdml_model_n_std(const fastgdml_model *m)
{
    return m ? m->samples.n : 0;
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
