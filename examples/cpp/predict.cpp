// Energies and forces of geometries in a text file, in C++17.
//
//     c++ -std=c++17 predict.cpp -o predict $(fastgdml-config --cflags --libs)
//     ./predict ethanol.fgdml geometries.txt
//
// The text file has one line for each atom, x y z, in the length unit of the model and the order of its atoms, geometry
// after geometry. Prints a line for each geometry: its energy, and its largest component of a force.
#include <fastgdml.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

static std::vector<double> read_numbers(const std::string &path)
{
    std::ifstream file(path);
    if (!file) throw std::runtime_error(path + " cannot be opened");
    const std::vector<double> numbers{std::istream_iterator<double>(file), std::istream_iterator<double>()};
    if (!file.eof()) throw std::runtime_error(path + " holds what is no number");
    return numbers;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        std::fprintf(stderr, "usage: %s MODEL.fgdml GEOMETRIES.txt\n", argv[0]);
        return 2;
    }
    try {
        const fastgdml::model model(argv[1]);
        const std::vector<double> r = read_numbers(argv[2]);
        const fastgdml::prediction p = model.predict(r);

        std::printf("# energy in %s, largest component of a force in %s/%s\n", model.energy_unit().c_str(),
                    model.energy_unit().c_str(), model.length_unit().c_str());
        const std::size_t n_coord = 3 * static_cast<std::size_t>(model.n_atoms());
        for (std::size_t geo = 0; geo < p.energy.size(); ++geo) {
            double largest = 0;
            for (std::size_t i = 0; i < n_coord; ++i) largest = std::max(largest, std::abs(p.forces[geo * n_coord + i]));
            std::printf("%17.9E %17.9E\n", p.energy[geo], largest);
        }
    } catch (const std::exception &error) {  // fastgdml::error, with a status, is one of them
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
