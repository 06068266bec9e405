/* libFuzzer: bytes as arguments. Models are made from arrays and predict, in cells and at positions of any kind, units are
 * looked up. Numbers are eight bytes each, so that nothing is impossible; two bytes in a row make a plain one.
 */
#include "../c/model_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    const uint8_t *at, *end;
} input;

static int byte(input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

/* Of plain size, or any. */
static double number(input *in)
{
    double value = (byte(in) - 128) / 16.0;
    if (byte(in) % 4) return value;
    if (in->end - in->at < (ptrdiff_t)sizeof value) return value;
    memcpy(&value, in->at, sizeof value);
    in->at += sizeof value;
    return value;
}

static double *numbers(input *in, int64_t n)
{
    double *const values = check_doubles(n);
    for (int64_t i = 0; i < n; ++i) values[i] = number(in);
    return values;
}

/* What holds for every cell that is accepted: folding gives a number, and no longer one where it was short. */
static void check_cell(const double *lattice)
{
    gdml_cell cell;
    for (int minimum = 0; minimum < 2; ++minimum) {
        if (gdml_cell_init(&cell, lattice, minimum)) continue;
        for (int i = 0; i < 9; ++i) CHECK(isfinite(cell.basis[i]) && isfinite(cell.inverse[i]));
        CHECK(cell.n_shifts >= 0 && cell.n_shifts <= GDML_MAX_SHIFTS && cell.safe > 0);
    }
}

static void check_units(input *in)
{
    static const char *const known[] = {"eV", " KCAL/mol ", "hartree", "Ang", "bohr", ""};
    char text[12];
    double factor;
    for (size_t i = 0; i < sizeof text - 1; ++i) text[i] = (char)byte(in);
    text[sizeof text - 1] = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i) {
        if (!fastgdml_energy_factor(text, known[i], &factor)) CHECK(factor > 0 && factor < 1e6);
        if (!fastgdml_length_factor(known[i], text, &factor)) CHECK(factor > 0 && factor < 1e6);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, data + size};
    const int flags = byte(&in);
    const int64_t n_atoms = byte(&in) % 6, n_train = byte(&in) % 5, n_perms = byte(&in) % 7;
    const int64_t n_desc = n_atoms * (n_atoms - 1) / 2;
    int32_t *z = check_new((size_t)n_atoms, sizeof *z), *perms = check_new((size_t)(n_perms * n_atoms), sizeof *perms);
    for (int64_t a = 0; a < n_atoms; ++a) z[a] = byte(&in);
    for (int64_t k = 0; k < n_perms * n_atoms; ++k) perms[k] = byte(&in) % 8 - 1;
    double lattice[9], other[9];
    for (int i = 0; i < 9; ++i) lattice[i] = number(&in);
    for (int i = 0; i < 9; ++i) other[i] = number(&in);
    double *x = numbers(&in, n_train * n_desc), *v = numbers(&in, n_train * n_desc), *e = numbers(&in, n_train);
    double *w = numbers(&in, n_desc), *r = numbers(&in, 6 * n_atoms);
    const fastgdml_arrays arrays = {
        .n_atoms = n_atoms,
        .n_train = n_train,
        .n_perms = flags & 1 ? n_perms : 0,
        .atomic_numbers = z,
        .perms = perms,
        .descriptors = x,
        .coefficients = v,
        .energy_coefficients = flags & 2 ? e : NULL,
        .weights = flags & 4 ? w : NULL,
        .sig = number(&in),
        .std = number(&in),
        .c = number(&in),
        .lattice = flags & 8 ? lattice : NULL,
        .image_rule = flags & 16 ? FASTGDML_IMAGE_MINIMUM : FASTGDML_IMAGE_ROUNDING,
        .energy_unit = "eV",
    };
    check_cell(lattice);
    check_cell(other);
    check_units(&in);
    fastgdml_model *model;
    if (!fastgdml_model_from_arrays(&arrays, &model)) {
        double energy[2], virial[18];
        double *forces = check_doubles(6 * n_atoms), *hessian = check_doubles(18 * n_atoms * n_atoms);
        const double *const cell = flags & 8 && flags & 32 ? other : NULL;
        fastgdml_status status = fastgdml_predict(model, 2, r, cell, energy, forces, virial, 1);
        check_results(status, 2, energy);
        check_results(status, 6 * n_atoms, forces);
        check_results(status, 18, virial);
        status = fastgdml_hessian(model, 2, r, cell, energy, forces, hessian, 1);
        check_results(status, 18 * n_atoms * n_atoms, hessian);
        fastgdml_model_check_lattice(model, other);
        fastgdml_make_whole(model, 2, other, r);
        use(model);
        fastgdml_model_free(model);
        free(forces);
        free(hessian);
    }
    free(z);
    free(perms);
    free(x);
    free(v);
    free(e);
    free(w);
    free(r);
    return 0;
}
