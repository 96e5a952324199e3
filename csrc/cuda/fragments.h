// Fragments for the tensor cores (PTX ISA, mma.m16n8k16 for 16-bit types and m16n8k8 for TF32), from tiles in
// shared memory: anything with chunk(row, c), the address of 16 bytes, and at(row, column).
//
// In bytes both types are alike: a step of a product takes 32 bytes of each row, two chunks. Accumulators of
// a product serve as the first operand of the next one in place; for TF32, whose layouts differ, the rows of
// the second operand are taken in another order, the same for both operands.
//
// Float32 has 24 bits where TF32 has 11. Terms of a number are one, rounded, or two, whose sum it is but for about
// two bits: three products of them (the least of four is left out) keep float32's accuracy. But the unit cuts what an
// accumulator does not hold, always toward zero (Ootomo and Yokota, "Recovering single precision accuracy from Tensor
// Cores", 2022): a sum of 8192 positive numbers would be 2^-14 of itself too small, so long sums are not left to it.
#pragma once

#include "cuda/numeric.h"

namespace fastdl::cuda {

template <class T>
constexpr int kStepSize = int(32 / sizeof(T));  // elements of a sum that one mma adds up

// Of bits x[0]: all terms.
template <class T, int kTerms>
__device__ __forceinline__ void to_terms(uint32_t (&x)[kTerms][4]) {
  static_assert(kTerms == 1 || (kTerms == 2 && std::is_same_v<T, float>));
  if constexpr (std::is_same_v<T, float>) {
    FASTDL_UNROLL
    for (int i = 0; i < 4; ++i) {
      float value, high;
      memcpy(&value, &x[0][i], 4);
      if constexpr (kTerms == 1) {
        x[0][i] = to_tf32(value);
      } else {
        x[0][i] &= 0xFFFFE000u;  // cut, not rounded: the largest numbers stay finite
        memcpy(&high, &x[0][i], 4);
        const float rest = value - high;
        memcpy(&x[1][i], &rest, 4);
        // The unit cuts, too, so this rounds. What is infinite or NaN has no rest.
        x[1][i] = rest == rest ? x[1][i] + 0x1000u : 0u;
      }
    }
  }
}

// First operand: rows row .. row + 15 of the tile, step k.
template <class T, int kTerms, class Tile>
__device__ __forceinline__ void load_a(uint32_t (&a)[kTerms][4], const Tile& tile, int row, int k) {
  const int lane = lane_id();
  ldmatrix_x4<false>(a[0], tile.chunk(row + lane % 16, 2 * k + lane / 16));
  to_terms<T>(a);
}
// Second operand of sums along rows, for columns = rows n .. n + 15 of the tile: b[.][0 .. 1] for the first
// eight.
template <class T, int kTerms, class Tile>
__device__ __forceinline__ void load_b(uint32_t (&b)[kTerms][4], const Tile& tile, int n, int k) {
  const int lane = lane_id();
  ldmatrix_x4<false>(b[0], tile.chunk(n + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
  to_terms<T>(b);
}
// Second operand of sums over the tile's rows, row .. row + kStepSize - 1, for columns n .. n + 15.
template <class T, int kTerms, class Tile>
__device__ __forceinline__ void load_b_rows(uint32_t (&b)[kTerms][4], const Tile& tile, int row, int n) {
  const int lane = lane_id();
  if constexpr (std::is_same_v<T, float>) {
    FASTDL_UNROLL
    for (int k = 0; k < 4; ++k) {
      const float value = tile.at(row + lane % 4 * 2 + k % 2, n + lane / 4 + k / 2 * 8);
      memcpy(&b[0][k], &value, 4);
    }
  } else {
    ldmatrix_x4<true>(b[0], tile.chunk(row + lane % 16, n / 8 + lane / 16));
  }
  to_terms<T>(b);
}
// First operand from accumulators of neighbouring column tiles of eight: step k of them.
template <class T, int kTerms, int N>
__device__ __forceinline__ void a_from_sums(uint32_t (&a)[kTerms][4], const float (&sums)[N][4], int k) {
  if constexpr (std::is_same_v<T, float>) {
    FASTDL_UNROLL
    for (int i = 0; i < 4; ++i) memcpy(&a[0][i], &sums[k][i % 2 * 2 + i / 2], 4);
  } else {
    FASTDL_UNROLL
    for (int n = 0; n < 4; ++n) {
      const float* pair = &sums[2 * k + n / 2][n % 2 * 2];
      Pack<T, 2> both{{narrow<T>(pair[0]), narrow<T>(pair[1])}};
      memcpy(&a[0][n], &both, 4);
    }
  }
  to_terms<T>(a);
}

// d += a times the `half`-th eight columns of b.
template <class T, int kTerms>
__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[kTerms][4],
                                             const uint32_t (&b)[kTerms][4], int half) {
  FASTDL_UNROLL
  for (int sum = kTerms - 1; sum >= 0; --sum)
    FASTDL_UNROLL  // the least first
        for (int i = 0; i <= sum; ++i) {
      const uint32_t columns[2] = {b[sum - i][2 * half], b[sum - i][2 * half + 1]};
      if constexpr (std::is_same_v<T, float>)
        mma_m16n8k8_tf32(d, a[i], columns);
      else
        mma_m16n8k16<T>(d, a[i], columns);
    }
}

}  // namespace fastdl::cuda
