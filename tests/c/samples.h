/* Models with samples for standard deviations, made of what the functions of model.h give back. */
#ifndef SAMPLES_H
#define SAMPLES_H

#include "check.h"
#include "model.h"

/* What a model was made from. */
typedef struct {
    gdml_model_parts parts;
    int32_t *pair_images;
    double *x, *v, *energies;
} check_parts;

static inline check_parts check_parts_of(const fastgdml_model *model)
{
    const gdml_predictor *p = &model->predictor;
    const int64_t n_pairs = p->n_atoms * (p->n_atoms - 1) / 2;
    check_parts c = {
        .pair_images = check_new((size_t)(p->n_perms * n_pairs), sizeof(int32_t)),
        .x = check_doubles(model->n_train * n_pairs),
        .v = check_doubles(model->n_train * n_pairs),
        .energies = check_doubles(model->n_train),
    };
    gdml_model_arrays(model, c.pair_images, c.x, c.v, c.energies);
    c.parts = (gdml_model_parts){
        .n_atoms = p->n_atoms,
        .n_train = model->n_train,
        .n_perms = p->n_perms,
        .z = model->z,
        .pair_images = c.pair_images,
        .x = c.x,
        .v = c.v,
        .energies = p->energy ? c.energies : NULL,
        .weights = model->weights,
        .sig = p->sig,
        .std = model->std,
        .c = model->c,
        .periodicity = model->periodicity,
        .minimum_image = model->minimum_image,
        .lattice = model->lattice,
        .energy_unit = model->energy_unit,
        .length_unit = model->length_unit,
    };
    return c;
}

static inline void check_parts_free(check_parts *c)
{
    free(c->pair_images), free(c->x), free(c->v), free(c->energies);
}

/* The model with n random samples, which the caller gets in v [n][M][D], energies [n][M] and c [n]. */
static inline fastgdml_model *check_with_samples(const fastgdml_model *plain, int64_t n, double scale, double *v,
                                                 double *energies, double *c)
{
    const int64_t n_pairs = plain->predictor.n_atoms * (plain->predictor.n_atoms - 1) / 2;
    check_random random = {77};
    check_parts made = check_parts_of(plain);
    fastgdml_model *model;
    for (int64_t k = 0; k < n * plain->n_train * n_pairs; ++k) v[k] = check_uniform(&random);
    for (int64_t k = 0; k < n * plain->n_train; ++k) energies[k] = check_uniform(&random);
    for (int64_t k = 0; k < n; ++k) c[k] = check_uniform(&random);
    made.parts.samples =
        (gdml_model_samples){.n = n, .v = v, .energies = made.parts.energies ? energies : NULL, .c = c, .scale = scale};
    CHECK(!gdml_model_new(&made.parts, &model));
    check_parts_free(&made);
    return model;
}

#endif
