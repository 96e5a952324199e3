// What a convolution is, in numbers: shared by every algorithm, forward, backward and transposed.
//
//   y[n, k, o] = bias[k] + sum over c, r of  w[k, c, r] * x[n, c, o * stride + r * dilation - pad]
//
// with positions o, taps r and input positions as triples (depth, height, width); x outside its extent is
// zero. One- and two-dimensional problems have leading axes of extent 1, so kernels handle a single case. In
// group g the output channels [g K/G, (g+1) K/G) see the input channels [g C/G, (g+1) C/G).
//
// A transposed convolution is the gradient of this map with respect to x: its input is our y, its output our
// x. `out` is therefore part of the problem, not derived: output_padding enlarges x without touching y.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastdl {

inline constexpr int kSpatial = 3;
using Extent = std::array<int64_t, kSpatial>;  // depth, height, width

inline int64_t volume(const Extent& e) {
  return e[0] * e[1] * e[2];
}

struct ConvProblem {
  int64_t batch = 0, in_channels = 0, out_channels = 0, groups = 1;
  Extent in{1, 1, 1}, out{1, 1, 1}, kernel{1, 1, 1};
  Extent stride{1, 1, 1}, dilation{1, 1, 1}, pad{0, 0, 0};  // pad: zeros before the first element

  int64_t group_in() const { return in_channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
  int64_t in_size() const { return volume(in); }    // elements of one channel of x
  int64_t out_size() const { return volume(out); }  // ... of y
  int64_t taps() const { return volume(kernel); }
  int64_t patch() const { return group_in() * taps(); }  // products summed in one output element
  double macs() const { return double(batch) * double(out_channels) * double(out_size()) * double(patch()); }
};

// Options as they come from Python, one entry per spatial axis of the call (1 to 3). Padding has one entry
// per axis, or two: before and after.
struct ConvOptions {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups = 1;
};

namespace conv_detail {

inline constexpr int64_t limit = int64_t{1} << 30;  // sums of products of two such numbers fit 64 bits

inline void require(bool ok, const char* op, const std::string& rule) {
  if (!ok) throw std::invalid_argument(std::string(op) + ": " + rule);
}

// Everything but the two spatial extents that the caller knows: checks ranks, options, channels and the
// weight's shape (out, in / groups, kernel...).
inline ConvProblem problem(const char* op, int spatial, const std::vector<int64_t>& weight,
                           const ConvOptions& options) {
  require(spatial >= 1 && spatial <= kSpatial, op, "input must have 1 to 3 spatial axes");
  require(int(weight.size()) == spatial + 2, op, "weight must have as many axes as the input");
  const size_t n = size_t(spatial);
  require(options.stride.size() == n && options.dilation.size() == n, op,
          "stride and dilation need one entry per axis");
  require(options.padding.size() == n || options.padding.size() == 2 * n, op,
          "padding needs one or two entries per axis");
  ConvProblem p;
  p.groups = options.groups;
  require(p.groups >= 1, op, "groups must be positive");
  for (int i = 0; i < spatial; ++i) {
    const size_t axis = size_t(kSpatial - spatial + i);
    p.kernel[axis] = weight[size_t(i) + 2];
    p.stride[axis] = options.stride[size_t(i)];
    p.dilation[axis] = options.dilation[size_t(i)];
    p.pad[axis] = options.padding.size() == n ? options.padding[size_t(i)] : options.padding[2 * size_t(i)];
    require(p.kernel[axis] >= 1 && p.kernel[axis] < limit, op, "kernel size must be positive");
    require(p.stride[axis] >= 1 && p.stride[axis] < limit, op, "stride must be positive");
    require(p.dilation[axis] >= 1 && p.dilation[axis] < limit, op, "dilation must be positive");
    require(p.pad[axis] >= 0 && p.pad[axis] < limit, op, "padding must not be negative");
  }
  for (int64_t high : options.padding) require(high >= 0 && high < limit, op, "padding must not be negative");
  p.out_channels = weight[0];
  p.in_channels = weight[1] * p.groups;
  require(p.out_channels % p.groups == 0, op, "groups must divide the output channels");
  return p;
}

inline Extent extents(const char* op, const std::vector<int64_t>& shape) {
  Extent e{1, 1, 1};
  for (size_t i = 2; i < shape.size(); ++i) {
    require(shape[i] < limit, op, "a spatial extent is too large");
    e[size_t(kSpatial) - (shape.size() - i)] = shape[i];
  }
  return e;
}

}  // namespace conv_detail

// The problem of a convolution of x with weight; sets `out`.
inline ConvProblem conv_problem(const char* op, const std::vector<int64_t>& x,
                                const std::vector<int64_t>& weight, const ConvOptions& options) {
  using namespace conv_detail;
  const int spatial = int(x.size()) - 2;
  ConvProblem p = problem(op, spatial, weight, options);
  require(x[1] == p.in_channels, op, "the input's channels differ from groups * weight's channels");
  p.batch = x[0];
  p.in = extents(op, x);
  for (int i = 0; i < spatial; ++i) {
    const size_t axis = size_t(kSpatial - spatial + i);
    const int64_t high =
        options.padding.size() == size_t(spatial) ? p.pad[axis] : options.padding[2 * size_t(i) + 1];
    const int64_t room = p.in[axis] + p.pad[axis] + high - (p.dilation[axis] * (p.kernel[axis] - 1) + 1);
    require(room >= 0, op, "the kernel is larger than the padded input");
    p.out[axis] = room / p.stride[axis] + 1;
  }
  return p;
}

namespace conv_detail {
// The problem of a transposed convolution of y, where p.in are the extents of x without output padding, which
// alone may make them positive.
inline ConvProblem transpose_problem(const char* op, const std::vector<int64_t>& y,
                                     const std::vector<int64_t>& weight, const ConvOptions& options) {
  const int spatial = int(y.size()) - 2;
  ConvProblem p = problem(op, spatial, weight, options);
  require(y[1] == p.out_channels, op, "the input's channels differ from the weight's first axis");
  require(options.padding.size() == size_t(spatial), op, "padding needs one entry per axis");
  p.batch = y[0];
  p.out = extents(op, y);
  for (size_t axis = size_t(kSpatial - spatial); axis < kSpatial; ++axis)
    p.in[axis] =
        (p.out[axis] - 1) * p.stride[axis] - 2 * p.pad[axis] + p.dilation[axis] * (p.kernel[axis] - 1) + 1;
  return p;
}
}  // namespace conv_detail

// The problem whose gradient with respect to x is the transposed convolution of y (its input) with weight
// (y's channels, x's channels / groups, kernel...) and result x.
inline ConvProblem conv_transpose_problem(const char* op, const std::vector<int64_t>& y,
                                          const std::vector<int64_t>& weight, const ConvOptions& options,
                                          const std::vector<int64_t>& output_padding) {
  using namespace conv_detail;
  const int spatial = int(y.size()) - 2;
  ConvProblem p = transpose_problem(op, y, weight, options);
  require(output_padding.size() == size_t(spatial), op, "output_padding needs one entry per axis");
  for (int i = 0; i < spatial; ++i) {
    const int64_t extra = output_padding[size_t(i)];
    require(extra >= 0 && extra < limit, op, "output_padding must not be negative");
    int64_t& extent = p.in[size_t(kSpatial - spatial + i)];
    extent += extra;
    require(extent >= 0, op, "the output would have a negative extent");
  }
  return p;
}

// The same for its gradients: output padding shows in the shape of grad_y (x's place).
inline ConvProblem conv_transpose_gradient_problem(const char* op, const std::vector<int64_t>& y,
                                                   const std::vector<int64_t>& weight,
                                                   const ConvOptions& options,
                                                   const std::vector<int64_t>& grad_y) {
  using namespace conv_detail;
  constexpr const char* wrong = "grad_y has the wrong shape";
  ConvProblem p = transpose_problem(op, y, weight, options);
  require(grad_y.size() == y.size() && grad_y[0] == p.batch && grad_y[1] == p.in_channels, op, wrong);
  const auto least = p.in;
  p.in = extents(op, grad_y);
  for (size_t axis = 0; axis < kSpatial; ++axis) require(p.in[axis] >= least[axis], op, wrong);
  return p;
}

}  // namespace fastdl
