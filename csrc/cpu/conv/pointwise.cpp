// 1x1 convolution with stride 1 and no padding: matrix products on the arrays as they lie in memory.
//
//   forward   y[n] (K x P) = w (K x C) x[n] (C x P)          grad_x[n] = w^T grad_y[n]
//   grad_w    sum over n of grad_y[n] x[n]^T, as one product over all images' positions; of few channels, as
//             dot products of their rows
//
// Work and blocking are the matrix engine's; one batched call for all images of a group.
#include "cpu/conv/algorithm.h"
#include "cpu/conv/tap_tile.h"
#include "cpu/gemm/panels.h"
#include "cpu/parts.h"
#include "cpu/runtime/memory.h"

namespace fastdl {
namespace {

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  const int64_t k = p.group_out(), c = p.group_in(), size = p.in_size();
  for_groups<T>(p, [&](int64_t g) {
    GemmEpilogue<T> epilogue;
    if (bias) epilogue.bias_row = bias + g * k;
    gemm_batched<T>(p.batch, k, size, c, T(1), matrix(w + g * k * c, c), 0, matrix(x + g * c * size, size),
                    p.in_channels * size, T(0), y + g * k * size, p.out_channels * size, size, epilogue);
  });
}

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  const int64_t k = p.group_out(), c = p.group_in(), size = p.in_size();
  for_groups<T>(p, [&](int64_t g) {
    GemmEpilogue<T> epilogue;
    if (bias) epilogue.bias_row = bias + g * c;
    gemm_batched<T>(p.batch, c, size, k, T(1), matrix(w + g * k * c, c, true), 0,
                    matrix(gy + g * k * size, size), p.out_channels * size, T(0), gx + g * c * size,
                    p.in_channels * size, size, epilogue);
  });
}

// Panels of channels (lanes) by positions of all images (steps).
template <class T, int P>
struct PackPositions {
  const T* data;  // the group's channels of the first image
  int64_t size, image;

  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    for (int64_t k = 0; k < kc;) {
      const int64_t n = (k0 + k) / size, position = (k0 + k) % size,
                    length = std::min(kc - k, size - position);
      tile::pack_panel<T, P>(panel + k * P, data + n * image + first * size + position, size, 1, count,
                             length);
      k += length;
    }
  }
};

// Weights of few channels are dot products of rows as they lie in memory: the engine packs both sides,
// transposed, which takes longer than their products, and its tiles would be mostly empty. A tile: the
// products of some rows of grad_y and of x, lane by lane.
constexpr int kDotRows = 4;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kDotColumns = 4;
#else
constexpr int kDotColumns = 2;  // eight sums and their operands fill 16 registers
#endif
constexpr int64_t kRowBytes = 2048;  // of a row at once: a tile's rows stay in L1

// Whether that is faster: rows are some vectors long, one side has so few channels that the engine's tiles
// are mostly empty (or both have few), and the sums of each weight's lanes do not count.
bool has_few_weights(const ConvProblem& p) {
  const int64_t weights = p.group_in() * p.group_out(), few = std::min(p.group_in(), p.group_out());
  return p.in_size() >= 64 && weights <= (few <= 8 ? 2048 : 256) && p.batch * p.in_size() >= 4 * weights;
}

// sums[i][j] += grad[rows[i]] * x[columns[j]], over `count` positions.
template <class T>
void add_dots(T* sums, const T* const* rows, const T* const* columns, int64_t count) {
  using namespace simd;
  constexpr int w = kWidth<T>;
  Vec<T> acc[kDotRows][kDotColumns];
#pragma GCC unroll 4
  for (int i = 0; i < kDotRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kDotColumns; ++j) acc[i][j] = Vec<T>{};
  const auto add = [&](auto&& vector) __attribute__((always_inline)) {
    Vec<T> x[kDotColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kDotColumns; ++j) x[j] = vector(columns[j]);
#pragma GCC unroll 4
    for (int i = 0; i < kDotRows; ++i) {
      const Vec<T> g = vector(rows[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kDotColumns; ++j) acc[i][j] += g * x[j];
    }
  };
  int64_t at = 0;
  for (; at + w <= count; at += w) add([=](const T* row) { return load(row + at); });
  if (at < count) add([=](const T* row) { return load_n(row + at, int(count - at)); });
#pragma GCC unroll 4
  for (int i = 0; i < kDotRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kDotColumns; ++j) {
      T* sum = sums + (i * kDotColumns + j) * w;
      store<T>(sum, load(sum) + acc[i][j]);
    }
}

// One group; a chunk of all images' pieces of rows per sum.
template <class T>
void grad_w_by_rows(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  constexpr int w = simd::kWidth<T>;
  constexpr int64_t tile_size = kDotRows * kDotColumns * w;
  const int64_t k = p.group_out(), c = p.group_in(), size = p.in_size();
  const int64_t columns = ceil_div(c, kDotColumns), sums_size = ceil_div(k, kDotRows) * columns * tile_size;
  const Pieces pieces(ceil_div(size, w), kRowBytes / simd::kBytes);
  const int64_t items = p.batch * pieces.pieces;
  const double microseconds =
      std::max(tile::product_microseconds<T>(k, c, p.batch * size),
               5e-5 * double(p.batch * (k + c) * size) * double(sizeof(T)));  // 20 GB/s
  const int64_t grain = std::max<int64_t>(1, int64_t(10 * double(items) / microseconds));
  const int64_t parts = chunk_count(items, grain);
  memory::Buffer<T> sums(size_t(parts * sums_size));
  const auto add_piece = [&](T* sum, int64_t image, int64_t first, int64_t count) {
    for (int64_t k0 = 0; k0 < k; k0 += kDotRows)
      for (int64_t c0 = 0; c0 < c; c0 += kDotColumns, sum += tile_size) {
        const T *rows[kDotRows], *others[kDotColumns];  // those beyond the last compute it again
        for (int i = 0; i < kDotRows; ++i)
          rows[i] = gy + (image * p.out_channels + std::min(k0 + i, k - 1)) * size + first;
        for (int j = 0; j < kDotColumns; ++j)
          others[j] = x + (image * p.in_channels + std::min(c0 + j, c - 1)) * size + first;
        add_dots(sum, rows, others, count);
      }
  };
  parallel_chunks(items, grain, [&](int64_t part, int64_t begin, int64_t end) {
    T* sum = sums + part * sums_size;
    std::fill_n(sum, sums_size, T(0));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t piece = i % pieces.pieces, first = pieces.begin(piece) * w;
      add_piece(sum, i / pieces.pieces, first, std::min(pieces.size(piece) * w, size - first));
    }
  });
  add_parts<T>(sums.get(), sums.get(), sums_size, parts);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < c; ++j) {
      const int64_t tile = i / kDotRows * columns + j / kDotColumns;
      const int64_t at = tile * tile_size + (i % kDotRows * kDotColumns + j % kDotColumns) * w;
      gw[i * c + j] = simd::reduce_add<T>(simd::load(sums + at));
    }
}

template <class T>
void grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const int64_t k = p.group_out(), c = p.group_in(), size = p.in_size();
  for_groups<T>(p, [&](int64_t g) {
    if (has_few_weights(p)) return grad_w_by_rows<T>(p, gw + g * k * c, gy + g * k * size, x + g * c * size);
    tile::gemm_panels<T>(k, c, p.batch * size,
                         PackPositions<T, tile::kMR<T>>{gy + g * k * size, size, p.out_channels * size},
                         PackPositions<T, tile::kNR<T>>{x + g * c * size, size, p.in_channels * size}, T(1),
                         T(0), gw + g * k * c, c);
  });
}

const char* refusal(const ConvProblem& p) {
  if (p.kernel != Extent{1, 1, 1}) return "it needs a kernel of one element";
  if (p.stride != Extent{1, 1, 1}) return "it needs stride 1";
  if (p.pad != Extent{0, 0, 0} || p.in != p.out) return "it needs an input without padding";
  return nullptr;
}
bool worthwhile(const ConvProblem& p, ConvPass pass) {
  // Small planes leave lanes empty and read all weights again for each; im2col takes some images as one. (Its
  // copy of the patches wants long sums and many outputs.)
  const int64_t size = p.in_size(), whole = ceil_div(size, simd::kWidth<float>) * simd::kWidth<float>;
  if (pass == ConvPass::forward && p.batch > 1 && p.group_in() >= 512 && p.group_out() >= 128 &&
      10 * whole > 11 * size)
    return false;
  return true;  // (an outer product writes the result once, and nothing else)
}

}  // namespace

template <class T>
const ConvAlgorithm<T>& conv_pointwise() {
  static constexpr ConvAlgorithm<T> algorithm{"pointwise", refusal,   worthwhile, nullptr,
                                              forward<T>,  grad_x<T>, grad_w<T>};
  return algorithm;
}
template const ConvAlgorithm<float>& conv_pointwise<float>();
template const ConvAlgorithm<double>& conv_pointwise<double>();

}  // namespace fastdl
