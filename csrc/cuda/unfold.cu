// unfold: a thread has a window, finds its place once and copies its taps, or zeros; where windows are few, they are cut
// into ranges of taps. fold: a thread for each element of the image adds up the columns that came from it, in order: no
// atomics. Columns cross memory once; an image is read from the caches once for each tap.
#include "cuda/unfold.h"

#include <algorithm>

#include "cuda/pool_places.h"

namespace fastdl::cuda {

using namespace pool;

namespace {

template <class T>
__global__ void __launch_bounds__(kThreads)
    unfold_kernel(T* columns, const T* x, Pool p, Places windows, int taps, int block_taps) {
  const uint32_t outputs = windows.d.divisor * windows.h.divisor * windows.w.divisor;
  const int first = int(blockIdx.y) * block_taps, end = smaller(first + block_taps, taps);
  const int first_row = int(p.w.by_kernel.quotient(uint32_t(first))),
            first_slice = int(p.h.by_kernel.quotient(uint32_t(first_row)));
  for_each_place(windows, [&](uint32_t i, const Place& o) {
    const int d0 = p.d.start(o.d), h0 = p.h.start(o.h), w0 = p.w.start(o.w);
    T* to = columns + (int64_t(o.plane) * taps + first) * outputs + (i - uint32_t(o.plane) * outputs);
    int kd = first_slice, kh = first_row - first_slice * p.h.kernel, kw = first - first_row * p.w.kernel;
    FASTDL_UNROLL_BY(4)
    for (int tap = first; tap < end; ++tap, to += outputs) {
      const int d = d0 + kd * p.d.dilation, h = h0 + kh * p.h.dilation, w = w0 + kw * p.w.dilation;
      const bool inside =
          uint32_t(d) < uint32_t(p.d.in) && uint32_t(h) < uint32_t(p.h.in) && uint32_t(w) < uint32_t(p.w.in);
      *to = inside ? x[p.in_row(o.plane, d, h) * uint32_t(p.w.in) + uint32_t(w)] : T(0.0f);
      if (++kw == p.w.kernel) {
        kw = 0;
        if (++kh == p.h.kernel) kh = 0, ++kd;
      }
    }
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    fold_kernel(T* x, const T* columns, Pool p, Places inputs, int taps) {
  using C = Compute<T>;
  const int64_t outputs = int64_t(p.d.out) * p.h.out * p.w.out;
  for_each_place(inputs, [&](uint32_t i, const Place& at) {
    const T* from = columns + int64_t(at.plane) * taps * outputs;
    C sum = 0;
    p.d.for_each_hit(at.d, [&](int od, int kd) {
      p.h.for_each_hit(at.h, [&](int oh, int kh) {
        const T* row =
            from + (kd * p.h.kernel + kh) * p.w.kernel * outputs + int64_t(od * p.h.out + oh) * p.w.out;
        p.w.for_each_hit(at.w, [&](int ow, int kw) { sum += C(widen(row[kw * outputs + ow])); });
      });
    });
    x[i] = narrow<T>(sum);
  });
}

}  // namespace

void unfold(Dtype dtype, void* columns, const void* x, const PoolProblem& p, Stream stream) {
  const Places windows = outputs_of(p);
  if (windows.count == 0 || p.taps() == 0) return;
  const Pool pool = pool_of(p);
  const int64_t wanted = ceil_div(int64_t(multiprocessors()) * 2048, windows.count);
  const int64_t block_taps =
      ceil_div(p.taps(), std::clamp<int64_t>(wanted, 1, std::min<int64_t>(p.taps(), 65535)));
  const dim3 grid(grid_for(windows.count, kThreads, 64), unsigned(ceil_div(p.taps(), block_taps)));
  by_dtype(dtype, [&]<class T>(T) {
    launch("unfold", unfold_kernel<T>, grid, dim3(kThreads), 0, stream, static_cast<T*>(columns),
           static_cast<const T*>(x), pool, windows, int(p.taps()), int(block_taps));
  });
}

void fold(Dtype dtype, void* x, const void* columns, const PoolProblem& p, Stream stream) {
  const Places inputs = inputs_of(p);
  if (inputs.count == 0) return;
  const Pool pool = pool_of(p);
  by_dtype(dtype, [&]<class T>(T) {
    launch_over("fold", fold_kernel<T>, inputs, stream, static_cast<T*>(x), static_cast<const T*>(columns),
                pool, inputs, int(p.taps()));
  });
}

}  // namespace fastdl::cuda
