// Loads that stop at the ends of a row: lanes [from, to) of a vector, zeros elsewhere. Memory of other lanes
// is not touched, so the vector may begin before the array. `from` and `to` may lie outside 0..kWidth.
#pragma once

#include <algorithm>

#include "cpu/simd/simd.h"

namespace fastdl {

template <class T>
class Lanes {
 public:
  static constexpr int w = simd::kWidth<T>;
#if defined(__AVX512F__)
  Lanes() = default;
  [[gnu::always_inline]] Lanes(int64_t from, int64_t to)
      : mask_(((1u << std::clamp<int64_t>(to, 0, w)) - 1) & ~((1u << std::clamp<int64_t>(from, 0, w)) - 1)) {}
  [[gnu::always_inline]] simd::Vec<T> load(const T* p) const {
    if constexpr (sizeof(T) == 4)
      return (simd::Vec<T>)_mm512_maskz_loadu_ps(__mmask16(mask_), p);
    else
      return (simd::Vec<T>)_mm512_maskz_loadu_pd(__mmask8(mask_), p);
  }

 private:
  unsigned mask_ = 0;
#elif defined(__AVX2__)
  Lanes() = default;
  [[gnu::always_inline]] Lanes(int64_t from, int64_t to) {
    using I = simd::Int<T>;
    const I low = I(std::clamp<int64_t>(from, 0, w)), high = I(std::clamp<int64_t>(to, 0, w));
    for (int i = 0; i < w; ++i) mask_[i] = -I(i >= low && i < high);
  }
  [[gnu::always_inline]] simd::Vec<T> load(const T* p) const {
    if constexpr (sizeof(T) == 4)
      return (simd::Vec<T>)_mm256_maskload_ps(p, (__m256i)mask_);
    else
      return (simd::Vec<T>)_mm256_maskload_pd(p, (__m256i)mask_);
  }

 private:
  simd::Vec<simd::Int<T> > mask_{};
#else
  Lanes() = default;
  Lanes(int64_t from, int64_t to)
      : from_(int(std::clamp<int64_t>(from, 0, w))), to_(int(std::clamp<int64_t>(to, 0, w))) {}
  [[gnu::always_inline]] simd::Vec<T> load(const T* p) const {
    if (from_ == 0 && to_ == w) return simd::load(p);
    simd::Vec<T> v{};
    for (int i = from_; i < to_; ++i) v[i] = p[i];
    return v;
  }

 private:
  int from_ = 0, to_ = 0;
#endif
};

}  // namespace fastdl
