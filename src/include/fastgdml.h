/* fastgdml: symmetric gradient-domain machine-learned (sGDML) force fields for programs in C, C++ and Fortran.
 *
 *     fastgdml_model *model;
 *     if (fastgdml_model_load("ethanol.fgdml", &model)) puts(fastgdml_last_error());
 *     fastgdml_predict(model, 1, positions, NULL, &energy, forces, NULL, 1);
 *     fastgdml_model_free(model);
 *
 * Model files are written by `fastgdml export model.npz model.fgdml`.
 *
 * Arrays are contiguous, the last index runs fastest. Energies, lengths and all that follows from them are in the units
 * of the model: fastgdml_model_energy_unit, fastgdml_model_length_unit; fastgdml_energy_factor and
 * fastgdml_length_factor convert. Atoms come in the order of the training set: fastgdml_model_atomic_numbers.
 *
 * Models do not change after they are made. Any number of threads may use one at the same time; the processes of a
 * machine that load the same file share its memory. Results do not depend on the number of threads, to the last bit.
 *
 * Functions that can fail return a status, 0 for success; fastgdml_last_error explains the failure. Output arguments
 * are then undefined, but for the model of fastgdml_model_load and fastgdml_model_from_arrays, which is set to NULL.
 * None prints, exits, or needs more than the C library (and OpenMP's, if the build found one).
 */
#ifndef FASTGDML_H
#define FASTGDML_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(FASTGDML_BUILD_SHARED)
#define FASTGDML_API __declspec(dllexport)
#elif defined(__GNUC__) && !defined(_WIN32)
#define FASTGDML_API __attribute__((visibility("default")))
#else
#define FASTGDML_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a program compiled with one version of this header cannot run with another version of the library. */
#define FASTGDML_ABI_VERSION 1u

typedef enum fastgdml_status {
    FASTGDML_SUCCESS = 0,
    FASTGDML_ERROR_ARGUMENT = 1,  /* an argument is NULL, out of range, or does not fit the model */
    FASTGDML_ERROR_FILE = 2,      /* a file cannot be opened or read */
    FASTGDML_ERROR_FORMAT = 3,    /* a file is no model file, damaged, or of an unknown version */
    FASTGDML_ERROR_MEMORY = 4,    /* there is not enough memory */
    FASTGDML_ERROR_GEOMETRY = 5,  /* atoms coincide, positions are not finite, or results are too large */
    FASTGDML_ERROR_UNIT = 6,      /* a unit is unknown */
    FASTGDML_ERROR_ENGINE = 7     /* an engine that a driver talks to reported a failure */
} fastgdml_status;

/* A trained model. */
typedef struct fastgdml_model fastgdml_model;

/* FASTGDML_ABI_VERSION of the library that is linked. */
FASTGDML_API uint32_t fastgdml_abi_version(void);

/* Version of the library, as "0.1.0". */
FASTGDML_API const char *fastgdml_version(void);

/* Text of the last failure in the calling thread; "" if there was none. Valid until the next failure in this thread. */
FASTGDML_API const char *fastgdml_last_error(void);

/* ---- models ----------------------------------------------------------------------------------------------------- */

/* Load a model file. It is mapped into memory, so it must not be changed in place while the model is in use (files of
 * fastgdml are replaced as a whole). Sizes, indices and a checksum are verified.
 *   path  file name
 *   out   the model; to be freed with fastgdml_model_free
 * FASTGDML_ERROR_ARGUMENT, _FILE, _FORMAT, _MEMORY. */
FASTGDML_API fastgdml_status fastgdml_model_load(const char *path, fastgdml_model **out);

/* How differences of positions are folded into a periodic cell. */
typedef enum fastgdml_image_rule {
    FASTGDML_IMAGE_ROUNDING = 0,  /* d - L round(L^-1 d): models trained by sgdml */
    FASTGDML_IMAGE_MINIMUM = 1    /* the nearest image, in any cell */
} fastgdml_image_rule;

/* A model as arrays, with the content of the npz files of sgdml and fastgdml. Set all members that are not named in
 * your program to zero: fastgdml_arrays arrays = {0}.
 * Pairs of atoms are (1,0), (2,0), (2,1), (3,0), ...: n_pairs = n_atoms (n_atoms - 1) / 2. */
typedef struct fastgdml_arrays {
    int64_t n_atoms;                 /* at least 2 */
    int64_t n_train;                 /* training points */
    int64_t n_perms;                 /* permutations; 0: none but the identity */
    const int32_t *atomic_numbers;   /* [n_atoms]                or NULL: unknown, 0 */
    const int32_t *perms;            /* [n_perms][n_atoms]       image of each atom, from 0 (`perms`); NULL if n_perms is 0 */
    const double *descriptors;       /* [n_train][n_pairs]       weight / distance (the transpose of `R_desc`) */
    const double *coefficients;      /* [n_train][n_pairs]       J alpha (`R_d_desc_alpha`) */
    const double *energy_coefficients; /* [n_train]              of energy constraints (`alphas_E`), or NULL */
    double sig, std, c;              /* length scale; scale and offset of the energy */
    const double *lattice;           /* [3][3]                   lattice vectors as columns, or NULL: a molecule */
    fastgdml_image_rule image_rule;  /* of `lattice` */
    const char *energy_unit;         /* name of the unit, at most 31 characters, or NULL: unknown */
    const char *length_unit;
    const double *weights;           /* [n_pairs]                of pairs, positive, the same for the images of a pair under
                                                                 `perms` (`desc_weights`), or NULL: 1 */
} fastgdml_arrays;

/* Make a model from arrays, which are copied.
 * FASTGDML_ERROR_ARGUMENT (a count, index or number out of range), _MEMORY. */
FASTGDML_API fastgdml_status fastgdml_model_from_arrays(const fastgdml_arrays *arrays, fastgdml_model **out);

/* Free a model that no thread uses any more. NULL is fine. */
FASTGDML_API void fastgdml_model_free(fastgdml_model *model);

/* Number of atoms, training points, permutations. 0 if model is NULL. */
FASTGDML_API int fastgdml_model_n_atoms(const fastgdml_model *model);
FASTGDML_API int64_t fastgdml_model_n_train(const fastgdml_model *model);
FASTGDML_API int64_t fastgdml_model_n_perms(const fastgdml_model *model);

/* Samples for standard deviations that the model has; 0: none, fastgdml_predict_std cannot be used. */
FASTGDML_API int64_t fastgdml_model_n_std(const fastgdml_model *model);

/* Atomic numbers [n_atoms] in the order in which positions are expected; owned by the model. NULL if model is NULL. */
FASTGDML_API const int32_t *fastgdml_model_atomic_numbers(const fastgdml_model *model);

/* Names of the units, as "kcal/mol" and "Ang"; "" if the model does not record them, or is NULL. Owned by the model. */
FASTGDML_API const char *fastgdml_model_energy_unit(const fastgdml_model *model);
FASTGDML_API const char *fastgdml_model_length_unit(const fastgdml_model *model);

/* 1 if the model is of a periodic system, otherwise 0. */
FASTGDML_API int fastgdml_model_is_periodic(const fastgdml_model *model);

/* The lattice vectors that the model was trained with, as columns of lattice [3][3].
 * FASTGDML_ERROR_ARGUMENT: an argument is NULL, the model is of a molecule, or was trained in several cells. */
FASTGDML_API fastgdml_status fastgdml_model_lattice(const fastgdml_model *model, double *lattice);

/* Whether a model was trained in the cell lattice [3][3] (columns): lengths and angles are those of its own to 1e-4; a
 * rotation does not matter. Models of several cells, and of molecules, hold in any.
 * FASTGDML_ERROR_GEOMETRY: it was trained in another cell; the text names both. _ARGUMENT: an argument is NULL. */
FASTGDML_API fastgdml_status fastgdml_model_check_lattice(const fastgdml_model *model, const double *lattice);

/* ---- prediction ------------------------------------------------------------------------------------------------- */

/* Make molecules whole that your program has wrapped into its periodic cell: for fastgdml_predict, which takes positions of
 * a molecule as they are. Atoms are moved by lattice vectors, to the images nearest to their neighbours, in geometries
 * where two atoms are more than 1.25 times as far apart as in the whole training set. Geometries that are whole stay as
 * they are, also where the cell is too small for them; so do all where the cell is none (flat, or 0), and of periodic
 * models.
 *   lattice  [3][3]                 lattice vectors as columns, in the unit of the model
 *   r        [n_geo][n_atoms][3]    positions, changed in place
 * FASTGDML_ERROR_GEOMETRY: a molecule is broken, and cannot be put together in this cell; names the first, those before
 * it are whole. _ARGUMENT, _MEMORY. */
FASTGDML_API fastgdml_status fastgdml_make_whole(const fastgdml_model *model, int64_t n_geo, const double *lattice,
                                                 double *r);

/* Energies, forces and virials of whole molecules or cells; every atom interacts with every other, without cutoff.
 *   n_geo      number of geometries; 0 does nothing
 *   r          [n_geo][n_atoms][3]  positions; of a molecule not wrapped into a cell, of a periodic system any images
 *   lattice    [3][3]  lattice vectors as columns, for all geometries; NULL: the model's own. Not for molecules
 *   energy     [n_geo]              or NULL: not wanted. Energies alone take about half of the time
 *   forces     [n_geo][n_atoms][3]  -dE/dr, or NULL
 *   virial     [n_geo][3][3]        -dE/d(strain) = sum over pairs of d (outer) f, symmetric, or NULL; the stress is
 *                                   -virial / volume
 *   n_threads  how many threads to use at most: 1 none but the calling one; 0 or less all that this process may use.
 *              In a forked process it is 1.
 * FASTGDML_ERROR_ARGUMENT; _GEOMETRY names the first geometry that cannot be evaluated, the others are; _MEMORY. */
FASTGDML_API fastgdml_status fastgdml_predict(const fastgdml_model *model, int64_t n_geo, const double *r,
                                              const double *lattice, double *energy, double *forces, double *virial,
                                              int n_threads);

/* Predictions and their standard deviations, by the jackknife, in one pass that costs more than ten predictions with 16
 * samples. For models trained with samples (`fastgdml train --std 16`). Energies, forces and virials are those of fastgdml_predict, to the last bit.
 *   energy_std [n_geo]              standard deviations of the energies
 *   force_std  [n_geo][n_atoms]     of a component of the force on each atom
 * The other arguments and statuses as of fastgdml_predict; _ARGUMENT also: the model has no samples. */
FASTGDML_API fastgdml_status fastgdml_predict_std(const fastgdml_model *model, int64_t n_geo, const double *r,
                                                  const double *lattice, double *energy, double *forces,
                                                  double *virial, double *energy_std, double *force_std,
                                                  int n_threads);

/* Second derivatives of the energy, exactly, without finite differences.
 *   n_geo, r, lattice, energy, forces, n_threads  as of fastgdml_predict
 *   hessian    [n_geo][3 n_atoms][3 n_atoms]  d2E/dr2, symmetric; the lattice stays as it is
 * Statuses as of fastgdml_predict. */
FASTGDML_API fastgdml_status fastgdml_hessian(const fastgdml_model *model, int64_t n_geo, const double *r,
                                              const double *lattice, double *energy, double *forces, double *hessian,
                                              int n_threads);

/* ---- units ------------------------------------------------------------------------------------------------------ */

/* The number by which an energy in unit `from` is to be multiplied to have it in unit `to`: "eV", "meV", "kcal/mol",
 * "kJ/mol", "Hartree", "mHa", "Ry"; upper and lower case and blanks do not matter.
 * FASTGDML_ERROR_ARGUMENT (NULL), _UNIT (also for "", the unit of a model that does not record it). */
FASTGDML_API fastgdml_status fastgdml_energy_factor(const char *from, const char *to, double *factor);

/* The same for lengths: "Ang", "Bohr", "nm". */
FASTGDML_API fastgdml_status fastgdml_length_factor(const char *from, const char *to, double *factor);

#ifdef __cplusplus
}
#endif

#endif
