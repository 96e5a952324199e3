// The numbers of a pass (pass_size.h), axis by axis.
#include "cpu/conv/pass_size.h"

#include <algorithm>
#include <numeric>

#include "cpu/ceil_div.h"

namespace fastdl {
namespace {

// Planes along the axis.
int64_t remainders(const ConvProblem& p, size_t a) {
  return std::min(p.kernel[a], p.stride[a] / std::gcd(p.stride[a], p.dilation[a]));
}
// Elements of a plane along the axis.
int64_t forward_axis(std::vector<AxisSize>& axes, const ConvProblem& p, size_t a) {
  const int64_t s = p.stride[a], k = p.kernel[a], d = p.dilation[a];
  AxisSize axis{p.out[a], k, 0, 1};
  for (int64_t r = 0; r < k; ++r) {
    const int64_t start = r * d - p.pad[a];  // what position 0 meets
    const int64_t low = start < 0 ? ceil_div(-start, s) : 0;
    const int64_t high = start < p.in[a] ? std::min((p.in[a] - 1 - start) / s + 1, p.out[a]) : 0;
    axis.met += std::max<int64_t>(high - low, 0);
  }
  axes.push_back(axis);
  return p.out[a] + d * (k - 1) / s;
}
int64_t grad_axis(std::vector<AxisSize>& axes, const ConvProblem& p, size_t a) {
  const int64_t s = p.stride[a];
  int64_t before = 0, after = 0;
  std::vector<AxisSize> all(size_t(std::min(s, p.in[a])), AxisSize{0, 0, 0, 1});  // by their first position
  for (int64_t r = 0; r < p.kernel[a]; ++r) {
    const int64_t start = r * p.dilation[a] - p.pad[a], first = (start % s + s) % s,
                  shift = (first - start) / s;
    if (first >= p.in[a]) continue;
    AxisSize& axis = all[size_t(first)];
    axis.count = ceil_div(p.in[a] - first, s);
    before = std::max(before, -shift);
    after = std::max(after, axis.count + shift - p.out[a]);
    ++axis.taps;
    axis.met += std::max<int64_t>(std::min(p.out[a] - shift, axis.count) - std::max<int64_t>(-shift, 0), 0);
  }
  for (const AxisSize& axis : all) {
    if (axis.taps == 0) continue;
    bool found = false;
    for (AxisSize& other : axes)
      if (axis.count == other.count && axis.taps == other.taps && axis.met == other.met) {
        ++other.times;
        found = true;
      }
    if (!found) axes.push_back(axis);
  }
  return before + p.out[a] + after;
}

}  // namespace

PassSize::PassSize(const ConvProblem& p, ConvPass pass)
    : in(p.group_in()), out(p.group_out()), source(p.in_size()), result(p.out_size()), stride(p.stride[2]) {
  const bool back = pass == ConvPass::grad_x;
  if (back) {
    std::swap(in, out);
    std::swap(source, result);
    stride = 1;
  }
  extent = back ? p.in : p.out;
  step = back ? p.stride : Extent{1, 1, 1};
  for (size_t a = 0; a < kSpatial; ++a) {
    width = back ? grad_axis(axes[a], p, a) : forward_axis(axes[a], p, a);
    plane *= back ? width : width * remainders(p, a);
  }
}

}  // namespace fastdl
