#!/usr/bin/env bash
# The Python package for arm64 Linux: its wheel built here by Zig's C compiler, without OpenMP, and run under QEMU by
# Debian's Python for arm64, with NumPy and SciPy from PyPI: it trains and predicts, and the results are those of the
# fastgdml installed here, but for rounding. Nothing is installed. Needs pip install meson-python meson ninja cython
# ziglang, apt-get install qemu-user; says what it lacks.
#
#     bash tests/native/arm64.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
source=$PWD

lacking() {
    echo "not run: the Python package for arm64 needs $1"
    exit 0
}
command -v qemu-aarch64 > /dev/null || lacking "qemu-aarch64 (apt-get install qemu-user)"
command -v apt-get > /dev/null || lacking "Debian's packages (apt-get)"
python -c "import ziglang, mesonpy, Cython" 2> /dev/null || lacking "pip install ziglang meson-python meson ninja cython"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"/apt/{lists/partial,archives/partial} "$folder/debs" "$folder/root" "$folder/site"
chmod -R a+rX "$folder" # apt fetches as another user

# Debian's Python for arm64, unpacked; lists and state of the package manager are its own
touch "$folder/apt/status"
cat > "$folder/apt.conf" << CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "$(id -un)";
Dir::State::Lists "$folder/apt/lists";
Dir::State::status "$folder/apt/status";
Dir::Cache "$folder/apt";
CONF
packages=(libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 python3.11 python3.11-minimal
    libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev)
(
    export APT_CONFIG="$folder/apt.conf"
    cd "$folder/debs"
    timeout 120 apt-get update && timeout 120 apt-get download "${packages[@]}"
) > "$folder/log" 2>&1 || lacking "Python 3.11 for arm64 in Debian's packages: $(tail -n 1 "$folder/log")"
for package in "$folder"/debs/*.deb; do dpkg -x "$package" "$folder/root"; done

fetch=(python -m pip install --quiet --target "$folder/site" --python-version 3.11 --only-binary :all:
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform linux_aarch64)
timeout 300 "${fetch[@]}" numpy scipy threadpoolctl rich psutil > "$folder/log" 2>&1 ||
    lacking "NumPy and SciPy for arm64 from PyPI: $(tail -n 1 "$folder/log")"

cat > "$folder/python" << RUN
#!/bin/sh
PYTHONPATH="$folder/site" exec qemu-aarch64 -L "$folder/root" "$folder/root/usr/bin/python3.11" "\$@"
RUN
chmod +x "$folder/python"

# Meson asks that Python and that NumPy; only their headers come from Debian, those of the C library from Zig
here=$(command -v python)
cat > "$folder/arm64.ini" << CROSS
[binaries]
c = ['$here', '-m', 'ziglang', 'cc', '-target', 'aarch64-linux-gnu.2.28']
ar = ['$here', '-m', 'ziglang', 'ar']
ranlib = ['$here', '-m', 'ziglang', 'ranlib']
cython = 'cython'
python = '$folder/python'
numpy-config = ['$folder/python', '-m', 'numpy._configtool']
[built-in options]
c_args = ['-idirafter', '$folder/root/usr/include']
[properties]
needs_exe_wrapper = true
[host_machine]
system = 'linux'
cpu_family = 'aarch64'
cpu = 'aarch64'
endian = 'little'
CROSS
_PYTHON_HOST_PLATFORM=linux-aarch64 python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$folder" \
    "-Csetup-args=--cross-file=$folder/arm64.ini" -Csetup-args=-Dopenmp=disabled "$source" > "$folder/log" 2>&1 ||
    { cat "$folder/log"; exit 1; }
wheel=("$folder"/fastgdml-*-cp311-abi3-linux_aarch64.whl)
"${fetch[@]}" --no-deps "${wheel[0]}" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
echo "$(basename "${wheel[0]}"):"

cd "$folder" # not the source, whose package has no compiled modules
python "$source/tests/native/platform_results.py" make x86 > "$folder/log"
tail -n 1 "$folder/log"
"$folder/python" "$source/tests/native/platform_results.py" make arm64 "$folder/x86/trained.npz" > "$folder/log"
tail -n 1 "$folder/log"
python "$source/tests/native/platform_results.py" compare x86 arm64
