// Padding: a thread for each output copies the element that it mirrors, repeats or lies over; backward a
// thread for each input adds the gradients of the outputs that copied it, at most three per axis (or a range,
// where the edge is repeated), in order. Up to four axes at once; arrays are read and written once.
#include "cuda/pad.h"

#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

struct Axes {
  int in[kPadAxes], out[kPadAxes], before[kPadAxes], cut[kPadAxes];  // cut: what circular leaves off the end
  Divisor by[kPadAxes];                                              // extents of what is written
  uint32_t items;
  Padding mode;
};

// Which input output o of an axis copies; -1: none.
__device__ __forceinline__ int source(const Axes& a, int axis, int o) {
  const int n = a.in[axis], i = o - a.before[axis];
  if (a.mode == Padding::circular) {  // around what negative padding leaves
    const int first = a.before[axis] < 0 ? -a.before[axis] : 0, stop = n - a.cut[axis];
    return i < first ? i + stop - first : i >= stop ? i - stop + first : i;
  }
  if (i >= 0 && i < n) return i;
  if (a.mode == Padding::constant) return -1;
  if (a.mode == Padding::replicate) return i < 0 ? 0 : n - 1;
  return i < 0 ? -i : 2 * (n - 1) - i;
}

__device__ __forceinline__ void coordinates(const Axes& a, uint32_t i, int (&at)[kPadAxes]) {
  FASTDL_UNROLL
  for (int axis = kPadAxes - 1; axis >= 0; --axis) {
    const uint32_t q = a.by[axis].quotient(i);
    at[axis] = int(i - q * a.by[axis].divisor);
    i = q;
  }
}

template <class Word>
__global__ void __launch_bounds__(kThreads) pad_kernel(Word* y, const Word* x, Axes a, Word value) {
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < a.items; i += gridDim.x * kThreads) {
    int at[kPadAxes];
    coordinates(a, i, at);
    int64_t from = 0;
    bool inside = true;
    FASTDL_UNROLL
    for (int axis = 0; axis < kPadAxes; ++axis) {
      const int s = source(a, axis, at[axis]);
      inside = inside && s >= 0;
      from = from * a.in[axis] + s;
    }
    y[i] = inside ? x[from] : value;
  }
}

// Calls f(o) for the outputs that copy input i, in rising order. f has one place: axes are nested, and each of
// three would have three in the next one.
template <class F>
__device__ __forceinline__ void for_each_copy(const Axes& a, int axis, int i, F&& f) {
  const int n = a.in[axis], out = a.out[axis], here = i + a.before[axis];
  const bool range = a.mode == Padding::replicate;
  int left, right;
  if (range) {
    left = i == 0 || here < 0 ? 0 : here;
    right = i == n - 1 || here >= out ? out - 1 : here;
  } else if (a.mode == Padding::circular) {
    const int period = n - a.cut[axis] + (a.before[axis] < 0 ? a.before[axis] : 0);
    left = here - period;
    right = here + period;
  } else {
    left = a.before[axis] - i;
    right = a.before[axis] + 2 * (n - 1) - i;
  }
  const int end = range ? right - left + 1 : 3;
  FASTDL_ROLLED
  for (int k = 0; k < end; ++k) {
    const int o = range ? left + k : k == 0 ? left : k == 1 ? here : right;
    if (range || (o >= 0 && o < out && (k == 1 || o != here) && source(a, axis, o) == i)) f(o);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) pad_gradient(T* grad_x, const T* grad_y, Axes a) {
  using C = Compute<T>;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < a.items; i += gridDim.x * kThreads) {
    int at[kPadAxes];
    coordinates(a, i, at);
    C sum = 0;
    for_each_copy(a, 0, at[0], [&](int o0) {
      for_each_copy(a, 1, at[1], [&](int o1) {
        for_each_copy(a, 2, at[2], [&](int o2) {
          const T* row = grad_y + ((int64_t(o0) * a.out[1] + o1) * a.out[2] + o2) * a.out[3];
          for_each_copy(a, 3, at[3], [&](int o3) { sum += C(widen(row[o3])); });
        });
      });
    });
    grad_x[i] = narrow<T>(sum);
  }
}

Axes axes_of(const PadAxis (&axes)[kPadAxes], Padding mode, bool backward) {
  Axes a{};
  int64_t items = 1;
  for (int i = 0; i < kPadAxes; ++i) {
    const PadAxis& p = axes[i];
    const int64_t extent = backward ? p.in : p.out;
    items *= extent;
    if (p.in >= int64_t(1) << 30 || p.out >= int64_t(1) << 30 || items >= int64_t(1) << 31)
      throw std::invalid_argument("padding on CUDA is limited to 2^31 elements in one call");
    a.in[i] = int(p.in), a.out[i] = int(p.out), a.before[i] = int(p.before);
    a.cut[i] = p.after < 0 ? int(-p.after) : 0;
    a.by[i] = Divisor(uint32_t(extent > 0 ? extent : 1));
  }
  a.items = uint32_t(items);
  a.mode = mode;
  return a;
}

}  // namespace

void pad(int item, void* y, const void* x, const PadAxis (&axes)[kPadAxes], Padding mode, uint64_t value,
         Stream stream) {
  const Axes a = axes_of(axes, mode, false);
  if (a.items == 0) return;
  const auto run = [&]<class Word>(Word) {
    launch("pad", pad_kernel<Word>, dim3(grid_for(a.items, kThreads)), dim3(kThreads), 0, stream,
           static_cast<Word*>(y), static_cast<const Word*>(x), a, Word(value));
  };
  if (item == 2) return run(uint16_t{});
  if (item == 4) return run(uint32_t{});
  run(uint64_t{});
}

void pad_backward(Dtype dtype, void* grad_x, const void* grad_y, const PadAxis (&axes)[kPadAxes],
                  Padding mode, Stream stream) {
  const Axes a = axes_of(axes, mode, true);
  if (a.items == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch("pad_backward", pad_gradient<T>, dim3(grid_for(a.items, kThreads)), dim3(kThreads), 0, stream,
           static_cast<T*>(grad_x), static_cast<const T*>(grad_y), a);
  });
}

}  // namespace fastdl::cuda
