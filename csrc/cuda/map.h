// y[i] = f(x0[i], x1[i], ..) over arrays with strides: the loop under every elementwise kernel.
//
// The host merges axes that lie behind one another in all arrays. What remains is usually one axis, dense or
// broadcast in every array (`dense_map`): a thread loads kUnrolled packs of 16 bytes of each array, 256 packs
// apart, before it computes, so that enough bytes are on their way; there is no loop. Otherwise
// (`map_kernel`) there are one inner axis and at most kOuter outer ones: a pack is one access where an array
// is dense and aligned, one broadcast element where its stride is 0, single elements otherwise (and at the
// end of a row). Outer coordinates cost one multiplication each (Divisor), per pack. Arrays are read and
// written once.
//
// A functor whose `op` is one of kOperations numbers is branched on once for all elements of a thread, and
// computed with the number known to the compiler (with_operation).
#pragma once

#include <utility>

#include "cuda/numeric.h"

namespace fastdl::cuda {

// Packs of operations that need many instructions are smaller: less code, and still at least 8 bytes an
// access.
template <class T>
constexpr int kShort = kWidest<T> < 4 ? kWidest<T> : 4;

// A list of operations X(name) X(name) .. as how many they are: kOperations = 0 LIST(FASTDL_CUDA_COUNT).
#define FASTDL_CUDA_COUNT(name) +1

constexpr int kOuter = 5;
constexpr int kMapThreads = 256;

struct Geometry {
  uint32_t packs = 0;      // of all rows
  int64_t inner = 1;       // elements of a row
  int outer = 0;           // axes beside it
  Divisor per_row;         // packs of a row
  Divisor extent[kOuter];  // of the outer axes, the last one first
};

template <class T>
struct Operand {
  T* data;                // null: the number below
  int64_t inner;          // stride of the inner axis
  int64_t outer[kOuter];  // strides of the outer axes, the last one first
  Compute<std::remove_const_t<T>> value;
  bool packed;  // whole packs can be moved by one access
};

struct Position {
  int64_t start;  // in the row
  int count;      // elements there, at most a pack
  uint32_t at[kOuter];
};

template <int N>
__device__ __forceinline__ Position locate(const Geometry& g, uint32_t pack) {
  Position p;
  uint32_t row = 0;
  if (g.outer > 0) {
    row = g.per_row.quotient(pack);
    pack -= row * g.per_row.divisor;
  }
  p.start = int64_t(pack) * N;
  p.count = g.inner - p.start < N ? int(g.inner - p.start) : N;
  FASTDL_UNROLL
  for (int d = 0; d < kOuter; ++d) {
    if (d < g.outer) {
      const uint32_t q = g.extent[d].quotient(row);
      p.at[d] = row - q * g.extent[d].divisor;
      row = q;
    } else {
      p.at[d] = 0;
    }
  }
  return p;
}

template <class T>
__device__ __forceinline__ T* address(const Geometry& g, const Position& p, const Operand<T>& x) {
  int64_t offset = p.start * x.inner;
  FASTDL_UNROLL
  for (int d = 0; d < kOuter; ++d)
    if (d < g.outer) offset += p.at[d] * x.outer[d];
  return x.data + offset;
}

// A pack as it lies in memory (nothing waits for it yet), or a number.
template <class T, int N>
struct Fetched {
  Loaded<T, N> pack;
  Compute<T> value;
  bool number;

  __device__ __forceinline__ Compute<T> operator[](int k) const {
    return number ? value : Compute<T>(widen(pack[k]));
  }
};

template <int N, class T>
__device__ __forceinline__ Fetched<T, N> fetch(const Geometry& g, const Position& p,
                                               const Operand<const T>& x) {
  Fetched<T, N> r{{}, x.value, x.data == nullptr};
  if (r.number) return r;
  const T* from = address(g, p, x);
  if (x.packed && p.count == N) {
    r.pack = Loaded<T, N>(*reinterpret_cast<const Pack<T, N>*>(from));
    return r;
  }
  Pack<T, N> elements;
  if (x.inner == 0) {
    const T one = *from;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) elements.v[k] = one;
  } else {
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) elements.v[k] = from[k < p.count ? k * x.inner : 0];
  }
  r.pack = Loaded<T, N>(elements);
  return r;
}

template <int N, class T>
__device__ __forceinline__ void write(const Geometry& g, const Position& p, const Operand<T>& y,
                                      const Values<Compute<T>, N>& values) {
  T* to = address(g, p, y);
  if (y.packed && p.count == N) {
    Pack<T, N> pack;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) pack.v[k] = narrow<T>(values.v[k]);
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
  } else {
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k)
      if (k < p.count) to[k * y.inner] = narrow<T>(values.v[k]);
  }
}

// Calls body(f) with an f whose operation is a constant.
template <int kFirst, int kEnd, class F, class Body>
__device__ __forceinline__ void choose_operation(const F& f, Body&& body) {
  if constexpr (kEnd - kFirst == 1) {
    F fixed = f;
    fixed.op = decltype(fixed.op)(kFirst);
    body(fixed);
  } else {
    constexpr int kMiddle = (kFirst + kEnd) / 2;
    if (int(f.op) < kMiddle)
      choose_operation<kFirst, kMiddle>(f, body);
    else
      choose_operation<kMiddle, kEnd>(f, body);
  }
}
template <class F, class Body>
__device__ __forceinline__ void with_operation(const F& f, Body&& body) {
  if constexpr (requires { F::kOperations; })
    choose_operation<0, F::kOperations>(f, body);
  else
    body(f);
}

template <int N, class F, class Out, class... V>
__device__ __forceinline__ void apply(const Geometry& g, const Position& p, const F& f, const Operand<Out>& y,
                                      const V&... x) {
  Values<Compute<Out>, N> r;
  with_operation(f, [&](const auto& fixed) {
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) r.v[k] = fixed(x[k]...);
  });
  write<N>(g, p, y, r);
}

template <int N, class F, class Out, class... In>
__global__ void __launch_bounds__(kMapThreads)
    map_kernel(Geometry g, F f, Operand<Out> y, Operand<const In>... x) {
  for (uint32_t pack = blockIdx.x * kMapThreads + threadIdx.x; pack < g.packs;
       pack += gridDim.x * kMapThreads) {
    const Position p = locate<N>(g, pack);
    apply<N>(g, p, f, y, fetch<N, In>(g, p, x)...);
  }
}

// One axis, every array dense and aligned, or broadcast.
struct Dense {
  uint32_t packs, whole;  // the last may not be whole
  int rest;               // elements of that one

  template <int N>
  __device__ __forceinline__ int elements(uint32_t pack) const {
    return pack < whole ? N : pack < packs ? rest : 0;
  }
};

template <int N, class T>
__device__ __forceinline__ Fetched<T, N> fetch(const Dense& g, const Operand<const T>& x, uint32_t pack) {
  Fetched<T, N> r{{}, x.value, x.data == nullptr};
  if (r.number || pack >= g.packs) return r;
  if (x.inner != 0 && pack < g.whole) {
    r.pack = Loaded<T, N>(reinterpret_cast<const Pack<T, N>*>(x.data)[pack]);
    return r;
  }
  Pack<T, N> elements{};
  FASTDL_UNROLL
  for (int k = 0; k < N; ++k)
    if (x.inner == 0)
      elements.v[k] = *x.data;
    else if (k < g.rest)
      elements.v[k] = x.data[int64_t(pack) * N + k];
  r.pack = Loaded<T, N>(elements);
  return r;
}
template <int N, class T>
__device__ __forceinline__ void put(const Dense& g, const Operand<T>& y, uint32_t pack,
                                    const Values<Compute<T>, N>& values) {
  if (pack < g.whole) {
    Pack<T, N> narrowed;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) narrowed.v[k] = narrow<T>(values.v[k]);
    reinterpret_cast<Pack<T, N>*>(y.data)[pack] = narrowed;
  } else if (pack < g.packs) {
    FASTDL_UNROLL
    for (int k = 0; k < N - 1; ++k)
      if (k < g.rest) y.data[int64_t(pack) * N + k] = narrow<T>(values.v[k]);
  }
}

// Packs of each array that a thread loads at once. Functors of much code have one.
template <class F>
constexpr int unrolled() {
  if constexpr (requires { F::kUnrolled; })
    return F::kUnrolled;
  else
    return 2;
}

template <int N, int U, class F, class Out, class... In>
__global__ void __launch_bounds__(kMapThreads)
    dense_map(Dense g, F f, Operand<Out> y, Operand<const In>... x) {
  const uint32_t first = blockIdx.x * (U * kMapThreads) + threadIdx.x;
  std::tuple<Fetched<In, N>...> loaded[U];
  FASTDL_UNROLL
  for (int u = 0; u < U; ++u)
    loaded[u] = std::tuple<Fetched<In, N>...>(fetch<N>(g, x, first + u * kMapThreads)...);
  Values<Compute<Out>, N> r[U];
  with_operation(f, [&](const auto& fixed) {
    FASTDL_UNROLL
    for (int u = 0; u < U; ++u) FASTDL_UNROLL
    for (int k = 0; k < N; ++k)
      r[u].v[k] = std::apply([&](const auto&... packs) { return fixed(packs[k]...); }, loaded[u]);
  });
  FASTDL_UNROLL
  for (int u = 0; u < U; ++u) put<N>(g, y, first + u * kMapThreads, r[u]);
}

// ---- on the host

// Shape and strides after merging; axis 0 of the result is the inner one.
struct Merged {
  Shape extents;
  std::vector<std::vector<int64_t>> strides;  // per array
};

inline Merged merge(const char* op, const Shape& shape, const std::vector<const Strided*>& arrays) {
  Merged m;
  m.strides.resize(arrays.size());
  for (size_t d = shape.size(); d-- > 0;) {
    if (shape[d] == 1) continue;
    bool joins = !m.extents.empty();
    for (size_t i = 0; joins && i < arrays.size(); ++i)
      joins = arrays[i]->data == nullptr || arrays[i]->strides[d] == m.strides[i].back() * m.extents.back();
    if (joins) {
      m.extents.back() *= shape[d];
      continue;
    }
    m.extents.push_back(shape[d]);
    for (size_t i = 0; i < arrays.size(); ++i)
      m.strides[i].push_back(arrays[i]->data == nullptr ? 0 : arrays[i]->strides[d]);
  }
  if (m.extents.empty()) {
    m.extents.push_back(1);
    for (auto& strides : m.strides) strides.push_back(1);
  }
  if (m.extents.size() > kOuter + 1)
    throw std::invalid_argument(std::string(op) + ": the arrays' axes can be merged into " +
                                std::to_string(m.extents.size()) + " only, at most " +
                                std::to_string(kOuter + 1) +
                                " are supported on CUDA; make the arrays contiguous");
  return m;
}

template <int N, class T>
Operand<T> operand(const Strided& array, const Merged& m, size_t index) {
  Operand<T> x{};
  x.data = static_cast<T*>(array.data);
  x.value = Compute<std::remove_const_t<T>>(array.value);
  x.inner = m.strides[index][0];
  x.packed = x.inner == 1 && aligned(array.data, sizeof(T) * N);
  for (size_t d = 1; d < m.extents.size(); ++d) {
    x.outer[d - 1] = m.strides[index][d];
    x.packed = x.packed && m.strides[index][d] % N == 0;
  }
  return x;
}

template <int N>
Geometry geometry_of(const char* op, int64_t size, const Merged& m) {
  Geometry g;
  g.inner = m.extents[0];
  g.outer = int(m.extents.size()) - 1;
  const int64_t per_row = (g.inner + N - 1) / N, packs = size / g.inner * per_row;
  if (packs >= int64_t(1) << 31)
    throw std::invalid_argument(std::string(op) + ": too many elements for one call");
  g.packs = uint32_t(packs);
  g.per_row = Divisor(uint32_t(per_row));
  for (int d = 0; d < g.outer; ++d) g.extent[d] = Divisor(uint32_t(m.extents[size_t(d) + 1]));
  return g;
}

template <class... T>
bool all_dense(const Merged& m, const Operand<T>&... x) {
  return m.extents.size() == 1 && ((x.data == nullptr || x.inner == 0 || x.packed) && ...);
}
template <int N>
Dense dense_of(const Geometry& g) {
  return {g.packs, uint32_t(g.inner / N), int(g.inner % N)};
}

template <int N, class F, class Out, class... In>
void launch_map(const char* op, int64_t size, const F& f, Stream stream, const Merged& m,
                const Operand<Out>& y, const Operand<const In>&... x) {
  const Geometry g = geometry_of<N>(op, size, m);
  if (y.inner == 0 || !all_dense(m, y, x...))
    return launch(op, map_kernel<N, F, Out, In...>, dim3(grid_for(g.packs, kMapThreads)), dim3(kMapThreads),
                  0, stream, g, f, y, x...);
  constexpr int U = unrolled<F>();
  const unsigned blocks = (g.packs + U * kMapThreads - 1) / (U * kMapThreads);
  launch(op, dense_map<N, U, F, Out, In...>, dim3(blocks), dim3(kMapThreads), 0, stream, dense_of<N>(g), f, y,
         x...);
}

template <class Out, class... In, class F, class... X, size_t... I>
void map_merged(const char* op, int64_t size, const F& f, Stream stream, const Merged& m,
                std::index_sequence<I...>, const Strided& y, const X&... x) {
  constexpr int N = F::kPack;
  launch_map<N, F, Out, In...>(op, size, f, stream, m, operand<N, Out>(y, m, 0),
                               operand<N, const In>(x, m, I + 1)...);
}

// Launches y = f(x..) over shape. Elements per thread and pack: F::kPack.
template <class Out, class... In, class F, class... X>
void map(const char* op, const Shape& shape, const F& f, const Strided& y, Stream stream, const X&... x) {
  static_assert(sizeof...(In) == sizeof...(X));
  int64_t size = 1;
  for (int64_t extent : shape) size *= extent;
  if (size == 0) return;
  map_merged<Out, In...>(op, size, f, stream, merge(op, shape, {&y, &x...}), std::index_sequence_for<In...>{},
                         y, x...);
}

}  // namespace fastdl::cuda
