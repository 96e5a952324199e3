// Keys of random operations: a seed, an offset, and the address of a recorded graph's state or 0.
#pragma once

#include "bindings/cuda/arguments.h"
#include "cuda/random.h"

namespace fastdl::binding {

inline cuda::Key key_of(uint64_t seed, uint64_t offset, uintptr_t state) {
  return {seed, offset, static_cast<const uint64_t*>(pointer(state))};
}

}  // namespace fastdl::binding
