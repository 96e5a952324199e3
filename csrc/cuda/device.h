// What Python asks of the current device.
#pragma once

namespace fastdl::cuda {

int device_capability();  // 90 for 9.0
int device_multiprocessors();

}  // namespace fastdl::cuda
