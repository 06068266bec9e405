/* Predictions of a model and of S samples of its coefficients in one pass, for standard deviations. Built per instruction
 * set.
 *
 * In the notation of prediction.c, samples differ in v_j = J_j alpha_j (and e_j) alone: the distances |d_p| and what
 * follows from them, exp(-n / s) and w2, are computed once. What is left for each sample s, of equations (5) and (9), is
 *
 *     t_s = d_p . v_s,     w1_s = exp(-rho) t_s [+ w2 e_s],     sum over points of w1_s x + w2 v_s.                (10)
 *
 * d_p = (y_p - m) - (x - m) with any m: the second part of t_s is the same for all images and geometries, so that a pair
 * and image take three products, where a prediction has five and an exponential function. With the first point of the
 * tile as m, both parts are as small as d_p: no digits are lost.
 * The model's own sums have the bits that prediction.c gives them.
 */
#include "prediction.h"

/* Register blocking of t_s: images x vectors of training points. */
#define VECTORS 4
#if GDML_LANES == 8
#define IMAGES 4
#else
#define IMAGES 2
#endif
#define SUMS (IMAGES * VECTORS)

typedef struct {
    predict_workspace model;
    double *decay;     /* [P Q][T]  exp(-rho) */
    double *energy;    /* [P Q][T]  what e_s is multiplied by in the energy, if there are energy constraints */
    double *images;    /* [gdml_n_images][Q]  y_p - m */
    double *t;         /* [all images Q][T]  a class's part of (y_p - m) . v_s; later the sums of w1_s */
    double *point;     /* [T]  (x - m) . v_s */
} workspace;

static workspace layout(const gdml_predictor *m, int64_t n_query, arena *a)
{
    workspace w;
    w.model = predict_layout(m, n_query, a);
    w.decay = take(a, m->n_perms * n_query * m->tile);
    w.energy = m->energy ? take(a, m->n_perms * n_query * m->tile) : NULL;
    w.images = take(a, gdml_n_images(m) * n_query);
    w.t = take(a, m->class_image[m->n_classes] * n_query * m->tile);
    w.point = take(a, m->tile);
    return w;
}

static size_t scratch_bytes(const gdml_predictor *m, int64_t n_query)
{
    arena a = {NULL, 0};
    layout(m, n_query, &a);
    return a.used;
}

/* w->images from images; m is the first point of x [D][tile]. */
static void centre_images(const gdml_predictor *m, int64_t n_query, const double *x, const double *images,
                          const workspace *w)
{
    for (int64_t h = 0; h < m->n_classes; ++h) {
        const int64_t n_columns = (m->class_image[h + 1] - m->class_image[h]) * n_query;
        const double *from = images + m->image_begin[h] * n_query;
        double *to = w->images + m->image_begin[h] * n_query;
        for (int64_t k = m->class_begin[h]; k < m->class_begin[h + 1]; ++k, from += n_columns, to += n_columns)
            for (int64_t i = 0; i < n_columns; ++i) to[i] = from[i] - x[k * m->tile];
    }
}

/* t += y v over the pairs of a class. */
INLINE void forward_block(const int images, const int vectors, int64_t n_pairs, const double *v, int64_t tile,
                          const double *y, int64_t y_stride, double *t)
{
    vd sum[SUMS];
    UNROLL
    for (int i = 0; i < images * vectors; ++i) sum[i] = splat(0.0);
    for (int64_t k = 0; k < n_pairs; ++k, v += tile, y += y_stride) {
        vd vk[SUMS];
        UNROLL
        for (int m = 0; m < vectors; ++m) {
            vk[m] = load(v + m * W);
            KEEP_IN_REGISTER(vk[m]);
        }
        UNROLL
        for (int i = 0; i < images; ++i) {
            const vd yk = splat(y[i]);
            UNROLL
            for (int m = 0; m < vectors; ++m) sum[i * vectors + m] += yk * vk[m];
        }
    }
    UNROLL
    for (int i = 0; i < images; ++i) {
        UNROLL
        for (int m = 0; m < vectors; ++m) store(t + i * tile + m * W, sum[i * vectors + m]);
    }
}

INLINE void forward_images(const int images, const int vectors, int64_t n_pairs, const double *v, int64_t tile,
                           const double *y, int64_t y_stride, double *t)
{
    int64_t j = 0;
    for (; j + vectors * W <= tile; j += vectors * W)
        forward_block(images, vectors, n_pairs, v + j, tile, y, y_stride, t + j);
    for (; vectors > 2 && j + 2 * W <= tile; j += 2 * W)
        forward_block(images, 2, n_pairs, v + j, tile, y, y_stride, t + j);
    for (; j < tile; j += W) forward_block(images, 1, n_pairs, v + j, tile, y, y_stride, t + j);
}

static void forward(int64_t n_images, int64_t n_pairs, const double *v, int64_t tile, const double *y, double *t)
{
    int64_t i = 0;
    for (; i + IMAGES <= n_images; i += IMAGES)
        forward_images(IMAGES, VECTORS, n_pairs, v, tile, y + i, n_images, t + i * tile);
    for (; i < n_images; ++i) forward_images(1, SUMS < 8 ? SUMS : 8, n_pairs, v, tile, y + i, n_images, t + i * tile);
}

/* (x - m) v over some rows of pairs, added to `to` [T]. */
INLINE void add_rows(const int rows, int64_t tile, const double *x, const double *v, double *to)
{
    vd m[3];
    UNROLL
    for (int k = 0; k < rows; ++k) m[k] = splat(x[k * tile]);
    for (int64_t j = 0; j < tile; j += W) {
        vd sum = load(to + j);
        UNROLL
        for (int k = 0; k < rows; ++k) sum += (load(x + k * tile + j) - m[k]) * load(v + k * tile + j);
        store(to + j, sum);
    }
}

/* to [T] = (x - m) . v. Row by row: this is the first to read v, which comes from far memory. */
static void point_products(int64_t n_desc, int64_t tile, const double *x, const double *v, double *to)
{
    int64_t k = 0;
    memset(to, 0, sizeof *to * (size_t)tile);
    for (; k + 3 <= n_desc; k += 3) add_rows(3, tile, x + k * tile, v + k * tile, to);
    for (; k < n_desc; ++k) add_rows(1, tile, x + k * tile, v + k * tile, to);
}

/* Where the images of permutation p and query i are, in rows of all classes. */
INLINE void rows_of(const gdml_predictor *m, int64_t p, int64_t i, int64_t n_query, int64_t *row)
{
    for (int64_t h = 0; h < m->n_classes; ++h)
        row[h] = (m->perm_image[h * m->n_perms + p] * n_query + i) * m->tile;
}

INLINE vd sum_classes(int64_t n_classes, const double *from, const int64_t *row)
{
    vd sum = load(from + row[0]);
    for (int64_t h = 1; h < n_classes; ++h) sum += load(from + row[h]);
    return sum;
}

/* What all samples share, from the distances: exp(-rho), and with energy constraints (3 + 3 rho + rho^2) exp(-rho). */
static void share(const gdml_predictor *m, int64_t n_query, const workspace *w)
{
    for (int64_t p = 0; p < m->n_perms; ++p) {
        for (int64_t i = 0; i < n_query; ++i) {
            const int64_t at = (p * n_query + i) * m->tile;
            rows_of(m, p, i, n_query, w->model.row);
            for (int64_t j = 0; j < m->tile; j += W) {
                const vd squared = sum_classes(m->n_classes, w->model.image_s + j, w->model.row);
                const vd decay = vexp_nonpositive(-vsqrt(squared));
                store(w->decay + at + j, decay);
                if (w->energy)
                    store(w->energy + at + j, splat(3.0) * load(w->model.w2 + at + j) + decay * squared);
            }
        }
    }
}

/* w1_s and their sums, in place of those of the model, from the parts of t_s; e: energy constraints of the sample.
 * energy [Q] is added to. */
INLINE void weigh(const gdml_predictor *m, int64_t n_query, const workspace *w, const double *e, double *energy)
{
    for (int64_t p = 0; p < m->n_perms; ++p) {
        for (int64_t i = 0; i < n_query; ++i) {
            const int64_t column = p * n_query + i, at = column * m->tile;
            vd sum = splat(0.0), total = splat(0.0);
            rows_of(m, p, i, n_query, w->model.row);
            for (int64_t j = 0; j < m->tile; j += W) {
                const vd ts = sum_classes(m->n_classes, w->t + j, w->model.row) - load(w->point + j);
                const vd w2 = load(w->model.w2 + at + j);
                vd w1 = load(w->decay + at + j) * ts;
                sum += w2 * ts;
                if (e) {
                    const vd es = load(e + j);
                    sum += load(w->energy + at + j) * es;
                    w1 += w2 * es;
                }
                total += w1;
                store(w->model.w1 + at + j, w1);
            }
            w->model.total_w1[column] = vsum(total);
            energy[i] += vsum(sum);
        }
    }
}

static void weigh_forces(const gdml_predictor *m, int64_t n_query, const workspace *w, double *energy)
{
    weigh(m, n_query, w, NULL, energy);
}

static void weigh_all(const gdml_predictor *m, int64_t n_query, const workspace *w, const double *e, double *energy)
{
    weigh(m, n_query, w, e, energy);
}

/* Sum the weights w of the permutations that give a class the same image. */
static void sum_weights(const gdml_predictor *m, int64_t class_index, int64_t n_query, const double *w, double *to)
{
    const int64_t row = n_query * m->tile;
    for (int64_t g = m->class_image[class_index]; g < m->class_image[class_index + 1]; ++g)
        sum_rows(row, w, m->image_perm + m->image_perm_begin[g], m->image_perm + m->image_perm_begin[g + 1],
                 to + g * row);
}

/* Add what follows from weights to sums [gdml_n_sums][Q] behind the energies, as predict_tile does. Sums of w1 over
 * images go to `images` [all images Q][T]; those of w2 are in w->model.image_t. */
static void sum_forces(const gdml_predictor *m, int64_t n_query, const double *x, const double *v, const workspace *w,
                       double *images, double *sums)
{
    const int64_t n_perms = m->n_perms, tile = m->tile, row = n_query * tile;
    double *sum_w1 = sums + n_query, *sum_xv = sum_w1 + m->class_image[m->n_classes] * n_query;
    for (int64_t h = 0; h < m->n_classes; ++h) {
        const int64_t first = m->class_begin[h], n_pairs = m->class_begin[h + 1] - first;
        const int64_t image = m->class_image[h], n_images = m->class_image[h + 1] - image;
        const int apart = n_images == n_perms;             /* image and permutation have the same number */
        if (!apart) sum_weights(m, h, n_query, w->model.w1, images);
        backward(n_images * n_query, n_pairs, x + first * tile, v + first * tile, tile,
                 apart ? w->model.w1 : images + image * row, apart ? w->model.w2 : w->model.image_t + image * row,
                 sum_xv + m->image_begin[h] * n_query);
        for (int64_t g = image; g < image + n_images; ++g) {
            for (int64_t i = 0; i < n_query; ++i) {
                double sum = 0.0;
                for (int32_t k = m->image_perm_begin[g]; k < m->image_perm_begin[g + 1]; ++k)
                    sum += w->model.total_w1[m->image_perm[k] * n_query + i];
                sum_w1[g * n_query + i] += sum;
            }
        }
    }
}

/* sums: those of the model, as predict_tile gives them, then of each sample. */
static void deviations_tile(const gdml_predictor *m, const gdml_samples *samples, int64_t tile_index, int64_t n_query,
                            const double *images, double *sums, void *scratch)
{
    const int64_t n_desc = m->n_atoms * (m->n_atoms - 1) / 2, tile = m->tile, n_sums = gdml_n_sums(m) * n_query;
    const double *x = m->train + 2 * tile_index * n_desc * tile, *v = x + n_desc * tile;
    arena a = {scratch, 0};
    const workspace w = layout(m, n_query, &a);

    PER_ISA(gdml_prediction).tile(m, tile_index, n_query, images, 0, sums, scratch);
    share(m, n_query, &w);
    for (int64_t h = 0; h < m->n_classes; ++h)
        if (m->class_image[h + 1] - m->class_image[h] < m->n_perms)
            sum_weights(m, h, n_query, w.model.w2, w.model.image_t);
    sum_forces(m, n_query, x, v, &w, w.model.image_s, sums);

    centre_images(m, n_query, x, images, &w);
    v = samples->v + samples->n * tile_index * n_desc * tile;
    for (int64_t s = 0; s < samples->n; ++s, v += n_desc * tile) {
        double *own = sums + (1 + s) * n_sums;
        double energy[GDML_QUERY_BLOCK] = {0};
        point_products(n_desc, tile, x, v, w.point);
        for (int64_t h = 0; h < m->n_classes; ++h) {
            const int64_t pair = m->class_begin[h], image = m->class_image[h];
            forward((m->class_image[h + 1] - image) * n_query, m->class_begin[h + 1] - pair, v + pair * tile, tile,
                    w.images + m->image_begin[h] * n_query, w.t + image * n_query * tile);
        }
        if (samples->energy)
            weigh_all(m, n_query, &w, samples->energy + (samples->n * tile_index + s) * tile, energy);
        else
            weigh_forces(m, n_query, &w, energy);
        for (int64_t i = 0; i < n_query; ++i) own[i] += energy[i];
        sum_forces(m, n_query, x, v, &w, w.t, own);
    }
}

extern const gdml_deviations PER_ISA(gdml_deviations);
const gdml_deviations PER_ISA(gdml_deviations) = {scratch_bytes, deviations_tile};
