// Attention's forward pass on tensor cores ("flash attention", Dao 2022 and 2023); see attention.h.
//
// Scores, weights and the result stay in registers: a score's accumulators are the second product's operand
// in place. Running maximum m and sum l of each row as in attention_exact.cu; the result is rescaled only
// when a maximum rose. A tile of keys and one of values make a stage; two are loaded before the first is used,
// and a stage again as soon as all warps have read it.
//
// Two ways to share the work of a block, `Plan`:
//   rows   four warps (two where `in_halves`) have 16 or 32 queries each and pass over all keys
//   keys   for few queries, or too few blocks to fill the device: warps have the same 16 queries and a part of
//          each tile's keys each, and in the end add up their results, weighted by 2^(maximum of the warp). A
//          warp's chain of products and exponentials is a quarter as long, and each multiprocessor has four
//          times as many warps to hide their latencies.
// Float32 has three products of TF32 for each of its own, or one where that precision is allowed (kTerms, see
// fragments.h). Masks and dropout are in kernels of their own (kMasking): they are several times as long, and the first block
// of a multiprocessor waits while its code comes from memory.
#include "cuda/attention_tile.h"

namespace fastdl::cuda {
namespace {

// Two stages of keys and values, and the queries: at most 99 KiB, what compute capability 8.6 has for a block.
template <class T, int kD, int kAlongRows, int kAlongKeys>
struct Plan {
  static constexpr int kLine = kD * int(sizeof(T));
  static constexpr int kThreads = 32 * kAlongRows * kAlongKeys;
  static constexpr int kM = kAlongKeys > 1 ? 1 : kRowTiles<T, kD>;
  static constexpr int kRows = 16 * kM * kAlongRows;
  static constexpr int kKeys = kAlongKeys > 1 ? (kLine <= 128   ? 128
                                                 : kLine == 256 ? 64
                                                                : 32)
                                              : (kD <= 64 ? 64 : 32);
  static constexpr int kOwnKeys = kKeys / kAlongKeys;  // a warp's
  static constexpr int kStages = 2;
  static constexpr int kBytes = kLine * (kRows + 2 * kStages * kKeys);
  static_assert(kBytes <= 99 << 10);
  // What warps have in common in the end: (kAlongKeys, 16, kSumStep) results, and two numbers for each row.
  static constexpr int kSumStep = kD + 4;  // four rows lie in different banks
  static_assert(kAlongKeys == 1 || kAlongKeys * 16 * (kSumStep + 2) * 4 <= kBytes);
};
// Warps that share the keys of a tile: 16 keys at least for each.
template <class T, int kD>
constexpr int kApart = kD * sizeof(T) <= 256 ? 4 : 2;

// A row's running maximum and this lane's part of the sum of its weights, of rows lane / 4 and lane / 4 + 8 of
// each 16. The maximum ignores NaN, the sum does not.
template <int kM>
struct RowSums {
  float top[kM][2], total[kM][2] = {};
  __device__ __forceinline__ RowSums() {
    FASTDL_UNROLL
    for (int m = 0; m < kM; ++m) top[m][0] = top[m][1] = -infinity<float>();
  }

  // Scores become weights; the result so far shrinks if a maximum rose.
  template <int N, int kColumns>
  __device__ __forceinline__ void weigh(float (&z)[kM][N][4], float (&y)[kM][kColumns][4]) {
    bool rose = false;
    float shrink[kM][2];
    FASTDL_UNROLL
    for (int m = 0; m < kM; ++m) FASTDL_UNROLL
    for (int half = 0; half < 2; ++half) {
      float most = top[m][half];
      FASTDL_UNROLL
      for (int n = 0; n < N; ++n) most = std::fmax(most, std::fmax(z[m][n][2 * half], z[m][n][2 * half + 1]));
      most = std::fmax(most, shuffle_xor(most, 1));
      most = std::fmax(most, shuffle_xor(most, 2));
      const float base = most == -infinity<float>() ? 0.0f : most;
      shrink[m][half] = power_of_two(top[m][half] - base);
      rose |= most != top[m][half];
      top[m][half] = most;
      float sum = 0;
      FASTDL_UNROLL
      for (int n = 0; n < N; ++n) FASTDL_UNROLL
      for (int c = 2 * half; c < 2 * half + 2; ++c) {
        z[m][n][c] = power_of_two(z[m][n][c] - base);
        sum += z[m][n][c];
      }
      total[m][half] = total[m][half] * shrink[m][half] + sum;
    }
    if (ballot(rose) == 0) return;
    FASTDL_UNROLL
    for (int m = 0; m < kM; ++m) FASTDL_UNROLL
    for (int n = 0; n < kColumns; ++n) FASTDL_UNROLL
    for (int c = 0; c < 4; ++c) y[m][n][c] *= shrink[m][c / 2];
  }
  __device__ __forceinline__ float sum(int m, int half) const {
    const float sum = total[m][half] + shuffle_xor(total[m][half], 1);
    return sum + shuffle_xor(sum, 2);
  }
};

// A row's result is `inverse` times its sum; its lse goes to where it belongs.
template <class T>
__device__ __forceinline__ float finish_row(const AttentionForward<T>& f, const auto& at, int row, float top,
                                            float sum, bool writes) {
  const bool empty = sum == 0;
  if (writes) {
    const float lse = empty ? infinity<float>() : top + std::log2(sum);
    const int64_t flat = f.flat_row(at, row);
    if (f.parts == 1)
      f.lse[flat] = lse;
    else
      f.partial.lse[at.part * f.partial.rows + flat] = empty ? -lse : lse;
  }
  return empty ? 0.0f : (f.scores.threshold != 0 ? f.scores.kept : 1.0f) / sum;
}
template <class T>
__device__ __forceinline__ T* result_row(const AttentionForward<T>& f, const auto& at, int row) {
  return head_of<T>(f.y, at.batch, at.head + f.rows.head(row)) + f.rows.query(row) * f.y.row;
}
template <class T>
__device__ __forceinline__ float* partial_row(const AttentionForward<T>& f, const auto& at, int row) {
  return f.partial.o + (at.part * f.partial.rows + f.flat_row(at, row)) * f.value_size;
}

// Warps with rows of their own: from `own` on in this tile.
template <class T, int kD, int kM>
__device__ __forceinline__ void finish_rows(const AttentionForward<T>& f, const auto& at, int own,
                                            const Tile<T, kD>& tile, const RowSums<kM>& rows,
                                            const float (&y)[kM][kD / 8][4]) {
  const int lane = lane_id(), count = f.rows.count();
  float inverse[kM][2];
  FASTDL_UNROLL
  for (int m = 0; m < kM; ++m) FASTDL_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = at.row + own + 16 * m + 8 * half + lane / 4;
    inverse[m][half] =
        finish_row(f, at, row, rows.top[m][half], rows.sum(m, half), row < count && lane % 4 == 0);
  }
  if (f.parts == 1)
    return store_rows<T, kD, kM>(
        tile, own, y, f.value_size, stores_packs<T>(f.y, f.value_size),
        [&](int m, int half) { return inverse[m][half]; },
        [&](int r) { return at.row + own + r < count ? result_row(f, at, at.row + own + r) : nullptr; });
  FASTDL_UNROLL
  for (int m = 0; m < kM; ++m) FASTDL_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = at.row + own + 16 * m + 8 * half + lane / 4;
    if (row >= count) continue;
    float* const out = partial_row(f, at, row);
    FASTDL_UNROLL
    for (int n = 0; n < kD / 8; ++n) FASTDL_UNROLL
    for (int c = 0; c < 2; ++c) {
      const int column = 8 * n + lane % 4 * 2 + c;
      if (column < f.value_size) out[column] = y[m][n][2 * half + c] * inverse[m][half];
    }
  }
}

// Warps that have parts of the keys: each leaves its result, then threads take 16 bytes of a row.
template <class T, int kD, class P>
__device__ __forceinline__ void finish_keys(const AttentionForward<T>& f, const auto& at, float* shared,
                                            const RowSums<1>& rows, const float (&y)[1][kD / 8][4]) {
  constexpr int kParts = P::kThreads / 32, kPer = Tile<T, kD>::kPer;
  const int lane = lane_id(), warp = int(threadIdx.x) / 32;
  float* const of_rows = shared + kParts * 16 * P::kSumStep;  // (kParts, 16, 2): maximum and sum
  FASTDL_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + 8 * half + lane / 4;
    const float sum = rows.sum(0, half);
    if (lane % 4 == 0) of_rows[2 * row] = rows.top[0][half], of_rows[2 * row + 1] = sum;
    FASTDL_UNROLL
    for (int n = 0; n < kD / 8; ++n)
      *reinterpret_cast<Pack<float, 2>*>(shared + row * P::kSumStep + 8 * n + lane % 4 * 2) =
          Pack<float, 2>{{y[0][n][2 * half], y[0][n][2 * half + 1]}};
  }
  sync_threads();
  const bool packs = stores_packs<T>(f.y, f.value_size);
  FASTDL_ROLLED
  for (int n = int(threadIdx.x); n < 16 * kD / kPer; n += P::kThreads) {
    const int r = n / (kD / kPer), column = n % (kD / kPer) * kPer;
    if (at.row + r >= f.rows.count() || (column >= f.value_size && column > 0)) continue;
    float top = -infinity<float>(), sum = 0, values[kPer] = {};
    FASTDL_UNROLL
    for (int w = 0; w < kParts; ++w) top = std::fmax(top, of_rows[2 * (w * 16 + r)]);
    const float base = top == -infinity<float>() ? 0.0f : top;
    FASTDL_UNROLL
    for (int w = 0; w < kParts; ++w) {
      const float weight = power_of_two(of_rows[2 * (w * 16 + r)] - base);
      sum += weight * of_rows[2 * (w * 16 + r) + 1];
      const float* const from = shared + (w * 16 + r) * P::kSumStep + column;
      FASTDL_UNROLL
      for (int e = 0; e < kPer; ++e) values[e] += weight * from[e];
    }
    const float inverse = finish_row(f, at, at.row + r, top, sum, column == 0);
    FASTDL_UNROLL
    for (int e = 0; e < kPer; ++e) values[e] *= inverse;
    if (f.parts > 1) {
      float* const out = partial_row(f, at, at.row + r) + column;
      FASTDL_UNROLL
      for (int e = 0; e < kPer; ++e)
        if (column + e < f.value_size) out[e] = values[e];
      continue;
    }
    T* const out = result_row(f, at, at.row + r) + column;
    Pack<T, kPer> narrowed;
    FASTDL_UNROLL
    for (int e = 0; e < kPer; ++e) narrowed.v[e] = narrow<T>(values[e]);
    if (packs && column + kPer <= f.value_size) {
      *reinterpret_cast<Pack<T, kPer>*>(out) = narrowed;
    } else {
      FASTDL_UNROLL
      for (int e = 0; e < kPer; ++e)
        if (column + e < f.value_size) out[e] = narrowed.v[e];
    }
  }
}

template <class T, int kD, int kAlongRows, int kAlongKeys, bool kMasking, int kTerms>
__global__ void __launch_bounds__(Plan<T, kD, kAlongRows, kAlongKeys>::kThreads)
    tensor_forward_kernel(const AttentionForward<T> f) {
  using P = Plan<T, kD, kAlongRows, kAlongKeys>;
  constexpr int kM = P::kM, kKeys = P::kKeys, kRows = P::kRows, kColumns = P::kOwnKeys / 8;
  FASTDL_DYNAMIC_SHARED(T, shared);
  const Tile<T, kD> queries{shared};
  const auto keys = [=](int stage) { return Tile<T, kD>{shared + (kRows + 2 * stage * kKeys) * kD}; };
  const auto values = [=](int stage) { return Tile<T, kD>{shared + (kRows + (2 * stage + 1) * kKeys) * kD}; };
  const auto at = f.place(blockIdx.x, kRows);
  const int warp = int(threadIdx.x) / 32, count = f.rows.count();
  const int own = kAlongKeys > 1 ? 0 : warp * 16 * kM;          // this warp's first row of the tile
  const int own_key = kAlongKeys > 1 ? warp * P::kOwnKeys : 0;  // and its first key of each
  const bool active = at.row + own < count;
  const int first_query = f.rows.pack == 1 ? at.row + own : 0;
  const int begin = f.parts == 1 ? 0 : at.part * f.per_part, end = f.last_key(at, kRows);
  const auto load = [&](int j) {
    if (j < end) {
      const int stage = (j - begin) / kKeys % P::kStages, group = at.head / f.ratio;
      keys(stage).template load<kKeys, P::kThreads>(RowsOf<T>(f.key, at.batch, group, j, f.scores.keys),
                                                    f.size, f.async);
      values(stage).template load<kKeys, P::kThreads>(RowsOf<T>(f.value, at.batch, group, j, f.scores.keys),
                                                      f.value_size, f.async);
    }
    cp_async_commit();
  };

  float y[kM][kD / 8][4] = {};
  RowSums<kM> rows;
  queries.template load<kRows, P::kThreads>(
      [&](int r) { return at.row + r < count ? f.query_row(at, at.row + r) : nullptr; }, f.size, f.async);
  cp_async_commit();  // a part that causality hides has no rounds, but its results go where these arrive
  // The first rounds only load, so that loads are there once in the code.
  FASTDL_ROLLED
  for (int j = begin - P::kStages * kKeys; j < end; j += kKeys) {
    const int stage = (j - begin) / kKeys % P::kStages, first_key = j + own_key;
    const bool there = j >= begin;
    if (there) {
      cp_async_wait<P::kStages - 1>();
      sync_threads();  // this stage is there
    }
    // Causal: keys after this warp's last query change nothing.
    if (there && active && first_key < end &&
        !(f.scores.causal && f.rows.pack == 1 && first_key >= first_query + 16 * kM)) {
      const Tile<T, kD> own_keys{keys(stage).data + own_key * kD},
          own_values{values(stage).data + own_key * kD};
      float z[kM][kColumns][4] = {};
      multiply_rows<T, kD, kTerms>(z, queries, own, own_keys);
      FASTDL_UNROLL
      for (int m = 0; m < kM; ++m) FASTDL_UNROLL
      for (int n = 0; n < kColumns; ++n) FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) z[m][n][c] *= f.scores.factor;
      if ((kMasking && f.scores.masked()) || first_key + P::kOwnKeys > f.scores.keys ||
          (f.scores.causal && first_key + P::kOwnKeys > first_query + 1))
        mask_scores<false, kMasking>(z, f.scores, first_key, [&](int r) {
          const int row = at.row + own + r < count ? at.row + own + r : 0;  // what is beyond is not stored
          return OwnPlace{f.rows.query(row), f.scores.mask_at(at.batch, at.head + f.rows.head(row))};
        });
      rows.weigh(z, y);
      if constexpr (kMasking) {
        if (f.scores.threshold != 0) {
          FASTDL_UNROLL
          for (int m = 0; m < kM; ++m) {
            const uint32_t kept = kept_weights<false, T, kColumns>(
                f.scores, int64_t(at.batch) * f.scores.heads + at.head, first_query + 16 * m, first_key);
            FASTDL_UNROLL
            for (int n = 0; n < kColumns; ++n) FASTDL_UNROLL
            for (int c = 0; c < 4; ++c) z[m][n][c] = kept >> (4 * n + c) & 1 ? z[m][n][c] : 0.0f;
          }
        }
      }
      add_rows<T, kD, kTerms>(y, z, own_values);
    }
    if (there) sync_threads();  // this stage has been read
    load(j + P::kStages * kKeys);
  }

  cp_async_wait<0>();
  sync_threads();  // nothing is on its way to where the result goes
  if constexpr (kAlongKeys > 1) {
    finish_keys<T, kD, P>(f, at, reinterpret_cast<float*>(shared), rows, y);
  } else {
    if (active) finish_rows<T, kD, kM>(f, at, own, queries, rows, y);
  }
}

}  // namespace

bool tensor_possible(Dtype dtype, const Attention& a) {
  const int64_t size = a.size > a.value_size ? a.size : a.value_size;
  return dtype != Dtype::float64 && size <= (dtype == Dtype::float32 ? 128 : 256);
}

int tensor_rows(Dtype dtype, const Attention& a) {
  const int64_t size = a.size > a.value_size ? a.size : a.value_size;
  const bool single = dtype == Dtype::float32;
  const int pack = heads_of_block(dtype, a);
  const int64_t count = a.queries * pack, heads = a.batch * a.heads / pack;
  // Two warps of TF32 have too few registers for their copies.
  int rows = size <= 64 && !single && in_halves(count) ? 64 : 128;
  if (size * (single ? 4 : 2) > 256) rows = 64;
  // All keys come once for each block of 16 queries, too: only while the others leave multiprocessors idle.
  const bool few =
      count <= 32 ? a.keys > 64 : heads * ceil_div(count, rows) * most_parts(a) < multiprocessors();
  return few ? 16 : rows;
}

template <class T>
void tensor_forward(const AttentionForward<T>& f, const Attention& a, Dtype dtype, Stream stream) {
  by_size<T>(f.size > f.value_size ? f.size : f.value_size, [&](auto size) {
    constexpr int kD = size.value;
    const int64_t blocks = a.batch * a.heads / f.rows.pack * f.tiles * f.parts;
    const int rows = tensor_rows(dtype, a);
    const bool masking = f.scores.masked() || f.scores.threshold != 0;
    const auto go = [&]<int kAlongRows, int kAlongKeys, int kTerms>() {
      using P = Plan<T, kD, kAlongRows, kAlongKeys>;
      launch("attention",
             masking ? tensor_forward_kernel<T, kD, kAlongRows, kAlongKeys, true, kTerms>
                     : tensor_forward_kernel<T, kD, kAlongRows, kAlongKeys, false, kTerms>,
             dim3(unsigned(blocks)), dim3(P::kThreads), P::kBytes, stream, f);
    };
    const auto of_terms = [&]<int kTerms>() {
      if (rows == 16) return go.template operator()<1, kApart<T, kD>, kTerms>();
      if constexpr (kD <= 64 && sizeof(T) == 2) {
        if (rows == 64) return go.template operator()<2, 1, kTerms>();
      }
      go.template operator()<kWarps, 1, kTerms>();
    };
    if constexpr (sizeof(T) == 4) {
      if (!a.tf32) return of_terms.template operator()<2>();
    }
    of_terms.template operator()<1>();
  });
}

template void tensor_forward<float>(const AttentionForward<float>&, const Attention&, Dtype, Stream);
template void tensor_forward<__half>(const AttentionForward<__half>&, const Attention&, Dtype, Stream);
#ifndef FASTDL_FEW_DTYPES
template void tensor_forward<__nv_bfloat16>(const AttentionForward<__nv_bfloat16>&, const Attention&, Dtype,
                                            Stream);
#endif

}  // namespace fastdl::cuda
