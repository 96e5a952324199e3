// Pooling with kWidth planes side by side, one per lane: for short rows, strides of three and more,
// overlapping and uneven windows, on which a row of one plane costs more to arrange than to compare.
//
// Planes are cut into boxes of whole rows. Forward interleaves a box of the input, so that each position is
// one vector, walks over the windows' taps and takes the results apart again. Backward does the same with
// output gradients (and the winners' tap numbers), and adds to a box of the input's gradient in the order of
// the outputs. Windows come from tables per axis, regular or adaptive. Tap numbers are bytes and travel four
// to a lane (eight in double).
//
// Work: blocks of planes times boxes. Memory is passed over once each way, beside the rows that windows of
// two boxes share; a box stays in the caches.
#include "cpu/pool/side_by_side.h"

#include <vector>

#include "cpu/gemm/pack.h"
#include "cpu/pool/boxes.h"
#include "cpu/side_by_side.h"

namespace fastdl::side_by_side {
namespace {

// ------------------------------------------------------------------------- labels between lanes and memory

template <class T>
constexpr int kPacked = int(sizeof(T));  // labels in one lane

#if defined(__AVX512F__)
template <class T>
[[gnu::always_inline]] inline void store_bytes(void* to, Vec<T> v, int64_t n) {
  _mm512_mask_storeu_epi8(to, n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1, (__m512i)v);
}
template <class T>
[[gnu::always_inline]] inline Vec<T> load_bytes(const void* from, int64_t n) {
  return (Vec<T>)_mm512_maskz_loadu_epi8(n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1, from);
}
#else
template <class T>
[[gnu::always_inline]] inline void store_bytes(void* to, Vec<T> v, int64_t n) {
  std::memcpy(to, &v, size_t(std::min<int64_t>(n, sizeof v)));
}
template <class T>
[[gnu::always_inline]] inline Vec<T> load_bytes(const void* from, int64_t n) {
  Vec<T> v{};
  std::memcpy(&v, from, size_t(std::min<int64_t>(n, sizeof v)));
  return v;
}
#endif

// to[n * plane + e] = labels[e][n], and the other way round.
template <class T>
[[gnu::noinline]] void store_labels(uint8_t* to, int64_t plane, const Int<T>* labels, int count,
                                    int64_t elements) {
  constexpr int w = kWidth<T>, packed = kPacked<T>;
  for (int64_t e = 0; e < elements; e += w * packed, to += w * packed, labels += w * packed * w) {
    const int64_t left = elements - e;
    Vec<T> x[w];
    for (int i = 0; i < w; ++i) {
      Vec<Int<T>> lane{};
      for (int j = 0; j < packed && i * packed + j < left; ++j)
        lane |= load<Int<T>>(labels + (i * packed + j) * w) << 8 * j;
      x[i] = (Vec<T>)lane;
    }
    tile::transpose<T>(x);
    for (int i = 0; i < count; ++i) store_bytes<T>(to + i * plane, x[i], left);
  }
}
template <class T>
[[gnu::noinline]] void load_labels(Int<T>* labels, const uint8_t* from, int64_t plane, int count,
                                   int64_t elements) {
  constexpr int w = kWidth<T>, packed = kPacked<T>;
  for (int64_t e = 0; e < elements; e += w * packed, from += w * packed, labels += w * packed * w) {
    const int64_t left = elements - e;
    Vec<T> x[w];
    for (int i = 0; i < w; ++i) x[i] = i < count ? load_bytes<T>(from + i * plane, left) : Vec<T>{};
    tile::transpose<T>(x);
    for (int i = 0; i < w; ++i)
      for (int j = 0; j < packed && i * packed + j < left; ++j)
        store<Int<T>>(labels + (i * packed + j) * w, ((Vec<Int<T>>)x[i] >> 8 * j) & 255);
  }
}
template <class T>
void store_labels(int64_t* to, int64_t plane, const Int<T>* labels, int count, int64_t elements) {
  for (int n = 0; n < count; ++n)
    for (int64_t e = 0; e < elements; ++e) to[n * plane + e] = int64_t(labels[e * kWidth<T> + n]);
}

// ------------------------------------------------------------------------------------------------- windows

// Windows with all their taps, `count` of them beside each other: op.begin(output in the box, d, h, w), their
// taps in row-major order, op.end(output). kColumns = 0: any number.
template <int kColumns, class T, class Op>
void whole_windows(T* from, const Geometry& g, int64_t slice, int64_t row, int64_t count, int64_t out,
                   int64_t od, int64_t oh, int64_t ow, Op op) {
  constexpr int64_t w = kWidth<std::remove_const_t<T>>;
  const int64_t columns = kColumns ? kColumns : g.w.kernel, column = g.w.dilation * w;
  for (int64_t i = 0; i < count; ++i, from += g.w.step * w) {
    op.begin(out + i, od, oh, ow + i);
    T* at = from;
    for (int64_t d = 0; d < g.d.kernel; ++d, at += slice - g.h.kernel * row)
      for (int64_t h = 0; h < g.h.kernel; ++h, at += row)
#pragma GCC unroll 3
        for (int64_t k = 0; k < columns; ++k) op.tap(at + k * column);
    op.end(out + i);
  }
}

// Any window, with tap (0, 0, 0) at block[from], which may lie outside: op.begin(...) as above, op.clip(its taps),
// op.row(first tap of a row) before each row's taps, op.end(output).
template <class T, class Op>
void any_window(T* block, int64_t from, const Geometry& g, int64_t slice, int64_t row, int64_t out,
                int64_t od, int64_t oh, int64_t ow, const Range& d, const Range& h, Op op) {
  const int64_t column = g.w.dilation * kWidth<std::remove_const_t<T>>;
  const Range w = g.w.taps[size_t(ow)];
  op.begin(out, od, oh, ow);
  op.clip(od, oh, ow, d, h, w);
  for (int64_t i = d.first; i < d.end; ++i)
    for (int64_t j = h.first; j < h.end; ++j) {
      op.row(i, j, w.first);
      for (int64_t k = w.first; k < w.end; ++k) op.tap(block + (from + i * slice + j * row + k * column));
    }
  op.end(out);
}

// All windows of a box.
template <class T, class Op>
void for_windows(T* block, const Geometry& g, const Box& box, Op op) {
  constexpr int64_t w = kWidth<std::remove_const_t<T>>;
  const int64_t height = box.in_h.size() * g.w.in * w;
  const int64_t slice = g.d.dilation * height, row = g.h.dilation * g.w.in * w;
  int64_t out = 0;
  for (int64_t od = box.out_d.first; od < box.out_d.end; ++od) {
    const Range d = g.d.taps_in(od, box.in_d);
    for (int64_t oh = box.out_h.first; oh < box.out_h.end; ++oh, out += g.w.out) {
      const Range h = g.h.taps_in(oh, box.in_h);
      const int64_t line = (g.d.start[size_t(od)] - box.in_d.first) * height +
                           (g.h.start[size_t(oh)] - box.in_h.first) * g.w.in * w;
      const auto windows = [&](int64_t first, int64_t end) {
        for (int64_t ow = first; ow < end; ++ow)
          any_window(block, line + g.w.start[size_t(ow)] * w, g, slice, row, out + ow, od, oh, ow, d, h, op);
      };
      const Range whole = g.d.is_whole(d) && g.h.is_whole(h) ? g.w.whole : Range{0, 0};
      windows(0, whole.first);
      if (whole.size() > 0)
        (g.w.kernel == 2   ? whole_windows<2, T, Op>
         : g.w.kernel == 3 ? whole_windows<3, T, Op>
                           : whole_windows<0, T, Op>)(block + line + g.w.start[size_t(whole.first)] * w, g,
                                                      slice, row, whole.size(), out + whole.first, od, oh,
                                                      whole.first, op);
      windows(whole.end, g.w.out);
    }
  }
}

// How taps are numbered: tap (0, 0, 0) of an output, and the distances.
struct Numbering {
  bool positions;  // flat positions in the plane, or numbers of taps in their window
  int64_t d, h, w;
  static Numbering taps(const PoolProblem& p) { return {false, p.h.kernel * p.w.kernel, p.w.kernel, 1}; }
  static Numbering in_plane(const Geometry& g) { return {true, g.h.in * g.w.in, g.w.in, 1}; }
  int64_t origin(const Geometry& g, int64_t od, int64_t oh, int64_t ow) const {
    return positions ? g.d.start[size_t(od)] * d + g.h.start[size_t(oh)] * h + g.w.start[size_t(ow)] : 0;
  }
};

// The best value of a window and its number; among equals the first, and the last NaN.
template <class T>
struct Best {
  const Geometry& g;
  Numbering numbers;
  T* y;
  Int<T>* labels;
  int64_t origin = 0;
  Vec<T> best{};
  Vec<Int<T>> label{}, number{};

  [[gnu::always_inline]] void begin(int64_t, int64_t, int64_t, int64_t) {
    best = broadcast<T>(-std::numeric_limits<T>::infinity());
    label = number = Vec<Int<T>>{};
  }
  // A window of nothing but -inf reports its first tap inside the input, one without taps number 0.
  void clip(int64_t od, int64_t oh, int64_t ow, const Range& d, const Range& h, const Range& w) {
    origin = numbers.origin(g, od, oh, ow);
    if (d.size() > 0 && h.size() > 0 && w.size() > 0)
      label = broadcast<Int<T>>(at(d.first, h.first, w.first));
  }
  [[gnu::always_inline]] Int<T> at(int64_t i, int64_t j, int64_t k) const {
    return Int<T>(origin + i * numbers.d + j * numbers.h + k);
  }
  [[gnu::always_inline]] void row(int64_t i, int64_t j, int64_t k) {
    number = broadcast<Int<T>>(at(i, j, k));
  }
  [[gnu::always_inline]] void tap(const T* from) {
    const Vec<T> v = load<T>(from);
    const auto take = (v > best) | (v != v);
    best = take ? v : best;
    label = take ? number : label;
    number += 1;
  }
  [[gnu::always_inline]] void end(int64_t out) {
    store<T>(y + out * kWidth<T>, best);
    store<Int<T>>(labels + out * kWidth<T>, label);
  }
};

// Sends each gradient to the winner.
template <class T>
struct ToWinner {
  Numbering numbers;
  const T* grad_y;
  const Int<T>* labels;
  Vec<T> grad{};
  Vec<Int<T>> label{}, number{};

  [[gnu::always_inline]] void begin(int64_t out, int64_t, int64_t, int64_t) {
    grad = load<T>(grad_y + out * kWidth<T>);
    label = load<Int<T>>(labels + out * kWidth<T>);
    number = Vec<Int<T>>{};
  }
  void clip(int64_t, int64_t, int64_t, const Range&, const Range&, const Range&) {}
  void row(int64_t i, int64_t j, int64_t k) {
    number = broadcast<Int<T>>(Int<T>(i * numbers.d + j * numbers.h + k));
  }
  [[gnu::always_inline]] void tap(T* to) {
    const Vec<T> sum = load<T>(to);
    store<T>(to, label == number ? sum + grad : sum);
    number += 1;
  }
  [[gnu::always_inline]] void end(int64_t) {}
};

// What a sum over a window is divided by, as a product of one number per axis.
template <class T>
struct Divisors {
  std::vector<T> d, h, w;
  T of(int64_t od, int64_t oh, int64_t ow) const { return d[size_t(od)] * h[size_t(oh)] * w[size_t(ow)]; }
  static Divisors regular(const PoolProblem& p, bool include_pad, int64_t divisor) {
    const auto axis = [&](const PoolAxis& a, T constant) {
      std::vector<T> counts;
      for (int64_t o = 0; o < a.out; ++o) counts.push_back(divisor ? constant : T(a.count(o, include_pad)));
      return counts;
    };
    return {axis(p.d, T(divisor)), axis(p.h, T(1)), axis(p.w, T(1))};
  }
  static Divisors adaptive(const Geometry& g) {
    const auto axis = [](const Windows& a) {
      std::vector<T> counts;
      for (const Range& taps : a.taps) counts.push_back(T(taps.size()));
      return counts;
    };
    return {axis(g.d), axis(g.h), axis(g.w)};
  }
};

template <class T>
struct Mean {
  const Divisors<T>& divisors;
  T* y;
  Vec<T> sum{};
  T divisor = 1;

  [[gnu::always_inline]] void begin(int64_t, int64_t od, int64_t oh, int64_t ow) {
    sum = Vec<T>{};
    divisor = divisors.of(od, oh, ow);
  }
  void clip(int64_t, int64_t, int64_t, const Range&, const Range&, const Range&) {}
  void row(int64_t, int64_t, int64_t) {}
  [[gnu::always_inline]] void tap(const T* from) { sum += load<T>(from); }
  [[gnu::always_inline]] void end(int64_t out) { store<T>(y + out * kWidth<T>, sum / divisor); }
};

template <class T>
struct ToAll {
  const Divisors<T>& divisors;
  const T* grad_y;
  Vec<T> grad{};

  [[gnu::always_inline]] void begin(int64_t out, int64_t od, int64_t oh, int64_t ow) {
    grad = load<T>(grad_y + out * kWidth<T>) / divisors.of(od, oh, ow);
  }
  void clip(int64_t, int64_t, int64_t, const Range&, const Range&, const Range&) {}
  void row(int64_t, int64_t, int64_t) {}
  [[gnu::always_inline]] void tap(T* to) { store<T>(to, load<T>(to) + grad); }
  [[gnu::always_inline]] void end(int64_t) {}
};

// ------------------------------------------------------------------------------------------------- passes

// Elements of the largest box, interleaved, on either side.
template <class T>
struct Sizes {
  int64_t in = 0, out = 0;
  Sizes(const std::vector<Box>& boxes, const Geometry& g) {
    for (const Box& box : boxes) {
      in = std::max(in, box.in_d.size() * box.in_h.size() * g.w.in * kWidth<T>);
      out = std::max(out, box.out_d.size() * box.out_h.size() * g.w.out * kWidth<T>);
    }
  }
};

// f(first plane, planes, box) for all blocks of planes and boxes, `prepare()` giving each thread's f.
template <class T, class F>
void for_boxes(const Geometry& g, const std::vector<Box>& boxes, F&& prepare) {
  constexpr int64_t w = kWidth<T>;
  const Sizes<T> sizes(boxes, g);
  const int64_t count = int64_t(boxes.size()), tasks = ceil_div(g.planes, w) * count;
  parallel_for(tasks, rows_grain(sizes.in + 2 * sizes.out), [&](int64_t begin, int64_t end) {
    const memory::Buffer<T> in(size_t(sizes.in)), out(size_t(sizes.out));
    const memory::Buffer<Int<T>> labels(size_t(sizes.out));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / count * w;
      prepare(plane, int(std::min<int64_t>(w, g.planes - plane)), boxes[size_t(task % count)], in.get(),
              out.get(), labels.get());
    }
  });
}

// reduce(block, y, labels, box) is the pass in lanes; uint8_t* or int64_t* labels, null where nobody wants
// them.
template <class T, class Label, class F>
void forward(T* y, Label* labels, const T* x, const Geometry& g, F&& reduce) {
  for_boxes<T>(g, boxes_of<T>(g, true),
               [&](int64_t plane, int count, const Box& box, T* in, T* out, Int<T>* numbers) {
                 const T* from = x + plane * g.in_plane();
                 for_runs(box.in_d, box.in_h, g.h.in, g.w.in, [&](int64_t first, int64_t n, int64_t at) {
                   interleave(in + at * kWidth<T>, from + first, g.in_plane(), count, n);
                 });
                 reduce(in, out, numbers, box);
                 const int64_t to = plane * g.out_plane();
                 for_runs(box.out_d, box.out_h, g.h.out, g.w.out, [&](int64_t first, int64_t n, int64_t at) {
                   deinterleave(y + to + first, g.out_plane(), out + at * kWidth<T>, count, n);
                   if (labels)
                     store_labels<T>(labels + to + first, g.out_plane(), numbers + at * kWidth<T>, count, n);
                 });
               });
}

template <class T, class F>
void backward(T* grad_x, const T* grad_y, const uint8_t* labels, const Geometry& g, F&& spread) {
  for_boxes<T>(g, boxes_of<T>(g, false),
               [&](int64_t plane, int count, const Box& box, T* in, T* out, Int<T>* numbers) {
                 const int64_t from = plane * g.out_plane();
                 for_runs(box.out_d, box.out_h, g.h.out, g.w.out, [&](int64_t first, int64_t n, int64_t at) {
                   interleave(out + at * kWidth<T>, grad_y + from + first, g.out_plane(), count, n);
                   if (labels)
                     load_labels<T>(numbers + at * kWidth<T>, labels + from + first, g.out_plane(), count, n);
                 });
                 std::memset(in, 0,
                             size_t(box.in_d.size() * box.in_h.size() * g.w.in * kWidth<T>) * sizeof(T));
                 spread(in, out, numbers, box);
                 T* to = grad_x + plane * g.in_plane();
                 for_runs(box.in_d, box.in_h, g.h.in, g.w.in, [&](int64_t first, int64_t n, int64_t at) {
                   deinterleave(to + first, g.in_plane(), in + at * kWidth<T>, count, n);
                 });
               });
}

template <class T, class Label>
void forward_max(T* y, Label* labels, const T* x, const Geometry& g, const Numbering& numbers) {
  forward(y, labels, x, g, [&](const T* in, T* out, Int<T>* to, const Box& box) {
    for_windows(in, g, box, Best<T>{g, numbers, out, to});
  });
}
template <class T>
void forward_avg(T* y, const T* x, const Geometry& g, const Divisors<T>& divisors) {
  forward(y, static_cast<uint8_t*>(nullptr), x, g, [&](const T* in, T* out, Int<T>*, const Box& box) {
    for_windows(in, g, box, Mean<T>{divisors, out});
  });
}
template <class T>
void backward_avg(T* grad_x, const T* grad_y, const Geometry& g, const Divisors<T>& divisors) {
  backward(grad_x, grad_y, nullptr, g, [&](T* in, const T* out, const Int<T>*, const Box& box) {
    for_windows(in, g, box, ToAll<T>{divisors, out});
  });
}

}  // namespace

// Rows of single planes are better where they are long and nothing is shared between them, and where windows
// overlap so much that it pays to reduce rows first.
template <class T>
bool worthwhile(const PoolProblem& p, int64_t split) {
  constexpr int64_t w = kWidth<T>;
  if (p.planes < w) return false;
  if (Pairs(p).apply) return p.w.out < w / 2;
  if (p.d.kernel * p.h.kernel == 1 && p.w.stride <= split && p.w.out >= (p.w.stride <= 2 ? 2 : 8) * w)
    return false;
  const bool overlap = p.d.kernel > p.d.stride || p.h.kernel > p.h.stride || p.w.kernel > p.w.stride;
  return p.taps() <= (overlap ? 36 : 256);
}
template <class T>
bool adaptive_worthwhile(const PoolProblem& p) {
  return p.planes >= kWidth<T> && p.in_plane() < (int64_t{1} << 31);
}

template <class T>
void max_pool_forward(T* y, uint8_t* offsets, const T* x, const PoolProblem& p) {
  forward_max<T>(y, offsets, x, Geometry::regular(p), Numbering::taps(p));
}
template <class T>
void max_pool_backward(T* grad_x, const T* grad_y, const uint8_t* offsets, const PoolProblem& p) {
  const Geometry g = Geometry::regular(p);
  const Numbering numbers = Numbering::taps(p);
  backward(grad_x, grad_y, offsets, g, [&](T* in, const T* out, const Int<T>* labels, const Box& box) {
    for_windows(in, g, box, ToWinner<T>{numbers, out, labels});
  });
}
template <class T>
void avg_pool_forward(T* y, const T* x, const PoolProblem& p, bool count_include_pad, int64_t divisor) {
  forward_avg<T>(y, x, Geometry::regular(p), Divisors<T>::regular(p, count_include_pad, divisor));
}
template <class T>
void avg_pool_backward(T* grad_x, const T* grad_y, const PoolProblem& p, bool count_include_pad,
                       int64_t divisor) {
  backward_avg<T>(grad_x, grad_y, Geometry::regular(p), Divisors<T>::regular(p, count_include_pad, divisor));
}
template <class T>
void adaptive_max_pool_forward(T* y, int64_t* indices, const T* x, const PoolProblem& p) {
  const Geometry g = Geometry::adaptive(p);
  forward_max<T>(y, indices, x, g, Numbering::in_plane(g));
}
template <class T>
void adaptive_avg_pool_forward(T* y, const T* x, const PoolProblem& p) {
  const Geometry g = Geometry::adaptive(p);
  forward_avg<T>(y, x, g, Divisors<T>::adaptive(g));
}
template <class T>
void adaptive_avg_pool_backward(T* grad_x, const T* grad_y, const PoolProblem& p) {
  const Geometry g = Geometry::adaptive(p);
  backward_avg<T>(grad_x, grad_y, g, Divisors<T>::adaptive(g));
}

#define FASTDL_INSTANTIATE(T)                                                             \
  template void max_pool_forward<T>(T*, uint8_t*, const T*, const PoolProblem&);          \
  template void max_pool_backward<T>(T*, const T*, const uint8_t*, const PoolProblem&);   \
  template bool worthwhile<T>(const PoolProblem&, int64_t);                               \
  template bool adaptive_worthwhile<T>(const PoolProblem&);                               \
  template void avg_pool_forward<T>(T*, const T*, const PoolProblem&, bool, int64_t);     \
  template void avg_pool_backward<T>(T*, const T*, const PoolProblem&, bool, int64_t);    \
  template void adaptive_max_pool_forward<T>(T*, int64_t*, const T*, const PoolProblem&); \
  template void adaptive_avg_pool_forward<T>(T*, const T*, const PoolProblem&);           \
  template void adaptive_avg_pool_backward<T>(T*, const T*, const PoolProblem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::side_by_side
