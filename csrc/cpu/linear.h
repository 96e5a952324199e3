// What linear layers need beside gemm; see linear.cpp.
#pragma once

#include <cstdint>

#include "cpu/gemm/gemm.h"

namespace fastdl {

// sums[j] = sum over i < m of x(i, j), for j < n.
template <class T>
void sum_rows(int64_t m, int64_t n, MatrixView<T> x, T* sums);

}  // namespace fastdl
