// Loads of some lanes of a vector, zeros elsewhere, and stores where hardware has quick ones (AVX-512).
// Memory of other lanes is not touched, so the vector may begin before the array or end behind it. Lanes
// [from, to), which may lie outside 0..kWidth, or any set, as bits.
#pragma once

#include <algorithm>

#include "cpu/simd/simd.h"

namespace fastdl {

template <class T>
class Lanes {
 public:
  static constexpr int w = simd::kWidth<T>;
  Lanes() = default;
#if defined(__AVX512F__) || !defined(__AVX2__)
  [[gnu::always_inline]] Lanes(int64_t from, int64_t to)
      : Lanes(((1u << std::clamp<int64_t>(to, 0, w)) - 1) & ~((1u << std::clamp<int64_t>(from, 0, w)) - 1)) {}
#endif
#if defined(__AVX512F__)
  [[gnu::always_inline]] explicit Lanes(unsigned bits) : mask_(bits) {}
  [[gnu::always_inline]] simd::Vec<T> load(const T* p) const {
    if constexpr (sizeof(T) == 4)
      return (simd::Vec<T>)_mm512_maskz_loadu_ps(__mmask16(mask_), p);
    else
      return (simd::Vec<T>)_mm512_maskz_loadu_pd(__mmask8(mask_), p);
  }
  [[gnu::always_inline]] void store(T* p, simd::Vec<T> v) const {
    if constexpr (sizeof(T) == 4)
      _mm512_mask_storeu_ps(p, __mmask16(mask_), (__m512)v);
    else
      _mm512_mask_storeu_pd(p, __mmask8(mask_), (__m512d)v);
  }

 private:
  unsigned mask_ = 0;
#elif defined(__AVX2__)
  [[gnu::always_inline]] Lanes(int64_t from, int64_t to) {
    using I = simd::Int<T>;
    simd::Vec<I> lane;
    for (int i = 0; i < w; ++i) lane[i] = I(i);
    mask_ = (lane >= I(std::clamp<int64_t>(from, 0, w))) & (lane < I(std::clamp<int64_t>(to, 0, w)));
  }
  [[gnu::always_inline]] explicit Lanes(unsigned bits) {
    for (int i = 0; i < w; ++i) mask_[i] = -simd::Int<T>(bits >> i & 1);
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
  explicit Lanes(unsigned bits) : bits_(bits) {}
  simd::Vec<T> load(const T* p) const {
    if (bits_ == (1u << w) - 1) return simd::load(p);
    simd::Vec<T> v{};
    for (int i = 0; i < w; ++i)
      if (bits_ >> i & 1) v[i] = p[i];
    return v;
  }

 private:
  unsigned bits_ = 0;
#endif
};

}  // namespace fastdl
