// A pair style of LAMMPS, loaded as a plugin: the molecules of some atom types are given energy, forces and virial by a
// model of fastgdml.
//
//     plugin     load /path/to/fastgdmlplugin.so
//     pair_style fastgdml
//     pair_coeff * * model.fgdml [molecule id|consecutive] [masses check|any]
//
// The work is done by the driver of fastgdml_lammps.h. It believes that it serves a `fix external`: the functions of
// LAMMPS that set this fix up, and that take its numbers, are replaced by those of the pair style.
#include "lammpsplugin_api.h"
#include "standard_masses.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "lammps.h"
#include "library.h"
#include "memory.h"
#include "modify.h"
#include "pair.h"
#include "update.h"
#include "utils.h"

#include <fastgdml_lammps.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iterator>
#include <string>
#include <vector>

using namespace LAMMPS_NS;

namespace {

class PairFastGDML : public Pair {
public:
    explicit PairFastGDML(LAMMPS *lmp);
    ~PairFastGDML() override;

    void settings(int narg, char **arg) override;
    void coeff(int narg, char **arg) override;
    void init_style() override;
    double init_one(int i, int j) override;
    void compute(int eflag, int vflag) override;

    LAMMPS *lammps() const { return lmp; }

    // What the driver says to its fix
    void command(const char *text);
    void set_callback(const char *fix, fastgdml_lammps_function function, void *driver);
    bool is_fix(const char *id) const { return step_ && fix_ == id; }
    void set_energy(double value) { energy_ = value; }
    void set_virial(const double *values) { std::copy_n(values, 6, virial_); }
    void set_mark(double value) { mark_ = value; }
    double *mark() { return &mark_; }

private:
    using Step = void (*)(void *driver, bigint step, int n_local, tagint *tags, double **x, double **f);
    struct ModelAtom {
        std::int64_t molecule, id, number;
    };

    void allocate();
    void require_success(fastgdml_status status);
    int atomic_number(int i) const;
    std::vector<ModelAtom> gather_atoms() const;
    std::vector<std::int64_t> find_molecules() const;
    void detach();

    fastgdml_model *model_ = nullptr;
    fastgdml_lammps *driver_ = nullptr;
    Step step_ = nullptr;
    void *context_ = nullptr;
    std::string molecule_ = "any", fix_;
    bool check_masses_ = true;
    double energy_ = 0.0, virial_[6] = {}, mark_ = 0.0;
    double **force_ = nullptr;    // of the model on this rank's atoms, [max_force_][3]
    int max_force_ = 0;
};

// ---- the driver's functions: of LAMMPS, or of the pair style ---------------------------------------------------------

PairFastGDML *pair_of(void *handle) { return static_cast<PairFastGDML *>(handle); }

// A function of LAMMPS's C library, called for the LAMMPS of a pair style
template <auto function> struct Library;
template <typename Result, typename Handle, typename... Rest, Result (*function)(Handle, Rest...)>
struct Library<function> {
    static Result call(void *handle, Rest... rest) { return function(pair_of(handle)->lammps(), rest...); }
    static constexpr auto address() { return reinterpret_cast<fastgdml_lammps_function>(call); }
};

// No exception may pass through the driver, which is written in C
char *do_command(void *handle, const char *text)
{
    PairFastGDML *pair = pair_of(handle);
    try {
        pair->command(text);
    } catch (const std::exception &error) {
        pair->lammps()->error->set_last_error(error.what());
    }
    return nullptr;
}

int has_id(void *handle, const char *category, const char *id)
{
    const PairFastGDML *const pair = pair_of(handle);
    return (!std::strcmp(category, "fix") && pair->is_fix(id)) || lammps_has_id(pair->lammps(), category, id);
}

void set_callback(void *handle, const char *fix, fastgdml_lammps_function function, void *driver)
{
    pair_of(handle)->set_callback(fix, function, driver);
}

void set_energy(void *handle, const char *, double value) { pair_of(handle)->set_energy(value); }

void set_virial(void *handle, const char *, double *values) { pair_of(handle)->set_virial(values); }

void end_run(void *) {}    // the pair style does, by an error

// The number by which a driver knows its fix again; here, its pair style.
void set_vector_length(void *, const char *, int) {}

void set_vector(void *handle, const char *, int, double value) { pair_of(handle)->set_mark(value); }

void *extract_fix(void *handle, const char *, int, int, int, int) { return pair_of(handle)->mark(); }

void keep(void *) {}    // what extract_fix returns belongs to the pair style

fastgdml_lammps_api functions()
{
    return {
        reinterpret_cast<fastgdml_lammps_function>(do_command),
        Library<lammps_extract_setting>::address(),
        Library<lammps_extract_global>::address(),
        Library<lammps_extract_atom>::address(),
        Library<lammps_gather_subset>::address(),
        reinterpret_cast<fastgdml_lammps_function>(has_id),
        Library<lammps_has_error>::address(),
        Library<lammps_get_last_error_message>::address(),
        reinterpret_cast<fastgdml_lammps_function>(end_run),
        reinterpret_cast<fastgdml_lammps_function>(set_callback),
        reinterpret_cast<fastgdml_lammps_function>(set_energy),
        reinterpret_cast<fastgdml_lammps_function>(set_virial),
        reinterpret_cast<fastgdml_lammps_function>(set_vector_length),
        reinterpret_cast<fastgdml_lammps_function>(set_vector),
        reinterpret_cast<fastgdml_lammps_function>(extract_fix),
        reinterpret_cast<fastgdml_lammps_function>(keep),
    };
}

// Only the fix that stores numbers of atoms, which the driver needs with several ranks, is a true one.
void PairFastGDML::command(const char *text)
{
    const std::string line = text;
    if (utils::strmatch(line, "^fix .* property/atom ")) modify->add_fix(line.substr(std::strlen("fix ")));
    if (!utils::strmatch(line, "^unfix ")) return;
    const std::string id = line.substr(std::strlen("unfix "));
    if (is_fix(id.c_str())) step_ = nullptr;
    else modify->delete_fix(id);
}

void PairFastGDML::set_callback(const char *fix, fastgdml_lammps_function function, void *driver)
{
    fix_ = fix;
    step_ = reinterpret_cast<Step>(function);
    context_ = driver;
}

// ---- set-up ----------------------------------------------------------------------------------------------------------

PairFastGDML::PairFastGDML(LAMMPS *lmp) : Pair(lmp)
{
    single_enable = 0;
    restartinfo = 0;
    manybody_flag = 1;
    no_virial_fdotr_compute = 1;
    centroidstressflag = CENTROID_NOTAVAIL;
}

PairFastGDML::~PairFastGDML()
{
    detach();
    fastgdml_model_free(model_);
    memory->destroy(force_);
    if (!allocated) return;
    memory->destroy(setflag);
    memory->destroy(cutsq);
}

void PairFastGDML::detach()
{
    if (lmp->modify) fastgdml_lammps_detach(driver_);
    else fastgdml_lammps_free(driver_);
    driver_ = nullptr;
}

// All ranks end together, also if only one of them fails.
void PairFastGDML::require_success(fastgdml_status status)
{
    const int failed = status != FASTGDML_SUCCESS;
    int any = 0;
    MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, world);
    if (!any) return;
    error->all(FLERR, std::string("fastgdml: ") + (failed ? fastgdml_last_error() : "another MPI rank has failed"));
}

void PairFastGDML::settings(int narg, char **)
{
    if (narg) error->all(FLERR, std::string("pair_style fastgdml takes no arguments"));
}

void PairFastGDML::allocate()
{
    const int n = atom->ntypes + 1;
    memory->create(setflag, n, n, "pair:setflag");
    memory->create(cutsq, n, n, "pair:cutsq");
    std::fill_n(&setflag[0][0], n * n, 0);
    allocated = 1;
}

void PairFastGDML::coeff(int narg, char **arg)
{
    if (narg < 3 || narg % 2 == 0)
        error->all(FLERR, std::string("pair_coeff for fastgdml takes two ranges of atom types, a model file, and the "
                                      "keywords molecule and masses with a value each"));
    if (model_) error->all(FLERR, std::string("pair_style fastgdml takes one pair_coeff: for several models take "
                                              "hybrid/overlay"));
    for (int i = 3; i < narg; i += 2) {
        const std::string key = arg[i], value = arg[i + 1];
        if (key == "molecule" && (value == "id" || value == "consecutive")) molecule_ = value;
        else if (key == "masses" && (value == "check" || value == "any")) check_masses_ = value == "check";
        else error->all(FLERR, "pair_coeff for fastgdml does not know '" + key + " " + value +
                                   "': molecule id, molecule consecutive, masses check and masses any are allowed");
    }
    if (!allocated) allocate();
    int i_low, i_high, j_low, j_high;
    utils::bounds(FLERR, arg[0], 1, atom->ntypes, i_low, i_high, error);
    utils::bounds(FLERR, arg[1], 1, atom->ntypes, j_low, j_high, error);
    for (int i = i_low; i <= i_high; ++i)
        for (int j = std::max(i, j_low); j <= j_high; ++j) setflag[i][j] = 1;
    require_success(fastgdml_model_load(arg[2], &model_));
}

// The element of nearest mass; 0: none is near
int PairFastGDML::atomic_number(int i) const
{
    const double mass = atom->rmass ? atom->rmass[i] : atom->mass[atom->type[i]];
    const auto nearest = std::min_element(std::begin(standard_masses), std::end(standard_masses),
                                          [&](double a, double b) { return std::abs(a - mass) < std::abs(b - mass); });
    return std::abs(*nearest - mass) > 0.5 ? 0 : static_cast<int>(nearest - std::begin(standard_masses));
}

// The atoms of the types that the model acts on, of all ranks, by molecule and ID
std::vector<PairFastGDML::ModelAtom> PairFastGDML::gather_atoms() const
{
    std::vector<ModelAtom> mine;
    for (int i = 0; i < atom->nlocal; ++i) {
        const int type = atom->type[i];
        if (!setflag[type][type]) continue;
        const bool by_id = molecule_ != "consecutive" && atom->molecule;
        mine.push_back({by_id ? atom->molecule[i] : 0, atom->tag[i], atomic_number(i)});
    }
    constexpr int width = sizeof(ModelAtom) / sizeof(std::int64_t);
    const int n_mine = width * static_cast<int>(mine.size());
    std::vector<int> counts(comm->nprocs), starts(comm->nprocs, 0);
    MPI_Allgather(&n_mine, 1, MPI_INT, counts.data(), 1, MPI_INT, world);
    for (int rank = 1; rank < comm->nprocs; ++rank) starts[rank] = starts[rank - 1] + counts[rank - 1];
    std::vector<ModelAtom> all((starts.back() + counts.back()) / width);
    MPI_Allgatherv(mine.data(), n_mine, MPI_INT64_T, all.data(), counts.data(), starts.data(), MPI_INT64_T, world);
    std::sort(all.begin(), all.end(), [](const ModelAtom &a, const ModelAtom &b) {
        return a.molecule != b.molecule ? a.molecule < b.molecule : a.id < b.id;
    });
    return all;
}

// Atom IDs of molecules, [n_molecules][n_atoms]
std::vector<std::int64_t> PairFastGDML::find_molecules() const
{
    const std::vector<ModelAtom> atoms = gather_atoms();
    const std::size_t n_atoms = fastgdml_model_n_atoms(model_);
    const std::string has = "; the model has " + std::to_string(n_atoms) + " atoms";
    if (atoms.empty()) error->all(FLERR, std::string("fastgdml: there are no atoms of the types of pair_coeff"));
    const bool by_id = atoms.back().molecule > 0;
    if (molecule_ == "id" && !by_id) error->all(FLERR, std::string("fastgdml: the atoms have no molecule IDs"));
    if (!by_id && atoms.size() % n_atoms)
        error->all(FLERR, "fastgdml: there are " + std::to_string(atoms.size()) + " atoms, without molecule IDs" + has);

    const std::int32_t *z = fastgdml_model_atomic_numbers(model_);
    const bool check = check_masses_ && std::any_of(z, z + n_atoms, [](std::int32_t number) { return number != 0; });
    std::vector<std::int64_t> ids;
    for (std::size_t first = 0; first < atoms.size(); first += n_atoms) {
        const std::int64_t molecule = atoms[first].molecule;
        const auto next = std::upper_bound(atoms.begin() + first, atoms.end(), molecule,
                                           [](std::int64_t id, const ModelAtom &one) { return id < one.molecule; });
        const std::size_t count = next - atoms.begin() - first;
        if (by_id && count != n_atoms)
            error->all(FLERR, "fastgdml: molecule " + std::to_string(molecule) + " has " + std::to_string(count) +
                                  " atoms of the types of pair_coeff" + has);
        for (std::size_t a = 0; a < n_atoms; ++a) {
            const ModelAtom &one = atoms[first + a];
            ids.push_back(one.id);
            if (check && one.number != z[a])
                error->all(FLERR, "fastgdml: by its mass atom " + std::to_string(one.id) + " has atomic number " +
                                      std::to_string(one.number) + " (0: none), atom " + std::to_string(a + 1) +
                                      " of the model " + std::to_string(z[a]) + ": atoms must come in the order of the "
                                      "training set. Isotopes need 'masses any'");
        }
    }
    return ids;
}

// Before each run, as atoms may have changed. No neighbour list is asked for.
void PairFastGDML::init_style()
{
    detach();
    if (!atom->tag_enable) error->all(FLERR, std::string("pair_style fastgdml needs atom IDs"));
    const std::vector<std::int64_t> ids = find_molecules();
    const std::int64_t n_molecules = static_cast<std::int64_t>(ids.size()) / fastgdml_model_n_atoms(model_);
    fastgdml_lammps_options options = {};
    options.n_threads = comm->nthreads;
    const fastgdml_lammps_api api = functions();
    const std::string name = "fastgdml_pair" + std::to_string(instance_me);
    require_success(fastgdml_lammps_attach(this, &api, name.c_str(), model_, n_molecules, ids.data(), &options, &driver_));
}

// No force ends at this cutoff. As long as a bond, it tells LAMMPS how far ranks look for atoms.
double PairFastGDML::init_one(int, int) { return 4.0 * force->angstrom; }

// ---- each step -------------------------------------------------------------------------------------------------------

void PairFastGDML::compute(int eflag, int vflag)
{
    ev_init(eflag, vflag);
    if (eflag_atom || vflag_atom || cvflag_atom)
        error->all(FLERR, std::string("pair_style fastgdml has no energies and virials of single atoms"));
    if (atom->nmax > max_force_) {
        max_force_ = atom->nmax;
        memory->grow(force_, max_force_, 3, "pair:force");
    }
    step_(context_, update->ntimestep, atom->nlocal, atom->tag, atom->x, force_);
    require_success(fastgdml_lammps_status(driver_));
    for (int i = 0; i < atom->nlocal; ++i)
        for (int j = 0; j < 3; ++j) atom->f[i][j] += force_[i][j];
    if (comm->me) return;    // LAMMPS sums over ranks; the driver has told each the sum of all molecules
    if (eflag_global) eng_vdwl = energy_;
    if (vflag_global) std::copy_n(virial_, 6, virial);
}

void *create(void *lmp) { return static_cast<Pair *>(new PairFastGDML(static_cast<LAMMPS *>(lmp))); }

}    // namespace

void lammpsplugin_init(void *lmp, void *handle, void *register_plugin)
{
    lammpsplugin_t plugin = {LAMMPS_VERSION, "pair", "fastgdml", "sGDML force fields", "fastgdml", create, handle};
    reinterpret_cast<lammpsplugin_regfunc>(register_plugin)(&plugin, lmp);
}
