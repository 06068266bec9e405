/* Choice of the instruction set at run time, and the code that needs none in particular. */
#include "gdml.h"

#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <malloc.h>
#endif

extern const gdml_kernels gdml_kernels_baseline;

#ifdef GDML_X86_LEVELS
extern const gdml_kernels gdml_kernels_v3;
extern const gdml_kernels gdml_kernels_v4;

/* The features of the x86-64 psABI levels that the compiler uses in these files. */
static int has_v3(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}

static int has_v4(void)
{
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

const gdml_kernels *gdml_select_kernels(const char *isa)
{
#ifdef GDML_X86_LEVELS
    if (!isa ? has_v4() : !strcmp(isa, "v4")) return has_v4() ? &gdml_kernels_v4 : NULL;
    if (!isa ? has_v3() : !strcmp(isa, "v3")) return has_v3() ? &gdml_kernels_v3 : NULL;
#endif
    return !isa || !strcmp(isa, "baseline") ? &gdml_kernels_baseline : NULL;
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

void gdml_virial_from_descriptor(int64_t n_desc, const double *x, const double *g, const double *force_x, double scale,
                                 double *virial)
{
    /* xx, yx, yy, zx, zy, zz */
    double sum[6] = {0};
    for (int64_t k = 0; k < n_desc; ++k) {
        const double *gk = g + 3 * k, f = -scale * force_x[k] / (x[k] * x[k] * x[k]);
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

void *gdml_scratch_new(size_t bytes)
{
    bytes = (bytes + GDML_ALIGNMENT - 1) / GDML_ALIGNMENT * GDML_ALIGNMENT;
    if (!bytes) bytes = GDML_ALIGNMENT;
#ifdef _WIN32
    return _aligned_malloc(bytes, GDML_ALIGNMENT);
#else
    return aligned_alloc(GDML_ALIGNMENT, bytes);
#endif
}

void gdml_scratch_free(void *scratch)
{
#ifdef _WIN32
    _aligned_free(scratch);
#else
    free(scratch);
#endif
}
