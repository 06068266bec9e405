/* One vector type, `vd`, of GDML_LANES doubles, in terms of GCC/Clang vector extensions: the same source serves
 * SSE2, AVX2, AVX-512 and NEON. The lane count and the instruction set come from the build (meson.build). */
#ifndef GDML_SIMD_H
#define GDML_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* GDML_ISA and GDML_LANES are set by meson.build; what a file of kernels exports is named after its instruction set. */
#define W GDML_LANES
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define PER_ISA(name) JOIN(name, GDML_ISA)

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
#define KEEP_IN_REGISTER(v) __asm__("" : "+v"(v))
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

/* The larger of each two lanes; b where a is not a number. */
INLINE vd vmax(vd a, vd b)
{
    const vi larger = a > b;
    return (vd)(((vi)a & larger) | ((vi)b & ~larger));
}

/* exp(a) for a <= 0, to 1.5 units in the last place; arguments below -708 count as -708 (3e-308).
 * a = k ln 2 + r, |r| <= ln 2 / 2, exp(a) = 2^k exp(r), exp(r) = 1 + r + r^2 q(r) with the q of degree 9 that has the
 * smallest greatest relative error, 4e-18 (Remez' algorithm).
 * Written out here so that results do not depend on the C library. */
INLINE vd vexp_nonpositive(vd a)
{
    const vd shifter = splat(6755399441055744.0);          /* 1.5 * 2^52: adding it rounds to an integer */
    a = vmax(a, splat(-708.0));
    const vd shifted = a * splat(1.4426950408889634) + shifter;
    const vd k = shifted - shifter;
    const vd r = (a - k * splat(6.93147180369123816490e-01)) - k * splat(1.90821492927058770002e-10);
    /* Even and odd powers apart: two chains of products half as long. */
    const vd r2 = r * r;
    vd even = splat(0x1.28ad72c2c8609p-22), odd = splat(0x1.ad7f6858a4d99p-26);
    even = even * r2 + splat(0x1.a0199a0c7310ap-16);
    odd = odd * r2 + splat(0x1.71df25563ec47p-19);
    even = even * r2 + splat(0x1.6c16c1842a0ccp-10);
    odd = odd * r2 + splat(0x1.a01a012a56060p-13);
    even = even * r2 + splat(0x1.555555555087dp-5);
    odd = odd * r2 + splat(0x1.1111111127beap-7);
    even = even * r2 + splat(0x1.000000000000ap-1);
    odd = odd * r2 + splat(0x1.55555555554fap-3);
    even = even * r2 + splat(1.0);
    odd = odd * r2 + splat(1.0);
    const vd y = odd * r + even;
    return (vd)((vi)y + ((vi)shifted << 52));               /* the low bits of `shifted` are k */
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

/* Sum of the lanes. The order is fixed: lane l is added to lane l + width/2, and so on. */
INLINE double vsum(vd a)
{
    double s[GDML_LANES];
    store(s, a);
    for (int width = GDML_LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; ++l) s[l] += s[l + width];
    return s[0];
}

/* Lane l of the result is the sum of the lanes of a[l], in the same order. Overwrites a. */
INLINE vd vsum_each(vd a[GDML_LANES])
{
    transpose(a);
    UNROLL
    for (int width = GDML_LANES / 2; width > 0; width /= 2) {
        UNROLL
        for (int l = 0; l < width; ++l) a[l] += a[l + width];
    }
    return a[0];
}

#endif
