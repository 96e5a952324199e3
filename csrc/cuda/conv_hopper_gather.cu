// Convolution and its gradient of x as implicit products by wgmma, for Hopper: conv_gather.cu's sum with
// other tiles.
//
// Rows of the product are output channels, columns pixels, a stage of summands 64 channels (TF32: 32) that
// one tap sees. Blocks of 128 x 256, 128 x 128 or 64 x 256 sums stay on their multiprocessor and take tile
// after tile; a warpgroup copies ahead, into the next tile too, while two multiply and write. Weights come by
// the copy engine. A pixel's part of a stage is a line of 128 bytes; which taps see something is a bit each,
// made once per tile, so a copy costs a test and an address. All taps come before the next channels: then a
// tile's pixels and their neighbours, some 50 KB, stay in the first-level cache, and x is read from the
// second-level one about once instead of once for each tap.
//
// Memory: as conv_gather.cu. Sums are turned between the lanes of a warp, so that a warp writes 32 pixels of
// two channels at a time.
#include "cuda/conv_class.h"
#include "cuda/conv_hopper.h"

namespace fastdl::cuda {
namespace {

constexpr int64_t kMostTaps = 32, kMostSplits = 16, kLeastSteps = 4;

struct Gather {
  ConvClasses classes;
  int batch, groups, rows;  // rows: of a group
  int chunks, lines;        // of 16 and of 128 bytes: a pixel's channels in a group
  int splits;
  bool pairs;
  Divisor row_tiles;
};

// Where a pixel's first tap would be (perhaps outside), and a bit for each tap that sees something.
struct Origin {
  int place;
  uint32_t seen;
};
__device__ __forceinline__ Origin origin_of(int pixel, const Class& d, const Class& h, const Class& w) {
  const Pixel j = pixel_of(pixel, d, h, w);
  const int at_d = j.d * d.step + d.origin, at_h = j.h * h.step + h.origin, at_w = j.w * w.step + w.origin;
  uint32_t along_w = 0;
  for (int t = 0; t < w.taps; ++t) along_w |= uint32_t(uint32_t(at_w + t * w.move) < uint32_t(w.source)) << t;
  Origin origin{((j.image * d.source + at_d) * h.source + at_h) * w.source + at_w, 0};
  int bit = 0;
  for (int td = 0; td < d.taps; ++td)
    for (int th = 0; th < h.taps; ++th, bit += w.taps)
      if (uint32_t(at_d + td * d.move) < uint32_t(d.source) &&
          uint32_t(at_h + th * h.move) < uint32_t(h.source))
        origin.seen |= along_w << bit;
  return origin;
}

// Sums of two neighbouring pixels.
using Pair = Pack<float, 2>;

// pairs[j] of the lanes whose bits from 2 on are i goes to pairs[i] of those with j.
template <int N>
__device__ __forceinline__ void turn(Pair (&pairs)[N]) {
  FASTDL_UNROLL
  for (int bit = 1; bit < N; bit *= 2) {
    const bool high = (lane_id() / 4 & bit) != 0;
    FASTDL_UNROLL
    for (int j = 0; j < N; ++j) {
      if (j & bit) continue;
      const Pair theirs = shuffle_xor(high ? pairs[j] : pairs[j | bit], 4 * bit);
      (high ? pairs[j] : pairs[j | bit]) = theirs;
    }
  }
}

// Where a warpgroup's sums go: its channels and pixels of y, or of a part.
struct Target {
  int channel0, rows, pixel0, pixels;  // rows and pixels that exist, from there on and at all
  int64_t image, size;                 // elements of an image, of a channel
  bool pairs;                          // neighbouring pixels may be written by one access
};
// Four rows from to + place of first and second pixel on, as many as there are.
template <class T>
__device__ __forceinline__ void put(T* to, const Pair (&pairs)[4], const int64_t (&places)[2],
                                    const bool (&exist)[2], int rows, const Target& t) {
  if (t.pairs) {
    FASTDL_UNROLL
    for (int j = 0; j < 4; ++j)
      if (exist[0] && j < rows)
        *reinterpret_cast<Pack<T, 2>*>(to + places[0] + j * t.size) =
            Pack<T, 2>{{narrow<T>(pairs[j].v[0]), narrow<T>(pairs[j].v[1])}};
  } else {
    FASTDL_UNROLL
    for (int e = 0; e < 2; ++e) FASTDL_UNROLL
    for (int j = 0; j < 4; ++j)
      if (exist[e] && j < rows) to[places[e] + j * t.size] = narrow<T>(pairs[j].v[e]);
  }
}
template <class T, int N>
__device__ __forceinline__ void write(T* y, float* part, const float (&sums)[N / 2], const float (&bias)[2],
                                      const Target& t, const Class& d, const Class& h, const Class& w) {
  const int lane = lane_id(), row0 = int(threadIdx.x) / 32 % 4 * 16 + (lane / 4 & 4);
  FASTDL_UNROLL
  for (int i = 0; i < N / 8; i += 4) {
    const int pixel = t.pixel0 + 8 * (i + lane / 4 % 4) + lane % 4 * 2;
    const bool exist[2] = {pixel < t.pixels, pixel + 1 < t.pixels};
    int64_t places[2] = {0, 0};
    FASTDL_UNROLL
    for (int e = 0; e < 2; ++e) {
      if (!exist[e] || (e == 1 && t.pairs)) continue;
      const Pixel j = pixel_of(pixel + e, d, h, w);
      places[e] = j.image * t.image + (t.channel0 + row0) * t.size + target_of(j, d, h, w);
    }
    FASTDL_UNROLL
    for (int half = 0; half < 2; ++half) {
      Pair pairs[4];
      FASTDL_UNROLL
      for (int j = 0; j < 4; ++j) {
        const float* const both = &sums[4 * (i + j) + 2 * half];
        pairs[j] = Pair{{both[0] + bias[half], both[1] + bias[half]}};
      }
      turn(pairs);
      if (part != nullptr)
        put(part, pairs, places, exist, t.rows - row0 - 8 * half, t);
      else
        put(y, pairs, places, exist, t.rows - row0 - 8 * half, t);
      places[0] += 8 * t.size, places[1] += 8 * t.size;
    }
  }
}

template <class T, int kRows, int kPixels>
__global__ void __launch_bounds__(kHopperThreads, 1)
    gather_wgmma(T* y, float* parts, const T* x, const FASTDL_GRID_CONSTANT TensorMap weights, const T* bias,
                 const Gather p) {
  if constexpr (kHopperCode) {
    constexpr int kStage = (kRows + kPixels) * kLineBytes,
                  kAtOnce = 16;  // lines that are filled side by side
    FASTDL_SHARED(Barrier, barriers, 2 * kRing);
    FASTDL_TILES_SHARED(stages);
    Class* const classes = reinterpret_cast<Class*>(stages + kRing * kStage);
    Ring ring(&barriers[0]);
    if (threadIdx.x == 0) ring.initialise();
    const int group = int(blockIdx.z) % p.groups;
    make_classes(classes, p.classes, int(blockIdx.z) / p.groups);
    sync_threads();
    const Class &d = classes[0], &h = classes[1], &w = classes[2];
    const int pixels = p.batch * d.count * h.count * w.count, taps = d.taps * h.taps * w.taps;
    const int tiles = int(p.row_tiles.divisor) * ((pixels + kPixels - 1) / kPixels);
    const int all = taps * p.lines, part = (all + p.splits - 1) / p.splits, begin = part * int(blockIdx.y);
    const int steps = all - begin < part ? (all > begin ? all - begin : 0) : part;
    const auto tile_of = [&](int tile, int& row0, int& pixel0) {
      const uint32_t quotient = p.row_tiles.quotient(uint32_t(tile));
      row0 = (tile - int(quotient * p.row_tiles.divisor)) * kRows;
      pixel0 = int(quotient) * kPixels;
    };

    if (threadIdx.x < kWarpgroup) {  // copies
      registers_fewer<kRegistersToCopy>();
      const int lane = lane_id(), line = int(threadIdx.x) / 8, chunk = lane % 8;
      const int64_t pitch = int64_t(p.groups) * p.chunks * 16;
      const auto* const source =
          reinterpret_cast<const unsigned char*>(x) + (int64_t(group) * p.chunks + chunk) * 16;
      for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
        int row0, pixel0;
        tile_of(tile, row0, pixel0);
        // A warp's lines are four in each sixteen: its lanes find their origins and exchange them.
        Origin mine[kPixels / 128];
        int64_t places[kPixels / kAtOnce];  // in bytes
        uint32_t seen[kPixels / kAtOnce];
        FASTDL_UNROLL
        for (int j = 0; j < kPixels / 128; ++j) {
          const int pixel = pixel0 + line / 4 * 4 + lane % 4 + kAtOnce * (lane / 4 + 8 * j);
          mine[j] = pixel < pixels ? origin_of(pixel, d, h, w) : Origin{0, 0};
        }
        FASTDL_UNROLL
        for (int i = 0; i < kPixels / kAtOnce; ++i) {
          const Origin at = shuffle(mine[i / 8], i % 8 * 4 + lane / 8);
          places[i] = at.place * pitch, seen[i] = at.seen;
        }

        int block = taps > 0 ? begin / taps : 0, bit = begin - block * taps;  // which channels, which tap
        int td = 0, th = 0, tw = 0;
        if (steps > 0) tw = bit % w.taps, th = bit / w.taps % h.taps, td = bit / w.taps / h.taps;
        for (int step = 0; step < steps; ++step) {
          unsigned char* const a = stages + ring.stage() * kStage;
          unsigned char* const b = a + kRows * kLineBytes;
          ring.wait_empty();
          if (threadIdx.x == 0) {
            const int tap = ((d.tap + td * d.period) * h.kernel + h.tap + th * h.period) * w.kernel + w.tap +
                            tw * w.period;
            bulk_load(a, weights, {block * int(kLineBytes / sizeof(T)), tap, group * p.rows + row0},
                      ring.expect(kRows * kLineBytes));
          }
          const int tap_place = (td * d.move * h.source + th * h.move) * w.source + tw * w.move;
          const auto* const from = source + int64_t(tap_place) * pitch + int64_t(block) * kLineBytes;
          const bool channels = block * kLineChunks + chunk < p.chunks;
          auto* const to = static_cast<unsigned char*>(swizzled(b, line, chunk));
          FASTDL_UNROLL
          for (int i = 0; i < kPixels / kAtOnce; ++i) {
            const bool present = channels && (seen[i] >> bit & 1) != 0;
            cp_async_16_or_zeros_cached(to + i * kAtOnce * kLineBytes, present ? from + places[i] : source,
                                        present);
          }
          ring.copied();
          if (++bit == taps) bit = 0, ++block;
          if (++tw == w.taps) {
            tw = 0;
            if (++th == h.taps) {
              th = 0;
              if (++td == d.taps) td = 0;
            }
          }
        }
      }
      ring.all_copied();
      return;
    }

    registers_more<kRegistersToMultiply>();
    // 128 rows: each warpgroup has 64 of them; 64 rows: each has half of the pixels.
    constexpr int N = kRows == 64 ? kPixels / 2 : kPixels;
    const int half = int(threadIdx.x) / kWarpgroup - 1;
    const int my_row = kRows == 64 ? 0 : 64 * half, my_pixel = kRows == 64 ? N * half : 0;
    for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
      float sums[N / 2];
      if (steps == 0) FASTDL_UNROLL
      for (float& sum : sums) sum = 0;
      sum_stages<T, N, false, 4>(sums, ring, steps, [&](int stage, uint64_t& a, uint64_t& b) {
        a = matrix_along(stages + stage * kStage + my_row * kLineBytes);
        b = matrix_along(stages + stage * kStage + (kRows + my_pixel) * kLineBytes);
      });
      int row0, pixel0;
      tile_of(tile, row0, pixel0);
      row0 += my_row, pixel0 += my_pixel;
      Target t{group * p.rows + row0, p.rows - row0, pixel0, pixels, 0, 0, p.pairs};
      t.size = int64_t(d.target) * h.target * w.target;
      t.image = p.groups * p.rows * t.size;
      float biases[2] = {0, 0};
      FASTDL_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int row = int(threadIdx.x) / 32 % 4 * 16 + lane_id() / 4 + 8 * i;
        if (bias != nullptr && p.splits == 1 && row < t.rows) biases[i] = widen(bias[t.channel0 + row]);
      }
      float* const part_of_y = p.splits > 1 ? parts + blockIdx.y * (p.batch * t.image) : nullptr;
      write<T, N>(y, part_of_y, sums, biases, t, d, h, w);
    }
  }
}

struct Tiling {
  ClassSizes sizes;
  int64_t layers;  // classes times groups
  int64_t lines;
  int rows, pixels, splits;  // of a tile
};
Tiling tiling_of(Dtype dtype, const ConvProblem& p, bool transposed) {
  const int64_t rows = transposed ? p.group_in() : p.group_out();
  const int64_t chunks = conv_padded(dtype, transposed ? p.group_out() : p.group_in()) / conv_chunk(dtype);
  Tiling t{class_sizes(p, transposed), 0, (chunks + kLineChunks - 1) / kLineChunks, 64, 256, 1};
  t.layers = t.sizes.classes * p.groups;
  const auto blocks = [&] {
    return t.layers * ((rows + t.rows - 1) / t.rows) * ((t.sizes.pixels + t.pixels - 1) / t.pixels);
  };
  const auto rounds = [&] { return (blocks() + kMultiprocessors - 1) / kMultiprocessors; };
  if (rows > 64) {
    // A stage of 128 x 256 takes 1024 cycles by its products and by shared memory's 128 bytes a cycle; one of
    // 128 x 128 takes 640, by shared memory.
    t.rows = 128;
    const int64_t wide = 1024 * rounds();
    t.pixels = 128;
    if (wide <= 640 * rounds()) t.pixels = 256;
  }
  const int64_t steps = t.sizes.taps * t.lines;
  t.splits = int(std::max<int64_t>(
      1, std::min({kMultiprocessors / std::max<int64_t>(1, blocks()), steps / kLeastSteps, kMostSplits})));
  return t;
}

template <class T, int kRows, int kPixels>
void launch_gather(T* y, float* parts, const T* x, const T* weight, const T* bias, Gather p,
                   const ConvProblem& problem, const Tiling& t, Stream stream) {
  const int64_t row_tiles = (p.rows + kRows - 1) / kRows;
  const int64_t tiles = row_tiles * ((t.sizes.pixels + kPixels - 1) / kPixels);
  if (tiles >= int64_t(1) << 31 || t.layers > 65535)
    throw std::invalid_argument("convolution on CUDA: too many tiles, or groups times strides above 65535");
  p.row_tiles = Divisor(uint32_t(row_tiles));
  constexpr int kLine = kLineBytes / sizeof(T);
  const int64_t padded = int64_t(p.chunks) * kWidest<T>, bytes = padded * int64_t(sizeof(T));
  const int64_t sizes[3] = {padded, problem.taps(), int64_t(p.groups) * p.rows};
  const int64_t strides[2] = {bytes, problem.taps() * bytes};
  const int box[3] = {kLine, 1, kRows};
  const TensorMap map = tensor_map<T>(weight, 3, sizes, strides, box, Swizzle::bytes128);
  launch("conv", gather_wgmma<T, kRows, kPixels>,
         dim3(unsigned(std::min<int64_t>(tiles, multiprocessors())), unsigned(p.splits), unsigned(t.layers)),
         dim3(kHopperThreads), ring_bytes(kRows + kPixels) + 3 * sizeof(Class), stream, y, parts, x, map,
         bias, p);
}

}  // namespace

bool conv_gather_fits_hopper(Dtype dtype, bool tensor, const ConvProblem& p, bool transposed) {
  if (dtype == Dtype::float64 || (dtype == Dtype::float32 && !tensor)) return false;
  const int64_t rows = transposed ? p.group_in() : p.group_out();
  const int64_t channels = conv_padded(dtype, transposed ? p.group_out() : p.group_in());
  const int64_t line = dtype == Dtype::float32 ? 32 : 64, lines = (channels + line - 1) / line;
  // Zeros behind the channels are multiplied, too.
  if (rows <= 32 || 4 * channels < 3 * lines * line) return false;
  // Places outside of the images must be numbers of 32 bits.
  double places = double(p.batch);
  for (size_t i = 0; i < kSpatial; ++i)
    places *= double(p.in[i] + p.out[i]) + 2 * double(p.pad[i] + p.kernel[i] * p.dilation[i] + p.stride[i]);
  return places < double(int64_t(1) << 31) && class_sizes(p, transposed).taps <= kMostTaps;
}

int64_t conv_gather_hopper_splits(Dtype dtype, const ConvProblem& problem, bool transposed) {
  return tiling_of(dtype, problem, transposed).splits;
}

void conv_gather_hopper(Dtype dtype, void* to, const void* from, const void* weights, const void* biases,
                        void* scratch, const ConvProblem& problem, bool transposed, Stream stream) {
  const Tiling t = tiling_of(dtype, problem, transposed);
  const int64_t size = transposed ? problem.in_size() : problem.out_size();
  Gather p;
  p.classes = conv_classes(problem, transposed);
  p.batch = int(problem.batch);
  p.groups = int(problem.groups);
  p.rows = int(transposed ? problem.group_in() : problem.group_out());
  p.lines = int(t.lines);
  p.splits = t.splits;
  p.pairs = t.sizes.classes == 1 && size % 2 == 0 && aligned(to, 8) && aligned(scratch, 8);
  const auto run = [&]<class T>(T) {
    p.chunks = int(conv_padded(dtype, transposed ? problem.group_out() : problem.group_in()) / kWidest<T>);
    const auto with = [&]<int kRows, int kPixels>() {
      launch_gather<T, kRows, kPixels>(static_cast<T*>(to), static_cast<float*>(scratch),
                                       static_cast<const T*>(from), static_cast<const T*>(weights),
                                       static_cast<const T*>(biases), p, problem, t, stream);
    };
    if (t.rows == 64)
      with.template operator()<64, 256>();
    else if (t.pixels == 128)
      with.template operator()<128, 128>();
    else
      with.template operator()<128, 256>();
  };
  by_dtype(dtype, [&]<class T>(T one) {
    if constexpr (sizeof(T) < 8) run(one);
  });
  const int64_t channels = transposed ? problem.in_channels : problem.out_channels;
  if (t.splits > 1)
    conv_add_gather_parts(dtype, to, scratch, biases, problem.batch * channels * size, t.splits, size,
                          channels, stream);
}

void conv_trial_begin() {
  hopper_trial_begin();
}
bool conv_trial_end(Stream stream) {
  return hopper_trial_end(stream);
}

}  // namespace fastdl::cuda
