// The gradient of convolution's weights as an implicit product over pixels.
//
//   grad_w[m, tap, c] = sum over images n, positions o of  grad_y[n, o, m] * x[n, source(o, tap), c]
//
// Rows of the product are output channels, columns a tap's input channels in chunks of 16 bytes, summands
// pixels; both operands have the channels last, so a pixel's chunk is one asynchronous copy, zeros where the
// tap sees nothing. The sum is cut into parts that depend on the problem only; the second kernel adds them in
// order and puts the weights into their own order. The same bits every time, and no running sum is longer
// than some thousand pixels.
//
// 1x1 kernels of stride 1 sum over positions of the same number: there both operands are read as they are,
// with the positions along, if an image's positions are a multiple of a copy.
//
// Memory: x and grad_y were turned to channels last before (but for 1x1); each is read again for every tile
// of columns or rows, mostly from the caches. Parts are written and read once.
#include <algorithm>

#include "cuda/conv.h"
#include "cuda/conv_axis.h"
#include "cuda/conv_parts.h"
#include "cuda/conv_tile.h"

namespace fastdl::cuda {
namespace {

constexpr int64_t kLongest = 4096;  // pixels of a part
constexpr int64_t kBlocks = 512;    // wanted

struct WeightSums {
  ConvAxes axes;
  int groups, rows, pieces, row_pieces;  // pieces of a pixel in a group: of x, of grad_y
  int pixels, part;                      // part: a multiple of kDepth
  Divisor row_tiles, d, h, w;            // outputs per axis
};

template <class T, bool kTensor, int kRows, bool kFew>
__global__ void __launch_bounds__(kConvThreads, 2)
    weight_product(Compute<T>* parts, const T* grad_y, const T* x, WeightSums p) {
  using C = Compute<T>;
  constexpr int kN = kColumns<T>, kStage = (kRows + kN) * kDepth<T>;
  constexpr int kE = kPiece<T, kFew>;
  constexpr int kPiecesA = kRows / kE, kLinesA = kConvThreads / kPiecesA;
  constexpr int kPiecesB = kN / kE, kLinesB = kConvThreads / kPiecesB;
  FASTDL_DYNAMIC_SHARED(T, shared);
  const uint32_t tile = p.row_tiles.quotient(blockIdx.x);
  const int row0 = int(blockIdx.x - tile * p.row_tiles.divisor) * kRows, column0 = int(tile) * kN;
  const int split = int(blockIdx.y), group = int(blockIdx.z);
  const int begin = split * p.part, end = p.pixels - begin < p.part ? p.pixels : begin + p.part;

  // What this thread copies: a piece of some lines of each.
  const int piece_a = int(threadIdx.x) % kPiecesA, line_a = int(threadIdx.x) / kPiecesA;
  const int piece_b = int(threadIdx.x) % kPiecesB, line_b = int(threadIdx.x) / kPiecesB;
  const int row_piece = row0 / kE + piece_a, column_piece = column0 / kE + piece_b;
  const int tap = column_piece / p.pieces, c = column_piece % p.pieces;
  const ConvAxis &ad = p.axes.d, &ah = p.axes.h, &aw = p.axes.w;
  const bool counts = tap < ad.kernel * ah.kernel * aw.kernel;
  const int from_d = tap / aw.kernel / ah.kernel * ad.dilation - ad.pad,
            from_h = tap / aw.kernel % ah.kernel * ah.dilation - ah.pad,
            from_w = tap % aw.kernel * aw.dilation - aw.pad;
  const auto load = [&](int step, int stage) {
    T* const a = shared + stage * kStage;
    T* const b = a + kRows * kDepth<T>;
    const int first = begin + step * kDepth<T>;
    FASTDL_UNROLL
    for (int i = 0; i < kDepth<T> / kLinesA; ++i) {
      const int pixel = first + line_a + kLinesA * i;
      const bool present = pixel < end && row_piece < p.row_pieces;
      const int64_t from =
          present ? (int64_t(pixel) * p.groups + group) * p.row_pieces + row_piece : int64_t(0);
      copy_piece<kFew>(
          a + across<T, kRows>(line_a + kLinesA * i, piece_a * kE / kChunk<T>) + piece_a * kE % kChunk<T>,
          grad_y + from * kE, present);
    }
    FASTDL_UNROLL
    for (int i = 0; i < kDepth<T> / kLinesB; ++i) {
      const int pixel = first + line_b + kLinesB * i;
      int64_t from = 0;
      bool present = counts && pixel < end;
      if (present) {
        const uint32_t qw = p.w.quotient(uint32_t(pixel)), qh = p.h.quotient(qw), image = p.d.quotient(qh);
        const int sw = int(uint32_t(pixel) - qw * p.w.divisor) * aw.stride + from_w,
                  sh = int(qw - qh * p.h.divisor) * ah.stride + from_h,
                  sd = int(qh - image * p.d.divisor) * ad.stride + from_d;
        present = uint32_t(sd) < uint32_t(ad.in) && uint32_t(sh) < uint32_t(ah.in) &&
                  uint32_t(sw) < uint32_t(aw.in);
        if (present) {
          const int64_t source = ((int(image) * ad.in + sd) * ah.in + sh) * aw.in + sw;
          from = ((source * p.groups + group) * p.pieces + c) * kE;
        }
      }
      copy_piece<kFew>(
          b + across<T, kN>(line_b + kLinesB * i, piece_b * kE / kChunk<T>) + piece_b * kE % kChunk<T>,
          x + from, present);
    }
  };
  ConvProduct<T, kTensor, false, kRows> product;
  pipeline((end - begin + kDepth<T> - 1) / kDepth<T>, load, [&](int stage) {
    product.add(shared + stage * kStage, shared + stage * kStage + kRows * kDepth<T>);
  });

  const int columns = ad.kernel * ah.kernel * aw.kernel * p.pieces * kE;
  C* const to = parts + (int64_t(split) * p.groups + group) * p.rows * columns;
  product.for_each([&](int m, int n, C sum) {
    if (row0 + m < p.rows && column0 + n < columns) to[int64_t(row0 + m) * columns + column0 + n] = sum;
  });
}

struct PointwiseSums {
  int groups, rows, channels, size, columns;  // columns: channels of a line of the parts
  int pieces, part;                           // of all images' positions, of a part
  Divisor row_tiles, image;                   // image: pieces of one
};

template <class T, bool kTensor, int kRows, bool kHalf>
__global__ void __launch_bounds__(kConvThreads, 2)
    pointwise_product(Compute<T>* parts, const T* grad_y, const T* x, PointwiseSums p) {
  using C = Compute<T>;
  constexpr int kN = kColumns<T>, kStage = (kRows + kN) * kDepth<T>;
  constexpr int kE = kPiece<T, kHalf>, kPieces = kDepth<T> / kE, kLines = kConvThreads / kPieces;
  FASTDL_DYNAMIC_SHARED(T, shared);
  const uint32_t tile = p.row_tiles.quotient(blockIdx.x);
  const int row0 = int(blockIdx.x - tile * p.row_tiles.divisor) * kRows, column0 = int(tile) * kN;
  const int split = int(blockIdx.y), group = int(blockIdx.z);
  const int begin = split * p.part, end = p.pieces - begin < p.part ? p.pieces : begin + p.part;
  const int piece = int(threadIdx.x) % kPieces, line = int(threadIdx.x) / kPieces;
  const auto load = [&](int step, int stage) {
    T* const a = shared + stage * kStage;
    const int at = begin + step * kPieces + piece;
    const uint32_t image = p.image.quotient(uint32_t(at));
    const int position = (at - int(image * p.image.divisor)) * kE;
    const auto copy = [&]<int kCount>(std::integral_constant<int, kCount>, T* to, const T* from, int first,
                                      int all) {
      const T* const start = from + ((int64_t(image) * p.groups + group) * all + first) * p.size + position;
      FASTDL_UNROLL
      for (int i = 0; i < kCount / kLines; ++i) {
        const int r = line + kLines * i;
        const bool present = at < end && first + r < all;
        copy_piece<kHalf>(to + along<T>(r, piece * kE / kChunk<T>) + piece * kE % kChunk<T>,
                          present ? start + int64_t(r) * p.size : from, present);
      }
    };
    copy(std::integral_constant<int, kRows>{}, a, grad_y, row0, p.rows);
    copy(std::integral_constant<int, kN>{}, a + kRows * kDepth<T>, x, column0, p.channels);
  };
  ConvProduct<T, kTensor, true, kRows, true> product;
  pipeline((end - begin + kPieces - 1) / kPieces, load, [&](int stage) {
    product.add(shared + stage * kStage, shared + stage * kStage + kRows * kDepth<T>);
  });
  C* const to = parts + (int64_t(split) * p.groups + group) * p.rows * p.columns;
  product.for_each([&](int m, int n, C sum) {
    if (row0 + m < p.rows && column0 + n < p.channels) to[int64_t(row0 + m) * p.columns + column0 + n] = sum;
  });
}

// grad_w[row, c, tap] = the parts' [row, tap, c], added up. Where weights are many: a block has 32 channels
// of a row and writes their taps side by side; its warps have a tap each.
template <class T>
__global__ void __launch_bounds__(kConvThreads)
    add_wide_parts(T* grad_weight, const Compute<T>* parts, int splits, int taps, int channels, int padded,
                   int64_t part, Divisor tiles) {
  FASTDL_DYNAMIC_SHARED(T, tile);
  const uint32_t row = tiles.quotient(blockIdx.x);
  const int c0 = int(blockIdx.x - row * tiles.divisor) * 32, lane = int(threadIdx.x) % 32;
  const int wide = std::min(32, channels - c0);
  const Compute<T>* const from = parts + int64_t(row) * taps * padded + c0 + lane;
  for (int tap = int(threadIdx.x) / 32; tap < taps && lane < wide; tap += kConvThreads / 32) {
    Compute<T> sum = 0;
    for (int s = 0; s < splits; ++s) sum += from[s * part + int64_t(tap) * padded];
    tile[lane * taps + tap] = narrow<T>(sum);
  }
  sync_threads();
  T* const to = grad_weight + (int64_t(row) * channels + c0) * taps;
  for (int i = int(threadIdx.x); i < wide * taps; i += kConvThreads) to[i] = tile[i];
}
// Where they are few: parts are many.
template <class T>
__global__ void __launch_bounds__(kPartThreads) add_parts(T* grad_weight, const Compute<T>* parts, int splits,
                                                          int64_t rows, int taps, int channels, int padded) {
  add_parts_in_order(parts, rows * taps * padded, splits, [&](int64_t i, Compute<T> sum) {
    const uint32_t line = uint32_t(i) / uint32_t(padded), row = line / uint32_t(taps);
    const int c = int(uint32_t(i) - line * uint32_t(padded)), tap = int(line - row * uint32_t(taps));
    if (c < channels) grad_weight[(int64_t(row) * channels + c) * taps + tap] = narrow<T>(sum);
  });
}

int64_t depth_of(Dtype dtype) {
  return 4 * conv_chunk(dtype);
}

// Pixels of a part.
int64_t part_of(Dtype dtype, const ConvProblem& p) {
  const int64_t pixels = p.batch * p.out_size(), depth = depth_of(dtype);
  const int64_t columns = p.taps() * conv_padded(dtype, p.group_in());
  const int64_t tiles = p.groups * ((p.group_out() + 63) / 64) * ((columns + 127) / 128);
  int64_t part = std::min(kLongest, pixels / std::max<int64_t>(1, kBlocks / tiles) + 1);
  part = std::max({part, 8 * depth, (pixels + 65534) / 65535});
  return (part + depth - 1) / depth * depth;
}

template <class T, bool kTensor, int kRows, bool kFew>
void launch_product(Compute<T>* parts, const T* grad_y, const T* x, WeightSums p, int splits, Stream stream) {
  constexpr int kN = kColumns<T>;
  const ConvAxes& a = p.axes;
  const int64_t columns = int64_t(a.d.kernel) * a.h.kernel * a.w.kernel * p.pieces * kPiece<T, kFew>;
  const int64_t row_tiles = (p.rows + kRows - 1) / kRows, tiles = row_tiles * ((columns + kN - 1) / kN);
  p.row_tiles = Divisor(uint32_t(row_tiles));
  launch("conv_grad_weight", weight_product<T, kTensor, kRows, kFew>,
         dim3(unsigned(tiles), unsigned(splits), unsigned(p.groups)), dim3(kConvThreads),
         size_t(kStages) * (kRows + kN) * kDepth<T> * sizeof(T), stream, parts, grad_y, x, p);
}

}  // namespace

int64_t conv_weight_splits(Dtype dtype, const ConvProblem& p) {
  const int64_t part = part_of(dtype, p);
  return std::max<int64_t>(1, (p.batch * p.out_size() + part - 1) / part);
}

void conv_grad_weight(Dtype dtype, bool tensor, void* grad_weight, const void* grad_y, const void* x,
                      void* scratch, const ConvProblem& problem, Stream stream) {
  if (problem.out_channels * problem.patch() == 0) return;
  WeightSums p;
  p.axes = conv_axes(problem);
  p.groups = int(problem.groups);
  p.rows = int(problem.group_out());
  p.pixels = int(problem.batch * problem.out_size());
  p.part = int(part_of(dtype, problem));
  p.d = Divisor(uint32_t(p.axes.d.out));
  p.h = Divisor(uint32_t(p.axes.h.out));
  p.w = Divisor(uint32_t(p.axes.w.out));
  if (problem.groups > 65535) throw std::invalid_argument("convolution on CUDA: more than 65535 groups");
  const int splits = int(conv_weight_splits(dtype, problem));
  by_arithmetic(dtype, tensor, [&]<class T, bool kTensor>(T, std::bool_constant<kTensor>) {
    auto* parts = static_cast<Compute<T>*>(scratch);
    const auto *g = static_cast<const T*>(grad_y), *values = static_cast<const T*>(x);
    const auto pieces = [&](int size) {
      p.pieces = int(conv_padded(dtype, problem.group_in()) / size);
      p.row_pieces = int(conv_padded(dtype, p.rows) / size);
    };
    if constexpr (sizeof(T) < 8)
      if (conv_few(dtype, problem.group_in()) || conv_few(dtype, p.rows)) {
        pieces(kPiece<T, true>);
        return launch_product<T, kTensor, 64, true>(parts, g, values, p, splits, stream);
      }
    pieces(kChunk<T>);
    constexpr int kTall = sizeof(T) == 2 ? 128 : 64;  // more than 64 rows of TF32 do not fit the registers
    if (p.rows > 64)
      launch_product<T, kTensor, kTall, false>(parts, g, values, p, splits, stream);
    else
      launch_product<T, kTensor, 64, false>(parts, g, values, p, splits, stream);
  });
  conv_add_parts(dtype, grad_weight, scratch, splits, problem, stream);
}

bool conv_pointwise_fits(Dtype dtype, const ConvProblem& p, const void* grad_y, const void* x) {
  if (p.taps() != 1 || p.stride != Extent{1, 1, 1} || p.pad != Extent{0, 0, 0} || p.in != p.out) return false;
  const int64_t size = p.in_size(), whole = conv_chunk(dtype), least = whole == 8 ? 4 : whole;
  const size_t bytes = size % whole == 0 ? 16 : 8;
  return size % least == 0 && aligned(grad_y, bytes) && aligned(x, bytes);
}

void conv_grad_weight_pointwise(Dtype dtype, bool tensor, void* grad_weight, const void* grad_y,
                                const void* x, void* scratch, const ConvProblem& problem, Stream stream) {
  PointwiseSums p;
  p.groups = int(problem.groups);
  p.rows = int(problem.group_out());
  p.channels = int(problem.group_in());
  p.size = int(problem.in_size());
  p.columns = int(conv_padded(dtype, p.channels));
  const int splits = int(conv_weight_splits(dtype, problem));
  const bool half = p.size % conv_chunk(dtype) != 0;
  const int piece = int(conv_chunk(dtype)) / (half ? 2 : 1);
  p.image = Divisor(uint32_t(p.size / piece));
  p.pieces = int(problem.batch * (p.size / piece));
  p.part = int(part_of(dtype, problem)) / piece;
  if (problem.batch * p.size >= int64_t(1) << 30 || problem.groups > 65535)
    throw std::invalid_argument("convolution on CUDA is limited to 2^30 pixels and 65535 groups in one call");
  by_arithmetic(dtype, tensor, [&]<class T, bool kTensor>(T, std::bool_constant<kTensor>) {
    const auto run = [&]<int kRows, bool kHalf>() {
      constexpr int kN = kColumns<T>;
      const int64_t row_tiles = (p.rows + kRows - 1) / kRows;
      p.row_tiles = Divisor(uint32_t(row_tiles));
      launch("conv_grad_weight", pointwise_product<T, kTensor, kRows, kHalf>,
             dim3(unsigned(row_tiles * ((p.channels + kN - 1) / kN)), unsigned(splits), unsigned(p.groups)),
             dim3(kConvThreads), size_t(kStages) * (kRows + kN) * kDepth<T> * sizeof(T), stream,
             static_cast<Compute<T>*>(scratch), static_cast<const T*>(grad_y), static_cast<const T*>(x), p);
    };
    constexpr int kTall = sizeof(T) == 2 ? 128 : 64;
    if constexpr (sizeof(T) == 2)
      if (half)
        return p.rows > 64 ? run.template operator()<kTall, true>() : run.template operator()<64, true>();
    return p.rows > 64 ? run.template operator()<kTall, false>() : run.template operator()<64, false>();
  });
  conv_add_parts(dtype, grad_weight, scratch, splits, problem, stream);
}

void conv_add_parts(Dtype dtype, void* grad_weight, const void* scratch, int64_t splits,
                    const ConvProblem& problem, Stream stream) {
  const int64_t channels = problem.group_in(), padded = conv_padded(dtype, channels), taps = problem.taps();
  const int64_t rows = problem.out_channels, items = rows * taps * padded, tiles = (channels + 31) / 32;
  if (items >= int64_t(1) << 32 || rows * tiles >= int64_t(1) << 31)
    throw std::invalid_argument("convolution on CUDA is limited to 2^31 weights in one call");
  by_dtype(dtype, [&]<class T>(T) {
    auto* const to = static_cast<T*>(grad_weight);
    const auto* const parts = static_cast<const Compute<T>*>(scratch);
    if (splits <= 8 && channels >= 16 && taps > 1 && taps <= 128)
      launch("conv_grad_weight", add_wide_parts<T>, dim3(unsigned(rows * tiles)), dim3(kConvThreads),
             size_t(32 * taps) * sizeof(T), stream, to, parts, int(splits), int(taps), int(channels),
             int(padded), items, Divisor(uint32_t(tiles)));
    else
      launch("conv_grad_weight", add_parts<T>, dim3(grid_for(items, kPartItems)), dim3(kPartThreads), 0,
             stream, to, parts, int(splits), rows, int(taps), int(channels), int(padded));
  });
}

}  // namespace fastdl::cuda
