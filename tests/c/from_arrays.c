/* Predict with a model made of arrays: for tests/test_c_library.py, which writes them and compares results bit by bit.
 *
 *     from_arrays INPUT OUTPUT
 *
 * Input, in bytes of this machine: n_atoms, n_train, n_perms, whether there are coefficients of energies, whether there
 * is a lattice, the image rule, n_geo, whether another lattice to predict in follows, whether there are weights (int64 each);
 * sig, std, c; then the
 * arrays of fastgdml_arrays that are there, in its order; the lattice to predict in; the geometries.
 * Output: energies, forces, virials.
 */
#include <fastgdml.h>

#include <stdio.h>
#include <stdlib.h>

static void *read_array(FILE *file, int64_t count, size_t size)
{
    void *array = malloc((size_t)count * size);
    if (!array || fread(array, size, (size_t)count, file) != (size_t)count) {
        fprintf(stderr, "the input is too short\n");
        exit(1);
    }
    return array;
}

int main(int argc, char **argv)
{
    FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
    if (!file) return 2;
    const int64_t *n = read_array(file, 9, sizeof *n);
    const double *scalars = read_array(file, 3, sizeof *scalars);
    const int64_t n_atoms = n[0], n_pairs = n_atoms * (n_atoms - 1) / 2, n_geo = n[6];
    fastgdml_arrays arrays = {0};
    arrays.n_atoms = n_atoms;
    arrays.n_train = n[1];
    arrays.n_perms = n[2];
    arrays.image_rule = (fastgdml_image_rule)n[5];
    arrays.sig = scalars[0];
    arrays.std = scalars[1];
    arrays.c = scalars[2];
    arrays.atomic_numbers = read_array(file, n_atoms, sizeof(int32_t));
    arrays.perms = read_array(file, n[2] * n_atoms, sizeof(int32_t));
    arrays.descriptors = read_array(file, n[1] * n_pairs, sizeof(double));
    arrays.coefficients = read_array(file, n[1] * n_pairs, sizeof(double));
    if (n[3]) arrays.energy_coefficients = read_array(file, n[1], sizeof(double));
    if (n[4]) arrays.lattice = read_array(file, 9, sizeof(double));
    if (n[8]) arrays.weights = read_array(file, n_pairs, sizeof(double));
    const double *lattice = n[7] ? read_array(file, 9, sizeof(double)) : NULL;
    const double *r = read_array(file, 3 * n_atoms * n_geo, sizeof(double));
    fclose(file);

    const size_t n_results = (size_t)(n_geo * (1 + 3 * n_atoms + 9));
    double *energy = malloc(n_results * sizeof *energy), *forces = energy + n_geo, *virial = forces + 3 * n_atoms * n_geo;
    fastgdml_model *model;
    if (!energy) return 1;
    if (fastgdml_model_from_arrays(&arrays, &model) ||
        fastgdml_predict(model, n_geo, r, lattice, energy, forces, virial, 0)) {
        fprintf(stderr, "%s\n", fastgdml_last_error());
        return 1;
    }
    fastgdml_model_free(model);
    file = fopen(argv[2], "wb");
    return !file || fwrite(energy, sizeof *energy, n_results, file) != n_results || fclose(file);
}
