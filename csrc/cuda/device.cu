#include "cuda/device.h"

#include "cuda/portable.h"

namespace fastdl::cuda {

int device_capability() {
  return capability();
}
int device_multiprocessors() {
  return multiprocessors();
}

}  // namespace fastdl::cuda
