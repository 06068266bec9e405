/* A million predictions, thousands of models made, loaded, refused and freed: afterwards as much memory is in use as
 * before. Where the allocator does not tell (sanitizers, valgrind) the tools look themselves, and fewer are enough:
 * FASTGDML_TEST_PREDICTIONS=1000.
 */
#include "model_file.h"

#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

static size_t memory_in_use(void)
{
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
#else
    return 0;
#endif
}

/* Pages of the address space, to find files that stay mapped; 0 where the system does not say. */
static long mapped_pages(void)
{
    long pages = 0;
    FILE *const file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%ld", &pages) != 1) pages = 0;
    if (file) fclose(file);
    return pages;
}

static const double r[6] = {0.0, 0.1, 0.2, 1.1, 0.3, -0.2}, together[6];
static const double cell[9] = {7.0, 2.5, 0.4, 0.0, 6.0, 1.1, 0.2, 0.0, 6.5}, flat[9];

static void predict(const fastgdml_model *model, int64_t n, int n_threads)
{
    double e, f[6], virial[9], hessian[36], whole[6];
    for (int64_t i = 0; i < n; ++i) {
        CHECK(!fastgdml_predict(model, 1, r, NULL, &e, f, virial, n_threads));
        if (i % 16) continue;
        CHECK(!fastgdml_hessian(model, 1, r, NULL, &e, f, hessian, n_threads));
        memcpy(whole, r, sizeof r);
        CHECK(!fastgdml_make_whole(model, 1, cell, whole));
        CHECK(fastgdml_predict(model, 1, together, NULL, &e, f, NULL, n_threads) == FASTGDML_ERROR_GEOMETRY);
        CHECK(fastgdml_predict(model, 1, r, flat, &e, f, NULL, n_threads) == FASTGDML_ERROR_ARGUMENT);
    }
}

/* Models of all kinds, a file of them whole and damaged, arrays that are refused. */
static void make_and_free(const char *path, const char *damaged, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        fastgdml_model *model;
        CHECK(!fastgdml_model_load(path, &model));
        fastgdml_model_free(model);
        CHECK(fastgdml_model_load(damaged, &model) == FASTGDML_ERROR_FORMAT);
        model = check_model((check_recipe){.n_atoms = 3, .n_train = 2, .n_perms = 6, .weights = 1, .energies = 1});
        fastgdml_model_free(model);
        const double numbers[2] = {1, NAN};
        const fastgdml_arrays wrong = {.n_atoms = 2, .n_train = 1, .descriptors = numbers, .coefficients = numbers + 1, .sig = 1};
        CHECK(fastgdml_model_from_arrays(&wrong, &model) == FASTGDML_ERROR_ARGUMENT);
    }
}

static void save(const char *path, const image *file)
{
    FILE *const out = fopen(path, "wb");
    CHECK(out && fwrite(file->bytes, 1, file->size, out) == file->size && !fclose(out));
}

int main(void)
{
    const char *const wanted = getenv("FASTGDML_TEST_PREDICTIONS");
    const int64_t n = wanted ? atoll(wanted) : 1000000, n_loads = n / 1000 + 10;
    char folder[] = "fastgdml_test_XXXXXX", path[64], damaged[64];
    CHECK(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model.fgdml", folder);
    snprintf(damaged, sizeof damaged, "%s/damaged.fgdml", folder);
    image file = image_of((check_recipe){.n_atoms = 2, .n_train = 1, .n_perms = 1}, 0);
    save(path, &file);
    file.bytes[HEADER] ^= 1;
    save(damaged, &file);
    free(file.bytes);
    fastgdml_model *model;
    CHECK(!fastgdml_model_load(path, &model));

    for (int n_threads = 1; n_threads <= 2; ++n_threads) { /* what threads and buffers of the C library keep for themselves */
        predict(model, 100, n_threads);
        make_and_free(path, damaged, 10);
    }
    const size_t before = memory_in_use();
    const long mapped = mapped_pages();
    predict(model, n, 1);
    predict(model, n / 100, 2);
    make_and_free(path, damaged, n_loads);
    const size_t after = memory_in_use();
    if (after != before) fprintf(stderr, "%zu bytes in use before, %zu after\n", before, after);
    CHECK(after <= before + 256);                          /* less than a byte for each load */
    if (mapped && !wanted) CHECK(mapped_pages() < mapped + n_loads / 4 + 64);

    fastgdml_model_free(model);
    CHECK(!unlink(path) && !unlink(damaged) && !rmdir(folder));
    return 0;
}
