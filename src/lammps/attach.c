/* A model in LAMMPS (fastgdml_lammps.h): checks, fixes, tables. step.c has what happens on each step. */
#include "driver.h"

#include "whole.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition, ...) \
    if (!(condition)) return gdml_fail(FASTGDML_ERROR_ARGUMENT, "fastgdml_lammps_attach: " __VA_ARGS__)

fastgdml_status gdml_lammps_error(const fastgdml_lammps *d, const char *what)
{
    char message[GDML_TEXT_LENGTH] = "it does not say why";
    if (d->call.has_error(d->lmp)) d->call.get_last_error_message(d->lmp, message, sizeof message);
    message[strcspn(message, "\n")] = 0;
    return gdml_fail(FASTGDML_ERROR_ENGINE, "LAMMPS refuses %s: %s", what, message);
}

static fastgdml_status command(const fastgdml_lammps *d, const char *text)
{
    d->call.command(d->lmp, text);
    return d->call.has_error(d->lmp) ? gdml_lammps_error(d, text) : FASTGDML_SUCCESS;
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

static int all_given(const fastgdml_lammps_api *api)
{
    return api->command && api->extract_setting && api->extract_global && api->extract_atom && api->gather_subset &&
           api->has_id && api->has_error && api->get_last_error_message && api->force_timeout &&
           api->set_fix_external_callback && api->fix_external_set_energy_global &&
           api->fix_external_set_virial_global && api->fix_external_set_vector_length &&
           api->fix_external_set_vector && api->extract_fix && api->free;
}

static void take_calls(gdml_lammps_calls *call, const fastgdml_lammps_api *api)
{
    call->command = (char *(*)(void *, const char *))api->command;
    call->extract_setting = (int (*)(void *, const char *))api->extract_setting;
    call->extract_global = (void *(*)(void *, const char *))api->extract_global;
    call->extract_atom = (void *(*)(void *, const char *))api->extract_atom;
    call->gather_subset = (void (*)(void *, const char *, int, int, int, int *, void *))api->gather_subset;
    call->has_id = (int (*)(void *, const char *, const char *))api->has_id;
    call->has_error = (int (*)(void *))api->has_error;
    call->get_last_error_message = (int (*)(void *, char *, int))api->get_last_error_message;
    call->force_timeout = (void (*)(void *))api->force_timeout;
    call->set_callback = (void (*)(void *, const char *, fastgdml_lammps_function, void *))api->set_fix_external_callback;
    call->set_energy = (void (*)(void *, const char *, double))api->fix_external_set_energy_global;
    call->set_virial = (void (*)(void *, const char *, double *))api->fix_external_set_virial_global;
    call->set_vector_length = (void (*)(void *, const char *, int))api->fix_external_set_vector_length;
    call->set_vector = (void (*)(void *, const char *, int, double))api->fix_external_set_vector;
    call->extract_fix = (void *(*)(void *, const char *, int, int, int, int))api->extract_fix;
    call->free = (void (*)(void *))api->free;
}

static fastgdml_status check_fix_id(const fastgdml_lammps *d, const char *fix_id)
{
    const size_t length = strlen(fix_id);
    REQUIRE(length > 0 && length < GDML_FIX_ID_LENGTH, "fix_id '%.60s' has %zu characters; 1 to %d are allowed", fix_id,
            length, GDML_FIX_ID_LENGTH - 1);
    for (const char *c = fix_id; *c; ++c)
        REQUIRE(isalnum((unsigned char)*c) || *c == '_', "fix_id '%s' may have letters, digits and underscores only",
                fix_id);
    REQUIRE(!d->call.has_id(d->lmp, "fix", fix_id), "there is a fix '%s' already: take another fix_id, or unfix it",
            fix_id);
    return FASTGDML_SUCCESS;
}

static fastgdml_status check_lammps(fastgdml_lammps *d)
{
    const int tag_bytes = d->call.extract_setting(d->lmp, "tagint");
    REQUIRE(d->call.extract_setting(d->lmp, "bigint") == 8 && (tag_bytes == 4 || tag_bytes == 8),
            "LAMMPS was built with SMALLSMALL; SMALLBIG or BIGBIG is needed");
    d->tag_bytes = (size_t)tag_bytes;
    d->n_ranks = d->call.extract_setting(d->lmp, "world_size");
    REQUIRE(d->n_ranks == 1 || tag_bytes == 4,
            "LAMMPS was built with BIGBIG, whose library cannot gather atoms: use one MPI rank, or SMALLBIG");
    REQUIRE(d->call.extract_setting(d->lmp, "box_exist") == 1, "LAMMPS has no box yet: read the data first");
    const int *const map = d->call.extract_global(d->lmp, "map_style");   /* old versions do not tell */
    REQUIRE(!map || *map,
            "LAMMPS keeps no map of its atoms: give the command 'atom_modify map yes' before the box is made");
    return FASTGDML_SUCCESS;
}

static fastgdml_status set_units(fastgdml_lammps *d, const fastgdml_lammps_options *options)
{
    static const char *const known[][3] = {
        {"real", "kcal/mol", "Ang"}, {"metal", "eV", "Ang"}, {"electron", "Hartree", "Bohr"}};
    const char *const units = d->call.extract_global(d->lmp, "units");
    const char *const energy = options->energy_unit ? options->energy_unit : fastgdml_model_energy_unit(d->model);
    const char *const length = options->length_unit ? options->length_unit : fastgdml_model_length_unit(d->model);
    for (size_t i = 0; units && i < sizeof known / sizeof known[0]; ++i) {
        if (strcmp(units, known[i][0])) continue;
        fastgdml_status status = fastgdml_energy_factor(energy, known[i][1], &d->to_energy);
        if (!status) status = fastgdml_length_factor(known[i][2], length, &d->to_length);
        d->to_force = d->to_energy * d->to_length;
        return status;
    }
    return gdml_fail(FASTGDML_ERROR_UNIT, "LAMMPS runs in units '%.20s'; real, metal or electron are needed",
                     units ? units : "");
}

static fastgdml_status find_box(fastgdml_lammps *d)
{
    gdml_lammps_box *b = &d->box;
    b->low = d->call.extract_global(d->lmp, "boxlo");
    b->high = d->call.extract_global(d->lmp, "boxhi");
    b->xy = d->call.extract_global(d->lmp, "xy");
    b->xz = d->call.extract_global(d->lmp, "xz");
    b->yz = d->call.extract_global(d->lmp, "yz");
    b->periodic = d->call.extract_global(d->lmp, "periodicity");
    if (b->low && b->high && b->xy && b->xz && b->yz && b->periodic) return FASTGDML_SUCCESS;
    return gdml_lammps_error(d, "to show its box");
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

static fastgdml_status allocate(fastgdml_lammps *d)
{
    const size_t slots = (size_t)d->n_slots, molecules = (size_t)d->n_molecules;
    d->by_id = malloc(slots * sizeof *d->by_id);
    d->id = malloc(slots * sizeof *d->id);
    d->gather_id = malloc(slots * sizeof *d->gather_id);
    d->gathered = malloc(slots * sizeof *d->gathered);
    d->first_id = malloc(molecules * sizeof *d->first_id);
    d->order = malloc(slots * sizeof *d->order);
    d->parent = malloc(slots * sizeof *d->parent);
    d->local = malloc(slots * sizeof *d->local);
    d->active = malloc(molecules * sizeof *d->active);
    d->r = malloc(3 * slots * sizeof *d->r);
    d->r_active = malloc(3 * slots * sizeof *d->r_active);
    d->force = malloc(3 * slots * sizeof *d->force);
    d->energy = malloc(molecules * sizeof *d->energy);
    d->virial = malloc(9 * molecules * sizeof *d->virial);
    d->sums = malloc(GDML_N_SUMS * molecules * sizeof *d->sums);
    d->energy_std = malloc(molecules * sizeof *d->energy_std);
    d->force_std = malloc(slots * sizeof *d->force_std);
    if (d->by_id && d->id && d->gather_id && d->gathered && d->first_id && d->order && d->parent && d->local && d->active && d->r &&
        d->r_active && d->force && d->energy && d->virial && d->sums && d->energy_std && d->force_std)
        return FASTGDML_SUCCESS;
    return gdml_fail(FASTGDML_ERROR_MEMORY, "no memory for the tables of %lld molecules", (long long)d->n_molecules);
}

static int compare_ids(const void *one, const void *other)
{
    const int64_t a = ((const gdml_id_slot *)one)->id, b = ((const gdml_id_slot *)other)->id;
    return (a > b) - (a < b);
}

static fastgdml_status take_ids(fastgdml_lammps *d, const int64_t *ids)
{
    const int64_t largest = d->tag_bytes == 4 ? INT32_MAX : INT64_MAX;
    for (int64_t slot = 0; slot < d->n_slots; ++slot) {
        REQUIRE(ids[slot] > 0 && ids[slot] <= largest, "%lld is no atom ID (molecule %lld, atom %lld)",
                (long long)ids[slot], (long long)(slot / d->n_atoms + 1), (long long)(slot % d->n_atoms + 1));
        d->id[slot] = ids[slot];
        d->gather_id[slot] = (int)ids[slot];               /* with several ranks IDs have 4 bytes */
        d->by_id[slot] = (gdml_id_slot){ids[slot], (int)slot};
    }
    for (int64_t m = 0; m < d->n_molecules; ++m) d->first_id[m] = d->gather_id[m * d->n_atoms];
    qsort(d->by_id, (size_t)d->n_slots, sizeof *d->by_id, compare_ids);
    for (int64_t k = 1; k < d->n_slots; ++k)
        REQUIRE(d->by_id[k - 1].id != d->by_id[k].id, "atom ID %lld is given twice", (long long)d->by_id[k].id);
    d->largest_id = d->by_id[d->n_slots - 1].id;
    return FASTGDML_SUCCESS;
}

/* Least distance of a molecule from its periodic images, in longest bonds. */
static const double clearance = 1.25;

/* The first geometry: it has all atoms, fits the box, and gives the spanning trees. */
static fastgdml_status read_first_geometry(fastgdml_lammps *d)
{
    fastgdml_status status = gdml_lammps_read_positions(d, d->call.extract_setting(d->lmp, "nlocal"),
                                                        d->call.extract_atom(d->lmp, "id"),
                                                        d->call.extract_atom(d->lmp, "x"));
    if (!status) status = gdml_lammps_read_box(d);
    if (status || d->periodic_model) return status;
    for (int64_t m = 0; m < d->n_molecules; ++m) {
        const int64_t first = m * d->n_atoms;
        gdml_molecule_tree(d->n_atoms, d->r + 3 * first, &d->cell, d->order + first, d->parent + first, d->force);
    }
    status = gdml_lammps_make_whole(d);
    for (int64_t m = 0; !status && m < d->n_molecules; ++m) {
        const int64_t first = m * d->n_atoms;
        if (gdml_image_contact(d->n_atoms, d->r + 3 * first, &d->cell, d->order + first, d->parent + first) < clearance)
            status = gdml_fail(FASTGDML_ERROR_GEOMETRY,
                               "molecule %lld comes as near to its own periodic image as its atoms are to one another, "
                               "so where it ends is not known; take a larger box",
                               (long long)m + 1);
    }
    return status;
}

/* ---- attach, detach --------------------------------------------------------------------------------------------- */

/* A fix external is known by a number that it holds for its caller: the address of the driver, which is less than 2^53. */
static double mark_of_fix(const fastgdml_lammps *d)
{
    return (double)(uintptr_t)d;
}

int gdml_lammps_has_fix(const fastgdml_lammps *d)
{
    enum { OF_ALL = 0, VECTOR = 1 };                       /* LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR */
    if (!d->call.has_id(d->lmp, "fix", d->fix_id)) return 0;
    double *const mark = d->call.extract_fix(d->lmp, d->fix_id, OF_ALL, VECTOR, 0, 0);
    const int is_own = mark && *mark == mark_of_fix(d);
    d->call.free(mark);
    char ignored[8];                                       /* a fix of another style may have no vector */
    if (!mark && d->call.has_error(d->lmp)) d->call.get_last_error_message(d->lmp, ignored, sizeof ignored);
    return is_own;
}

static fastgdml_status add_property(const fastgdml_lammps *d)
{
    char text[4 * GDML_PROPERTY_LENGTH + 64];
    int n = snprintf(text, sizeof text, "fix %s all property/atom %s", d->property_fix, d->mark);
    if (d->n_ranks > 1) n += snprintf(text + n, sizeof text - (size_t)n, " %s %d", d->property, GDML_N_SUMS);
    n += snprintf(text + n, sizeof text - (size_t)n, " ghost no");
    /* Data files without these marks; of versions before 2022, which do not know how, they have them. */
    if (d->call.extract_global(d->lmp, "map_tag_max")) snprintf(text + n, sizeof text - (size_t)n, " writedata no");
    return command(d, text);
}

static fastgdml_status add_fixes(fastgdml_lammps *d)
{
    char text[2 * GDML_PROPERTY_LENGTH + 64];
    fastgdml_status status = add_property(d);
    if (!status) status = gdml_lammps_mark_atoms(d);
    if (status) return status;
    snprintf(text, sizeof text, "fix %s all external pf/callback 1 1", d->fix_id);
    status = command(d, text);
    snprintf(text, sizeof text, "fix_modify %s energy yes virial yes", d->fix_id);
    if (!status) status = command(d, text);
    if (status) return status;
    d->call.set_vector_length(d->lmp, d->fix_id, 3);       /* LAMMPS refuses to set the last one */
    d->call.set_vector(d->lmp, d->fix_id, 1, mark_of_fix(d));
    d->call.set_callback(d->lmp, d->fix_id,
                         d->tag_bytes == 4 ? (fastgdml_lammps_function)gdml_lammps_step_4
                                           : (fastgdml_lammps_function)gdml_lammps_step_8,
                         d);
    gdml_lammps_forget_requests(d);
    return d->call.has_error(d->lmp) ? gdml_lammps_error(d, "the callback") : FASTGDML_SUCCESS;
}

static void remove_fix(const fastgdml_lammps *d, const char *id)
{
    char text[GDML_PROPERTY_LENGTH + 8];
    snprintf(text, sizeof text, "unfix %s", id);
    if (d->call.has_id(d->lmp, "fix", id)) d->call.command(d->lmp, text);
}

static fastgdml_status set_up(fastgdml_lammps *d, const char *fix_id, const int64_t *ids,
                              const fastgdml_lammps_options *options)
{
    fastgdml_status status = check_fix_id(d, fix_id);
    if (!status) status = check_lammps(d);
    if (!status) status = set_units(d, options);
    if (!status) status = find_box(d);
    if (!status) status = allocate(d);
    if (!status) status = take_ids(d, ids);
    if (!status) status = read_first_geometry(d);
    if (status) return status;
    snprintf(d->fix_id, sizeof d->fix_id, "%s", fix_id);
    snprintf(d->property_fix, sizeof d->property_fix, "%s_atoms", fix_id);
    snprintf(d->mark, sizeof d->mark, "i_%s_slot", fix_id);
    snprintf(d->property, sizeof d->property, "d2_%s_sums", fix_id);
    status = add_fixes(d);
    if (status) {
        remove_fix(d, d->fix_id);
        remove_fix(d, d->property_fix);
    }
    return status;
}

fastgdml_status fastgdml_lammps_attach(void *lmp, const fastgdml_lammps_api *api, const char *fix_id,
                                       const fastgdml_model *model, int64_t n_molecules, const int64_t *ids,
                                       const fastgdml_lammps_options *options, fastgdml_lammps **out)
{
    REQUIRE(out, "out is NULL");
    *out = NULL;
    REQUIRE(lmp && api && fix_id && model && ids, "an argument is NULL");
    REQUIRE(all_given(api), "a function of api is NULL");
    const int64_t n_atoms = fastgdml_model_n_atoms(model);
    REQUIRE(n_molecules > 0 && n_molecules <= INT_MAX / (3 * n_atoms), "n_molecules is %lld", (long long)n_molecules);
    REQUIRE(n_molecules == 1 || !fastgdml_model_is_periodic(model),
            "n_molecules is %lld: the model is of a periodic system, which fills the box", (long long)n_molecules);
    REQUIRE(!options || (options->max_std >= 0 && options->max_std < INFINITY), "max_std is %g", options->max_std);
    REQUIRE(!options || !(options->std || options->max_std > 0) || fastgdml_model_n_std(model) > 0,
            "the model has no samples for standard deviations: train it with --std 16");
    fastgdml_lammps *d = calloc(1, sizeof *d);
    if (!d) return gdml_fail(FASTGDML_ERROR_MEMORY, "no memory for the driver of LAMMPS");
    const fastgdml_lammps_options defaults = {0};
    if (!options) options = &defaults;
    take_calls(&d->call, api);
    d->lmp = lmp;
    d->model = model;
    d->n_molecules = n_molecules;
    d->n_atoms = n_atoms;
    d->n_slots = n_molecules * n_atoms;
    d->n_threads = options->n_threads ? options->n_threads : 1;
    d->any_cell = options->any_cell;
    d->std = options->std || options->max_std > 0;
    d->max_std = options->max_std;
    d->periodic_model = fastgdml_model_is_periodic(model);
    d->n_tags = -1;
    d->last_step = -2;
    const fastgdml_status status = set_up(d, fix_id, ids, options);
    if (status) fastgdml_lammps_free(d);
    else *out = d;
    return status;
}

fastgdml_status fastgdml_lammps_status(const fastgdml_lammps *d)
{
    if (!d) return FASTGDML_SUCCESS;
    if (d->status) return gdml_fail(d->status, "%s", d->failure ? d->failure : "no memory for the text of the failure");
    if (gdml_lammps_has_fix(d)) return FASTGDML_SUCCESS;
    return gdml_fail(FASTGDML_ERROR_ENGINE,
                     "LAMMPS does not have the fix '%s' of this driver any more (clear, unfix): attach the model again",
                     d->fix_id);
}

void fastgdml_lammps_detach(fastgdml_lammps *d)
{
    if (!d) return;
    const int is_own = gdml_lammps_has_fix(d);
    if (is_own) remove_fix(d, d->fix_id);
    if (is_own || !d->call.has_id(d->lmp, "fix", d->fix_id)) remove_fix(d, d->property_fix);
    if (d->status) d->call.command(d->lmp, "timer timeout off");  /* which ended the run, and would end the next */
    fastgdml_lammps_free(d);
}

void fastgdml_lammps_free(fastgdml_lammps *d)
{
    if (!d) return;
    free(d->by_id);
    free(d->id);
    free(d->gather_id);
    free(d->gathered);
    free(d->first_id);
    free(d->order);
    free(d->parent);
    free(d->tags);
    free(d->local);
    free(d->active);
    free(d->r);
    free(d->r_active);
    free(d->force);
    free(d->energy);
    free(d->virial);
    free(d->sums);
    free(d->energy_std);
    free(d->force_std);
    free(d->failure);
    free(d);
}
