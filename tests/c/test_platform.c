/* What differs between platforms: the instruction set in use, paths that are not ASCII, and the last bits of results.
 *
 * With the argument `--print` it prints energies, forces and virials, to be compared between platforms (cross.sh).
 */
#include "check.h"
#include "gdml.h"
#include "model.h"
#include "system.h"

#ifdef _WIN32
#include <windows.h>
#endif

/* Beyond Latin-1, so that no code page of Windows has all of it. */
static const char path[] = "Mole\xc3\xa4l \xe5\x88\x86\xe5\xad\x90.fgdml";

static FILE *create(const char *name)
{
#ifdef _WIN32
    wchar_t wide[64];
    CHECK(MultiByteToWideChar(CP_UTF8, 0, name, -1, wide, 64));
    return _wfopen(wide, L"wb");
#else
    return fopen(name, "wb");
#endif
}

static void discard(const char *name)
{
#ifdef _WIN32
    wchar_t wide[64];
    CHECK(MultiByteToWideChar(CP_UTF8, 0, name, -1, wide, 64));
    CHECK(!_wremove(wide));
#else
    CHECK(!remove(name));
#endif
}

static void a_path_is_utf8(void)
{
    const check_recipe recipe = {.n_atoms = 4, .n_train = 3, .n_perms = 2};
    fastgdml_model *model = check_model(recipe), *loaded;
    size_t size;
    const void *image = gdml_model_image(model, &size);
    FILE *const file = create(path);
    CHECK(file && fwrite(image, 1, size, file) == size && !fclose(file));
    CHECK(!fastgdml_model_load(path, &loaded));
    CHECK(fastgdml_model_n_train(loaded) == 3);
    fastgdml_model_free(loaded);
    fastgdml_model_free(model);
    discard(path);
    CHECK_FAILS(fastgdml_model_load(path, &loaded), FASTGDML_ERROR_FILE, path);
}

/* The best of those that were built and that this processor runs, unless FASTGDML_ISA names one. */
static void instruction_set_is_the_best(void)
{
    const int level = gdml_x86_level();
    const char *const best = level >= 4 ? "v4" : level == 3 ? "v3" : "baseline";
    CHECK(!strcmp(gdml_select_kernels(NULL)->name, best));
#if defined(__x86_64__)
    CHECK(level >= 1);
#else
    CHECK(level == 0);
#endif
}

static void print_results(check_recipe recipe)
{
    enum { N_GEO = 20 };
    fastgdml_model *const model = check_model(recipe);
    const int64_t n = recipe.n_atoms;
    double *const r = check_doubles(3 * N_GEO * n), *const f = check_doubles(3 * N_GEO * n);
    double e[N_GEO], virial[9 * N_GEO];
    check_random random = {7};
    check_geometries(&random, N_GEO, n, r);
    CHECK(!fastgdml_predict(model, N_GEO, r, NULL, e, f, virial, 1));
    for (int i = 0; i < N_GEO; ++i) printf("%.17g\n", e[i]);
    for (int64_t i = 0; i < 3 * N_GEO * n; ++i) printf("%.17g\n", f[i]);
    for (int i = 0; i < 9 * N_GEO; ++i) printf("%.17g\n", virial[i]);
    free(r);
    free(f);
    fastgdml_model_free(model);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--print")) {
        print_results((check_recipe){.n_atoms = 9, .n_train = 40, .n_perms = 6});
        return 0;
    }
    instruction_set_is_the_best();
    a_path_is_utf8();
    return 0;
}
