// All steps of a recurrent layer in one launch, with the recurrent weights in registers: of one block, or of
// the blocks of a cluster, which give each other their results through distributed shared memory.
//
// A cluster has a few sequences of one direction and all units. What a step must take at least, for one
// sequence and a full block (GRU of 128 units in float32: 49152 weights, 192 KiB):
//   weights   from shared memory at 128 bytes a cycle 1536 cycles, for every tile of sequences; from
//             registers none, so a block does with one sequence what FMAs need: 49152 / 128 = 384 cycles
//   state     every thread reads 16 elements, four accesses of 16 bytes: 48 a block, some 200 cycles
//   sums      7 shuffles a warp, partial sums through shared memory, two barriers: some 200 cycles
//   gates     a chain of exp, divide, tanh: some 250 cycles; in a cluster a store to the others and its
//             barrier, some 400 more
// so about 0.5 us, 0.8 in a cluster, and 0.25 more for every other sequence. (What was asked at run time, which
// cell, which rows, cost an H200 2.3 us more: hence kernels for each cell, and no search where all steps are alike.)
//
// Threads multiply and finish in turn; where a block has few results, rnn_specialised.h has threads for each.
// Thread (row, unit) finishes the same element in every step, so it may keep what the next one needs. What
// does not depend on the product is fetched, and results are stored, while others multiply.
#pragma once

#include "cuda/rnn_cells.h"

namespace fastdl::cuda {

// Block (x, y): block x % cluster of group x / cluster of sequences, direction y. Blocks that have all
// weights for themselves are instantiations of their own, as registers are what there is least of.
template <class T, class Body, bool kCluster>
__global__ void __launch_bounds__(kResidentThreads, 1)
    rnn_resident(const Directions<Body> layer, const StepTable table, const ResidentPlan plan) {
  using C = Compute<T>;
  if constexpr (kCluster && !kClustersHere) return;
  FASTDL_DYNAMIC_SHARED(C, shared);
  // Registers are the weights': what else is kept from step to step is in shared memory.
  FASTDL_SHARED(Body, own_body, 1);
  FASTDL_SHARED(RnnSteps, around, 4);
  const ResidentBlock<T, Body, kCluster> block(table, plan, &own_body[0], &around[0], shared);
  block.begin(layer.of[blockIdx.y], kResidentThreads);
  block.fill(int(threadIdx.x), kResidentThreads);
  const Body& body = own_body[0];
  Cell<T> cell;
  const ResidentWork work = block.load(cell);

  // From the last warp on: where not all have weights, those that do finish nothing, and multiply meanwhile.
  const int warp_begin = int(threadIdx.x) / 32 * 32;
  const int number = kResidentThreads - 32 - warp_begin + (int(threadIdx.x) - warp_begin);
  // What the thread has of its first result in an iteration stays in registers.
  const ResidentPlace first = block.place_of(0, number);
  const auto own_place = [&](int phase) {
    return Body::kOneProduct || phase == 0 ? first : block.place_of(phase, number);
  };
  typename Body::Item item{};
  typename Body::Result result{};
  // Values on their way would take registers all along the product, which there are not: they go to shared memory.
  // (Two bytes cannot, and 16-bit types leave more registers. A thread's own stores need not be seen by copies:
  // cells with two products read back what they wrote.)
  constexpr bool kAsync = Body::kOneProduct && sizeof(T) == 4;
  FASTDL_SHARED(T, on_their_way, kAsync ? Body::kValues * kResidentThreads : 1);
  const auto own_value = [&](int n) -> T& {
    return on_their_way[kAsync ? n * kResidentThreads + int(threadIdx.x) : 0];
  };
  if constexpr (kAsync) {
    FASTDL_UNROLL
    for (int n = 0; n < Body::kValues; ++n) own_value(n) = T(0.0f);  // some are never there
  }
  const typename Body::Result* const last_result = Body::kOneProduct ? &result : nullptr;
  bool finished = false;  // result is of the iteration before
  // Whether results wait until the block has met and other warps multiply; in a cluster all wait for the others.
  constexpr bool kLater = !kCluster && Body::kOneProduct;
  const auto store = [&](int k, int phase) {
    const ResidentPlace own = own_place(phase);
    if (finished) body.store(block.steps_of(k), phase, own.row, own.unit, result, Body::kOneProduct);
  };
  if constexpr (kCluster) cluster_sync();
  int exchanges = 0;  // of the cluster, so far: of iterations without a sequence of this group there is none
  const int iterations = Body::iterations(table.steps);
  for (int k = 0, phase = 0; k < iterations;) {
    const bool last = phase + 1 == body.products();
    if constexpr (!kCluster) sync_threads();
    // What nobody waits for, while other warps have begun to multiply or the others' values are on their way:
    // the results of the iteration before, and what this one needs from memory.
    if (kLater && k > 0) store(k - 1, 0);
    const ResidentPlace own = own_place(phase);
    {
      const RnnSteps steps = block.steps_of(k);
      [[maybe_unused]] const T* const anywhere = body.product[0].weight;
      finished =
          own.r < plan.rows && own.row < body.rows(steps, phase) && own.unit < body.product[phase].units;
      if (finished) {
        if constexpr (kAsync)
          item.carried = body.load(
              steps, phase, own.row, own.unit,
              [&](int n, const T* array, auto at, bool there) {
                cp_async_4_or_zeros(&own_value(n), there ? array + at : anywhere, there);
              },
              last_result);
        else
          item = load_item(body, steps, phase, own.row, own.unit, last_result);
      }
      if constexpr (kAsync) cp_async_commit();
    }
    const ResidentRows rows = block.rows_of(k, phase);
    // Some threads may still read the steps of the iteration before.
    if (!block.even && last && threadIdx.x == kResidentThreads - 1)
      around[(k + 1) & 3] = block.following(k, around[k & 3]);
    if constexpr (kCluster) {
      const int before = exchanges;
      if (rows.next > 0) {
        if (threadIdx.x == 0) block.expect(exchanges, phase, rows.next);
        ++exchanges;
      }
      block.wait_for_others(before);
    }
    block.multiply(cell, work, k, phase, rows.now);
    sync_threads();
    const auto finish = [&](const RnnSteps& steps, const ResidentPlace& at, const typename Body::Item& of) {
      C sum[4];
      block.load_bias(sum, phase, at);
      return block.finish(steps, k, phase, at, of, sum, exchanges - 1);
    };
    if constexpr (kAsync) {
      cp_async_wait<0>();
      FASTDL_UNROLL
      for (int n = 0; n < Body::kValues; ++n) item.value[n] = own_value(n);
    }
    if (finished) result = finish(block.steps_of(k), own, item);
    if constexpr (!kLater) store(k, phase);
    FASTDL_ROLLED
    for (int n = number + kResidentThreads; n < rows.now * plan.of(phase).units; n += kResidentThreads) {
      const ResidentPlace at = block.place_of(phase, n);
      if (at.unit >= body.product[phase].units) continue;
      const RnnSteps steps = block.steps_of(k);
      body.store(steps, phase, at.row, at.unit,
                 finish(steps, at, load_item(body, steps, phase, at.row, at.unit)));
    }
    phase = last ? 0 : 1;
    k += last;
  }
  if constexpr (kLater) store(iterations - 1, 0);
  if constexpr (kCluster) block.wait_for_others(exchanges);
}

}  // namespace fastdl::cuda
