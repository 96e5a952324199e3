// Copies of whole arrays: strided ones, fills, triangles, concatenation. One read and one write each.
//
//   copy_strided   any strides -> C order. Axes that lie together in both arrays are merged first. Where the
//                  source's nearest neighbours are the result's (stride == item) rows are copied whole;
//                  otherwise (a transpose) tiles of 16 x 16 elements, so that each cache line, read or
//                  written, is used completely while it is in L1; large results go past the caches. Work:
//                  rows or tile rows.
//   concat         one memcpy per part and outer slice, long ones cut; two parts of single elements are
//                  zipped. Work: slices, or pieces of a part.
#include "cpu/layout.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "cpu/copy_rows.h"
#include "cpu/gemm/pack.h"
#include "cpu/layout/copy_bytes.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/interleave.h"
#include "cpu/simd/map.h"

namespace fastdl {
namespace {

constexpr int kMaxAxes = 64;
constexpr int64_t kTile = 16;
constexpr int64_t kBlockBytes = 16 << 10;

struct Axis {
  int64_t extent, to, from;  // strides in bytes
};

// Axes from the outermost to the innermost, merged; returns how many.
int merged_axes(const int64_t* shape, const int64_t* strides, int ndim, int64_t item, Axis* axes) {
  int64_t to = item;
  int count = 0;
  for (int i = ndim - 1; i >= 0; --i) {  // innermost first
    if (shape[i] != 1) {
      Axis* inner = count ? &axes[count - 1] : nullptr;
      if (inner && strides[i] == inner->from * inner->extent)
        inner->extent *= shape[i];
      else
        axes[count++] = {shape[i], to, strides[i]};
    }
    to *= shape[i];
  }
  std::reverse(axes, axes + count);
  return count;
}

template <class T>
void copy_row(char* to, const char* from, int64_t count, int64_t to_stride, int64_t from_stride) {
  if (from_stride == 0) {
    T value;
    std::memcpy(&value, from, sizeof(T));
    for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * to_stride, &value, sizeof(T));
    return;
  }
  if (from_stride == -int64_t(sizeof(T)) && to_stride == int64_t(sizeof(T))) {  // flipped: vectors
    typedef T Element __attribute__((aligned(1), may_alias));
    auto* __restrict y = reinterpret_cast<Element*>(to);
    const auto* __restrict x = reinterpret_cast<const Element*>(from);
    for (int64_t i = 0; i < count; ++i) y[i] = x[-i];
    return;
  }
  if (to_stride == int64_t(sizeof(T)) && is_spaced(from_stride, sizeof(T)) && count > 8)
    return copy_spaced(to, from, from_stride, sizeof(T), count);
  for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * to_stride, from + i * from_stride, sizeof(T));
}

// A tile: both strides of the result and of the source; its columns are the source's nearest neighbours.
// `past`: rows of the result are aligned, and stored past the caches.
template <class T>
void copy_tile(char* to, const char* from, int64_t rows, int64_t columns, int64_t to_row, int64_t to_column,
               int64_t from_row, int64_t from_column, bool past) {
  if (rows == kTile && columns == kTile && to_row == int64_t(sizeof(T)) &&
      from_column == int64_t(sizeof(T))) {
    if constexpr (sizeof(T) >= 4) {
      using F = std::conditional_t<sizeof(T) == 4, float, double>;  // as bits
      constexpr int w = simd::kWidth<F>;
      for (int64_t r = 0; r < kTile; r += w)
        for (int64_t c = 0; c < kTile; c += w) {
          simd::Vec<F> x[w];
#pragma GCC unroll 16
          for (int i = 0; i < w; ++i)
            std::memcpy(&x[i], from + (r + i) * from_row + c * int64_t(sizeof(T)), sizeof x[i]);
          tile::transpose<F>(x);
#pragma GCC unroll 16
          for (int i = 0; i < w; ++i) {
            auto* line = reinterpret_cast<F*>(to + (c + i) * to_column + r * int64_t(sizeof(T)));
            past ? simd::stream_store(line, x[i]) : simd::store(line, x[i]);
          }
        }
    } else {  // rows of small elements side by side in 32 bits: a half or a quarter of the moves
      constexpr int64_t n = 4 / int64_t(sizeof(T));
      T block[kTile][kTile];
      uint32_t groups[kTile / n][kTile];
      for (int64_t r = 0; r < kTile; ++r) std::memcpy(block[r], from + r * from_row, sizeof(block[r]));
      for (int64_t i = 0; i < kTile / n; ++i)
        for (int64_t c = 0; c < kTile; ++c) {
          uint32_t group = 0;
#pragma GCC unroll 4
          for (int64_t j = 0; j < n; ++j) group |= uint32_t(block[n * i + j][c]) << (32 / n * j);
          groups[i][c] = group;
        }
      for (int64_t c = 0; c < kTile; ++c)
        for (int64_t i = 0; i < kTile / n; ++i) std::memcpy(to + c * to_column + 4 * i, &groups[i][c], 4);
    }
    return;
  }
  for (int64_t c = 0; c < columns; ++c)
    copy_row<T>(to + c * to_column, from + c * from_column, rows, to_row, from_row);
}

// Calls f(to offset, from offset) for every combination of the outer axes in [begin, end).
template <class F>
void for_each(const Axis* axes, int count, int64_t begin, int64_t end, F&& f) {
  int64_t place[kMaxAxes], to = 0, from = 0, rest = begin;
  for (int i = count - 1; i >= 0; --i) {
    place[i] = rest % axes[i].extent;
    rest /= axes[i].extent;
    to += place[i] * axes[i].to;
    from += place[i] * axes[i].from;
  }
  for (int64_t n = begin; n < end; ++n) {
    f(to, from);
    for (int i = count - 1; i >= 0; --i) {
      to += axes[i].to;
      from += axes[i].from;
      if (++place[i] < axes[i].extent) break;
      to -= axes[i].to * axes[i].extent;
      from -= axes[i].from * axes[i].extent;
      place[i] = 0;
    }
  }
}

int64_t combinations(const Axis* axes, int count) {
  int64_t n = 1;
  for (int i = 0; i < count; ++i) n *= axes[i].extent;
  return n;
}

// Rows of `bytes` bytes, or (repeated) of one element: those along the last of these axes together.
void copy_short_rows(char* to, const char* from, const Axis* axes, int count, int64_t item, int64_t bytes,
                     bool repeated) {
  const Axis& run = axes[count - 1];
  parallel_for(combinations(axes, count), std::max<int64_t>(1, kGrainBytes / 4 / bytes),
               [=, &run](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end;) {
                   const int64_t place = row % run.extent, outer = row / run.extent;
                   const int64_t rows = std::min(run.extent - place, end - row);
                   for_each(axes, count - 1, outer, outer + 1, [&](int64_t t, int64_t f) {
                     t += place * run.to, f += place * run.from;
                     if (repeated)
                       repeat_rows(to + t, run.to, from + f, run.from, item, bytes, rows);
                     else
                       copy_rows(to + t, run.to, from + f, run.from, bytes, rows);
                   });
                   row += rows;
                 }
               });
}

template <class T>
void copy_elements(char* to, const char* from, Axis* axes, int count) {
  constexpr int64_t item = sizeof(T);
  const Axis inner = axes[count - 1];
  if (count == 1) {
    parallel_for(inner.extent, kGrainBytes / 4 / item, [&](int64_t begin, int64_t end) {
      copy_row<T>(to + begin * item, from + begin * inner.from, end - begin, item, inner.from);
    });
    return;
  }
  if (inner.extent < 4) {  // as with the colours of images: long runs along the axis before, one per element
    const Axis run = axes[count - 2];
    const int64_t runs = combinations(axes, count - 2);
    parallel_for(runs, std::max<int64_t>(1, kGrainBytes / 4 / (run.extent * inner.extent * item)),
                 [&](int64_t begin, int64_t end) {
                   for_each(axes, count - 2, begin, end, [&](int64_t t, int64_t f) {
                     for (int64_t i = 0; i < inner.extent; ++i)
                       copy_row<T>(to + t + i * item, from + f + i * inner.from, run.extent, run.to,
                                   run.from);
                   });
                 });
    return;
  }
  // The axis along which the source is densest.
  int near = count - 1;
  for (int i = 0; i < count - 1; ++i)
    if (std::abs(axes[i].from) < std::abs(axes[near].from) && axes[i].from != 0 && axes[i].extent > 1)
      near = i;
  if (near == count - 1 || inner.from == 0 || axes[near].extent < 4) {
    const int64_t rows = combinations(axes, count - 1);
    parallel_for(rows, std::max<int64_t>(1, kGrainBytes / 4 / (inner.extent * item)),
                 [&](int64_t begin, int64_t end) {
                   for_each(axes, count - 1, begin, end, [&](int64_t t, int64_t f) {
                     copy_row<T>(to + t, from + f, inner.extent, item, inner.from);
                   });
                 });
    return;
  }
  const Axis columns = axes[near];
  std::copy(axes + near + 1, axes + count - 1, axes + near);  // the others remain
  const int others = count - 2;
  const int64_t strips = ceil_div(columns.extent, kTile);
  // A few long strips are cut for all threads to have some.
  const int64_t whole = combinations(axes, others) * strips, tiles = ceil_div(inner.extent, kTile);
  const int64_t cuts = std::clamp<int64_t>(4 * num_threads() / whole, 1, tiles);
  const int64_t work = whole * cuts, strip_bytes = std::max<int64_t>(1, kTile * inner.extent * item / cuts);
  bool past = sizeof(T) >= 4 &&
              past_caches(combinations(axes, others) * columns.extent * inner.extent * item) &&
              reinterpret_cast<uintptr_t>(to) % simd::kBytes == 0 && columns.to % simd::kBytes == 0;
  for (int i = 0; i < others; ++i) past &= axes[i].to % simd::kBytes == 0;
  parallel_for(work, std::max<int64_t>(1, kGrainBytes / 2 / strip_bytes), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t strip = n / cuts, cut = n % cuts;
      const int64_t first = strip % strips * kTile, width = std::min(kTile, columns.extent - first);
      for_each(axes, others, strip / strips, strip / strips + 1, [&](int64_t t, int64_t f) {
        for (int64_t tile = tiles * cut / cuts; tile < tiles * (cut + 1) / cuts; ++tile) {
          const int64_t row = tile * kTile;
          const char* source = from + f + first * columns.from + row * inner.from;
          copy_tile<T>(to + t + first * columns.to + row * item, source, std::min(kTile, inner.extent - row),
                       width, item, columns.to, inner.from, columns.from, past);
        }
      });
    }
    if (past) simd::fence();
  });
}

}  // namespace

void copy_strided(char* to, const char* from, const int64_t* shape, const int64_t* strides, int ndim,
                  int64_t item) {
  for (int i = 0; i < ndim; ++i)
    if (shape[i] == 0) return;
  Axis axes[kMaxAxes];
  int count = merged_axes(shape, strides, ndim, item, axes);
  if (count == 0) {
    std::memcpy(to, from, size_t(item));
    return;
  }
  const int64_t bytes = axes[count - 1].extent * item, rows = combinations(axes, count - 1);
  const int64_t step = axes[count - 1].from;
  if (count > 1 && bytes <= kShortRowBytes && (step == item || (step == 0 && item <= 8)))
    return copy_short_rows(to, from, axes, count - 1, item, bytes, step == 0);
  if (step == item) {
    const bool past = past_caches(rows * bytes);
    if (count == 1) {
      parallel_for(bytes, kGrainBytes, [&](int64_t begin, int64_t end) {
        copy_bytes(to + begin, from + begin, end - begin, past);
        if (past) simd::fence();
      });
      return;
    }
    parallel_for(rows, std::max<int64_t>(1, kGrainBytes / bytes), [&](int64_t begin, int64_t end) {
      for_each(axes, count - 1, begin, end,
               [&](int64_t t, int64_t f) { copy_bytes(to + t, from + f, bytes, past); });
      if (past) simd::fence();
    });
    return;
  }
  switch (item) {
    case 1:
      return copy_elements<uint8_t>(to, from, axes, count);
    case 2:
      return copy_elements<uint16_t>(to, from, axes, count);
    case 4:
      return copy_elements<uint32_t>(to, from, axes, count);
    case 8:
      return copy_elements<uint64_t>(to, from, axes, count);
    default:  // complex128
      parallel_for(combinations(axes, count), std::max<int64_t>(1, kGrainBytes / item),
                   [&](int64_t begin, int64_t end) {
                     for_each(axes, count, begin, end,
                              [&](int64_t t, int64_t f) { std::memcpy(to + t, from + f, size_t(item)); });
                   });
  }
}

void fill(char* to, int64_t bytes, uint64_t pattern) {
  // Nothing is read: as long as the last cache holds the result it is the better place for it.
#if defined(_SC_LEVEL3_CACHE_SIZE)
  static const int64_t last_cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#else
  constexpr int64_t last_cache = 0;
#endif
  const bool past = bytes >= std::max(simd::kStreamBytes, last_cache / 2) &&
                    reinterpret_cast<uintptr_t>(to) % simd::kBytes == 0;
  parallel_for((bytes + 63) / 64, 2 * kGrainBytes / 64, [&](int64_t begin, int64_t end) {
    const auto all = (simd::Vec<char>)simd::broadcast(pattern);
    int64_t i = begin * 64;
    const int64_t stop = std::min(bytes, end * 64);
    if (past) {
      for (; i + simd::kBytes <= stop; i += simd::kBytes) simd::stream_store(to + i, all);
      simd::fence();
    }
    char* place = to + i;
#if defined(__x86_64__)
    // The processor's own loop: a fifth faster where the last cache takes the result, and no slower before.
    int64_t words = (stop - i) / 8;
    asm volatile("rep stosq" : "+D"(place), "+c"(words) : "a"(pattern) : "memory");
#endif
    for (; place + simd::kBytes <= to + stop; place += simd::kBytes) simd::store(place, all);
    std::memcpy(place, &all, size_t(to + stop - place));
  });
}

template <class T, class Number>
void progression(T* y, int64_t count, int64_t stride, Number start, Number step) {
  parallel_for(count, kGrainBytes / 2 / int64_t(sizeof(T)), [=](int64_t begin, int64_t end) {
    constexpr int64_t kBlock = 64;
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t n = std::min(kBlock, end - i);
      Number part[kBlock];
      for (int64_t j = 0; j < kBlock; ++j) part[j] = step * Number(i + j);
      asm volatile("" : "+m"(part));  // no fused multiply-add
      if (stride == 1)
        for (int64_t j = 0; j < n; ++j) y[i + j] = T(start + part[j]);
      else
        for (int64_t j = 0; j < n; ++j) y[(i + j) * stride] = T(start + part[j]);
    }
  });
}
template void progression<float, double>(float*, int64_t, int64_t, double, double);
template void progression<double, double>(double*, int64_t, int64_t, double, double);
template void progression<int64_t, uint64_t>(int64_t*, int64_t, int64_t, uint64_t, uint64_t);

namespace {

// The columns of a row that are in the triangle.
std::pair<int64_t, int64_t> within(int64_t row, int64_t columns, int64_t diagonal, bool lower) {
  const int64_t edge = std::clamp<int64_t>(row + diagonal + (lower ? 1 : 0), 0, columns);
  return lower ? std::pair(int64_t(0), edge) : std::pair(edge, columns);
}

// The rows that have any.
std::pair<int64_t, int64_t> rows_within(int64_t rows, int64_t columns, int64_t diagonal, bool lower) {
  if (columns == 0) return {0, 0};
  return lower ? std::pair(std::clamp<int64_t>(-diagonal, 0, rows), rows)
               : std::pair(int64_t(0), std::clamp<int64_t>(columns - diagonal, 0, rows));
}

}  // namespace

double triangle_count(int64_t rows, int64_t columns, int64_t diagonal, bool lower) {
  const auto [first, last] = rows_within(rows, columns, diagonal, lower);
  if (first == last) return 0;
  // From one row to the next there is one place more (lower) or less, but for the full rows.
  const int64_t turn = std::clamp<int64_t>(lower ? columns - diagonal - 1 : -diagonal, first, last);
  const int64_t begin = lower ? first : turn, end = lower ? turn : last;
  const auto width = [&](int64_t row) {
    const auto [from, to] = within(row, columns, diagonal, lower);
    return double(to - from);
  };
  const double uneven = begin < end ? double(end - begin) * (width(begin) + width(end - 1)) / 2 : 0;
  return uneven + double((last - first) - (end - begin)) * double(columns);
}

void triangle_places(int64_t* row_of, int64_t* column_of, int64_t rows, int64_t columns, int64_t diagonal,
                     bool lower) {
  constexpr int64_t kRows = 16;
  const auto [top, bottom] = rows_within(rows, columns, diagonal, lower);
  const int64_t start = top, stop = bottom, blocks = ceil_div(stop - start, kRows);
  memory::Buffer<int64_t> starts{size_t(blocks)};
  int64_t at = 0;
  for (int64_t row = start; row < stop; ++row) {
    if ((row - start) % kRows == 0) starts[(row - start) / kRows] = at;
    const auto [begin, end] = within(row, columns, diagonal, lower);
    at += end - begin;
  }
  parallel_for(blocks, std::max<int64_t>(1, kGrainBytes / 16 / (kRows * std::max<int64_t>(columns, 1))),
               [&, start, stop](int64_t first, int64_t last) {
                 int64_t k = starts[first];
                 for (int64_t row = start + first * kRows; row < std::min(stop, start + last * kRows);
                      ++row) {
                   const auto [begin, end] = within(row, columns, diagonal, lower);
                   std::fill_n(row_of + k, end - begin, row);
                   for (int64_t c = begin; c < end; ++c) column_of[k + c - begin] = c;
                   k += end - begin;
                 }
               });
}

void triangle(char* y, const char* x, int64_t outer, int64_t rows, int64_t columns, int64_t diagonal,
              bool lower, int64_t item) {
  const int64_t bytes = columns * item;
  parallel_for(outer * rows, std::max<int64_t>(1, kGrainBytes / std::max<int64_t>(bytes, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t n = begin, count; n < end; n += count) {
                   // The lower triangle ends behind the diagonal, the upper one begins at it.
                   const int64_t i = n % rows;
                   const int64_t edge =
                       item * std::clamp<int64_t>(i + diagonal + (lower ? 1 : 0), 0, columns);
                   const int64_t from = lower ? 0 : edge, to = lower ? edge : bytes;
                   char* row = y + n * bytes;
                   count = edge == bytes ? std::min(end - n, rows - i) : 1;
                   if (count > 1) {  // the diagonal has left the matrix: the rest is all alike
                     if (!lower) std::memset(row, 0, size_t(count * bytes));
                     if (lower && x != y) std::memcpy(row, x + n * bytes, size_t(count * bytes));
                     continue;
                   }
                   if (x != y) std::memcpy(row + from, x + n * bytes + from, size_t(to - from));
                   std::memset(lower ? row + to : row, 0, size_t(bytes - (to - from)));
                 }
               });
}

namespace {

// Two parts of one element each: zipped, in blocks that lie side by side.
template <class T>
void zip(T* to, const char* const* parts, const int64_t* steps, int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 512, w = simd::kWidth<T>;
  T blocks[2][kBlock];
  for (int64_t block = begin; block < end; block += kBlock) {
    const int64_t n = std::min(kBlock, end - block);
    const T* from[2];
    for (int i = 0; i < 2; ++i) {
      const char* place = parts[i] + block * steps[i];
      from[i] = reinterpret_cast<const T*>(place);
      if (steps[i] == int64_t(sizeof(T))) continue;
      from[i] = blocks[i];
      if (is_spaced(steps[i], sizeof(T)))
        copy_spaced(reinterpret_cast<char*>(blocks[i]), place, steps[i], sizeof(T), n);
      else
        for (int64_t o = 0; o < n; ++o) std::memcpy(&blocks[i][o], place + o * steps[i], sizeof(T));
    }
    T* pair = to + 2 * block;
    int64_t o = 0;
    for (; o + w <= n; o += w) {
      const auto a = simd::load(from[0] + o), b = simd::load(from[1] + o);
      simd::store(pair + 2 * o, simd::zip_low<T>(a, b));
      simd::store(pair + 2 * o + w, simd::zip_high<T>(a, b));
    }
    for (; o < n; ++o) pair[2 * o] = from[0][o], pair[2 * o + 1] = from[1][o];
  }
}

// Rows of one element each: blocks of them, one part after the other.
template <class T>
void interleave(char* y, const char* const* parts, const int64_t* steps, int64_t count, int64_t outer) {
  auto* to = reinterpret_cast<T*>(y);
  const int64_t grain = kGrainBytes / (count == 2 ? 1 : 4) / (count * int64_t(sizeof(T)));
  parallel_for(outer, std::max<int64_t>(1, grain), [&](int64_t begin, int64_t end) {
    if (count == 2) return zip<T>(to, parts, steps, begin, end);
    constexpr int64_t kBlock = 512;
    for (int64_t block = begin; block < end; block += kBlock)
      for (int64_t i = 0; i < count; ++i) {
        const char* from = parts[i];
        const int64_t step = steps[i];
        for (int64_t o = block; o < std::min(end, block + kBlock); ++o)
          std::memcpy(to + o * count + i, from + o * step, sizeof(T));
      }
  });
}

}  // namespace

void concat(char* y, const char* const* parts, const int64_t* row_bytes, const int64_t* steps, int64_t count,
            int64_t outer) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += row_bytes[i];
  const bool past = past_caches(outer * total);
  if (outer == 1) {  // all parts at once: threads would meet behind each of them
    parallel_for(total, kGrainBytes, [&](int64_t begin, int64_t end) {
      int64_t start = 0;
      for (int64_t i = 0; i < count && start < end; start += row_bytes[i++])
        if (const int64_t from = std::max(begin, start), to = std::min(end, start + row_bytes[i]); from < to)
          copy_bytes(y + from, parts[i] + (from - start), to - from, past);
      if (past) simd::fence();
    });
    return;
  }
  if (total == row_bytes[0] * count &&
      std::all_of(row_bytes, row_bytes + count, [=](int64_t row) { return row == row_bytes[0]; })) {
    if (row_bytes[0] == 2) return interleave<uint16_t>(y, parts, steps, count, outer);
    if (row_bytes[0] == 4) return interleave<float>(y, parts, steps, count, outer);
    if (row_bytes[0] == 8) return interleave<double>(y, parts, steps, count, outer);
  }
  parallel_for(outer, std::max<int64_t>(1, kGrainBytes / std::max<int64_t>(total, 1)),
               [&](int64_t begin, int64_t end) {
                 if (total <= count * kShortRowBytes) {  // part after part of rows that stay in L1
                   const int64_t block = std::max<int64_t>(1, kBlockBytes / std::max<int64_t>(total, 1));
                   for (int64_t o = begin; o < end; o += block) {
                     char* to = y + o * total;
                     for (int64_t i = 0; i < count; to += row_bytes[i], ++i)
                       copy_rows(to, total, parts[i] + o * steps[i], steps[i], row_bytes[i],
                                 std::min(block, end - o));
                   }
                   return;
                 }
                 for (int64_t o = begin; o < end; ++o) {
                   char* to = y + o * total;
                   for (int64_t i = 0; i < count; ++i) {
                     copy_bytes(to, parts[i] + o * steps[i], row_bytes[i], past);
                     to += row_bytes[i];
                   }
                 }
                 if (past) simd::fence();
               });
}

}  // namespace fastdl
