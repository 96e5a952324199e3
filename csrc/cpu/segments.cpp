// Segments: (o, s) are spread over threads, a segment is one thread's. Passes: forward reads x once, backward the
// gradient and, of extremes and products, x and y; it writes grad_x once, and zeros before. Sums of numbers side by side
// (inner = 1) are added up in double.
//
// Bins: every thread counts a share of the values in counters of its own, which are added up in the order of shares.
#include "cpu/segments.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

template <class T>
T join(Segment how, T a, T b) {
  switch (how) {
    case Segment::sum:
    case Segment::mean:
      return a + b;
    case Segment::product:
      return a * b;
    case Segment::largest:  // a NaN stays, and replaces all else
      return a > b || a != a ? a : b;
    default:
      return a < b || a != a ? a : b;
  }
}

template <class T>
T sum_of(const T* x, int64_t count, double start) {
  double sums[4] = {start, 0, 0, 0};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4)
    for (int k = 0; k < 4; ++k) sums[k] += double(x[i + k]);
  for (; i < count; ++i) sums[0] += double(x[i]);
  return T((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// f(o, s, begin, end) for every segment.
template <class F>
void for_each_segment(const SegmentProblem& p, F&& f) {
  const int64_t count = p.outer * p.segments;
  const int64_t work = p.outer * p.n * p.inner / std::max<int64_t>(count, 1) + p.inner;
  parallel_for(count, std::max<int64_t>(1, 16384 / std::max<int64_t>(work, 1)), [&](int64_t i, int64_t end) {
    for (int64_t o = i / p.segments, s = i % p.segments; i < end; ++i) {
      const int64_t* offsets = p.offsets + o * (p.segments + 1) + s;
      f(o, s, offsets[0], offsets[1]);
      if (++s == p.segments) ++o, s = 0;
    }
  });
}

// The gradient of one column of a segment, `count` elements `step` apart.
template <class T>
void column_backward(Segment how, T* grad_x, T g, const T* x, T y, T start, int64_t count, int64_t step) {
  if (how == Segment::product) {
    T before = start, after = g;  // no division: right for zeros and infinities, too
    for (int64_t j = 0; j < count; ++j) {
      grad_x[j * step] = before;
      before *= x[j * step];
    }
    for (int64_t j = count; j-- > 0;) {
      grad_x[j * step] *= after;
      after *= x[j * step];
    }
    return;
  }
  const auto chosen = [=](int64_t j) { return x[j * step] == y || x[j * step] != x[j * step]; };
  int64_t ties = 0;
  for (int64_t j = 0; j < count; ++j) ties += chosen(j);
  const T share = g / T(std::max<int64_t>(ties, 1));
  for (int64_t j = 0; j < count; ++j) grad_x[j * step] = chosen(j) ? share : T(0);
}

}  // namespace

template <class T>
void segment_forward(Segment how, T* y, const T* x, T start, bool begun, const SegmentProblem& p) {
  for_each_segment(p, [&](int64_t o, int64_t s, int64_t begin, int64_t end) {
    T* to = y + (o * p.segments + s) * p.inner;
    const T* from = x + (o * p.n + begin) * p.inner;
    const bool adds = how == Segment::sum || how == Segment::mean;
    if (adds && p.inner == 1) {
      *to = sum_of(from, end - begin, double(start));
    } else {
      std::fill_n(to, p.inner, start);
      for (int64_t j = 0; j < (end - begin) * p.inner; j += p.inner)
        for (int64_t i = 0; i < p.inner; ++i) to[i] = join(how, to[i], from[j + i]);
    }
    if (how != Segment::mean) return;
    if (begin == end && begun) return;
    for (int64_t i = 0; i < p.inner; ++i)
      to[i] = begin == end ? std::numeric_limits<T>::quiet_NaN() : to[i] / T(end - begin);
  });
}

template <class T>
void segment_backward(Segment how, T* grad_x, const T* grad_y, const T* x, const T* y, T start,
                      const SegmentProblem& p) {
  const bool adds = how == Segment::sum || how == Segment::mean;
  std::fill_n(grad_x, p.outer * p.n * p.inner, T(0));
  for_each_segment(p, [&](int64_t o, int64_t s, int64_t begin, int64_t end) {
    const int64_t at = (o * p.segments + s) * p.inner, first = (o * p.n + begin) * p.inner;
    for (int64_t i = 0; i < p.inner; ++i) {
      const T g = grad_y[at + i];
      if (!adds) {
        column_backward(how, grad_x + first + i, g, x + first + i, y[at + i], start, end - begin, p.inner);
      } else {
        const T share = how == Segment::mean ? g / T(std::max<int64_t>(end - begin, 1)) : g;
        for (int64_t j = 0; j < end - begin; ++j) grad_x[first + j * p.inner + i] = share;
      }
    }
  });
}

template <class T>
void count_in_bins(int64_t* counts, const T* x, int64_t n, T low, T high, int64_t bins, const T* edges) {
  std::fill_n(counts, bins, 0);
  const int64_t grain = std::max<int64_t>(8192, bins);
  const int64_t chunks = chunk_count(n, grain);
  memory::Buffer<int64_t> all(size_t(chunks * bins));
  // By a power of two smaller where the products would overflow.
  const T unit = std::isfinite((high - low) * T(bins)) ? T(1) : T(0x1p-66);
  const T first = low * unit, range = high * unit - first;
  parallel_chunks(n, grain, [&](int64_t chunk, int64_t begin, int64_t end) {
    int64_t* own = all.get() + chunk * bins;
    std::fill_n(own, bins, 0);
    for (int64_t i = begin; i < end; ++i) {
      const T value = x[i];
      if (!(value >= low && value <= high)) continue;  // a NaN as well
      int64_t bin = std::min(int64_t((value * unit - first) * T(bins) / range), bins - 1);
      if (edges) {
        while (bin > 0 && value < edges[bin]) --bin;
        while (bin + 1 < bins && value >= edges[bin + 1]) ++bin;
      }
      ++own[bin];
    }
  });
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int64_t b = 0; b < bins; ++b) counts[b] += all[chunk * bins + b];
}

#define FASTDL_INSTANTIATE(T)                                                                             \
  template void segment_forward<T>(Segment, T*, const T*, T, bool, const SegmentProblem&);                \
  template void segment_backward<T>(Segment, T*, const T*, const T*, const T*, T, const SegmentProblem&); \
  template void count_in_bins<T>(int64_t*, const T*, int64_t, T, T, int64_t, const T*);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
