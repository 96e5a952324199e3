// What both directions of a fold share (fold_rows.h, fold_columns.h). FoldFrame is what surrounds the
// arithmetic: the walk over the reduced axes, where results go, how partial results are joined. It knows no
// types and is compiled once; the loops that do are reached through pointers, for several rows at a time.
// Folder is the arithmetic: how elements are read, and the chains of additions: up to kDepth vectors are
// joined in the computation's own type, then a chain goes to double accumulators.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/elementwise/functions.h"
#include "cpu/gemm/pack.h"
#include "cpu/reduce.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

using namespace simd;
using D = Vec<double>;
constexpr int w = kWidth<double>;
constexpr int64_t kGrain = 16384;  // elements worth about 10 us
constexpr int64_t kDepth = 8;      // additions before a chain goes to double
constexpr int64_t kPage = 4096;
constexpr double kInf = std::numeric_limits<double>::infinity();

// join works on vectors and on single numbers.
struct Add {
  static constexpr double start = 0;
  template <class V>
  [[gnu::always_inline]] static V join(V a, V b) {
    return a + b;
  }
};
struct Multiply {
  static constexpr double start = 1;
  template <class V>
  [[gnu::always_inline]] static V join(V a, V b) {
    return a * b;
  }
};
struct Max {
  static constexpr double start = -kInf;
  template <class V>
  [[gnu::always_inline]] static V join(V a, V b) {
    if constexpr (sizeof(V) == kBytes)
      return nan_of(a, max(a, b));  // simd::max gives b if either is NaN
    else
      return a != a || a > b ? a : b;
  }
};
struct Min {
  static constexpr double start = kInf;
  template <class V>
  [[gnu::always_inline]] static V join(V a, V b) {
    if constexpr (sizeof(V) == kBytes)
      return nan_of(a, min(a, b));
    else
      return a != a || a < b ? a : b;
  }
};

// A number that Format (simd/half.h) loads as a float.
template <class F>
struct Stored {
  using Format = F;
  uint16_t bits;
};

// kWidth<C> elements of T as C, or the first n of them.
template <class C, class T>
[[gnu::always_inline]] inline Vec<C> load_as(const T* p) {
  if constexpr (sizeof(T) == 2) {
    return T::Format::load(&p->bits);
  } else if constexpr (sizeof(T) == sizeof(C)) {
    return load(p);
  } else {
    Half part;
    std::memcpy(&part, p, sizeof part);
    return to_double(part);
  }
}
template <class C, class T>
[[gnu::always_inline]] inline Vec<C> load_as_n(const T* p, int n) {
  if constexpr (sizeof(T) == 2) {
    T some[kWidth<C>] = {};
    std::memcpy(some, p, size_t(n) * sizeof(T));
    return T::Format::load(&some->bits);
  } else if constexpr (sizeof(T) == sizeof(C))
    return load_n(p, n);
  else
    return widen<0>(load_n(p, n));
}

// The lanes below n of `value`, the others of `rest`.
template <class C>
[[gnu::always_inline]] inline Vec<C> first_lanes(Vec<C> value, Vec<C> rest, int n) {
  Vec<Int<C>> lane;
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<C>; ++i) lane[i] = i;
  return lane < Int<C>(n) ? value : rest;
}

// All lanes joined, halving: lane i with lane i + step, which is always a whole vector's work and no branch.
template <class Join, int step = w / 2>
[[gnu::always_inline]] inline double join_lanes(D v) {
  if constexpr (step == 0) {
    return v[0];
  } else {
    const D turned = [&]<int... i>(std::integer_sequence<int, i...>) {
      return __builtin_shufflevector(v, v, ((i + step) % w)...);
    }(std::make_integer_sequence<int, w>());
    return join_lanes<Join, step / 2>(Join::join(v, turned));
  }
}

// w vectors, each joined to one lane of the result: every round joins the halves of two.
template <class Join>
[[gnu::always_inline]] inline D join_transposed(D (&v)[w]) {
  constexpr auto order = std::make_integer_sequence<int, w>{};
#pragma GCC unroll 4
  for (int half = w / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i)
      v[i] = Join::join(tile::zip_low<double>(v[i], v[i + half], order),
                        tile::zip_high<double>(v[i], v[i + half], order));
  return v[0];
}

// How y comes: not at all, one per element, or one for the whole row.
enum class Second { none, each, constant };

// acc[0 .. n) = join with other[0 .. n).
template <class Join>
void merge(double* acc, const double* other, int64_t n) {
  int64_t i = 0;
  for (; i + w <= n; i += w) store(acc + i, Join::join(load(acc + i), load(other + i)));
  for (; i < n; ++i) acc[i] = Join::join(acc[i], other[i]);
}

struct FoldFrame {
  const ReduceProblem& p;
  const FoldOutput& to;
  bool to_single;  // results are floats
  int64_t x_item, y_item;
  Second y_comes;
  double start;  // of a fold: what changes nothing
  void (*merge)(double*, const double*, int64_t);

  void put(int64_t place, double value) const {
    value *= to.scale;
    if (to.root) value = std::sqrt(value);
    if (to_single)
      static_cast<float*>(to.data)[place] = float(value);
    else
      static_cast<double*>(to.data)[place] = value;
  }
  void put(int64_t place, int64_t stride, const double* values, int64_t count) const {
    int64_t i = 0;
    if (stride == 1)
      for (; i + w <= count; i += w) {
        D scaled = load(values + i) * to.scale;
        if (to.root)
#pragma GCC unroll 8
          for (int j = 0; j < w; ++j) scaled[j] = std::sqrt(scaled[j]);
        if (to_single) {
          const Half part = simd::to_single(scaled);
          std::memcpy(static_cast<float*>(to.data) + place + i, &part, sizeof part);
        } else {
          store(static_cast<double*>(to.data) + place + i, scaled);
        }
      }
    for (; i < count; ++i) put(place + i * stride, values[i]);
  }

  // Once for all loops that have little else to do: what it would take in each of them is 3 kB of the wheel.
  [[gnu::noinline]] void put_apart(int64_t place, int64_t stride, const double* values, int64_t count) const {
    put(place, stride, values, count);
  }

  // Walks the reduced space from flat position `begin` to `end`, calling row(x, y, count) for runs of its
  // last axis.
  template <class Row>
  void walk(int64_t begin, int64_t end, const char* x, const char* y, Row&& row) const {
    const int axes = p.reduced_axes;
    if (begin >= end) return;
    if (axes == 0) return row(x, y, int64_t{1});
    const auto& inner = p.reduced[axes - 1];
    if (axes == 1) return row(x + begin * inner.x, y + begin * inner.y, end - begin);
    int64_t index[ReduceProblem::kMaxAxes];
    int64_t rest = begin / inner.extent, column = begin % inner.extent;
    for (int a = axes - 2; a >= 0; --a) {
      index[a] = rest % p.reduced[a].extent;
      rest /= p.reduced[a].extent;
      x += index[a] * p.reduced[a].x;
      y += index[a] * p.reduced[a].y;
    }
    for (int64_t position = begin; position < end; column = 0) {
      const int64_t count = std::min(inner.extent - column, end - position);
      row(x + column * inner.x, y + column * inner.y, count);
      position += count;
      for (int a = axes - 2; a >= 0; --a) {
        x += p.reduced[a].x;
        y += p.reduced[a].y;
        if (++index[a] < p.reduced[a].extent) break;
        x -= index[a] * p.reduced[a].x;
        y -= index[a] * p.reduced[a].y;
        index[a] = 0;
      }
    }
  }

  // The first `axes` kept axes: where output number k is, in the inputs and in the result.
  void locate(int64_t k, int axes, const char*& x, const char*& y, int64_t& place) const {
    x = p.x, y = p.y, place = 0;
    if (axes == 1) {  // the common case, without divisions
      x += k * p.kept[0].x;
      y += k * p.kept[0].y;
      place = k * p.kept[0].out;
      return;
    }
    for (int a = axes - 1; a >= 0; --a) {
      const int64_t index = k % p.kept[a].extent;
      k /= p.kept[a].extent;
      x += index * p.kept[a].x;
      y += index * p.kept[a].y;
      place += index * p.kept[a].out;
    }
  }

  // Into how many slices the reduced space is cut, given `tasks` pieces of work without slicing.
  int64_t slice_count(int64_t tasks) const {
    const int64_t wanted = fastdl::detail::kChunksPerThread * num_threads();
    if (num_threads() == 1 || tasks * 2 >= wanted) return 1;
    // Less than five grains would not wake a thread.
    const int64_t by_work =
        p.kept_size * p.reduced_size < 5 * kGrain ? 1 : p.kept_size * p.reduced_size / kGrain;
    return std::clamp<int64_t>(std::min(wanted / tasks, by_work), 1, p.reduced_size);
  }
  void join_slices(double* partial, int64_t slices) const {
    for (int64_t s = 1; s < slices; ++s) merge(partial, partial + s * p.kept_size, p.kept_size);
    put(0, 1, partial, p.kept_size);
  }
};

// A chain of additions waits for itself, so there are four of them. Behind a map of tens of instructions two
// are as fast, in half of the code (4 to 9 kB of the wheel); with AVX-512's short exponentials 2 % slower.
constexpr int kLongChains = kBytes == 64 ? 4 : 2;

// T, U: elements of x and y; C: what map is computed in (T or double).
template <class T, class U, class C, Second second, class Join, class Map, int chains>
struct Folder : FoldFrame {
  static constexpr int v = kWidth<C>;
  using V = Vec<C>;
  const Map map;

  Folder(const ReduceProblem& problem, const FoldOutput& out, Map f)
      : FoldFrame{problem,
                  out,
                  sizeof(T) == 4 && !out.as_double,
                  sizeof(T),
                  sizeof(U),
                  second,
                  Join::start,
                  fastdl::merge<Join>},
        map(f) {}

  // Element i of a piece and those behind it, mapped. What lies `ahead` bytes further is asked for: additions
  // alone do not fill the instruction window, and hardware's own prefetching starts anew at every page.
  [[gnu::always_inline]] V at(const char* x, const char* y, int64_t i, int64_t ahead) const {
    const auto* px = reinterpret_cast<const T*>(x);
    const auto* py = reinterpret_cast<const U*>(y);
    __builtin_prefetch(x + i * int64_t(sizeof(T)) + ahead);
    if constexpr (second == Second::each)
      return map(load_as<C>(px + i), load_as<C>(py + i));
    else if constexpr (second == Second::constant)
      return map(load_as<C>(px + i), broadcast<C>(C(*py)));
    else
      return map(load_as<C>(px + i), V{});
  }
  // The first n < v of them, `rest` in the other lanes.
  [[gnu::always_inline]] V at_n(const char* x, const char* y, int n, V rest) const {
    const auto* px = reinterpret_cast<const T*>(x);
    const auto* py = reinterpret_cast<const U*>(y);
    V second_value{};
    if constexpr (second == Second::each) second_value = load_as_n<C>(py, n);
    if constexpr (second == Second::constant) second_value = broadcast<C>(C(*py));
    return first_lanes<C>(map(load_as_n<C>(px, n), second_value), rest, n);
  }

  // Joins `count` pieces, x_step and y_step bytes apart, each `width` vectors wide.
  template <int width>
  [[gnu::always_inline]] void chain(V (&sums)[width], const char* x, const char* y, int64_t x_step,
                                    int64_t y_step, int64_t count, int64_t ahead) const {
#pragma GCC unroll 4
    for (int j = 0; j < width; ++j)
      sums[j] = chains < 4 ? broadcast<C>(C(Join::start)) : at(x, y, j * v, ahead);
    if constexpr (chains == 4) x += x_step, y += y_step, --count;
    for (; count > 0; --count, x += x_step, y += y_step)
#pragma GCC unroll 4
      for (int j = 0; j < width; ++j) sums[j] = Join::join(sums[j], at(x, y, j * v, ahead));
  }

  // acc[0 .. v) = join with the lanes of value, as doubles.
  [[gnu::always_inline]] static void flush(D (&acc)[2], V value) {
    if constexpr (sizeof(C) == 8) {
      acc[0] = Join::join(acc[0], value);
    } else {
      acc[0] = Join::join(acc[0], widen<0>(value));
      acc[1] = Join::join(acc[1], widen<1>(value));
    }
  }
  [[gnu::always_inline]] static void flush(double* acc, V value) {
    if constexpr (sizeof(C) == 8) {
      store(acc, Join::join(load(acc), value));
    } else {
      store(acc, Join::join(load(acc), widen<0>(value)));
      store(acc + w, Join::join(load(acc + w), widen<1>(value)));
    }
  }
};

}  // namespace
}  // namespace fastdl
