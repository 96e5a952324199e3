// unfold: a thread for each element of the columns copies it, or zero. fold: a thread for each element of the
// image adds up the columns that came from it, in order: no atomics. Columns cross memory once; an image is
// read from the caches once for each tap.
#include "cuda/unfold.h"

#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    unfold_kernel(T* columns, const T* x, PoolProblem p, int64_t rows) {
  // A row of the columns is a tap of a plane; blocks along y share it.
  const int64_t outputs = p.out_plane(), taps = p.taps();
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const int64_t plane = row / taps, tap = row % taps;
    const int64_t kw = tap % p.w.kernel * p.w.dilation, kh = tap / p.w.kernel % p.h.kernel * p.h.dilation,
                  kd = tap / p.w.kernel / p.h.kernel * p.d.dilation;
    const T* from = x + plane * p.in_plane();
    for (uint32_t o = blockIdx.x * kThreads + threadIdx.x; o < outputs; o += gridDim.x * kThreads) {
      const uint32_t width = uint32_t(p.w.out), height = uint32_t(p.h.out), line = o / width;
      const int64_t w = p.w.start(o - line * width) + kw, h = p.h.start(line % height) + kh,
                    d = p.d.start(line / height) + kd;
      const bool inside = w >= 0 && w < p.w.in && h >= 0 && h < p.h.in && d >= 0 && d < p.d.in;
      columns[row * outputs + o] = inside ? from[(d * p.h.in + h) * p.w.in + w] : T(0.0f);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    fold_kernel(T* x, const T* columns, PoolProblem p, int64_t items) {
  using C = Compute<T>;
  const int64_t outputs = p.out_plane(), taps = p.taps();
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < items;
       i += int64_t(gridDim.x) * kThreads) {
    const int64_t w = i % p.w.in, q = i / p.w.in, h = q % p.h.in, r = q / p.h.in, d = r % p.d.in;
    const T* from = columns + r / p.d.in * taps * outputs;
    C sum = 0;
    p.d.for_each_hit(d, [&](int64_t od, int64_t kd) {
      p.h.for_each_hit(h, [&](int64_t oh, int64_t kh) {
        p.w.for_each_hit(w, [&](int64_t ow, int64_t kw) {
          const int64_t tap = (kd * p.h.kernel + kh) * p.w.kernel + kw;
          sum += C(widen(from[tap * outputs + (od * p.h.out + oh) * p.w.out + ow]));
        });
      });
    });
    x[i] = narrow<T>(sum);
  }
}

}  // namespace

void unfold(Dtype dtype, void* columns, const void* x, const PoolProblem& p, Stream stream) {
  const int64_t rows = p.planes * p.taps(), outputs = p.out_plane();
  if (rows * outputs == 0) return;
  if (outputs >= int64_t(1) << 31) throw std::invalid_argument("unfold on CUDA: more than 2^31 windows");
  const dim3 grid(unsigned((outputs + kThreads - 1) / kThreads), unsigned(rows < 65535 ? rows : 65535));
  by_dtype(dtype, [&]<class T>(T) {
    launch("unfold", unfold_kernel<T>, grid, dim3(kThreads), 0, stream, static_cast<T*>(columns),
           static_cast<const T*>(x), p, rows);
  });
}

void fold(Dtype dtype, void* x, const void* columns, const PoolProblem& p, Stream stream) {
  const int64_t items = p.planes * p.in_plane();
  if (items == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch("fold", fold_kernel<T>, dim3(grid_for(items, kThreads)), dim3(kThreads), 0, stream,
           static_cast<T*>(x), static_cast<const T*>(columns), p, items);
  });
}

}  // namespace fastdl::cuda
