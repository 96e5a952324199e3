#!/usr/bin/env bash
# Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer, this machine's highest level, in a copy of
# the package, and runs the kernels' parity tests and the senseless calls of test_binding_safety.py on it. Torch stays
# out: it is not instrumented. Before that, the thread pool alone with ThreadSanitizer. About six minutes on two cores.
#   tools/sanitize.sh [pytest arguments]      default: every test file that walks the levels
# Needs fastdl installed, or built in place, to ask for the level. Left out: test_*guard* overwrite memory on purpose;
# accuracy and import time are the optimised build's (at -O1 GCC forms no fused multiply-adds); a fork beside a thread that
# starts finds GCC 12's AddressSanitizer locked and waits for ever; the emulated CUDA kernels are
# tools/sanitize_cuda.sh's.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$PWD/build/sanitize
mkdir -p "$build"
g++ -std=c++20 -O1 -g -fsanitize=thread -pthread -Icsrc tests/thread_pool.cpp csrc/cpu/runtime/*.cpp -o "$build/thread_pool"
# GCC 12's ThreadSanitizer cannot live with all address layouts of newer kernels; where a container forbids to fix the
# layout, it has to be tried as it is.
if setarch -R true 2>/dev/null; then setarch -R "$build/thread_pool"; else "$build/thread_pool"; fi

level=$(python -c 'import sys; sys.path.append("python"); from fastdl import _cpuid; print(_cpuid.levels()[-1])')
pip install -q pybind11 cmake ninja
cmake -S . -B "$build" -G Ninja -DFASTDL_LEVELS="$level" -DFASTDL_SANITIZE=address,undefined -DFASTDL_CUDA=OFF \
  -DSKBUILD_PROJECT_VERSION=0.0.0 -DPython_EXECUTABLE="$(command -v python)" >/dev/null
cmake --build "$build" -j "$(nproc)" | tail -n 1
rm -rf "$build/package"
mkdir -p "$build/package"
cp -RL python/fastdl "$build/package/"
rm -f "$build"/package/fastdl/*.so*
cp "$build"/*.so* "$build/package/fastdl/"

if [ $# -eq 0 ]; then
  mapfile -t tests < <(grep -l 'backends()' tests/test_*.py)
  set -- -n 2 -k "not guard and not fork and not accuracy and not import_time and not cuda" "${tests[@]}" tests/test_{runtime,binding_safety,random_programs}.py
fi
# Reports go to files, shown at the end: between the dots of two workers, thousands of lines up, nobody finds them.
# UndefinedBehaviorSanitizer knows no file beside AddressSanitizer and writes to stderr, which pytest may not capture.
# Crashes, too, are the sanitizer's to report, with the place in the C++: pytest's own handler would take the signal.
rm -rf "$build/reports"
mkdir "$build/reports"
log=log_path=$build/reports/report
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so) $(g++ -print-file-name=libstdc++.so)"
export PYTHONPATH=$build/package PYTHONMALLOC=malloc FASTDL_TESTS_WITHOUT_TORCH=1
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:handle_abort=1:$log UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
python -m pytest -q -p no:cacheprovider -p no:faulthandler --capture=sys "$@" 2>"$build/reports/stderr" || {
  result=$?
  find "$build/reports" -name 'report*' -exec head -n 30 {} + | cut -c -400
  grep -A 25 "runtime error" "$build/reports/stderr" | cut -c -400 || tail -n 40 "$build/reports/stderr"
  exit $result
}
