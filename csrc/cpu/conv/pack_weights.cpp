// Weights in panels for the direct algorithms (direct.h).
#include "cpu/conv/direct.h"
#include "cpu/gemm/pack.h"

namespace fastdl {
namespace {

using namespace simd;

// to[step * width + i] = from[i * stride + step] for i < count: blocks of vectors are transposed.
template <class T>
void transpose_steps(T* to, int64_t width, const T* from, int64_t stride, int64_t count, int64_t steps) {
  constexpr int w = kWidth<T>;
  for (int64_t i0 = 0; i0 < count; i0 += w) {
    const int lanes = int(std::min<int64_t>(w, count - i0));
    for (int64_t s = 0; s < steps; s += w) {
      const int n = int(std::min<int64_t>(w, steps - s));
      Vec<T> x[w];
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i) x[i] = load_n(from + std::min(i0 + i, count - 1) * stride + s, n);
      tile::transpose<T>(x);
      alignas(64) T rows[w * w];
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i) store<T>(rows + i * w, x[i]);
      for (int i = 0; i < n; ++i) store_n(to + (s + i) * width + i0, load(rows + i * w), lanes);
    }
  }
}

}  // namespace

template <class T>
void pack_weights(T* out, const Weights<T>& w, int64_t depth, int64_t rows, int64_t width) {
  // Input channels lie next to each other in a forward pass: one run of steps.
  const bool whole = w.depth_stride == w.taps;
  const int64_t runs = whole ? 1 : depth, steps = depth * w.taps / runs;
  parallel_for(ceil_div(rows, width), std::max<int64_t>(1, 32768 / (depth * w.taps * width)),
               [&](int64_t begin, int64_t end) {
                 const int64_t last = (end - 1) * width, panel_size = width * depth * w.taps;
                 if (rows - last < width) std::fill_n(out + (end - 1) * panel_size, panel_size, T(0));
                 // A run of all panels lies together in memory: it is read from end to end.
                 for (int64_t c = 0; c < runs; ++c)
                   for (int64_t panel = begin; panel < end; ++panel)
                     transpose_steps(out + panel * panel_size + c * steps * width, width,
                                     w.data + panel * width * w.row_stride + c * w.depth_stride, w.row_stride,
                                     std::min(width, rows - panel * width), steps);
               });
}

template void pack_weights<float>(float*, const Weights<float>&, int64_t, int64_t, int64_t);
template void pack_weights<double>(double*, const Weights<double>&, int64_t, int64_t, int64_t);

}  // namespace fastdl
