/* The image of a model: one block of bytes with everything that prediction reads, in its layout. A model is an image in
 * memory, a flat model file (.fgdml) is an image on disk, and using a file means mapping it.
 *
 * An image is a header of 640 bytes, then sections, each at a multiple of 64 bytes, in the order of the table below.
 * Numbers are little-endian; unused bytes are zero. docs/reference/model_file.md describes it for other programs.
 */
#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char magic[8] = {'F', 'A', 'S', 'T', 'G', 'D', 'M', 'L'};
/* Models with weights of pairs have a version of their own, so that readers without weights refuse them. */
enum { BYTE_ORDER_MARK = 0x01020304, VERSION_PLAIN = 1, VERSION_WEIGHTS = 2 };

enum {
    ATOMIC_NUMBERS, ORDER, CLASS_BEGIN, CLASS_IMAGE, IMAGE_BEGIN, IMAGE_PAIR, PERM_IMAGE, IMAGE_PERM_BEGIN, IMAGE_PERM,
    TRAIN, ENERGY, WEIGHTS, N_SECTIONS
};

typedef struct {
    char magic[8];
    uint32_t byte_order;
    uint32_t version;
    uint64_t size;                /* of the image, in bytes */
    uint32_t checksum;            /* CRC-32 (that of zlib) of all bytes behind this number */
    uint32_t periodicity;         /* 0 molecule, 1 one cell, 2 the cell is given with each geometry */
    uint32_t minimum_image;
    uint32_t has_energies;        /* whether there are coefficients of energy constraints */
    int64_t n_atoms, n_train, n_perms;
    int64_t n_classes, n_images, n_pair_images;   /* see gdml_pair_classes */
    int64_t n_tiles, tile;
    double sig, std, c;
    double lattice[9];            /* [3][3] columns */
    char energy_unit[GDML_UNIT_LENGTH], length_unit[GDML_UNIT_LENGTH];   /* end with a zero byte, as do the names */
    char name[GDML_NAME_LENGTH], theory[GDML_NAME_LENGTH];
    struct {
        uint64_t offset, bytes;
    } section[N_SECTIONS];
    char unused[56];
} header;

_Static_assert(sizeof(header) == 640, "the header of a model file has 640 bytes");

/* Bounds that keep all sizes far from overflow; the largest real models stay far below them. */
static const int64_t max_atoms = 1 << 15, max_points = (int64_t)1 << 31, max_numbers = (int64_t)1 << 50;

static int64_t n_pairs(int64_t n_atoms)
{
    return n_atoms * (n_atoms - 1) / 2;
}

/* ---- checksum --------------------------------------------------------------------------------------------------- */

/* CRC-32 of zlib and PNG, eight bytes a step (Intel's slicing-by-8). */
static uint32_t crc32_of(const unsigned char *data, size_t size)
{
    uint32_t table[8][256], crc = 0xffffffffu;
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t c = i;
        for (int k = 0; k < 8; ++k) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; ++i)
        for (int k = 1; k < 8; ++k) table[k][i] = table[0][table[k - 1][i] & 255] ^ (table[k - 1][i] >> 8);
    for (; size >= 8; size -= 8, data += 8) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + 4, 4);
        low ^= crc;
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^ table[4][low >> 24] ^
              table[3][high & 255] ^ table[2][high >> 8 & 255] ^ table[1][high >> 16 & 255] ^ table[0][high >> 24];
    }
    for (; size; --size, ++data) crc = table[0][(crc ^ *data) & 255] ^ (crc >> 8);
    return ~crc;
}

static uint32_t checksum_of(const header *h)
{
    const size_t first = offsetof(header, checksum) + sizeof h->checksum;
    return crc32_of((const unsigned char *)h + first, (size_t)h->size - first);
}

/* ---- layout ----------------------------------------------------------------------------------------------------- */

/* Fill in the sections and the size of the image from the counts of the header. */
static void lay_out(header *h)
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
        [WEIGHTS] = f8 * d,
    };
    const int n_sections = h->version == VERSION_WEIGHTS ? N_SECTIONS : WEIGHTS;
    uint64_t at = sizeof *h;
    for (int s = 0; s < n_sections; ++s) {
        h->section[s].offset = at;
        h->section[s].bytes = (uint64_t)bytes[s];
        at += ((uint64_t)bytes[s] + GDML_ALIGNMENT - 1) / GDML_ALIGNMENT * GDML_ALIGNMENT;
    }
    h->size = at;
}

static void *section(const void *image, int s)
{
    return (char *)image + ((const header *)image)->section[s].offset;
}

/* Time that a tile costs beside that of its points, in points; and scratch that a thread may take for the permutations
 * of one geometry. */
enum { TILE_OVERHEAD = 7, SMALLEST_TILE = 48, LARGEST_TILE = 128, TILE_SCRATCH = 1 << 24 };

/* The multiple of the widest vector that costs the least: the same for every instruction set and number of threads,
 * because it decides the order of summation. Scratch holds n_rows pairs of numbers for each point of a tile, so tiles
 * are smaller for large permutation groups. */
int64_t gdml_tile_size(int64_t n_train, int64_t n_rows)
{
    const int64_t lanes = GDML_MAX_LANES;
    int64_t largest = TILE_SCRATCH / (16 * n_rows) / lanes * lanes, best = 0, least = INT64_MAX;
    if (largest < lanes) largest = lanes;
    if (largest > LARGEST_TILE) largest = LARGEST_TILE;
    if (n_train <= largest) return (n_train + lanes - 1) / lanes * lanes;
    for (int64_t tile = SMALLEST_TILE < largest ? SMALLEST_TILE : largest; tile <= largest; tile += lanes) {
        const int64_t cost = (n_train + tile - 1) / tile * (tile + TILE_OVERHEAD);
        if (cost <= least) {                               /* of equal ones the largest */
            least = cost;
            best = tile;
        }
    }
    return best;
}

/* ---- models in memory ------------------------------------------------------------------------------------------- */

/* Characters that move the cursor of a terminal, or worse. */
static int is_control(char c)
{
    return (c > 0 && c < ' ') || c == 127;
}

/* Copy a text that may be cut, without control characters; what is behind its end stays zero. */
static void copy_text(char *to, const char *from, size_t room)
{
    for (size_t i = 0; from && from[i] && i + 1 < room; ++i) to[i] = is_control(from[i]) ? '?' : from[i];
}

static void put_descriptors(void *image, const double *x)
{
    const header *h = image;
    const int32_t *order = section(image, ORDER);
    const int64_t d = n_pairs(h->n_atoms);
    const double scale = sqrt(5.0) / h->sig;
    for (int64_t j = 0; j < h->n_train; ++j) {
        double *to = (double *)section(image, TRAIN) + 2 * (j / h->tile) * d * h->tile + j % h->tile;
        for (int64_t k = 0; k < d; ++k) to[k * h->tile] = x[j * d + order[k]] * scale;
    }
}

/* v and energies, where given, of training points [first, last). */
static void put_coefficients(void *image, int64_t first, int64_t last, const double *v, const double *energies)
{
    const header *h = image;
    const int32_t *order = section(image, ORDER);
    const int64_t d = n_pairs(h->n_atoms);
    double *energy = section(image, ENERGY);
    for (int64_t j = first; j < last; ++j) {
        double *to = (double *)section(image, TRAIN) + (2 * (j / h->tile) + 1) * d * h->tile + j % h->tile;
        if (v)
            for (int64_t k = 0; k < d; ++k) to[k * h->tile] = v[(j - first) * d + order[k]];
        if (energies && h->has_energies) energy[j] = energies[j - first] * (h->sig / sqrt(5.0));
    }
}

/* What the layout, and the search for classes of pairs, cannot do without. The rest is checked in the image. */
static fastgdml_status check_parts(const gdml_model_parts *parts)
{
    const struct {
        const char *what;
        int64_t found, least, end;
    } counts[] = {
        {"atoms", parts->n_atoms, 2, max_atoms + 1},
        {"training points", parts->n_train, 1, max_points},
        {"permutations", parts->n_perms, 1, max_points},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; ++i)
        if (counts[i].found < counts[i].least || counts[i].found >= counts[i].end)
            return gdml_fail(FASTGDML_ERROR_ARGUMENT, "a model of %lld %s cannot be made: from %lld to %lld are possible",
                             (long long)counts[i].found, counts[i].what, (long long)counts[i].least,
                             (long long)counts[i].end - 1);
    const int64_t d = n_pairs(parts->n_atoms);
    if (parts->n_perms >= max_points / d || parts->n_train > max_numbers / d)
        return gdml_fail(FASTGDML_ERROR_ARGUMENT, "a model of %lld pairs of atoms with %lld permutations and %lld training "
                         "points is too large", (long long)d, (long long)parts->n_perms, (long long)parts->n_train);
    if (!gdml_within(parts->pair_images, parts->n_perms * d, 0, d))
        return gdml_fail(FASTGDML_ERROR_ARGUMENT, "a permutation names a pair of atoms that there is not");
    return FASTGDML_SUCCESS;
}

fastgdml_status gdml_model_new(const gdml_model_parts *parts, gdml_model **out)
{
    *out = NULL;
    const fastgdml_status unusable = check_parts(parts);
    if (unusable) return unusable;
    const int64_t d = n_pairs(parts->n_atoms);
    gdml_pair_classes classes;
    if (!gdml_pair_classes_new(&classes, parts->n_perms, d, parts->pair_images, GDML_MAX_IMAGES))
        return gdml_fail(FASTGDML_ERROR_MEMORY, "no memory for the tables of %lld permutations",
                         (long long)parts->n_perms);
    header h = {
        .byte_order = BYTE_ORDER_MARK,
        .version = parts->weights ? VERSION_WEIGHTS : VERSION_PLAIN,
        .periodicity = (uint32_t)parts->periodicity,
        .minimum_image = parts->minimum_image != 0,
        .has_energies = parts->has_energies || parts->energies,
        .n_atoms = parts->n_atoms,
        .n_train = parts->n_train,
        .n_perms = parts->n_perms,
        .n_classes = classes.n_classes,
        .n_images = classes.n_images,
        .n_pair_images = classes.n_pair_images,
        .tile = gdml_tile_size(parts->n_train, classes.n_images + parts->n_perms),
        .sig = parts->sig,
        .std = parts->std,
        .c = parts->c,
    };
    h.n_tiles = (h.n_train + h.tile - 1) / h.tile;
    memcpy(h.magic, magic, sizeof magic);
    if (parts->periodicity == GDML_ONE_CELL) memcpy(h.lattice, parts->lattice, sizeof h.lattice);
    copy_text(h.energy_unit, parts->energy_unit, sizeof h.energy_unit);
    copy_text(h.length_unit, parts->length_unit, sizeof h.length_unit);
    copy_text(h.name, parts->name, sizeof h.name);
    copy_text(h.theory, parts->theory, sizeof h.theory);
    lay_out(&h);

    void *image = gdml_scratch_new((size_t)h.size);
    if (!image) {
        gdml_pair_classes_free(&classes);
        return gdml_fail(FASTGDML_ERROR_MEMORY, "no memory for a model of %.1f MB", 1e-6 * (double)h.size);
    }
    memset(image, 0, (size_t)h.size);
    memcpy(image, &h, sizeof h);
    memcpy(section(image, ATOMIC_NUMBERS), parts->z, h.section[ATOMIC_NUMBERS].bytes);
    const int32_t *const tables[] = {
        [ORDER] = classes.order,           [CLASS_BEGIN] = classes.class_begin,
        [CLASS_IMAGE] = classes.class_image, [IMAGE_BEGIN] = classes.image_begin,
        [IMAGE_PAIR] = classes.image_pair, [PERM_IMAGE] = classes.perm_image,
        [IMAGE_PERM_BEGIN] = classes.image_perm_begin, [IMAGE_PERM] = classes.image_perm,
    };
    for (int s = ORDER; s <= IMAGE_PERM; ++s) memcpy(section(image, s), tables[s], h.section[s].bytes);
    gdml_pair_classes_free(&classes);
    if (parts->weights) memcpy(section(image, WEIGHTS), parts->weights, h.section[WEIGHTS].bytes);
    put_descriptors(image, parts->x);
    put_coefficients(image, 0, h.n_train, parts->v, parts->energies);

    const fastgdml_status status = gdml_model_open(image, (size_t)h.size, GDML_BUILT, "the model", out);
    if (status) gdml_image_free(image, (size_t)h.size, GDML_BUILT);
    return status;
}

void gdml_model_set_coefficients(gdml_model *m, int64_t first, int64_t last, const double *v, const double *energies)
{
    put_coefficients(m->image, first, last, v, energies);
}

void gdml_model_arrays(const gdml_model *m, int32_t *pair_images, double *x, double *v, double *energies)
{
    const gdml_predictor *p = &m->predictor;
    const int64_t d = n_pairs(p->n_atoms);
    const double scale = p->sig / sqrt(5.0);
    for (int64_t h = 0; h < p->n_classes; ++h) {
        const int64_t n = p->class_begin[h + 1] - p->class_begin[h];
        for (int64_t i = 0; i < p->n_perms; ++i) {
            const int32_t image = p->perm_image[h * p->n_perms + i] - p->class_image[h];
            const int32_t *from = p->image_pair + p->image_begin[h] + image * n;
            for (int64_t k = 0; k < n; ++k) pair_images[i * d + m->order[p->class_begin[h] + k]] = from[k];
        }
    }
    for (int64_t j = 0; j < m->n_train; ++j) {
        const double *from = p->train + 2 * (j / p->tile) * d * p->tile + j % p->tile;
        for (int64_t k = 0; k < d; ++k) {
            x[j * d + m->order[k]] = from[k * p->tile] * scale;
            v[j * d + m->order[k]] = from[(d + k) * p->tile];
        }
        if (p->energy) energies[j] = p->energy[j] / scale;
    }
}

const void *gdml_model_image(gdml_model *m, size_t *size)
{
    header *h = m->image;
    if (m->origin == GDML_BUILT) h->checksum = checksum_of(h);
    *size = m->image_size;
    return m->image;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

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
    REQUIRE(size >= sizeof *h && !memcmp(h->magic, magic, sizeof magic),
            "%s is no model file of fastgdml: make one with 'fastgdml export model.npz model.fgdml'", where);
    REQUIRE(h->byte_order == BYTE_ORDER_MARK, "%s was written on a machine with another order of bytes", where);
    REQUIRE(h->version == VERSION_PLAIN || h->version == VERSION_WEIGHTS,
            "%s has version %u of the format; this library reads versions %d and %d", where, h->version, VERSION_PLAIN,
            VERSION_WEIGHTS);
    REQUIRE(h->size == size, "%s has %llu bytes, %llu expected: it is truncated or damaged", where,
            (unsigned long long)size, (unsigned long long)h->size);
    const int64_t counts[] = {h->n_train, h->n_perms, h->n_classes, h->n_images, h->n_pair_images, h->n_tiles};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; ++i)
        REQUIRE(counts[i] > 0 && counts[i] < max_points, "%s is damaged: a count is %lld", where, (long long)counts[i]);
    REQUIRE(h->n_atoms >= 2 && h->n_atoms <= max_atoms, "%s is damaged: %lld atoms", where, (long long)h->n_atoms);
    REQUIRE(h->n_perms * n_pairs(h->n_atoms) < max_points && h->n_classes <= n_pairs(h->n_atoms),
            "%s is damaged: %lld permutations in %lld classes", where, (long long)h->n_perms, (long long)h->n_classes);
    REQUIRE(h->tile > 0 && h->tile <= LARGEST_TILE && h->tile % GDML_MAX_LANES == 0 &&
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
    header expected = *h;
    lay_out(&expected);                                    /* with these bounds nothing overflows */
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

/* Whether what lies behind the last training point is zero, so that it adds nothing to sums over whole tiles. */
static int padding_is_zero(const gdml_model *m)
{
    const gdml_predictor *p = &m->predictor;
    const int64_t used = m->n_train - (p->n_tiles - 1) * p->tile, rows = 2 * n_pairs(p->n_atoms);
    const double *row = p->train + (p->n_tiles - 1) * rows * p->tile;
    for (int64_t k = 0; k < rows; ++k, row += p->tile)
        for (int64_t j = used; j < p->tile; ++j)
            if (row[j] != 0) return 0;
    for (int64_t j = m->n_train; p->energy && j < p->n_tiles * p->tile; ++j)
        if (p->energy[j] != 0) return 0;
    return 1;
}

static fastgdml_status read_image(gdml_model *m, void *image, size_t size, gdml_image_origin origin, const char *where)
{
    const header *h = image;
    const fastgdml_status status = check_header(h, size, where);
    if (status) return status;
    REQUIRE(origin == GDML_BUILT || checksum_of(h) == h->checksum,
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
    REQUIRE(padding_is_zero(m), "%s is damaged: it holds numbers behind its last training point", where);
    m->weights = h->version == VERSION_WEIGHTS ? section(image, WEIGHTS) : NULL;
    const fastgdml_status weights = m->weights ? gdml_check_weights(m, where) : FASTGDML_SUCCESS;
    if (weights) return weights;
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
