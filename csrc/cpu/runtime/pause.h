// What a thread that waits actively does between two looks, so that it takes less from its core's other thread.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastdl {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace fastdl
