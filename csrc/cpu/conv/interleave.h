// Images side by side: element e of `count` <= kWidth<T> images as the lanes of one vector.
#pragma once

#include <vector>

#include "cpu/conv/planes.h"
#include "cpu/gemm/pack.h"

namespace fastdl {

// to[e * width + n] = from[n * image + e], zero for n >= count.
template <class T>
void interleave(T* to, const T* from, int64_t image, int count, int64_t elements) {
  using namespace simd;
  constexpr int w = kWidth<T>;
  for (int64_t e = 0; e < elements; e += w, to += w * w, from += w) {
    const int n = int(std::min<int64_t>(w, elements - e));
    Vec<T> x[w];
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) x[i] = i < count ? load_n(from + i * image, n) : Vec<T>{};
    tile::transpose<T>(x);
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) {
      if (i == n) break;
      store<T>(to + i * w, x[i]);
    }
  }
}

// to[n * image + e] = from[e * width + n] + bias for n < count.
template <class T>
void deinterleave(T* to, int64_t image, const T* from, int count, int64_t elements, T bias) {
  using namespace simd;
  constexpr int w = kWidth<T>;
  for (int64_t e = 0; e < elements; e += w, to += w, from += w * w) {
    const int n = int(std::min<int64_t>(w, elements - e));
    Vec<T> x[w];
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) x[i] = i < n ? load(from + i * w) : Vec<T>{};
    tile::transpose<T>(x);
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) {
      if (i == count) break;
      store_n(to + i * image, x[i] + bias, n);
    }
  }
}

// Planes whose elements are vectors: one per image of a block.
template <class T>
class InterleavedPlanes {
 public:
  explicit InterleavedPlanes(const Planes<T>& planes) : planes_(planes) {
    planes.for_rows([&](int64_t plane, int64_t source, int64_t count) {
      if (!rows_.empty() && planes.stride() == 1 && rows_.back().plane + rows_.back().count == plane &&
          rows_.back().source + rows_.back().count == source)
        rows_.back().count += count;  // without padding whole planes are one row
      else
        rows_.push_back({plane, source, count});
      longest_ = std::max(longest_, rows_.back().count);
    });
  }

  int64_t size() const { return planes_.size() * simd::kWidth<T>; }

  // Channels [c0, c1) of images from, from + image, ...; padding is not touched.
  void copy(T* to, const T* from, int64_t image, int count, int64_t c0, int64_t c1) const {
    constexpr int w = simd::kWidth<T>;
    const int64_t stride = planes_.stride();
    memory::Buffer<T> line(stride == 1 ? 0 : size_t(w * longest_));
    for (int64_t c = c0; c < c1; ++c)
      for (const Row& row : rows_) {
        T* out = to + (c * planes_.channel_size() + row.plane) * w;
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
  struct Row {
    int64_t plane, source, count;
  };
  const Planes<T>& planes_;
  std::vector<Row> rows_;
  int64_t longest_ = 0;
};

}  // namespace fastdl
