// Selection by a mask. Where the k-th element goes depends on all masks in front of it, so the mask is
// counted block by block first; the blocks' starts then let every block be done by itself.
//
// A random mask cannot be predicted: elements are moved whether they are wanted or not, and only the position
// advances by the mask (an element that is not wanted is overwritten by the next one). A block ends with its
// last wanted element, so that nothing is written or read behind its part.
//
// Passes: the mask twice (the second time from cache for small ones), x and y once. Work: blocks.
#include "cpu/mask.h"

#include <algorithm>
#include <cstring>

#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

constexpr int64_t kBlock = 1 << 14;  // elements; some 10 us

template <class F>
void for_each_block(const MaskBlocks& blocks, F&& f) {
  parallel_for(blocks.count, std::max<int64_t>(1, 2 * kBlock / blocks.size), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) f(b, b * blocks.size, std::min(blocks.n, (b + 1) * blocks.size));
  });
}

template <class T>
void select_elements(char* to, const char* from, const uint8_t* mask, const MaskBlocks& blocks) {
  const auto* x = reinterpret_cast<const T*>(from);
  for_each_block(blocks, [&](int64_t b, int64_t begin, int64_t) {
    T* y = reinterpret_cast<T*>(to) + blocks.start[b];
    const int64_t count = blocks.start[b + 1] - blocks.start[b];
    for (int64_t i = begin, k = 0; k < count; ++i) {
      y[k] = x[i];
      k += mask[i] != 0;
    }
  });
}

template <class T>
void put_elements(char* to, const char* from, bool repeated, const uint8_t* mask, const MaskBlocks& blocks) {
  auto* y = reinterpret_cast<T*>(to);
  for_each_block(blocks, [&](int64_t b, int64_t begin, int64_t end) {
    const auto* source = reinterpret_cast<const T*>(from);
    if (repeated) {
      const T value = *source;
      T* __restrict out = y;  // bytes could be anything's, and the loop were one of branches
      const uint8_t* __restrict chosen = mask;
      for (int64_t i = begin; i < end; ++i) out[i] = chosen[i] != 0 ? value : out[i];
      return;
    }
    source += blocks.start[b];
    const int64_t count = blocks.start[b + 1] - blocks.start[b];
    for (int64_t i = begin, k = 0; k < count; ++i) {
      const T value = source[k];
      y[i] = mask[i] != 0 ? value : y[i];
      k += mask[i] != 0;
    }
  });
}

}  // namespace

void count_blocks(const uint8_t* mask, int64_t n, MaskBlocks& blocks) {
  blocks.n = n;
  blocks.size = std::max<int64_t>(kBlock, ceil_div(n, MaskBlocks::kMost));
  blocks.count = ceil_div(n, blocks.size);
  blocks.start[0] = 0;
  parallel_for(blocks.count, 16, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const uint8_t* from = mask + b * blocks.size;
      const int64_t length = std::min(blocks.size, n - b * blocks.size);
      int64_t total = 0;
      for (int64_t i = 0; i < length; i += 128) {  // sums of a byte each
        uint8_t sum = 0;
        for (int64_t j = i; j < std::min(length, i + 128); ++j) sum = uint8_t(sum + (from[j] != 0));
        total += sum;
      }
      blocks.start[b + 1] = total;
    }
  });
  for (int64_t b = 0; b < blocks.count; ++b) blocks.start[b + 1] += blocks.start[b];
}

void masked_select(char* y, const char* x, const uint8_t* mask, const MaskBlocks& blocks, int64_t row) {
  switch (row) {
    case 1:
      return select_elements<uint8_t>(y, x, mask, blocks);
    case 2:
      return select_elements<uint16_t>(y, x, mask, blocks);
    case 4:
      return select_elements<uint32_t>(y, x, mask, blocks);
    case 8:
      return select_elements<uint64_t>(y, x, mask, blocks);
  }
  for_each_block(blocks, [&](int64_t b, int64_t begin, int64_t end) {
    char* to = y + blocks.start[b] * row;
    for (int64_t i = begin; i < end; ++i)
      if (mask[i] != 0) {
        std::memcpy(to, x + i * row, size_t(row));
        to += row;
      }
  });
}

void masked_put(char* y, const char* source, bool repeated, const uint8_t* mask, const MaskBlocks& blocks,
                int64_t row) {
  switch (row) {
    case 1:
      return put_elements<uint8_t>(y, source, repeated, mask, blocks);
    case 2:
      return put_elements<uint16_t>(y, source, repeated, mask, blocks);
    case 4:
      return put_elements<uint32_t>(y, source, repeated, mask, blocks);
    case 8:
      return put_elements<uint64_t>(y, source, repeated, mask, blocks);
  }
  for_each_block(blocks, [&](int64_t b, int64_t begin, int64_t end) {
    const char* from = repeated ? source : source + blocks.start[b] * row;
    for (int64_t i = begin; i < end; ++i)
      if (mask[i] != 0) {
        std::memcpy(y + i * row, from, size_t(row));
        if (!repeated) from += row;
      }
  });
}

void nonzero(int64_t* y, const uint8_t* mask, const MaskBlocks& blocks, const int64_t* shape, int ndim) {
  constexpr int kMaxAxes = 64;
  const int64_t columns = ndim > 0 ? shape[ndim - 1] : 1;
  for_each_block(blocks, [&](int64_t b, int64_t begin, int64_t) {
    int64_t* to = y + blocks.start[b] * ndim;
    const int64_t count = blocks.start[b + 1] - blocks.start[b];
    // The row that `place` names, and the position behind it.
    int64_t place[kMaxAxes], rest = begin / std::max<int64_t>(columns, 1);
    int64_t row_end = (rest + 1) * columns;
    for (int axis = ndim - 2; axis >= 0; --axis) {
      place[axis] = rest % shape[axis];
      rest /= shape[axis];
    }
    int64_t found[256];
    for (int64_t i = begin, k = 0; k < count;) {
      const int64_t wanted = std::min<int64_t>(256, count - k);
      int64_t have = 0;
      for (; have < wanted; ++i) {
        found[have] = i;
        have += mask[i] != 0;
      }
      if (ndim == 1)
        std::memcpy(to + k, found, size_t(have) * sizeof(int64_t));
      else
        for (int64_t f = 0; f < have; ++f) {
          for (; found[f] >= row_end; row_end += columns)
            for (int axis = ndim - 2; axis >= 0; --axis) {
              if (++place[axis] < shape[axis]) break;
              place[axis] = 0;
            }
          int64_t* out = to + (k + f) * ndim;
          for (int axis = 0; axis < ndim - 1; ++axis) out[axis] = place[axis];
          out[ndim - 1] = found[f] - (row_end - columns);
        }
      k += have;
    }
  });
}

}  // namespace fastdl
