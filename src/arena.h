/* Scratch of the kernels: consecutive aligned arrays cut from one block, or only measured. */
#ifndef GDML_ARENA_H
#define GDML_ARENA_H

#include "gdml.h"

static inline size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

typedef struct {
    char *base;      /* NULL while only measuring */
    size_t used;
} arena;

static inline double *take(arena *a, int64_t n_doubles)
{
    double *p = a->base ? (double *)(a->base + a->used) : NULL;
    a->used += round_up((size_t)n_doubles * sizeof(double), GDML_ALIGNMENT);
    return p;
}

#endif
