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

/* GCC 12 loads an operand of several products anew for each; this makes it load once. */
#if defined(__x86_64__)
#define KEEP_IN_REGISTER(v) __asm__("" : "+x"(v))
#elif defined(__aarch64__)
#define KEEP_IN_REGISTER(v) __asm__("" : "+w"(v))
#else
#define KEEP_IN_REGISTER(v) (void)0
#endif

INLINE vd vsqrt(vd a)
{
    UNROLL
    for (int l = 0; l < GDML_LANES; ++l) a[l] = sqrt(a[l]);
    return a;
}

/* exp(a) for a <= 0, to 1.5 units in the last place; 0 below -708.
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
    /* Even and odd powers apart: two chains of products half as long. */
    const vd r2 = r * r;
    vd even = splat(1.0 / 479001600.0), odd = splat(1.0 / 6227020800.0);
    even = even * r2 + splat(1.0 / 3628800.0);
    odd = odd * r2 + splat(1.0 / 39916800.0);
    even = even * r2 + splat(1.0 / 40320.0);
    odd = odd * r2 + splat(1.0 / 362880.0);
    even = even * r2 + splat(1.0 / 720.0);
    odd = odd * r2 + splat(1.0 / 5040.0);
    even = even * r2 + splat(1.0 / 24.0);
    odd = odd * r2 + splat(1.0 / 120.0);
    even = even * r2 + splat(0.5);
    odd = odd * r2 + splat(1.0 / 6.0);
    even = even * r2 + splat(1.0);
    odd = odd * r2 + splat(1.0);
    const vd y = odd * r + even;
    const vi exponent = ((vi)shifted - (vi)shifter + 1023) << 52;
    const vd result = y * (vd)exponent;
    return (vd)((vi)result & ~underflow);
}

/* Transpose a square of lanes in place: exchange the off-diagonal halves of blocks of 2, 4, 8 lanes. */
#if GDML_LANES == 8
#define HALVES_1(a, b) \
    __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14), __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15)
#define HALVES_2(a, b) \
    __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13), __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define HALVES_4(a, b) \
    __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11), __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#elif GDML_LANES == 4
#define HALVES_1(a, b) __builtin_shufflevector(a, b, 0, 4, 2, 6), __builtin_shufflevector(a, b, 1, 5, 3, 7)
#define HALVES_2(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7)
#else
#define HALVES_1(a, b) __builtin_shufflevector(a, b, 0, 2), __builtin_shufflevector(a, b, 1, 3)
#endif

#define EXCHANGE(step, halves)                            \
    UNROLL                                                \
    for (int i = 0; i < GDML_LANES; ++i) {                \
        if (i & (step)) continue;                         \
        const vd half[2] = {halves(a[i], a[i + (step)])}; \
        a[i] = half[0];                                   \
        a[i + (step)] = half[1];                          \
    }

INLINE void transpose(vd a[GDML_LANES])
{
    EXCHANGE(1, HALVES_1)
#if GDML_LANES >= 4
    EXCHANGE(2, HALVES_2)
#endif
#if GDML_LANES >= 8
    EXCHANGE(4, HALVES_4)
#endif
}

/* Copy to memory that is not read again soon, past the caches where the processor can (x86): blocks of the kernel
 * matrix go to places far apart, and fetching each line of it first, only to overwrite it, takes as long as all of the
 * arithmetic. Whole lines of 64 bytes are streamed, the ends are not. */
#if defined(__SSE2__)
#include <emmintrin.h>
INLINE void stream_fence(void)
{
    _mm_sfence();
}
INLINE void stream_copy(double *to, const double *from, int64_t n)
{
    for (; n > 0 && (uintptr_t)to % 64; --n) *to++ = *from++;
    for (; n >= 8; n -= 8, to += 8, from += 8)
        for (int i = 0; i < 8; i += 2) _mm_stream_pd(to + i, _mm_loadu_pd(from + i));
    for (; n > 0; --n) *to++ = *from++;
}
#else
INLINE void stream_fence(void) {}
INLINE void stream_copy(double *to, const double *from, int64_t n)
{
    memcpy(to, from, (size_t)n * sizeof *to);
}
#endif

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
