// The weight gradient of 1x1 convolutions with few channels (dot_rows.h): each weight is the dot product of a
// row of grad_y and one of x, read as they lie in memory. The matrix engine packs both sides, transposed,
// which takes longer than their products, and its tiles would be mostly empty.
//
// A tile: the products of some rows of grad_y and of x, lane by lane. Work: over pieces of rows of all
// images, with one partial result per chunk.
#include "cpu/conv/dot_rows.h"

#include <algorithm>

#include "cpu/ceil_div.h"
#include "cpu/conv/tap_tile.h"
#include "cpu/gemm/share.h"
#include "cpu/parts.h"
#include "cpu/runtime/memory.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

constexpr int kDotRows = 4;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kDotColumns = 4;
#else
constexpr int kDotColumns = 2;  // eight sums and their operands fill 16 registers
#endif
constexpr int64_t kRowBytes = 2048;  // of a row at once: a tile's rows stay in L1

// sums[i][j] += grad[rows[i]] * x[columns[j]], over `count` positions.
void add_dots(float* sums, const float* const* rows, const float* const* columns, int64_t count) {
  using namespace simd;
  constexpr int w = kWidth<float>;
  Vec<float> acc[kDotRows][kDotColumns];
#pragma GCC unroll 4
  for (int i = 0; i < kDotRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kDotColumns; ++j) acc[i][j] = Vec<float>{};
  const auto add = [&](auto&& vector) __attribute__((always_inline)) {
    Vec<float> x[kDotColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kDotColumns; ++j) x[j] = vector(columns[j]);
#pragma GCC unroll 4
    for (int i = 0; i < kDotRows; ++i) {
      const Vec<float> g = vector(rows[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kDotColumns; ++j) acc[i][j] += g * x[j];
    }
  };
  int64_t at = 0;
  for (; at + w <= count; at += w) add([=](const float* row) { return load(row + at); });
  if (at < count) add([=](const float* row) { return load_n(row + at, int(count - at)); });
#pragma GCC unroll 4
  for (int i = 0; i < kDotRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kDotColumns; ++j) {
      float* sum = sums + (i * kDotColumns + j) * w;
      store<float>(sum, load(sum) + acc[i][j]);
    }
}

}  // namespace

// Rows are some vectors long, one side has so few channels that the engine's tiles are mostly empty (or both
// have few), and the sums of each weight's lanes do not count.
bool has_few_weights(const ConvProblem& p) {
  const int64_t weights = p.group_in() * p.group_out(), few = std::min(p.group_in(), p.group_out());
  return p.in_size() >= 64 && weights <= (few <= 8 ? 2048 : 256) && p.batch * p.in_size() >= 4 * weights;
}

void grad_w_by_rows(const ConvProblem& p, float* gw, const float* gy, const float* x) {
  constexpr int w = simd::kWidth<float>;
  constexpr int64_t tile_size = kDotRows * kDotColumns * w;
  const int64_t k = p.group_out(), c = p.group_in(), size = p.in_size();
  const int64_t columns = ceil_div(c, kDotColumns), sums_size = ceil_div(k, kDotRows) * columns * tile_size;
  const Pieces pieces(ceil_div(size, w), kRowBytes / simd::kBytes);
  const int64_t items = p.batch * pieces.pieces;
  const double microseconds =
      std::max(tile::product_microseconds<float>(k, c, p.batch * size),
               5e-5 * double(p.batch * (k + c) * size) * double(sizeof(float)));  // 20 GB/s
  const int64_t grain = std::max<int64_t>(1, int64_t(10 * double(items) / microseconds));
  const int64_t parts = chunk_count(items, grain);
  memory::Buffer<float> sums(size_t(parts * sums_size));
  const auto add_piece = [&](float* sum, int64_t image, int64_t first, int64_t count) {
    for (int64_t k0 = 0; k0 < k; k0 += kDotRows)
      for (int64_t c0 = 0; c0 < c; c0 += kDotColumns, sum += tile_size) {
        const float *rows[kDotRows], *others[kDotColumns];  // those beyond the last compute it again
        for (int i = 0; i < kDotRows; ++i)
          rows[i] = gy + (image * p.out_channels + std::min(k0 + i, k - 1)) * size + first;
        for (int j = 0; j < kDotColumns; ++j)
          others[j] = x + (image * p.in_channels + std::min(c0 + j, c - 1)) * size + first;
        add_dots(sum, rows, others, count);
      }
  };
  parallel_chunks(items, grain, [&](int64_t part, int64_t begin, int64_t end) {
    float* sum = sums + part * sums_size;
    std::fill_n(sum, sums_size, 0.0f);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t piece = i % pieces.pieces, first = pieces.begin(piece) * w;
      add_piece(sum, i / pieces.pieces, first, std::min(pieces.size(piece) * w, size - first));
    }
  });
  add_parts<float>(sums.get(), sums.get(), sums_size, parts);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < c; ++j) {
      const int64_t tile = i / kDotRows * columns + j / kDotColumns;
      const int64_t at = tile * tile_size + (i % kDotRows * kDotColumns + j % kDotColumns) * w;
      gw[i * c + j] = simd::reduce_add<float>(simd::load(sums + at));
    }
}

}  // namespace fastdl
