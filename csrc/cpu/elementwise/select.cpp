// Kernels with bytes among their operands (comparisons, where), clamp, and the three-operand arithmetic.
//
//   compare   out = x op y, one byte per element
//   where     out = condition ? x : y
//   clamp     out = min(max(x, lower), upper), NaN stays; the gradient passes where lower <= x <= upper
//   addcmul   out = x + value y z
//   addcdiv   out = x + value y / z
//   lerp      out = x + z (y - x)
//
// A mask of T-sized lanes and bytes are converted into each other in registers. Work: ranges of the flattened
// space.
#include "cpu/elementwise/functions.h"
#include "cpu/elementwise/loop.h"

namespace fastdl {
namespace {

template <class T>
[[gnu::always_inline]] inline Vec<Int<T>> load_mask(const uint8_t* p, int n) {
  return simd::load_small<T>(p, n) != 0;
}
template <class T>
[[gnu::always_inline]] inline void store_mask(uint8_t* p, Vec<Int<T>> mask, int n) {
  simd::store_small<T>(p, mask & 1, n);
}

template <class T, class F>
void compare_all(const StridedLoop<3>& loop, F f) {
  for_each_run<1, uint8_t, T, T>(loop, kGrain, [f](int64_t n, uint8_t* y, const T* a, const T* b) {
    constexpr int w = kWidth<T>;
    int64_t i = 0;
    for (; i + w <= n; i += w) store_mask<T>(y + i, f(load(a + i), load(b + i)), w);
    if (i < n) store_mask<T>(y + i, f(load_n(a + i, int(n - i)), load_n(b + i, int(n - i))), int(n - i));
  });
}

}  // namespace

template <class T>
void compare(Compare op, const StridedLoop<3>& loop) {
  using V = Vec<T>;
  using M = Vec<Int<T>>;
  switch (op) {
    case Compare::eq:
      return compare_all<T>(loop, [](V x, V y) { return (M)(x == y); });
    case Compare::ne:
      return compare_all<T>(loop, [](V x, V y) { return (M)(x != y); });
    case Compare::lt:
      return compare_all<T>(loop, [](V x, V y) { return (M)(x < y); });
    case Compare::le:
      return compare_all<T>(loop, [](V x, V y) { return (M)(x <= y); });
    case Compare::gt:
      return compare_all<T>(loop, [](V x, V y) { return (M)(x > y); });
    case Compare::ge:
      return compare_all<T>(loop, [](V x, V y) { return (M)(x >= y); });
  }
}

template <class T>
void where_forward(const StridedLoop<4>& loop) {
  for_each_run<1, T, uint8_t, T, T>(
      loop, kGrain, [](int64_t n, T* y, const uint8_t* c, const T* a, const T* b) {
        constexpr int w = kWidth<T>;
        int64_t i = 0;
        for (; i + w <= n; i += w) store(y + i, load_mask<T>(c + i, w) ? load(a + i) : load(b + i));
        if (i < n) {
          const int rest = int(n - i);
          store_n(y + i, load_mask<T>(c + i, rest) ? load_n(a + i, rest) : load_n(b + i, rest), rest);
        }
      });
}

template <class T>
void where_backward(const StridedLoop<4>& loop) {
  for_each_run<2, T, T, uint8_t, T>(loop, kGrain,
                                    [](int64_t n, T* grad_x, T* grad_y, const uint8_t* c, const T* g) {
                                      constexpr int w = kWidth<T>;
                                      const Vec<T> zero = broadcast<T>(0);
                                      int64_t i = 0;
                                      for (; i + w <= n; i += w) {
                                        const auto mask = load_mask<T>(c + i, w);
                                        const Vec<T> v = load(g + i);
                                        store(grad_x + i, mask ? v : zero);
                                        store(grad_y + i, mask ? zero : v);
                                      }
                                      if (i < n) {
                                        const int rest = int(n - i);
                                        const auto mask = load_mask<T>(c + i, rest);
                                        const Vec<T> v = load_n(g + i, rest);
                                        store_n(grad_x + i, mask ? v : zero, rest);
                                        store_n(grad_y + i, mask ? zero : v, rest);
                                      }
                                    });
}

template <class T>
void clamp_forward(T lower, T upper, const StridedLoop<2>& loop) {
  using V = Vec<T>;
  // The bound goes first: simd::max and min return their second operand when either is NaN.
  map<T>(loop, kGrain,
         [low = broadcast<T>(lower), high = broadcast<T>(upper)](V x) { return min(high, max(low, x)); });
}
template <class T>
void clamp_backward(T lower, T upper, const StridedLoop<3>& loop) {
  using V = Vec<T>;
  map<T>(loop, kGrain, [=](V g, V x) { return ((x >= lower) & (x <= upper)) ? g : broadcast<T>(0); });
}

template <class T>
void addcmul_forward(T value, const StridedLoop<4>& loop) {
  using V = Vec<T>;
  map<T>(loop, kGrain, [value](V x, V y, V z) { return x + value * y * z; });
}
template <class T>
void addcdiv_forward(T value, const StridedLoop<4>& loop) {
  using V = Vec<T>;
  map<T>(loop, kGrain, [value](V x, V y, V z) { return x + value * y / z; });
}
template <class T>
void lerp_forward(const StridedLoop<4>& loop) {
  using V = Vec<T>;
  // From the nearer end, so that z = 1 gives exactly y.
  map<T>(loop, kGrain, [](V x, V y, V z) {
    const V d = y - x;
    return simd::abs<T>(z) < T(0.5) ? x + z * d : y - d * (T(1) - z);
  });
}

#define FASTDL_INSTANTIATE(T)                                   \
  template void compare<T>(Compare, const StridedLoop<3>&);     \
  template void where_forward<T>(const StridedLoop<4>&);        \
  template void where_backward<T>(const StridedLoop<4>&);       \
  template void clamp_forward<T>(T, T, const StridedLoop<2>&);  \
  template void clamp_backward<T>(T, T, const StridedLoop<3>&); \
  template void addcmul_forward<T>(T, const StridedLoop<4>&);   \
  template void addcdiv_forward<T>(T, const StridedLoop<4>&);   \
  template void lerp_forward<T>(const StridedLoop<4>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
