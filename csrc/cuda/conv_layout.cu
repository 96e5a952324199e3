// What convolution's implicit products need first: images with the channels last, weights with a tap's
// channels side by side, both padded to 16 bytes with zeros and, for TF32, rounded once here instead of at
// every use. Arrays are read and written once; images through a tile in shared memory, so that both sides
// are neighbours for neighbouring threads.
#include "cuda/conv.h"
#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kTile = 32, kTileRows = 8;

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

template <class T>
__global__ void __launch_bounds__(kTile* kTileRows, 2)
    turn_channels_last(T* to, const T* x, int64_t images, int channels, int groups, int padded, int size,
                       Divisor tiles, bool tf32) {
  FASTDL_SHARED(T, tile, kTile * (kTile + 1));
  const uint32_t group = tiles.quotient(blockIdx.y);
  const int channel0 = int(blockIdx.y - group * tiles.divisor) * kTile;
  const int64_t position0 = int64_t(blockIdx.x) * kTile;
  const int column = int(threadIdx.x);
  for (int64_t n = blockIdx.z; n < images; n += gridDim.z) {
    const T* from = x + (n * groups + group) * channels * size;
    for (int r = int(threadIdx.y); r < kTile; r += kTileRows) {
      const int64_t position = position0 + column;
      tile[r * (kTile + 1) + column] = channel0 + r < channels && position < size
                                           ? from[int64_t(channel0 + r) * size + position]
                                           : T(0.0f);
    }
    sync_threads();
    for (int r = int(threadIdx.y); r < kTile; r += kTileRows) {
      const int64_t position = position0 + r;
      if (position < size && channel0 + column < padded)
        to[((n * size + position) * groups + group) * padded + channel0 + column] =
            prepared(tile[column * (kTile + 1) + r], tf32);
    }
    sync_threads();
  }
}

// to[group, row, tap, c] = weight[group, row, c, tap], or transposed weight[group, c, row, tap].
template <class T>
__global__ void __launch_bounds__(256) pack_weight(T* to, const T* weight, int64_t items, int rows, int taps,
                                                   int channels, int padded, bool transposed, bool tf32) {
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < items; i += int64_t(gridDim.x) * 256) {
    const int c = int(i % padded);
    int64_t q = i / padded;
    const int tap = int(q % taps);
    q /= taps;
    const int64_t group = q / rows, row = q % rows;
    const int64_t line = transposed ? (group * channels + c) * rows + row : q * channels + c;
    to[i] = c < channels ? prepared(weight[line * taps + tap], tf32) : T(0.0f);
  }
}

}  // namespace

void channels_last(Dtype dtype, bool tf32, void* to, const void* x, int64_t images, int64_t channels,
                   int64_t groups, int64_t size, Stream stream) {
  const int64_t padded = conv_padded(dtype, channels), tiles = (padded + kTile - 1) / kTile;
  if (images * groups * padded * size == 0) return;
  if (size >= int64_t(1) << 30 || tiles * groups > 65535)
    throw std::invalid_argument("convolution on CUDA: too many channels, or more than 2^30 pixels");
  const dim3 grid(unsigned((size + kTile - 1) / kTile), unsigned(tiles * groups),
                  unsigned(images < 65535 ? images : 65535));
  by_dtype(dtype, [&]<class T>(T) {
    launch("channels_last", turn_channels_last<T>, grid, dim3(kTile, kTileRows), 0, stream,
           static_cast<T*>(to), static_cast<const T*>(x), images, int(channels), int(groups), int(padded),
           int(size), Divisor(uint32_t(tiles)), tf32);
  });
}

void conv_pack_weight(Dtype dtype, bool tf32, void* to, const void* weight, const ConvProblem& p,
                      bool transposed, Stream stream) {
  const int64_t rows = transposed ? p.group_in() : p.group_out(),
                channels = transposed ? p.group_out() : p.group_in(), padded = conv_padded(dtype, channels);
  const int64_t items = p.groups * rows * p.taps() * padded;
  if (items == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch("conv_pack_weight", pack_weight<T>, dim3(grid_for(items, 256)), dim3(256), 0, stream,
           static_cast<T*>(to), static_cast<const T*>(weight), items, int(rows), int(p.taps()), int(channels),
           int(padded), transposed, tf32);
  });
}

}  // namespace fastdl::cuda
