/* Periodic cells: how a difference of two positions is folded to its image.
 *
 * sGDML's rule rounds fractional coordinates in the basis given, d -= L round(L^-1 d). In skewed cells the result is not
 * the shortest image. The true minimum image rounds in a short basis of the same lattice, and then tries every lattice
 * vector T that can make the result d' = L f, |f_i| <= 1/2, shorter. Which T can? With G = L^T L and t = L^T T:
 *
 *   - T beats 0 for some f iff |d' - T|^2 < |d'|^2, that is |T|^2 < 2 d'.T = 2 f.t. The largest value of 2 f.t in the
 *     cell is sum_i |t_i|:
 *
 *         sum_i |t_i| > |T|^2                                                                             (1)
 *
 *   - T beats its neighbour T - s l_i, s = +1 or -1 the sign of t_i, for some f iff 2 |t_i| - G_ii < 2 s (G f)_i, and
 *     the largest value of 2 (G f)_i in the cell is sum_j |G_ij|:
 *
 *         |t_i| < tau_i = (G_ii + sum_j |G_ij|) / 2                                                       (2)
 *
 * A T that is the best for any f must satisfy (1) and (2). As T = L n with n = G^-1 t, (2) bounds the integers:
 * |n_i| < sum_j |(G^-1)_ij| tau_j. That holds in any basis; a short one only makes the list short. In an orthogonal cell
 * it is empty: rounding is enough there, and costs what it always did.
 */
#include "gdml.h"

#include <math.h>
#include <string.h>

/* Relative slack of comparisons: what is equal but for rounding does not change the basis or lengthen the list. */
static const double slack = 1e-12;

/* Volume of a cell, as a part of that of a box with the same edges, from which on it counts as a plane. */
static const double flat = 1e-10;

static double dot(const double *a, const double *b)
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/* Inverse of a 3 x 3 matrix; returns 0 when it has none. */
static int invert(const double m[9], double inverse[9])
{
    for (int i = 0; i < 3; ++i) {
        const int i1 = (i + 1) % 3, i2 = (i + 2) % 3;
        for (int j = 0; j < 3; ++j) {
            const int j1 = (j + 1) % 3, j2 = (j + 2) % 3;
            inverse[3 * j + i] = m[3 * i1 + j1] * m[3 * i2 + j2] - m[3 * i1 + j2] * m[3 * i2 + j1];
        }
    }
    const double det = m[0] * inverse[0] + m[1] * inverse[3] + m[2] * inverse[6];
    if (!(fabs(det) > 0.0 && fabs(det) < INFINITY)) return 0;
    for (int i = 0; i < 9; ++i) inverse[i] /= det;
    return 1;
}

/* v += factor * w if that makes v shorter; returns whether it does. */
static int shorten(double *v, const double *w, double factor)
{
    const double c[3] = {v[0] + factor * w[0], v[1] + factor * w[1], v[2] + factor * w[2]};
    if (!(dot(c, c) < dot(v, v) * (1.0 - slack))) return 0;
    memcpy(v, c, sizeof c);
    return 1;
}

/* Turn the rows of l into a short (Minkowski-reduced) basis of the lattice that they span. */
static void reduce_basis(double l[3][3])
{
    for (int changed = 1; changed;) {
        changed = 0;
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j)
                if (i != j) changed |= shorten(l[i], l[j], -nearbyint(dot(l[i], l[j]) / dot(l[j], l[j])));
        if (changed) continue;
        for (int i = 0; i < 3; ++i) {                     /* both others at once */
            for (int sign = -1; sign <= 1; sign += 2) {
                const double *j = l[(i + 1) % 3], *k = l[(i + 2) % 3];
                const double both[3] = {j[0] + sign * k[0], j[1] + sign * k[1], j[2] + sign * k[2]};
                changed |= shorten(l[i], both, 1.0) || shorten(l[i], both, -1.0);
            }
        }
    }
}

/* The lattice vectors that satisfy (1) and (2), l being the basis in rows. Returns 0 if there are too many. */
static int list_shifts(gdml_cell *cell, double l[3][3])
{
    double gram[9], inverse[9], tau[3];
    int64_t range[3];
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) gram[3 * i + j] = dot(l[i], l[j]);
    if (!invert(gram, inverse)) return 0;
    for (int i = 0; i < 3; ++i)
        tau[i] = (gram[4 * i] + fabs(gram[3 * i]) + fabs(gram[3 * i + 1]) + fabs(gram[3 * i + 2])) / 2;
    for (int i = 0; i < 3; ++i)
        range[i] = (int64_t)((1 + slack) * (fabs(inverse[3 * i]) * tau[0] + fabs(inverse[3 * i + 1]) * tau[1] +
                                            fabs(inverse[3 * i + 2]) * tau[2]));

    double shortest = INFINITY;
    for (int64_t a = -range[0]; a <= range[0]; ++a) {
        for (int64_t b = -range[1]; b <= range[1]; ++b) {
            for (int64_t c = -range[2]; c <= range[2]; ++c) {
                double shift[3], sum = 0.0;
                int beaten = 0;
                for (int i = 0; i < 3; ++i)
                    shift[i] = (double)a * l[0][i] + (double)b * l[1][i] + (double)c * l[2][i];
                for (int i = 0; i < 3; ++i) {
                    const double t = fabs(dot(l[i], shift));
                    sum += t;
                    beaten |= !(t < tau[i] * (1.0 - slack));
                }
                const double squared = dot(shift, shift);
                if (beaten || !(sum > squared * (1.0 + slack))) continue;
                if (cell->n_shifts == GDML_MAX_SHIFTS) return 0;
                memcpy(cell->shift[cell->n_shifts++], shift, sizeof shift);
                shortest = fmin(shortest, squared);
            }
        }
    }
    /* |d' - T| < |d'| needs |d'| > |T| / 2. */
    cell->safe = (1.0 - slack) * shortest / 4;
    return 1;
}

int gdml_cell_init(gdml_cell *cell, const double *lattice, int minimum)
{
    cell->n_shifts = 0;
    cell->safe = INFINITY;
    memcpy(cell->basis, lattice, sizeof cell->basis);
    double lengths = 1.0;
    for (int i = 0; i < 3; ++i)
        lengths *= sqrt(lattice[i] * lattice[i] + lattice[3 + i] * lattice[3 + i] + lattice[6 + i] * lattice[6 + i]);
    if (!(lengths < INFINITY) || !invert(cell->basis, cell->inverse)) return 0;
    /* The determinant of the inverse is 1 / volume. */
    const double *v = cell->inverse;
    const double per_volume = v[0] * (v[4] * v[8] - v[5] * v[7]) + v[1] * (v[5] * v[6] - v[3] * v[8]) +
                              v[2] * (v[3] * v[7] - v[4] * v[6]);
    if (!(fabs(per_volume) * lengths < 1.0 / flat)) return 0;
    if (!minimum) return 1;

    double l[3][3];
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) l[i][j] = lattice[3 * j + i];
    reduce_basis(l);
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) cell->basis[3 * j + i] = l[i][j];
    return invert(cell->basis, cell->inverse) && list_shifts(cell, l);
}
