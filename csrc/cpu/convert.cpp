// One loop per pair of dtypes that training code converts: labels and masks to numbers, numbers to masks,
// single and double and half precision. The compiler makes vectors of them, but for the half precisions.
//
// Work: ranges of elements. One read, one write.
#include "cpu/convert.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "cpu/half.h"
#include "cpu/runtime/denormals.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/half.h"

namespace fastdl {
namespace {

struct Truth {  // one byte, 0 or 1
  uint8_t value;
};

// f(begin, end) for ranges that begin at cache lines; 16384 elements are worth about 10 us.
template <class F>
void for_ranges(int64_t n, F&& f) {
  constexpr int64_t kUnit = 64, kGrain = 16384;
  parallel_for(ceil_div(n, kUnit), kGrain / kUnit,
               [&](int64_t begin, int64_t end) { f(begin * kUnit, std::min(n, end * kUnit)); });
}

template <class To, class From>
bool run(void* y, const void* x, int64_t n) {
  for_ranges(n, [=](int64_t begin, int64_t end) {
    const FlushDenormals keep(std::is_integral_v<From>);
    auto* __restrict to = static_cast<To*>(y);
    const auto* __restrict from = static_cast<const From*>(x);
    for (int64_t i = begin; i < end; ++i)
      if constexpr (std::is_same_v<To, Truth>)
        to[i].value = from[i] != From(0);
      else
        to[i] = To(from[i]);
  });
  return true;
}

constexpr int kTwo = 2 * simd::kWidth<float>;

// Two vectors at a time: n is a multiple of that.
template <class Format>
void widen_as(float* y, const uint16_t* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kTwo) {
    simd::prefetch_ahead(x + i);
    simd::store(y + i, Format::load(x + i));
    simd::store(y + i + kTwo / 2, Format::load(x + i + kTwo / 2));
  }
}
template <class Format>
void narrow_as(uint16_t* y, const float* x, int64_t n) {
  simd::store_each<Format>(y, n, [x](int64_t i) __attribute__((always_inline)) { return simd::load(x + i); });
}
// Any n: what is left comes in a buffer.
template <class To, class From>
void convert_all(void (*run)(To*, const From*, int64_t), To* y, const From* x, int64_t n) {
  const int64_t rest = n % kTwo, whole = n - rest;
  if (whole) run(y, x, whole);
  if (rest == 0) return;
  From last[kTwo] = {};
  To converted[kTwo];
  std::memcpy(last, x + whole, size_t(rest) * sizeof(From));
  run(converted, last, kTwo);
  std::memcpy(y + whole, converted, size_t(rest) * sizeof(To));
}

Half half_of(Number number) {
  return number == Number::float16 ? Half::float16 : Half::bfloat16;
}

// (Bytes become doubles in two steps: convert().)
template <class From>
bool from_number(void* y, Number to, const void* x, int64_t n) {
  switch (to) {
    case Number::boolean:
      return run<Truth, From>(y, x, n);
    case Number::int32:
      return run<int32_t, From>(y, x, n);
    case Number::int64:
      return run<int64_t, From>(y, x, n);
    case Number::float32:
      return run<float, From>(y, x, n);
    case Number::float64:
      if constexpr (std::is_same_v<From, uint8_t>)
        return false;
      else
        return run<double, From>(y, x, n);
    default:
      return false;
  }
}

}  // namespace

void widen(float* y, const uint16_t* x, int64_t n, Half from) {
  convert_all(from == Half::float16 ? widen_as<simd::Float16> : widen_as<simd::BFloat16>, y, x, n);
}
void narrow(uint16_t* y, const float* x, int64_t n, Half to) {
  convert_all(to == Half::float16 ? narrow_as<simd::Float16> : narrow_as<simd::BFloat16>, y, x, n);
}
void widen_all(float* y, const uint16_t* x, int64_t n, Half from) {
  for_ranges(n, [=](int64_t begin, int64_t end) { widen(y + begin, x + begin, end - begin, from); });
}
void narrow_all(uint16_t* y, const float* x, int64_t n, Half to) {
  for_ranges(n, [=](int64_t begin, int64_t end) { narrow(y + begin, x + begin, end - begin, to); });
}

void convert_rows(Half half, uint16_t* y, int64_t rows, int64_t length, int64_t piece,
                  const uint16_t* const* x, int inputs, OnFloats run, const void* f) {
  constexpr int64_t kGrain = 16384, kApart = 80;  // floats between blocks: not a power of two
  if (rows * length == 0) return;
  const int64_t step = std::clamp<int64_t>(piece / length, 1, rows), size = step * length + kApart;
  const int64_t pieces = ceil_div(rows, step);
  parallel_for(pieces, std::max<int64_t>(1, kGrain / (step * length)), [=](int64_t begin, int64_t end) {
    memory::Buffer<float> blocks(size_t(size * (inputs + 1)));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * step, count = std::min(step, rows - first), n = count * length;
      const float* floats[kMostInputs];
      for (int k = 0; k < inputs; ++k) {
        float* block = blocks.get() + (k + 1) * size;
        widen_all(block, x[k] + first * length, n, half);
        floats[k] = block;
      }
      run(f, first, count, blocks.get(), floats);
      if (y) narrow_all(y + first * length, blocks.get(), n, half);
    }
  });
}

namespace {

int64_t size_of(Number number) {
  switch (number) {
    case Number::boolean:
    case Number::uint8:
      return 1;
    case Number::float16:
    case Number::bfloat16:
      return 2;
    case Number::int32:
    case Number::float32:
      return 4;
    default:
      return 8;
  }
}

// In two steps, by blocks.
bool convert_by(Number between, void* y, Number to, const void* x, Number from, int64_t n) {
  constexpr int64_t kBlock = 1024;
  for_ranges(n, [=](int64_t begin, int64_t end) {
    alignas(64) std::byte block[kBlock * 4];  // integers or floats
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t count = std::min(kBlock, end - i);
      convert(block, between, static_cast<const char*>(x) + i * size_of(from), from, count);
      convert(static_cast<char*>(y) + i * size_of(to), to, block, between, count);
    }
  });
  return true;
}

bool is_half(Number number) {
  return number == Number::float16 || number == Number::bfloat16;
}

}  // namespace

bool convert(void* y, Number to, const void* x, Number from, int64_t n) {
  if (is_half(to) && is_half(from)) return false;
  if (is_half(to)) {
    if (from != Number::float32) return convert_by(Number::float32, y, to, x, from, n);
    narrow_all(static_cast<uint16_t*>(y), static_cast<const float*>(x), n, half_of(to));
    return true;
  }
  if (is_half(from)) {
    if (to != Number::float32) return convert_by(Number::float32, y, to, x, from, n);
    widen_all(static_cast<float*>(y), static_cast<const uint16_t*>(x), n, half_of(from));
    return true;
  }
  if (to == Number::float64 && size_of(from) == 1)  // rare: a loop of its own would be 1 kB
    return convert_by(Number::float32, y, to, x, from, n);
  if (to == Number::uint8) {  // the lowest bits of an int32; a loop from each dtype would be 3 kB
    if (size_of(from) == 1) return run<uint8_t, uint8_t>(y, x, n);
    if (from == Number::int32) return run<uint8_t, int32_t>(y, x, n);
    return convert_by(Number::int32, y, to, x, from, n);
  }
  switch (from) {
    case Number::int32:
      return from_number<int32_t>(y, to, x, n);
    case Number::int64:
      return from_number<int64_t>(y, to, x, n);
    case Number::float32:
      return from_number<float>(y, to, x, n);
    case Number::float64:
      return from_number<double>(y, to, x, n);
    default:
      return from_number<uint8_t>(y, to, x, n);
  }
}

}  // namespace fastdl
