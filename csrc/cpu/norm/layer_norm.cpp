// Layer normalisation of rows of D numbers, and RMS normalisation (mean = 0, var = mean of squares):
//
//   y = h w + b,  h = (x - mean) r,  r = 1 / sqrt(var + eps)             saved: x, mean, var
//   grad_x = r (g w - mean(g w) - h mean(g w h))                         (RMS: without mean(g w))
//   grad_w = sum over rows of g h,  grad_b = sum over rows of g
//
// Work: rows over threads. A row is read several times, but from the L1 cache: one read and one write of
// memory forward, two reads and one write backward. grad_w and grad_b are added up per fixed piece of rows,
// then over pieces in float64: the result does not depend on the number of threads.
#include "cpu/norm/norm.h"
#include "cpu/norm/rows.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/for_vectors.h"
#include "cpu/simd/map_vectors.h"

namespace fastdl {
namespace {

using namespace norm;

template <class T>
double mean_square(const T* x, int64_t n) {
  constexpr int w = kWidth<T>;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    Vec<T> q[2] = {};
    int64_t i = begin;
    for (; i + 2 * w <= end; i += 2 * w)
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        const Vec<T> v = simd::load(x + i + k * w);
        q[k] = v * v + q[k];
      }
    for (; i < end; i += w) {
      const Vec<T> v = end - i >= w ? simd::load(x + i) : simd::load_n(x + i, int(end - i));
      q[0] = v * v + q[0];
    }
    total += double(simd::reduce_add<T>(q[0] + q[1]));
  }
  return total / double(n);
}

// Rows whose columns are summed at once: at the width of a line memory is the limit, and two rows' reads and then two
// rows' writes take a quarter longer than turn by turn.
constexpr int kTogether = simd::kBytes == 64 || simd::kForSize ? 1 : 2;

// h = (x - middle) a + shift
template <class T>
struct RowMap {
  T middle, a, shift;
};

// Over each of R rows that follow each other: sums of g w and of g w h; and to the columns' sums, if there are any,
// the rows' g h and g, which two rows fetch and store half as often.
template <int R, class T>
[[gnu::always_inline]] inline void add_rows(const T* g, const T* x, const T* weight, int64_t length,
                                            const RowMap<T>* rows, T* sum_w, T* sum_b, double (*sums)[2]) {
  Vec<T> s[R] = {}, sh[R] = {};
  simd::for_vectors<T>(length, [&](int64_t i, auto lanes) {
    const Vec<T> w = weight ? simd::get(weight + i, lanes) : simd::broadcast<T>(1);
    Vec<T> gh{}, total{};
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {  // g is 0 in lanes beyond the end
      const Vec<T> gi = simd::get(g + r * length + i, lanes), gw = gi * w;
      const Vec<T> h = (simd::get(x + r * length + i, lanes) - rows[r].middle) * rows[r].a + rows[r].shift;
      s[r] += gw;
      sh[r] = gw * h + sh[r];
      gh = gi * h + gh;
      total += gi;
    }
    if (!sum_w) return;
    simd::put(sum_w + i, gh + simd::get(static_cast<const T*>(sum_w) + i, lanes), lanes);
    simd::put(sum_b + i, total + simd::get(static_cast<const T*>(sum_b) + i, lanes), lanes);
  });
  for (int r = 0; r < R; ++r) {
    sums[r][0] = double(simd::reduce_add<T>(s[r]));
    sums[r][1] = double(simd::reduce_add<T>(sh[r]));
  }
}

// y = g w a + (x - center) b + c
template <class T>
[[gnu::always_inline]] inline void combine_row(T* y, const T* g, const T* x, const T* weight, int64_t length,
                                               T center, T a, T b, T c) {
  const Vec<T> shift = simd::broadcast<T>(c);
  simd::for_vectors<T>(length, [&](int64_t i, auto lanes) {
    Vec<T> gw = simd::get(g + i, lanes);
    if (weight) gw = gw * simd::get(weight + i, lanes);
    simd::put(y + i, gw * a + ((simd::get(x + i, lanes) - center) * b + shift), lanes);
  });
}

}  // namespace

template <class T>
void layer_norm_forward(T* y, double* mean, double* var, const T* x, const T* weight, const T* bias,
                        int64_t rows, int64_t length, double eps) {
  parallel_for(rows, std::max<int64_t>(1, kGrain / length), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* from = x + row * length;
      T* to = y + row * length;
      Moments moments;
      if (mean) {
        moments = row_moments(from, length);
        mean[row] = moments.mean;
        var[row] = moments.m2 / double(length);
      } else {
        var[row] = mean_square(from, length);
      }
      const Center<T> center(moments.mean);
      const double r = 1.0 / std::sqrt(var[row] + eps);
      const T middle = center.high, a = T(r), b = T(-center.rest * r);
      if (!weight && !bias) {
        row_affine(to, from, length, middle, a, b);
        continue;
      }
      const Vec<T> shift = simd::broadcast<T>(b);
      simd::for_vectors<T>(length, [&](int64_t i, auto lanes) {
        Vec<T> v = (simd::get(from + i, lanes) - middle) * a + shift;
        if (weight) v = v * simd::get(weight + i, lanes);
        if (bias) v = v + simd::get(bias + i, lanes);
        simd::put(to + i, v, lanes);
      });
    }
  });
}

template <class T>
void layer_norm_backward(T* grad_x, T* grad_weight, T* grad_bias, const T* grad_y, const T* x,
                         const T* weight, const double* mean, const double* var, int64_t rows, int64_t length,
                         double eps) {
  const bool affine = grad_weight || grad_bias;
  // Rows with one partial result: enough to be worth it, few for many threads to have some, and not so many
  // that their sums lose digits. The same for any number of threads, and with it the same bits.
  // Where no sums are kept, or rows are few and long, a few rows, or one, are enough.
  const int64_t few = affine ? std::clamp<int64_t>(rows / 4, 1, 8) : 1;
  const int64_t most = std::max<int64_t>(16, 65536 / length), least = std::max<int64_t>(few, kGrain / length);
  const int64_t piece = std::min(most, std::max(least, rows / 64)), pieces = ceil_div(rows, piece);
  memory::Buffer<T> partial(size_t(affine ? 2 * pieces * length : 0));
  parallel_for(pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      T* sum_w = partial.get() + 2 * p * length;
      T* sum_b = sum_w + length;
      if (affine) std::fill_n(sum_w, 2 * length, T(0));
      const int64_t end = std::min(rows, (p + 1) * piece);
      for (int64_t row = p * piece, count; row < end; row += count) {
        count = std::min<int64_t>(kTogether, end - row);
        const T *g = grad_y + row * length, *from = x + row * length;
        RowMap<T> maps[kTogether];
        double scale[kTogether], rest[kTogether], sums[kTogether][2];
        for (int64_t r = 0; r < count; ++r) {
          const Center<T> center(mean ? mean[row + r] : 0.0);
          scale[r] = 1.0 / std::sqrt(var[row + r] + eps);
          rest[r] = center.rest;
          maps[r] = {center.high, T(scale[r]), T(-rest[r] * scale[r])};
        }
        T* const sums_w = affine ? sum_w : nullptr;
        if (count == kTogether)
          add_rows<kTogether>(g, from, weight, length, maps, sums_w, sum_b, sums);
        else
          add_rows<1>(g, from, weight, length, maps, sums_w, sum_b, sums);
        for (int64_t r = 0; grad_x && r < count; ++r) {
          const double sum = mean ? sums[r][0] / double(length) : 0.0, sum_h = sums[r][1] / double(length);
          // scale (g w - sum - h sum_h) with h = (x - middle) scale - rest scale
          const T b = T(-scale[r] * scale[r] * sum_h), c = T(scale[r] * (rest[r] * scale[r] * sum_h - sum));
          combine_row(grad_x + (row + r) * length, g + r * length, from + r * length, weight, length,
                      maps[r].middle, maps[r].a, b, c);
        }
      }
    }
  });
  if (!affine) return;
  parallel_for(length, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, 2 * pieces)),
               [&](int64_t begin, int64_t end) {
                 memory::Buffer<double> sums{size_t(2 * (end - begin))};
                 std::fill_n(sums.get(), 2 * (end - begin), 0.0);
                 for (int64_t p = 0; p < pieces; ++p)
                   for (int64_t i = begin; i < end; ++i) {
                     sums.get()[i - begin] += double(partial.get()[2 * p * length + i]);
                     sums.get()[end - begin + i - begin] += double(partial.get()[(2 * p + 1) * length + i]);
                   }
                 for (int64_t i = begin; i < end; ++i) {
                   if (grad_weight) grad_weight[i] = T(sums.get()[i - begin]);
                   if (grad_bias) grad_bias[i] = T(sums.get()[end - begin + i - begin]);
                 }
               });
}

#define FASTDL_INSTANTIATE(T)                                                                               \
  template void layer_norm_forward<T>(T*, double*, double*, const T*, const T*, const T*, int64_t, int64_t, \
                                      double);                                                              \
  template void layer_norm_backward<T>(T*, T*, T*, const T*, const T*, const T*, const double*,             \
                                       const double*, int64_t, int64_t, double);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
