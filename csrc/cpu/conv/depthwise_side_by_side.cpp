// Depthwise convolution with kWidth channels side by side, one per lane: no lane is superfluous, whatever the
// rows' length and strides are, and taps that meet padding are left out. For strides, dilations and kernels
// that the ways over single planes (depthwise.cpp) have no loops for, and for planes smaller than a vector.
//
//   forward   y[o] = bias + sum over taps of  w[tap] x[o * stride + tap - pad]      all of them vectors; rows
//             get their padding while they are put side by side
//   grad_x    the same of grad_y with the taps backwards, once for each remainder of the division of places by
//             the stride: the taps that meet such a place are neighbours in grad_y
//   grad_w    a sum over positions and images for each tap, by bands of rows; the lanes are its channels
//
// With several output channels per input channel (multiplier), y's planes of a block are `multiplier` apart.
//
// Work: over images and blocks of channels; grad_w over blocks of channels and, where those are few, over
// images, with partial results added up in order. Memory is passed over once; the blocks stay in L2.
#include "cpu/conv/depthwise_side_by_side.h"

#include <numeric>
#include <utility>
#include <vector>

#include "cpu/parts.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/side_by_side.h"

namespace fastdl::side_by_side {
namespace {

using namespace simd;

constexpr int64_t kMostBytes = 640 << 10;  // of a block's input and output
constexpr int64_t kBandBytes = 32 << 10;   // of the rows that all taps of grad_w pass over in turn: L1
struct Range {
  int64_t first, end;
};
// One axis of a correlation: tap r of output o meets input o * stride + r * dilation - pad. Outputs lie `step`
// apart from `first` on, taps `tap_step` from `tap` on (in elements, not along the axis).
struct Axis {
  int64_t in, out, kernel, stride, dilation, pad;
  int64_t first, step, tap, tap_step;
  int64_t start(int64_t o) const { return o * stride - pad; }
  int64_t before(int64_t i) const {  // taps at places below i; a division takes as long as some of them
    return dilation == 1 ? i : ceil_div(i, dilation);
  }
  Range taps(int64_t o) const {  // those inside the input
    const int64_t s = start(o);
    const int64_t first = s >= 0 ? 0 : before(-s), end = s >= in ? 0 : std::min(kernel, before(in - s));
    return {first, std::max(first, end)};
  }
  Range outputs(int64_t r) const {  // those whose tap r is inside
    const int64_t s = r * dilation - pad;
    const int64_t first = std::min(out, s >= 0 ? 0 : ceil_div(-s, stride));
    const int64_t end = s >= in ? 0 : std::min(out, (in - 1 - s) / stride + 1);
    return {first, std::max(first, end)};
  }
  Range whole() const {  // those with all taps inside
    const Range a = outputs(0), b = outputs(kernel - 1);
    return {a.first, std::max(a.first, b.end)};
  }
};
struct Geometry {
  Axis d, h, w;
  int64_t in_size() const { return d.in * h.in * w.in; }
  int64_t out_size() const { return d.out * h.out * w.out; }
  int64_t first() const { return d.first + h.first + w.first; }
  int64_t tap() const { return d.tap + h.tap + w.tap; }
  static Geometry of(const ConvProblem& p) {
    const auto axis = [&](size_t a) {
      return Axis{p.in[a],  p.out[a], p.kernel[a],     p.stride[a], p.dilation[a],
                  p.pad[a], 0,        inner(p.out, a), 0,           inner(p.kernel, a)};
    };
    return {axis(0), axis(1), axis(2)};
  }
  static int64_t inner(const Extent& e, size_t a) {  // elements from one place along the axis to the next
    return a == 0 ? e[1] * e[2] : a == 1 ? e[2] : 1;
  }
};

// grad_x along an axis: of the inputs that are `stride` apart, those that some tap meets.
std::vector<Axis> adjoint_axes(const ConvProblem& p, size_t a) {
  const int64_t stride = p.stride[a], dilation = p.dilation[a], divisor = std::gcd(stride, dilation);
  const int64_t places = Geometry::inner(p.in, a), taps = Geometry::inner(p.kernel, a);
  const int64_t step = stride / divisor;  // from tap to tap
  std::vector<Axis> axes;
  for (int64_t r = 0; r < std::min(step, p.kernel[a]); ++r) {
    const int64_t start = r * dilation - p.pad[a], first = (start % stride + stride) % stride;
    if (first >= p.in[a]) continue;
    const int64_t more = (p.kernel[a] - 1 - r) / step, last = r + more * step;  // backwards: the first one
    axes.push_back({p.out[a], ceil_div(p.in[a] - first, stride), more + 1, 1, dilation / divisor,
                    (last * dilation - p.pad[a] - first) / stride, first * places, stride * places,
                    last * taps, -step * taps});
  }
  return axes;
}
std::vector<Geometry> adjoint(const ConvProblem& p) {
  std::vector<Geometry> parts;
  for (const Axis& d : adjoint_axes(p, 0))
    for (const Axis& h : adjoint_axes(p, 1))
      for (const Axis& w : adjoint_axes(p, 2)) parts.push_back({d, h, w});
  return parts;
}

// Correlations of one input that has its rows' padding in memory, so that no column of outputs is special.
template <class T>
struct Padded {
  std::vector<Geometry> parts;
  int64_t left = 0, row, rows, width;  // of the array without padding; of one with it
  Padded(std::vector<Geometry> geometries, const Extent& in)
      : parts(std::move(geometries)), row(in[2]), rows(in[0] * in[1]), width(in[2]) {
    int64_t right = 0;
    for (const Geometry& g : parts) {
      left = std::max(left, g.w.pad);
      right = std::max(right, g.w.start(g.w.out - 1) + (g.w.kernel - 1) * g.w.dilation + 1 - row);
    }
    width += left + right;
    for (Geometry& g : parts) {
      g.w.in = width;
      g.w.pad -= left;
    }
  }
  bool padded() const { return width != row; }
  int64_t size() const { return rows * width * kWidth<T>; }
  void clear(T* to) const {
    if (padded()) std::fill_n(to, size(), T(0));
  }
  void fill(T* to, const T* from, int64_t plane, int channels) const {
    if (!padded()) return interleave(to, from, plane, channels, rows * row);
    if (row * int64_t(sizeof(T)) < 16) {  // less than a quad, which an interleave takes at once
      T* const all = to + rows * (width - row) * kWidth<T>;
      interleave(all, from, plane, channels, rows * row);
      const T* next = all;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < width; ++i, to += kWidth<T>) {
          const bool inside = i >= left && i < left + row;
          store<T>(to, inside ? load<T>(next) : Vec<T>{});
          next += inside ? kWidth<T> : 0;
        }
      return;
    }
    for (int64_t r = 0; r < rows; ++r)
      interleave(to + (r * width + left) * kWidth<T>, from + r * row, plane, channels, row);
  }
};

// C outputs of a row, from their taps (rows [d, h], columns w): `from` is where the first output's tap 0
// would be; outputs are written `to` apart. The stride S along a row is a constant where it can be (else 0): then
// an output's inputs lie at fixed distances, else each output takes a register for its address, and there are
// too few.
template <class T, int S, int C>
[[gnu::always_inline]] inline void outputs(T* y, int64_t to, bool add, const Geometry& g, const T* from,
                                           const T* weights, Range d, Range h, Range w, Vec<T> bias) {
  constexpr int64_t v = kWidth<T>;
  const int64_t column = g.w.dilation * v, step = (S ? S : g.w.stride) * v, tap = g.w.tap_step * v;
  Vec<T> acc[C];
  T* out = y;
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c, out += to) acc[c] = add ? load<T>(out) : bias;
  for (int64_t i = d.first; i < d.end; ++i)
    for (int64_t j = h.first; j < h.end; ++j) {
      const T* at = from + (i * g.d.dilation * g.h.in + j * g.h.dilation) * g.w.in * v + w.first * column;
      const T* taps = weights + (i * g.d.tap_step + j * g.h.tap_step) * v + w.first * tap;
      for (int64_t k = w.first; k < w.end; ++k, at += column, taps += tap) {
        const Vec<T> weight = load<T>(taps);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) acc[c] += weight * load<T>(at + c * step);
      }
    }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c, y += to) store<T>(y, acc[c]);
}

// y = bias + the correlation of x with the weights, or (add) y + it; all side by side. As many columns at
// once as hide the multipliers' latency; seven because so many planes have 7, 14 or 28.
template <class T, int S>
[[gnu::noinline]] void correlate(T* y, bool add, const T* x, const T* weights, const Geometry& g,
                                 Vec<T> bias) {
  constexpr int64_t v = kWidth<T>;
  const Range whole = g.w.whole(), all{0, g.w.kernel};
  const int64_t to = g.w.step * v;
  weights += g.tap() * v;
  y += g.first() * v;
  for (int64_t od = 0; od < g.d.out; ++od)
    for (int64_t oh = 0; oh < g.h.out; ++oh) {
      T* out = y + (od * g.d.step + oh * g.h.step) * v;
      const Range d = g.d.taps(od), h = g.h.taps(oh);
      const T* row = x + (g.d.start(od) * g.h.in + g.h.start(oh)) * g.w.in * v;
      for (int64_t ow = 0; ow < g.w.out;) {
        const int64_t left = whole.end - ow;
        const auto some = [&]<int C>(std::integral_constant<int, C>, Range taps) {
          outputs<T, S, C>(out + ow * to, to, add, g, row + g.w.start(ow) * v, weights, d, h, taps, bias);
          ow += C;
        };
        if (ow < whole.first || left <= 0)
          some(std::integral_constant<int, 1>{}, g.w.taps(ow));
        else if (left >= 8 && left % 7 != 0)
          some(std::integral_constant<int, 8>{}, all);
        else if (left >= 7)
          some(std::integral_constant<int, 7>{}, all);
        else if (left >= 4)
          some(std::integral_constant<int, 4>{}, all);
        else if (left >= 2)
          some(std::integral_constant<int, 2>{}, all);
        else
          some(std::integral_constant<int, 1>{}, all);
      }
    }
}

template <class T>
void correlate(T* y, bool add, const T* x, const T* weights, const Geometry& g, Vec<T> bias) {
  const auto with = g.w.stride == 1   ? &correlate<T, 1>
                    : g.w.stride == 2 ? &correlate<T, 2>
                                      : &correlate<T, 0>;
  with(y, add, x, weights, g, bias);
}

// sums[tap] += the products of grad_y's rows [begin, end) and the inputs that the tap meets.
template <class T>
void correlate_grad(T* sums, const T* grad_y, const T* x, const Geometry& g, int64_t begin, int64_t end) {
  constexpr int64_t v = kWidth<T>;
  for (int64_t i = 0; i < g.d.kernel; ++i)
    for (int64_t j = 0; j < g.h.kernel; ++j)
      for (int64_t k = 0; k < g.w.kernel; ++k, sums += v) {
        const Range d = g.d.outputs(i), h = g.h.outputs(j), w = g.w.outputs(k);
        Vec<T> acc[4] = {};  // short chains, also while a row is short
        for (int64_t od = d.first; od < d.end; ++od)
          for (int64_t oh = std::max(h.first, begin); oh < std::min(h.end, end); ++oh) {
            const T* grad = grad_y + ((od * g.h.out + oh) * g.w.out + w.first) * v;
            const T* from =
                x +
                (((g.d.start(od) + i * g.d.dilation) * g.h.in + g.h.start(oh) + j * g.h.dilation) * g.w.in +
                 g.w.start(w.first) + k * g.w.dilation) *
                    v;
            const int64_t step = g.w.stride * v;
            int64_t ow = w.first;
            for (; ow + 4 <= w.end; ow += 4, grad += 4 * v, from += 4 * step)
#pragma GCC unroll 4
              for (int c = 0; c < 4; ++c) acc[c] += load<T>(grad + c * v) * load<T>(from + c * step);
            for (; ow < w.end; ++ow, grad += v, from += step) acc[0] += load<T>(grad) * load<T>(from);
          }
        store<T>(sums, load<T>(sums) + ((acc[0] + acc[1]) + (acc[2] + acc[3])));
      }
}

// The weights of all blocks: [block][output of a channel][tap][lane].
template <class T>
void pack(T* to, const T* w, const ConvProblem& p) {
  constexpr int64_t v = kWidth<T>;
  const int64_t kernels = p.group_out() * p.taps();  // of a channel
  for (int64_t g = 0; g < p.groups; g += v)
    interleave(to + g * kernels, w + g * kernels, kernels, int(std::min(v, p.groups - g)), kernels);
}
template <class T>
Vec<T> lanes_of(const T* values, int count, int64_t step) {
  T lanes[kWidth<T>] = {};
  for (int i = 0; values && i < count; ++i) lanes[i] = values[i * step];
  return load<T>(lanes);
}

template <class T>
struct Blocks {
  static constexpr int64_t v = kWidth<T>;
  const ConvProblem& p;
  int64_t count() const { return ceil_div(p.groups, v); }
  int channels(int64_t block) const { return int(std::min(v, p.groups - block * v)); }
  int64_t weights() const { return p.group_out() * p.taps() * v; }  // of a block
  int64_t grain() const {
    return std::max<int64_t>(1,
                             16384 / (p.in_size() + p.group_out() * p.out_size() * (1 + p.taps() / 8)) / v);
  }
};

}  // namespace

template <class T>
bool suits(const ConvProblem& p) {
  const int64_t lanes = ceil_div(p.groups, kWidth<T>) * kWidth<T>;
  return p.group_in() == 1 && 2 * p.groups >= lanes &&
         (p.in_size() + p.out_size()) * kWidth<T> * int64_t(sizeof(T)) <= kMostBytes;
}

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  constexpr int64_t v = kWidth<T>;
  const Padded<T> padded({Geometry::of(p)}, p.in);
  const Blocks<T> blocks{p};
  const int64_t multiplier = p.group_out(), plane = multiplier * p.out_size();
  memory::Buffer<T> weights(size_t(blocks.count() * blocks.weights()));
  pack<T>(weights, w, p);
  parallel_for(p.batch * blocks.count(), blocks.grain(), [&](int64_t begin, int64_t end) {
    memory::Buffer<T> in(size_t(padded.size())), out(size_t(p.out_size() * v));
    padded.clear(in);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / blocks.count(), block = i % blocks.count(), channel = n * p.groups + block * v;
      const int channels = blocks.channels(block);
      padded.fill(in, x + channel * p.in_size(), p.in_size(), channels);
      for (int64_t m = 0; m < multiplier; ++m) {
        correlate<T>(out, false, in, weights + block * blocks.weights() + m * p.taps() * v, padded.parts[0],
                     lanes_of(bias ? bias + block * v * multiplier + m : nullptr, channels, multiplier));
        deinterleave(y + channel * plane + m * p.out_size(), plane, out.get(), channels, p.out_size());
      }
    }
  });
}

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  constexpr int64_t v = kWidth<T>;
  const Padded<T> padded(adjoint(p), p.out);
  const Blocks<T> blocks{p};
  const int64_t multiplier = p.group_out(), plane = multiplier * p.out_size();
  int64_t met = 0;
  for (const Geometry& part : padded.parts) met += part.out_size();
  memory::Buffer<T> weights(size_t(blocks.count() * blocks.weights()));
  pack<T>(weights, w, p);
  parallel_for(p.batch * blocks.count(), blocks.grain(), [&](int64_t begin, int64_t end) {
    memory::Buffer<T> in(size_t(p.in_size() * v)), out(size_t(padded.size()));
    padded.clear(out);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / blocks.count(), block = i % blocks.count(), channel = n * p.groups + block * v;
      const int channels = blocks.channels(block);
      const Vec<T> add = lanes_of(bias ? bias + block * v : nullptr, channels, 1);
      if (met < p.in_size())
        for (int64_t e = 0; e < p.in_size(); ++e) store<T>(in + e * v, add);
      for (int64_t m = 0; m < multiplier; ++m) {
        padded.fill(out, gy + channel * plane + m * p.out_size(), plane, channels);
        for (const Geometry& part : padded.parts)
          correlate<T>(in, m > 0, out, weights + block * blocks.weights() + m * p.taps() * v, part, add);
      }
      deinterleave(gx + channel * p.in_size(), p.in_size(), in.get(), channels, p.in_size());
    }
  });
}

template <class T>
void grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  constexpr int64_t v = kWidth<T>;
  const Geometry g = Geometry::of(p);
  const Blocks<T> blocks{p};
  const int64_t multiplier = p.group_out(), plane = multiplier * p.out_size(), taps = p.taps();
  const int64_t parts = std::min(p.batch, ceil_div(4 * num_threads(), blocks.count()));
  const int64_t band =
      std::max<int64_t>(1, kBandBytes / (kBytes * p.out[0] * (p.out[2] + p.stride[1] * p.in[2])));
  memory::Buffer<T> partial(size_t(parts * blocks.count() * blocks.weights()));
  parallel_for(
      parts * blocks.count(), ceil_div(blocks.grain() * parts, p.batch), [&](int64_t begin, int64_t end) {
        memory::Buffer<T> in(size_t(p.in_size() * v)), out(size_t(p.out_size() * v));
        for (int64_t i = begin; i < end; ++i) {
          const int64_t part = i / blocks.count(), block = i % blocks.count();
          const int channels = blocks.channels(block);
          T* sums = partial + i * blocks.weights();
          std::fill_n(sums, blocks.weights(), T(0));
          for (int64_t n = p.batch * part / parts; n < p.batch * (part + 1) / parts; ++n) {
            const int64_t channel = n * p.groups + block * v;
            interleave(in.get(), x + channel * p.in_size(), p.in_size(), channels, p.in_size());
            for (int64_t m = 0; m < multiplier; ++m) {
              interleave(out.get(), gy + channel * plane + m * p.out_size(), plane, channels, p.out_size());
              for (int64_t h = 0; h < g.h.out; h += band)
                correlate_grad<T>(sums + m * taps * v, out, in, g, h, h + band);
            }
          }
        }
      });
  add_parts<T>(partial.get(), partial.get(), blocks.count() * blocks.weights(), parts);
  for (int64_t c = 0; c < p.groups; ++c)
    for (int64_t r = 0; r < multiplier * taps; ++r)
      gw[c * multiplier * taps + r] = partial[(c / v * multiplier * taps + r) * v + c % v];
}

template bool suits<float>(const ConvProblem&);
template void forward<float>(const ConvProblem&, float*, const float*, const float*, const float*);
template void grad_x<float>(const ConvProblem&, float*, const float*, const float*, const float*);
template void grad_w<float>(const ConvProblem&, float*, const float*, const float*);

}  // namespace fastdl::side_by_side
