/* Matching of atoms between geometries, and the tree along which matches are trusted: the search of permutational
 * symmetries. */
#include "gdml.h"

#include <math.h>

/* Shortest augmenting paths with dual variables (Crouse, IEEE Trans. Aerosp. Electron. Syst. 52, 1679 (2016)). */
void gdml_assign(int64_t n, const double *cost, int32_t *row_to_col, double *work, int32_t *iwork)
{
    double *u = work, *v = work + n, *shortest = work + 2 * n;
    int32_t *col_to_row = iwork, *path = iwork + n, *in_tree = iwork + 2 * n;
    for (int64_t i = 0; i < n; ++i) {
        u[i] = v[i] = 0.0;
        col_to_row[i] = -1;
        row_to_col[i] = -1;
    }
    for (int64_t start = 0; start < n; ++start) {
        for (int64_t j = 0; j < n; ++j) {
            shortest[j] = INFINITY;
            path[j] = (int32_t)start;                      /* also where a cost is no number, which none is less than */
            in_tree[j] = 0;
        }
        double distance = 0.0;
        int64_t row = start, sink = -1;
        while (sink < 0) {
            /* Relax the edges of `row`, then take the nearest column outside the tree. */
            int64_t nearest = -1;
            const double *c = cost + row * n;
            for (int64_t j = 0; j < n; ++j) {
                if (in_tree[j]) continue;
                const double reduced = distance + c[j] - u[row] - v[j];
                if (reduced < shortest[j]) {
                    shortest[j] = reduced;
                    path[j] = (int32_t)row;
                }
                if (nearest < 0 || shortest[j] < shortest[nearest] ||
                    (shortest[j] == shortest[nearest] && col_to_row[j] < 0))
                    nearest = j;
            }
            distance = shortest[nearest];
            in_tree[nearest] = 1;
            if (col_to_row[nearest] < 0) sink = nearest;
            else row = col_to_row[nearest];
        }
        u[start] += distance;
        for (int64_t j = 0; j < n; ++j) {
            if (!in_tree[j]) continue;
            if (col_to_row[j] >= 0) u[col_to_row[j]] += distance - shortest[j];
            v[j] -= distance - shortest[j];
        }
        for (int64_t j = sink;;) {                         /* augment along the path back to `start` */
            const int32_t i = path[j];
            const int32_t previous = row_to_col[i];
            col_to_row[j] = i;
            row_to_col[i] = (int32_t)j;
            if (i == start) break;
            j = previous;
        }
    }
}

void gdml_match(int64_t n, const double *vectors_i, const double *vectors_j, const double *distances_i,
                const double *distances_j, const double *penalty, int32_t *perm, double *before, double *after,
                double *work, int32_t *iwork)
{
    double *cost = work;
    double largest = 0.0;
    for (int64_t a = 0; a < n; ++a) {
        for (int64_t b = 0; b < n; ++b) {
            double dot = 0.0;
            for (int64_t k = 0; k < n; ++k) dot += vectors_i[a * n + k] * vectors_j[b * n + k];
            cost[a * n + b] = -dot;
            if (dot > largest) largest = dot;
        }
    }
    for (int64_t k = 0; k < n * n; ++k) cost[k] += penalty[k] * largest;
    gdml_assign(n, cost, perm, work + n * n, iwork);

    double sum_before = 0.0, sum_after = 0.0;
    for (int64_t a = 0; a < n; ++a) {
        for (int64_t b = 0; b < n; ++b) {
            const double reference = distances_j[a * n + b];
            const double same = distances_i[a * n + b] - reference;
            const double moved = distances_i[perm[a] * n + perm[b]] - reference;
            sum_before += same * same;
            sum_after += moved * moved;
        }
    }
    *before = sqrt(sum_before);
    *after = sqrt(sum_after);
}

/* The part that a node belongs to, halving the path to it. */
static int64_t root(int64_t node, int64_t *parent)
{
    while (parent[node] != node) node = parent[node] = parent[parent[node]];
    return node;
}

int64_t gdml_spanning_tree(int64_t n, int64_t n_edges, const int64_t *edge, const int64_t *order, int64_t *tree,
                           int64_t *parent)
{
    int64_t n_tree = 0;
    for (int64_t i = 0; i < n; ++i) parent[i] = i;
    for (int64_t k = 0; k < n_edges && n_tree < n - 1; ++k) {
        const int64_t a = root(edge[2 * order[k]], parent), b = root(edge[2 * order[k] + 1], parent);
        if (a == b) continue;
        parent[b] = a;
        tree[n_tree++] = order[k];
    }
    return n_tree;
}
