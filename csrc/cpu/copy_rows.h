// Short rows of bytes from one place to another, and rows of elements with gaps. A call of memcpy for each would
// take longer than the copy: here its choice by length is made once for all rows, and a row is two words that
// overlap in its middle.
#pragma once

#include <cstdint>

namespace fastdl {

constexpr int64_t kShortRowBytes = 128;

// `rows` rows of `bytes` bytes (memcpy for longer ones), their starts `to_step` and `from_step` apart.
void copy_rows(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t bytes, int64_t rows);

// Whether copy_spaced() is for elements of `item` bytes that lie `step` bytes apart.
inline bool is_spaced(int64_t step, int64_t item) {
  return (item == 2 || item == 4 || item == 8) && step > item && step <= 4 * item && step % item == 0;
}
// `n` elements of `item` bytes (2, 4 or 8), every second, third or fourth one from `from` on (`step` bytes), side
// by side. What is behind the last one is not read.
void copy_spaced(char* to, const char* from, int64_t step, int64_t item, int64_t n);

// An element of `item` bytes (1, 2, 4 or 8) as often as it fits into eight.
uint64_t eight_bytes_of(const char* element, int64_t item);

// For each of `rows` elements of `item` bytes (1, 2, 4 or 8), `from_step` apart, a row of `bytes` bytes full of it, at
// most kShortRowBytes.
void repeat_rows(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t item, int64_t bytes,
                 int64_t rows);

}  // namespace fastdl
