// How every elementwise kernel walks its operands (StridedLoop): the flattened iteration space is cut into
// ranges for the threads, a range into rows of the innermost axis, and the kernel only ever sees contiguous
// runs.
//
//   for_each_run<kOut, Ts...>(loop, grain, f)    f(n, pointers...) for runs of n contiguous elements
//
// Ts are the operands' element types; the first kOut operands are outputs.
//
// An operand that is not contiguous along the innermost axis is gathered (outputs: scattered) through a block
// of kBlock elements on the stack; one that is constant there (a broadcast scalar or column) fills that block
// once per row; one stored in half precision is converted into it, and back. So a kernel is compiled once,
// for contiguous runs, and broadcasting costs one extra load from the first-level cache. (Filling a block
// takes as long as a sum: map_beside has a second form, which reads a constant from one vector.) The walk
// itself is compiled once for all kernels (loop.cpp) and calls them through a pointer: some fifty of them, two
// element types each, would otherwise be the largest part of the library.
//
// map<T>(loop, grain, f) builds on it for one output and inputs of one type: vector body, masked ends, and
// results beyond the caches are stored past them (the line is then not read first: three memory streams
// instead of four for x + y), unless they are written over an input, whose lines are there already.
#pragma once

#include <algorithm>
#include <utility>

#include "cpu/elementwise.h"
#include "cpu/simd/map_vectors.h"

namespace fastdl {

// One kernel on `rows` rows of n contiguous elements per operand, whose starts are `pitch` bytes apart; `f`
// is its function object.
template <int N>
using Run = void (*)(const void* f, int64_t n, char* const* operands, int64_t rows, const int64_t* pitch);

template <int N>
struct Elements {
  int outputs;  // how many operands are outputs: they come first
  int bytes[N];
};

// Calls run for all of the space, on all threads. `streams`: it stores past the caches.
template <int N>
void walk(const StridedLoop<N>& loop, const Elements<N>& elements, int64_t grain, Run<N> run, const void* f,
          bool streams);

// The same for a kernel of two inputs with a second form, `beside`, for runs beside constants. Behind the
// pitches it finds a mask of the index for each operand: all ones, or 0 for a constant, whose rows are a
// vector full of it.
void walk_beside(const StridedLoop<3>& loop, const Elements<3>& elements, int64_t grain, Run<3> run,
                 Run<3> beside, const void* f, bool streams);

// Is the result (operand 0) better stored past the caches?
template <int N>
bool worth_streaming(const StridedLoop<N>& loop, int64_t bytes);

namespace {

using namespace simd;

constexpr int64_t kGrain = 16384;     // elements worth about 10 us at memory speed
constexpr int64_t kGrainSlow = 2048;  // the same for functions of some 5 ns per element

template <int kOut, class... Ts, int N, class F>
void for_each_run(const StridedLoop<N>& loop, int64_t grain, const F& f, bool streams = false) {
  static_assert(sizeof...(Ts) == N);
  walk<N>(
      loop, {kOut, {int(sizeof(Ts))...}}, grain,
      [](const void* object, int64_t n, char* const* operands, int64_t rows, const int64_t* pitch) {
        [&]<size_t... I>(std::index_sequence<I...>) {
          for (int64_t row = 0; row < rows; ++row)
            (*static_cast<const F*>(object))(n, reinterpret_cast<Ts*>(operands[I] + row * pitch[I])...);
        }(std::make_index_sequence<N>());
      },
      &f, streams);
}

template <size_t, class T>
using Same = T;  // Same<I, T>... is T once per I

// kLong: f is long (simd/map_vectors.h).
template <class T, bool kLong = false, int N, class F>
void map(const StridedLoop<N>& loop, int64_t grain, F f) {
  const bool streams = worth_streaming(loop, sizeof(T));
  const auto run = [f, streams](int64_t n, T* y, const auto*... x) {
    const F g = f;  // what it captured goes to registers: no store can change it
    map_vectors<kLong>(y, n, streams, g, x...);
  };
  [&]<size_t... I>(std::index_sequence<I...>) {
    for_each_run<1, Same<I, T>...>(loop, grain, run, streams);
  }(std::make_index_sequence<N>());
}

// map for short functions of two inputs, one of which is often a column or a factor for each plane.
template <class T, class F>
void map_beside(const StridedLoop<3>& loop, int64_t grain, F f) {
  struct Kernel {
    F f;
    bool streams;

    static void run(const void* kernel, int64_t n, char* const* operands, int64_t rows,
                    const int64_t* pitch) {
      const auto [f, streams] = *static_cast<const Kernel*>(kernel);
      for (int64_t row = 0; row < rows; ++row)
        map_vectors<false>(reinterpret_cast<T*>(operands[0] + row * pitch[0]), n, streams, f,
                           reinterpret_cast<const T*>(operands[1] + row * pitch[1]),
                           reinterpret_cast<const T*>(operands[2] + row * pitch[2]));
    }

    static void beside(const void* kernel, int64_t n, char* const* operands, int64_t rows,
                       const int64_t* pitch) {
      const F f = static_cast<const Kernel*>(kernel)->f;
      const int64_t y_next = pitch[0], a_next = pitch[1], b_next = pitch[2], a_mask = pitch[4],
                    b_mask = pitch[5];
      char *y_row = operands[0], *a_row = operands[1], *b_row = operands[2];
      for (; rows > 0; --rows, y_row += y_next, a_row += a_next, b_row += b_next) {
        T* y = reinterpret_cast<T*>(y_row);
        const T *a = reinterpret_cast<const T*>(a_row), *b = reinterpret_cast<const T*>(b_row);
        int64_t i = 0;
        for (; i + kWidth<T> <= n; i += kWidth<T>)
          store(y + i, f(load(a + (i & a_mask)), load(b + (i & b_mask))));
        if (const int rest = int(n - i); rest > 0)
          store_n(y + i, f(load_n(a + (i & a_mask), rest), load_n(b + (i & b_mask), rest)), rest);
      }
    }
  };
  const Kernel kernel{f, worth_streaming(loop, sizeof(T))};
  constexpr int bytes = sizeof(T);
  walk_beside(loop, {1, {bytes, bytes, bytes}}, grain, &Kernel::run, &Kernel::beside, &kernel,
              kernel.streams);
}

}  // namespace
}  // namespace fastdl
