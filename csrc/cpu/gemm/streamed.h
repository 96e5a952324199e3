// Products of a few tiles of rows with a matrix too large for the caches; see streamed.cpp.
#pragma once

#include "cpu/gemm/gemm.h"
#include "cpu/gemm/skinny.h"
#include "cpu/runtime/threads.h"

namespace fastdl::tile {

inline constexpr int64_t kMostStreamed = 64;  // rows of x

// Is it worth taking? y must have contiguous rows. Below, it stays in a second-level cache or its rows are
// too short to be read as streams.
template <class T>
inline bool is_streamed(int64_t s, int64_t n, int64_t k, const MatrixView<T>& y) {
  return s > kSkinny && s <= kMostStreamed && y.col == 1 && k >= 128 && n >= 256 * int64_t{num_threads()} &&
         n * k * int64_t(sizeof(T)) > (1 << 20);
}

// C or its transpose = x (s x k) y (k x n): c(i, j) for `transposed` false, c(j, i) for true. The rest
// belongs to C.
template <class T>
void multiply_streamed(int64_t s, int64_t n, int64_t k, MatrixView<T> x, MatrixView<T> y, bool transposed,
                       T alpha, T beta, T* c, int64_t ldc, const GemmEpilogue<T>& epilogue);

}  // namespace fastdl::tile
