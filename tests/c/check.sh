#!/usr/bin/env bash
# The C library without Python: builds it with each compiler that is here and runs its tests, plainly, without OpenMP,
# under sanitizers and under valgrind, and counts the lines that they run. Needs meson and ninja. Says what it does not
# run, and why.
#
#     bash tests/c/check.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v meson > /dev/null || ! command -v ninja > /dev/null; then
    echo "not run: the C tests need meson and ninja (pip install meson ninja)"
    exit 0
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

build() { # name of the build, options of meson
    local name=$1
    shift
    echo "== $name"
    if ! { meson setup "$folder/$name" -Dpython=false "$@" && ninja -C "$folder/$name"; } \
            > "$folder/log" 2>&1; then
        cat "$folder/log"
        exit 1
    fi
}

check() { # name of the build, options of meson test
    local name=$1
    shift
    meson test -C "$folder/$name" --no-rebuild --print-errorlogs "$@"
}

has_sanitizer() { # name of the sanitizer
    echo 'int main(void) { return 0; }' > "$folder/probe.c"
    $CC -fsanitize="$1" "$folder/probe.c" -o "$folder/probe" 2> /dev/null && "$folder/probe"
}

for compiler in gcc clang; do
    if ! command -v $compiler > /dev/null; then
        echo "not run: tests with $compiler, which is not installed"
        continue
    fi
    export CC=$compiler

    build $compiler -Dwerror=true
    for isa in "" baseline v3; do
        FASTGDML_ISA=$isa check $compiler
    done

    build $compiler-serial -Dwerror=true -Dopenmp=disabled
    check $compiler-serial

    # GCC warns of sizes that cannot occur in code with sanitizers, so warnings are no errors here.
    # Clang leaves the symbols of the sanitizers open in shared libraries.
    if has_sanitizer address,undefined; then
        # Clang puts its checks between multiplications and additions, which then are fused in some loops and not in
        # others: with them, predictions depend on the number of threads.
        openmp=auto
        [ $compiler = clang ] && openmp=disabled
        build $compiler-sanitized -Dopenmp=$openmp -Dbuildtype=debugoptimized -Db_sanitize=address,undefined \
            -Db_lundef=false
        FASTGDML_TEST_PREDICTIONS=20000 check $compiler-sanitized
    else
        echo "not run: address and undefined-behaviour sanitizers of $compiler, whose libraries are not installed"
    fi

    # The OpenMP runtimes are not built for the thread sanitizer, which then takes their barriers for races. Without
    # OpenMP it watches over the threads of the programs that call the library.
    if has_sanitizer thread; then
        build $compiler-threads -Dopenmp=disabled -Dbuildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false
        FASTGDML_TEST_PREDICTIONS=20000 check $compiler-threads
    else
        echo "not run: thread sanitizer of $compiler, whose libraries are not installed"
    fi
done

if ! command -v valgrind > /dev/null; then
    echo "not run: tests under valgrind, which is not installed"
elif [ ! -d "$folder/gcc" ]; then
    echo "not run: tests under valgrind, without gcc"
else
    # Valgrind has no AVX-512. The threads of OpenMP's pool live to the end of the program: "possibly lost".
    echo "== gcc, valgrind"
    FASTGDML_TEST_PREDICTIONS=2000 FASTGDML_ISA=v3 check gcc --timeout-multiplier 10 \
        --wrapper 'valgrind --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite -q'
fi

if ! command -v gcov > /dev/null || ! command -v gcc > /dev/null || ! command -v python3 > /dev/null; then
    echo "not run: coverage of the C library, without gcc, gcov or python3"
else
    export CC=gcc
    build gcc-coverage -Dbuildtype=debugoptimized -Db_coverage=true
    for isa in "" baseline; do
        FASTGDML_TEST_PREDICTIONS=2000 FASTGDML_ISA=$isa check gcc-coverage
    done
    python3 tests/c/coverage.py "$folder/gcc-coverage" 90
fi
