// Products of matrices stored in half precision; see half.cpp.
#pragma once

#include "cpu/gemm/gemm.h"
#include "cpu/half.h"

namespace fastdl {

// y (rows x cols floats) = a matrix in half precision of which one stride is 1; contiguous along the same
// axis.
MatrixView<float> widen(float* y, MatrixView<uint16_t> x, int64_t rows, int64_t cols, Half half);

// A matrix for each product of a batch, in half precision in C order as the result, that is added to it `beta` times.
struct Addend {
  const uint16_t* data = nullptr;
  float beta = 0.0f;
};

// C = activation(alpha * A B + bias) + beta * added for `batch` products, C stored in half precision in C order; one
// of the strides of A and of B is 1. Matrix number i lies at data + offsets[i].
void gemm_half(Half half, int64_t batch, int64_t m, int64_t n, int64_t k, float alpha, MatrixView<uint16_t> a,
               const int64_t* offsets_a, MatrixView<uint16_t> b, const int64_t* offsets_b, uint16_t* c,
               const GemmEpilogue<float>& epilogue = {}, const Addend& added = {});

}  // namespace fastdl
