// Products with one operand that fits a core's L2 cache; see resident.cpp.
#pragma once

#include "cpu/gemm/gemm.h"

namespace fastdl::tile {

// The whole gemm; false, and nothing done, where neither operand is small enough. m, n, k >= 1, alpha != 0.
template <class T>
bool multiply_resident(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b, T beta,
                       T* c, int64_t ldc, const GemmEpilogue<T>& epilogue);

}  // namespace fastdl::tile
