// Depthwise convolution: one input channel in each group, `multiplier` output channels. This is for shapes
// that conv_depthwise_planes.cu and conv_planes.cu do not have: three axes, dilation, other kernels and
// strides, float64. (Plain ones along one axis are conv_depthwise_row.cu's.)
//
// Nothing is shared between channels, so there is no product to make: forward and the gradient of x take a
// thread for each element, which gathers its taps; neighbours read side by side and overlap in the caches, so
// memory sees x, y once. The gradient of the weights takes a block for some taps of a channel and a part of
// its pixels: sums in registers, then over the block in a fixed order, then over the parts in order.
#include <algorithm>

#include "cuda/conv.h"
#include "cuda/conv_axis.h"
#include "cuda/conv_parts.h"
#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTaps = 9;            // of a block of the weights' gradient
constexpr int64_t kPart = 1 << 15;  // pixels of one of its parts

struct Depthwise {
  ConvAxes axes;
  int multiplier, channels;  // input channels
  int64_t items;
  Divisor d, h, w, by_channel;  // extents and channels of what is written; outputs for the weights
  Divisor stride_d, stride_h, stride_w;
};

struct Element {
  int64_t plane;
  int channel, d, h, w;
};
__device__ __forceinline__ Element element_of(uint32_t i, const Depthwise& p) {
  Element e;
  uint32_t q = p.w.quotient(i);
  e.w = int(i - q * p.w.divisor);
  i = p.h.quotient(q);
  e.h = int(q - i * p.h.divisor);
  q = p.d.quotient(i);
  e.d = int(i - q * p.d.divisor);
  e.plane = q;
  e.channel = int(q - p.by_channel.quotient(q) * p.by_channel.divisor);
  return e;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    depthwise_y(T* y, const T* x, const T* weight, const T* bias, Depthwise p) {
  using C = Compute<T>;
  const ConvAxis d = p.axes.d, h = p.axes.h, w = p.axes.w;
  const int taps = d.kernel * h.kernel * w.kernel;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < p.items; i += gridDim.x * kThreads) {
    const Element e = element_of(i, p);
    const int64_t plane = p.multiplier == 1 ? e.plane : e.plane / p.multiplier;
    const T* from = x + plane * d.in * h.in * w.in;
    const T* tap = weight + int64_t(e.channel) * taps;
    C sum = bias != nullptr ? C(widen(bias[e.channel])) : C(0);
    for (int kd = 0; kd < d.kernel; ++kd) {
      const int sd = e.d * d.stride - d.pad + kd * d.dilation;
      if (uint32_t(sd) >= uint32_t(d.in)) continue;
      for (int kh = 0; kh < h.kernel; ++kh) {
        const int sh = e.h * h.stride - h.pad + kh * h.dilation;
        if (uint32_t(sh) >= uint32_t(h.in)) continue;
        const T* row = from + int64_t(sd * h.in + sh) * w.in;
        const T* tap_row = tap + (kd * h.kernel + kh) * w.kernel;
        int sw = e.w * w.stride - w.pad;
        for (int kw = 0; kw < w.kernel; ++kw, sw += w.dilation)
          if (uint32_t(sw) < uint32_t(w.in)) sum += C(widen(row[sw])) * C(widen(tap_row[kw]));
      }
    }
    y[i] = narrow<T>(sum);
  }
}

// Which output sees input `at` by tap k, or -1.
__device__ __forceinline__ int seen_by(int at, int k, const ConvAxis& a, const Divisor& stride) {
  const int t = at + a.pad - k * a.dilation;
  if (t < 0) return -1;
  const int o = int(stride.quotient(uint32_t(t)));
  return o * a.stride == t && o < a.out ? o : -1;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    depthwise_x(T* grad_x, const T* grad_y, const T* weight, const T* bias, Depthwise p) {
  using C = Compute<T>;
  const ConvAxis d = p.axes.d, h = p.axes.h, w = p.axes.w;
  const int taps = d.kernel * h.kernel * w.kernel;
  const int64_t size = int64_t(d.out) * h.out * w.out;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < p.items; i += gridDim.x * kThreads) {
    const Element e = element_of(i, p);
    C sum = bias != nullptr ? C(widen(bias[e.channel])) : C(0);
    for (int m = 0; m < p.multiplier; ++m) {
      const T* from = grad_y + (e.plane * p.multiplier + m) * size;
      const T* tap = weight + (int64_t(e.channel) * p.multiplier + m) * taps;
      for (int kd = 0; kd < d.kernel; ++kd) {
        const int od = seen_by(e.d, kd, d, p.stride_d);
        if (od < 0) continue;
        for (int kh = 0; kh < h.kernel; ++kh) {
          const int oh = seen_by(e.h, kh, h, p.stride_h);
          if (oh < 0) continue;
          const T* row = from + int64_t(od * h.out + oh) * w.out;
          const T* tap_row = tap + (kd * h.kernel + kh) * w.kernel;
          for (int kw = 0; kw < w.kernel; ++kw) {
            const int ow = seen_by(e.w, kw, w, p.stride_w);
            if (ow >= 0) sum += C(widen(row[ow])) * C(widen(tap_row[kw]));
          }
        }
      }
    }
    grad_x[i] = narrow<T>(sum);
  }
}

// Grid: output channels, groups of taps, parts of a channel's pixels.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    depthwise_weight(Compute<T>* parts, const T* grad_y, const T* x, Depthwise p) {
  using C = Compute<T>;
  FASTDL_SHARED(C, sums, kTaps * kThreads / 32);
  const ConvAxis d = p.axes.d, h = p.axes.h, w = p.axes.w;
  const int taps = d.kernel * h.kernel * w.kernel, first = int(blockIdx.y) * kTaps;
  const int channel = int(blockIdx.x), source = channel / p.multiplier;
  const uint32_t size = uint32_t(d.out * h.out * w.out);
  int kd[kTaps], kh[kTaps], kw[kTaps];
  C sum[kTaps] = {};
  FASTDL_UNROLL
  for (int t = 0; t < kTaps; ++t) {
    const int tap = first + t;
    kw[t] = tap % w.kernel * w.dilation - w.pad;
    kh[t] = tap / w.kernel % h.kernel * h.dilation - h.pad;
    kd[t] = tap < taps ? tap / w.kernel / h.kernel * d.dilation - d.pad : -(1 << 30);  // never inside
  }
  const int64_t end = std::min<int64_t>(p.items, (int64_t(blockIdx.z) + 1) * kPart);
  for (int64_t i = int64_t(blockIdx.z) * kPart + threadIdx.x; i < end; i += kThreads) {
    uint32_t q = p.w.quotient(uint32_t(i));
    const int ow = int(uint32_t(i) - q * p.w.divisor);
    uint32_t r = p.h.quotient(q);
    const int oh = int(q - r * p.h.divisor);
    const uint32_t image = p.d.quotient(r);
    const int od = int(r - image * p.d.divisor);
    const C g = C(widen(
        grad_y[(int64_t(image) * p.channels * p.multiplier + channel) * size + uint32_t(i) - image * size]));
    const T* from = x + (int64_t(image) * p.channels + source) * d.in * h.in * w.in;
    FASTDL_UNROLL
    for (int t = 0; t < kTaps; ++t) {
      const int sd = od * d.stride + kd[t], sh = oh * h.stride + kh[t], sw = ow * w.stride + kw[t];
      if (uint32_t(sd) < uint32_t(d.in) && uint32_t(sh) < uint32_t(h.in) && uint32_t(sw) < uint32_t(w.in))
        sum[t] += g * C(widen(from[int64_t(sd * h.in + sh) * w.in + sw]));
    }
  }
  FASTDL_UNROLL
  for (int t = 0; t < kTaps; ++t) {
    for (int mask = 16; mask > 0; mask /= 2) sum[t] += shuffle_xor(sum[t], mask);
    if (threadIdx.x % 32 == 0) sums[t * (kThreads / 32) + threadIdx.x / 32] = sum[t];
  }
  sync_threads();
  const int t = int(threadIdx.x);
  if (t < kTaps && first + t < taps) {
    C total = 0;
    for (int i = 0; i < kThreads / 32; ++i) total += sums[t * (kThreads / 32) + i];
    parts[(int64_t(blockIdx.z) * p.channels * p.multiplier + channel) * taps + first + t] = total;
  }
}

template <class T>
__global__ void __launch_bounds__(kPartThreads)
    add_depthwise_parts(T* grad_weight, const Compute<T>* parts, int64_t splits, int64_t weights) {
  add_parts_in_order(parts, weights, splits,
                     [&](int64_t i, Compute<T> sum) { grad_weight[i] = narrow<T>(sum); });
}

// For kernels that write arrays of these extents and this many channels per image.
Depthwise depthwise(const ConvProblem& problem, const Extent& extent, int64_t channels) {
  Depthwise p;
  p.axes = conv_axes(problem);
  p.channels = int(problem.in_channels);
  p.multiplier = int(problem.group_out());
  p.items = problem.batch * channels * volume(extent);
  if (p.items >= int64_t(1) << 31)
    throw std::invalid_argument("depthwise convolution on CUDA is limited to 2^31 elements in one call");
  const auto by = [](int64_t n) { return Divisor(uint32_t(n > 0 ? n : 1)); };
  p.d = by(extent[0]), p.h = by(extent[1]), p.w = by(extent[2]), p.by_channel = by(channels);
  p.stride_d = by(problem.stride[0]), p.stride_h = by(problem.stride[1]), p.stride_w = by(problem.stride[2]);
  return p;
}

}  // namespace

void depthwise_forward(Dtype dtype, void* y, const void* x, const void* weight, const void* bias,
                       const ConvProblem& problem, Stream stream) {
  const Depthwise p = depthwise(problem, problem.out, problem.out_channels);
  if (p.items == 0) return;
  if (depthwise_rows_fit(problem)) return depthwise_rows(dtype, y, x, weight, bias, problem, false, stream);
  by_dtype(dtype, [&]<class T>(T) {
    launch("depthwise", depthwise_y<T>, dim3(grid_for(p.items, kThreads)), dim3(kThreads), 0, stream,
           static_cast<T*>(y), static_cast<const T*>(x), static_cast<const T*>(weight),
           static_cast<const T*>(bias), p);
  });
}

void depthwise_grad_x(Dtype dtype, void* grad_x, const void* grad_y, const void* weight, const void* bias,
                      const ConvProblem& problem, Stream stream) {
  const Depthwise p = depthwise(problem, problem.in, problem.in_channels);
  if (p.items == 0) return;
  if (depthwise_rows_fit(problem))
    return depthwise_rows(dtype, grad_x, grad_y, weight, bias, problem, true, stream);
  by_dtype(dtype, [&]<class T>(T) {
    launch("depthwise_grad_x", depthwise_x<T>, dim3(grid_for(p.items, kThreads)), dim3(kThreads), 0, stream,
           static_cast<T*>(grad_x), static_cast<const T*>(grad_y), static_cast<const T*>(weight),
           static_cast<const T*>(bias), p);
  });
}

int64_t depthwise_splits(const ConvProblem& p) {
  return std::max<int64_t>(1, (p.batch * p.out_size() + kPart - 1) / kPart);
}

void depthwise_grad_weight(Dtype dtype, void* grad_weight, const void* grad_y, const void* x, void* scratch,
                           const ConvProblem& problem, Stream stream) {
  const Depthwise p = depthwise(problem, problem.out, 1);
  const int64_t splits = depthwise_splits(problem), taps = problem.taps(),
                groups = (taps + kTaps - 1) / kTaps;
  const int64_t weights = problem.out_channels * taps;
  if (weights == 0) return;
  if (groups > 65535 || splits > 65535)
    throw std::invalid_argument("depthwise convolution on CUDA: too many taps or pixels");
  by_dtype(dtype, [&]<class T>(T) {
    auto* parts = static_cast<Compute<T>*>(scratch);
    launch("depthwise_grad_weight", depthwise_weight<T>,
           dim3(unsigned(problem.out_channels), unsigned(groups), unsigned(splits)), dim3(kThreads), 0,
           stream, parts, static_cast<const T*>(grad_y), static_cast<const T*>(x), p);
    launch("depthwise_grad_weight", add_depthwise_parts<T>, dim3(grid_for(weights, kPartItems)),
           dim3(kPartThreads), 0, stream, static_cast<T*>(grad_weight), static_cast<const Compute<T>*>(parts),
           splits, weights);
  });
}

}  // namespace fastdl::cuda
