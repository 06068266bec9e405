/* Choice of the instruction set at run time. */
#include "gdml.h"
#include "system.h"

#include <string.h>

extern const gdml_kernels gdml_kernels_baseline;

#ifdef GDML_X86_LEVELS
extern const gdml_kernels gdml_kernels_v3;
extern const gdml_kernels gdml_kernels_v4;
#endif

const gdml_kernels *gdml_select_kernels(const char *isa)
{
#ifdef GDML_X86_LEVELS
    const int level = gdml_x86_level();
    if (isa ? !strcmp(isa, "v4") : level >= 4) return level >= 4 ? &gdml_kernels_v4 : NULL;
    if (isa ? !strcmp(isa, "v3") : level >= 3) return level >= 3 ? &gdml_kernels_v3 : NULL;
#endif
    return !isa || !strcmp(isa, "baseline") ? &gdml_kernels_baseline : NULL;
}
