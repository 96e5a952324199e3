// Sweeps along the class axis, shared by softmax and the cross entropies. Two layouts of (outer, classes,
// inner):
//
//   rows      inner == 1: the classes of one position lie side by side. A row is swept in blocks that stay
//             in L1.
//   columns   inner > 1: a group of neighbouring positions is swept together, one vector lane per position,
//             so that no array is transposed. Lanes<T, V, tail> is such a group: V full vectors, or one
//             masked vector.
//
// Short rows may be taken a vector of them at a time, as columns of an interleaved copy in L1: what a row
// costs beside its elements, mostly sums and maxima across lanes, is shared by all lanes.
//
// row_statistics and column_statistics read the logits once from memory: the running maximum is updated per
// block and the running sum of exp(x - maximum) rescaled when it grew. Sums run in many lanes and few terms
// per lane, so their error stays near one rounding. NaN and +inf reach the sum; a row of nothing but -inf
// keeps maximum -inf and sum 0: x - maximum is NaN then, as it must be.
#pragma once

#include <cmath>

#include "common/classes.h"
#include "cpu/runtime/threads.h"
#include "cpu/side_by_side.h"
#include "cpu/sweep.h"

namespace fastdl::classes {

using namespace sweep;

inline constexpr int64_t kGrain = 16384;     // elements worth about 10 us
inline constexpr int64_t kRowBlock = 4096;   // elements of a row swept twice while in L1
inline constexpr int64_t kColumnBlock = 16;  // classes of a column group, likewise

inline int64_t grain_for(int64_t item) {  // a row has fixed costs of some 64 elements
  return std::max<int64_t>(1, kGrain / (item + 64));
}

// ---------------------------------------------------------------- rows

template <class T>
struct Statistics {
  T maximum, log_sum;  // log of the sum of exp(x - maximum)
};

// each_block(begin, count) runs while that part of the row is in L1.
template <class T, class F>
Statistics<T> row_statistics(const T* x, int64_t n, F each_block) {
  if (n <= kWidth<T>) {  // one vector
    const Vec<T> v = load_n(x, int(n)), least = broadcast<T>(-kInfinity<T>);
    const T top = reduce_max<T>(max(keep_first<T>(v, int(n), -kInfinity<T>), least));  // passes over NaN
    const T shift = top == -kInfinity<T> ? T(0) : top;
    const T total = reduce_add<T>(keep_first<T>(exp_bounded<T>(v - shift), int(n), T(0)));
    each_block(0, n);
    return {top, log<T>(broadcast<T>(total))[0]};
  }
  T maximum = -kInfinity<T>;
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kRowBlock) {
    const int64_t count = std::min(kRowBlock, n - begin);
    const T block = row_maximum(x + begin, count);
    if (block > maximum) {
      if (begin > 0) sum *= std::exp(double(maximum) - double(block));
      maximum = block;
    }
    const T shift = maximum == -kInfinity<T> ? T(0) : maximum;
    sum += double(row_sum<T>(count, [=](Vec<T> v) { return exp_bounded<T>(v - shift); }, x + begin));
    each_block(begin, count);
  }
  return {maximum, log<T>(broadcast<T>(T(sum)))[0]};
}

template <class T, class F>
void for_rows(ClassShape s, F f) {  // f(chunk, row)
  parallel_chunks(s.outer, grain_for(s.classes), [&](int64_t chunk, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) f(chunk, row);
    fence();
  });
}
inline int64_t row_chunks(ClassShape s) {
  return chunk_count(s.outer, grain_for(s.classes));
}

// ---------------------------------------------------------------- columns

// A sum of any length in T without a loss of digits: what an addition rounds away is part of the next one.
template <class T>
struct LongSum {
  Vec<T> total{}, lost{};
  [[gnu::always_inline]] void add(Vec<T> v) {
    const Vec<T> next = v - lost, sum = total + next;
    const Vec<T> error = (sum - total) - next;
    lost = error == error ? error : Vec<T>{};  // infinite sums have none
    total = sum;
  }
  [[gnu::always_inline]] void scale(Vec<T> by) {
    total *= by;
    lost *= by;
  }
};

template <class T, int V, bool tail>
struct Lanes {
  static constexpr int kVectors = V;
  int positions = V * kWidth<T>;
  Vec<T> load(const T* p, int k) const {
    if constexpr (tail)
      return load_n(p, positions);
    else
      return simd::load(p + k * kWidth<T>);
  }
  void store(T* p, int k, Vec<T> v) const {
    if constexpr (tail)
      store_n(p, v, positions);
    else
      simd::store<T>(p + k * kWidth<T>, v);
  }
};

template <class T>
inline constexpr int kGroup = 4 * kWidth<T>;  // positions of a full group

template <class T>
inline int64_t column_groups(ClassShape s) {
  return s.outer * ceil_div(s.inner, kGroup<T>);
}
template <class T>
inline int64_t column_grain(ClassShape s) {
  return grain_for(s.classes * std::min<int64_t>(s.inner, kGroup<T>));
}
template <class T>
inline int64_t column_chunks(ClassShape s) {
  return chunk_count(column_groups<T>(s), column_grain<T>(s));
}

// f(chunk, outer, first inner position, lanes) for groups that cover all positions.
template <class T, class F>
void for_columns(ClassShape s, F f) {
  constexpr int w = kWidth<T>;
  const int64_t per_outer = ceil_div(s.inner, kGroup<T>);
  parallel_chunks(column_groups<T>(s), column_grain<T>(s), [&](int64_t chunk, int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t o = group / per_outer;
      int64_t j = group % per_outer * kGroup<T>;
      const int64_t stop = std::min<int64_t>(j + kGroup<T>, s.inner);
      if (stop - j == kGroup<T>) {
        f(chunk, o, j, Lanes<T, 4, false>{});
        continue;
      }
      for (; j + w <= stop; j += w) f(chunk, o, j, Lanes<T, 1, false>{});
      if (j < stop) f(chunk, o, j, Lanes<T, 1, true>{int(stop - j)});
    }
  });
}

// ---------------------------------------------------------------- short rows

inline constexpr int64_t kFewClasses = 96;
template <class T>
bool few_classes(ClassShape s) {
  return s.inner == 1 && s.classes > 0 && s.classes <= kFewClasses && s.outer >= kWidth<T>;
}

// f(chunk, first row, copy, lanes): class c of the rows is the vector at copy + c * kWidth. Chunks are
// row_chunks.
template <class T, class F>
void for_short_rows(ClassShape s, const T* x, F f) {
  constexpr int w = kWidth<T>;
  parallel_chunks(s.outer, grain_for(s.classes), [&](int64_t chunk, int64_t begin, int64_t end) {
    alignas(kBytes) T copy[kFewClasses * w];
    for (int64_t row = begin; row < end; row += w) {
      const int count = int(std::min<int64_t>(w, end - row));
      interleave<T>(copy, x + row * s.classes, s.classes, count, s.classes);
      if (count == w)
        f(chunk, row, static_cast<T*>(copy), Lanes<T, 1, false>{});
      else
        f(chunk, row, static_cast<T*>(copy), Lanes<T, 1, true>{count});
    }
  });
}

// each(c, k, x) sees every vector once, in order of c, right after its exponential was added.
template <class T, class L, class F>
[[gnu::always_inline]] inline void column_statistics(L lanes, const T* x, ClassShape s, Vec<T>* maximum,
                                                     Vec<T>* log_sum, F each) {
  constexpr int V = L::kVectors;
  Vec<T> m[V], shift[V], part[V];
  LongSum<T> sum[V];
#pragma GCC unroll 4
  for (int k = 0; k < V; ++k) m[k] = broadcast<T>(-kInfinity<T>);
  for (int64_t begin = 0; begin < s.classes; begin += kColumnBlock) {
    const int64_t end = std::min(begin + kColumnBlock, s.classes);
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) shift[k] = m[k];
    for (int64_t c = begin; c < end; ++c)
#pragma GCC unroll 4
      for (int k = 0; k < V; ++k) m[k] = max(lanes.load(x + c * s.inner, k), m[k]);
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) {
      const Vec<T> next = m[k] == -kInfinity<T> ? broadcast<T>(0) : m[k];
      if (begin > 0) sum[k].scale(exp_bounded<T>(shift[k] - next));
      shift[k] = next;
      part[k] = broadcast<T>(0);
    }
    for (int64_t c = begin; c < end; ++c)
#pragma GCC unroll 4
      for (int k = 0; k < V; ++k) {
        const Vec<T> v = lanes.load(x + c * s.inner, k);
        part[k] += exp_bounded<T>(v - shift[k]);
        each(c, k, v);
      }
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) sum[k].add(part[k]);
  }
#pragma GCC unroll 4
  for (int k = 0; k < V; ++k) {
    maximum[k] = m[k];
    log_sum[k] = log<T>(sum[k].total);
  }
}

}  // namespace fastdl::classes
