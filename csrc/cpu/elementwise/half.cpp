// Sums and products of numbers in half precision, in registers: what the walk does for other kernels (blocks converted
// in the first-level cache, computed, rounded) stores and loads every number three times more.
//
//   z = x + factor y, or x y
//
// Rounded once, as by way of blocks. Work: ranges of the flattened space (loop.h), of elements of two bytes.
#include <cstring>

#include "cpu/elementwise/loop.h"
#include "cpu/simd/half.h"

namespace fastdl {
#if defined(__F16C__)
namespace {

constexpr int kTwo = 2 * kWidth<float>;

// Two vectors at a time: n is a multiple of that. A choice between both results takes less code than a second loop.
template <class Format>
void combine(bool product, float factor, int64_t n, uint16_t* z, const uint16_t* x, const uint16_t* y) {
  using V = Vec<float>;
  const Vec<Int<float>> chosen = Vec<Int<float>>{} - Int<float>(product);
  store_each<Format>(z, n, [=](int64_t i) __attribute__((always_inline)) {
    const V a = Format::load(x + i), b = Format::load(y + i), sum = a + factor * b;
    return chosen ? a * b : sum;
  });
}

}  // namespace

bool half_arithmetic(Half half, bool product, float factor, const StridedLoop<3>& loop) {
  const auto run = half == Half::float16 ? combine<Float16> : combine<BFloat16>;
  for_each_run<1, uint16_t, uint16_t, uint16_t>(
      loop, kGrain, [=](int64_t n, uint16_t* z, const uint16_t* x, const uint16_t* y) {
        const int64_t rest = n % kTwo, whole = n - rest;
        run(product, factor, whole, z, x, y);
        if (rest == 0) return;
        uint16_t ends[3][kTwo] = {};
        std::memcpy(ends[1], x + whole, size_t(rest) * sizeof(uint16_t));
        std::memcpy(ends[2], y + whole, size_t(rest) * sizeof(uint16_t));
        run(product, factor, kTwo, ends[0], ends[1], ends[2]);
        std::memcpy(z + whole, ends[0], size_t(rest) * sizeof(uint16_t));
      });
  return true;
}
#else
bool half_arithmetic(Half, bool, float, const StridedLoop<3>&) {
  return false;
}
#endif

}  // namespace fastdl
