// Stride-1 correlations of small planes whose rows are as long in the result as in the input: then position f
// of the result, counted through all rows, meets position f + shift of the input, one shift per tap. Vectors
// run over whole planes, across the ends of rows, and a set of lanes per vector and tap, made once for all
// planes, leaves out what lies beside the image. A plane of 7x7 takes 4 vectors of 16 instead of 7 with 7
// lanes at work.
#pragma once

#include <vector>

#include "cpu/ceil_div.h"
#include "cpu/conv/lanes.h"

namespace fastdl {

// A stride-1 correlation of one plane: tap (r, s) of output (h, w) is input (h + r * dilation_h - pad_h,
// ...).
struct PlaneShape {
  int64_t in_h, in_w, out_h, out_w, kernel_h, kernel_w, dilation_h, dilation_w, pad_h, pad_w;
};

template <class T>
class FlatPlane {
 public:
  static constexpr int w = simd::kWidth<T>;
  // Worth it for rows that are not many vectors long; the sets of lanes should stay in L1.
  static bool suits(const PlaneShape& s) {
    const int64_t sets = s.kernel_h * s.kernel_w * ceil_div(s.out_h * s.out_w, w);
    return simd::kBytes >= 32 && s.in_w == s.out_w && s.in_w < 2 * w &&
           sets * int64_t(sizeof(Lanes<T>)) <= (24 << 10);
  }

  explicit FlatPlane(const PlaneShape& s)
      : size_(s.out_h * s.out_w), vectors_(ceil_div(size_, w)), taps_(s.kernel_h * s.kernel_w) {
    for (int64_t r = 0; r < s.kernel_h; ++r)
      for (int64_t c = 0; c < s.kernel_w; ++c) {
        const int64_t down = r * s.dilation_h - s.pad_h, right = c * s.dilation_w - s.pad_w;
        shifts_.push_back(down * s.in_w + right);
        for (int64_t v = 0; v < vectors_; ++v) {
          unsigned bits = 0;
          for (int i = 0; i < w && v * w + i < size_; ++i) {
            const int64_t row = (v * w + i) / s.out_w + down, column = (v * w + i) % s.out_w + right;
            if (row >= 0 && row < s.in_h && column >= 0 && column < s.in_w) bits |= 1u << i;
          }
          lanes_.push_back(Lanes<T>(bits));
        }
      }
  }

  // y = bias + (y +) the correlation of x with the kernel.
  template <bool kAdd>
  void correlate(T* y, const T* x, const T* kernel, T bias) const {
    int64_t v = 0;
    for (; v + 4 <= vectors_; v += 4) correlate<kAdd, 4>(y, x, kernel, bias, v);
    for (; v < vectors_; ++v) correlate<kAdd, 1>(y, x, kernel, bias, v);
  }

  // sums[tap] += lane by lane, the products of grad_y and the input that meets it.
  // The next planes of both lie `next` elements behind.
  void correlate_grad(simd::Vec<T>* sums, const T* grad, const T* x, int64_t next_grad,
                      int64_t next_x) const {
    int64_t r = 0;
    for (; r + 9 <= taps_; r += 9) correlate_grad<9>(sums + r, grad, x, r, next_grad, next_x);
    for (; r + 5 <= taps_; r += 5) correlate_grad<5>(sums + r, grad, x, r, next_grad, next_x);
    for (; r < taps_; ++r) correlate_grad<1>(sums + r, grad, x, r, next_grad, next_x);
  }

 private:
  template <int kTaps>
  void correlate_grad(simd::Vec<T>* sums, const T* grad, const T* x, int64_t first, int64_t next_grad,
                      int64_t next_x) const {
    using namespace simd;
    Vec<T> acc[kTaps];
#pragma GCC unroll 9
    for (int i = 0; i < kTaps; ++i) acc[i] = sums[i];
    for (int64_t v = 0; v < vectors_; ++v) {
      __builtin_prefetch(grad + next_grad + v * w);
      __builtin_prefetch(x + next_x + v * w);
      const Vec<T> g = v * w + w <= size_ ? load(grad + v * w) : load_n(grad + v * w, int(size_ - v * w));
#pragma GCC unroll 9
      for (int i = 0; i < kTaps; ++i)
        acc[i] += g * lanes_[size_t((first + i) * vectors_ + v)].load(x + shifts_[size_t(first + i)] + v * w);
    }
#pragma GCC unroll 9
    for (int i = 0; i < kTaps; ++i) sums[i] = acc[i];
  }

  template <bool kAdd, int U>
  void correlate(T* y, const T* x, const T* kernel, T bias, int64_t v) const {
    using namespace simd;
    Vec<T> acc[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) acc[u] = Vec<T>{} + bias;
    const Lanes<T>* lanes = lanes_.data() + v;
    const T* from = x + v * w;
    T* to = y + v * w;
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {  // the next plane's
      __builtin_prefetch(from + size_ + u * w);
      __builtin_prefetch(to + size_ + u * w, 1);
    }
    for (int64_t r = 0; r < taps_; ++r, lanes += vectors_) {
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) acc[u] += kernel[r] * lanes[u].load(from + shifts_[size_t(r)] + u * w);
    }
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u, to += w) {
      const int64_t left = size_ - (v + u) * w;
      if (left >= w)
        store<T>(to, kAdd ? acc[u] + load(to) : acc[u]);
      else
        store_n(to, kAdd ? acc[u] + load_n(to, int(left)) : acc[u], int(left));
    }
  }

  int64_t size_, vectors_, taps_;
  std::vector<int64_t> shifts_;  // per tap
  std::vector<Lanes<T>> lanes_;  // per tap and vector
};

}  // namespace fastdl
