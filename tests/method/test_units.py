import numpy as np
import pytest

from fastgdml.errors import DataError
from fastgdml.units import Conversion, Units, conversion, energy_factor, length_factor

HARTREE, BOHR = 27.211386245988, 0.529177210903  # CODATA 2018, in eV and Angstrom


@pytest.mark.parametrize(
    ("names", "size"),
    [
        (("eV", "ev", " e V "), 1),
        (("Hartree", "hartrees", "Ha", "Eh", "E_h", "au", "a.u.", "a.u", "AU", "atomic units"), HARTREE),
        (("kcal/mol", "kcal / mol", "kcal mol-1", "kcal mol^-1", "kcal/mole"), 4184 / 6.02214076e23 / 1.602176634e-19),
        (("kJ/mol", "kJ mol-1"), 1000 / 6.02214076e23 / 1.602176634e-19),
        (("meV",), 1e-3),
        (("Ry", "rydberg"), HARTREE / 2),
        (("cm-1", "cm^-1", "1/cm"), 100 * 6.62607015e-34 * 299792458 / 1.602176634e-19),
    ],
)
def test_names_of_energies(names, size):
    for name in names:
        assert energy_factor(name, "eV") == pytest.approx(size, rel=1e-14)


@pytest.mark.parametrize(
    ("names", "size"),
    [
        (("Ang", "Angstrom", "ANGSTROMS", "A", "Å", "\u212b", "A\u030a", "Ångström", "ångström"), 1),
        (("Bohr", "bohrs", "a0", "au", "a.u."), BOHR),
        (("nm", "nanometer"), 10),
        (("pm",), 0.01),
    ],
)
def test_names_of_lengths(names, size):
    for name in names:
        assert length_factor(name, "Ang") == pytest.approx(size, rel=1e-14)


@pytest.mark.parametrize("name", ["", "foo", "Ang", "x" * 100, "\ud800"])
def test_unknown_names_are_told(name):
    with pytest.raises(DataError):
        energy_factor(name, "eV")


def test_what_is_recorded():
    assert Units.of({"e_unit": np.array(b"eV"), "r_unit": np.array("Ang")}) == Units("eV", "Ang")
    assert Units.of({"e_unit": None, "r_unit": np.array("unknown")}) == Units("", "")
    assert Units("eV", "Ang").force == "eV/Ang"
    assert Units("eV", "").force == ""


def test_conversion():
    factors = conversion(Units("Ha", "Bohr"), Units("eV", "Ang"), "a", "b")
    assert (factors.energy, factors.length) == pytest.approx((HARTREE, BOHR))
    assert factors.force == pytest.approx(HARTREE / BOHR)
    assert factors
    for one, other in (
        (("eV", "Ang"), ("ev", "angstrom")),
        (("Ha", "a0"), ("a.u.", "au")),
        (("", "Ang"), ("eV", "")),
        (("foo", "bar"), ("Foo", "b ar")),  # whatever it is, it is the same
    ):
        same = conversion(Units(*one), Units(*other), "a", "b")
        assert same == Conversion()
        assert not same
    with pytest.raises(DataError, match=r"The set records the unit of energy 'eV', the model 'foo', .* e_unit"):
        conversion(Units("eV", "Ang"), Units("foo", "Ang"), "set", "model")
    with pytest.raises(DataError, match=r"unit of length 'Ang', the model 'foo', .* r_unit"):
        conversion(Units("eV", "Ang"), Units("eV", "foo"), "set", "model")
