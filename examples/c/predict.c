/* Energies and forces of geometries in a text file.
 *
 *     cc predict.c -o predict $(fastgdml-config --cflags --libs)
 *     ./predict ethanol.fgdml geometries.txt
 *
 * The text file has one line for each atom, x y z, in the length unit of the model and the order of its atoms, geometry
 * after geometry. Prints a line for each geometry: its energy, and its largest component of a force.
 */
#include <fastgdml.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void stop_with(const char *what, const char *why)
{
    fprintf(stderr, "%s%s\n", what, why);
    exit(1);
}

static void *allocate(void *old, size_t bytes)
{
    void *memory = realloc(old, bytes);
    if (!memory) stop_with("not enough memory", "");
    return memory;
}

/* All numbers of a file. */
static double *read_numbers(const char *path, size_t *count)
{
    FILE *file = fopen(path, "r");
    if (!file) stop_with(path, " cannot be opened");
    size_t room = 3000;
    double *numbers = allocate(NULL, room * sizeof *numbers);
    *count = 0;
    for (double number; fscanf(file, "%lf", &number) == 1; numbers[(*count)++] = number)
        if (*count == room) numbers = allocate(numbers, (room *= 2) * sizeof *numbers);
    if (!feof(file)) stop_with(path, " holds what is no number");
    fclose(file);
    return numbers;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL.fgdml GEOMETRIES.txt\n", argv[0]);
        return 2;
    }

    fastgdml_model *model;
    if (fastgdml_model_load(argv[1], &model)) stop_with(fastgdml_last_error(), "");
    size_t count;
    const size_t n_coord = 3 * (size_t)fastgdml_model_n_atoms(model);
    double *r = read_numbers(argv[2], &count);
    if (count == 0 || count % n_coord != 0) stop_with(argv[2], " does not hold whole geometries");

    /* All geometries in one call: faster than one by one. 0: as many threads as there are. */
    const size_t n_geo = count / n_coord;
    double *energy = allocate(NULL, n_geo * sizeof *energy), *forces = allocate(NULL, count * sizeof *forces);
    if (fastgdml_predict(model, (int64_t)n_geo, r, NULL, energy, forces, NULL, 0))
        stop_with(fastgdml_last_error(), "");

    printf("# energy in %s, largest component of a force in %s/%s\n", fastgdml_model_energy_unit(model),
           fastgdml_model_energy_unit(model), fastgdml_model_length_unit(model));
    for (size_t geo = 0; geo < n_geo; ++geo) {
        double largest = 0;
        for (size_t i = 0; i < n_coord; ++i) {
            const double size = fabs(forces[geo * n_coord + i]);
            if (size > largest) largest = size;
        }
        printf("%17.9E %17.9E\n", energy[geo], largest);
    }

    free(r);
    free(energy);
    free(forces);
    fastgdml_model_free(model);
    return 0;
}
