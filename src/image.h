/* The image of a model: model_build.c writes it, model_image.c reads it.
 *
 * An image is a header of 640 bytes, then sections, each at a multiple of 64 bytes, in the order of the table below.
 * Numbers are little-endian; unused bytes are zero. docs/reference/model_file.md describes it for other programs.
 */
#ifndef GDML_IMAGE_H
#define GDML_IMAGE_H

#include "model.h"

#include <stddef.h>

#define GDML_IMAGE_MAGIC "FASTGDML"
/* Models with weights of pairs, and those with samples, have versions of their own, so that readers of neither refuse
 * them. */
enum { BYTE_ORDER_MARK = 0x01020304, VERSION_PLAIN = 1, VERSION_WEIGHTS = 2, VERSION_SAMPLES = 3 };

enum {
    ATOMIC_NUMBERS, ORDER, CLASS_BEGIN, CLASS_IMAGE, IMAGE_BEGIN, IMAGE_PAIR, PERM_IMAGE, IMAGE_PERM_BEGIN, IMAGE_PERM,
    TRAIN, ENERGY, WEIGHTS, SAMPLES, N_SECTIONS
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
    int64_t n_std;                /* samples for standard deviations; this and what follows in VERSION_SAMPLES only */
    double std_scale;
    uint32_t has_weights;
    char unused[20];
} header;

_Static_assert(sizeof(header) == 640, "the header of a model file has 640 bytes");

/* Bounds that keep all sizes far from overflow; the largest real models stay far below them. */
static const int64_t max_atoms = 1 << 15, max_points = (int64_t)1 << 31, max_numbers = (int64_t)1 << 50;

static inline int64_t n_pairs(int64_t n_atoms)
{
    return n_atoms * (n_atoms - 1) / 2;
}

static inline int has_weights(const header *h)
{
    return h->version == VERSION_WEIGHTS || (h->version == VERSION_SAMPLES && h->has_weights);
}

/* Numbers before those of the training points in section SAMPLES: the constants. */
static inline int64_t room_for_constants(const header *h)
{
    return (h->n_std + GDML_MAX_LANES - 1) / GDML_MAX_LANES * GDML_MAX_LANES;
}

static inline void *section(const void *image, int s)
{
    return (char *)image + ((const header *)image)->section[s].offset;
}

/* The samples in an image: constants [S], those of training points, and of energy constraints, or NULL. */
typedef struct {
    double *c, *v, *energy;
} sample_parts;

static inline sample_parts samples_in(const void *image)
{
    const header *h = image;
    double *c = section(image, SAMPLES), *v = c + room_for_constants(h);
    return (sample_parts){c, v, h->has_energies ? v + h->n_std * h->n_tiles * n_pairs(h->n_atoms) * h->tile : NULL};
}

/* Characters that move the cursor of a terminal, or worse. */
static inline int is_control(char c)
{
    return (c > 0 && c < ' ') || c == 127;
}

/* Fill in the sections and the size of the image from the counts of the header. */
void gdml_lay_out(header *h);

/* CRC-32 of all bytes of an image behind the checksum. */
uint32_t gdml_image_checksum(const header *h);

#endif
