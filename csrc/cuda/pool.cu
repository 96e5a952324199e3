// Pooling: forward a thread has an output, backward a strip of four neighbouring inputs of a row, for which
// it gathers from the windows that cover them, in order: no atomics, the same bits every time. x, y and the
// offsets cross memory once; windows that overlap meet in the caches.
//
// What limits a window of few taps is bytes only if places cost few instructions: coordinates are 32-bit
// within a plane, and divisions (by extents, strides and dilations) are multiplications. Squares of 2
// and 3 taps are unrolled (in volumes, and with dilation: others of one slice are pool_small.cu's), so that all
// their loads are on their way before the first value is compared; a strip loads three outputs at a time and
// decodes its coordinates and rows of outputs once for four inputs, which are written by one access.
#include "cuda/pool.h"

#include <algorithm>

#include "cuda/pool_places.h"
#include "cuda/pool_small.h"
#include "cuda/unpool.h"

namespace fastdl::cuda {

using namespace pool;

namespace {

constexpr int kAhead = 3;  // outputs it loads before it looks at them

// Calls take(value, tap) for the taps of output o, in order: of windows of kH x kW taps in a slice, or any
// (0, 0). Those outside have the value `absent`, or are passed over.
template <int kH, int kW, class T, class F>
__device__ __forceinline__ void for_each_tap(const T* x, const Pool& p, const Place& o, Compute<T> absent,
                                             F&& take) {
  using C = Compute<T>;
  const int d0 = p.d.start(o.d), h0 = p.h.start(o.h), w0 = p.w.start(o.w);
  for (int kd = p.d.first_tap(d0), ed = p.d.end_tap(d0); kd < ed; ++kd) {
    const uint32_t slice = p.in_row(o.plane, d0 + kd * p.d.dilation, 0);
    if constexpr (kH > 0) {
      C values[kH * kW];
      FASTDL_UNROLL
      for (int i = 0; i < kH; ++i) {
        const int h = h0 + i * p.h.dilation;
        const uint32_t row = (slice + uint32_t(h)) * uint32_t(p.w.in);
        FASTDL_UNROLL
        for (int j = 0; j < kW; ++j) {
          const int w = w0 + j * p.w.dilation;
          const bool inside = uint32_t(h) < uint32_t(p.h.in) && uint32_t(w) < uint32_t(p.w.in);
          values[i * kW + j] = inside ? C(widen(x[row + uint32_t(w)])) : absent;
        }
      }
      FASTDL_UNROLL
      for (int t = 0; t < kH * kW; ++t) take(values[t], kd * (kH * kW) + t);
    } else {
      const int first = p.w.first_tap(w0), end = p.w.end_tap(w0);
      for (int kh = p.h.first_tap(h0), eh = p.h.end_tap(h0); kh < eh; ++kh) {
        const uint32_t row = (slice + uint32_t(h0 + kh * p.h.dilation)) * uint32_t(p.w.in) + uint32_t(w0);
        const int tap = (kd * p.h.kernel + kh) * p.w.kernel;
        for (int kw = first; kw < end; ++kw) take(C(widen(x[row + uint32_t(kw * p.w.dilation)])), tap + kw);
      }
    }
  }
}

// The first tap of output o that is inside, 0 if none is.
__device__ __forceinline__ int first_inside(const Pool& p, const Place& o) {
  const auto first = [](const Axis& a, int at, bool& any) {
    const int start = a.start(at), tap = a.first_tap(start);
    any = any && tap < a.end_tap(start);
    return tap;
  };
  bool any = true;
  const int kd = first(p.d, o.d, any), kh = first(p.h, o.h, any), kw = first(p.w, o.w, any);
  return any ? (kd * p.h.kernel + kh) * p.w.kernel + kw : 0;
}

template <class T, class Offset, int kH, int kW>
__global__ void __launch_bounds__(kThreads)
    max_forward(T* y, Offset* offsets, const T* x, Pool p, Places outputs) {
  using C = Compute<T>;
  for_each_place(outputs, [&](uint32_t i, const Place& o) {
    C best = -infinity<C>();
    int tap = -1;
    for_each_tap<kH, kW>(x, p, o, best, [&](C v, int t) {
      if (v > best || v != v) {  // the first of equals, the last NaN
        best = v;
        tap = t;
      }
    });
    if (tap < 0) tap = first_inside(p, o);  // -inf everywhere
    y[i] = narrow<T>(best);
    if (offsets != nullptr) offsets[i] = Offset(tap);
  });
}

template <class Offset>
__global__ void __launch_bounds__(kThreads)
    max_indices(int64_t* indices, const Offset* offsets, Pool p, Places outputs) {
  for_each_place(outputs, [&](uint32_t i, const Place& o) {
    const int tap = int(offsets[i]), row = tap / p.w.kernel, kw = tap - row * p.w.kernel,
              kd = row / p.h.kernel, kh = row - kd * p.h.kernel;
    const int d = p.d.start(o.d) + kd * p.d.dilation, h = p.h.start(o.h) + kh * p.h.dilation,
              w = p.w.start(o.w) + kw * p.w.dilation;
    indices[i] = (d * p.h.in + h) * p.w.in + w;
  });
}

// What output (d, h, w) is divided by.
template <class C>
__device__ __forceinline__ C covered(const Average& average, const Pool& p, int d, int h, int w) {
  if (average.divisor != 0) return C(average.divisor);
  const bool pad = average.include_pad;
  return C(p.d.count(p.d.start(d), pad) * p.h.count(p.h.start(h), pad) * p.w.count(p.w.start(w), pad));
}

template <class T, int kH, int kW>
__global__ void __launch_bounds__(kThreads)
    avg_forward(T* y, const T* x, Pool p, Places outputs, Average average) {
  using C = Compute<T>;
  for_each_place(outputs, [&](uint32_t i, const Place& o) {
    C sum = 0;
    for_each_tap<kH, kW>(x, p, o, C(0), [&](C v, int) { sum += v; });
    y[i] = narrow<T>(sum / covered<C>(average, p, o.d, o.h, o.w));
  });
}

// Of each strip of inputs all outputs that may cover some of it, in rising order: Gather loads what an output
// has to say (`load`), and adds it to the inputs that it is about (`add`).
template <class T, class Gather>
__device__ __forceinline__ void gather_strips(T* grad_x, const Pool& p, const Places& strips, bool packed,
                                              const Gather& gather) {
  using C = Compute<T>;
  for_each_place(strips, [&](uint32_t, const Place& at) {
    const int w = at.w * kStrip, begin = p.w.first_hit(w);
    const int end = p.w.last_hit(smaller(w + kStrip, p.w.in) - 1) + 1;
    Values<C, kStrip> sums{};
    p.d.for_each_hit(at.d, [&](int od, int kd) {
      p.h.for_each_hit(at.h, [&](int oh, int kh) {
        const uint32_t row = p.out_row(at.plane, od, oh) * uint32_t(p.w.out);
        for (int ow = begin; ow < end; ow += kAhead) {
          typename Gather::Loaded loaded[kAhead];
          FASTDL_UNROLL
          for (int k = 0; k < kAhead; ++k)
            if (ow + k < end) loaded[k] = gather.load(row + uint32_t(ow + k));
          FASTDL_UNROLL
          for (int k = 0; k < kAhead; ++k)
            if (ow + k < end)
              gather.add(sums, p, loaded[k], od, oh, ow + k, (kd * p.h.kernel + kh) * p.w.kernel,
                         p.w.start(ow + k) - w);
        }
      });
    });
    T* to = grad_x + int64_t(p.in_row(at.plane, at.d, at.h) * uint32_t(p.w.in));
    store_run<kStrip>(to, int64_t(w), int64_t(p.w.in), packed, sums);
  });
}

// The same of one slice without dilation: a thread has kRows rows of a strip, so that an output is looked at once
// for all inputs that it may be about (`share`).
template <class C>
using Block = Values<C, kStrip>[kRows];
template <class T, class Gather>
__device__ __forceinline__ void gather_blocks(T* grad_x, const Pool& p, const Places& blocks, bool packed,
                                              const Gather& gather) {
  using C = Compute<T>;
  for_each_place(blocks, [&](uint32_t, const Place& at) {
    const int w = at.w * kStrip, h = at.h * kRows;
    const int begin = p.w.first_hit(w), end = p.w.last_hit(smaller(w + kStrip, p.w.in) - 1) + 1;
    const int last = p.h.last_hit(smaller(h + kRows, p.h.in) - 1);
    Block<C> sums{};
    for (int oh = p.h.first_hit(h); oh <= last; ++oh) {
      const uint32_t row = p.out_row(at.plane, 0, oh) * uint32_t(p.w.out);
      for (int ow = begin; ow < end; ow += kAhead) {
        typename Gather::Loaded loaded[kAhead]{};  // nothing beyond the end
        FASTDL_UNROLL
        for (int k = 0; k < kAhead; ++k)
          if (ow + k < end) loaded[k] = gather.load(row + uint32_t(ow + k));
        FASTDL_UNROLL
        for (int k = 0; k < kAhead; ++k)
          gather.share(sums, p, loaded[k], oh, ow + k, p.h.start(oh) - h, p.w.start(ow + k) - w);
      }
    }
    FASTDL_UNROLL
    for (int i = 0; i < kRows; ++i)
      if (h + i < p.h.in)
        store_run<kStrip>(grad_x + int64_t(p.in_row(at.plane, 0, h + i) * uint32_t(p.w.in)), int64_t(w),
                          int64_t(p.w.in), packed, sums[i]);
  });
}

template <class T, class Offset>
struct MaxGather {
  using C = Compute<T>;
  struct Loaded {
    C g;
    int tap;
  };
  const T* grad_y;
  const Offset* offsets;

  __device__ __forceinline__ Loaded load(uint32_t o) const { return {C(widen(grad_y[o])), int(offsets[o])}; }
  // first_tap: of the row that the strip is in; start: of the window, from the strip's first input on
  __device__ __forceinline__ void add(Values<C, kStrip>& sums, const Pool& p, const Loaded& from, int, int,
                                      int, int first_tap, int start) const {
    const int kw = from.tap - first_tap;
    if (uint32_t(kw) >= uint32_t(p.w.kernel)) return;
    FASTDL_UNROLL
    for (int k = 0; k < kStrip; ++k) sums.v[k] += start + kw * p.w.dilation == k ? from.g : C(0);
  }
  // top, left: of the window, from the block's first input on
  __device__ __forceinline__ void share(Block<C>& sums, const Pool& p, const Loaded& from, int, int, int top,
                                        int left) const {
    const int kh = int(p.w.by_kernel.quotient(uint32_t(from.tap)));
    const int y = top + kh, x = left + from.tap - kh * p.w.kernel;
    const int place = uint32_t(y) < kRows && uint32_t(x) < kStrip ? y * kStrip + x : -1;
    FASTDL_UNROLL
    for (int i = 0; i < kRows * kStrip; ++i)
      if (place == i) sums[i / kStrip].v[i % kStrip] += from.g;
  }
};
template <class T>
struct AverageGather {
  using C = Compute<T>;
  using Loaded = C;
  const T* grad_y;
  Average average;

  __device__ __forceinline__ C load(uint32_t o) const { return C(widen(grad_y[o])); }
  __device__ __forceinline__ void add(Values<C, kStrip>& sums, const Pool& p, C g, int od, int oh, int ow,
                                      int, int start) const {
    g /= covered<C>(average, p, od, oh, ow);
    FASTDL_UNROLL
    for (int k = 0; k < kStrip; ++k)
      if (uint32_t(k - start) < uint32_t(p.w.kernel)) sums.v[k] += g;
  }
  __device__ __forceinline__ void share(Block<C>& sums, const Pool& p, C g, int oh, int ow, int top,
                                        int left) const {
    if (ow >= p.w.out) return;
    g /= covered<C>(average, p, 0, oh, ow);
    FASTDL_UNROLL
    for (int y = 0; y < kRows; ++y) {
      const C row = uint32_t(y - top) < uint32_t(p.h.kernel) ? g : C(0);
      FASTDL_UNROLL
      for (int x = 0; x < kStrip; ++x)
        if (uint32_t(x - left) < uint32_t(p.w.kernel)) sums[y].v[x] += row;
    }
  }
};

template <class T, class Offset>
__global__ void __launch_bounds__(kThreads)
    max_backward(T* grad_x, const T* grad_y, const Offset* offsets, Pool p, Places strips, bool packed) {
  gather_strips(grad_x, p, strips, packed, MaxGather<T, Offset>{grad_y, offsets});
}
template <class T, class Offset>
__global__ void __launch_bounds__(kThreads)
    max_backward_flat(T* grad_x, const T* grad_y, const Offset* offsets, Pool p, Places blocks, bool packed) {
  gather_blocks(grad_x, p, blocks, packed, MaxGather<T, Offset>{grad_y, offsets});
}
template <class T>
__global__ void __launch_bounds__(kThreads)
    avg_backward(T* grad_x, const T* grad_y, Pool p, Places strips, bool packed, Average average) {
  gather_strips(grad_x, p, strips, packed, AverageGather<T>{grad_y, average});
}
template <class T>
__global__ void __launch_bounds__(kThreads)
    avg_backward_flat(T* grad_x, const T* grad_y, Pool p, Places blocks, bool packed, Average average) {
  gather_blocks(grad_x, p, blocks, packed, AverageGather<T>{grad_y, average});
}

// ---- on the host

Places strips_of(const PoolProblem& p, int rows) {
  return places(p.planes, p.d.in, ceil_div(p.h.in, rows), ceil_div(p.w.in, kStrip));
}

// Calls f with the type of offsets.
template <class F>
void by_offset(const PoolProblem& p, F&& f) {
  if (p.taps() <= 256)
    f(uint8_t{});
  else
    f(int32_t{});
}

template <int kH, int kW>
struct Window {};
// Calls f with the window's size within a slice if it is one that is unrolled.
template <class F>
void by_window(const PoolProblem& p, F&& f) {
  const auto is = [&](int64_t h, int64_t w) { return p.h.kernel == h && p.w.kernel == w && p.taps() <= 256; };
  if (is(2, 2)) return f(Window<2, 2>{});
  if (is(3, 3)) return f(Window<3, 3>{});
  f(Window<0, 0>{});
}

// One slice, no dilation (gather_blocks); averages have none.
bool flat(const PoolProblem& p) {
  return one_slice(p) && p.h.dilation == 1 && p.w.dilation == 1;
}

// One window that is the whole plane, and long: a row for groups of lanes (adaptive pooling), where a thread for
// an output would have its loads one behind the other, and planes would leave most of the device idle.
bool whole_planes(const PoolProblem& p) {
  const auto whole = [](const PoolAxis& a) {
    return a.out == 1 && a.kernel == a.in && a.pad == 0 && a.dilation == 1;
  };
  return whole(p.d) && whole(p.h) && whole(p.w) && p.in_plane() >= 16;
}

}  // namespace

void max_pool_forward(Dtype dtype, void* y, void* offsets, const void* x, const PoolProblem& p,
                      Stream stream) {
  if (small_max_forward(dtype, y, offsets, x, p, stream)) return;
  const Places o = outputs_of(p);
  const Pool pool = pool_of(p);
  if (whole_planes(p)) return plane_max_forward(dtype, y, offsets, p.taps() <= 256 ? 1 : 4, x, p, stream);
  by_dtype(dtype, [&]<class T>(T) {
    const auto run = [&]<class Offset, int kH, int kW>(Offset, Window<kH, kW>) {
      launch_over("max_pool", max_forward<T, Offset, kH, kW>, o, stream, static_cast<T*>(y),
                  static_cast<Offset*>(offsets), static_cast<const T*>(x), pool, o);
    };
    if (p.taps() > 256) return run(int32_t{}, Window<0, 0>{});
    by_window(p, [&](auto window) { run(uint8_t{}, window); });
  });
}

void max_pool_backward(Dtype dtype, void* grad_x, const void* grad_y, const void* offsets,
                       const PoolProblem& p, Stream stream) {
  if (small_max_backward(dtype, grad_x, grad_y, offsets, p, stream)) return;
  const Places pieces = strips_of(p, flat(p) ? kRows : 1);
  const Pool pool = pool_of(p);
  by_dtype(dtype, [&]<class T>(T) {
    by_offset(p, [&]<class Offset>(Offset) {
      launch_over("max_pool_backward", flat(p) ? max_backward_flat<T, Offset> : max_backward<T, Offset>,
                  pieces, stream, static_cast<T*>(grad_x), static_cast<const T*>(grad_y),
                  static_cast<const Offset*>(offsets), pool, pieces, strips_packed<T>(grad_x, p));
    });
  });
}

void max_pool_indices(int64_t* indices, const void* offsets, const PoolProblem& p, Stream stream) {
  const Places o = outputs_of(p);
  const Pool pool = pool_of(p);
  by_offset(p, [&]<class Offset>(Offset) {
    launch_over("max_pool_indices", max_indices<Offset>, o, stream, indices,
                static_cast<const Offset*>(offsets), pool, o);
  });
}

void avg_pool_forward(Dtype dtype, void* y, const void* x, const PoolProblem& p, bool include_pad,
                      int64_t divisor, Stream stream) {
  if (divisor == 0 && whole_planes(p)) return adaptive_avg_pool_forward(dtype, y, x, p, stream);
  if (small_avg_forward(dtype, y, x, p, include_pad, divisor, stream)) return;
  const Places o = outputs_of(p);
  const Pool pool = pool_of(p);
  by_dtype(dtype, [&]<class T>(T) {
    by_window(p, [&]<int kH, int kW>(Window<kH, kW>) {
      launch_over("avg_pool", avg_forward<T, kH, kW>, o, stream, static_cast<T*>(y), static_cast<const T*>(x),
                  pool, o, Average{include_pad, divisor});
    });
  });
}

void avg_pool_backward(Dtype dtype, void* grad_x, const void* grad_y, const PoolProblem& p, bool include_pad,
                       int64_t divisor, Stream stream) {
  if (divisor == 0 && whole_planes(p)) return adaptive_avg_pool_backward(dtype, grad_x, grad_y, p, stream);
  if (small_avg_backward(dtype, grad_x, grad_y, p, include_pad, divisor, stream)) return;
  const Places pieces = strips_of(p, flat(p) ? kRows : 1);
  const Pool pool = pool_of(p);
  by_dtype(dtype, [&]<class T>(T) {
    launch_over("avg_pool_backward", flat(p) ? avg_backward_flat<T> : avg_backward<T>, pieces, stream,
                static_cast<T*>(grad_x), static_cast<const T*>(grad_y), pool, pieces,
                strips_packed<T>(grad_x, p), Average{include_pad, divisor});
  });
}

}  // namespace fastdl::cuda
