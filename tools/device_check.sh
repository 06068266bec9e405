#!/usr/bin/env bash
# Prove the GPU backend on this machine, which needs CuPy, a device and a C compiler, but no network, and measure it:
#
#     bash tools/device_check.sh [--seconds 420] [--pack FOLDER] [--python PYTHON] [--stand-in] OUT
#
# --pack FOLDER   what tools/device_pack.sh gathered; without it, everything must be installed already
# --python        an interpreter with CuPy, NumPy and SciPy; python3 by default. Nothing is installed into it.
# --stand-in      a rehearsal on the processor: tests/cuda_on_host instead of CuPy, small sizes in the benchmark
#
# Builds the package, prints the card, runs tests/gpu, then each kernel under compute-sanitizer where there is one, then
# benchmarks/gpu.py in stages of rising size. It ends within --seconds; the build gets what it needs of them, as nothing
# else can be done without it, and every later stage has a limit of its own and does not care how others end. OUT gets
# summary.txt (a line a stage, which are also printed last), build.log, card.txt, tests.log, sanitizer.log,
# benchmarks.txt (the tables) and benchmarks.log, all written as things go: what was done before a cut stays. Exit
# status: 0 if no stage failed.
set -uo pipefail
started=$(date +%s)
here=$(cd "$(dirname "$0")/.." && pwd)
seconds=420 pack="" python=python3 stand_in=""
usage() {
    sed -n '2,/^set/p' "$0" | sed '$d;s/^# \{0,1\}//' >&2
    exit 2
}
while [ $# -gt 1 ]; do
    case $1 in
        --seconds) seconds=$2 && shift ;;
        --pack) pack=$(cd "$2" && pwd) || usage; shift ;;
        --python) python=$2 && shift ;;
        --stand-in) stand_in=1 ;;
        *) usage ;;
    esac
    shift
done
[ $# -eq 1 ] && [ "${1#-}" = "$1" ] || usage
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
(cd "$out" && rm -f build.log card.txt tests.log sanitizer.log benchmarks.log benchmarks.txt && : > summary.txt)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Not the folder of the sources, which would be imported instead of the package that is built from them.
cd "$work" || exit 2
python=$("$python" -c 'import sys; print(sys.executable)') || exit 2
# The sanitizer of an installed CUDA is not on the path everywhere.
PATH=$work/site/bin:$(dirname "$python"):$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
export PATH PYTHONUNBUFFERED=1 PYTHONPATH=$work/site:$here/tests CUPY_CACHE_DIR=$work/cache
[ -n "$stand_in" ] && PYTHONPATH=$PYTHONPATH:$here/tests/cuda_on_host/stand_in
[ -n "$pack" ] && [ -d "$pack/shared" ] && export FASTGDML_SHARED=$pack/shared
failed=0

left() { echo $((started + seconds - 25 - $(date +%s))); }

# stage NAME SHARE LOG COMMAND...: run a command, SHARE percent of all seconds at most, and sum it up in a line.
stage() {
    local name=$1 limit=$(($2 * seconds / 100)) log=$out/$3 begin status text
    shift 3
    [ "$limit" -gt "$(left)" ] && limit=$(left)
    if [ "$limit" -lt 5 ]; then
        echo "$name: left out, the time is used up" >> "$out/summary.txt"
        return
    fi
    begin=$(date +%s)
    echo "== $name" >> "$log"
    # Interrupted programs still say what they have found; those of a script in the background would ignore it.
    timeout --signal=INT --kill-after=20 "$limit" env --default-signal=INT "$@" >> "$log" 2>&1
    status=$?
    case $status in
        0) text=done ;;
        124 | 130 | 137) text="cut off" ;;
        *) text="FAILED ($status)" ;;
    esac
    [ "$status" -eq 0 ] || failed=1
    echo "$name: $text after $(($(date +%s) - begin)) s: $(last_line "$log")" >> "$out/summary.txt"
}

# The last line of a log that says something of the result.
last_line() {
    { tail -n 1 "$1"; grep -E 'passed|failed|right|goal:|next:|Successfully|SUMMARY|FAILED' "$1"; } | tail -n 1 | cut -c1-200
}

build() {
    local pip=("$python" -m pip --disable-pip-version-check install --quiet --no-index --no-deps --target "$work/site")
    if [ -n "$pack" ]; then
        mkdir -p "$work/site"
        local wheel name
        for wheel in "$pack"/wheels/*.whl; do
            name=$(basename "$wheel" | cut -d- -f1)
            # What the machine has is what counts.
            "$python" -c "import importlib.metadata as m, sys; m.version(sys.argv[1])" "$name" 2> /dev/null ||
                "${pip[@]}" --no-compile "$wheel" || return
        done
    fi
    # pip's own folders for a build would be in the sources.
    "${pip[@]}" --upgrade --no-build-isolation -Cbuild-dir="$work/build" "$here" || return
    "$python" -c 'import fastgdml, fastgdml._core as c; print("Successfully built", fastgdml.__version__, c.isa_name(), c.__file__)'
}

card() {
    uname -rm
    command -v nvidia-smi > /dev/null && nvidia-smi
    "$python" -c 'if True:
        import sys, numpy, scipy, cupy
        p = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        print("Python", sys.version.split()[0], "NumPy", numpy.__version__, "SciPy", scipy.__version__)
        print("CuPy", cupy.__version__, "CUDA", cupy.cuda.runtime.runtimeGetVersion())
        print({key: p[key] for key in sorted(p) if key in ("name", "major", "minor", "multiProcessorCount", "l2CacheSize",
               "totalGlobalMem", "sharedMemPerBlockOptin", "memoryBusWidth")})
        print("Successfully found", p["name"].decode())'
}

sanitize() {
    if [ -n "$stand_in" ]; then
        "$python" "$here/tests/gpu/each_kernel.py"
    elif command -v compute-sanitizer > /dev/null; then
        compute-sanitizer --tool "$1" --error-exitcode 9 "${@:2}" "$python" "$here/tests/gpu/each_kernel.py"
    else
        echo "there is no compute-sanitizer here: each kernel runs without it"
        "$python" "$here/tests/gpu/each_kernel.py"
    fi
}

# timeout starts programs, not functions.
export -f build card sanitize
export python pack work here stand_in

stage build 100 build.log bash -c build
if ! "$python" -c 'import fastgdml' 2>> "$out/build.log"; then
    echo "there is no package to check: see build.log" >> "$out/summary.txt"
    cat "$out/summary.txt"
    exit 1
fi
stage card 10 card.txt bash -c card
stage tests 35 tests.log "$python" -m pytest -q -ra --durations=10 -p no:cacheprovider -W default \
    -p support.failures_at_once --rootdir "$here" -c "$here/pyproject.toml" "$here/tests/gpu"
stage memcheck 12 sanitizer.log bash -c 'sanitize memcheck --padding 64'
stage racecheck 12 sanitizer.log bash -c 'sanitize racecheck'
for size in device small medium large iterative largest; do
    stage "benchmark $size" 40 benchmarks.log "$python" "$here/benchmarks/gpu.py" "$size" --out "$out/benchmarks.txt" \
        ${FASTGDML_SHARED:+--data "$FASTGDML_SHARED/data"} ${stand_in:+--smoke}
done
cat "$out/summary.txt"
exit $failed
