// Blocks that add to the same numbers in turns (hopper.h), and once more without waiting for theirs.
#include "bindings/cuda/arguments.h"
#include "cuda/hopper.h"

namespace fastdl {
namespace {

// y = the sum of x's rows of 64, one of each block, in their order. state: the turn, the next block's number.
__global__ void add_rows(float* y, const float* x, uint32_t* state, bool waits) {
  FASTDL_TILES_SHARED(tile);
  FASTDL_SHARED(uint32_t, number, 1);
  float* const row = reinterpret_cast<float*>(tile);
  if (threadIdx.x == 0) number[0] = atomic_add(&state[1], 1u);
  sync_threads();
  if (threadIdx.x < 64) row[threadIdx.x] = x[64 * number[0] + threadIdx.x];
  fence_async_shared();
  sync_threads();
  if (threadIdx.x != 0) return;
  if (waits) turn_wait(state[0], number[0]);
  if (number[0] == 0)
    bulk_store(y, row, 256);
  else
    bulk_add(y, row, 256);
  bulk_commit();
  bulk_wait<0>();
  turn_pass(state[0], number[0] + 1);
}

void run(uintptr_t y, uintptr_t x, unsigned blocks, bool waits) {
  uint32_t state[2] = {0, 0};
  launch("add_rows", add_rows, dim3(blocks), dim3(128), 256, nullptr,
         static_cast<float*>(binding::pointer(y)), static_cast<const float*>(binding::pointer(x)), state,
         waits);
}

}  // namespace

namespace binding {

void register_planted_turns(py::module_& m) {
  m.def("add_in_turns", [](uintptr_t y, uintptr_t x, unsigned blocks) { run(y, x, blocks, true); });
  m.def("add_without_turns", [](uintptr_t y, uintptr_t x, unsigned blocks) { run(y, x, blocks, false); });
}

}  // namespace binding
}  // namespace fastdl
