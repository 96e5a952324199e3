// The weight gradient of direct convolution: from the padded copy of the image (planes.h) and grad_y with
// positions outermost.
//
//   g[c, r][k]   = sum over outputs o of  plane_r[c][shift_r + o] * grad_y^T[o][k]
//
// Registers: kRows (channel, tap) pairs x kGradVectors vectors of output channels; pixels are broadcast, so
// that neither rows nor their ends need alignment, and strides are steps from pixel to pixel.
//
// A layer of few output channels, the last of many networks, would leave most lanes empty. With stride 1 the
// operands may change places: for taps counted from the other end, the same sums are the weight gradient of a
// convolution of grad_y whose results' gradient is x, and the lanes hold input channels.
//
// Work: over images and rows, in bands (bands.h), with one partial result per chunk, or, where that is large,
// over (channel, tap) pairs.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "cpu/conv/bands.h"
#include "cpu/conv/direct.h"
#include "cpu/conv/pass_size.h"
#include "cpu/conv/plane_copy.h"
#include "cpu/gemm/pack.h"
#include "cpu/parts.h"
#include "cpu/runtime/memory.h"

namespace fastdl {
namespace {

using namespace simd;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 8;
#elif defined(__AVX2__)
constexpr int kRows = 6;  // 12 sums of 16 registers: eight would be just as many as wait for each other
#else
constexpr int kRows = 4;
#endif
constexpr int kGradVectors = 2;
// In products of vectors: of starting a kernel, of a vector copied (one of numbers three apart and more: of each),
// of a vector of the sums, of an image.
constexpr double kProductCost = 0.94, kStartCost = 140, kCopyCost = 10, kFarNumberCost = 3;
constexpr double kSumsCost = kWide ? 80 : 33, kImageCost = kWide ? 4000 : 1500;
constexpr double kTurnCost = 5;      // of turning a weight round
constexpr int64_t kPositions = 128;  // at once: 16 kB of grad_y

Pieces pieces_of_rows(const ConvProblem& p) {
  return {p.out[1], std::max<int64_t>(1, kPositions / p.out[2])};
}
Pieces pieces_of_columns(const ConvProblem& p) {
  return {p.out[2], kPositions};
}

// The step from pixel to pixel in the planes: the convolution's own, as pixels are read one by one, so
// nothing need be taken apart; but where it leaves pixels out, they are not copied either.
Extent reach_of(const ConvProblem& p) {
  for (size_t a = 0; a < kSpatial; ++a)
    if (p.kernel[a] < p.stride[a] || std::gcd(p.stride[a], p.dilation[a]) > 1) return {1, 1, 1};
  return p.stride;
}
template <class T>
[[gnu::noinline]] Planes<T> planes_of(const ConvProblem& p, int64_t source_size) {
  return reach_of(p) == p.stride ? PlaneLayout::of_padded_input(p, source_size)
                                 : PlaneLayout::of_input(p, source_size);
}

// sums[i][V * w] += over rows of outputs: pixel rows[i][...] * grad[position][V * w]. Pixels of a row are
// `reach` apart, rows `pitch`.
template <class T, int R, int V>
void pair_kernel(T* sums, const T* const* pixels, const T* grad, int64_t grad_step, int64_t height,
                 int64_t width, int64_t reach, int64_t pitch) {
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
    const auto add = [&](int64_t x, const T* at) __attribute__((always_inline)) {
      Vec<T> g[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) g[v] = load(at + v * w);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) acc[i][v] += row[i][x] * g[v];
    };
    const int64_t h1 = std::min(height, h0 + stretch);
    int64_t h = h0;
    for (; h + 2 <= h1; h += 2, grad += width * grad_step) {  // two rows at once: half as many starts of rows
      const T* below = grad + width * grad_step;
      for (int64_t x = 0; x < width * reach; x += reach, grad += grad_step, below += grad_step) {
        add(x, grad);
        add(x + pitch, below);
      }
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) row[i] += 2 * pitch;
    }
    for (; h < h1; ++h) {
      for (int64_t x = 0; x < width * reach; x += reach, grad += grad_step) add(x, grad);
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

// Output channels in panels of `lanes`; pairs (channel, tap) in panels of kRows; one image, or a band of one,
// and group.
template <class T>
struct GradWeight {
  const ConvProblem& p;
  bool one = p.group_out() <= kWidth<T>;  // one vector holds all output channels
  int64_t lanes = (one ? 1 : kGradVectors) * kWidth<T>;

  int64_t pairs() const { return ceil_div(p.patch(), kRows) * kRows; }
  int64_t out_panels() const { return ceil_div(p.group_out(), lanes); }
  int64_t sums_size() const { return pairs() * out_panels() * lanes; }
  size_t grad_size() const { return size_t(out_panels() * lanes * p.out_size()); }

  // grad_y, whose channels are `channel` apart, with positions outermost: panel q of output channels.
  void transpose(T* to, const T* gy, int64_t channel, int64_t q, int64_t first, int64_t last) const {
    const auto pack = one ? tile::pack_panel<T, kWidth<T>> : tile::pack_panel<T, kGradVectors * kWidth<T>>;
    pack(to + (q * p.out_size() + first) * lanes, gy + q * lanes * channel + first, channel, 1,
         int(std::min<int64_t>(lanes, p.group_out() - q * lanes)), last - first);
  }

  // Adds into sums[output panel][pair][lanes], for panels i0..i1 of pairs: some positions at a time, so that
  // grad_y's vectors stay in L1 while the pairs go by.
  void add(const Planes<T>& planes, T* sums, const T* image, const T* grad, int64_t i0, int64_t i1) const {
    const auto kernel = one ? pair_kernel<T, kRows, 1> : pair_kernel<T, kRows, kGradVectors>;
    const Pieces rows = pieces_of_rows(p), columns = pieces_of_columns(p);
    const Extent reach = reach_of(p);
    for (int64_t d = 0; d < p.out[0]; ++d)
      for (int64_t piece = 0; piece < rows.pieces * columns.pieces; ++piece)
        for (int64_t q = 0; q < out_panels(); ++q) {
          const int64_t row = piece / columns.pieces, column = piece % columns.pieces;
          const int64_t h = rows.begin(row), w = columns.begin(column);
          const T* channel = image + i0 * kRows / p.taps() * planes.channel_size() +
                             planes.at(d * reach[0], h * reach[1], w * reach[2]);
          int64_t tap = i0 * kRows % p.taps();
          for (int64_t i = i0; i < i1; ++i) {
            const T* pixels[kRows];
            for (int j = 0; j < kRows; ++j) {  // those beyond the last compute it again
              pixels[j] = channel + planes.tap_offsets()[size_t(tap)];
              if (i * kRows + j + 1 >= p.patch()) continue;
              const bool last = ++tap == p.taps();
              channel += last ? planes.channel_size() : 0;
              tap = last ? 0 : tap;
            }
            kernel(sums + (q * pairs() + i * kRows) * lanes, pixels,
                   grad + (q * p.out_size() + (d * p.out[1] + h) * p.out[2] + w) * lanes, lanes,
                   rows.size(row), columns.size(column), reach[2], planes.width() * reach[1]);
          }
        }
  }
};

// gw[k][pair] = the sums, whose channels lie in panels.
template <class T>
void unpack(const ConvProblem& p, T* gw, const T* sums) {
  const GradWeight<T> work{p};
  const int64_t lanes = work.lanes, pairs = work.pairs();
  parallel_for(p.group_out(), std::max<int64_t>(1, 8192 / p.patch()), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const T* from = sums + k / lanes * pairs * lanes + k % lanes;
      for (int64_t pair = 0; pair < p.patch(); ++pair) gw[k * p.patch() + pair] = from[pair * lanes];
    }
  });
}

// One group, few sums: a partial result per chunk of rows of images (a row: what Bands cuts).
template <class T>
void sum_by_rows(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const Bands bands(p, ConvPass::grad_w);
  const int64_t most = bands.thickness(kBandBytes, [&](const ConvProblem& q) {
    return planes_of<T>(q, p.in_size()).size() * int64_t(sizeof(T));
  });
  const int64_t length = bands.length(), rows = p.batch * length, sums_size = GradWeight<T>{p}.sums_size();
  const int64_t grain = std::max<int64_t>(1, int64_t(400000 * double(rows) * double(p.groups) / p.macs()));
  const int64_t parts = chunk_count(rows, grain);
  memory::Buffer<T> sums(size_t(parts * sums_size));
  parallel_chunks(rows, grain, [&](int64_t part, int64_t begin, int64_t end) {
    T* mine = sums + part * sums_size;
    std::fill_n(mine, sums_size, T(0));
    for (int64_t row = begin; row < end;) {
      const int64_t n = row / length, first = row % length,
                    count = std::min({length - first, end - row, most});
      const Band band = bands.band(first, first + count);
      const ConvProblem& q = band.problem;
      const auto planes = planes_of<T>(q, p.in_size());
      const GradWeight<T> work{q};
      memory::Buffer<T> buffer(size_t(planes.size() + kWidth<T>)), grad(work.grad_size());
      std::fill_n(buffer.get(), planes.size() + kWidth<T>, T(0));
      PlaneCopy<T>{planes}(buffer, x + n * p.in_channels * p.in_size() + band.x, 0, p.group_in());
      for (int64_t panel = 0; panel < work.out_panels(); ++panel)
        work.transpose(grad, gy + n * p.out_channels * p.out_size() + band.y, p.out_size(), panel, 0,
                       q.out_size());
      work.add(planes, mine, buffer, grad, 0, ceil_div(p.patch(), kRows));
      row += count;
    }
  });
  add_parts<T>(sums.get(), sums.get(), sums_size, parts);
  unpack<T>(p, gw, sums.get());
}

// One group, many sums: one result, shared out by pairs.
template <class T>
void sum_by_pairs(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const auto planes = planes_of<T>(p, p.in_size());
  const PlaneCopy<T> copy(planes);
  const GradWeight<T> work{p};
  const size_t buffer_size = size_t(planes.size() + kWidth<T>);
  const int64_t out_panels = work.out_panels();
  memory::Buffer<T> sums(size_t(work.sums_size())), buffer(buffer_size), grad(work.grad_size());
  std::fill_n(sums.get(), work.sums_size(), T(0));
  std::fill_n(buffer.get(), buffer_size, T(0));
  // Pieces of grad_y that take about as long as a channel of x, in whole vectors of positions.
  const int64_t piece_size = ceil_div(ceil_div(planes.channel_size(), work.lanes), 64) * 64;
  const int64_t pieces = ceil_div(p.out_size(), piece_size), transposes = out_panels * pieces;
  for (int64_t n = 0; n < p.batch; ++n) {
    const T *image = x + n * p.in_channels * p.in_size(),
            *grad_image = gy + n * p.out_channels * p.out_size();
    parallel_for(transposes + p.group_in(), std::max<int64_t>(1, 16384 / planes.channel_size()),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < std::min(end, transposes); ++i) {
                     const int64_t first = i % pieces * piece_size;
                     work.transpose(grad, grad_image, p.out_size(), i / pieces, first,
                                    std::min(first + piece_size, p.out_size()));
                   }
                   copy(buffer, image, std::max<int64_t>(begin - transposes, 0), end - transposes);
                 });
    const int64_t macs = kRows * out_panels * work.lanes * p.out_size();
    parallel_for(ceil_div(p.patch(), kRows), std::max<int64_t>(1, 400000 / macs),
                 [&](int64_t begin, int64_t end) { work.add(planes, sums, buffer, grad, begin, end); });
  }
  unpack<T>(p, gw, sums.get());
}

// The convolution of grad_y that x and grad_y make with their places exchanged.
[[gnu::noinline]] ConvProblem exchanged(const ConvProblem& p) {
  ConvProblem q = p;
  std::swap(q.in_channels, q.out_channels);
  std::swap(q.in, q.out);
  for (size_t a = 0; a < kSpatial; ++a) q.pad[a] = p.dilation[a] * (p.kernel[a] - 1) - p.pad[a];
  return q;
}
// gw[k][c][r] = other[c][k][taps - 1 - r], for each group.
template <class T>
void turn(const ConvProblem& p, T* gw, const T* other) {
  const int64_t taps = p.taps();
  parallel_for(p.out_channels, std::max<int64_t>(1, 8192 / p.patch()), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t group = k / p.group_out(), own = k % p.group_out();
      for (int64_t c = 0; c < p.group_in(); ++c)
        std::reverse_copy(other + ((group * p.group_in() + c) * p.group_out() + own) * taps,
                          other + ((group * p.group_in() + c) * p.group_out() + own + 1) * taps,
                          gw + (k * p.group_in() + c) * taps);
    }
  });
}

// The problem whose planes planes_of(p) copies.
ConvProblem padded(ConvProblem p) {
  if (reach_of(p) == p.stride)
    for (size_t a = 0; a < kSpatial; ++a) {
      p.out[a] = (p.out[a] - 1) * p.stride[a] + 1;
      p.stride[a] = 1;
    }
  return p;
}
[[gnu::noinline]] double cost_as_is(const ConvProblem& p, int64_t w) {
  const int vectors = p.group_out() <= w ? 1 : kGradVectors;
  const int64_t panels = ceil_div(p.patch(), kRows) * ceil_div(p.group_out(), vectors * w);
  const int64_t pieces = pieces_of_rows(p).pieces * pieces_of_columns(p).pieces;
  const double plane =
      kProductCost * double(p.out[1] * p.out[2] * tile_cost(kRows, vectors)) + kStartCost * double(pieces);
  const PassSize size(padded(p), ConvPass::grad_w);
  const double number = kCopyCost / double(w) + (size.stride > 2 ? kFarNumberCost : 0);
  const double copies =
      double(size.in) * (number * double(size.plane) + kCopiedRowCost * double(size.plane / size.width)) +
      kCopyCost * double(p.group_out() * p.out_size()) / double(w);
  const double each = double(panels * p.out[0]) * plane + copies + kImageCost;
  return double(p.groups) * (double(p.batch) * each + kSumsCost * double(panels * kRows * vectors));
}
// Infinite where the padding is larger than the kernel, and with strides.
[[gnu::noinline]] double cost_exchanged(const ConvProblem& p, int64_t w) {
  const ConvProblem q = exchanged(p);
  if (p.stride != Extent{1, 1, 1} || *std::min_element(q.pad.begin(), q.pad.end()) < 0) return HUGE_VAL;
  return cost_as_is(q, w) + kTurnCost * double(p.out_channels * p.patch());
}

template <class T>
void sum(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const bool few = GradWeight<T>{p}.sums_size() * int64_t(sizeof(T)) <= (256 << 10);
  for_groups<T>(p, [&](int64_t g) {
    (few ? sum_by_rows<T> : sum_by_pairs<T>)(p, gw + g * p.group_out() * p.patch(),
                                             gy + g * p.group_out() * p.out_size(),
                                             x + g * p.group_in() * p.in_size());
  });
}

}  // namespace

template <class T>
void direct_grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const bool exchange = cost_exchanged(p, kWidth<T>) < cost_as_is(p, kWidth<T>);
  memory::Buffer<T> other(exchange ? size_t(p.out_channels * p.patch()) : 0);
  sum<T>(exchange ? exchanged(p) : p, exchange ? other.get() : gw, exchange ? x : gy, exchange ? gy : x);
  if (exchange) turn<T>(p, gw, other);
}

double direct_grad_w_cost(const ConvProblem& p, int64_t w) {
  return std::min(cost_as_is(p, w), cost_exchanged(p, w));
}

template void direct_grad_w<float>(const ConvProblem&, float*, const float*, const float*);
template void direct_grad_w<double>(const ConvProblem&, double*, const double*, const double*);

}  // namespace fastdl
