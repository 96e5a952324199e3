// Tables of vectors: gradients of their rows, and bags.
//
//   backward   grad_weight[r] = sum of scale[j] * grad_y[bag[j]] over the entries j with index[j] == r.
//              Entries are sorted by index (counting sort, stable), so that each row is written once: zero,
//              or the sum in the order of the entries, whatever the number of threads. Work: ranges of rows
//              of equal cost, where a row costs one and each of its entries one more. If a single row has
//              much of all entries, as padding does, ranges of columns. Memory: grad_y read once, grad_weight
//              written once. Few entries of many rows: everything becomes zero first, and only the entries
//              are sorted.
//   bag        y[b] is summed (or its maximum kept, with where it was) in registers, a block of columns at a
//              time; rows of the table are fetched some entries ahead, as nothing else can guess where they
//              are. Work: bags and entries. Memory: rows read once, y written once.
#include "cpu/embedding.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "cpu/layout.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using simd::Int;
using simd::kWidth;
using simd::Vec;

constexpr int64_t kGrain = 16384;  // elements worth about 10 us
constexpr int64_t kAhead = 8;      // entries

template <class T>
void copy_scaled(T* __restrict to, const T* __restrict from, int64_t n, T scale) {
  for (int64_t i = 0; i < n; ++i) to[i] = scale * from[i];
}
template <class T>
void add_scaled(T* __restrict to, const T* __restrict from, int64_t n, T scale) {
  for (int64_t i = 0; i < n; ++i) to[i] += scale * from[i];
}
template <class T>
void divide(T* to, int64_t n, T by) {
  for (int64_t i = 0; i < n; ++i) to[i] /= by;
}

// The first of `count` runs of entries, run r from start[r] to start[r + 1], before which runs and entries are `cost`
// or more; `count` if there is none.
int64_t place_of(int64_t cost, const int64_t* start, int64_t count) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (middle + start[middle] - start[0] < cost)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Entries by index: those of row r are entries[start[r]] to entries[start[r + 1]], in their own order.
class ByRow {
 public:
  ByRow(const int64_t* index, const EmbeddingProblem& p)
      : start_(size_t(p.rows) + 2), entries_(size_t(p.count)) {
    int64_t* const next = start_.get() + 1;  // shifted by one: counting up turns it into the final table
    std::memset(start_.get(), 0, (size_t(p.rows) + 2) * sizeof(int64_t));
    for (int64_t j = 0; j < p.count; ++j)
      if (index[j] != p.padding) ++next[index[j] + 1];
    for (int64_t r = 1; r <= p.rows; ++r) {
      largest_ = std::max(largest_, next[r]);
      next[r] += next[r - 1];
    }
    for (int64_t j = 0; j < p.count; ++j)
      if (index[j] != p.padding) entries_[next[index[j]]++] = j;
  }
  int64_t begin(int64_t row) const { return start_[row]; }
  const int64_t* entries() const { return entries_.get(); }
  int64_t largest() const { return largest_; }

  // The first row in [0, rows] before which rows and entries are `cost` or more.
  int64_t row_at(int64_t cost, int64_t rows) const { return place_of(cost, start_.get(), rows); }

 private:
  memory::Buffer<int64_t> start_, entries_;
  int64_t largest_ = 0;
};

// The sum of a row's entries, entries[0] to entries[count - 1]; some columns.
template <class T>
[[gnu::noinline]] void sum_entries(T* to, const T* grad_y, const int64_t* bag, const SummedIn<T>* scale,
                                   bool by_frequency, int64_t column, int64_t columns, const int64_t* entries,
                                   int64_t count, const EmbeddingProblem& p) {
  using Sum = SummedIn<T>;
  constexpr bool stored = sizeof(T) == 2;
  constexpr int64_t kPiece = 1024;  // of floats in the first-level cache
  Sum sums[stored ? kPiece : 1], row[stored ? kPiece : 1];
  const int64_t step = stored ? kPiece : columns;
  for (int64_t c = 0; c < columns; c += step) {
    const int64_t n = std::min(step, columns - c);
    Sum* sum = stored ? sums : reinterpret_cast<Sum*>(to);
    if constexpr (stored)
      if (p.onto) widen(sum, to + c, n, p.half);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t j = entries[k];
      const T* from = grad_y + (bag ? bag[j] : j) * p.width + column + c;
      const Sum factor = scale ? scale[j] : Sum(1);
      const Sum* values = reinterpret_cast<const Sum*>(from);
      if constexpr (stored) {
        widen(row, from, n, p.half);
        values = row;
      }
      k == 0 && !p.onto ? copy_scaled(sum, values, n, factor) : add_scaled(sum, values, n, factor);
    }
    if (by_frequency && count > 1) divide(sum, n, Sum(count));
    if constexpr (stored) narrow(to + c, sum, n, p.half);
  }
}

// Whether sorting the entries alone is cheaper than counting by row.
bool few_entries(const EmbeddingProblem& p) {
  return 4 * p.count * int64_t(std::bit_width(uint64_t(p.count))) < p.rows;
}

// The entries that count, by row; returns how many.
int64_t sort_entries(int64_t* rows, int64_t* entries, const int64_t* index, const EmbeddingProblem& p) {
  memory::Buffer<std::pair<int64_t, int64_t>> pairs{size_t(p.count)};
  int64_t count = 0;
  for (int64_t j = 0; j < p.count; ++j)
    if (index[j] != p.padding) pairs[count++] = {index[j], j};
  std::sort(pairs.get(), pairs + count);
  for (int64_t k = 0; k < count; ++k) rows[k] = pairs[k].first, entries[k] = pairs[k].second;
  return count;
}

template <class T>
void backward_few(T* grad_weight, const T* grad_y, const int64_t* index, const int64_t* bag,
                  const SummedIn<T>* scale, bool by_frequency, const EmbeddingProblem& p) {
  if (!p.onto) fill(reinterpret_cast<char*>(grad_weight), p.rows * p.width * int64_t(sizeof(T)), 0);
  memory::Buffer<int64_t> rows{size_t(p.count)}, entries{size_t(p.count)};
  const int64_t count = sort_entries(rows.get(), entries.get(), index, p);
  parallel_for(count, std::max<int64_t>(1, kGrain / p.width), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin, stop; k < end; k = stop) {  // rows that begin here
      for (stop = k + 1; stop < count && rows[stop] == rows[k];) ++stop;
      if (k > 0 && rows[k - 1] == rows[k]) continue;
      sum_entries(grad_weight + rows[k] * p.width, grad_y, bag, scale, by_frequency, 0, p.width, entries + k,
                  stop - k, p);
    }
  });
}

}  // namespace

template <class T>
void embedding_backward(T* grad_weight, const T* grad_y, const int64_t* index, const int64_t* bag,
                        const SummedIn<T>* scale, bool by_frequency, const EmbeddingProblem& p) {
  if (p.rows == 0 || p.width == 0) return;
  if (few_entries(p)) return backward_few(grad_weight, grad_y, index, bag, scale, by_frequency, p);
  const ByRow sorted(index, p);
  const auto sum_rows = [&](int64_t first, int64_t last, int64_t column, int64_t columns) {
    for (int64_t r = first; r < last;) {
      const int64_t begin = sorted.begin(r), end = sorted.begin(r + 1);
      T* to = grad_weight + r * p.width + column;
      if (begin == end) {  // with the empty rows behind it, if they lie together
        int64_t stop = r + 1;
        while (columns == p.width && stop < last && sorted.begin(stop + 1) == begin) ++stop;
        if (!p.onto) std::memset(to, 0, size_t((stop - r - 1) * p.width + columns) * sizeof(T));
        r = stop;
        continue;
      }
      sum_entries(to, grad_y, bag, scale, by_frequency, column, columns, sorted.entries() + begin,
                  end - begin, p);
      ++r;
    }
  };
  const int64_t cost = p.rows + sorted.begin(p.rows);
  if (sorted.largest() > cost / (2 * num_threads())) {
    constexpr int64_t kLine = 64 / int64_t(sizeof(T));
    parallel_for(ceil_div(p.width, kLine), std::max<int64_t>(1, kGrain / (cost * kLine)),
                 [&](int64_t begin, int64_t end) {
                   sum_rows(0, p.rows, begin * kLine, std::min(end * kLine, p.width) - begin * kLine);
                 });
    return;
  }
  parallel_for(cost, std::max<int64_t>(1, kGrain / p.width), [&](int64_t begin, int64_t end) {
    sum_rows(sorted.row_at(begin, p.rows), sorted.row_at(end, p.rows), 0, p.width);
  });
}

namespace {

// f(b, begin, end) for every bag. Threads share bags and entries, since bags may differ much in size.
template <class F>
void for_each_bag(const int64_t* offsets, int64_t bags, int64_t width, F f) {
  const int64_t cost = bags + offsets[bags] - offsets[0];
  parallel_for(cost, std::max<int64_t>(1, kGrain / std::max<int64_t>(width, 1)),
               [&](int64_t begin, int64_t end) {
                 const int64_t last = place_of(end, offsets, bags);
                 for (int64_t b = place_of(begin, offsets, bags); b < last; ++b)
                   f(b, offsets[b], offsets[b + 1]);
               });
}

// f(column, number of vectors, load, store) for blocks of columns that registers hold, up to N vectors: one
// vector alone would wait for each addition. What a last block leaves is covered by one that begins earlier,
// whose columns come out the same twice.
template <class T, int N, class F>
[[gnu::always_inline]] inline void for_each_block(int64_t width, F f) {
  constexpr int64_t w = kWidth<T>;
  if constexpr (N > 1)
    if (width < N * w) return for_each_block<T, N / 2>(width, f);
  const auto whole = [&](int64_t column) {
    f(
        column, std::integral_constant<int, N>(), [](const T* p) { return simd::load<T>(p); },
        [](T* p, Vec<T> v) { simd::store<T>(p, v); });
  };
  int64_t column = 0;
  for (; column + N * w <= width; column += N * w) whole(column);
  if (column == width) return;
  if (width - column > w || (N == 1 && column > 0)) return whole(width - N * w);
  const int lanes = int(width - column);
  f(
      column, std::integral_constant<int, 1>(), [=](const T* p) { return simd::load_n(p, lanes); },
      [=](T* p, Vec<T> v) { simd::store_n(p, v, lanes); });
}

// Asks for the columns of a later entry's row that will be read, N vectors.
template <int N, class T>
[[gnu::always_inline]] inline void prefetch(const T* weight, const int64_t* index, int64_t j, int64_t column,
                                            const EmbeddingProblem& p) {
  if (j + kAhead >= p.count) return;
  const auto* row = reinterpret_cast<const char*>(weight + index[j + kAhead] * p.width + column);
  for (int at = 0; at < N * simd::kBytes; at += 64) __builtin_prefetch(row + at);
}

}  // namespace

template <class T>
void embedding_bag_forward(T* y, const T* weight, const int64_t* index, const int64_t* offsets,
                           const T* scale, bool mean, int64_t bags, const EmbeddingProblem& p) {
  for_each_bag(offsets, bags, p.width, [&](int64_t b, int64_t begin, int64_t end) {
    for_each_block<T, 256 / simd::kBytes>(p.width, [&](int64_t column, auto vectors, auto load, auto store) {
      constexpr int n = decltype(vectors)::value;
      Vec<T> sum[n] = {};
      int64_t found = 0;
      for (int64_t j = begin; j < end; ++j) {
        prefetch<n>(weight, index, j, column, p);
        if (index[j] == p.padding) continue;
        const T* from = weight + index[j] * p.width + column;
        const T factor = scale ? scale[j] : T(1);
        ++found;
#pragma GCC unroll 8
        for (int i = 0; i < n; ++i) sum[i] += factor * load(from + i * kWidth<T>);
      }
      const T divisor = mean && found > 1 ? T(found) : T(1);
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) store(y + b * p.width + column + i * kWidth<T>, sum[i] / divisor);
    });
  });
}

template <class T>
void embedding_bag_max_forward(T* y, int64_t* chosen, const T* weight, const int64_t* index,
                               const int64_t* offsets, int64_t bags, const EmbeddingProblem& p) {
  for_each_bag(offsets, bags, p.width, [&](int64_t b, int64_t begin, int64_t end) {
    for_each_block<T, 1>(p.width, [&](int64_t column, auto vectors, auto load, auto store) {
      constexpr int n = decltype(vectors)::value;
      Vec<T> best[n] = {};
      Vec<Int<T>> where[n];  // positions in the bag, -1 as long as there is none
#pragma GCC unroll 2
      for (auto& lanes : where) lanes = Vec<Int<T>>{} - 1;
      for (int64_t j = begin; j < end; ++j) {
        prefetch<n>(weight, index, j, column, p);
        if (index[j] == p.padding) continue;
        const T* from = weight + index[j] * p.width + column;
#pragma GCC unroll 2
        for (int i = 0; i < n; ++i) {
          const Vec<T> x = load(from + i * kWidth<T>);
          // The first of equal ones; NaN is larger than any number.
          const auto take = (where[i] < 0) | (((x > best[i]) | (x != x)) & (best[i] == best[i]));
          best[i] = take ? x : best[i];
          where[i] = take ? Vec<Int<T>>{} + Int<T>(j - begin) : where[i];
        }
      }
#pragma GCC unroll 2
      for (int i = 0; i < n; ++i) {
        const int64_t first = column + i * kWidth<T>;
        const Vec<Int<T>> positions = where[i];
        store(y + b * p.width + first, best[i]);
        for (int64_t c = first; c < std::min(first + kWidth<T>, p.width); ++c) {
          const int64_t position = positions[c - first];
          chosen[b * p.width + c] = position < 0 ? -1 : index[begin + position];
        }
      }
    });
  });
}

#define FASTDL_INSTANTIATE(T)                                                                          \
  template void embedding_backward<T>(T*, const T*, const int64_t*, const int64_t*, const T*, bool,    \
                                      const EmbeddingProblem&);                                        \
  template void embedding_bag_forward<T>(T*, const T*, const int64_t*, const int64_t*, const T*, bool, \
                                         int64_t, const EmbeddingProblem&);                            \
  template void embedding_bag_max_forward<T>(T*, int64_t*, const T*, const int64_t*, const int64_t*,   \
                                             int64_t, const EmbeddingProblem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE
template void embedding_backward<uint16_t>(uint16_t*, const uint16_t*, const int64_t*, const int64_t*,
                                           const float*, bool, const EmbeddingProblem&);

}  // namespace fastdl
