// What kernels that slide windows over images share: walking over the rows of all planes, a small cache of
// processed rows, and the geometry tables of one axis.
#pragma once

#include <vector>

#include "common/pool.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/interleave.h"

namespace fastdl {
namespace {

using namespace simd;

template <class T>
constexpr int64_t round_up(int64_t n) {
  return (n + kWidth<T> - 1) / kWidth<T> * kWidth<T>;
}

// Position of a row among planes x depth x height.
struct RowCursor {
  int64_t plane, d, h, depth, height;
  RowCursor(int64_t row, int64_t depth_, int64_t height_)
      : plane(row / (depth_ * height_)),
        d(row / height_ % depth_),
        h(row % height_),
        depth(depth_),
        height(height_) {}
  void next() {
    if (++h < height) return;
    h = 0;
    if (++d < depth) return;
    d = 0;
    ++plane;
  }
};

// Rows per 10 us of work when a row stands for `elements` elements read or written.
inline int64_t rows_grain(int64_t elements) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, elements));
}

// Remembers which rows have been processed, so that overlapping windows do not process them again. Every row
// inside a (depth x height) window of `span_d` x `span_h` rows has a slot of its own.
class RowCache {
 public:
  RowCache(int64_t span_d, int64_t span_h, int64_t depth, int64_t height)
      : depth_(depth),
        height_(height),
        slots_d_(std::min(span_d, depth)),
        slots_h_(std::min(span_h, height)),
        rows_(size_t(slots_d_ * slots_h_), -1) {}
  int64_t slots() const { return slots_d_ * slots_h_; }
  // The slot of a row; `fresh` tells that it has to be filled now.
  int64_t slot(int64_t plane, int64_t d, int64_t h, bool& fresh) {
    const int64_t slot = (d % slots_d_) * slots_h_ + h % slots_h_, row = (plane * depth_ + d) * height_ + h;
    fresh = rows_[size_t(slot)] != row;
    rows_[size_t(slot)] = row;
    return slot;
  }

 private:
  int64_t depth_, height_, slots_d_, slots_h_;
  std::vector<int64_t> rows_;
};

// Where tap j of every output column begins among the phases of a row that starts `pad` positions late.
inline std::vector<int64_t> tap_starts(const PoolAxis& a, int64_t pitch) {
  std::vector<int64_t> starts(static_cast<size_t>(a.kernel));
  for (int64_t j = 0; j < a.kernel; ++j)
    starts[size_t(j)] = j * a.dilation % a.stride * pitch + j * a.dilation / a.stride;
  return starts;
}

// The taps of each output that lie inside the input.
struct TapRanges {
  std::vector<int64_t> first, end;
  explicit TapRanges(const PoolAxis& a) : first(size_t(a.out)), end(size_t(a.out)) {
    for (int64_t o = 0; o < a.out; ++o) {
      first[size_t(o)] = a.first_tap(o);
      end[size_t(o)] = a.end_tap(o);
    }
  }
};

template <class T>
void fill(T* p, int64_t n, T value) {
  for (int64_t i = 0; i < n; ++i) p[i] = value;
}

// Stores a vector where `room` elements are left for this chunk of rows: a row's last vector may reach into
// the rows behind it, which the same chunk writes later, but never beyond the chunk.
template <class T>
[[gnu::always_inline]] inline void store_within(T* p, Vec<T> v, int64_t room) {
  if (room >= kWidth<T>)
    store<T>(p, v);
  else
    store_n(p, v, int(room));
}

}  // namespace
}  // namespace fastdl
