// Register-tile kernels: one instantiation per number of rows (1..kMR), of vectors (1..2) and form of A, so
// that the rims of C cost in proportion. Loops over rows and vectors are unrolled entirely and the
// accumulators live in registers; the two frequent stores (write, add) happen straight from them, all others
// pass through a tile in L1.
#include "cpu/gemm/tile.h"

#include <algorithm>
#include <utility>

#include "cpu/activation/functions.h"
#include "cpu/gemm/pack.h"

namespace fastdl::tile {
namespace {

using namespace simd;

// The first n < 8 elements of some rows: where masks are no registers, a masked store can take a dozen
// cycles.
template <class T>
[[gnu::noinline]] void copy_lanes(T* to, int64_t to_row, const T* from, int64_t from_row, int rows, int n) {
  for (int i = 0; i < rows; ++i, to += to_row, from += from_row) {
    int j = 0;
    if (n & 4) std::memcpy(to, from, 4 * sizeof(T)), j = 4;
    if (n & 2) std::memcpy(to + j, from + j, 2 * sizeof(T)), j += 2;
    if (n & 1) to[j] = from[j];
  }
}

// A tile whose columns are rows of C: turned a vector's width of both at a time.
template <class T>
[[gnu::noinline]] void finish_transposed(const T* tile, int64_t ld, int rows, int cols, const Store<T>& s) {
  constexpr int w = kWidth<T>;
  for (int j = 0; j < cols; j += w)
    for (int i = 0; i < rows; i += w) {
      Vec<T> x[w];
#pragma GCC unroll 16
      for (int r = 0; r < w; ++r) x[r] = load(tile + std::min(i + r, rows - 1) * ld + j);
      transpose<T>(x);
      T turned[w * w];
#pragma GCC unroll 16
      for (int c = 0; c < w; ++c) store<T>(turned + c * w, x[c]);
      Store<T> part = s;
      part.c += j * s.ldc + i;
      if (part.bias_row) part.bias_row += j;
      if (part.bias_col) part.bias_col += i;
      finish<T>(turned, w, std::min(w, cols - j), std::min(w, rows - i), part);
    }
}

// Steps of k per turn of the loop: the loop's own instructions take places that multiply-adds want, the more
// the shorter the vectors.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int kUnroll = 4;
#else
constexpr int kUnroll = 1;
#endif
// Sums that must be in the making at a time: two multiply-adds a cycle, each of which takes four.
constexpr int kChains = 8;

// Keeps what follows the loop from choosing the registers inside: with sixteen of them and several steps a
// turn that costs moves.
template <class T>
[[gnu::always_inline]] inline void pin([[maybe_unused]] Vec<T>& x) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  asm("" : "+x"(x));
#endif
}

template <class T, int R, int V, Form form>
void kernel(int64_t k, const T* a, int64_t a_step, const T* b, int64_t b_step, int cols,
            const Store<T>& store_to) {
  constexpr int w = kWidth<T>;
  // Low tiles: even and odd steps by themselves.
  constexpr int kSets = kRows > 4 && R * V < kChains ? 2 : 1;
  constexpr int kSteps = std::max(kSets, kUnroll);
  // Rows: one pointer for each four of them, so that few registers reach all.
  constexpr int kBases = form == Form::rows ? (R + 3) / 4 : 1;
  const T* base[kBases];
#pragma GCC unroll 4
  for (int q = 0; q < kBases; ++q) base[q] = a + 4 * q * a_step;
  const int64_t two = 2 * a_step, three = 3 * a_step;
  const auto element = [&](int i, int step) __attribute__((always_inline)) {
    if constexpr (form == Form::panel) return base[0][i];
    const T* from = base[i / 4] + step;
    return i % 4 == 0 ? from[0] : i % 4 == 1 ? from[a_step] : i % 4 == 2 ? from[two] : from[three];
  };
  constexpr bool masked = kBytes == 64;
  // A bias for each row (a convolution's) is added in registers where tiles are high, which most are; the
  // rest is not worth the code.
  constexpr bool adds_rows = sizeof(T) == 4 && V == kVectors && 4 * R > 3 * kRows;
  const int lanes = cols - (V - 1) * w;
  const bool plain = store_to.alpha == T(1) && (store_to.beta == T(0) || store_to.beta == T(1)) &&
                     (adds_rows || !store_to.bias_row) && store_to.activation == GemmActivation::none &&
                     !store_to.transposed;
  Vec<T> acc[kSets][R][V];
#pragma GCC unroll 2
  for (int set = 0; set < kSets; ++set)
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[set][i][v] = Vec<T>{};
  T* c = store_to.c;
  const int64_t ldc = store_to.ldc;
  if (!store_to.transposed)
#pragma GCC unroll 1
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < V; ++v) __builtin_prefetch(c + i * ldc + v * w, 1);
  const char* next = reinterpret_cast<const char*>(store_to.next ? store_to.next : a);
  const auto advance = [&](int step) __attribute__((always_inline)) {
    __builtin_prefetch(next, 0, 2);
    next += store_to.next_step;
    Vec<T> row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) row[v] = load(b + v * w);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[step % kSets][i][v] += element(i, step) * row[v];
    b += b_step;
    if constexpr (form == Form::panel) base[0] += a_step;
  };
  const auto move_on = [&](int steps) __attribute__((always_inline)) {
    if constexpr (form == Form::rows)
#pragma GCC unroll 4
      for (int q = 0; q < kBases; ++q) base[q] += steps;
  };
  int64_t left = k;
  for (; left >= kSteps; left -= kSteps) {
#pragma GCC unroll 4
    for (int step = 0; step < kSteps; ++step) advance(step);
    move_on(kSteps);
  }
  if constexpr (kSteps > 1)
    for (; left > 0; --left) {
      advance(0);
      move_on(1);
    }
#pragma GCC unroll 2
  for (int set = 0; set < kSets; ++set)
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) pin<T>(acc[set][i][v]);
  if constexpr (kSets > 1)
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[0][i][v] += acc[kSets - 1][i][v];
  if (plain && store_to.bias_col)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const T* from = store_to.bias_col + v * w;
      const Vec<T> bias = v == V - 1 ? load_n(from, lanes) : load(from);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) acc[0][i][v] += bias;
    }
  if (adds_rows && plain && store_to.bias_row)
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[0][i][v] += store_to.bias_row[i];
  // Masked stores are as cheap as whole ones, where there are mask registers; else a partial last vector of
  // each row goes by way of `rim`.
  const bool narrow = !masked && lanes < w;
  alignas(64) T rim[masked ? 1 : R * w];  // (lanes from `lanes` on hold anything and stay there)
  T* const edge = narrow ? rim : c + (V - 1) * w;
  const int64_t edge_step = narrow ? w : ldc;
  const auto put = [&](int i, int v, Vec<T> x) __attribute__((always_inline)) {
    if (v < V - 1)
      store<T>(c + i * ldc + v * w, x);
    else if (masked)
      store_n(edge + i * edge_step, x, lanes);
    else
      store<T>(edge + i * edge_step, x);
  };
  const auto get = [&](int i, int v) __attribute__((always_inline)) {
    if (v < V - 1) return load(c + i * ldc + v * w);
    return masked ? load_n(edge + i * edge_step, lanes) : load(edge + i * edge_step);
  };
  if (plain && store_to.beta == T(0)) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) put(i, v, acc[0][i][v]);
  } else if (plain) {
    if (narrow) copy_lanes(rim, w, c + (V - 1) * w, ldc, R, lanes);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) put(i, v, get(i, v) + acc[0][i][v]);
  } else {
    alignas(64) T spill[R * V * w];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store<T>(spill + (i * V + v) * w, acc[0][i][v]);
    if (store_to.transposed)
      finish_transposed<T>(spill, V * w, R, cols, store_to);
    else
      finish<T>(spill, V * w, R, cols, store_to);
    return;
  }
  if (narrow) copy_lanes(c + (V - 1) * w, ldc, rim, w, R, lanes);
}

template <class T>
struct Table {
  Kernel<T> at[kRows][kVectors];
};

template <class T, Form form, int... I>
constexpr Table<T> make_table(std::integer_sequence<int, I...>) {
  Table<T> table{};
  ((table.at[I / kVectors][I % kVectors] = &kernel<T, I / kVectors + 1, I % kVectors + 1, form>), ...);
  return table;
}

template <class T, Form form>
constexpr Table<T> kTable = make_table<T, form>(std::make_integer_sequence<int, kRows * kVectors>{});

}  // namespace

template <class T>
Kernel<T> kernel_for(int rows, int cols, Form form) {
  const int r = rows - 1, v = (cols - 1) / kWidth<T>;
  return form == Form::panel ? kTable<T, Form::panel>.at[r][v] : kTable<T, Form::rows>.at[r][v];
}

namespace {

template <class T, class F>
void finish_as(const T* tile, int64_t ld, int rows, int cols, const Store<T>& s, F activate) {
  constexpr int w = kWidth<T>;
  constexpr bool masked = kBytes == 64;
  for (int i = 0; i < rows; ++i) {
    const T* from = tile + i * ld;
    T* to = s.c + i * s.ldc;
    for (int j = 0; j < cols; j += w) {
      const int n = cols - j < w ? cols - j : w;
      const bool whole = !masked && n == w;
      const auto get = [&](const T* p)
                           __attribute__((always_inline)) { return whole ? load(p) : load_n(p, n); };
      Vec<T> x = s.alpha * get(from + j);
      if (s.beta != T(0)) x += s.beta * get(to + j);
      if (s.bias_row) x += s.bias_row[i];
      if (s.bias_col) x += get(s.bias_col + j);
      x = activate(x);
      if (masked) {
        store_n(to + j, x, n);
      } else if (whole) {
        store<T>(to + j, x);
      } else {
        T lanes[w];
        store<T>(lanes, x);
        copy_lanes(to + j, w, lanes, w, 1, n);
      }
    }
  }
}

}  // namespace

template <class T>  // (a clone for each constant argument would be 4 kB each)
[[gnu::noinline, gnu::noclone]] void finish(const T* tile, int64_t ld, int rows, int cols,
                                            const Store<T>& s) {
  const auto with = [&]<class F>(F f) {
    finish_as(tile, ld, rows, cols, s, [f](Vec<T> x) __attribute__((always_inline)) { return f.forward(x); });
  };
  switch (s.activation) {
    case GemmActivation::none:
      return finish_as(tile, ld, rows, cols, s, [](Vec<T> x) { return x; });
    case GemmActivation::relu:
      return with(Relu<T>{});
    case GemmActivation::sigmoid:
      return with(Sigmoid<T>{});
    case GemmActivation::tanh:
      return with(Tanh<T>{});
    case GemmActivation::silu:
      return with(Silu<T>{});
    case GemmActivation::gelu:
      return with(Gelu<T>{});
    case GemmActivation::gelu_tanh:
      return with(GeluTanh<T>{});
  }
}

#define FASTDL_INSTANTIATE(T)                       \
  template Kernel<T> kernel_for<T>(int, int, Form); \
  template void finish<T>(const T*, int64_t, int, int, const Store<T>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::tile
