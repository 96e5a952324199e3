// One way to compute convolutions. Every algorithm does all three passes of the problems it accepts.
#pragma once

#include <algorithm>

#include "cpu/conv/conv.h"
#include "cpu/gemm/share.h"
#include "cpu/simd/simd.h"

namespace fastdl {

template <class T>
struct ConvAlgorithm {
  const char* name;
  const char* (*refusal)(const ConvProblem&);  // why it cannot do this problem; null: it can
  // Either of: whether it is made for this problem, or what that costs, in products of vectors of all threads
  // together; those idle meanwhile count as busy.
  bool (*worthwhile)(const ConvProblem&, ConvPass);
  double (*cost)(const ConvProblem&, ConvPass);
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

// Whether im2col reads the weights of a forward pass where they lie: they are the larger operand by far, and
// packing them shows.
inline bool has_few_positions(const ConvProblem& p) {
  return p.groups == 1 && 5 * p.batch * p.out_size() <= 2 * p.out_channels &&
         p.out_channels * p.patch() >= (256 << 10);
}
// Whether im2col's rows of so many positions are gathered by index: with strides to copy them takes longer.
inline bool gathers(int64_t row, int64_t stride) {
  return row <= 4 * std::min<int64_t>(stride, 3);
}
inline constexpr int64_t kTogetherBytes = 1 << 20;  // of the result of images that it takes as one
double im2col_cost(const ConvProblem& p, ConvPass pass, int64_t w);  // vectors of w
double winograd_cost(const ConvProblem& p, ConvPass pass, int64_t w);

// Costs that differ at AVX-512: they are an Intel's there, where vectors that are turned wait for one port.
inline constexpr bool kWide = simd::kBytes == 64;
// Of packing a vector of weights, in products of vectors.
inline constexpr double kPackCost = 20;
// Of copying a row into padded planes (the direct algorithms).
inline constexpr double kCopiedRowCost = kWide ? 25 : 40;

// Whether images or groups of so many multiply-adds together are better computed one after the other. (One
// keeps a thread busy with 10 us of work; half of that is gained, as its parts are uneven and have to be
// announced.)
inline bool one_by_one(int64_t items, double macs) {
  return tile::one_by_one(items, macs / double(items) / 8e5);
}

// f(group), in one of both ways.
template <class T, class F>
void for_groups(const ConvProblem& p, F&& f) {
  const auto range = [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) f(g);
  };
  if (one_by_one(p.groups, p.macs())) return range(0, p.groups);
  // Few products wait for their operands: 20 GB/s.
  const int64_t operands = p.batch * (p.in_channels * p.in_size() + p.out_channels * p.out_size());
  const double products = tile::product_microseconds<T>(p.out_channels, p.batch * p.out_size(), p.patch());
  tile::share(p.groups, std::max(products, 5e-5 * double(operands) * double(sizeof(T))), range);
}

}  // namespace fastdl
