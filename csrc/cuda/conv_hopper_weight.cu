// The gradient of convolution's weights as an implicit product by wgmma, for Hopper, in 16 bits:
// conv_weight.cu's sum over pixels with other tiles. (wgmma reads TF32 with the summands side by side only,
// and here these are pixels of arrays with the channels last.)
//
// Rows of the product are output channels, columns blocks of 64 input channels that one tap sees, a stage of
// summands 64 pixels; both operands lie across, a line being 64 channels of a pixel. grad_y comes by the copy
// engine, x is gathered. A tile's columns are neighbouring taps of the same channels before others, so that x
// comes from the first-level cache for all taps but one. Tiles have 128 x 192 sums (three taps), 128 x 256,
// or 64 x 192; there each warpgroup multiplies half of a stage's pixels, into a part of its own.
//
// Memory: as conv_weight.cu, whose second kernel adds the parts in order.
#include "cuda/conv_axis.h"
#include "cuda/conv_hopper.h"

namespace fastdl::cuda {
namespace {

constexpr int kStagePixels = 64, kBlock = 64;  // lines of a stage and of a block; channels of a line
constexpr int kBlockBytes = kStagePixels * kLineBytes;
constexpr int64_t kLongest = 16384;  // pixels of a part
constexpr int64_t kLeastSteps = 4;

struct WeightSums {
  ConvAxes axes;
  int groups, rows, chunks, row_chunks;  // chunks of a pixel in a group: of x, of grad_y
  int pixels, part;                      // part: a multiple of kStagePixels
  Divisor row_tiles, d, h, w;            // outputs per axis
};

template <class T, int kRows, int kColumns>
__global__ void __launch_bounds__(kHopperThreads, 1)
    weight_wgmma(float* parts, const FASTDL_GRID_CONSTANT TensorMap grad_y, const T* x, const WeightSums p) {
  if constexpr (kHopperCode) {
    constexpr int kBlocks = kColumns / kBlock, kStage = (kRows / kBlock + kBlocks) * kBlockBytes;
    FASTDL_SHARED(Barrier, barriers, 2 * kRing);
    FASTDL_TILES_SHARED(stages);
    Ring ring(&barriers[0]);
    if (threadIdx.x == 0) ring.initialise();
    sync_threads();
    const uint32_t tile = p.row_tiles.quotient(blockIdx.x);
    const int row0 = int(blockIdx.x - tile * p.row_tiles.divisor) * kRows, block0 = int(tile) * kBlocks;
    const int split = int(blockIdx.y), group = int(blockIdx.z);
    const int begin = split * p.part, end = p.pixels - begin < p.part ? p.pixels : begin + p.part;
    const int steps = (end - begin + kStagePixels - 1) / kStagePixels;
    const ConvAxis &ad = p.axes.d, &ah = p.axes.h, &aw = p.axes.w;
    const int taps = ad.kernel * ah.kernel * aw.kernel;

    if (threadIdx.x < kWarpgroup) {  // copies
      registers_fewer<kRegistersToCopy>();
      constexpr int kAtOnce = 16;  // pixels, with eight chunks each
      const int line = int(threadIdx.x) / 8, chunk = int(threadIdx.x) % 8;
      // Of each block: which channels, and where its tap looks.
      int channels[kBlocks], from_d[kBlocks], from_h[kBlocks], from_w[kBlocks];
      FASTDL_UNROLL
      for (int k = 0; k < kBlocks; ++k) {
        const int tap = (block0 + k) % taps;
        channels[k] = (block0 + k) / taps * kLineChunks + chunk;
        from_d[k] = tap / aw.kernel / ah.kernel * ad.dilation - ad.pad;
        from_h[k] = tap / aw.kernel % ah.kernel * ah.dilation - ah.pad;
        from_w[k] = tap % aw.kernel * aw.dilation - aw.pad;
      }
      const int64_t pitch = int64_t(p.groups) * p.chunks * 16;
      const auto* const source = reinterpret_cast<const unsigned char*>(x) + int64_t(group) * p.chunks * 16;
      for (int step = 0; step < steps; ++step) {
        unsigned char* const a = stages + ring.stage() * kStage;
        const int first = begin + step * kStagePixels;
        ring.wait_empty();
        if (threadIdx.x == 0) {
          Barrier& barrier = ring.expect(kRows / kBlock * kBlockBytes);
          FASTDL_UNROLL
          for (int k = 0; k < kRows / kBlock; ++k)
            bulk_load(a + k * kBlockBytes, grad_y,
                      {group * p.row_chunks * kWidest<T> + row0 + k * kBlock, first}, barrier);
        }
        auto* const to = static_cast<unsigned char*>(swizzled(a + kRows / kBlock * kBlockBytes, line, chunk));
        FASTDL_UNROLL
        for (int i = 0; i < kStagePixels / kAtOnce; ++i) {
          const int pixel = first + line + kAtOnce * i;
          const uint32_t qw = p.w.quotient(uint32_t(pixel)), qh = p.h.quotient(qw), image = p.d.quotient(qh);
          const int at_d = int(qh - image * p.d.divisor) * ad.stride,
                    at_h = int(qw - qh * p.h.divisor) * ah.stride,
                    at_w = int(uint32_t(pixel) - qw * p.w.divisor) * aw.stride;
          FASTDL_UNROLL
          for (int k = 0; k < kBlocks; ++k) {
            const int sd = at_d + from_d[k], sh = at_h + from_h[k], sw = at_w + from_w[k];
            const bool present = pixel < end && channels[k] < p.chunks && uint32_t(sd) < uint32_t(ad.in) &&
                                 uint32_t(sh) < uint32_t(ah.in) && uint32_t(sw) < uint32_t(aw.in);
            const int place = ((int(image) * ad.in + sd) * ah.in + sh) * aw.in + sw;
            cp_async_16_or_zeros_cached(to + k * kBlockBytes + i * kAtOnce * kLineBytes,
                                        present ? source + place * pitch + channels[k] * 16 : source,
                                        present);
          }
        }
        ring.copied();
      }
      ring.all_copied();
      return;
    }

    registers_more<kRegistersToMultiply>();
    constexpr bool kHalves = kRows == 64;
    const int half = int(threadIdx.x) / kWarpgroup - 1;
    const int my_bytes = half * (kHalves ? kBlockBytes / 2 : kBlockBytes);
    float sums[kColumns / 2];
    sum_stages<T, kColumns, true, kHalves ? 2 : 4>(
        sums, ring, steps, [&](int stage, uint64_t& a, uint64_t& b) {
          unsigned char* const lines = stages + stage * kStage;
          a = matrix_across(lines + my_bytes, kBlockBytes);
          b = matrix_across(lines + kRows / kBlock * kBlockBytes + (kHalves ? my_bytes : 0), kBlockBytes);
        });
    const int lane = lane_id(), padded = p.chunks * kWidest<T>, columns = taps * padded;
    const int row = row0 + (kHalves ? 0 : 64 * half) + int(threadIdx.x) / 32 % 4 * 16 + lane / 4;
    float* const to =
        parts + (int64_t(kHalves ? 2 * split + half : split) * p.groups + group) * p.rows * columns;
    FASTDL_UNROLL
    for (int k = 0; k < kBlocks; ++k) {
      const int tap = (block0 + k) % taps, channel0 = (block0 + k) / taps * kBlock;
      FASTDL_UNROLL
      for (int i = 0; i < kBlock / 8; ++i) {
        const int channel = channel0 + 8 * i + lane % 4 * 2;
        if (channel >= padded) continue;
        const float* const four = &sums[4 * (k * kBlock / 8 + i)];
        FASTDL_UNROLL
        for (int c = 0; c < 2; ++c)
          if (row + 8 * c < p.rows)
            *reinterpret_cast<Pack<float, 2>*>(to + int64_t(row + 8 * c) * columns + tap * padded + channel) =
                Pack<float, 2>{{four[2 * c], four[2 * c + 1]}};
      }
    }
  }
}

struct Tiling {
  int rows, columns;  // of a tile
  int64_t part, splits;
};
// By counting cycles of products and of shared memory for stages, rounds of a full device, and the parts'
// bytes; the bytes a cycle are those of main memory.
Tiling tiling_of(const ConvProblem& p) {
  const int64_t steps = (p.batch * p.out_size() + kStagePixels - 1) / kStagePixels;
  const int64_t blocks = p.taps() * ((conv_padded(Dtype::float16, p.group_in()) + kBlock - 1) / kBlock);
  const int64_t sums = p.out_channels * p.taps() * conv_padded(Dtype::float16, p.group_in());
  Tiling best{};
  double least = 0;
  for (const int columns : {192, 256}) {
    const int rows = p.group_out() > 64 ? 128 : 64;
    if (rows == 64 && columns == 256) continue;
    const int64_t tiles =
        p.groups * ((p.group_out() + rows - 1) / rows) * ((blocks * kBlock + columns - 1) / columns);
    const double stage = rows == 64 ? 512 : 4 * columns;
    const int64_t most = std::max<int64_t>(1, std::min<int64_t>(steps / kLeastSteps, 2 * kMultiprocessors));
    for (int64_t splits = std::max<int64_t>(1, (steps * kStagePixels + kLongest - 1) / kLongest);; ++splits) {
      const int64_t each = (steps + splits - 1) / splits;
      const int64_t rounds = (tiles * splits + kMultiprocessors - 1) / kMultiprocessors;
      const double bytes = 8.0 * double(sums) * double(rows == 64 ? 2 * splits : splits);
      const double cycles = double(rounds * each) * stage + bytes / 1700;
      if (best.rows == 0 || cycles < least) {
        least = cycles;
        best = {rows, columns, each * kStagePixels, (steps + each - 1) / each};
      }
      if (splits >= most) break;
    }
  }
  return best;
}

template <class T, int kRows, int kColumns>
void launch_product(float* parts, const T* grad_y, const T* x, WeightSums p, int64_t splits, Stream stream) {
  const ConvAxes& a = p.axes;
  const int64_t blocks =
      int64_t(a.d.kernel) * a.h.kernel * a.w.kernel * ((p.chunks + kLineChunks - 1) / kLineChunks);
  const int64_t row_tiles = (p.rows + kRows - 1) / kRows;
  const int64_t tiles = row_tiles * ((blocks * kBlock + kColumns - 1) / kColumns);
  p.row_tiles = Divisor(uint32_t(row_tiles));
  const int64_t sizes[2] = {int64_t(p.groups) * p.row_chunks * kWidest<T>, p.pixels};
  const int64_t strides[1] = {sizes[0] * int64_t(sizeof(T))};
  const int box[2] = {kBlock, kStagePixels};
  const TensorMap map = tensor_map<T>(grad_y, 2, sizes, strides, box, Swizzle::bytes128);
  launch("conv_grad_weight", weight_wgmma<T, kRows, kColumns>,
         dim3(unsigned(tiles), unsigned(splits), unsigned(p.groups)), dim3(kHopperThreads),
         ring_bytes(kRows + kColumns), stream, parts, map, x, p);
}

}  // namespace

bool conv_weight_fits_hopper(Dtype dtype, const ConvProblem& p) {
  if (dtype != Dtype::float16 && dtype != Dtype::bfloat16) return false;
  const int64_t channels = conv_padded(dtype, p.group_in()), blocks = (channels + kBlock - 1) / kBlock;
  return p.group_out() > 32 && 4 * channels >= 3 * blocks * kBlock && p.batch * p.out_size() > 0;
}

int64_t conv_weight_hopper_splits(const ConvProblem& problem) {
  const Tiling t = tiling_of(problem);
  return t.rows == 64 ? 2 * t.splits : t.splits;
}

void conv_grad_weight_hopper(Dtype dtype, void* grad_weight, const void* grad_y, const void* x, void* scratch,
                             const ConvProblem& problem, Stream stream) {
  const Tiling t = tiling_of(problem);
  WeightSums p;
  p.axes = conv_axes(problem);
  p.groups = int(problem.groups);
  p.rows = int(problem.group_out());
  p.chunks = int(conv_padded(dtype, problem.group_in()) / kWidest<__half>);
  p.row_chunks = int(conv_padded(dtype, problem.group_out()) / kWidest<__half>);
  p.pixels = int(problem.batch * problem.out_size());
  p.part = int(t.part);
  p.d = Divisor(uint32_t(p.axes.d.out));
  p.h = Divisor(uint32_t(p.axes.h.out));
  p.w = Divisor(uint32_t(p.axes.w.out));
  if (problem.groups > 65535) throw std::invalid_argument("convolution on CUDA: more than 65535 groups");
  by_dtype(dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) == 2) {
      auto* const parts = static_cast<float*>(scratch);
      const T *gradient = static_cast<const T*>(grad_y), *values = static_cast<const T*>(x);
      if (t.rows == 64)
        launch_product<T, 64, 192>(parts, gradient, values, p, t.splits, stream);
      else if (t.columns == 192)
        launch_product<T, 128, 192>(parts, gradient, values, p, t.splits, stream);
      else
        launch_product<T, 128, 256>(parts, gradient, values, p, t.splits, stream);
    }
  });
  conv_add_parts(dtype, grad_weight, scratch, conv_weight_hopper_splits(problem), problem, stream);
}

void conv_grad_weight_trial_begin() {
  hopper_trial_begin();
}
bool conv_grad_weight_trial_end(Stream stream) {
  return hopper_trial_end(stream);
}

}  // namespace fastdl::cuda
