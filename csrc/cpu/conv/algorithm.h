// One way to compute convolutions. Every algorithm does all three passes of the problems it accepts.
#pragma once

#include "cpu/conv/conv.h"
#include "cpu/gemm/share.h"
#include "cpu/simd/simd.h"

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

// Whether im2col takes grad_x for a forward pass of grad_y with the kernel turned round. (With strides it is
// none; where inputs outnumber outputs most of the kernel would meet zeros; a few positions do not make up
// for turning the weights.)
inline bool is_turned(const ConvProblem& p) {
  return p.stride == Extent{1, 1, 1} && p.group_in() > 1 && 4 * p.in_size() <= 5 * p.out_size() &&
         p.batch * p.in_size() >= 64;
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// f(group): many groups, or groups that have work for fewer threads than there are groups, are shared out; a
// few large ones are taken one after the other, each by all threads.
template <class T, class F>
void for_groups(const ConvProblem& p, F&& f) {
  const auto range = [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) f(g);
  };
  const double busy = double(p.groups) / double(ceil_div(p.groups, num_threads()));
  const double alone = p.macs() / double(p.groups) / 1e6;  // stretches of 10 us in one group
  if (p.groups < 2 * num_threads() && busy < alone) return range(0, p.groups);
  tile::share(p.groups, 3.2e-4 / simd::kWidth<T> * p.macs(), range);
}

}  // namespace fastdl
