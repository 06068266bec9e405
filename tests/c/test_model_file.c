/* Model files that are damaged, or made to do harm: each is refused with an error, or gives a model that touches no
 * memory but its own. Sanitizers and valgrind watch over that; without them this tests little more than errors.
 */
#include "samples.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

/* Places in the header that docs/reference/model_file.md gives. */
enum { HEADER = 640, AT_SIZE = 16, AT_CHECKSUM = 24, AT_N_TRAIN = 48, AT_SIG = 104, AT_SECTIONS = 392, N_TABLES = 8 };

typedef struct {
    unsigned char *bytes;
    size_t size;
} image;

/* CRC-32 as zlib has it, bit by bit: not the code that it tests. */
static uint32_t crc32_of(const unsigned char *data, size_t size)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; ++i) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? 0xedb88320u ^ (crc >> 1) : crc >> 1;
    }
    return ~crc;
}

static void put_checksum(image *i)
{
    const uint32_t checksum = crc32_of(i->bytes + AT_CHECKSUM + 4, i->size - AT_CHECKSUM - 4);
    memcpy(i->bytes + AT_CHECKSUM, &checksum, sizeof checksum);
}

static image image_of(check_recipe recipe, int64_t n_std)
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

/* Use all of a model: predictions of each kind, and what it was made from. */
static void use(fastgdml_model *model)
{
    enum { N_GEO = 6 };
    static const double cell[9] = {7.0, 2.5, 0.4, 0.0, 6.0, 1.1, 0.2, 0.0, 6.5};
    const int64_t n = fastgdml_model_n_atoms(model), n_desc = n * (n - 1) / 2, m = fastgdml_model_n_train(model);
    double *r = check_doubles(3 * N_GEO * n), *f = check_doubles(3 * N_GEO * n), e[N_GEO], virial[9 * N_GEO];
    check_random random = {3};
    check_geometries(&random, N_GEO, n, r);
    for (int n_geo = 1; n_geo <= N_GEO; n_geo += N_GEO - 1) {
        fastgdml_predict(model, n_geo, r, NULL, e, f, virial, 1);
        fastgdml_predict(model, n_geo, r, cell, e, NULL, NULL, 1);
        fastgdml_predict(model, n_geo, r, NULL, e, f, NULL, 2);
        if (fastgdml_model_n_std(model)) {
            double *f_std = check_doubles(n_geo * n), e_std[N_GEO];
            fastgdml_predict_std(model, n_geo, r, cell, e, f, virial, e_std, f_std, 2);
            fastgdml_predict_std(model, n_geo, r, NULL, e, f, virial, e_std, f_std, 1);
            free(f_std);
        }
    }
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
    enum { AT_N_STD = 600 };
    uint32_t version;
    memcpy(&version, whole->bytes + 12, sizeof version);
    for (size_t i = 0; version == 3 && i < sizeof values / sizeof *values; ++i) {
        int64_t right;
        memcpy(&right, whole->bytes + AT_N_STD, sizeof right);
        memcpy(whole->bytes + AT_N_STD, values + i, sizeof right);
        put_checksum(whole);
        CHECK(!open_bytes(whole->bytes, whole->size));
        memcpy(whole->bytes + AT_N_STD, &right, sizeof right);
    }
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
                const int opened = open_bytes(whole->bytes, whole->size);
                CHECK(!opened || (values[i] >= 0 && values[i] < 1000));
            }
            memcpy(whole->bytes + at, &right, sizeof right);
        }
    }
    put_checksum(whole);
    CHECK(open_bytes(whole->bytes, whole->size));
}

static void numbers_that_are_not_finite(image *whole)
{
    const double values[] = {NAN, INFINITY, -INFINITY};
    const int sections[] = {N_TABLES + 1, N_TABLES + 2, 12};   /* the last of version 3 */
    for (int k = 0; k < 3; ++k) {
        const int s = sections[k];
        uint64_t place[2];
        memcpy(place, whole->bytes + AT_SECTIONS + 16 * s, sizeof place);
        for (int i = 0; i < 3 && place[0] && place[1]; ++i) {
            double right;
            const uint64_t at = place[0] + place[1] / 2 / 8 * 8;
            memcpy(&right, whole->bytes + at, sizeof right);
            memcpy(whole->bytes + at, values + i, sizeof right);
            put_checksum(whole);
            CHECK(!open_bytes(whole->bytes, whole->size));
            CHECK(strstr(fastgdml_last_error(), "not finite"));
            memcpy(whole->bytes + at, &right, sizeof right);
        }
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
        {.n_atoms = 5, .n_train = 3, .n_perms = 2, .lattice = cell, .image_rule = FASTGDML_IMAGE_MINIMUM},
    };
    for (size_t i = 0; i < 2 * sizeof recipes / sizeof *recipes; ++i) {
        image whole = image_of(recipes[i / 2], i % 2 ? 3 : 0);
        no_part_of_a_file_is_a_model(&whole);
        every_byte_of_the_header(&whole);
        huge_counts(&whole);
        every_entry_of_the_tables(&whole);
        numbers_that_are_not_finite(&whole);
        files(&whole);
        free(whole.bytes);
    }
    return 0;
}
