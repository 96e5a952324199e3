// How every elementwise kernel walks its operands (StridedLoop): the flattened iteration space is cut into
// ranges for the threads, a range into rows of the innermost axis, and the kernel only ever sees contiguous
// runs.
//
//   for_each_run<Out.., In..>(loop, grain, f)    f(n, pointers...) for runs of n contiguous elements per
//   operand
//
// An operand that is not contiguous along the innermost axis is gathered (outputs: scattered) through a block
// of kBlock elements on the stack; one that is constant there (a broadcast scalar or column) fills that block
// once per row. So a kernel is compiled once, for contiguous runs, and broadcasting costs one extra load from
// the first-level cache.
//
// map<T>(loop, grain, f) builds on it for one output and inputs of one type: vector body, masked tail, and
// results beyond the caches are stored past them (the line is then not read first: three memory streams
// instead of four for x + y), unless they are written over an input, whose lines are there already.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>

#include "cpu/elementwise.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using namespace simd;

constexpr int64_t kBlock = 256;
constexpr int64_t kStreamBytes = 16 << 20;  // outputs from here on are stored past the caches
constexpr int64_t kGrain = 16384;           // elements worth about 10 us at memory speed
constexpr int64_t kGrainSlow = 2048;        // the same for functions of some 5 ns per element

template <class T>
inline void gather(T* to, const char* from, int64_t stride, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = *reinterpret_cast<const T*>(from + i * stride);
}
template <class T>
inline void scatter(char* to, int64_t stride, const T* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) *reinterpret_cast<T*>(to + i * stride) = from[i];
}

// One range of the flattened space, on one thread. Ts: the operands' element types, the first `kOut` are
// outputs.
template <int kOut, class... Ts, int N, class F, size_t... I>
void walk(const StridedLoop<N>& loop, int64_t begin, int64_t end, F&& f, std::index_sequence<I...>) {
  static_assert(sizeof...(Ts) == N);
  constexpr int64_t item[] = {int64_t(sizeof(Ts))...};
  const int64_t row = loop.axes > 0 ? loop.extent[0] : 1;
  int64_t step[N];  // strides along the innermost axis
  bool direct = true;
  for (int i = 0; i < N; ++i) {
    step[i] = loop.axes > 0 ? loop.stride[0][i] : item[i];
    direct &= step[i] == item[i];
  }

  // Where `begin` is: index[] of the outer axes, and the operands' row starts.
  int64_t index[StridedLoop<N>::kMaxAxes];
  char* start[N];
  for (int i = 0; i < N; ++i) start[i] = loop.data[i];
  int64_t rest = begin / row, column = begin % row;
  for (int axis = 1; axis < loop.axes; ++axis) {
    index[axis] = rest % loop.extent[axis];
    rest /= loop.extent[axis];
    for (int i = 0; i < N; ++i) start[i] += index[axis] * loop.stride[axis][i];
  }

  alignas(64) char blocks[N][kBlock * sizeof(double)];  // touched only for operands that need one
  for (int64_t position = begin; position < end;) {
    const int64_t n = std::min(row - column, end - position);
    if (direct) {
      f(n, reinterpret_cast<Ts*>(start[I] + column * item[I])...);
    } else {
      bool filled = false;
      for (int64_t done = 0; done < n; done += kBlock) {
        const int64_t count = std::min(kBlock, n - done);
        auto place = [&]<size_t i, class T>() -> T* {
          char* here = start[i] + (column + done) * step[i];
          if (step[i] == item[i]) return reinterpret_cast<T*>(here);
          T* block = reinterpret_cast<T*>(blocks[i]);
          if constexpr (int(i) >= kOut) {
            if (step[i] != 0)
              gather(block, here, step[i], count);
            else if (!filled)
              std::fill_n(block, std::min(kBlock, n), *reinterpret_cast<const T*>(here));
          }
          return block;
        };
        std::tuple<Ts*...> pointers{place.template operator()<I, Ts>()...};
        f(count, std::get<I>(pointers)...);
        auto put_back = [&]<size_t i, class T>() {
          if constexpr (int(i) < kOut)
            if (step[i] != item[i])
              scatter(start[i] + (column + done) * step[i], step[i], std::get<i>(pointers), count);
        };
        (put_back.template operator()<I, Ts>(), ...);
        filled = true;
      }
    }
    position += n;
    column = 0;
    for (int axis = 1; axis < loop.axes; ++axis) {
      for (int i = 0; i < N; ++i) start[i] += loop.stride[axis][i];
      if (++index[axis] < loop.extent[axis]) break;
      for (int i = 0; i < N; ++i) start[i] -= index[axis] * loop.stride[axis][i];
      index[axis] = 0;
    }
  }
}

template <int kOut, class... Ts, int N, class F>
void for_each_run(const StridedLoop<N>& loop, int64_t grain, F&& f) {
  parallel_for(loop.size, grain, [&](int64_t begin, int64_t end) {
    walk<kOut, Ts...>(loop, begin, end, f, std::make_index_sequence<N>());
  });
}

// y[i] = f(x[i]...): vectors, then a masked tail.
template <class T, class F, class... In>
inline void map_run(F& f, int64_t n, T* y, const In*... x) {
  constexpr int w = kWidth<T>;
  int64_t i = 0;
  for (; i + w <= n; i += w) store(y + i, f(load(x + i)...));
  if (i < n) store_n(y + i, f(load_n(x + i, int(n - i))...), int(n - i));
}
template <class T, class F, class... In>
inline void map_run_streaming(F& f, int64_t n, T* y, const In*... x) {
  constexpr int w = kWidth<T>;
  const int64_t head = std::min(n, int64_t(-reinterpret_cast<uintptr_t>(y) / sizeof(T)) & (w - 1));
  int64_t i = head;
  if (head > 0) store_n(y, f(load_n(x, int(head))...), int(head));
  for (; i + w <= n; i += w) {
    (prefetch_ahead(x + i), ...);
    stream_store(y + i, f(load(x + i)...));
  }
  if (i < n) store_n(y + i, f(load_n(x + i, int(n - i))...), int(n - i));
}

template <int N>
bool worth_streaming(const StridedLoop<N>& loop, int64_t item) {
  constexpr int64_t kLongRow = 4096;  // shorter rows would leave too many lines half stored, half streamed
  if (loop.size * item < kStreamBytes || loop.axes == 0 || loop.extent[0] < kLongRow ||
      loop.stride[0][0] != item)
    return false;
  for (int i = 1; i < N; ++i)
    if (loop.data[i] == loop.data[0]) return false;
  return true;
}

template <size_t, class T>
using Same = T;  // Same<I, T>... is T once per I

template <class T, int N, class F, size_t... I>
void map_all(const StridedLoop<N>& loop, int64_t grain, F f, std::index_sequence<I...>) {
  if (worth_streaming(loop, sizeof(T)))
    parallel_for(loop.size, grain, [&](int64_t begin, int64_t end) {
      walk<1, Same<I, T>...>(
          loop, begin, end,
          [&](int64_t n, T* y, auto*... x) { map_run_streaming(f, n, y, static_cast<const T*>(x)...); },
          std::make_index_sequence<N>());
      fence();
    });
  else
    for_each_run<1, Same<I, T>...>(
        loop, grain, [&](int64_t n, T* y, auto*... x) { map_run(f, n, y, static_cast<const T*>(x)...); });
}
template <class T, int N, class F>
void map(const StridedLoop<N>& loop, int64_t grain, F f) {
  map_all<T>(loop, grain, f, std::make_index_sequence<N>());
}

}  // namespace
}  // namespace fastdl
