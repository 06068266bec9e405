/* Products with a tall matrix U [n][k] and vectors of doubles, for the preconditioner of the iterative solver. U is read
 * once and used once, so these are bound by memory: its elements are floats, or 16-bit integers times a factor for each
 * row. Sums are formed in double precision; rounded ones would spoil the cancellation in b - U (I + U^T U)^-1 U^T b.
 * Built per instruction set.
 *
 * k is a multiple of GDML_MAX_LANES; rows are padded with zeros.
 */
#include "gdml.h"
#include "simd.h"

typedef float vf __attribute__((vector_size(4 * GDML_LANES)));
typedef int32_t vl __attribute__((vector_size(4 * GDML_LANES)));
typedef int16_t vs __attribute__((vector_size(2 * GDML_LANES)));

/* Elements of U from `at` on: floats, or integers if there are factors, which is known where functions are inlined. */
INLINE vd widen(int integers, const void *u, int64_t at)
{
    if (integers) {
        vs v;
        memcpy(&v, (const int16_t *)u + at, sizeof v);
        return __builtin_convertvector(__builtin_convertvector(v, vl), vd);
    }
    vf v;
    memcpy(&v, (const float *)u + at, sizeof v);
    return __builtin_convertvector(v, vd);
}

/* t [k] += U^T b */
INLINE void project_elements(int integers, int64_t n, int64_t k, const void *u, const double *factor, const double *b,
                             double *t)
{
    int64_t i = 0, row = 0;
    for (; i + 4 <= n; i += 4, row += 4 * k) {
        vd each[4];
        for (int m = 0; m < 4; ++m) each[m] = splat(integers ? factor[i + m] * b[i + m] : b[i + m]);
        for (int64_t c = 0; c < k; c += W) {
            vd sum = load(t + c);
            UNROLL
            for (int m = 0; m < 4; ++m) sum += each[m] * widen(integers, u, row + m * k + c);
            store(t + c, sum);
        }
    }
    for (; i < n; ++i, row += k) {
        const vd each = splat(integers ? factor[i] * b[i] : b[i]);
        for (int64_t c = 0; c < k; c += W) store(t + c, load(t + c) + each * widen(integers, u, row + c));
    }
}

/* b [n] -= U t */
INLINE void subtract_elements(int integers, int64_t n, int64_t k, const void *u, const double *factor, const double *t,
                              double *b)
{
    int64_t i = 0, row = 0;
    for (; i + 4 <= n; i += 4, row += 4 * k) {
        vd sum[4] = {0};
        for (int64_t c = 0; c < k; c += W) {
            const vd tc = load(t + c);
            UNROLL
            for (int m = 0; m < 4; ++m) sum[m] += widen(integers, u, row + m * k + c) * tc;
        }
        for (int m = 0; m < 4; ++m) b[i + m] -= integers ? factor[i + m] * vsum(sum[m]) : vsum(sum[m]);
    }
    for (; i < n; ++i, row += k) {
        vd sum = {0};
        for (int64_t c = 0; c < k; c += W) sum += widen(integers, u, row + c) * load(t + c);
        b[i] -= integers ? factor[i] * vsum(sum) : vsum(sum);
    }
}

static void project(int64_t n, int64_t k, const void *u, const double *factor, const double *b, double *t)
{
    if (factor)
        project_elements(1, n, k, u, factor, b, t);
    else
        project_elements(0, n, k, u, NULL, b, t);
}

static void subtract(int64_t n, int64_t k, const void *u, const double *factor, const double *t, double *b)
{
    if (factor)
        subtract_elements(1, n, k, u, factor, t, b);
    else
        subtract_elements(0, n, k, u, NULL, t, b);
}

extern const gdml_low_rank PER_ISA(gdml_low_rank);
const gdml_low_rank PER_ISA(gdml_low_rank) = {project, subtract};
