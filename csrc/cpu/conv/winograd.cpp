// Winograd convolution F(4x4, 3x3) for 3x3 kernels with stride 1: a quarter of the multiplications
// (winograd.h has the arithmetic of the transforms, winograd_tiles.h their loops). With T tiles of 4x4
// outputs over all images, point e of the 36 and a group of C inputs, K outputs:
//
//   forward, grad_x   U[e] (C x K) from the weights, V[e] (C x T) from the input, M[e] = V[e]^T U[e], y from M
//   grad_w            N[e] (K x T) from grad_y, V[e] (C x T) from the input, D[e] = N[e] V[e]^T, grad_w from D
//
// grad_x is a forward convolution of grad_y with the flipped, transposed weights and padding 2 - pad.
//
// Work: tiles are taken in chunks of about 64, output channels in blocks. Each task multiplies a chunk by a
// block, a few input channels at a time: it transforms their weights right there (U has four times as many
// numbers: they live in L2 for a moment and never go to memory), multiplies, and adds up M, which stays in L2
// too. A handful of tiles does not even make up for storing U: its rows go from the transform straight to the
// products. Large batches of few channels: a task is a chunk and makes its own V, in L2. Else V of some
// chunks is made first, by all threads. grad_w: V and N, then one product per point; or, with few tiles, D
// block by block, transformed back in L2.
//
// Accuracy: float32 results are within a few 1e-6 of the largest result. An infinity or NaN in the input
// reaches every output of its tile, in other tiles nothing.
#include "cpu/conv/algorithm.h"
#include "cpu/conv/tap_tile.h"
#include "cpu/conv/winograd_tiles.h"
#include "cpu/gemm/panels.h"

namespace fastdl {
namespace {

using namespace winograd;
using simd::kWidth;
using tile::kMR;
using tile::kNR;

constexpr int64_t kMost = 64, kLeast = 12;  // tiles in a chunk, if there are as many

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
Plan cut(const Shape& s) {
  constexpr int64_t private_v = 1280 << 10, shared_v = 8 << 20, private_m = 640 << 10;
  Plan p;
  p.tiles = s.tiles();
  p.chunks = ceil_div(p.tiles, kMost);
  p.panels = ceil_div(s.out_channels, kNR<T>);
  // Smaller chunks give all threads work; each transforms the weights again, which a few tiles outweigh.
  const int64_t threads = detail::in_parallel() ? 1 : num_threads();
  p.chunks = std::max(p.chunks, std::min(threads / p.panels, p.tiles / kLeast));
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
  p.outer = p.chunks >= 2 * threads && v <= private_v;
  p.group = ceil_div(p.chunks, ceil_div(p.chunks, std::max<int64_t>(shared_v / v, 1)));
  p.block = std::max<int64_t>(private_m / m, 1);
  if (!p.outer)  // work for all threads
    p.block = std::min(p.block, std::max<int64_t>(p.group * p.panels / (2 * threads), 1));
  return p;
}

template <class T>
void convolve(const Shape& s, T* y, const T* x, const Weights<T>& weights, const T* bias) {
  constexpr int w = kWidth<T>, width = kNR<T>;
  const Plan plan = cut<T>(s);
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
                                                   T(c0 > 0), nullptr, nullptr, GemmActivation::none});
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
  for_groups<T>(p, [&](int64_t g) {
    convolve<T>(s, y + g * s.out_channels * p.out_size(), x + g * s.in_channels * p.in_size(),
                {w + g * s.out_channels * s.in_channels * 9, s.in_channels * 9, 9, false},
                bias ? bias + g * s.out_channels : nullptr);
  });
}

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  const Shape s = backward_shape(p);
  for_groups<T>(p, [&](int64_t g) {
    convolve<T>(s, gx + g * s.out_channels * p.in_size(), gy + g * s.in_channels * p.out_size(),
                {w + g * s.out_channels * s.in_channels * 9, 9, s.out_channels * 9, true},
                bias ? bias + g * s.out_channels : nullptr);
  });
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
            {d + ((q - q0) * kPoints + e) * mr * nr, nr, T(1), T(0), nullptr, nullptr, GemmActivation::none});
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
  for_groups<T>(p, [&](int64_t g) {
    one_group(s, gw + g * s.out_channels * s.in_channels * 9, gy + g * s.out_channels * p.out_size(),
              x + g * s.in_channels * p.in_size());
  });
}

const char* refusal(const ConvProblem& p) {
  if (p.kernel != Extent{1, 3, 3}) return "it needs a 3x3 kernel over two spatial axes";
  if (p.in[0] != 1 || p.out[0] != 1 || p.pad[0] != 0) return "it needs two spatial axes";
  if (p.stride != Extent{1, 1, 1}) return "it needs stride 1";
  if (p.dilation != Extent{1, 1, 1}) return "it needs dilation 1";
  return nullptr;
}

template <class T>
double cost(const ConvProblem& p, ConvPass pass) {
  return winograd_cost(p, pass, kWidth<T>);
}

}  // namespace

// In products of vectors. Measured: a product of transformed numbers costs 1.1 (short sums), a tile's transform
// 1,300 for a vector of channels that go in and 600 for one that comes out, that of the weights 230. A group's
// meetings of threads, its buffers and its last, smaller pieces come to 15,000.
// grad_w: 1.35; a tile's products are gathered in memory (900 for a vector of inputs, 260 for one of outputs), and
// its transforms begin anew with every row of neighbours (180 a channel); 400 for D of few tiles; 60,000.
double winograd_cost(const ConvProblem& p, ConvPass pass, int64_t w) {
  const Extent& plane = pass == ConvPass::grad_x ? p.in : p.out;
  const int64_t rows = p.batch * ceil_div(plane[1], kOut), columns = ceil_div(plane[2], kOut);
  const double tiles = double(rows * columns);
  const int64_t in = p.group_in(), out = p.group_out(), pairs = in * out;
  const auto vectors = [w](int64_t channels) { return double(channels) / double(w); };
  double cost;
  if (pass == ConvPass::grad_w) {
    const double products = kPoints / 2.0 * double(panels_cost(out) * ceil_div(in, w));
    const double runs = double(rows * ceil_div(columns, tiles_at_once(w)));
    cost = tiles * (1.35 * products + 900 * vectors(in) + 260 * vectors(out)) +
           180 * runs * double(in + out) + (tiles <= kMost ? 400 : 0) * vectors(pairs) + 60000;
  } else {
    const int64_t from = pass == ConvPass::forward ? in : out, to = pass == ConvPass::forward ? out : in;
    const double products = kPoints * double(from * ceil_div(to, w));
    cost = tiles * (1.1 * products + 1300 * vectors(from) + 600 * vectors(to)) + 230 * vectors(pairs) + 15000;
  }
  return double(p.groups) * cost;
}

template <class T>
const ConvAlgorithm<T>& conv_winograd() {
  static constexpr ConvAlgorithm<T> algorithm{"winograd", refusal,   nullptr,  cost<T>,
                                              forward<T>, grad_x<T>, grad_w<T>};
  return algorithm;
}
template const ConvAlgorithm<float>& conv_winograd<float>();

}  // namespace fastdl
