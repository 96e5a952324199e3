// The padded planes of several images side by side (side_by_side.h).
#pragma once

#include <vector>

#include "cpu/conv/planes.h"
#include "cpu/runtime/memory.h"
#include "cpu/side_by_side.h"
#include "cpu/simd/copy_row.h"

namespace fastdl {

// Planes whose elements are vectors: one per image of a block.
template <class T>
class InterleavedPlanes {
 public:
  explicit InterleavedPlanes(const Planes<T>& planes) : planes_(planes) {
    for (const PlaneLayout::Row& row : planes.list_rows()) {
      if (!rows_.empty() && planes.stride() == 1 && rows_.back().plane + rows_.back().count == row.plane &&
          rows_.back().source + rows_.back().count == row.source)
        rows_.back().count += row.count;  // without padding whole planes are one row
      else
        rows_.push_back(row);
      longest_ = std::max(longest_, rows_.back().count);
    }
  }

  int64_t size() const { return planes_.size(simd::kWidth<T>) * simd::kWidth<T>; }

  // Channels [c0, c1) of images from, from + image, ...; padding is not touched.
  void copy(T* to, const T* from, int64_t image, int count, int64_t c0, int64_t c1) const {
    constexpr int w = simd::kWidth<T>;
    const int64_t stride = planes_.stride();
    memory::Buffer<T> line(stride == 1 ? 0 : size_t(w * longest_));
    for (int64_t c = c0; c < c1; ++c)
      for (const PlaneLayout::Row& row : rows_) {
        T* out = to + (c * planes_.channel_size(w) + row.plane) * w;
        const T* in = from + c * planes_.source_size() + row.source;
        if (stride == 1) {
          interleave(out, in, image, count, row.count);
        } else {
          for (int i = 0; i < count; ++i) copy_row(line + i * longest_, in + i * image, row.count, stride);
          interleave(out, line.get(), longest_, count, row.count);
        }
      }
  }

 private:
  const Planes<T>& planes_;
  std::vector<PlaneLayout::Row> rows_;
  int64_t longest_ = 0;
};

}  // namespace fastdl
