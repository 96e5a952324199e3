// Rows of one or two words each; see copy_rows.h.
#include "cpu/copy_rows.h"

#include <cstring>

#include "cpu/simd/interleave.h"

namespace fastdl {
namespace {

template <int bytes>
struct Word {
  char data[bytes];
};

// f(word): the word whose one or two make up a row of 1 to kShortRowBytes bytes.
template <class F>
void with_word(int64_t bytes, F&& f) {
  if (bytes > 64) return f(Word<64>{});
  if (bytes > 32) return f(Word<32>{});
  if (bytes > 16) return f(Word<16>{});
  if (bytes >= 8) return f(Word<8>{});
  if (bytes >= 4) return f(Word<4>{});
  if (bytes >= 2) return f(Word<2>{});
  f(Word<1>{});
}

// The first or the last of every `step` elements of as many vectors.
template <int step, bool last, class T>
[[gnu::always_inline]] inline simd::Vec<T> one_of(const T* from) {
  using namespace simd;
  constexpr int w = kWidth<T>;
  Vec<T> v[step];
#pragma GCC unroll 4
  for (int i = 0; i < step; ++i)
    std::memcpy(&v[i], from + i * w, sizeof v[i]);  // (all at once: by way of the stack)
  if constexpr (step == 3)
    return every_third<last ? 2 : 0, T>(v[0], v[1], v[2], std::make_index_sequence<w>());
  const auto half = [](Vec<T> a, Vec<T> b) { return last ? odd<T>(a, b) : even<T>(a, b); };
  if constexpr (step == 2)
    return half(v[0], v[1]);
  else
    return half(half(v[0], v[1]), half(v[2], v[3]));
}
// The last vector of results is that of elements which end with its last one.
template <int step, class T>
void take_spaced(T* to, const T* from, int64_t n) {
  constexpr int64_t w = simd::kWidth<T>;
  if (n <= w) {
    for (int64_t i = 0; i < n; ++i) std::memcpy(to + i, from + step * i, sizeof(T));
    return;
  }
  for (int64_t i = 0; i + w < n; i += w) {
    simd::prefetch_ahead(from + step * i);
    const auto y = one_of<step, false>(from + step * i);
    std::memcpy(to + i, &y, sizeof y);
  }
  const auto y = one_of<step, true>(from + step * (n - w) - (step - 1));
  std::memcpy(to + n - w, &y, sizeof y);
}
template <class T>
void take_every(int64_t step, char* to, const char* from, int64_t n) {
  auto* y = reinterpret_cast<T*>(to);
  const auto* x = reinterpret_cast<const T*>(from);
  (step == 2 ? take_spaced<2, T> : step == 3 ? take_spaced<3, T> : take_spaced<4, T>)(y, x, n);
}

}  // namespace

void copy_spaced(char* to, const char* from, int64_t step, int64_t item, int64_t n) {
  (item == 4   ? take_every<float>
   : item == 8 ? take_every<double>
               : take_every<uint16_t>)(step / item, to, from, n);
}

uint64_t eight_bytes_of(const char* from, int64_t item) {
  uint64_t value = 0;
  switch (item) {
    case 1:
      return uint64_t(uint8_t(*from)) * 0x0101010101010101u;
    case 2:
      std::memcpy(&value, from, 2);
      return value * 0x0001000100010001u;
    case 4:
      std::memcpy(&value, from, 4);
      return value * 0x0000000100000001u;
    default:
      std::memcpy(&value, from, 8);
      return value;
  }
}

void copy_rows(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t bytes, int64_t rows) {
  if (bytes > kShortRowBytes) {
    for (int64_t row = 0; row < rows; ++row)
      std::memcpy(to + row * to_step, from + row * from_step, size_t(bytes));
    return;
  }
  if (bytes <= 0) return;
  with_word(bytes, [&]<class W>(W) {
    const int64_t last = bytes - int64_t(sizeof(W));
    for (int64_t row = 0; row < rows; ++row, to += to_step, from += from_step) {
      W first, second;
      std::memcpy(&first, from, sizeof(W));
      std::memcpy(&second, from + last, sizeof(W));
      std::memcpy(to, &first, sizeof(W));
      std::memcpy(to + last, &second, sizeof(W));
    }
  });
}

void repeat_rows(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t item, int64_t bytes,
                 int64_t rows) {
  with_word(bytes, [&]<class W>(W) {
    const int64_t last = bytes - int64_t(sizeof(W));
    for (int64_t row = 0; row < rows; ++row, to += to_step, from += from_step) {
      uint64_t all[(sizeof(W) + 7) / 8];
      const uint64_t value = eight_bytes_of(from, item);
      for (uint64_t& eight : all) eight = value;
      std::memcpy(to, all, sizeof(W));
      std::memcpy(to + last, all, sizeof(W));
    }
  });
}

}  // namespace fastdl
