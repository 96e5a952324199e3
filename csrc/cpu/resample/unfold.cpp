// Rearrangements of images: windows as columns (unfold), their sum back into an image (fold), channels as
// pixels.
//
//   unfold          y[plane, (i, j), oh, ow] = x[plane, oh*stride - pad + i*dilation, ow*stride - pad +
//                   j*dilation], 0 outside
//   fold            the transposed: each image row gathers from the columns that contain it, so rows have one
//                   owner each
//   pixel_shuffle   y[plane, h*r + i, w*r + j] = x[plane, (i, j), h, w]
//
// Each is the other's gradient; nothing is saved. Work is split over rows of output. Passes: one read, one
// write.
#include <vector>

#include "cpu/resample/resample.h"
#include "cpu/rows.h"
#include "cpu/simd/copy_row.h"

namespace fastdl {
namespace {

// The outputs whose tap j lies inside the input: [begin, end).
struct Range {
  int64_t begin, end;
  Range(const PoolAxis& a, int64_t j) {
    const int64_t shift = j * a.dilation - a.pad;  // input of output 0
    begin = shift >= 0 ? 0 : std::min(a.out, ceil_div(-shift, a.stride));
    end = a.in <= shift ? begin : std::max(begin, std::min(a.out, ceil_div(a.in - shift, a.stride)));
  }
};

// For every tap of an axis.
std::vector<Range> ranges(const PoolAxis& a) {
  std::vector<Range> all;
  for (int64_t j = 0; j < a.kernel; ++j) all.emplace_back(a, j);
  return all;
}

}  // namespace

template <class T>
void unfold_forward(T* y, const T* x, const PoolProblem& p) {
  const int64_t taps = p.h.kernel * p.w.kernel, rows = p.planes * taps * p.h.out;
  if (rows * p.w.out == 0) return;
  const std::vector<Range> across = ranges(p.w);
  parallel_for(rows, rows_grain(2 * p.w.out), [&](int64_t begin, int64_t end) {
    T* to = y + begin * p.w.out;
    int64_t oh = begin % p.h.out, tap = begin / p.h.out % taps, plane = begin / p.h.out / taps;
    for (int64_t row = begin; row < end; oh = 0, ++tap) {  // a tap's rows
      if (tap == taps) tap = 0, ++plane;
      const int64_t i = tap / p.w.kernel, j = tap - i * p.w.kernel, count = std::min(p.h.out - oh, end - row);
      const Range inside = across[size_t(j)];
      const int64_t n = inside.end - inside.begin;
      const int64_t left = p.w.start(inside.begin) + j * p.w.dilation;  // of the image, where n is not 0
      int64_t h = p.h.start(oh) + i * p.h.dilation;
      for (const int64_t last = row + count; row < last; ++row, h += p.h.stride, to += p.w.out) {
        if (h < 0 || h >= p.h.in || n == 0) {
          fill(to, p.w.out, T(0));
          continue;
        }
        const T* from = x + (plane * p.h.in + h) * p.w.in + left;
        if (inside.begin > 0) fill(to, inside.begin, T(0));
        if (inside.end < p.w.out) fill(to + inside.end, p.w.out - inside.end, T(0));
        if (p.w.stride == 1 || n >= kWidth<T>)
          copy_row(to + inside.begin, from, n, p.w.stride);
        else  // too few for shuffles of vectors
          for (int64_t o = 0; o < n; ++o) to[inside.begin + o] = from[o * p.w.stride];
      }
    }
  });
}

template <class T>
void fold_forward(T* x, const T* y, const PoolProblem& p) {
  const int64_t columns = p.h.kernel * p.w.kernel, rows = p.planes * p.h.in;
  if (rows * p.w.in == 0) return;
  const std::vector<Range> across = ranges(p.w);
  parallel_for(rows, rows_grain(p.w.in + p.h.out * p.w.out * columns / std::max<int64_t>(1, p.h.in)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end; ++row) {
                   const int64_t plane = row / p.h.in;
                   T* to_row = x + row * p.w.in;
                   fill(to_row, p.w.in, T(0));
                   p.h.for_each_hit(row % p.h.in, [&](int64_t oh, int64_t i) {
                     for (int64_t j = 0; j < p.w.kernel; ++j) {
                       const Range inside = across[size_t(j)];
                       if (inside.begin >= inside.end) continue;
                       const T* from = y + ((plane * columns + i * p.w.kernel + j) * p.h.out + oh) * p.w.out +
                                       inside.begin;
                       T* to = to_row + p.w.start(inside.begin) + j * p.w.dilation;
                       const int64_t n = inside.end - inside.begin;
                       if (p.w.stride == 1)
                         for (int64_t o = 0; o < n; ++o) to[o] += from[o];
                       else
                         for (int64_t o = 0; o < n; ++o) to[o * p.w.stride] += from[o];
                     }
                   });
                 }
               });
}

template <class T>
void pixel_shuffle_forward(T* y, const T* x, int64_t planes, int64_t r, int64_t h, int64_t w) {
  const int64_t rows = planes * h * r;
  if (rows * w == 0) return;
  parallel_for(rows, rows_grain(2 * w * r), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t plane = row / (h * r), from_row = row / r % h, i = row % r;
      const T* from = x + ((plane * r + i) * r * h + from_row) * w;  // tap j is h*w further on
      T* to = y + row * w * r;
      int64_t k = 0;
      if (r == 2)
        for (; k + kWidth<T> <= w; k += kWidth<T>) {
          const Vec<T> a = load<T>(from + k), b = load<T>(from + h * w + k);
          store<T>(to + 2 * k, zip_low<T>(a, b));
          store<T>(to + 2 * k + kWidth<T>, zip_high<T>(a, b));
        }
      for (int64_t j = 0; j < r; ++j)
        for (int64_t c = k; c < w; ++c) to[c * r + j] = from[j * h * w + c];
    }
  });
}

template <class T>
void pixel_unshuffle_forward(T* y, const T* x, int64_t planes, int64_t r, int64_t h, int64_t w) {
  const int64_t rows = planes * h * r;
  if (rows * w == 0) return;
  parallel_for(rows, rows_grain(2 * w * r), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t plane = row / (h * r), to_row = row / r % h, i = row % r;
      T* to = y + ((plane * r + i) * r * h + to_row) * w;
      const T* from = x + row * w * r;
      int64_t k = 0;
      if (r == 2)
        for (; k + kWidth<T> <= w; k += kWidth<T>) {
          const Vec<T> a = load<T>(from + 2 * k), b = load<T>(from + 2 * k + kWidth<T>);
          store<T>(to + k, even<T>(a, b));
          store<T>(to + h * w + k, odd<T>(a, b));
        }
      for (int64_t j = 0; j < r; ++j)
        for (int64_t c = k; c < w; ++c) to[j * h * w + c] = from[c * r + j];
    }
  });
}

#define FASTDL_INSTANTIATE(T)                                                               \
  template void unfold_forward<T>(T*, const T*, const PoolProblem&);                        \
  template void fold_forward<T>(T*, const T*, const PoolProblem&);                          \
  template void pixel_shuffle_forward<T>(T*, const T*, int64_t, int64_t, int64_t, int64_t); \
  template void pixel_unshuffle_forward<T>(T*, const T*, int64_t, int64_t, int64_t, int64_t);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
