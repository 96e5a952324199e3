// What reductions accumulate: a policy has an accumulator, how an element is added, how two accumulators are
// merged (in any order), and what is written of an output.
#pragma once

#include "cuda/accumulators.h"
#include "cuda/map.h"
#include "cuda/reduce.h"

namespace fastdl::cuda {
namespace {

// Where folds are written.
template <class T>
struct Folded {
  T* y;
  Compute<T>* wide;
  Compute<T> scale;
  bool packed;  // y starts at a multiple of 16 bytes

  __device__ __forceinline__ void write(uint32_t output, Compute<T> a) const {
    if (wide != nullptr)
      wide[output] = a * scale;
    else
      y[output] = narrow<T>(a * scale);
  }
  // V outputs side by side.
  template <int V>
  __device__ __forceinline__ void write(uint32_t output, const Compute<T> (&a)[V]) const {
    if (wide != nullptr || !packed) {
      FASTDL_UNROLL
      for (int k = 0; k < V; ++k) write(output + k, a[k]);
      return;
    }
    Pack<T, V> pack;
    FASTDL_UNROLL
    for (int k = 0; k < V; ++k) pack.v[k] = narrow<T>(a[k] * scale);
    *reinterpret_cast<Pack<T, V>*>(y + output) = pack;
  }
};

template <class T>
struct FoldOf {
  using C = Compute<T>;
  using Accumulator = C;
  static constexpr int kOperations = 0 FASTDL_CUDA_FOLD(FASTDL_CUDA_COUNT);
  Fold op;
  Folded<T> to;
  bool squares;  // a norm's p is 2, not 1
  C first;       // of nothing

  __device__ __forceinline__ C start() const { return first; }
  __device__ __forceinline__ void add(C& a, C x, C, uint32_t) const {
    switch (op) {
      case Fold::sum:
        a += x;
        break;
      case Fold::nansum:
        a += x == x ? x : C(0);
        break;
      case Fold::prod:
        a *= x;
        break;
      case Fold::amax:
        a = larger(a, x);
        break;
      case Fold::amin:
        a = smaller(a, x);
        break;
      case Fold::norm:
        a += squares ? x * x : std::fabs(x);
        break;
      case Fold::nonzero:
        a += C(x != 0);
        break;
      case Fold::largest:
        a = larger(a, std::fabs(x));
        break;
      case Fold::smallest:
        a = smaller(a, std::fabs(x));
        break;
    }
  }
  // The operation need not be known here. (By masks, of which the compiler makes no table of jumps.)
  template <Fold... kOf>
  __device__ __forceinline__ bool is() const {
    return ((0U | ... | (1U << int(kOf))) >> int(op) & 1) != 0;
  }
  __device__ __forceinline__ C operator()(C a, C b) const {
    if (is<Fold::prod>()) return a * b;
    if (is<Fold::amax, Fold::largest>()) return larger(a, b);
    if (is<Fold::amin, Fold::smallest>()) return smaller(a, b);
    return a + b;
  }
  __device__ __forceinline__ void finish(uint32_t output, C a, C) const {
    to.write(output, op == Fold::norm && squares ? std::sqrt(a) : a);
  }
  template <int V>
  __device__ __forceinline__ void finish_side_by_side(uint32_t output, C (&a)[V]) const {
    FASTDL_UNROLL
    for (int k = 0; k < V; ++k)
      if (op == Fold::norm && squares) a[k] = std::sqrt(a[k]);
    to.template write<V>(output, a);
  }
};

// Norms of any other p.
template <class T>
struct PowersOf {
  using C = Compute<T>;
  using Accumulator = C;
  static constexpr int kAhead = 1;  // long code
  Folded<T> to;
  C p;

  __device__ __forceinline__ C start() const { return C(0); }
  __device__ __forceinline__ void add(C& a, C x, C, uint32_t) const { a += std::pow(std::fabs(x), p); }
  __device__ __forceinline__ C operator()(C a, C b) const { return a + b; }
  __device__ __forceinline__ void finish(uint32_t output, C a, C) const {
    to.write(output, std::pow(a, 1 / p));
  }
};

template <class C>
struct Sums {
  C first, second;  // of x - x_0 and of its square, x_0 the first element
};
template <class T>
struct Moments {
  using C = Compute<T>;
  using Accumulator = Sums<C>;
  static constexpr int kAhead = 4;
  T *var, *mean;
  C count, divisor;

  __device__ __forceinline__ Sums<C> start() const { return {0, 0}; }
  __device__ __forceinline__ void add(Sums<C>& a, C x, C x0, uint32_t) const {
    const C d = x - x0;
    a.first += d;
    a.second += d * d;
  }
  __device__ __forceinline__ Sums<C> operator()(Sums<C> a, Sums<C> b) const {
    return {a.first + b.first, a.second + b.second};
  }
  __device__ __forceinline__ void finish(uint32_t output, Sums<C> a, C x0) const {
    const C shift = a.first / count;
    mean[output] = narrow<T>(x0 + shift);
    var[output] = narrow<T>(larger(a.second - a.first * shift, C(0)) / divisor);
  }
};

template <class T>
struct LogSumExp {
  using C = Compute<T>;
  using Accumulator = Exponentials<C>;
  static constexpr int kAhead = 4;  // an exponential for each element
  T* y;

  __device__ __forceinline__ Exponentials<C> start() const { return {-infinity<C>(), 0}; }
  __device__ __forceinline__ void add(Exponentials<C>& a, C x, C, uint32_t) const { a = a.joined({x, 1}); }
  __device__ __forceinline__ Exponentials<C> operator()(Exponentials<C> a, Exponentials<C> b) const {
    return a.joined(b);
  }
  __device__ __forceinline__ void finish(uint32_t output, Exponentials<C> a, C) const {
    y[output] = narrow<T>(a.logarithm());
  }
};

// Accumulated is the largest of sign times the elements.
template <class T>
struct Extreme {
  using C = Compute<T>;
  using Accumulator = Place<C, uint32_t>;
  static constexpr uint32_t kNowhere = 0xFFFFFFFF;
  T* values;
  int64_t* indices;
  C sign;  // -1 for the smallest

  __device__ __forceinline__ Accumulator start() const { return {-infinity<C>(), kNowhere}; }
  // A thread's elements come in their order, so the first of equals stays.
  __device__ __forceinline__ void add(Accumulator& a, C x, C, uint32_t index) const {
    const C signed_x = sign * x;
    if (!(signed_x <= a.value) && a.value == a.value) a = {signed_x, index};
  }
  __device__ __forceinline__ Accumulator operator()(Accumulator a, Accumulator b) const {
    const bool nan_a = a.value != a.value, nan_b = b.value != b.value;
    const bool same = a.value == b.value || (nan_a && nan_b);
    return (same ? b.index < a.index : b.value > a.value || nan_b) && !(nan_a && !nan_b) ? b : a;
  }
  __device__ __forceinline__ void finish(uint32_t output, Accumulator a, C) const {
    values[output] = narrow<T>(sign * a.value);
    indices[output] = a.index == kNowhere ? 0 : a.index;  // nowhere: all are the infinity of the start
  }
};

// How many bytes are not zero.
struct CountOf {
  using Accumulator = uint32_t;
  int64_t* counts;

  __device__ __forceinline__ uint32_t start() const { return 0; }
  __device__ __forceinline__ void add(uint32_t& a, uint8_t x, uint8_t, uint32_t) const { a += x != 0; }
  __device__ __forceinline__ uint32_t operator()(uint32_t a, uint32_t b) const { return a + b; }
  __device__ __forceinline__ void finish(uint32_t output, uint32_t a, uint8_t) const { counts[output] = a; }
};

}  // namespace
}  // namespace fastdl::cuda
