/* Models from arrays, as images in memory; and arrays of models. */
#include "image.h"

#include <math.h>
#include <string.h>

/* Time that a tile costs beside that of its points, in points; and scratch that a thread may take for the permutations
 * of one geometry. */
enum { TILE_OVERHEAD = 7, SMALLEST_TILE = 48, LARGEST_TILE = GDML_LARGEST_TILE, TILE_SCRATCH = 1 << 24 };

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

/* Where the numbers of sample s and point j begin, in arrays with n rows of a tile. */
static int64_t sample_at(int64_t n_std, int64_t tile, int64_t n, int64_t s, int64_t j)
{
    return (j / tile * n_std + s) * n * tile + j % tile;
}

static void put_samples(void *image, const gdml_model_samples *from)
{
    const header *h = image;
    const int32_t *order = section(image, ORDER);
    const int64_t d = n_pairs(h->n_atoms);
    const sample_parts to = samples_in(image);
    memcpy(to.c, from->c, sizeof *to.c * (size_t)h->n_std);
    for (int64_t s = 0; s < h->n_std; ++s) {
        for (int64_t j = 0; j < h->n_train; ++j) {
            double *v = to.v + sample_at(h->n_std, h->tile, d, s, j);
            const double *own = from->v + (s * h->n_train + j) * d;
            for (int64_t k = 0; k < d; ++k) v[k * h->tile] = own[order[k]];
            if (to.energy && from->energies)
                to.energy[sample_at(h->n_std, h->tile, 1, s, j)] =
                    from->energies[s * h->n_train + j] * (h->sig / sqrt(5.0));
        }
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
        .version = parts->samples.n ? VERSION_SAMPLES : parts->weights ? VERSION_WEIGHTS : VERSION_PLAIN,
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
        .n_std = parts->samples.n,
        .std_scale = parts->samples.n ? parts->samples.scale : 0.0,
        .has_weights = parts->samples.n && parts->weights,
    };
    h.n_tiles = (h.n_train + h.tile - 1) / h.tile;
    memcpy(h.magic, GDML_IMAGE_MAGIC, sizeof h.magic);
    if (parts->periodicity == GDML_ONE_CELL) memcpy(h.lattice, parts->lattice, sizeof h.lattice);
    copy_text(h.energy_unit, parts->energy_unit, sizeof h.energy_unit);
    copy_text(h.length_unit, parts->length_unit, sizeof h.length_unit);
    copy_text(h.name, parts->name, sizeof h.name);
    copy_text(h.theory, parts->theory, sizeof h.theory);
    gdml_lay_out(&h);

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
    if (h.n_std) put_samples(image, &parts->samples);

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
    for (int64_t i = 0; i < p->n_perms; ++i) gdml_pair_images(m, i, pair_images + i * d);
    for (int64_t j = 0; j < m->n_train; ++j) {
        const double *from = p->train + 2 * (j / p->tile) * d * p->tile + j % p->tile;
        for (int64_t k = 0; k < d; ++k) {
            x[j * d + m->order[k]] = from[k * p->tile] * scale;
            v[j * d + m->order[k]] = from[(d + k) * p->tile];
        }
        if (p->energy) energies[j] = p->energy[j] / scale;
    }
}

void gdml_model_samples_of(const gdml_model *m, double *v, double *energies, double *c)
{
    const gdml_predictor *p = &m->predictor;
    const int64_t d = n_pairs(p->n_atoms), n_std = m->samples.n;
    const double scale = p->sig / sqrt(5.0);
    memcpy(c, m->std_c, sizeof *c * (size_t)n_std);
    for (int64_t s = 0; s < n_std; ++s) {
        for (int64_t j = 0; j < m->n_train; ++j) {
            const double *from = m->samples.v + sample_at(n_std, p->tile, d, s, j);
            for (int64_t k = 0; k < d; ++k) v[(s * m->n_train + j) * d + m->order[k]] = from[k * p->tile];
            if (m->samples.energy)
                energies[s * m->n_train + j] = m->samples.energy[sample_at(n_std, p->tile, 1, s, j)] / scale;
        }
    }
}

const void *gdml_model_image(gdml_model *m, size_t *size)
{
    header *h = m->image;
    if (m->origin == GDML_BUILT) h->checksum = gdml_image_checksum(h);
    *size = m->image_size;
    return m->image;
}
