// Pooling by windows of 2 and 3 taps an axis in one slice, without dilation: what convolutional networks do.
//
// The general kernels (pool.cu) execute some 290 instructions for an output of a 3x3 window, more than its bytes take
// time. Here what a window touches is known when the kernel is compiled. Forward a thread has kOutputs outputs below
// each other: all their taps are on their way before the first is looked at, a row is folded once for both windows that
// share it, and the places' divisions are those of one output. Backward a thread has 2 x 4 inputs and loads each output
// that may be about them once; which tap of it is which input follows from stride and padding, so that only those pairs
// are compared that can meet. Outputs are looked at in rising order, as in pool.cu: the same bits every time.
// Windows of one row (1-d) take the rows of all planes for one plane. x, y and offsets cross memory once.
#include "cuda/pool_small.h"

#include <algorithm>

#include "cuda/pool_places.h"

namespace fastdl::cuda {

using namespace pool;

namespace {

// Outputs of a thread forward: of long columns where rows are shared or short, as their loads are few.
constexpr int outputs_of(int kH, int kStep) {
  return kH == 1 || kStep == 1 ? 4 : 2;
}

struct Plane {
  Axis h, w;
};

// ---- forward

// What a thread makes of the rows of its windows; a row outside has all its taps outside.
template <class T, class Offset>
struct Maximum {
  using C = Compute<T>;
  struct Best {
    C value;
    int tap;

    __device__ __forceinline__ void take(C v, int t) {  // the first of equals, the last NaN
      if (v > value || v != v) {
        value = v;
        tap = t;
      }
    }
  };
  T* y;
  Offset* offsets;

  static __device__ __forceinline__ C absent() { return -infinity<C>(); }
  // The first tap inside is the maximum where all are -inf.
  static __device__ __forceinline__ Best nothing(int first) { return {absent(), first}; }
  template <int kW>
  static __device__ __forceinline__ Best row(const C (&taps)[kW], int w) {
    Best best = nothing(w < 0 ? -w : 0);
    FASTDL_UNROLL
    for (int j = 0; j < kW; ++j) best.take(taps[j], j);
    return best;
  }
  template <int kH, int kW>
  __device__ __forceinline__ void window(const Best* rows, uint32_t at, const Plane&, int h, int w) const {
    Best best = nothing((h < 0 ? -h : 0) * kW + (w < 0 ? -w : 0));
    FASTDL_UNROLL
    for (int i = 0; i < kH; ++i) best.take(rows[i].value, i * kW + rows[i].tap);
    y[at] = narrow<T>(best.value);
    if (offsets != nullptr) offsets[at] = Offset(best.tap);
  }
};

// What the sum of the window that starts at (h, w) is divided by.
template <int kSize>
__device__ __forceinline__ int count(const Axis& axis, int start, bool include_pad) {
  if (include_pad) return smaller(start + kSize, axis.in + axis.pad) - start;
  return smaller(start + kSize, axis.in) - (start < 0 ? 0 : start);
}
template <class C, int kH, int kW>
__device__ __forceinline__ C covered(const Average& average, const Plane& p, int h, int w) {
  if (average.divisor != 0) return C(average.divisor);
  return C(count<kH>(p.h, h, average.include_pad) * count<kW>(p.w, w, average.include_pad));
}
template <class T>
struct Mean {
  using C = Compute<T>;
  T* y;
  Average average;

  static __device__ __forceinline__ C absent() { return 0; }
  template <int kW>
  static __device__ __forceinline__ C row(const C (&taps)[kW], int) {
    C sum = taps[0];
    FASTDL_UNROLL
    for (int j = 1; j < kW; ++j) sum += taps[j];
    return sum;
  }
  template <int kH, int kW>
  __device__ __forceinline__ void window(const C* rows, uint32_t at, const Plane& p, int h, int w) const {
    C sum = rows[0];
    FASTDL_UNROLL
    for (int i = 1; i < kH; ++i) sum += rows[i];
    y[at] = narrow<T>(quotient(sum, covered<C, kH, kW>(average, p, h, w)));
  }
};

// kStep: the stride between windows that share rows; 0: none are shared.
template <class T, int kH, int kW, int kStep, class Fold>
__device__ __forceinline__ void fold_strips(const T* x, const Plane& p, const Places& strips,
                                            const Fold& fold) {
  constexpr int kOutputs = outputs_of(kH, kStep), kApart = kStep > 0 ? kStep : kH;
  constexpr int kLoaded = (kOutputs - 1) * kApart + kH;
  using C = Compute<T>;
  for_each_place(strips, [&](uint32_t, const Place& at) {
    const int stride = kStep > 0 ? kStep : p.h.stride, oh = at.h * kOutputs;
    const int h = oh * stride - p.h.pad, w = at.w * p.w.stride - p.w.pad;
    C taps[kLoaded][kW];
    FASTDL_UNROLL
    for (int r = 0; r < kLoaded; ++r) {
      const int down = kStep > 0 ? r : r / kH * stride + r % kH;
      const T* row = x + (int64_t(at.plane * p.h.in + h + down) * p.w.in + w);
      FASTDL_UNROLL
      for (int j = 0; j < kW; ++j) {
        const bool inside = uint32_t(h + down) < uint32_t(p.h.in) && uint32_t(w + j) < uint32_t(p.w.in);
        taps[r][j] = inside ? C(widen(row[j])) : Fold::absent();
      }
    }
    decltype(Fold::template row<kW>(taps[0], 0)) rows[kLoaded];
    FASTDL_UNROLL
    for (int r = 0; r < kLoaded; ++r) rows[r] = Fold::template row<kW>(taps[r], w);
    uint32_t to = uint32_t(at.plane * p.h.out + oh) * uint32_t(p.w.out) + uint32_t(at.w);
    FASTDL_UNROLL
    for (int o = 0; o < kOutputs; ++o, to += uint32_t(p.w.out))
      if (oh + o < p.h.out) fold.template window<kH, kW>(rows + o * kApart, to, p, h + o * stride, w);
  });
}

template <class T, int kH, int kW, int kStep>
__global__ void __launch_bounds__(kThreads)
    small_max_forward(T* y, uint8_t* offsets, const T* x, Plane p, Places strips) {
  fold_strips<T, kH, kW, kStep>(x, p, strips, Maximum<T, uint8_t>{y, offsets});
}
template <class T, int kH, int kW, int kStep>
__global__ void __launch_bounds__(kThreads)
    small_avg_forward(T* y, const T* x, Plane p, Places strips, Average average) {
  fold_strips<T, kH, kW, kStep>(x, p, strips, Mean<T>{y, average});
}

// ---- backward

// Of kInputs inputs from a multiple of them on: outputs first .. last, counted from the first input / kStride on, have
// some of them in their windows; one starts at start(o) from the first input.
template <int kSize, int kStride, int kPad, int kInputs>
struct Hits {
  static_assert(kInputs % kStride == 0 && kPad < kSize);
  static constexpr int first = -((kSize - 1 - kPad) / kStride), last = (kInputs - 1 + kPad) / kStride;
  static constexpr int count = last - first + 1;

  static constexpr int start(int o) { return (first + o) * kStride - kPad; }
};

// The taps are those of a window that starts `top` and `left` of a thread's first input.
template <class T, int kH, int kW>
struct MaximumGather {
  using C = Compute<T>;
  struct Loaded {
    C g = 0;
    int tap = -1;
  };
  const T* grad_y;
  const uint8_t* offsets;

  __device__ __forceinline__ Loaded load(const Plane&, int64_t at, int, int) const {
    return {C(widen(grad_y[at])), int(offsets[at])};
  }
  static __device__ __forceinline__ void add(C& sum, const Loaded& from, int kh, int kw) {
    if (from.tap == kh * kW + kw) sum += from.g;
  }
};
template <class T, int kH, int kW>
struct MeanGather {
  using C = Compute<T>;
  using Loaded = C;
  const T* grad_y;
  Average average;

  __device__ __forceinline__ C load(const Plane& p, int64_t at, int h, int w) const {
    return quotient(C(widen(grad_y[at])), covered<C, kH, kW>(average, p, h, w));
  }
  static __device__ __forceinline__ void add(C& sum, C g, int, int) { sum += g; }
};

template <class T, int kH, int kW, int kStride, int kPad, class Gather>
__device__ __forceinline__ void gather_small(T* grad_x, const Plane& p, const Places& blocks, bool packed,
                                             const Gather& gather) {
  using C = Compute<T>;
  constexpr int kDown = kH == 1 ? 1 : kStride;  // windows of one row have each row to themselves
  using Rows = Hits<kH, kDown, kH == 1 ? 0 : kPad, kRows>;
  using Columns = Hits<kW, kStride, kPad, kStrip>;
  [[maybe_unused]] constexpr int kAtOnce =
      kStride > 1 ? Rows::count : 1;  // many outputs for few inputs are long code
  for_each_place(blocks, [&](uint32_t, const Place& at) {
    const int h = at.h * kRows, w = at.w * kStrip;
    const int oh = h / kDown + Rows::first, ow = w / kStride + Columns::first;
    const int64_t from = int64_t(at.plane * p.h.out + oh) * p.w.out + ow;
    Values<C, kStrip> sums[kRows]{};
    FASTDL_UNROLL_BY(kAtOnce)
    for (int i = 0; i < Rows::count; ++i) {
      typename Gather::Loaded loaded[Columns::count];
      FASTDL_UNROLL
      for (int j = 0; j < Columns::count; ++j)
        if (uint32_t(oh + i) < uint32_t(p.h.out) && uint32_t(ow + j) < uint32_t(p.w.out))
          loaded[j] = gather.load(p, from + i * p.w.out + j, h + Rows::start(i), w + Columns::start(j));
        else
          loaded[j] = {};
      FASTDL_UNROLL
      for (int y = 0; y < kRows; ++y) {
        const int kh = y - Rows::start(i);
        if (kh < 0 || kh >= kH) continue;
        FASTDL_UNROLL
        for (int j = 0; j < Columns::count; ++j) FASTDL_UNROLL
        for (int x = 0; x < kStrip; ++x) {
          const int kw = x - Columns::start(j);
          if (kw >= 0 && kw < kW) Gather::add(sums[y].v[x], loaded[j], kh, kw);
        }
      }
    }
    FASTDL_UNROLL
    for (int y = 0; y < kRows; ++y)
      if (h + y < p.h.in)
        store_run<kStrip>(grad_x + int64_t(at.plane * p.h.in + h + y) * p.w.in, w, p.w.in, packed, sums[y]);
  });
}

template <class T, int kH, int kW, int kStride, int kPad>
__global__ void __launch_bounds__(kThreads)
    small_max_backward(T* grad_x, const T* grad_y, const uint8_t* offsets, Plane p, Places blocks,
                       bool packed) {
  gather_small<T, kH, kW, kStride, kPad>(grad_x, p, blocks, packed,
                                         MaximumGather<T, kH, kW>{grad_y, offsets});
}
template <class T, int kH, int kW, int kStride, int kPad>
__global__ void __launch_bounds__(kThreads)
    small_avg_backward(T* grad_x, const T* grad_y, Plane p, Places blocks, bool packed, Average average) {
  gather_small<T, kH, kW, kStride, kPad>(grad_x, p, blocks, packed, MeanGather<T, kH, kW>{grad_y, average});
}

// ---- on the host

// One slice, no dilation, and every window has a place inside.
bool small(const PoolProblem& p) {
  const auto inside = [](const PoolAxis& a) {
    return a.dilation == 1 && a.pad < a.kernel && a.start(a.out - 1) < a.in;
  };
  return one_slice(p) && inside(p.h) && inside(p.w) &&
         p.planes * std::max(p.in_plane(), p.out_plane()) < kLimit;
}
// Rows of all planes are one plane's where windows have one.
PoolProblem merged(PoolProblem p) {
  if (p.h.kernel != 1 || p.h.stride != 1 || p.h.pad != 0) return p;
  p.h.in = p.h.out = p.planes * p.h.in;
  p.planes = 1;
  return p;
}
Plane plane_of(const PoolProblem& p) {
  return {axis_of(p.h), axis_of(p.w)};
}

template <int kH, int kW, int kStep>
struct Window {};
// Calls f with the window and the places of its threads' outputs.
template <class F>
bool by_window(const PoolProblem& p, F&& f) {
  if (!small(p)) return false;
  const auto run = [&]<int kH, int kW, int kStep>(Window<kH, kW, kStep> window) {
    const PoolProblem m = merged(p);
    f(window, plane_of(m), places(m.planes, 1, ceil_div(m.h.out, outputs_of(kH, kStep)), m.w.out));
    return true;
  };
  const auto is = [&](int64_t h, int64_t w) { return p.h.kernel == h && p.w.kernel == w; };
  if (is(1, 2)) return run(Window<1, 2, 0>{});
  if (is(1, 3)) return run(Window<1, 3, 0>{});
  if (is(2, 2)) return run(Window<2, 2, 0>{});
  if (is(3, 3) && p.h.stride == 1) return run(Window<3, 3, 1>{});
  if (is(3, 3) && p.h.stride == 2) return run(Window<3, 3, 2>{});
  if (is(3, 3)) return run(Window<3, 3, 0>{});
  return false;
}

template <int kH, int kW, int kStride, int kPad>
struct Stencil {};
// Calls f with the stencil and the places of its threads' inputs.
template <class F>
bool by_stencil(const PoolProblem& p, F&& f) {
  if (!small(p)) return false;
  const PoolProblem m = merged(p);
  const auto run = [&](auto stencil) {
    f(stencil, plane_of(m), places(m.planes, 1, ceil_div(m.h.in, kRows), ceil_div(m.w.in, kStrip)));
    return true;
  };
  const auto is = [&](int64_t h, int64_t w, int64_t stride, int64_t pad) {
    const bool rows = h == 1 ? p.h.stride == 1 && p.h.pad == 0 : p.h.stride == stride && p.h.pad == pad;
    return p.h.kernel == h && p.w.kernel == w && p.w.stride == stride && p.w.pad == pad && rows;
  };
  if (is(1, 2, 2, 0)) return run(Stencil<1, 2, 2, 0>{});
  if (is(1, 3, 2, 1)) return run(Stencil<1, 3, 2, 1>{});
  if (is(2, 2, 2, 0)) return run(Stencil<2, 2, 2, 0>{});
  if (is(3, 3, 2, 0)) return run(Stencil<3, 3, 2, 0>{});
  if (is(3, 3, 2, 1)) return run(Stencil<3, 3, 2, 1>{});
  if (is(3, 3, 1, 1)) return run(Stencil<3, 3, 1, 1>{});
  return false;
}

}  // namespace

bool small_max_forward(Dtype dtype, void* y, void* offsets, const void* x, const PoolProblem& p,
                       Stream stream) {
  return by_window(p, [&]<int kH, int kW, int kStep>(Window<kH, kW, kStep>, Plane plane, Places strips) {
    by_dtype(dtype, [&]<class T>(T) {
      launch_over("max_pool", small_max_forward<T, kH, kW, kStep>, strips, stream, static_cast<T*>(y),
                  static_cast<uint8_t*>(offsets), static_cast<const T*>(x), plane, strips);
    });
  });
}

bool small_max_backward(Dtype dtype, void* grad_x, const void* grad_y, const void* offsets,
                        const PoolProblem& p, Stream stream) {
  return by_stencil(p, [&]<int... k>(Stencil<k...>, Plane plane, Places blocks) {
    by_dtype(dtype, [&]<class T>(T) {
      launch_over("max_pool_backward", small_max_backward<T, k...>, blocks, stream, static_cast<T*>(grad_x),
                  static_cast<const T*>(grad_y), static_cast<const uint8_t*>(offsets), plane, blocks,
                  strips_packed<T>(grad_x, p));
    });
  });
}

bool small_avg_forward(Dtype dtype, void* y, const void* x, const PoolProblem& p, bool include_pad,
                       int64_t divisor, Stream stream) {
  return by_window(p, [&]<int kH, int kW, int kStep>(Window<kH, kW, kStep>, Plane plane, Places strips) {
    by_dtype(dtype, [&]<class T>(T) {
      launch_over("avg_pool", small_avg_forward<T, kH, kW, kStep>, strips, stream, static_cast<T*>(y),
                  static_cast<const T*>(x), plane, strips, Average{include_pad, divisor});
    });
  });
}

bool small_avg_backward(Dtype dtype, void* grad_x, const void* grad_y, const PoolProblem& p, bool include_pad,
                        int64_t divisor, Stream stream) {
  return by_stencil(p, [&]<int... k>(Stencil<k...>, Plane plane, Places blocks) {
    by_dtype(dtype, [&]<class T>(T) {
      launch_over("avg_pool_backward", small_avg_backward<T, k...>, blocks, stream, static_cast<T*>(grad_x),
                  static_cast<const T*>(grad_y), plane, blocks, strips_packed<T>(grad_x, p),
                  Average{include_pad, divisor});
    });
  });
}

}  // namespace fastdl::cuda
