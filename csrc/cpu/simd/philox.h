// Philox 4x32-10 on vectors: one counter per 64-bit lane, its words in the lower halves (whatever stands in
// the upper halves on the way never reaches a result: products read lower halves only).
#pragma once

#include "common/philox.h"
#include "cpu/simd/simd.h"

namespace fastdl::simd {

inline constexpr int kPhiloxCounters = kWidth<uint64_t>;  // counters of one call
inline constexpr int kPhiloxWords = 4 * kPhiloxCounters;  // words of one call

// words[0 .. kPhiloxWords) of the counters first, first + 1, ...: two vectors in memory order.
struct PhiloxWords {
  Vec<uint64_t> low, high;
};

// The keys of all rounds, once per kernel: each is then broadcast by the instruction that uses it.
struct PhiloxStream {
  uint64_t key0[Philox::kRounds], key1[Philox::kRounds], offset;
  explicit PhiloxStream(const Philox& philox) : offset(philox.offset) {
    uint32_t k0 = uint32_t(philox.seed), k1 = uint32_t(philox.seed >> 32);
    for (int round = 0; round < Philox::kRounds; ++round, k0 += Philox::kWeyl0, k1 += Philox::kWeyl1)
      key0[round] = k0, key1[round] = k1;
  }
};

// The words of each counter apart: c[j] has word j in the lower half of each lane (upper halves undefined).
[[gnu::always_inline]] inline void philox_lanes(const PhiloxStream& stream, uint64_t first,
                                                Vec<uint64_t> c[4]) {
  Vec<uint64_t> index;
#pragma GCC unroll 8
  for (int i = 0; i < kPhiloxCounters; ++i) index[i] = uint64_t(i);
  index += first;
  Vec<uint64_t> c0 = index, c1 = index >> 32;
  Vec<uint64_t> c2 = broadcast<uint64_t>(stream.offset), c3 = broadcast<uint64_t>(stream.offset >> 32);
  const Vec<uint64_t> m0 = broadcast<uint64_t>(Philox::kMultiplier0),
                      m1 = broadcast<uint64_t>(Philox::kMultiplier1);
#pragma GCC unroll 10
  for (int round = 0; round < Philox::kRounds; ++round) {
    const Vec<uint64_t> p0 = multiply_low(m0, c0), p1 = multiply_low(m1, c2);
    c0 = (p1 >> 32) ^ c1 ^ stream.key0[round];
    c2 = (p0 >> 32) ^ c3 ^ stream.key1[round];
    c1 = p1;
    c3 = p0;
  }
  c[0] = c0, c[1] = c1, c[2] = c2, c[3] = c3;
}

[[gnu::always_inline]] inline PhiloxWords philox_words(const PhiloxStream& stream, uint64_t first) {
  Vec<uint64_t> c[4];
  philox_lanes(stream, first, c);
  PhiloxWords words;
  interleave<uint64_t>((c[0] & 0xffffffff) | (c[1] << 32), (c[2] & 0xffffffff) | (c[3] << 32), words.low,
                       words.high);
  return words;
}

}  // namespace fastdl::simd
