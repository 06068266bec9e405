/* The kernels of one instruction set: the descriptor, and the table of all of them, which dispatch.c chooses from.
 * Each of these files (assembly.c, prediction.c, deviations.c, hessian.c, low_rank.c, trace.c) is written once; the build
 * compiles it once for each instruction set (GDML_ISA names the set, GDML_LANES gives its vector width).
 */
#include "fold.h"
#include "gdml.h"
#include "simd.h"

#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

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

extern const gdml_assembly PER_ISA(gdml_assembly);
extern const gdml_prediction PER_ISA(gdml_prediction);
extern const gdml_deviations PER_ISA(gdml_deviations);
extern const gdml_second_derivatives PER_ISA(gdml_hessian);
extern const gdml_low_rank PER_ISA(gdml_low_rank);
extern const gdml_trace PER_ISA(gdml_trace);
extern const gdml_kernels PER_ISA(gdml_kernels);
const gdml_kernels PER_ISA(gdml_kernels) = {
    TEXT(GDML_ISA), W, descriptor, &PER_ISA(gdml_assembly), &PER_ISA(gdml_prediction), &PER_ISA(gdml_deviations),
    &PER_ISA(gdml_hessian), &PER_ISA(gdml_low_rank), &PER_ISA(gdml_trace),
};
