// What kernels that slide windows over images share: walking over the rows of all planes, a small cache of
// processed rows, and the geometry tables of one axis.
#pragma once

#include <span>
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
  return ceil_div(n, kWidth<T>) * kWidth<T>;
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
        slot_of_d_(size_t(slots_d_ ? depth : 0)),
        slot_of_h_(size_t(slots_h_ ? height : 0)),
        rows_(size_t(slots_d_ * slots_h_), -1) {
    for (size_t d = 0; d < slot_of_d_.size(); ++d) slot_of_d_[d] = int64_t(d) % slots_d_ * slots_h_;
    for (size_t h = 0; h < slot_of_h_.size(); ++h) slot_of_h_[h] = int64_t(h) % slots_h_;
  }
  int64_t slots() const { return slots_d_ * slots_h_; }
  // The slot of a row; `fresh` tells that it has to be filled now.
  int64_t slot(int64_t plane, int64_t d, int64_t h, bool& fresh) {
    const int64_t slot = slot_of_d_[size_t(d)] + slot_of_h_[size_t(h)],
                  row = (plane * depth_ + d) * height_ + h;
    fresh = rows_[size_t(slot)] != row;
    rows_[size_t(slot)] = row;
    return slot;
  }

 private:
  int64_t depth_, height_, slots_d_, slots_h_;
  std::vector<int64_t> slot_of_d_, slot_of_h_, rows_;
};

// Where tap j of every output column begins among the phases of a row that starts `pad` positions late.
inline std::vector<int64_t> tap_starts(const PoolAxis& a, int64_t pitch) {
  std::vector<int64_t> starts(static_cast<size_t>(a.kernel));
  for (int64_t j = 0; j < a.kernel; ++j)
    starts[size_t(j)] = j * a.dilation % a.stride * pitch + j * a.dilation / a.stride;
  return starts;
}

// The outputs that cover each input, and with which tap: PoolAxis::for_each_hit without its divisions.
class Hits {
 public:
  struct Hit {
    int64_t output, tap;
  };
  explicit Hits(const PoolAxis& a) {
    begin_.reserve(size_t(a.in) + 1);
    for (int64_t x = 0; x < a.in; ++x) {
      begin_.push_back(hits_.size());
      a.for_each_hit(x, [&](int64_t o, int64_t tap) { hits_.push_back({o, tap}); });
    }
    begin_.push_back(hits_.size());
  }
  std::span<const Hit> operator[](int64_t x) const {
    return {hits_.data() + begin_[size_t(x)], begin_[size_t(x) + 1] - begin_[size_t(x)]};
  }

 private:
  std::vector<size_t> begin_;
  std::vector<Hit> hits_;
};

// Windows two columns wide that neither overlap nor leave gaps nor reach beyond the input, (kd, kh, 2) with
// the same strides: the most frequent pooling. Each output row owns kd * kh whole input rows.
struct Pairs {
  bool apply;
  int64_t kd, kh;
  explicit Pairs(const PoolProblem& p)
      : apply(tiles(p.d) && tiles(p.h) && tiles(p.w) && p.w.kernel == 2), kd(p.d.kernel), kh(p.h.kernel) {}
  static bool tiles(const PoolAxis& a) {
    return a.kernel == a.stride && a.pad == 0 && a.dilation == 1 && a.out > 0 && a.out * a.kernel <= a.in;
  }
};

// Clears the input rows and columns that no window of Pairs reaches: those beside and below the output row at
// `at`.
template <class T>
void clear_uncovered(T* x, const PoolProblem& p, const RowCursor& at) {
  T* plane = x + at.plane * p.in_plane();
  const int64_t wide = 2 * p.w.out, high = p.h.kernel * p.h.out, deep = p.d.kernel * p.d.out;
  for (int64_t d = at.d * p.d.kernel; d < (at.d + 1) * p.d.kernel; ++d) {
    T* slice = plane + d * p.h.in * p.w.in;
    if (wide < p.w.in)
      for (int64_t h = at.h * p.h.kernel; h < (at.h + 1) * p.h.kernel; ++h)
        for (int64_t c = wide; c < p.w.in; ++c) slice[h * p.w.in + c] = T(0);
    if (at.h == p.h.out - 1)
      std::memset(slice + high * p.w.in, 0, size_t((p.h.in - high) * p.w.in) * sizeof(T));
  }
  if (at.h == p.h.out - 1 && at.d == p.d.out - 1)
    std::memset(plane + deep * p.h.in * p.w.in, 0, size_t((p.d.in - deep) * p.h.in * p.w.in) * sizeof(T));
}

template <class T>
void fill(T* p, int64_t n, T value) {
  constexpr int w = simd::kWidth<T>;
  const Vec<T> all = broadcast(value);
  int64_t i = 0;
  if (n >= w) {
    for (; i + w <= n; i += w) store<T>(p + i, all);
    return store<T>(p + n - w, all);  // overlaps
  }
  for (; i < n; ++i) p[i] = value;
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
