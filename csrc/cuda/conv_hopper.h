// What convolution's products by wgmma share: a ring of stages between a warpgroup that copies and two that
// multiply.
//
// A stage holds lines of 128 bytes for both operands, swizzled as wgmma reads them: *along* 64 summands
// (TF32: 32) of a row or column each, *across* 64 rows or columns for one summand. One operand comes by bulk
// copies of the copy engine, which count on the stage's barrier themselves; what taps see is gathered by
// asynchronous copies of 16 bytes. They pass through the first-level cache, so that a pixel which many taps
// see comes from the second-level cache once; and as they are no business of the copy engine, each thread
// waits for its own and makes them visible to wgmma (fence_async_shared) before its warp arrives at the
// barrier. That happens kLag stages later, so that kLag stages are always under way. Who multiplies holds two
// stages: one that is read while the next is begun.
#pragma once

#include "cuda/conv.h"
#include "cuda/hopper.h"
#include "cuda/numeric.h"

namespace fastdl::cuda {

constexpr int kHopperThreads = 384, kWarpgroup = 128;
constexpr int kRing = 4, kLag = 2;  // stages
static_assert(kLag + 2 <= kRing, "who copies and who multiplies would wait for each other");
constexpr int kLineBytes = 128, kLineChunks = 8;
constexpr int kMultiprocessors = 132;  // of the device that tiles and parts are cut for, whichever runs them
// Registers of a thread: the sums of 64 x 256, or addresses. More than the launch has would be waited for for
// ever.
constexpr int kRegistersToMultiply = 200, kRegistersToCopy = 104;
static_assert(2 * kRegistersToMultiply + kRegistersToCopy <= 3 * (65536 / kHopperThreads / 8 * 8));

// A thread's view of the ring: the stage it is at.
class Ring {
 public:
  // barriers: 2 * kRing words of shared memory, see initialise.
  __device__ __forceinline__ explicit Ring(Barrier* barriers) : full_(barriers), empty_(barriers + kRing) {}

  // By one thread, before a barrier of the block.
  __device__ __forceinline__ void initialise() {
    for (int s = 0; s < kRing; ++s) {
      barrier_init(full_[s], 4 + 1);  // copying warps; the thread that expects the bulk copies' bytes
      barrier_init(empty_[s], 8);     // multiplying warps
    }
    barrier_init_fence();
  }
  __device__ __forceinline__ int stage() const { return stage_; }

  // Who copies: for each stage wait_empty, expect and bulk copies by one thread, copies by all, copied. After
  // the last, all_copied.
  __device__ __forceinline__ void wait_empty() { barrier_wait(empty_[stage_], parity_ ^ 1); }
  __device__ __forceinline__ Barrier& expect(int bytes) {
    barrier_expect(full_[stage_], uint32_t(bytes));
    return full_[stage_];
  }
  __device__ __forceinline__ void copied() {
    cp_async_commit();
    if (under_way_ == kLag) {
      cp_async_wait<kLag>();
      arrive_full((stage_ + kRing - kLag) % kRing);
    } else {
      ++under_way_;
    }
    next();
  }
  __device__ __forceinline__ void all_copied() {
    cp_async_wait<0>();
    for (; under_way_ > 0; --under_way_) arrive_full((stage_ + kRing - under_way_) % kRing);
  }

  // Who multiplies.
  __device__ __forceinline__ void wait_full() { barrier_wait(full_[stage_], parity_); }
  __device__ __forceinline__ void release(int stage) {
    if (lane_id() == 0) barrier_arrive(empty_[stage]);
  }
  __device__ __forceinline__ void next() {
    if (++stage_ == kRing) stage_ = 0, parity_ ^= 1;
  }

 private:
  __device__ __forceinline__ void arrive_full(int stage) {
    fence_async_shared();
    sync_warp();
    if (lane_id() == 0) barrier_arrive(full_[stage]);
  }

  Barrier *full_, *empty_;
  int stage_ = 0, under_way_ = 0;
  uint32_t parity_ = 0;
};

// sums (+)= the products of `steps` stages; matrices(stage, a, b) gives their descriptors. kAcross: both
// operands are across. kSteps of the instruction's summands, 32 bytes along, are this warpgroup's.
template <class T, int N, bool kAcross, int kSteps, class Matrices>
__device__ __forceinline__ void sum_stages(float (&sums)[N / 2], Ring& ring, int steps, Matrices&& matrices) {
  constexpr int kAdvance = kAcross ? 16 * kLineBytes : 32;
  int previous = 0;
  for (int step = 0; step < steps; ++step) {
    ring.wait_full();
    uint64_t a, b;
    matrices(ring.stage(), a, b);
    wgmma_fence();
    FASTDL_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      const bool more = step > 0 || k > 0;
      if constexpr (kAcross)
        wgmma<T, N, true, true>(sums, matrix_advance(a, kAdvance * k), matrix_advance(b, kAdvance * k), more);
      else
        wgmma<T, N>(sums, matrix_advance(a, kAdvance * k), matrix_advance(b, kAdvance * k), more);
    }
    wgmma_commit();
    if (step > 0) {
      wgmma_wait<1>();
      ring.release(previous);
    }
    previous = ring.stage();
    ring.next();
  }
  wgmma_wait<0>();
  wgmma_touch(sums);
  if (steps > 0) ring.release(previous);
}

// In dynamic shared memory.
constexpr size_t ring_bytes(int lines) {
  return size_t(kRing) * lines * kLineBytes;
}

}  // namespace fastdl::cuda
