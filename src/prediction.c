/* Prediction from a trained model. Built per instruction set.
 *
 * What is predicted is the sum of the columns of the kernel matrix (assembly.c) times their coefficients alpha_j. In its
 * notation, d_p = x - P_p x_j, n = sqrt(5) |d_p|, and with v_j = J_j alpha_j, t = d_p . v_j,
 * c5 = 5 exp(-n / s) / (3 s^3), sums over training points j and permutations p:
 *
 *     E = sum c5 (n + s) t            -dE/dx = sum (5 / s) c5 t d_p - c5 (n + s) v_j                      (5)
 *
 * A coefficient e_j of an energy constraint, a column 3N of equations (6) to (8), adds with the Matern function k_p
 *
 *     E = sum k_p e_j                 -dE/dx = sum c5 (n + s) e_j d_p                                     (9)
 *
 * Vector lanes run over training points j, as in assembly.c. The sum over p is taken apart: permutations that give a
 * class of pairs the same image of the query share what depends on it (gdml_predictor).
 */
#include "prediction.h"

static const double sqrt5 = 2.23606797749978969641;

/* Register blocking: images x vectors of training points forward, images x pairs backward; vectors of points in what
 * lies between. A block holds FORWARD_SUMS or BACKWARD_SUMS of either product, so that few images (one geometry of a
 * small group) go with more vectors or pairs: enough sums at a time to hide the latency of additions. */
#define WEIGH_VECTORS 2
#define SUM_VECTORS 4
#define FORWARD_IMAGES 4
#if GDML_LANES == 8
#define FORWARD_SUMS 8
#define BACKWARD_IMAGES 4
#define BACKWARD_SUMS 16
#define BACKWARD_PAIRS 8     /* at most */
#else
#define FORWARD_SUMS 4
#define BACKWARD_IMAGES 2
#define BACKWARD_SUMS 6
#define BACKWARD_PAIRS 4
#endif

static size_t predict_scratch(const gdml_predictor *m, int64_t n_query)
{
    arena a = {NULL, 0};
    predict_layout(m, n_query, &a);
    return a.used;
}

/* s += (y - x)^2, t += (y - x) v over the pairs of a class, for `images` images and `vectors` vectors of points. */
INLINE void forward_block(const int images, const int vectors, int64_t n_pairs, const double *x, const double *v,
                          int64_t tile, const double *y, int64_t y_stride, double *s_out, double *t_out)
{
    vd s[FORWARD_SUMS], t[FORWARD_SUMS];
    UNROLL
    for (int i = 0; i < images * vectors; ++i) s[i] = t[i] = splat(0.0);
    for (int64_t k = 0; k < n_pairs; ++k, x += tile, v += tile, y += y_stride) {
        vd xk[FORWARD_SUMS], vk[FORWARD_SUMS];
        UNROLL
        for (int m = 0; m < vectors; ++m) {
            xk[m] = load(x + m * W);
            vk[m] = load(v + m * W);
        }
        UNROLL
        for (int i = 0; i < images; ++i) {
            const vd yk = splat(y[i]);
            UNROLL
            for (int m = 0; m < vectors; ++m) {
                const vd d = yk - xk[m];
                s[i * vectors + m] += d * d;
                t[i * vectors + m] += d * vk[m];
            }
        }
    }
    UNROLL
    for (int i = 0; i < images; ++i) {
        UNROLL
        for (int m = 0; m < vectors; ++m) {
            store(s_out + i * tile + m * W, s[i * vectors + m]);
            store(t_out + i * tile + m * W, t[i * vectors + m]);
        }
    }
}

INLINE void forward_images(const int images, int64_t n_pairs, const double *x, const double *v, int64_t tile,
                           const double *y, int64_t y_stride, double *s, double *t)
{
    const int vectors = FORWARD_SUMS / images;
    int64_t j = 0;
    for (; j + vectors * W <= tile; j += vectors * W)
        forward_block(images, vectors, n_pairs, x + j, v + j, tile, y, y_stride, s + j, t + j);
    for (; vectors > 2 && j + 2 * W <= tile; j += 2 * W)
        forward_block(images, 2, n_pairs, x + j, v + j, tile, y, y_stride, s + j, t + j);
    for (; j < tile; j += W) forward_block(images, 1, n_pairs, x + j, v + j, tile, y, y_stride, s + j, t + j);
}

static void forward(int64_t n_images, int64_t n_pairs, const double *x, const double *v, int64_t tile,
                    const double *y, double *s, double *t)
{
    int64_t i = 0;
    for (; i + FORWARD_IMAGES <= n_images; i += FORWARD_IMAGES)
        forward_images(FORWARD_IMAGES, n_pairs, x, v, tile, y + i, n_images, s + i * tile, t + i * tile);
    for (; i + 2 <= n_images; i += 2)
        forward_images(2, n_pairs, x, v, tile, y + i, n_images, s + i * tile, t + i * tile);
    for (; i < n_images; ++i) forward_images(1, n_pairs, x, v, tile, y + i, n_images, s + i * tile, t + i * tile);
}

/* out[i][k] += sum over the tile of w1_i x_k + w2_i v_k. */
INLINE void backward_block(const int images, const int pairs, const double *x, const double *v, int64_t tile,
                           const double *w1, const double *w2, double *out, int64_t out_stride)
{
    enum { GROUPS = (BACKWARD_SUMS + W - 1) / W };
    vd acc[GROUPS * W];
    UNROLL
    for (int m = 0; m < GROUPS * W; ++m) acc[m] = splat(0.0);
    for (int64_t j = 0; j < tile; j += W) {
        vd w1j[BACKWARD_IMAGES], w2j[BACKWARD_IMAGES];
        UNROLL
        for (int i = 0; i < images; ++i) {
            w1j[i] = load(w1 + i * tile + j);
            w2j[i] = load(w2 + i * tile + j);
        }
        UNROLL
        for (int k = 0; k < pairs; ++k) {
            const vd xk = load(x + k * tile + j), vk = load(v + k * tile + j);
            UNROLL
            for (int i = 0; i < images; ++i) {
                acc[i * pairs + k] += w1j[i] * xk;
                acc[i * pairs + k] += w2j[i] * vk;
            }
        }
    }
    double sums[GROUPS * W];
    UNROLL
    for (int m = 0; m < images * pairs; m += W) store(sums + m, vsum_each(acc + m));
    UNROLL
    for (int i = 0; i < images; ++i) {
        UNROLL
        for (int k = 0; k < pairs; ++k) out[i * out_stride + k] += sums[i * pairs + k];
    }
}

INLINE void backward_images(const int images, int64_t n_pairs, const double *x, const double *v, int64_t tile,
                            const double *w1, const double *w2, double *out)
{
    const int most = BACKWARD_SUMS / images < BACKWARD_PAIRS ? BACKWARD_SUMS / images : BACKWARD_PAIRS;
    int64_t k = 0;
    for (; k + most <= n_pairs; k += most)
        backward_block(images, most, x + k * tile, v + k * tile, tile, w1, w2, out + k, n_pairs);
    for (; most > 4 && k + 4 <= n_pairs; k += 4)
        backward_block(images, 4, x + k * tile, v + k * tile, tile, w1, w2, out + k, n_pairs);
    switch (n_pairs - k) {
    case 3: backward_block(images, 3, x + k * tile, v + k * tile, tile, w1, w2, out + k, n_pairs); break;
    case 2: backward_block(images, 2, x + k * tile, v + k * tile, tile, w1, w2, out + k, n_pairs); break;
    case 1: backward_block(images, 1, x + k * tile, v + k * tile, tile, w1, w2, out + k, n_pairs); break;
    }
}

void backward(int64_t n_images, int64_t n_pairs, const double *x, const double *v, int64_t tile, const double *w1,
              const double *w2, double *out)
{
    int64_t i = 0;
    for (; i + BACKWARD_IMAGES <= n_images; i += BACKWARD_IMAGES)
        backward_images(BACKWARD_IMAGES, n_pairs, x, v, tile, w1 + i * tile, w2 + i * tile, out + i * n_pairs);
    for (; i + 2 <= n_images; i += 2)
        backward_images(2, n_pairs, x, v, tile, w1 + i * tile, w2 + i * tile, out + i * n_pairs);
    for (; i < n_images; ++i)
        backward_images(1, n_pairs, x, v, tile, w1 + i * tile, w2 + i * tile, out + i * n_pairs);
}

/* For one permutation and query, |d'|^2 and d'.v as sums over the classes (rows of image_s and image_t), and the
 * weights of equation (5). With d' = sqrt(5) d / s, rho = |d'| = n / s, A = 5 / (3 s^2) and t' = d'.v:
 * A w1 = s c5 t',  A w2 = c5 (n + s),  E = A s / sqrt(5) sum w2 t'.
 * With energy constraints (`e` not NULL: e' = s / sqrt(5) e_j of the tile's points), equation (9) adds w2 e' to w1 and
 * exp(-rho) (3 + 3 rho + rho^2) e' to the terms of the sum.
 * `energy` and `total_w1` are added to, for `vectors` vectors of points from j on. */
INLINE void weigh_block(const int vectors, int64_t n_classes, int64_t j, const double *e, const predict_workspace *w,
                        double *w1, double *w2, vd *energy, vd *total_w1)
{
    vd squared[WEIGH_VECTORS], t[WEIGH_VECTORS];
    const double *s_row = w->image_s + w->row[0] + j, *t_row = w->image_t + w->row[0] + j;
    UNROLL
    for (int m = 0; m < vectors; ++m) {
        squared[m] = load(s_row + m * W);
        t[m] = load(t_row + m * W);
    }
    for (int64_t h = 1; h < n_classes; ++h) {
        s_row = w->image_s + w->row[h] + j;
        t_row = w->image_t + w->row[h] + j;
        UNROLL
        for (int m = 0; m < vectors; ++m) {
            squared[m] += load(s_row + m * W);
            t[m] += load(t_row + m * W);
        }
    }
    UNROLL
    for (int m = 0; m < vectors; ++m) {
        const vd rho = vsqrt(squared[m]);
        const vd decay = vexp_nonpositive(-rho);
        const vd weight = decay + decay * rho;
        vd w1m = decay * t[m];
        *energy += weight * t[m];
        if (e) {
            const vd ej = load(e + j + m * W);
            *energy += (splat(3.0) * weight + decay * squared[m]) * ej;
            w1m += weight * ej;
        }
        *total_w1 += w1m;
        store(w1 + j + m * W, w1m);
        store(w2 + j + m * W, weight);
    }
}

/* All points of the tile. Returns the sum; *total_w1 is the sum of w1. */
INLINE double weigh(const gdml_predictor *m, const double *e, const predict_workspace *w, double *w1, double *w2,
                    double *total_w1)
{
    vd energy = splat(0.0), total = splat(0.0);
    int64_t j = 0;
    for (; j + WEIGH_VECTORS * W <= m->tile; j += WEIGH_VECTORS * W)
        weigh_block(WEIGH_VECTORS, m->n_classes, j, e, w, w1, w2, &energy, &total);
    for (; j < m->tile; j += W) weigh_block(1, m->n_classes, j, e, w, w1, w2, &energy, &total);
    *total_w1 = vsum(total);
    return vsum(energy);
}

static double weigh_forces(const gdml_predictor *m, const predict_workspace *w, double *w1, double *w2,
                           double *total_w1)
{
    return weigh(m, NULL, w, w1, w2, total_w1);
}

static double weigh_all(const gdml_predictor *m, const double *e, const predict_workspace *w, double *w1, double *w2,
                        double *total_w1)
{
    return weigh(m, e, w, w1, w2, total_w1);
}

/* to [vectors W] = sum of the rows `member` of from [][n]. */
INLINE void sum_rows_block(const int vectors, int64_t n, const double *from, const int32_t *member,
                           const int32_t *end, double *to)
{
    vd sum[SUM_VECTORS];
    UNROLL
    for (int m = 0; m < vectors; ++m) sum[m] = load(from + *member * n + m * W);
    for (const int32_t *k = member + 1; k < end; ++k) {
        UNROLL
        for (int m = 0; m < vectors; ++m) sum[m] += load(from + *k * n + m * W);
    }
    UNROLL
    for (int m = 0; m < vectors; ++m) store(to + m * W, sum[m]);
}

void sum_rows(int64_t n, const double *from, const int32_t *member, const int32_t *end, double *to)
{
    int64_t j = 0;
    for (; j + SUM_VECTORS * W <= n; j += SUM_VECTORS * W)
        sum_rows_block(SUM_VECTORS, n, from + j, member, end, to + j);
    for (; j < n; j += W) sum_rows_block(1, n, from + j, member, end, to + j);
}

/* Sum the weights of the permutations that give a class the same image. */
static void sum_weights(const gdml_predictor *m, int64_t class_index, int64_t n_query, const predict_workspace *w,
                        double *w1, double *w2)
{
    const int64_t image = m->class_image[class_index], row = n_query * m->tile;
    for (int64_t g = 0; g < m->class_image[class_index + 1] - image; ++g) {
        const int32_t *member = m->image_perm + m->image_perm_begin[image + g];
        const int32_t *end = m->image_perm + m->image_perm_begin[image + g + 1];
        sum_rows(row, w->w1, member, end, w1 + g * row);
        sum_rows(row, w->w2, member, end, w2 + g * row);
    }
}

/* images, class by class: [n_pairs][n_images Q], scaled like the training points */
static void predict_images(const gdml_predictor *m, int64_t n_query, const gdml_query *query, double *images)
{
    const double inverse_length = sqrt5 / m->sig;
    for (int64_t h = 0; h < m->n_classes; ++h) {
        const int64_t n_pairs = m->class_begin[h + 1] - m->class_begin[h];
        const int64_t n_columns = (m->class_image[h + 1] - m->class_image[h]) * n_query;
        const int32_t *pair = m->image_pair + m->image_begin[h];
        double *y = images + m->image_begin[h] * n_query;
        for (int64_t g = 0; g < n_columns; g += n_query, pair += n_pairs)
            for (int64_t k = 0; k < n_pairs; ++k)
                for (int64_t i = 0; i < n_query; ++i)
                    y[k * n_columns + g + i] = inverse_length * query[i].x[pair[k]];
    }
}

/* sums: energy [Q]; then sums of w1, class by class: [n_images Q]; then sums of w1 x + w2 v: [n_images Q][n_pairs] */
static void predict_tile(const gdml_predictor *m, int64_t tile_index, int64_t n_query, const double *images,
                         int forces, double *sums, void *scratch)
{
    const int64_t n_desc = m->n_atoms * (m->n_atoms - 1) / 2, tile = m->tile, n_perms = m->n_perms;
    const double *x = m->train + 2 * tile_index * n_desc * tile, *v = x + n_desc * tile;
    const double *e = m->energy ? m->energy + tile_index * tile : NULL;
    const int64_t row = n_query * tile;                   /* the rows of all queries for one image */
    double *sum_w1 = sums + n_query, *sum_xv = sum_w1 + m->class_image[m->n_classes] * n_query;
    arena a = {scratch, 0};
    const predict_workspace w = predict_layout(m, n_query, &a);

    for (int64_t h = 0; h < m->n_classes; ++h) {
        const int64_t first = m->class_begin[h], n_pairs = m->class_begin[h + 1] - first;
        const int64_t image = m->class_image[h], n_columns = (m->class_image[h + 1] - image) * n_query;
        forward(n_columns, n_pairs, x + first * tile, v + first * tile, tile, images + m->image_begin[h] * n_query,
                w.image_s + image * row, w.image_t + image * row);
    }

    /* Sums over the permutations are complete before they are added to those of other tiles: the order of summation is
     * the same whether tiles share `sums` or each has its own. */
    double energy[GDML_QUERY_BLOCK] = {0};
    for (int64_t p = 0; p < n_perms; ++p) {
        for (int64_t i = 0; i < n_query; ++i) {
            const int64_t column = p * n_query + i;
            for (int64_t h = 0; h < m->n_classes; ++h) w.row[h] = m->perm_image[h * n_perms + p] * row + i * tile;
            double *w1 = w.w1 + column * tile, *w2 = w.w2 + column * tile, *total_w1 = w.total_w1 + column;
            energy[i] += e ? weigh_all(m, e, &w, w1, w2, total_w1) : weigh_forces(m, &w, w1, w2, total_w1);
        }
    }
    for (int64_t i = 0; i < n_query; ++i) sums[i] += energy[i];
    if (!forces) return;

    for (int64_t h = 0; h < m->n_classes; ++h) {
        const int64_t first = m->class_begin[h], n_pairs = m->class_begin[h + 1] - first;
        const int64_t image = m->class_image[h], n_images = m->class_image[h + 1] - image;
        /* Where every permutation gives another image, image and permutation have the same number. */
        double *w1 = w.w1, *w2 = w.w2;
        if (n_images < n_perms) {
            w1 = w.image_s + image * row;
            w2 = w.image_t + image * row;
            sum_weights(m, h, n_query, &w, w1, w2);
        }
        backward(n_images * n_query, n_pairs, x + first * tile, v + first * tile, tile, w1, w2,
                 sum_xv + m->image_begin[h] * n_query);
        for (int64_t g = image; g < image + n_images; ++g) {
            for (int64_t i = 0; i < n_query; ++i) {
                double sum = 0.0;
                for (int32_t k = m->image_perm_begin[g]; k < m->image_perm_begin[g + 1]; ++k)
                    sum += w.total_w1[m->image_perm[k] * n_query + i];
                sum_w1[g * n_query + i] += sum;
            }
        }
    }
}

static void predict_collect(const gdml_predictor *m, int64_t n_query, const double *images, const double *sums,
                            gdml_query *query)
{
    const int64_t n_desc = m->n_atoms * (m->n_atoms - 1) / 2;
    const double front = 5.0 / (3.0 * m->sig * m->sig);   /* A of weigh_block */
    const double *sum_w1 = sums + n_query, *sum_xv = sum_w1 + m->class_image[m->n_classes] * n_query;
    for (int64_t i = 0; i < n_query; ++i) {
        query[i].energy = front * m->sig / sqrt5 * sums[i];
        memset(query[i].force_x, 0, (size_t)n_desc * sizeof(double));
    }
    for (int64_t h = 0; h < m->n_classes; ++h) {
        const int64_t n_pairs = m->class_begin[h + 1] - m->class_begin[h];
        const int64_t n_columns = (m->class_image[h + 1] - m->class_image[h]) * n_query;
        const int32_t *pair = m->image_pair + m->image_begin[h];
        const double *y = images + m->image_begin[h] * n_query, *xv = sum_xv + m->image_begin[h] * n_query;
        const double *total = sum_w1 + m->class_image[h] * n_query;
        for (int64_t g = 0; g < n_columns; g += n_query, pair += n_pairs)
            for (int64_t i = 0; i < n_query; ++i)
                for (int64_t k = 0; k < n_pairs; ++k)
                    query[i].force_x[pair[k]] +=
                        front * (total[g + i] * y[k * n_columns + g + i] - xv[(g + i) * n_pairs + k]);
    }
}

const gdml_prediction PER_ISA(gdml_prediction) = {predict_images, predict_scratch, predict_tile, predict_collect};
