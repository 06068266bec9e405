#!/usr/bin/env bash
# The C library built for other platforms by Zig's C compiler (pip install ziglang), and its tests run there by emulators:
# Windows under Wine, arm64 Linux under QEMU, x86-64 Linux with glibc 2.17 here. For macOS it is compiled and linked.
# Needs meson and ninja. Says what it does not run, and why.
#
#     bash tests/c/cross.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
source=$PWD

if ! command -v meson > /dev/null || ! command -v ninja > /dev/null; then
    echo "not run: the C library for other platforms needs meson and ninja (pip install meson ninja)"
    exit 0
fi
if ! python -m ziglang version > /dev/null 2>&1; then
    echo "not run: the C library for other platforms needs Zig's C compiler (pip install ziglang)"
    exit 0
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=$(command -v python)
export WINEPREFIX="$folder/wine" WINEDEBUG=-all WINEDLLOVERRIDES="mscoree=;mshtml="

build() { # name, system, cpu of meson; target of Zig; program that runs the tests, if any
    local name=$1 system=$2 cpu=$3 target=$4 runner=${5:-}
    echo "== $name: $target"
    {
        echo "[binaries]"
        echo "c = ['$python', '-m', 'ziglang', 'cc', '-target', '$target']"
        echo "ar = ['$python', '-m', 'ziglang', 'ar']"
        echo "ranlib = ['$python', '-m', 'ziglang', 'ranlib']"
        [ -z "$runner" ] || echo "exe_wrapper = '$runner'"
        echo "[host_machine]"
        echo "system = '$system'"
        echo "cpu_family = '$cpu'"
        echo "cpu = '$cpu'"
        echo "endian = 'little'"
        # A processor of the same kind does not make the programs of another system run.
        echo "[properties]"
        echo "needs_exe_wrapper = true"
    } > "$folder/$name.ini"
    # from there: probes of the compiler leave files where they run
    if ! { cd "$folder" && meson setup "$name" "$source" --cross-file "$name.ini" -Dpython=false -Dopenmp=disabled \
        -Db_lundef=false -Dwerror=true && ninja -C "$name" && cd "$source"; } > "$folder/log" 2>&1; then
        cat "$folder/log"
        exit 1
    fi
}

check() { # name, program that runs the tests
    meson test -C "$folder/$1" --no-rebuild --print-errorlogs --timeout-multiplier 3
    "$2" "$folder/$1/tests/c/test_platform$3" --print | tr -d '\r' > "$folder/$1.results"
}

# Results of different instruction sets are sums in a different order: equal but for rounding.
compare() { # two lists of results
    python - "$1" "$2" << 'PYTHON'
import sys

one, other = ([float(line) for line in open(path)] for path in sys.argv[1:])
assert len(one) == len(other) > 500
scale = max(map(abs, one))
difference = max(abs(a - b) for a, b in zip(one, other)) / scale
print(f"largest difference of results: {difference:.1e} of the largest")
assert difference < 1e-13
PYTHON
}

build linux linux x86_64 x86_64-linux-gnu.2.17 env
check linux env ""
FASTGDML_ISA=baseline "$folder/linux/tests/c/test_platform" --print > "$folder/baseline.results"
compare "$folder/linux.results" "$folder/baseline.results"

if command -v qemu-aarch64 > /dev/null; then
    build arm64 linux aarch64 aarch64-linux-musl qemu-aarch64
    FASTGDML_TEST_PREDICTIONS=20000 check arm64 qemu-aarch64 ""
    compare "$folder/linux.results" "$folder/arm64.results"
else
    build arm64 linux aarch64 aarch64-linux-musl
    echo "not run: the tests for arm64, without qemu-aarch64 (apt-get install qemu-user)"
fi

if command -v wine > /dev/null && timeout 120 wine cmd /c exit > /dev/null 2>&1; then
    build windows windows x86_64 x86_64-windows-gnu wine
    check windows wine .exe
    compare "$folder/linux.results" "$folder/windows.results"
else
    build windows windows x86_64 x86_64-windows-gnu
    echo "not run: the tests for Windows, without a Wine that starts (apt-get install wine wine64)"
fi
python tests/c/exports.py src/include "$folder/windows/src/"*fastgdml*.dll
python tests/c/exports.py src/include "$folder/linux/src/libfastgdml.so"

for cpu in aarch64 x86_64; do
    build "macos-$cpu" darwin $cpu $cpu-macos
    echo "compiled and linked, not run"
done
