// y[i] = f(x0[i], x1[i], ..) over arrays with strides: the loop under every elementwise kernel.
//
// The host merges axes that lie behind one another in all arrays; what remains is one inner axis and at most
// kOuter outer ones, so contiguous arrays have the inner one only. A thread takes a pack of consecutive
// elements of the inner axis: one 16-byte access where an array is dense and aligned, one broadcast element
// where its stride is 0, single elements otherwise (and at the end of a row). Outer coordinates cost one
// multiplication each (Divisor), per pack. Arrays are read and written once.
#pragma once

#include <utility>

#include "cuda/numeric.h"

namespace fastdl::cuda {

// Packs of operations that need many instructions are smaller: less code, and still at least 8 bytes an
// access.
template <class T>
constexpr int kShort = kWidest<T> < 4 ? kWidest<T> : 4;

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

template <int N, class T>
__device__ __forceinline__ Values<Compute<T>, N> read(const Geometry& g, const Position& p,
                                                      const Operand<const T>& x) {
  Values<Compute<T>, N> r;
  if (x.data == nullptr) {
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) r.v[k] = x.value;
    return r;
  }
  const T* from = address(g, p, x);
  if (x.packed && p.count == N) {
    const auto pack = *reinterpret_cast<const Pack<T, N>*>(from);
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) r.v[k] = widen(pack.v[k]);
  } else {
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) r.v[k] = widen(from[k < p.count ? k * x.inner : 0]);
  }
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

template <int N, class F, class Out, class... V>
__device__ __forceinline__ void apply(const Geometry& g, const Position& p, const F& f, const Operand<Out>& y,
                                      const V&... x) {
  Values<Compute<Out>, N> r;
  FASTDL_UNROLL
  for (int k = 0; k < N; ++k) r.v[k] = f(x.v[k]...);
  write<N>(g, p, y, r);
}

template <int N, class F, class Out, class... In>
__global__ void __launch_bounds__(kMapThreads)
    map_kernel(Geometry g, F f, Operand<Out> y, Operand<const In>... x) {
  for (uint32_t pack = blockIdx.x * kMapThreads + threadIdx.x; pack < g.packs;
       pack += gridDim.x * kMapThreads) {
    const Position p = locate<N>(g, pack);
    apply<N>(g, p, f, y, read<N, In>(g, p, x)...);
  }
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

template <class Out, class... In, class F, class... X, size_t... I>
void map_merged(const char* op, int64_t size, const F& f, Stream stream, const Merged& m,
                std::index_sequence<I...>, const Strided& y, const X&... x) {
  constexpr int N = F::kPack;
  const Geometry g = geometry_of<N>(op, size, m);
  launch(op, map_kernel<N, F, Out, In...>, dim3(grid_for(g.packs, kMapThreads)), dim3(kMapThreads), 0, stream,
         g, f, operand<N, Out>(y, m, 0), operand<N, const In>(x, m, I + 1)...);
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
