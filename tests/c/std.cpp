// MODEL IN OUT: standard deviations of the geometries in a file of doubles, energies first. For tests/native.
#include "fastgdml.hpp"

#include <cstdio>
#include <fstream>
#include <vector>

int main(int, char **argv)
{
    const fastgdml::model model(argv[1]);
    std::ifstream in(argv[2], std::ios::binary);
    std::vector<double> r;
    for (double x = 0; in.read(reinterpret_cast<char *>(&x), sizeof x);) r.push_back(x);
    const fastgdml::prediction_std p = model.predict_std(r);
    std::ofstream out(argv[3], std::ios::binary);
    for (const auto *part : {&p.energy, &p.forces, &p.energy_std, &p.force_std})
        out.write(reinterpret_cast<const char *>(part->data()),
                  static_cast<std::streamsize>(part->size() * sizeof(double)));
    std::printf("%lld\n", static_cast<long long>(model.n_std()));
}
