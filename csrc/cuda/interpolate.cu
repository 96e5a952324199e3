// Interpolation: every output is a weighted sum over a box of inputs, the product of three axes' few weights.
//
// A small kernel makes the axes' tables, in the data's own precision and without contraction to FMAs: the rounding of a
// position decides which pixel is the nearest. Then a thread sums the box of an output, or backward of an input over
// the outputs that see it, a range of each axis: no atomics. Finding a box and its weights takes some 100 instructions
// where the memory leaves time for 40, so a thread has the same place in kPlanes planes (in one, where there are few).
// All axes at once: x and y cross memory once; overlapping boxes come from the caches.
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

// An axis in device memory. Output o sums count[o] inputs from start[o] on (positions beyond the axis mean its ends)
// with weights[o * taps ..]; input i belongs to outputs [first[i], end[i]).
template <class C>
struct Table {
  int64_t in, out, taps;
  C* weights;
  int *start, *count, *first, *end;
};
template <class C>
struct Tables {
  Table<C> axis[3];
};
template <class C>
struct Plans {
  ResamplePlan axis[3];
  C step[3];  // inputs per output
};

template <class C>
__global__ void __launch_bounds__(kThreads) make_tables(Tables<C> tables, Plans<C> plans) {
  const Table<C> t = tables.axis[blockIdx.y];
  const ResamplePlan p = plans.axis[blockIdx.y];
  const C step = plans.step[blockIdx.y];
  const int64_t o = int64_t(blockIdx.x) * kThreads + threadIdx.x, in = p.in;
  if (o >= p.out) return;
  C* weight = t.weights + o * t.taps;
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
template <class C>
__global__ void __launch_bounds__(kThreads) make_ranges(Tables<C> tables) {
  const Table<C> t = tables.axis[blockIdx.y];
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

// What threads write: the places of a plane, for groups of planes.
struct Spots {
  uint32_t count;
  int planes;
  Divisor d, h, w;
};
struct Spot {
  int group, d, h, w;
};
__device__ __forceinline__ Spot spot_of(uint32_t i, const Spots& s) {
  const uint32_t rows = s.w.quotient(i), slices = s.h.quotient(rows), groups = s.d.quotient(slices);
  return {int(groups), int(slices - groups * s.d.divisor), int(rows - slices * s.h.divisor),
          int(i - rows * s.w.divisor)};
}

// Calls f(input, weight) for output o.
template <class C, class F>
__device__ __forceinline__ void for_each_tap(const Table<C>& t, int o, F&& f) {
  const C* weight = t.weights + int64_t(o) * t.taps;
  const int start = t.start[o], count = t.count[o];
  FASTDL_ROLLED
  for (int j = 0; j < count; ++j) f(inside(start + j, t.in), weight[j]);
}
// Calls f(output, weight) for input i.
template <class C, class F>
__device__ __forceinline__ void for_each_use(const Table<C>& t, int i, F&& f) {
  FASTDL_ROLLED
  for (int o = t.first[i], end = t.end[i]; o < end; ++o) {
    const C* weight = t.weights + int64_t(o) * t.taps;
    const int start = t.start[o], last = t.count[o] - 1;
    int j = i == 0 ? 0 : i - start, to = i == t.in - 1 ? last : i - start;
    if (j < 0) j = 0;
    if (to > last) to = last;
    C sum = 0;
    FASTDL_ROLLED
    for (; j <= to; ++j) sum += weight[j];
    if (sum != 0) f(o, sum);
  }
}

// Outputs are sums over inputs, kBackward: gradients of inputs are sums over outputs.
template <class T, bool kBackward, int kPlanes>
__global__ void __launch_bounds__(kThreads, sizeof(Compute<T>) == 8 ? 2 : 4)
    sum_boxes(T* to, const T* from, Tables<Compute<T>> tables, Spots spots) {
  using C = Compute<T>;
  const auto& [d_axis, h_axis, w_axis] = tables.axis;
  const auto each = [](const Table<C>& t, int i, auto&& f) {
    if constexpr (kBackward)
      for_each_use(t, i, f);
    else
      for_each_tap(t, i, f);
  };
  const auto extent = [](const Table<C>& t) { return uint32_t(kBackward ? t.out : t.in); };
  const int64_t size = int64_t(extent(d_axis)) * extent(h_axis) * extent(w_axis);
  const int64_t written = int64_t(spots.d.divisor) * spots.h.divisor * spots.w.divisor;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < spots.count; i += gridDim.x * kThreads) {
    const Spot s = spot_of(i, spots);
    const int first = s.group * kPlanes;
    const T* plane[kPlanes];
    C sums[kPlanes] = {};
    FASTDL_UNROLL
    for (int k = 0; k < kPlanes; ++k)  // beyond the last one that one again, for nothing
      plane[k] = from + smaller(first + k, spots.planes - 1) * size;
    each(d_axis, s.d, [&](int d, C wd) {
      each(h_axis, s.h, [&](int h, C wh) {
        const uint32_t row = (uint32_t(d) * extent(h_axis) + uint32_t(h)) * extent(w_axis);
        const C outer = wd * wh;
        each(w_axis, s.w, [&](int w, C ww) {
          const C weight = outer * ww;
          FASTDL_UNROLL
          for (int k = 0; k < kPlanes; ++k) sums[k] += weight * C(widen(plane[k][row + uint32_t(w)]));
        });
      });
    });
    T* const at = to + first * written + ((int64_t(s.d) * spots.h.divisor + s.h) * spots.w.divisor + s.w);
    FASTDL_UNROLL
    for (int k = 0; k < kPlanes; ++k)
      if (first + k < spots.planes) at[k * written] = narrow<T>(sums[k]);
  }
}

// ---- on the host

template <class C>
C step_of(const ResamplePlan& p) {  // inputs per output
  if (p.align_corners) return p.out > 1 ? C(p.in - 1) / C(p.out - 1) : C(0);
  return p.scale > 0 ? C(1.0 / p.scale) : C(p.in) / C(p.out);
}
// The most inputs that an output sums.
int64_t taps_of(const ResamplePlan& p) {
  if (p.antialias) {
    const double lobes = p.mode == Resampling::linear ? 1 : p.mode == Resampling::cubic ? 2 : 3;
    const double support = lobes * std::max(1.0, step_of<double>(p));
    return std::min<int64_t>(p.in, int64_t(std::ceil(support)) * 2 + 2);
  }
  return p.mode == Resampling::linear ? 2 : p.mode == Resampling::cubic ? 4 : 1;
}

// Weights of all axes, then integers of all.
template <class C>
Tables<C> tables_in(void* memory, const ResamplePlan (&axes)[3]) {
  Tables<C> tables;
  C* weights = static_cast<C*>(memory);
  for (int a = 0; a < 3; ++a) {
    const ResamplePlan& p = axes[a];
    tables.axis[a] = {p.in, p.out, taps_of(p), weights, nullptr, nullptr, nullptr, nullptr};
    weights += p.out * tables.axis[a].taps;
  }
  int* integers = reinterpret_cast<int*>(weights);
  for (Table<C>& t : tables.axis) {
    t.start = integers, t.count = t.start + t.out, t.first = t.count + t.out, t.end = t.first + t.in;
    integers = t.end + t.in;
  }
  return tables;
}

Spots spots_of(int64_t planes, int64_t groups, const ResamplePlan (&axes)[3], bool backward) {
  const auto extent = [&](int axis) { return backward ? axes[axis].in : axes[axis].out; };
  return {uint32_t(groups * extent(0) * extent(1) * extent(2)), int(planes), Divisor(uint32_t(extent(0))),
          Divisor(uint32_t(extent(1))), Divisor(uint32_t(extent(2)))};
}

template <class T, bool kBackward>
void run(const char* op, void* to, const void* from, int64_t planes, const ResamplePlan (&axes)[3],
         void* memory, Stream stream) {
  using C = Compute<T>;
  const Tables<C> tables = tables_in<C>(memory, axes);
  Plans<C> plans;
  int64_t in = 0, out = 0;  // the longest axes
  for (int a = 0; a < 3; ++a) {
    plans.axis[a] = axes[a], plans.step[a] = step_of<C>(axes[a]);
    in = std::max(in, axes[a].in), out = std::max(out, axes[a].out);
  }
  const auto blocks = [](int64_t items) { return dim3(unsigned(ceil_div(items, kThreads)), 3); };
  launch(op, make_tables<C>, blocks(out), dim3(kThreads), 0, stream, tables, plans);
  if (kBackward) launch(op, make_ranges<C>, blocks(in), dim3(kThreads), 0, stream, tables);
  const auto sum = [&]<int kPlanes>(std::integral_constant<int, kPlanes>) {
    const Spots spots = spots_of(planes, ceil_div(planes, kPlanes), axes, kBackward);
    launch(op, sum_boxes<T, kBackward, kPlanes>, dim3(grid_for(spots.count, kThreads)), dim3(kThreads), 0,
           stream, static_cast<T*>(to), static_cast<const T*>(from), tables, spots);
  };
  constexpr int kMany = 8;
  const int64_t places = int64_t(spots_of(1, 1, axes, kBackward).count);
  if (planes >= kMany && places * ceil_div(planes, kMany) >= int64_t(multiprocessors()) * 2 * kThreads)
    sum(std::integral_constant<int, kMany>{});
  else
    sum(std::integral_constant<int, 1>{});
}

}  // namespace

int64_t interpolate_bytes(Dtype dtype, const ResamplePlan (&axes)[3]) {
  int64_t bytes = 0;
  for (const ResamplePlan& p : axes)
    bytes += p.out * taps_of(p) * (dtype == Dtype::float64 ? 8 : 4) + 8 * (p.in + p.out);
  return bytes;
}

void interpolate(Dtype dtype, void* to, const void* from, int64_t planes, const ResamplePlan (&axes)[3],
                 bool backward, void* tables, Stream stream) {
  const int64_t in = axes[0].in * axes[1].in * axes[2].in, out = axes[0].out * axes[1].out * axes[2].out;
  if (planes * (backward ? in : out) >= int64_t(1) << 31 || std::max(in, out) >= int64_t(1) << 31)
    throw std::invalid_argument("interpolation on CUDA is limited to 2^31 elements in one call");
  if (planes == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    if (backward)
      run<T, true>("interpolate_backward", to, from, planes, axes, tables, stream);
    else
      run<T, false>("interpolate", to, from, planes, axes, tables, stream);
  });
}

}  // namespace fastdl::cuda
