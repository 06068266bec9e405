/* Private interface of the native core above the kernels: pair classes, models and their images, evaluation.
 * Notation as in gdml.h.
 */
#ifndef GDML_MODEL_H
#define GDML_MODEL_H

#include "failure.h"
#include "fastgdml.h"
#include "gdml.h"
#include "system.h"

/* ---- pair classes (pair_classes.c) ----------------------------------------------------------------------------- */

/* Pairs sorted into classes; the tables of gdml_predictor, and `order`, in one block of memory. */
typedef struct {
    int64_t n_classes, n_images, n_pair_images;   /* classes; images of all of them; sum of images times pairs */
    int32_t *order, *class_begin, *class_image, *image_begin, *image_pair, *perm_image, *image_perm_begin, *image_perm;
} gdml_pair_classes;

/* images [P][D]: the pair of the query that stands for each pair of the training points. max_images bounds the images
 * of all classes but the one where every permutation has its own. Returns 0 when there is no memory. */
int gdml_pair_classes_new(gdml_pair_classes *classes, int64_t n_perms, int64_t n_desc, const int32_t *images,
                          int64_t max_images);
void gdml_pair_classes_free(gdml_pair_classes *classes);
enum { GDML_MAX_IMAGES = 1 << 14 };

/* ---- models ----------------------------------------------------------------------------------------------------- */

/* A model of the public interface: what prediction reads, and what a driver needs to know. Tables and data lie in one
 * image, the content of a flat model file (image.h). Immutable, but for the coefficients of an image in memory
 * (gdml_model_set_coefficients). */
enum { GDML_MOLECULE, GDML_ONE_CELL, GDML_CELL_GIVEN };       /* periodicity */
enum { GDML_UNIT_LENGTH = 32, GDML_NAME_LENGTH = 64 };

struct fastgdml_model {
    gdml_predictor predictor;
    const gdml_kernels *kernels;
    int64_t n_train;
    const int32_t *z;             /* [N]  atomic numbers */
    const int32_t *order;         /* [D]  pairs, class by class */
    const double *weights;        /* [D]  of pairs, of the descriptors of queries; NULL: 1 */
    double std, c;                /* scale and offset of the energy */
    gdml_samples samples;         /* for standard deviations; n is 0 where there are none */
    const double *std_c;          /* [S]  offsets of their energies */
    double std_scale;             /* what standard deviations are multiplied by */
    int periodicity;
    int minimum_image;            /* the image rule, see gdml_cell_init */
    double lattice[9];            /* [3][3] columns; of GDML_ONE_CELL */
    gdml_cell cell;               /* that lattice, prepared */
    char energy_unit[GDML_UNIT_LENGTH], length_unit[GDML_UNIT_LENGTH];  /* empty: not recorded */
    char name[GDML_NAME_LENGTH], theory[GDML_NAME_LENGTH];
    void *image;
    size_t image_size;
    gdml_image_origin origin;
};
typedef struct fastgdml_model gdml_model;

/* ---- images of models (model_build.c, model_image.c) ------------------------------------------------------------ */

/* Samples for standard deviations, n of them. */
typedef struct {
    int64_t n;
    const double *v;                /* [n][M][D]  J alpha of each */
    const double *energies;         /* [n][M]     coefficients of energy constraints, if the model has any; or NULL */
    const double *c;                /* [n]        offsets of the energy */
    double scale;
} gdml_model_samples;

/* What a model is made from. */
typedef struct {
    int64_t n_atoms, n_train, n_perms;
    const int32_t *z;               /* [N] */
    const int32_t *pair_images;     /* [P][D]  see gdml_pair_classes_new */
    const double *x;                /* [M][D]  descriptors of the training points, with the weights, if there are any */
    const double *v;                /* [M][D]  J alpha, or NULL: zero until they are set */
    const double *energies;         /* [M]     coefficients of energy constraints, or NULL */
    int has_energies;               /* room for them, also where they are NULL: zero */
    const double *weights;          /* [D]     of pairs, positive, the same for the images of a pair; or NULL */
    gdml_model_samples samples;
    double sig, std, c;
    int periodicity, minimum_image;
    const double *lattice;          /* [3][3]  of GDML_ONE_CELL */
    const char *energy_unit, *length_unit, *name, *theory;   /* NULL: unknown */
} gdml_model_parts;

fastgdml_status gdml_model_new(const gdml_model_parts *parts, gdml_model **out);

/* Put other coefficients of training points [first, last) into a model made by gdml_model_new; energies may be NULL. */
void gdml_model_set_coefficients(gdml_model *model, int64_t first, int64_t last, const double *v /* [last-first][D] */,
                                 const double *energies);

/* The image of each pair under permutation i, (D,). */
void gdml_pair_images(const gdml_model *model, int64_t i, int32_t *images);

/* What a model was made from, as gdml_model_parts has it: images of pairs, descriptors (to an error of rounding),
 * coefficients, and those of energies, where it has any. */
void gdml_model_arrays(const gdml_model *model, int32_t *pair_images, double *x, double *v, double *energies);

/* Its samples, as gdml_model_samples has them. */
void gdml_model_samples_of(const gdml_model *model, double *v, double *energies, double *c);

/* CRC-32 of zlib (checksum.c). */
uint32_t gdml_crc32(const unsigned char *data, size_t size);

/* The image of the model with its checksum: the content of a model file. */
const void *gdml_model_image(gdml_model *model, size_t *size);

/* A model in an image, whose every size, offset and index is checked, and the checksum unless it was built here. The
 * image stays the caller's if this fails; `where` names it in errors. */
fastgdml_status gdml_model_open(void *image, size_t size, gdml_image_origin origin, const char *where,
                                gdml_model **out);

/* Whether the tables of a model whose counts are known to be in range, and its weights, are what prediction takes them for
 * (table_checks.c); `where` names it in errors. */
fastgdml_status gdml_check_tables(const gdml_model *model, int64_t n_images, int64_t n_pair_images, const char *where);
fastgdml_status gdml_check_weights(const gdml_model *model, const char *where);
int gdml_within(const int32_t *table, int64_t n, int64_t least, int64_t end);   /* all of n numbers in least..end-1 */

/* Training points of a tile; n_rows: images of all classes, and permutations. */
int64_t gdml_tile_size(int64_t n_train, int64_t n_rows);
enum { GDML_LARGEST_TILE = 128 };

/* ---- evaluation (evaluate.c) ----------------------------------------------------------------------------------- */

/* What to predict, where results go, and how the work is divided. The callers' loops over blocks, or over tiles within
 * a block, may run in parallel; results do not depend on it. */
typedef struct {
    const gdml_model *model;
    const gdml_kernels *kernels;
    int64_t n_geo;
    const double *r;              /* [n_geo][N][3], or NULL: x and g are given */
    const gdml_cell *cells;       /* NULL for molecules */
    int64_t cell_step;            /* 1 if every geometry has its own */
    const double *x;              /* [n_geo][D] */
    const double *g;              /* [n_geo][D][3] */
    double *energy;               /* [n_geo]; these three NULL where not wanted */
    double *force;                /* [n_geo][N][3] */
    double *virial;               /* [n_geo][3][3] */
    double *energy_std;           /* [n_geo]     standard deviations, of a model with samples; both or none */
    double *force_std;            /* [n_geo][N]  of a component of the force on each atom */
    /* set by gdml_plan */
    int n_threads;
    int over_tiles;               /* the loop to run in parallel: over tiles of one block, not over blocks */
    int64_t n_query;              /* geometries of a block */
    int64_t n_blocks;
    int64_t n_held;               /* tiles whose sums are held at a time, if over_tiles */
    int64_t n_sums;               /* of one block */
    size_t scratch_bytes;         /* of one thread, a multiple of GDML_SCRATCH_STEP */
} gdml_evaluation;

enum { GDML_SCRATCH_STEP = 256 };  /* threads never share a cache line */

static inline size_t gdml_whole_steps(size_t bytes)
{
    return (bytes + GDML_SCRATCH_STEP - 1) / GDML_SCRATCH_STEP * GDML_SCRATCH_STEP;
}

/* One block of geometries under evaluation. */
typedef struct {
    int64_t first, n_query;
    gdml_query query[GDML_QUERY_BLOCK];
    double *images;               /* [gdml_n_images][n_query] */
    double *sums;                 /* [n_sums] */
    void *scratch;
} gdml_block;

/* Divide the work among at most n_threads. */
void gdml_plan(gdml_evaluation *evaluation, int n_threads);

/* Evaluate one block; returns the first geometry that cannot be evaluated, or -1. */
int64_t gdml_evaluate_block(const gdml_evaluation *evaluation, int64_t block, void *scratch);

/* The same in three steps: set up; sums of each tile, for this block or into zeroed sums of their own, which
 * gdml_add_sums adds in the order of the tiles; results. */
int64_t gdml_block_begin(const gdml_evaluation *evaluation, int64_t block, void *scratch, gdml_block *state);
void gdml_block_tile(const gdml_evaluation *evaluation, const gdml_block *state, int64_t tile, double *sums,
                     void *scratch);
void gdml_block_end(const gdml_evaluation *evaluation, gdml_block *state);
void gdml_add_sums(const gdml_evaluation *evaluation, int64_t n_tiles, const double *tile_sums, gdml_block *state);

/* ---- Hessians (evaluate_hessian.c) ------------------------------------------------------------------------------ */

/* What to compute, where results go, and how the work is divided. */
typedef struct {
    gdml_evaluation prediction;   /* set: model, kernels, n_geo, r, cells, cell_step, energy and force or NULL */
    double *hessian;              /* [n_geo][3 N][3 N]  d2E/dR2 */
    /* set by gdml_hessian_plan */
    int n_threads;
    int over_tiles;               /* the loop that runs in parallel: over tiles of one geometry, not over geometries */
    int64_t n_held;               /* tiles whose sums are held at a time, if over_tiles */
    int64_t n_prediction_sums, n_sums;
    size_t thread_bytes;          /* scratch of one thread */
    size_t scratch_bytes;         /* of all threads */
} gdml_hessian_evaluation;

/* Divide the work among at most n_threads. */
void gdml_hessian_plan(gdml_hessian_evaluation *evaluation, int n_threads);

/* Evaluate, in scratch [scratch_bytes]; returns the first geometry that cannot be evaluated, or -1. */
int64_t gdml_hessians(const gdml_hessian_evaluation *evaluation, void *scratch);

#endif
