// Attention's backward pass on tensor cores; see attention.h, and attention_exact.cu for the formulas.
//
// One kernel for all gradients. A block owns rows of one side (queries for their gradient; keys for theirs
// and for that of values) and passes over tiles of the other: it computes scores X1 Y1^T and weights'
// gradients X2 Y2^T again (X1 = query, X2 = grad_y, Y1 = key, Y2 = value, or X and Y exchanged), and their
// accumulators are operands in place of the products that add up the results. Nobody else adds to these, so
// no atomics are needed and the bits are the same every time, at the price of seven products instead of five.
// Tiles of the other side come two at a time: the next one is on its way while one is worked on. With heads
// beyond 128 numbers a pass makes one gradient only: more accumulators than one result's do not fit into
// registers.
#include "cuda/attention_tile.h"

namespace fastdl::cuda {
namespace {

enum : int { kQueryGradient = 1, kKeyGradient = 2, kValueGradient = 4 };

// 16-row tiles of a warp. More would share each load of the other side, but two results of 128 rows leave no
// registers.
template <class T, int kD, int kGradients>
constexpr int kOwnTiles = kD * sizeof(T) <= 128 && kGradients == kQueryGradient ? 2 : 1;
template <class T, int kD, int kGradients, int kWarps>
constexpr int kOwnRows = 16 * kWarps * kOwnTiles<T, kD, kGradients>;
template <class T, int kD>
constexpr int kStreamRows = kD * sizeof(T) <= 256 ? 32 : 16;

template <class T, int kD, int kGradients, int kWarps>
constexpr int kBackwardBytes =
    int(sizeof(T)) * kD * 2 * (kOwnRows<T, kD, kGradients, kWarps> + 2 * kStreamRows<T, kD>)+4 *
    kStreamRows<T, kD> * 4;

template <class T, int kD, int kGradients, int kWarps>
__global__ void __launch_bounds__(32 * kWarps, 8 / kWarps)
    tensor_backward_kernel(const AttentionBackward<T> f, int tiles) {
  constexpr bool kOwnKeys = kGradients != kQueryGradient;
  constexpr bool kFirst = (kGradients & (kQueryGradient | kKeyGradient)) != 0;  // dZ times Y1
  constexpr bool kSecond = (kGradients & kValueGradient) != 0;                  // P K times Y2
  constexpr int kM = kOwnTiles<T, kD, kGradients>, kRows = kOwnRows<T, kD, kGradients, kWarps>,
                kStream = kStreamRows<T, kD>, kThreads = 32 * kWarps;
  constexpr int kColumns = kStream / 8;
  FASTDL_DYNAMIC_SHARED(T, shared);
  const Tile<T, kD> x1{shared}, x2{shared + kRows * kD};
  const auto y1 = [=](int stage) { return Tile<T, kD>{shared + (2 * kRows + stage * kStream) * kD}; };
  const auto y2 = [=](int stage) { return Tile<T, kD>{shared + (2 * kRows + (2 + stage) * kStream) * kD}; };
  float* const statistics = reinterpret_cast<float*>(shared + (2 * kRows + 4 * kStream) * kD);

  const int heads = kOwnKeys ? f.groups : f.scores.heads;
  const int tile = int(blockIdx.x % unsigned(tiles));
  const int head = int(blockIdx.x / unsigned(tiles) % unsigned(heads));
  const int batch = int(blockIdx.x / unsigned(tiles) / unsigned(heads));
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
  const auto head_at = [&](int step) { return kOwnKeys ? head * f.ratio + step / per_head : head; };
  const auto row_at = [&](int step) { return begin + (kOwnKeys ? step % per_head : step) * kStream; };

  const auto prefetch = [&](int step) {
    const int stage = step % 2, h = head_at(step), row = row_at(step), y_head = kOwnKeys ? h : h / f.ratio;
    y1(stage).template load<kStream, kThreads>(
        RowsOf<T>(kOwnKeys ? f.query : f.key, batch, y_head, row, stream_count), f.size, f.async);
    y2(stage).template load<kStream, kThreads>(
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

  x1.template load<kRows, kThreads>(RowsOf<T>(kOwnKeys ? f.key : f.query, batch, head, block_row, own_count),
                                    f.size, f.async);
  if constexpr (kFirst)
    x2.template load<kRows, kThreads>(
        RowsOf<T>(kOwnKeys ? f.value : f.grad_y, batch, head, block_row, own_count), f.value_size, f.async);
  if (steps > 0) prefetch(0);
  cp_async_commit();

  float first[kM][kD / 8][4] = {}, second[kM][kD / 8][4] = {};  // one of them unused where its flag says so
  for (int step = 0; step < steps; ++step) {
    const int stage = step % 2, h = head_at(step), stream = row_at(step);
    if (step + 1 < steps) prefetch(step + 1);
    cp_async_commit();
    cp_async_wait<1>();
    sync_threads();  // this tile is there
    const bool works = own < own_count &&
                       !(f.scores.causal && (kOwnKeys ? stream + kStream <= own : stream >= own + 16 * kM));
    if (works) {
      const int own_tile = own - block_row;
      float p[kM][kColumns][4] = {};
      multiply_rows<T, kD, kM, kColumns>(p, x1, own_tile, y1(stage));
      FASTDL_UNROLL
      for (int m = 0; m < kM; ++m) FASTDL_UNROLL
      for (int n = 0; n < kColumns; ++n) FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) p[m][n][c] *= f.scores.factor;
      // Own rows beyond the last are not stored; queries there have no weights, as their lse is infinite.
      const bool crosses =
          f.scores.causal && (kOwnKeys ? stream < own + 16 * kM - 1 : stream + kStream > own + 1);
      if (f.scores.masked() || crosses || stream + kStream > stream_count)
        mask_scores<kOwnKeys>(p, f.scores, stream,
                              [&](int r) { return OwnPlace{own + r, f.scores.mask_at(batch, h)}; });
      const bool drops = f.scores.threshold != 0;
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
      if constexpr (kFirst) multiply_rows<T, kD, kM, kColumns>(dz, x2, own_tile, y2(stage));
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
      if constexpr (kSecond) add_rows<T, kD, kM, kColumns>(second, p, y2(stage));
      if constexpr (kFirst) add_rows<T, kD, kM, kColumns>(first, dz, y1(stage));
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

template <class T, int kD, int kGradients, int kWarps = cuda::kWarps>
void run(const AttentionBackward<T>& f, Stream stream) {
  constexpr bool kOwnKeys = kGradients != kQueryGradient;
  const int tiles =
      ceil_div(kOwnKeys ? f.scores.keys : f.scores.queries, kOwnRows<T, kD, kGradients, kWarps>);
  const int64_t blocks = int64_t(f.batch) * (kOwnKeys ? f.groups : f.scores.heads) * tiles;
  if (blocks > 0)
    launch("attention_backward", tensor_backward_kernel<T, kD, kGradients, kWarps>, dim3(unsigned(blocks)),
           dim3(32 * kWarps), kBackwardBytes<T, kD, kGradients, kWarps>, stream, f, tiles);
}

}  // namespace

template <class T>
void tensor_backward(const AttentionBackward<T>& f, Stream stream) {
  by_size<T>(f.size > f.value_size ? f.size : f.value_size, [&](auto size) {
    constexpr int kD = size.value;
    if constexpr (kOwnTiles<T, kD, kQueryGradient> == 2)
      in_halves(f.scores.queries) ? run<T, kD, kQueryGradient, 2>(f, stream)
                                  : run<T, kD, kQueryGradient>(f, stream);
    else
      run<T, kD, kQueryGradient>(f, stream);
    if constexpr (kD <= 128) {
      run<T, kD, kKeyGradient | kValueGradient>(f, stream);
    } else {
      run<T, kD, kKeyGradient>(f, stream);
      run<T, kD, kValueGradient>(f, stream);
    }
  });
}

template void tensor_backward<float>(const AttentionBackward<float>&, Stream);
template void tensor_backward<__half>(const AttentionBackward<__half>&, Stream);
#ifndef FASTDL_FEW_DTYPES
template void tensor_backward<__nv_bfloat16>(const AttentionBackward<__nv_bfloat16>&, Stream);
#endif

}  // namespace fastdl::cuda
