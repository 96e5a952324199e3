// An axis of a convolution as kernels see it, in 32-bit numbers.
#pragma once

#include <numeric>

#include "common/conv.h"
#include "cuda/numeric.h"

namespace fastdl::cuda {

struct ConvAxis {
  int in, out, kernel, stride, pad, dilation;
  int period;  // taps this far apart meet inputs a multiple of stride apart
};
struct ConvAxes {
  ConvAxis d, h, w;
};

inline ConvAxes conv_axes(const ConvProblem& p) {
  ConvAxes axes;
  ConvAxis* const all[] = {&axes.d, &axes.h, &axes.w};
  constexpr int64_t kLargest = int64_t(1) << 30;
  for (size_t i = 0; i < kSpatial; ++i) {
    const int64_t reach = (p.out[i] + 1) * p.stride[i] + (p.kernel[i] - 1) * p.dilation[i] + p.pad[i];
    if (reach >= kLargest || p.in[i] + p.pad[i] >= kLargest)
      throw std::invalid_argument("convolution on CUDA: an axis reaches over more than 2^30 positions");
    *all[i] = {int(p.in[i]),
               int(p.out[i]),
               int(p.kernel[i]),
               int(p.stride[i]),
               int(p.pad[i]),
               int(p.dilation[i]),
               int(p.stride[i] / std::gcd(p.stride[i], p.dilation[i]))};
  }
  const int64_t pixels = p.batch * std::max(p.in_size(), p.out_size());
  if (pixels >= kLargest || p.out_channels * p.patch() >= 2 * kLargest)
    throw std::invalid_argument("convolution on CUDA is limited to 2^30 pixels and 2^31 weights in one call");
  return axes;
}

}  // namespace fastdl::cuda
