// What pooling's kernels, unfold and fold share: places of outputs and inputs and their windows in 32 bits, one for each
// thread; planes of one output, for groups of lanes.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "cuda/numeric.h"
#include "cuda/pool.h"

namespace fastdl::cuda::pool {

inline constexpr int kThreads = 256;
inline constexpr int kRows = 2,
                     kStrip = 4;  // inputs of a thread backward; volumes and dilated windows: one row

// What an output's sum is divided by.
struct Average {
  bool include_pad;
  int64_t divisor;  // 0: the places that its window covers
};

// Numbers of places (plane, d, h, w) and back.
struct Places {
  uint32_t count;
  Divisor d, h, w;
};
struct Place {
  int plane, d, h, w;
};
__device__ __forceinline__ Place place_of(const Places& p, uint32_t i) {
  const uint32_t rows = p.w.quotient(i), slices = p.h.quotient(rows), planes = p.d.quotient(slices);
  return {int(planes), int(slices - planes * p.d.divisor), int(rows - slices * p.h.divisor),
          int(i - rows * p.w.divisor)};
}
template <class F>
__device__ __forceinline__ void for_each_place(const Places& places, F&& f) {
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < places.count; i += gridDim.x * kThreads)
    f(i, place_of(places, i));
}

// PoolAxis in 32 bits, without divisions.
struct Axis {
  int in, out, kernel, stride, pad, dilation, reach;  // reach: from the first tap to the last
  Divisor by_stride, by_dilation, by_kernel;

  __device__ __forceinline__ int start(int o) const { return o * stride - pad; }
  __device__ __forceinline__ int rounded_up(int distance) const {
    return int(by_dilation.quotient(uint32_t(distance + dilation - 1)));
  }
  // Taps [first_tap, end_tap) of the window at `start` lie inside; there may be none.
  __device__ __forceinline__ int first_tap(int start) const {
    return start >= 0 ? 0 : smaller(kernel, rounded_up(-start));
  }
  __device__ __forceinline__ int end_tap(int start) const {
    return in <= start ? 0 : smaller(kernel, rounded_up(in - start));
  }
  __device__ __forceinline__ int count(int start, bool include_pad) const {
    if (include_pad) return smaller(start + kernel, in + pad) - start;
    const int taps = end_tap(start) - first_tap(start);
    return taps < 0 ? 0 : taps;
  }
  // Outputs [first_hit, last_hit] have x between their first and last tap.
  __device__ __forceinline__ int first_hit(int x) const {
    const int beyond = x + pad - reach;
    return beyond <= 0 ? 0 : int(by_stride.quotient(uint32_t(beyond + stride - 1)));
  }
  __device__ __forceinline__ int last_hit(int x) const {
    return smaller(out - 1, int(by_stride.quotient(uint32_t(x + pad))));
  }
  // Calls f(o, tap) for every output o that covers x, in rising order.
  template <class F>
  __device__ __forceinline__ void for_each_hit(int x, F&& f) const {
    for (int o = first_hit(x), last = last_hit(x); o <= last; ++o) {
      const int distance = x - start(o), tap = int(by_dilation.quotient(uint32_t(distance)));
      if (tap * dilation == distance) f(o, tap);
    }
  }
};
struct Pool {
  Axis d, h, w;

  // The row of the input, or of the output, by its number in the whole array.
  __device__ __forceinline__ uint32_t in_row(int plane, int d, int h) const {
    return uint32_t((plane * this->d.in + d) * this->h.in + h);
  }
  __device__ __forceinline__ uint32_t out_row(int plane, int d, int h) const {
    return uint32_t((plane * this->d.out + d) * this->h.out + h);
  }
};

// Calls f(value, place) for a lane's elements of a plane that `group` lanes share, of which it loads eight at a
// time before it looks at the first; zeros for places from `size` on.
inline constexpr int kAhead = 8;
template <class T, class N, class F>
__device__ __forceinline__ void each_of_plane(const T* plane, N size, int lane, int group, F&& f) {
  FASTDL_ROLLED
  for (N first = lane; first < size; first += kAhead * group) {
    T loaded[kAhead] = {};
    FASTDL_UNROLL
    for (int k = 0; k < kAhead; ++k)
      if (first + k * group < size) loaded[k] = plane[first + k * group];
    FASTDL_UNROLL
    for (int k = 0; k < kAhead; ++k) f(loaded[k], first + k * group);
  }
}

inline constexpr int64_t kLimit = int64_t(1) << 31;

[[noreturn]] inline void too_large() {
  throw std::invalid_argument(
      "pooling, unfold and fold on CUDA are limited to 2^31 elements in one call, and windows to 2^30");
}
inline Axis axis_of(const PoolAxis& a) {
  const int64_t most = kLimit / 2;
  // Strides and dilations so large that there is one output or one tap can be anything.
  const int64_t stride = std::min(a.stride, most), dilation = std::min(a.dilation, most);
  if (a.in + 2 * a.pad >= most || a.kernel >= most || (a.kernel - 1) * dilation >= most) too_large();
  return {int(a.in),
          int(a.out),
          int(a.kernel),
          int(stride),
          int(a.pad),
          int(dilation),
          int((a.kernel - 1) * dilation),
          Divisor(uint32_t(stride)),
          Divisor(uint32_t(dilation)),
          Divisor(uint32_t(a.kernel))};
}
inline Pool pool_of(const PoolProblem& p) {
  if (std::max(p.planes * std::max(p.in_plane(), p.out_plane()), p.taps()) >= kLimit) too_large();
  return {axis_of(p.d), axis_of(p.h), axis_of(p.w)};
}
inline Places places(int64_t planes, int64_t d, int64_t h, int64_t w) {
  const int64_t count = planes * d * h * w;
  if (count >= kLimit) too_large();
  const auto by = [](int64_t n) { return Divisor(uint32_t(n > 0 ? n : 1)); };
  return {uint32_t(count), by(d), by(h), by(w)};
}
// Nothing but one place, and a window of it, along depth.
inline bool one_slice(const PoolProblem& p) {
  return p.d.in == 1 && p.d.out == 1 && p.d.kernel == 1 && p.d.pad == 0;
}
// Are strips of a gradient's rows packs?
template <class T>
bool strips_packed(const void* grad_x, const PoolProblem& p) {
  return p.w.in % kStrip == 0 && aligned(grad_x, sizeof(T) * kStrip);
}
inline Places outputs_of(const PoolProblem& p) {
  return places(p.planes, p.d.out, p.h.out, p.w.out);
}
inline Places inputs_of(const PoolProblem& p) {
  return places(p.planes, p.d.in, p.h.in, p.w.in);
}

template <class... P, class... A>
void launch_over(const char* op, void (*kernel)(P...), const Places& places, Stream stream, A... arguments) {
  if (places.count == 0) return;
  launch(op, kernel, dim3(grid_for(places.count, kThreads, 64)), dim3(kThreads), 0, stream, arguments...);
}

}  // namespace fastdl::cuda::pool
