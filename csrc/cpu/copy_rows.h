// Short rows of bytes from one place to another. A call of memcpy for each would take longer than the copy: here
// its choice by length is made once for all rows and a row is two words that overlap in its middle.
#pragma once

#include <cstdint>
#include <cstring>

namespace fastdl {
namespace {

constexpr int64_t kShortRowBytes = 128;

template <int bytes>
struct Word {
  char data[bytes];
};

// f(word): the word whose one or two make up a row of 1 to kShortRowBytes bytes.
template <class F>
[[gnu::always_inline]] inline void with_word(int64_t bytes, F&& f) {
  if (bytes > 64) return f(Word<64>{});
  if (bytes > 32) return f(Word<32>{});
  if (bytes > 16) return f(Word<16>{});
  if (bytes >= 8) return f(Word<8>{});
  if (bytes >= 4) return f(Word<4>{});
  if (bytes >= 2) return f(Word<2>{});
  f(Word<1>{});
}

// `rows` rows of `bytes` bytes, their starts `to_step` and `from_step` apart.
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

}  // namespace
}  // namespace fastdl
