// What fastgdml.hpp adds to fastgdml.h: ownership, exceptions, checked sizes. Run by tests/test_c_library.py.
#include <fastgdml.hpp>

#include <cstdio>
#include <cstdlib>
#include <type_traits>
#include <utility>

static_assert(!std::is_copy_constructible<fastgdml::model>::value, "a model has one owner");
static_assert(!std::is_copy_assignable<fastgdml::model>::value, "a model has one owner");
static_assert(std::is_nothrow_move_constructible<fastgdml::model>::value, "owners can change");
static_assert(std::is_nothrow_move_assignable<fastgdml::model>::value, "owners can change");
static_assert(std::is_base_of<std::runtime_error, fastgdml::error>::value, "errors are runtime errors");

static void require(bool condition, const char *text)
{
    if (condition) return;
    std::fprintf(stderr, "not true: %s\n", text);
    std::exit(1);
}

template <typename Call> static void throws(fastgdml_status status, const std::string &text, Call call)
{
    try {
        call();
    } catch (const fastgdml::error &error) {
        require(error.status() == status && std::string(error.what()).find(text) != std::string::npos, error.what());
        return;
    }
    require(false, text.c_str());
}

int main()
{
    const std::vector<double> x{1.0, 0.9, 0.8}, v{1, 2, 3}, r{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
    const double cell[9] = {9, 0, 0, 0, 8, 0, 0, 0, 7};
    fastgdml_arrays arrays{};
    arrays.n_atoms = 3;
    arrays.n_train = 1;
    arrays.descriptors = x.data();
    arrays.coefficients = v.data();
    arrays.sig = arrays.std = 1;
    arrays.energy_unit = "eV";
    fastgdml::model first(arrays);
    const fastgdml::prediction p = first.predict(r);
    require(p.energy.size() == 2 && p.forces.size() == 18 && p.energy[0] == p.energy[1], "sizes and values");
    double energy[2], virial[18];
    first.predict(2, r.data(), nullptr, energy, nullptr, virial, 1);
    require(energy[0] == p.energy[0] && virial[0] != 0, "pointers");

    fastgdml::model second = std::move(first);
    require(first.get() == nullptr && first.n_atoms() == 0, "moved from");
    require(second.n_atoms() == 3 && second.n_train() == 1 && second.n_perms() == 1 && !second.is_periodic(), "counts");
    require(second.energy_unit() == "eV" && second.length_unit().empty(), "units");
    require(second.atomic_numbers() == std::vector<std::int32_t>(3, 0), "atomic numbers");
    throws(FASTGDML_ERROR_ARGUMENT, "model is NULL", [&] { first.predict(1, r.data(), nullptr, energy, nullptr, nullptr); });
    throws(FASTGDML_ERROR_ARGUMENT, "no multiple of 0", [&] { first.predict(r); });
    throws(FASTGDML_ERROR_ARGUMENT, "17 coordinates are no multiple of 9",
           [&] { second.predict(std::vector<double>(17)); });
    throws(FASTGDML_ERROR_GEOMETRY, "geometry 0", [&] { second.predict(std::vector<double>(9)); });
    throws(FASTGDML_ERROR_ARGUMENT, "is of a molecule", [&] { second.predict(r, cell); });
    throws(FASTGDML_ERROR_ARGUMENT, "is of a molecule", [&] { second.lattice(); });
    throws(FASTGDML_ERROR_FILE, "cannot be opened", [] { fastgdml::model("no such file"); });
    throws(FASTGDML_ERROR_UNIT, "'stone'", [] { fastgdml::energy_factor("eV", "stone"); });
    require(fastgdml::length_factor("nm", "Ang") == 10, "factor");

    arrays.lattice = cell;
    second = fastgdml::model(arrays);
    require(second.is_periodic() && second.lattice()[4] == 8, "lattice");
    arrays.sig = 0;
    throws(FASTGDML_ERROR_ARGUMENT, "sig is 0", [&] { fastgdml::model{arrays}; });
    return 0;
}
