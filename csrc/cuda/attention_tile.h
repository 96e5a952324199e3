// Tiles of attention's operands in shared memory, and products of them on the tensor cores.
//
// Chunk c of 16 bytes of row r lies at place c ^ (r % 8), so that eight rows' equal chunks, which ldmatrix
// reads together, are in different banks (of rows of 64 bytes, two of which pass through all banks, at place
// c ^ (r / 2 % 4)).
#pragma once

#include "cuda/attention_scores.h"
#include "cuda/fragments.h"

namespace fastdl::cuda {

constexpr int kWarps = 4, kTensorThreads = 32 * kWarps;

// Rows of a head from one of them on: where row r is, null beyond the last.
template <class T>
struct RowsOf {
  const T* first;
  int64_t step;
  int count;
  __device__ __forceinline__ RowsOf(const Heads& x, int batch, int head, int row, int rows)
      : first(head_of<const T>(x, batch, head) + row * x.row), step(x.row), count(rows - row) {}
  __device__ __forceinline__ const T* operator()(int r) const {
    return r < count ? first + r * step : nullptr;
  }
};

// Rows of kD elements.
template <class T, int kD>
struct Tile {
  static constexpr int kChunks = int(kD * sizeof(T) / 16), kPer = int(16 / sizeof(T));
  T* data;

  __device__ __forceinline__ T* chunk(int row, int c) const {
    return data + (row * kChunks + (c ^ (kChunks >= 8 ? row & 7 : row >> 1 & 3))) * kPer;
  }
  __device__ __forceinline__ T at(int row, int column) const {
    return chunk(row, column / kPer)[column % kPer];
  }

  // Rows 0 .. kRows of row(r), null for none, `size` elements each; the rest is 0. Whole packs go
  // asynchronously. For rows whose address is costly; the loop is not unrolled.
  template <int kRows, int kTensorThreads = cuda::kTensorThreads, class Row>
  __device__ __forceinline__ void load(Row row, int size, bool async) const {
    if (async) {
      FASTDL_ROLLED
      for (int n = int(threadIdx.x); n < kRows * kChunks; n += kTensorThreads) {
        const int r = n / kChunks, c = n % kChunks;
        const T* from = row(r);
        const bool present = from != nullptr && c * kPer < size;
        cp_async_16_or_zeros(chunk(r, c), present ? from + c * kPer : nullptr, present);
      }
    } else {
      load_elements<kRows, kTensorThreads>(row, size);
    }
  }
  // The same of rows one after the other. A thread has the same chunk of all its rows.
  template <int kRows, int kTensorThreads = cuda::kTensorThreads>
  __device__ __forceinline__ void load(const RowsOf<T>& rows, int size, bool async) const {
    constexpr int kStep = kTensorThreads / kChunks;
    static_assert(kTensorThreads % kChunks == 0 && kRows % kStep == 0);
    if (async) {
      const int first = int(threadIdx.x) / kChunks, c = int(threadIdx.x) % kChunks;
      const bool inside = c * kPer < size;
      const T* from = rows.first + first * rows.step + c * kPer;
      const int64_t step = kStep * rows.step;
      FASTDL_UNROLL
      for (int r = 0; r < kRows; r += kStep) {
        const bool present = inside && first + r < rows.count;
        cp_async_16_or_zeros(chunk(first + r, c), from, present);
        from += step;
      }
    } else {
      load_elements<kRows, kTensorThreads>(rows, size);
    }
  }
  template <int kRows, int kTensorThreads, class Row>
  __device__ __forceinline__ void load_elements(const Row& row, int size) const {
    FASTDL_ROLLED
    for (int n = int(threadIdx.x); n < kRows * kChunks * kPer; n += kTensorThreads) {
      const int r = n / (kChunks * kPer), e = n % (kChunks * kPer);
      const T* from = row(r);
      chunk(r, e / kPer)[e % kPer] = from != nullptr && e < size ? from[e] : T(0.0f);
    }
  }
};

// result += a times b, of which load(b, n, k) has columns 8 n .. 8 n + 15 of step k. With two terms, which are to be as
// accurate as float32, these few steps are a sum of their own, which is rounded as the result takes it: long sums are
// not left to the tensor cores (fragments.h).
template <class T, int kTerms, int kSteps, int kM, int N, class Load>
__device__ __forceinline__ void add_steps(float (&result)[kM][N][4],
                                          const uint32_t (&a)[kSteps][kM][kTerms][4], Load&& load) {
  FASTDL_UNROLL
  for (int n = 0; n < N; n += 2) {
    [[maybe_unused]] float sums[kM][2][4] = {};
    FASTDL_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      uint32_t b[kTerms][4];
      load(b, n, k);
      FASTDL_UNROLL
      for (int m = 0; m < kM; ++m) FASTDL_UNROLL
      for (int half = 0; half < 2; ++half)
        multiply_add<T>(kTerms == 1 ? result[m][n + half] : sums[m][half], a[k][m], b, half);
    }
    if constexpr (kTerms > 1) {
      FASTDL_UNROLL
      for (int m = 0; m < kM; ++m) FASTDL_UNROLL
      for (int c = 0; c < 8; ++c) result[m][n + c / 4][c % 4] += sums[m][c / 4][c % 4];
    }
  }
}

// sums += rows row .. of x times rows of y.
template <class T, int kD, int kTerms, int kM, int N>
__device__ __forceinline__ void multiply_rows(float (&sums)[kM][N][4], const Tile<T, kD>& x, int row,
                                              const Tile<T, kD>& y) {
  constexpr int kSteps = kD / kStepSize<T>, kCount = kTerms;
  static_assert(kSteps % kCount == 0);
  [[maybe_unused]] constexpr int kAtOnce = kTerms == 1 ? 4 : 1;
  FASTDL_UNROLL_BY(kAtOnce)  // no more: code is fetched, too
  for (int first = 0; first < kSteps; first += kCount) {
    uint32_t a[kCount][kM][kTerms][4];
    FASTDL_UNROLL
    for (int k = 0; k < kCount; ++k) FASTDL_UNROLL
    for (int m = 0; m < kM; ++m) load_a<T>(a[k][m], x, row + 16 * m, first + k);
    add_steps<T>(sums, a, [&](uint32_t (&b)[kTerms][4], int n, int k) { load_b<T>(b, y, 8 * n, first + k); });
  }
}
// result += weights times the rows of y.
template <class T, int kD, int kTerms, int kM, int N>
__device__ __forceinline__ void add_rows(float (&result)[kM][kD / 8][4], const float (&weights)[kM][N][4],
                                         const Tile<T, kD>& y) {
  constexpr int kSteps = 8 * N / kStepSize<T>;
  constexpr int kCount = kTerms == 1 ? 1 : kM > 1 || kSteps < 4 ? 2 : 4;  // as registers allow
  static_assert(kSteps % kCount == 0);
  FASTDL_UNROLL
  for (int first = 0; first < kSteps; first += kCount) {
    uint32_t a[kCount][kM][kTerms][4];
    FASTDL_UNROLL
    for (int k = 0; k < kCount; ++k) FASTDL_UNROLL
    for (int m = 0; m < kM; ++m) a_from_sums<T>(a[k][m], weights[m], first + k);
    add_steps<T>(result, a, [&](uint32_t (&b)[kTerms][4], int n, int k) {
      load_b_rows<T>(b, y, (first + k) * kStepSize<T>, 8 * n);
    });
  }
}

// Own rows are queries or, with kOwnKeys, keys; place(row) gives the place of one and its mask's offset.
struct OwnPlace {
  int own;
  int64_t mask;
};

// Sets scores to -infinity where one of the two does not exist or causality hides it, and adds the mask to others.
// The other side's first row is `other`. Without kMasking the code is a comparison for each score: it runs for some
// tiles only, but a kernel is fetched from memory before it runs, and the first time takes microseconds for each
// 10 kB that it passes.
template <bool kOwnKeys, bool kMasking, class T, int kM, int N, class Place>
__device__ __forceinline__ void mask_scores(float (&z)[kM][N][4], const Scores<T>& scores, int other,
                                            Place place) {
  FASTDL_UNROLL
  for (int m = 0; m < kM; ++m) FASTDL_UNROLL
  for (int half = 0; half < 2; ++half) {
    const auto [own, mask] = place(16 * m + 8 * half + lane_id() / 4);
    // Of the others, counted from this lane's first one, visible are
    const int lane_first = other + lane_id() % 4 * 2, count = kOwnKeys ? scores.queries : scores.keys;
    const int first = kOwnKeys && scores.causal ? own - lane_first : -lane_first;
    int last = count - 1 - lane_first;
    if (!kOwnKeys && scores.causal && own < count - 1) last = own - lane_first;
    const bool exists = own < (kOwnKeys ? scores.keys : scores.queries);
    if (!exists) last = -1;
    if constexpr (kMasking) {
      const int64_t at = mask + (kOwnKeys ? lane_first * scores.mask_row + own * scores.mask_col
                                          : own * scores.mask_row + lane_first * scores.mask_col);
      const int64_t step = kOwnKeys ? scores.mask_row : scores.mask_col;
      const auto each = [&](auto term) {
        FASTDL_UNROLL
        for (int n = 0; n < N; ++n) FASTDL_UNROLL
        for (int c = 0; c < 2; ++c) {
          const bool seen = 8 * n + c <= last && (!kOwnKeys || 8 * n + c >= first);
          float& score = z[m][n][2 * half + c];
          score = seen ? score + term(at + (8 * n + c) * step) : -infinity<float>();
        }
      };
      if (scores.added != nullptr)
        each([&](int64_t i) { return widen(scores.added[i]) * float(kLog2E); });
      else if (scores.allowed != nullptr)
        each([&](int64_t i) { return scores.allowed[i] != 0 ? 0.0f : -infinity<float>(); });
      else
        each([](int64_t) { return 0.0f; });
    } else {
      FASTDL_UNROLL
      for (int n = 0; n < N; ++n) FASTDL_UNROLL
      for (int c = 0; c < 2; ++c)
        if (8 * n + c > last || (kOwnKeys && 8 * n + c < first)) z[m][n][2 * half + c] = -infinity<float>();
    }
  }
}

// May rows of x be stored by packs of 16 bytes?
template <class T>
__device__ __forceinline__ bool stores_packs(const Heads& x, int size) {
  constexpr int kPer = int(16 / sizeof(T));
  return size % kPer == 0 && x.row % kPer == 0 && x.head % kPer == 0 && x.batch % kPer == 0 &&
         reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

// A warp's rows of a result, times factor(m, half) each, by way of its own rows of a tile, from `row` on,
// that nobody needs any more. out(r): where row r goes, null for nowhere.
template <class T, int kD, int kM, class Factor, class Out>
__device__ __forceinline__ void store_rows(const Tile<T, kD>& tile, int row,
                                           const float (&result)[kM][kD / 8][4], int size, bool packs,
                                           Factor factor, Out out) {
  constexpr int kPer = Tile<T, kD>::kPer, kChunks = Tile<T, kD>::kChunks;
  const int lane = lane_id();
  sync_warp();  // the tile has been read
  FASTDL_UNROLL
  for (int m = 0; m < kM; ++m) FASTDL_UNROLL
  for (int half = 0; half < 2; ++half) {
    const float by = factor(m, half);
    FASTDL_UNROLL
    for (int n = 0; n < kD / 8; ++n) {
      const int column = 8 * n + lane % 4 * 2;
      T* const at = tile.chunk(row + 16 * m + 8 * half + lane / 4, column / kPer) + column % kPer;
      *reinterpret_cast<Pack<T, 2>*>(at) =
          Pack<T, 2>{{narrow<T>(result[m][n][2 * half] * by), narrow<T>(result[m][n][2 * half + 1] * by)}};
    }
  }
  sync_warp();
  FASTDL_ROLLED
  for (int n = lane; n < 16 * kM * kChunks; n += 32) {
    const int r = n / kChunks, c = n % kChunks;
    T* const to = out(r);
    if (to == nullptr || c * kPer >= size) continue;
    const auto pack = *reinterpret_cast<const Pack<T, kPer>*>(tile.chunk(row + r, c));
    if (packs) {
      *reinterpret_cast<Pack<T, kPer>*>(to + c * kPer) = pack;
    } else {
      FASTDL_UNROLL
      for (int k = 0; k < kPer; ++k)
        if (c * kPer + k < size) to[c * kPer + k] = pack.v[k];
    }
  }
}

// The instantiations: head sizes are rounded up to 32, 64, 128 or 256, TF32's to 64 or 128.
template <class T, class F>
void by_size(int size, F&& f) {
  if constexpr (!std::is_same_v<T, float>)
    if (size <= 32) return f(std::integral_constant<int, 32>{});
  if (size <= 64)
    f(std::integral_constant<int, 64>{});
  else if (size <= 128)
    f(std::integral_constant<int, 128>{});
  else if constexpr (!std::is_same_v<T, float>)
    f(std::integral_constant<int, 256>{});
}
// 16-row tiles of a warp.
template <class T, int kD>
constexpr int kRowTiles = kD * sizeof(T) <= 256 ? 2 : 1;

// Does a last tile of 128 rows leave a quarter of all warps or more without work? Then two warps make a block
// of 64 rows: a window of 49 queries, a head of 65 to 128 twice. The other side is read once more, from the
// caches, and twice as many blocks fit on a multiprocessor.
constexpr bool in_halves(int64_t rows) {
  return rows <= 64 || (rows > 128 && rows <= 192);
}

}  // namespace fastdl::cuda
