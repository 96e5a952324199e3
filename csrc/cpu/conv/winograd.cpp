// Winograd convolution F(4x4, 3x3) for 3x3 kernels with stride 1: a quarter of the multiplications
// (winograd.h has the transforms). With T tiles of 4x4 outputs over all images, point e of the 36 and a group
// of C inputs, K outputs:
//
//   forward, grad_x   U[e] (K x C) from the weights, V[e] (C x T) from the input, M[e] = U[e] V[e], y from M
//   grad_w            N[e] (K x T) from grad_y, V[e] (C x T) from the input, D[e] = N[e] V[e]^T, grad_w from
//   D
//
// grad_x is a forward convolution of grad_y with the flipped, transposed weights and padding 2 - pad.
//
// Work: tiles are taken in chunks of about 64, output channels in blocks. Each task multiplies a chunk by a
// block, a few input channels at a time: it transforms their weights right there (four times as many numbers
// as the weights: they live in L2 for a moment and never go to memory), multiplies, and adds up M, which
// stays in L2 too. Large batches of few channels: a task is a chunk and makes its own V, in L2. Else V of
// some chunks is made first, by all threads. V, U and M hold the 36 points of a tile, channel and tile next
// to each other, so that a transform writes or reads one piece of memory. grad_w: V and N of a chunk, then
// the 36 products.
//
// Accuracy: float32 results are within a few 1e-6 of the largest result. An infinity or NaN in the input
// reaches every output of its tile, in other tiles nothing.
#include <vector>

#include "cpu/conv/algorithm.h"
#include "cpu/conv/lanes.h"
#include "cpu/conv/taps.h"
#include "cpu/conv/winograd.h"
#include "cpu/gemm/panels.h"

namespace fastdl {
namespace {

using namespace winograd;
using simd::kWidth;
using simd::load;
using simd::store;
using tile::kMR;
using tile::kNR;

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

Shape forward_shape(const ConvProblem& p) {
  return {p.batch,
          p.group_in(),
          p.group_out(),
          {p.in[1], p.in[2], p.in_channels * p.in_size()},
          {p.out[1], p.out[2], p.out_channels * p.out_size()},
          p.pad[1],
          p.pad[2]};
}
Shape backward_shape(const ConvProblem& p) {
  const Shape s = forward_shape(p);
  return {s.batch, s.out_channels, s.in_channels, s.out, s.in, 2 - s.pad_h, 2 - s.pad_w};
}

// Neighbouring tiles of one row of tiles, as lanes [lane, lane + count) of a chunk.
struct Run {
  int64_t lane, count, image, row, column;
};
std::vector<Run> runs_of(const Shape& s, int64_t first, int64_t count) {
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
constexpr int64_t kLine = 64 / int64_t(sizeof(T));
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
constexpr int kFew = 4;  // 24 accumulators of 32 registers
#else
constexpr int kFew = 2;
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

constexpr int64_t kMost = 64;  // tiles in a chunk

// How a convolution is cut: chunks of at most kMost tiles; blocks of `block` panels of kNR output channels;
// `depth` input channels at a time. V exists for `group` chunks at a time, or (outer) each task makes that of
// its own chunk.
struct Plan {
  int64_t tiles, chunks, group, panels, block, depth;
  bool outer, few;
  Layout v, u, m;
  int64_t first(int64_t chunk) const { return tiles * chunk / chunks; }
  int64_t count(int64_t chunk) const { return first(chunk + 1) - first(chunk); }
};
template <class T>
Plan plan(const Shape& s) {
  constexpr int64_t private_v = 1280 << 10, shared_v = 8 << 20, private_m = 640 << 10;
  Plan p;
  p.tiles = s.tiles();
  p.chunks = ceil_div(p.tiles, kMost);
  p.panels = ceil_div(s.out_channels, kNR<T>);
  const int64_t largest = ceil_div(p.tiles, p.chunks);
  p.few = largest <= kFew;
  p.depth = p.few ? 16 : 32;
  // A vector of few tiles is stored whole: the lanes behind them are overwritten by the next point, the last
  // point's lie in the gap before the next row.
  const int64_t lanes = p.few ? kFew : whole_vectors<T>(largest), rows = p.few ? kFew : largest;
  p.v = {lanes, kPoints * lanes + kLine<T>};
  p.u = {p.depth * kNR<T> + kLine<T>, kNR<T>};
  p.m = {rows * kNR<T> + kLine<T>, kNR<T>};
  const int64_t v = p.v.row * s.in_channels * int64_t(sizeof(T)),
                m = kPoints * p.m.point * int64_t(sizeof(T));
  p.outer = p.chunks >= 2 * num_threads() && v <= private_v;
  p.group = ceil_div(p.chunks, ceil_div(p.chunks, std::max<int64_t>(shared_v / v, 1)));
  p.block = std::max<int64_t>(private_m / m, 1);
  if (!p.outer)  // work for all threads
    p.block = std::min(p.block, std::max<int64_t>(p.group * p.panels / (2 * num_threads()), 1));
  return p;
}

template <class T>
void convolve(const Shape& s, T* y, const T* x, const Weights<T>& weights, const T* bias) {
  constexpr int w = kWidth<T>, width = kNR<T>;
  const Plan plan = fastdl::plan<T>(s);
  const int64_t v_size = s.in_channels * plan.v.row, u_size = kPoints * plan.u.point,
                m_size = kPoints * plan.m.point;
  const int64_t plane = s.out.height * s.out.width;

  // One chunk, whose transformed input is v, times panels [p0, p1).
  const auto multiply = [&](const std::vector<Run>& runs, int64_t tiles, const T* v, int64_t p0, int64_t p1) {
    memory::Buffer<T> u(static_cast<size_t>(u_size)), m(size_t((p1 - p0) * m_size)),
        taps(size_t(9 * plan.depth * w));
    const int64_t groups = ceil_div(tiles, kMR<T>);  // of tiles in registers
    for (int64_t c0 = 0; c0 < s.in_channels; c0 += plan.depth)
      for (int64_t p = p0; p < p1; ++p) {
        const int count = int(std::min<int64_t>(width, s.out_channels - p * width));
        const int64_t steps = std::min(plan.depth, s.in_channels - c0);
        const T* from = v + c0 * plan.v.row;
        T* sums = m + (p - p0) * m_size;
        for (int first = 0; first < count; first += w) {
          gather_taps<T>(taps, weights, p * width + first, std::min(w, count - first), c0, steps);
          if (plan.few)
            multiply_few<T>(sums + first, plan.m, c0 > 0, taps, steps, from, plan.v.row);
          else
            transform_weights<T>(u + first, plan.u, taps, steps);
        }
        if (plan.few) continue;
        for (int e = 0; e < kPoints; ++e)
          for (int64_t g = 0; g < groups; ++g) {
            const int64_t t = tiles * g / groups, rows = tiles * (g + 1) / groups - t;
            tile::kernel_for<T>(int(rows), count)(steps, from + e * plan.v.point + t, plan.v.row,
                                                  u + e * plan.u.point, plan.u.row, count,
                                                  {sums + e * plan.m.point + t * plan.m.row, plan.m.row, T(1),
                                                   T(c0 > 0), nullptr, nullptr, Activation::none});
          }
      }
    for (int64_t k = p0 * width; k < std::min(p1 * width, s.out_channels); k += w)
      transform_output<T>(y + k * plane, s, runs, int(std::min<int64_t>(w, s.out_channels - k)),
                          m + (k / width - p0) * m_size + k % width, plan.m, bias ? bias + k : nullptr);
  };

  if (plan.outer) {
    parallel_tasks(plan.chunks, [&](int64_t chunk) {
      memory::Buffer<T> v(static_cast<size_t>(v_size));
      const std::vector<Run> runs = runs_of(s, plan.first(chunk), plan.count(chunk));
      transform_input<T>(v.get(), plan.v, s, runs, plan.count(chunk), x, 0, s.in_channels);
      for (int64_t p = 0; p < plan.panels; p += plan.block)
        multiply(runs, plan.count(chunk), v, p, std::min(p + plan.block, plan.panels));
    });
    return;
  }
  memory::Buffer<T> v(size_t(plan.group * v_size));
  const int64_t blocks = ceil_div(plan.panels, plan.block);
  for (int64_t first = 0; first < plan.chunks; first += plan.group) {
    const int64_t chunks = std::min(plan.group, plan.chunks - first);
    std::vector<std::vector<Run>> runs;
    for (int64_t i = 0; i < chunks; ++i)
      runs.push_back(runs_of(s, plan.first(first + i), plan.count(first + i)));
    parallel_for(chunks * s.in_channels, std::max<int64_t>(1, 400 / plan.v.point),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin / s.in_channels; i * s.in_channels < end; ++i)
                     transform_input<T>(v + i * v_size, plan.v, s, runs[size_t(i)], plan.count(first + i), x,
                                        std::max<int64_t>(begin - i * s.in_channels, 0),
                                        std::min(end - i * s.in_channels, s.in_channels));
                 });
    parallel_tasks(chunks * blocks, [&](int64_t task) {
      const int64_t i = task / blocks, p = task % blocks * plan.block;
      multiply(runs[size_t(i)], plan.count(first + i), v + i * v_size, p,
               std::min(p + plan.block, plan.panels));
    });
  }
}

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  const Shape s = forward_shape(p);
  for (int64_t g = 0; g < p.groups; ++g)
    convolve<T>(s, y + g * s.out_channels * p.out_size(), x + g * s.in_channels * p.in_size(),
                {w + g * s.out_channels * s.in_channels * 9, s.in_channels * 9, 9, false},
                bias ? bias + g * s.out_channels : nullptr);
}

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  const Shape s = backward_shape(p);
  for (int64_t g = 0; g < p.groups; ++g)
    convolve<T>(s, gx + g * s.out_channels * p.in_size(), gy + g * s.in_channels * p.out_size(),
                {w + g * s.out_channels * s.in_channels * 9, 9, s.out_channels * 9, true},
                bias ? bias + g * s.out_channels : nullptr);
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

// V of channels [0, channels) and N of the rest, as one range shared out over threads.
template <class T>
void transform_both(T* v, const Layout& in, T* n, const Layout& out, const Shape& s, int64_t first,
                    int64_t lanes, const T* x, const T* gy) {
  const std::vector<Run> runs = runs_of(s, first, lanes);
  const int64_t channels = s.in_channels;
  parallel_for(channels + s.out_channels, std::max<int64_t>(1, 400 / lanes), [&](int64_t begin, int64_t end) {
    transform_input<T>(v, in, s, runs, lanes, x, begin, std::min(end, channels));
    transform_grad<T>(n, out, s, runs, lanes, gy, std::max<int64_t>(begin - channels, 0), end - channels);
  });
}

// One group's grad_w, many tiles: chunk by chunk, D whole.
template <class T>
void grad_w_many(const Shape& s, T* gw, const T* gy, const T* x) {
  constexpr int w = kWidth<T>;
  constexpr int64_t shared = (8 << 20) / int64_t(sizeof(T));
  const int64_t channels = s.in_channels, outputs = s.out_channels;
  const int64_t chunk = std::min(ceil_div(s.tiles(), kNR<T>) * kNR<T>,
                                 std::max<int64_t>(shared / (kPoints * (channels + outputs)) / 128, 1) * 128);
  const Layout in{channels * chunk + kLine<T>, chunk}, out{outputs * chunk + kLine<T>, chunk};
  memory::Buffer<T> v(size_t(kPoints * in.point)), n(size_t(kPoints * out.point)),
      d(size_t(kPoints * outputs * channels + w));
  for (int64_t first = 0; first < s.tiles(); first += chunk) {
    const int64_t lanes = std::min(chunk, s.tiles() - first);
    transform_both<T>(v, in, n, out, s, first, lanes, x, gy);
    parallel_tasks(kPoints, [&](int64_t e) {
      gemm<T>(outputs, channels, lanes, T(1), matrix<T>(n + e * out.point, chunk),
              matrix<T>(v + e * in.point, chunk, true), first == 0 ? T(0) : T(1), d + e * outputs * channels,
              channels);
    });
  }
  parallel_for(outputs, std::max<int64_t>(1, 2000 / channels), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k)
      for (int64_t c = 0; c < channels; c += w)
        transform_weight_grad<T>(gw + (k * channels + c) * 9, d + k * channels + c, outputs * channels,
                                 int(std::min<int64_t>(w, channels - c)));
  });
}

// One chunk: D, four times as large as the result, exists for a few panels at a time, in L2.
template <class T>
void grad_w_once(const Shape& s, T* gw, const T* gy, const T* x) {
  constexpr int w = kWidth<T>, mr = kMR<T>, nr = kNR<T>;
  constexpr int64_t block = 4;  // panels of output channels
  const int64_t channels = s.in_channels, outputs = s.out_channels, tiles = s.tiles();
  const int64_t lanes = whole_vectors<T>(tiles), columns = ceil_div(channels, nr),
                rows = ceil_div(outputs, mr);
  const Layout in{channels * lanes + kLine<T>, lanes}, out{outputs * lanes + kLine<T>, lanes};
  memory::Buffer<T> v(size_t(kPoints * in.point)), n(size_t(kPoints * out.point)),
      a(size_t(kPoints * rows * mr * lanes)), b(size_t(kPoints * columns * nr * lanes));
  transform_both<T>(v, in, n, out, s, 0, tiles, x, gy);
  // Panels for the products, those of all points of the same channels together.
  parallel_for(kPoints * (rows + columns), std::max<int64_t>(1, 2000 / lanes),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t q = i / kPoints, e = i % kPoints;
                   if (q < rows)
                     tile::pack_panel<T, mr>(a + i * mr * lanes, n + e * out.point + q * mr * lanes, lanes, 1,
                                             int(std::min<int64_t>(mr, outputs - q * mr)), lanes);
                   else
                     tile::pack_panel<T, nr>(b + (i - rows * kPoints) * nr * lanes,
                                             v + e * in.point + (q - rows) * nr * lanes, lanes, 1,
                                             int(std::min<int64_t>(nr, channels - (q - rows) * nr)), lanes);
                 }
               });
  const int64_t blocks =
      std::max(ceil_div(rows, block), std::min<int64_t>(rows, ceil_div(2 * num_threads(), columns)));
  parallel_tasks(blocks * columns, [&](int64_t task) {
    const int64_t q0 = rows * (task / columns) / blocks, q1 = rows * (task / columns + 1) / blocks;
    const int64_t c0 = task % columns * nr;
    const int count = int(std::min<int64_t>(nr, channels - c0));
    memory::Buffer<T> d(size_t((q1 - q0) * kPoints * mr * nr));
    for (int e = 0; e < kPoints; ++e)
      for (int64_t q = q0; q < q1; ++q)
        tile::kernel_for<T>(int(std::min<int64_t>(mr, outputs - q * mr)), count)(
            tiles, a + (q * kPoints + e) * mr * lanes, mr, b + (c0 / nr * kPoints + e) * nr * lanes, nr,
            count,
            {d + ((q - q0) * kPoints + e) * mr * nr, nr, T(1), T(0), nullptr, nullptr, Activation::none});
    for (int64_t k = q0 * mr; k < std::min(q1 * mr, outputs); ++k)
      for (int c = 0; c < count; c += w)
        transform_weight_grad<T>(gw + (k * channels + c0 + c) * 9,
                                 d + (k / mr - q0) * kPoints * mr * nr + k % mr * nr + c, mr * nr,
                                 std::min(w, count - c));
  });
}

template <class T>
void grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const Shape s = forward_shape(p);
  const auto one_group = s.tiles() <= kMost ? grad_w_once<T> : grad_w_many<T>;
  for (int64_t g = 0; g < p.groups; ++g)
    one_group(s, gw + g * s.out_channels * s.in_channels * 9, gy + g * s.out_channels * p.out_size(),
              x + g * s.in_channels * p.in_size());
}

const char* refusal(const ConvProblem& p) {
  if (p.kernel != Extent{1, 3, 3}) return "it needs a 3x3 kernel over two spatial axes";
  if (p.in[0] != 1 || p.out[0] != 1 || p.pad[0] != 0) return "it needs two spatial axes";
  if (p.stride != Extent{1, 1, 1}) return "it needs stride 1";
  if (p.dilation != Extent{1, 1, 1}) return "it needs dilation 1";
  return nullptr;
}

// A model of the time per pair of channels, in products of the direct algorithm at full speed. Measured: a
// product of transformed numbers costs 1.4 (short sums), the transforms of a tile 900 per input channel and
// 600 per output channel, those of the weights 300, of their gradients, which pass through memory, 2700.
// Direct algorithms compute rows with their padding, in whole vectors, and pack the weights (100); for
// gradients of weights they reach half the speed.
bool worthwhile(const ConvProblem& p, ConvPass pass) {
  constexpr int w = kWidth<float>;
  const double in = double(p.group_in()), out = double(p.group_out());
  const double tiles = double(p.batch * ceil_div(p.out[1], kOut) * ceil_div(p.out[2], kOut));
  const double positions = double(p.batch * whole_vectors<float>(p.out[1] * (p.out[2] + 2)));
  if (pass == ConvPass::grad_w)
    return tiles * (1.4 * kPoints + 900 / in + 900 / out) + 2700 <
           9 / 0.5 * double(p.batch * p.out[1] * p.out[2]);
  const double from = pass == ConvPass::forward ? in : out, to = pass == ConvPass::forward ? out : in;
  const double whole = double(ceil_div(int64_t(to), w) * w) / to;
  return tiles * (1.4 * kPoints * whole + 900 / to + 600 / from) + 300 < 9 * 1.1 * positions + 100;
}

}  // namespace

template <class T>
const ConvAlgorithm<T>& conv_winograd() {
  static constexpr ConvAlgorithm<T> algorithm{"winograd", refusal,   worthwhile,
                                              forward<T>, grad_x<T>, grad_w<T>};
  return algorithm;
}
template const ConvAlgorithm<float>& conv_winograd<float>();
template const ConvAlgorithm<double>& conv_winograd<double>();

}  // namespace fastdl
