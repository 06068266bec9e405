/* Models in LAMMPS: energies, forces and virials through `fix external`, for programs that run LAMMPS as a library.
 *
 *     #include <lammps/library.h>
 *     #include <fastgdml_lammps.h>
 *
 *     const fastgdml_lammps_api api = FASTGDML_LAMMPS_API;
 *     fastgdml_lammps *driver;
 *     if (fastgdml_lammps_attach(lmp, &api, "gdml", model, n_molecules, ids, NULL, &driver)) puts(fastgdml_last_error());
 *     lammps_command(lmp, "run 1000");
 *     if (fastgdml_lammps_status(driver)) puts(fastgdml_last_error());
 *     fastgdml_lammps_detach(driver);
 *
 * Neither LAMMPS nor MPI is needed to build fastgdml: it calls LAMMPS through the functions that the caller names.
 * Styles of status and errors are those of fastgdml.h.
 */
#ifndef FASTGDML_LAMMPS_H
#define FASTGDML_LAMMPS_H

#include "fastgdml.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Addresses of functions of LAMMPS's C library, of any version from 2022 on. Their types differ in `const` from version
 * to version, so they travel without. FASTGDML_LAMMPS_API fills the structure after library.h was included. */
typedef void (*fastgdml_lammps_function)(void);

typedef struct fastgdml_lammps_api {
    fastgdml_lammps_function command;              /* lammps_command */
    fastgdml_lammps_function extract_setting;      /* lammps_extract_setting */
    fastgdml_lammps_function extract_global;       /* lammps_extract_global */
    fastgdml_lammps_function extract_atom;         /* lammps_extract_atom */
    fastgdml_lammps_function gather_subset;        /* lammps_gather_subset */
    fastgdml_lammps_function has_id;               /* lammps_has_id */
    fastgdml_lammps_function has_error;            /* lammps_has_error */
    fastgdml_lammps_function get_last_error_message;        /* lammps_get_last_error_message */
    fastgdml_lammps_function force_timeout;        /* lammps_force_timeout */
    fastgdml_lammps_function set_fix_external_callback;     /* lammps_set_fix_external_callback */
    fastgdml_lammps_function fix_external_set_energy_global;  /* lammps_fix_external_set_energy_global */
    fastgdml_lammps_function fix_external_set_virial_global;  /* lammps_fix_external_set_virial_global */
    fastgdml_lammps_function fix_external_set_vector_length;  /* lammps_fix_external_set_vector_length */
    fastgdml_lammps_function fix_external_set_vector;         /* lammps_fix_external_set_vector */
    fastgdml_lammps_function extract_fix;          /* lammps_extract_fix */
    fastgdml_lammps_function free;                 /* lammps_free */
} fastgdml_lammps_api;

#define FASTGDML_LAMMPS_API \
    { \
        (fastgdml_lammps_function)lammps_command, \
        (fastgdml_lammps_function)lammps_extract_setting, \
        (fastgdml_lammps_function)lammps_extract_global, \
        (fastgdml_lammps_function)lammps_extract_atom, \
        (fastgdml_lammps_function)lammps_gather_subset, \
        (fastgdml_lammps_function)lammps_has_id, \
        (fastgdml_lammps_function)lammps_has_error, \
        (fastgdml_lammps_function)lammps_get_last_error_message, \
        (fastgdml_lammps_function)lammps_force_timeout, \
        (fastgdml_lammps_function)lammps_set_fix_external_callback, \
        (fastgdml_lammps_function)lammps_fix_external_set_energy_global, \
        (fastgdml_lammps_function)lammps_fix_external_set_virial_global, \
        (fastgdml_lammps_function)lammps_fix_external_set_vector_length, \
        (fastgdml_lammps_function)lammps_fix_external_set_vector, \
        (fastgdml_lammps_function)lammps_extract_fix, \
        (fastgdml_lammps_function)lammps_free \
    }

/* Set members that your program does not name to zero: fastgdml_lammps_options options = {0}. */
typedef struct fastgdml_lammps_options {
    int n_threads;                /* threads of each MPI rank; 0: 1, negative: all that the process may use */
    int any_cell;                 /* a periodic model: 1 takes the box of LAMMPS as it is, and as it changes; 0 demands
                                   * the cell that the model was trained in. No matter for models of several cells */
    const char *energy_unit;      /* units of the model; NULL: those that it records */
    const char *length_unit;
    int std;                      /* 1: standard deviations, of a model with samples for them (fastgdml_model_n_std): the
                                   * largest of a component of a force is the second number of the fix, f_FIX_ID[2], in
                                   * units of LAMMPS */
    double max_std;               /* end the run after a step where that is larger, in units of the model; 0: never */
} fastgdml_lammps_options;

/* A model in a LAMMPS instance. */
typedef struct fastgdml_lammps fastgdml_lammps;

/* Let a model act on molecules in LAMMPS: its energy, forces and virial are added to those of the other styles, on
 * every step of runs and minimisations. Does the commands `fix FIX_ID_atoms all property/atom ...`, which marks the atoms
 * of the model, `fix FIX_ID all external pf/callback 1 1` and `fix_modify FIX_ID energy yes virial yes`. The commands
 * `clear` and `unfix FIX_ID` take the model away, and restart files do not hold it: attach it again.
 *   lmp          the LAMMPS instance, with box and atoms, in units real, metal or electron, and an atom map
 *   api          functions of LAMMPS; copied
 *   fix_id       letters, digits and underscores, at most 40; a fix that does not exist yet
 *   model        not freed before fastgdml_lammps_detach
 *   n_molecules  1 for a periodic model
 *   ids          [n_molecules][n_atoms]  atom IDs of each molecule in the order of the training set; copied
 *   options      or NULL: all zero
 *   out          the driver; NULL on failure
 * Molecules may lie across periodic boundaries, in any box: atoms are followed from neighbour to neighbour, where each
 * must be closer than half of the shortest vector of the box. With MPI every rank calls this with the same arguments;
 * results do not depend on the number of ranks. Elements are not compared with the model's.
 * What a driver cannot do ends a run when it begins: run_style respa, where LAMMPS does not call `fix external`; per-atom
 * energies and stresses, which the model does not have; atom IDs that were given anew since (reset_atoms id,
 * delete_atoms with compress). Then attach again.
 * FASTGDML_ERROR_ARGUMENT, _UNIT, _GEOMETRY (an atom is missing, a molecule does not fit the box, the box is not the cell
 * of the model), _MEMORY, _ENGINE (LAMMPS refused a command). */
FASTGDML_API fastgdml_status fastgdml_lammps_attach(void *lmp, const fastgdml_lammps_api *api, const char *fix_id,
                                                    const fastgdml_model *model, int64_t n_molecules,
                                                    const int64_t *ids, const fastgdml_lammps_options *options,
                                                    fastgdml_lammps **out);

/* What went wrong during runs; fastgdml_last_error gives the text. A failure ends the run after the step: energy and
 * forces of that step are NaN (forces 0 where a barostat would stumble over them), lammps_has_error is true, with the text
 * in the message of lammps_get_last_error_message (LAMMPS built without exceptions exits, as after any error), and further
 * runs do nothing before fastgdml_lammps_detach. After max_std the step keeps its energy and forces. FASTGDML_ERROR_ENGINE: LAMMPS has no such fix any more (clear, unfix).
 * Before lammps_close. NULL counts as a success. */
FASTGDML_API fastgdml_status fastgdml_lammps_status(const fastgdml_lammps *driver);

/* Remove the fixes from LAMMPS, unless they are gone or another driver has taken their IDs, and free the driver. Between
 * runs, and before lammps_close. With MPI on every rank. NULL is fine. */
FASTGDML_API void fastgdml_lammps_detach(fastgdml_lammps *driver);

/* Free the driver when LAMMPS does not call it any more: after lammps_close, or the command `clear`. NULL is fine. */
FASTGDML_API void fastgdml_lammps_free(fastgdml_lammps *driver);

#ifdef __cplusplus
}
#endif

#endif
