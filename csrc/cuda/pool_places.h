// What pooling's kernels share: places of outputs and inputs in 32 bits, one for each thread; planes of one
// output, for groups of lanes.
#pragma once

#include <stdexcept>

#include "cuda/numeric.h"
#include "cuda/pool.h"

namespace fastdl::cuda::pool {

inline constexpr int kThreads = 256;

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
  throw std::invalid_argument("pooling on CUDA is limited to 2^31 elements in one call, and windows to 2^30");
}
inline Places places(int64_t planes, int64_t d, int64_t h, int64_t w) {
  const int64_t count = planes * d * h * w;
  if (count >= kLimit) too_large();
  const auto by = [](int64_t n) { return Divisor(uint32_t(n > 0 ? n : 1)); };
  return {uint32_t(count), by(d), by(h), by(w)};
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
