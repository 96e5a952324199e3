// Batch normalisation by given statistics of numbers stored in half precision: one pass, converted in
// registers. y = (x - mean) * a + bias with a = weight / sqrt(var + eps), one of each per channel; planes of
// a few numbers go as rows of all channels, with the constants spread out beside them.
//
// Work: planes or rows over threads. Passes: one read and one write, two bytes a number.
#include <cmath>
#include <cstring>

#include "cpu/half.h"
#include "cpu/norm/norm.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/half.h"

namespace fastdl {
namespace {

using namespace simd;
constexpr int w = kWidth<float>;

// n numbers: f(i, x) for vectors of them, the last one through a copy.
template <class Format, class F>
[[gnu::always_inline]] inline void map_stored(uint16_t* y, const uint16_t* x, int64_t n, F&& f) {
  int64_t i = 0;
  if constexpr (requires(Vec<float> v) { Format::store(y, v, v); })
    for (; i + 2 * w <= n; i += 2 * w) {
      prefetch_ahead(x + i);
      Format::store(y + i, f(i, Format::load(x + i)), f(i + w, Format::load(x + i + w)));
    }
  for (; i + w <= n; i += w) Format::store(y + i, f(i, Format::load(x + i)));
  if (i == n) return;
  uint16_t last[w] = {};
  std::memcpy(last, x + i, size_t(n - i) * sizeof(uint16_t));
  Format::store(last, f(i, Format::load(last)));
  std::memcpy(y + i, last, size_t(n - i) * sizeof(uint16_t));
}

template <class Format>
void inference(uint16_t* y, const uint16_t* x, const double* mean, const double* var, const float* weight,
               const float* bias, const BatchNormProblem& p) {
  constexpr int64_t kSmallPlane = 4 * w, kGrain = 16384;
  const bool by_planes = p.inner >= kSmallPlane;
  const int64_t repeats = by_planes ? 1 : p.inner, m = p.channels * repeats;
  memory::Buffer<float> constants(size_t(3 * (m + w)));  // room for the last vector
  float *center = constants, *a = center + m + w, *b = a + m + w;
  for (int64_t i = 0; i < m + w; ++i) {
    const int64_t c = std::min(i / repeats, p.channels - 1);
    center[i] = float(mean[c]);
    a[i] = float((weight ? double(weight[c]) : 1.0) / std::sqrt(var[c] + p.eps));
    b[i] = bias ? bias[c] : 0.0f;
  }
  const int64_t rows = by_planes ? p.batch * p.channels : p.batch, length = by_planes ? p.inner : m;
  parallel_for(rows, std::max<int64_t>(1, kGrain / length), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      uint16_t* to = y + r * length;
      const uint16_t* from = x + r * length;
      if (by_planes) {
        const int64_t c = r % p.channels;
        const Vec<float> mid = broadcast(center[c]), scale = broadcast(a[c]), shift = broadcast(b[c]);
        map_stored<Format>(to, from, length,
                           [&](int64_t, Vec<float> v) { return (v - mid) * scale + shift; });
      } else {
        map_stored<Format>(to, from, length, [&](int64_t i, Vec<float> v) {
          return (v - load(center + i)) * load(a + i) + load(b + i);
        });
      }
    }
  });
}

}  // namespace

void batch_norm_inference_stored(Half half, uint16_t* y, const uint16_t* x, const double* mean,
                                 const double* var, const float* weight, const float* bias,
                                 const BatchNormProblem& p) {
  (half == Half::float16 ? inference<Float16> : inference<BFloat16>)(y, x, mean, var, weight, bias, p);
}

}  // namespace fastdl
