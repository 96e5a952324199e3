// C = A B in bfloat16 where the processor multiplies pairs: VDPBF16PS adds x0 y0 + x1 y1 to a float in each
// of 16 lanes, twice the multiplications of an FMA. So the register tile is float's (tile.h), but an element
// of a panel is a pair of neighbours along k in 32 bits (the last one of an odd k has a zero), and one step
// is a pair. Sums are floats, C is rounded once. The instruction takes denormals for zeros, as all
// kernels do, and rounds each of its two sums to nearest.
//
// A is packed in chunks of rows (kChunkBytes, of L3). A task is a group of up to kGroup panels of B, which it
// packs for its L2, times some of A's panels, each of which passes from L3 to L1 once. A deep k goes in
// blocks of kDepth, between which the sums of a task lie in memory. Where C has few columns its transpose is
// computed, so that lanes are not idle.
#include "cpu/gemm/bfloat16.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)

#include <algorithm>
#include <atomic>
#include <utility>

#include "cpu/gemm/panels.h"
#include "cpu/simd/half.h"

namespace fastdl {
namespace {

using namespace simd;
using tile::ceil_div;

constexpr int kRows = tile::kRows, kColumns = tile::kNR<float>, kGroup = 4;
constexpr int64_t kDepth = 512;           // steps: a panel of B is 64 KB, as in float
constexpr int64_t kChunkBytes = 4 << 20;  // of A
constexpr int64_t kFewColumns = kRows;

using Pairs = const uint32_t*;

__mmask32 first(int64_t n) {
  return n >= 32 ? ~__mmask32{0} : __mmask32((1u << n) - 1);
}

// `count` lanes and the steps of kc numbers of a matrix as a panel: lane i, step s at out[s * width + i].
// Missing lanes hold anything.
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

// R rows of sums (kColumns apart) = or += a panel of A of R rows times one of B.
template <int R>
[[gnu::target("avx512bf16")]] void kernel(int64_t steps, Pairs a, Pairs b, float* sums, bool add) {
  __m512 acc[R][2];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
  for (int64_t s = 0; s < steps; ++s, a += R, b += kColumns) {
    const __m512i left = _mm512_loadu_si512(b), right = _mm512_loadu_si512(b + 16);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(int(a[i]));
      acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, (__m512bh)left);
      acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, (__m512bh)right);
    }
  }
  if (add)
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      acc[i][0] = _mm512_add_ps(acc[i][0], _mm512_loadu_ps(sums + i * kColumns));
      acc[i][1] = _mm512_add_ps(acc[i][1], _mm512_loadu_ps(sums + i * kColumns + 16));
    }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    _mm512_storeu_ps(sums + i * kColumns, acc[i][0]);
    _mm512_storeu_ps(sums + i * kColumns + 16, acc[i][1]);
  }
}

// Panels have an even number of rows: half the kernels.
using Kernel = void (*)(int64_t, Pairs, Pairs, float*, bool);
Kernel kernel_for(int64_t rows) {
  return []<size_t... I>(std::index_sequence<I...>, int64_t at) {
    static constexpr Kernel kernels[] = {&kernel<2 * I + 2>...};
    return kernels[at];
  }(std::make_index_sequence<kRows / 2>{}, (rows - 1) / 2);
}

struct Product {
  int64_t m, n, k;
  float alpha;
  MatrixView<uint16_t> a, b;
  uint16_t* c;
  int64_t ldc;
  bool transposed;  // C lies so
  GemmEpilogue<float> epilogue;
};

// A finished tile to its place in C.
[[gnu::noinline, gnu::target("avx512bf16")]] void leave(const Product& p, float* sums, int64_t i, int64_t j,
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
      const __m256i bits = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(sums + r * kColumns + v));
      const int count = std::min(16, cols - v);
      if (!p.transposed) {
        _mm256_mask_storeu_epi16(p.c + (i + r) * p.ldc + j + v, __mmask16(first(count)), bits);
      } else {
        uint16_t turned[16];
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(turned), bits);
        for (int q = 0; q < count; ++q) p.c[(j + v + q) * p.ldc + i + r] = turned[q];
      }
    }
}

// Rows [first, first + size) of A, in panels of `height`: those of one block of k after the other.
void multiply_chunk(const Product& p, int64_t first_row, int64_t size, int height, uint32_t* packed) {
  const int64_t panels = ceil_div(size, height), blocks = ceil_div(p.k, 2 * kDepth);
  const int64_t threads = fastdl::detail::in_parallel() ? 1 : num_threads();
  const int64_t steps = (p.k + 1) / 2;
  const auto panel_at = [&](int64_t panel, int64_t s, int64_t here) {
    return packed + s * panels * height + panel * height * here;
  };
  parallel_for(panels * blocks, std::max<int64_t>(1, 65536 / (height * std::min(kDepth, steps))),
               [&](int64_t begin, int64_t end) {
                 for (int64_t t = begin; t < end; ++t) {
                   const int64_t panel = t % panels, s = t / panels * kDepth, i = panel * height;
                   const int64_t kc = std::min(2 * kDepth, p.k - 2 * s);
                   pack(panel_at(panel, s, (kc + 1) / 2), height,
                        p.a.data + (first_row + i) * p.a.row + 2 * s * p.a.col, p.a.row, p.a.col,
                        int(std::min<int64_t>(height, size - i)), kc);
                 }
               });
  const int64_t columns = ceil_div(p.n, kColumns), wanted = threads == 1 ? 1 : threads * 4;
  const int64_t group = std::clamp<int64_t>(columns / wanted, 1, kGroup), groups = ceil_div(columns, group);
  const int64_t ranges = std::min(panels, ceil_div(wanted, groups));
  const double microseconds = tile::product_microseconds<float>(size, p.n, p.k) / 2;
  tile::share(groups * ranges, microseconds, [&](int64_t begin, int64_t end) {
    const int64_t most = ceil_div(panels, ranges) * height;
    memory::Buffer<uint32_t> own(size_t(group * kColumns * std::min(kDepth, steps)));
    memory::Buffer<float> sums(size_t((blocks > 1 ? most * group : height) * kColumns));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t q0 = task / ranges * group, q1 = std::min(columns, q0 + group), range = task % ranges;
      const int64_t p0 = panels * range / ranges, p1 = panels * (range + 1) / ranges;
      for (int64_t s = 0; s < steps; s += kDepth) {
        const int64_t kc = std::min(2 * kDepth, p.k - 2 * s), here = (kc + 1) / 2;
        const bool last = s + here == steps;
        for (int64_t q = q0; q < q1; ++q)
          pack(own.get() + (q - q0) * kColumns * here, kColumns,
               p.b.data + q * kColumns * p.b.col + 2 * s * p.b.row, p.b.col, p.b.row,
               int(std::min<int64_t>(kColumns, p.n - q * kColumns)), kc);
        for (int64_t panel = p0; panel < p1; ++panel) {
          const int64_t i = panel * height;
          const int rows = int(std::min<int64_t>(height, size - i));
          for (int64_t q = q0; q < q1; ++q) {
            float* to = sums.get() + (blocks > 1 ? ((panel - p0) * group + q - q0) * height * kColumns : 0);
            kernel_for(height)(here, panel_at(panel, s, here), own.get() + (q - q0) * kColumns * here, to,
                               s > 0);
            if (last)
              leave(p, to, first_row + i, q * kColumns, rows,
                    int(std::min<int64_t>(kColumns, p.n - q * kColumns)));
          }
        }
      }
    }
  });
}

std::atomic<bool> allowed{true};

}  // namespace

bool has_pair_products() {
  static const bool has = __builtin_cpu_supports("avx512bf16");  // asks the operating system, too
  return has && allowed.load(std::memory_order_relaxed);
}

void use_pair_products(bool use) {
  allowed = use;
}

void gemm_pairs(int64_t m, int64_t n, int64_t k, float alpha, MatrixView<uint16_t> a, MatrixView<uint16_t> b,
                uint16_t* c, const GemmEpilogue<float>& epilogue) {
  Product p{m, n, k, alpha, a, b, c, n, false, epilogue};
  if (n <= kFewColumns && n < m) {
    std::swap(p.m, p.n);
    p.a = b.transposed(), p.b = a.transposed();
    p.transposed = true;
    std::swap(p.epilogue.bias_row, p.epilogue.bias_col);
  }
  const int height = int(ceil_div(ceil_div(p.m, ceil_div(p.m, kRows)), 2) * 2);
  const int64_t steps = (k + 1) / 2, row_bytes = steps * int64_t(sizeof(uint32_t));
  const int64_t chunk = std::max<int64_t>(1, kChunkBytes / row_bytes / height) * height;
  memory::Buffer<uint32_t> packed(size_t(ceil_div(std::min(chunk, p.m), height) * height * steps));
  for (int64_t i = 0; i < p.m; i += chunk)
    multiply_chunk(p, i, std::min(chunk, p.m - i), height, packed.get());
}

}  // namespace fastdl

#else

namespace fastdl {

bool has_pair_products() {
  return false;
}
void use_pair_products(bool) {}
void gemm_pairs(int64_t, int64_t, int64_t, float, MatrixView<uint16_t>, MatrixView<uint16_t>, uint16_t*,
                const GemmEpilogue<float>&) {}

}  // namespace fastdl

#endif
