// Fragments for the tensor cores (PTX ISA, mma.m16n8k16 for 16-bit types and m16n8k8 for TF32), from tiles in
// shared memory: anything with chunk(row, c), the address of 16 bytes, and at(row, column).
//
// In bytes both types are alike: a step of a product takes 32 bytes of each row, two chunks. Accumulators of
// a product serve as the first operand of the next one in place; for TF32, whose layouts differ, the rows of
// the second operand are taken in another order, the same for both operands.
#pragma once

#include "cuda/numeric.h"

namespace fastdl::cuda {

template <class T>
constexpr int kStepSize = int(32 / sizeof(T));  // elements of a sum that one mma adds up

template <class T>
__device__ __forceinline__ void round_fragment(uint32_t (&x)[4]) {
  if constexpr (std::is_same_v<T, float>) {
    FASTDL_UNROLL
    for (uint32_t& bits : x) {
      float value;
      memcpy(&value, &bits, 4);
      bits = to_tf32(value);
    }
  }
}

// First operand: rows row .. row + 15 of the tile, step k.
template <class T, class Tile>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const Tile& tile, int row, int k) {
  const int lane = lane_id();
  ldmatrix_x4<false>(a, tile.chunk(row + lane % 16, 2 * k + lane / 16));
  round_fragment<T>(a);
}
// Second operand of sums along rows, for columns = rows n .. n + 15 of the tile: b[0 .. 1] for the first
// eight.
template <class T, class Tile>
__device__ __forceinline__ void load_b(uint32_t (&b)[4], const Tile& tile, int n, int k) {
  const int lane = lane_id();
  ldmatrix_x4<false>(b, tile.chunk(n + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
  round_fragment<T>(b);
}
// Second operand of sums over the tile's rows, row .. row + kStepSize - 1, for columns n .. n + 15.
template <class T, class Tile>
__device__ __forceinline__ void load_b_rows(uint32_t (&b)[4], const Tile& tile, int row, int n) {
  const int lane = lane_id();
  if constexpr (std::is_same_v<T, float>) {
    FASTDL_UNROLL
    for (int k = 0; k < 4; ++k) b[k] = to_tf32(tile.at(row + lane % 4 * 2 + k % 2, n + lane / 4 + k / 2 * 8));
  } else {
    ldmatrix_x4<true>(b, tile.chunk(row + lane % 16, n / 8 + lane / 16));
  }
}
// First operand from accumulators of neighbouring column tiles of eight: step k of them.
template <class T, int N>
__device__ __forceinline__ void a_from_sums(uint32_t (&a)[4], const float (&sums)[N][4], int k) {
  if constexpr (std::is_same_v<T, float>) {
    a[0] = to_tf32(sums[k][0]), a[1] = to_tf32(sums[k][2]);
    a[2] = to_tf32(sums[k][1]), a[3] = to_tf32(sums[k][3]);
  } else {
    FASTDL_UNROLL
    for (int n = 0; n < 4; ++n) {
      const float* pair = &sums[2 * k + n / 2][n % 2 * 2];
      Pack<T, 2> both{{narrow<T>(pair[0]), narrow<T>(pair[1])}};
      memcpy(&a[n], &both, 4);
    }
  }
}

template <class T>
__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  if constexpr (std::is_same_v<T, float>)
    mma_m16n8k8_tf32(d, a, b);
  else
    mma_m16n8k16<T>(d, a, b);
}

}  // namespace fastdl::cuda
