// The register tile of the direct algorithms: sums over channels and taps of an outer product of `rows`
// neighbouring numbers (each broadcast) and `vectors` neighbouring vectors.
//
//   sums[i * ld + v * width] = bias[i] + sum over c, t of
//                              a[c * a_channel + taps[t].a + i] * b[c * b_channel + taps[t].b + v * width]
//
// Which of the two is the image and which the weights is up to the caller: lanes are pixels (weights are
// broadcast), output channels (pixels are broadcast), or the images of a batch (weights are broadcast).
//
// Tiles exist for rows <= kTileRows and one or two vectors, and for rows <= kFlatRows and kFlatVectors, so
// that few rows still make enough independent sums and loads for few products. Sums longer than kStretch are
// cut, so the error grows with the square root of the stretches.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/ceil_div.h"
#include "cpu/gemm/tile.h"

namespace fastdl {

struct Tap {
  int64_t a, b;
};

inline constexpr int kTileRows = tile::kRows;  // with two vectors: as many sums as the registers hold
inline constexpr int kTileVectors = 2;
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kFlatRows = 6;
#else
inline constexpr int kFlatRows = 2;
#endif
inline constexpr int kFlatVectors = 4;
inline constexpr int64_t kStretch = 512;

// sums: whole vectors are written, rows ld apart: the result itself, or a place in cache. bias: null for
// none.
template <class T>
using TapTile = void (*)(T* sums, int64_t ld, const T* bias, int64_t channels, int64_t taps, const Tap* list,
                         const T* a, int64_t a_channel, const T* b, int64_t b_channel);
template <class T>
TapTile<T> tap_tile(int rows, int vectors);

// Vectors that a tile of so many rows takes at once, where there are enough.
inline int tile_vectors(int64_t rows) {
  return rows <= kFlatRows ? kFlatVectors : kTileVectors;
}

// What a tile costs per step, in products of vectors: those, or its loads, or the wait for a sum's last
// product.
inline int64_t tile_cost(int64_t rows, int64_t vectors) {
  return std::max({rows * vectors, rows + vectors, int64_t{8}});
}

// The same of m rows and a pair of vectors, in the matrix engine's panels.
inline int64_t panels_cost(int64_t m) {
  const int64_t whole = m / kTileRows, rest = m % kTileRows;
  return whole * tile_cost(kTileRows, 2) + (rest ? tile_cost(rest, 2) : 0);
}

// What transposing kWidth vectors and storing them costs, in products of vectors.
inline constexpr int64_t kTransposeCost = 150;

// `count` items in pieces of nearly equal size, at most `most`.
struct Pieces {
  int64_t count, pieces;
  Pieces(int64_t n, int64_t most) : count(n), pieces(ceil_div(n, most)) {}
  int64_t begin(int64_t i) const { return count * i / pieces; }
  int64_t size(int64_t i) const { return begin(i + 1) - begin(i); }
  int64_t largest() const { return ceil_div(count, pieces); }
};

}  // namespace fastdl
