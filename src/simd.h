/* One vector type, `vd`, of GDML_LANES doubles, in terms of GCC/Clang vector extensions: the same source serves
 * SSE2, AVX2, AVX-512 and NEON. The lane count and the instruction set come from the build (meson.build). */
#ifndef GDML_SIMD_H
#define GDML_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef double vd __attribute__((vector_size(8 * GDML_LANES)));
typedef int64_t vi __attribute__((vector_size(8 * GDML_LANES)));

INLINE vd splat(double a)
{
    return a - (vd){0.0};   /* scalar operands are broadcast; subtracting zero keeps the sign of a zero */
}

/* Vectors travel through memory that holds plain doubles. */
INLINE vd load(const double *p)
{
    vd v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(double *p, vd v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vd vsqrt(vd a)
{
    UNROLL
    for (int l = 0; l < GDML_LANES; ++l) a[l] = sqrt(a[l]);
    return a;
}

/* exp(a) for a <= 0, to 1 unit in the last place; 0 below -708.
 * a = k ln 2 + r, |r| <= ln 2 / 2, exp(a) = 2^k exp(r), exp(r) by its Taylor series to r^13 (next term < 5e-18).
 * Written out here so that every lane width, processor and C library gives the same bits. */
INLINE vd vexp_nonpositive(vd a)
{
    const vd shifter = splat(6755399441055744.0);          /* 1.5 * 2^52: adding it rounds to an integer */
    const vi underflow = a < splat(-708.0);
    a = (vd)((vi)a & ~underflow);                          /* keeps the exponent in range; result masked below */
    const vd shifted = a * splat(1.4426950408889634) + shifter;
    const vd k = shifted - shifter;
    const vd r = (a - k * splat(6.93147180369123816490e-01)) - k * splat(1.90821492927058770002e-10);
    vd y = splat(1.0 / 6227020800.0);
    y = y * r + splat(1.0 / 479001600.0);
    y = y * r + splat(1.0 / 39916800.0);
    y = y * r + splat(1.0 / 3628800.0);
    y = y * r + splat(1.0 / 362880.0);
    y = y * r + splat(1.0 / 40320.0);
    y = y * r + splat(1.0 / 5040.0);
    y = y * r + splat(1.0 / 720.0);
    y = y * r + splat(1.0 / 120.0);
    y = y * r + splat(1.0 / 24.0);
    y = y * r + splat(1.0 / 6.0);
    y = y * r + splat(0.5);
    y = y * r + splat(1.0);
    y = y * r + splat(1.0);
    const vi exponent = ((vi)shifted - (vi)shifter + 1023) << 52;
    const vd result = y * (vd)exponent;
    return (vd)((vi)result & ~underflow);
}

/* Sums of the lanes of n vectors. The order is fixed: lane l is added to lane l + width/2, and so on. */
INLINE double vsum(vd a)
{
    double s[GDML_LANES];
    store(s, a);
    for (int width = GDML_LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; ++l) s[l] += s[l + width];
    return s[0];
}

#endif
