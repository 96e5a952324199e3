// Reductions over axes. What is accumulated is a policy: an accumulator, how an element is added, how two are
// merged, and what is written.
//
// The host merges neighbouring axes. If the innermost axis is reduced, a team of lanes or a block works on
// each output and reads side by side ("rows"; in packs of 16 bytes where rows are aligned); if it stays,
// neighbouring threads have neighbouring outputs and 8 threads share one ("columns"). With too few outputs to
// fill the device, each is cut into slices, and a second launch merges them in order. x is read once, and a
// thread has 16 to 32 bytes of it on their way before it adds the first.
#include "cuda/reduce.h"

#include <algorithm>

#include "cuda/accumulators.h"
#include "cuda/map.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr int kAxes = 5;

// Offsets of a numbering of some axes.
struct Axes {
  int others = 0;             // axes beside the first one
  Divisor extent[kAxes - 1];  // of these, the last axis first; the first one's nobody needs
  int64_t stride[kAxes - 1] = {}, first_stride = 0;

  __device__ __forceinline__ int64_t offset(uint32_t i) const {
    int64_t at = 0;  // mostly there is one axis, and every load has this code: no unrolling
    FASTDL_ROLLED
    for (int d = 0; d < others; ++d) {
      const uint32_t q = extent[d].quotient(i);
      at += (i - q * extent[d].divisor) * stride[d];
      i = q;
    }
    return at + i * first_stride;
  }
};

// Where folds are written.
template <class T>
struct Folded {
  T* y;
  Compute<T>* wide;
  Compute<T> scale;

  __device__ __forceinline__ void write(uint32_t output, Compute<T> a) const {
    if (wide != nullptr)
      wide[output] = a * scale;
    else
      y[output] = narrow<T>(a * scale);
  }
};

template <class T>
struct FoldOf {
  using C = Compute<T>;
  using Accumulator = C;
  static constexpr int kOperations = 0 FASTDL_CUDA_FOLD(FASTDL_CUDA_COUNT);
  Fold op;
  Folded<T> to;
  bool squares;  // a norm's p is 2, not 1

  __device__ __forceinline__ C start() const {
    switch (op) {
      case Fold::prod:
        return C(1);
      case Fold::amax:
        return -infinity<C>();
      case Fold::amin:
      case Fold::smallest:
        return infinity<C>();
      default:
        return C(0);
    }
  }
  __device__ __forceinline__ void add(C& a, C x, C, int64_t) const {
    switch (op) {
      case Fold::sum:
        a += x;
        break;
      case Fold::nansum:
        a += x == x ? x : C(0);
        break;
      case Fold::prod:
        a *= x;
        break;
      case Fold::amax:
        a = larger(a, x);
        break;
      case Fold::amin:
        a = smaller(a, x);
        break;
      case Fold::norm:
        a += squares ? x * x : std::fabs(x);
        break;
      case Fold::nonzero:
        a += C(x != 0);
        break;
      case Fold::largest:
        a = larger(a, std::fabs(x));
        break;
      case Fold::smallest:
        a = smaller(a, std::fabs(x));
        break;
    }
  }
  __device__ __forceinline__ C operator()(C a, C b) const {
    switch (op) {
      case Fold::prod:
        return a * b;
      case Fold::amax:
      case Fold::largest:
        return larger(a, b);
      case Fold::amin:
      case Fold::smallest:
        return smaller(a, b);
      default:
        return a + b;
    }
  }
  __device__ __forceinline__ void finish(uint32_t output, C a, C) const {
    to.write(output, op == Fold::norm && squares ? std::sqrt(a) : a);
  }
};

// Norms of any other p.
template <class T>
struct PowersOf {
  using C = Compute<T>;
  using Accumulator = C;
  static constexpr int kAhead = 1;  // long code
  Folded<T> to;
  C p;

  __device__ __forceinline__ C start() const { return C(0); }
  __device__ __forceinline__ void add(C& a, C x, C, int64_t) const { a += std::pow(std::fabs(x), p); }
  __device__ __forceinline__ C operator()(C a, C b) const { return a + b; }
  __device__ __forceinline__ void finish(uint32_t output, C a, C) const {
    to.write(output, std::pow(a, 1 / p));
  }
};

template <class C>
struct Sums {
  C first, second;  // of x - x_0 and of its square, x_0 the first element
};
template <class T>
struct Moments {
  using C = Compute<T>;
  using Accumulator = Sums<C>;
  T *var, *mean;
  C count, divisor;

  __device__ __forceinline__ Sums<C> start() const { return {0, 0}; }
  __device__ __forceinline__ void add(Sums<C>& a, C x, C x0, int64_t) const {
    const C d = x - x0;
    a.first += d;
    a.second += d * d;
  }
  __device__ __forceinline__ Sums<C> operator()(Sums<C> a, Sums<C> b) const {
    return {a.first + b.first, a.second + b.second};
  }
  __device__ __forceinline__ void finish(uint32_t output, Sums<C> a, C x0) const {
    const C shift = a.first / count;
    mean[output] = narrow<T>(x0 + shift);
    var[output] = narrow<T>(larger(a.second - a.first * shift, C(0)) / divisor);
  }
};

template <class T>
struct LogSumExp {
  using C = Compute<T>;
  using Accumulator = Exponentials<C>;
  T* y;

  __device__ __forceinline__ Exponentials<C> start() const { return {-infinity<C>(), 0}; }
  __device__ __forceinline__ void add(Exponentials<C>& a, C x, C, int64_t) const { a = (*this)(a, {x, 1}); }
  __device__ __forceinline__ Exponentials<C> operator()(Exponentials<C> a, Exponentials<C> b) const {
    return a.joined(b);
  }
  __device__ __forceinline__ void finish(uint32_t output, Exponentials<C> a, C) const {
    y[output] = narrow<T>(a.logarithm());
  }
};

template <class T>
struct Extreme {
  using C = Compute<T>;
  using Accumulator = Place<C>;
  T* values;
  int64_t* indices;
  C sign;  // -1 for the smallest

  __device__ __forceinline__ Place<C> start() const { return {0, -1}; }
  __device__ __forceinline__ void add(Place<C>& a, C x, C, int64_t index) const {
    a = (*this)(a, {x, index});
  }
  __device__ __forceinline__ Place<C> operator()(Place<C> a, Place<C> b) const {
    if (b.index < 0) return a;
    if (a.index < 0) return b;
    const bool nan_a = a.value != a.value, nan_b = b.value != b.value;
    if (nan_a || nan_b) return nan_a && (!nan_b || a.index < b.index) ? a : b;
    if (a.value == b.value) return a.index < b.index ? a : b;
    return (sign * a.value > sign * b.value) ? a : b;
  }
  __device__ __forceinline__ void finish(uint32_t output, Place<C> a, C) const {
    values[output] = narrow<T>(a.value);
    indices[output] = a.index;
  }
};

struct Task {
  Axes kept, reduced;
  uint32_t outputs, packs;  // packs of the reduced elements of one output
  uint32_t slices, per_slice;
};

template <class A, class P>
__device__ __forceinline__ A block_merge(A a, const P& policy) {
  FASTDL_SHARED(A, partial, 32);
  a = warp_reduce(a, policy);
  const int warps = int(blockDim.x) / 32;
  if (warps == 1) return a;
  sync_threads();
  if (lane_id() == 0) partial[threadIdx.x / 32] = a;
  sync_threads();
  return warp_reduce(lane_id() < warps ? partial[lane_id()] : policy.start(), policy);
}

// Packs that a thread loads before it adds the first.
template <class P, class T, int N>
constexpr int ahead() {
  if constexpr (requires { P::kAhead; })
    return P::kAhead;
  else
    return N == 1 ? kWidest<T> : 2;
}
// Adds the packs first, first + step, .. below end to a.
template <int N, class T, class P>
__device__ __forceinline__ void add_packs(typename P::Accumulator& a, const P& policy, const T* from,
                                          const Axes& axes, uint32_t first, uint32_t end, uint32_t step,
                                          Compute<T> x0) {
  constexpr int kAhead = ahead<P, T, N>();
  const int64_t stride = step * axes.first_stride;
  for (uint32_t i = first; i < end; i += kAhead * step) {
    const bool whole = i + (kAhead - 1) * step < end;
    Loaded<T, N> loaded[kAhead];
    const auto load = [&](int j, const T* at) {
      loaded[j] = Loaded<T, N>(*reinterpret_cast<const Pack<T, N>*>(at));
    };
    if (whole && axes.others == 0) {
      const T* at = from + i * axes.first_stride;
      FASTDL_UNROLL
      for (int j = 0; j < kAhead; ++j, at += stride) load(j, at);
    } else {
      FASTDL_UNROLL
      for (int j = 0; j < kAhead; ++j)
        if (i + j * step < end) load(j, from + axes.offset(i + j * step));
    }
    with_operation(policy, [&](const auto& fixed) {
      const auto add = [&](int j) {
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k)
          fixed.add(a, Compute<T>(widen(loaded[j][k])), x0, int64_t(i + j * step) * N + k);
      };
      if (whole) {
        FASTDL_UNROLL
        for (int j = 0; j < kAhead; ++j) add(j);
      } else {
        FASTDL_UNROLL
        for (int j = 0; j < kAhead; ++j)
          if (i + j * step < end) add(j);
      }
    });
  }
}

template <class T, class P, int N, bool kBlock>
__global__ void __launch_bounds__(256)
    reduce_rows(P policy, typename P::Accumulator* partials, const T* x, Task t, int group) {
  using C = Compute<T>;
  RowTeam<kBlock> team(group);
  const int64_t items = int64_t(t.outputs) * t.slices;
  for (; team.any_row(items); team.row += team.step) {
    const bool mine = team.row < items;
    const uint32_t output = mine ? uint32_t(team.row) / t.slices : 0,
                   slice = uint32_t(team.row) - output * t.slices;
    const T* from = x + t.kept.offset(output);
    auto a = policy.start();
    const uint32_t first = slice * t.per_slice;
    const uint32_t end = mine ? std::min(t.packs, first + t.per_slice) : 0;
    const C x0 = t.packs > 0 ? C(widen(*from)) : C(0);
    add_packs<N>(a, policy, from, t.reduced, first + team.index, end, team.size, x0);
    if constexpr (kBlock)
      a = block_merge(a, policy);
    else
      a = lanes_reduce(a, team.size, policy);
    if (!mine || team.index != 0) continue;
    if (t.slices == 1)
      policy.finish(output, a, x0);
    else
      partials[team.row] = a;
  }
}

template <class T, class P>
__global__ void __launch_bounds__(kColumns* kSplit)
    reduce_columns(P policy, typename P::Accumulator* partials, const T* x, Task t) {
  using C = Compute<T>;
  using A = typename P::Accumulator;
  FASTDL_SHARED(A, shared, kSplit * kColumns);
  const uint32_t groups = (t.outputs + kColumns - 1) / kColumns;
  for (uint32_t item = blockIdx.x; item < groups * t.slices; item += gridDim.x) {
    const uint32_t slice = item / groups, output = (item - slice * groups) * kColumns + threadIdx.x;
    const bool mine = output < t.outputs;
    const T* from = x + t.kept.offset(mine ? output : 0);
    auto a = policy.start();
    const uint32_t first = slice * t.per_slice;
    const uint32_t end = mine ? std::min(t.packs, first + t.per_slice) : 0;
    const C x0 = t.packs > 0 ? C(widen(*from)) : C(0);
    add_packs<1>(a, policy, from, t.reduced, first + threadIdx.y, end, kSplit, x0);
    sync_threads();  // the previous item's has been read
    shared[threadIdx.y * kColumns + threadIdx.x] = a;
    sync_threads();
    if (threadIdx.y != 0 || !mine) continue;
    for (int k = 1; k < kSplit; ++k) a = policy(a, shared[k * kColumns + threadIdx.x]);
    if (t.slices == 1)
      policy.finish(output, a, x0);
    else
      partials[int64_t(output) * t.slices + slice] = a;
  }
}

// A warp per output merges its slices.
template <class T, class P>
__global__ void __launch_bounds__(256)
    reduce_slices(P policy, const typename P::Accumulator* partials, const T* x, Task t) {
  using C = Compute<T>;
  for (uint32_t output = blockIdx.x * 8 + threadIdx.x / 32; output < t.outputs; output += gridDim.x * 8) {
    auto a = policy.start();
    for (uint32_t s = uint32_t(lane_id()); s < t.slices; s += 32)
      a = policy(a, partials[int64_t(output) * t.slices + s]);
    a = warp_reduce(a, policy);
    if (lane_id() == 0) policy.finish(output, a, C(widen(x[t.kept.offset(output)])));
  }
}

// ---- on the host

struct Axis {
  int64_t extent, stride;
};
std::vector<Axis> merged(const Shape& extents, const Shape& strides, bool sort) {
  std::vector<Axis> axes;
  for (size_t d = 0; d < extents.size(); ++d)
    if (extents[d] != 1) axes.push_back({extents[d], strides[d]});
  if (sort)
    std::stable_sort(axes.begin(), axes.end(),
                     [](Axis a, Axis b) { return std::abs(a.stride) > std::abs(b.stride); });
  std::vector<Axis> result;
  for (const Axis& a : axes) {
    if (!result.empty() && result.back().stride == a.stride * a.extent)
      result.back() = {result.back().extent * a.extent, a.stride};
    else
      result.push_back(a);
  }
  return result;
}
int64_t count(const std::vector<Axis>& axes) {
  int64_t n = 1;
  for (const Axis& a : axes) n *= a.extent;
  return n;
}
Axes numbered(const std::vector<Axis>& axes) {
  if (axes.size() > kAxes)
    throw std::invalid_argument("a reduction on CUDA supports at most " + std::to_string(kAxes) +
                                " axes that cannot be merged, of either kind; make the array contiguous");
  Axes r;
  for (size_t i = axes.size(); i-- > 1; ++r.others) {
    r.extent[r.others] = Divisor(uint32_t(axes[i].extent > 0 ? axes[i].extent : 1));
    r.stride[r.others] = axes[i].stride;
  }
  if (!axes.empty()) r.first_stride = axes[0].stride;
  return r;
}

struct Plan {
  std::vector<Axis> kept, reduced;
  int64_t outputs, length;
  bool rows;
  uint32_t slices;
};
Plan plan_of(const Reduce& problem, bool ordered) {
  Plan p;
  p.kept = merged(problem.kept, problem.kept_strides, false);
  p.reduced = merged(problem.reduced, problem.reduced_strides, !ordered);
  p.outputs = count(p.kept);
  p.length = count(p.reduced);
  if (p.outputs >= int64_t(1) << 31 || p.length >= int64_t(1) << 31)
    throw std::invalid_argument("a reduction on CUDA is limited to 2^31 elements, of either kind");
  const int64_t inner = p.reduced.empty() ? 0 : std::abs(p.reduced.back().stride);
  p.rows = p.kept.empty() || (!p.reduced.empty() && inner <= std::abs(p.kept.back().stride));
  const int64_t blocks = p.rows ? p.outputs : (p.outputs + kColumns - 1) / kColumns;
  const int64_t wanted = 4 * int64_t(multiprocessors());
  p.slices = 1;
  // A second launch takes as long as some elements more of a thread: a column's are fewer threads' than a row's.
  const int64_t least = p.rows ? 2048 : 512;
  if (blocks > 0 && blocks < wanted / 2 && p.length >= 4 * least)
    p.slices = uint32_t(std::min(wanted / blocks, p.length / least));
  return p;
}

template <class T, class P>
void run(const char* op, const P& policy, const Reduce& problem, bool ordered, void* scratch, Stream stream) {
  using A = typename P::Accumulator;
  const Plan plan = plan_of(problem, ordered);
  if (plan.outputs == 0) return;
  const T* x = static_cast<const T*>(problem.x);
  A* partials = static_cast<A*>(scratch);
  Task t;
  t.kept = numbered(plan.kept);
  t.outputs = uint32_t(plan.outputs);
  t.slices = plan.slices;
  // Packs need aligned rows: every other stride a multiple of the pack.
  constexpr int kWide = kWidest<T>;
  std::vector<Axis> reduced = plan.reduced;
  bool packed = plan.rows && plan.length > 0 && aligned(x, 16) && !reduced.empty() &&
                reduced.back().stride == 1 && reduced.back().extent % kWide == 0;
  for (const Axis& a : plan.kept) packed = packed && a.stride % kWide == 0;
  for (size_t i = 0; packed && i + 1 < reduced.size(); ++i) packed = reduced[i].stride % kWide == 0;
  const int64_t N = packed ? kWide : 1;
  if (packed) reduced.back() = {reduced.back().extent / kWide, kWide};
  t.reduced = numbered(reduced);
  t.packs = uint32_t(plan.length / N);
  t.per_slice = (t.packs + t.slices - 1) / t.slices;

  if (plan.rows) {
    // Lanes for short rows, a block of up to 256 threads for long ones.
    const bool block = t.packs > 256;
    int group = 1;
    while (group < 32 && uint32_t(group) * 2 < t.packs) group *= 2;
    const unsigned grid = block ? grid_for(plan.outputs * t.slices, 1) : grid_for(plan.outputs, 256 / group);
    const auto go = [&](auto kernel) {
      launch(op, kernel, dim3(grid), dim3(256), 0, stream, policy, partials, x, t, group);
    };
    if (packed)
      block ? go(reduce_rows<T, P, kWide, true>) : go(reduce_rows<T, P, kWide, false>);
    else
      block ? go(reduce_rows<T, P, 1, true>) : go(reduce_rows<T, P, 1, false>);
  } else {
    const int64_t items = (plan.outputs + kColumns - 1) / kColumns * t.slices;
    launch(op, reduce_columns<T, P>, dim3(grid_for(items, 1)), dim3(kColumns, kSplit), 0, stream, policy,
           partials, x, t);
  }
  if (t.slices > 1)
    launch(op, reduce_slices<T, P>, dim3(grid_for(plan.outputs, 8)), dim3(256), 0, stream, policy,
           static_cast<const A*>(partials), x, t);
}

}  // namespace

int64_t reduce_scratch(const Reduce& problem) {
  const Plan plan = plan_of(problem, true);
  return plan.slices == 1 ? 0 : plan.outputs * plan.slices * int64_t(sizeof(Place<double>));
}

void fold(Fold op, Dtype dtype, void* y, bool wide, const Reduce& problem, double scale, double p,
          void* scratch, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const Folded<T> to{wide ? nullptr : static_cast<T*>(y), wide ? static_cast<C*>(y) : nullptr, C(scale)};
    if (op == Fold::norm && p != 1 && p != 2)
      run<T>("fold", PowersOf<T>{to, C(p)}, problem, false, scratch, stream);
    else
      run<T>("fold", FoldOf<T>{op, to, p == 2}, problem, false, scratch, stream);
  });
}

void moments(Dtype dtype, void* var, void* mean, const Reduce& problem, double correction, void* scratch,
             Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    double n = 1;
    for (int64_t extent : problem.reduced) n *= double(extent);
    const Moments<T> policy{static_cast<T*>(var), static_cast<T*>(mean), C(n),
                            C(n > correction ? n - correction : 0)};
    run<T>("moments", policy, problem, false, scratch, stream);
  });
}

void logsumexp(Dtype dtype, void* y, const Reduce& problem, void* scratch, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    run<T>("logsumexp", LogSumExp<T>{static_cast<T*>(y)}, problem, false, scratch, stream);
  });
}

void extreme(bool largest, Dtype dtype, void* values, int64_t* indices, const Reduce& problem, void* scratch,
             Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const Extreme<T> policy{static_cast<T*>(values), indices, largest ? C(1) : C(-1)};
    run<T>("extreme", policy, problem, true, scratch, stream);
  });
}

}  // namespace fastdl::cuda
