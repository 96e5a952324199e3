// Reductions of runs of elements that stand one after the other, and counts of values in equal bins: what threads share
// and memory feeds. Compiled once, for all levels.
#pragma once

#include <cstdint>

namespace fastdl {

enum class Segment { sum, mean, largest, smallest, product };

// x is (outer, n, inner); segment s of slice o is x[o, offsets[o, s] : offsets[o, s + 1]], y (outer, segments, inner).
struct SegmentProblem {
  int64_t outer, n, inner, segments;
  const int64_t* offsets;  // (outer, segments + 1), rising, in [0, n]
};

// y = `start` joined with the elements of each segment; the mean of none is NaN unless `begun`: start was given.
template <class T>
void segment_forward(Segment how, T* y, const T* x, T start, bool begun, const SegmentProblem& p);

// Extremes that are equal, or NaN, share the gradient; what is in no segment has none.
template <class T>
void segment_backward(Segment how, T* grad_x, const T* grad_y, const T* x, const T* y, T start,
                      const SegmentProblem& p);

// counts[b] = how many of x lie in bin b of `bins` equal ones from low to high, both included. `edges` (bins + 1, may be
// null): a value beside a border goes to the bin between whose edges it is.
template <class T>
void count_in_bins(int64_t* counts, const T* x, int64_t n, T low, T high, int64_t bins, const T* edges);

}  // namespace fastdl
