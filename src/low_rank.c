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

/* Rows that are worked on together: their sums fit into registers. Those of the next group are fetched meanwhile; the
 * processor itself looks ahead within a page of memory only, which is hardly longer than a row. */
#define GROUP 4
#define LINE 64

INLINE void fetch_next(int integers, int rows, int64_t k, const void *u, int64_t at)
{
    const int64_t size = integers ? 2 : 4;
    UNROLL
    for (int m = 0; m < rows; ++m) __builtin_prefetch((const char *)u + size * (at + (rows + m) * k), 0, 2);
}

/* t [k] += U^T b of `rows` rows of U, from row on */
INLINE void project_rows(int integers, int rows, int64_t k, const void *u, int64_t row, const double *factor,
                         const double *b, double *t)
{
    const int64_t line = LINE / (integers ? 2 : 4);
    vd each[GROUP];
    for (int m = 0; m < rows; ++m) each[m] = splat(integers ? factor[row + m] * b[row + m] : b[row + m]);
    for (int64_t c = 0; c < k;) {
        const int64_t end = c + line < k ? c + line : k;
        fetch_next(integers, rows, k, u, row * k + c);
        for (; c < end; c += W) {
            vd sum = load(t + c);
            UNROLL
            for (int m = 0; m < rows; ++m) sum += each[m] * widen(integers, u, (row + m) * k + c);
            store(t + c, sum);
        }
    }
}

/* t [k] += U^T b */
INLINE void project_elements(int integers, int64_t n, int64_t k, const void *u, const double *factor, const double *b,
                             double *t)
{
    int64_t i = 0;
    for (; i + GROUP <= n; i += GROUP) project_rows(integers, GROUP, k, u, i, factor, b, t);
    for (; i < n; ++i) project_rows(integers, 1, k, u, i, factor, b, t);
}

/* b -= U t of `rows` rows of U, from row on */
INLINE void subtract_rows(int integers, int rows, int64_t k, const void *u, int64_t row, const double *factor,
                          const double *t, double *b)
{
    const int64_t line = LINE / (integers ? 2 : 4);
    vd sum[GROUP] = {0};
    for (int64_t c = 0; c < k;) {
        const int64_t end = c + line < k ? c + line : k;
        fetch_next(integers, rows, k, u, row * k + c);
        for (; c < end; c += W) {
            const vd tc = load(t + c);
            UNROLL
            for (int m = 0; m < rows; ++m) sum[m] += widen(integers, u, (row + m) * k + c) * tc;
        }
    }
    for (int m = 0; m < rows; ++m) b[row + m] -= integers ? factor[row + m] * vsum(sum[m]) : vsum(sum[m]);
}

/* b [n] -= U t */
INLINE void subtract_elements(int integers, int64_t n, int64_t k, const void *u, const double *factor, const double *t,
                              double *b)
{
    int64_t i = 0;
    for (; i + GROUP <= n; i += GROUP) subtract_rows(integers, GROUP, k, u, i, factor, t, b);
    for (; i < n; ++i) subtract_rows(integers, 1, k, u, i, factor, t, b);
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
