#!/usr/bin/env bash
# Builds the native modules into python/fastdl/ for work in the source tree (then: PYTHONPATH=python python ...).
#   tools/develop.sh                 every level
#   tools/develop.sh avx512          one level (or several: "avx2;avx512"), quicker
#   FASTDL_CUDA=ON tools/develop.sh  with the CUDA kernels
# Needs cmake, ninja and pybind11 in the current environment; uses ccache where it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
launcher=()
if command -v ccache >/dev/null; then
  export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros
  launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
cmake -S . -B build/develop -G Ninja -DFASTDL_LEVELS="${1:-}" -DFASTDL_CUDA="${FASTDL_CUDA:-OFF}" -DSKBUILD_PROJECT_VERSION=0.0.0 \
  -DPython_EXECUTABLE="$(command -v python)" "${launcher[@]}" >/dev/null
rm -f build/develop/libfastdl_* # of levels that this build leaves out
cmake --build build/develop -j "$(nproc)"
rm -f python/fastdl/_*.so python/fastdl/libfastdl_* # of earlier builds; processes that run keep theirs
cp build/develop/*.so* python/fastdl/
