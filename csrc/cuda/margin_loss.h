// Losses that compare scores of classes with a margin, one for each row of scores (rows, classes), on CUDA.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

struct MarginLoss {
  int64_t rows, classes;
  const int64_t* target;  // of each row, or (multilabel) labels (rows, classes) that end at the first -1
  uint64_t* report;       // of targets out of range
};

// w_t / classes * sum over i != t of max(0, margin - x_t + x_i)^p, p = 1 or 2; weight may be null.
void multi_margin_forward(Dtype dtype, void* losses, const void* x, const void* weight, int p, double margin,
                          const MarginLoss& problem, Stream stream);
void multi_margin_backward(Dtype dtype, void* grad_x, const void* grad_losses, const void* x,
                           const void* weight, int p, double margin, const MarginLoss& problem,
                           Stream stream);
// 1 / classes * sum over labels j and other classes i of max(0, 1 - x_j + x_i). named: as many bytes as x has elements.
void multilabel_margin_forward(Dtype dtype, void* losses, const void* x, const MarginLoss& problem,
                               Stream stream);
void multilabel_margin_backward(Dtype dtype, void* grad_x, const void* grad_losses, const void* x,
                                uint8_t* named, const MarginLoss& problem, Stream stream);

}  // namespace fastdl::cuda
