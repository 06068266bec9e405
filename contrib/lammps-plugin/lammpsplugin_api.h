// What LAMMPS's `plugin load` asks of a shared object, from its manual (Developer_plugins); packages of LAMMPS often lack
// its header lammpsplugin.h.
#ifndef FASTGDML_LAMMPSPLUGIN_API_H
#define FASTGDML_LAMMPSPLUGIN_API_H

extern "C" {

struct lammpsplugin_t {
    const char *version;    // of LAMMPS; it warns where it is another one
    const char *style;
    const char *name;
    const char *info;
    const char *author;
    void *(*creator)(void *lmp);
    void *handle;
};

using lammpsplugin_regfunc = void (*)(lammpsplugin_t *, void *lmp);

__attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *register_plugin);

}

#endif
