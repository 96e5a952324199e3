// Losses that compare scores of classes with a margin; see margin_loss.cpp.
#pragma once

#include <cstdint>

namespace fastdl {

// losses: one for each row of x (rows, classes); targets in [0, classes). weight: (classes), may be null; p
// is 1 or 2.
template <class T>
struct MultiMargin {
  const T* x;
  const int64_t* target;
  const T* weight;
  int p;
  T margin;
  int64_t rows, classes;
};
template <class T>
void multi_margin_forward(T* losses, const MultiMargin<T>& problem);
template <class T>
void multi_margin_backward(T* grad_x, const T* grad, const MultiMargin<T>& problem);

// target: (rows, classes), labels in [0, classes) up to a row's first -1.
template <class T>
void multilabel_margin_forward(T* losses, const T* x, const int64_t* target, int64_t rows, int64_t classes);
template <class T>
void multilabel_margin_backward(T* grad_x, const T* grad, const T* x, const int64_t* target, int64_t rows,
                                int64_t classes);

}  // namespace fastdl
