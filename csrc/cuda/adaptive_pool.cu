// Means over adaptive windows, [o in / out, (o + 1) in / out) rounded outwards: a thread has an output and adds up its
// window; backward it has an input and gathers from the outputs over it, in order. One output a plane is the mean of a
// row, and its gradient the same for all of the plane. x and y cross memory once.
#include <algorithm>

#include "cuda/pool_places.h"
#include "cuda/rows.h"

namespace fastdl::cuda {

using namespace pool;

namespace {

struct AdaptiveAxis {
  int in, out;
  bool wide;  // in * out is too much for 32 bits
  Divisor by_in, by_out;

  __device__ __forceinline__ int window_start(int o) const {
    return wide ? int(int64_t(o) * in / out) : int(by_out.quotient(uint32_t(o * in)));
  }
  __device__ __forceinline__ int window_end(int o) const {
    return wide ? int((int64_t(o + 1) * in + out - 1) / out)
                : int(by_out.quotient(uint32_t((o + 1) * in + out - 1)));
  }
  __device__ __forceinline__ int taps(int o) const { return window_end(o) - window_start(o); }
  // Outputs over x: from x out / in to (x + 1) out / in, rounded outwards.
  __device__ __forceinline__ int first_hit(int x) const {
    return wide ? int(int64_t(x) * out / in) : int(by_in.quotient(uint32_t(x * out)));
  }
  __device__ __forceinline__ int end_hit(int x) const {
    return wide ? int((int64_t(x + 1) * out + in - 1) / in)
                : int(by_in.quotient(uint32_t((x + 1) * out + in - 1)));
  }
};
struct AdaptivePool {
  AdaptiveAxis d, h, w;
  uint32_t in_plane, out_plane;
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    adaptive_forward(T* y, const T* x, AdaptivePool p, Places outputs) {
  using C = Compute<T>;
  for_each_place(outputs, [&](uint32_t i, const Place& o) {
    const T* plane = x + uint32_t(o.plane) * p.in_plane;
    const int d0 = p.d.window_start(o.d), d1 = p.d.window_end(o.d), h0 = p.h.window_start(o.h),
              h1 = p.h.window_end(o.h), w0 = p.w.window_start(o.w), w1 = p.w.window_end(o.w);
    C sum = 0;
    for (int d = d0; d < d1; ++d)
      for (int h = h0; h < h1; ++h)
        for (int w = w0; w < w1; ++w) sum += C(widen(plane[(d * p.h.in + h) * p.w.in + w]));
    y[i] = narrow<T>(sum / C((d1 - d0) * (h1 - h0) * (w1 - w0)));
  });
}

// One output a plane: means of rows. Those of short ones, groups of lanes have: little code, most of whose time
// would be that of fetching it, and all of a lane's loads on their way together.
template <class T>
__global__ void __launch_bounds__(kThreads) short_means(T* y, const T* x, int planes, int size, int group) {
  using C = Compute<T>;
  const int lane = int(threadIdx.x) & (group - 1);
  const int plane = int((blockIdx.x * kThreads + threadIdx.x) >> bits_of(uint32_t(group) - 1));
  const T* from = x + int64_t(plane < planes ? plane : 0) * size;
  C sum = 0;
  each_of_plane(from, size, lane, group, [&](T value, int) { sum += C(widen(value)); });
  sum = lanes_reduce(sum, group, Plus{});
  if (lane == 0 && plane < planes) y[plane] = narrow<T>(sum / C(size));
}
template <class T>
__global__ void __launch_bounds__(kThreads)
    plane_means(T* y, const T* x, int64_t planes, int64_t size, bool packed) {
  using C = Compute<T>;
  RowTeam<true> team(0);
  const RowSlice<T> slice(team, size, packed);
  for (; team.row < planes; team.row += team.step) {
    C sum = 0;
    const auto add = [&](int64_t, const auto& v) {
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) sum += v.v[k];
    };
    slice.each(C(0), add, x + team.row * size);
    sum = team.sum(sum);
    if (team.index == 0) y[team.row] = narrow<T>(sum / C(size));
  }
}

// Backward: a thread writes a pack, in which a plane may end and the next one begin (they are no shorter than packs).
template <class T>
__global__ void __launch_bounds__(kThreads)
    spread_means(T* grad_x, const T* grad_y, uint32_t count, Divisor size, bool packed) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>;
  const uint32_t first = (blockIdx.x * kThreads + threadIdx.x) * N;
  if (first >= count) return;
  const uint32_t plane = size.quotient(first), next = (plane + 1) * size.divisor;
  const bool both = next < first + N && next < count;
  const C a = C(widen(grad_y[plane])) / C(size.divisor);
  const C b = both ? C(widen(grad_y[plane + 1])) / C(size.divisor) : a;
  Values<C, N> r;
  FASTDL_UNROLL
  for (int k = 0; k < N; ++k) r.v[k] = first + k < next ? a : b;
  store_run<N>(grad_x, int64_t(first), int64_t(count), packed, r);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 3)
    adaptive_backward(T* grad_x, const T* grad_y, AdaptivePool p, Places inputs) {
  using C = Compute<T>;
  for_each_place(inputs, [&](uint32_t i, const Place& at) {
    const T* plane = grad_y + uint32_t(at.plane) * p.out_plane;
    C sum = 0;
    for (int d = p.d.first_hit(at.d), ed = p.d.end_hit(at.d); d < ed; ++d)
      for (int h = p.h.first_hit(at.h), eh = p.h.end_hit(at.h); h < eh; ++h)
        for (int w = p.w.first_hit(at.w), ew = p.w.end_hit(at.w); w < ew; ++w)
          sum +=
              C(widen(plane[(d * p.h.out + h) * p.w.out + w])) / C(p.d.taps(d) * p.h.taps(h) * p.w.taps(w));
    grad_x[i] = narrow<T>(sum);
  });
}

AdaptiveAxis adaptive_axis(const PoolAxis& a) {
  const bool wide = (a.in + 1) * (a.out + 1) >= kLimit;
  return {int(a.in), int(a.out), wide, Divisor(uint32_t(std::max<int64_t>(1, a.in))),
          Divisor(uint32_t(std::max<int64_t>(1, a.out)))};
}
AdaptivePool adaptive_pool(const PoolProblem& p) {
  if (p.planes * std::max(p.in_plane(), p.out_plane()) >= kLimit) too_large();
  return {adaptive_axis(p.d), adaptive_axis(p.h), adaptive_axis(p.w), uint32_t(p.in_plane()),
          uint32_t(p.out_plane())};
}

}  // namespace

void adaptive_avg_pool_forward(Dtype dtype, void* y, const void* x, const PoolProblem& p, Stream stream) {
  const Places o = outputs_of(p);
  const AdaptivePool pool = adaptive_pool(p);
  if (o.count == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    T* to = static_cast<T*>(y);
    const T* from = static_cast<const T*>(x);
    const int64_t size = p.in_plane();
    if (p.out_plane() > 1)
      return launch_over("adaptive_avg_pool", adaptive_forward<T>, o, stream, to, from, pool, o);
    RowPlan plan = plan_rows(p.planes, size, 32);
    if (!plan.block)
      return launch("adaptive_avg_pool", short_means<T>,
                    dim3(unsigned(ceil_div(p.planes, kThreads / plan.group))), dim3(kThreads), 0, stream, to,
                    from, int(p.planes), int(size), plan.group);
    if (plan.threads > kThreads) plan.threads = kThreads;
    launch("adaptive_avg_pool", plane_means<T>, dim3(plan.grid), dim3(plan.threads), 0, stream, to, from,
           p.planes, size, rows_packed<T>(size, {x}));
  });
}

void adaptive_avg_pool_backward(Dtype dtype, void* grad_x, const void* grad_y, const PoolProblem& p,
                                Stream stream) {
  const Places i = inputs_of(p);
  const AdaptivePool pool = adaptive_pool(p);
  if (i.count == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    constexpr int N = kWidest<T>;
    if (p.out_plane() == 1 && p.in_plane() >= N)
      return launch("adaptive_avg_pool_backward", spread_means<T>,
                    dim3(unsigned(ceil_div(i.count, N * kThreads))), dim3(kThreads), 0, stream,
                    static_cast<T*>(grad_x), static_cast<const T*>(grad_y), i.count,
                    Divisor(uint32_t(p.in_plane())), aligned(grad_x, 16));
    launch_over("adaptive_avg_pool_backward", adaptive_backward<T>, i, stream, static_cast<T*>(grad_x),
                static_cast<const T*>(grad_y), pool, i);
  });
}

}  // namespace fastdl::cuda
