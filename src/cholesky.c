/* Cholesky factorisation, and triangular solves, in tiles. Threads take tasks in the order of one list, in which each task
 * comes after those whose results it needs, and wait for these. What a tile goes through does not depend on which thread
 * does it, so the bits are the same for any number; LAPACK with threads of its own cuts the matrix by their number.
 */
#include "cholesky.h"

#include "system.h"

/* Triangular solves are halved down to this order: BLAS does products faster. */
#define LEAST_DIVISION 64
/* Looks at a tile before the processor is offered to others. */
#define LOOKS 4096

static int tiles_of(int n, int tile)
{
    return (n + tile - 1) / tile;
}

int gdml_count_tiles(const gdml_symmetric *matrix, int tile)
{
    return tiles_of(matrix->n1, tile) + tiles_of(matrix->n - matrix->n1, tile);
}

/* ---- the list of tasks ---- */

/* Products of tall matrices are faster: several tiles of a column are a task, where tiles are stored as their transposes
 * several of a row. But there must be enough tasks: so many to a column or row, if it has the tiles. */
#define LEAST_TASKS 4
#define MOST_TILES 8

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* How many of the tiles from `begin` to `end` are a task, if `all` are worked on. */
static int share_of(int all, int begin, int end)
{
    const int share = min_int(all / LEAST_TASKS, MOST_TILES);
    return min_int(share > 1 ? share : 1, end - begin);
}

static gdml_tile_task one_tile(int i, int j, int k)
{
    return (gdml_tile_task){i, 1, j, 1, k};
}

/* Tiles of column j below its diagonal, from row i on */
static gdml_tile_task in_column(const gdml_factorization *f, int i, int j, int k)
{
    gdml_tile_task t = one_tile(i, j, k);
    const int all = f->solves ? f->n_tiles : f->n_tiles - j;
    if (j < f->n_leading) t.rows = share_of(all, i, i < f->n_leading ? f->n_leading : f->n_tiles);
    return t;
}

/* Tiles of row i of the trailing triangle, from column j on: before its diagonal, or that */
static gdml_tile_task in_row(const gdml_factorization *f, int i, int j, int k)
{
    gdml_tile_task t = one_tile(i, j, k);
    if (j < i) t.columns = share_of(i - k, j, i);
    return t;
}

/* Column k is finished, its diagonal tile first; then its products update what is behind it, the next column first. That
 * one's diagonal tile is factored as soon as it is updated, so that nobody waits for it later. Then come the other
 * columns of the leading triangle and rectangle, and the rows of the trailing triangle. */
static gdml_tile_task after(const gdml_factorization *f, gdml_tile_task t)
{
    const int n = f->n_tiles, k = t.k, first_row = k + 2 > f->n_leading ? k + 2 : f->n_leading;
    if (t.i == t.j && t.j == k) { /* factored, after an update by the column before */
        if (t.i + 1 == n) return one_tile(n, n, n);
        return k ? in_column(f, t.i + 1, t.j, k - 1) : in_column(f, 1, 0, 0);
    }
    if (t.i == t.j && t.j == k + 1) return one_tile(t.j, t.j, t.j);
    if (t.j >= first_row) { /* in a row */
        if (t.j < t.i) return in_row(f, t.i, t.j + t.columns, k);
        if (t.i + 1 < n) return in_row(f, t.i + 1, first_row, k);
        return in_column(f, k + 2, k + 1, k + 1);
    }
    if (t.i + t.rows < n) return in_column(f, t.i + t.rows, t.j, k);
    if (t.j == k) return one_tile(k + 1, k + 1, k);
    if (t.j + 1 < f->n_leading) return one_tile(t.j + 1, t.j + 1, k);
    return first_row < n ? in_row(f, first_row, first_row, k) : in_column(f, k + 2, k + 1, k + 1);
}

/* A column of the rectangle is divided, then its products update those behind it. */
static gdml_tile_task after_in_solution(const gdml_factorization *f, gdml_tile_task t)
{
    const int below = t.i + t.rows, k = t.k;
    if (t.j == k) {
        if (below < f->n_tiles) return in_column(f, below, k, k);
        return k + 1 < f->n_leading ? in_column(f, f->n_leading, k + 1, k) : one_tile(f->n_tiles, k, f->n_tiles);
    }
    if (t.j + 1 < f->n_leading) return in_column(f, t.i, t.j + 1, k);
    return below < f->n_tiles ? in_column(f, below, k + 1, k) : in_column(f, f->n_leading, k + 1, k + 1);
}

void gdml_factorization_begin(gdml_factorization *f)
{
    f->n_leading = tiles_of(f->matrix.n1, f->tile);
    f->n_tiles = gdml_count_tiles(&f->matrix, f->tile);
    f->info = 0;
    f->next = one_tile(0, 0, 0);
    if (!f->solves) return;
    f->next = in_column(f, f->n_leading, 0, 0);
    for (int j = 0; j < f->n_leading; ++j)
        for (int i = j; i < f->n_leading; ++i) f->progress[(int64_t)j * f->n_tiles + i] = j + 1;
}

int gdml_next_tasks(gdml_factorization *f, gdml_tile_task *tasks, int most)
{
    int count = 0;
    while (count < most && f->next.k < f->n_tiles) {
        tasks[count++] = f->next;
        f->next = f->solves ? after_in_solution(f, f->next) : after(f, f->next);
    }
    return count;
}

/* ---- tiles ---- */

static int begin_of(const gdml_factorization *f, int t)
{
    return t < f->n_leading ? t * f->tile : f->matrix.n1 + (t - f->n_leading) * f->tile;
}

static int size_of(const gdml_factorization *f, int t)
{
    const int end = t < f->n_leading ? f->matrix.n1 : f->matrix.n;
    return min_int(end - begin_of(f, t), f->tile);
}

/* Rows or columns of so many tiles */
static int extent_of(const gdml_factorization *f, int first, int n_tiles)
{
    const int last = first + n_tiles - 1;
    return begin_of(f, last) + size_of(f, last) - begin_of(f, first);
}

/* Tiles of the trailing triangle are stored as their transposes. */
static int is_transposed(const gdml_factorization *f, int j)
{
    return j >= f->n_leading;
}

static int is_in_rectangle(const gdml_factorization *f, int i, int j)
{
    return i >= f->n_leading && j < f->n_leading;
}

static int ld_of(const gdml_factorization *f, int i, int j)
{
    return is_in_rectangle(f, i, j) ? f->matrix.ld_rectangle : f->matrix.ld;
}

/* The element so far behind another one */
static void *element(const gdml_factorization *f, void *a, int64_t distance)
{
    return (char *)a + distance * (int64_t)f->blas.size;
}

static void *tile_of(const gdml_factorization *f, int i, int j)
{
    const gdml_symmetric *m = &f->matrix;
    const int64_t row = begin_of(f, i), column = begin_of(f, j);
    if (is_in_rectangle(f, i, j)) return element(f, m->rectangle, (row - m->n1) + column * m->ld_rectangle);
    if (i < f->n_leading) return element(f, m->leading, row + column * m->ld);
    return element(f, m->trailing, (column - m->n1) + (row - m->n1) * m->ld);
}

/* B := B F^-T of B (m, n), or its transpose F^-1 B^T with U = F^T stored */
static void divide(const gdml_factorization *f, int transposed, int m, int n, void *factor, void *b, int ld_b)
{
    void *one = f->blas.one, *minus_one = f->blas.minus_one;
    int ld = f->matrix.ld;
    if (n <= LEAST_DIVISION) {
        if (transposed)
            f->blas.trsm("L", "U", "T", "N", &n, &m, one, factor, &ld, b, &ld_b);
        else
            f->blas.trsm("R", "L", "T", "N", &m, &n, one, factor, &ld, b, &ld_b);
        return;
    }
    int n1 = (n / 2 + LEAST_DIVISION - 1) / LEAST_DIVISION * LEAST_DIVISION, n2 = n - n1;
    void *right = element(f, factor, (int64_t)n1 * ld), *rest = element(f, b, transposed ? n1 : (int64_t)n1 * ld_b);
    divide(f, transposed, m, n1, factor, b, ld_b);
    if (transposed)
        f->blas.gemm("T", "N", &n2, &m, &n1, minus_one, right, &ld, b, &ld_b, one, rest, &ld_b);
    else
        f->blas.gemm("N", "T", &m, &n2, &n1, minus_one, b, &ld_b, element(f, factor, n1), &ld, one, rest, &ld_b);
    divide(f, transposed, m, n2, element(f, right, n1), rest, ld_b);
}

/* C_ij -= L_ik L_jk^T */
static void update(const gdml_factorization *f, gdml_tile_task t)
{
    const int i = t.i, j = t.j, k = t.k;
    void *one = f->blas.one, *minus_one = f->blas.minus_one;
    void *c = tile_of(f, i, j), *a = tile_of(f, i, k), *b = tile_of(f, j, k);
    int m = extent_of(f, i, t.rows), n = extent_of(f, j, t.columns), terms = size_of(f, k);
    int ld_a = ld_of(f, i, k), ld_b = ld_of(f, j, k), ld_c = ld_of(f, i, j);
    char *plain = is_transposed(f, k) ? "T" : "N", *other = is_transposed(f, k) ? "N" : "T";
    if (i == j)
        f->blas.syrk(is_transposed(f, j) ? "U" : "L", plain, &n, &terms, minus_one, b, &ld_b, one, c, &ld_c);
    else if (is_transposed(f, j))
        f->blas.gemm(plain, other, &n, &m, &terms, minus_one, b, &ld_b, a, &ld_a, one, c, &ld_c);
    else
        f->blas.gemm(plain, other, &m, &n, &terms, minus_one, a, &ld_a, b, &ld_b, one, c, &ld_c);
}

/* Return LAPACK's info */
static int do_task(const gdml_factorization *f, gdml_tile_task t)
{
    int n = size_of(f, t.j), ld = f->matrix.ld, info = 0;
    void *diagonal = tile_of(f, t.j, t.j);
    if (t.k < t.j)
        update(f, t);
    else if (t.i == t.j)
        f->blas.potrf(is_transposed(f, t.j) ? "U" : "L", &n, diagonal, &ld, &info);
    else
        divide(f, is_transposed(f, t.j), extent_of(f, t.i, t.rows), n, diagonal, tile_of(f, t.i, t.j),
               ld_of(f, t.i, t.j));
    return info ? begin_of(f, t.j) + info : 0;
}

/* ---- threads ---- */

/* Wait until so many tasks of tile (i, j) are done; return 0 if the factorisation has failed. */
static int wait_for(gdml_factorization *f, int i, int j, int done)
{
    const int *progress = f->progress + (int64_t)j * f->n_tiles + i;
    for (int looks = 0; __atomic_load_n(progress, __ATOMIC_ACQUIRE) < done; ++looks) {
        if (__atomic_load_n(&f->info, __ATOMIC_RELAXED)) return 0;
        if (looks >= LOOKS) gdml_yield();
    }
    return 1;
}

static int wait_for_inputs(gdml_factorization *f, gdml_tile_task t)
{
    const int updates = t.k < t.j;
    for (int i = t.i; i < t.i + t.rows; ++i) {
        for (int j = t.j; j < t.j + t.columns; ++j)
            if (!wait_for(f, i, j, t.k)) return 0;
        if (updates && !wait_for(f, i, t.k, t.k + 1)) return 0;
    }
    for (int j = t.j; j < t.j + t.columns; ++j)
        if (updates && !wait_for(f, j, t.k, t.k + 1)) return 0;
    return updates || t.i == t.j || wait_for(f, t.j, t.j, t.j + 1);
}

static void note(gdml_factorization *f, gdml_tile_task t)
{
    for (int j = t.j; j < t.j + t.columns; ++j)
        for (int i = t.i; i < t.i + t.rows; ++i)
            __atomic_store_n(f->progress + (int64_t)j * f->n_tiles + i, t.k + 1, __ATOMIC_RELEASE);
}

void gdml_do_tasks(gdml_factorization *f, const gdml_tile_task *tasks, int n_tasks, int n_threads)
{
    int next = 0;
    (void)n_threads; /* without OpenMP */
#pragma omp parallel num_threads(n_threads) if (n_threads > 1)
    for (;;) {
        const int at = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
        if (at >= n_tasks || !wait_for_inputs(f, tasks[at])) break;
        const gdml_tile_task t = tasks[at];
        const int info = do_task(f, t);
        if (info) {
            __atomic_store_n(&f->info, info, __ATOMIC_RELAXED);
            break;
        }
        note(f, t);
    }
}
