// PReLU, an activation with a slope per channel.
//
//   prelu   x (outer, channels, inner), weight (channels): y = x > 0 ? x : weight[c] * x
//           grad_x = x > 0 ? g : weight[c] * g,   grad_weight[c] = sum of g * x over x <= 0 of the channel
//
// Saved: x. Work: rows of `inner` elements, cut into pieces, over threads; with inner = 1 (x is a matrix)
// rows of channels instead. Passes: one read, one write forward; two reads, one write backward. The weight
// gradient is kept as one float64 partial sum per piece and added up in a fixed order: the result depends on
// no thread count.
#include <algorithm>

#include "cpu/activation/activation.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/for_vectors.h"
#include "cpu/simd/math.h"

namespace fastdl {
namespace {

using namespace simd;

constexpr int64_t kGrain = 16384;  // elements worth about 10 us
constexpr int64_t kPiece = 8192;   // a row is cut into pieces of so many elements

// f(row, piece, begin, end) for the pieces of every row: row * inner + [begin, end).
template <class F>
void for_pieces(int64_t rows, int64_t inner, F&& f) {
  const int64_t pieces = ceil_div(inner, kPiece);
  const int64_t length = std::max<int64_t>(1, std::min(inner, kPiece));
  parallel_for(rows * pieces, std::max<int64_t>(1, kGrain / length), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = i / pieces, piece = i % pieces;
      f(row, piece, piece * kPiece, std::min(inner, (piece + 1) * kPiece));
    }
  });
}

}  // namespace

template <class T>
void prelu_forward(T* y, const T* x, const T* weight, int64_t outer, int64_t channels, int64_t inner) {
  if (inner == 1 && channels > 1) {
    parallel_for(outer, std::max<int64_t>(1, kGrain / channels), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        for_vectors<T>(channels, [&](int64_t i, auto lanes) {
          const Vec<T> v = get(x + row * channels + i, lanes);
          put(y + row * channels + i, v > T(0) ? v : v * get(weight + i, lanes), lanes);
        });
    });
    return;
  }
  for_pieces(outer * channels, inner, [&](int64_t row, int64_t, int64_t begin, int64_t end) {
    const T slope = weight[row % channels];
    const T* from = x + row * inner + begin;
    T* to = y + row * inner + begin;
    for_vectors<T>(end - begin, [&](int64_t i, auto lanes) {
      const Vec<T> v = get(from + i, lanes);
      put(to + i, v > T(0) ? v : v * slope, lanes);
    });
  });
}

template <class T>
void prelu_backward(T* grad_x, T* grad_weight, const T* grad_y, const T* x, const T* weight, int64_t outer,
                    int64_t channels, int64_t inner) {
  const Vec<T> zero = broadcast<T>(0);
  if (inner == 1 && channels > 1) {
    // Fixed blocks of rows, one row of partial sums each.
    const int64_t block = std::max<int64_t>(1, kPiece / channels), blocks = ceil_div(outer, block);
    memory::Buffer<double> partial(grad_weight ? size_t(blocks * channels) : 0);
    parallel_for(blocks, 1, [&](int64_t first, int64_t last) {
      memory::Buffer<T> sums{size_t(channels)};
      for (int64_t b = first; b < last; ++b) {
        std::fill_n(sums.get(), channels, T(0));
        for (int64_t row = b * block; row < std::min(outer, (b + 1) * block); ++row)
          for_vectors<T>(channels, [&](int64_t i, auto lanes) {
            const Vec<T> v = get(x + row * channels + i, lanes), g = get(grad_y + row * channels + i, lanes);
            if (grad_x) put(grad_x + row * channels + i, v > T(0) ? g : g * get(weight + i, lanes), lanes);
            put(sums + i, get(sums.get() + i, lanes) + (v > T(0) ? zero : g * v), lanes);
          });
        if (grad_weight) std::copy_n(sums.get(), channels, partial + b * channels);
      }
    });
    for (int64_t c = 0; grad_weight && c < channels; ++c) {
      double total = 0;
      for (int64_t b = 0; b < blocks; ++b) total += partial[b * channels + c];
      grad_weight[c] = T(total);
    }
    return;
  }
  const int64_t pieces = ceil_div(inner, kPiece);
  memory::Buffer<double> partial(size_t(outer * channels * pieces));
  for_pieces(outer * channels, inner, [&](int64_t row, int64_t piece, int64_t begin, int64_t end) {
    const T slope = weight[row % channels];
    const int64_t start = row * inner + begin;
    Vec<T> sum = zero;
    for_vectors<T>(end - begin, [&](int64_t i, auto lanes) {
      const Vec<T> v = get(x + start + i, lanes), g = get(grad_y + start + i, lanes);
      if (grad_x) put(grad_x + start + i, v > T(0) ? g : g * slope, lanes);
      sum += v > T(0) ? zero : g * v;
    });
    partial[row * pieces + piece] = double(reduce_add<T>(sum));
  });
  for (int64_t c = 0; grad_weight && c < channels; ++c) {
    double total = 0;
    for (int64_t n = 0; n < outer; ++n)
      for (int64_t p = 0; p < pieces; ++p) total += partial[(n * channels + c) * pieces + p];
    grad_weight[c] = T(total);
  }
}

template void prelu_forward<float>(float*, const float*, const float*, int64_t, int64_t, int64_t);
template void prelu_forward<double>(double*, const double*, const double*, int64_t, int64_t, int64_t);
template void prelu_backward<float>(float*, float*, const float*, const float*, const float*, int64_t,
                                    int64_t, int64_t);
template void prelu_backward<double>(double*, double*, const double*, const double*, const double*, int64_t,
                                     int64_t, int64_t);

}  // namespace fastdl
