// Interpolation: every output is a weighted sum over a box of inputs, the product of three axes' few weights.
//
// A small kernel makes each axis's table, in the data's own precision and without contraction to FMAs: the
// rounding of a position decides which pixel is the nearest. Then a thread for each output sums its box, or
// backward a thread for each input sums over the outputs that see it, a range of each axis: no atomics. All
// axes at once, so x and y cross memory once; overlapping boxes come from the caches.
#include "cuda/interpolate.h"

#include <algorithm>

#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

template <class C>
__device__ __forceinline__ C clamp01(C x) {
  return x < 0 ? C(0) : x > 1 ? C(1) : x;
}

template <class C>
__global__ void __launch_bounds__(kThreads) make_table(ResampleTable t, ResamplePlan p, C step) {
  const int64_t o = int64_t(blockIdx.x) * kThreads + threadIdx.x, in = p.in;
  if (o >= p.out) return;
  C* weight = static_cast<C*>(t.weights) + o * t.taps;
  const auto center = [&] {
    return p.align_corners ? rounded_product(step, C(o)) : rounded_product(step, C(o) + C(0.5)) - C(0.5);
  };
  int64_t start = 0;
  int count = 1;
  weight[0] = C(1);
  if (p.antialias && in == p.out) {  // nothing to resample, whatever the scale
    start = o;
  } else if (p.antialias) {
    const C lobes = p.mode == Resampling::linear ? 1 : p.mode == Resampling::cubic ? 2 : 3;
    const C support = step >= 1 ? rounded_product(lobes, step) : lobes,
            inverse = step >= 1 ? C(1) / step : C(1);
    const C middle = rounded_product(step, C(o) + C(0.5));
    start = int64_t(middle - support + C(0.5));
    start = start < 0 ? 0 : start > in ? in : start;
    int64_t stop = int64_t(middle + support + C(0.5));
    if (stop > in) stop = in;
    count = int(stop < start ? 0 : stop - start > t.taps ? t.taps : stop - start);
    C total = 0;
    for (int j = 0; j < count; ++j) {
      weight[j] = resampling::filter(p.mode, rounded_product(C(j + start) - middle + C(0.5), inverse));
      total += weight[j];
    }
    if (total != 0)
      for (int j = 0; j < count; ++j) weight[j] /= total;
  } else if (p.mode == Resampling::nearest) {
    start = int64_t(floorf(float(rounded_product(step, C(o)))));
  } else if (p.mode == Resampling::nearest_exact) {
    const C x = center();
    start = int64_t(floorf(float((x > 0 ? x : C(0)) + C(0.5))));
  } else if (p.mode == Resampling::linear) {
    C x = in == p.out ? C(o) : center();
    if (x < 0) x = 0;
    start = int64_t(x) < in - 1 ? int64_t(x) : in - 1;
    const C right = clamp01(x - C(start));
    count = 2;
    weight[0] = C(1) - right;
    weight[1] = right;
  } else {
    const C x = center();
    C low = C(int64_t(x));
    if (low > x) low -= 1;
    const int64_t i = int64_t(low) < in - 1 ? int64_t(low) : in - 1;
    const C f = clamp01(x - C(i)), a = C(-0.75);
    start = i - 1;
    count = 4;
    weight[0] = resampling::cubic_far(f + 1, a);
    weight[1] = resampling::cubic_near(f, a);
    weight[2] = resampling::cubic_near(1 - f, a);
    weight[3] = resampling::cubic_far(2 - f, a);
  }
  if (count == 1 && start > in - 1) start = in - 1;
  t.start[o] = int(start);
  t.count[o] = count;
}

// Positions beyond the axis mean its ends.
__device__ __forceinline__ int inside(int i, int64_t in) {
  return i < 0 ? 0 : i >= in ? int(in - 1) : i;
}

// Starts and ends of the outputs' ranges rise with o, so those over an input are neighbours: bisection.
__global__ void __launch_bounds__(kThreads) make_ranges(ResampleTable t) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= t.in) return;
  const auto bisect = [&](auto&& before) {
    int low = 0, high = int(t.out);
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (before(middle))
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  };
  t.first[i] = bisect([&](int o) {
    const int last = t.start[o] + t.count[o] - 1;
    return t.count[o] > 0 && inside(last, t.in) < i;
  });
  t.end[i] = bisect([&](int o) { return t.count[o] > 0 && inside(t.start[o], t.in) <= i; });
}

struct Boxes {
  ResampleTable d, h, w;
  uint32_t items;
  Divisor by_d, by_h, by_w;  // extents of what is written
};
struct Spot {
  int64_t plane;
  int d, h, w;
};
__device__ __forceinline__ Spot spot_of(uint32_t i, const Boxes& b) {
  Spot s;
  uint32_t q = b.by_w.quotient(i);
  s.w = int(i - q * b.by_w.divisor);
  i = b.by_h.quotient(q);
  s.h = int(q - i * b.by_h.divisor);
  q = b.by_d.quotient(i);
  s.d = int(i - q * b.by_d.divisor);
  s.plane = q;
  return s;
}

// Calls f(input, weight) for output o.
template <class C, class F>
__device__ __forceinline__ void for_each_tap(const ResampleTable& t, int o, F&& f) {
  const C* weight = static_cast<const C*>(t.weights) + int64_t(o) * t.taps;
  const int start = t.start[o], count = t.count[o];
  for (int j = 0; j < count; ++j) f(inside(start + j, t.in), weight[j]);
}
// Calls f(output, weight) for input i.
template <class C, class F>
__device__ __forceinline__ void for_each_use(const ResampleTable& t, int i, F&& f) {
  for (int o = t.first[i], end = t.end[i]; o < end; ++o) {
    const C* weight = static_cast<const C*>(t.weights) + int64_t(o) * t.taps;
    const int start = t.start[o], last = t.count[o] - 1;
    int j = i == 0 ? 0 : i - start, to = i == t.in - 1 ? last : i - start;
    if (j < 0) j = 0;
    if (to > last) to = last;
    C sum = 0;
    for (; j <= to; ++j) sum += weight[j];
    if (sum != 0) f(o, sum);
  }
}

// Outputs are sums over inputs, kBackward: gradients of inputs are sums over outputs.
template <class T, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2) sum_boxes(T* to, const T* from, Boxes b) {
  using C = Compute<T>;
  const auto each = [](const ResampleTable& t, int i, auto&& f) {
    if constexpr (kBackward)
      for_each_use<C>(t, i, f);
    else
      for_each_tap<C>(t, i, f);
  };
  const auto extent = [](const ResampleTable& t) { return kBackward ? t.out : t.in; };
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < b.items; i += gridDim.x * kThreads) {
    const Spot s = spot_of(i, b);
    const T* plane = from + s.plane * extent(b.d) * extent(b.h) * extent(b.w);
    C sum = 0;
    each(b.d, s.d, [&](int d, C wd) {
      each(b.h, s.h, [&](int h, C wh) {
        const T* row = plane + (int64_t(d) * extent(b.h) + h) * extent(b.w);
        const C outer = wd * wh;
        each(b.w, s.w, [&](int w, C ww) { sum += outer * ww * C(widen(row[w])); });
      });
    });
    to[i] = narrow<T>(sum);
  }
}

Boxes boxes(int64_t planes, const ResampleTable (&tables)[3], bool backward) {
  const auto extent = [&](int axis) { return backward ? tables[axis].in : tables[axis].out; };
  const int64_t items = planes * extent(0) * extent(1) * extent(2);
  if (items >= int64_t(1) << 31)
    throw std::invalid_argument("interpolation on CUDA is limited to 2^31 elements in one call");
  return {tables[0],
          tables[1],
          tables[2],
          uint32_t(items),
          Divisor(uint32_t(extent(0))),
          Divisor(uint32_t(extent(1))),
          Divisor(uint32_t(extent(2)))};
}

unsigned blocks(int64_t items) {
  return unsigned((items + kThreads - 1) / kThreads);
}

template <class C>
C step_of(const ResamplePlan& p) {  // inputs per output
  if (p.align_corners) return p.out > 1 ? C(p.in - 1) / C(p.out - 1) : C(0);
  return p.scale > 0 ? C(1.0 / p.scale) : C(p.in) / C(p.out);
}

}  // namespace

int64_t resample_taps(const ResamplePlan& p) {
  if (p.antialias) {
    const double lobes = p.mode == Resampling::linear ? 1 : p.mode == Resampling::cubic ? 2 : 3;
    const double support = lobes * std::max(1.0, step_of<double>(p));
    return std::min<int64_t>(p.in, int64_t(std::ceil(support)) * 2 + 2);
  }
  return p.mode == Resampling::linear ? 2 : p.mode == Resampling::cubic ? 4 : 1;
}

void resample_table(Dtype dtype, const ResampleTable& t, const ResamplePlan& p, Stream stream) {
  if (dtype == Dtype::float64)
    launch("interpolate", make_table<double>, dim3(blocks(p.out)), dim3(kThreads), 0, stream, t, p,
           step_of<double>(p));
  else
    launch("interpolate", make_table<float>, dim3(blocks(p.out)), dim3(kThreads), 0, stream, t, p,
           step_of<float>(p));
  if (t.first != nullptr)
    launch("interpolate", make_ranges, dim3(blocks(p.in)), dim3(kThreads), 0, stream, t);
}

namespace {

template <bool kBackward>
void launch_boxes(const char* op, Dtype dtype, void* to, const void* from, int64_t planes,
                  const ResampleTable (&tables)[3], Stream stream) {
  const Boxes b = boxes(planes, tables, kBackward);
  if (b.items == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch(op, sum_boxes<T, kBackward>, dim3(grid_for(b.items, kThreads)), dim3(kThreads), 0, stream,
           static_cast<T*>(to), static_cast<const T*>(from), b);
  });
}

}  // namespace

void interpolate(Dtype dtype, void* y, const void* x, int64_t planes, const ResampleTable (&tables)[3],
                 Stream stream) {
  launch_boxes<false>("interpolate", dtype, y, x, planes, tables, stream);
}

void interpolate_backward(Dtype dtype, void* grad_x, const void* grad_y, int64_t planes,
                          const ResampleTable (&tables)[3], Stream stream) {
  launch_boxes<true>("interpolate_backward", dtype, grad_x, grad_y, planes, tables, stream);
}

}  // namespace fastdl::cuda
