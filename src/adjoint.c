/* Between descriptors and positions: weights of pairs, products with the Jacobian J of a geometry and with its transpose, the
 * adjoint, from the compressed form g (gdml.h), and the virial.
 */
#include "gdml.h"

#include <string.h>

void gdml_scale_descriptor(int64_t n_desc, const double *weights, double *x, double *g)
{
    if (!weights) return;
    for (int64_t k = 0; k < n_desc; ++k) {
        x[k] *= weights[k];
        for (int i = 0; i < 3; ++i) g[3 * k + i] *= weights[k];
    }
}

void gdml_force_from_descriptor(int64_t n_atoms, const double *g, const double *force_x, double scale, double *force)
{
    int64_t k = 0;
    memset(force, 0, (size_t)(3 * n_atoms) * sizeof *force);
    for (int64_t a = 1; a < n_atoms; ++a) {
        for (int64_t b = 0; b < a; ++b, ++k) {
            for (int i = 0; i < 3; ++i) {
                const double f = scale * force_x[k] * g[3 * k + i];
                force[3 * b + i] += f;
                force[3 * a + i] -= f;
            }
        }
    }
}

void gdml_virial_from_descriptor(int64_t n_desc, const double *x, const double *g, const double *weights,
                                 const double *force_x, double scale, double *virial)
{
    /* xx, yx, yy, zx, zy, zz */
    double sum[6] = {0};
    for (int64_t k = 0; k < n_desc; ++k) {
        const double w = weights ? weights[k] : 1.0;
        const double *gk = g + 3 * k, f = -scale * force_x[k] * (w * w) / (x[k] * x[k] * x[k]);
        for (int i = 0, m = 0; i < 3; ++i)
            for (int j = 0; j <= i; ++j, ++m) sum[m] += f * gk[i] * gk[j];
    }
    for (int i = 0, m = 0; i < 3; ++i)
        for (int j = 0; j <= i; ++j, ++m) virial[3 * i + j] = virial[3 * j + i] = sum[m];
}

void gdml_jacobian_dot(int64_t n_atoms, const double *g, const double *vector, double *out)
{
    int64_t k = 0;
    for (int64_t a = 1; a < n_atoms; ++a) {
        for (int64_t b = 0; b < a; ++b, ++k) {
            const double *va = vector + 3 * a, *vb = vector + 3 * b, *gk = g + 3 * k;
            out[k] = gk[0] * (vb[0] - va[0]) + gk[1] * (vb[1] - va[1]) + gk[2] * (vb[2] - va[2]);
        }
    }
}
