/* What the C tests share: checks that end the program, random numbers, and models of synthetic molecules. */
#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastgdml.h"

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: not true: %s (last error: %s)\n", __FILE__, __LINE__, #condition, \
                    fastgdml_last_error()); \
            exit(1); \
        } \
    } while (0)

/* The call fails with this status, and the message contains this text. */
#define CHECK_FAILS(call, status, text) \
    do { \
        const fastgdml_status found_ = (call); \
        if (found_ != (status) || !strstr(fastgdml_last_error(), (text))) { \
            fprintf(stderr, "%s:%d: %s\n  expected %d and '%s'\n  found    %d and '%s'\n", __FILE__, __LINE__, #call, \
                    (int)(status), (text), (int)found_, fastgdml_last_error()); \
            exit(1); \
        } \
    } while (0)

static inline void *check_new(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    CHECK(memory);
    return memory;
}

static inline double *check_doubles(int64_t count)
{
    return check_new((size_t)count, sizeof(double));
}

static inline int same_bits(int64_t count, const double *one, const double *other)
{
    return !memcmp(one, other, (size_t)count * sizeof *one);
}

/* ---- random numbers: the same on every machine ------------------------------------------------------------------ */

typedef struct {
    uint64_t state;
} check_random;

/* Uniform in (-1, 1) (the generator splitmix64). */
static inline double check_uniform(check_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1.0;
}

/* ---- synthetic molecules ---------------------------------------------------------------------------------------- */

/* Geometries r [n_geo][n_atoms][3] near points of a grid, so that no two atoms come close. */
static inline void check_geometries(check_random *random, int64_t n_geo, int64_t n_atoms, double *r)
{
    for (int64_t g = 0; g < n_geo; ++g)
        for (int64_t a = 0; a < n_atoms; ++a)
            for (int64_t i = 0; i < 3; ++i) {
                const int64_t place = i == 0 ? a % 3 : i == 1 ? a / 3 % 3 : a / 9;
                *r++ = 1.4 * (double)place + 0.25 * check_uniform(random);
            }
}

/* What a test wants of a model. */
typedef struct {
    int64_t n_atoms, n_train;
    int n_perms;                  /* 1, 2: the first two atoms exchange, or 6: all permutations of the first three */
    int energies;                 /* with coefficients of energy constraints */
    int weights;                  /* with weights of pairs */
    const double *lattice;        /* [3][3] or NULL */
    fastgdml_image_rule image_rule;
} check_recipe;

static inline fastgdml_model *check_model(check_recipe recipe)
{
    static const int32_t first[6][3] = {{0, 1, 2}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {0, 2, 1}, {2, 1, 0}};
    const int64_t n = recipe.n_atoms, n_pairs = n * (n - 1) / 2;
    check_random random = {(uint64_t)(1000 * n + recipe.n_train)};
    int32_t *z = check_new((size_t)n, sizeof *z), *perms = check_new((size_t)(recipe.n_perms * n), sizeof *perms);
    double *r = check_doubles(3 * n), *x = check_doubles(recipe.n_train * n_pairs);
    double *v = check_doubles(recipe.n_train * n_pairs), *e = check_doubles(recipe.n_train);
    for (int64_t a = 0; a < n; ++a) z[a] = a < 3 ? 1 : (int32_t)(6 + a % 3);
    for (int64_t p = 0; p < recipe.n_perms; ++p)
        for (int64_t a = 0; a < n; ++a) perms[p * n + a] = a < 3 && n >= 3 ? first[p][a] : (int32_t)a;
    double *to = x;
    for (int64_t j = 0; j < recipe.n_train; ++j) {
        check_geometries(&random, 1, n, r);
        for (int64_t a = 1; a < n; ++a)
            for (int64_t b = 0; b < a; ++b) {
                const double *ra = r + 3 * a, *rb = r + 3 * b;
                const double d[3] = {ra[0] - rb[0], ra[1] - rb[1], ra[2] - rb[2]};
                *to++ = 1 / sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
            }
        e[j] = check_uniform(&random);
    }
    for (int64_t k = 0; k < recipe.n_train * n_pairs; ++k) v[k] = check_uniform(&random);
    double *w = check_doubles(n_pairs), *weight = w;       /* alike for the atoms that permutations exchange */
    for (int64_t a = 1; a < n; ++a)
        for (int64_t b = 0; b < a; ++b) *weight++ = 1 + 0.125 * (double)((a < 3 ? 0 : a) + (b < 3 ? 0 : b));
    const fastgdml_arrays arrays = {
        .n_atoms = n,
        .n_train = recipe.n_train,
        .n_perms = recipe.n_perms,
        .atomic_numbers = z,
        .perms = perms,
        .descriptors = x,
        .coefficients = v,
        .energy_coefficients = recipe.energies ? e : NULL,
        .weights = recipe.weights ? w : NULL,
        .sig = 3.0,
        .std = 2.5,
        .c = -7.0,
        .lattice = recipe.lattice,
        .image_rule = recipe.image_rule,
        .energy_unit = "kcal/mol",
        .length_unit = "Ang",
    };
    fastgdml_model *model;
    CHECK(!fastgdml_model_from_arrays(&arrays, &model));
    free(z);
    free(perms);
    free(r);
    free(x);
    free(v);
    free(e);
    free(w);
    return model;
}

#endif
