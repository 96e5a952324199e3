// C = A B in bfloat16 where the processor multiplies pairs: VDPBF16PS adds x0 y0 + x1 y1 to a float in each
// of 16 lanes, twice the multiplications of an FMA. So the register tile is float's (tile.h), but an element
// of a panel is a pair of neighbours along k in 32 bits (the last one of an odd k has a zero), and one step
// is a pair. Sums are floats, C is rounded once. The instruction takes denormals for zeros, as all
// kernels do, and rounds each of its two sums to nearest.
//
// A is packed in chunks of rows (kChunkBytes, of L3), which pairs.h multiplies. Where C has few columns its
// transpose is computed, so that lanes are not idle.
#include "cpu/gemm/pairs.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)

#include <algorithm>
#include <atomic>
#include <utility>

#include "cpu/gemm/pack.h"
#include "cpu/simd/half.h"

namespace fastdl {
namespace pairs {
namespace {

using namespace simd;

using Pairs = const uint32_t*;

__mmask32 first(int64_t n) {
  return n >= 32 ? ~__mmask32{0} : __mmask32((1u << n) - 1);
}

}  // namespace

void pack(uint32_t* out, int width, const uint16_t* x, int64_t lane, int64_t along_k, int count, int64_t kc) {
  const int64_t steps = (kc + 1) / 2;
  if (along_k == 1) {
    for (int i0 = 0; i0 < count; i0 += 16) {
      const __mmask16 lanes = __mmask16(first(width - i0));
      for (int64_t s = 0; s < steps; s += 16) {
        const __mmask32 there = first(kc - 2 * s);
        Vec<float> rows[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i)
          rows[i] =
              (Vec<float>)_mm512_maskz_loadu_epi16(there, x + std::min(i0 + i, count - 1) * lane + 2 * s);
        tile::transpose<float>(rows);
        float* to = reinterpret_cast<float*>(out) + s * width + i0;
        const int64_t here = std::min<int64_t>(16, steps - s);
        if (here == 16)
#pragma GCC unroll 16
          for (int i = 0; i < 16; ++i) _mm512_mask_storeu_ps(to + i * width, lanes, (__m512)rows[i]);
        else
          for (int i = 0; i < here; ++i) _mm512_mask_storeu_ps(to + i * width, lanes, (__m512)rows[i]);
      }
    }
    return;
  }
  for (int64_t s = 0; s < steps; ++s, x += 2 * along_k, out += width) {
    const bool single = 2 * s + 1 == kc;
    for (int i = 0; i < count; i += 16) {
      const __mmask16 lanes = __mmask16(first(count - i));
      __builtin_prefetch(x + 16 * along_k + i);
      __builtin_prefetch(x + 17 * along_k + i);
      const __m256i low = _mm256_maskz_loadu_epi16(lanes, x + i),
                    high = _mm256_maskz_loadu_epi16(single ? 0 : lanes, x + along_k + i);
      const __m512i pairs =
          _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
      _mm512_mask_storeu_epi32(out + i, lanes, pairs);
    }
  }
}

void pack_lines(uint32_t* out, int width, const uint16_t* x, const int64_t* offsets, int count,
                const uint32_t* there, int64_t steps) {
  for (int i0 = 0; i0 < count; i0 += 16) {
    const __mmask16 lanes = __mmask16(first(width - i0));
    for (int64_t s = 0; s < steps; s += 16) {
      Vec<float> rows[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i)
        rows[i] = (Vec<float>)_mm512_maskz_loadu_epi16(there[s / 16],
                                                       x + offsets[std::min(i0 + i, count - 1)] + 2 * s);
      tile::transpose<float>(rows);
      float* to = reinterpret_cast<float*>(out) + s * width + i0;
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_mask_storeu_ps(to + i * width, lanes, (__m512)rows[i]);
    }
  }
}

namespace {

// Few rows take several steps at a time into accumulators of their own, so that latency does not bound what
// should be bound by reading B.
template <int R>
[[gnu::target("avx512bf16")]] void kernel(int64_t steps, Pairs a, int64_t a_step, Pairs b, float* sums,
                                          bool add) {
  constexpr int S = R == 1 ? 4 : R < 4 ? 2 : 1;
  __m512 acc[S][R][2];
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s)
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) acc[s][i][0] = acc[s][i][1] = _mm512_setzero_ps();
  const auto step = [&](int s) __attribute__((always_inline, target("avx512bf16"))) {
    const __m512i left = _mm512_loadu_si512(b), right = _mm512_loadu_si512(b + 16);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(int(a[i]));
      acc[s][i][0] = _mm512_dpbf16_ps(acc[s][i][0], x, (__m512bh)left);
      acc[s][i][1] = _mm512_dpbf16_ps(acc[s][i][1], x, (__m512bh)right);
    }
    a += a_step, b += kColumns;
  };
  int64_t done = 0;
  for (; done + S <= steps; done += S)
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) step(s);
  if constexpr (S > 1)
    for (; done < steps; ++done) step(0);
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      float* to = sums + i * kColumns + v * 16;
      __m512 sum = acc[0][i][v];
#pragma GCC unroll 4
      for (int s = 1; s < S; ++s) sum = _mm512_add_ps(sum, acc[s][i][v]);
      _mm512_storeu_ps(to, add ? _mm512_add_ps(sum, _mm512_loadu_ps(to)) : sum);
    }
}

}  // namespace

Kernel kernel_for(int64_t rows) {
  return []<size_t... I>(std::index_sequence<I...>, int64_t at) {
    static constexpr Kernel kernels[] = {&kernel<I + 1>...};
    return kernels[at];
  }(std::make_index_sequence<kRows>{}, rows - 1);
}

[[gnu::target("avx512bf16")]] void leave(uint16_t* to, int64_t ld, int64_t step, const float* sums, int rows,
                                         const Run* runs, int count, const float* bias) {
  for (int i = 0; i < rows; ++i, to += ld, sums += kColumns) {
    const __m512 more = _mm512_set1_ps(bias ? bias[i] : 0.0f);
    for (const Run* run = runs; run < runs + count; ++run)
      for (int v = 0; v < run->count; v += 16) {
        const int n = std::min(16, run->count - v);
        const __mmask16 lanes = __mmask16(first(n));
        const __m256i bits = (__m256i)_mm512_cvtneps_pbh(
            _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, sums + run->lane + v), more));
        if (step == 1) {
          _mm256_mask_storeu_epi16(to + run->to + v, lanes, bits);
        } else {
          uint16_t apart[16];
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(apart), bits);
          for (int j = 0; j < n; ++j) to[run->to + step * (v + j)] = apart[j];
        }
      }
  }
}

}  // namespace pairs

namespace {

using namespace simd;
using namespace pairs;

constexpr int64_t kChunkBytes = 4 << 20;  // of A
constexpr int64_t kFewColumns = kRows;

struct Product {
  int64_t m, n, k;
  float alpha;
  MatrixView<uint16_t> a, b;
  uint16_t* c;
  int64_t ldc;
  bool transposed;  // C lies so
  GemmEpilogue<float> epilogue;
  const uint16_t* added;  // lies as C
  float beta;
};

// A finished tile to its place in C.
[[gnu::noinline, gnu::target("avx512bf16")]] void finish(const Product& p, float* sums, int64_t i, int64_t j,
                                                         int rows, int cols) {
  const GemmEpilogue<float>& e = p.epilogue;
  if (p.alpha != 1.0f || e.bias_row || e.activation != GemmActivation::none)
    tile::finish<float>(sums, kColumns, rows, cols,
                        {sums, kColumns, p.alpha, 0.0f, e.bias_row ? e.bias_row + i : nullptr,
                         e.bias_col ? e.bias_col + j : nullptr, e.activation});
  else if (e.bias_col)
    for (int v = 0; v < cols; v += 16) {
      const Vec<float> bias = load_n(e.bias_col + j + v, std::min(16, cols - v));
      for (int r = 0; r < rows; ++r)
        store<float>(sums + r * kColumns + v, load(sums + r * kColumns + v) + bias);
    }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < cols; v += 16) {
      const int count = std::min(16, cols - v);
      const __mmask16 lanes = __mmask16(first(count));
      const int64_t place = p.transposed ? (j + v) * p.ldc + i + r : (i + r) * p.ldc + j + v;
      uint16_t turned[16] = {};
      Vec<float> sum = load(sums + r * kColumns + v);
      if (p.added) {
        for (int q = 0; q < count && p.transposed; ++q) turned[q] = p.added[place + q * p.ldc];
        const __m256i more = _mm256_maskz_loadu_epi16(lanes, p.transposed ? turned : p.added + place);
        sum += p.beta * (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(more), 16);
      }
      const __m256i bits = (__m256i)_mm512_cvtneps_pbh((__m512)sum);
      if (!p.transposed) {
        _mm256_mask_storeu_epi16(p.c + place, lanes, bits);
      } else {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(turned), bits);
        for (int q = 0; q < count; ++q) p.c[place + q * p.ldc] = turned[q];
      }
    }
}

enum class Use { where_they_win, never, always };
std::atomic<Use> use_of_pairs{Use::where_they_win};

}  // namespace

bool has_pair_products() {
  static const bool has = __builtin_cpu_supports("avx512bf16");  // asks the operating system, too
  return has && use_of_pairs.load(std::memory_order_relaxed) != Use::never;
}

bool has_quick_pair_products() {
  static const bool quick = !__builtin_cpu_is("intel");
  return has_pair_products() && (quick || use_of_pairs.load(std::memory_order_relaxed) == Use::always);
}

bool pair_products_win(int64_t m, int64_t n, int64_t k) {
  if (!has_pair_products() || has_quick_pair_products()) return has_pair_products();
  // Numbers that are passed over for each product: floats are written and read where pairs are read, the
  // dearer, the further away they are.
  const double numbers = double(m * n + n * k + m * k),
               passed = numbers / (double(m) * double(n) * double(k));
  return passed > (numbers <= 2.5e5 ? 0.25 : numbers <= 2e6 ? 0.07 : 0.03);
}

void use_pair_products(std::optional<bool> use) {
  use_of_pairs = !use ? Use::where_they_win : *use ? Use::always : Use::never;
}

void gemm_pairs(int64_t m, int64_t n, int64_t k, float alpha, MatrixView<uint16_t> a, MatrixView<uint16_t> b,
                uint16_t* c, const GemmEpilogue<float>& epilogue, const uint16_t* added, float beta) {
  Product p{m, n, k, alpha, a, b, c, n, false, epilogue, added, beta};
  if (n <= kFewColumns && n < m) {
    std::swap(p.m, p.n);
    p.a = b.transposed(), p.b = a.transposed();
    p.transposed = true;
    std::swap(p.epilogue.bias_row, p.epilogue.bias_col);
  }
  const int64_t steps = (k + 1) / 2, row_bytes = steps * int64_t(sizeof(uint32_t));
  const int height = height_of(p.m);
  const int64_t chunk = std::max<int64_t>(1, kChunkBytes / row_bytes / height) * height;
  memory::Buffer<uint32_t> packed(size_t(packed_size(std::min(chunk, p.m), steps)));
  for (int64_t first_row = 0; first_row < p.m; first_row += chunk) {
    const int64_t size = std::min(chunk, p.m - first_row);
    const int width = height_of(size);
    pack_all(packed.get(), size, steps, [&](uint32_t* out, int64_t i, int count, int64_t s, int64_t here) {
      pack(out, width, p.a.data + (first_row + i) * p.a.row + 2 * s * p.a.col, p.a.row, p.a.col, count,
           std::min(2 * here, p.k - 2 * s));
    });
    multiply(
        packed.get(), size, p.n, steps,
        [&](uint32_t* out, int64_t q, int64_t s, int64_t here) {
          pack(out, kColumns, p.b.data + q * kColumns * p.b.col + 2 * s * p.b.row, p.b.col, p.b.row,
               int(std::min<int64_t>(kColumns, p.n - q * kColumns)), std::min(2 * here, p.k - 2 * s));
        },
        [&](float* sums, int64_t i, int64_t q, int rows) {
          finish(p, sums, first_row + i, q * kColumns, rows,
                 int(std::min<int64_t>(kColumns, p.n - q * kColumns)));
        });
  }
}

}  // namespace fastdl

#else

namespace fastdl {

bool has_pair_products() {
  return false;
}
bool has_quick_pair_products() {
  return false;
}
bool pair_products_win(int64_t, int64_t, int64_t) {
  return false;
}
void use_pair_products(std::optional<bool>) {}
void gemm_pairs(int64_t, int64_t, int64_t, float, MatrixView<uint16_t>, MatrixView<uint16_t>, uint16_t*,
                const GemmEpilogue<float>&, const uint16_t*, float) {}

}  // namespace fastdl

#endif
