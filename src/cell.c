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
 *
 * Where lengths differ by many orders of magnitude, subtracting multiples of a short vector from a long one leaves an
 * error of rounding of the long one. The errors are added up, and cells whose shortest vector is lost in them are refused:
 * such a basis is not of the same lattice any more, and the bounds above are without meaning.
 */
#include "gdml.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Relative slack of comparisons: what is equal but for rounding does not change the basis or lengthen the list. */
static const double slack = 1e-12;

/* Lengths of lattice vectors, in any unit: the products of six of them stay finite and normal. */
static const double least_length = 1e-45, largest_length = 1e45;

/* Errors of a short basis, as a part of its shortest vector, from which on it is not of the same lattice. */
static const double largest_error = 1e-6;

/* A projection of one vector on another, in units of the other, from which on it is taken off although the length hardly
 * changes: 1/2 but for what rounding makes of it. */
static const double surely_more_than_half = 0.5 + 1e-6;

/* Steps of the reduction (a few dozen are many), and vectors to be tried for the list. Only cells that are lost in rounding
 * errors take more. */
enum { MOST_STEPS = 1000, LARGEST_RANGE = 20 };

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

/* A basis in rows that is being reduced, and how long the errors of its vectors may be. */
typedef struct {
    double l[3][3], error[3];
} reduction;

/* l_i += factor * w, w with an error of its own, if that makes it shorter, or if `must`; returns whether it does. */
static int shorten(reduction *basis, int i, const double *w, double error, double factor, int must)
{
    double *const v = basis->l[i];
    const double c[3] = {v[0] + factor * w[0], v[1] + factor * w[1], v[2] + factor * w[2]};
    if (!must && !(dot(c, c) < dot(v, v) * (1.0 - slack))) return 0;
    basis->error[i] += fabs(factor) * error + DBL_EPSILON * sqrt(dot(v, v));
    memcpy(v, c, sizeof c);
    return 1;
}

/* Turn l into a short (Minkowski-reduced) basis of the lattice that it spans. Returns 0 if that cannot be done in double
 * precision. */
static int reduce_basis(reduction *basis)
{
    double (*const l)[3] = basis->l;
    const double *const error = basis->error;
    int changed = 1;
    for (int step = 0; changed; ++step) {
        const double shortest = sqrt(fmin(dot(l[0], l[0]), fmin(dot(l[1], l[1]), dot(l[2], l[2]))));
        if (step == MOST_STEPS || !(error[0] + error[1] + error[2] <= largest_error * shortest)) return 0;
        changed = 0;
        for (int i = 0; i < 3; ++i) {
            for (int j = 0; j < 3; ++j) {
                if (i == j) continue;
                const double projection = dot(l[i], l[j]) / dot(l[j], l[j]);
                changed |= shorten(basis, i, l[j], error[j], -nearbyint(projection),
                                   fabs(projection) > surely_more_than_half);
            }
        }
        if (changed) continue;
        for (int i = 0; i < 3; ++i) {                     /* both others at once */
            for (int sign = -1; sign <= 1; sign += 2) {
                const int j = (i + 1) % 3, k = (i + 2) % 3;
                const double of_both = error[j] + error[k];
                const double both[3] = {l[j][0] + sign * l[k][0], l[j][1] + sign * l[k][1], l[j][2] + sign * l[k][2]};
                changed |= shorten(basis, i, both, of_both, 1.0, 0) || shorten(basis, i, both, of_both, -1.0, 0);
            }
        }
    }
    return 1;
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
    for (int i = 0; i < 3; ++i) {
        const double bound = (1 + slack) * (fabs(inverse[3 * i]) * tau[0] + fabs(inverse[3 * i + 1]) * tau[1] +
                                            fabs(inverse[3 * i + 2]) * tau[2]);
        if (!(bound < LARGEST_RANGE)) return 0;
        range[i] = (int64_t)bound;
    }

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

const char *gdml_cell_init(gdml_cell *cell, const double *lattice, int minimum)
{
    cell->n_shifts = 0;
    cell->safe = INFINITY;
    memcpy(cell->basis, lattice, sizeof cell->basis);
    for (int i = 0; i < 9; ++i)
        if (!isfinite(lattice[i])) return "the lattice vectors are not finite";
    double lengths = 1.0, least = INFINITY, largest = 0.0;
    for (int i = 0; i < 3; ++i) {
        const double length = hypot(hypot(lattice[i], lattice[3 + i]), lattice[6 + i]);
        least = fmin(least, length);
        largest = fmax(largest, length);
        lengths *= length;
    }
    if (least > 0.0 && !(least >= least_length && largest <= largest_length))
        return "a lattice vector is shorter than 1e-45 or longer than 1e45";
    const char *const dependent = "the lattice vectors are linearly dependent, or nearly";
    if (!invert(cell->basis, cell->inverse)) return dependent;
    /* The determinant of the inverse is 1 / volume. */
    const double *v = cell->inverse;
    const double per_volume = v[0] * (v[4] * v[8] - v[5] * v[7]) + v[1] * (v[5] * v[6] - v[3] * v[8]) +
                              v[2] * (v[3] * v[7] - v[4] * v[6]);
    if (!(fabs(per_volume) * lengths < 1.0 / flat)) return dependent;
    if (!minimum) return NULL;

    reduction basis = {.error = {0.0}};
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) basis.l[i][j] = lattice[3 * j + i];
    const char *const apart = "the lengths of the lattice vectors are too far apart: rounding errors of the longest are as "
                              "large as the shortest";
    if (!reduce_basis(&basis)) return apart;
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) cell->basis[3 * j + i] = basis.l[i][j];
    return invert(cell->basis, cell->inverse) && list_shifts(cell, basis.l) ? NULL : apart;
}
