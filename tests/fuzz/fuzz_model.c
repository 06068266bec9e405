/* libFuzzer: bytes as a model file. Opened, it predicts in every way. A mutator puts the size and the checksum right, so
 * that what is behind them is reached; it begins with whole files, and changes single numbers of their tables as well.
 */
#include "../c/model_file.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#define WRITTEN(data, size) __msan_unpoison(data, size)    /* by the fuzzer, which is compiled without it */
#endif
#endif
#ifndef WRITTEN
#define WRITTEN(data, size) (void)0
#endif

enum { N_SEEDS = 6, LARGEST = 1 << 16 };
static image seeds[N_SEEDS];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const double cell[9] = {7.0, 2.5, 0.4, 0.0, 6.0, 1.1, 0.2, 0.0, 6.5};
    const check_recipe recipes[N_SEEDS] = {
        {.n_atoms = 2, .n_train = 1, .n_perms = 1},
        {.n_atoms = 3, .n_train = 2, .n_perms = 6},
        {.n_atoms = 4, .n_train = 9, .n_perms = 6, .energies = 1},
        {.n_atoms = 5, .n_train = 3, .n_perms = 2, .weights = 1, .lattice = cell, .image_rule = FASTGDML_IMAGE_MINIMUM},
        {.n_atoms = 6, .n_train = 17, .n_perms = 6, .weights = 1, .energies = 1},
        {.n_atoms = 4, .n_train = 5, .n_perms = 1, .lattice = cell, .image_rule = FASTGDML_IMAGE_ROUNDING},
    };
    (void)argc;
    (void)argv;
    for (int i = 0; i < N_SEEDS; ++i) seeds[i] = image_of(recipes[i], i % 3 == 2 ? 2 : 0);
    return 0;
}

/* One number of the header or of a table, to one near it, to a small one, or to one at the ends of its range. */
static void change_number(image *i, check_random *random)
{
    const size_t width = check_uniform(random) < 0 ? 4 : 8;
    const double part = check_uniform(random);             /* half of them in the header and in the first tables */
    const size_t end = part < 0 && i->size > 1200 ? 1200 : i->size;
    const size_t at = (size_t)((check_uniform(random) + 1) / 2 * (double)(end / width)) * width;
    if (at + width > i->size) return;
    uint64_t value = 0;
    memcpy(&value, i->bytes + at, width);
    const int choice = (int)(4 * (check_uniform(random) + 1));
    const double real[] = {NAN, INFINITY, -1.0, 1e308};
    if (choice < 2) value += choice ? 1 : UINT64_MAX;
    else if (choice < 4) value = (uint64_t)(8 * (check_uniform(random) + 1));
    else if (choice < 5) value = width == 4 ? INT32_MAX : INT64_MAX;
    else if (choice < 6) value = UINT64_MAX;
    else if (width == 8) memcpy(&value, real + (int)(2 * (check_uniform(random) + 1)) % 4, sizeof value);
    memcpy(i->bytes + at, &value, width);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    check_random random = {seed};
    WRITTEN(data, max_size);
    if (size < HEADER || check_uniform(&random) < -0.98) {
        const image *const whole = seeds + (int)(N_SEEDS / 2.0 * (check_uniform(&random) + 1)) % N_SEEDS;
        if (whole->size > max_size) return 0;
        memcpy(data, whole->bytes, size = whole->size);
    }
    if (check_uniform(&random) < -0.5) size = LLVMFuzzerMutate(data, size, max_size);
    WRITTEN(data, size);
    image i = {data, size};
    if (size < HEADER) return size;
    for (int n = (int)(2 * (check_uniform(&random) + 1)); n >= 0; --n) change_number(&i, &random);
    const uint64_t claimed = size;
    if (check_uniform(&random) > -0.9) memcpy(data + AT_SIZE, &claimed, sizeof claimed);
    if (check_uniform(&random) > -0.98) put_checksum(&i);
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > LARGEST) return 0;
    void *copy = gdml_scratch_new(size);
    fastgdml_model *model;
    CHECK(copy);
    memcpy(copy, data, size);
    const fastgdml_status status = gdml_model_open(copy, size, GDML_READ, "this file", &model);
    if (status) {
        CHECK(!model && strstr(fastgdml_last_error(), "this file"));
        gdml_scratch_free(copy);
    } else {
        use(model);
        fastgdml_model_free(model);
    }
    return 0;
}
