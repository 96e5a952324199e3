// Strided copies, selection by index and its gradient.
//
//   copy_strided           any strides -> C order. Axes that lie together in both arrays are merged first.
//   Where the
//                          source's nearest neighbours are the result's (stride == item) rows are copied
//                          whole; otherwise (a transpose) tiles of 16 x 16 elements, so that each cache line,
//                          read or written, is used completely while it is in L1. One read, one write. Work:
//                          rows or tile rows.
//   concat                 one memcpy per part and outer slice, long ones cut. Work: slices, or pieces of a
//   part. index_select forward   one memcpy per row of `inner` elements. Work: rows. index_select backward
//   adds rows. A destination row belongs to one thread, which adds what comes to it in the
//                          order of the index: the result does not depend on the number of threads. Work:
//                          outer slices, or ranges of destination rows, each scanning the whole index.
//   gather forward         one element at a time. Work: rows of `inner`.
//   gather backward        as above; what is added to one element comes from its own column (o, i). Work:
//   outer slices,
//                          or ranges of columns.
//   index_copy, index_add, scatter, scatter_add    the same walks on an array that is there. Masks are in
//   mask.cpp.
#include "cpu/layout.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu/runtime/threads.h"
#include "cpu/simd/map.h"

namespace fastdl {
namespace {

constexpr int kMaxAxes = 64;
constexpr int64_t kTile = 16;
constexpr int64_t kGrainBytes = 64 << 10;  // about 10 us of copying

struct Axis {
  int64_t extent, to, from;  // strides in bytes
};

// `bytes` bytes; with `past` (results larger than a cache) whole vectors are stored past the caches, which
// saves reading their lines first: a third of the traffic.
void copy_bytes(char* to, const char* from, int64_t bytes, bool past) {
  if (past && bytes >= 1024) {
    const auto head = int64_t(-reinterpret_cast<uintptr_t>(to) % simd::kBytes);
    std::memcpy(to, from, size_t(head));
    int64_t i = head;
    for (; i + simd::kBytes <= bytes; i += simd::kBytes) {
      simd::prefetch_ahead(from + i);
      simd::stream_store(to + i, simd::load(from + i));
    }
    to += i, from += i, bytes -= i;
  }
  std::memcpy(to, from, size_t(bytes));
}
bool past_caches(int64_t bytes) {
  return bytes >= simd::kStreamBytes;
}

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
  for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * to_stride, from + i * from_stride, sizeof(T));
}

// A tile: both strides of the result and of the source; its columns are the source's nearest neighbours.
template <class T>
void copy_tile(char* to, const char* from, int64_t rows, int64_t columns, int64_t to_row, int64_t to_column,
               int64_t from_row, int64_t from_column) {
  if (rows == kTile && columns == kTile && to_row == int64_t(sizeof(T)) &&
      from_column == int64_t(sizeof(T))) {
    T block[kTile][kTile];
    for (int64_t r = 0; r < kTile; ++r) std::memcpy(block[r], from + r * from_row, sizeof(block[r]));
    for (int64_t c = 0; c < kTile; ++c) {
      T line[kTile];
      for (int64_t r = 0; r < kTile; ++r) line[r] = block[r][c];
      std::memcpy(to + c * to_column, line, sizeof(line));
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
  const int64_t strips = (columns.extent + kTile - 1) / kTile;
  const int64_t work = combinations(axes, others) * strips;
  const int64_t strip_bytes = kTile * inner.extent * item;
  parallel_for(work, std::max<int64_t>(1, kGrainBytes / 2 / strip_bytes), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t first = n % strips * kTile, width = std::min(kTile, columns.extent - first);
      for_each(axes, others, n / strips, n / strips + 1, [&](int64_t t, int64_t f) {
        for (int64_t row = 0; row < inner.extent; row += kTile)
          copy_tile<T>(
              to + t + first * columns.to + row * item, from + f + first * columns.from + row * inner.from,
              std::min(kTile, inner.extent - row), width, item, columns.to, inner.from, columns.from);
      });
    }
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
  if (axes[count - 1].from == item) {
    const int64_t bytes = axes[count - 1].extent * item;
    const int64_t rows = combinations(axes, count - 1);
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
    default:
      for_each(axes, count, 0, combinations(axes, count),
               [&](int64_t t, int64_t f) { std::memcpy(to + t, from + f, size_t(item)); });
  }
}

void fill(char* to, int64_t bytes, uint64_t pattern) {
  // Nothing is read: as long as the last cache holds the result it is the better place for it.
  static const int64_t last_cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
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
    for (; i + simd::kBytes <= stop; i += simd::kBytes) simd::store(to + i, all);
    std::memcpy(to + i, &all, size_t(stop - i));
  });
}

void triangle(char* y, const char* x, int64_t outer, int64_t rows, int64_t columns, int64_t diagonal,
              bool lower, int64_t item) {
  const int64_t bytes = columns * item;
  parallel_for(outer * rows, std::max<int64_t>(1, kGrainBytes / std::max<int64_t>(bytes, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t n = begin; n < end; ++n) {
                   // The lower triangle ends behind the diagonal, the upper one begins at it.
                   const int64_t edge =
                       item * std::clamp<int64_t>(n % rows + diagonal + (lower ? 1 : 0), 0, columns);
                   const int64_t from = lower ? 0 : edge, to = lower ? edge : bytes;
                   char* row = y + n * bytes;
                   if (x != y) std::memcpy(row + from, x + n * bytes + from, size_t(to - from));
                   std::memset(lower ? row + to : row, 0, size_t(bytes - (to - from)));
                 }
               });
}

namespace {

// Rows of one element each: blocks of them, one part after the other.
template <class T>
void interleave(char* y, const char* const* parts, int64_t count, int64_t outer) {
  auto* to = reinterpret_cast<T*>(y);
  parallel_for(outer, std::max<int64_t>(1, kGrainBytes / 4 / (count * int64_t(sizeof(T)))),
               [&](int64_t begin, int64_t end) {
                 constexpr int64_t kBlock = 512;
                 for (int64_t block = begin; block < end; block += kBlock)
                   for (int64_t i = 0; i < count; ++i) {
                     const auto* from = reinterpret_cast<const T*>(parts[i]);
                     for (int64_t o = block; o < std::min(end, block + kBlock); ++o)
                       to[o * count + i] = from[o];
                   }
               });
}

}  // namespace

void concat(char* y, const char* const* parts, const int64_t* row_bytes, int64_t count, int64_t outer) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += row_bytes[i];
  const bool past = past_caches(outer * total);
  if (outer == 1) {
    for (int64_t i = 0; i < count; ++i) {
      parallel_for(row_bytes[i], kGrainBytes, [&](int64_t begin, int64_t end) {
        copy_bytes(y + begin, parts[i] + begin, end - begin, past);
        if (past) simd::fence();
      });
      y += row_bytes[i];
    }
    return;
  }
  if (total == 4 * count && std::all_of(row_bytes, row_bytes + count, [](int64_t row) { return row == 4; }))
    return interleave<uint32_t>(y, parts, count, outer);
  if (total == 8 * count && std::all_of(row_bytes, row_bytes + count, [](int64_t row) { return row == 8; }))
    return interleave<uint64_t>(y, parts, count, outer);
  parallel_for(outer, std::max<int64_t>(1, kGrainBytes / std::max<int64_t>(total, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t o = begin; o < end; ++o) {
                   char* to = y + o * total;
                   for (int64_t i = 0; i < count; ++i) {
                     copy_bytes(to, parts[i] + o * row_bytes[i], row_bytes[i], past);
                     to += row_bytes[i];
                   }
                 }
                 if (past) simd::fence();
               });
}

namespace {

template <class T>
void select_elements(char* y, const char* x, const int64_t* index, const IndexProblem& p) {
  auto* out = reinterpret_cast<T*>(y);
  const auto* in = reinterpret_cast<const T*>(x);
  parallel_for(p.outer * p.count, 16384, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end;) {
      const int64_t o = n / p.count, stop = std::min(end, (o + 1) * p.count);
      const T* row = in + o * p.extent;
      const int64_t* place = index - o * p.count;
      for (; n < stop; ++n) out[n] = row[place[n]];
    }
  });
}

bool all_inside(const int64_t* index, int64_t count, int64_t extent) {
  uint64_t largest = 0;  // of a negative index: huge
  for (int64_t j = 0; j < count; ++j) largest = std::max(largest, uint64_t(index[j]));
  return largest < uint64_t(extent);
}

constexpr int64_t kIndexBlock = 1024;  // checked, then used while they are in the first-level cache

template <class T>
bool gather_elements(char* y, const char* x, const int64_t* index, const IndexProblem& p) {
  auto* out = reinterpret_cast<T*>(y);
  const auto* in = reinterpret_cast<const T*>(x);
  const int64_t inner = p.inner;
  std::atomic<bool> inside{true};
  // Rows (o, j) of `inner` elements; the slice of x changes with o only.
  parallel_for(p.outer * p.count, std::max<int64_t>(1, 8192 / std::max<int64_t>(inner, 1)),
               [&](int64_t begin, int64_t end) {
                 const int64_t rows = std::max<int64_t>(1, kIndexBlock / std::max<int64_t>(inner, 1));
                 for (int64_t row = begin; row < end;) {
                   const int64_t o = row / p.count, stop = std::min({end, (o + 1) * p.count, row + rows});
                   const T* slice = in + o * p.extent * inner;
                   if (!all_inside(index + row * inner, (stop - row) * inner, p.extent)) {
                     inside.store(false, std::memory_order_relaxed);
                     return;
                   }
                   if (inner == 1) {
                     for (; row < stop; ++row) out[row] = slice[index[row]];
                   } else {
                     for (; row < stop; ++row)
                       for (int64_t i = 0; i < inner; ++i)
                         out[row * inner + i] = slice[index[row * inner + i] * inner + i];
                   }
                 }
               });
  return inside.load(std::memory_order_relaxed);
}

// Calls f(o, begin, end) for outer slices, all or part of `extent` each, so that there is work for all
// threads.
template <class F>
void for_each_part(int64_t outer, int64_t extent, int64_t work, F&& f) {
  const int64_t wanted = work < (1 << 15) ? 1 : num_threads();
  const int64_t parts = std::clamp<int64_t>((wanted + outer - 1) / std::max<int64_t>(outer, 1), 1,
                                            std::max<int64_t>(extent, 1));
  const int64_t grain = std::max<int64_t>(1, (1 << 14) * outer * parts / std::max<int64_t>(work, 1));
  parallel_for(outer * parts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t part = n % parts;
      f(n / parts, extent * part / parts, extent * (part + 1) / parts);
    }
  });
}

}  // namespace

void index_select_forward(char* y, const char* x, const int64_t* index, const IndexProblem& p, int64_t item) {
  if (p.inner == 1 && item == 4) return select_elements<uint32_t>(y, x, index, p);
  if (p.inner == 1 && item == 8) return select_elements<uint64_t>(y, x, index, p);
  const int64_t bytes = p.inner * item, rows = p.outer * p.count;
  const bool past = past_caches(rows * bytes);
  const auto row = [=](int64_t n) {
    const int64_t o = n / p.count;
    return x + (o * p.extent + index[n - o * p.count]) * bytes;
  };
  parallel_for(rows, std::max<int64_t>(1, kGrainBytes / std::max<int64_t>(bytes, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t n = begin; n < end; ++n) {
                   // Nothing else can guess where the next row is.
                   if (const char* next = row(std::min(n + 2, end - 1)); bytes >= 128)
                     for (int64_t i = 0; i < std::min<int64_t>(bytes, 4096); i += 64)
                       __builtin_prefetch(next + i);
                   copy_bytes(y + n * bytes, row(n), bytes, past);
                 }
                 if (past) simd::fence();
               });
}

namespace {

// f(o, j) in the order of j for every row j of slice o, by the thread that owns the row's destination; before
// that, once, begin(o, first, last) for the destinations that a thread owns.
template <class Begin, class F>
void for_each_row(const int64_t* index, const IndexProblem& p, Begin&& begin_part, F&& f) {
  for_each_part(p.outer, p.extent, p.outer * (p.count + p.extent) * p.inner,
                [&](int64_t o, int64_t begin, int64_t end) {
                  begin_part(o, begin, end);
                  for (int64_t j = 0; j < p.count; ++j)
                    if (index[j] >= begin && index[j] < end) f(o, j);
                });
}

}  // namespace

void index_copy(char* y, const char* source, const int64_t* index, const IndexProblem& p, int64_t item) {
  const int64_t bytes = p.inner * item;
  for_each_row(
      index, p, [](int64_t, int64_t, int64_t) {},
      [&](int64_t o, int64_t j) {
        std::memcpy(y + (o * p.extent + index[j]) * bytes, source + (o * p.count + j) * bytes, size_t(bytes));
      });
}

template <class T>
void index_add(T* y, const T* source, const int64_t* index, const IndexProblem& p, bool from_zero) {
  const auto clear = [&](int64_t o, int64_t begin, int64_t end) {
    T* slice = y + o * p.extent * p.inner;
    if (from_zero) std::fill(slice + begin * p.inner, slice + end * p.inner, T(0));
  };
  if (p.inner == 1)
    return for_each_part(p.outer, p.extent, p.outer * (p.count + p.extent),
                         [&](int64_t o, int64_t begin, int64_t end) {
                           clear(o, begin, end);
                           T* __restrict slice = y + o * p.extent;
                           const T* from = source + o * p.count;
                           if (begin == 0 && end == p.extent)
                             for (int64_t j = 0; j < p.count; ++j) slice[index[j]] += from[j];
                           else
                             for (int64_t j = 0; j < p.count; ++j)
                               if (index[j] >= begin && index[j] < end) slice[index[j]] += from[j];
                         });
  for_each_row(index, p, clear, [&](int64_t o, int64_t j) {
    T* to = y + (o * p.extent + index[j]) * p.inner;
    const T* from = source + (o * p.count + j) * p.inner;
    for (int64_t i = 0; i < p.inner; ++i) to[i] += from[i];
  });
}

bool gather_forward(char* y, const char* x, const int64_t* index, const IndexProblem& p, int64_t item) {
  switch (item) {
    case 1:
      return gather_elements<uint8_t>(y, x, index, p);
    case 2:
      return gather_elements<uint16_t>(y, x, index, p);
    case 4:
      return gather_elements<uint32_t>(y, x, index, p);
    default:
      return gather_elements<uint64_t>(y, x, index, p);
  }
}

namespace {

// put(to, from) for every element of the source in order, to the place that its index names. Columns (o, i)
// belong to one thread, which calls begin(o, first, last) for those it owns. Indices are checked before their
// use.
template <class T, class Begin, class Put>
bool scatter_elements(T* y, const T* source, bool repeated, const int64_t* index, const IndexProblem& p,
                      Begin&& begin_part, Put&& put) {
  std::atomic<bool> inside{true};
  const int64_t step = repeated ? 0 : 1;
  for_each_part(p.outer, p.inner, p.outer * (p.count + p.extent) * p.inner,
                [&](int64_t o, int64_t begin, int64_t end) {
                  const int64_t inner = p.inner, rows = inner == 1 ? kIndexBlock : 1;
                  T* slice = y + o * p.extent * inner;
                  const T* from = source + o * p.count * inner * step;
                  const int64_t* at = index + o * p.count * inner;
                  begin_part(slice, begin, end);
                  for (int64_t j = 0; j < p.count; j += rows) {
                    const int64_t count = std::min(rows, p.count - j);
                    if (!all_inside(at + j * inner + begin, inner == 1 ? count : end - begin, p.extent)) {
                      inside.store(false, std::memory_order_relaxed);
                      return;
                    }
                    if (inner == 1)
                      for (int64_t i = j; i < j + count; ++i) put(slice[at[i]], from[i * step]);
                    else
                      for (int64_t i = begin; i < end; ++i)
                        put(slice[at[j * inner + i] * inner + i], from[(j * inner + i) * step]);
                  }
                });
  return inside.load(std::memory_order_relaxed);
}

template <class T>
bool assign_elements(char* y, const char* source, bool repeated, const int64_t* index,
                     const IndexProblem& p) {
  return scatter_elements(
      reinterpret_cast<T*>(y), reinterpret_cast<const T*>(source), repeated, index, p,
      [](T*, int64_t, int64_t) {}, [](T& to, T from) { to = from; });
}

}  // namespace

bool scatter(char* y, const char* source, bool repeated, const int64_t* index, const IndexProblem& p,
             int64_t item) {
  switch (item) {
    case 1:
      return assign_elements<uint8_t>(y, source, repeated, index, p);
    case 2:
      return assign_elements<uint16_t>(y, source, repeated, index, p);
    case 4:
      return assign_elements<uint32_t>(y, source, repeated, index, p);
    default:
      return assign_elements<uint64_t>(y, source, repeated, index, p);
  }
}

template <class T>
bool scatter_add(T* y, const T* source, bool repeated, const int64_t* index, const IndexProblem& p,
                 bool from_zero) {
  return scatter_elements(
      y, source, repeated, index, p,
      [&](T* slice, int64_t begin, int64_t end) {
        if (!from_zero) return;
        if (begin == 0 && end == p.inner) return void(std::fill(slice, slice + p.extent * p.inner, T(0)));
        for (int64_t e = 0; e < p.extent; ++e)
          std::fill(slice + e * p.inner + begin, slice + e * p.inner + end, T(0));
      },
      [](T& to, T from) { to += from; });
}

int64_t find_outside(const int64_t* index, int64_t count, int64_t extent) {
  int64_t found[1024];  // the first of every chunk
  const int64_t grain = std::max<int64_t>(1 << 15, count / 512);
  const int64_t chunks = chunk_count(count, grain);
  parallel_chunks(count, grain, [&](int64_t chunk, int64_t begin, int64_t end) {
    found[chunk] = -1;
    for (int64_t start = begin; start < end; start += kIndexBlock) {
      const int64_t stop = std::min(end, start + kIndexBlock);
      if (all_inside(index + start, stop - start, extent)) continue;
      for (int64_t j = start; j < stop; ++j)
        if (uint64_t(index[j]) >= uint64_t(extent)) {
          found[chunk] = j;
          return;
        }
    }
  });
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    if (found[chunk] >= 0) return found[chunk];
  return -1;
}

#define FASTDL_INSTANTIATE(T)                                                          \
  template void index_add<T>(T*, const T*, const int64_t*, const IndexProblem&, bool); \
  template bool scatter_add<T>(T*, const T*, bool, const int64_t*, const IndexProblem&, bool);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
