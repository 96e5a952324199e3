// One way to compute convolutions. Every algorithm does all three passes of the problems it accepts.
#pragma once

#include "cpu/conv/conv.h"

namespace fastdl {

template <class T>
struct ConvAlgorithm {
  const char* name;
  const char* (*refusal)(const ConvProblem&);  // why it cannot do this problem; null: it can
  bool (*worthwhile)(const ConvProblem&,
                     ConvPass);  // expected to beat the algorithms that follow in the list
  void (*forward)(const ConvProblem&, T* y, const T* x, const T* w, const T* bias);
  void (*grad_x)(const ConvProblem&, T* grad_x, const T* grad_y, const T* w, const T* bias);
  void (*grad_w)(const ConvProblem&, T* grad_w, const T* grad_y, const T* x);
};

template <class T>
const ConvAlgorithm<T>& conv_winograd();
template <class T>
const ConvAlgorithm<T>& conv_as_3x3();
template <class T>
const ConvAlgorithm<T>& conv_interleaved();
template <class T>
const ConvAlgorithm<T>& conv_direct();
template <class T>
const ConvAlgorithm<T>& conv_pointwise();
template <class T>
const ConvAlgorithm<T>& conv_depthwise();
template <class T>
const ConvAlgorithm<T>& conv_im2col();

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace fastdl
