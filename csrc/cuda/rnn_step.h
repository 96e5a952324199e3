// One step of a recurrent layer: a product of a few rows with the recurrent weights, in a block's shared
// memory.
//
// A block has kRows rows and kColumns columns: 64 / G hidden units with all G of their gates, so that what
// follows the product needs nothing of another block. Both operands lie along the sum: lines of 128 bytes of
// them come to shared memory asynchronously, three lines deep, 144 bytes apart (eight lines' chunks are in
// different banks). 16-bit types and, where it is allowed, TF32 go through the tensor cores, others by 4 x 4
// numbers a thread.
#pragma once

#include "cuda/fragments.h"
#include "cuda/rnn.h"

namespace fastdl::cuda {

constexpr int kStepThreads = 128, kRows = 32, kColumns = 64;
constexpr int kLine = 128, kPitch = 144, kStages = 3;
constexpr int kStageBytes = (kRows + kColumns) * kPitch;
constexpr int kStepBytes = kStages * kStageBytes;
constexpr int kSumStep = kColumns + 2;
static_assert(kStepBytes >= kRows * kSumStep * int(sizeof(double)));

// Rows of the first operand: the first `count` at `first`, the others at `rest`, zeros where there is none.
template <class T>
struct StateRows {
  const T *first, *rest;
  int64_t first_step, rest_step;
  int count, rows;
  __device__ __forceinline__ const T* operator()(int r) const {
    if (r >= rows) return nullptr;
    if (r < count) return first + r * first_step;
    return rest != nullptr ? rest + r * rest_step : nullptr;
  }
};
// Rows of weights: column c of the tile is gate c / units, unit first + c % units.
template <class T>
struct GateRows {
  const T* weight;
  int64_t step;
  int gates, units, first, hidden;
  __device__ __forceinline__ const T* operator()(int c) const {
    const int gate = c / units, unit = first + c % units;
    return gate < gates && unit < hidden ? weight + (int64_t(gate) * hidden + unit) * step : nullptr;
  }
};

// Lines in shared memory as fragments.h wants them.
template <class T>
struct LineTile {
  const unsigned char* data;
  __device__ __forceinline__ const T* chunk(int row, int c) const {
    return reinterpret_cast<const T*>(data + row * kPitch + c * 16);
  }
};

// A thread moves one chunk of every line_of_thread() + 16 k: where those lines come from, null for zeros.
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
  // Elements `first` .. of all lines, of `size`.
  __device__ __forceinline__ void load(unsigned char* to, int first, int size, bool async) const {
    const int c = int(threadIdx.x) % (kLine / 16), e = first + c * kPer;
    to += int(threadIdx.x) / (kLine / 16) * kPitch + c * 16;
    FASTDL_UNROLL
    for (int k = 0; k < kCount; ++k) {
      unsigned char* const at = to + 16 * k * kPitch;
      if (async && from[k] != nullptr && e < size) {
        cp_async_16(at, from[k] + e);
        continue;
      }
      Pack<T, kPer> pack{};
      if (!async && from[k] != nullptr) {
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
        uint32_t second[4];
        load_b<T>(second, y, 16 * warp, k);
        FASTDL_UNROLL
        for (int m = 0; m < 2; ++m) {
          if (16 * m >= rows) break;
          uint32_t first[4];
          load_a<T>(first, x, 16 * m, k);
          multiply_add<T>(fragment[m][0], first, second[0], second[1]);
          multiply_add<T>(fragment[m][1], first, second[2], second[3]);
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

// Steps in the order in which they are computed: their rows and where these start.
struct RnnStep {
  int rows;
  int64_t start;
};
inline RnnStep rnn_step(const RnnProblem& p, bool reverse, int64_t n) {
  if (n < 0 || n >= p.steps()) return {0, 0};
  const auto t = size_t(reverse ? p.steps() - 1 - n : n);
  return {int(p.batch_sizes[t]), p.starts[t]};
}

template <class C>
__device__ __forceinline__ C sigmoid(C x) {
  return 1 / (1 + std::exp(-x));
}

// f(T{}, whether by tensor cores)
template <class F>
void by_dtype_and_unit(Dtype dtype, bool tf32, F&& f) {
  by_dtype(dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) == 2) {
      f(T{}, std::true_type{});
    } else {
      if constexpr (sizeof(T) == 4)
        if (tf32) return f(T{}, std::true_type{});
      f(T{}, std::false_type{});
    }
  });
}

}  // namespace fastdl::cuda
