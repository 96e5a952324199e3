// Products of a few tiles of rows with a matrix too large for the caches; see streamed.cpp.
#pragma once

#include "cpu/gemm/gemm.h"
#include "cpu/gemm/skinny.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl::tile {

inline constexpr int64_t kMostStreamed = 64;  // rows of x

// Is it worth taking? y must have contiguous rows. Below, it stays in a second-level cache or its rows are
// too short to be read as streams. Narrow vectors multiply so slowly that panels of y come in time, from the
// last-level cache always and from memory for 28 rows and more; not so for the transposed result, whose other
// way packs panels of few lanes.
template <class T>
inline bool is_streamed(int64_t s, int64_t n, int64_t k, const MatrixView<T>& y, bool transposed) {
  const bool panels_wait = simd::kBytes == 64 || transposed;
  return s > kSkinny && s <= (panels_wait ? kMostStreamed : 28) && y.col == 1 && k >= 128 &&
         n >= 256 * int64_t{num_threads()} &&
         n * k * int64_t(sizeof(T)) > (int64_t{panels_wait ? 1 : 8} << 20);
}

// C or its transpose = x (s x k) y (k x n): c(i, j) for `transposed` false, c(j, i) for true. The rest
// belongs to C.
template <class T>
void multiply_streamed(int64_t s, int64_t n, int64_t k, MatrixView<T> x, MatrixView<T> y, bool transposed,
                       T alpha, T beta, T* c, int64_t ldc, const GemmEpilogue<T>& epilogue);

}  // namespace fastdl::tile
