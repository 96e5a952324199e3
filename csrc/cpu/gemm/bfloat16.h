// Products of matrices in bfloat16 by the processor's own instruction; see bfloat16.cpp.
#pragma once

#include <optional>

#include "cpu/gemm/gemm.h"

namespace fastdl {

// Whether CPU and operating system have VDPBF16PS, this level may use it, and use_pair_products(false) was
// not called.
bool has_pair_products();
// ... and whether its products are quicker than floats': at all (AMD's are, twice), or those of these sizes. Intel's
// processors (Sapphire and Emerald Rapids) begin one in two cycles, but four multiply-adds: half of floats' speed, which
// is won back where products wait for memory.
bool has_quick_pair_products();
bool pair_products_win(int64_t m, int64_t n, int64_t k);
// Always, never, or where they win (null; the default).
void use_pair_products(std::optional<bool> use);

// C = activation(alpha * A B + bias) + beta * added, C and `added` (if any) in bfloat16 in C order; one of the strides
// of A and of B is 1; sizes are at least 1. Only where has_pair_products().
void gemm_pairs(int64_t m, int64_t n, int64_t k, float alpha, MatrixView<uint16_t> a, MatrixView<uint16_t> b,
                uint16_t* c, const GemmEpilogue<float>& epilogue, const uint16_t* added = nullptr,
                float beta = 0.0f);

}  // namespace fastdl
