#!/usr/bin/env bash
# Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer in a copy of the package and runs the
# parity tests on it. Torch stays out: it is not instrumented and slow under the sanitizer.
#   tools/sanitize.sh [pytest arguments]      default: the kernels' families
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=$root/build/sanitize
# The highest level of this machine, asked of the installed package or of one built in place.
level=$(python - <<'PY'
import sys
sys.path.append("python")
from fastdl import _cpuid
print(_cpuid.levels()[-1])
PY
)
pip install -q pybind11 cmake ninja
cmake -S . -B "$build" -G Ninja -DFASTDL_LEVELS="$level" -DFASTDL_SANITIZE=ON -DSKBUILD_PROJECT_VERSION=0.0.0 \
  -DPython_EXECUTABLE="$(command -v python)" >/dev/null
cmake --build "$build" -j "$(nproc)" | tail -n 1
rm -rf "$build/package"
mkdir -p "$build/package"
cp -RL python/fastdl "$build/package/"
rm -f "$build"/package/fastdl/*.so
cp "$build"/*.so "$build/package/fastdl/"

families=(activation attention conv dropout elementwise gemm linear loss norm optim pool random reduce resample softmax)
tests=()
for family in "${families[@]}"; do
  if [ -f "tests/test_$family.py" ]; then tests+=("tests/test_$family.py"); fi
done
if [ $# -gt 0 ]; then tests=("$@"); fi
libraries="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so) $(g++ -print-file-name=libstdc++.so)"
LD_PRELOAD="$libraries" PYTHONPATH="$build/package" PYTHONMALLOC=malloc FASTDL_TESTS_WITHOUT_TORCH=1 \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
  python -m pytest -q -p no:cacheprovider "${tests[@]}"
