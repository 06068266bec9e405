/* Molecules made whole in periodic boxes, where every atom may be given by any of its images. */
#ifndef GDML_WHOLE_H
#define GDML_WHOLE_H

#include "gdml.h"

/* The minimum spanning tree of the n atoms of r [n][3] under the distances of nearest images, from atom 0: atoms in the
 * order in which they join, and to which each is joined (of the first: itself). distance [n]: scratch. */
void gdml_molecule_tree(int64_t n, const double *r, const gdml_cell *cell, int32_t *order /* [n] */,
                        int32_t *parent /* [n], by atom */, double *distance);

/* Move the atoms of r [n][3] to the images nearest to their parents in the tree. Returns the first atom that is as far
 * as `limit` from its parent, or -1. Below half of the shortest lattice vector there is no doubt about the image. */
int64_t gdml_make_whole(int64_t n, double *r, const gdml_cell *cell, const int32_t *order, const int32_t *parent,
                        double limit);

/* How near a molecule that is whole comes to another image of itself, in longest edges of its tree: near 1 the tree may
 * hold an atom of the image for a neighbour. INFINITY where no pair of atoms is nearer through the boundary. */
double gdml_image_contact(int64_t n, const double *r, const gdml_cell *cell, const int32_t *order,
                          const int32_t *parent);

/* Length of the shortest lattice vector of a cell of the true minimum image. */
double gdml_shortest_vector(const gdml_cell *cell);

#endif
