// All steps of a recurrent layer in one launch, as in rnn_resident.h, by warps of two kinds: multipliers hold the
// weights and do nothing else, finishers have what comes from memory and goes there. For compute capability
// 9.0, whose warps can give each other registers: 152 a thread for three warpgroups that multiply, 56 for one
// that finishes (64 K in all), and for blocks with at most a result for each of its threads.
//
// Where the same threads do both, a step is the sum of all they do, one instruction after the other. For one
// sequence of a GRU of 128 units that was, in the machine code: 100 instructions of stores and 110 of loads before
// a finishing warp begins to multiply, 280 of the product, 200 of gates. Here a step's chain is
//   product   all multipliers at once, 3 warps a scheduler: 384 cycles of FMAs, some 150 of state and shuffles
//   sums      a barrier and the parts' sum, some 100 cycles
//   gates     some 250 cycles, then a barrier or the cluster's exchange
// and results of the step before are stored, values of the next one fetched, while the multipliers are at it. Values
// are fetched one step ahead, as the product is shorter than memory's latency.
//
// Before the first step multipliers fetch weights while finishers fill in states and biases.
// Two barriers: `kState`, where finishers arrive with the step's state (in a cluster that comes by the inbox, the
// block's own part, too, and arriving says that the sums before have been read) and multipliers wait; `kSums`, the
// other way round. Neither side can be at a barrier twice before the other has passed it once. (`kFilled` is the
// finishers' own.) The state and the sums are there twice, so nobody waits to write them: multipliers write sums of
// step k after they saw its state, which finishers gave after reading sums of k - 1.
#pragma once

#include "cuda/hopper.h"
#include "cuda/rnn_cells.h"

namespace fastdl::cuda {

constexpr int kFinishers = 128, kSpecialisedThreads = kResidentThreads + kFinishers;
constexpr int kMultiplierRegisters = 152, kFinisherRegisters = 56;
static_assert(kResidentThreads * kMultiplierRegisters + kFinishers * kFinisherRegisters == 1 << 16);
constexpr int kState = 1, kSums = 2, kFilled = 3;

template <class T, class Body, bool kCluster>
__device__ __forceinline__ void multiply_steps(const ResidentBlock<T, Body, kCluster>& block) {
  Cell<T> cell;
  const ResidentWork work = block.load(cell);
  if constexpr (kCluster) cluster_sync();
  const int iterations = Body::iterations(block.table.steps);
  int exchanges = 0;
  for (int k = 0; k < iterations; ++k) {
    sync_named(kState, kSpecialisedThreads);
    const ResidentRows rows = block.rows_of(k, 0);
    if constexpr (kCluster) {
      block.wait_for_others(exchanges);
      exchanges += rows.next > 0;
    }
    block.multiply(cell, work, k, 0, rows.now);
    arrive_named(kSums, kSpecialisedThreads);
  }
}

template <class T, class Body, bool kCluster>
__device__ __forceinline__ void finish_steps(const ResidentBlock<T, Body, kCluster>& block) {
  using C = Compute<T>;
  const Body& body = *block.body;
  const int number = int(threadIdx.x) - kResidentThreads, iterations = Body::iterations(block.table.steps);
  block.fill(number, kFinishers);
  sync_named(kFilled, kFinishers);
  const ResidentPlace own = block.place_of(0, number);
  const bool has_place = own.r < block.plan.rows && own.unit < body.product[0].units;
  C bias[4] = {};
  if (has_place) block.load_bias(bias, 0, own);
  typename Body::Item next{};
  typename Body::Result result{};
  const auto is_here = [&](const RnnSteps& steps) { return has_place && own.row < body.rows(steps, 0); };
  const auto fetch = [&](int k) {
    const RnnSteps steps = block.steps_of(k);
    if (is_here(steps)) next = load_item(body, steps, 0, own.row, own.unit, &result);
  };
  fetch(0);
  if constexpr (kCluster) cluster_sync();  // others send to what has been filled
  bool finished = false;                   // result is of the iteration before
  int exchanges = 0;
  for (int k = 0; k < iterations; ++k) {
    arrive_named(kState, kSpecialisedThreads);
    if (finished) body.store(block.steps_of(k - 1), 0, own.row, own.unit, result, true);
    const RnnSteps steps = block.steps_of(k);
    const bool here = is_here(steps);
    typename Body::Item item = next;
    if (here && body.follows(steps, own.row)) item.carried = body.kept(result);  // it was not there yet
    if (k + 1 < iterations) fetch(k + 1);
    // Steps are known two ahead: who reads those that these replace was at a barrier since.
    if (!block.even && number == kFinishers - 1)
      block.around[(k + 2) & 3] = block.following(k + 1, block.steps_of(k + 1));
    const ResidentRows rows = block.rows_of(k, 0);
    if constexpr (kCluster) {
      if (rows.next > 0) {
        if (number == 0) block.expect(exchanges, 0, rows.next);
        ++exchanges;
      }
    }
    sync_named(kSums, kSpecialisedThreads);
    if (here) {
      C sum[4] = {bias[0], bias[1], bias[2], bias[3]};
      result = block.finish(steps, k, 0, own, item, sum, exchanges - 1);
    }
    finished = here;
  }
  if (finished) body.store(block.steps_of(iterations - 1), 0, own.row, own.unit, result, true);
  if constexpr (kCluster) block.wait_for_others(exchanges);
}

// Blocks are those of rnn_resident.
template <class T, class Body, bool kCluster>
__global__ void __launch_bounds__(kSpecialisedThreads, 1)
    rnn_specialised(const Directions<Body> layer, const StepTable table, const ResidentPlan plan) {
  if constexpr (kHopperCode) {
    FASTDL_DYNAMIC_SHARED(Compute<T>, shared);
    FASTDL_SHARED(Body, own_body, 1);
    FASTDL_SHARED(RnnSteps, around, 4);
    const ResidentBlock<T, Body, kCluster> block(table, plan, &own_body[0], &around[0], shared);
    block.begin(layer.of[blockIdx.y], kSpecialisedThreads);
    if (threadIdx.x < kResidentThreads) {
      registers_more<kMultiplierRegisters>();
      multiply_steps(block);
    } else {
      registers_fewer<kFinisherRegisters>();
      finish_steps(block);
    }
  }
}

}  // namespace fastdl::cuda
