// Products in which one side of C is short (at most kSkinny); see skinny.cpp.
#pragma once

#include "cpu/gemm/gemm.h"

namespace fastdl::tile {

inline constexpr int kSkinny = 16;

// C or its transpose = the product of a short matrix x (s x k, s <= kSkinny) and the transpose of a long one,
// y (n x k): c(i, j) for `transposed` false, c(j, i) for true. y must have a unit stride. alpha, beta, c, ldc
// and the epilogue are those of the whole gemm.
template <class T>
void multiply_skinny(int s, int64_t n, int64_t k, MatrixView<T> x, MatrixView<T> y, bool transposed, T alpha,
                     T beta, T* c, int64_t ldc, const GemmEpilogue<T>& epilogue);

}  // namespace fastdl::tile
