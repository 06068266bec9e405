/* Choice of the instruction set at run time. */
#include "gdml.h"

#include <string.h>

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
