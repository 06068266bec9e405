/* A model in LAMMPS: what happens on each step.
 *
 * With one MPI rank positions are read where LAMMPS has them. With several, each rank gathers the positions of all
 * molecules, evaluates those of which it owns an atom, and keeps the forces of its own atoms: work is shared as LAMMPS
 * shares atoms, and no force travels. The energy and the virial of each molecule are stored by the owner of its first
 * atom in a property of that atom, which is gathered, so that all ranks add the same numbers in the same order. Both
 * collectives are LAMMPS's, so MPI is not needed here. Were all ranks to evaluate everything, the second collective would
 * fall away; measured on two ranks of a busy machine, 200 training points, a step takes 1.5 ms as it is against 2.7 ms for
 * 100 ethanols, 0.22 against 0.29 ms for 8, 86 against 72 us for one, for which one rank is best anyway.
 *
 * Whatever fails, fails on all ranks in the same step, because each finds it in numbers that all have; a rank that left
 * alone would leave the others waiting.
 */
#include "driver.h"

#include "whole.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t tag_of(const fastgdml_lammps *d, const void *tags, int64_t i)
{
    return d->tag_bytes == 4 ? ((const int32_t *)tags)[i] : ((const int64_t *)tags)[i];
}

/* ---- the box ---------------------------------------------------------------------------------------------------- */

/* Length of a box without periodicity, in boxes: its images are out of reach. */
static const double endless = 1e6;

static fastgdml_status require_cell_of_model(const fastgdml_lammps *d)
{
    double box[9];
    for (int i = 0; i < 9; ++i) box[i] = d->to_length * d->lattice[i];
    const fastgdml_status status = fastgdml_model_check_lattice(d->model, box);
    if (!status) return status;
    char both[GDML_TEXT_LENGTH];
    snprintf(both, sizeof both, "%s", fastgdml_last_error());
    return gdml_fail(status, "the box is not the cell of the model: %s. Take that cell, or set any_cell", both);
}

/* The factor R with a positive diagonal of lattice = Q R: the lattice turned as LAMMPS has it. */
static void turned(const double *lattice, double *r)
{
    memset(r, 0, 9 * sizeof *r);
    for (int i = 0; i < 3; ++i) {                          /* Cholesky's factorisation of lattice^T lattice */
        for (int j = i; j < 3; ++j) {
            double dot = 0;
            for (int k = 0; k < 3; ++k) dot += lattice[3 * k + i] * lattice[3 * k + j] - (k < i ? r[3 * k + i] * r[3 * k + j] : 0);
            r[3 * i + j] = i == j ? sqrt(dot) : dot / r[3 * i + i];
        }
    }
}

/* Whether upper triangular vectors are other integer combinations of the lattice of `before`, to the nearest integers. */
static int is_redefined(const double *before, const double *now)
{
    double m[9] = {0};                                     /* before m = now */
    for (int j = 0; j < 3; ++j) {
        for (int i = 2; i >= 0; --i) {
            double rest = now[3 * i + j];
            for (int k = i + 1; k < 3; ++k) rest -= before[3 * i + k] * m[3 * k + j];
            m[3 * i + j] = rest / before[3 * i + i];
            if (i != j && fabs(m[3 * i + j]) > 0.5) return 1;
        }
    }
    return 0;
}

/* Folding by rounding depends on the vectors that span a lattice: energies jump where LAMMPS takes others. */
static fastgdml_status require_same_vectors(fastgdml_lammps *d)
{
    const int is_first = d->vectors[0] == 0;
    if (is_first && d->model->periodicity == GDML_ONE_CELL) {
        turned(d->model->lattice, d->vectors);
        for (int i = 0; i < 9; ++i) d->vectors[i] /= d->to_length;
    }
    if (d->vectors[0] != 0 && is_redefined(d->vectors, d->lattice))
        return gdml_fail(FASTGDML_ERROR_GEOMETRY,
                         "the box was flipped or is spanned by other vectors than %s, and the model, whose image rule is "
                         "rounding, holds for its vectors only: keep them (flip no)",
                         is_first ? "the cell of the model" : "before");
    memcpy(d->vectors, d->lattice, sizeof d->vectors);
    return FASTGDML_SUCCESS;
}

fastgdml_status gdml_lammps_read_box(fastgdml_lammps *d)
{
    const gdml_lammps_box *b = &d->box;
    const double lattice[9] = {b->high[0] - b->low[0], *b->xy, *b->xz, 0, b->high[1] - b->low[1], *b->yz,
                               0, 0, b->high[2] - b->low[2]};
    if (!memcmp(lattice, d->lattice, sizeof lattice) && !memcmp(b->periodic, d->periodic, sizeof d->periodic))
        return FASTGDML_SUCCESS;
    memcpy(d->lattice, lattice, sizeof lattice);
    memcpy(d->periodic, b->periodic, sizeof d->periodic);
    if (d->periodic_model) {
        const fastgdml_status status = d->any_cell ? FASTGDML_SUCCESS : require_cell_of_model(d);
        return status || d->model->minimum_image ? status : require_same_vectors(d);
    }

    double vectors[9];
    memcpy(vectors, lattice, sizeof vectors);
    for (int i = 0; i < 3; ++i) {
        if (d->periodic[i]) continue;
        for (int j = 0; j < 3; ++j) vectors[3 * j + i] = i == j ? endless * (lattice[0] + lattice[4] + lattice[8]) : 0;
    }
    const char *const problem = gdml_cell_init(&d->cell, vectors, 1);
    if (problem) return gdml_fail(FASTGDML_ERROR_GEOMETRY, "the box is no cell: %s", problem);
    d->edge_limit = gdml_shortest_vector(&d->cell) / 2;
    return FASTGDML_SUCCESS;
}

/* ---- positions -------------------------------------------------------------------------------------------------- */

static int slot_of(const fastgdml_lammps *d, int64_t id)
{
    int64_t low = 0, high = d->n_slots;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (d->by_id[middle].id < id) low = middle + 1;
        else high = middle;
    }
    return low < d->n_slots && d->by_id[low].id == id ? d->by_id[low].slot : -1;
}

static fastgdml_status missing_atom(const fastgdml_lammps *d, int64_t slot)
{
    return gdml_fail(FASTGDML_ERROR_GEOMETRY, "atom %lld of molecule %lld is not there: LAMMPS has no atom of ID %lld",
                     (long long)(slot % d->n_atoms + 1), (long long)(slot / d->n_atoms + 1),
                     (long long)d->id[slot]);
}

static fastgdml_status other_ids(const fastgdml_lammps *d, int64_t slot)
{
    return gdml_fail(FASTGDML_ERROR_GEOMETRY,
                     "atom IDs have changed since the model was attached (reset_atoms id, delete_atoms compress yes): ID "
                     "%lld is not that of atom %lld of molecule %lld any more. Detach the model, and attach it with the "
                     "new IDs",
                     (long long)d->id[slot], (long long)(slot % d->n_atoms + 1), (long long)(slot / d->n_atoms + 1));
}

/* Marks of the atoms of this rank, NULL before there are any. */
static int *marks_of(const fastgdml_lammps *d)
{
    return d->is_marked ? d->call.extract_atom(d->lmp, d->mark) : NULL;
}

fastgdml_status gdml_lammps_mark_atoms(fastgdml_lammps *d)
{
    d->is_marked = 1;
    int *const marks = marks_of(d);
    if (!marks && d->n_tags != 0) return gdml_lammps_error(d, "to mark atoms");
    const int64_t n_local = d->call.extract_setting(d->lmp, "nlocal");
    const void *const tags = d->call.extract_atom(d->lmp, "id");
    for (int64_t i = 0; i < n_local; ++i) marks[i] = slot_of(d, tag_of(d, tags, i)) + 1;
    return FASTGDML_SUCCESS;
}

/* Find the molecules' atoms among those of this rank. From one step to the next nothing changes, as a rule. */
static void find_atoms(fastgdml_lammps *d, int64_t n_local, const void *tags)
{
    const size_t bytes = (size_t)n_local * d->tag_bytes;
    if (n_local == d->n_tags && !(bytes && memcmp(tags, d->tags, bytes))) return;
    if (n_local > d->max_tags) {
        void *const larger = realloc(d->tags, bytes);
        if (larger) {
            d->tags = larger;
            d->max_tags = n_local;
        }
    }
    d->n_tags = n_local <= d->max_tags ? n_local : -1;     /* without memory for a copy the next step looks again */
    if (bytes && d->n_tags >= 0) memcpy(d->tags, tags, bytes);
    for (int64_t slot = 0; slot < d->n_slots; ++slot) d->local[slot] = -1;
    for (int64_t i = 0; i < n_local; ++i) {
        const int slot = slot_of(d, tag_of(d, tags, i));
        if (slot >= 0) d->local[slot] = (int)i;
    }
    d->n_active = 0;
    for (int64_t m = 0; m < d->n_molecules; ++m) {
        int64_t a = 0;
        while (a < d->n_atoms && d->local[m * d->n_atoms + a] < 0) ++a;
        if (a < d->n_atoms) d->active[d->n_active++] = m;
    }
}

static fastgdml_status gather(const fastgdml_lammps *d, const char *name, int64_t count, int64_t n, int *ids,
                              double *values)
{
    values[0] = -DBL_MAX;                                  /* what LAMMPS refuses it leaves as it was */
    d->call.gather_subset(d->lmp, name, 1, (int)count, (int)n, ids, values);
    return values[0] == -DBL_MAX ? gdml_lammps_error(d, "to gather atoms") : FASTGDML_SUCCESS;
}

/* LAMMPS looks IDs up in a table without asking whether it is as long. Versions that do not tell its length have as many
 * entries as atoms at least. */
static fastgdml_status require_ids_in_table(const fastgdml_lammps *d)
{
    const int *const last = d->call.extract_global(d->lmp, "map_tag_max");
    const int64_t *const n_atoms = last ? NULL : d->call.extract_global(d->lmp, "natoms");
    if (d->largest_id <= (last ? *last : n_atoms ? *n_atoms : 0)) return FASTGDML_SUCCESS;
    if (!last)
        return gdml_fail(FASTGDML_ERROR_GEOMETRY,
                         "atom ID %lld is larger than the number of atoms, and this version of LAMMPS cannot look it up "
                         "safely on several MPI ranks: number atoms from 1, or take one rank",
                         (long long)d->largest_id);
    int64_t slot = 0;
    while (d->id[slot] <= *last) ++slot;
    return missing_atom(d, slot);
}

/* With several ranks: all atoms are there, and those of old. Atoms that are nowhere come as zeros. */
static fastgdml_status require_atoms(const fastgdml_lammps *d)
{
    const char *const name = d->is_marked ? d->mark : "id";
    d->gathered[0] = -1;
    d->call.gather_subset(d->lmp, name, 0, 1, (int)d->n_slots, d->gather_id, d->gathered);
    if (d->gathered[0] == -1) return gdml_lammps_error(d, "to gather atoms");
    for (int64_t slot = 0; slot < d->n_slots; ++slot) {
        if (d->gathered[slot] == (d->is_marked ? slot + 1 : d->gather_id[slot])) continue;
        int found = 0;
        d->call.gather_subset(d->lmp, "id", 0, 1, 1, d->gather_id + slot, &found);
        return found == d->gather_id[slot] ? other_ids(d, slot) : missing_atom(d, slot);
    }
    return FASTGDML_SUCCESS;
}

fastgdml_status gdml_lammps_read_positions(fastgdml_lammps *d, int64_t n_local, const void *tags,
                                           const double *const *x)
{
    find_atoms(d, n_local, tags);
    if (d->n_ranks > 1) {
        fastgdml_status status = require_ids_in_table(d);
        if (!status) status = require_atoms(d);
        return status ? status : gather(d, "x", 3, d->n_slots, d->gather_id, d->r);
    }
    const int *const marks = marks_of(d);
    for (int64_t slot = 0; slot < d->n_slots; ++slot) {
        const int i = d->local[slot];
        if (i < 0) return missing_atom(d, slot);
        if (marks && marks[i] != slot + 1) return other_ids(d, slot);
        memcpy(d->r + 3 * slot, x[i], 3 * sizeof(double));
    }
    return FASTGDML_SUCCESS;
}

fastgdml_status gdml_lammps_make_whole(fastgdml_lammps *d)
{
    for (int64_t m = 0; m < d->n_molecules; ++m) {
        const int64_t first = m * d->n_atoms;
        const int64_t a = gdml_make_whole(d->n_atoms, d->r + 3 * first, &d->cell, d->order + first, d->parent + first,
                                          d->edge_limit);
        if (a < 0) continue;
        return gdml_fail(FASTGDML_ERROR_GEOMETRY,
                         "molecule %lld does not hold together: its atoms %lld and %lld (IDs %lld and %lld) are half of "
                         "the box apart, %.4g or more; take a larger box",
                         (long long)m + 1, (long long)d->parent[first + a] + 1, (long long)a + 1,
                         (long long)d->id[first + d->parent[first + a]], (long long)d->id[first + a], d->edge_limit);
    }
    return FASTGDML_SUCCESS;
}

/* ---- energies, forces, virials ---------------------------------------------------------------------------------- */

/* n active molecules from number k on. */
static fastgdml_status predict(const fastgdml_lammps *d, int64_t k, int64_t n, int n_threads)
{
    const int64_t n_coord = 3 * d->n_atoms;
    const double *const r = d->r_active + k * n_coord;
    double lattice[9], *const force = d->force + k * n_coord, *const virial = d->virial + 9 * k;
    for (int i = 0; i < 9; ++i) lattice[i] = d->to_length * d->lattice[i];
    const double *const own = d->periodic_model ? lattice : NULL;
    if (!d->std) return fastgdml_predict(d->model, n, r, own, d->energy + k, force, virial, n_threads);
    return fastgdml_predict_std(d->model, n, r, own, d->energy + k, force, virial, d->energy_std + k,
                                d->force_std + k * d->n_atoms, n_threads);
}

/* The molecules of this rank, all in one call. What cannot be evaluated becomes NaN, for all ranks to see. */
static void evaluate_active(fastgdml_lammps *d)
{
    const int64_t n_coord = 3 * d->n_atoms;
    for (int64_t k = 0; k < d->n_active; ++k) {
        const double *r = d->r + d->active[k] * n_coord;
        for (int64_t i = 0; i < n_coord; ++i) d->r_active[k * n_coord + i] = d->to_length * r[i];
    }
    if (!predict(d, 0, d->n_active, d->n_threads)) return;
    for (int64_t k = 0; k < d->n_active; ++k) {
        double *const force = d->force + k * n_coord;
        if (!predict(d, k, 1, 1)) continue;
        d->energy[k] = NAN;
        for (int64_t i = 0; i < n_coord; ++i) force[i] = NAN;
    }
}

static void store_sums(const fastgdml_lammps *d, int64_t k, double *sums)
{
    static const int component[GDML_N_VIRIAL] = {0, 4, 8, 1, 2, 5};
    sums[0] = d->to_energy * d->energy[k];
    for (int i = 0; i < GDML_N_VIRIAL; ++i) sums[1 + i] = d->to_energy * d->virial[9 * k + component[i]];
    sums[GDML_LARGEST_STD] = 0;
    for (int64_t a = 0; d->std && a < d->n_atoms; ++a)
        sums[GDML_LARGEST_STD] = fmax(sums[GDML_LARGEST_STD], d->to_force * d->force_std[k * d->n_atoms + a]);
}

/* Energy and virial of each molecule, on all ranks. */
static fastgdml_status share_sums(fastgdml_lammps *d)
{
    if (d->n_ranks == 1) {
        for (int64_t k = 0; k < d->n_active; ++k) store_sums(d, k, d->sums + GDML_N_SUMS * d->active[k]);
        return FASTGDML_SUCCESS;
    }
    double **property = d->call.extract_atom(d->lmp, d->property);
    for (int64_t k = 0; property && k < d->n_active; ++k) {
        const int first = d->local[d->active[k] * d->n_atoms];
        if (first >= 0) store_sums(d, k, property[first]);
    }
    return gather(d, d->property, GDML_N_SUMS, d->n_molecules, d->first_id, d->sums);
}

/* The first molecule without an energy, and why it has none. */
static fastgdml_status require_energies(const fastgdml_lammps *d)
{
    const int64_t n_coord = 3 * d->n_atoms;
    for (int64_t m = 0; m < d->n_molecules; ++m) {
        if (isfinite(d->sums[GDML_N_SUMS * m])) continue;
        for (int64_t i = 0; i < n_coord; ++i) d->r_active[i] = d->to_length * d->r[m * n_coord + i];
        double energy, lattice[9];
        for (int i = 0; i < 9; ++i) lattice[i] = d->to_length * d->lattice[i];
        const fastgdml_status status = fastgdml_predict(d->model, 1, d->r_active, d->periodic_model ? lattice : NULL,
                                                        &energy, NULL, NULL, 1);
        if (status && status != FASTGDML_ERROR_GEOMETRY) return status;
        return gdml_fail(status ? status : FASTGDML_ERROR_MEMORY, "molecule %lld, whose first atom has ID %lld, %s",
                         (long long)m + 1, (long long)d->id[m * d->n_atoms],
                         status ? "has atoms at the same place or positions that are not finite"
                                : "could not be evaluated: another MPI rank has no memory");
    }
    return FASTGDML_SUCCESS;
}

/* ---- what LAMMPS wants of this step ------------------------------------------------------------------------------ */

void gdml_lammps_forget_requests(const fastgdml_lammps *d)
{
    int64_t *const energy = d->call.extract_global(d->lmp, "eflag_atom");
    int64_t *const virial = d->call.extract_global(d->lmp, "vflag_atom");
    if (energy) *energy = -1;
    if (virial) *virial = -1;
}

/* LAMMPS keeps the last step of which computes wanted per-atom energies or virials; fix external would give 0 for them. */
static fastgdml_status require_what_models_have(const fastgdml_lammps *d, int64_t step_number)
{
    if (d->call.extract_global(d->lmp, "respa_levels"))
        return gdml_fail(FASTGDML_ERROR_ARGUMENT,
                         "LAMMPS calls no fix external on the steps of run_style respa, so the model would have no forces: "
                         "take run_style verlet, or the pair style of contrib/lammps-plugin");
    const int64_t *const energy = d->call.extract_global(d->lmp, "eflag_atom");
    const int64_t *const virial = d->call.extract_global(d->lmp, "vflag_atom");
    const int wants_energy = energy && *energy == step_number;
    if (wants_energy || (virial && *virial == step_number))
        return gdml_fail(FASTGDML_ERROR_ARGUMENT,
                         "a compute of LAMMPS wants per-atom %s, which a model of the whole molecule does not have: leave "
                         "out computes like pe/atom, stress/atom and heat/flux",
                         wants_energy ? "energies" : "stresses");
    gdml_lammps_forget_requests(d);                        /* of steps that may come again after reset_timestep */
    return FASTGDML_SUCCESS;
}

/* Show the largest standard deviation of a force, and end the run where it is too large; the same on all ranks. */
static fastgdml_status judge_deviations(fastgdml_lammps *d)
{
    int64_t worst = 0;
    for (int64_t m = 1; m < d->n_molecules; ++m)
        if (d->sums[GDML_N_SUMS * m + GDML_LARGEST_STD] > d->sums[GDML_N_SUMS * worst + GDML_LARGEST_STD]) worst = m;
    const double largest = d->sums[GDML_N_SUMS * worst + GDML_LARGEST_STD];
    d->call.set_vector(d->lmp, d->fix_id, 2, largest);
    if (!(d->max_std > 0) || largest <= d->to_force * d->max_std) return FASTGDML_SUCCESS;
    d->keeps_step = 1;
    return gdml_fail(FASTGDML_ERROR_GEOMETRY,
                     "the standard deviation of a force in molecule %lld, whose first atom has ID %lld, is %.4g in units of "
                     "the model, more than max_std %.4g: the model does not know this geometry",
                     (long long)worst + 1, (long long)d->id[worst * d->n_atoms], largest / d->to_force, d->max_std);
}

static fastgdml_status step(fastgdml_lammps *d, int64_t step_number, int64_t n_local, const void *tags, double **x,
                            double **f)
{
    fastgdml_status status = require_what_models_have(d, step_number);
    if (!status) status = gdml_lammps_read_positions(d, n_local, tags, (const double *const *)x);
    if (!status) status = gdml_lammps_read_box(d);
    if (!status && !d->periodic_model) status = gdml_lammps_make_whole(d);
    if (status) return status;
    evaluate_active(d);
    status = share_sums(d);
    if (!status) status = require_energies(d);
    if (status) return status;

    double total[GDML_N_SUMS] = {0};
    for (int64_t m = 0; m < d->n_molecules; ++m)
        for (int i = 0; i < GDML_N_SUMS; ++i) total[i] += d->sums[GDML_N_SUMS * m + i];
    d->call.set_energy(d->lmp, d->fix_id, total[0]);
    d->call.set_virial(d->lmp, d->fix_id, total + 1);
    for (int64_t k = 0; k < d->n_active; ++k) {
        for (int64_t a = 0; a < d->n_atoms; ++a) {
            const int i = d->local[d->active[k] * d->n_atoms + a];
            if (i < 0) continue;
            for (int j = 0; j < 3; ++j) f[i][j] = d->to_force * d->force[3 * (k * d->n_atoms + a) + j];
        }
    }
    return d->std ? judge_deviations(d) : FASTGDML_SUCCESS;
}

/* End the run. LAMMPS's library can record an error, for the caller to find when the run command returns, only through
 * a call that fails; the text goes there as the name of a fix, which the message of LAMMPS repeats. */
static void stop(fastgdml_lammps *d, fastgdml_status status)
{
    const char *const reason = fastgdml_last_error();
    const size_t length = strlen(reason) + sizeof "[fastgdml: ]";
    d->status = status;
    d->failure = malloc(length);
    char *const text = malloc(length);
    if (d->failure) strcpy(d->failure, reason);
    if (text) snprintf(text, length, "[fastgdml: %s]", reason);
    d->call.force_timeout(d->lmp);
    d->call.set_energy(d->lmp, text ? text : "[fastgdml: no memory]", NAN);
    free(text);
}

/* What forces of a failure are. NaN, for nobody to take them for numbers; but velocities follow from them before the run
 * ends, and where a barostat then finds the pressure to be NaN, it ends the run by an error of its own, which would hide
 * the reason. There they are 0. When a run begins velocities do not follow. */
static double force_of_failure(const fastgdml_lammps *d, int64_t step_number)
{
    const int64_t *const pressure = d->call.extract_global(d->lmp, "vflag_global");   /* the last step that wants it */
    const int is_under_way = step_number == d->last_step + 1;
    return is_under_way && (!pressure || *pressure == step_number) ? 0.0 : NAN;
}

static void run_step(fastgdml_lammps *d, int64_t step_number, int64_t n_local, const void *tags, double **x, double **f)
{
    for (int64_t i = 0; i < n_local; ++i) f[i][0] = f[i][1] = f[i][2] = 0.0;  /* LAMMPS does not clear them */
    if (!d->status) {
        const fastgdml_status status = step(d, step_number, n_local, tags, x, f);
        if (status) stop(d, status);
    }
    if (d->status && !d->keeps_step) {
        const double force = force_of_failure(d, step_number);
        for (int64_t i = 0; i < n_local; ++i) f[i][0] = f[i][1] = f[i][2] = force;
        d->call.set_energy(d->lmp, d->fix_id, NAN);
    }
    d->keeps_step = 0;
    d->last_step = step_number;
}

void gdml_lammps_step_4(void *driver, int64_t step_number, int n_local, int32_t *tags, double **x, double **f)
{
    run_step(driver, step_number, n_local, tags, x, f);
}

void gdml_lammps_step_8(void *driver, int64_t step_number, int n_local, int64_t *tags, double **x, double **f)
{
    run_step(driver, step_number, n_local, tags, x, f);
}
