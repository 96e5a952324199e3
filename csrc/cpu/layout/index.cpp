// Elements and rows chosen by an index, and the ways back.
//
//   index_select_forward    one memcpy per row of `inner` elements. Work: rows.
//   index_copy, index_add   a destination row belongs to one thread, which takes what comes to it in the
//                           order of the index: the result does not depend on the number of threads. Work:
//                           outer slices, or ranges of destination rows, each scanning the whole index.
//   gather_forward          one element at a time. Work: rows of `inner`.
//   scatter, scatter_add    as index_copy and index_add; what comes to one element comes from its own column
//                           (o, i). Work: outer slices, or ranges of columns.
// Masks are in cpu/mask.cpp.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "cpu/layout.h"
#include "cpu/layout/copy_bytes.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

template <class T>
void select_elements(char* y, const char* x, const int64_t* index, const IndexProblem& p,
                     const EntrySteps& steps) {
  auto* out = reinterpret_cast<T*>(y);
  const int64_t step = steps.entry / int64_t(sizeof(T));
  parallel_for(p.outer * p.count, 16384, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end;) {
      const int64_t o = n / p.count, stop = std::min(end, (o + 1) * p.count);
      const T* row = reinterpret_cast<const T*>(x + o * steps.slice);
      const int64_t* place = index - o * p.count;
      for (; n < stop; ++n) out[n] = row[place[n] * step];
    }
  });
}

bool all_inside(const int64_t* index, int64_t count, int64_t extent) {
  uint64_t signs = 0;  // of the index and of what is left to the last element
  for (int64_t j = 0; j < count; ++j)
    signs |= uint64_t(index[j]) | (uint64_t(extent - 1) - uint64_t(index[j]));
  return int64_t(signs) >= 0;
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
                   const int64_t stop = std::min(end, row + rows);
                   if (!all_inside(index + row * inner, (stop - row) * inner, p.extent)) {
                     inside.store(false, std::memory_order_relaxed);
                     return;
                   }
                   // Slices may be short: one division a block.
                   for (int64_t o = row / p.count; row < stop; ++o) {
                     const T* slice = in + o * p.extent * inner;
                     const int64_t last = std::min(stop, (o + 1) * p.count);
                     if (inner == 1) {
                       for (; row < last; ++row) out[row] = slice[index[row]];
                     } else {
                       for (; row < last; ++row)
                         for (int64_t i = 0; i < inner; ++i)
                           out[row * inner + i] = slice[index[row * inner + i] * inner + i];
                     }
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
    int64_t o = begin / parts, part = begin % parts;
    for (int64_t n = begin; n < end; ++n) {
      const bool whole = parts == 1;  // of slices that may be short: without divisions
      f(o, whole ? 0 : extent * part / parts, whole ? extent : extent * (part + 1) / parts);
      if (++part == parts) part = 0, ++o;
    }
  });
}

}  // namespace

void index_select_forward(char* y, const char* x, const int64_t* index, const IndexProblem& p, int64_t item,
                          const EntrySteps& steps) {
  if (p.inner == 1 && item == 2) return select_elements<uint16_t>(y, x, index, p, steps);
  if (p.inner == 1 && item == 4) return select_elements<uint32_t>(y, x, index, p, steps);
  if (p.inner == 1 && item == 8) return select_elements<uint64_t>(y, x, index, p, steps);
  const int64_t bytes = p.inner * item, rows = p.outer * p.count;
  const bool past = past_caches(rows * bytes);
  const auto row = [=](int64_t n) {
    const int64_t o = n / p.count;
    return x + o * steps.slice + index[n - o * p.count] * steps.entry;
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
  if (p.outer == 1 && p.inner == 1 && std::has_single_bit(uint64_t(item)) && item <= 8)
    return scatter(y, source, false, index, p, item);
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
  if (p.inner == 1)  // a slice is one thread's: to skip the others' elements takes longer than to add them
    return for_each_part(p.outer, 1, p.outer * (p.count + p.extent), [&](int64_t o, int64_t, int64_t) {
      clear(o, 0, p.extent);
      T* __restrict slice = y + o * p.extent;
      const T* from = source + o * p.count;
      for (int64_t j = 0; j < p.count; ++j) slice[index[j]] += from[j];
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
// belong to one thread, which calls begin(o, first, last) for those it owns.
template <class T, class Begin, class Put>
void scatter_elements(T* y, const T* source, bool repeated, const int64_t* index, const IndexProblem& p,
                      Begin&& begin_part, Put&& put) {
  const int64_t step = repeated ? 0 : 1;
  for_each_part(p.outer, p.inner, p.outer * (p.count + p.extent) * p.inner,
                [&](int64_t o, int64_t begin, int64_t end) {
                  const int64_t inner = p.inner;
                  T* slice = y + o * p.extent * inner;
                  const T* from = source + o * p.count * inner * step;
                  const int64_t* at = index + o * p.count * inner;
                  begin_part(slice, begin, end);
                  if (inner == 1) {
                    for (int64_t j = 0; j < p.count; ++j) put(slice[at[j]], from[j * step]);
                    return;
                  }
                  for (int64_t j = 0; j < p.count; ++j)
                    for (int64_t i = begin; i < end; ++i)
                      put(slice[at[j * inner + i] * inner + i], from[(j * inner + i) * step]);
                });
}

template <class T>
void assign_elements(char* y, const char* source, bool repeated, const int64_t* index,
                     const IndexProblem& p) {
  scatter_elements(
      reinterpret_cast<T*>(y), reinterpret_cast<const T*>(source), repeated, index, p,
      [](T*, int64_t, int64_t) {}, [](T& to, T from) { to = from; });
}

}  // namespace

void scatter(char* y, const char* source, bool repeated, const int64_t* index, const IndexProblem& p,
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
void scatter_add(T* y, const T* source, bool repeated, const int64_t* index, const IndexProblem& p,
                 bool from_zero) {
  scatter_elements(
      y, source, repeated, index, p,
      [&](T* slice, int64_t begin, int64_t end) {
        if (!from_zero) return;
        if (begin == 0 && end == p.inner) return void(std::fill(slice, slice + p.extent * p.inner, T(0)));
        for (int64_t e = 0; e < p.extent; ++e)
          std::fill(slice + e * p.inner + begin, slice + e * p.inner + end, T(0));
      },
      [](T& to, T from) { to += from; });
}

template <class T>
void scatter_reduce(T* y, const T* source, bool repeated, const int64_t* index, const IndexProblem& p,
                    Join join) {
  scatter_elements(
      y, source, repeated, index, p, [](T*, int64_t, int64_t) {},
      [join](T& to, T from) {  // one loop for all: the branch is always the same
        if (join == Join::product) {
          to *= from;
        } else {  // a NaN stays, and replaces all else
          const bool better = join == Join::largest ? to > from : to < from;
          to = better || to != to ? to : from;
        }
      });
}

template <class T>
void index_reduce(T* y, const T* source, const int64_t* index, const IndexProblem& p, Join join) {
  for_each_row(
      index, p, [](int64_t, int64_t, int64_t) {},
      [&](int64_t o, int64_t j) {
        T* __restrict to = y + (o * p.extent + index[j]) * p.inner;
        const T* from = source + (o * p.count + j) * p.inner;
        if (join == Join::product) {
          for (int64_t i = 0; i < p.inner; ++i) to[i] *= from[i];
        } else if (join == Join::largest) {  // a NaN stays, and replaces all else
          for (int64_t i = 0; i < p.inner; ++i)
            to[i] = (to[i] > from[i]) | (to[i] != to[i]) ? to[i] : from[i];
        } else {
          for (int64_t i = 0; i < p.inner; ++i)
            to[i] = (to[i] < from[i]) | (to[i] != to[i]) ? to[i] : from[i];
        }
      });
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

#define FASTDL_INSTANTIATE(T)                                                                     \
  template void index_add<T>(T*, const T*, const int64_t*, const IndexProblem&, bool);            \
  template void scatter_add<T>(T*, const T*, bool, const int64_t*, const IndexProblem&, bool);    \
  template void scatter_reduce<T>(T*, const T*, bool, const int64_t*, const IndexProblem&, Join); \
  template void index_reduce<T>(T*, const T*, const int64_t*, const IndexProblem&, Join);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
FASTDL_INSTANTIATE(int64_t)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
