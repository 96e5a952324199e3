// Random arrays on CUDA: functions of the element's number (common/philox.h), so those of the CPU.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// low + (high - low) u, never high; mean + std z.
void random_uniform(Dtype dtype, void* y, int64_t size, double low, double high, uint64_t seed,
                    uint64_t offset, Stream stream);
void random_normal(Dtype dtype, void* y, int64_t size, double mean, double std, uint64_t seed,
                   uint64_t offset, Stream stream);
// 1 with probability p[i], else 0
void random_bernoulli(Dtype dtype, void* y, const void* p, int64_t size, uint64_t seed, uint64_t offset,
                      Stream stream);
// The words of the stream themselves; integers in [low, low + range).
void philox_words(uint32_t* words, int64_t size, uint64_t seed, uint64_t offset, Stream stream);
void random_integers(int64_t* y, int64_t size, int64_t low, uint64_t range, uint64_t seed, uint64_t offset,
                     Stream stream);

}  // namespace fastdl::cuda
