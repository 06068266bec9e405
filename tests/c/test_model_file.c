/* Model files that are damaged, or made to do harm: each is refused with an error, or gives a model that touches no
 * memory but its own. Sanitizers and valgrind watch over that; without them this tests little more than errors.
 */
#include "model_file.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

/* Open `size` bytes in memory of just that size. Returns whether they are a model. */
static int open_bytes(const unsigned char *bytes, size_t size)
{
    void *copy = gdml_scratch_new(size);
    fastgdml_model *model;
    CHECK(copy);
    memcpy(copy, bytes, size);
    const fastgdml_status status = gdml_model_open(copy, size, GDML_READ, "this file", &model);
    if (status) {
        CHECK(status == FASTGDML_ERROR_FORMAT && !model && strstr(fastgdml_last_error(), "this file"));
        gdml_scratch_free(copy);
        return 0;
    }
    use(model);
    fastgdml_model_free(model);                            /* and the copy */
    return 1;
}

static void no_part_of_a_file_is_a_model(const image *whole)
{
    for (size_t size = 1; size < whole->size; size += size < HEADER + 8 ? 1 : 61) {
        CHECK(!open_bytes(whole->bytes, size));
        image part = {check_new(size, 1), size};           /* also where its header agrees */
        memcpy(part.bytes, whole->bytes, size);
        const uint64_t claimed = size;
        if (size >= AT_SIZE + sizeof claimed) memcpy(part.bytes + AT_SIZE, &claimed, sizeof claimed);
        if (size > AT_CHECKSUM + 4) put_checksum(&part);
        CHECK(!open_bytes(part.bytes, size));
        free(part.bytes);
    }
    unsigned char *longer = check_new(whole->size + 64, 1);
    memcpy(longer, whole->bytes, whole->size);
    CHECK(!open_bytes(longer, whole->size + 64));
    free(longer);
}

static void every_byte_of_the_header(image *whole)
{
    const unsigned char values[] = {0x00, 0x7f, 0x80, 0xff};
    int opened = 0;
    for (size_t at = 0; at < HEADER; ++at) {
        const unsigned char right = whole->bytes[at];
        for (size_t i = 0; i < sizeof values; ++i) {
            if (values[i] == right) continue;
            whole->bytes[at] = values[i];
            if (at >= AT_CHECKSUM && at < AT_CHECKSUM + 4) {
                CHECK(!open_bytes(whole->bytes, whole->size));
                continue;
            }
            CHECK(at < AT_CHECKSUM || !open_bytes(whole->bytes, whole->size));   /* the checksum covers it */
            put_checksum(whole);
            opened += open_bytes(whole->bytes, whole->size);
        }
        whole->bytes[at] = right;
        put_checksum(whole);
    }
    CHECK(opened > 100);                                   /* names, numbers: what may be anything */
    CHECK(open_bytes(whole->bytes, whole->size));
}

/* Sizes near overflow, where a product that wraps around might fit the file. */
static void huge_counts(image *whole)
{
    const int64_t values[] = {INT64_MIN, -1, 0, 1, INT32_MAX, (int64_t)1 << 32, (int64_t)1 << 61, INT64_MAX};
    for (size_t at = AT_N_TRAIN - 8; at < AT_SIG; at += 8) {
        int64_t right;
        memcpy(&right, whole->bytes + at, sizeof right);
        for (size_t i = 0; i < sizeof values / sizeof *values; ++i) {
            if (values[i] == right) continue;
            memcpy(whole->bytes + at, values + i, sizeof right);
            put_checksum(whole);
            const int opened = open_bytes(whole->bytes, whole->size);
            CHECK(!opened || (at == AT_N_TRAIN && values[i] == 1));   /* in as many tiles: valid */
        }
        memcpy(whole->bytes + at, &right, sizeof right);
    }
    int64_t n_std;
    memcpy(&n_std, whole->bytes + AT_N_STD, sizeof n_std);
    for (size_t i = 0; n_std && i < sizeof values / sizeof *values; ++i) {
        if (values[i] == n_std) continue;
        memcpy(whole->bytes + AT_N_STD, values + i, sizeof n_std);
        put_checksum(whole);
        CHECK(!open_bytes(whole->bytes, whole->size));
    }
    memcpy(whole->bytes + AT_N_STD, &n_std, sizeof n_std);
    const int64_t n_atoms = 1 << 15, n_train = INT32_MAX, tile = 128, n_tiles = (n_train + tile - 1) / tile;
    unsigned char header[HEADER];
    memcpy(header, whole->bytes, HEADER);
    memcpy(whole->bytes + AT_N_TRAIN - 8, &n_atoms, 8);
    memcpy(whole->bytes + AT_N_TRAIN, &n_train, 8);
    memcpy(whole->bytes + AT_N_TRAIN + 48, &tile, 8);
    memcpy(whole->bytes + AT_N_TRAIN + 40, &n_tiles, 8);
    put_checksum(whole);
    CHECK(!open_bytes(whole->bytes, whole->size));
    memcpy(whole->bytes, header, HEADER);
}

/* Every number of the tables of permutations, section 1 (order of pairs) to 8. */
static void every_entry_of_the_tables(image *whole)
{
    for (int s = 1; s <= N_TABLES; ++s) {
        uint64_t place[2];                                 /* offset, bytes */
        memcpy(place, whole->bytes + AT_SECTIONS + 16 * s, sizeof place);
        CHECK(place[1] > 0 && place[0] + place[1] <= whole->size);
        for (uint64_t at = place[0]; at < place[0] + place[1]; at += sizeof(int32_t)) {
            int32_t right;
            memcpy(&right, whole->bytes + at, sizeof right);
            const int32_t values[] = {INT32_MIN, -1, 0, right - 1, right + 1, 1000, 1 << 20, INT32_MAX};
            for (size_t i = 0; i < sizeof values / sizeof *values; ++i) {
                if (values[i] == right) continue;
                memcpy(whole->bytes + at, values + i, sizeof right);
                put_checksum(whole);
                CHECK(!open_bytes(whole->bytes, whole->size));   /* the others contradict it */
                CHECK(strstr(fastgdml_last_error(), "damaged"));
            }
            memcpy(whole->bytes + at, &right, sizeof right);
        }
        /* Each two exchanged: numbers that are in range, each as often as before. */
        int32_t *const table = (int32_t *)(whole->bytes + place[0]);
        const int64_t n = (int64_t)(place[1] / sizeof *table);
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = 0; j < i; j += 1 + n / 40) {
                const int32_t one = table[i], other = table[j];
                table[i] = other;
                table[j] = one;
                put_checksum(whole);
                open_bytes(whole->bytes, whole->size);
                table[i] = one;
                table[j] = other;
            }
        }
    }
    put_checksum(whole);
    CHECK(open_bytes(whole->bytes, whole->size));
}

/* Every number of the training data, of energies, weights and samples. */
static void every_number(image *whole)
{
    const double values[] = {NAN, INFINITY, -INFINITY, 0.0, -1.0, 1e-310, 1e155, 1e308};
    int behind = 0;
    for (int s = N_TABLES + 1; s < N_SECTIONS; ++s) {
        uint64_t place[2];
        memcpy(place, whole->bytes + AT_SECTIONS + 16 * s, sizeof place);
        for (uint64_t at = place[0]; at < place[0] + place[1]; at += sizeof(double)) {
            double right;
            memcpy(&right, whole->bytes + at, sizeof right);
            for (size_t i = 0; i < sizeof values / sizeof *values; ++i) {
                memcpy(whole->bytes + at, values + i, sizeof right);
                put_checksum(whole);
                const int opened = open_bytes(whole->bytes, whole->size);
                CHECK(!opened || isfinite(values[i]));
                CHECK(!opened || s != OF_WEIGHTS || values[i] > 0);   /* weights */
                behind += !opened && strstr(fastgdml_last_error(), "behind its last training point");
            }
            memcpy(whole->bytes + at, &right, sizeof right);
        }
    }
    put_checksum(whole);
    CHECK(behind > 100);
    CHECK(open_bytes(whole->bytes, whole->size));
}

/* Units and names reach terminals. */
static void texts(image *whole)
{
    const unsigned char values[] = {7, 10, 27, 127};
    for (size_t at = AT_SIG + 96; at < AT_SECTIONS; at += 32) {   /* two units of 32 characters, two names of 64 */
        const unsigned char right = whole->bytes[at];
        if (!right) continue;
        for (size_t i = 0; i < sizeof values; ++i) {
            whole->bytes[at] = values[i];
            put_checksum(whole);
            CHECK(!open_bytes(whole->bytes, whole->size) && strstr(fastgdml_last_error(), "control characters"));
        }
        whole->bytes[at] = right;
    }
    put_checksum(whole);
}

static void save(const char *path, const unsigned char *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(bytes, 1, size, file) == size && !fclose(file));
}

/* The same through the file system. */
static void files(const image *whole)
{
    char folder[] = "fastgdml_test_XXXXXX", path[64];
    fastgdml_model *model;
    CHECK(mkdtemp(folder));
    CHECK_FAILS(fastgdml_model_load(folder, &model), FASTGDML_ERROR_FILE, "no regular file");
    snprintf(path, sizeof path, "%s/model.fgdml", folder);
    CHECK(!mkfifo(path, 0600));                            /* nobody writes to it */
    CHECK_FAILS(fastgdml_model_load(path, &model), FASTGDML_ERROR_FILE, "no regular file");
    CHECK(!unlink(path));
    const size_t sizes[] = {0, 1, 4095, HEADER, HEADER + 1, whole->size - 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        save(path, whole->bytes, sizes[i] < whole->size ? sizes[i] : whole->size - 64);
        CHECK_FAILS(fastgdml_model_load(path, &model), FASTGDML_ERROR_FORMAT, path);
        CHECK(!model);
    }
    save(path, whole->bytes, whole->size);
    CHECK(!fastgdml_model_load(path, &model));
    CHECK(!unlink(path));                                  /* what is mapped stays */
    use(model);
    fastgdml_model_free(model);
    CHECK(!rmdir(folder));
}

int main(void)
{
    static const double cell[9] = {7.0, 2.5, 0.4, 0.0, 6.0, 1.1, 0.2, 0.0, 6.5};
    const check_recipe recipes[] = {
        {.n_atoms = 4, .n_train = 9, .n_perms = 6, .energies = 1},
        {.n_atoms = 5, .n_train = 3, .n_perms = 2, .weights = 1, .lattice = cell, .image_rule = FASTGDML_IMAGE_MINIMUM},
        {.n_atoms = 3, .n_train = 1, .n_perms = 6},
        {.n_atoms = 3, .n_train = 2, .n_perms = 2, .energies = 1},
    };
    const int64_t samples[] = {0, 2, 0, 3};
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; ++i) {
        image whole = image_of(recipes[i], samples[i]);
        no_part_of_a_file_is_a_model(&whole);
        every_byte_of_the_header(&whole);
        huge_counts(&whole);
        every_entry_of_the_tables(&whole);
        every_number(&whole);
        texts(&whole);
        files(&whole);
        free(whole.bytes);
    }
    return 0;
}
