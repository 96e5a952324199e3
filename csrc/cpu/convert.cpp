// One loop per pair of dtypes that training code converts: labels and masks to numbers, numbers to masks,
// single and double precision. The compiler makes vectors of them.
//
// Work: ranges of elements. One read, one write.
#include "cpu/convert.h"

#include <algorithm>
#include <type_traits>

#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

struct Truth {  // one byte, 0 or 1
  uint8_t value;
};

template <class To, class From>
void run(void* y, const void* x, int64_t n) {
  constexpr int64_t kUnit = 64, kGrain = 16384;  // ranges begin at cache lines; elements worth about 10 us
  parallel_for((n + kUnit - 1) / kUnit, kGrain / kUnit, [=](int64_t begin, int64_t end) {
    auto* __restrict to = static_cast<To*>(y);
    const auto* __restrict from = static_cast<const From*>(x);
    const int64_t stop = std::min(n, end * kUnit);
    for (int64_t i = begin * kUnit; i < stop; ++i)
      if constexpr (std::is_same_v<To, Truth>)
        to[i].value = from[i] != From(0);
      else
        to[i] = To(from[i]);
  });
}

template <class From>
void from_number(void* y, Number to, const void* x, int64_t n) {
  switch (to) {
    case Number::boolean:
      return run<Truth, From>(y, x, n);
    case Number::int64:
      return run<int64_t, From>(y, x, n);
    case Number::float32:
      return run<float, From>(y, x, n);
    case Number::float64:
      return run<double, From>(y, x, n);
    case Number::uint8:  // no kernel
      return;
  }
}

}  // namespace

void convert(void* y, Number to, const void* x, Number from, int64_t n) {
  switch (from) {
    case Number::boolean:
    case Number::uint8:
      return from_number<uint8_t>(y, to, x, n);
    case Number::int64:
      return from_number<int64_t>(y, to, x, n);
    case Number::float32:
      return from_number<float>(y, to, x, n);
    case Number::float64:
      return from_number<double>(y, to, x, n);
  }
}

}  // namespace fastdl
