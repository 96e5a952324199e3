#!/usr/bin/env bash
# One day with a GPU, in parts: build with this machine's own nvcc and Python, tests on the device, compute-sanitizer,
# benchmarks beside PyTorch on the same card, CPU against GPU, tables and plots.
#
#   bench/gpu_day.sh OUT [part...]      OUT: a folder for logs, JSON, tables and plots; parts: all, in the order below
#   bench/gpu_day.sh --dry-run OUT      the same on a machine without a GPU, with kernels compiled for the CPU, tiny
#
# A part that fails does not keep the later ones from running. What is done is remembered in build/gpu_day, so that a
# second call goes on where the time of the first ended (GPU_DAY_SECONDS, 540); its results are copied to OUT again. To
# repeat a part, name it. Benchmarks that were cut short keep the cases they have.
#
# Exit status: 0 all done, 1 parts failed, 3 out of time with parts left. The last lines say what matters.
set -uo pipefail
cd "$(dirname "$0")/.."

# part: seconds it may take at most. First the tests, then what has changed most since a GPU was last there: a first call
# of 9 minutes comes as far as "memory" (on 16 cores the build took 76 s, "parity" 111, "rest" 22).
parts="build:240 parity:180 rest:100 clusters:90 attention:100 rnn:60 memory:100 reduce:100 conv:150 losses:60 train:80
  optim:30 host:25 elementwise:100 models:80 crossover:60 sanitize:140 compiled:150 suite:300 render:40"
dry=()
if [ "${1:-}" = --dry-run ]; then
  dry=(--dry-run)
  parts="build:300 parity:200 host:60 attention:120 losses:60 train:60 clusters:60 crossover:60 sanitize:60 render:60"
  shift
fi
inner=
if [ "${1:-}" = --part ]; then
  inner=$2
  shift 2
fi
if [ $# -lt 1 ]; then
  sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
out=$1
shift
state=${GPU_DAY_STATE:-build/gpu_day${dry:+_dry}}
mkdir -p "$out" "$state/results"
export PATH="$PATH:/usr/local/cuda/bin"
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}" PYTHONFAULTHANDLER=1
python=${PYTHON:-python3}
command -v "$python" >/dev/null || python=python
cores=$(nproc)
if [ -n "${dry:-}" ]; then
  export FASTDL_CUDA_EMULATED="$PWD/build/emulation" PYTHONPATH="$PWD/tests/standin:$PWD/tests:$PYTHONPATH"
fi

# bench RESULT [options]: results/RESULT.json, going on with what it has; without PyTorch fastdl alone.
bench() {
  local name=$1
  shift
  if [ -n "${dry:-}" ]; then
    "$python" -m fastdl.cli bench --device cuda --threads 2 --seconds 0.001 --resume --json "$state/results/$name.json" "$@"
  else
    local peer=(--against torch)
    has torch || peer=()
    "$python" -m fastdl.cli bench --device cuda --threads "$cores" --seconds 0.02 --resume \
      --json "$state/results/$name.json" "${peer[@]}" "$@"
  fi
}
has() { "$python" -c "import $1" 2>/dev/null; }
# pytest, on several processes where that is installed: one that a kernel has left without a device ends, and another
# takes its place (tests/conftest.py). What hangs says where. Other versions of libraries may warn of what is to come.
run_tests() {
  local workers=$1
  shift
  if has xdist; then set -- -n "$workers" "$@"; fi
  "$python" -m pytest -q -rfE -p no:benchmark -o faulthandler_timeout=60 -W ignore::DeprecationWarning -W ignore::FutureWarning --continue-on-collection-errors "$@"
}

part_build() {
  nvidia-smi || true
  nvcc --version || true
  "$python" --version
  if [ -n "${dry:-}" ]; then
    env -u FASTDL_CUDA_EMULATED tools/emulate.sh
    return
  fi
  nvidia-smi --query-gpu=compute_cap --format=csv,noheader
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  local architectures="$capability-real"
  [ "$capability" = 90 ] && architectures="80;90a-real" # what pip installs: most files by way of PTX of 8.0
  local level=avx2 # the best one of this machine's processor is enough
  if grep -q avx512vl /proc/cpuinfo; then level=avx512; fi
  cmake -S . -B build/gpu -DFASTDL_CUDA=ON -DFASTDL_CUDA_ARCHITECTURES="$architectures" -DFASTDL_CUDA_COMPRESS=balance \
    -DFASTDL_LEVELS="$level" -DSKBUILD_PROJECT_VERSION=0.0.0 \
    -DPython_EXECUTABLE="$(command -v "$python")" -DCMAKE_BUILD_TYPE=Release
  rm -f build/gpu/libfastdl_* # of a level that this build leaves out
  cmake --build build/gpu -j "$cores"
  # Modules and the level's kernels: of an earlier build nothing stays that would not fit.
  rm -f python/fastdl/_*.so python/fastdl/libfastdl_*
  cp build/gpu/*.so* python/fastdl/
  "$python" - <<'END'
import fastdl
fastdl.show_config()
x = fastdl.ones(1000, device="cuda")
assert (x + x).sum().item() == 2000  # a kernel of ours
for dtype in (fastdl.float32, fastdl.bfloat16):  # cuBLAS
    x = fastdl.ones(2, 3, 4, device="cuda", dtype=dtype)
    assert (x @ x.mT).float().sum().item() == 72
END
}

# The families' parity tests, and operations, layers and training from top to bottom, on the device itself: in two parts,
# as tests that are cut short leave nothing behind. Every worker reads all files that it is given.
first_tests="attention|conv|cuda_hopper|loss|norm|optim|pool|rnn_kernels|cuda_rnn|cuda_stack|dropout|random"
part_parity() {
  if [ -n "${dry:-}" ]; then
    run_tests 2 tests/test_cuda_kernels.py -k "sixteen_bits and softmax"
    return
  fi
  # shellcheck disable=SC2046
  FASTDL_TEST_GPU=1 run_tests 8 -k cuda $(device_tests | grep -E "$first_tests")
}
part_rest() {
  # shellcheck disable=SC2046
  FASTDL_TEST_GPU=1 run_tests 8 -k cuda $(device_tests | grep -vE "$first_tests")
}
device_tests() { # that name the kernels
  grep -liE 'cuda|emulation' tests/test_*.py | grep -vE '/test_(device|cuda|cuda_emulator|cuda_budget|bench|wild)\.py$'
}

part_suite() { run_tests "$cores" tests --ignore tests/test_cuda_budget.py --ignore tests/test_wheel.py; }

part_sanitize() {
  if ! command -v compute-sanitizer >/dev/null; then
    echo "no compute-sanitizer here"
    [ -n "${dry:-}" ]
    return
  fi
  local tool failed=0
  for tool in memcheck racecheck synccheck; do
    echo "== $tool"
    FASTDL_TEST_GPU=1 timeout 45 compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
      "$python" tests/cuda_sanitizer.py short || failed=1
  done
  return "$failed"
}

# The host's share of a call: small arrays, and what the wall's clock says of them.
part_host() { bench host --family overhead ${dry:+--case "nn.Linear"}; }
part_models() { bench models --family models --how eager && bench models --family second_order --how eager; }
part_attention() {
  if [ -n "${dry:-}" ]; then bench attention --family attention --case "B64 H4 L32"; return; fi
  bench attention --family attention --dtype bfloat16 && bench attention --family attention --how eager
}
part_conv() { bench conv --family conv --how eager && bench conv --family conv --dtype bfloat16 --how eager; }
part_rnn() { bench rnn --family rnn --how eager && bench rnn --family rnn --dtype bfloat16 --how eager; }
# Recurrent layers with weights in registers of clusters (docs/cuda.md): are they right, and faster than by grids?
part_clusters() {
  if [ -n "${dry:-}" ]; then FASTDL_CUDA_RNN=resident bench rnn_resident --family rnn --case "GRU T25 B1"; return; fi
  FASTDL_TEST_GPU=1 run_tests 8 tests/test_rnn_kernels.py tests/test_cuda_rnn.py -k "cuda-resident or specialised" || return
  local way
  for way in resident grid steps; do
    FASTDL_CUDA_RNN=$way bench "rnn_$way" --family rnn --how eager || return
  done
}
part_losses() { bench losses --family loss ${dry:+--case "cross_entropy 128x10"}; }
part_memory() { bench memory --family pool --family norm; }
part_reduce() { bench reduce --family reduce --family order; }
part_elementwise() {
  bench elementwise --family elementwise --family activation --family dropout --family embedding --family layout \
    --family resample --family linear
}
part_optim() { bench optim --family optim; }
part_train() {
  if [ -n "${dry:-}" ]; then bench train --family train --case "MLP 784-256-128-10 B1" --how captured; return; fi
  bench train --family train --how captured && bench train --family train --dtype bfloat16 --how captured
}
part_compiled() { bench compiled --family train --how compiled; }
part_crossover() { bench crossover --family crossover --against cpu ${dry:+--case "softmax 4096"}; }

part_render() {
  local files=() name draw=
  if has matplotlib; then draw=yes; else echo "no matplotlib here: draw with fastdl bench --render FILE --plot FILE"; fi
  for name in "$state"/results/*.json; do
    [ -e "$name" ] || continue # no results yet
    case $name in
      *crossover.json)
        "$python" -m fastdl.cli bench --render "$name" --markdown "$state/results/crossover.md" \
          ${draw:+--plot "$state/results/crossover.png"}
        ;;
      */rnn_*.json) "$python" -m fastdl.cli bench --render "$name" --markdown "${name%.json}.md" ;; # the same cases again
      *.json) files+=(--render "$name") ;;
    esac
  done
  if [ "${#files[@]}" -gt 0 ]; then
    "$python" -m fastdl.cli bench "${files[@]}" --markdown "$state/results/gpu.md" --summary
    if [ -n "$draw" ] && [ -z "${dry:-}" ]; then
      "$python" -m fastdl.cli bench "${files[@]}" --plot "$state/results/gpu.png"
    fi
  fi
}

if [ -n "$inner" ]; then
  set -e
  "part_$inner"
  exit
fi

chosen=("$@")
limit=${GPU_DAY_SECONDS:-540}
started=$SECONDS
failed=() left=()
declare -A told
for entry in $parts; do
  name=${entry%:*} most=${entry#*:}
  if [ "${#chosen[@]}" -gt 0 ]; then
    [[ " ${chosen[*]} " == *" $name "* ]] || continue
    rm -f "$state/$name.done"
  fi
  if [ -e "$state/$name.done" ] && [ "$name" != render ]; then
    told[$name]="done before"
    continue
  fi
  remaining=$((limit - (SECONDS - started)))
  # Tables of what there is are always drawn: the last seconds are theirs.
  [ "$name" = render ] || remaining=$((remaining - 30))
  if [ "$remaining" -lt 15 ]; then
    left+=("$name")
    told[$name]="no time left"
    continue
  fi
  [ "$most" -lt "$remaining" ] || most=$remaining
  begun=$SECONDS
  # An interrupt: tests then say what has failed so far.
  timeout -s INT -k 10 "$most" bash "$0" "${dry[@]}" --part "$name" "$out" >"$out/$name.log" 2>&1
  status=$?
  took=$((SECONDS - begun))
  if [ "$status" -eq 0 ]; then
    touch "$state/$name.done"
    told[$name]="ok, $took s"
  elif [ "$status" -eq 124 ] && [[ " build parity clusters rest suite sanitize " != *" $name "* ]]; then
    left+=("$name")
    told[$name]="cut short after $took s, goes on next time"
  else
    failed+=("$name")
    told[$name]="FAILED with status $status after $took s: $(grep -v '^[[:space:]]*$' "$out/$name.log" | tail -n 1 | cut -c1-200)"
  fi
  printf '%-10s %s\n' "$name" "${told[$name]}"
  cp -f "$state"/results/* "$out"/ 2>/dev/null
done

echo
echo "== $((SECONDS - started)) s"
for entry in $parts; do
  name=${entry%:*}
  [ -z "${told[$name]:-}" ] || printf '%-10s %s\n' "$name" "${told[$name]}"
done
grep -hE '^[0-9]+ (passed|failed)|^=.*(passed|failed)|^(FAILED|ERROR) ' "$out"/parity.log "$out"/clusters.log "$out"/rest.log "$out"/suite.log 2>/dev/null | tail -n 25
grep -hE '^== |ERROR SUMMARY|RACECHECK SUMMARY' "$out"/sanitize.log 2>/dev/null
[ ! -e "$out/crossover.log" ] || grep -hE 'the (GPU|CPU) is faster' "$out/crossover.log"
[ ! -e "$out/render.log" ] || cat "$out/render.log"
[ "${#left[@]}" -eq 0 ] || echo "left for another call: ${left[*]}"
[ "${#failed[@]}" -eq 0 ] || echo "FAILED: ${failed[*]}"
[ "${#failed[@]}" -eq 0 ] || exit 1
[ "${#left[@]}" -eq 0 ] || exit 3
