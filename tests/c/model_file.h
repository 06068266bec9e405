/* Model files in memory, for tests that spoil them: made, sealed with their checksum, and used in every way. */
#ifndef MODEL_FILE_H
#define MODEL_FILE_H

#include "samples.h"

/* Places in the header that docs/reference/model_file.md gives. */
enum {
    HEADER = 640, AT_SIZE = 16, AT_CHECKSUM = 24, AT_N_TRAIN = 48, AT_SIG = 104, AT_SECTIONS = 392,
    AT_N_STD = 600, N_TABLES = 8, OF_WEIGHTS = 11, N_SECTIONS = 13
};

typedef struct {
    unsigned char *bytes;
    size_t size;
} image;

/* CRC-32 as zlib has it, bit by bit: not the code that it tests. */
static inline uint32_t crc32_of(const unsigned char *data, size_t size)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; ++i) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? 0xedb88320u ^ (crc >> 1) : crc >> 1;
    }
    return ~crc;
}

static inline void put_checksum(image *i)
{
    const uint32_t checksum = crc32_of(i->bytes + AT_CHECKSUM + 4, i->size - AT_CHECKSUM - 4);
    memcpy(i->bytes + AT_CHECKSUM, &checksum, sizeof checksum);
}

static inline image image_of(check_recipe recipe, int64_t n_std)
{
    fastgdml_model *model = check_model(recipe);
    if (n_std) {
        const int64_t n_pairs = recipe.n_atoms * (recipe.n_atoms - 1) / 2, m = recipe.n_train;
        double *v = check_doubles(n_std * m * n_pairs), *energies = check_doubles(n_std * m), *c = check_doubles(n_std);
        fastgdml_model *more = check_with_samples(model, n_std, 1.5, v, energies, c);
        fastgdml_model_free(model);
        free(v), free(energies), free(c);
        model = more;
    }
    image copy;
    const void *bytes = gdml_model_image(model, &copy.size);
    copy.bytes = check_new(copy.size, 1);
    memcpy(copy.bytes, bytes, copy.size);
    uint32_t checksum;
    memcpy(&checksum, copy.bytes + AT_CHECKSUM, sizeof checksum);
    put_checksum(&copy);
    CHECK(!memcmp(&checksum, copy.bytes + AT_CHECKSUM, sizeof checksum));
    fastgdml_model_free(model);
    return copy;
}

/* A call that succeeds gives numbers, one that fails says why. */
static inline void check_results(fastgdml_status status, int64_t n, const double *numbers)
{
    if (status) CHECK(*fastgdml_last_error());
    for (int64_t i = 0; !status && i < n; ++i) CHECK(isfinite(numbers[i]));
}

/* Use all of a model: predictions of each kind, and what it was made from. */
static inline void use(fastgdml_model *model)
{
    enum { N_GEO = 6 };
    static const double cell[9] = {7.0, 2.5, 0.4, 0.0, 6.0, 1.1, 0.2, 0.0, 6.5};
    const int64_t n = fastgdml_model_n_atoms(model), n_desc = n * (n - 1) / 2, m = fastgdml_model_n_train(model);
    double *r = check_doubles(3 * N_GEO * n), *f = check_doubles(3 * N_GEO * n), e[N_GEO], virial[9 * N_GEO];
    double *hessian = check_doubles(2 * 9 * n * n);
    check_random random = {3};
    check_geometries(&random, N_GEO, n, r);
    for (int n_geo = 1; n_geo <= N_GEO; n_geo += N_GEO - 1) {
        fastgdml_status status = fastgdml_predict(model, n_geo, r, NULL, e, f, virial, 1);
        check_results(status, n_geo, e);
        check_results(status, 3 * n_geo * n, f);
        check_results(status, 9 * n_geo, virial);
        status = fastgdml_predict(model, n_geo, r, cell, e, NULL, NULL, 1);
        check_results(status, n_geo, e);
        status = fastgdml_predict(model, n_geo, r, NULL, e, f, NULL, 2);
        check_results(status, 3 * n_geo * n, f);
        if (!fastgdml_model_n_std(model)) continue;
        double *f_std = check_doubles(n_geo * n), e_std[N_GEO];
        fastgdml_predict_std(model, n_geo, r, cell, e, f, virial, e_std, f_std, 2);
        status = fastgdml_predict_std(model, n_geo, r, NULL, e, f, virial, e_std, f_std, 1);
        check_results(status, n_geo, e_std);
        check_results(status, n_geo * n, f_std);
        free(f_std);
    }
    const fastgdml_status status = fastgdml_hessian(model, 2, r, NULL, e, f, hessian, 1);
    check_results(status, 2 * 9 * n * n, hessian);
    fastgdml_hessian(model, 1, r, cell, NULL, NULL, hessian, 2);
    fastgdml_make_whole(model, N_GEO, cell, r);
    free(hessian);
    int32_t *images = check_new((size_t)(fastgdml_model_n_perms(model) * n_desc), sizeof *images);
    double *x = check_doubles(m * n_desc), *v = check_doubles(m * n_desc), *energies = check_doubles(m);
    gdml_model_arrays(model, images, x, v, energies);
    const int64_t n_std = fastgdml_model_n_std(model);
    double *std_v = check_doubles(n_std * m * n_desc), *std_energies = check_doubles(n_std * m);
    double *std_c = check_doubles(n_std);
    if (n_std) gdml_model_samples_of(model, std_v, std_energies, std_c);
    free(std_v), free(std_energies), free(std_c);
    double lattice[9];
    fastgdml_model_lattice(model, lattice);
    CHECK(strlen(fastgdml_model_energy_unit(model)) < 32 && strlen(fastgdml_model_length_unit(model)) < 32);
    for (int64_t a = 0; a < n; ++a) CHECK(fastgdml_model_atomic_numbers(model)[a] >= 0);
    free(r);
    free(f);
    free(images);
    free(x);
    free(v);
    free(energies);
}

#endif
