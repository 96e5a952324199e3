// Attention's forward pass on tensor cores ("flash attention", Dao 2022 and 2023); see attention.h.
//
// A block of four warps (of two for few queries, `in_halves`) has 64 or 128 queries, a warp 16 or 32 of them,
// and passes over the keys in tiles.
// Scores, weights and the result stay in registers: a score's accumulators are the second product's operand
// in place. Running maximum m and sum l of each row as in attention_exact.cu; the result is rescaled only
// when a maximum rose. Keys and values are on their way into shared memory while the other one's product
// runs: the next keys come during the product with values, values during the product with keys.
#include "cuda/attention_tile.h"

namespace fastdl::cuda {
namespace {

template <class T, int kD>
constexpr int kKeyTile = kD <= 64 ? 64 : 32;
template <class T, int kD, int kWarps>
constexpr int kQueryTile = 16 * kWarps * kRowTiles<T, kD>;
template <class T, int kD, int kWarps>
constexpr int kForwardBytes = int(sizeof(T)) * kD * (kQueryTile<T, kD, kWarps> + 2 * kKeyTile<T, kD>);

// The maximum ignores NaN, the sum does not.
template <class T, int kD, int kWarps>
__global__ void __launch_bounds__(32 * kWarps) tensor_forward_kernel(const AttentionForward<T> f) {
  constexpr int kM = kRowTiles<T, kD>, kKeys = kKeyTile<T, kD>, kRows = kQueryTile<T, kD, kWarps>;
  constexpr int kColumns = kKeys / 8;
  FASTDL_DYNAMIC_SHARED(T, shared);
  const Tile<T, kD> queries{shared}, keys{shared + kRows * kD}, values{shared + (kRows + kKeys) * kD};
  const auto at = f.place(blockIdx.x, kRows);
  const int lane = lane_id(), warp = int(threadIdx.x) / 32, count = f.rows.count();
  const int own = warp * 16 * kM;  // this warp's first row of the tile
  const bool active = at.row + own < count;
  const auto load = [&](const Tile<T, kD>& tile, const Heads& x, int row, int size) {
    tile.template load<kKeys, 32 * kWarps>(RowsOf<T>(x, at.batch, at.head / f.ratio, row, f.scores.keys),
                                           size, f.async);
  };
  const int first_query = f.rows.pack == 1 ? at.row + own : 0;

  float y[kM][kD / 8][4] = {};
  float top[kM][2], total[kM][2] = {};
  FASTDL_UNROLL
  for (int m = 0; m < kM; ++m) top[m][0] = top[m][1] = -infinity<float>();

  const int begin = f.parts == 1 ? 0 : at.part * f.per_part, end = f.last_key(at, kRows);
  queries.template load<kRows, 32 * kWarps>(
      [&](int r) { return at.row + r < count ? f.query_row(at, at.row + r) : nullptr; }, f.size, f.async);
  if (begin < end) load(keys, f.key, begin, f.size);
  cp_async_commit();
  for (int j = begin; j < end; j += kKeys) {
    cp_async_wait<0>();
    sync_threads();  // keys are there, the values before have been read
    load(values, f.value, j, f.value_size);
    cp_async_commit();
    // Causal: keys after this warp's last query change nothing.
    const bool works = active && !(f.scores.causal && f.rows.pack == 1 && j >= first_query + 16 * kM);
    float z[kM][kColumns][4] = {};
    if (works) {
      multiply_rows<T, kD, kM, kColumns>(z, queries, own, keys);
      FASTDL_UNROLL
      for (int m = 0; m < kM; ++m) FASTDL_UNROLL
      for (int n = 0; n < kColumns; ++n) FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) z[m][n][c] *= f.scores.factor;
      if (f.scores.masked() || j + kKeys > f.scores.keys || (f.scores.causal && j + kKeys > first_query + 1))
        mask_scores<false>(z, f.scores, j, [&](int r) {
          const int row = at.row + own + r, there = row < count ? row : 0;
          return OwnPlace{f.rows.query(there), f.scores.mask_at(at.batch, at.head + f.rows.head(there))};
        });
      bool rose = false;
      float shrink[kM][2];
      FASTDL_UNROLL
      for (int m = 0; m < kM; ++m) FASTDL_UNROLL
      for (int half = 0; half < 2; ++half) {
        float most = top[m][half];
        FASTDL_UNROLL
        for (int n = 0; n < kColumns; ++n)
          most = std::fmax(most, std::fmax(z[m][n][2 * half], z[m][n][2 * half + 1]));
        most = std::fmax(most, shuffle_xor(most, 1));
        most = std::fmax(most, shuffle_xor(most, 2));
        const float base = most == -infinity<float>() ? 0.0f : most;
        shrink[m][half] = power_of_two(top[m][half] - base);
        rose |= most != top[m][half];
        top[m][half] = most;
        float sum = 0;
        FASTDL_UNROLL
        for (int n = 0; n < kColumns; ++n) FASTDL_UNROLL
        for (int c = 2 * half; c < 2 * half + 2; ++c) {
          z[m][n][c] = power_of_two(z[m][n][c] - base);
          sum += z[m][n][c];
        }
        total[m][half] = total[m][half] * shrink[m][half] + sum;  // of this lane's columns
      }
      if (ballot(rose) != 0) {
        FASTDL_UNROLL
        for (int m = 0; m < kM; ++m) FASTDL_UNROLL
        for (int n = 0; n < kD / 8; ++n) FASTDL_UNROLL
        for (int c = 0; c < 4; ++c) y[m][n][c] *= shrink[m][c / 2];
      }
      if (f.scores.threshold != 0) {
        FASTDL_UNROLL
        for (int m = 0; m < kM; ++m) {
          const uint32_t kept = kept_weights<false, T, kColumns>(
              f.scores, int64_t(at.batch) * f.scores.heads + at.head, first_query + 16 * m, j);
          FASTDL_UNROLL
          for (int n = 0; n < kColumns; ++n) FASTDL_UNROLL
          for (int c = 0; c < 4; ++c) z[m][n][c] = kept >> (4 * n + c) & 1 ? z[m][n][c] : 0.0f;
        }
      }
    }
    cp_async_wait<0>();
    sync_threads();  // values are there, keys have been read
    if (j + kKeys < end) load(keys, f.key, j + kKeys, f.size);
    cp_async_commit();
    if (works) add_rows<T, kD, kM, kColumns>(y, z, values);
  }

  cp_async_wait<0>();
  sync_threads();  // nothing is on its way to where the result goes
  if (!active) return;
  float inverse[kM][2];
  FASTDL_UNROLL
  for (int m = 0; m < kM; ++m) FASTDL_UNROLL
  for (int half = 0; half < 2; ++half) {
    float sum = total[m][half];
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    const bool empty = sum == 0;
    inverse[m][half] = empty ? 0.0f : (f.scores.threshold != 0 ? f.scores.kept : 1.0f) / sum;
    const float lse = empty ? infinity<float>() : top[m][half] + std::log2(sum);
    const int row = at.row + own + 16 * m + 8 * half + lane / 4;
    if (row >= count) continue;
    const int64_t flat = f.flat_row(at, row), place = at.part * f.partial.rows + flat;
    if (lane % 4 == 0) {
      if (f.parts == 1)
        f.lse[flat] = lse;
      else
        f.partial.lse[place] = empty ? -lse : lse;
    }
    if (f.parts == 1) continue;
    float* const out = f.partial.o + place * f.value_size;
    FASTDL_UNROLL
    for (int n = 0; n < kD / 8; ++n) FASTDL_UNROLL
    for (int c = 0; c < 2; ++c) {
      const int column = 8 * n + lane % 4 * 2 + c;
      if (column < f.value_size) out[column] = y[m][n][2 * half + c] * inverse[m][half];
    }
  }
  if (f.parts == 1)
    store_rows<T, kD, kM>(
        queries, own, y, f.value_size, stores_packs<T>(f.y, f.value_size),
        [&](int m, int half) { return inverse[m][half]; },
        [&](int r) -> T* {
          const int row = at.row + own + r;
          if (row >= count) return nullptr;
          return head_of<T>(f.y, at.batch, at.head + f.rows.head(row)) + f.rows.query(row) * f.y.row;
        });
}

}  // namespace

int tensor_rows(Dtype dtype, const Attention& a) {
  const int64_t size = a.size > a.value_size ? a.size : a.value_size;
  const bool single = dtype == Dtype::float32;
  if (dtype == Dtype::float64 || (single && !a.tf32) || size > (single ? 128 : 256)) return 0;
  if (size * (single ? 4 : 2) > 256) return 64;
  const int64_t group = a.heads / a.groups * a.queries;  // may share a block
  // Two warps of TF32 have too few registers for their copies.
  return size <= 64 && !single && in_halves(a.p == 0 && group <= 128 ? group : a.queries) ? 64 : 128;
}

template <class T>
void tensor_forward(const AttentionForward<T>& f, const Attention& a, Dtype dtype, Stream stream) {
  by_size<T>(f.size > f.value_size ? f.size : f.value_size, [&](auto size) {
    constexpr int kD = size.value;
    const int64_t blocks = a.batch * a.heads / f.rows.pack * f.tiles * f.parts;
    const auto go = [&](auto warps) {
      constexpr int kW = warps.value;
      launch("attention", tensor_forward_kernel<T, kD, kW>, dim3(unsigned(blocks)), dim3(32 * kW),
             kForwardBytes<T, kD, kW>, stream, f);
    };
    if constexpr (kD <= 64 && sizeof(T) == 2) {
      if (tensor_rows(dtype, a) == 64) return go(std::integral_constant<int, 2>{});
    }
    go(std::integral_constant<int, kWarps>{});
  });
}

template void tensor_forward<float>(const AttentionForward<float>&, const Attention&, Dtype, Stream);
template void tensor_forward<__half>(const AttentionForward<__half>&, const Attention&, Dtype, Stream);
#ifndef FASTDL_FEW_DTYPES
template void tensor_forward<__nv_bfloat16>(const AttentionForward<__nv_bfloat16>&, const Attention&, Dtype,
                                            Stream);
#endif

}  // namespace fastdl::cuda
