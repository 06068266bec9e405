/* Second derivatives of the energy of a trained model. Built per instruction set.
 *
 * In the notation of prediction.c, scaled as its weigh_block: d = sqrt(5) (P_p x - x_j) / s, rho = |d|, t = d . v_j,
 * k = exp(-rho), e = s / sqrt(5) e_j (0 without energy constraints), A = 5 sqrt(5) / (3 s^3), sums over training points
 * j and permutations p. With equations (5) and (9) the gradient by the descriptor is
 *
 *     dE/dx = (5 / (3 s^2)) sum P_p^T [ k (1 + rho) v - k t d - k (1 + rho) e d ]                           (10)
 *
 * and, as dk/dx = -k d / rho sqrt(5) / s and so on, its derivative
 *
 *     d2E/dx2 = A { sum k P_p^T [ d u^T + u d^T ] P_p - w I },  u = (t / rho + e) d / 2 - v                 (11)
 *     w = sum k (t + (1 + rho) e)                                                                           (12)
 *
 * (t / rho is bounded; where rho is 0, so is d.) In positions, with J = dx/dR,
 *
 *     d2E/dR2 = A { sum k (a b^T + b a^T) - w J^T J } + sum_l dE/dx_l d2x_l/dR2,  a = J^T P_p^T d, b = J^T P_p^T u
 *                                                                                                           (13)
 *     a = J^T y - J^T P_p^T x_j with y = sqrt(5) x / s,      b = (t / rho + e) a / 2 - J^T P_p^T v_j         (14)
 *
 * The last two terms of (13) consist of 3 x 3 blocks: pair l of atoms m and n has the same block B_l at (m, m) and
 * (n, n), and -B_l at (m, n) and (n, m). From d2(1/r)/dr2 = 3 r r^T / r^5 - I / r^3, with x_l and g_l (gdml.h),
 *
 *     B_l = (3 dE/dx_l / x_l - A w) g_l g_l^T - dE/dx_l |g_l|^2 / x_l I                                      (15)
 *
 * which is written so that it also holds for descriptors that are multiplied by weights, x_l = w_l / r, as long as g_l
 * is: (10) to (14) know of positions through J, that is g, only.
 *
 * The energy does not change when all atoms are moved, so the rows and columns of the last atom are minus the sum of the
 * others: they are left out of (13). The lower and the upper triangle of the first sum hold the same, so what is summed
 * is C = sum a (k b)^T, a product of matrices, and C + C^T is taken at the end.
 *
 * Pairs of atoms that no permutation moves give the same part of a, of J^T P_p^T v and of d . d, d . v under all of them.
 * Those come first, for a tile; then, for each permutation, what the other pairs add. Vector lanes run over training
 * points, as in prediction.c.
 */
#include "arena.h"
#include "gdml.h"
#include "simd.h"

static const double sqrt5 = 2.23606797749978969641;

/* Points under one permutation at a time, and columns (points and permutations) of one product of matrices: its operands
 * stay in the second cache, the sums of its lanes cost little. */
#define CHUNK 64
#define N_PRODUCT 512
/* From one row of the operands to the next: rows a power of two apart would share few lines of the cache. */
#define STRIDE (N_PRODUCT + 8)
/* Register blocking: vectors of points, for 3 coordinates of 2 arrays; rows and columns of C. */
#if GDML_LANES == 8
#define SUM_VECTORS 3
#define ROWS 4
#define COLUMNS 4
#else
#define SUM_VECTORS 2
#define ROWS 4
#define COLUMNS 3
#endif

/* What a pair contributes to an atom: the derivative of its descriptor by the position of the atom. */
typedef struct {
    double g[3];
    int64_t pair;
} term;

/* Pairs whose image is the same under all permutations, and the others. */
enum { FIXED, MOVING };

/* What is the same for all tiles, of one geometry. */
typedef struct {
    double *y;                /* [D]  descriptor, scaled like the training points */
    double *moved;            /* [n_coord]  J^T y */
    int64_t *row;             /* [D]  where the training data of each fixed pair are; -1 for the others */
    double *y_row;            /* [D]  y of the fixed pairs, in the order of the training data */
    int64_t *begin[2];        /* [N]  into the terms of each atom but the last */
    term *terms[2];           /* of fixed and of moving pairs, atom by atom */
} prepared_query;

typedef struct {
    double *base_a, *base_c;  /* [n_coord][tile]  the part of a and of c = J^T P_p^T v that fixed pairs have */
    double *base_s, *base_t;  /* [tile]  the same of |d|^2 and d . v */
    double *a, *b;            /* [n_coord][STRIDE]  a and k b */
    double *half, *decay;     /* [CHUNK]  (t / rho + e) / 2, and k */
    int64_t *row;             /* [D]  where the training data of each moving pair are, under one permutation */
    double *y_row;            /* [D]  y of the moving pairs, in the order of the training data */
} hessian_workspace;

/* The coordinates of all atoms but the last: the rows and columns of C. */
static int64_t n_coord_of(const gdml_predictor *m)
{
    return 3 * (m->n_atoms - 1);
}

static prepared_query query_layout(const gdml_predictor *m, arena *a)
{
    const int64_t n_atoms = m->n_atoms, n_desc = n_atoms * (n_atoms - 1) / 2;
    prepared_query q;
    q.y = take(a, n_desc);
    q.moved = take(a, n_coord_of(m));
    q.row = (int64_t *)take(a, n_desc);
    q.y_row = take(a, n_desc);
    for (int part = FIXED; part <= MOVING; ++part) {
        q.begin[part] = (int64_t *)take(a, n_atoms);
        q.terms[part] = (term *)take(a, 2 * n_desc * (int64_t)(sizeof(term) / sizeof(double)));
    }
    return q;
}

static hessian_workspace hessian_layout(const gdml_predictor *m, arena *a)
{
    const int64_t n_desc = m->n_atoms * (m->n_atoms - 1) / 2, n_coord = n_coord_of(m);
    hessian_workspace w;
    w.base_a = take(a, n_coord * m->tile);
    w.base_c = take(a, n_coord * m->tile);
    w.base_s = take(a, m->tile);
    w.base_t = take(a, m->tile);
    w.a = take(a, n_coord * STRIDE);
    w.b = take(a, n_coord * STRIDE);
    w.half = take(a, CHUNK);
    w.decay = take(a, CHUNK);
    w.row = (int64_t *)take(a, n_desc);
    w.y_row = take(a, n_desc);
    return w;
}

static size_t hessian_prepared(const gdml_predictor *m)
{
    arena a = {NULL, 0};
    query_layout(m, &a);
    return a.used;
}

static size_t hessian_scratch(const gdml_predictor *m)
{
    arena a = {NULL, 0};
    hessian_layout(m, &a);
    return a.used;
}

static int64_t hessian_sums(const gdml_predictor *m)
{
    return n_coord_of(m) * n_coord_of(m) + 1;
}

static int part_of(const gdml_predictor *m, int64_t class_index)
{
    return m->class_image[class_index + 1] - m->class_image[class_index] == 1 ? FIXED : MOVING;
}

/* For the pairs of one part under permutation p: where the training data of each pair of the query are, and y in the
 * order of the training data. */
static void put_rows(const gdml_predictor *m, int part, int64_t p, const double *y, int64_t *row, double *y_row)
{
    for (int64_t h = 0; h < m->n_classes; ++h) {
        if (part_of(m, h) != part) continue;
        const int64_t first = m->class_begin[h], n_pairs = m->class_begin[h + 1] - first;
        const int64_t image = m->perm_image[h * m->n_perms + p] - m->class_image[h];
        const int32_t *pair = m->image_pair + m->image_begin[h] + image * n_pairs;
        for (int64_t k = 0; k < n_pairs; ++k) {
            row[pair[k]] = first + k;
            y_row[first + k] = y[pair[k]];
        }
    }
}

static void hessian_prepare(const gdml_predictor *m, const gdml_query *query, void *prepared)
{
    const int64_t n_atoms = m->n_atoms, n_desc = n_atoms * (n_atoms - 1) / 2;
    arena arena_of_query = {prepared, 0};
    const prepared_query q = query_layout(m, &arena_of_query);
    for (int64_t l = 0; l < n_desc; ++l) {
        q.y[l] = sqrt5 / m->sig * query->x[l];
        q.row[l] = -1;
    }
    put_rows(m, FIXED, 0, q.y, q.row, q.y_row);
    memset(q.moved, 0, sizeof(double) * (size_t)n_coord_of(m));
    int64_t n_terms[2] = {0, 0};
    for (int64_t i = 0; i + 1 < n_atoms; ++i) {
        q.begin[FIXED][i] = n_terms[FIXED];
        q.begin[MOVING][i] = n_terms[MOVING];
        for (int64_t j = 0; j < n_atoms; ++j) {
            if (j == i) continue;
            const int64_t l = j < i ? i * (i - 1) / 2 + j : j * (j - 1) / 2 + i;
            const int part = q.row[l] >= 0 ? FIXED : MOVING;
            term *of_pair = q.terms[part] + n_terms[part]++;
            of_pair->pair = l;
            for (int k = 0; k < 3; ++k) {
                of_pair->g[k] = j < i ? -query->g[3 * l + k] : query->g[3 * l + k];
                q.moved[3 * i + k] += of_pair->g[k] * q.y[l];
            }
        }
    }
    q.begin[FIXED][n_atoms - 1] = n_terms[FIXED];
    q.begin[MOVING][n_atoms - 1] = n_terms[MOVING];
}

/* s += (y - x)^2, t += (y - x) v over the pairs of one part, for `vectors` vectors of points from x and v on. */
INLINE void distances_block(const int vectors, const gdml_predictor *m, int part, const double *x, const double *v,
                            const double *y, double *s_io, double *t_io)
{
    vd s[SUM_VECTORS], t[SUM_VECTORS];
    UNROLL
    for (int i = 0; i < vectors; ++i) {
        s[i] = load(s_io + i * W);
        t[i] = load(t_io + i * W);
    }
    for (int64_t h = 0; h < m->n_classes; ++h) {
        if (part_of(m, h) != part) continue;
        for (int64_t k = m->class_begin[h]; k < m->class_begin[h + 1]; ++k) {
            const vd yk = splat(y[k]);
            UNROLL
            for (int i = 0; i < vectors; ++i) {
                const vd d = yk - load(x + k * m->tile + i * W);
                s[i] += d * d;
                t[i] += d * load(v + k * m->tile + i * W);
            }
        }
    }
    UNROLL
    for (int i = 0; i < vectors; ++i) {
        store(s_io + i * W, s[i]);
        store(t_io + i * W, t[i]);
    }
}

static void distances(const gdml_predictor *m, int part, int64_t n_points, const double *x, const double *v,
                      const double *y, double *s, double *t)
{
    int64_t j = 0;
    for (; j + SUM_VECTORS * W <= n_points; j += SUM_VECTORS * W)
        distances_block(SUM_VECTORS, m, part, x + j, v + j, y, s + j, t + j);
    for (; j < n_points; j += W) distances_block(1, m, part, x + j, v + j, y, s + j, t + j);
}

/* From |d|^2 and d . v in half and decay: what (14) multiplies a by, and k. Returns the terms of (12). */
static double weigh(int64_t n_points, const double *e, double *half, double *decay)
{
    vd total = splat(0.0);
    for (int64_t j = 0; j < n_points; j += W) {
        const vd rho = vsqrt(load(half + j)), t = load(decay + j), k = vexp_nonpositive(-rho);
        vd slope = t / vmax(rho, splat(1e-300)), weight = t;
        if (e) {
            const vd ej = load(e + j);
            slope += ej;
            weight += ej + ej * rho;
        }
        total += k * weight;
        store(half + j, splat(0.5) * slope);
        store(decay + j, k);
    }
    return vsum(total);
}

/* Where a and c start from, or what becomes of them, for all atoms: rows `stride` apart. */
typedef struct {
    double *a, *c;
    int64_t stride;
} atom_arrays;

/* a = from.a - sum g x, c = from.c + sum g v over the terms of one atom, for `vectors` vectors of points. With `half`,
 * equation (14): k b instead of c. */
INLINE void to_atom_block(const int vectors, const term *terms, const term *end, const int64_t *row, int64_t tile,
                          const double *x, const double *v, const double *half, const double *decay, atom_arrays from,
                          atom_arrays to)
{
    vd a[3 * SUM_VECTORS], c[3 * SUM_VECTORS];
    UNROLL
    for (int k = 0; k < 3; ++k) {
        UNROLL
        for (int i = 0; i < vectors; ++i) {
            a[k * vectors + i] = load(from.a + k * from.stride + i * W);
            c[k * vectors + i] = load(from.c + k * from.stride + i * W);
        }
    }
    for (; terms < end; ++terms) {
        const double *xl = x + row[terms->pair] * tile, *vl = v + row[terms->pair] * tile;
        const vd g[3] = {splat(terms->g[0]), splat(terms->g[1]), splat(terms->g[2])};
        UNROLL
        for (int i = 0; i < vectors; ++i) {
            vd xi = load(xl + i * W), vi = load(vl + i * W);
            KEEP_IN_REGISTER(xi);
            KEEP_IN_REGISTER(vi);
            UNROLL
            for (int k = 0; k < 3; ++k) {
                a[k * vectors + i] -= g[k] * xi;
                c[k * vectors + i] += g[k] * vi;
            }
        }
    }
    UNROLL
    for (int i = 0; i < vectors; ++i) {
        const vd f = half ? load(half + i * W) : splat(0.0), kb = half ? load(decay + i * W) : splat(0.0);
        UNROLL
        for (int k = 0; k < 3; ++k) {
            const vd ak = a[k * vectors + i], ck = c[k * vectors + i];
            store(to.a + k * to.stride + i * W, ak);
            store(to.c + k * to.stride + i * W, half ? kb * (f * ak - ck) : ck);
        }
    }
}

INLINE atom_arrays moved_by(atom_arrays arrays, int64_t offset)
{
    return (atom_arrays){arrays.a + offset, arrays.c + offset, arrays.stride};
}

/* All atoms but the last, with the terms of fixed pairs (half NULL), or of moving pairs. */
INLINE void to_atoms(const gdml_predictor *m, const int64_t *begin, const term *terms, const int64_t *row,
                     int64_t n_points, const double *x, const double *v, const double *half, const double *decay,
                     atom_arrays from, atom_arrays to)
{
    for (int64_t j = 0, n; j < n_points; j += n) {
        n = j + SUM_VECTORS * W <= n_points ? SUM_VECTORS * W : W;
        for (int64_t atom = 0; atom + 1 < m->n_atoms; ++atom) {
            const term *first = terms + begin[atom], *end = terms + begin[atom + 1];
            const atom_arrays from_atom = moved_by(from, 3 * atom * from.stride + j);
            const atom_arrays to_atom = moved_by(to, 3 * atom * to.stride + j);
            const double *half_of_points = half ? half + j : NULL;
            if (n > W)
                to_atom_block(SUM_VECTORS, first, end, row, m->tile, x + j, v + j, half_of_points, decay + j, from_atom,
                              to_atom);
            else
                to_atom_block(1, first, end, row, m->tile, x + j, v + j, half_of_points, decay + j, from_atom, to_atom);
        }
    }
}

/* C += a b^T for `rows` rows and `columns` columns of C [][n_coord]; a, b [][STRIDE], of which n are used. */
INLINE void product_block(const int rows, const int columns, int64_t n, const double *a, const double *b,
                          int64_t n_coord, double *out)
{
    enum { GROUPS = (ROWS * COLUMNS + W - 1) / W };
    vd acc[GROUPS * W];
    UNROLL
    for (int i = 0; i < GROUPS * W; ++i) acc[i] = splat(0.0);
    for (int64_t j = 0; j < n; j += W) {
        vd bk[COLUMNS];
        UNROLL
        for (int k = 0; k < columns; ++k) {
            bk[k] = load(b + k * STRIDE + j);
            KEEP_IN_REGISTER(bk[k]);
        }
        UNROLL
        for (int i = 0; i < rows; ++i) {
            vd ai = load(a + i * STRIDE + j);
            KEEP_IN_REGISTER(ai);
            UNROLL
            for (int k = 0; k < columns; ++k) acc[i * columns + k] += ai * bk[k];
        }
    }
    double sums[GROUPS * W];
    UNROLL
    for (int i = 0; i < rows * columns; i += W) store(sums + i, vsum_each(acc + i));
    UNROLL
    for (int i = 0; i < rows; ++i) {
        UNROLL
        for (int k = 0; k < columns; ++k) out[i * n_coord + k] += sums[i * columns + k];
    }
}

INLINE void product_rows(const int rows, int64_t n, const double *a, const double *b, int64_t n_coord, double *out)
{
    int64_t k = 0;
    for (; k + COLUMNS <= n_coord; k += COLUMNS)
        product_block(rows, COLUMNS, n, a, b + k * STRIDE, n_coord, out + k);
    for (; k + 3 <= n_coord; k += 3) product_block(rows, 3, n, a, b + k * STRIDE, n_coord, out + k);
    for (; k < n_coord; ++k) product_block(rows, 1, n, a, b + k * STRIDE, n_coord, out + k);
}

static void product(int64_t n, const double *a, const double *b, int64_t n_coord, double *out)
{
    int64_t i = 0;
    for (; i + ROWS <= n_coord; i += ROWS)
        product_rows(ROWS, n, a + i * STRIDE, b, n_coord, out + i * n_coord);
    for (; i + 3 <= n_coord; i += 3) product_rows(3, n, a + i * STRIDE, b, n_coord, out + i * n_coord);
    for (; i < n_coord; ++i) product_rows(1, n, a + i * STRIDE, b, n_coord, out + i * n_coord);
}

/* sums: C [n_coord][n_coord], then the sum of equation (12) */
static void hessian_tile(const gdml_predictor *m, int64_t tile_index, const void *prepared, double *sums, void *scratch)
{
    const int64_t n_desc = m->n_atoms * (m->n_atoms - 1) / 2, tile = m->tile, n_coord = n_coord_of(m);
    const double *x = m->train + 2 * tile_index * n_desc * tile, *v = x + n_desc * tile;
    const double *e = m->energy ? m->energy + tile_index * tile : NULL;
    arena arena_of_query = {(char *)prepared, 0}, arena_of_tile = {scratch, 0};
    const prepared_query q = query_layout(m, &arena_of_query);
    const hessian_workspace w = hessian_layout(m, &arena_of_tile);
    const atom_arrays base = {w.base_a, w.base_c, tile}, operands = {w.a, w.b, STRIDE};
    double total = 0.0;
    int64_t n_waiting = 0;                                 /* columns of the product that is to come */

    for (int64_t i = 0; i < n_coord; ++i)
        for (int64_t j = 0; j < tile; ++j) w.base_a[i * tile + j] = q.moved[i];
    memset(w.base_c, 0, sizeof(double) * (size_t)(n_coord * tile));
    memset(w.base_s, 0, sizeof(double) * (size_t)tile);
    memset(w.base_t, 0, sizeof(double) * (size_t)tile);
    distances(m, FIXED, tile, x, v, q.y_row, w.base_s, w.base_t);
    to_atoms(m, q.begin[FIXED], q.terms[FIXED], q.row, tile, x, v, NULL, w.decay, base, base);

    for (int64_t p = 0; p < m->n_perms; ++p) {
        put_rows(m, MOVING, p, q.y, w.row, w.y_row);
        for (int64_t j = 0; j < tile; j += CHUNK) {
            const int64_t n = tile - j < CHUNK ? tile - j : CHUNK;
            memcpy(w.half, w.base_s + j, sizeof(double) * (size_t)n);
            memcpy(w.decay, w.base_t + j, sizeof(double) * (size_t)n);
            distances(m, MOVING, n, x + j, v + j, w.y_row, w.half, w.decay);
            total += weigh(n, e ? e + j : NULL, w.half, w.decay);
            if (n_waiting + n > N_PRODUCT) {
                product(n_waiting, w.a, w.b, n_coord, sums);
                n_waiting = 0;
            }
            to_atoms(m, q.begin[MOVING], q.terms[MOVING], w.row, n, x + j, v + j, w.half, w.decay, moved_by(base, j),
                     moved_by(operands, n_waiting));
            n_waiting += n;
        }
    }
    product(n_waiting, w.a, w.b, n_coord, sums);
    sums[n_coord * n_coord] += total;
}

/* Add the block of a pair of atoms m and n to the matrix [3 N][3 N]. */
static void add_block(int64_t n_coord, int64_t m, int64_t n, const double *block, double *matrix)
{
    for (int i = 0; i < 3; ++i) {
        for (int k = 0; k < 3; ++k) {
            matrix[(3 * m + i) * n_coord + 3 * m + k] += block[3 * i + k];
            matrix[(3 * n + i) * n_coord + 3 * n + k] += block[3 * i + k];
            matrix[(3 * m + i) * n_coord + 3 * n + k] -= block[3 * i + k];
            matrix[(3 * n + i) * n_coord + 3 * m + k] -= block[3 * i + k];
        }
    }
}

static void hessian_collect(const gdml_predictor *m, const gdml_query *query, const double *sums, double scale,
                            double *hessian)
{
    const int64_t n_atoms = m->n_atoms, n_coord = 3 * n_atoms, last = n_coord_of(m);
    const double front = 5.0 * sqrt5 / (3.0 * m->sig * m->sig * m->sig), weight = sums[last * last];
    for (int64_t i = 0; i < last; ++i) {
        double *row = hessian + i * n_coord;
        for (int64_t k = 0; k < last; ++k) row[k] = front * (sums[i * last + k] + sums[k * last + i]);
        for (int k = 0; k < 3; ++k) row[last + k] = 0.0;
        for (int64_t k = 0; k < last; ++k) row[last + k % 3] -= row[k];
    }
    for (int i = 0; i < 3; ++i) {
        double *row = hessian + (last + i) * n_coord;
        for (int64_t k = 0; k < last; ++k) row[k] = hessian[k * n_coord + last + i];
        for (int k = 0; k < 3; ++k) row[last + k] = 0.0;
    }
    double corner[9] = {0.0};                              /* symmetric but for rounding */
    for (int i = 0; i < 3; ++i)
        for (int64_t k = 0; k < last; ++k) corner[3 * i + k % 3] -= hessian[(last + i) * n_coord + k];
    for (int i = 0; i < 3; ++i)
        for (int k = 0; k < 3; ++k)
            hessian[(last + i) * n_coord + last + k] = 0.5 * (corner[3 * i + k] + corner[3 * k + i]);

    int64_t l = 0;
    for (int64_t a = 1; a < n_atoms; ++a) {
        for (int64_t b = 0; b < a; ++b, ++l) {
            const double x = query->x[l], *g = query->g + 3 * l, slope = -query->force_x[l];
            if (!(x > 0.0)) continue;                      /* a pair without weight */
            const double outer = 3.0 * slope / x - front * weight;
            const double diagonal = slope * (g[0] * g[0] + g[1] * g[1] + g[2] * g[2]) / x;
            double block[9];
            for (int i = 0; i < 3; ++i)
                for (int k = 0; k < 3; ++k) block[3 * i + k] = outer * g[i] * g[k] - (i == k ? diagonal : 0.0);
            for (int i = 0; i < 3; ++i)                    /* exactly symmetric, as products of three are not */
                for (int k = 0; k < i; ++k) block[3 * i + k] = block[3 * k + i];
            add_block(n_coord, a, b, block, hessian);
        }
    }
    for (int64_t i = 0; i < n_coord * n_coord; ++i) hessian[i] *= scale;
}

extern const gdml_second_derivatives PER_ISA(gdml_hessian);
const gdml_second_derivatives PER_ISA(gdml_hessian) = {
    hessian_prepared, hessian_prepare, hessian_scratch, hessian_sums, hessian_tile, hessian_collect,
};
