// Direct convolution: no patches, no packing of the image beyond one padded copy (planes.h), in which every
// tap is a constant shift. Strong where a matrix product would spend its time on packing: few channels, large
// kernels, strides.
//
//   forward   y[k][f]      = sum over c, r of  w[k][c][r] * plane_r[c][shift_r + f]
//   grad_x    the same from grad_y: inputs whose position has the same remainder by the stride form a
//   lattice, on which
//             the taps that meet it are constant shifts; every lattice is a stride-1 convolution with its own
//             taps
//   grad_w    g[c, r][k]   = sum over outputs o of  plane_r[c][shift_r + o] * grad_y^T[o][k]
//
// Registers: forward and grad_x hold kRows channels x kVectors vectors of neighbouring positions, weights are
// broadcast; grad_w holds kRows (channel, tap) pairs x kGradVectors vectors of output channels, pixels are
// broadcast (so that neither rows nor their ends need alignment), and grad_y is transposed once per image.
// Sums longer than kStretch are cut, so the error grows with the square root of the stretches.
//
// Work: over images if there are enough of them, else over positions and channels inside each image. grad_w:
// over images and rows with one partial result per chunk, or, where that is large, over (channel, tap) pairs.

#include <numeric>

#include "cpu/conv/algorithm.h"
#include "cpu/conv/planes.h"
#include "cpu/gemm/pack.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

using namespace simd;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;  // of 16 registers: 4 x 3 accumulators
#endif
constexpr int kVectors = 3, kGradVectors = 2;
constexpr int64_t kStretch = 512;

template <class T>
constexpr int64_t kStrip = kVectors * kWidth<T>;  // positions in registers

// ------------------------------------------------------------------------------------------- forward and
// grad_x

// sums[R][V * w] over `channels` x `taps`: weights at a[(c * taps + r) * kRows + row], image at b[c * channel
// + offsets[r]].
template <class T, int R, int V>
void strip_kernel(T* sums, int64_t channels, int64_t channel, const int64_t* offsets, int64_t taps,
                  const T* a, const T* b) {
  constexpr int w = kWidth<T>;
  const int64_t stretch = std::max<int64_t>(kStretch / taps, 1);
  for (int64_t c0 = 0; c0 < channels; c0 += stretch) {
    Vec<T> acc[R][V];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) acc[i][v] = Vec<T>{};
    const int64_t c1 = std::min(channels, c0 + stretch);
    for (int64_t c = c0; c < c1; ++c, b += channel)
      for (int64_t r = 0; r < taps; ++r, a += kRows) {
        const T* from = b + offsets[r];
        Vec<T> x[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) x[v] = load(from + v * w);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 3
          for (int v = 0; v < V; ++v) acc[i][v] += a[i] * x[v];
      }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) {
        T* to = sums + i * kStrip<T> + v * w;
        store<T>(to, c0 == 0 ? acc[i][v] : load(to) + acc[i][v]);
      }
  }
}

template <class T>
using StripKernel = void (*)(T*, int64_t, int64_t, const int64_t*, int64_t, const T*, const T*);

template <class T, int... I>
constexpr auto strip_table(std::integer_sequence<int, I...>) {
  return std::array<StripKernel<T>, sizeof...(I)>{&strip_kernel<T, I / kVectors + 1, I % kVectors + 1>...};
}
template <class T>
constexpr auto kStripKernels = strip_table<T>(std::make_integer_sequence<int, kRows * kVectors>{});

// What a pass writes: channels of `extent`.
template <class T>
struct Result {
  T* data;
  Extent extent;
};

// The weights of one group for one lattice: element (row channel, depth channel, tap) at data[row *
// row_stride + ...].
template <class T>
struct Weights {
  const T* data;
  int64_t row_stride, depth_stride;
};

// Panels of kRows rows: element (row, c, r) at [(c * taps + r) * kRows + row].
template <class T>
void pack_weights(T* out, const Weights<T>& w, int64_t rows, int64_t depth,
                  const std::vector<int64_t>& taps) {
  const int64_t n = int64_t(taps.size());
  // All taps in order, as in a forward pass: rows are contiguous.
  const bool whole = w.depth_stride == n && taps.front() == 0 && taps.back() == n - 1;
  parallel_for(ceil_div(rows, kRows), std::max<int64_t>(1, 8192 / (depth * n)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t panel = begin; panel < end; ++panel) {
                   const int count = int(std::min<int64_t>(kRows, rows - panel * kRows));
                   const T* from = w.data + panel * kRows * w.row_stride;
                   T* to = out + panel * kRows * depth * n;
                   if (whole)
                     tile::pack_panel<T, kRows>(to, from, w.row_stride, 1, count, depth * n);
                   else
                     for (int64_t c = 0; c < depth; ++c, from += w.depth_stride, to += n * kRows)
                       for (int i = 0; i < count; ++i)
                         for (int64_t r = 0; r < n; ++r)
                           to[r * kRows + i] = from[i * w.row_stride + taps[size_t(r)]];
                 }
               });
}

// One image and group on one lattice; `first_row`: output channels in whole panels of kRows.
template <class T>
void convolve(const Result<T>& y, const Lattice& lattice, const Planes<T>& planes, const T* image,
              const T* weights, int64_t rows, int64_t depth, const T* bias) {
  const int64_t flat = (lattice.count[1] - 1) * planes.width() + lattice.count[2];
  const int64_t strips = ceil_div(flat, kStrip<T>), panels = ceil_div(rows, kRows);
  const int64_t taps = int64_t(lattice.taps.size()), size = volume(y.extent);
  // A task: a few strips, whose pixels stay in L2, with every panel of weights, each of which is read once
  // per task.
  const int64_t group = std::min<int64_t>(strips, 4), groups = ceil_div(strips, group);
  const int64_t macs = group * kStrip<T> * rows * depth * taps;
  parallel_for(
      lattice.count[0] * groups, std::max<int64_t>(1, 400000 / macs), [&](int64_t begin, int64_t end) {
        alignas(64) T sums[kRows * kStrip<T>];
        for (int64_t task = begin; task < end; ++task) {
          const int64_t d = task / groups, s0 = task % groups * group, s1 = std::min(strips, s0 + group);
          const T* from = image + lattice.base + planes.at(d, 0, 0);
          for (int64_t panel = 0; panel < panels; ++panel) {
            const int count = int(std::min<int64_t>(kRows, rows - panel * kRows));
            for (int64_t strip = s0; strip < s1; ++strip) {
              const int64_t f0 = strip * kStrip<T>, f1 = std::min(flat, f0 + kStrip<T>);
              kStripKernels<T>[size_t((count - 1) * kVectors + ceil_div(f1 - f0, kWidth<T>) - 1)](
                  sums, depth, planes.channel_size(), lattice.offsets.data(), taps,
                  weights + panel* kRows* depth* taps, from + f0);
              // The strip's pieces of rows, without the columns between them.
              for (int64_t h = f0 / planes.width(); h * planes.width() < f1; ++h) {
                const int64_t w0 = std::max<int64_t>(f0 - h * planes.width(), 0);
                const int64_t w1 = std::min(f1 - h * planes.width(), lattice.count[2]);
                if (w0 >= w1) continue;
                const T* sum = sums + h * planes.width() + w0 - f0;
                const int64_t at = ((lattice.first[0] + d * lattice.step[0]) * y.extent[1] +
                                    lattice.first[1] + h * lattice.step[1]) *
                                       y.extent[2] +
                                   lattice.first[2] + w0 * lattice.step[2];
                T* to = y.data + panel * kRows * size + at;
                for (int i = 0; i < count; ++i, to += size, sum += kStrip<T>) {
                  const T b = bias ? bias[panel * kRows + i] : T(0);
                  if (lattice.step[2] == 1) {
                    int64_t j = 0;
                    for (; j + kWidth<T> <= w1 - w0; j += kWidth<T>) store<T>(to + j, load(sum + j) + b);
                    if (const int rest = int(w1 - w0 - j)) store_n(to + j, load_n(sum + j, rest) + b, rest);
                  } else {
                    for (int64_t j = 0; j < w1 - w0; ++j) to[j * lattice.step[2]] = sum[j] + b;
                  }
                }
              }
            }
          }
        }
      });
}

// All images: `in` channels per group of x through the lattices to `out` channels per group of y.
template <class T>
void run(const ConvProblem& p, T* y, const Extent& extent, int64_t out, const T* x, int64_t in,
         int64_t in_size, const Planes<T>& planes, const std::vector<Lattice>& lattices, const T* w,
         int64_t row_stride, int64_t depth_stride, const T* bias) {
  const int64_t panels = ceil_div(out, kRows), images = p.batch * p.groups, size = volume(extent);
  const int64_t all_taps =
      std::accumulate(lattices.begin(), lattices.end(), int64_t{0},
                      [](int64_t n, const Lattice& l) { return n + int64_t(l.taps.size()); });
  const int64_t group_weights = panels * kRows * in * all_taps;
  memory::Buffer<T> weights(size_t(p.groups * group_weights));
  for (int64_t g = 0; g < p.groups; ++g) {
    T* to = weights + g * group_weights;
    for (const Lattice& lattice : lattices) {
      pack_weights<T>(to, {w + g * p.group_out() * p.patch(), row_stride, depth_stride}, out, in,
                      lattice.taps);
      to += panels * kRows * in * int64_t(lattice.taps.size());
    }
  }
  // Lattices that no tap meets are left out: then the result starts as the bias.
  int64_t covered = 0;
  for (const Lattice& lattice : lattices) covered += volume(lattice.count);

  auto work = [&](int64_t begin, int64_t end) {
    const size_t buffer_size = size_t(planes.size() + kStrip<T> + kWidth<T>);
    memory::Buffer<T> buffer(buffer_size);
    std::fill_n(buffer.get(), buffer_size, T(0));
    for (int64_t index = begin; index < end; ++index) {
      const int64_t g = index % p.groups;
      const T* image = x + index * in * in_size;
      const Result<T> result{y + index * out * size, extent};
      const T* group_bias = bias ? bias + g * out : nullptr;
      if (covered < size)
        for (int64_t k = 0; k < out; ++k)
          std::fill_n(result.data + k * size, size, group_bias ? group_bias[k] : T(0));
      parallel_for(in, std::max<int64_t>(1, 16384 / planes.channel_size()),
                   [&](int64_t c0, int64_t c1) { planes.copy(buffer, image, c0, c1); });
      const T* packed = weights + g * group_weights;
      for (const Lattice& lattice : lattices) {
        convolve<T>(result, lattice, planes, buffer, packed, out, in, group_bias);
        packed += panels * kRows * in * int64_t(lattice.taps.size());
      }
    }
  };
  if (images >= 2 * num_threads())
    parallel_for(images, std::max<int64_t>(1, int64_t(400000 * double(images) / p.macs())), work);
  else
    work(0, images);
}

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  const auto planes = Planes<T>::of_input(p);
  const std::vector<Lattice> lattices{forward_lattice(p, planes.tap_offsets())};
  run<T>(p, y, p.out, p.group_out(), x, p.group_in(), p.in_size(), planes, lattices, w, p.patch(), p.taps(),
         bias);
}

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  const auto [planes, lattices] = grad_lattices<T>(p);
  run<T>(p, gx, p.in, p.group_in(), gy, p.group_out(), p.out_size(), planes, lattices, w, p.taps(), p.patch(),
         bias);
}

// -------------------------------------------------------------------------------------------------------
// grad_w

// sums[i][V * w] += over rows of outputs: pixel rows[i][...] * grad[position][V * w].
template <class T, int R, int V>
void pair_kernel(T* sums, const T* const* pixels, const T* grad, int64_t grad_step, int64_t height,
                 int64_t width, int64_t pitch) {
  constexpr int w = kWidth<T>;
  const int64_t stretch = std::max<int64_t>(kStretch / width, 1);
  const T* row[R];
  for (int i = 0; i < R; ++i) row[i] = pixels[i];
  for (int64_t h0 = 0; h0 < height; h0 += stretch) {
    Vec<T> acc[R][V];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[i][v] = Vec<T>{};
    for (int64_t h = h0; h < std::min(height, h0 + stretch); ++h) {
      for (int64_t x = 0; x < width; ++x, grad += grad_step) {
        Vec<T> g[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) g[v] = load(grad + v * w);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) acc[i][v] += row[i][x] * g[v];
      }
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) row[i] += pitch;
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        T* to = sums + i * V * w + v * w;
        store<T>(to, load(to) + acc[i][v]);
      }
  }
}

// Output channels in panels of `lanes`; pairs (channel, tap) in panels of kRows; one image and group.
template <class T, int V>
struct GradWeight {
  static constexpr int lanes = V * kWidth<T>;
  const ConvProblem& p;
  const Planes<T>& planes;

  int64_t grad_size() const { return ceil_div(p.group_out(), lanes) * lanes * p.out_size(); }
  int64_t sums_size() const {
    return ceil_div(p.patch(), kRows) * kRows * ceil_div(p.group_out(), lanes) * lanes;
  }

  // grad_y with positions outermost: panels q0..q1 of output channels.
  void transpose(T* to, const T* gy, int64_t q0, int64_t q1) const {
    const int64_t size = p.out_size();
    for (int64_t q = q0; q < q1; ++q)
      tile::pack_panel<T, lanes>(to + q * lanes * size, gy + q * lanes * size, size, 1,
                                 int(std::min<int64_t>(lanes, p.group_out() - q * lanes)), size);
  }

  // Adds rows [h0, h1) of every depth into sums[output panel][pair][lanes], for panels i0..i1 of pairs.
  void add(T* sums, const T* image, const T* grad, int64_t i0, int64_t i1, int64_t h0, int64_t h1) const {
    const int64_t pairs = ceil_div(p.patch(), kRows) * kRows, panels = ceil_div(p.group_out(), lanes);
    for (int64_t i = i0; i < i1; ++i) {
      const T* pixels[kRows];
      for (int64_t d = 0; d < p.out[0]; ++d) {
        for (int j = 0; j < kRows; ++j) {
          const int64_t pair =
              std::min(i * kRows + j, p.patch() - 1);  // those beyond the last compute it again
          pixels[j] = image + pair / p.taps() * planes.channel_size() +
                      planes.tap_offsets()[size_t(pair % p.taps())] + planes.at(d, h0, 0);
        }
        for (int64_t q = 0; q < panels; ++q)
          pair_kernel<T, kRows, V>(sums + (q * pairs + i * kRows) * lanes, pixels,
                                   grad + (q * p.out_size() + (d * p.out[1] + h0) * p.out[2]) * lanes, lanes,
                                   h1 - h0, p.out[2], planes.width());
      }
    }
  }

  // gw[k][pair] = sum of `parts` partial sums.
  void finish(T* gw, const T* sums, int64_t parts) const {
    const int64_t pairs = ceil_div(p.patch(), kRows) * kRows;
    for (int64_t k = 0; k < p.group_out(); ++k)
      for (int64_t pair = 0; pair < p.patch(); ++pair) {
        T sum = 0;
        for (int64_t part = 0; part < parts; ++part)
          sum += sums[part * sums_size() + (k / lanes * pairs + pair) * lanes + k % lanes];
        gw[k * p.patch() + pair] = sum;
      }
  }

  void run(T* gw, const T* gy, const T* x) const {
    const int64_t in_image = p.group_in() * p.in_size(), out_image = p.group_out() * p.out_size();
    const int64_t pair_panels = ceil_div(p.patch(), kRows), out_panels = ceil_div(p.group_out(), lanes);
    const size_t buffer_size = size_t(planes.size() + kWidth<T>);
    const bool few = sums_size() * int64_t(sizeof(T)) <= (256 << 10);
    for (int64_t g = 0; g < p.groups; ++g) {
      const T* group_x = x + g * in_image;
      const T* group_gy = gy + g * out_image;
      T* group_gw = gw + g * p.group_out() * p.patch();
      if (few) {  // chunks of rows of images, a partial result each
        const int64_t rows = p.batch * p.out[1];
        const int64_t grain =
            std::max<int64_t>(1, int64_t(400000 * double(rows) * double(p.groups) / p.macs()));
        const int64_t parts = chunk_count(rows, grain);
        memory::Buffer<T> sums(size_t(parts * sums_size()));
        parallel_chunks(rows, grain, [&](int64_t part, int64_t begin, int64_t end) {
          memory::Buffer<T> buffer(buffer_size), grad(static_cast<size_t>(grad_size()));
          std::fill_n(buffer.get(), buffer_size, T(0));
          T* mine = sums + part * sums_size();
          std::fill_n(mine, sums_size(), T(0));
          for (int64_t row = begin; row < end;) {
            const int64_t n = row / p.out[1], h0 = row % p.out[1], h1 = std::min(p.out[1], h0 + end - row);
            planes.copy(buffer, group_x + n * p.groups * in_image, 0, p.group_in());
            transpose(grad, group_gy + n * p.groups * out_image, 0, out_panels);
            add(mine, buffer, grad, 0, pair_panels, h0, h1);
            row += h1 - h0;
          }
        });
        finish(group_gw, sums, parts);
      } else {  // one result, shared out by pairs
        memory::Buffer<T> sums(static_cast<size_t>(sums_size())), buffer(buffer_size),
            grad(static_cast<size_t>(grad_size()));
        std::fill_n(sums.get(), sums_size(), T(0));
        std::fill_n(buffer.get(), buffer_size, T(0));
        for (int64_t n = 0; n < p.batch; ++n) {
          parallel_for(p.group_in() + out_panels, 4, [&](int64_t begin, int64_t end) {
            planes.copy(buffer, group_x + n * p.groups * in_image, begin, std::min(end, p.group_in()));
            transpose(grad, group_gy + n * p.groups * out_image, std::max<int64_t>(begin - p.group_in(), 0),
                      end - p.group_in());
          });
          const int64_t macs = kRows * out_panels * lanes * p.out_size();
          parallel_for(pair_panels, std::max<int64_t>(1, 400000 / macs),
                       [&](int64_t begin, int64_t end) { add(sums, buffer, grad, begin, end, 0, p.out[1]); });
        }
        finish(group_gw, sums, 1);
      }
    }
  }
};

template <class T>
void grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const auto planes = Planes<T>::of_input(p);
  if (p.group_out() <= kWidth<T>)
    GradWeight<T, 1>{p, planes}.run(gw, gy, x);
  else
    GradWeight<T, kGradVectors>{p, planes}.run(gw, gy, x);
}

const char* refusal(const ConvProblem&) {
  return nullptr;
}
// Weights are packed for every call: too dear for a handful of positions.
bool worthwhile(const ConvProblem& p, ConvPass) {
  return p.batch * p.out_size() >= 64 || p.group_out() * p.patch() < (64 << 10);
}

}  // namespace

template <class T>
const ConvAlgorithm<T>& conv_direct() {
  static constexpr ConvAlgorithm<T> algorithm{"direct",   refusal,   worthwhile,
                                              forward<T>, grad_x<T>, grad_w<T>};
  return algorithm;
}
template const ConvAlgorithm<float>& conv_direct<float>();
template const ConvAlgorithm<double>& conv_direct<double>();

}  // namespace fastdl
