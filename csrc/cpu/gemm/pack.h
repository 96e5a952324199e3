// Packing: copies `count` <= P lanes and `kc` steps of a strided matrix into a panel, out[k * P + lane].
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "cpu/runtime/memory.h"
#include "cpu/simd/simd.h"

namespace fastdl::tile {

// Working space: on the stack up to N elements, from the pool beyond.
template <class T, int N>
class Scratch {
 public:
  explicit Scratch(int64_t count) : large_(count > N ? size_t(count) : 0) {}
  T* get() { return large_.get() ? large_.get() : small_; }

 private:
  alignas(64) T small_[N];
  memory::Buffer<T> large_;
};

// The lower or upper half of a's and b's lanes in turn, in every group of kGroup lanes by itself.
template <class T, int kGroup = simd::kWidth<T>, int... I>
[[gnu::always_inline]] inline simd::Vec<T> zip_low(simd::Vec<T> a, simd::Vec<T> b,
                                                   std::integer_sequence<int, I...>) {
  constexpr int w = simd::kWidth<T>;
  return __builtin_shufflevector(a, b, (I / kGroup * kGroup + I % kGroup / 2 + ((I & 1) ? w : 0))...);
}
template <class T, int kGroup = simd::kWidth<T>, int... I>
[[gnu::always_inline]] inline simd::Vec<T> zip_high(simd::Vec<T> a, simd::Vec<T> b,
                                                    std::integer_sequence<int, I...>) {
  constexpr int w = simd::kWidth<T>, half = kGroup / 2;
  return __builtin_shufflevector(a, b, (I / kGroup * kGroup + half + I % kGroup / 2 + ((I & 1) ? w : 0))...);
}
// Of two vectors the lower or the upper halves, one after the other.
template <class T, int kLow, int... I>
[[gnu::always_inline]] inline simd::Vec<T> halves(simd::Vec<T> a, simd::Vec<T> b,
                                                  std::integer_sequence<int, I...>) {
  constexpr int w = simd::kWidth<T>;
  return __builtin_shufflevector(a, b, (I < w / 2 ? kLow + I : w / 2 + kLow + I)...);
}

// W x W numbers, rows become columns: log2(W) rounds of interleaving row i with row i + W/2. AVX2 interleaves
// within 128 bits only, so there the halves change places first and are transposed side by side.
template <class T>
[[gnu::always_inline]] inline void transpose(simd::Vec<T> (&x)[simd::kWidth<T>]) {
  constexpr int w = simd::kWidth<T>;
  constexpr auto lanes = std::make_integer_sequence<int, w>{};
  constexpr int group = simd::kBytes == 32 ? w / 2 : w;
  if constexpr (group < w) {
#pragma GCC unroll 4
    for (int i = 0; i < group; ++i) {
      const simd::Vec<T> low = halves<T, 0>(x[i], x[i + group], lanes);
      x[i + group] = halves<T, group>(x[i], x[i + group], lanes);
      x[i] = low;
    }
  }
#pragma GCC unroll 2
  for (int first = 0; first < w; first += group) {
    simd::Vec<T>* const rows = x + first;
#pragma GCC unroll 4
    for (int round = 1; round < group; round *= 2) {
      simd::Vec<T> y[group];
#pragma GCC unroll 8
      for (int i = 0; i < group / 2; ++i) {
        y[2 * i] = zip_low<T, group>(rows[i], rows[i + group / 2], lanes);
        y[2 * i + 1] = zip_high<T, group>(rows[i], rows[i + group / 2], lanes);
      }
#pragma GCC unroll 16
      for (int i = 0; i < group; ++i) rows[i] = y[i];
    }
  }
}

// The last steps of a panel, fewer than a vector has lanes, of `count` lanes with contiguous k.
template <class T, int P>
[[gnu::noinline]] void pack_rest(T* out, const T* src, int64_t lane_stride, int count, int steps) {
  using namespace simd;
  constexpr int w = kWidth<T>;
  for (int lane = 0; lane < count; lane += w) {
    Vec<T> x[w];
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) x[i] = load_n(src + std::min(lane + i, count - 1) * lane_stride, steps);
    transpose<T>(x);
    for (int i = 0; i < steps; ++i) {
      if (lane + w <= P)
        store<T>(out + i * P + lane, x[i]);
      else
        store_n(out + i * P + lane, x[i], P % w);
    }
  }
}

// Lanes lie `lane_stride` apart in src and steps `k_stride`; one of the two is normally 1. Missing lanes of a
// partial panel repeat the last one where that is convenient, or stay unwritten.
template <class T, int P>
void pack_panel(T* out, const T* src, int64_t lane_stride, int64_t k_stride, int count, int64_t kc) {
  using namespace simd;
  constexpr int w = kWidth<T>;
  if (lane_stride == 1) {
    if (count == P) {
      // Rows lie too far apart for the hardware to foresee the next.
      const int64_t ahead = 16 * k_stride;
      for (int64_t k = 0; k < kc; ++k, src += k_stride, out += P) {
        for (int i = 0; i < P; i += 64 / int(sizeof(T))) __builtin_prefetch(src + ahead + i);
        std::memcpy(out, src, P * sizeof(T));
      }
    } else {
      for (int64_t k = 0; k < kc; ++k)
        for (int i = 0; i < count; ++i) out[k * P + i] = src[k * k_stride + i];
    }
    return;
  }
  int64_t k = 0;
  if (k_stride == 1 && count > w / 4) {
    for (; k + w <= kc; k += w)
#pragma GCC unroll 8
      for (int lane = 0; lane < P; lane += w) {
        if (lane >= count) break;
        Vec<T> x[w];
#pragma GCC unroll 16
        for (int i = 0; i < w; ++i) {
          const T* from = src + std::min(lane + i, count - 1) * lane_stride + k;
          __builtin_prefetch(from + 8 * w);
          x[i] = load(from);
        }
        transpose<T>(x);
        constexpr int rest = P % w;
#pragma GCC unroll 16
        for (int i = 0; i < w; ++i) {
          T* to = out + (k + i) * P + lane;
          if (lane + w <= P)
            store<T>(to, x[i]);
          else
            store_n(to, x[i], rest);
        }
      }
  }
  if (k_stride == 1 && count > w / 4 && kc - k > w / 4)
    return pack_rest<T, P>(out + k * P, src + k, lane_stride, count, int(kc - k));
  for (; k < kc; ++k)
    for (int i = 0; i < count; ++i) out[k * P + i] = src[i * lane_stride + k * k_stride];
}

}  // namespace fastdl::tile
