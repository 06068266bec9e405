/* Reading images of models: one block of bytes with everything that prediction reads, in its layout. A model is an image
 * in memory, a flat model file (.fgdml) is an image on disk, and using a file means mapping it. Every size, offset and index
 * of an image is checked here.
 */
#include "image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t max_samples = 1 << 10;

uint32_t gdml_image_checksum(const header *h)
{
    const size_t first = offsetof(header, checksum) + sizeof h->checksum;
    return gdml_crc32((const unsigned char *)h + first, (size_t)h->size - first);
}

void gdml_lay_out(header *h)
{
    const int64_t i4 = 4, f8 = 8, d = n_pairs(h->n_atoms);
    const int64_t bytes[N_SECTIONS] = {
        [ATOMIC_NUMBERS] = i4 * h->n_atoms,
        [ORDER] = i4 * d,
        [CLASS_BEGIN] = i4 * (h->n_classes + 1),
        [CLASS_IMAGE] = i4 * (h->n_classes + 1),
        [IMAGE_BEGIN] = i4 * (h->n_classes + 1),
        [IMAGE_PAIR] = i4 * h->n_pair_images,
        [PERM_IMAGE] = i4 * h->n_classes * h->n_perms,
        [IMAGE_PERM_BEGIN] = i4 * (h->n_images + 1),
        [IMAGE_PERM] = i4 * h->n_classes * h->n_perms,
        [TRAIN] = f8 * h->n_tiles * 2 * d * h->tile,
        [ENERGY] = h->has_energies ? f8 * h->n_tiles * h->tile : 0,
        [WEIGHTS] = has_weights(h) ? f8 * d : 0,
        [SAMPLES] = h->version == VERSION_SAMPLES
                        ? f8 * (room_for_constants(h) + h->n_std * h->n_tiles * h->tile * (d + h->has_energies))
                        : 0,
    };
    const int n_sections = h->version == VERSION_SAMPLES ? N_SECTIONS : h->version == VERSION_WEIGHTS ? SAMPLES : WEIGHTS;
    uint64_t at = sizeof *h;
    for (int s = 0; s < n_sections; ++s) {
        h->section[s].offset = at;
        h->section[s].bytes = (uint64_t)bytes[s];
        at += ((uint64_t)bytes[s] + GDML_ALIGNMENT - 1) / GDML_ALIGNMENT * GDML_ALIGNMENT;
    }
    h->size = at;
}

#define REQUIRE(condition, ...) \
    if (!(condition)) return gdml_fail(FASTGDML_ERROR_FORMAT, __VA_ARGS__)

/* Whether a text ends within its room and can be shown. */
static int is_text(const char *text, size_t room)
{
    if (!memchr(text, 0, room)) return 0;
    while (*text && !is_control(*text)) ++text;
    return !*text;
}

static fastgdml_status check_header(const header *h, size_t size, const char *where)
{
    REQUIRE(size >= sizeof *h && !memcmp(h->magic, GDML_IMAGE_MAGIC, sizeof h->magic),
            "%s is no model file of fastgdml: make one with 'fastgdml export model.npz model.fgdml'", where);
    REQUIRE(h->byte_order == BYTE_ORDER_MARK, "%s was written on a machine with another order of bytes", where);
    REQUIRE(h->version >= VERSION_PLAIN && h->version <= VERSION_SAMPLES,
            "%s has version %u of the format; this library reads versions %d to %d", where, h->version, VERSION_PLAIN,
            VERSION_SAMPLES);
    REQUIRE(h->size == size, "%s has %llu bytes, %llu expected: it is truncated or damaged", where,
            (unsigned long long)size, (unsigned long long)h->size);
    const int64_t counts[] = {h->n_train, h->n_perms, h->n_classes, h->n_images, h->n_pair_images, h->n_tiles};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; ++i)
        REQUIRE(counts[i] > 0 && counts[i] < max_points, "%s is damaged: a count is %lld", where, (long long)counts[i]);
    REQUIRE(h->n_atoms >= 2 && h->n_atoms <= max_atoms, "%s is damaged: %lld atoms", where, (long long)h->n_atoms);
    REQUIRE(h->n_perms * n_pairs(h->n_atoms) < max_points && h->n_classes <= n_pairs(h->n_atoms),
            "%s is damaged: %lld permutations in %lld classes", where, (long long)h->n_perms, (long long)h->n_classes);
    REQUIRE(h->tile > 0 && h->tile <= GDML_LARGEST_TILE && h->tile % GDML_MAX_LANES == 0 &&
                h->n_tiles == (h->n_train + h->tile - 1) / h->tile,
            "%s is damaged: %lld training points in %lld tiles of %lld", where, (long long)h->n_train,
            (long long)h->n_tiles, (long long)h->tile);
    REQUIRE(h->n_train <= max_numbers / n_pairs(h->n_atoms), "%s is damaged: %lld training points of %lld atoms", where,
            (long long)h->n_train, (long long)h->n_atoms);
    REQUIRE(h->sig > 0 && isfinite(h->sig) && isfinite(h->std) && isfinite(h->c),
            "%s holds a length scale, factor or offset that is no number: sig=%g, std=%g, c=%g", where, h->sig, h->std,
            h->c);
    REQUIRE(h->periodicity <= GDML_CELL_GIVEN && h->minimum_image <= 1 && h->has_energies <= 1,
            "%s is damaged: a flag is out of range", where);
    REQUIRE(is_text(h->energy_unit, sizeof h->energy_unit) && is_text(h->length_unit, sizeof h->length_unit) &&
                is_text(h->name, sizeof h->name) && is_text(h->theory, sizeof h->theory),
            "%s is damaged: a text does not end, or has control characters", where);
    REQUIRE(h->version != VERSION_SAMPLES ||
                (h->n_std > 0 && h->n_std <= max_samples && h->n_train <= max_numbers / n_pairs(h->n_atoms) / h->n_std &&
                 h->has_weights <= 1 && h->std_scale >= 0 && isfinite(h->std_scale)),
            "%s is damaged: %lld samples for standard deviations, scaled by %g", where, (long long)h->n_std,
            h->std_scale);
    header expected = *h;
    gdml_lay_out(&expected);                                    /* with these bounds nothing overflows */
    REQUIRE(expected.size == h->size && !memcmp(expected.section, h->section, sizeof h->section),
            "%s is damaged: its sections do not fit its counts", where);
    return FASTGDML_SUCCESS;
}

static int all_finite(const double *numbers, size_t bytes)
{
    for (size_t i = 0; i < bytes / sizeof *numbers; ++i)
        if (!isfinite(numbers[i])) return 0;
    return 1;
}

/* Whether the rows of the last tile, of an array with `rows` in each, are zero behind the last training point. */
static int ends_in_zeros(const gdml_model *m, const double *array, int64_t rows)
{
    const int64_t tile = m->predictor.tile, last = m->predictor.n_tiles - 1, used = m->n_train - last * tile;
    const double *row = array + last * rows * tile;
    for (int64_t k = 0; k < rows; ++k, row += tile)
        for (int64_t j = used; j < tile; ++j)
            if (row[j] != 0) return 0;
    return 1;
}

/* Whether what lies behind the last training point is zero, so that it adds nothing to sums over whole tiles. */
static int padding_is_zero(const gdml_model *m)
{
    const gdml_predictor *p = &m->predictor;
    const gdml_samples *s = &m->samples;
    const int64_t d = n_pairs(p->n_atoms);
    return ends_in_zeros(m, p->train, 2 * d) && (!p->energy || ends_in_zeros(m, p->energy, 1)) &&
           (!s->n || ends_in_zeros(m, s->v, s->n * d)) && (!s->n || !s->energy || ends_in_zeros(m, s->energy, s->n));
}

static fastgdml_status read_image(gdml_model *m, void *image, size_t size, gdml_image_origin origin, const char *where)
{
    const header *h = image;
    const fastgdml_status status = check_header(h, size, where);
    if (status) return status;
    REQUIRE(origin == GDML_BUILT || gdml_image_checksum(h) == h->checksum,
            "%s is damaged: its checksum is wrong. Export the model again", where);
    m->image = image;
    m->image_size = size;
    m->origin = origin;
    m->z = section(image, ATOMIC_NUMBERS);
    m->order = section(image, ORDER);
    m->n_train = h->n_train;
    m->std = h->std;
    m->c = h->c;
    m->predictor = (gdml_predictor){
        .n_atoms = h->n_atoms,
        .n_perms = h->n_perms,
        .n_classes = h->n_classes,
        .n_tiles = h->n_tiles,
        .tile = h->tile,
        .class_begin = section(image, CLASS_BEGIN),
        .class_image = section(image, CLASS_IMAGE),
        .image_begin = section(image, IMAGE_BEGIN),
        .image_pair = section(image, IMAGE_PAIR),
        .perm_image = section(image, PERM_IMAGE),
        .image_perm_begin = section(image, IMAGE_PERM_BEGIN),
        .image_perm = section(image, IMAGE_PERM),
        .train = section(image, TRAIN),
        .energy = h->has_energies ? section(image, ENERGY) : NULL,
        .sig = h->sig,
    };
    REQUIRE(gdml_within(m->z, h->n_atoms, 0, 200), "%s is damaged: an atomic number is out of range", where);
    const fastgdml_status tables = gdml_check_tables(m, h->n_images, h->n_pair_images, where);
    if (tables) return tables;
    REQUIRE(all_finite(m->predictor.train, h->section[TRAIN].bytes) &&
                all_finite(section(image, ENERGY), h->section[ENERGY].bytes),
            "%s holds descriptors or coefficients that are not finite", where);
    m->weights = has_weights(h) ? section(image, WEIGHTS) : NULL;
    const fastgdml_status weights = m->weights ? gdml_check_weights(m, where) : FASTGDML_SUCCESS;
    if (weights) return weights;
    if (h->version == VERSION_SAMPLES) {
        const sample_parts found = samples_in(image);
        REQUIRE(all_finite(found.c, h->section[SAMPLES].bytes),
                "%s holds samples for standard deviations that are not finite", where);
        m->samples = (gdml_samples){h->n_std, found.v, found.energy};
        m->std_c = found.c;
        m->std_scale = h->std_scale;
    }
    REQUIRE(padding_is_zero(m), "%s is damaged: it holds numbers behind its last training point", where);
    m->periodicity = (int)h->periodicity;
    m->minimum_image = (int)h->minimum_image;
    memcpy(m->lattice, h->lattice, sizeof m->lattice);
    const char *const problem =
        m->periodicity == GDML_ONE_CELL ? gdml_cell_init(&m->cell, m->lattice, m->minimum_image) : NULL;
    REQUIRE(!problem, "%s holds no cell: %s", where, problem);
    memcpy(m->energy_unit, h->energy_unit, sizeof m->energy_unit);
    memcpy(m->length_unit, h->length_unit, sizeof m->length_unit);
    memcpy(m->name, h->name, sizeof m->name);
    memcpy(m->theory, h->theory, sizeof m->theory);
    return FASTGDML_SUCCESS;
}

fastgdml_status gdml_model_open(void *image, size_t size, gdml_image_origin origin, const char *where,
                                gdml_model **out)
{
    *out = NULL;
    const char *isa = getenv("FASTGDML_ISA");
    gdml_model *m = calloc(1, sizeof *m);
    if (!m) return gdml_fail(FASTGDML_ERROR_MEMORY, "no memory for a model");
    fastgdml_status status = read_image(m, image, size, origin, where);
    m->kernels = gdml_select_kernels(isa && *isa ? isa : NULL);
    if (!status && !m->kernels)
        status = gdml_fail(FASTGDML_ERROR_ARGUMENT,
                           "FASTGDML_ISA=%s: no such instruction set here; use baseline, v3 or v4 (x86-64 levels that "
                           "this processor supports) or unset the variable", isa);
    if (status)
        free(m);
    else
        *out = m;
    return status;
}
