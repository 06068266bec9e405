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

/* What the elements of U are. It is known where functions are inlined. */
typedef enum { FLOATS, SHORTS } elements;

INLINE vd widen(elements of, const void *u, int64_t at)
{
    if (of == FLOATS) {
        vf v;
        memcpy(&v, (const float *)u + at, sizeof v);
        return __builtin_convertvector(v, vd);
    }
    vs v;
    memcpy(&v, (const int16_t *)u + at, sizeof v);
    return __builtin_convertvector(__builtin_convertvector(v, vl), vd);
}

/* t [k] += U^T b */
INLINE void project(elements of, int64_t n, int64_t k, const void *u, const double *factor, const double *b, double *t)
{
    int64_t i = 0, row = 0;
    for (; i + 4 <= n; i += 4, row += 4 * k) {
        vd each[4];
        for (int m = 0; m < 4; ++m) each[m] = splat(of == SHORTS ? factor[i + m] * b[i + m] : b[i + m]);
        for (int64_t c = 0; c < k; c += W) {
            vd sum = load(t + c);
            UNROLL
            for (int m = 0; m < 4; ++m) sum += each[m] * widen(of, u, row + m * k + c);
            store(t + c, sum);
        }
    }
    for (; i < n; ++i, row += k) {
        const vd each = splat(of == SHORTS ? factor[i] * b[i] : b[i]);
        for (int64_t c = 0; c < k; c += W) store(t + c, load(t + c) + each * widen(of, u, row + c));
    }
}

/* b [n] -= U t */
INLINE void subtract(elements of, int64_t n, int64_t k, const void *u, const double *factor, const double *t, double *b)
{
    int64_t i = 0, row = 0;
    for (; i + 4 <= n; i += 4, row += 4 * k) {
        vd sum[4] = {0};
        for (int64_t c = 0; c < k; c += W) {
            const vd tc = load(t + c);
            UNROLL
            for (int m = 0; m < 4; ++m) sum[m] += widen(of, u, row + m * k + c) * tc;
        }
        for (int m = 0; m < 4; ++m) b[i + m] -= of == SHORTS ? factor[i + m] * vsum(sum[m]) : vsum(sum[m]);
    }
    for (; i < n; ++i, row += k) {
        vd sum = {0};
        for (int64_t c = 0; c < k; c += W) sum += widen(of, u, row + c) * load(t + c);
        b[i] -= of == SHORTS ? factor[i] * vsum(sum) : vsum(sum);
    }
}

static void project_floats(int64_t n, int64_t k, const float *u, const double *b, double *t)
{
    project(FLOATS, n, k, u, NULL, b, t);
}

static void subtract_floats(int64_t n, int64_t k, const float *u, const double *t, double *b)
{
    subtract(FLOATS, n, k, u, NULL, t, b);
}

static void project_shorts(int64_t n, int64_t k, const int16_t *u, const double *factor, const double *b, double *t)
{
    project(SHORTS, n, k, u, factor, b, t);
}

static void subtract_shorts(int64_t n, int64_t k, const int16_t *u, const double *factor, const double *t, double *b)
{
    subtract(SHORTS, n, k, u, factor, t, b);
}

extern const gdml_low_rank PER_ISA(gdml_low_rank);
const gdml_low_rank PER_ISA(gdml_low_rank) = {project_floats, subtract_floats, project_shorts, subtract_shorts};
