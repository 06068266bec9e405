/* Whether the tables of a model are what its users take them for. A file may hold anything, and so may the permutations
 * that a program gives: kernels index with these numbers, write through them, and rely on each pair being met once.
 *
 * Checked is what tables mean, not how they were made, so that other versions may sort pairs into other classes:
 *
 *   - the classes part the pairs: `order` names each pair once;
 *   - under each permutation the images of all pairs are all pairs, each once, as a permutation of the atoms moves them;
 *   - the lists of permutations that give an image agree with the images that permutations give.
 *
 * That permutations form a group is not checked here: sums over a part of one are right as well.
 */
#include "image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition, ...) \
    if (!(condition)) return gdml_fail(FASTGDML_ERROR_FORMAT, __VA_ARGS__)

static int32_t pair_of(int32_t a, int32_t b)
{
    return a > b ? (int32_t)n_pairs(a) + b : (int32_t)n_pairs(b) + a;
}

/* Whether table [n + 1] ascends from 0 to last, by at least one each time. */
static int ascends(const int32_t *table, int64_t n, int64_t last)
{
    for (int64_t i = 0; i < n; ++i)
        if (table[i + 1] <= table[i]) return 0;
    return table[0] == 0 && table[n] == last;
}

int gdml_within(const int32_t *table, int64_t n, int64_t least, int64_t end)
{
    for (int64_t i = 0; i < n; ++i)
        if (table[i] < least || table[i] >= end) return 0;
    return 1;
}

/* Whether table [n] names each of 0..n-1 once; seen: scratch, [n]. */
static int is_bijection(const int32_t *table, int64_t n, char *seen)
{
    memset(seen, 0, (size_t)n);
    for (int64_t i = 0; i < n; ++i) {
        if (table[i] < 0 || table[i] >= n || seen[table[i]]) return 0;
        seen[table[i]] = 1;
    }
    return 1;
}

/* Ranges, and sizes that depend on each other: afterwards nothing is indexed out of its table. */
static fastgdml_status check_ranges(const gdml_model *m, int64_t n_images, int64_t n_pair_images, const char *where)
{
    const gdml_predictor *p = &m->predictor;
    const int64_t d = n_pairs(p->n_atoms), n_members = p->n_classes * p->n_perms;
    REQUIRE(ascends(p->class_begin, p->n_classes, d), "%s is damaged: its classes do not part the %lld pairs of atoms",
            where, (long long)d);
    REQUIRE(ascends(p->class_image, p->n_classes, n_images) && ascends(p->image_begin, p->n_classes, n_pair_images) &&
                ascends(p->image_perm_begin, n_images, n_members),
            "%s is damaged: a table of images does not ascend from zero to their number", where);
    REQUIRE(gdml_within(m->order, d, 0, d) && gdml_within(p->image_pair, n_pair_images, 0, d) &&
                gdml_within(p->image_perm, n_members, 0, p->n_perms),
            "%s is damaged: a table names a pair of atoms or a permutation that there is not", where);
    for (int64_t h = 0; h < p->n_classes; ++h) {
        const int32_t *image = p->class_image + h;
        const int64_t images = image[1] - image[0], pairs = p->class_begin[h + 1] - p->class_begin[h];
        REQUIRE(images <= p->n_perms && images * pairs == p->image_begin[h + 1] - p->image_begin[h] &&
                    gdml_within(p->perm_image + h * p->n_perms, p->n_perms, image[0], image[1]),
                "%s is damaged: the images of class %lld contradict each other", where, (long long)h);
    }
    return FASTGDML_SUCCESS;
}

/* Both directions of the relation between permutations and images. As the lists have n_classes P entries in all, it is
 * enough that each list ascends and that each of its members gives the image. */
static fastgdml_status check_members(const gdml_model *m, const char *where)
{
    const gdml_predictor *p = &m->predictor;
    for (int64_t h = 0; h < p->n_classes; ++h) {
        for (int64_t i = p->class_image[h]; i < p->class_image[h + 1]; ++i) {
            for (int64_t k = p->image_perm_begin[i]; k < p->image_perm_begin[i + 1]; ++k) {
                REQUIRE((k == p->image_perm_begin[i] || p->image_perm[k] > p->image_perm[k - 1]) &&
                            p->perm_image[h * p->n_perms + p->image_perm[k]] == i,
                        "%s is damaged: the permutations that give image %lld are others than those listed", where,
                        (long long)i);
            }
        }
    }
    return FASTGDML_SUCCESS;
}

/* ---- permutations of atoms -------------------------------------------------------------------------------------- */

void gdml_pair_images(const gdml_model *m, int64_t i, int32_t *images)
{
    const gdml_predictor *p = &m->predictor;
    for (int64_t h = 0; h < p->n_classes; ++h) {
        const int64_t n = p->class_begin[h + 1] - p->class_begin[h];
        const int32_t image = p->perm_image[h * p->n_perms + i] - p->class_image[h];
        const int32_t *from = p->image_pair + p->image_begin[h] + image * n;
        for (int64_t k = 0; k < n; ++k) images[m->order[p->class_begin[h] + k]] = from[k];
    }
}

/* The permutation of atoms, at least three, that moves pairs to their images, which are a bijection; returns 0 if there
 * is none. Atom a is what pairs (a, b) and (a, c) share, and so are their images. */
static int find_atoms(int64_t n_atoms, const int32_t *images, const int32_t *high, const int32_t *low, int32_t *perm)
{
    for (int32_t a = 0; a < n_atoms; ++a) {
        const int32_t b = a == 0, c = a <= 1 ? 2 : 1;
        const int32_t one = images[pair_of(a, b)], other = images[pair_of(a, c)];
        perm[a] = high[one] == high[other] || high[one] == low[other] ? high[one] : low[one];
    }
    for (int32_t a = 1, k = 0; a < n_atoms; ++a)
        for (int32_t b = 0; b < a; ++b, ++k)
            if (perm[a] == perm[b] || images[k] != pair_of(perm[a], perm[b])) return 0;
    return 1;
}

static fastgdml_status check_permutations(const gdml_model *m, char *seen, int32_t *numbers, const char *where)
{
    const gdml_predictor *p = &m->predictor;
    const int64_t n = p->n_atoms, d = n_pairs(n);
    int32_t *const images = numbers, *const high = images + d, *const low = high + d, *const perm = low + d;
    REQUIRE(is_bijection(m->order, d, seen), "%s is damaged: its order of pairs names one of them twice", where);
    for (int32_t a = 1, k = 0; a < n; ++a) {
        for (int32_t b = 0; b < a; ++b, ++k) {
            high[k] = a;
            low[k] = b;
        }
    }
    for (int64_t i = 0; i < p->n_perms; ++i) {
        gdml_pair_images(m, i, images);
        REQUIRE(is_bijection(images, d, seen) && (n == 2 || find_atoms(n, images, high, low, perm)),
                "%s is damaged: what permutation %lld does to pairs is no permutation of atoms", where, (long long)i);
    }
    return FASTGDML_SUCCESS;
}

fastgdml_status gdml_check_tables(const gdml_model *m, int64_t n_images, int64_t n_pair_images, const char *where)
{
    fastgdml_status status = check_ranges(m, n_images, n_pair_images, where);
    if (!status) status = check_members(m, where);
    if (status) return status;
    const size_t n = (size_t)m->predictor.n_atoms, d = n * (n - 1) / 2;
    char *const seen = malloc(d);
    int32_t *const numbers = malloc((3 * d + n) * sizeof *numbers);
    status = seen && numbers ? check_permutations(m, seen, numbers, where)
                             : gdml_fail(FASTGDML_ERROR_MEMORY, "no memory to check %s", where);
    free(seen);
    free(numbers);
    return status;
}

fastgdml_status gdml_check_weights(const gdml_model *m, const char *where)
{
    const gdml_predictor *p = &m->predictor;
    for (int64_t k = 0; k < n_pairs(p->n_atoms); ++k)
        REQUIRE(m->weights[k] > 0 && m->weights[k] < INFINITY,
                "%s holds a weight of a pair that is no positive number: weight %lld is %g", where, (long long)k,
                m->weights[k]);
    for (int64_t c = 0; c < p->n_classes; ++c) {
        const int64_t n = p->class_begin[c + 1] - p->class_begin[c];
        for (int64_t at = p->image_begin[c]; at < p->image_begin[c + 1]; ++at) {
            const double own = m->weights[m->order[p->class_begin[c] + (at - p->image_begin[c]) % n]];
            REQUIRE(fabs(m->weights[p->image_pair[at]] - own) <= 1e-12 * own,
                    "%s holds weights of pairs that its permutations change", where);
        }
    }
    return FASTGDML_SUCCESS;
}
