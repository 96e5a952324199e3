// Elements that a mask of bytes names: positions, picked, replaced.
#pragma once

#include <cstdint>

namespace fastdl {

// A mask of n bytes in blocks of `size`, and how many of it are not zero in front of each block and in all.
struct MaskBlocks {
  static constexpr int64_t kMost = 1024;
  int64_t n, size, count;
  int64_t start[kMost + 1];
  int64_t total() const { return start[count]; }
};
void count_blocks(const uint8_t* mask, int64_t n, MaskBlocks& blocks);

// y = x[mask]; rows of `row` bytes
void masked_select(char* y, const char* x, const uint8_t* mask, const MaskBlocks& blocks, int64_t row);
// y[mask] = source, in order; `repeated`: the source is one row for all
void masked_put(char* y, const char* source, bool repeated, const uint8_t* mask, const MaskBlocks& blocks,
                int64_t row);
// y (total, ndim) = the subscripts of what is not zero, in the order of memory
void nonzero(int64_t* y, const uint8_t* mask, const MaskBlocks& blocks, const int64_t* shape, int ndim);

}  // namespace fastdl
