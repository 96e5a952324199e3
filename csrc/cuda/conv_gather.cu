// Convolution and its gradient of x as implicit products.
//
//   y[n, m, j] = bias[m] + sum over taps, c of  w[m, tap, c] * x[n, source(j, tap), c]
//
// with source = j * stride - pad + tap * dilation per axis. Rows of the product are output channels (of one
// group), columns pixels of all images, summands a tap's channels in chunks of 16 bytes; a pixel's chunk is
// copied to shared memory from where the tap sees it, or zeros outside. The gradient of x is the same sum
// over the positions of y that see an input: for stride s these are s interleaved images per axis
// (*classes*), each with every period-th tap, so nothing is multiplied by the zeros between strided
// positions. A class is a layer of the grid.
//
// Memory: x was turned to channels last before (read, written), is read here once from memory and again for
// each tap and tile of rows from the caches; y is written once, through shared memory, so rows of pixels are
// written side by side. Neighbouring blocks share their pixels. Where tiles are too few for a device, the sum
// is cut into parts, which depend on the problem only and are added in order by a second kernel.
#include <algorithm>

#include "cuda/conv.h"
#include "cuda/conv_class.h"
#include "cuda/conv_tile.h"

namespace fastdl::cuda {
namespace {

constexpr int kOutside = -(1 << 30);
constexpr int kLines = kConvThreads / 4;                           // filled at a time, by four chunks each
constexpr int64_t kEnough = 132, kPlenty = 264, kMostSplits = 16;  // blocks; parts

struct Gather {
  ConvClasses classes;
  int batch, groups, rows, chunks, splits;  // rows: of a group; chunks: of a tap
  Divisor row_tiles;
};

template <class T, bool kTensor, int kRows>
__global__ void __launch_bounds__(kConvThreads, 2)
    gather_product(T* y, Compute<T>* parts, const T* x, const T* weight, const T* bias, Gather p) {
  using C = Compute<T>;
  constexpr int kN = kColumns<T>, kStage = (kRows + kN) * kDepth<T>;
  // The axes' classes are the same for all threads and too many numbers for everybody's registers.
  FASTDL_DYNAMIC_SHARED(Class, classes);
  T* const shared = reinterpret_cast<T*>(classes + 3);
  static_assert(3 * sizeof(Class) % 16 == 0);
  const int group = int(blockIdx.z) % p.groups;
  make_classes(classes, p.classes, int(blockIdx.z) / p.groups);
  sync_threads();
  const Class &d = classes[0], &h = classes[1], &w = classes[2];
  const int pixels = p.batch * d.count * h.count * w.count;
  const uint32_t tile = p.row_tiles.quotient(blockIdx.x);
  const int row0 = int(blockIdx.x - tile * p.row_tiles.divisor) * kRows;
  if (tile * uint32_t(kN) >= uint32_t(pixels)) return;
  const int column0 = int(tile) * kN;

  // What this thread copies: chunk `chunk` of some lines.
  const int chunk = int(threadIdx.x) % 4, line = int(threadIdx.x) / 4;
  Pixel at[kN / kLines];
  FASTDL_UNROLL
  for (int i = 0; i < kN / kLines; ++i) {
    const int pixel = column0 + line + kLines * i;
    at[i] = {0, kOutside, 0, 0};
    if (pixel < pixels) {
      const Pixel j = pixel_of(pixel, d, h, w);
      at[i] = {j.image, j.d * d.step + d.origin, j.h * h.step + h.origin, j.w * w.step + w.origin};
    }
  }
  int c = 0, td = 0, th = 0, tw = 0;  // which chunk of which tap comes next
  const auto advance = [&](int by) {
    for (c += by; c >= p.chunks; c -= p.chunks)
      if (++tw == w.taps) {
        tw = 0;
        if (++th == h.taps) th = 0, ++td;
      }
  };
  const int all = (d.taps * h.taps * w.taps * p.chunks + 3) / 4, part = (all + p.splits - 1) / p.splits;
  const int begin = part * int(blockIdx.y), steps = all - begin < part ? all - begin : part;
  advance(chunk + 4 * begin);
  const int line_of_weight = d.kernel * h.kernel * w.kernel * p.chunks;
  const auto load = [&](int, int stage) {
    T* const a = shared + stage * kStage;
    T* const b = a + kRows * kDepth<T>;
    const bool more = td < d.taps;
    const int tap =
        ((d.tap + td * d.period) * h.kernel + h.tap + th * h.period) * w.kernel + w.tap + tw * w.period;
    FASTDL_UNROLL
    for (int i = 0; i < (kRows + kLines - 1) / kLines; ++i) {
      if (kRows < kLines && line >= kRows) break;
      const int r = row0 + line + kLines * i;
      const bool present = more && r < p.rows;
      const int64_t from =
          present ? int64_t(group * p.rows + r) * line_of_weight + tap * p.chunks + c : int64_t(0);
      cp_async_16_or_zeros(a + along<T>(line + kLines * i, chunk), weight + from * kChunk<T>, present);
    }
    FASTDL_UNROLL
    for (int i = 0; i < kN / kLines; ++i) {
      const int sd = at[i].d + td * d.move, sh = at[i].h + th * h.move, sw = at[i].w + tw * w.move;
      const bool present = more && uint32_t(sd) < uint32_t(d.source) && uint32_t(sh) < uint32_t(h.source) &&
                           uint32_t(sw) < uint32_t(w.source);
      int64_t from = 0;
      if (present) {
        const int64_t pixel = ((at[i].image * d.source + sd) * h.source + sh) * w.source + sw;
        from = ((pixel * p.groups + group) * p.chunks + c) * kChunk<T>;
      }
      cp_async_16_or_zeros(b + along<T>(line + kLines * i, chunk), x + from, present);
    }
    advance(4);
  };
  ConvProduct<T, kTensor, true, kRows> product;
  pipeline(steps, load, [&](int stage) {
    product.add(shared + stage * kStage, shared + stage * kStage + kRows * kDepth<T>);
  });

  // Through shared memory: every thread writes some rows of one pixel.
  constexpr int kPitch = kN + 8;
  C* const sums = reinterpret_cast<C*>(shared);
  product.for_each([&](int m, int n, C sum) { sums[m * kPitch + n] = sum; });
  sync_threads();
  const int column = int(threadIdx.x) % kN;
  if (column0 + column >= pixels) return;
  const Pixel j = pixel_of(column0 + column, d, h, w);
  const int position = target_of(j, d, h, w);
  const int64_t size = int64_t(d.target) * h.target * w.target;
  const int channel0 = group * p.rows + row0;
  const int64_t first = (int64_t(j.image) * p.groups * p.rows + channel0) * size + position;
  const int rows = p.rows - row0 < kRows ? p.rows - row0 : kRows;
  if (p.splits > 1) {
    C* to = parts + blockIdx.y * (int64_t(p.batch) * p.groups * p.rows * size) + first;
    for (int m = int(threadIdx.x) / kN; m < rows; m += kConvThreads / kN)
      to[m * size] = sums[m * kPitch + column];
    return;
  }
  for (int m = int(threadIdx.x) / kN; m < rows; m += kConvThreads / kN) {
    const C b = bias != nullptr ? C(widen(bias[channel0 + m])) : C(0);
    y[first + m * size] = narrow<T>(sums[m * kPitch + column] + b);
  }
}

template <class T>
__global__ void __launch_bounds__(kConvThreads)
    add_gather_parts(T* y, const Compute<T>* parts, const T* bias, int64_t items, int splits, Divisor size,
                     Divisor channels) {
  for (uint32_t i = blockIdx.x * kConvThreads + threadIdx.x; i < items; i += gridDim.x * kConvThreads) {
    Compute<T> sum = 0;
    for (int s = 0; s < splits; ++s) sum += parts[s * items + i];
    if (bias != nullptr) {
      const uint32_t plane = size.quotient(i);
      sum += Compute<T>(widen(bias[plane - channels.quotient(plane) * channels.divisor]));
    }
    y[i] = narrow<T>(sum);
  }
}

struct Tiling {
  int64_t pixels, layers;  // of the largest class; classes times groups
  int splits;
  bool tall;  // enough tiles of 128 rows
};
Tiling tiling_of(Dtype dtype, const ConvProblem& p, bool transposed) {
  const ClassSizes sizes = class_sizes(p, transposed);
  Tiling t{sizes.pixels, sizes.classes * p.groups, 1, false};
  const int64_t rows = transposed ? p.group_in() : p.group_out();
  const int64_t channels = conv_padded(dtype, transposed ? p.group_out() : p.group_in());
  const int64_t steps = sizes.taps * channels / (4 * conv_padded(dtype, 1));
  const int64_t column_tiles = t.layers * ((t.pixels + 127) / 128);
  const int64_t blocks = std::max<int64_t>(1, column_tiles * ((rows + 63) / 64));
  t.tall = rows > 64 && column_tiles * ((rows + 127) / 128) >= kPlenty;
  if (blocks < kEnough)
    t.splits = int(std::max<int64_t>(1, std::min({kPlenty / blocks, steps / 8, kMostSplits})));
  return t;
}

template <class T, bool kTensor, int kRows>
void launch_gather(T* y, Compute<T>* parts, const T* x, const T* weight, const T* bias, Gather p,
                   const Tiling& t, Stream stream) {
  constexpr int kN = kColumns<T>;
  const int64_t row_tiles = (p.rows + kRows - 1) / kRows, tiles = (t.pixels + kN - 1) / kN;
  if (row_tiles * tiles >= int64_t(1) << 31 || t.layers > 65535)
    throw std::invalid_argument("convolution on CUDA: too many tiles, or groups times strides above 65535");
  p.row_tiles = Divisor(uint32_t(row_tiles));
  const size_t stages = size_t(kStages) * (kRows + kN) * kDepth<T> * sizeof(T);
  const size_t sums = size_t(kRows) * (kN + 8) * sizeof(Compute<T>);
  launch("conv", gather_product<T, kTensor, kRows>,
         dim3(unsigned(row_tiles * tiles), unsigned(p.splits), unsigned(t.layers)), dim3(kConvThreads),
         3 * sizeof(Class) + std::max(stages, sums), stream, y, parts, x, weight, bias, p);
}

}  // namespace

int64_t conv_padded(Dtype dtype, int64_t channels) {
  const int64_t chunk = dtype == Dtype::float64 ? 2 : dtype == Dtype::float32 ? 4 : 8;
  return (channels + chunk - 1) / chunk * chunk;
}

int64_t conv_gather_splits(Dtype dtype, const ConvProblem& problem, bool transposed) {
  return tiling_of(dtype, problem, transposed).splits;
}

void conv_gather(Dtype dtype, bool tensor, void* to, const void* from, const void* weights,
                 const void* biases, void* scratch, const ConvProblem& problem, bool transposed,
                 Stream stream) {
  const Tiling t = tiling_of(dtype, problem, transposed);
  const int64_t channels = transposed ? problem.in_channels : problem.out_channels;
  const int64_t size = transposed ? problem.in_size() : problem.out_size();
  const int64_t items = problem.batch * channels * size;
  if (items == 0) return;
  Gather p;
  p.classes = conv_classes(problem, transposed);
  p.batch = int(problem.batch);
  p.groups = int(problem.groups);
  p.rows = int(transposed ? problem.group_in() : problem.group_out());
  p.splits = t.splits;
  by_arithmetic(dtype, tensor, [&]<class T, bool kTensor>(T, std::bool_constant<kTensor>) {
    p.chunks = int(conv_padded(dtype, transposed ? problem.group_out() : problem.group_in()) / kChunk<T>);
    T* const y = static_cast<T*>(to);
    auto* const parts = static_cast<Compute<T>*>(scratch);
    const T *x = static_cast<const T*>(from), *weight = static_cast<const T*>(weights),
            *bias = static_cast<const T*>(biases);
    // Tall tiles of the tensor cores copy each pixel's chunk half as often; low ones are for small groups and
    // for the gradients of images.
    if (p.rows <= 16)
      launch_gather<T, kTensor, 16>(y, parts, x, weight, bias, p, t, stream);
    else if (kTensor && t.tall)
      launch_gather<T, kTensor, kTensor ? 128 : 64>(y, parts, x, weight, bias, p, t, stream);
    else
      launch_gather<T, kTensor, 64>(y, parts, x, weight, bias, p, t, stream);
  });
  if (t.splits > 1)
    conv_add_gather_parts(dtype, to, scratch, biases, items, t.splits, size, channels, stream);
}

void conv_add_gather_parts(Dtype dtype, void* y, const void* scratch, const void* bias, int64_t items,
                           int splits, int64_t size, int64_t channels, Stream stream) {
  if (items >= int64_t(1) << 31) throw std::invalid_argument("convolution on CUDA: too large");
  by_dtype(dtype, [&]<class T>(T) {
    launch("conv", add_gather_parts<T>, dim3(grid_for(items, kConvThreads)), dim3(kConvThreads), 0, stream,
           static_cast<T*>(y), static_cast<const Compute<T>*>(scratch), static_cast<const T*>(bias), items,
           splits, Divisor(uint32_t(size)), Divisor(uint32_t(channels)));
  });
}

}  // namespace fastdl::cuda
