/* Blocks of the kernel matrix. Built per instruction set.
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
 * Energy constraints add one coordinate to each point, number 3N, for the negative energy (labels are F and -E).
 * With the Matern function itself, k_p = (1 + n / s + n^2 / (3 s^2)) exp(-n / s), whose gradient by d_p is
 * -b s (s + n) d_p, and w_p = b s (s + n), the weight of (3), K has in row and column 3N
 *
 *     K_ij[a][E] = sum_p w_p (J_i^T d_p)[a] = -sum_p w_p u_p[a]                                           (6)
 *     K_ij[E][c] = -sum_p w_p (J_j^T P_p^T d_p)[c] = sum_p w_p v_p[c]                                     (7)
 *     K_ij[E][E] = -sum_p k_p,         k_p = s^2 (3 w_p / 5 + b |d_p|^2)                                  (8)
 *
 * Equations (5) and (9) are those of prediction.c. Vector lanes run over training points j: no padding inside a
 * molecule, no horizontal sums in inner loops.
 */
#include "arena.h"
#include "gdml.h"
#include "simd.h"

static const double sqrt5 = 2.23606797749978969641;

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

extern const gdml_assembly PER_ISA(gdml_assembly);
const gdml_assembly PER_ISA(gdml_assembly) = {kernel_scratch, kernel_tile};
