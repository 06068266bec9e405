/* The public interface: arguments that are wrong, outputs that are left out, forces and virials against differences of
 * the energy, results against the number of threads.
 */
#include "check.h"

#include <limits.h>
#ifndef _WIN32
#include <pthread.h>
#endif

/* Narrow: some pairs of atoms are nearer as images. */
static const double skewed_cell[9] = {4.2, 1.5, 0.4, 0.0, 3.9, 1.1, 0.2, 0.0, 4.0};

/* ---- wrong arguments -------------------------------------------------------------------------------------------- */

static void nothing_is_no_model(void)
{
    double number = 0;
    fastgdml_model_free(NULL);
    CHECK(fastgdml_model_n_atoms(NULL) == 0);
    CHECK(fastgdml_model_n_train(NULL) == 0);
    CHECK(fastgdml_model_n_perms(NULL) == 0);
    CHECK(!fastgdml_model_atomic_numbers(NULL));
    CHECK(!strcmp(fastgdml_model_energy_unit(NULL), ""));
    CHECK(!strcmp(fastgdml_model_length_unit(NULL), ""));
    CHECK(fastgdml_model_is_periodic(NULL) == 0);
    CHECK_FAILS(fastgdml_model_lattice(NULL, &number), FASTGDML_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(fastgdml_predict(NULL, 1, &number, NULL, &number, NULL, NULL, 1), FASTGDML_ERROR_ARGUMENT,
                "model is NULL");
    CHECK_FAILS(fastgdml_hessian(NULL, 1, &number, NULL, NULL, NULL, &number, 1), FASTGDML_ERROR_ARGUMENT,
                "fastgdml_hessian: model is NULL");
}

static void loading_what_is_no_file(void)
{
    fastgdml_model *model = (fastgdml_model *)&model;
    CHECK_FAILS(fastgdml_model_load(NULL, &model), FASTGDML_ERROR_ARGUMENT, "path is NULL");
    CHECK(!model);
    CHECK_FAILS(fastgdml_model_load("x.fgdml", NULL), FASTGDML_ERROR_ARGUMENT, "out is NULL");
    model = (fastgdml_model *)&model;
    CHECK_FAILS(fastgdml_model_load("no such file", &model), FASTGDML_ERROR_FILE, "no such file cannot be opened");
    CHECK(!model);
}

static void version_of_the_library(void)
{
    CHECK(fastgdml_abi_version() == FASTGDML_ABI_VERSION);
    CHECK(strchr(fastgdml_version(), '.'));
}

/* A valid set of arrays of three atoms and two points, one part of which each test spoils. */
typedef struct {
    int32_t z[3], perms[2][3];
    double x[2][3], v[2][3], e[2], w[3], lattice[9];
} parts;

static fastgdml_arrays arrays_of(parts *p)
{
    *p = (parts){
        .z = {1, 1, 8},
        .perms = {{0, 1, 2}, {1, 0, 2}},
        .x = {{1.0, 0.9, 0.8}, {1.1, 0.7, 0.9}},
        .v = {{1, 2, 3}, {-1, 0, 1}},
        .e = {0.5, -0.5},
        .w = {2, 2, 2},
        .lattice = {5, 0, 0, 0, 5, 0, 0, 0, 5},
    };
    const fastgdml_arrays arrays = {
        .n_atoms = 3,
        .n_train = 2,
        .n_perms = 2,
        .atomic_numbers = p->z,
        .perms = p->perms[0],
        .descriptors = p->x[0],
        .coefficients = p->v[0],
        .energy_coefficients = p->e,
        .sig = 1,
        .std = 1,
        .lattice = p->lattice,
    };
    return arrays;
}

#define CHECK_REFUSES(spoil, text) \
    do { \
        parts p; \
        fastgdml_arrays arrays = arrays_of(&p); \
        fastgdml_model *model = (fastgdml_model *)&model; \
        spoil; \
        CHECK_FAILS(fastgdml_model_from_arrays(&arrays, &model), FASTGDML_ERROR_ARGUMENT, text); \
        CHECK(!model); \
    } while (0)

static void arrays_that_make_no_model(void)
{
    parts all;
    const fastgdml_arrays good = arrays_of(&all);
    fastgdml_model *out = (fastgdml_model *)&out;
    CHECK_FAILS(fastgdml_model_from_arrays(&good, NULL), FASTGDML_ERROR_ARGUMENT, "out is NULL");
    CHECK_FAILS(fastgdml_model_from_arrays(NULL, &out), FASTGDML_ERROR_ARGUMENT, "arrays is NULL");
    CHECK(!out);
    CHECK(!fastgdml_model_from_arrays(&good, &out));
    fastgdml_model_free(out);

    const int64_t counts[] = {INT64_MIN, -1, 0, 1, (1 << 15) + 1, INT64_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; ++i) CHECK_REFUSES(arrays.n_atoms = counts[i], "n_atoms is");
    CHECK_REFUSES(arrays.n_train = 0, "n_train is 0");
    CHECK_REFUSES(arrays.n_train = -5, "n_train is -5");
    CHECK_REFUSES(arrays.n_train = INT64_MAX, "n_train is");
    CHECK_REFUSES(arrays.n_perms = -1, "n_perms is -1");
    CHECK_REFUSES(arrays.n_perms = INT64_MAX, "n_perms is");
    CHECK_REFUSES(arrays.n_perms = INT_MAX - 1, "are too many");
    CHECK_REFUSES(arrays.perms = NULL, "perms is NULL, n_perms is 2");
    CHECK_REFUSES(arrays.descriptors = NULL, "descriptors or coefficients");
    CHECK_REFUSES(arrays.coefficients = NULL, "descriptors or coefficients");
    CHECK_REFUSES(p.perms[1][0] = 0, "perms[1] is no permutation");
    CHECK_REFUSES(p.perms[1][0] = -1, "perms[1] is no permutation");
    CHECK_REFUSES(p.perms[0][2] = 3, "perms[0] is no permutation");
    CHECK_REFUSES(p.perms[0][2] = INT32_MAX, "perms[0] is no permutation");
    CHECK_REFUSES(p.z[1] = -1, "atomic_numbers[1] is -1");
    CHECK_REFUSES(p.z[2] = 200, "atomic_numbers[2] is 200");
    const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; ++i) {
        CHECK_REFUSES(p.x[1][2] = bad[i], "descriptors[5] is");
        CHECK_REFUSES(p.v[0][1] = bad[i], "coefficients[1] is");
        CHECK_REFUSES(p.e[1] = bad[i], "energy_coefficients[1] is");
        CHECK_REFUSES(p.lattice[4] = bad[i], "lattice vectors");
        CHECK_REFUSES(arrays.sig = bad[i], "sig is");
        CHECK_REFUSES((p.w[1] = bad[i], arrays.weights = p.w), "weights[1] is");
        CHECK_REFUSES(arrays.std = bad[i], "std, c[0]");
        CHECK_REFUSES(arrays.c = bad[i], "std, c[1]");
    }
    CHECK_REFUSES(arrays.sig = 0, "sig is 0");
    CHECK_REFUSES(arrays.sig = -1, "sig is -1");
    CHECK_REFUSES((p.w[0] = 0, arrays.weights = p.w), "weight of a pair that is no positive number");
    CHECK_REFUSES((p.w[2] = -1, arrays.weights = p.w), "weight of a pair that is no positive number");
    CHECK_REFUSES((p.w[2] = 3, arrays.weights = p.w), "weights of pairs that its permutations change");   /* exchanged with pair 1 */
    CHECK_REFUSES(arrays.sig = 1e-310, "not finite");     /* what is stored overflows */
    CHECK_REFUSES(p.lattice[0] = 0, "linearly dependent");
    CHECK_REFUSES(arrays.image_rule = (fastgdml_image_rule)2, "image_rule is 2");
    CHECK_REFUSES(arrays.energy_unit = "a name of thirty-two characters.", "more than 31 characters");
    CHECK_REFUSES(arrays.length_unit = "a name of thirty-two characters.", "more than 31 characters");
}

static void what_may_be_left_out(void)
{
    parts p;
    fastgdml_arrays arrays = arrays_of(&p);
    fastgdml_model *model;
    arrays.atomic_numbers = NULL;
    arrays.n_perms = 0;
    p.perms[0][0] = INT32_MAX;                             /* none of 0 permutations is read */
    arrays.energy_coefficients = NULL;
    arrays.lattice = NULL;
    CHECK(!fastgdml_model_from_arrays(&arrays, &model));
    CHECK(fastgdml_model_n_perms(model) == 1);
    for (int a = 0; a < 3; ++a) CHECK(fastgdml_model_atomic_numbers(model)[a] == 0);
    CHECK(!strcmp(fastgdml_model_energy_unit(model), ""));
    const double r[9] = {0, 0, 0, 1, 0, 0, 0, 1, 0};
    double energy, same;
    CHECK(!fastgdml_predict(model, 1, r, NULL, &energy, NULL, NULL, 1));
    fastgdml_model_free(model);

    arrays.perms = NULL;
    CHECK(!fastgdml_model_from_arrays(&arrays, &model));
    CHECK(!fastgdml_predict(model, 1, r, NULL, &same, NULL, NULL, 1));
    CHECK(same_bits(1, &energy, &same));
    fastgdml_model_free(model);
}

/* Twice the descriptors, with weights of 2, at twice the length scale are the same model. */
static void weights_of_pairs(void)
{
    parts p, q;
    fastgdml_arrays plain = arrays_of(&p), weighted = arrays_of(&q);
    plain.lattice = weighted.lattice = NULL;
    for (int k = 0; k < 6; ++k) {
        q.x[k / 3][k % 3] *= 2;
        q.v[k / 3][k % 3] *= 2;
    }
    weighted.weights = q.w;
    weighted.sig = 2;
    fastgdml_model *one, *other;
    CHECK(!fastgdml_model_from_arrays(&plain, &one) && !fastgdml_model_from_arrays(&weighted, &other));
    const double r[9] = {0, 0, 0, 1, 0.1, 0, 0.2, 1.1, 0}, cell[9] = {20, 0, 0, 0, 20, 0, 0, 0, 20};
    double found[2][19];
    for (int i = 0; i < 2; ++i)
        CHECK(!fastgdml_predict(i ? other : one, 1, r, NULL, found[i], found[i] + 1, found[i] + 10, 1));
    for (int k = 0; k < 19; ++k) CHECK(fabs(found[0][k] - found[1][k]) < 1e-13 * (1 + fabs(found[0][k])));

    double wrapped[9];                                     /* the distances known from training are not scaled */
    memcpy(wrapped, r, sizeof r);
    wrapped[6] += 20;
    CHECK(!fastgdml_make_whole(other, 1, cell, wrapped));
    for (int i = 0; i < 9; ++i) CHECK(fabs(wrapped[i] - wrapped[i % 3] - r[i] + r[i % 3]) < 1e-12);
    const double tight[9] = {1.9, 0, 0, 0, 1.9, 0, 0, 0, 1.9};  /* where a molecule with such distances stays as it is */
    memcpy(wrapped, r, sizeof r);
    CHECK(!fastgdml_make_whole(other, 1, tight, wrapped) && same_bits(9, wrapped, r));
    fastgdml_model_free(one);
    fastgdml_model_free(other);
}

static void predictions_that_cannot_be_made(void)
{
    fastgdml_model *molecule = check_model((check_recipe){.n_atoms = 3, .n_train = 4, .n_perms = 1});
    fastgdml_model *crystal = check_model(
        (check_recipe){.n_atoms = 3, .n_train = 4, .n_perms = 1, .lattice = skewed_cell});
    const double r[9] = {0, 0, 0, 1, 0, 0, 0, 1, 0}, flat[9] = {1, 0, 0, 0, 1, 0, 0, 0, 0};
    const double infinite[9] = {INFINITY, 0, 0, 0, 1, 0, 0, 0, 1};
    double e = 0;
    CHECK_FAILS(fastgdml_predict(molecule, -1, r, NULL, &e, NULL, NULL, 1), FASTGDML_ERROR_ARGUMENT, "n_geo is -1");
    CHECK_FAILS(fastgdml_predict(molecule, 1, NULL, NULL, &e, NULL, NULL, 1), FASTGDML_ERROR_ARGUMENT, "r is NULL");
    CHECK_FAILS(fastgdml_predict(molecule, 1, r, skewed_cell, &e, NULL, NULL, 1), FASTGDML_ERROR_ARGUMENT,
                "is of a molecule");
    CHECK_FAILS(fastgdml_predict(crystal, 1, r, flat, &e, NULL, NULL, 1), FASTGDML_ERROR_ARGUMENT, "dependent");
    CHECK_FAILS(fastgdml_predict(crystal, 1, r, infinite, &e, NULL, NULL, 1), FASTGDML_ERROR_ARGUMENT, "finite");
    CHECK(!fastgdml_predict(molecule, 0, NULL, NULL, NULL, NULL, NULL, 0));
    CHECK(!fastgdml_predict(crystal, 0, r, NULL, &e, NULL, NULL, INT_MIN));
    CHECK(!fastgdml_predict(crystal, 1, r, NULL, NULL, NULL, NULL, INT_MAX));

    double lattice[9];
    CHECK_FAILS(fastgdml_model_lattice(molecule, lattice), FASTGDML_ERROR_ARGUMENT, "is of a molecule");
    CHECK_FAILS(fastgdml_model_lattice(crystal, NULL), FASTGDML_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(fastgdml_model_check_lattice(NULL, skewed_cell), FASTGDML_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(fastgdml_model_check_lattice(crystal, NULL), FASTGDML_ERROR_ARGUMENT, "NULL");
    CHECK(!fastgdml_model_check_lattice(molecule, skewed_cell) && !fastgdml_model_check_lattice(crystal, skewed_cell));
    double other[9];
    for (int i = 0; i < 9; ++i) other[i] = skewed_cell[(i + 3) % 9];   /* axes exchanged in turn: a rotation */
    CHECK(!fastgdml_model_check_lattice(crystal, other));
    for (int i = 0; i < 9; ++i) other[i] = skewed_cell[i] * (i == 4 ? 1.001 : 1.0);
    CHECK_FAILS(fastgdml_model_check_lattice(crystal, other), FASTGDML_ERROR_GEOMETRY, "the model was trained with");
    other[4] = NAN;
    CHECK_FAILS(fastgdml_model_check_lattice(crystal, other), FASTGDML_ERROR_GEOMETRY, "nan");
    CHECK(!fastgdml_model_lattice(crystal, lattice) && same_bits(9, lattice, skewed_cell));
    CHECK(fastgdml_model_is_periodic(crystal) && !fastgdml_model_is_periodic(molecule));
    CHECK(fastgdml_model_n_atoms(crystal) == 3 && fastgdml_model_n_train(crystal) == 4);
    CHECK(!strcmp(fastgdml_model_energy_unit(crystal), "kcal/mol"));
    CHECK(!strcmp(fastgdml_model_length_unit(crystal), "Ang"));
    fastgdml_model_free(molecule);
    fastgdml_model_free(crystal);
}

#ifndef _WIN32
static void *fail_elsewhere(void *text)
{
    CHECK(!strcmp(fastgdml_last_error(), ""));             /* nothing has failed in this thread */
    CHECK(fastgdml_model_load(NULL, NULL) == FASTGDML_ERROR_ARGUMENT);
    snprintf(text, 100, "%s", fastgdml_last_error());
    return NULL;
}

static void each_thread_has_its_own_error(void)
{
    pthread_t thread;
    double factor;
    char elsewhere[100];
    CHECK_FAILS(fastgdml_energy_factor("eV", "stone", &factor), FASTGDML_ERROR_UNIT, "stone");
    CHECK(!pthread_create(&thread, NULL, fail_elsewhere, elsewhere));
    CHECK(!pthread_join(thread, NULL));
    CHECK(strstr(elsewhere, "out is NULL"));
    CHECK(strstr(fastgdml_last_error(), "stone"));
}
#endif

/* ---- units ------------------------------------------------------------------------------------------------------ */

static double energy_factor(const char *from, const char *to)
{
    double factor;
    CHECK(!fastgdml_energy_factor(from, to, &factor));
    return factor;
}

static double length_factor(const char *from, const char *to)
{
    double factor;
    CHECK(!fastgdml_length_factor(from, to, &factor));
    return factor;
}

static int close_to(double one, double other, double tolerance)
{
    return fabs(one - other) <= tolerance * fabs(other);
}

static void units(void)
{
    CHECK(close_to(energy_factor("eV", "kcal/mol"), 23.060547830619, 1e-12));
    CHECK(close_to(energy_factor("Hartree", "eV"), 27.211386245988, 1e-14));
    CHECK(close_to(energy_factor("Hartree", "kcal/mol"), 627.5094740631, 1e-12));
    CHECK(close_to(energy_factor("kcal/mol", "kJ/mol"), 4.184, 1e-14));
    CHECK(close_to(energy_factor("Ry", "mHa"), 500, 1e-14));
    CHECK(close_to(energy_factor("meV", "eV"), 1e-3, 1e-14));
    CHECK(energy_factor(" KCAL / mol\t", "kcal/mol") == 1);
    CHECK(close_to(length_factor("Bohr", "Ang"), 0.529177210903, 1e-14));
    CHECK(length_factor("nm", "ang") == 10);
    CHECK(length_factor("\xc3\x85", "A") == 1);
    double factor;
    CHECK_FAILS(fastgdml_energy_factor(NULL, "eV", &factor), FASTGDML_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(fastgdml_energy_factor("eV", NULL, &factor), FASTGDML_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(fastgdml_energy_factor("eV", "eV", NULL), FASTGDML_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(fastgdml_length_factor(NULL, "nm", &factor), FASTGDML_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(fastgdml_length_factor("nm", NULL, &factor), FASTGDML_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(fastgdml_length_factor("nm", "nm", NULL), FASTGDML_ERROR_ARGUMENT, "NULL");
    CHECK_FAILS(fastgdml_energy_factor("", "eV", &factor), FASTGDML_ERROR_UNIT, "does not record it");
    CHECK_FAILS(fastgdml_length_factor("nm", "mile", &factor), FASTGDML_ERROR_UNIT, "'mile' is no known unit");
    char long_name[2000];
    memset(long_name, 'x', sizeof long_name);
    long_name[sizeof long_name - 1] = 0;
    CHECK_FAILS(fastgdml_length_factor(long_name, "nm", &factor), FASTGDML_ERROR_UNIT, "no known unit");
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

static void what_is_left_out_changes_nothing(const fastgdml_model *model)
{
    enum { N_GEO = 9 };
    const int64_t n = 3 * fastgdml_model_n_atoms(model);
    check_random random = {7};
    double *r = check_doubles(N_GEO * n), *f = check_doubles(N_GEO * n), *same = check_doubles(N_GEO * n);
    double e[N_GEO], alone[N_GEO], virial[9 * N_GEO], virial_alone[9 * N_GEO];
    check_geometries(&random, N_GEO, n / 3, r);
    for (int n_threads = 1; n_threads < 4; ++n_threads) {
        CHECK(!fastgdml_predict(model, N_GEO, r, NULL, e, f, virial, n_threads));
        CHECK(!fastgdml_predict(model, N_GEO, r, NULL, alone, NULL, NULL, n_threads));
        CHECK(same_bits(N_GEO, e, alone));
        CHECK(!fastgdml_predict(model, N_GEO, r, NULL, NULL, same, NULL, n_threads));
        CHECK(same_bits(N_GEO * n, f, same));
        CHECK(!fastgdml_predict(model, N_GEO, r, NULL, NULL, NULL, virial_alone, n_threads));
        CHECK(same_bits(9 * N_GEO, virial, virial_alone));
        CHECK(!fastgdml_predict(model, N_GEO, r, NULL, NULL, NULL, NULL, n_threads));
    }
    free(r);
    free(f);
    free(same);
}

/* Two atoms at one place in geometry 6, a coordinate that is no number in geometry 9; the others are as without them. */
static void unusable_geometries_are_named(const fastgdml_model *model)
{
    enum { N_GEO = 13 };
    const int64_t n = 3 * fastgdml_model_n_atoms(model);
    check_random random = {8};
    double *r = check_doubles(N_GEO * n), *f = check_doubles(N_GEO * n), *f_ref = check_doubles(N_GEO * n);
    double e[N_GEO], e_ref[N_GEO];
    check_geometries(&random, N_GEO, n / 3, r);
    CHECK(!fastgdml_predict(model, N_GEO, r, NULL, e_ref, f_ref, NULL, 1));
    memcpy(r + 6 * n + 3, r + 6 * n, 3 * sizeof *r);
    const double bad[] = {NAN, INFINITY, 1e200};
    for (int i = 0; i < 3; ++i) {
        r[9 * n + 4] = bad[i];
        for (int n_threads = 0; n_threads < 4; ++n_threads) {
            CHECK_FAILS(fastgdml_predict(model, N_GEO, r, NULL, e, f, NULL, n_threads), FASTGDML_ERROR_GEOMETRY,
                        "geometry 6 has");
            for (int g = 0; g < N_GEO; ++g)
                CHECK(g == 6 || g == 9 || (same_bits(1, e + g, e_ref + g) && same_bits(n, f + g * n, f_ref + g * n)));
            CHECK_FAILS(fastgdml_predict(model, 3, r + 7 * n, NULL, e, f, NULL, n_threads), FASTGDML_ERROR_GEOMETRY,
                        "geometry 2 has");
            CHECK_FAILS(fastgdml_predict(model, 1, r + 9 * n, NULL, NULL, NULL, NULL, n_threads),
                        FASTGDML_ERROR_GEOMETRY, "geometry 0 has");
        }
    }
    free(r);
    free(f);
    free(f_ref);
}

static double energy_of(const fastgdml_model *model, const double *r, const double *lattice)
{
    double energy;
    CHECK(!fastgdml_predict(model, 1, r, lattice, &energy, NULL, NULL, 1));
    return energy;
}

/* Weights of central differences of fourth order, for steps of -2, -1, 1, 2. */
static const double difference_steps[4] = {-2, -1, 1, 2}, difference_weights[4] = {1 / 12., -8 / 12., 8 / 12., -1 / 12.};

static void forces_are_derivatives(const fastgdml_model *model)
{
    const int64_t n = 3 * fastgdml_model_n_atoms(model);
    const double step = 1e-3;
    check_random random = {9};
    double *r = check_doubles(n), *f = check_doubles(n), largest = 0;
    check_geometries(&random, 1, n / 3, r);
    CHECK(!fastgdml_predict(model, 1, r, NULL, NULL, f, NULL, 1));
    for (int64_t i = 0; i < n; ++i) largest = fmax(largest, fabs(f[i]));
    CHECK(largest > 1e-3);
    for (int64_t i = 0; i < n; ++i) {
        const double here = r[i];
        double derivative = 0;
        for (int k = 0; k < 4; ++k) {
            r[i] = here + step * difference_steps[k];
            derivative += difference_weights[k] * energy_of(model, r, NULL) / step;
        }
        r[i] = here;
        CHECK(fabs(f[i] + derivative) < 1e-7 * largest + 1e-10);
    }
    free(r);
    free(f);
}

/* to [n][3] = from [n][3] strained; to [3][n] = strained from [3][n] for the columns of a lattice. */
static void strain_rows(int64_t n, const double *from, int i, int j, double strain, double *to)
{
    memcpy(to, from, sizeof *to * 3 * (size_t)n);
    for (int64_t a = 0; a < n; ++a) to[3 * a + i] += strain * from[3 * a + j];
}

static void strain_columns(const double *from, int i, int j, double strain, double *to)
{
    memcpy(to, from, sizeof *to * 9);
    for (int k = 0; k < 3; ++k) to[3 * i + k] += strain * from[3 * j + k];
}

static void virials_are_derivatives(const fastgdml_model *model, const double *lattice)
{
    const int64_t n = 3 * fastgdml_model_n_atoms(model);
    const double step = 3e-4;
    check_random random = {10};
    double *r = check_doubles(n), *strained = check_doubles(n), virial[9], cell[9], largest = 0;
    check_geometries(&random, 1, n / 3, r);
    CHECK(!fastgdml_predict(model, 1, r, lattice, NULL, NULL, virial, 1));
    for (int k = 0; k < 9; ++k) largest = fmax(largest, fabs(virial[k]));
    CHECK(largest > 1e-3);
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
            double derivative = 0;
            for (int k = 0; k < 4; ++k) {
                const double strain = step * difference_steps[k];
                strain_rows(n / 3, r, i, j, strain, strained);
                if (lattice) strain_columns(lattice, i, j, strain, cell);
                derivative += difference_weights[k] * energy_of(model, strained, lattice ? cell : NULL) / step;
            }
            CHECK(fabs(virial[3 * i + j] + derivative) < 1e-6 * largest + 1e-9);
            CHECK(same_bits(1, virial + 3 * i + j, virial + 3 * j + i));
        }
    }
    free(r);
    free(strained);
}

/* Of the forces, with the same bits for any number of threads. */
static void hessians_are_derivatives(const fastgdml_model *model, const double *lattice)
{
    enum { N_GEO = 3 };
    const int64_t n = 3 * fastgdml_model_n_atoms(model);
    const double step = 3e-4;
    const int threads[] = {0, 2, 7};
    check_random random = {12};
    double *r = check_doubles(N_GEO * n), *h = check_doubles(N_GEO * n * n), *same = check_doubles(N_GEO * n * n);
    double *moved = check_doubles(n), *f = check_doubles(n), *column = check_doubles(n), e[N_GEO], largest = 0;
    check_geometries(&random, N_GEO, n / 3, r);
    CHECK(!fastgdml_hessian(model, N_GEO, r, lattice, e, NULL, h, 1));
    for (size_t k = 0; k < sizeof threads / sizeof *threads; ++k) {
        CHECK(!fastgdml_hessian(model, N_GEO, r, lattice, NULL, NULL, same, threads[k]));
        CHECK(same_bits(N_GEO * n * n, h, same));
        CHECK(!fastgdml_hessian(model, 1, r, lattice, NULL, f, same, threads[k]));
        CHECK(same_bits(n * n, h, same));
    }
    for (int64_t k = 0; k < n * n; ++k) largest = fmax(largest, fabs(h[k]));
    for (int64_t i = 0; i < n; ++i) {
        memset(column, 0, sizeof *column * (size_t)n);
        for (int k = 0; k < 4; ++k) {
            memcpy(moved, r, sizeof *moved * (size_t)n);
            moved[i] += step * difference_steps[k];
            CHECK(!fastgdml_predict(model, 1, moved, lattice, NULL, f, NULL, 1));
            for (int64_t j = 0; j < n; ++j) column[j] -= difference_weights[k] * f[j] / step;
        }
        for (int64_t j = 0; j < n; ++j) {
            CHECK(fabs(h[i * n + j] - column[j]) < 1e-6 * largest + 1e-9);
            CHECK(same_bits(1, h + i * n + j, h + j * n + i));
        }
    }
    r[n + 3] = r[n], r[n + 4] = r[n + 1], r[n + 5] = r[n + 2];
    CHECK_FAILS(fastgdml_hessian(model, N_GEO, r, lattice, NULL, NULL, h, 2), FASTGDML_ERROR_GEOMETRY, "geometry 1");
    CHECK_FAILS(fastgdml_hessian(model, 1, r, lattice, NULL, NULL, NULL, 1), FASTGDML_ERROR_ARGUMENT, "hessian is NULL");
    CHECK(!fastgdml_hessian(model, 0, NULL, lattice, NULL, NULL, NULL, 1));
    free(r), free(h), free(same), free(moved), free(f), free(column);
}

/* Numbers of geometries that are divided in each of the ways: serially, over blocks, over tiles. */
static void threads_change_nothing(const fastgdml_model *model)
{
    const int64_t counts[] = {1, 2, 3, 5, 29}, n = 3 * fastgdml_model_n_atoms(model);
    const int threads[] = {0, 2, 4, 7};
    double *r = check_doubles(29 * n), *f = check_doubles(29 * n), *f_ref = check_doubles(29 * n);
    double e[29], e_ref[29], virial[9 * 29], virial_ref[9 * 29];
    check_random random = {11};
    check_geometries(&random, 29, n / 3, r);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; ++i) {
        const int64_t n_geo = counts[i];
        CHECK(!fastgdml_predict(model, n_geo, r, NULL, e_ref, f_ref, virial_ref, 1));
        for (size_t k = 0; k < sizeof threads / sizeof *threads; ++k) {
            memset(f, 0, sizeof *f * (size_t)(29 * n));
            CHECK(!fastgdml_predict(model, n_geo, r, NULL, e, f, virial, threads[k]));
            CHECK(same_bits(n_geo, e, e_ref));
            CHECK(same_bits(n_geo * n, f, f_ref));
            CHECK(same_bits(9 * n_geo, virial, virial_ref));
        }
    }
    free(r);
    free(f);
    free(f_ref);
}

static void molecules_of_all_sizes(void)
{
    const int64_t atoms[] = {2, 9, 21}, points[] = {1, 5, 48, 129, 700};
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 5; ++j) {
            for (int n_perms = 1; n_perms <= (atoms[i] > 2 ? 6 : 1); n_perms += 5) {
                fastgdml_model *model = check_model(
                    (check_recipe){.n_atoms = atoms[i], .n_train = points[j], .n_perms = n_perms, .energies = j % 2});
                threads_change_nothing(model);
                what_is_left_out_changes_nothing(model);
                if (atoms[i] > 2) unusable_geometries_are_named(model);
                if (points[j] < 129) {
                    forces_are_derivatives(model);
                    virials_are_derivatives(model, NULL);
                    hessians_are_derivatives(model, NULL);
                }
                fastgdml_model_free(model);
            }
        }
    }
}

static void cells_of_both_rules(void)
{
    const double wider[9] = {4.5, 1.2, 0.1, 0.3, 4.1, 1.0, 0.0, 0.4, 4.2};
    for (int rule = FASTGDML_IMAGE_ROUNDING; rule <= FASTGDML_IMAGE_MINIMUM; ++rule) {
        fastgdml_model *model = check_model((check_recipe){.n_atoms = 5,
                                                           .n_train = 20,
                                                           .n_perms = 2,
                                                           .lattice = skewed_cell,
                                                           .image_rule = (fastgdml_image_rule)rule});
        threads_change_nothing(model);
        forces_are_derivatives(model);
        virials_are_derivatives(model, skewed_cell);
        hessians_are_derivatives(model, skewed_cell);
        virials_are_derivatives(model, wider);
        hessians_are_derivatives(model, wider);
        double r[15], moved[15];
        check_random random = {12};
        check_geometries(&random, 1, 5, r);
        const double energy = energy_of(model, r, NULL);
        CHECK(energy == energy_of(model, r, skewed_cell));
        CHECK(fabs(energy - energy_of(model, r, wider)) > 1e-6);
        memcpy(moved, r, sizeof r);                        /* another image of the last atom, by the second vector */
        for (int i = 0; i < 3; ++i) moved[12 + i] += skewed_cell[3 * i + 1];
        CHECK(close_to(energy_of(model, moved, NULL), energy, 1e-12));
        fastgdml_model_free(model);
    }
}

/* A molecule of n atoms in a row is wrapped into a cell, wherever it lies, and comes back up to a shift. */
static void wrapped_molecules_are_made_whole(void)
{
    enum { N = 5 };
    const double cube[9] = {9, 0, 0, 0, 9, 0, 0, 0, 9}, skewed[9] = {9, 4, -3, 0, 8.5, 4, 0, 0, 9}, none[9] = {0};
    const double *const cells[] = {cube, skewed};
    fastgdml_model *model = check_model((check_recipe){.n_atoms = N, .n_train = 20, .n_perms = 2});
    check_random random = {77};
    for (int repetition = 0; repetition < 400; ++repetition) {
        const double *const cell = cells[repetition % 2];
        double r[3 * N], wrapped[3 * N], move[3], moved = 0, error = 0;
        check_geometries(&random, 1, N, r);
        for (int i = 0; i < 3; ++i) move[i] = 20 * check_uniform(&random);
        for (int a = 0; a < N; ++a) {
            double f[3];                                   /* upper triangular cells */
            for (int i = 2; i >= 0; --i) {
                f[i] = r[3 * a + i] += move[i];
                for (int j = i + 1; j < 3; ++j) f[i] -= cell[3 * i + j] * f[j];
                f[i] /= cell[4 * i];
            }
            for (int i = 0; i < 3; ++i) {
                wrapped[3 * a + i] = r[3 * a + i];
                for (int j = 0; j < 3; ++j) wrapped[3 * a + i] -= cell[3 * i + j] * floor(f[j]);
            }
        }
        double whole[3 * N];
        memcpy(whole, r, sizeof r);
        CHECK(!fastgdml_make_whole(model, 1, cell, whole) && same_bits(3 * N, whole, r));
        memcpy(whole, wrapped, sizeof wrapped);
        CHECK(!fastgdml_make_whole(model, 1, cell, whole));
        for (int i = 0; i < 3 * N; ++i) {
            moved = fmax(moved, fabs(wrapped[i] - wrapped[i % 3] - r[i] + r[i % 3]));
            error = fmax(error, fabs(whole[i] - whole[i % 3] - r[i] + r[i % 3]));
        }
        CHECK(error < 1e-12 && (moved > 1 || same_bits(3 * N, whole, wrapped)));
        memcpy(whole, wrapped, sizeof wrapped);
        CHECK(!fastgdml_make_whole(model, 1, none, whole) && same_bits(3 * N, whole, wrapped));
    }
    const double small[9] = {3, 0, 0, 0, 3, 0, 0, 0, 3};
    double r[3 * N];
    check_geometries(&random, 1, N, r);
    CHECK(!fastgdml_make_whole(model, 1, small, r));       /* whole in a cell without meaning */
    r[0] += 3;
    CHECK_FAILS(fastgdml_make_whole(model, 1, small, r), FASTGDML_ERROR_GEOMETRY, "too small to tell where it ends");
    const double large[9] = {20, 0, 0, 0, 20, 0, 0, 0, 20};
    r[0] += 11;                                            /* 6 from the others, through the boundary */
    CHECK_FAILS(fastgdml_make_whole(model, 1, large, r), FASTGDML_ERROR_GEOMETRY, "is the molecule whole?");
    CHECK_FAILS(fastgdml_make_whole(NULL, 1, cube, r), FASTGDML_ERROR_ARGUMENT, "an argument is NULL");
    CHECK_FAILS(fastgdml_make_whole(model, 1, NULL, r), FASTGDML_ERROR_ARGUMENT, "an argument is NULL");
    CHECK_FAILS(fastgdml_make_whole(model, 1, cube, NULL), FASTGDML_ERROR_ARGUMENT, "an argument is NULL");
    CHECK_FAILS(fastgdml_make_whole(model, -1, cube, r), FASTGDML_ERROR_ARGUMENT, "n_geo is -1");
    CHECK(!fastgdml_make_whole(model, 0, cube, NULL));
    fastgdml_model_free(model);
}

/* The text has the whole path, and of one that no system takes, its beginning. */
static void long_texts_are_whole(void)
{
    static char path[20000];
    fastgdml_model *model;
    memset(path, 'x', 4000);
    strcpy(path + 4000, ".end");
    CHECK_FAILS(fastgdml_model_load(path, &model), FASTGDML_ERROR_FILE, ".end cannot be opened: ");
    memset(path, 'x', sizeof path - 1);
    CHECK_FAILS(fastgdml_model_load(path, &model), FASTGDML_ERROR_FILE, "xxx...");
}

int main(void)
{
    version_of_the_library();
    nothing_is_no_model();
    loading_what_is_no_file();
    arrays_that_make_no_model();
    what_may_be_left_out();
    weights_of_pairs();
    predictions_that_cannot_be_made();
#ifndef _WIN32
    each_thread_has_its_own_error();
#endif
    units();
    long_texts_are_whole();
    wrapped_molecules_are_made_whole();
    molecules_of_all_sizes();
    cells_of_both_rules();
    return 0;
}
