// Products of a few hundred multiplications, and a row by a small matrix: see tiny.cpp.
#pragma once

#include "cpu/gemm/gemm.h"
#include "cpu/simd/simd.h"

namespace fastdl::tile {

inline constexpr int64_t kTurned = 128;  // elements of a B whose rows are made contiguous on the stack

// Is it worth taking? (Where there is no epilogue.)
template <class T>
inline bool is_tiny(int64_t m, int64_t n, int64_t k, const MatrixView<T>& b) {
  constexpr int64_t w = simd::kWidth<T>;
  return m <= 8 && m * n * k <= (n <= w || m == 1 ? 16384 : 1024) &&
         (b.col == 1 || n == 1 || k * n <= kTurned);
}

// C = alpha A B
template <class T>
void multiply_tiny(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b, T* c,
                   int64_t ldc);

}  // namespace fastdl::tile
