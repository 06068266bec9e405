/* Derivatives of tr(A K) by the logarithms of weights of pairs. Built per instruction set.
 *
 * A is a symmetric matrix with the rows of the kernel matrix K, and the descriptor of a point is x_k = w_k / r_k, so that
 * x_k and g_k are linear in w_k. Objectives of the weights (fastgdml/evidence.py) have gradients tr(A dK/d log w_k), and
 * with equation (1) of assembly.c
 *
 *     tr(A_ji K_ij) = sum_p 5 b Q_p - v_p tau_p,        v_p = b s (s + n),                                (1)
 *     Q_p = u_p^T A_ij v_p,     u_p = J_i^T d_p,     v_p = J_j^T P_p^T d_p,                               (2)
 *     tau_p = sum_k beta_k,     beta_k = g_i,k'^T (A_ij[b'][b] - A_ij[b'][a] - A_ij[a'][b] + A_ij[a'][a]) g_j,k   (3)
 *
 * for pairs k = (a, b) of point j and their images k' = (a', b') of point i. With
 *
 *     y_k = g_i,k' . ((A_ij v_p)[b'] - (A_ij v_p)[a']),      z_k = g_j,k . ((A_ij^T u_p)[b] - (A_ij^T u_p)[a]),    (4)
 *     D_k = 5 b (y_k + z_k) + (5 b tau_p - 25 b Q_p / (s n)) d_k,                                         (5)
 *
 * D_k being the derivative by d_k, because dn/dd_k = 5 d_k / n, db/dn = -b / s and dv_p/dn = -b n, the derivatives are
 *
 *     by log w_k' through point i:     5 b d_k y_k - v_p beta_k + x_i,k' D_k,                             (6)
 *     by log w_k through point j:      5 b d_k z_k - v_p beta_k - x_j,k D_k.                              (7)
 *
 * No matrix of D x D is formed: A_ij is applied to vectors of 3N. As in assembly.c, vector lanes run over points j.
 */
#include "arena.h"
#include "gdml.h"
#include "simd.h"

#include <string.h>

typedef struct {
    double *x_j, *g_j;   /* [D][W], [D][3][W]  descriptors and Jacobians of the tile of points j */
    double *a;           /* [3N][3N][W]        A_ij times 2, or 1 on the diagonal, or 0 for lanes that do not count */
    double *d;           /* [D][W] */
    double *beta;        /* [D][W] */
    double *u, *v;       /* [3N][W] */
    double *av, *au;     /* [3N][W]            A_ij v_p and A_ij^T u_p */
    double *sum;         /* [D][W]             of (6) and (7) */
} trace_workspace;

static trace_workspace trace_layout(const gdml_group *group, arena *a)
{
    const int64_t n3 = 3 * group->n_atoms, n_desc = group->n_atoms * (group->n_atoms - 1) / 2;
    trace_workspace w;
    w.x_j = take(a, n_desc * W);
    w.g_j = take(a, 3 * n_desc * W);
    w.a = take(a, n3 * n3 * W);
    w.d = take(a, n_desc * W);
    w.beta = take(a, n_desc * W);
    w.u = take(a, n3 * W);
    w.v = take(a, n3 * W);
    w.av = take(a, n3 * W);
    w.au = take(a, n3 * W);
    w.sum = take(a, n_desc * W);
    return w;
}

static size_t trace_scratch(const gdml_group *group)
{
    arena a = {NULL, 0};
    trace_layout(group, &a);
    return a.used;
}

/* Points j0 + l, l < W, against point i; lanes behind i repeat it and count nothing. */
static void load_points(const gdml_trace_job *job, int64_t i, int64_t j0, const trace_workspace *w)
{
    const int64_t n3 = 3 * job->group.n_atoms, n_desc = job->group.n_atoms * (job->group.n_atoms - 1) / 2;
    memset(w->a, 0, (size_t)(n3 * n3 * W) * sizeof(double));
    for (int64_t l = 0; l < W; ++l) {
        const int64_t j = j0 + l <= i ? j0 + l : i;
        for (int64_t k = 0; k < n_desc; ++k) w->x_j[k * W + l] = job->x[j * n_desc + k];
        for (int64_t k = 0; k < 3 * n_desc; ++k) w->g_j[k * W + l] = job->g[3 * j * n_desc + k];
        if (j0 + l > i) continue;
        const double factor = j < i ? 2.0 : 1.0;
        for (int64_t col = job->row_begin[j]; col < job->row_begin[j + 1]; ++col) {
            for (int64_t row = job->row_begin[i]; row < job->row_begin[i + 1]; ++row) {
                const double a = job->a[row >= col ? col * job->n_rows + row : row * job->n_rows + col];
                w->a[(job->row_coord[row] * n3 + job->row_coord[col]) * W + l] = factor * a;
            }
        }
    }
}

/* d, u and v of equation (2) for one permutation, whose inverse is q; returns |d|^2. */
static vd differences(const gdml_trace_job *job, int64_t i, const int32_t *q, const int32_t *pair,
                      const trace_workspace *w)
{
    const int64_t n = job->group.n_atoms, n_desc = n * (n - 1) / 2;
    const double *x_i = job->x + i * n_desc, *g_i = job->g + 3 * i * n_desc;
    vd squared = splat(0.0);
    memset(w->u, 0, (size_t)(3 * n * W) * sizeof(double));
    memset(w->v, 0, (size_t)(3 * n * W) * sizeof(double));
    for (int64_t a = 1, k = 0; a < n; ++a) {
        for (int64_t b = 0; b < a; ++b, ++k) {
            const int64_t k_i = pair[k], high = q[a] > q[b] ? q[a] : q[b], low = q[a] > q[b] ? q[b] : q[a];
            const vd d = splat(x_i[k_i]) - load(w->x_j + k * W);
            store(w->d + k * W, d);
            squared += d * d;
            for (int m = 0; m < 3; ++m) {
                const vd ui = splat(g_i[3 * k_i + m]) * d, vj = load(w->g_j + (3 * k + m) * W) * d;
                double *u_low = w->u + (3 * low + m) * W, *u_high = w->u + (3 * high + m) * W;
                double *v_b = w->v + (3 * b + m) * W, *v_a = w->v + (3 * a + m) * W;
                store(u_low, load(u_low) + ui);
                store(u_high, load(u_high) - ui);
                store(v_b, load(v_b) + vj);
                store(v_a, load(v_a) - vj);
            }
        }
    }
    return squared;
}

/* A v and A^T u in one pass over A; returns Q = u^T A v. */
static vd apply(int64_t n3, const trace_workspace *w)
{
    vd product = splat(0.0);
    memset(w->au, 0, (size_t)(n3 * W) * sizeof(double));
    for (int64_t r = 0; r < n3; ++r) {
        const double *row = w->a + r * n3 * W;
        const vd u = load(w->u + r * W);
        vd av = splat(0.0);
        for (int64_t c = 0; c < n3; ++c) {
            const vd a = load(row + c * W);
            av += a * load(w->v + c * W);
            store(w->au + c * W, load(w->au + c * W) + a * u);
        }
        store(w->av + r * W, av);
        product += u * av;
    }
    return product;
}

/* Equation (3); returns tau. */
static vd overlaps(const gdml_trace_job *job, int64_t i, const int32_t *q, const int32_t *pair,
                   const trace_workspace *w)
{
    const int64_t n = job->group.n_atoms, n3 = 3 * n, n_desc = n * (n - 1) / 2;
    const double *g_i = job->g + 3 * i * n_desc;
    vd tau = splat(0.0);
    for (int64_t a = 1, k = 0; a < n; ++a) {
        for (int64_t b = 0; b < a; ++b, ++k) {
            const int64_t k_i = pair[k], high = q[a] > q[b] ? q[a] : q[b], low = q[a] > q[b] ? q[b] : q[a];
            vd beta = splat(0.0);
            for (int m = 0; m < 3; ++m) {
                const double *from_low = w->a + (3 * low + m) * n3 * W, *from_high = w->a + (3 * high + m) * n3 * W;
                vd projected = splat(0.0);
                for (int o = 0; o < 3; ++o) {
                    const int64_t to_b = (3 * b + o) * W, to_a = (3 * a + o) * W;
                    projected += (load(from_low + to_b) - load(from_low + to_a) - load(from_high + to_b) +
                                  load(from_high + to_a)) *
                                 load(w->g_j + (3 * k + o) * W);
                }
                beta += splat(g_i[3 * k_i + m]) * projected;
            }
            store(w->beta + k * W, beta);
            tau += beta;
        }
    }
    return tau;
}

/* Equations (4) to (7) for one permutation. */
static void add_derivatives(const gdml_trace_job *job, int64_t i, const int32_t *q, const int32_t *pair, vd squared,
                            vd product, vd tau, const trace_workspace *w)
{
    const int64_t n = job->group.n_atoms, n_desc = n * (n - 1) / 2;
    const double s = job->sig, *x_i = job->x + i * n_desc, *g_i = job->g + 3 * i * n_desc;
    const vd norm = splat(sqrt(5.0)) * vsqrt(squared);
    const vd b = splat(5.0 / (3.0 * s * s * s * s)) * vexp_nonpositive(norm * splat(-1.0 / s));
    const vd weight = b * splat(s) * (norm + splat(s)), five_b = splat(5.0) * b;
    /* Where d = 0, Q is zero, too. */
    const vd along = five_b * tau - splat(5.0 / s) * five_b * product / vmax(norm, splat(1e-300));
    for (int64_t a = 1, k = 0; a < n; ++a) {
        for (int64_t c = 0; c < a; ++c, ++k) {
            const int64_t k_i = pair[k], high = q[a] > q[c] ? q[a] : q[c], low = q[a] > q[c] ? q[c] : q[a];
            const vd d = load(w->d + k * W), shared = weight * load(w->beta + k * W);
            vd y = splat(0.0), z = splat(0.0);
            for (int m = 0; m < 3; ++m) {
                y += splat(g_i[3 * k_i + m]) * (load(w->av + (3 * low + m) * W) - load(w->av + (3 * high + m) * W));
                z += load(w->g_j + (3 * k + m) * W) *
                     (load(w->au + (3 * c + m) * W) - load(w->au + (3 * a + m) * W));
            }
            const vd by_d = five_b * (y + z) + along * d;
            double *of_i = w->sum + k_i * W, *of_j = w->sum + k * W;
            store(of_i, load(of_i) + five_b * d * y - shared + splat(x_i[k_i]) * by_d);
            store(of_j, load(of_j) + five_b * d * z - shared - load(w->x_j + k * W) * by_d);
        }
    }
}

static void trace_row(const gdml_trace_job *job, int64_t i, double *derivative, void *scratch)
{
    const gdml_group *group = &job->group;
    const int64_t n = group->n_atoms, n_desc = n * (n - 1) / 2;
    arena a = {scratch, 0};
    const trace_workspace w = trace_layout(group, &a);
    memset(w.sum, 0, (size_t)(n_desc * W) * sizeof(double));
    for (int64_t j0 = 0; j0 <= i; j0 += W) {
        load_points(job, i, j0, &w);
        for (int64_t p = 0; p < group->n_perms; ++p) {
            const int32_t *q = group->inverse + p * n, *pair = group->pair + p * n_desc;
            const vd squared = differences(job, i, q, pair, &w);
            const vd product = apply(3 * n, &w);
            add_derivatives(job, i, q, pair, squared, product, overlaps(job, i, q, pair, &w), &w);
        }
    }
    for (int64_t k = 0; k < n_desc; ++k) derivative[k] = vsum(load(w.sum + k * W));
}

extern const gdml_trace PER_ISA(gdml_trace);
const gdml_trace PER_ISA(gdml_trace) = {trace_scratch, trace_row};
