/* Times of predictions without Python, for c_library.py.
 *
 *     c_library MODEL.fgdml GEOMETRIES THREADS SECONDS
 *
 * GEOMETRIES holds positions as doubles. Prints the seconds of a call with one geometry, another each time, and the
 * seconds a geometry of calls with all; of each the least of several rounds within SECONDS.
 */
#include <fastgdml.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct {
    fastgdml_model *model;
    int64_t n_geo, n_coord;
    double *r, *energy, *forces;
    int n_threads;
} work;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void stop_with(const char *message)
{
    fprintf(stderr, "%s\n", message);
    exit(1);
}

static void predict(const work *w, int64_t first, int64_t n_geo)
{
    if (fastgdml_predict(w->model, n_geo, w->r + first * w->n_coord, NULL, w->energy + first, w->forces + first * w->n_coord,
                         NULL, w->n_threads))
        stop_with(fastgdml_last_error());
}

/* The least seconds a geometry of rounds that go through all geometries, `step` in a call. */
static double fastest(const work *w, int64_t step, double limit)
{
    const double begin = now();
    double best = 1e30;
    do {
        const double start = now();
        for (int64_t first = 0; first + step <= w->n_geo; first += step) predict(w, first, step);
        const double seconds = (now() - start) / (double)(w->n_geo / step * step);
        if (seconds < best) best = seconds;
    } while (now() - begin < limit);
    return best;
}

int main(int argc, char **argv)
{
    if (argc != 5) stop_with("usage: c_library MODEL.fgdml GEOMETRIES THREADS SECONDS");
    work w = {.n_threads = atoi(argv[3])};
    if (fastgdml_model_load(argv[1], &w.model)) stop_with(fastgdml_last_error());
    w.n_coord = 3 * fastgdml_model_n_atoms(w.model);
    FILE *file = fopen(argv[2], "rb");
    if (!file || fseek(file, 0, SEEK_END)) stop_with("the geometries cannot be read");
    w.n_geo = ftell(file) / ((long)sizeof(double) * (long)w.n_coord);
    const size_t count = (size_t)(w.n_geo * w.n_coord);
    rewind(file);
    w.r = malloc(count * sizeof(double));
    w.forces = malloc(count * sizeof(double));
    w.energy = malloc((size_t)w.n_geo * sizeof(double));
    if (!count || !w.r || !w.forces || !w.energy || fread(w.r, sizeof(double), count, file) != count)
        stop_with("the geometries cannot be read");
    fclose(file);
    predict(&w, 0, w.n_geo);                               /* pages and threads are there from now on */
    printf("%.9g %.9g\n", fastest(&w, 1, atof(argv[4])), fastest(&w, w.n_geo, atof(argv[4])));
    fastgdml_model_free(w.model);
    free(w.r);
    free(w.energy);
    free(w.forces);
    return 0;
}
