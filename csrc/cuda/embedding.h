// Rows of a table by index on CUDA, bags of them, and the gradient of the table, which has the same bits
// every time.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

struct Embedding {
  int64_t entries, rows, width;  // indices, and the table (rows, width)
  int64_t padding_idx;           // entries with it are skipped; -1: none
};

// y (entries, width); elements of 1, 2, 4 or 8 bytes. A bad index gives zeros and is reported.
void embedding_forward(int bytes, void* y, const void* weight, const int64_t* index, const Embedding& problem,
                       uint64_t* report, Stream stream);
// y (bags, width) = sums of scale[j] weight[index[j]] for offsets[b] <= j < offsets[b + 1]
void embedding_bag_forward(Dtype dtype, void* y, const void* weight, const int64_t* index,
                           const int64_t* offsets, int64_t bags, const void* scale, bool mean,
                           const Embedding& problem, uint64_t* report, Stream stream);
void embedding_bag_max_forward(Dtype dtype, void* y, int64_t* chosen, const void* weight,
                               const int64_t* index, const int64_t* offsets, int64_t bags,
                               const Embedding& problem, uint64_t* report, Stream stream);
// grad_weight[index[j]] += scale[j] grad_y[bag[j]] (bag and scale may be null), from zero; grad_rows: of
// grad_y.
int64_t embedding_scratch(const Embedding& problem);  // bytes
void embedding_backward(Dtype dtype, void* grad_weight, const void* grad_y, int64_t grad_rows,
                        const int64_t* index, const int64_t* bag, const void* scale, bool by_frequency,
                        const Embedding& problem, void* scratch, uint64_t* report, Stream stream);

}  // namespace fastdl::cuda
