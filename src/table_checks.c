/* Whether the tables of a model are what its users take them for. A file may hold anything, and so may the permutations
 * that a program gives: kernels index with these numbers, write through them, and rely on each pair being met once.
 *
 * Checked is what tables mean, not how they were made, so that other versions may sort pairs into other classes:
 *
 *   - the classes part the pairs: `order` names each pair once;
 *   - under each permutation the images of all pairs are all pairs, each once, as a permutation of the atoms moves them;
 *   - the lists of permutations that give an image agree with the images that permutations give;
 *   - the permutations form a group: sums over a part of it are no symmetric energy.
 */
#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition, ...) \
    if (!(condition)) return gdml_fail(FASTGDML_ERROR_FORMAT, __VA_ARGS__)

static int64_t n_pairs(int64_t n_atoms)
{
    return n_atoms * (n_atoms - 1) / 2;
}

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

/* The image of each pair under permutation i. */
static void put_pair_images(const gdml_model *m, int64_t i, int32_t *images)
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

/* Permutations [P][N], found by a hash table that holds their numbers plus one, 0 where it is free. */
typedef struct {
    int64_t n_perms, n_atoms;
    const int32_t *perms;
    uint64_t mask;
    int32_t *slots;               /* [mask + 1] */
} perm_set;

/* Where a permutation [N] is, or the free slot where it belongs. */
static int32_t *slot_of(const perm_set *set, const int32_t *perm)
{
    uint64_t hash = 14695981039346656037u;                 /* FNV-1a, a number at a time */
    for (int64_t a = 0; a < set->n_atoms; ++a) hash = (hash ^ (uint32_t)perm[a]) * 1099511628211u;
    for (uint64_t at = hash ^ hash >> 32;; ++at) {
        int32_t *const slot = set->slots + (at & set->mask);
        if (!*slot || !memcmp(set->perms + (*slot - 1) * set->n_atoms, perm, (size_t)set->n_atoms * sizeof *perm))
            return slot;
    }
}

/* Whether the set is a group. Products of the identity with generators, one after the other, reach a subgroup; a member
 * that is not in it becomes a generator, which at least doubles it. So P members cost P log P products.
 * reached [P], generators [64], in_group [P], product [N]: scratch. Returns NULL or what is wrong. */
static const char *group_problem(const perm_set *set, int32_t *reached, char *in_group, int32_t *product)
{
    const int64_t n_perms = set->n_perms, n_atoms = set->n_atoms;
    for (int64_t i = 0; i < n_perms; ++i) {
        int32_t *const slot = slot_of(set, set->perms + i * n_atoms);
        if (*slot) return "one of its permutations stands twice";
        *slot = (int32_t)(i + 1);
    }
    for (int64_t a = 0; a < n_atoms; ++a) product[a] = (int32_t)a;
    const int32_t identity = *slot_of(set, product) - 1;
    if (identity < 0) return "its permutations are no group: the identity is not among them";
    int64_t generators[64], n_generators = 0, n_reached = 1;
    memset(in_group, 0, (size_t)n_perms);
    in_group[identity] = 1;
    for (int64_t i = 0; i < n_perms; ++i) {
        if (in_group[i]) continue;
        generators[n_generators++] = i;
        memset(in_group, 0, (size_t)n_perms);
        in_group[identity] = 1;
        reached[0] = identity;
        n_reached = 1;
        for (int64_t k = 0; k < n_reached; ++k) {
            const int32_t *const member = set->perms + reached[k] * n_atoms;
            for (int64_t g = 0; g < n_generators; ++g) {
                const int32_t *const generator = set->perms + generators[g] * n_atoms;
                for (int64_t a = 0; a < n_atoms; ++a) product[a] = member[generator[a]];
                const int32_t found = *slot_of(set, product) - 1;
                if (found < 0) return "its permutations are no group: a product of two of them is missing";
                if (in_group[found]) continue;
                in_group[found] = 1;
                reached[n_reached++] = found;
            }
        }
    }
    return NULL;
}

typedef struct {
    char *seen, *in_group;
    int32_t *images, *high, *low, *perms, *product, *reached;
    perm_set set;
} workspace;

static fastgdml_status check_permutations(const gdml_model *m, workspace *w, const char *where)
{
    const gdml_predictor *p = &m->predictor;
    const int64_t n = p->n_atoms, d = n_pairs(n);
    REQUIRE(is_bijection(m->order, d, w->seen), "%s is damaged: its order of pairs names one of them twice", where);
    for (int32_t a = 1, k = 0; a < n; ++a) {
        for (int32_t b = 0; b < a; ++b, ++k) {
            w->high[k] = a;
            w->low[k] = b;
        }
    }
    for (int64_t i = 0; i < p->n_perms; ++i) {
        put_pair_images(m, i, w->images);
        REQUIRE(is_bijection(w->images, d, w->seen) &&
                    (n == 2 || find_atoms(n, w->images, w->high, w->low, w->perms + i * n)),
                "%s is damaged: what permutation %lld does to pairs is no permutation of atoms", where, (long long)i);
    }
    const char *const problem = n == 2 ? NULL : group_problem(&w->set, w->reached, w->in_group, w->product);
    REQUIRE(!problem, "%s is damaged, or was made of wrong permutations: %s", where, problem);
    return FASTGDML_SUCCESS;
}

fastgdml_status gdml_check_tables(const gdml_model *m, int64_t n_images, int64_t n_pair_images, const char *where)
{
    fastgdml_status status = check_ranges(m, n_images, n_pair_images, where);
    if (!status) status = check_members(m, where);
    if (status) return status;
    const size_t n = (size_t)m->predictor.n_atoms, d = n * (n - 1) / 2, n_perms = (size_t)m->predictor.n_perms;
    size_t n_slots = 4;
    while (n_slots < 2 * n_perms) n_slots *= 2;
    workspace w;
    char *const bytes = malloc(d + n_perms);
    int32_t *const numbers = calloc(3 * d + n_perms * n + n + n_perms + n_slots, sizeof *numbers);
    if (bytes && numbers) {
        w.seen = bytes;
        w.in_group = bytes + d;
        w.images = numbers;
        w.high = w.images + d;
        w.low = w.high + d;
        w.perms = w.low + d;
        w.product = w.perms + n_perms * n;
        w.reached = w.product + n;
        w.set = (perm_set){(int64_t)n_perms, (int64_t)n, w.perms, n_slots - 1, w.reached + n_perms};
        status = check_permutations(m, &w, where);
    } else {
        status = gdml_fail(FASTGDML_ERROR_MEMORY, "no memory to check %s", where);
    }
    free(bytes);
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
