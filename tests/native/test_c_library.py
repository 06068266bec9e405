"""The C library as programs find it: in the Python package, and installed on its own, without Python.

Programs in C, C++ and Fortran are compiled the ways that docs/howto/c_library.md describes, and give the numbers of
GDMLPredict to the last bit. What the library does with wrong arguments is in tests/c.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.models import make_samples
from support.paths import REFERENCE_CASES, ROOT, shared_file

from fastgdml import c_library
from fastgdml.flat import export_flat
from fastgdml.group import GroupTables
from fastgdml.model import load_model
from fastgdml.pair_types import orbits
from fastgdml.predict import GDMLPredict

COMPILERS = {"c": "cc", "cpp": "c++", "fortran": "gfortran"}
STANDARDS = {"c": ["-std=c99"], "cpp": ["-std=c++17"], "fortran": ["-std=f2008"]}
STRICT = ["-pedantic", "-Wall", "-Wextra", "-Werror"]
EXAMPLES = {language: ROOT / f"examples/{language}/predict" for language in COMPILERS}
SUFFIXES = {"c": ".c", "cpp": ".cpp", "fortran": ".f90"}


def program(name, hint):
    """Return a program, or skip the test."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: {hint}")
    return found


def compiler(language):
    return program(COMPILERS[language], f"the tests of the {language} interface need it")


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Installation:
    """Where a C library is."""

    includedir: Path
    libdir: Path
    in_package: bool

    @property
    def flags(self):
        return [f"-I{self.includedir}", f"-L{self.libdir}", f"-Wl,-rpath,{self.libdir}", "-lfastgdml"]


def config(*options):
    """Return what fastgdml-config prints; skip the test where an editable installation lacks what is asked for."""
    command = [str(Path(sys.executable).with_name("fastgdml-config")), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 1 and "not in editable mode" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def install_c_only(folder, *options):
    """Build and install the C library without Python."""
    for name in ("meson", "ninja"):
        program(name, "pip install meson ninja")
    if shutil.which("cc") is None and "CC" not in os.environ:
        pytest.skip("there is no C compiler")
    prefix = folder / "prefix"
    places = ["--prefix", prefix, "--libdir", "lib"]
    run("meson", "setup", folder / "build", "-Dpython=false", *places, *options, cwd=ROOT)
    run("meson", "install", "-C", folder / "build", "--quiet")
    moved = prefix.rename(folder / "moved")  # it finds its parts wherever it is
    return Installation(moved / "include", moved / "lib", in_package=False)


@pytest.fixture(scope="session")
def c_only(tmp_path_factory):
    return install_c_only(tmp_path_factory.mktemp("c_only"))


@pytest.fixture(scope="session")
def c_only_serial(tmp_path_factory):
    return install_c_only(tmp_path_factory.mktemp("c_only_serial"), "-Dopenmp=disabled")


@pytest.fixture(scope="session")
def package():
    return Installation(Path(config("--includedir")), Path(config("--libdir")), in_package=True)


@pytest.fixture(params=["package", "c_only", "c_only_serial"])
def installation(request):
    return request.getfixturevalue(request.param)


# ---- ways to compile --------------------------------------------------------------------------------------------


def with_flags(installation, language, sources, folder):
    options = [*STANDARDS[language], *STRICT]
    if language == "fortran":
        sources = [installation.includedir / "fastgdml.f90", *sources]
        options += [f"-J{folder}"]
    run(compiler(language), *options, *sources, "-o", folder / "program", *installation.flags, "-lm")
    return folder / "program"


def with_config(_, language, sources, folder):
    if language == "fortran":
        sources = [f"{config('--includedir')}/fastgdml.f90", *sources, f"-J{folder}"]
    flags = shlex.split(config("--cflags", "--libs"))
    run(compiler(language), *STANDARDS[language], *sources, "-o", folder / "program", *flags, "-lm")
    return folder / "program"


def with_pkg_config(installation, language, sources, folder):
    tool = program("pkg-config", "a way to find the library")
    path = config("--pkgconfigdir") if installation.in_package else str(installation.libdir / "pkgconfig")

    def ask(*options):
        # it puts a backslash before each byte of a letter beyond ASCII
        env = {**os.environ, "PKG_CONFIG_PATH": path}
        done = subprocess.run([tool, *options, "fastgdml"], capture_output=True, check=True, env=env)
        return [os.fsdecode(word.encode("latin-1")) for word in shlex.split(done.stdout.decode("latin-1"))]

    flags = ask("--cflags", "--libs")
    if not installation.in_package:  # elsewhere than in the folders of the system
        flags += [f"-Wl,-rpath,{ask('--variable=libdir')[0]}"]
    if language == "fortran":
        sources = [f"{ask('--variable=includedir')[0]}/fastgdml.f90", *sources, f"-J{folder}"]
    run(compiler(language), *STANDARDS[language], *sources, "-o", folder / "program", *flags, "-lm")
    return folder / "program"


CMAKE = """\
cmake_minimum_required(VERSION 3.21)
project(demo LANGUAGES {language})
find_package(fastgdml 0.1 REQUIRED)
add_executable(program {sources})
target_link_libraries(program fastgdml::fastgdml m)
"""
CMAKE_FORTRAN = """\
get_target_property(include fastgdml::fastgdml INTERFACE_INCLUDE_DIRECTORIES)
target_sources(program PRIVATE ${include}/fastgdml.f90)
"""


def with_cmake(installation, language, sources, folder):
    tool = program("cmake", "a way to find the library")
    compiler(language)
    if installation.in_package:
        place = f"-Dfastgdml_DIR={config('--cmakedir')}"
    else:
        place = f"-DCMAKE_PREFIX_PATH={installation.libdir.parent}"
    text = CMAKE.format(
        language={"c": "C", "cpp": "CXX", "fortran": "Fortran"}[language],
        sources=" ".join(f'"{path}"' for path in sources),
    )
    if language == "fortran":
        text += CMAKE_FORTRAN
    if language == "cpp":
        text += "target_compile_features(program PRIVATE cxx_std_17)\n"
    (folder / "CMakeLists.txt").write_text(text)
    run(tool, "-S", folder, "-B", folder / "build", place)
    run(tool, "--build", folder / "build")
    return folder / "build/program"


# ---- the examples -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def ethanol_files(tmp_path_factory, ethanol, ethanol_model):
    """A flat model, a text file of geometries, and what the examples print of them."""
    folder = tmp_path_factory.mktemp("ethanol")
    R = ethanol["R"][100:117]
    export_flat(folder / "ethanol.fgdml", ethanol_model)
    np.savetxt(folder / "geometries.txt", R.reshape(-1, 3), fmt="%.17g")
    E, F = GDMLPredict(ethanol_model).predict(R.reshape(17, -1))
    lines = [f"{energy:17.9E} {np.abs(forces).max():17.9E}" for energy, forces in zip(E, F, strict=True)]
    header = "# energy in kcal/mol, largest component of a force in kcal/mol/Ang"
    return folder / "ethanol.fgdml", folder / "geometries.txt", "\n".join([header, *lines, ""])


WAYS = {
    "package": [with_config, with_pkg_config, with_cmake],
    "c_only": [with_flags, with_pkg_config, with_cmake],
    "c_only_serial": [with_flags],
}


@pytest.mark.parametrize("language", COMPILERS)
@pytest.mark.parametrize(
    ("installation", "way"), [(kind, way) for kind, ways in WAYS.items() for way in ways], indirect=["installation"]
)
def test_examples_print_what_python_predicts(installation, way, language, ethanol_files, tmp_path):
    model, geometries, expected = ethanol_files
    example = way(installation, language, [EXAMPLES[language].with_suffix(SUFFIXES[language])], tmp_path)
    assert run(example, model, geometries) == expected


@pytest.mark.parametrize("language", COMPILERS)
def test_examples_explain_what_is_wrong(package, language, ethanol_files, tmp_path):
    model, geometries, _ = ethanol_files
    example = with_flags(package, language, [EXAMPLES[language].with_suffix(SUFFIXES[language])], tmp_path)
    (tmp_path / "part.txt").write_text("1 2 3\n")
    (tmp_path / "words.txt").write_text(geometries.read_text() + "1 2 three\n")
    for arguments, message in (
        ([tmp_path / "none.fgdml", geometries], "none.fgdml cannot be opened: No such file"),
        ([geometries, geometries], "is no model file of fastgdml"),
        ([model, tmp_path / "part.txt"], "multiple|whole geometries"),
        ([model, tmp_path / "words.txt"], "words.txt holds what is no number"),
        ([model], "usage"),
    ):
        done = subprocess.run([example, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert re.search(message, done.stderr), done.stderr


# ---- models from arrays -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def from_arrays(tmp_path_factory, package):
    """Compile tests/c/from_arrays in a language, once."""
    made = {}

    def of(language):
        if language not in made:
            source = ROOT / f"tests/c/from_arrays{SUFFIXES[language]}"
            made[language] = with_flags(package, language, [source], tmp_path_factory.mktemp(language))
        return made[language]

    return of


def predict_from_arrays(executable, folder, model, R, lattice=None):
    """Energies, forces, virials of a program that makes the model of the arrays of an npz file."""
    energies, cell, weights = model.get("alphas_E"), model.get("lattice"), model.get("desc_weights")
    image_rule = int(str(model.get("image_rule", "rounding")) == "minimum")
    counts = [
        len(model["z"]),
        len(model["R_d_desc_alpha"]),
        len(model["perms"]),
        energies is not None,
        cell is not None,
        image_rule,
        len(R),
        lattice is not None,
        weights is not None,
    ]
    doubles = [array for array in (energies, cell, weights, lattice) if array is not None]
    with open(folder / "input", "wb") as file:
        for dtype, arrays in (
            (np.int64, [counts]),
            (np.float64, [model["sig"], model["std"], model["c"]]),
            (np.int32, [model["z"], model["perms"]]),
            (np.float64, [model["R_desc"].T, model["R_d_desc_alpha"], *doubles, R]),
        ):
            for array in arrays:
                file.write(np.ascontiguousarray(array, dtype=dtype).tobytes())
    run(executable, folder / "input", folder / "output")
    results = np.fromfile(folder / "output")
    n_geo, n_coord = R.shape
    return (
        results[:n_geo],
        results[n_geo : n_geo * (1 + n_coord)].reshape(R.shape),
        results[n_geo * (1 + n_coord) :].reshape(n_geo, 3, 3),
    )


def reference_model(case):
    with np.load(shared_file(f"reference/{case}.npz")) as arrays:
        R = arrays["R_test"].reshape(len(arrays["R_test"]), -1)
    return load_model(shared_file(f"reference/{case}_model_sgdml103.npz")), R


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("language", ["c", "fortran"])
@pytest.mark.parametrize("case", REFERENCE_CASES)
def test_models_from_arrays_predict_the_same_to_the_bit(case, language, from_arrays, tmp_path):
    model, R = reference_model(case)
    found = predict_from_arrays(from_arrays(language), tmp_path, model, R)
    assert_same_bits(found, GDMLPredict(model).predict(R, return_virial=True))


@pytest.mark.parametrize("language", ["c", "fortran"])
def test_models_from_arrays_have_weights(language, from_arrays, tmp_path):
    model, R = reference_model("cu111_periodic")
    classes = orbits(GroupTables.from_perms(model["perms"]), model["z"])
    weights = np.linspace(0.8, 1.3, len(classes))[classes.of_pair]
    weighted = {**model, "R_desc": model["R_desc"] * weights[:, None], "desc_weights": weights}
    found = predict_from_arrays(from_arrays(language), tmp_path, weighted, R)
    assert_same_bits(found, GDMLPredict(weighted).predict(R, return_virial=True))
    assert not np.array_equal(found[0], GDMLPredict(model).predict(R)[0])


@pytest.mark.parametrize("language", ["c", "fortran"])
@pytest.mark.parametrize("rule", ["rounding", "minimum"])
def test_another_lattice_may_be_given(rule, language, from_arrays, tmp_path):
    model, R = reference_model("cu111_periodic")
    model = {**model, "image_rule": rule}
    lattice = np.array(model["lattice"]) @ (np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.01, 0.03], [0, 0, 0.01]]))
    found = predict_from_arrays(from_arrays(language), tmp_path, model, R, lattice)
    expected = GDMLPredict(model).predict(R, lattice=lattice, return_virial=True)
    assert_same_bits(found, expected)
    assert not np.array_equal(expected[0], GDMLPredict(model).predict(R)[0])
    assert not np.array_equal(expected[0], GDMLPredict(model).predict(R, lattice=lattice.T)[0])


# ---- headers, and what is installed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "header"),
    [
        ("gcc", ["-x", "c", "-std=c99"], "fastgdml.h"),
        ("clang", ["-x", "c", "-std=c99"], "fastgdml.h"),
        ("g++", ["-x", "c++", "-std=c++98", "-Wno-long-long"], "fastgdml.h"),
        ("clang++", ["-x", "c++", "-std=c++11"], "fastgdml.h"),
        ("g++", ["-x", "c++", "-std=c++17", "-Wconversion", "-Wshadow"], "fastgdml.hpp"),
        ("clang++", ["-x", "c++", "-std=c++17", "-Wconversion", "-Wshadow"], "fastgdml.hpp"),
    ],
)
def test_headers_compile_without_warnings(name, options, header, tmp_path):
    (tmp_path / "source").write_text(f'#include "{header}"\nint main() {{ return 0; }}\n'.replace("()", "(void)"))
    command = [program(name, "headers are tried with it"), *options, *STRICT, f"-I{config('--includedir')}"]
    run(*command, "-c", tmp_path / "source", "-o", tmp_path / "object")


def test_the_wrapper_for_cpp(package, tmp_path):
    run(with_flags(package, "cpp", [ROOT / "tests/c/wrapper.cpp"], tmp_path))


@pytest.mark.parametrize(("language", "source"), [("cpp", "std.cpp"), ("fortran", "std.f90")])
def test_standard_deviations_are_those_of_python(language, source, package, ethanol, ethanol_model, tmp_path):
    model = ethanol_model | make_samples(ethanol_model, 3)
    export_flat(tmp_path / "m.fgdml", model)
    R = np.ascontiguousarray(ethanol["R"][:2].reshape(2, -1), dtype=np.float64)
    R.tofile(tmp_path / "in")
    made = with_flags(package, language, [ROOT / "tests/c" / source], tmp_path)
    assert run(made, tmp_path / "m.fgdml", tmp_path / "in", tmp_path / "out").strip() == "3"
    expected = GDMLPredict(tmp_path / "m.fgdml").predict(R, return_std=True)
    found = np.fromfile(tmp_path / "out")
    np.testing.assert_array_equal(found, np.concatenate([np.ravel(part) for part in expected]))


def test_headers_come_with_the_library(installation):
    for name in ("fastgdml.h", "fastgdml.hpp", "fastgdml.f90"):
        assert (installation.includedir / name).read_text() == (ROOT / "src/include" / name).read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads files of the format ELF")
@pytest.mark.parametrize("kind", ["c_only", "c_only_serial"])
def test_the_library_needs_only_the_c_library(kind, request):
    library = request.getfixturevalue(kind).libdir / "libfastgdml.so"
    readelf = program("readelf", "part of binutils")
    dynamic = run(readelf, "-d", library)
    assert "Library soname: [libfastgdml.so.1]" in dynamic
    assert library.resolve().name == f"libfastgdml.so.{run(sys.executable, ROOT / 'tools/version.py').strip()}"
    needed = {name.split(".")[0] for name in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)}
    allowed = {"libc", "libm", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}
    assert needed <= allowed | ({"libgomp", "libomp"} if kind == "c_only" else set())
    run("ldd", library)  # with all that it needs
    exported = re.findall(r" T (\w+)", run(program("nm", "part of binutils"), "-D", "--defined-only", library))
    headers = "".join((ROOT / "src/include" / name).read_text() for name in ("fastgdml.h", "fastgdml_lammps.h"))
    declared = set(re.findall(r"FASTGDML_API [^;]*?\b(fastgdml_\w+)\(", headers))
    assert set(exported) == declared


def test_the_module_for_fortran_has_every_function():
    declared = set(re.findall(r"FASTGDML_API [^;]*?\b(fastgdml_\w+)\(", (ROOT / "src/include/fastgdml.h").read_text()))
    module = (ROOT / "src/include/fastgdml.f90").read_text()
    assert set(re.findall(r"^ +(?:function|subroutine) (fastgdml_\w+)\(", module, re.MULTILINE)) == declared


# ---- static libraries, versions, blanks ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def c_only_static(tmp_path_factory):
    return install_c_only(tmp_path_factory.mktemp("static with blank "), "-Ddefault_library=static")


@pytest.mark.parametrize("way", ["flags", "pkg-config", "cmake"])
def test_static_linking(c_only_static, way, ethanol_files, tmp_path):
    model, geometries, expected = ethanol_files
    assert not list(c_only_static.libdir.glob("libfastgdml.so*"))
    source, built = EXAMPLES["c"].with_suffix(".c"), tmp_path / "program"
    if way == "flags":
        library = c_only_static.libdir / "libfastgdml.a"
        flags = [f"-I{c_only_static.includedir}", library, "-lm", "-pthread", "-fopenmp"]
        run(compiler("c"), source, "-o", built, *flags)
    elif way == "pkg-config":  # the path has blanks
        environment = {**os.environ, "PKG_CONFIG_PATH": str(c_only_static.libdir / "pkgconfig")}
        program("pkg-config", "a way to find the library")
        line = f"cc '{source}' -o '{built}' $(pkg-config --cflags --libs --static fastgdml)"
        run("sh", "-c", f'eval "{line}"', env=environment)
    else:
        built = with_cmake(c_only_static, "c", [source], tmp_path)
    assert run(built, model, geometries) == expected
    assert "libfastgdml" not in run("ldd", built)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("", True),
        ("0.0.1", True),
        ("0.1", True),
        ("99", False),
        ("0.0.1...99", True),
        ("0.0.1...0.0.9", False),
        ("0.0.1...VERSION", True),
        ("0.0.1...<VERSION", False),
        ("98...99", False),
        ("VERSION EXACT", True),
        ("0.0.1 EXACT", False),
    ],
)
def test_versions_that_cmake_finds(c_only, wanted, found, tmp_path):
    version = run(sys.executable, ROOT / "tools/version.py").strip()
    tool = program("cmake", "a way to find the library")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(demo LANGUAGES C)\n"
        f"find_package(fastgdml {wanted.replace('VERSION', version)} REQUIRED)\n"
    )
    command = [tool, "-S", tmp_path, "-B", tmp_path / "build", f"-Dfastgdml_DIR={c_only.libdir / 'cmake/fastgdml'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == found, done.stdout + done.stderr


def test_fastgdml_config_escapes_blanks(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a b"
    for name in ("include/fastgdml.h", "lib/libfastgdml.so"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    monkeypatch.setattr(c_library, "files", lambda _: folder)
    monkeypatch.setattr(sys, "platform", "linux")
    assert c_library.main(["--cflags", "--libs"]) == 0
    line = capsys.readouterr().out
    lib = f"{folder}/lib"
    assert shlex.split(line) == [f"-I{folder}/include", f"-L{lib}", f"-Wl,-rpath,{lib}", "-lfastgdml"]
    assert c_library.main(["--includedir"]) == 0
    assert capsys.readouterr().out == f"{folder}/include\n"
