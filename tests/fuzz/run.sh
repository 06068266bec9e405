#!/usr/bin/env bash
# Fuzzing: the C library under libFuzzer with sanitizers, and the readers of files in Python. Says what it does not run,
# and why. Fails where anything was found, and keeps the input.
#
#     bash tests/fuzz/run.sh SECONDS [FOLDER]
#
# SECONDS for each target; those of one source run side by side. Inputs that reach new code, and those that fail, are
# kept in FOLDER, from where the next run begins; without it in a temporary folder that is removed if all is well.
set -euo pipefail
seconds=${1:?how many seconds for each target?}
source=$(cd "$(dirname "$0")/../.." && pwd)
build=$(mktemp -d)
folder=${2:-$build/kept}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
status=0

report() { # name of the target
    local log="$folder/$1.log"
    grep -E '^#[0-9]+.*DONE|^stat::number_of_executed_units|^Done [0-9]+ runs' "$log" | sed "s/^/$1: /" || true
}

wait_for() { # process, name of the target
    if wait "$1"; then
        report "$2"
    else
        status=1
        tail -60 "$folder/$2.log"
        echo "FOUND by $2: run it again with the input that $folder holds"
    fi
}

# The kernels of one instruction set: the source is the same for all, and branches in them tell a fuzzer nothing. So they
# have the sanitizer that finds wrong places in memory, and nothing that lets compilation take minutes.
build_fuzzers() { # name, sanitizers
    local name=$1 sanitizers=$2 out="$build/$1" flags file
    mkdir -p "$out"
    flags=(-g -O1 -std=gnu11 -fno-omit-frame-pointer -fno-math-errno -fno-trapping-math -DGDML_VERSION='"fuzz"'
        -I"$source/src" -I"$source/src/include" -fno-sanitize-recover=all)
    for file in kernels assembly prediction deviations hessian low_rank trace; do
        clang "${flags[@]}" -fsanitize="$name" -DGDML_ISA=baseline -DGDML_LANES=2 -c "$source/src/$file.c" \
            -o "$out/$file.o"
    done
    flags+=(-fsanitize="fuzzer-no-link,$sanitizers")
    for file in "$source"/src/*.c "$source"/src/lammps/*.c; do
        [ -e "$out/$(basename "$file" .c).o" ] && continue
        clang "${flags[@]}" -c "$file" -o "$out/$(basename "$file" .c).o"
    done
    for target in model calls; do
        clang "${flags[@]}" -fsanitize="fuzzer,$sanitizers" "$source/tests/fuzz/fuzz_$target.c" "$out"/*.o -lm -lpthread \
            -o "$build/$target-$name"
    done
}

fuzz() { # name of the target
    mkdir -p "$folder/$1.corpus"
    (cd "$folder" && exec "$build/$1" -max_total_time="$seconds" -max_len=24000 -timeout=30 -rss_limit_mb=2000 \
        -print_final_stats=1 -seed=1 -artifact_prefix="$folder/$1-" "$folder/$1.corpus" > "$folder/$1.log" 2>&1) &
}

echo 'int LLVMFuzzerTestOneInput(const char *data, unsigned long size) { return !data && size; }' > "$build/probe.c"
if ! command -v clang > /dev/null; then
    echo "not run: fuzzing of the C library, without clang"
else
    kinds=()
    for kind in address,undefined memory; do
        if clang -fsanitize="fuzzer,$kind" "$build/probe.c" -o "$build/probe" 2> /dev/null &&
            "$build/probe" -runs=1 > /dev/null 2>&1; then
            build_fuzzers "${kind%%,*}" "$kind"
            kinds+=("${kind%%,*}")
        else
            echo "not run: fuzzing under the sanitizer '$kind', which clang has no library for"
        fi
    done
    for target in model calls; do
        running=()
        for kind in "${kinds[@]}"; do
            fuzz "$target-$kind"
            running+=("$! $target-$kind")
        done
        for each in "${running[@]}"; do
            wait_for $each
        done
    done
fi

python=${PYTHON:-python3}
if ! (cd / && "$python" -c 'import fastgdml') 2> /dev/null; then
    echo "not run: fuzzing of the readers, without fastgdml in $python"
else
    (cd "$folder" && exec "$python" "$source/tests/fuzz/fuzz_readers.py" "$seconds" "$folder" > "$folder/readers.log" 2>&1) &
    wait_for $! readers
fi

if [ $status = 0 ]; then
    rm -rf "$build"
else
    echo "kept: $folder"
fi
exit $status
