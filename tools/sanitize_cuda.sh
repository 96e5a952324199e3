#!/usr/bin/env bash
# Runs the CUDA kernels, compiled for the CPU, under AddressSanitizer and UndefinedBehaviorSanitizer (accesses beyond
# shared and global arrays), then under ThreadSanitizer (missing barriers, races between blocks): every kernel family on
# small shapes in float32 and float16, and planted mistakes that must be found. About three minutes on two cores.
# Needs what tools/emulate.sh needs, and fastdl installed or built in place.
set -euo pipefail
cd "$(dirname "$0")/.."
preload() { printf '%s ' "$(g++ -print-file-name="lib$1.so")" "$(g++ -print-file-name=libstdc++.so)"; }
export PYTHONMALLOC=malloc
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# One report ends the run: nothing else may race, and a report in a fiber is a kernel's. A short history: each CUDA
# thread has its own.
export TSAN_OPTIONS=halt_on_error=1:report_signal_unsafe=0:history_size=1
# GCC 12's ThreadSanitizer cannot live with all address layouts of newer kernels.
fixed=()
if setarch -R true 2>/dev/null; then fixed=(setarch -R); fi

for kind in address thread; do
  tools/emulate.sh "$kind"
  export FASTDL_CUDA_EMULATED=$PWD/build/emulation/$kind
  case $kind in
    thread) libraries=$(preload tsan) ;;
    *) libraries="$(preload asan)$(preload ubsan)" ;;
  esac
  run() { OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 LD_PRELOAD=$libraries "${fixed[@]}" python tests/cuda_sanitizer.py "$1"; }
  run calls
  for mistake in $([ "$kind" = thread ] && echo "reversed_without_barrier race_of_blocks no_named_barrier add_without_turns meeting_without_wait" || echo "beyond_global"); do
    if run "$mistake" 2>build/planted.log; then
      echo "the planted mistake $mistake was not found" >&2
      exit 1
    fi
    grep -q "planted.*cpp" build/planted.log || { cat build/planted.log >&2; exit 1; }
    echo "$kind: found the planted mistake $mistake"
  done
done
