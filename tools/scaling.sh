#!/usr/bin/env bash
# How far the benchmark's cases would scale on a machine with many cores: builds with simulated threads
# (csrc/cpu/runtime/simulated.h) into build/scaling and prints the cases that gain least.
#   tools/scaling.sh [--threads 16] [--least 300] [--below 6] [family ...]     see tools/scaling.py
# Needs cmake, ninja and pybind11 in the current environment; uses ccache where it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$PWD/build/scaling
launcher=()
if command -v ccache >/dev/null; then
  export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros
  launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
cmake -S . -B "$build" -G Ninja -DFASTDL_SIMULATED_THREADS=ON -DFASTDL_CUDA=OFF -DSKBUILD_PROJECT_VERSION=0.0.0 \
  -DFASTDL_LEVELS="${FASTDL_LEVELS:-}" -DPython_EXECUTABLE="$(command -v python)" "${launcher[@]}" >/dev/null
cmake --build "$build" -j "$(nproc)" >/dev/null
package=$build/package/fastdl
rm -rf "$package" && mkdir -p "$package"
for file in python/fastdl/*; do
  case $file in *.so | *.so.*) ;; *) ln -s "$PWD/$file" "$package/" ;; esac
done
ln -sfn "$PWD/bench" "$package/bench"
cp "$build"/*.so* "$package/"
PYTHONPATH=$build/package exec python tools/scaling.py "$@"
