/* What prediction.c and deviations.c, built for one instruction set, share: scratch of a tile, and what follows from its
 * weights.
 */
#ifndef GDML_PREDICTION_H
#define GDML_PREDICTION_H

#include "arena.h"
#include "gdml.h"
#include "simd.h"

/* After a tile that was asked for energies only, image_s holds distances, w1 and w2 the weights, total_w1 the sums. */
typedef struct {
    double *image_s;   /* [all images Q][T]  a class's part of |d_p|^2 under each image; later the sums of w1 */
    double *image_t;   /* [all images Q][T]  the same for d_p . v and w2 */
    double *w1;        /* [P Q][T] */
    double *w2;        /* [P Q][T] */
    double *total_w1;  /* [P Q]  sums of w1 over the tile */
    int64_t *row;      /* [n_classes]  where the images of one permutation and query are */
} predict_workspace;

static inline predict_workspace predict_layout(const gdml_predictor *m, int64_t n_query, arena *a)
{
    const int64_t n_images = m->class_image[m->n_classes];
    predict_workspace w;
    w.image_s = take(a, n_images * n_query * m->tile);
    w.image_t = take(a, n_images * n_query * m->tile);
    w.w1 = take(a, m->n_perms * n_query * m->tile);
    w.w2 = take(a, m->n_perms * n_query * m->tile);
    w.total_w1 = take(a, m->n_perms * n_query);
    w.row = (int64_t *)take(a, m->n_classes);
    return w;
}

/* to [n] = sum of the rows `member` of from [][n]. */
#define sum_rows PER_ISA(gdml_sum_rows)
void sum_rows(int64_t n, const double *from, const int32_t *member, const int32_t *end, double *to);

/* out [n_images][n_pairs] += sums over the tile of w1 x + w2 v, w1 and w2 [n_images][tile]. */
#define backward PER_ISA(gdml_backward)
void backward(int64_t n_images, int64_t n_pairs, const double *x, const double *v, int64_t tile, const double *w1,
              const double *w2, double *out);

extern const gdml_prediction PER_ISA(gdml_prediction);

#endif
