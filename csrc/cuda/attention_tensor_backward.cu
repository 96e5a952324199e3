// Attention's backward pass on tensor cores; see attention.h, and attention_exact.cu for the formulas.
//
// One launch for all gradients. A block owns rows of one side (queries for their gradient; keys for theirs
// and for that of values) and passes over tiles of the other: it computes scores X1 Y1^T and weights'
// gradients X2 Y2^T again (X1 = query, X2 = grad_y, Y1 = key, Y2 = value, or X and Y exchanged), and their
// accumulators are operands in place of the products that add up the results. Nobody else adds to these, so
// no atomics are needed and the bits are the same every time, at the price of seven products instead of five.
// Blocks of keys, whose passes are longer, come first; those of queries fill up what they leave.
// Tiles of the other side come two at a time: the next one is on its way while one is worked on. With heads
// beyond 128 numbers a pass makes one gradient only: more accumulators than one result's do not fit into
// registers.
// Masks and dropout are in kernels of their own (kMasking), as in forward.
#include "cuda/attention_tile.h"

namespace fastdl::cuda {
namespace {

enum : int { kQueryGradient = 1, kKeyGradient = 2, kValueGradient = 4 };

// 16-row tiles of a warp. More would share each load of the other side, but two results of 128 rows leave no
// registers. kQueryTiles: those of queries.
template <int kGradients, int kQueryTiles>
constexpr int kOwnTiles = kGradients == kQueryGradient ? kQueryTiles : 1;
template <int kGradients, int kQueryTiles>
constexpr int kOwnRows = 16 * kWarps * kOwnTiles<kGradients, kQueryTiles>;
template <class T, int kD>
constexpr int kMostQueryTiles = kD * sizeof(T) <= 128 ? 2 : 1;
template <class T, int kD>
constexpr int kStreamRows = kD * sizeof(T) <= 256 ? 32 : 16;

template <class T, int kD, int kQueryTiles>
constexpr int kBackwardBytes =
    int(sizeof(T)) * kD * 2 * (kOwnRows<kQueryGradient, kQueryTiles> + 2 * kStreamRows<T, kD>)+4 *
    kStreamRows<T, kD> * 4;

// Block `block` of those for these gradients, of which each head has `tiles`.
template <class T, int kD, int kGradients, int kQueryTiles, bool kMasking, int kTerms>
__device__ __forceinline__ void gradients(const AttentionBackward<T>& f, T* shared, unsigned block,
                                          int tiles) {
  constexpr bool kOwnKeys = kGradients != kQueryGradient;
  constexpr bool kFirst = (kGradients & (kQueryGradient | kKeyGradient)) != 0;  // dZ times Y1
  constexpr bool kSecond = (kGradients & kValueGradient) != 0;                  // P K times Y2
  constexpr int kM = kOwnTiles<kGradients, kQueryTiles>, kRows = kOwnRows<kGradients, kQueryTiles>,
                kStream = kStreamRows<T, kD>;
  constexpr int kColumns = kStream / 8;
  const Tile<T, kD> x1{shared}, x2{shared + kRows * kD};
  const auto y1 = [=](int stage) { return Tile<T, kD>{shared + (2 * kRows + stage * kStream) * kD}; };
  const auto y2 = [=](int stage) { return Tile<T, kD>{shared + (2 * kRows + (2 + stage) * kStream) * kD}; };
  float* const statistics = reinterpret_cast<float*>(shared + (2 * kRows + 4 * kStream) * kD);

  const int heads = kOwnKeys ? f.groups : f.scores.heads;
  const int tile = int(block % unsigned(tiles)), head = int(block / unsigned(tiles) % unsigned(heads));
  const int batch = int(block / unsigned(tiles) / unsigned(heads));
  // The longest first: causal queries see more the later they are, keys are seen by more the earlier they
  // are.
  const int block_row = (kOwnKeys ? tile : tiles - 1 - tile) * kRows;
  const int lane = lane_id(), own = block_row + int(threadIdx.x) / 32 * 16 * kM;
  const int own_count = kOwnKeys ? f.scores.keys : f.scores.queries;
  const int stream_count = kOwnKeys ? f.scores.queries : f.scores.keys;

  // Stream tiles: of the keys, or of the queries of each head of the group one after the other.
  const int begin = kOwnKeys && f.scores.causal ? block_row / kStream * kStream : 0;
  int end = stream_count;
  if (!kOwnKeys && f.scores.causal && block_row + kRows < end) end = block_row + kRows;
  const int per_head = begin < end ? (end - begin + kStream - 1) / kStream : 0;
  const int steps = per_head * (kOwnKeys ? f.ratio : 1);
  const auto head_at = [&](int step) {
    return kOwnKeys ? head * f.ratio + int(unsigned(step) / unsigned(per_head)) : head;
  };
  const auto row_at = [&](int step) {
    return begin + (kOwnKeys ? int(unsigned(step) % unsigned(per_head)) : step) * kStream;
  };

  const auto prefetch = [&](int step) {
    const int stage = step % 2, h = head_at(step), row = row_at(step), y_head = kOwnKeys ? h : h / f.ratio;
    y1(stage).template load<kStream>(RowsOf<T>(kOwnKeys ? f.query : f.key, batch, y_head, row, stream_count),
                                     f.size, f.async);
    y2(stage).template load<kStream>(
        RowsOf<T>(kOwnKeys ? f.grad_y : f.value, batch, y_head, row, stream_count), f.value_size, f.async);
    // (lse, rowsum(grad_y y)) of the tile's queries; there are statistics beyond the last query.
    if (kOwnKeys && int(threadIdx.x) < kStream / 2)
      cp_async_16(statistics + (stage * kStream + int(threadIdx.x) * 2) * 2,
                  f.statistics_of(batch, h) + (row + int(threadIdx.x) * 2) * 2);
  };

  const auto of_query = [=](int stage, int n, int c) {  // of a stream query
    return statistics + (stage * kStream + 8 * n + lane % 4 * 2 + c % 2) * 2;
  };
  float lse[kM][2], center[kM][2];  // of own queries
  if constexpr (!kOwnKeys) {
    FASTDL_UNROLL
    for (int m = 0; m < kM; ++m) FASTDL_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float* of_row = f.statistics_of(batch, head) + 2 * (own + 16 * m + 8 * half + lane / 4);
      lse[m][half] = of_row[0], center[m][half] = of_row[1];
    }
  }

  const auto load_own = [&](const Tile<T, kD>& to, const Heads& from, int size) {
    const RowsOf<T> rows(from, batch, head, block_row, own_count);
    to.template load<kRows>([&](int r) { return rows(r); }, size, f.async);
  };
  load_own(x1, kOwnKeys ? f.key : f.query, f.size);
  if constexpr (kFirst) load_own(x2, kOwnKeys ? f.value : f.grad_y, f.value_size);

  float first[kM][kD / 8][4] = {}, second[kM][kD / 8][4] = {};  // one of them unused where its flag says so
  // The first round only loads, so that loads are there once in the code.
  FASTDL_ROLLED
  for (int step = -1; step < steps; ++step) {
    if (step + 1 < steps) prefetch(step + 1);
    cp_async_commit();
    if (step < 0) continue;
    const int stage = step % 2, h = head_at(step), stream = row_at(step);
    cp_async_wait<1>();
    sync_threads();  // this tile is there
    const bool works = own < own_count &&
                       !(f.scores.causal && (kOwnKeys ? stream + kStream <= own : stream >= own + 16 * kM));
    if (works) {
      const int own_tile = own - block_row;
      float p[kM][kColumns][4] = {};
      multiply_rows<T, kD, kTerms>(p, x1, own_tile, y1(stage));
      FASTDL_UNROLL
      for (int m = 0; m < kM; ++m) FASTDL_UNROLL
      for (int n = 0; n < kColumns; ++n) FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) p[m][n][c] *= f.scores.factor;
      // Own rows beyond the last are not stored; queries there have no weights, as their lse is infinite.
      const bool crosses =
          f.scores.causal && (kOwnKeys ? stream < own + 16 * kM - 1 : stream + kStream > own + 1);
      if ((kMasking && f.scores.masked()) || crosses || stream + kStream > stream_count)
        mask_scores<kOwnKeys, kMasking>(p, f.scores, stream,
                                        [&](int r) { return OwnPlace{own + r, f.scores.mask_at(batch, h)}; });
      const bool drops = kMasking && f.scores.threshold != 0;
      uint32_t kept[kM] = {};
      FASTDL_UNROLL
      for (int m = 0; m < kM; ++m) {
        if (drops)
          kept[m] = kept_weights<kOwnKeys, T, kColumns>(f.scores, int64_t(batch) * f.scores.heads + h,
                                                        own + 16 * m, stream);
        FASTDL_UNROLL
        for (int n = 0; n < kColumns; ++n) FASTDL_UNROLL
        for (int c = 0; c < 4; ++c)
          p[m][n][c] = power_of_two(p[m][n][c] - (kOwnKeys ? of_query(stage, n, c)[0] : lse[m][c / 2]));
      }
      float dz[kM][kColumns][4] = {};
      if constexpr (kFirst) multiply_rows<T, kD, kTerms>(dz, x2, own_tile, y2(stage));
      FASTDL_UNROLL
      for (int m = 0; m < kM; ++m) FASTDL_UNROLL
      for (int n = 0; n < kColumns; ++n) FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) {
        const float factor = !drops ? 1.0f : kept[m] >> (4 * n + c) & 1 ? f.scores.kept : 0.0f;
        if constexpr (kFirst)
          dz[m][n][c] =
              p[m][n][c] * (factor * dz[m][n][c] - (kOwnKeys ? of_query(stage, n, c)[1] : center[m][c / 2]));
        if constexpr (kSecond) p[m][n][c] *= factor;
      }
      if constexpr (kSecond) add_rows<T, kD, kTerms>(second, p, y2(stage));
      if constexpr (kFirst) add_rows<T, kD, kTerms>(first, dz, y1(stage));
    }
    sync_threads();  // this tile has been read
  }

  cp_async_wait<0>();
  sync_threads();  // nothing is on its way to where results go
  if (own >= own_count) return;
  const auto store = [&](const Heads& to, const float (&result)[kM][kD / 8][4], int size, float factor) {
    store_rows<T, kD, kM>(
        x1, own - block_row, result, size, stores_packs<T>(to, size), [=](int, int) { return factor; },
        [&](int r) {
          return own + r < own_count ? head_of<T>(to, batch, head) + (own + r) * to.row : nullptr;
        });
  };
  if constexpr (kFirst) store(kOwnKeys ? f.grad_key : f.grad_query, first, f.size, f.scale);
  if constexpr (kSecond) store(f.grad_value, second, f.value_size, 1.0f);
}

struct Tiles {
  int queries, keys;  // of a head
  unsigned key_blocks;
};

template <class T, int kD, int kQueryTiles, bool kMasking, int kTerms>
__global__ void __launch_bounds__(kTensorThreads, 2)
    tensor_backward_kernel(const AttentionBackward<T> f, const Tiles tiles) {
  FASTDL_DYNAMIC_SHARED(T, shared);
  const auto go = [&](auto which, unsigned block, int of_head) {
    gradients<T, kD, which.value, kQueryTiles, kMasking, kTerms>(f, shared, block, of_head);
  };
  const unsigned block = blockIdx.x;
  if constexpr (kD <= 128) {
    if (block < tiles.key_blocks)
      return go(std::integral_constant<int, kKeyGradient | kValueGradient>{}, block, tiles.keys);
    go(std::integral_constant<int, kQueryGradient>{}, block - tiles.key_blocks, tiles.queries);
  } else {
    if (block < tiles.key_blocks) return go(std::integral_constant<int, kKeyGradient>{}, block, tiles.keys);
    if (block < 2 * tiles.key_blocks)
      return go(std::integral_constant<int, kValueGradient>{}, block - tiles.key_blocks, tiles.keys);
    go(std::integral_constant<int, kQueryGradient>{}, block - 2 * tiles.key_blocks, tiles.queries);
  }
}

template <class T, int kD, int kQueryTiles, int kTerms>
void run(const AttentionBackward<T>& f, Stream stream) {
  constexpr int kBytes = kBackwardBytes<T, kD, kQueryTiles>;
  static_assert(kBytes <= 99 << 10);  // what compute capability 8.6 has for a block
  const int queries = int(ceil_div(f.scores.queries, kOwnRows<kQueryGradient, kQueryTiles>)),
            keys = int(ceil_div(f.scores.keys, kOwnRows<kKeyGradient, kQueryTiles>));
  const Tiles tiles{queries, keys, unsigned(f.batch) * unsigned(f.groups) * unsigned(keys)};
  const int64_t blocks =
      int64_t(tiles.key_blocks) * (kD <= 128 ? 1 : 2) + int64_t(f.batch) * f.scores.heads * tiles.queries;
  const bool masking = f.scores.masked() || f.scores.threshold != 0;
  if (blocks > 0)
    launch("attention_backward",
           masking ? tensor_backward_kernel<T, kD, kQueryTiles, true, kTerms>
                   : tensor_backward_kernel<T, kD, kQueryTiles, false, kTerms>,
           dim3(unsigned(blocks)), dim3(kTensorThreads), kBytes, stream, f, tiles);
}

}  // namespace

template <class T>
void tensor_backward(const AttentionBackward<T>& f, const Attention& a, Stream stream) {
  by_size<T>(f.size > f.value_size ? f.size : f.value_size, [&](auto size) {
    constexpr int kD = size.value;
    if constexpr (kMostQueryTiles<T, kD> == 2) {
      const int64_t wide = int64_t(f.batch) * f.scores.heads * ceil_div(f.scores.queries, 128);
      if (!in_halves(f.scores.queries) && wide >= 2 * multiprocessors()) return run<T, kD, 2, 1>(f, stream);
    }
    if constexpr (sizeof(T) == 4) {
      if (!a.tf32) return run<T, kD, 1, 2>(f, stream);
    }
    run<T, kD, 1, 1>(f, stream);
  });
}

template void tensor_backward<float>(const AttentionBackward<float>&, const Attention&, Stream);
template void tensor_backward<__half>(const AttentionBackward<__half>&, const Attention&, Stream);
#ifndef FASTDL_FEW_DTYPES
template void tensor_backward<__nv_bfloat16>(const AttentionBackward<__nv_bfloat16>&, const Attention&,
                                             Stream);
#endif

}  // namespace fastdl::cuda
