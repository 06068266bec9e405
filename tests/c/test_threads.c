/* Several threads and processes: they use one model at once, load and free others, and survive a fork. */
#include "check.h"
#include "model.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_GEO = 12, N_ATOMS = 9, N_COORD = 3 * N_ATOMS, N_THREADS = 8, REPETITIONS = 20 };

typedef struct {
    const fastgdml_model *model;
    const char *path;
    const double *r, *e, *f;      /* geometries and what is right */
    int n_threads;
} job;

static void check_predictions(const job *job)
{
    double e[N_GEO], f[N_GEO * N_COORD];
    CHECK(!fastgdml_predict(job->model, N_GEO, job->r, NULL, e, f, NULL, job->n_threads));
    CHECK(same_bits(N_GEO, e, job->e) && same_bits(N_GEO * N_COORD, f, job->f));
}

static void *evaluate(void *argument)
{
    for (int i = 0; i < REPETITIONS; ++i) check_predictions(argument);
    return NULL;
}

/* A model of its own, made anew each time, and a failure whose text no other thread may replace. */
static void *make_and_free(void *argument)
{
    const job *common = argument;
    char missing[50];
    snprintf(missing, sizeof missing, "no file %d", common->n_threads);
    for (int i = 0; i < REPETITIONS; ++i) {
        fastgdml_model *model, *none;
        CHECK_FAILS(fastgdml_model_load(missing, &none), FASTGDML_ERROR_FILE, missing);
        CHECK(!fastgdml_model_load(common->path, &model));
        const job own = {model, NULL, common->r, common->e, common->f, common->n_threads};
        check_predictions(&own);
        fastgdml_model_free(model);
        CHECK(strstr(fastgdml_last_error(), missing));
    }
    return NULL;
}

static void run(void *(*work)(void *), const job *common)
{
    pthread_t threads[N_THREADS];
    job jobs[N_THREADS];
    for (int t = 0; t < N_THREADS; ++t) {
        jobs[t] = *common;
        jobs[t].n_threads = t % 5;                         /* 0: all */
        CHECK(!pthread_create(threads + t, NULL, work, jobs + t));
    }
    for (int t = 0; t < N_THREADS; ++t) CHECK(!pthread_join(threads[t], NULL));
}

/* The runtime's threads do not exist in the child, which would wait for them for ever. */
static void a_forked_child_predicts(const job *common)
{
    job parallel = *common;
    parallel.n_threads = 4;
    check_predictions(&parallel);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        alarm(300);                                        /* a signal ends a child that hangs */
        check_predictions(&parallel);
        const pid_t grandchild = fork();
        if (!grandchild) {
            alarm(300);
            check_predictions(&parallel);
            _exit(0);
        }
        int status;
        _exit(waitpid(grandchild, &status, 0) == grandchild && status == 0 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check_predictions(&parallel);                          /* and the parent goes on */
}

/* The same where the program has used OpenMP itself, and this library no threads before the fork. */
static void a_child_of_a_program_with_openmp_predicts(const job *common)
{
#ifdef _OPENMP
    int n_threads = 0;
#pragma omp parallel num_threads(2) reduction(+ : n_threads)
    n_threads += 1;
    CHECK(n_threads == 2);
#endif
    job parallel = *common;
    parallel.n_threads = 2;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        alarm(300);
        check_predictions(&parallel);
        check_predictions(&parallel);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Write a model to a file, free it, and load it from there. */
static fastgdml_model *through_file(fastgdml_model *model, const char *path)
{
    size_t size;
    const void *image = gdml_model_image(model, &size);
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(image, 1, size, file) == size && !fclose(file));
    fastgdml_model_free(model);
    CHECK(!fastgdml_model_load(path, &model));
    return model;
}

int main(void)
{
    char path[] = "fastgdml_test_XXXXXX";
    const int file = mkstemp(path);
    CHECK(file >= 0);
    close(file);
    fastgdml_model *model = through_file(
        check_model((check_recipe){.n_atoms = N_ATOMS, .n_train = 400, .n_perms = 6}), path);
    double r[N_GEO * N_COORD], e[N_GEO], f[N_GEO * N_COORD];
    check_random random = {1};
    check_geometries(&random, N_GEO, N_ATOMS, r);
    CHECK(!fastgdml_predict(model, N_GEO, r, NULL, e, f, NULL, 1));
    const job common = {model, path, r, e, f, 1};
    a_child_of_a_program_with_openmp_predicts(&common);
    run(evaluate, &common);
    run(make_and_free, &common);
    a_forked_child_predicts(&common);
    fastgdml_model_free(model);
    unlink(path);
    return 0;
}
