// Products of short sums (k <= kThin): writing C is what takes the time.
#pragma once

#include "cpu/gemm/gemm.h"

namespace fastdl::tile {

inline constexpr int64_t kThin = 8;

// Whether multiply_thin takes this: many rows for each packed column of B, rows of C no shorter than a
// vector.
template <class T>
bool is_thin(int64_t m, int64_t n, int64_t k, T beta, const GemmEpilogue<T>& epilogue);

// C = alpha A B + bias.
template <class T>
void multiply_thin(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b, T* c,
                   int64_t ldc, const GemmEpilogue<T>& epilogue);

}  // namespace fastdl::tile
