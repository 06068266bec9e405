/* The arithmetic of fastgdml: descriptor, kernel-matrix blocks, prediction. Written once; the build compiles it
 * once per instruction set (GDML_ISA names the set, GDML_LANES gives its vector width).
 *
 * The kernel is the Hessian of a Matern function of the descriptor x, summed over the permutation group
 * (Chmiela et al., Nat. Commun. 9, 3887 (2018)). With d_p = x_i - P_p x_j, n = sqrt(5) |d_p|,
 * b = 5 exp(-n / s) / (3 s^4):
 *
 *     K_ij = sum_p J_i^T [ 5 b d_p d_p^T - b s (s + n) I ] P_p J_j                                        (1)
 *
 * J has six non-zeros a row (one pair moves two atoms), so no dense Jacobian is ever formed. Writing p's inverse q
 * and G for the antisymmetric matrices of gdml.h, with c' = p[a] and e over all atoms,
 *
 *     u_p[a]  = sum_e G_i[a][e] d_p[p[a]][p[e]]          v_p[c] = sum_e G_j[c][e] d_p[c][e]               (2)
 *     T_p[a][c] = b s (s + n) G_i[a][q[c]] (outer) G_j[c'][c]                                             (3)
 *     K_ij[a][c] = sum_p 5 b u_p[a] (outer) v_p[c] + T_p[a][c] - delta(c, c') sum_e T_p[a][e]             (4)
 *
 * Permutations that take the pair (a, q[c]) to the same (c', c) give the same T but for the weight b s (s + n), so T
 * is formed once for each distinct image with the sum of the weights; likewise pairs that no permutation moves enter
 * the sums (2) once. The group tables of gdml.h list what is distinct.
 *
 * Prediction with v_j = J_j alpha_j, t = d_p . v_j, c5 = 5 exp(-n / s) / (3 s^3):
 *
 *     E = sum c5 (n + s) t            -dE/dx = sum (5 / s) c5 t d_p - c5 (n + s) v_j                      (5)
 *
 * Energy constraints add one coordinate to each point, number 3N, for the negative energy (labels are F and -E).
 * With the Matern function itself, k_p = (1 + n / s + n^2 / (3 s^2)) exp(-n / s), whose gradient by d_p is
 * -b s (s + n) d_p, and w_p = b s (s + n), the weight of (3), K has in row and column 3N
 *
 *     K_ij[a][E] = sum_p w_p (J_i^T d_p)[a] = -sum_p w_p u_p[a]                                           (6)
 *     K_ij[E][c] = -sum_p w_p (J_j^T P_p^T d_p)[c] = sum_p w_p v_p[c]                                     (7)
 *     K_ij[E][E] = -sum_p k_p,         k_p = s^2 (3 w_p / 5 + b |d_p|^2)                                  (8)
 *
 * and a coefficient e_j of such a column adds to a prediction, besides (5),
 *
 *     E = sum k_p e_j                 -dE/dx = sum c5 (n + s) e_j d_p                                     (9)
 *
 * In both, vector lanes run over training points j: no padding inside a molecule, no horizontal sums in inner loops.
 */
#include "fold.h"
#include "gdml.h"
#include "simd.h"

#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

static const double sqrt5 = 2.23606797749978969641;

static size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

/* ---- scratch: consecutive aligned arrays cut from one block ------------------------------------------------ */

typedef struct {
    char *base;      /* NULL while only measuring */
    size_t used;
} arena;

static double *take(arena *a, int64_t n_doubles)
{
    double *p = a->base ? (double *)(a->base + a->used) : NULL;
    a->used += round_up((size_t)n_doubles * sizeof(double), GDML_ALIGNMENT);
    return p;
}

/* ---- descriptor -------------------------------------------------------------------------------------------- */

static int64_t descriptor(int64_t n_atoms, const double *r, const gdml_cell *cell, double *x, double *g)
{
    int64_t unusable = -1, k = 0;
    for (int64_t a = 1; a < n_atoms; ++a) {
        for (int64_t b = 0; b < a; ++b, ++k) {
            double d[3] = {r[3 * a] - r[3 * b], r[3 * a + 1] - r[3 * b + 1], r[3 * a + 2] - r[3 * b + 2]};
            if (cell) gdml_fold(cell, d);
            const double squared = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
            if (!(squared > 0.0 && squared < INFINITY) && unusable < 0) unusable = k;
            const double inverse = 1.0 / sqrt(squared);
            const double cubed = inverse * inverse * inverse;
            x[k] = inverse;
            g[3 * k] = d[0] * cubed;
            g[3 * k + 1] = d[1] * cubed;
            g[3 * k + 2] = d[2] * cubed;
        }
    }
    return unusable;
}

/* ---- kernel matrix ------------------------------------------------------------------------------------------ */

typedef struct {
    double *x_j;    /* [D][W]          descriptors of the tile of points j */
    double *g_j;    /* [N][N][3][W]    their G, both signs */
    double *g_i;    /* [N][N][3]       G of point i */
    double *d;      /* [D][W]          x_i - P_p x_j for one p, in the pair order of j */
    double *base;   /* [N][6][W]       the part of u[a], v[a] that is the same for all p */
    double *u;      /* [chunk][N][3][W]  5 b u_p[a] of a chunk of permutations */
    double *v;      /* [chunk][N][3][W] */
    double *outer;  /* [N][N][9][W]    sum of 5 b u_p[a] v_p[c]; only with several chunks */
    double *weight; /* [P][W]          b s (s + n) */
    double *k_fe;   /* [3N][W]         equation (6); these three only for energy constraints */
    double *k_ef;   /* [3N][W]         equation (7); padded */
    double *k_ee;   /* [W]             equation (8) */
    double *subset; /* [n_subsets][W]  sums of weights */
    double *block;  /* [3][3N][W]      rows (a, alpha) of K_ij for one atom a; padded */
    double *turned; /* [W][3N + 1]     one of these rows, point by point, and its energy; padded to whole vectors */
    double *values; /* [W (3N + 1)]    the coordinates of it that the target takes, in its order; padded */
    int64_t *piece; /* [W][3N + 1][2]  for each point, runs of at most W coordinates: first coordinate, place */
    int64_t *n_pieces; /* [W] */
    int64_t *column;/* [3N + 3]        where a coordinate of point i is a column, -1 elsewhere */
} kernel_workspace;

/* 3N + 1, rounded up to whole vectors. */
static int64_t turned_stride(int64_t n_atoms)
{
    return (int64_t)round_up((size_t)(3 * n_atoms + 1), W);
}

/* Permutations whose u and v are kept at a time, so that scratch does not grow with large groups. */
static int64_t chunk_size(const gdml_group *group)
{
    return group->n_perms < 64 ? group->n_perms : 64;
}

static kernel_workspace kernel_layout(const gdml_group *group, arena *a)
{
    const int64_t n = group->n_atoms, n_desc = n * (n - 1) / 2, p = group->n_perms, chunk = chunk_size(group);
    kernel_workspace w;
    w.x_j = take(a, n_desc * W);
    w.g_j = take(a, 3 * n * n * W);
    w.g_i = take(a, 3 * n * n);
    w.d = take(a, n_desc * W);
    w.base = take(a, 6 * n * W);
    w.u = take(a, 3 * chunk * n * W);
    w.v = take(a, 3 * chunk * n * W);
    w.outer = chunk < p ? take(a, 9 * n * n * W) : NULL;
    w.weight = take(a, p * W);
    w.k_fe = take(a, 3 * n * W);
    w.k_ef = take(a, W * turned_stride(n));
    w.k_ee = take(a, W);
    w.subset = take(a, group->n_subsets * W);
    w.block = take(a, 3 * W * turned_stride(n));
    w.turned = take(a, W * turned_stride(n));
    w.values = take(a, (3 * n + 1) * W + W);
    w.piece = (int64_t *)take(a, 2 * (3 * n + 1) * W);
    w.n_pieces = (int64_t *)take(a, W);
    w.column = (int64_t *)take(a, 3 * n + 3);
    return w;
}

static size_t kernel_scratch(const gdml_group *group)
{
    arena a = {NULL, 0};
    kernel_layout(group, &a);
    return a.used;
}

/* Expand D compressed pair vectors into the antisymmetric N x N matrix G; `stride` doubles between elements. */
static void expand_pairs(int64_t n_atoms, const double *g, double *matrix, int64_t stride)
{
    int64_t k = 0;
    for (int64_t a = 0; a < n_atoms; ++a) {
        for (int64_t b = 0; b < a; ++b, ++k) {
            for (int i = 0; i < 3; ++i) {
                matrix[(3 * (a * n_atoms + b) + i) * stride] = g[3 * k + i];
                matrix[(3 * (b * n_atoms + a) + i) * stride] = -g[3 * k + i];
            }
        }
        for (int i = 0; i < 3; ++i) matrix[(3 * (a * n_atoms + a) + i) * stride] = 0.0;
    }
}

/* Cut the coordinates that point j contributes into runs of neighbours of at most W. */
static int64_t list_pieces(const gdml_kernel_target *t, int64_t j, int64_t *piece)
{
    const int64_t begin = t->row_begin[j], end = t->row_begin[j + 1];
    int64_t n_pieces = 0, first = begin;
    for (int64_t m = begin + 1; m <= end; ++m) {
        if (m < end && m - first < W && t->row_coord[m] == t->row_coord[m - 1] + 1) continue;
        piece[2 * n_pieces] = t->row_coord[first];
        piece[2 * n_pieces + 1] = first - begin;
        ++n_pieces;
        first = m;
    }
    return n_pieces;
}

/* Whether a list of coordinates, ascending, ends with the energy. */
static int has_energy(const int32_t *coord, int64_t begin, int64_t end, int64_t n_atoms)
{
    return begin < end && coord[end - 1] == 3 * n_atoms;
}

/* Returns whether energies of the points are among the rows. */
static int load_tile(const gdml_kernel_job *job, int64_t j0, const kernel_workspace *w)
{
    const gdml_kernel_target *t = &job->target;
    const int64_t n = job->group.n_atoms, n_desc = n * (n - 1) / 2;
    int row_energies = 0;
    for (int l = 0; l < W; ++l) {
        /* Lanes past the last point repeat it; their results are not stored. */
        const int64_t j = j0 + l < job->n_train ? j0 + l : job->n_train - 1;
        for (int64_t k = 0; k < n_desc; ++k) w->x_j[k * W + l] = job->x[j * n_desc + k];
        expand_pairs(n, job->g + 3 * j * n_desc, w->g_j + l, W);
        w->n_pieces[l] = list_pieces(t, j, w->piece + 2 * (3 * n + 1) * l);
        if (has_energy(t->row_coord, t->row_begin[j], t->row_begin[j + 1], n)) row_energies = 1;
    }
    return row_energies;
}

/* d of pair k = (c, e): consecutive for e < c, one longer step each for e > c. */
INLINE const double *pair_at(const double *d, int64_t c, int64_t e)
{
    return d + (c > e ? c * (c - 1) / 2 + e : e * (e - 1) / 2 + c) * W;
}

/* Add to u (of atom a) and v (of atom c) the terms of equation (2) of the listed partners e of c, where q[c] = a and
 * `inverse` is q, or NULL for the identity. */
INLINE void add_partners(int64_t n, int64_t a, int64_t c, const int32_t *partner, const int32_t *end,
                         const int32_t *inverse, const kernel_workspace *w, vd uv[6])
{
    const double *gi = w->g_i + 3 * a * n, *gj = w->g_j + 3 * c * n * W;
    for (; partner < end; ++partner) {
        const int64_t e = *partner;
        const vd d = load(pair_at(w->d, c, e));
        const double *gie = gi + 3 * (inverse ? inverse[e] : e), *gje = gj + 3 * e * W;
        uv[0] += splat(gie[0]) * d;
        uv[1] += splat(gie[1]) * d;
        uv[2] += splat(gie[2]) * d;
        uv[3] += load(gje) * d;
        uv[4] += load(gje + W) * d;
        uv[5] += load(gje + 2 * W) * d;
    }
}

/* The differences of all pairs (`fixed` 1: only those that no permutation moves, 0: only the others); returns the sum
 * of their squares. */
static vd differences(const gdml_group *group, const double *x_i, const int32_t *pair, int fixed,
                      const kernel_workspace *w)
{
    const int64_t *begin = fixed ? group->fixed_begin : group->moving_begin;
    const int32_t *partner = fixed ? group->fixed : group->moving;
    vd squared = splat(0.0);
    for (int64_t c = 0; c < group->n_atoms; ++c) {
        for (int64_t m = begin[c]; m < begin[c + 1] && partner[m] < c; ++m) {
            const int64_t k = c * (c - 1) / 2 + partner[m];
            const vd d = splat(x_i[pair[k]]) - load(w->x_j + k * W);
            store(w->d + k * W, d);
            squared += d * d;
        }
    }
    return squared;
}

/* The part of equation (2) that no permutation changes; returns the sum of the squares of its differences. */
static vd project_fixed(const gdml_group *group, const double *x_i, const kernel_workspace *w)
{
    /* Any permutation does for pairs that none moves; one that swaps the atoms of a pair leaves d as it is, too. */
    const vd squared = differences(group, x_i, group->pair, 1, w);
    for (int64_t c = 0; c < group->n_atoms; ++c) {
        vd uv[6] = {0};
        add_partners(group->n_atoms, c, c, group->fixed + group->fixed_begin[c],
                     group->fixed + group->fixed_begin[c + 1], NULL, w, uv);
        for (int i = 0; i < 6; ++i) store(w->base + (6 * c + i) * W, uv[i]);
    }
    return squared;
}

INLINE void add_to(double *sum, vd term)
{
    store(sum, load(sum) + term);
}

/* Equation (2) and the weights of permutations [first, last); with `energies`, their terms of equations (6) to (8). */
static void project(const gdml_kernel_job *job, const double *x_i, int64_t first, int64_t last, vd squared_fixed,
                    int energies, const kernel_workspace *w)
{
    const gdml_group *group = &job->group;
    const int64_t n = group->n_atoms, n_desc = n * (n - 1) / 2;
    const double s = job->sig;
    for (int64_t p = first; p < last; ++p) {
        const int32_t *q = group->inverse + p * n;
        const vd squared = squared_fixed + differences(group, x_i, group->pair + p * n_desc, 0, w);
        const vd norm = splat(sqrt5) * vsqrt(squared);
        /* b carries the scale of the target: K is linear in it. */
        const vd b = splat(job->target.scale * 5.0 / (3.0 * s * s * s * s)) * vexp_nonpositive(norm * splat(-1.0 / s));
        const vd five_b = splat(5.0) * b, weight = b * splat(s) * (norm + splat(s));
        store(w->weight + p * W, weight);
        if (energies) add_to(w->k_ee, splat(-s * s) * (splat(0.6) * weight + b * squared));
        for (int64_t c = 0; c < n; ++c) {
            const int64_t a = q[c];
            const double *base_u = w->base + 6 * a * W, *base_v = w->base + 6 * c * W + 3 * W;
            vd uv[6];
            for (int i = 0; i < 3; ++i) {
                uv[i] = load(base_u + i * W);
                uv[3 + i] = load(base_v + i * W);
            }
            add_partners(n, a, c, group->moving + group->moving_begin[c], group->moving + group->moving_begin[c + 1],
                         q, w, uv);
            double *u = w->u + 3 * ((p - first) * n + a) * W, *v = w->v + 3 * ((p - first) * n + c) * W;
            for (int i = 0; i < 3; ++i) {
                store(u + i * W, five_b * uv[i]);
                store(v + i * W, uv[3 + i]);
            }
            if (energies) {
                for (int i = 0; i < 3; ++i) {
                    add_to(w->k_fe + (3 * a + i) * W, -weight * uv[i]);
                    add_to(w->k_ef + (3 * c + i) * W, weight * uv[3 + i]);
                }
            }
        }
    }
}

static void sum_subsets(const gdml_group *group, const kernel_workspace *w)
{
    for (int64_t k = 0; k < group->n_subsets; ++k) {
        vd sum = splat(0.0);
        for (int64_t m = group->subset_begin[k]; m < group->subset_begin[k + 1]; ++m)
            sum += load(w->weight + group->subset_perm[m] * W);
        store(w->subset + k * W, sum);
    }
}

/* acc[3 alpha + gamma] += l[alpha] r[gamma] */
INLINE void add_outer(vd acc[9], const vd l[3], const vd r[3])
{
    UNROLL
    for (int i = 0; i < 3; ++i) {
        UNROLL
        for (int j = 0; j < 3; ++j) acc[3 * i + j] += l[i] * r[j];
    }
}

/* acc += sum of u_p[a] (outer) v_p[c] over n_perms permutations of a chunk. */
INLINE void add_products(vd acc[9], int64_t n, int64_t a, int64_t c, int64_t n_perms, const kernel_workspace *w)
{
    const double *u = w->u + 3 * a * W, *v = w->v + 3 * c * W;
    for (int64_t p = 0; p < n_perms; ++p, u += 3 * n * W, v += 3 * n * W) {
        vd l[3] = {load(u), load(u + W), load(u + 2 * W)};
        vd r[3] = {load(v), load(v + W), load(v + 2 * W)};
        for (int i = 0; i < 3; ++i) {
            KEEP_IN_REGISTER(l[i]);
            KEEP_IN_REGISTER(r[i]);
        }
        add_outer(acc, l, r);
    }
}

/* Sums over a chunk of permutations, added to those over the chunks before. */
static void add_chunk(const gdml_group *group, int64_t n_perms, int first, const kernel_workspace *w)
{
    const int64_t n = group->n_atoms;
    for (int64_t a = 0; a < n; ++a) {
        for (int64_t c = 0; c < n; ++c) {
            double *sum = w->outer + 9 * (a * n + c) * W;
            vd acc[9] = {0};
            if (!first)
                for (int i = 0; i < 9; ++i) acc[i] = load(sum + i * W);
            add_products(acc, n, a, c, n_perms, w);
            for (int i = 0; i < 9; ++i) store(sum + i * W, acc[i]);
        }
    }
}

/* acc += T of one term: G_i[a][source], weighted, times G_j[c'][c]. */
INLINE void add_term(vd acc[9], const double *gi, const double *gj, vd weight)
{
    const vd l[3] = {weight * splat(gi[0]), weight * splat(gi[1]), weight * splat(gi[2])};
    const vd r[3] = {load(gj), load(gj + W), load(gj + 2 * W)};
    add_outer(acc, l, r);
}

/* Equation (4) for one atom a of point i against all atoms c of the tile's points. */
static void block_rows(const gdml_group *group, int64_t a, const kernel_workspace *w)
{
    const int64_t n = group->n_atoms;
    const double *gi = w->g_i + 3 * a * n;

    for (int64_t c = 0; c < n; ++c) {
        const int64_t *begin = group->column_begin + a * n + c;
        vd acc[9] = {0};
        for (int64_t m = begin[0]; m < begin[1]; ++m) {
            const gdml_term t = group->column_term[m];
            add_term(acc, gi + 3 * t.source, w->g_j + 3 * (t.atom * n + c) * W, load(w->subset + t.subset * W));
        }
        if (w->outer) {
            for (int i = 0; i < 9; ++i) acc[i] += load(w->outer + (9 * (a * n + c) + i) * W);
        } else {
            add_products(acc, n, a, c, group->n_perms, w);
        }
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j) store(w->block + ((i * n + c) * 3 + j) * W, acc[3 * i + j]);
    }

    for (int64_t image = 0; image < n; ++image) {         /* the delta term of equation (4) */
        const int64_t *begin = group->image_begin + a * n + image;
        if (begin[0] == begin[1]) continue;
        vd acc[9] = {0};
        for (int64_t m = begin[0]; m < begin[1]; ++m) {
            const gdml_term t = group->image_term[m];
            add_term(acc, gi + 3 * t.source, w->g_j + 3 * (image * n + t.atom) * W, load(w->subset + t.subset * W));
        }
        for (int i = 0; i < 3; ++i) {
            for (int j = 0; j < 3; ++j) {
                double *z = w->block + ((i * n + image) * 3 + j) * W;
                store(z, load(z) - acc[3 * i + j]);
            }
        }
    }
}

/* Collect what the target takes of one row of the blocks K_ij of a tile (`energy`: its element in column 3N, or NULL):
 * the coordinates of points j0 + l, first <= l < last, one after the other. */
static void collect_row(const gdml_kernel_job *job, const double *row, const double *energy, int64_t j0, int64_t first,
                        int64_t last, const kernel_workspace *w)
{
    const int64_t n = job->group.n_atoms, stride = turned_stride(n);
    const int64_t *row_begin = job->target.row_begin + j0;
    for (int64_t k = 0; k < 3 * n; k += W) {
        vd square[W];
        UNROLL
        for (int l = 0; l < W; ++l) square[l] = load(row + (k + l) * W);
        transpose(square);
        UNROLL
        for (int l = 0; l < W; ++l) store(w->turned + l * stride + k, square[l]);
    }
    if (energy)
        for (int l = 0; l < W; ++l) w->turned[l * stride + 3 * n] = energy[l];
    for (int64_t l = first; l < last; ++l) {
        /* Whole vectors: what spills over the end of a run is overwritten by the next. */
        const double *from = w->turned + l * stride;
        double *to = w->values + (row_begin[l] - row_begin[first]);
        const int64_t *piece = w->piece + 2 * (3 * n + 1) * l, *end = piece + 2 * w->n_pieces[l];
        for (; piece < end; piece += 2) store(to + piece[1], load(from + piece[0]));
    }
}

/* Write one row of the blocks K_ij of a tile as column `col` of the target: K is symmetric, and so the
 * elements of one point j, and of neighbouring points, lie side by side in memory. */
static void store_column(const gdml_kernel_job *job, int64_t i, int64_t col, const double *row, const double *energy,
                         int64_t j0, const kernel_workspace *w)
{
    const gdml_kernel_target *t = &job->target;
    const int packed = t->storage == GDML_RFP;
    const int64_t first = packed && j0 < i ? i : j0, last = j0 + W < job->n_train ? j0 + W : job->n_train;
    if (first >= last) return;
    collect_row(job, row, energy, j0, first - j0, last - j0, w);
    /* In packed storage only elements on and below the diagonal have a place. */
    const int64_t begin = packed && t->row_begin[first] < col ? col : t->row_begin[first];
    const int64_t count = t->row_begin[last] - begin;
    const double *values = w->values + (begin - t->row_begin[first]);
    if (!packed) {
        stream_copy(t->data + col * t->n_rows + begin, values, count);
    } else if (count > 0) {
        double *out = t->data + gdml_rfp_index(t->n_rows, begin, col);
        if (col < t->n_rows - t->n_rows / 2) {
            stream_copy(out, values, count);
        } else {
            const int64_t step = t->n_rows + (t->n_rows % 2 == 0);
            for (int64_t m = 0; m < count; ++m) out[m * step] = values[m];
        }
    }
}

static void kernel_tile(const gdml_kernel_job *job, int64_t j0, int64_t c_begin, int64_t c_end, void *scratch)
{
    const gdml_kernel_target *t = &job->target;
    const int64_t n = job->group.n_atoms, n_desc = n * (n - 1) / 2;
    const int64_t n_perms = job->group.n_perms, chunk = chunk_size(&job->group);
    arena a = {scratch, 0};
    const kernel_workspace w = kernel_layout(&job->group, &a);

    const int row_energies = load_tile(job, j0, &w);
    for (int64_t ci = c_begin; ci < c_end; ++ci) {
        const int64_t i = t->col_point[ci];
        expand_pairs(n, job->g + 3 * i * n_desc, w.g_i, 1);
        const double *x_i = job->x + i * n_desc;
        const int column_energy = has_energy(t->col_coord, t->col_begin[ci], t->col_begin[ci + 1], n);
        const int energies = row_energies || column_energy;
        if (energies) {
            memset(w.k_fe, 0, (size_t)(3 * n * W) * sizeof(double));
            memset(w.k_ef, 0, (size_t)(3 * n * W) * sizeof(double));
            memset(w.k_ee, 0, W * sizeof(double));
        }
        const vd squared_fixed = project_fixed(&job->group, x_i, &w);
        for (int64_t p = 0; p < n_perms; p += chunk) {
            const int64_t last = p + chunk < n_perms ? p + chunk : n_perms;
            project(job, x_i, p, last, squared_fixed, energies, &w);
            if (w.outer) add_chunk(&job->group, last - p, p == 0, &w);
        }
        sum_subsets(&job->group, &w);

        for (int64_t m = 0; m < 3 * n + 3; ++m) w.column[m] = -1;
        for (int64_t m = t->col_begin[ci]; m < t->col_begin[ci + 1]; ++m) w.column[t->col_coord[m]] = m;
        for (int64_t atom = 0; atom <= n; ++atom) {        /* coordinate 3N, the energy, is the first of an atom N */
            const int64_t *column = w.column + 3 * atom;
            if (column[0] < 0 && column[1] < 0 && column[2] < 0) continue;
            const double *rows = w.k_ef, *energy = w.k_ee;
            if (atom < n) {
                block_rows(&job->group, atom, &w);
                rows = w.block;
                energy = w.k_fe + 3 * atom * W;
            }
            for (int alpha = 0; alpha < 3; ++alpha)
                if (column[alpha] >= 0)
                    store_column(job, i, column[alpha], rows + 3 * n * alpha * W,
                                 row_energies ? energy + alpha * W : NULL, j0, &w);
        }
    }
    stream_fence();
}

/* ---- prediction --------------------------------------------------------------------------------------------- */

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

typedef struct {
    double *image_s;   /* [all images Q][T]  a class's part of |d_p|^2 under each image; later the sums of w1 */
    double *image_t;   /* [all images Q][T]  the same for d_p . v and w2 */
    double *w1;        /* [P Q][T] */
    double *w2;        /* [P Q][T] */
    double *total_w1;  /* [P Q]  sums of w1 over the tile */
    int64_t *row;      /* [n_classes]  where the images of one permutation and query are */
} predict_workspace;

static predict_workspace predict_layout(const gdml_predictor *m, int64_t n_query, arena *a)
{
    const int64_t n_images = m->class_image[m->n_classes];
    predict_workspace w;
    w.image_s = take(a, n_images * n_query * m->tile);
    w.image_t = take(a, n_images * n_query * m->tile);
    w.w1 = take(a, m->n_perms * n_query * m->tile);
    w.w2 = take(a, m->n_perms * n_query * m->tile);
    w.total_w1 = take(a, m->n_perms * n_query);
    w.row = (int64_t *)take(a, m->n_classes);
    return w;
}

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

/* out [n_images][n_pairs] */
static void backward(int64_t n_images, int64_t n_pairs, const double *x, const double *v, int64_t tile,
                     const double *w1, const double *w2, double *out)
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

/* to [n] = sum of the rows `member` of from [][n]. */
static void sum_rows(int64_t n, const double *from, const int32_t *member, const int32_t *end, double *to)
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

extern const gdml_low_rank PER_ISA(gdml_low_rank);
extern const gdml_kernels PER_ISA(gdml_kernels);
const gdml_kernels PER_ISA(gdml_kernels) = {
    TEXT(GDML_ISA), W, descriptor, kernel_scratch, kernel_tile,
    predict_images, predict_scratch, predict_tile, predict_collect, &PER_ISA(gdml_low_rank),
};
