// Rounding to pairs of bfloat16 and turning them into panels, for recurrent layers in bfloat16 (pairs.h).
#include "cpu/rnn/pairs.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)

namespace fastdl::rnn {
namespace {

using namespace simd;

__mmask16 lanes(int count) {
  return count >= 16 ? __mmask16(-1) : count <= 0 ? __mmask16(0) : __mmask16((1u << count) - 1);
}

// 32 numbers of a row, zeros from `count` on.
[[gnu::target("avx512bf16")]] inline __m512i rounded(const float* from, __mmask16 low, __mmask16 high) {
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, from + 16),
                                      _mm512_maskz_loadu_ps(low, from));
}

}  // namespace

[[gnu::target("avx512bf16")]] void round_rows(uint16_t* to, int64_t to_ld, const float* from, int64_t ld,
                                              int rows, int count) {
  const __mmask16 low = lanes(count), high = lanes(count - 16);
  for (int i = 0; i < rows; ++i)
    _mm512_mask_storeu_epi16(to + i * to_ld, __mmask32(high) << 16 | low, rounded(from + i * ld, low, high));
}

void widen_rows(float* to, int64_t to_ld, const uint16_t* from, int64_t ld, int rows, int count) {
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < count; j += 16) {
      const __mmask16 there = lanes(count - j);
      const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, from + i * ld + j));
      _mm512_mask_storeu_epi32(to + i * to_ld + j, there, _mm512_slli_epi32(bits, 16));
    }
}

[[gnu::target("avx512bf16")]] void pack_rounded(uint32_t* out, int width, const float* from, int64_t ld,
                                                int rows, int count) {
  const __mmask16 low = lanes(count), high = lanes(count - 16), there = lanes(width);
  const int steps = (count + 1) / 2;
  Vec<float> x[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) x[i] = (Vec<float>)rounded(from + std::min(i, rows - 1) * ld, low, high);
  tile::transpose<float>(x);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i)
    if (i < steps) _mm512_mask_storeu_ps(out + i * width, there, (__m512)x[i]);
}

}  // namespace fastdl::rnn

#endif
