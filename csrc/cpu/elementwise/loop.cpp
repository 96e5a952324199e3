// The walk over strided operands that all elementwise kernels share; see loop.h.
#include "cpu/elementwise/loop.h"

#include <cstring>

#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kStreamBytes = 16 << 20;  // outputs from here on are stored past the caches

// f(size) with the size of an element as a constant, so that copying one is a load and a store.
template <class F>
void with_size(int bytes, F f) {
  if (bytes == 1)
    f(std::integral_constant<int, 1>());
  else if (bytes == 4)
    f(std::integral_constant<int, 4>());
  else
    f(std::integral_constant<int, 8>());
}

// n elements from addresses `from_stride` apart to addresses `to_stride` apart.
void copy(char* to, int64_t to_stride, const char* from, int64_t from_stride, int64_t n, int bytes) {
  with_size(bytes, [&](auto size) {
    if (to_stride == size)
      for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * size, from + i * from_stride, size);
    else
      for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * to_stride, from + i * size, size);
  });
}
void fill(char* to, const char* from, int64_t n, int bytes) {
  with_size(bytes, [&](auto size) {
    char value[size];
    std::memcpy(value, from, size);
    for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * size, value, size);
  });
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
    if (direct) {
      for (int i = 0; i < N; ++i) operands[i] = start[i] + column * elements.bytes[i];
      run(f, n, operands);
    } else {
      for (int64_t done = 0; done < n; done += kBlock) {
        const int64_t count = std::min(kBlock, n - done);
        for (int i = 0; i < N; ++i) {
          char* here = start[i] + (column + done) * step[i];
          operands[i] = step[i] == elements.bytes[i] ? here : blocks[i];
          if (i < elements.outputs || operands[i] == here) continue;
          if (step[i] != 0)
            copy(blocks[i], elements.bytes[i], here, step[i], count, elements.bytes[i]);
          else if (done == 0)
            fill(blocks[i], here, count, elements.bytes[i]);
        }
        run(f, count, operands);
        for (int i = 0; i < elements.outputs; ++i)
          if (operands[i] == blocks[i])
            copy(start[i] + (column + done) * step[i], step[i], blocks[i], elements.bytes[i], count,
                 elements.bytes[i]);
      }
    }
    position += n;
    column = 0;
    for (int axis = 1; axis < loop.axes; ++axis) {
      for (int i = 0; i < N; ++i) start[i] += loop.stride[axis][i];
      if (++index[axis] < loop.extent[axis]) break;
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
