// The transforms of Winograd's F(4x4, 3x3): one tile of 4x4 outputs from 6x6 inputs with 36 products instead
// of 144.
//
//   Y = A^T [ (G g G^T) . (B^T d B) ] A
//
// with g a 3x3 kernel, d a 6x6 input tile, . elementwise, summed over channels.
//
// The matrices come from evaluating polynomials at 0, +-a, +-b and infinity (Toom-Cook). a^2 = 1/2, b^2 = 2
// keeps all constants between 1/6 and 2.5: on random data the error is a third of that with the usual points
// 1 and 2. The map is bilinear in g and d, so its adjoint gives the gradient of g from that of Y:
//
//   grad_g = G^T [ (A grad_Y A^T) . (B^T d B) ] G
//
// Each function here does one direction of one transform on vectors: lanes are different tiles (or channels).
#pragma once

#include <utility>

#include "cpu/simd/simd.h"

namespace fastdl::winograd {

using simd::Vec;

inline constexpr int kOut = 4, kIn = 6, kPoints = kIn * kIn;

template <class T>
struct Points {
  static constexpr T a2 = T(0.5), b2 = T(2), sum = a2 + b2;  // a^2 b^2 = 1
  static constexpr T a = T(0.70710678118654752440), b = T(1.41421356237309504880);
  static constexpr T a3 = a * a2, b3 = b * b2;
  static constexpr T na = 1 / (2 * a2 * (a2 - b2)),
                     nb = 1 / (2 * b2 * (b2 - a2));  // 1 / products of differences
};

// B^T d: 6 -> 6.
template <class T>
[[gnu::always_inline]] inline void input(Vec<T> (&out)[kIn], const Vec<T> (&d)[kIn]) {
  using P = Points<T>;
  const Vec<T> evens_a = d[4] - P::b2 * d[2], odds_a = d[3] - P::b2 * d[1];
  const Vec<T> evens_b = d[4] - P::a2 * d[2], odds_b = d[3] - P::a2 * d[1];
  out[0] = d[0] + d[4] - P::sum * d[2];
  out[1] = evens_a + P::a * odds_a;
  out[2] = evens_a - P::a * odds_a;
  out[3] = evens_b + P::b * odds_b;
  out[4] = evens_b - P::b * odds_b;
  out[5] = d[1] + d[5] - P::sum * d[3];
}

// G g: 3 -> 6, without the factors na and nb of its middle rows: output() has them, where they cost nothing.
template <class T>
[[gnu::always_inline]] inline void weight(Vec<T> (&out)[kIn], const Vec<T> (&g)[3]) {
  using P = Points<T>;
  const Vec<T> evens_a = g[0] + P::a2 * g[2], evens_b = g[0] + P::b2 * g[2];
  out[0] = g[0];
  out[1] = evens_a + P::a * g[1];
  out[2] = evens_a - P::a * g[1];
  out[3] = evens_b + P::b * g[1];
  out[4] = evens_b - P::b * g[1];
  out[5] = g[2];
}

// A^T m: 6 -> 4, of products with weight()'s result.
template <class T>
[[gnu::always_inline]] inline void output(Vec<T> (&out)[kOut], const Vec<T> (&m)[kIn]) {
  using P = Points<T>;
  const Vec<T> sum_a = m[1] + m[2], dif_a = m[1] - m[2], sum_b = m[3] + m[4], dif_b = m[3] - m[4];
  out[0] = m[0] + P::na * sum_a + P::nb * sum_b;
  out[1] = (P::na * P::a) * dif_a + (P::nb * P::b) * dif_b;
  out[2] = (P::na * P::a2) * sum_a + (P::nb * P::b2) * sum_b;
  out[3] = (P::na * P::a3) * dif_a + (P::nb * P::b3) * dif_b + m[5];
}

// A y: 4 -> 6.
template <class T>
[[gnu::always_inline]] inline void output_adjoint(Vec<T> (&out)[kIn], const Vec<T> (&y)[kOut]) {
  using P = Points<T>;
  const Vec<T> evens_a = y[0] + P::a2 * y[2], odds_a = P::a * y[1] + P::a3 * y[3];
  const Vec<T> evens_b = y[0] + P::b2 * y[2], odds_b = P::b * y[1] + P::b3 * y[3];
  out[0] = y[0];
  out[1] = evens_a + odds_a;
  out[2] = evens_a - odds_a;
  out[3] = evens_b + odds_b;
  out[4] = evens_b - odds_b;
  out[5] = y[3];
}

// G^T u: 6 -> 3.
template <class T>
[[gnu::always_inline]] inline void weight_adjoint(Vec<T> (&out)[3], const Vec<T> (&u)[kIn]) {
  using P = Points<T>;
  const Vec<T> sum_a = P::na * (u[1] + u[2]), sum_b = P::nb * (u[3] + u[4]);
  out[0] = u[0] + sum_a + sum_b;
  out[1] = (P::na * P::a) * (u[1] - u[2]) + (P::nb * P::b) * (u[3] - u[4]);
  out[2] = P::a2 * sum_a + P::b2 * sum_b + u[5];
}

// Neighbouring tiles lie 4 apart in an image row; two vectors of it hold kTiles whole tiles of 6 (or 4)
// columns.
constexpr int64_t tiles_at_once(int64_t width) {
  return width >= 8 ? (2 * width - 2) / 4 : 1;
}
template <class T>
inline constexpr int kTiles = int(tiles_at_once(simd::kWidth<T>));
// Vectors that hold the 6 columns of at least one tile.
template <class T>
inline constexpr int kRowVectors = simd::kWidth<T> >= 4 ? 2 : 3;

template <class T, int J, int... L>
[[gnu::always_inline]] inline Vec<T> column(Vec<T> x, Vec<T> y, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(x, y, (L < kTiles<T> ? 4 * L + J : J)...);
}

// columns[j * stride + t] = element 4 t + j of the row, for j in 0..N-1 and t in 0..kTiles-1 (lanes behind
// are junk).
template <class T, int N>
[[gnu::always_inline]] inline void split_columns(T* columns, int64_t stride,
                                                 const Vec<T> (&row)[kRowVectors<T>]) {
  constexpr int w = simd::kWidth<T>;
  if constexpr (w >= 8) {
    constexpr auto lanes = std::make_integer_sequence<int, w>{};
    [&]<int... J>(std::integer_sequence<int, J...>) {
      (simd::store<T>(columns + J * stride, column<T, J>(row[0], row[1], lanes)), ...);
    }(std::make_integer_sequence<int, N>{});
  } else {
    for (int j = 0; j < N; ++j) columns[j * stride] = row[j / w][j % w];
  }
}

}  // namespace fastdl::winograd
