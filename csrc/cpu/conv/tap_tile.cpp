// Register tiles (tap_tile.h): loops over rows and vectors are unrolled entirely, the sums live in registers.
#include "cpu/conv/tap_tile.h"

#include <array>
#include <utility>

#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using namespace simd;

template <class T, int R, int V>
void tile_kernel(T* sums, int64_t ld, const T* bias, int64_t channels, int64_t taps, const Tap* list,
                 const T* a, int64_t a_channel, const T* b, int64_t b_channel) {
  constexpr int w = kWidth<T>;
  const int64_t stretch = std::max<int64_t>(kStretch / std::max<int64_t>(taps, 1), 1);
  for (int64_t c0 = 0; c0 < channels; c0 += stretch) {
    Vec<T> acc[R][V];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[i][v] = Vec<T>{};
    const int64_t c1 = std::min(channels, c0 + stretch);
    for (int64_t c = c0; c < c1; ++c, a += a_channel, b += b_channel)
      for (const Tap *tap = list, *end = list + taps; tap != end; ++tap) {
        const T *rows = a + tap->a, *vectors = b + tap->b;
        Vec<T> x[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) x[v] = load(vectors + v * w);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) acc[i][v] += rows[i] * x[v];
      }
    if (c0 > 0)
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[i][v] += load(sums + i * ld + v * w);
    if (bias && c1 == channels)
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[i][v] += bias[i];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        store<T>(sums + i * ld + v * w, acc[i][v]);
      }
  }
}

template <class T, int V, int... I>
constexpr auto table(std::integer_sequence<int, I...>) {
  return std::array<TapTile<T>, sizeof...(I)>{&tile_kernel<T, I + 1, V>...};
}
template <class T, int V, int R>
constexpr auto kTable = table<T, V>(std::make_integer_sequence<int, R>{});

}  // namespace

template <class T>
TapTile<T> tap_tile(int rows, int vectors) {
  const size_t i = size_t(rows - 1);
  return vectors == 1   ? kTable<T, 1, kTileRows>[i]
         : vectors == 2 ? kTable<T, 2, kTileRows>[i]
                        : kTable<T, kFlatVectors, kFlatRows>[i];
}

template TapTile<float> tap_tile<float>(int, int);
template TapTile<double> tap_tile<double>(int, int);

}  // namespace fastdl
