// Bands: parts of an image whose padded copy (planes.h) stays in the second-level cache.
//
// An image is cut along its first axis of more than one element. A band of outputs (forward, grad_w) or of
// inputs (grad_x) with what it meets on the other side is a problem of its own, with the whole's distance
// between channels. Neighbouring bands share some rows; they are copied for each.
#pragma once

#include <algorithm>

#include "cpu/conv/algorithm.h"

namespace fastdl {

struct Band {
  ConvProblem problem;
  int64_t x, y;  // where its first input and output lie in a channel of the whole
};

inline constexpr int64_t kBandBytes = 256 << 10;  // beside weights and results in L2

class Bands {
 public:
  Bands(const ConvProblem& p, ConvPass pass) : p_(p), pass_(pass) {
    while (axis_ + 1 < kSpatial && p.in[axis_] == 1 && p.out[axis_] == 1) ++axis_;
    for (size_t a = axis_ + 1; a < kSpatial; ++a) {
      in_step_ *= p.in[a];
      out_step_ *= p.out[a];
    }
  }

  // Of what is cut: elements along the axis.
  int64_t length() const { return (pass_ == ConvPass::grad_x ? p_.in : p_.out)[axis_]; }

  // The most elements for which bytes(problem of a band) is at most `most`. A band is no thinner than what it
  // shares with its neighbour; in grad_x all begin at the same remainder by the stride.
  template <class F>
  int64_t thickness(int64_t most, F&& bytes) const {
    int64_t size = length();
    for (int64_t count = 2; size > thinnest() && bytes(band(0, size).problem) > most;
         count += ceil_div(count, 4))
      size = of_count(count);
    return size;
  }

  // As much as a band shares with its neighbour, and that of `count` equal bands.
  int64_t thinnest() const {
    const int64_t stride = p_.stride[axis_], reach = p_.dilation[axis_] * (p_.kernel[axis_] - 1);
    return std::max(reach, stride) * unit() / stride;
  }
  int64_t of_count(int64_t count) const {
    return std::max(
        {ceil_div(ceil_div(length(), count), unit()) * unit(), thinnest() / unit() * unit(), unit()});
  }

  // [first, last) and what it meets.
  Band band(int64_t first, int64_t last) const {
    const int64_t stride = p_.stride[axis_], pad = p_.pad[axis_];
    const int64_t reach = p_.dilation[axis_] * (p_.kernel[axis_] - 1);
    int64_t in0 = first, in1 = last, out0 = first, out1 = last;
    if (pass_ == ConvPass::grad_x) {  // output o meets o * stride - pad and up to `reach` more
      out0 = std::clamp<int64_t>((in0 + pad - reach) / stride, 0, p_.out[axis_]);
      out1 = std::clamp((in1 - 1 + pad) / stride + 1, out0, p_.out[axis_]);
    } else {
      in0 = std::clamp<int64_t>(out0 * stride - pad, 0, p_.in[axis_]);
      in1 = std::clamp((out1 - 1) * stride - pad + reach + 1, in0, p_.in[axis_]);
    }
    Band band{p_, in0 * in_step_, out0 * out_step_};
    band.problem.in[axis_] = in1 - in0;
    band.problem.out[axis_] = out1 - out0;
    band.problem.pad[axis_] = pad + in0 - out0 * stride;
    return band;
  }

 private:
  int64_t unit() const { return pass_ == ConvPass::grad_x ? p_.stride[axis_] : 1; }

  const ConvProblem& p_;
  ConvPass pass_;
  size_t axis_ = 0;
  int64_t in_step_ = 1, out_step_ = 1;
};

}  // namespace fastdl
