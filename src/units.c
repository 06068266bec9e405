/* Units by name. The constants are those of the SI since 2019 (exact) and CODATA 2018. */
#include "model.h"

#include <string.h>

typedef struct {
    const char *name;             /* lower case, without blanks */
    double size;
} unit;

#define ELEMENTARY_CHARGE 1.602176634e-19
#define AVOGADRO 6.02214076e23
#define HARTREE 27.211386245988
#define BOHR 0.529177210903
#define KCAL (4184.0 / (AVOGADRO * ELEMENTARY_CHARGE))
#define KILOJOULE (1000.0 / (AVOGADRO * ELEMENTARY_CHARGE))
#define WAVENUMBER (100.0 * 6.62607015e-34 * 299792458.0 / ELEMENTARY_CHARGE)

static const unit energies[] = {                           /* in eV */
    {"ev", 1.0},
    {"electronvolt", 1.0},
    {"electronvolts", 1.0},
    {"mev", 1e-3},
    {"kcal/mol", KCAL},
    {"kcal/mole", KCAL},
    {"kcalmol-1", KCAL},
    {"kcalmol^-1", KCAL},
    {"kcal.mol-1", KCAL},
    {"kcal*mol^-1", KCAL},
    {"kj/mol", KILOJOULE},
    {"kj/mole", KILOJOULE},
    {"kjmol-1", KILOJOULE},
    {"kjmol^-1", KILOJOULE},
    {"kj.mol-1", KILOJOULE},
    {"kj*mol^-1", KILOJOULE},
    {"hartree", HARTREE},
    {"hartrees", HARTREE},
    {"ha", HARTREE},
    {"eh", HARTREE},
    {"e_h", HARTREE},
    {"a.u.", HARTREE},
    {"a.u", HARTREE},
    {"au", HARTREE},
    {"atomicunits", HARTREE},
    {"millihartree", HARTREE / 1000},
    {"mha", HARTREE / 1000},
    {"meh", HARTREE / 1000},
    {"rydberg", HARTREE / 2},
    {"ry", HARTREE / 2},
    {"cm-1", WAVENUMBER},
    {"cm^-1", WAVENUMBER},
    {"1/cm", WAVENUMBER},
    {NULL, 0.0},
};

static const unit lengths[] = {                            /* in Angstrom */
    {"ang", 1.0},
    {"ang.", 1.0},
    {"angstrom", 1.0},
    {"angstroms", 1.0},
    {"a", 1.0},
    {"\xc3\xa5", 1.0},                                     /* small and capital a with ring, ... */
    {"\xc3\x85", 1.0},
    {"\xe2\x84\xab", 1.0},                                 /* ... the sign for Angstrom, ... */
    {"a\xcc\x8a", 1.0},                                    /* ... a and a ring */
    {"\xc3\xa5ngstr\xc3\xb6m", 1.0},
    {"\xc3\x85ngstr\xc3\xb6m", 1.0},
    {"angstr\xc3\xb6m", 1.0},
    {"bohr", BOHR},
    {"bohrs", BOHR},
    {"a0", BOHR},
    {"a_0", BOHR},
    {"a.u.", BOHR},
    {"a.u", BOHR},
    {"au", BOHR},
    {"atomicunits", BOHR},
    {"nm", 10.0},
    {"nanometer", 10.0},
    {"nanometre", 10.0},
    {"pm", 0.01},
    {"m", 1e10},
    {NULL, 0.0},
};

/* Of ASCII alone: those of the C library follow the locale, which would change bytes of UTF-8. */
static int is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static double size_of(const unit *units, const char *name)
{
    char plain[GDML_UNIT_LENGTH];
    size_t n = 0;
    for (; *name; ++name) {
        if (is_blank(*name)) continue;
        if (n + 1 == sizeof plain) return 0.0;
        plain[n++] = lower(*name);
    }
    plain[n] = 0;
    for (; units->name; ++units)
        if (!strcmp(units->name, plain)) return units->size;
    return 0.0;
}

static fastgdml_status factor_of(const unit *units, const char *kind, const char *from, const char *to,
                                 double *factor)
{
    if (!from || !to || !factor)
        return gdml_fail(FASTGDML_ERROR_ARGUMENT, "%s factor: an argument is NULL", kind);
    const char *const names[2] = {from, to};
    double sizes[2];
    for (int i = 0; i < 2; ++i) {
        sizes[i] = size_of(units, names[i]);
        if (sizes[i] > 0) continue;
        if (!*names[i])
            return gdml_fail(FASTGDML_ERROR_UNIT, "the unit of %s is not known: the model does not record it", kind);
        return gdml_fail(FASTGDML_ERROR_UNIT, "'%.40s' is no known unit of %s; %s are", names[i], kind,
                         units == energies ? "eV, meV, kcal/mol, kJ/mol, Hartree, mHa, Ry" : "Ang, Bohr, nm");
    }
    *factor = sizes[0] / sizes[1];
    return FASTGDML_SUCCESS;
}

fastgdml_status fastgdml_energy_factor(const char *from, const char *to, double *factor)
{
    return factor_of(energies, "energy", from, to, factor);
}

fastgdml_status fastgdml_length_factor(const char *from, const char *to, double *factor)
{
    return factor_of(lengths, "length", from, to, factor);
}
