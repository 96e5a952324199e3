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
// Work: tiles are taken in chunks. When there are many chunks, each is one task: its V stays in the L2 cache
// of the thread that made it while blocks of output channels use it. When there are few (deep layers),
// threads share a chunk: first its V by input channel, then blocks of output channels, which also transform
// their own weights then, so that U, four times as large as the weights, never goes to memory. grad_w: V and
// N of a chunk, then the 36 products.
//
// Accuracy: float32 results are within a few 1e-6 of the largest result. An infinity or NaN in the input
// reaches every output of its tile, in other tiles nothing.
#include <vector>

#include "cpu/conv/algorithm.h"
#include "cpu/conv/lanes.h"
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

// Where element (point, channel, lane) of transformed tiles lies: panels of kNR lanes for the products.
struct Layout {
  int64_t point, channel, panel;
};

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
    T* base = to + lane / kNR<T> * layout.panel + lane % kNR<T>;
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
    transform_tiles<T, kIn>(to + c * layout.channel, layout, runs, lanes, x + c * s.in.height * s.in.width,
                            s.in, -s.pad_h, -s.pad_w, scratch.get(),
                            [](auto& out, auto& in) { input<T>(out, in); });
}

template <class T>
void transform_grad(T* to, const Layout& layout, const Shape& s, const std::vector<Run>& runs, int64_t lanes,
                    const T* grad_y, int64_t k0, int64_t k1) {
  memory::Buffer<T> scratch(scratch_size<T>(lanes));
  for (int64_t k = k0; k < k1; ++k)
    transform_tiles<T, kOut>(to + k * layout.channel, layout, runs, lanes,
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

// U of output channels [k0, k0 + count), count <= kMR, as A panels: point e's at to + e * point, (c, lane) at
// c * kMR + lane.
template <class T>
void transform_weights(T* to, int64_t point, const Weights<T>& weights, int64_t k0, int count,
                       int64_t channels) {
  constexpr int w = kWidth<T>, panel = kMR<T>;
  for (int first = 0; first < count; first += w) {
    const int lanes = std::min(w, count - first);
    for (int64_t c = 0; c < channels; ++c) {
      alignas(64) T gathered[9][w];
      for (int lane = 0; lane < lanes; ++lane) {
        const T* from = weights.data + (k0 + first + lane) * weights.out + c * weights.in;
        for (int r = 0; r < 9; ++r) gathered[weights.flip ? 8 - r : r][lane] = from[r];
      }
      Vec<T> half[kIn][3];
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) {
        const Vec<T> g[3] = {load(gathered[j]), load(gathered[3 + j]), load(gathered[6 + j])};
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
        for (int j = 0; j < kIn; ++j)
          simd::store_n(to + (i * kIn + j) * point + c * panel + first, out[j], lanes);
      }
    }
  }
}

// y of one output channel from M: points `point` apart, lanes contiguous.
template <class T>
void transform_output(T* channel, const Shape& s, const std::vector<Run>& runs, int64_t lanes, const T* m,
                      int64_t point, T bias, T* scratch) {
  constexpr int w = kWidth<T>;
  const int64_t stride = kOut * ceil_div(lanes, w) * w;  // scratch: four rows of output pixels
  for (int64_t lane = 0; lane < lanes; lane += w) {
    Vec<T> half[kOut][kIn];
#pragma GCC unroll 6
    for (int j = 0; j < kIn; ++j) {
      Vec<T> in[kIn], out[kOut];
#pragma GCC unroll 6
      for (int i = 0; i < kIn; ++i) in[i] = load(m + (i * kIn + j) * point + lane);
      output<T>(out, in);
#pragma GCC unroll 4
      for (int i = 0; i < kOut; ++i) half[i][j] = out[i];
    }
#pragma GCC unroll 4
    for (int i = 0; i < kOut; ++i) {
      Vec<T> out[kOut];
      output<T>(out, half[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kOut; ++j) out[j] += bias;
      join_columns<T>(scratch + i * stride + kOut * lane, out);
    }
  }
  for (const Run& run : runs) {
    const int64_t top = kOut * run.row, left = kOut * run.column;
    const int64_t rows = std::min<int64_t>(kOut, s.out.height - top),
                  columns = std::min(kOut * run.count, s.out.width - left);
    for (int64_t i = 0; i < rows; ++i) {
      T* to = channel + run.image * s.out.image + (top + i) * s.out.width + left;
      const T* from = scratch + i * stride + kOut * run.lane;
      int64_t j = 0;
      for (; j + w <= columns; j += w) store<T>(to + j, load(from + j));
      if (j < columns) simd::store_n(to + j, simd::load_n(from + j, int(columns - j)), int(columns - j));
    }
  }
}

// How a convolution is cut: `chunk` tiles at a time, blocks of `block` panels of output channels.
struct Plan {
  int64_t chunk, chunks, block;
};
template <class T>
Plan plan(const Shape& s) {
  constexpr int64_t cache = (640 << 10) / int64_t(sizeof(T)), shared = (8 << 20) / int64_t(sizeof(T));
  const int64_t per_tile = kPoints * s.in_channels;
  int64_t chunk = std::max<int64_t>(cache / per_tile / kNR<T>, 1) * kNR<T>;
  if (ceil_div(s.tiles(), chunk) < 2 * num_threads())  // too few tasks: one shared chunk after the other
    chunk = std::max<int64_t>(shared / per_tile / kNR<T>, 1) * kNR<T>;
  chunk = std::min(chunk, ceil_div(s.tiles(), kNR<T>) * kNR<T>);
  const int64_t block = std::max<int64_t>((384 << 10) / int64_t(sizeof(T)) / (kPoints * chunk * kMR<T>), 1);
  return {chunk, ceil_div(s.tiles(), chunk), block};
}

template <class T>
void convolve(const Shape& s, T* y, const T* x, const Weights<T>& weights, const T* bias) {
  constexpr int64_t depth = tile::kMaxKC<T>;
  const Plan plan = fastdl::plan<T>(s);
  const int64_t panels = ceil_div(s.out_channels, kMR<T>), panel_size = s.in_channels * kMR<T>;
  const bool outer = plan.chunks >= 2 * num_threads(), once = plan.chunks == 1;

  // U of all output channels, point by point, unless each block of them is used only once.
  memory::Buffer<T> u(once ? 0 : size_t(kPoints * panels * panel_size));
  if (!once)
    parallel_for(panels, std::max<int64_t>(1, 2000 / s.in_channels), [&](int64_t begin, int64_t end) {
      for (int64_t q = begin; q < end; ++q)
        transform_weights<T>(u + q * panel_size, panels * panel_size, weights, q * kMR<T>,
                             int(std::min<int64_t>(kMR<T>, s.out_channels - q * kMR<T>)), s.in_channels);
    });

  auto chunk = [&](int64_t index) {
    const int64_t first = index * plan.chunk, lanes = std::min(plan.chunk, s.tiles() - first);
    const int64_t lane_panels = ceil_div(lanes, kNR<T>);
    // The last panel's second vector is left out where no tile needs it.
    const int last_columns = lanes - (lane_panels - 1) * kNR<T> <= kWidth<T> ? kWidth<T> : kNR<T>;
    const std::vector<Run> runs = runs_of(s, first, lanes);
    const Layout layout{s.in_channels * lane_panels * kNR<T>, kNR<T>, s.in_channels * kNR<T>};
    memory::Buffer<T> v(size_t(kPoints * layout.point));
    parallel_for(s.in_channels, std::max<int64_t>(1, 400 / lanes), [&](int64_t begin, int64_t end) {
      transform_input<T>(v.get(), layout, s, runs, lanes, x, begin, end);
    });
    const int64_t blocks =
        std::max(ceil_div(panels, plan.block), std::min<int64_t>(panels, outer ? 1 : 2 * num_threads()));
    parallel_tasks(blocks, [&](int64_t block) {
      const int64_t q0 = panels * block / blocks, q1 = panels * (block + 1) / blocks,
                    rows = (q1 - q0) * kMR<T>;
      const int64_t row = lane_panels * kNR<T>, point = rows * row;
      memory::Buffer<T> own(once ? size_t(kPoints * (q1 - q0) * panel_size) : 0), m(size_t(kPoints * point));
      memory::Buffer<T> pixels(size_t(kOut * kOut * row));
      for (int64_t q = q0; q < q1 && once; ++q)
        transform_weights<T>(own + (q - q0) * panel_size, (q1 - q0) * panel_size, weights, q * kMR<T>,
                             int(std::min<int64_t>(kMR<T>, s.out_channels - q * kMR<T>)), s.in_channels);
      for (int e = 0; e < kPoints; ++e)
        for (int64_t c = 0; c < s.in_channels; c += depth)
          for (int64_t p = 0; p < lane_panels; ++p)
            for (int64_t q = q0; q < q1; ++q) {
              const T* a =
                  once ? own + (e * (q1 - q0) + q - q0) * panel_size : u + (e * panels + q) * panel_size;
              const int columns = p + 1 == lane_panels ? last_columns : kNR<T>;
              const tile::Store<T> to{m + e * point + (q - q0) * kMR<T> * row + p * kNR<T>,
                                      row,
                                      T(1),
                                      c == 0 ? T(0) : T(1),
                                      nullptr,
                                      nullptr,
                                      Activation::none};
              tile::kernel_for<T>(int(std::min<int64_t>(kMR<T>, s.out_channels - q * kMR<T>)), columns)(
                  std::min(depth, s.in_channels - c), a + c * kMR<T>, kMR<T>,
                  v + e * layout.point + p * layout.panel + c * kNR<T>, kNR<T>, columns, to);
            }
      for (int64_t k = q0 * kMR<T>; k < std::min(q1 * kMR<T>, s.out_channels); ++k)
        transform_output<T>(y + k * s.out.height * s.out.width, s, runs, lanes, m + (k - q0 * kMR<T>)*row,
                            point, bias ? bias[k] : T(0), pixels.get());
    });
  };
  if (outer)
    parallel_tasks(plan.chunks, chunk);
  else
    for (int64_t i = 0; i < plan.chunks; ++i) chunk(i);
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

template <class T>
void grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  constexpr int w = kWidth<T>;
  const Shape s = forward_shape(p);
  const int64_t channels = s.in_channels, outputs = s.out_channels;
  constexpr int64_t shared = (8 << 20) / int64_t(sizeof(T));
  const int64_t chunk = std::min(ceil_div(s.tiles(), kNR<T>) * kNR<T>,
                                 std::max<int64_t>(shared / (kPoints * (channels + outputs)) / 128, 1) * 128);
  const Layout in{channels * chunk, chunk, kNR<T>}, out{outputs * chunk, chunk, kNR<T>};
  memory::Buffer<T> v(size_t(kPoints * in.point)), n(size_t(kPoints * out.point)),
      d(size_t(kPoints * outputs * channels));
  for (int64_t g = 0; g < p.groups; ++g) {
    const T* group_x = x + g * channels * p.in_size();
    const T* group_gy = gy + g * outputs * p.out_size();
    for (int64_t first = 0; first < s.tiles(); first += chunk) {
      const int64_t lanes = std::min(chunk, s.tiles() - first);
      const std::vector<Run> runs = runs_of(s, first, lanes);
      parallel_for(channels + outputs, std::max<int64_t>(1, 400 / lanes), [&](int64_t begin, int64_t end) {
        transform_input<T>(v.get(), in, s, runs, lanes, group_x, begin, std::min(end, channels));
        transform_grad<T>(n.get(), out, s, runs, lanes, group_gy, std::max<int64_t>(begin - channels, 0),
                          end - channels);
      });
      parallel_tasks(kPoints, [&](int64_t e) {
        gemm<T>(outputs, channels, lanes, T(1), matrix<T>(n + e * out.point, chunk),
                matrix<T>(v + e * in.point, chunk, true), first == 0 ? T(0) : T(1),
                d + e * outputs * channels, channels);
      });
    }
    parallel_for(outputs, std::max<int64_t>(1, 2000 / channels), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k)
        for (int64_t c = 0; c < channels; c += w) {
          const int count = int(std::min<int64_t>(w, channels - c));
          Vec<T> half[3][kIn];
#pragma GCC unroll 6
          for (int j = 0; j < kIn; ++j) {
            Vec<T> u[kIn], t[3];
#pragma GCC unroll 6
            for (int i = 0; i < kIn; ++i)
              u[i] = simd::load_n(d + ((i * kIn + j) * outputs + k) * channels + c, count);
            weight_adjoint<T>(t, u);
#pragma GCC unroll 3
            for (int i = 0; i < 3; ++i) half[i][j] = t[i];
          }
          alignas(64) T taps[9][w];
#pragma GCC unroll 3
          for (int i = 0; i < 3; ++i) {
            Vec<T> t[3];
            weight_adjoint<T>(t, half[i]);
#pragma GCC unroll 3
            for (int j = 0; j < 3; ++j) store<T>(taps[3 * i + j], t[j]);
          }
          T* to = gw + ((g * outputs + k) * channels + c) * 9;
          for (int i = 0; i < count; ++i)
            for (int r = 0; r < 9; ++r) to[i * 9 + r] = taps[r][i];
        }
    });
  }
}

const char* refusal(const ConvProblem& p) {
  if (p.kernel != Extent{1, 3, 3}) return "it needs a 3x3 kernel over two spatial axes";
  if (p.in[0] != 1 || p.out[0] != 1 || p.pad[0] != 0) return "it needs two spatial axes";
  if (p.stride != Extent{1, 1, 1}) return "it needs stride 1";
  if (p.dilation != Extent{1, 1, 1}) return "it needs dilation 1";
  return nullptr;
}

// Transforms cost about 25 products per element of input and output, the products saved are 108 per pair of
// channels.
bool worthwhile(const ConvProblem& p, ConvPass) {
  const int64_t tiles = p.batch * ceil_div(p.out[1], kOut) * ceil_div(p.out[2], kOut);
  return p.group_in() >= 16 && p.group_out() >= 16 && tiles >= 32;
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
