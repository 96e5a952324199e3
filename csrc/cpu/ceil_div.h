#pragma once

#include <cstdint>

namespace fastdl {

// How many pieces of b (above 0) there are in a, the last of which may be smaller.
constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace fastdl
