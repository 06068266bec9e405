/* Classes of atom pairs that share work across permutations in prediction.
 *
 * Under a permutation group most pairs have few distinct images. Pairs for which the same permutations give the same
 * image form a class; distances and projections are then computed once for each (class, image) and added up for each
 * permutation, so a geometry costs sum_h n_h D_h instead of P D pair evaluations.
 *
 * What the permutations do to a pair is its pattern: for each permutation, the first one that gives the pair the same
 * image. Classes are patterns that save work; all other pairs share nothing and form one class of their own, in which
 * every permutation has its own image.
 */
#include "model.h"

#include <stdlib.h>
#include <string.h>

/* Arithmetic per pair, image and training point, and bookkeeping per class, permutation and training point. With many
 * permutations, the numbers to be looked up no longer lie in the fastest cache. */
enum { COST_PAIR = 5, COST_CLASS = 4, COST_CLASS_MANY = 25, MANY_PERMS = 64 };

typedef struct {
    uint64_t hash;
    int64_t first;      /* the first pair of this pattern */
    int64_t n_pairs;
    int64_t n_images;
    double merit;       /* arithmetic saved for each image */
    int64_t number;     /* in the order of first pairs */
} pattern;

/* For each permutation, the first that gives pair k the same image; first_perm: scratch, [D]. */
static void find_pattern(int64_t n_perms, int64_t n_desc, const int32_t *images, int64_t k, int32_t *first_perm,
                         int32_t *out)
{
    for (int64_t p = n_perms - 1; p >= 0; --p) first_perm[images[p * n_desc + k]] = (int32_t)p;
    for (int64_t p = 0; p < n_perms; ++p) out[p] = first_perm[images[p * n_desc + k]];
}

static uint64_t hash_of(int64_t n, const int32_t *numbers)
{
    uint64_t hash = 14695981039346656037u;                 /* FNV-1a, a number at a time */
    for (int64_t i = 0; i < n; ++i) hash = (hash ^ (uint32_t)numbers[i]) * 1099511628211u;
    return hash;
}

static int by_merit(const void *a, const void *b)
{
    const pattern *p = a, *q = b;
    if (p->merit != q->merit) return p->merit > q->merit ? -1 : 1;
    return p->number < q->number ? -1 : 1;
}

typedef struct {
    pattern *list;         /* [D] at most */
    int64_t n;
    int32_t *of_pair;      /* [D]  number of the pattern of each pair, then of its class */
    int32_t *first_perm;   /* [D] */
    int32_t *one, *other;  /* [P] */
    int32_t *class_of;     /* [D]  class of each pattern */
} workspace;

static void find_patterns(int64_t n_perms, int64_t n_desc, const int32_t *images, workspace *w)
{
    for (int64_t k = 0; k < n_desc; ++k) {
        find_pattern(n_perms, n_desc, images, k, w->first_perm, w->one);
        const uint64_t hash = hash_of(n_perms, w->one);
        int64_t m = 0;
        for (; m < w->n; ++m) {
            if (w->list[m].hash != hash) continue;
            find_pattern(n_perms, n_desc, images, w->list[m].first, w->first_perm, w->other);
            if (!memcmp(w->one, w->other, (size_t)n_perms * sizeof *w->one)) break;
        }
        if (m == w->n) {
            w->list[w->n++] = (pattern){.hash = hash, .first = k, .number = m};
            for (int64_t p = 0; p < n_perms; ++p) w->list[m].n_images += w->one[p] == p;
        }
        ++w->list[m].n_pairs;
        w->of_pair[k] = (int32_t)m;
    }
}

/* Sort patterns by merit and turn the numbers of patterns into those of classes. Returns the number of classes that
 * save work; pairs of the others are in class number that. */
static int64_t choose_classes(int64_t n_perms, int64_t n_desc, int64_t max_images, workspace *w)
{
    const int64_t cost_class = n_perms <= MANY_PERMS ? COST_CLASS : COST_CLASS_MANY;
    int64_t n_classes = 0, n_images = 0;
    for (int64_t m = 0; m < w->n; ++m) {
        pattern *p = w->list + m;
        p->merit = (double)(COST_PAIR * (n_perms - p->n_images) * p->n_pairs - cost_class * n_perms) /
                   (double)p->n_images;
    }
    qsort(w->list, (size_t)w->n, sizeof *w->list, by_merit);
    for (int64_t m = 0; m < w->n; ++m) w->class_of[w->list[m].number] = -1;
    for (int64_t m = 0; m < w->n; ++m) {
        const pattern p = w->list[m];
        if (p.merit <= 0 || n_images + p.n_images > max_images) continue;
        n_images += p.n_images;
        w->class_of[p.number] = (int32_t)n_classes;
        w->list[n_classes++] = p;
    }
    for (int64_t k = 0; k < n_desc; ++k) {
        const int32_t h = w->class_of[w->of_pair[k]];
        w->of_pair[k] = h < 0 ? (int32_t)n_classes : h;
    }
    return n_classes;
}

/* Cut the tables from one block of memory. */
static int allocate(gdml_pair_classes *c, int64_t n_perms, int64_t n_desc)
{
    const int64_t h = c->n_classes;
    const int64_t lengths[8] = {n_desc, h + 1, h + 1, h + 1, c->n_pair_images, h * n_perms, c->n_images + 1,
                                h * n_perms};
    int32_t **const tables[8] = {&c->order, &c->class_begin, &c->class_image, &c->image_begin, &c->image_pair,
                                 &c->perm_image, &c->image_perm_begin, &c->image_perm};
    int64_t total = 0;
    for (int i = 0; i < 8; ++i) total += lengths[i];
    int32_t *memory = calloc((size_t)total, sizeof *memory);
    if (!memory) return 0;
    for (int i = 0; i < 8; memory += lengths[i++]) *tables[i] = memory;
    return 1;
}

static void fill(gdml_pair_classes *c, int64_t n_perms, int64_t n_desc, const int32_t *images, int64_t n_sharing,
                 workspace *w)
{
    for (int64_t h = 0, at = 0; h < c->n_classes; ++h) {
        const int identity = h == n_sharing;               /* the class that shares nothing */
        int32_t *const order = c->order + at;
        int64_t n_pairs = 0, n_images = 0;
        for (int64_t k = 0; k < n_desc; ++k)
            if (w->of_pair[k] == h) order[n_pairs++] = (int32_t)k;
        if (!identity) find_pattern(n_perms, n_desc, images, order[0], w->first_perm, w->one);
        int32_t *image_pair = c->image_pair + c->image_begin[h];
        for (int64_t p = 0; p < n_perms; ++p) {
            int32_t *number = c->perm_image + h * n_perms;
            if (!identity && w->one[p] != p) {
                number[p] = number[w->one[p]];
                continue;
            }
            for (int64_t k = 0; k < n_pairs; ++k) *image_pair++ = images[p * n_desc + order[k]];
            number[p] = (int32_t)(c->class_image[h] + n_images++);
        }
        at += n_pairs;
        c->class_begin[h + 1] = (int32_t)at;
        c->class_image[h + 1] = (int32_t)(c->class_image[h] + n_images);
        c->image_begin[h + 1] = (int32_t)(c->image_begin[h] + n_images * n_pairs);
    }
    /* The permutations that give each image, by counting: begin[i] moves to where image i ends, and then back. */
    int32_t *begin = c->image_perm_begin;
    for (int64_t k = 0; k < c->n_classes * n_perms; ++k) ++begin[c->perm_image[k] + 1];
    for (int64_t i = 0; i < c->n_images; ++i) begin[i + 1] += begin[i];
    for (int64_t k = 0; k < c->n_classes * n_perms; ++k) c->image_perm[begin[c->perm_image[k]]++] = (int32_t)(k % n_perms);
    memmove(begin + 1, begin, (size_t)c->n_images * sizeof *begin);
    begin[0] = 0;
}

int gdml_pair_classes_new(gdml_pair_classes *c, int64_t n_perms, int64_t n_desc, const int32_t *images,
                          int64_t max_images)
{
    memset(c, 0, sizeof *c);
    const size_t d = (size_t)n_desc, p = (size_t)n_perms;
    workspace w = {malloc(d * sizeof(pattern)),     0,
                   malloc(d * sizeof(int32_t)),     malloc(d * sizeof(int32_t)),
                   malloc(p * sizeof(int32_t)),     malloc(p * sizeof(int32_t)),
                   malloc(d * sizeof(int32_t))};
    int done = 0;
    if (w.list && w.of_pair && w.first_perm && w.one && w.other && w.class_of) {
        find_patterns(n_perms, n_desc, images, &w);
        const int64_t n_sharing = choose_classes(n_perms, n_desc, max_images, &w);
        int64_t n_left = n_desc;
        for (int64_t h = 0; h < n_sharing; ++h) {
            n_left -= w.list[h].n_pairs;
            c->n_images += w.list[h].n_images;
            c->n_pair_images += w.list[h].n_images * w.list[h].n_pairs;
        }
        c->n_classes = n_sharing + (n_left > 0);
        c->n_images += n_left > 0 ? n_perms : 0;
        c->n_pair_images += n_left * n_perms;
        done = allocate(c, n_perms, n_desc);
        if (done) fill(c, n_perms, n_desc, images, n_sharing, &w);
    }
    free(w.list);
    free(w.of_pair);
    free(w.first_perm);
    free(w.one);
    free(w.other);
    free(w.class_of);
    return done;
}

void gdml_pair_classes_free(gdml_pair_classes *c)
{
    free(c->order);
    c->order = NULL;
}
