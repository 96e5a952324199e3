// Products and distances of corresponding rows of two arrays (rows, length), and distances of all pairs, on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

struct Rows {
  int64_t rows, length;
};

// sums (3, rows): x1 . x2, x1 . x1, x2 . x2
void row_products_forward(Dtype dtype, void* sums, const void* x1, const void* x2, const Rows& problem,
                          Stream stream);
// grad_x1 = g0 x2 + 2 g1 x1, grad_x2 = g0 x1 + 2 g2 x2; null: not wanted
void row_products_backward(Dtype dtype, void* grad_x1, void* grad_x2, const void* grad_sums, const void* x1,
                           const void* x2, const Rows& problem, Stream stream);
// distance (rows): the p-norm of x1 - x2 + eps; p = inf: the largest, p = 0: how many are not zero
void pairwise_distance_forward(Dtype dtype, void* distance, const void* x1, const void* x2, double p,
                               double eps, const Rows& problem, Stream stream);
void pairwise_distance_backward(Dtype dtype, void* grad_x1, const void* grad_distance, const void* x1,
                                const void* x2, const void* distance, double p, double eps,
                                const Rows& problem, Stream stream);

// distance (batch, rows1, rows2) of x1 (batch, rows1, length) and x2 (batch, rows2, length)
struct Pairs {
  int64_t batch, rows1, rows2, length;
};
void cdist_forward(Dtype dtype, void* distance, const void* x1, const void* x2, double p,
                   const Pairs& problem, Stream stream);
void cdist_backward(Dtype dtype, void* grad_x1, const void* grad_distance, const void* x1, const void* x2,
                    const void* distance, double p, const Pairs& problem, Stream stream);

}  // namespace fastdl::cuda
