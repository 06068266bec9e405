// fastgdml for C++17: fastgdml.h with ownership and exceptions. Units, shapes and the order of atoms are described there.
//
//     const fastgdml::model model("ethanol.fgdml");
//     const fastgdml::prediction p = model.predict(positions);  // positions: std::vector<double>, [n_geo][n_atoms][3]
#ifndef FASTGDML_HPP
#define FASTGDML_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "fastgdml.h"

namespace fastgdml {

// What all functions here throw.
class error : public std::runtime_error {
public:
    error(fastgdml_status status, const std::string &text) : std::runtime_error(text), status_(status) {}

    fastgdml_status status() const noexcept { return status_; }

private:
    fastgdml_status status_;
};

// Throw the last failure of this thread unless the status is a success.
inline void check(fastgdml_status status)
{
    if (status != FASTGDML_SUCCESS) throw error(status, fastgdml_last_error());
}

struct prediction {
    std::vector<double> energy;  // [n_geo]
    std::vector<double> forces;  // [n_geo][n_atoms][3]
};

struct prediction_std {
    std::vector<double> energy;      // [n_geo]
    std::vector<double> forces;      // [n_geo][n_atoms][3]
    std::vector<double> energy_std;  // [n_geo]
    std::vector<double> force_std;   // [n_geo][n_atoms]
};

// A trained model. It can be moved, not copied, and used by any number of threads at the same time.
class model {
public:
    explicit model(const std::string &path)
    {
        fastgdml_model *made = nullptr;
        check(fastgdml_model_load(path.c_str(), &made));
        model_.reset(made);
    }

    explicit model(const fastgdml_arrays &arrays)
    {
        fastgdml_model *made = nullptr;
        check(fastgdml_model_from_arrays(&arrays, &made));
        model_.reset(made);
    }

    int n_atoms() const noexcept { return fastgdml_model_n_atoms(get()); }
    std::int64_t n_train() const noexcept { return fastgdml_model_n_train(get()); }
    std::int64_t n_perms() const noexcept { return fastgdml_model_n_perms(get()); }
    std::int64_t n_std() const noexcept { return fastgdml_model_n_std(get()); }
    bool is_periodic() const noexcept { return fastgdml_model_is_periodic(get()) != 0; }
    std::string energy_unit() const { return fastgdml_model_energy_unit(get()); }
    std::string length_unit() const { return fastgdml_model_length_unit(get()); }

    std::vector<std::int32_t> atomic_numbers() const
    {
        const std::int32_t *z = fastgdml_model_atomic_numbers(get());
        return std::vector<std::int32_t>(z, z + n_atoms());
    }

    // The lattice vectors of training as columns of [3][3].
    std::array<double, 9> lattice() const
    {
        std::array<double, 9> vectors;
        check(fastgdml_model_lattice(get(), vectors.data()));
        return vectors;
    }

    // fastgdml_predict: pointers may be nullptr where it allows NULL.
    void predict(std::int64_t n_geo, const double *r, const double *lattice, double *energy, double *forces,
                 double *virial, int n_threads = 0) const
    {
        check(fastgdml_predict(get(), n_geo, r, lattice, energy, forces, virial, n_threads));
    }

    // Energies and forces of r [n_geo][n_atoms][3]; lattice: vectors as columns of [3][3], nullptr the model's own.
    prediction predict(const std::vector<double> &r, const double *lattice = nullptr, int n_threads = 0) const
    {
        const std::size_t n_geo = r.size() / coordinates_of(r, "predict");
        prediction p{std::vector<double>(n_geo), std::vector<double>(r.size())};
        predict(static_cast<std::int64_t>(n_geo), r.data(), lattice, p.energy.data(), p.forces.data(), nullptr,
                n_threads);
        return p;
    }

    // fastgdml_predict_std of r [n_geo][n_atoms][3].
    prediction_std predict_std(const std::vector<double> &r, const double *lattice = nullptr, int n_threads = 0) const
    {
        const std::size_t n_geo = r.size() / coordinates_of(r, "predict_std");
        prediction_std p{std::vector<double>(n_geo), std::vector<double>(r.size()), std::vector<double>(n_geo),
                         std::vector<double>(r.size() / 3)};
        check(fastgdml_predict_std(get(), static_cast<std::int64_t>(n_geo), r.data(), lattice, p.energy.data(),
                                   p.forces.data(), nullptr, p.energy_std.data(), p.force_std.data(), n_threads));
        return p;
    }

    // fastgdml_hessian of r [n_geo][n_atoms][3]: [n_geo][3 n_atoms][3 n_atoms].
    std::vector<double> hessian(const std::vector<double> &r, const double *lattice = nullptr, int n_threads = 0) const
    {
        const std::size_t n_coord = coordinates_of(r, "hessian"), n_geo = r.size() / n_coord;
        std::vector<double> h(n_geo * n_coord * n_coord);
        check(fastgdml_hessian(get(), static_cast<std::int64_t>(n_geo), r.data(), lattice, nullptr, nullptr, h.data(),
                               n_threads));
        return h;
    }

    // For the functions of fastgdml.h; owned by this object. nullptr after it was moved from.
    const fastgdml_model *get() const noexcept { return model_.get(); }

private:
    struct deleter {
        void operator()(fastgdml_model *model) const noexcept { fastgdml_model_free(model); }
    };
    // Coordinates of a geometry, if r holds whole geometries.
    std::size_t coordinates_of(const std::vector<double> &r, const std::string &function) const
    {
        const std::size_t n_coord = 3 * static_cast<std::size_t>(n_atoms());
        if (n_coord == 0 || r.size() % n_coord != 0)
            throw error(FASTGDML_ERROR_ARGUMENT, "fastgdml::model::" + function + ": " + std::to_string(r.size()) +
                                                     " coordinates are no multiple of " + std::to_string(n_coord));
        return n_coord;
    }

    std::unique_ptr<fastgdml_model, deleter> model_;
};

inline double energy_factor(const std::string &from, const std::string &to)
{
    double factor = 0;
    check(fastgdml_energy_factor(from.c_str(), to.c_str(), &factor));
    return factor;
}

inline double length_factor(const std::string &from, const std::string &to)
{
    double factor = 0;
    check(fastgdml_length_factor(from.c_str(), to.c_str(), &factor));
    return factor;
}

}  // namespace fastgdml

#endif
