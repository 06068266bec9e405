/* Differences of positions folded into a cell (cell.c). */
#ifndef GDML_FOLD_H
#define GDML_FOLD_H

#include "gdml.h"

#include <math.h>
#include <string.h>

static inline __attribute__((always_inline)) void gdml_fold(const gdml_cell *cell, double d[3])
{
    double f[3], from[3];
    for (int i = 0; i < 3; ++i) {
        const double *row = cell->inverse + 3 * i;
        f[i] = nearbyint(row[0] * d[0] + row[1] * d[1] + row[2] * d[2]);
    }
    for (int i = 0; i < 3; ++i) {
        const double *row = cell->basis + 3 * i;
        d[i] -= row[0] * f[0] + row[1] * f[1] + row[2] * f[2];
        from[i] = d[i];
    }
    double shortest = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
    if (shortest <= cell->safe) return;
    for (int64_t k = 0; k < cell->n_shifts; ++k) {
        const double *shift = cell->shift[k];
        const double c[3] = {from[0] - shift[0], from[1] - shift[1], from[2] - shift[2]};
        const double squared = c[0] * c[0] + c[1] * c[1] + c[2] * c[2];
        if (squared < shortest) {
            shortest = squared;
            memcpy(d, c, sizeof c);
        }
    }
}

#endif
