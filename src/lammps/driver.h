/* Private interface between the set-up of a model in LAMMPS (attach.c) and its steps (step.c). */
#ifndef GDML_LAMMPS_DRIVER_H
#define GDML_LAMMPS_DRIVER_H

#include "fastgdml_lammps.h"
#include "model.h"

enum { GDML_FIX_ID_LENGTH = 41, GDML_PROPERTY_LENGTH = GDML_FIX_ID_LENGTH + 16, GDML_TEXT_LENGTH = 1024 };
/* Of each molecule: energy, virial xx yy zz xy xz yz, the order of LAMMPS; largest standard deviation of a force. */
enum { GDML_N_VIRIAL = 6, GDML_LARGEST_STD = 7, GDML_N_SUMS = 8 };

/* The functions of LAMMPS, by the types that they have. */
typedef struct {
    char *(*command)(void *, const char *);
    int (*extract_setting)(void *, const char *);
    void *(*extract_global)(void *, const char *);
    void *(*extract_atom)(void *, const char *);
    void (*gather_subset)(void *, const char *, int, int, int, int *, void *);
    int (*has_id)(void *, const char *, const char *);
    int (*has_error)(void *);
    int (*get_last_error_message)(void *, char *, int);
    void (*force_timeout)(void *);
    void (*set_callback)(void *, const char *, fastgdml_lammps_function, void *);
    void (*set_energy)(void *, const char *, double);
    void (*set_virial)(void *, const char *, double *);
    void (*set_vector_length)(void *, const char *, int);
    void (*set_vector)(void *, const char *, int, double);
    void *(*extract_fix)(void *, const char *, int, int, int, int);
    void (*free)(void *);
} gdml_lammps_calls;

/* LAMMPS's own variables of the box; they stay where they are as long as there is a box. */
typedef struct {
    const double *low, *high, *xy, *xz, *yz;
    const int *periodic;
} gdml_lammps_box;

typedef struct {
    int64_t id;
    int slot;
} gdml_id_slot;

/* Slot: an atom of a molecule; slot m n_atoms + a is atom a of molecule m. */
struct fastgdml_lammps {
    gdml_lammps_calls call;
    void *lmp;
    char fix_id[GDML_FIX_ID_LENGTH];
    char property_fix[GDML_PROPERTY_LENGTH];
    char mark[GDML_PROPERTY_LENGTH];      /* property of atoms: 1 + slot, 0 of others. It stays with an atom whose ID changes */
    char property[GDML_PROPERTY_LENGTH];  /* sums of each molecule, at its first atom; with several MPI ranks */

    const fastgdml_model *model;
    int64_t n_molecules, n_atoms, n_slots;
    int n_threads, n_ranks;
    int any_cell, periodic_model, is_marked, std;
    double max_std;               /* in units of the model; 0: no limit */
    size_t tag_bytes;             /* of an atom ID of LAMMPS */
    double to_length;             /* what LAMMPS's lengths are multiplied by for the model */
    double to_energy, to_force;   /* what the model's numbers are multiplied by for LAMMPS */

    gdml_id_slot *by_id;          /* [n_slots] ascending */
    int64_t *id;                  /* [n_slots] */
    int *gather_id;               /* [n_slots]      the same for gather_subset; with several MPI ranks */
    int *gathered;                /* [n_slots]      marks, scratch */
    int64_t largest_id;
    int *first_id;                /* [n_molecules]  of their first atoms */

    int32_t *order, *parent;      /* [n_slots]  the spanning tree of each molecule */

    /* the box, as of the last step */
    gdml_lammps_box box;
    double lattice[9];            /* vectors as columns, unit of LAMMPS */
    int periodic[3];
    gdml_cell cell;               /* of molecules: the same, endless where it is not periodic */
    double edge_limit;            /* of edges of the spanning trees */
    double vectors[9];            /* of a periodic model that folds by rounding: the box that others are compared with */

    /* where atoms are, as of the last step */
    void *tags;                   /* [n_tags] copy of LAMMPS's; n_tags is -1 where there is none */
    int64_t n_tags, max_tags;
    int *local;                   /* [n_slots] index among the atoms of this rank, or -1 */
    int64_t n_active;             /* molecules with an atom on this rank */
    int64_t *active;              /* [n_molecules] */

    double *r;                    /* [n_slots][3] positions in LAMMPS's unit */
    double *r_active, *force;     /* [n_active][n_atoms][3] in units of the model */
    double *energy;               /* [n_active] */
    double *virial;               /* [n_active][3][3] */
    double *energy_std, *force_std;   /* [n_active], [n_active][n_atoms]; if `std` */
    double *sums;                 /* [n_molecules][GDML_N_SUMS] in LAMMPS's unit */

    int64_t last_step;
    fastgdml_status status;       /* of the steps so far */
    int keeps_step;               /* the run ends, but the last step is sound */
    char *failure;                /* NULL: there was no memory for the text */
};

/* What LAMMPS says about its failure to do `what`. */
fastgdml_status gdml_lammps_error(const fastgdml_lammps *driver, const char *what);

/* Read the box, and check it against the cell of a periodic model. */
fastgdml_status gdml_lammps_read_box(fastgdml_lammps *driver);

/* Whether LAMMPS still has the fix of this driver, and not another one of its ID. */
int gdml_lammps_has_fix(const fastgdml_lammps *driver);

/* Mark the atoms of this rank. */
fastgdml_status gdml_lammps_mark_atoms(fastgdml_lammps *driver);

/* Forget requests of per-atom energies and virials at earlier steps. */
void gdml_lammps_forget_requests(const fastgdml_lammps *driver);

/* Read the positions of all molecules, given the atoms of this rank: all that follows but `active` of the members above
 * is the same on all ranks, and so is the status. */
fastgdml_status gdml_lammps_read_positions(fastgdml_lammps *driver, int64_t n_local, const void *tags,
                                           const double *const *x);

/* Make all molecules whole. */
fastgdml_status gdml_lammps_make_whole(fastgdml_lammps *driver);

/* The callback of fix external, for atom IDs of 4 and of 8 bytes. */
void gdml_lammps_step_4(void *driver, int64_t step, int n_local, int32_t *tags, double **x, double **f);
void gdml_lammps_step_8(void *driver, int64_t step, int n_local, int64_t *tags, double **x, double **f);

#endif
