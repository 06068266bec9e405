#!/usr/bin/env bash
# Gather in FOLDER what tools/device_check.sh needs on a machine without a network, under 64 MiB with the sources:
#
#     bash tools/device_pack.sh FOLDER [SHARED]
#
# FOLDER/wheels: meson-python, sgdml 1.0.3 and what else may be missing beside CuPy, NumPy, SciPy and PyTorch, as wheels
# for python3.12 on x86-64 (another version: PYTHON_VERSION=3.13). FOLDER/shared: the arrays of sgdml 1.0.3 that tests
# compare with, and 3000 geometries of aspirin, from the folder SHARED (../shared by default) where there is one.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || { sed -n '2,/^set/p' "$0" | sed '$d;s/^# \{0,1\}//' >&2; exit 2; }
pack=$1
shared=${2:-$here/../shared}
version=${PYTHON_VERSION:-3.12}
limit=$((64 * 2**20))

mkdir -p "$pack/wheels"
rm -f "$pack"/wheels/*.whl # one version of each
platforms=()
for glibc in 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64)
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
    --python-version "$version" "${platforms[@]}" --dest "$pack/wheels" \
    meson-python pyproject-metadata packaging meson ninja cython threadpoolctl psutil rich markdown-it-py mdurl pygments \
    pytest pluggy iniconfig sgdml==1.0.3

if [ -d "$shared/reference" ]; then
    mkdir -p "$pack/shared/reference" "$pack/shared/data"
    cp -f "$shared"/reference/*.npz "$pack/shared/reference/"
    python3 - "$shared/data/md17_aspirin.npz" "$pack/shared/data/md17_aspirin.npz" << 'PYTHON'
import sys

import numpy as np

source, target = sys.argv[1:]
with np.load(source) as data:
    # Every third: they are in the order of a trajectory.
    part = {key: data[key][::3][:3000] if key in "REF" else data[key] for key in ("z", "R", "E", "F", "name", "theory")}
np.savez_compressed(target, **part)
PYTHON
else
    echo "there is no $shared/reference: tests that compare with it will be skipped" >&2
fi

size=$(du -cb "$pack" | tail -1 | cut -f1)
sources=$(git -C "$here" ls-files -z | (cd "$here" && xargs -0 du -cb) | tail -1 | cut -f1)
echo "$pack: $((size / 2**20)) MiB, sources: $((sources / 2**20)) MiB"
if [ $((size + sources)) -ge "$limit" ]; then
    echo "together they are over 64 MiB" >&2
    exit 1
fi
