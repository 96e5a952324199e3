#!/usr/bin/env bash
# Builds the CUDA kernels for the CPU (csrc/cuda/emulation) into build/emulation, for tests.
#   tools/emulate.sh [plain|address|thread]     with sanitizers: into the folder of that name below
# Needs cmake, ninja, pybind11 and the CUDA toolkit's headers: nvcc on the PATH, or CUDA_HOME.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/emulation
if [ -n "${CUDA_HOME:-}" ]; then
  include=$CUDA_HOME/include
else # nvcc itself says where its toolkit is, wherever the command on the PATH leads
  include=$(nvcc --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')/include
fi
launcher=()
if command -v ccache >/dev/null; then
  export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros
  launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
cmake -S csrc/cuda/emulation -B "$build" -G Ninja -DCUDA_INCLUDE="$include" \
  -DPython_EXECUTABLE="$(command -v python)" "${launcher[@]}" >/dev/null
cmake --build "$build" --target "${1:-plain}" -j "$(nproc)" | tail -n 20
