// Bytes from one place to another, past the caches where a result is larger than they are.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/simd/map.h"

namespace fastdl {
namespace {

constexpr int64_t kGrainBytes = 64 << 10;  // about 10 us of copying

// `bytes` bytes; with `past` (results larger than a cache) whole vectors are stored past the caches, which
// saves reading their lines first: a third of the traffic.
void copy_bytes(char* to, const char* from, int64_t bytes, bool past) {
  if (past && bytes >= 1024) {
    const auto head = int64_t(-reinterpret_cast<uintptr_t>(to) % simd::kBytes);
    std::memcpy(to, from, size_t(head));
    int64_t i = head;
    for (; i + simd::kBytes <= bytes; i += simd::kBytes) {
      simd::prefetch_ahead(from + i);
      simd::stream_store(to + i, simd::load(from + i));
    }
    to += i, from += i, bytes -= i;
  }
  std::memcpy(to, from, size_t(bytes));
}
bool past_caches(int64_t bytes) {
  return bytes >= simd::kStreamBytes;
}

}  // namespace
}  // namespace fastdl
