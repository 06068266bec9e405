/* Standard deviations: against predictions of models whose coefficients are those of the samples, with the same bits for
 * any number of threads.
 */
#include "samples.h"

enum { N_GEO = 9 };

/* The same bits. Sanitizers of Clang put their checks between multiplications and additions, which then are fused in some
 * loops and not in others: there, the same but for rounding. */
static int same(int64_t count, const double *one, const double *other)
{
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
    for (int64_t i = 0; i < count; ++i)
        if (!(fabs(one[i] - other[i]) <= 1e-11 * fabs(other[i]))) return 0;
    return 1;
#endif
#endif
    return same_bits(count, one, other);
}

/* Mean squares over the samples, each predicted by a model of its own. */
static void expected(const fastgdml_model *plain, int64_t n, const double *v, const double *energies, const double *c,
                     const double *r, double *e_squared, double *f_squared)
{
    const int64_t n_atoms = fastgdml_model_n_atoms(plain), n_pairs = n_atoms * (n_atoms - 1) / 2;
    const int64_t m = fastgdml_model_n_train(plain);
    double *f = check_doubles(3 * N_GEO * n_atoms), e[N_GEO];
    check_parts made = check_parts_of(plain);
    for (int64_t s = 0; s < n; ++s) {
        fastgdml_model *sample;
        made.parts.v = v + s * m * n_pairs;
        if (made.parts.energies) made.parts.energies = energies + s * m;
        made.parts.c = c[s];
        CHECK(!gdml_model_new(&made.parts, &sample));
        CHECK(!fastgdml_predict(sample, N_GEO, r, NULL, e, f, NULL, 1));
        for (int64_t i = 0; i < N_GEO; ++i) e_squared[i] += e[i] * e[i] / (double)n;
        for (int64_t k = 0; k < 3 * N_GEO * n_atoms; ++k) f_squared[k / 3] += f[k] * f[k] / (double)(3 * n);
        fastgdml_model_free(sample);
    }
    check_parts_free(&made);
    free(f);
}

static void samples_are_models(check_recipe recipe, int64_t n)
{
    const double scale = 1.25;
    const int threads[] = {0, 2, 7};
    const int64_t counts[] = {1, 2, N_GEO};
    fastgdml_model *plain = check_model(recipe);
    const int64_t n_atoms = recipe.n_atoms, n_pairs = n_atoms * (n_atoms - 1) / 2, m = recipe.n_train;
    double *v = check_doubles(n * m * n_pairs), *energies = check_doubles(n * m), *c = check_doubles(n);
    double *r = check_doubles(3 * N_GEO * n_atoms), *f = check_doubles(3 * N_GEO * n_atoms);
    double *f_plain = check_doubles(3 * N_GEO * n_atoms), *f_std = check_doubles(N_GEO * n_atoms);
    double *f_same = check_doubles(N_GEO * n_atoms), *f_squared = check_doubles(N_GEO * n_atoms);
    double e[N_GEO], e_plain[N_GEO], e_std[N_GEO], e_same[N_GEO], e_squared[N_GEO] = {0}, virial[9 * N_GEO];
    double virial_plain[9 * N_GEO];
    check_random random = {5};
    check_geometries(&random, N_GEO, n_atoms, r);
    fastgdml_model *model = check_with_samples(plain, n, scale, v, energies, c);
    CHECK(fastgdml_model_n_std(model) == n && fastgdml_model_n_std(plain) == 0 && fastgdml_model_n_std(NULL) == 0);

    CHECK(!fastgdml_predict(plain, N_GEO, r, NULL, e_plain, f_plain, virial_plain, 1));
    CHECK(!fastgdml_predict_std(model, N_GEO, r, NULL, e, f, virial, e_std, f_std, 1));
    CHECK(same_bits(N_GEO, e, e_plain) && same_bits(3 * N_GEO * n_atoms, f, f_plain));
    CHECK(same_bits(9 * N_GEO, virial, virial_plain));
    expected(plain, n, v, energies, c, r, e_squared, f_squared);
    for (int64_t i = 0; i < N_GEO; ++i) CHECK(fabs(e_std[i] / scale - sqrt(e_squared[i])) < 1e-11 * sqrt(e_squared[i]));
    for (int64_t i = 0; i < N_GEO * n_atoms; ++i)
        CHECK(fabs(f_std[i] / scale - sqrt(f_squared[i])) < 1e-11 * sqrt(f_squared[i]));

    for (size_t k = 0; k < sizeof threads / sizeof *threads; ++k) {
        for (size_t i = 0; i < sizeof counts / sizeof *counts; ++i) {
            CHECK(!fastgdml_predict_std(model, counts[i], r, NULL, NULL, f, NULL, e_same, f_same, threads[k]));
            CHECK(same(counts[i], e_same, e_std) && same(counts[i] * n_atoms, f_same, f_std));
            CHECK(same(3 * counts[i] * n_atoms, f, f_plain));
        }
    }

    CHECK_FAILS(fastgdml_predict_std(plain, 1, r, NULL, e, f, NULL, e_std, f_std, 1), FASTGDML_ERROR_ARGUMENT,
                "no samples");
    CHECK_FAILS(fastgdml_predict_std(model, 1, r, NULL, e, f, NULL, NULL, f_std, 1), FASTGDML_ERROR_ARGUMENT,
                "energy_std or force_std is NULL");
    CHECK(!fastgdml_predict_std(model, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1));
    for (int i = 0; i < 3; ++i) r[3 * n_atoms + 3 + i] = r[3 * n_atoms + i];
    CHECK_FAILS(fastgdml_predict_std(model, N_GEO, r, NULL, e, f, NULL, e_std, f_std, 2), FASTGDML_ERROR_GEOMETRY,
                "geometry 1");

    double *v_back = check_doubles(n * m * n_pairs), *energies_back = check_doubles(n * m), *c_back = check_doubles(n);
    gdml_model_samples_of(model, v_back, energies_back, c_back);
    CHECK(same_bits(n * m * n_pairs, v, v_back) && same_bits(n, c, c_back));
    for (int64_t k = 0; recipe.energies && k < n * m; ++k) CHECK(fabs(energies_back[k] - energies[k]) < 1e-15);
    fastgdml_model_free(plain), fastgdml_model_free(model);
    free(v), free(energies), free(c), free(r), free(f), free(f_plain), free(f_std), free(f_same), free(f_squared);
    free(v_back), free(energies_back), free(c_back);
}

int main(void)
{
    static const double cell[9] = {7.0, 2.5, 0.4, 0.0, 6.0, 1.1, 0.2, 0.0, 6.5};
    fastgdml_model *none = NULL;
    double number = 0;
    CHECK_FAILS(fastgdml_predict_std(none, 1, &number, NULL, NULL, NULL, NULL, &number, &number, 1),
                FASTGDML_ERROR_ARGUMENT, "model is NULL");
    const int64_t points[] = {1, 9, 61, 300};
    for (size_t i = 0; i < sizeof points / sizeof *points; ++i)
        for (int energies = 0; energies < 2; ++energies)
            samples_are_models((check_recipe){.n_atoms = 6, .n_train = points[i], .n_perms = 6, .energies = energies}, 6);
    samples_are_models((check_recipe){.n_atoms = 2, .n_train = 5, .n_perms = 1}, 1);
    samples_are_models((check_recipe){.n_atoms = 7, .n_train = 40, .n_perms = 1}, 16);
    samples_are_models((check_recipe){.n_atoms = 5,
                                      .n_train = 20,
                                      .n_perms = 2,
                                      .energies = 1,
                                      .lattice = cell,
                                      .image_rule = FASTGDML_IMAGE_MINIMUM},
                       4);
    return 0;
}
