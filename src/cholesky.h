/* Cholesky factorisation and triangular solves in tiles, for any number of threads with the same bits. Only for the
 * extension module _packed, which has BLAS and LAPACK from SciPy. */
#ifndef GDML_CHOLESKY_H
#define GDML_CHOLESKY_H

#include <stddef.h>
#include <stdint.h>

/* Numbers of one precision: their size, 1 and -1, and functions of BLAS and LAPACK, which may be called by several threads
 * at once and use one each. */
typedef struct {
    size_t size;
    void *one, *minus_one;
    void (*gemm)(char *, char *, int *, int *, int *, void *, void *, int *, void *, int *, void *, void *, int *);
    void (*syrk)(char *, char *, int *, int *, void *, void *, int *, void *, void *, int *);
    void (*trsm)(char *, char *, char *, char *, int *, int *, void *, void *, int *, void *, int *);
    void (*potrf)(char *, int *, void *, int *, int *);
} gdml_blas;

/* A symmetric matrix of order n by parts: the leading triangle of order n1 (lower), the rectangle (n - n1, n1) below it,
 * and the trailing triangle (upper). A dense lower triangle has n1 = n. The rectangle has a leading dimension of its own. */
typedef struct {
    int n, n1, ld, ld_rectangle;
    void *leading, *rectangle, *trailing;
} gdml_symmetric;

/* What is done to `rows` by `columns` tiles from (i, j) on: updated by column k of tiles; with k = j they are finished,
 * divided by tile (j, j), or factored if it is that tile. */
typedef struct {
    int i, rows, j, columns, k;
} gdml_tile_task;

typedef struct {
    gdml_symmetric matrix;
    gdml_blas blas;
    int tile;               /* order of tiles */
    int solves;             /* the leading triangle is a factor F already, only the rectangle B is worked on: B F^-T */
    int n_leading, n_tiles; /* tiles of the leading triangle, of the whole, along a side */
    gdml_tile_task next;    /* the first task that was not handed out yet */
    int *progress;          /* of each tile (j, i) the tasks that were done; n_tiles * n_tiles zeros */
    int info;               /* of the first tile that is not positive definite, as LAPACK counts; else 0 */
} gdml_factorization;

/* Tiles along a side; of both triangles together. */
int gdml_count_tiles(const gdml_symmetric *matrix, int tile);

/* Begin, with `matrix`, `blas`, `tile`, `solves` and `progress` set. */
void gdml_factorization_begin(gdml_factorization *f);

/* Write up to `most` tasks, in an order in which each comes after those that it waits for; return how many. */
int gdml_next_tasks(gdml_factorization *f, gdml_tile_task *tasks, int most);

/* Do these tasks. */
void gdml_do_tasks(gdml_factorization *f, const gdml_tile_task *tasks, int n_tasks, int n_threads);

#endif
