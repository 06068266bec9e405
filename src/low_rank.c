/* Products with a tall matrix U [n][k] of floats and vectors of doubles, for the preconditioner of the iterative solver.
 * U is read once and used once, so these are bound by memory: single precision halves the time. Sums are formed in double
 * precision; rounded ones would spoil the cancellation in b - U (I + U^T U)^-1 U^T b. Built per instruction set.
 *
 * k is a multiple of GDML_MAX_LANES; rows are padded with zeros.
 */
#include "gdml.h"
#include "simd.h"

typedef float vf __attribute__((vector_size(4 * GDML_LANES)));

INLINE vd widen(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, vd);
}

/* t [k] += U^T b */
static void project(int64_t n, int64_t k, const float *u, const double *b, double *t)
{
    int64_t i = 0;
    for (; i + 4 <= n; i += 4, u += 4 * k) {
        const vd b0 = splat(b[i]), b1 = splat(b[i + 1]), b2 = splat(b[i + 2]), b3 = splat(b[i + 3]);
        for (int64_t c = 0; c < k; c += W) {
            vd sum = load(t + c);
            sum += b0 * widen(u + c);
            sum += b1 * widen(u + k + c);
            sum += b2 * widen(u + 2 * k + c);
            sum += b3 * widen(u + 3 * k + c);
            store(t + c, sum);
        }
    }
    for (; i < n; ++i, u += k)
        for (int64_t c = 0; c < k; c += W) store(t + c, load(t + c) + splat(b[i]) * widen(u + c));
}

/* b [n] -= U t */
static void subtract(int64_t n, int64_t k, const float *u, const double *t, double *b)
{
    int64_t i = 0;
    for (; i + 4 <= n; i += 4, u += 4 * k) {
        vd sum[4] = {0};
        for (int64_t c = 0; c < k; c += W) {
            const vd tc = load(t + c);
            UNROLL
            for (int m = 0; m < 4; ++m) sum[m] += widen(u + m * k + c) * tc;
        }
        for (int m = 0; m < 4; ++m) b[i + m] -= vsum(sum[m]);
    }
    for (; i < n; ++i, u += k) {
        vd sum = {0};
        for (int64_t c = 0; c < k; c += W) sum += widen(u + c) * load(t + c);
        b[i] -= vsum(sum);
    }
}

extern const gdml_low_rank PER_ISA(gdml_low_rank);
const gdml_low_rank PER_ISA(gdml_low_rank) = {project, subtract};
