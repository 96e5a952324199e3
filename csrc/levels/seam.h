// One side of the seam between the extension module and a level's library, as seam.py lays it out.
#pragma once

#include <cstdint>

namespace fastdl {

struct Side {
  uint64_t names_hash;        // of all functions that cross: another one means another build
  const void* const* offers;  // what the other side calls
  const void* const** calls;  // where this side looks for what the other one offers
};

}  // namespace fastdl
