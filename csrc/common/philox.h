// Philox 4x32-10, the counter-based random generator of Salmon, Moraes, Dror and Shaw ("Parallel random
// numbers: as easy as 1, 2, 3", SC 2011): a bijection of 128-bit counters, keyed by 64 bits. Random numbers
// are a pure function of their position, so any thread, backend or device computes any part of a stream, and
// the same numbers come out.
//
// How fastdl uses it. A random operation draws a pair (seed, offset) from a Generator; the seed is the key,
// and
//
//   counter = (index low, index high, offset low, offset high)
//
// gives the four words 4 * index .. 4 * index + 3 of that operation's own stream. What it does with the
// words:
//
//   uniform float32    element i in [0, 1): word i, its upper 24 bits times 2^-24
//   uniform float64    element i in [0, 1): words 2i and 2i + 1 (low, high), the upper 53 bits times 2^-53
//   normal float32     elements 2k and 2k + 1: words 2k and 2k + 1 (Box-Muller, cos and sin)
//   normal float64     elements 2k and 2k + 1: words 4k .. 4k + 3
//   dropout            element (or channel) i is dropped when (word i >> 1) < round(p * 2^31)
//   integers           element i: words 2i and 2i + 1 as 64 bits, times the range, upper 64 bits
#pragma once

#include <cstdint>

namespace fastdl {

struct Philox {
  static constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  static constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;  // golden ratio, sqrt(3) - 1
  static constexpr int kRounds = 10;

  uint64_t seed, offset;

  constexpr void operator()(uint64_t index, uint32_t words[4]) const {
    uint32_t c0 = uint32_t(index), c1 = uint32_t(index >> 32), c2 = uint32_t(offset),
             c3 = uint32_t(offset >> 32);
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < kRounds; ++round) {
      const uint64_t p0 = uint64_t(kMultiplier0) * c0, p1 = uint64_t(kMultiplier1) * c2;
      c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
      c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
      c1 = uint32_t(p1);
      c3 = uint32_t(p0);
      k0 += kWeyl0;
      k1 += kWeyl1;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
  }
};

}  // namespace fastdl
