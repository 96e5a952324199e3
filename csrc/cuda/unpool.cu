// Adaptive maximum pooling: a thread for each output; backward a thread for each input looks at the few
// windows over it and adds the gradients that name it, in order. Unpooling places values by index: the last
// of several must win whoever comes first, so a first kernel takes the largest number of those that name a
// place (integers, exact in any order), a second writes each place once. Bad indices are reported.
#include "cuda/unpool.h"

#include "cuda/errors.h"
#include "cuda/pool_places.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr uint64_t kUnpool = 20, kUnpoolBackward = 21, kAdaptiveBackward = 22;  // device.py: OPERATIONS

struct Spot {
  int64_t plane, d, h, w;
};
__device__ __forceinline__ Spot spot_of(int64_t i, int64_t d, int64_t h, int64_t w) {
  Spot s;
  s.w = i % w;
  i /= w;
  s.h = i % h;
  i /= h;
  s.d = i % d;
  s.plane = i / d;
  return s;
}
// Window `at` of `pieces` over `n` places. (The windows over place `at` are its window of n over `pieces`.)
__device__ __forceinline__ int64_t begin_of(int64_t at, int64_t n, int64_t pieces) {
  return at * n / pieces;
}
__device__ __forceinline__ int64_t end_of(int64_t at, int64_t n, int64_t pieces) {
  return ((at + 1) * n + pieces - 1) / pieces;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    adaptive_max(T* y, int64_t* indices, const T* x, PoolProblem p, int64_t items) {
  using C = Compute<T>;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < items;
       i += int64_t(gridDim.x) * kThreads) {
    const Spot o = spot_of(i, p.d.out, p.h.out, p.w.out);
    const T* plane = x + o.plane * p.in_plane();
    const int64_t w0 = begin_of(o.w, p.w.in, p.w.out), w1 = end_of(o.w, p.w.in, p.w.out);
    const int64_t h0 = begin_of(o.h, p.h.in, p.h.out), h1 = end_of(o.h, p.h.in, p.h.out);
    C best = 0;
    int64_t place = -1;
    for (int64_t d = begin_of(o.d, p.d.in, p.d.out), d1 = end_of(o.d, p.d.in, p.d.out); d < d1; ++d)
      for (int64_t h = h0; h < h1; ++h)
        for (int64_t w = w0; w < w1; ++w) {
          const int64_t at = (d * p.h.in + h) * p.w.in + w;
          const C v = C(widen(plane[at]));
          if (place < 0 || v > best || v != v) {  // the first of equals, the last NaN
            best = v;
            place = at;
          }
        }
    y[i] = narrow<T>(best);
    indices[i] = place;
  }
}

// One output a plane: groups of lanes have one. Of two candidates the earlier one wins: the larger value, of
// equals the first, of NaNs the last.
template <class T>
__global__ void __launch_bounds__(kThreads)
    plane_max(T* y, void* indices, int bytes, const T* x, int64_t planes, int64_t size, int group) {
  using C = Compute<T>;
  const int lane = int(threadIdx.x) & (group - 1);
  const int shift = bits_of(uint32_t(group) - 1);
  const int64_t plane = int64_t(blockIdx.x) * (kThreads >> shift) + (threadIdx.x >> shift);
  const T* from = x + (plane < planes ? plane : 0) * size;
  C best = C(widen(from[0]));
  int64_t place = 0;
  const auto take = [&](C v, int64_t at) {
    const bool nan = v != v, old = best != best;
    if (nan ? !old || at > place : !old && (v > best || (v == best && at < place))) {
      best = v;
      place = at;
    }
  };
  pool::each_of_plane(from, size, lane, group, [&](T value, int64_t at) {
    if (at < size) take(C(widen(value)), at);
  });
  for (int mask = group / 2; mask > 0; mask /= 2) take(shuffle_xor(best, mask), shuffle_xor(place, mask));
  if (lane == 0 && plane < planes) {
    y[plane] = narrow<T>(best);
    if (indices == nullptr) return;
    if (bytes == 1)
      static_cast<uint8_t*>(indices)[plane] = uint8_t(place);
    else if (bytes == 4)
      static_cast<int32_t*>(indices)[plane] = int32_t(place);
    else
      static_cast<int64_t*>(indices)[plane] = place;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    adaptive_max_gradient(T* grad_x, const T* grad_y, const int64_t* indices, PoolProblem p, int64_t items,
                          int64_t outputs, Report report) {
  using C = Compute<T>;
  const int64_t first = int64_t(blockIdx.x) * kThreads + threadIdx.x, all = int64_t(gridDim.x) * kThreads;
  for (int64_t i = first; i < outputs; i += all) report.out_of_range(i, indices[i], p.in_plane());
  for (int64_t i = first; i < items; i += all) {
    const Spot s = spot_of(i, p.d.in, p.h.in, p.w.in);
    const int64_t place = i - s.plane * p.in_plane(), base = s.plane * p.out_plane();
    const int64_t w0 = begin_of(s.w, p.w.out, p.w.in), w1 = end_of(s.w, p.w.out, p.w.in);
    const int64_t h0 = begin_of(s.h, p.h.out, p.h.in), h1 = end_of(s.h, p.h.out, p.h.in);
    C sum = 0;
    for (int64_t d = begin_of(s.d, p.d.out, p.d.in), d1 = end_of(s.d, p.d.out, p.d.in); d < d1; ++d)
      for (int64_t h = h0; h < h1; ++h)
        for (int64_t w = w0; w < w1; ++w) {
          const int64_t o = base + (d * p.h.out + h) * p.w.out + w;
          if (indices[o] == place) sum += C(widen(grad_y[o]));
        }
    grad_x[i] = narrow<T>(sum);
  }
}

__global__ void __launch_bounds__(kThreads) find_owners(int* owners, const int64_t* indices, int64_t values,
                                                        int64_t places, int64_t items, Report report) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < items;
       i += int64_t(gridDim.x) * kThreads) {
    if (report.out_of_range(i, indices[i], places)) continue;
    const int64_t plane = i / values;
    atomic_max(owners + plane * places + indices[i], int(i - plane * values) + 1);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    place_values(T* y, const T* x, const int* owners, int64_t values, int64_t places, int64_t items) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < items;
       i += int64_t(gridDim.x) * kThreads)
    y[i] = owners[i] > 0 ? x[i / places * values + owners[i] - 1] : T(0.0f);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    take_values(T* y, const T* x, const int64_t* indices, int64_t values, int64_t places, int64_t items,
                Report report) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < items;
       i += int64_t(gridDim.x) * kThreads)
    y[i] = report.out_of_range(i, indices[i], places) ? T(0.0f) : x[i / values * places + indices[i]];
}

template <class... P, class... A>
void launch_over(const char* op, void (*kernel)(P...), int64_t items, Stream stream, A... arguments) {
  if (items == 0) return;
  launch(op, kernel, dim3(grid_for(items, kThreads)), dim3(kThreads), 0, stream, arguments...);
}

}  // namespace

void adaptive_max_pool_forward(Dtype dtype, void* y, int64_t* indices, const void* x, const PoolProblem& p,
                               Stream stream) {
  const int64_t items = p.planes * p.out_plane();
  if (p.out_plane() == 1 && items * p.in_plane() > 0)
    return plane_max_forward(dtype, y, indices, int(sizeof(int64_t)), x, p, stream);
  by_dtype(dtype, [&]<class T>(T) {
    launch_over("adaptive_max_pool", adaptive_max<T>, items, stream, static_cast<T*>(y), indices,
                static_cast<const T*>(x), p, items);
  });
}

void plane_max_forward(Dtype dtype, void* y, void* indices, int bytes, const void* x, const PoolProblem& p,
                       Stream stream) {
  if (p.planes == 0) return;
  int group = 8;
  while (group < 32 && group * pool::kAhead < p.in_plane()) group *= 2;
  by_dtype(dtype, [&]<class T>(T) {
    launch("max_pool", plane_max<T>, dim3(unsigned(ceil_div(p.planes, kThreads / group))), dim3(kThreads), 0,
           stream, static_cast<T*>(y), indices, bytes, static_cast<const T*>(x), p.planes, p.in_plane(),
           group);
  });
}

void adaptive_max_pool_backward(Dtype dtype, void* grad_x, const void* grad_y, const int64_t* indices,
                                const PoolProblem& p, uint64_t* report, Stream stream) {
  const int64_t items = p.planes * p.in_plane();
  by_dtype(dtype, [&]<class T>(T) {
    launch_over("adaptive_max_pool_backward", adaptive_max_gradient<T>, items, stream,
                static_cast<T*>(grad_x), static_cast<const T*>(grad_y), indices, p, items,
                p.planes * p.out_plane(), Report{report, kAdaptiveBackward});
  });
}

void max_unpool_forward(Dtype dtype, void* y, const void* x, const int64_t* indices, int* owners,
                        int64_t planes, int64_t values, int64_t places, uint64_t* report, Stream stream) {
  if (values >= (int64_t(1) << 31) - 1)
    throw std::invalid_argument("max_unpool on CUDA is limited to 2^31 values in a plane");
  launch_over("max_unpool", find_owners, planes * values, stream, owners, indices, values, places,
              planes * values, Report{report, kUnpool});
  by_dtype(dtype, [&]<class T>(T) {
    launch_over("max_unpool", place_values<T>, planes * places, stream, static_cast<T*>(y),
                static_cast<const T*>(x), static_cast<const int*>(owners), values, places, planes * places);
  });
}

void max_unpool_backward(Dtype dtype, void* grad_x, const void* grad_y, const int64_t* indices,
                         int64_t planes, int64_t values, int64_t places, uint64_t* report, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    launch_over("max_unpool_backward", take_values<T>, planes * values, stream, static_cast<T*>(grad_x),
                static_cast<const T*>(grad_y), indices, values, places, planes * values,
                Report{report, kUnpoolBackward});
  });
}

}  // namespace fastdl::cuda
