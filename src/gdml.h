/* Private interface of the native core: array layouts, block kernels, instruction-set dispatch.
 * Models and their evaluation are in model.h.
 *
 * Conventions
 * -----------
 * N atoms, M training points, P permutations, D = N (N - 1) / 2 atom pairs.
 * Pair k = (a, b), a > b, k = a (a - 1) / 2 + b.
 * Descriptor x_k = 1 / |r_a - r_b|; g_k = (r_a - r_b) / |r_a - r_b|^3, so dx_k/dr_b = g_k = -dx_k/dr_a. In models with
 * weights of pairs both are multiplied by w_k > 0: kernels see no difference, as long as permutations leave w as it is.
 * G_ab = (r_a - r_b) / |r_a - r_b|^3 for both orders of a pair, antisymmetric, zero on the diagonal.
 * A permutation p maps atom a to p[a].
 *
 * Nothing here knows of Python. All arrays are row-major unless said otherwise.
 */
#ifndef GDML_H
#define GDML_H

#include <stddef.h>
#include <stdint.h>

/* The widest vector of any instruction set, in doubles. Training data is padded to it, scratch aligned to it. */
#define GDML_MAX_LANES 8
#define GDML_ALIGNMENT 64

/* Most geometries evaluated together by the prediction kernel: their images share each load of training data. */
#define GDML_QUERY_BLOCK 16

/* A periodic cell: how a difference of two positions is folded to its image; see cell.c. */
#define GDML_MAX_SHIFTS 26

typedef struct {
    double basis[9];              /* [3][3]  lattice vectors as columns; of the true minimum image, a short basis */
    double inverse[9];            /* [3][3] */
    double safe;                  /* |d|^2 up to which no shift makes a folded difference d shorter */
    int64_t n_shifts;
    double shift[GDML_MAX_SHIFTS][3]; /* lattice vectors to try after rounding */
} gdml_cell;

/* Prepare a cell from lattice vectors, the columns of lattice [3][3]. `minimum`: fold to the nearest image; otherwise
 * by sGDML's rule, d - L round(L^-1 d). Returns NULL, or what is wrong with the vectors, as a sentence without its end. */
const char *gdml_cell_init(gdml_cell *cell, const double *lattice, int minimum);

/* Permutations that act alike on two atoms; see gdml_group. */
typedef struct {
    int32_t atom;
    int32_t source;
    int32_t subset;           /* number of the set of these permutations */
} gdml_term;

/* The permutation group as index tables (group.py fills them). */
typedef struct {
    int64_t n_atoms;
    int64_t n_perms;
    int64_t n_subsets;
    const int32_t *perm;          /* [P][N]  p[a] */
    const int32_t *inverse;       /* [P][N]  q[p[a]] = a */
    const int32_t *pair;          /* [P][D]  pair (q[a], q[b]) of pair (a, b) */
    const int64_t *subset_begin;  /* [n_subsets + 1]  into subset_perm */
    const int32_t *subset_perm;   /* members of each subset */
    /* For atoms a and c, every (p[a], q[c]) that occurs: terms with atom = p[a], source = q[c]. */
    const int64_t *column_begin;  /* [N * N + 1] */
    const gdml_term *column_term;
    /* For atoms a and c' in its orbit, every (c, q[c]) under the permutations with p[a] = c': atom = c. */
    const int64_t *image_begin;   /* [N * N + 1] */
    const gdml_term *image_term;
    /* For each atom, the partners with which it forms a pair that no permutation moves, and the others. */
    const int64_t *fixed_begin;   /* [N + 1] */
    const int32_t *fixed;
    const int64_t *moving_begin;  /* [N + 1] */
    const int32_t *moving;
} gdml_group;

/* Where blocks of the kernel matrix go. A point contributes the coordinates named in its list, in ascending order.
 *
 * Rows and columns are grouped by training point. A packed matrix is symmetric: rows and columns are the same list, and
 * only elements on and below the diagonal are written.
 */
typedef enum { GDML_DENSE, GDML_RFP } gdml_storage;

typedef struct {
    gdml_storage storage;     /* dense column-major, or rectangular full packed (LAPACK TRANSR='N', UPLO='L') */
    double *data;
    int64_t n_rows;           /* dense: leading dimension; RFP: order of the matrix */
    double scale;             /* elements are written multiplied by this */
    const int64_t *row_begin; /* [M + 1]  first row of each training point */
    const int32_t *row_coord; /* [n_rows] coordinate of each row within its point: 3 a + alpha, or 3 N, the energy */
    int64_t n_col_points;
    const int64_t *col_point; /* [n_col_points]  training point of each group of columns */
    const int64_t *col_begin; /* [n_col_points + 1] */
    const int32_t *col_coord; /* [n_cols] */
} gdml_kernel_target;

typedef struct {
    gdml_group group;
    int64_t n_train;
    double sig;
    const double *x;          /* [M][D]    descriptors */
    const double *g;          /* [M][D][3] their Jacobians, compressed */
    gdml_kernel_target target;
} gdml_kernel_job;

/* Derivatives of tr(A K) by the logarithms of weights of pairs; see trace.c. */
typedef struct {
    gdml_group group;
    double sig;
    const double *x;          /* [M][D]    descriptors w_k / r_k */
    const double *g;          /* [M][D][3] their Jacobians, compressed */
    const double *a;          /* [n_rows][n_rows]  symmetric, column-major; only on and below the diagonal read */
    int64_t n_rows;
    const int64_t *row_begin; /* [M + 1]  first row of each training point */
    const int32_t *row_coord; /* [n_rows] coordinate of each row within its point: 3 a + alpha */
} gdml_trace_job;

/* A trained model, laid out for prediction (model_build.c fills it).
 *
 * Pairs are sorted into classes. Within a class, the permutations that give one pair the same image give every
 * pair the same image, so a class has n_images <= P distinct images of the query instead of P.
 * Training points are cut into tiles of `tile` points; `train` holds, tile by tile, X [D][tile] then V [D][tile],
 * both in class order, X multiplied by sqrt(5) / sig, points past M zero.
 */
typedef struct {
    int64_t n_atoms;
    int64_t n_perms;
    int64_t n_classes;
    int64_t n_tiles;
    int64_t tile;
    const int32_t *class_begin; /* [n_classes + 1]  into the class-ordered pairs */
    const int32_t *class_image; /* [n_classes + 1]  number of the first image of each class */
    const int32_t *image_begin; /* [n_classes + 1]  into image_pair */
    const int32_t *image_pair;  /* class by class [n_images][n_pairs]: pair of the query in natural order */
    const int32_t *perm_image;  /* [n_classes][P]   number of the image that a permutation gives the class */
    const int32_t *image_perm_begin; /* [images of all classes + 1]  into image_perm */
    const int32_t *image_perm;  /* [n_classes * P]  the permutations that give each image */
    const double *train;        /* [n_tiles][2][D][tile] */
    const double *energy;       /* [n_tiles][tile]  coefficients of energy constraints times sig / sqrt(5), or NULL */
    double sig;
} gdml_predictor;

/* Samples of the coefficients of a predictor, for standard deviations; tiles and scales as there. */
typedef struct {
    int64_t n;                  /* S; 0: none */
    const double *v;            /* [n_tiles][S][D][tile] */
    const double *energy;       /* [n_tiles][S][tile], or NULL */
} gdml_samples;

/* One geometry of a query. */
typedef struct {
    double *x;      /* [D]    descriptor */
    double *g;      /* [D][3] its Jacobian */
    double *force_x;/* [D]    -dE/dx, unscaled */
    double energy;  /* unscaled */
} gdml_query;

/* Products with a matrix U [n][k], k a multiple of GDML_MAX_LANES: of floats, or of 16-bit integers times factor [n],
 * NULL for floats; see low_rank.c. */
typedef struct {
    /* t [k] += U^T b */
    void (*project)(int64_t n, int64_t k, const void *u, const double *factor, const double *b, double *t);
    /* b [n] -= U t */
    void (*subtract)(int64_t n, int64_t k, const void *u, const double *factor, const double *t, double *b);
} gdml_low_rank;

/* Blocks of the kernel matrix; see assembly.c. */
typedef struct {
    /* Bytes of aligned scratch that `tile` needs. */
    size_t (*scratch)(const gdml_group *group);
    /* Blocks of `lanes` training points from j0 on (rows) against col_point[c_begin .. c_end) (columns). */
    void (*tile)(const gdml_kernel_job *job, int64_t j0, int64_t c_begin, int64_t c_end, void *scratch);
} gdml_assembly;

/* Gradients of objectives of the kernel's parameters; see trace.c. */
typedef struct {
    /* Bytes of aligned scratch that `row` needs. */
    size_t (*scratch)(const gdml_group *group);
    /* derivative [D]: what point i and the points j <= i contribute, those of j < i twice, as A and K are symmetric. */
    void (*row)(const gdml_trace_job *job, int64_t i, double *derivative, void *scratch);
} gdml_trace;

/* Prediction of n_query <= GDML_QUERY_BLOCK geometries in three steps: their images under the permutations, sums over
 * the training points, tile by tile, and what follows from the sums; see prediction.c. */
typedef struct {
    /* images [gdml_n_images][n_query] */
    void (*images)(const gdml_predictor *model, int64_t n_query, const gdml_query *query, double *images);
    /* Bytes of aligned scratch that `tile` needs. */
    size_t (*scratch)(const gdml_predictor *model, int64_t n_query);
    /* Adds the contribution of one tile to sums [gdml_n_sums][n_query]; with `forces` 0 to those of the energy only. */
    void (*tile)(const gdml_predictor *model, int64_t tile, int64_t n_query, const double *images, int forces,
                 double *sums, void *scratch);
    /* Sets energy and force_x of each query. */
    void (*collect)(const gdml_predictor *model, int64_t n_query, const double *images, const double *sums,
                    gdml_query *query);
} gdml_prediction;

/* The same sums for a model and samples of its coefficients at once; images and collect are those of gdml_prediction.
 * See deviations.c. */
typedef struct {
    /* Bytes of aligned scratch that `tile` needs. */
    size_t (*scratch)(const gdml_predictor *model, int64_t n_query);
    /* Adds the contribution of one tile to sums [1 + S][gdml_n_sums][n_query], those of the model first. */
    void (*tile)(const gdml_predictor *model, const gdml_samples *samples, int64_t tile, int64_t n_query,
                 const double *images, double *sums, void *scratch);
} gdml_deviations;

/* Second derivatives of the energy of one geometry, in steps like those of prediction; see hessian.c. */
typedef struct {
    /* Bytes of what `prepare` makes of a geometry, aligned like scratch. */
    size_t (*prepared)(const gdml_predictor *model);
    /* From x and g of the query. */
    void (*prepare)(const gdml_predictor *model, const gdml_query *query, void *prepared);
    /* Bytes of aligned scratch that `tile` needs. */
    size_t (*scratch)(const gdml_predictor *model);
    int64_t (*n_sums)(const gdml_predictor *model);
    /* Adds the contribution of one tile to sums [n_sums]. */
    void (*tile)(const gdml_predictor *model, int64_t tile, const void *prepared, double *sums, void *scratch);
    /* hessian [3 N][3 N] = scale d2E/dR2, from the sums of all tiles and a query that has its force_x. */
    void (*collect)(const gdml_predictor *model, const gdml_query *query, const double *sums, double scale,
                    double *hessian);
} gdml_second_derivatives;

/* All kernels of one instruction set; see kernels.c. */
typedef struct {
    const char *name;
    int lanes;
    /* Descriptor and Jacobian of r [N][3]. Returns -1, or the first pair whose atoms coincide or are
     * not at finite places. cell: NULL for a molecule. */
    int64_t (*descriptor)(int64_t n_atoms, const double *r, const gdml_cell *cell, double *x, double *g);
    const gdml_assembly *assembly;
    const gdml_prediction *prediction;
    const gdml_deviations *deviations;
    const gdml_second_derivatives *hessian;
    const gdml_low_rank *low_rank;
    const gdml_trace *trace;
} gdml_kernels;

/* The kernels of an instruction set: "baseline", "v3", "v4"; NULL picks the best this processor runs.
 * Returns NULL when the name is unknown or the processor lacks it. */
const gdml_kernels *gdml_select_kernels(const char *isa);

/* Numbers that the images of one query take: each pair of each class under each distinct image. */
static inline int64_t gdml_n_images(const gdml_predictor *model)
{
    return model->image_begin[model->n_classes];
}

/* Numbers that the sums of one query take: the energy, the sum of weights w1 of each image, and one for each of
 * gdml_n_images. */
static inline int64_t gdml_n_sums(const gdml_predictor *model)
{
    return 1 + model->class_image[model->n_classes] + gdml_n_images(model);
}

/* Multiply a descriptor x [D] and its Jacobian g [D][3] by weights [D]; NULL does nothing. */
void gdml_scale_descriptor(int64_t n_desc, const double *weights, double *x, double *g);

/* Between descriptors and positions (adjoint.c): force [N][3] = scale J^T force_x. */
void gdml_force_from_descriptor(int64_t n_atoms, const double *g, const double *force_x, double scale, double *force);

/* virial [3][3] = -dE/d(strain) = -scale sum_k force_x_k g_k (outer) d_k, with the differences d_k = w_k^2 g_k / x_k^3;
 * weights [D] w_k of the descriptor, or NULL: 1. */
void gdml_virial_from_descriptor(int64_t n_desc, const double *x, const double *g, const double *weights,
                                 const double *force_x, double scale, double *virial);

/* out [D] = J vector, vector [N][3]: the adjoint of the above. */
void gdml_jacobian_dot(int64_t n_atoms, const double *g, const double *vector, double *out);

/* Address of element (row, col), row >= col, in rectangular full packed storage, TRANSR='N', UPLO='L'. */
static inline int64_t gdml_rfp_index(int64_t n, int64_t row, int64_t col)
{
    const int64_t split = n - n / 2;   /* order of the leading triangle */
    if (n % 2 == 0) {
        return col < split ? row + 1 + col * (n + 1) : (col - split) + (row - split) * (n + 1);
    }
    return col < split ? row + col * n : (col - split) + (row - split + 1) * n;
}

/* Minimum-cost assignment of the rows of cost [n][n] to its columns (shortest augmenting paths, O(n^3)).
 * row_to_col [n] out; work: 3 n doubles; iwork: 3 n int32. */
void gdml_assign(int64_t n, const double *cost, int32_t *row_to_col, double *work, int32_t *iwork);

/* Match geometry i to geometry j as sGDML does: the assignment that maximises |V_i| |V_j|^T between atoms of one
 * species. vectors are [N][N] absolute eigenvectors, distances [N][N]; penalty [N][N] is 1 between species.
 * Writes the matching to perm [N] and the Frobenius distances of the distance matrices before and after it.
 * work: N^2 + 3 N doubles; iwork: 3 N int32. */
void gdml_match(int64_t n_atoms, const double *vectors_i, const double *vectors_j, const double *distances_i,
                const double *distances_j, const double *penalty, int32_t *perm, double *before, double *after,
                double *work, int32_t *iwork);

/* Kruskal's minimum spanning tree of n nodes: goes through the edges edge [][2] in the order of the numbers
 * order [n_edges] (ascending weight) and writes the numbers of those that join two parts to tree [n - 1]. Returns how
 * many. parent: n int64. */
int64_t gdml_spanning_tree(int64_t n, int64_t n_edges, const int64_t *edge, const int64_t *order, int64_t *tree,
                           int64_t *parent);

#endif
