// The geometry of pooling, shared by every backend. A window slides over each axis: output o covers the
// inputs o*stride - pad + i*dilation for 0 <= i < kernel; taps that fall outside [0, in) do not take part.
// One- and two-dimensional problems are three-dimensional ones whose leading axes are trivial.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastdl {

struct PoolAxis {
  int64_t in = 1, out = 1, kernel = 1, stride = 1, pad = 0, dilation = 1;

  constexpr int64_t start(int64_t o) const { return o * stride - pad; }
  // Taps [first_tap, end_tap) of output o lie inside the input; the range may be empty.
  constexpr int64_t first_tap(int64_t o) const {
    const int64_t s = start(o);
    return s >= 0 ? 0 : std::min(kernel, (-s + dilation - 1) / dilation);
  }
  constexpr int64_t end_tap(int64_t o) const {
    const int64_t room = in - start(o);
    if (room > (kernel - 1) * dilation) return kernel;  // the common case, without a division
    return room <= 0 ? 0 : (room + dilation - 1) / dilation;
  }
  // How many positions output o is averaged over along this axis. Padding counts, where asked for, up to the
  // padded end: a last window that reaches beyond it (ceil_mode) is smaller.
  constexpr int64_t count(int64_t o, bool include_pad) const {
    if (include_pad) return std::min(start(o) + kernel, in + pad) - start(o);
    return std::max<int64_t>(0, end_tap(o) - first_tap(o));
  }
  // Calls f(o, tap) for every output o that covers input x, in rising order of o.
  template <class F>
  constexpr void for_each_hit(int64_t x, F&& f) const {
    const int64_t reach = (kernel - 1) * dilation, u = x + pad;
    const int64_t last = std::min(out - 1, u / stride);
    for (int64_t o = u <= reach ? 0 : (u - reach + stride - 1) / stride; o <= last; ++o) {
      const int64_t distance = u - o * stride;
      if (distance % dilation == 0) f(o, distance / dilation);
    }
  }
  constexpr bool covers_everything() const { return out == 1 && kernel == in && pad == 0 && dilation == 1; }
};

struct PoolProblem {
  int64_t planes = 0;
  PoolAxis d, h, w;

  constexpr int64_t in_plane() const { return d.in * h.in * w.in; }
  constexpr int64_t out_plane() const { return d.out * h.out * w.out; }
  constexpr int64_t taps() const { return d.kernel * h.kernel * w.kernel; }
  constexpr bool global() const {
    return d.covers_everything() && h.covers_everything() && w.covers_everything();
  }
};

}  // namespace fastdl
