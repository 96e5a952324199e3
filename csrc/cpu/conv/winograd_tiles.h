// Winograd's transforms between arrays in C order and what the products use (winograd.cpp): tiles of images
// to V and N, weights to U and back, M to images. winograd.h has the arithmetic.
//
// V and N hold tiles in the lanes, U and M output channels. Tiles are numbered over images, then rows of
// tiles, then columns; a chunk of them consists of runs, each within one row of tiles.
#pragma once

#include <vector>

#include "cpu/conv/algorithm.h"
#include "cpu/conv/lanes.h"
#include "cpu/conv/taps.h"
#include "cpu/conv/winograd.h"
#include "cpu/gemm/pack.h"
#include "cpu/runtime/memory.h"

namespace fastdl::winograd {

using simd::kWidth;
using simd::load;
using simd::store;

// A stride-1 3x3 convolution over images: channel c of image n at data + n * image + c * height * width.
struct Plane {
  int64_t height, width, image;
};
struct Shape {
  int64_t batch, in_channels, out_channels;  // of one group
  Plane in, out;
  int64_t pad_h, pad_w;  // may be negative in grad_x
  int64_t tiles_h() const { return ceil_div(out.height, kOut); }
  int64_t tiles_w() const { return ceil_div(out.width, kOut); }
  int64_t tiles() const { return batch * tiles_h() * tiles_w(); }
};

inline Shape forward_shape(const ConvProblem& p) {
  return {p.batch,
          p.group_in(),
          p.group_out(),
          {p.in[1], p.in[2], p.in_channels * p.in_size()},
          {p.out[1], p.out[2], p.out_channels * p.out_size()},
          p.pad[1],
          p.pad[2]};
}
inline Shape backward_shape(const ConvProblem& p) {
  const Shape s = forward_shape(p);
  return {s.batch, s.out_channels, s.in_channels, s.out, s.in, 2 - s.pad_h, 2 - s.pad_w};
}

// Neighbouring tiles of one row of tiles, as lanes [lane, lane + count) of a chunk.
struct Run {
  int64_t lane, count, image, row, column;
};
inline std::vector<Run> runs_of(const Shape& s, int64_t first, int64_t count) {
  std::vector<Run> runs;
  for (int64_t lane = 0; lane < count;) {
    const int64_t t = first + lane, column = t % s.tiles_w(), row = t / s.tiles_w();
    const int64_t length = std::min(count - lane, s.tiles_w() - column);
    runs.push_back({lane, length, row / s.tiles_h(), row % s.tiles_h(), column});
    lane += length;
  }
  return runs;
}

// Where element (point, row, lane) of transformed data lies: rows are channels (of V and U) or tiles (of M).
struct Layout {
  int64_t point, row;
};
// Distances between the pieces that a transform writes are not multiples of large powers of two, so that the
// pieces are spread over the sets of the caches.
template <class T>
inline constexpr int64_t kLine = 64 / int64_t(sizeof(T));
template <class T>
int64_t whole_vectors(int64_t lanes) {
  return ceil_div(lanes, kWidth<T>) * kWidth<T>;
}

// Transforms one channel's tiles: kSize x kSize elements, 4 apart, to 6x6, lane by lane. `one_way` is the
// transform of one direction, `origin` the position of the first tile's first element in the plane.
template <class T, int kSize, class OneWay>
void transform_tiles(T* to, const Layout& layout, const std::vector<Run>& runs, int64_t lanes,
                     const T* channel, const Plane& plane, int64_t origin_h, int64_t origin_w, T* scratch,
                     OneWay one_way) {
  constexpr int w = kWidth<T>, vectors = kRowVectors<T>;
  const int64_t stride = ceil_div(lanes, w) * w + w;  // of scratch: split_columns stores whole vectors
  for (const Run& run : runs) {
    const T* image = channel + run.image * plane.image;
    const int64_t top = kOut * run.row + origin_h;
    for (int64_t t = 0; t < run.count; t += kTiles<T>) {
      const int64_t left = kOut * (run.column + t) + origin_w;
      Lanes<T> lanes_of[vectors];
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) lanes_of[v] = Lanes<T>(-left - v * w, plane.width - left - v * w);
      Vec<T> x[kSize][vectors];
#pragma GCC unroll 6
      for (int i = 0; i < kSize; ++i) {
        const T* row = image + (top + i) * plane.width + left;
        const bool inside = top + i >= 0 && top + i < plane.height;
#pragma GCC unroll 3
        for (int v = 0; v < vectors; ++v) x[i][v] = inside ? lanes_of[v].load(row + v * w) : Vec<T>{};
      }
      Vec<T> y[kIn][vectors];
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) {
        Vec<T> in[kSize], out[kIn];
#pragma GCC unroll 6
        for (int i = 0; i < kSize; ++i) in[i] = x[i][v];
        one_way(out, in);
#pragma GCC unroll 6
        for (int i = 0; i < kIn; ++i) y[i][v] = out[i];
      }
#pragma GCC unroll 6
      for (int i = 0; i < kIn; ++i)
        split_columns<T, kSize>(scratch + i * kSize * stride + run.lane + t, stride, y[i]);
    }
  }
  for (int64_t lane = 0; lane < lanes; lane += w) {
    T* base = to + lane;
    for (int i = 0; i < kIn; ++i) {
      Vec<T> in[kSize], out[kIn];
#pragma GCC unroll 6
      for (int j = 0; j < kSize; ++j) in[j] = load(scratch + (i * kSize + j) * stride + lane);
      one_way(out, in);
#pragma GCC unroll 6
      for (int j = 0; j < kIn; ++j) store<T>(base + (i * kIn + j) * layout.point, out[j]);
    }
  }
}

template <class T>
size_t scratch_size(int64_t lanes) {
  return size_t(kPoints * (lanes + 2 * kWidth<T>));
}

template <class T>
void transform_input(T* to, const Layout& layout, const Shape& s, const std::vector<Run>& runs, int64_t lanes,
                     const T* x, int64_t c0, int64_t c1) {
  memory::Buffer<T> scratch(scratch_size<T>(lanes));
  for (int64_t c = c0; c < c1; ++c)
    transform_tiles<T, kIn>(to + c * layout.row, layout, runs, lanes, x + c * s.in.height * s.in.width, s.in,
                            -s.pad_h, -s.pad_w, scratch.get(),
                            [](auto& out, auto& in) { input<T>(out, in); });
}

template <class T>
void transform_grad(T* to, const Layout& layout, const Shape& s, const std::vector<Run>& runs, int64_t lanes,
                    const T* grad_y, int64_t k0, int64_t k1) {
  memory::Buffer<T> scratch(scratch_size<T>(lanes));
  for (int64_t k = k0; k < k1; ++k)
    transform_tiles<T, kOut>(to + k * layout.row, layout, runs, lanes,
                             grad_y + k * s.out.height * s.out.width, s.out, 0, 0, scratch.get(),
                             [](auto& out, auto& in) { output_adjoint<T>(out, in); });
}

// The weights of one group: element (output channel, input channel, tap) at data[k * out + c * in + tap],
// taps backwards if flipped.
template <class T>
struct Weights {
  const T* data;
  int64_t out, in;
  bool flip;
};

// The taps of output channels [k0, k0 + count), count <= kWidth, and input channels [c0, c0 + depth): vectors
// over the output channels, tap r of channel c at to + (9 * c + r) * kWidth.
template <class T>
void gather_taps(T* to, const Weights<T>& weights, int64_t k0, int count, int64_t c0, int64_t depth) {
  constexpr int w = kWidth<T>;
  const T* from = weights.data + k0 * weights.out + c0 * weights.in;
  if (!weights.flip) {  // an output channel's taps of all input channels follow each other
    tile::pack_panel<T, w>(to, from, weights.out, 1, count, 9 * depth);
    return;
  }
  for (int64_t c = 0; c < depth; ++c, from += weights.in, to += 9 * w) {
    Vec<T> taps[9];
    if (count == w) {
      split_taps<T>(taps, from);
    } else {
      T whole[9 * w] = {};
      std::copy_n(from, 9 * count, whole);
      split_taps<T>(taps, whole);
    }
#pragma GCC unroll 9
    for (int r = 0; r < 9; ++r) store<T>(to + (8 - r) * w, taps[r]);
  }
}

// U of gathered taps, one vector of output channels.
template <class T>
void transform_weights(T* to, const Layout& layout, const T* taps, int64_t depth) {
  constexpr int w = kWidth<T>;
  for (int64_t c = 0; c < depth; ++c, taps += 9 * w, to += layout.row) {
    Vec<T> half[kIn][3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const Vec<T> g[3] = {load(taps + j * w), load(taps + (3 + j) * w), load(taps + (6 + j) * w)};
      Vec<T> out[kIn];
      weight<T>(out, g);
#pragma GCC unroll 6
      for (int i = 0; i < kIn; ++i) half[i][j] = out[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < kIn; ++i) {
      Vec<T> out[kIn];
      weight<T>(out, half[i]);
#pragma GCC unroll 6
      for (int j = 0; j < kIn; ++j) store<T>(to + (i * kIn + j) * layout.point, out[j]);
    }
  }
}

// The same transform and the products with at most kFew tiles in one go, for when there are too few tiles to
// make up for storing U: row i of U from the taps, in registers, times V (points kFew apart), for a vector of
// output channels. M is written, or added to.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kFew = 4;  // 24 accumulators of 32 registers
#else
inline constexpr int kFew = 2;
#endif
template <class T>
void multiply_few(T* m, const Layout& layout, bool add, const T* taps, int64_t depth, const T* v,
                  int64_t v_row) {
  using P = Points<T>;
  constexpr int w = kWidth<T>;
  // Row i of G: tap row `first`, plus `one` times tap row 1 and `two` times tap row 2.
  struct Row {
    int first;
    T one, two;
  };
  static constexpr Row rows[kIn] = {{0, 0, 0},        {0, P::a, P::a2},  {0, -P::a, P::a2},
                                    {0, P::b, P::b2}, {0, -P::b, P::b2}, {2, 0, 0}};
  for (int i = 0; i < kIn; ++i, v += kIn * kFew, m += kIn * layout.point) {
    const T one = rows[i].one, two = rows[i].two;
    const T *top = taps + 3 * w * rows[i].first, *rest = taps + 3 * w, *from = v;
    Vec<T> acc[kIn][kFew];
#pragma GCC unroll 6
    for (int j = 0; j < kIn; ++j)
#pragma GCC unroll 4
      for (int t = 0; t < kFew; ++t) acc[j][t] = add ? load(m + t * layout.row + j * layout.point) : Vec<T>{};
    for (int64_t c = 0; c < depth; ++c, top += 9 * w, rest += 9 * w, from += v_row) {
      Vec<T> g[3], u[kIn];
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j)
        g[j] = load(top + j * w) + one * load(rest + j * w) + two * load(rest + (3 + j) * w);
      weight<T>(u, g);
#pragma GCC unroll 6
      for (int j = 0; j < kIn; ++j)
#pragma GCC unroll 4
        for (int t = 0; t < kFew; ++t) acc[j][t] += from[j * kFew + t] * u[j];
    }
#pragma GCC unroll 6
    for (int j = 0; j < kIn; ++j)
#pragma GCC unroll 4
      for (int t = 0; t < kFew; ++t) store<T>(m + t * layout.row + j * layout.point, acc[j][t]);
  }
}

// y of `count` <= kWidth output channels from M.
template <class T>
void transform_output(T* y, const Shape& s, const std::vector<Run>& runs, int count, const T* m,
                      const Layout& layout, const T* bias) {
  constexpr int w = kWidth<T>;
  constexpr int tiles = std::max(w / kOut, 1), vectors = tiles * kOut / w;  // side by side, and their columns
  const int64_t plane = s.out.height * s.out.width;
  for (const Run& run : runs) {
    const int rows = int(std::min<int64_t>(kOut, s.out.height - kOut * run.row));
    for (int64_t first = 0; first < run.count; first += tiles) {
      const int64_t left = kOut * (run.column + first);
      const int columns =
          int(std::min<int64_t>(kOut * std::min<int64_t>(tiles, run.count - first), s.out.width - left));
      Vec<T> pixels[kOut][tiles * kOut];
      for (int t = 0; t < tiles; ++t) {
        // Behind the last tile the columns are junk, which is not stored: the last tile again.
        const T* from = m + std::min(run.lane + first + t, run.lane + run.count - 1) * layout.row;
        Vec<T> half[kOut][kIn];
#pragma GCC unroll 6
        for (int j = 0; j < kIn; ++j) {
          Vec<T> in[kIn], out[kOut];
#pragma GCC unroll 6
          for (int i = 0; i < kIn; ++i) in[i] = load(from + (i * kIn + j) * layout.point);
          output<T>(out, in);
#pragma GCC unroll 4
          for (int i = 0; i < kOut; ++i) half[i][j] = out[i];
        }
#pragma GCC unroll 4
        for (int i = 0; i < kOut; ++i) {
          Vec<T> out[kOut];
          output<T>(out, half[i]);
#pragma GCC unroll 4
          for (int j = 0; j < kOut; ++j) pixels[i][t * kOut + j] = out[j];
        }
      }
      T* to = y + run.image * s.out.image + kOut * run.row * s.out.width + left;
      for (int i = 0; i < rows; ++i, to += s.out.width)
        for (int v = 0; v < vectors && v * w < columns; ++v) {
          Vec<T> x[w];
#pragma GCC unroll 16
          for (int j = 0; j < w; ++j) x[j] = pixels[i][v * w + j];
          tile::transpose<T>(x);
          const int n = std::min(w, columns - v * w);
          for (int k = 0; k < count; ++k) {
            const Vec<T> row = bias ? x[k] + bias[k] : x[k];
            if (n == w)
              store<T>(to + k * plane + v * w, row);
            else
              simd::store_n(to + k * plane + v * w, row, n);
          }
        }
    }
  }
}

// grad_w of `count` <= kWidth input channels of one output channel from D: point e at d + e * point.
template <class T>
void transform_weight_grad(T* gw, const T* d, int64_t point, int count) {
  constexpr int w = kWidth<T>;
  Vec<T> half[3][kIn], taps[9];
#pragma GCC unroll 6
  for (int j = 0; j < kIn; ++j) {
    Vec<T> u[kIn], t[3];
#pragma GCC unroll 6
    for (int i = 0; i < kIn; ++i) u[i] = load(d + (i * kIn + j) * point);
    weight_adjoint<T>(t, u);
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) half[i][j] = t[i];
  }
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
    Vec<T> t[3];
    weight_adjoint<T>(t, half[i]);
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) taps[3 * i + j] = t[j];
  }
  if (count == w) return join_taps<T>(gw, taps);
  T rest[9 * w];
  join_taps<T>(rest, taps);
  std::copy_n(rest, 9 * count, gw);
}

}  // namespace fastdl::winograd
