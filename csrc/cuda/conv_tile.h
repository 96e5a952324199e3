// The tiles of convolution's implicit products: sums over k of a(m, k) b(n, k), for kRows m times kColumns n.
//
// Shared memory holds chunks of 16 bytes in one of two orders. *Along*: a line for each m (or n) with kDepth
// summands, where summands are neighbours in memory (forward, gradient of x: channels). *Across*: a line for
// each summand with all m, where those are neighbours (gradient of the weights: summands are pixels). Chunks
// change places within a line so that eight lines' chunks, as ldmatrix and 16-byte loads want them, lie in
// different banks. A stage is kDepth summands; asynchronous copies fill it kStages - 1 rounds ahead.
//
// Products: mma.sync of 16-bit types and TF32 (operands rounded before they come here, or each time they are
// read) with 8 warps, 2 x 4 (1 x 8 over 16 rows), or FMAs in float and double, a register tile for each
// thread. Both sum in float (double).
#pragma once

#include "cuda/conv.h"
#include "cuda/numeric.h"

namespace fastdl::cuda {

constexpr int kConvThreads = 256;
constexpr int kStages = 4;
template <class T>
constexpr int kChunk = kWidest<T>;  // elements
template <class T>
constexpr int kDepth = 4 * kChunk<T>;
// What one copy brings: a chunk, or half of one where a tap has so few channels. Then chunks hold two taps.
template <class T, bool kFew>
constexpr int kPiece = kFew ? kChunk<T> / 2 : kChunk<T>;
template <class T>
constexpr int kColumns = sizeof(T) == 8 ? 64 : 128;

// Where chunk `chunk` of a line begins.
template <class T>
__device__ __forceinline__ int along(int line, int chunk) {
  return line * kDepth<T> + ((chunk ^ (line >> 1 & 3)) * kChunk<T>);
}
template <class T, int kSize>
__device__ __forceinline__ int across(int line, int chunk) {
  const int moved = sizeof(T) == 2 ? line & 7 : 2 * (line & 3);
  return line * kSize + ((chunk ^ moved) * kChunk<T>);
}

template <bool kFew>
__device__ __forceinline__ void copy_piece(void* to, const void* from, bool present) {
  if constexpr (kFew)
    cp_async_8_or_zeros(to, from, present);
  else
    cp_async_16_or_zeros(to, from, present);
}

template <class T>
__device__ __forceinline__ void tensor_product(float (&d)[4], const uint32_t (&a)[4],
                                               const uint32_t (&b)[2]) {
  if constexpr (sizeof(T) == 2)
    mma_m16n8k16<T>(d, a, b);
  else
    mma_m16n8k8_tf32(d, a, b);
}

// kRound: float32 comes as it is.
template <class T, bool kAlong, int kRows, bool kRound>
struct TensorProduct {
  static constexpr int kN = kColumns<T>, kWarpsM = kRows < 32 ? 1 : 2, kWarpsN = 8 / kWarpsM;
  static constexpr int kWarpM = kRows / kWarpsM, kWarpN = kN / kWarpsN;
  float sums[kWarpM / 16][kWarpN / 8][4] = {};

  __device__ __forceinline__ static int row() { return int(threadIdx.x) / 32 / kWarpsN * kWarpM; }
  __device__ __forceinline__ static int column() { return int(threadIdx.x) / 32 % kWarpsN * kWarpN; }

  __device__ __forceinline__ static void round(uint32_t (&x)[4]) {
    if constexpr (kRound && sizeof(T) == 4) {
      FASTDL_UNROLL
      for (uint32_t& bits : x) {
        float value;
        memcpy(&value, &bits, 4);
        bits = to_tf32(value);
      }
    }
  }
  // Rows m .. m + 15 and two chunks of summands (for TF32 a half of them each).
  __device__ __forceinline__ static void load_a(uint32_t (&to)[4], const T* a, int m, int step) {
    const int lane = lane_id();
    if constexpr (kAlong) {
      ldmatrix_x4<false>(to, a + along<T>(m + lane % 16, 2 * step + lane / 16));
    } else if constexpr (sizeof(T) == 2) {
      const int k = 16 * step + lane % 8 + lane / 16 * 8;
      ldmatrix_x4<true>(to, a + across<T, kRows>(k, m / 8 + lane / 8 % 2));
    } else {
      FASTDL_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int at = m + lane / 4 + 8 * (r % 2), k = 8 * step + lane % 4 + 4 * (r / 2);
        memcpy(&to[r], a + across<T, kRows>(k, at / 4) + at % 4, 4);
      }
    }
  }
  // Columns n .. n + 15.
  __device__ __forceinline__ static void load_b(uint32_t (&to)[4], const T* b, int n, int step) {
    const int lane = lane_id();
    if constexpr (kAlong) {
      ldmatrix_x4<false>(to, b + along<T>(n + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
    } else if constexpr (sizeof(T) == 2) {
      ldmatrix_x4<true>(to, b + across<T, kN>(16 * step + lane % 16, n / 8 + lane / 16));
    } else {
      FASTDL_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int at = n + lane / 4 + 8 * (r / 2), k = 8 * step + lane % 4 + 4 * (r % 2);
        memcpy(&to[r], b + across<T, kN>(k, at / 4) + at % 4, 4);
      }
    }
  }
  __device__ __forceinline__ void add(const T* a, const T* b) {
    FASTDL_UNROLL
    for (int step = 0; step < 2; ++step) {
      uint32_t fb[kWarpN / 8][2];
      FASTDL_UNROLL
      for (int j = 0; j < kWarpN / 8; j += 2) {
        uint32_t four[4];
        load_b(four, b, column() + 8 * j, step);
        round(four);
        fb[j][0] = four[0], fb[j][1] = four[1], fb[j + 1][0] = four[2], fb[j + 1][1] = four[3];
      }
      FASTDL_UNROLL
      for (int i = 0; i < kWarpM / 16; ++i) {
        uint32_t fa[4];
        load_a(fa, a, row() + 16 * i, step);
        round(fa);
        FASTDL_UNROLL
        for (int j = 0; j < kWarpN / 8; ++j) tensor_product<T>(sums[i][j], fa, fb[j]);
      }
    }
  }
  // f(m, n, sum) for this thread's sums.
  template <class F>
  __device__ __forceinline__ void for_each(F&& f) const {
    const int lane = lane_id();
    FASTDL_UNROLL
    for (int i = 0; i < kWarpM / 16; ++i) FASTDL_UNROLL
    for (int j = 0; j < kWarpN / 8; ++j) FASTDL_UNROLL
    for (int r = 0; r < 4; ++r)
      f(row() + 16 * i + lane / 4 + 8 * (r / 2), column() + 8 * j + lane % 4 * 2 + r % 2, sums[i][j][r]);
  }
};

template <class T, bool kAlong, int kRows>
struct FmaProduct {
  static constexpr int kN = kColumns<T>, kThreadM = kRows / 16, kThreadN = kN / 16, kE = kChunk<T>;
  T sums[kThreadM][kThreadN] = {};

  // The thread's place in 16 x 16; a warp has 4 x 8, so that its loads are mostly broadcasts.
  __device__ __forceinline__ static int row() {
    return int(threadIdx.x) / 64 * 4 + int(threadIdx.x) % 32 / 8;
  }
  __device__ __forceinline__ static int column() {
    return int(threadIdx.x) / 32 % 2 * 8 + int(threadIdx.x) % 8;
  }
  // Element i of a thread: single lines along, chunks across.
  __device__ __forceinline__ static int place(int first, int i) {
    return kAlong ? first + 16 * i : (first + 16 * (i / kE)) * kE + i % kE;
  }
  __device__ __forceinline__ static Pack<T, kE> chunk(const T* at) {
    return *reinterpret_cast<const Pack<T, kE>*>(at);
  }
  __device__ __forceinline__ void add(const T* a, const T* b) {
    if constexpr (kAlong) {
      for (int c = 0; c < 4; ++c) {
        Pack<T, kE> fa[kThreadM];
        FASTDL_UNROLL
        for (int i = 0; i < kThreadM; ++i) fa[i] = chunk(a + along<T>(row() + 16 * i, c));
        FASTDL_UNROLL
        for (int j = 0; j < kThreadN; ++j) {
          const Pack<T, kE> fb = chunk(b + along<T>(column() + 16 * j, c));
          FASTDL_UNROLL
          for (int i = 0; i < kThreadM; ++i) FASTDL_UNROLL
          for (int e = 0; e < kE; ++e) sums[i][j] += fa[i].v[e] * fb.v[e];
        }
      }
    } else {
      for (int k = 0; k < kDepth<T>; ++k) {
        Pack<T, kE> fa[kThreadM / kE], fb[kThreadN / kE];
        FASTDL_UNROLL
        for (int i = 0; i < kThreadM / kE; ++i) fa[i] = chunk(a + across<T, kRows>(k, row() + 16 * i));
        FASTDL_UNROLL
        for (int j = 0; j < kThreadN / kE; ++j) fb[j] = chunk(b + across<T, kN>(k, column() + 16 * j));
        FASTDL_UNROLL
        for (int i = 0; i < kThreadM; ++i) FASTDL_UNROLL
        for (int j = 0; j < kThreadN; ++j) sums[i][j] += fa[i / kE].v[i % kE] * fb[j / kE].v[j % kE];
      }
    }
  }
  template <class F>
  __device__ __forceinline__ void for_each(F&& f) const {
    FASTDL_UNROLL
    for (int i = 0; i < kThreadM; ++i) FASTDL_UNROLL
    for (int j = 0; j < kThreadN; ++j) f(place(row(), i), place(column(), j), sums[i][j]);
  }
};

template <class T, bool kTensor, bool kAlong, int kRows, bool kRound = false>
using ConvProduct =
    std::conditional_t<kTensor, TensorProduct<T, kAlong, kRows, kRound>, FmaProduct<T, kAlong, kRows>>;

// load(step, stage) starts copies of every step in order, use(stage) multiplies; ends with a barrier.
template <class Load, class Use>
__device__ __forceinline__ void pipeline(int steps, Load&& load, Use&& use) {
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) load(s, s);
    cp_async_commit();
  }
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kStages - 2>();
    sync_threads();  // everybody's copies are there, and everybody has read the stage that is filled next
    const int next = step + kStages - 1;
    if (next < steps) load(next, next % kStages);
    cp_async_commit();
    use(step % kStages);
  }
  cp_async_wait<0>();
  sync_threads();
}

// Calls f(T{}, tensor cores?) with what convolution is computed in: `tensor` matters for float32 only.
template <class F>
void by_arithmetic(Dtype dtype, bool tensor, F&& f) {
  by_dtype(dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) == 2)
      f(T{}, std::true_type{});
    else if constexpr (sizeof(T) == 8)
      f(T{}, std::false_type{});
    else if (tensor)
      f(T{}, std::true_type{});
    else
      f(T{}, std::false_type{});
  });
}

}  // namespace fastdl::cuda
