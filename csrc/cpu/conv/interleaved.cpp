// Convolution with the images of a batch in the lanes: blocks of kWidth images are interleaved, so that every
// pixel is a vector, whatever the size of the planes.
//
//   forward, grad_x   as in direct.cpp, weights broadcast x neighbouring pixels; taps that meet padding are
//                     left out, so that grad_x of an unpadded convolution does not compute it twice over
//   grad_w            products of (channel, tap) pairs and output channels, summed over positions; the lanes
//                     are added up at the end
//
// For small planes and batches of a vector's width or more; the price is a transpose of all operands on their
// way in and out.
//
// Work: over blocks of images if they can be shared out evenly, else over rows of the result. grad_w: over
// blocks, with a partial result each, of vectors.
#include <algorithm>
#include <limits>

#include "cpu/conv/direct.h"
#include "cpu/conv/interleave.h"
#include "cpu/conv/pass_size.h"
#include "cpu/gemm/share.h"
#include "cpu/runtime/memory.h"

namespace fastdl {
namespace {

using namespace simd;

constexpr int64_t kResultBytes = 128 << 10;  // of a block: part of an L2 cache

// ------------------------------------------------------------------------------------ forward and grad_x

// Pixels of a tile. Where some meet padding fewer are better, if they keep the arithmetic busy: taps are left
// out for whole tiles.
int vectors_at_once(bool padded, int64_t rows) {
  const int most = tile_vectors(rows);
  const bool busy = most * tile_cost(rows, kTileVectors) <= kTileVectors * tile_cost(rows, most);
  return padded && busy ? kTileVectors : most;
}

// Rows [r0, r1) of the result (depth and height as one) of one block, interleaved: result[channel][position].
template <class T>
void convolve_rows(const Pass<T>& pass, T* result, const T* block, const T* weights, int64_t r0, int64_t r1) {
  constexpr int w = kWidth<T>;
  const Pieces panels(pass.out, kTileRows);
  const int64_t width = panels.largest(), step = pass.weights.taps * width,
                channel = pass.extent[2] * (r1 - r0);
  const int64_t image_step = pass.planes.channel_size(w) * w;
  alignas(64) T sums[kTileRows * kTileVectors * w];
  for (const Lattice& lattice : pass.lattices) {
    TapList list(lattice, [&](int64_t offset, int64_t tap) { return Tap{tap * width, offset * w}; });
    const bool padded = std::any_of(lattice.inside.begin(), lattice.inside.end(), [&](const auto& range) {
      return range.low[2] > 0 || range.high[2] < lattice.count[2];
    });
    const int most = vectors_at_once(padded, width);
    for (int64_t r = r0; r < r1; ++r) {
      const int64_t from_d = r / pass.extent[1] - lattice.first[0],
                    from_h = r % pass.extent[1] - lattice.first[1];
      if (from_d < 0 || from_h < 0 || from_d % lattice.step[0] != 0 || from_h % lattice.step[1] != 0)
        continue;
      const int64_t d = from_d / lattice.step[0], h = from_h / lattice.step[1];
      for (int64_t x = 0; x < lattice.count[2];) {
        const int64_t left = lattice.count[2] - x;
        const int vectors = left >= most ? most : left >= 2 ? 2 : 1;
        const auto taps = list.meeting({d, h, x}, {d + 1, h + 1, x + vectors});
        const T* from = block + (lattice.base + pass.planes.at(d, h, x)) * w;
        for (int64_t panel = 0; panel < panels.pieces; ++panel) {
          const int64_t k = panel * width, channels = std::min(width, pass.out - k);
          T* to =
              result + (k * channel + (r - r0) * pass.extent[2] + lattice.first[2] + x * lattice.step[2]) * w;
          const bool lies = lattice.step[2] == 1;  // in the result as in the tile
          tap_tile<T>(int(channels), vectors)(lies ? to : sums, lies ? channel * w : vectors * w, nullptr,
                                              pass.in, taps.count, taps.first,
                                              weights + panel * pass.in * step, step, from, image_step);
          if (lies) continue;
          const T* sum = sums;
          for (int64_t i = 0; i < channels; ++i, to += channel * w)
            for (int v = 0; v < vectors; ++v, sum += w) store<T>(to + v * lattice.step[2] * w, load(sum));
        }
        x += vectors;
      }
    }
  }
}

template <class T>
void run(const ConvProblem& p, const Pass<T>& pass, T* y, const T* x, int64_t in_size, const T* bias) {
  constexpr int w = kWidth<T>;
  const int64_t width = Pieces(pass.out, kTileRows).largest();
  const int64_t group_weights = ceil_div(pass.out, width) * width * pass.in * pass.weights.taps;
  memory::Buffer<T> weights(size_t(p.groups * group_weights));
  for (int64_t g = 0; g < p.groups; ++g)
    pack_weights(weights + g * group_weights, pass.weights.of_group(p, g), pass.in, pass.out, width);

  const InterleavedPlanes<T> planes(pass.planes);
  const bool covered = pass.covered();
  const int64_t blocks = ceil_div(p.batch, w), size = volume(pass.extent);
  const int64_t in_image = p.groups * pass.in * in_size, out_image = p.groups * pass.out * size;
  const int64_t rows = pass.extent[0] * pass.extent[1], row_size = pass.out * pass.extent[2] * w;
  const Pieces chunks(rows, std::max<int64_t>(1, std::min(kResultBytes / int64_t(sizeof(T)) / row_size,
                                                          rows / num_threads())));
  const auto work = [&](int64_t begin, int64_t end) {
    memory::Buffer<T> block(size_t(planes.size()));
    std::fill_n(block.get(), planes.size(), T(0));
    for (int64_t index = begin; index < end; ++index) {
      const int64_t n = index / p.groups * w, g = index % p.groups;
      const int count = int(std::min<int64_t>(w, p.batch - n));
      const T* images = x + n * in_image + g * pass.in * in_size;
      T* to = y + n * out_image + g * pass.out * size;
      parallel_for(pass.in, std::max<int64_t>(1, 16384 / (in_size * w)),
                   [&](int64_t c0, int64_t c1) { planes.copy(block, images, in_image, count, c0, c1); });
      tile::share(
          chunks.pieces, tile::product_microseconds<T>(pass.out, size * w, pass.in * pass.weights.taps),
          [&](int64_t first, int64_t last) {
            memory::Buffer<T> result(size_t(chunks.largest() * row_size));
            for (int64_t chunk = first; chunk < last; ++chunk) {
              const int64_t r0 = chunks.begin(chunk), r1 = chunks.begin(chunk + 1);
              const int64_t positions = (r1 - r0) * pass.extent[2];
              if (!covered) std::fill_n(result.get(), (r1 - r0) * row_size, T(0));
              convolve_rows<T>(pass, result, block, weights + g * group_weights, r0, r1);
              for (int64_t k = 0; k < pass.out; ++k)
                deinterleave(to + k * size + r0 * pass.extent[2], out_image, result + k * positions * w,
                             count, positions, bias ? bias[g * pass.out + k] : T(0));
            }
          });
    }
  };
  share_images(blocks * p.groups, p.macs(), work);
}

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  run<T>(p, Pass<T>::forward(p, w), y, x, p.in_size(), bias);
}

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  run<T>(p, Pass<T>::grad_x(p, w), gx, gy, p.out_size(), bias);
}

// ------------------------------------------------------------------------------------------------- grad_w

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kPairs = 6, kChannels = 4;  // 24 sums of 32 registers
#elif defined(__AVX2__)
constexpr int kPairs = 4, kChannels = 3;  // 12 of 16
#else
constexpr int kPairs = 4, kChannels = 2;
#endif

// sums[i][v] += over rows of outputs: pixels[i][position] * grad[v * channel + position], all vectors.
template <class T, int V>
void pair_kernel(T* sums, const T* const* pixels, const T* grad, int64_t channel, int64_t height,
                 int64_t width, int64_t pitch) {
  constexpr int w = kWidth<T>;
  Vec<T> acc[kPairs][V];
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[i][v] = Vec<T>{};
  const T* row[kPairs];
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i) row[i] = pixels[i];
  const auto add = [&](int64_t at, int64_t grad_at) __attribute__((always_inline)) {
    Vec<T> g[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) g[v] = load(grad + v * channel + grad_at);
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
      const Vec<T> pixel = load(row[i] + at);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[i][v] += pixel * g[v];
    }
  };
  int64_t h = 0;
  for (; h + 2 <= height; h += 2, grad += 2 * width * w) {  // two rows at once: half as many starts of rows
    for (int64_t x = 0; x < width * w; x += w) {
      add(x, x);
      add(x + pitch * w, x + width * w);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) row[i] += 2 * pitch * w;
  }
  if (h < height)
    for (int64_t x = 0; x < width * w; x += w) add(x, x);
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      T* to = sums + (i * V + v) * w;
      store<T>(to, load(to) + acc[i][v]);
    }
}

template <class T>
using PairKernel = void (*)(T*, const T* const*, const T*, int64_t, int64_t, int64_t, int64_t);
template <class T, int... V>
constexpr auto pair_table(std::integer_sequence<int, V...>) {
  return std::array<PairKernel<T>, sizeof...(V)>{&pair_kernel<T, V + 1>...};
}
template <class T>
constexpr auto kPairKernels = pair_table<T>(std::make_integer_sequence<int, kChannels>{});

template <class T>
int64_t sums_size(const ConvProblem& p) {
  return ceil_div(p.patch(), kPairs) * kPairs * p.group_out() * kWidth<T>;
}

// Adds one block. sums: by channels k, k + 1, ... of a kernel, pairs, channel of the kernel.
template <class T>
void add_block(const ConvProblem& p, const Planes<T>& planes, T* sums, const T* block, const T* grad) {
  constexpr int w = kWidth<T>;
  const int64_t pairs = ceil_div(p.patch(), kPairs);
  // Rows at once: the vectors of a kernel's channels stay in L1 while the pairs go by.
  const Pieces chunks(p.out[1], std::max<int64_t>(1, 128 / p.out[2]));
  for (int64_t d = 0; d < p.out[0]; ++d)
    for (int64_t chunk = 0; chunk < chunks.pieces; ++chunk)
      for (int64_t k = 0; k < p.group_out(); k += kChannels) {
        const int64_t channels = std::min<int64_t>(kChannels, p.group_out() - k), h = chunks.begin(chunk);
        for (int64_t i = 0; i < pairs; ++i) {
          const T* pixels[kPairs];
          for (int j = 0; j < kPairs; ++j) {  // those beyond the last compute it again
            const int64_t pair = std::min(i * kPairs + j, p.patch() - 1);
            pixels[j] = block + (pair / p.taps() * planes.channel_size(w) +
                                 planes.tap_offsets()[size_t(pair % p.taps())] + planes.at(d, h, 0)) *
                                    w;
          }
          kPairKernels<T>[size_t(channels - 1)](sums + (k* pairs + i* channels)* kPairs* w, pixels,
                                                grad + (k* p.out_size() + (d* p.out[1] + h)* p.out[2])* w,
                                                p.out_size()* w, chunks.size(chunk), p.out[2],
                                                planes.width());
        }
      }
}

// gw[k][pair] = the sum of `parts` partial sums and of their lanes.
template <class T>
void finish(const ConvProblem& p, T* gw, const T* sums, int64_t parts) {
  const int64_t pairs = ceil_div(p.patch(), kPairs);
  parallel_for(p.group_out(), std::max<int64_t>(1, 2048 / p.patch()), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t k0 = k / kChannels * kChannels,
                    channels = std::min<int64_t>(kChannels, p.group_out() - k0);
      for (int64_t pair = 0; pair < p.patch(); ++pair) {
        const int64_t at = k0 * pairs * kPairs + pair * channels + k - k0;
        Vec<T> sum = load(sums + at * kWidth<T>);
        for (int64_t part = 1; part < parts; ++part)
          sum += load(sums + part * sums_size<T>(p) + at * kWidth<T>);
        gw[k * p.patch() + pair] = reduce_add<T>(sum);
      }
    }
  });
}

template <class T>
void grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  constexpr int w = kWidth<T>;
  const auto planes = Planes<T>::of_input(p);
  const InterleavedPlanes<T> interleaved(planes);
  const int64_t in_image = p.in_channels * p.in_size(), out_image = p.out_channels * p.out_size();
  const int64_t blocks = ceil_div(p.batch, w);
  const int64_t grad_size = p.group_out() * p.out_size();
  for_groups<T>(p, [&](int64_t g) {
    const int64_t parts = detail::in_parallel() ? 1 : std::min<int64_t>(blocks, 2 * num_threads());
    memory::Buffer<T> sums(size_t(parts * sums_size<T>(p)));
    const auto part_of = [&](int64_t part) {
      memory::Buffer<T> block(size_t(interleaved.size())), grad(size_t(grad_size * w));
      T* mine = sums + part * sums_size<T>(p);
      std::fill_n(block.get(), interleaved.size(), T(0));
      std::fill_n(mine, sums_size<T>(p), T(0));
      for (int64_t b = blocks * part / parts; b < blocks * (part + 1) / parts; ++b) {
        const int count = int(std::min<int64_t>(w, p.batch - b * w));
        interleaved.copy(block, x + b * w * in_image + g * p.group_in() * p.in_size(), in_image, count, 0,
                         p.group_in());
        interleave(grad.get(), gy + b * w * out_image + g * grad_size, out_image, count, grad_size);
        add_block<T>(p, planes, mine, block, grad);
      }
    };
    tile::share(parts, tile::product_microseconds<T>(p.group_out(), p.batch * p.out_size(), p.patch()),
                [&](int64_t begin, int64_t end) {
                  for (int64_t part = begin; part < end; ++part) part_of(part);
                });
    finish(p, gw + g * p.group_out() * p.patch(), sums.get(), parts);
  });
}

// ------------------------------------------------------------------------------------------------- choice

// In products of vectors, as direct.cpp counts them: of a vector of grad_w's and of starting a kernel of them, of
// one of its sums that comes and goes (also where they have left L2).
constexpr double kProductCost = kWide ? 1.2 : 1.04, kPairCost = kWide ? 1.15 : 0.98;
constexpr double kStartCost = kWide ? 180 : 110, kSumCost = kWide ? 6 : 3, kFarSumCost = 60;
constexpr int64_t kNearBytes = 1 << 20;
// Of a vector of a block of x (each is written beside the others, and read or cleared), once more where the block
// is in no cache of this thread's own; of a row, with strides of each image's, which is copied first, and of a
// number of those whose neighbours lie three apart and more; of a vector turned back or of grad_y; of packing a
// vector of weights, and of those of a channel each, which lie apart; of a tile whose results lie apart.
constexpr double kInterleaveCost = kWide ? 18 : 10, kFarCost = 20, kRowCost = 18, kFarNumberCost = 3,
                 kResultCost = kWide ? 24 : 12, kGradCost = 8, kWeightCost = 25, kTurnedWeightCost = 90,
                 kStepCost = 40;
constexpr int64_t kFarBytes = 4 << 20, kBlockBytes = 16 << 20;  // a thread has one: bounds memory
constexpr int64_t kTileBytes = 96 << 10;  // of pixels and weights that a tile meets, read at full speed

double copy_cost(const PassSize& pass, int64_t w) {
  const bool far = pass.in * pass.plane * kBytes > kFarBytes;
  const double vector =
      kInterleaveCost + (far ? kFarCost : 0) + (pass.stride > 2 ? kFarNumberCost * double(w) : 0);
  const double row = kRowCost * double(pass.stride > 1 ? w : 1);
  return double(pass.in) * (vector * double(pass.plane) + row * double(pass.plane / pass.width));
}

// What a product costs in a tile that meets this many channels and taps, once for each of many panels: a pixel
// is a vector, and those of deep layers, with their weights, come from L2 every time. (Not counted at AVX-512.)
double far_cost(int64_t channels_and_taps, const Pieces& panels, int vectors) {
  const int64_t bytes = channels_and_taps * (vectors * kBytes + panels.largest() * int64_t(sizeof(float)));
  if (kWide || panels.pieces < 8) return 1;
  return 1 + 0.5 * std::clamp(double(bytes - kTileBytes) / (4 * kTileBytes), 0.0, 1.0);
}

double block_cost(const PassSize& pass, int64_t w) {
  const Pieces panels(pass.out, kTileRows);
  double products = 0, tiles = 0;
  const double stepped = pass.step[2] > 1 ? kStepCost * double(std::min<int64_t>(pass.step[2], 8)) : 0;
  pass.for_lattices([&](const LatticeSize& lattice) {
    const int vectors = vectors_at_once(lattice.padded, panels.largest());
    products += lattice.times * lattice.met * double(tile_cost(panels.largest(), vectors)) / vectors *
                far_cost(pass.in * lattice.taps, panels, vectors);
    tiles += lattice.times * double(volume(lattice.count)) / vectors;
  });
  return double(panels.pieces) * (kProductCost * double(pass.in) * products + stepped * tiles) +
         copy_cost(pass, w) + kResultCost * double(pass.out * pass.result);
}

double grad_w_block_cost(const ConvProblem& p, const PassSize& forward, int64_t w) {
  const int64_t whole = p.group_out() / kChannels, rest = p.group_out() % kChannels;
  const int64_t pairs = ceil_div(p.patch(), kPairs);
  const int64_t step = whole * tile_cost(kPairs, kChannels) + (rest ? tile_cost(kPairs, rest) : 0);
  const int64_t chunks = p.out[0] * Pieces(p.out[1], std::max<int64_t>(1, 128 / p.out[2])).pieces;
  const int64_t sums = pairs * kPairs * p.group_out(),
                kernels = pairs * ceil_div(p.group_out(), int64_t{kChannels});
  return kPairCost * double(p.out_size() * pairs * step) +
         double(chunks) * (kStartCost * double(kernels) +
                           (sums * kBytes > kNearBytes ? kFarSumCost : kSumCost) * double(sums)) +
         copy_cost(forward, w) + kGradCost * double(forward.out * forward.result);
}

[[gnu::noinline]] double total_cost(const ConvProblem& p, ConvPass pass, int64_t w) {  // vectors of w
  const int64_t blocks = ceil_div(p.batch, w) * p.groups, threads = num_threads();
  const PassSize size(p, pass);
  const int64_t vectors = size.in * size.plane + (pass == ConvPass::grad_w ? size.out * size.result : 0);
  if (vectors * kBytes > kBlockBytes) return std::numeric_limits<double>::infinity();
  if (pass == ConvPass::grad_w)  // nothing smaller than a block is shared out
    return double(ceil_div(blocks, threads) * threads) * grad_w_block_cost(p, size, w);
  // Blocks that leave threads without work are shared out by rows: a signal of one axis has a single one.
  const int64_t rows = size.extent[0] * size.extent[1];
  const int64_t busy = shares_evenly(blocks) ? threads : std::min(threads, rows);
  return double(blocks * threads) / double(busy) * block_cost(size, w) +
         (pass == ConvPass::forward ? kWeightCost : kTurnedWeightCost) * double(p.out_channels * p.patch()) /
             double(w);
}
template <class T>
double cost(const ConvProblem& p, ConvPass pass) {
  return total_cost(p, pass, kWidth<T>);
}

const char* refusal(const ConvProblem& p) {
  return p.batch > 1 ? nullptr : "it needs a batch";
}

}  // namespace

template <class T>
const ConvAlgorithm<T>& conv_interleaved() {
  static constexpr ConvAlgorithm<T> algorithm{"interleaved", refusal,   nullptr,  cost<T>,
                                              forward<T>,    grad_x<T>, grad_w<T>};
  return algorithm;
}
template const ConvAlgorithm<float>& conv_interleaved<float>();

}  // namespace fastdl
