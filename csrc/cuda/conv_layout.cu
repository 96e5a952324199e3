// What convolution's implicit products need first: images with the channels last, weights with a tap's
// channels side by side, both padded to 16 bytes (few channels: to 8) with zeros and, for TF32, rounded once
// here instead of at every use. Arrays are read and written once. Images go through a tile in shared memory:
// warps read 64 positions of a channel and write 128 bytes of a position's channels, and a thread has all its
// reads under way before it stores the first. A few channels are one thread's for a position. Weights are
// transposed through a tile, too.
#include "cuda/conv.h"
#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256, kPositions = 64;

template <class T>
__device__ __forceinline__ T prepared(T x, bool tf32) {
  if constexpr (std::is_same_v<T, float>) {
    if (tf32) {
      const uint32_t bits = to_tf32(x);
      memcpy(&x, &bits, 4);
    }
  }
  return x;
}

// paired: neighbouring positions of x are read by one access of two 16-bit elements.
template <class T>
__global__ void __launch_bounds__(kThreads, 5)
    turn_channels_last(T* to, const T* x, int64_t images, int channels, int groups, int padded, int size,
                       Divisor tiles, bool tf32, bool paired) {
  constexpr int kE = kWidest<T>, kChannels = 8 * kE, kPer = sizeof(T) == 2 ? 2 : 1;
  constexpr int kPitch = kPositions + kPer, kReads = kChannels * kPositions / kPer / kThreads;
  FASTDL_SHARED(T, tile, kChannels * kPitch);
  constexpr int kStep = kThreads * kPer / kPositions;  // rows that a block reads at once
  const uint32_t group = tiles.quotient(blockIdx.y);
  const int channel0 = int(blockIdx.y - group * tiles.divisor) * kChannels;
  const int64_t position0 = int64_t(blockIdx.x) * kPositions;
  const int column = int(threadIdx.x) % (kPositions / kPer) * kPer,
            row = int(threadIdx.x) / (kPositions / kPer);
  for (int64_t n = blockIdx.z; n < images; n += gridDim.z) {
    const T* const from = x + ((n * groups + group) * channels + channel0) * size + position0;
    // As words: pairs put together of single elements would wait for the loads before.
    using Word = std::conditional_t<sizeof(T) == 2, uint32_t, T>;
    Word words[kReads];
    const auto row_of = [&](int k) { return row + k * kStep; };
    if (paired || kPer == 1) {
      const int rows = position0 + column < size ? channels - channel0 : 0;
      const T* at = from + int64_t(row) * size + column;
      FASTDL_UNROLL
      for (int k = 0; k < kReads; ++k, at += int64_t(kStep) * size) {
        words[k] = 0;
        if (row_of(k) < rows) words[k] = *reinterpret_cast<const Word*>(at);
      }
    } else {
      FASTDL_UNROLL
      for (int k = 0; k < kReads; ++k) {
        const int r = row_of(k);
        Pack<T, kPer> unit;
        FASTDL_UNROLL
        for (int e = 0; e < kPer; ++e)
          unit.v[e] = channel0 + r < channels && position0 + column + e < size
                          ? from[int64_t(r) * size + column + e]
                          : T(0.0f);
        memcpy(&words[k], &unit, sizeof(Word));
      }
    }
    FASTDL_UNROLL
    for (int k = 0; k < kReads; ++k) *reinterpret_cast<Word*>(&tile[row_of(k) * kPitch + column]) = words[k];
    sync_threads();
    for (int i = int(threadIdx.x); i < 8 * kPositions; i += kThreads) {
      // A warp: four chunks of eight positions, which lie in different banks.
      const int place = i / 64 * 8 + i % 8, part = i / 32 % 2 * 4 + i / 8 % 4;
      const int channel = channel0 + part * kE;
      const int64_t position = position0 + place;
      if (position >= size || channel >= padded) continue;
      Pack<T, kE> chunk;
      FASTDL_UNROLL
      for (int e = 0; e < kE; ++e) chunk.v[e] = prepared(tile[(part * kE + e) * kPitch + place], tf32);
      T* const at = to + ((n * size + position) * groups + group) * padded + channel;
      if (padded % kE == 0) {
        *reinterpret_cast<Pack<T, kE>*>(at) = chunk;
      } else {
        FASTDL_UNROLL
        for (int e = 0; e < kE; ++e)
          if (channel + e < padded) at[e] = chunk.v[e];
      }
    }
    sync_threads();
  }
}

// At most kOut channels, one group.
template <class T, int kOut>
__global__ void __launch_bounds__(kThreads)
    few_channels_last(T* to, const T* x, int64_t positions, int channels, Divisor size, bool tf32) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < positions;
       i += int64_t(gridDim.x) * kThreads) {
    const uint32_t n = size.quotient(uint32_t(i));
    const T* const from = x + int64_t(n) * (channels - 1) * size.divisor + i;
    Pack<T, kOut> all;
    FASTDL_UNROLL
    for (int c = 0; c < kOut; ++c)
      all.v[c] = c < channels ? prepared(from[int64_t(c) * size.divisor], tf32) : T(0.0f);
    *reinterpret_cast<Pack<T, kOut>*>(to + i * kOut) = all;
  }
}

// to[b, m, c] = weight[b, c, m], of `count` b, `channels` c (then zeros up to `padded`) and `columns` m.
// Tiles pass through shared memory: read along m (few columns are read whole, as one run), written along c.
constexpr int kPackChannels = 128, kPackColumns = 32;
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_weight(T* to, const T* weight, int channels, int columns, int padded, Divisor column_tiles,
                Divisor channel_tiles, bool tf32) {
  constexpr int kPitch = kPackChannels + (sizeof(T) == 2 ? 2 : 1);
  FASTDL_SHARED(T, tile, kPackColumns * kPitch);
  const uint32_t q = column_tiles.quotient(blockIdx.x), b = channel_tiles.quotient(q);
  const int m0 = int(blockIdx.x - q * column_tiles.divisor) * kPackColumns,
            c0 = int(q - b * channel_tiles.divisor) * kPackChannels;
  const int wide = columns - m0 < kPackColumns ? columns - m0 : kPackColumns,
            high = channels - c0 < kPackChannels ? channels - c0 : kPackChannels;
  const T* const from = weight + (int64_t(b) * channels + c0) * columns + m0;
  for (int i = int(threadIdx.x); i < high * wide; i += kThreads) {
    const int c = int(uint32_t(i) / uint32_t(wide)), m = i - c * wide;
    tile[m * kPitch + c] = prepared(from[int64_t(c) * columns + m], tf32);
  }
  sync_threads();
  const int line = int(threadIdx.x) % kPackChannels;
  if (c0 + line >= padded) return;
  T* const at = to + (int64_t(b) * columns + m0) * padded + c0 + line;
  for (int m = int(threadIdx.x) / kPackChannels; m < wide; m += kThreads / kPackChannels)
    at[int64_t(m) * padded] = line < high ? tile[m * kPitch + line] : T(0.0f);
}

}  // namespace

int64_t conv_chunk(Dtype dtype) {
  return dtype == Dtype::float64 ? 2 : dtype == Dtype::float32 ? 4 : 8;
}
int64_t conv_padded(Dtype dtype, int64_t channels) {
  const int64_t chunk = conv_chunk(dtype);
  return conv_few(dtype, channels) ? chunk / 2 : (channels + chunk - 1) / chunk * chunk;
}
bool conv_few(Dtype dtype, int64_t channels) {
  return dtype != Dtype::float64 && 2 * channels <= conv_chunk(dtype);
}

void channels_last(Dtype dtype, bool tf32, void* to, const void* x, int64_t images, int64_t channels,
                   int64_t groups, int64_t size, Stream stream) {
  int64_t line = conv_padded(dtype, channels);
  if (images * groups * line * size == 0) return;
  if (line == channels) line = channels *= groups, groups = 1;  // nothing between the groups
  const int64_t wide = 8 * conv_chunk(dtype), tiles = (line + wide - 1) / wide;
  if (images * size >= int64_t(1) << 31 || tiles * groups > 65535)
    throw std::invalid_argument("convolution on CUDA: too many channels, or more than 2^31 pixels");
  by_dtype(dtype, [&]<class T>(T) {
    T* const out = static_cast<T*>(to);
    const T* const in = static_cast<const T*>(x);
    const auto few = [&]<int kOut>() {
      launch("channels_last", few_channels_last<T, kOut>, dim3(grid_for(images * size, kThreads)),
             dim3(kThreads), 0, stream, out, in, images * size, int(channels), Divisor(uint32_t(size)), tf32);
    };
    if (groups == 1 && line == kWidest<T>) return few.template operator()<kWidest<T>>();
    if constexpr (sizeof(T) < 8)
      if (groups == 1 && line == kWidest<T> / 2) return few.template operator()<kWidest<T> / 2>();
    const dim3 grid(unsigned((size + kPositions - 1) / kPositions), unsigned(tiles * groups),
                    unsigned(images < 65535 ? images : 65535));
    launch("channels_last", turn_channels_last<T>, grid, dim3(kThreads), 0, stream, out, in, images,
           int(channels), int(groups), int(line), int(size), Divisor(uint32_t(tiles)), tf32,
           size % 2 == 0 && aligned(x, 2 * sizeof(T)));
  });
}

void conv_pack_weight(Dtype dtype, bool tf32, void* to, const void* weight, const ConvProblem& p,
                      bool transposed, Stream stream) {
  const int64_t rows = transposed ? p.group_in() : p.group_out(),
                channels = transposed ? p.group_out() : p.group_in(), padded = conv_padded(dtype, channels);
  if (p.groups * rows * p.taps() * padded == 0) return;
  // Weights are (groups, rows, channels, taps), or transposed (groups, channels, rows, taps).
  const int64_t count = transposed ? p.groups : p.groups * rows, columns = p.taps() * (transposed ? rows : 1);
  const int64_t column_tiles = (columns + kPackColumns - 1) / kPackColumns,
                channel_tiles = (padded + kPackChannels - 1) / kPackChannels;
  const int64_t blocks = count * column_tiles * channel_tiles;
  if (blocks >= int64_t(1) << 31)
    throw std::invalid_argument("convolution on CUDA: too many weights in one call");
  by_dtype(dtype, [&]<class T>(T) {
    launch("conv_pack_weight", pack_weight<T>, dim3(unsigned(blocks)), dim3(kThreads), 0, stream,
           static_cast<T*>(to), static_cast<const T*>(weight), int(channels), int(columns), int(padded),
           Divisor(uint32_t(column_tiles)), Divisor(uint32_t(channel_tiles)), tf32);
  });
}

}  // namespace fastdl::cuda
