// The walk over strided operands that all elementwise kernels share; see loop.h.
#include "cpu/elementwise/loop.h"

#include <cstring>

#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kStreamBytes = 16 << 20;  // outputs from here on are stored past the caches

// n elements of `size` bytes from addresses `from_stride` apart to addresses `to_stride` apart.
template <int size>
void copy_of_size(char* to, int64_t to_stride, const char* from, int64_t from_stride, int64_t n) {
  for (; n > 0; --n, to += to_stride, from += from_stride) std::memcpy(to, from, size);
}
void copy(char* to, int64_t to_stride, const char* from, int64_t from_stride, int64_t n, int size) {
  if (size == 4) return copy_of_size<4>(to, to_stride, from, from_stride, n);
  if (size == 8) return copy_of_size<8>(to, to_stride, from, from_stride, n);
  copy_of_size<1>(to, to_stride, from, from_stride, n);
}

// One range of the flattened space, on one thread.
template <int N>
void walk_range(const StridedLoop<N>& loop, const Elements<N>& elements, int64_t begin, int64_t end,
                Run<N> run, const void* f) {
  const int64_t row = loop.axes > 0 ? loop.extent[0] : 1;
  int64_t step[N];  // strides along the innermost axis
  bool direct = true;
  for (int i = 0; i < N; ++i) {
    step[i] = loop.axes > 0 ? loop.stride[0][i] : elements.bytes[i];
    direct &= step[i] == elements.bytes[i];
  }

  // Where `begin` is: index[] of the outer axes, and the operands' row starts.
  int64_t index[StridedLoop<N>::kMaxAxes];
  char* start[N];
  for (int i = 0; i < N; ++i) start[i] = loop.data[i];
  int64_t rest = begin / row, column = begin % row;
  for (int axis = 1; axis < loop.axes; ++axis) {
    index[axis] = rest % loop.extent[axis];
    rest /= loop.extent[axis];
    for (int i = 0; i < N; ++i) start[i] += index[axis] * loop.stride[axis][i];
  }

  alignas(64) char blocks[N][kBlock * sizeof(double)];  // touched only for operands that need one
  char* operands[N];
  for (int64_t position = begin; position < end;) {
    const int64_t n = std::min(row - column, end - position);
    int64_t rows = 1;  // taken at once: whole ones along the next axis
    if (direct) {
      if (n == row && loop.axes > 1) rows = std::min(loop.extent[1] - index[1], (end - position) / row);
      for (int i = 0; i < N; ++i) operands[i] = start[i] + column * elements.bytes[i];
      run(f, n, operands, rows, loop.stride[1]);
    } else {
      for (int64_t done = 0; done < n; done += kBlock) {
        const int64_t count = std::min(kBlock, n - done);
        for (int i = 0; i < N; ++i) {
          char* here = start[i] + (column + done) * step[i];
          operands[i] = step[i] == elements.bytes[i] ? here : blocks[i];
          if (i < elements.outputs || operands[i] == here) continue;
          if (step[i] != 0 || done == 0)
            copy(blocks[i], elements.bytes[i], here, step[i], count, elements.bytes[i]);
        }
        run(f, count, operands, 1, loop.stride[1]);
        for (int i = 0; i < elements.outputs; ++i)
          if (operands[i] == blocks[i])
            copy(start[i] + (column + done) * step[i], step[i], blocks[i], elements.bytes[i], count,
                 elements.bytes[i]);
      }
    }
    position += rows * n;
    column = 0;
    for (int axis = 1; axis < loop.axes; ++axis) {
      const int64_t steps = axis == 1 ? rows : 1;
      for (int i = 0; i < N; ++i) start[i] += steps * loop.stride[axis][i];
      if ((index[axis] += steps) < loop.extent[axis]) break;
      for (int i = 0; i < N; ++i) start[i] -= index[axis] * loop.stride[axis][i];
      index[axis] = 0;
    }
  }
}

}  // namespace

template <int N>
void walk(const StridedLoop<N>& loop, const Elements<N>& elements, int64_t grain, Run<N> run, const void* f,
          bool streams) {
  parallel_for(loop.size, grain, [&](int64_t begin, int64_t end) {
    walk_range(loop, elements, begin, end, run, f);
    if (streams) fence();
  });
}

template <int N>
bool worth_streaming(const StridedLoop<N>& loop, int64_t bytes) {
  constexpr int64_t kLongRow = 4096;  // shorter rows would leave too many lines half stored, half streamed
  if (loop.size * bytes < kStreamBytes || loop.axes == 0 || loop.extent[0] < kLongRow ||
      loop.stride[0][0] != bytes)
    return false;
  for (int i = 1; i < N; ++i)
    if (loop.data[i] == loop.data[0]) return false;
  return true;
}

#define FASTDL_INSTANTIATE(N)                                                                           \
  template void walk<N>(const StridedLoop<N>&, const Elements<N>&, int64_t, Run<N>, const void*, bool); \
  template bool worth_streaming<N>(const StridedLoop<N>&, int64_t);
FASTDL_INSTANTIATE(2)
FASTDL_INSTANTIATE(3)
FASTDL_INSTANTIATE(4)
FASTDL_INSTANTIATE(5)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
