// Depthwise convolution: every input channel has its own kernels (out_channels = multiplier * groups, one
// input channel per group). Little arithmetic, much traffic. Four ways:
//
//   lanes    kWidth channels side by side (depthwise_side_by_side.cpp): strides, large kernels, and weight
//            gradients of small planes
//   flat     stride 1, small planes with rows of one length: vectors across the ends of rows (flat.h)
//   rows     stride 1, a kernel 3, 5 or 7 wide, planes of some rows that fit L1: vectors of output positions
//            straight from the image, with loads that stop at the ends of its rows
//   planes   everything else: each plane is copied once into a padded, de-strided buffer (planes.h) in L1 or
//            L2, where every tap is a constant shift, and vectors run along the flat positions
//
// Flat and rows do grad_x as a correlation of grad_y with the taps backwards.
//
//   forward   y[k][o] = sum over r of w[k][r] * x[o * stride + r * dilation - pad]
//   grad_w    w[k][r] = sum over images and o of grad_y[k][o] * x[...]
//
// Work: over images times channels. grad_w: over channels (flat, rows), or over images times channels with
// one partial result per image, added up in image order (planes). Memory: each array is read or written once.
#include "cpu/conv/algorithm.h"
#include "cpu/conv/depthwise_side_by_side.h"
#include "cpu/conv/flat.h"
#include "cpu/conv/lanes.h"
#include "cpu/conv/plane_copy.h"
#include "cpu/parts.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

using namespace simd;

constexpr int kUnroll = 4;  // vectors of positions in registers
constexpr int kTaps = 9;    // taps in registers, grad_w

// Channels a thread should take at once.
int64_t grain(const ConvProblem& p) {
  return std::max<int64_t>(1, 32768 / (p.taps() * p.out_size()));
}

// Where no way over single planes keeps its lanes and loads busy.
template <class T>
bool side_by_side_wins(const ConvProblem& p, ConvPass pass) {
  const bool small = pass == ConvPass::grad_w && p.in_size() + p.out_size() <= 1024;
  return (p.stride != Extent{1, 1, 1} || p.taps() > 9 || small) && side_by_side::suits<T>(p);
}

// ---------------------------------------------------------------------------------------------------- rows

PlaneShape plane_shape(const ConvProblem& p) {
  return {p.in[1],     p.in[2],       p.out[1],      p.out[2], p.kernel[1],
          p.kernel[2], p.dilation[1], p.dilation[2], p.pad[1], p.pad[2]};
}
PlaneShape adjoint_shape(const ConvProblem& p) {
  return {p.out[1],
          p.out[2],
          p.in[1],
          p.in[2],
          p.kernel[1],
          p.kernel[2],
          p.dilation[1],
          p.dilation[2],
          p.dilation[1] * (p.kernel[1] - 1) - p.pad[1],
          p.dilation[2] * (p.kernel[2] - 1) - p.pad[2]};
}

// The lanes of tap column s that exist for the outputs from column `left` on.
template <class T, int KW>
struct Columns {
  Lanes<T> lanes[KW];
  int64_t offset[KW];
  Columns(const PlaneShape& s, int64_t left) {
    for (int i = 0; i < KW; ++i) {
      offset[i] = left + i * s.dilation_w - s.pad_w;
      lanes[i] = Lanes<T>(-offset[i], s.in_w - offset[i]);
    }
  }
};

// y (+)= bias + the correlation of x with w. `first` are the columns of left = 0: narrow planes need no
// others.
template <class T, int KW, bool kAdd>
void correlate_rows(T* y, const T* x, const PlaneShape& s, const Columns<T, KW>& first, const T* w, T bias) {
  constexpr int width = kWidth<T>;
  for (int64_t left = 0; left < s.out_w; left += width) {
    const Columns<T, KW> columns = left == 0 ? first : Columns<T, KW>(s, left);
    const int count = int(std::min<int64_t>(width, s.out_w - left));
    for (int64_t h = 0; h < s.out_h; ++h) {
      Vec<T> acc = Vec<T>{} + bias;
      const int64_t top = h - s.pad_h;
      // The next plane's: a processor does not foresee the way of columns.
      __builtin_prefetch(x + (s.in_h + h) * s.in_w + left);
      __builtin_prefetch(y + (s.out_h + h) * s.out_w + left, 1);
      auto add = [&](int64_t r) {  // a sum of its own for each row of taps: short chains of additions
        const T* row = x + (top + r * s.dilation_h) * s.in_w;
        Vec<T> sum = w[r * KW] * columns.lanes[0].load(row + columns.offset[0]);
#pragma GCC unroll 7
        for (int i = 1; i < KW; ++i) sum += w[r * KW + i] * columns.lanes[i].load(row + columns.offset[i]);
        acc += sum;
      };
      if (s.kernel_h == 3 && top >= 0 &&
          top + 2 * s.dilation_h < s.in_h) {  // the usual case, without branches
        add(0);
        add(1);
        add(2);
      } else {
        for (int64_t r = 0; r < s.kernel_h; ++r)
          if (const int64_t from = top + r * s.dilation_h; from >= 0 && from < s.in_h) add(r);
      }
      T* to = y + h * s.out_w + left;
      if constexpr (kAdd) acc += load_n(to, count);
      store_n(to, acc, count);
    }
  }
}

// sums[tap] += lane by lane, the products of grad_y and the input that meets it; the next planes of both lie
// `next` elements behind.
template <class T, int KW>
void correlate_grad(Vec<T>* sums, const T* grad, const T* x, int64_t next_grad, int64_t next_x,
                    const PlaneShape& s, const Columns<T, KW>& first) {
  constexpr int width = kWidth<T>;
  for (int64_t left = 0; left < s.out_w; left += width) {
    const Columns<T, KW> columns = left == 0 ? first : Columns<T, KW>(s, left);
    const Lanes<T> inside(0, s.out_w - left);
    for (int64_t r = 0; r < s.kernel_h; ++r) {
      Vec<T> acc[KW];
#pragma GCC unroll 7
      for (int i = 0; i < KW; ++i) acc[i] = Vec<T>{};
      const int64_t shift = r * s.dilation_h - s.pad_h;
      for (int64_t h = std::max<int64_t>(0, -shift); h < std::min(s.out_h, s.in_h - shift); ++h) {
        const Vec<T> g = inside.load(grad + h * s.out_w + left);
        const T* row = x + (h + shift) * s.in_w;
        __builtin_prefetch(grad + next_grad + h * s.out_w + left);
        __builtin_prefetch(row + next_x + left);
#pragma GCC unroll 7
        for (int i = 0; i < KW; ++i) acc[i] += g * columns.lanes[i].load(row + columns.offset[i]);
      }
#pragma GCC unroll 7
      for (int i = 0; i < KW; ++i) sums[r * KW + i] += acc[i];
    }
  }
}

// The two functions for one plane, as FlatPlane has them.
template <class T, int KW>
struct RowPlane {
  PlaneShape shape;
  Columns<T, KW> first;
  explicit RowPlane(const PlaneShape& s) : shape(s), first(s, 0) {}
  template <bool kAdd>
  void correlate(T* y, const T* x, const T* kernel, T bias) const {
    correlate_rows<T, KW, kAdd>(y, x, shape, first, kernel, bias);
  }
  void correlate_grad(Vec<T>* sums, const T* grad, const T* x, int64_t next_grad, int64_t next_x) const {
    fastdl::correlate_grad<T, KW>(sums, grad, x, next_grad, next_x, shape, first);
  }
};

// f(plane) with the better of the two for stride 1 in two spatial axes; false if neither fits. Rows want a
// kernel that has an instance, a plane that stays in L1 (columns of vectors pass over it one after the
// other), and columns long enough to make up for their lanes: signals of one axis are better off as planes.
template <class T, class F>
bool with_plane(const ConvProblem& p, const PlaneShape& s, F&& f) {
  if (p.kernel[0] != 1 || p.in[0] != 1 || p.out[0] != 1 || p.pad[0] != 0 || p.stride != Extent{1, 1, 1})
    return false;
  if (FlatPlane<T>::suits(s))
    f(FlatPlane<T>(s));
  else if (s.out_h < 4 || p.in_size() * int64_t(sizeof(T)) > (24 << 10))
    return false;
  else if (s.kernel_w == 3)
    f(RowPlane<T, 3>(s));
  else if (s.kernel_w == 5)
    f(RowPlane<T, 5>(s));
  else if (s.kernel_w == 7)
    f(RowPlane<T, 7>(s));
  else
    return false;
  return true;
}

template <class T, class Plane>
void plane_forward(const ConvProblem& p, const Plane& plane, T* y, const T* x, const T* w, const T* bias) {
  const int64_t multiplier = p.group_out();
  parallel_for(p.batch * p.out_channels, grain(p), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t k = i % p.out_channels;
      plane.template correlate<false>(y + i * p.out_size(), x + i / multiplier * p.in_size(),
                                      w + k * p.taps(), bias ? bias[k] : T(0));
    }
  });
}

template <class T, class Plane>
void plane_grad_x(const ConvProblem& p, const Plane& plane, T* gx, const T* gy, const T* w, const T* bias) {
  const int64_t multiplier = p.group_out(), weights = p.out_channels * p.taps();
  memory::Buffer<T> backwards(static_cast<size_t>(weights));
  for (int64_t k = 0; k < p.out_channels; ++k)
    std::reverse_copy(w + k * p.taps(), w + (k + 1) * p.taps(), backwards + k * p.taps());
  parallel_for(p.batch * p.groups, grain(p), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i % p.groups;
      T* to = gx + i * p.in_size();
      const T* from = gy + i * multiplier * p.out_size();
      const T* taps = backwards + g * multiplier * p.taps();
      plane.template correlate<false>(to, from, taps, bias ? bias[g] : T(0));
      for (int64_t m = 1; m < multiplier; ++m)
        plane.template correlate<true>(to, from + m * p.out_size(), taps + m * p.taps(), T(0));
    }
  });
}

template <class T, class Plane>
void plane_grad_w(const ConvProblem& p, const Plane& plane, T* gw, const T* gy, const T* x) {
  const int64_t multiplier = p.group_out(), taps = p.taps(), results = p.out_channels * taps;
  // One task per channel for all images, or per channel and image where channels are few.
  const int64_t parts = p.out_channels >= 4 * num_threads() ? 1 : p.batch, images = p.batch / parts;
  memory::Buffer<T> partial(size_t(parts * results));
  parallel_for(parts * p.out_channels, ceil_div(grain(p), images), [&](int64_t begin, int64_t end) {
    memory::Buffer<Vec<T>> sums(static_cast<size_t>(taps));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i / p.out_channels, k = i % p.out_channels;
      std::fill_n(sums.get(), taps, Vec<T>{});
      for (int64_t n = part * images; n < (part + 1) * images; ++n)
        plane.correlate_grad(sums, gy + (n * p.out_channels + k) * p.out_size(),
                             x + (n * p.in_channels + k / multiplier) * p.in_size(),
                             p.out_channels * p.out_size(), p.in_channels * p.in_size());
      for (int64_t r = 0; r < taps; ++r) partial[i * taps + r] = reduce_add<T>(sums[r]);
    }
  });
  add_parts<T>(gw, partial.get(), results, parts);
}

// -------------------------------------------------------------------------------------------------- planes

// sums[f] (+)= sum over taps of w[taps[r]] * from[offsets[r] + f] for f < count, whole groups of vectors.
template <class T, bool kAdd>
void shift_add(T* sums, int64_t count, const T* from, const Lattice& lattice, const T* weights) {
  constexpr int w = kWidth<T>;
  const int64_t* offsets = lattice.offsets.data();
  const int64_t* taps = lattice.taps.data();
  const int64_t n = int64_t(lattice.taps.size());
  int64_t f = 0;
  auto group = [&]<int U>(std::integral_constant<int, U>) {
    Vec<T> acc[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) acc[u] = kAdd ? load(sums + f + u * w) : Vec<T>{};
    for (int64_t r = 0; r < n; ++r) {
      const T* x = from + offsets[r] + f;
      const T weight = weights[taps[r]];
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) acc[u] += weight * load(x + u * w);
    }
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) store<T>(sums + f + u * w, acc[u]);
    f += U * w;
  };
  while (f + kUnroll * w <= count) group(std::integral_constant<int, kUnroll>{});
  while (f < count) group(std::integral_constant<int, 1>{});
}

// Rows of flat sums to the positions of a lattice in one channel of the result.
template <class T>
void store_rows(T* channel, const Extent& extent, const Lattice& lattice, int64_t d, int64_t pitch,
                const T* sums, T bias) {
  constexpr int w = kWidth<T>;
  for (int64_t h = 0; h < lattice.count[1]; ++h, sums += pitch) {
    T* to = channel +
            ((lattice.first[0] + d * lattice.step[0]) * extent[1] + lattice.first[1] + h * lattice.step[1]) *
                extent[2] +
            lattice.first[2];
    const int64_t count = lattice.count[2], step = lattice.step[2];
    if (step == 1) {
      int64_t i = 0;
      for (; i + w <= count; i += w) store<T>(to + i, load(sums + i) + bias);
      if (i < count) store_n(to + i, load_n(sums + i, int(count - i)) + bias, int(count - i));
    } else {
      for (int64_t i = 0; i < count; ++i) to[i * step] = sums[i] + bias;
    }
  }
}

template <class T>
class Scratch {  // zeroed: the padding of planes stays zero
 public:
  explicit Scratch(int64_t size) : buffer_(size_t(size)) { std::fill_n(buffer_.get(), size, T(0)); }
  operator T*() const { return buffer_.get(); }

 private:
  memory::Buffer<T> buffer_;
};

// What reads and writes behind the last position amount to at most.
template <class T>
constexpr int64_t kSlack = kUnroll * kWidth<T>;

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  if (side_by_side_wins<T>(p, ConvPass::forward)) return side_by_side::forward<T>(p, y, x, w, bias);
  if (with_plane<T>(p, plane_shape(p), [&](const auto& plane) { plane_forward<T>(p, plane, y, x, w, bias); }))
    return;
  const auto planes = Planes<T>::of_input(p);
  const PlaneCopy<T> copy(planes);
  const Lattice lattice = forward_lattice(p, planes.tap_offsets());
  const int64_t multiplier = p.group_out(), flat = (p.out[1] - 1) * planes.width() + p.out[2];
  parallel_for(p.batch * p.groups, grain(p), [&](int64_t begin, int64_t end) {
    Scratch<T> plane(planes.size() + kSlack<T>), sums(flat + kSlack<T>);
    for (int64_t i = begin; i < end; ++i) {
      copy(plane, x + i * p.in_size(), 0, 1);
      for (int64_t m = 0; m < multiplier; ++m) {
        const int64_t k = i % p.groups * multiplier + m;
        for (int64_t d = 0; d < p.out[0]; ++d) {
          shift_add<T, false>(sums, flat, plane + planes.at(d, 0, 0), lattice, w + k * p.taps());
          store_rows<T>(y + (i * multiplier + m) * p.out_size(), p.out, lattice, d, planes.width(), sums,
                        bias ? bias[k] : T(0));
        }
      }
    }
  });
}

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  if (side_by_side_wins<T>(p, ConvPass::grad_x)) return side_by_side::grad_x<T>(p, gx, gy, w, bias);
  if (with_plane<T>(p, adjoint_shape(p),
                    [&](const auto& plane) { plane_grad_x<T>(p, plane, gx, gy, w, bias); }))
    return;
  const auto [layout, lattices] = grad_lattices(p, p.out_size());
  const Planes<T> planes(layout);
  const PlaneCopy<T> copy(planes);
  const int64_t multiplier = p.group_out();
  int64_t covered = 0, longest = 0;
  for (const Lattice& lattice : lattices) {
    covered += volume(lattice.count);
    longest = std::max(longest, (lattice.count[1] - 1) * planes.width() + lattice.count[2]);
  }
  parallel_for(p.batch * p.groups, grain(p), [&, &lattices = lattices](int64_t begin, int64_t end) {
    Scratch<T> plane(planes.size() + kSlack<T>), sums(longest + kSlack<T>);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i % p.groups;
      T* to = gx + i * p.in_size();
      const T b = bias ? bias[g] : T(0);
      if (covered < p.in_size()) std::fill_n(to, p.in_size(), b);
      copy(plane, gy + i * multiplier * p.out_size(), 0, multiplier);
      for (const Lattice& lattice : lattices) {
        const int64_t flat = (lattice.count[1] - 1) * planes.width() + lattice.count[2];
        for (int64_t d = 0; d < lattice.count[0]; ++d) {
          const T* from = plane + lattice.base + planes.at(d, 0, 0);
          shift_add<T, false>(sums, flat, from, lattice, w + g * multiplier * p.taps());
          for (int64_t m = 1; m < multiplier; ++m)
            shift_add<T, true>(sums, flat, from + m * planes.channel_size(), lattice,
                               w + (g * multiplier + m) * p.taps());
          store_rows<T>(to, p.in, lattice, d, planes.width(), sums, b);
        }
      }
    }
  });
}

// sums[r] += sum over f < count of grad[f] * from[offsets[r] + f]; both have whole vectors, grad zeros beyond
// its end.
template <class T, int R>
void correlate(T* sums, int64_t count, const T* grad, const T* from, const int64_t* offsets) {
  constexpr int w = kWidth<T>;
  constexpr int64_t stretch = 512 * w;  // positions summed per lane before the sum is put away
  const T* x[R];
  for (int r = 0; r < R; ++r) x[r] = from + offsets[r];
  for (int64_t first = 0; first < count; first += stretch) {
    Vec<T> acc[R];
#pragma GCC unroll 9
    for (int r = 0; r < R; ++r) acc[r] = Vec<T>{};
    for (int64_t f = first; f < std::min(count, first + stretch); f += w) {
      const Vec<T> g = load(grad + f);
#pragma GCC unroll 9
      for (int r = 0; r < R; ++r) acc[r] += g * load(x[r] + f);
    }
#pragma GCC unroll 9
    for (int r = 0; r < R; ++r) sums[r] += reduce_add<T>(acc[r]);
  }
}

template <class T, int... R>
constexpr auto correlate_table(std::integer_sequence<int, R...>) {
  using Function = void (*)(T*, int64_t, const T*, const T*, const int64_t*);
  return std::array<Function, sizeof...(R)>{&correlate<T, R + 1>...};
}
template <class T>
constexpr auto kCorrelate = correlate_table<T>(std::make_integer_sequence<int, kTaps>{});

template <class T>
void grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  if (side_by_side_wins<T>(p, ConvPass::grad_w)) return side_by_side::grad_w<T>(p, gw, gy, x);
  if (with_plane<T>(p, plane_shape(p), [&](const auto& plane) { plane_grad_w<T>(p, plane, gw, gy, x); }))
    return;
  const auto planes = Planes<T>::of_input(p);
  const PlaneCopy<T> copy(planes);
  const int64_t multiplier = p.group_out(), taps = p.taps(), width = planes.width();
  const int64_t flat = (p.out[1] - 1) * width + p.out[2], results = p.groups * multiplier * taps;
  memory::Buffer<T> partial(size_t(p.batch * results));
  parallel_for(p.batch * p.groups, grain(p), [&](int64_t begin, int64_t end) {
    Scratch<T> plane(planes.size() + kSlack<T>), grad(flat + kSlack<T>);
    for (int64_t i = begin; i < end; ++i) {
      copy(plane, x + i * p.in_size(), 0, 1);
      for (int64_t m = 0; m < multiplier; ++m) {
        T* sums = partial + (i * multiplier + m) * taps;
        std::fill_n(sums, taps, T(0));
        for (int64_t d = 0; d < p.out[0]; ++d) {
          const T* rows = gy + (i * multiplier + m) * p.out_size() + d * p.out[1] * p.out[2];
          for (int64_t h = 0; h < p.out[1]; ++h) copy_row(grad + h * width, rows + h * p.out[2], p.out[2]);
          for (int64_t r = 0; r < taps; r += kTaps)
            kCorrelate<T>[size_t(std::min<int64_t>(kTaps, taps - r) - 1)](
                sums + r, flat, grad, plane + planes.at(d, 0, 0), planes.tap_offsets().data() + r);
        }
      }
    }
  });
  add_parts<T>(gw, partial.get(), results, p.batch);
}

const char* refusal(const ConvProblem& p) {
  return p.group_in() == 1 ? nullptr : "it needs one input channel per group";
}
bool worthwhile(const ConvProblem& p, ConvPass pass) {
  // Planes times a number, unless they are small: as products they are read and written once, row after row.
  if (pass != ConvPass::grad_w && p.in_size() >= 512 && !conv_pointwise<float>().refusal(p)) return false;
  // Many results of a plane are products, with lanes across them, unless there are too many groups to begin.
  return (p.groups > 1 && p.group_out() < (p.groups < 64 ? 8 : 16)) || p.out_channels == 1;
}

}  // namespace

template <class T>
const ConvAlgorithm<T>& conv_depthwise() {
  static constexpr ConvAlgorithm<T> algorithm{"depthwise", refusal,   worthwhile, nullptr,
                                              forward<T>,  grad_x<T>, grad_w<T>};
  return algorithm;
}
template const ConvAlgorithm<float>& conv_depthwise<float>();

}  // namespace fastdl
