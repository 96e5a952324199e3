// Group normalisation of x (N, G C, S): every group of C channels of every sample by itself, D = C S numbers.
// Instance normalisation is the case C = 1.
//
//   y = h w[c] + b[c],  h = (x - mean) r,  r = 1 / sqrt(var + eps)        saved: x, mean, var (N, G)
//   per channel of a sample: sg = sum g, sh = sum g h
//   grad_x = r (g w - sum(w sg) / D - h sum(w sh) / D), sums over the group's channels
//   grad_w = sum over samples of sh,  grad_b = sum over samples of sg
//
// Work: groups of samples over threads. A group is contiguous and is read again from a cache: one read and
// one write of memory forward, two reads and one write backward (when it fits there). The channel sums of all
// samples are kept in float64 and added up in order.
#include "cpu/norm/norm.h"
#include "cpu/norm/rows.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl {

using namespace norm;

template <class T>
void group_norm_forward(T* y, double* mean, double* var, const T* x, const T* weight, const T* bias,
                        const GroupNormProblem& p) {
  const int64_t size = p.channels * p.inner;
  parallel_for(p.batch * p.groups, std::max<int64_t>(1, kGrain / size), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Moments moments = row_moments(x + i * size, size);
      mean[i] = moments.mean;
      var[i] = moments.m2 / double(size);
      const Center<T> center(mean[i]);
      const double r = 1.0 / std::sqrt(var[i] + p.eps);
      for (int64_t c = 0; c < p.channels; ++c) {
        const int64_t channel = i % p.groups * p.channels + c, at = i * size + c * p.inner;
        const double a = weight ? double(weight[channel]) * r : r;
        const double b = (bias ? double(bias[channel]) : 0.0) - center.rest * a;
        if (p.inner == 1)  // one number of each channel: a call would cost more
          y[at] = (x[at] - center.high) * T(a) + T(b);
        else
          row_affine(y + at, x + at, p.inner, center.high, T(a), T(b));
      }
    }
  });
}

template <class T>
void group_norm_backward(T* grad_x, T* grad_weight, T* grad_bias, const T* grad_y, const T* x,
                         const T* weight, const double* mean, const double* var, const GroupNormProblem& p) {
  const int64_t size = p.channels * p.inner, channels = p.groups * p.channels;
  memory::Buffer<GradSums> sums{size_t(p.batch * channels)};  // sg and sh of every channel of every sample
  parallel_for(p.batch * p.groups, std::max<int64_t>(1, kGrain / size), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Center<T> center(mean[i]);
      const double r = 1.0 / std::sqrt(var[i] + p.eps);
      double total = 0, total_h = 0;
      for (int64_t c = 0; c < p.channels; ++c) {
        const int64_t channel = i % p.groups * p.channels + c, at = i * size + c * p.inner;
        GradSums s = p.inner == 1 ? GradSums{double(grad_y[at]), double(grad_y[at] * (x[at] - center.high))}
                                  : rows_grad_sums(grad_y + at, x + at, 1, 0, p.inner, center.high);
        s.gx = (s.gx - center.rest * s.g) * r;
        sums.get()[i * p.channels + c] = s;
        const double w = weight ? double(weight[channel]) : 1.0;
        total += w * s.g;
        total_h += w * s.gx;
      }
      if (!grad_x) continue;
      const double b = -r * r * total_h / double(size);
      const double shift = -r * total / double(size) - b * center.rest;
      for (int64_t c = 0; c < p.channels; ++c) {
        const int64_t channel = i % p.groups * p.channels + c, at = i * size + c * p.inner;
        const double a = weight ? double(weight[channel]) * r : r;
        if (p.inner == 1)
          grad_x[at] = grad_y[at] * T(a) + ((x[at] - center.high) * T(b) + T(shift));
        else
          row_combine(grad_x + at, grad_y + at, x + at, p.inner, center.high, T(a), T(b), T(shift));
      }
    }
  });
  if (!grad_weight && !grad_bias) return;
  parallel_for(channels, std::max<int64_t>(1, kGrain / 4 / p.batch), [&](int64_t begin, int64_t end) {
    memory::Buffer<GradSums> totals{size_t(end - begin)};
    std::fill_n(totals.get(), end - begin, GradSums{});
    for (int64_t n = 0; n < p.batch; ++n)
      for (int64_t c = begin; c < end; ++c) totals.get()[c - begin].add(sums.get()[n * channels + c]);
    for (int64_t c = begin; c < end; ++c) {
      if (grad_weight) grad_weight[c] = T(totals.get()[c - begin].gx);
      if (grad_bias) grad_bias[c] = T(totals.get()[c - begin].g);
    }
  });
}

#define FASTDL_INSTANTIATE(T)                                                                   \
  template void group_norm_forward<T>(T*, double*, double*, const T*, const T*, const T*,       \
                                      const GroupNormProblem&);                                 \
  template void group_norm_backward<T>(T*, T*, T*, const T*, const T*, const T*, const double*, \
                                       const double*, const GroupNormProblem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
