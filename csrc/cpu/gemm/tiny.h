// Products of a few hundred multiplications, and a row by a small matrix: see tiny.cpp.
#pragma once

#include "cpu/gemm/gemm.h"
#include "cpu/simd/simd.h"

namespace fastdl::tile {

// Is it worth taking? (B's rows must be contiguous, and there may be no epilogue.)
template <class T>
inline bool is_tiny(int64_t m, int64_t n, int64_t k) {
  return m <= 8 && m * n * k <= (m == 1 && n >= simd::kWidth<T> ? 16384 : 1024);
}

// C = alpha A B
template <class T>
void multiply_tiny(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b, T* c,
                   int64_t ldc);

}  // namespace fastdl::tile
