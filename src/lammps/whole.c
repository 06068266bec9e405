/* Molecules made whole: every atom goes to the image that is nearest to its neighbour in a tree of short distances. */
#include "whole.h"

#include "fold.h"

static double nearest_image(const gdml_cell *cell, const double *to, const double *from, double d[3])
{
    for (int i = 0; i < 3; ++i) d[i] = to[i] - from[i];
    gdml_fold(cell, d);
    return sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
}

void gdml_molecule_tree(int64_t n, const double *r, const gdml_cell *cell, int32_t *order, int32_t *parent,
                        double *distance)
{
    for (int32_t a = 0; a < n; ++a) {
        order[a] = a;
        parent[a] = 0;
        distance[a] = INFINITY;
    }
    for (int64_t done = 1; done < n; ++done) {             /* Prim's algorithm; order[done..] are still outside */
        const int32_t last = order[done - 1];
        int64_t next = done;
        for (int64_t k = done; k < n; ++k) {
            const int32_t a = order[k];
            double d[3];
            const double length = nearest_image(cell, r + 3 * a, r + 3 * last, d);
            if (length < distance[a]) {
                distance[a] = length;
                parent[a] = last;
            }
            if (distance[a] < distance[order[next]]) next = k;
        }
        const int32_t joining = order[next];
        order[next] = order[done];
        order[done] = joining;
    }
}

int64_t gdml_make_whole(int64_t n, double *r, const gdml_cell *cell, const int32_t *order, const int32_t *parent,
                        double limit)
{
    for (int64_t k = 1; k < n; ++k) {
        const int32_t a = order[k];
        const double *from = r + 3 * parent[a];
        double d[3];
        if (nearest_image(cell, r + 3 * a, from, d) >= limit) return a;
        for (int i = 0; i < 3; ++i) r[3 * a + i] = from[i] + d[i];
    }
    return -1;
}

double gdml_image_contact(int64_t n, const double *r, const gdml_cell *cell, const int32_t *order,
                          const int32_t *parent)
{
    double edge = 0.0, contact = INFINITY, d[3];
    for (int64_t k = 1; k < n; ++k)
        edge = fmax(edge, nearest_image(cell, r + 3 * order[k], r + 3 * parent[order[k]], d));
    for (int64_t a = 1; a < n; ++a) {
        for (int64_t b = 0; b < a; ++b) {
            const double length = nearest_image(cell, r + 3 * a, r + 3 * b, d);
            double moved = 0.0;
            for (int i = 0; i < 3; ++i) moved = fmax(moved, fabs(r[3 * a + i] - r[3 * b + i] - d[i]));
            if (moved > 0.1 * edge) contact = fmin(contact, length);  /* not by rounding, but by a lattice vector */
        }
    }
    return contact / edge;
}

double gdml_shortest_vector(const gdml_cell *cell)
{
    double shortest = INFINITY;                            /* the basis of the minimum image is reduced */
    for (int i = 0; i < 3; ++i) {
        const double *v = cell->basis + i;
        shortest = fmin(shortest, sqrt(v[0] * v[0] + v[3] * v[3] + v[6] * v[6]));
    }
    return shortest;
}
