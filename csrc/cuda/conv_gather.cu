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
constexpr int64_t kEnough = 132, kPlenty = 264, kMostSplits = 16;  // blocks; parts

struct Gather {
  ConvClasses classes;
  int batch, groups, rows, pieces, splits;  // rows: of a group; pieces: of a tap
  bool pairs;  // neighbouring pixels of y, and of a part, may be written by one access
  Divisor row_tiles;
};

template <class T, bool kTensor, int kRows, bool kFew>
__global__ void __launch_bounds__(kConvThreads, 2)
    gather_product(T* y, Compute<T>* parts, const T* x, const T* weight, const T* bias, Gather p) {
  using C = Compute<T>;
  constexpr int kN = kColumns<T>, kStage = (kRows + kN) * kDepth<T>;
  constexpr int kE = kPiece<T, kFew>, kPieces = kDepth<T> / kE;  // of a line
  constexpr int kLines = kConvThreads / kPieces;                 // filled at a time
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

  // What this thread copies: piece `piece` of some lines.
  const int piece = int(threadIdx.x) % kPieces, line = int(threadIdx.x) / kPieces;
  const auto place = [&](T* lines, int i) {
    return lines + along<T>(line + kLines * i, piece * kE / kChunk<T>) + piece * kE % kChunk<T>;
  };
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
  int c = 0, td = 0, th = 0, tw = 0;  // which piece of which tap comes next
  const auto advance = [&](int by) {
    for (c += by; c >= p.pieces; c -= p.pieces)
      if (++tw == w.taps) {
        tw = 0;
        if (++th == h.taps) th = 0, ++td;
      }
  };
  const int all = (d.taps * h.taps * w.taps * p.pieces + kPieces - 1) / kPieces;
  const int part = (all + p.splits - 1) / p.splits;
  const int begin = part * int(blockIdx.y), steps = all - begin < part ? all - begin : part;
  advance(piece + kPieces * begin);
  const int line_of_weight = d.kernel * h.kernel * w.kernel * p.pieces;
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
          present ? int64_t(group * p.rows + r) * line_of_weight + tap * p.pieces + c : int64_t(0);
      copy_piece<kFew>(place(a, i), weight + from * kE, present);
    }
    FASTDL_UNROLL
    for (int i = 0; i < kN / kLines; ++i) {
      const int sd = at[i].d + td * d.move, sh = at[i].h + th * h.move, sw = at[i].w + tw * w.move;
      const bool present = more && uint32_t(sd) < uint32_t(d.source) && uint32_t(sh) < uint32_t(h.source) &&
                           uint32_t(sw) < uint32_t(w.source);
      int64_t from = 0;
      if (present) {
        const int64_t pixel = ((at[i].image * d.source + sd) * h.source + sh) * w.source + sw;
        from = ((pixel * p.groups + group) * p.pieces + c) * kE;
      }
      copy_piece<kFew>(place(b, i), x + from, present);
    }
    advance(kPieces);
  };
  ConvProduct<T, kTensor, true, kRows> product;
  pipeline(steps, load, [&](int stage) {
    product.add(shared + stage * kStage, shared + stage * kStage + kRows * kDepth<T>);
  });

  // Through shared memory: every thread writes some rows of two pixels.
  constexpr int kPitch = kN + 8, kAtOnce = kConvThreads / (kN / 2);
  C* const sums = reinterpret_cast<C*>(shared);
  product.for_each([&](int m, int n, C sum) { sums[m * kPitch + n] = sum; });
  sync_threads();
  const int column = int(threadIdx.x) % (kN / 2) * 2, pixel = column0 + column;
  if (pixel >= pixels) return;
  const int64_t size = int64_t(d.target) * h.target * w.target, image = int64_t(p.groups) * p.rows * size;
  const int channel0 = group * p.rows + row0, row = int(threadIdx.x) / (kN / 2);
  const auto first = [&](int i) {
    const Pixel j = pixel_of(i, d, h, w);
    return j.image * image + (channel0 + row) * size + target_of(j, d, h, w);
  };
  const bool second = pixel + 1 < pixels;
  const int64_t at0 = first(pixel), at1 = p.pairs || !second ? at0 : first(pixel + 1);
  const auto write = [&]<class O>(O* to, auto&& value) {
    for (int m = row; m < kRows && row0 + m < p.rows; m += kAtOnce) {
      const Pack<O, 2> both = value(m, *reinterpret_cast<const Pack<C, 2>*>(&sums[m * kPitch + column]));
      O* const at = to + (m - row) * size;
      if (p.pairs) {
        *reinterpret_cast<Pack<O, 2>*>(at + at0) = both;
      } else {
        at[at0] = both.v[0];
        if (second) at[at1] = both.v[1];
      }
    }
  };
  if (p.splits > 1)
    write(parts + blockIdx.y * (p.batch * image), [](int, const Pack<C, 2>& both) { return both; });
  else
    write(y, [&](int m, const Pack<C, 2>& both) {
      const C b = bias != nullptr ? C(widen(bias[channel0 + m])) : C(0);
      return Pack<T, 2>{{narrow<T>(both.v[0] + b), narrow<T>(both.v[1] + b)}};
    });
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
  ClassSizes sizes;
  int64_t layers;  // classes times groups
  int splits;
  bool tall;  // enough tiles of 128 rows
};
Tiling tiling_of(Dtype dtype, const ConvProblem& p, bool transposed) {
  Tiling t{class_sizes(p, transposed), 0, 1, false};
  t.layers = t.sizes.classes * p.groups;
  const int64_t rows = transposed ? p.group_in() : p.group_out();
  const int64_t channels = conv_padded(dtype, transposed ? p.group_out() : p.group_in());
  const int64_t steps = t.sizes.taps * channels / (4 * conv_chunk(dtype));
  const int64_t column_tiles = t.layers * ((t.sizes.pixels + 127) / 128);
  const int64_t blocks = std::max<int64_t>(1, column_tiles * ((rows + 63) / 64));
  t.tall = rows > 64 && column_tiles * ((rows + 127) / 128) >= kPlenty;
  if (blocks < kEnough)
    t.splits = int(std::max<int64_t>(1, std::min({kPlenty / blocks, steps / 8, kMostSplits})));
  return t;
}

template <class T, bool kTensor, int kRows, bool kFew>
void launch_gather(T* y, Compute<T>* parts, const T* x, const T* weight, const T* bias, Gather p,
                   const Tiling& t, Stream stream) {
  constexpr int kN = kColumns<T>;
  const int64_t row_tiles = (p.rows + kRows - 1) / kRows, tiles = (t.sizes.pixels + kN - 1) / kN;
  if (row_tiles * tiles >= int64_t(1) << 31 || t.layers > 65535)
    throw std::invalid_argument("convolution on CUDA: too many tiles, or groups times strides above 65535");
  p.row_tiles = Divisor(uint32_t(row_tiles));
  const size_t stages = size_t(kStages) * (kRows + kN) * kDepth<T> * sizeof(T);
  const size_t sums = size_t(kRows) * (kN + 8) * sizeof(Compute<T>);
  launch("conv", gather_product<T, kTensor, kRows, kFew>,
         dim3(unsigned(row_tiles * tiles), unsigned(p.splits), unsigned(t.layers)), dim3(kConvThreads),
         3 * sizeof(Class) + std::max(stages, sums), stream, y, parts, x, weight, bias, p);
}

}  // namespace

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
  p.pairs = t.sizes.classes == 1 && size % 2 == 0 && aligned(to, 16) && aligned(scratch, 16);
  by_arithmetic(dtype, tensor, [&]<class T, bool kTensor>(T, std::bool_constant<kTensor>) {
    const int64_t summed = transposed ? problem.group_out() : problem.group_in();
    const bool few = conv_few(dtype, summed);
    p.pieces = few ? 1 : int(conv_padded(dtype, summed) / kChunk<T>);
    T* const y = static_cast<T*>(to);
    auto* const parts = static_cast<Compute<T>*>(scratch);
    const T *x = static_cast<const T*>(from), *weight = static_cast<const T*>(weights),
            *bias = static_cast<const T*>(biases);
    // Tall tiles of the tensor cores copy each pixel's chunk half as often; low ones are for small groups and
    // for the gradients of images.
    if (few) {
      if constexpr (sizeof(T) < 8) {
        if (p.rows <= 16)
          launch_gather<T, kTensor, 16, true>(y, parts, x, weight, bias, p, t, stream);
        else
          launch_gather<T, kTensor, 64, true>(y, parts, x, weight, bias, p, t, stream);
      }
    } else if (p.rows <= 16) {
      launch_gather<T, kTensor, 16, false>(y, parts, x, weight, bias, p, t, stream);
    } else if (kTensor && t.tall) {
      launch_gather<T, kTensor, kTensor ? 128 : 64, false>(y, parts, x, weight, bias, p, t, stream);
    } else {
      launch_gather<T, kTensor, 64, false>(y, parts, x, weight, bias, p, t, stream);
    }
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
