// Problems along one axis of an array: softmax over it, or a loss that picks one of its entries. An array of
// any rank is (outer, classes, inner) in C order; inner == 1 means that the axis is the last.
#pragma once

#include <cstdint>

namespace fastdl {

struct ClassShape {
  int64_t outer, classes, inner;
  int64_t positions() const { return outer * inner; }
  int64_t size() const { return outer * classes * inner; }
};

enum class Reduction { none, mean, sum };

}  // namespace fastdl
