// Random arrays on CUDA: functions of the element's number (common/philox.h), so those of the CPU.
#pragma once

#include "common/philox.h"
#include "cuda/types.h"

namespace fastdl::cuda {

// The stream of one random operation: (seed, offset). Recorded in a graph it is another one in every replay:
// `state` then names two words on the device, a seed and what is added to the offset, which are set before
// the graph is launched.
struct Key {
  uint64_t seed, offset;
  const uint64_t* state;  // null: not recorded

  constexpr Philox philox() const {
    return state == nullptr ? Philox{seed, offset} : Philox{state[0], state[1] + offset};
  }
};
// The words that keys name; they travel as arguments of a kernel, so nothing has to outlive the call.
void set_random_state(uint64_t* state, uint64_t seed, uint64_t offset, Stream stream);

// low + (high - low) u, never high; mean + std z.
void random_uniform(Dtype dtype, void* y, int64_t size, double low, double high, Key key, Stream stream);
void random_normal(Dtype dtype, void* y, int64_t size, double mean, double std, Key key, Stream stream);
// 1 with probability p[i], else 0
void random_bernoulli(Dtype dtype, void* y, const void* p, int64_t size, Key key, Stream stream);
// The words of the stream themselves; integers in [low, low + range).
void philox_words(uint32_t* words, int64_t size, Key key, Stream stream);
void random_integers(int64_t* y, int64_t size, int64_t low, uint64_t range, Key key, Stream stream);

}  // namespace fastdl::cuda
