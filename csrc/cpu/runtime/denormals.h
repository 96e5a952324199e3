// Denormal numbers cost a hundred cycles each on many CPUs; trained weights and saturated gates are full of
// them. While a FlushDenormals lives, the calling thread treats them as zero, inputs and results; then the
// old mode is back. FlushDenormals(false) keeps them: conversions must.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastdl {

class FlushDenormals {
 public:
#if defined(__x86_64__)
  explicit FlushDenormals(bool flush = true) : saved_(_mm_getcsr()) {
    constexpr unsigned mode = 0x8040u;  // FTZ | DAZ
    _mm_setcsr(flush ? saved_ | mode : saved_ & ~mode);
  }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  explicit FlushDenormals(bool flush = true) {
    constexpr uint64_t mode = uint64_t{1} << 24;  // FZ
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(flush ? saved_ | mode : saved_ & ~mode));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  uint64_t saved_;
#endif
  FlushDenormals(const FlushDenormals&) = delete;
};

}  // namespace fastdl
