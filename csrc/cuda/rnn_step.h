// One step of a recurrent layer by a launch: a product of a few rows with the recurrent weights, in a block's
// shared memory, and what follows it.
//
// A block has kRows rows and kColumns columns: 64 / gates hidden units with all of their gates, so that what
// follows the product needs nothing of another block. Both operands lie along the sum: lines of 128 bytes of
// them come to shared memory asynchronously, three lines deep, 144 bytes apart (eight lines' chunks are in
// different banks). 16-bit types and, where it is allowed, TF32 go through the tensor cores, others by 4 x 4
// numbers a thread.
#pragma once

#include "cuda/rnn_layer.h"

namespace fastdl::cuda {

constexpr int kStepThreads = 128, kRows = 32, kColumns = 64;
constexpr int kLine = 128, kPitch = 144, kStages = 3;
constexpr int kStageBytes = (kRows + kColumns) * kPitch;
constexpr int kStepBytes = kStages * kStageBytes;
constexpr int kSumStep = kColumns + 2;
static_assert(kStepBytes >= kRows * kSumStep * int(sizeof(double)));

// Lines in shared memory as fragments.h wants them.
template <class T>
struct LineTile {
  const unsigned char* data;
  __device__ __forceinline__ const T* chunk(int row, int c) const {
    return reinterpret_cast<const T*>(data + row * kPitch + c * 16);
  }
};

// A thread moves one chunk of every line threadIdx.x / 8 + 16 k: where those lines come from, null for zeros.
template <class T>
struct LineSources {
  static constexpr int kCount = (kRows + kColumns) / 16, kPer = int(16 / sizeof(T));
  static_assert(kStepThreads / 16 == kLine / 16);
  const T* from[kCount];

  template <class A, class B>
  __device__ __forceinline__ LineSources(A a, B b) {
    FASTDL_UNROLL
    for (int k = 0; k < kCount; ++k) {
      const int line = int(threadIdx.x) / (kLine / 16) + 16 * k;
      if (16 * k < kRows)
        from[k] = a(line);
      else
        from[k] = b(line - kRows);
    }
  }
  // Elements `first` .. of all lines, of `size`. Rows of the state end with zeros, weights may begin
  // anywhere.
  __device__ __forceinline__ void load(unsigned char* to, int first, int size, bool async) const {
    const int c = int(threadIdx.x) % (kLine / 16), e = first + c * kPer;
    to += int(threadIdx.x) / (kLine / 16) * kPitch + c * 16;
    FASTDL_UNROLL
    for (int k = 0; k < kCount; ++k) {
      unsigned char* const at = to + 16 * k * kPitch;
      const bool whole = async || 16 * k < kRows;
      if (whole && from[k] != nullptr && e < size) {
        cp_async_16(at, from[k] + e);
        continue;
      }
      Pack<T, kPer> pack{};
      if (!whole && from[k] != nullptr) {
        FASTDL_UNROLL
        for (int n = 0; n < kPer; ++n)
          if (e + n < size) pack.v[n] = from[k][e + n];
      }
      *reinterpret_cast<Pack<T, kPer>*>(at) = pack;
    }
  }
};

// sums[r * kSumStep + c] = a(r) . b(c), sums over `size` elements; the block may read them afterwards.
template <class T, bool kTensor, class A, class B>
__device__ __forceinline__ void step_product(unsigned char* shared, A a, B b, int rows, int size,
                                             bool async) {
  using C = Compute<T>;
  constexpr int kPer = int(16 / sizeof(T)), kLineSize = int(kLine / sizeof(T));
  const int lines = (size + kLineSize - 1) / kLineSize;
  const LineSources<T> sources(a, b);
  const auto load = [&](int line) {
    if (line < lines) sources.load(shared + line % kStages * kStageBytes, line * kLineSize, size, async);
    cp_async_commit();
  };
  const int warp = int(threadIdx.x) / 32, tx = int(threadIdx.x) % 16, ty = int(threadIdx.x) / 16;
  float fragment[kTensor ? 2 : 1][kTensor ? 2 : 1][4] = {};  // (rows, columns) of 16 and 8
  C sum[kTensor ? 1 : 4][kTensor ? 1 : 4] = {};              // rows ty + 8 i, columns tx + 16 j
  FASTDL_UNROLL
  for (int line = 0; line < kStages - 1; ++line) load(line);
  for (int line = 0; line < lines; ++line) {
    cp_async_wait<kStages - 2>();
    sync_threads();  // this line is there, the one before has been read
    load(line + kStages - 1);
    const LineTile<T> x{shared + line % kStages * kStageBytes};
    const LineTile<T> y{x.data + kRows * kPitch};
    if constexpr (kTensor) {
      FASTDL_UNROLL
      for (int k = 0; k < kLine / 32; ++k) {
        uint32_t second[1][4];
        load_b<T>(second, y, 16 * warp, k);
        FASTDL_UNROLL
        for (int m = 0; m < 2; ++m) {
          if (16 * m >= rows) break;
          uint32_t first[1][4];
          load_a<T>(first, x, 16 * m, k);
          multiply_add<T>(fragment[m][0], first, second, 0);
          multiply_add<T>(fragment[m][1], first, second, 1);
        }
      }
    } else {
      FASTDL_UNROLL
      for (int k = 0; k < kLine / 16; ++k) {
        Pack<T, kPer> second[4];
        FASTDL_UNROLL
        for (int j = 0; j < 4; ++j)
          second[j] = *reinterpret_cast<const Pack<T, kPer>*>(y.chunk(tx + 16 * j, k));
        FASTDL_UNROLL
        for (int i = 0; i < 4; ++i) {
          if (8 * i >= rows) break;
          const auto first = *reinterpret_cast<const Pack<T, kPer>*>(x.chunk(ty + 8 * i, k));
          FASTDL_UNROLL
          for (int j = 0; j < 4; ++j) FASTDL_UNROLL
          for (int e = 0; e < kPer; ++e) sum[i][j] += C(widen(first.v[e])) * C(widen(second[j].v[e]));
        }
      }
    }
  }
  cp_async_wait<0>();
  sync_threads();  // all lines have been read: their place is free
  C* const sums = reinterpret_cast<C*>(shared);
  if constexpr (kTensor) {
    FASTDL_UNROLL
    for (int m = 0; m < 2; ++m) FASTDL_UNROLL
    for (int n = 0; n < 2; ++n) FASTDL_UNROLL
    for (int c = 0; c < 4; ++c)
      sums[(16 * m + c / 2 * 8 + lane_id() / 4) * kSumStep + 16 * warp + 8 * n + lane_id() % 4 * 2 + c % 2] =
          fragment[m][n][c];
  } else {
    FASTDL_UNROLL
    for (int i = 0; i < 4; ++i) FASTDL_UNROLL
    for (int j = 0; j < 4; ++j) sums[(ty + 8 * i) * kSumStep + tx + 16 * j] = sum[i][j];
  }
  sync_threads();
}

// Iteration k of the layer's steps, from which on the launch before has left the state.
template <class T, bool kTensor, class Body>
__global__ void __launch_bounds__(kStepThreads)
    rnn_step(const Body body, const RnnSteps steps, int phase, int k, int units) {
  using C = Compute<T>;
  FASTDL_DYNAMIC_SHARED(unsigned char, shared);
  const StepProduct<T> product = body.product[phase];
  const int first_row = int(blockIdx.y) * kRows, first_unit = int(blockIdx.x) * units;
  const int all = body.rows(steps, phase), rows = all - first_row < kRows ? all - first_row : kRows;
  const T* const state = body.state(phase, k) + int64_t(first_row) * product.pitch;
  step_product<T, kTensor>(
      shared, [&](int r) { return r < rows ? state + int64_t(r) * product.pitch : nullptr; },
      [&](int c) {
        const int gate = c / units, unit = first_unit + c % units;
        return gate < product.gates && unit < product.units
                   ? product.weight + (int64_t(gate) * product.units + unit) * product.weight_step
                   : nullptr;
      },
      rows, product.size, product.async);
  const C* const sums = reinterpret_cast<const C*>(shared);
  for (int n = int(threadIdx.x); n < rows * units; n += kStepThreads) {
    const int r = n / units, u = n % units;
    if (first_unit + u >= product.units) continue;
    const auto item = load_item(body, steps, phase, first_row + r, first_unit + u);
    const auto next = body.next(phase, k);
    C sum[4] = {};
    FASTDL_UNROLL
    for (int gate = 0; gate < 4; ++gate)
      if (gate < product.gates)
        sum[gate] = sums[r * kSumStep + gate * units + u] + body.bias(phase, gate, first_unit + u);
    const auto result = body.finish(steps, phase, first_row + r, first_unit + u, item, sum,
                                    [&](auto&&... values) { next.put(first_row + r, values...); });
    body.store(steps, phase, first_row + r, first_unit + u, result);
  }
}

// Before the first step: the state in both copies (a sequence may begin later), zeros behind it and in the
// counters.
template <class T, class Body>
__global__ void rnn_begin(const Directions<Body> layer, uint32_t* counters, int count) {
  const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t all = int64_t(gridDim.x) * blockDim.x;
  if (blockIdx.y == 0)
    for (int64_t n = first; n < count; n += all) counters[n] = 0;
  const Body& body = layer.of[blockIdx.y];
  for (int phase = 0; phase < body.products(); ++phase) {
    const StepProduct<T>& product = body.product[phase];
    const int64_t rows = 2 * int64_t(body.batch);
    for (int64_t n = first; n < rows * product.pitch; n += all) {
      const int r = int(n / product.pitch % body.batch), e = int(n % product.pitch);
      product.state[n] = phase == 0 && e < product.size ? body.initial(r, e) : T(0.0f);
    }
  }
}

}  // namespace fastdl::cuda
