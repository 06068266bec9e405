/* The rate at which one core multiplies and adds: independent chains of fused multiply-adds in registers.
 * Compiled by roofline.py with -march=native; prints GFlop/s. */
#include <stdio.h>
#include <time.h>

#if defined(__AVX512F__)
enum { LANES = 8 };
#elif defined(__AVX__)
enum { LANES = 4 };
#else
enum { LANES = 2 };
#endif
typedef double vd __attribute__((vector_size(8 * LANES)));

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(void)
{
    enum { CHAINS = 12 };
    const long rounds = 20000000;
    vd sum[CHAINS], factor = {0}, term = {0};
    for (int i = 0; i < CHAINS; ++i) sum[i] = term;
    factor += 0.999999;
    term += 1e-9;
    double best = 1e30;
    for (int repeat = 0; repeat < 3; ++repeat) {
        const double start = seconds();
        for (long k = 0; k < rounds; ++k) {
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; ++i) sum[i] = sum[i] * factor + term;
        }
        const double elapsed = seconds() - start;
        if (elapsed < best) best = elapsed;
    }
    double check = 0;
    for (int i = 0; i < CHAINS; ++i) check += sum[i][0];
    printf("%.2f\n", 2.0 * LANES * CHAINS * (double)rounds / best / 1e9 + 0 * check);
    return 0;
}
