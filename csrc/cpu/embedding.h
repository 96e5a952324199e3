// Rows of a table chosen by index: the gradient of one row per index, and sums or maxima of several (bags).
// One row per index is index_select_forward (layout.h).
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/half.h"

namespace fastdl {

// weight is (rows, width); every index lies in [0, rows). Entries whose index is `padding` are skipped.
struct EmbeddingProblem {
  int64_t rows, width, count, padding;
  Half half = Half::none;  // how uint16_t stores numbers
  bool onto = false;       // add to the rows that are there, instead of to zero
};

// grad_weight[index[j]] += scale[j] * grad_y[bag[j]], from zero; null `bag` means j, null `scale` 1.
// `by_frequency` divides each row by how many entries have its index. T may be uint16_t: half precision, added up in
// floats and rounded once.
template <class T>
using SummedIn = std::conditional_t<sizeof(T) == 2, float, T>;
template <class T>
void embedding_backward(T* grad_weight, const T* grad_y, const int64_t* index, const int64_t* bag,
                        const SummedIn<T>* scale, bool by_frequency, const EmbeddingProblem& p);

// y[b] = sum of scale[j] * weight[index[j]] for offsets[b] <= j < offsets[b + 1]; `mean` divides by how many.
template <class T>
void embedding_bag_forward(T* y, const T* weight, const int64_t* index, const int64_t* offsets,
                           const T* scale, bool mean, int64_t bags, const EmbeddingProblem& p);

// y[b, d] = the largest weight[index[j], d] of the bag and `chosen` its index; 0 and -1 for a bag without
// entries.
template <class T>
void embedding_bag_max_forward(T* y, int64_t* chosen, const T* weight, const int64_t* index,
                               const int64_t* offsets, int64_t bags, const EmbeddingProblem& p);

}  // namespace fastdl
