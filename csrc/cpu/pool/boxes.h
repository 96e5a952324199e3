// The windows of pooling as tables, regular and adaptive ones alike, and the boxes into which a plane is cut
// for working on kWidth planes side by side (side_by_side.cpp).
#pragma once

#include <vector>

#include "cpu/gemm/panels.h"
#include "cpu/rows.h"

namespace fastdl::side_by_side {
namespace {

constexpr int64_t kMostBytes = 512 << 10;  // of an interleaved box, except that one row is always taken

struct Range {
  int64_t first, end;
  int64_t size() const { return end - first; }
};

// The windows of one axis: tap i of output o meets input start[o] + i * dilation, inside the input for i in
// taps[o].
struct Windows {
  int64_t in, out, dilation = 1, reach = 1, step = 1;
  std::vector<int64_t> start;
  std::vector<Range> taps;
  int64_t kernel = 0;  // of regular windows
  Range whole{0, 0};   // the outputs whose taps all lie inside; their windows are `step` apart

  static Windows regular(const PoolAxis& a) {
    Windows w(a);
    w.dilation = a.dilation;
    w.reach = (a.kernel - 1) * a.dilation + 1;
    w.step = a.stride;
    w.kernel = a.kernel;
    for (int64_t o = 0; o < a.out; ++o) {
      w.start.push_back(a.start(o));
      w.taps.push_back({a.first_tap(o), std::max(a.first_tap(o), a.end_tap(o))});
      if (w.is_whole(w.taps.back())) w.whole = {w.whole.end ? w.whole.first : o, o + 1};
    }
    return w;
  }
  static Windows adaptive(const PoolAxis& a) {
    Windows w(a);
    for (int64_t o = 0; o < a.out; ++o) {
      const int64_t begin = o * a.in / a.out, end = ceil_div((o + 1) * a.in, a.out);
      w.start.push_back(begin);
      w.taps.push_back({0, end - begin});
      w.reach = std::max(w.reach, end - begin);
    }
    w.step = std::max<int64_t>(1, a.in / std::max<int64_t>(1, a.out));
    return w;
  }
  bool is_whole(Range r) const { return r.first == 0 && r.end == kernel; }
  // The inputs that windows of these outputs meet, and the outputs whose windows meet these inputs.
  Range inputs(Range outputs) const {
    Range r{in, 0};
    for (int64_t o = outputs.first; o < outputs.end; ++o) extend(r, o);
    return r.first < r.end ? r : Range{0, 0};
  }
  Range outputs(Range inputs) const {
    Range r{out, 0};
    for (int64_t o = 0; o < out; ++o)
      if (Range met{in, 0}; extend(met, o), met.first < inputs.end && inputs.first < met.end) {
        r.first = std::min(r.first, o);
        r.end = o + 1;
      }
    return r.first < r.end ? r : Range{0, 0};
  }
  // The taps of output o that fall into these inputs.
  Range taps_in(int64_t o, Range inputs) const {
    Range r = taps[size_t(o)];
    const int64_t at = start[size_t(o)];
    while (r.first < r.end && at + r.first * dilation < inputs.first) ++r.first;
    while (r.first < r.end && at + (r.end - 1) * dilation >= inputs.end) --r.end;
    return r;
  }

 private:
  explicit Windows(const PoolAxis& a) : in(a.in), out(a.out) {}
  void extend(Range& r, int64_t o) const {
    const Range t = taps[size_t(o)];
    if (t.first == t.end) return;
    r.first = std::min(r.first, start[size_t(o)] + t.first * dilation);
    r.end = std::max(r.end, start[size_t(o)] + (t.end - 1) * dilation + 1);
  }
};

struct Geometry {
  int64_t planes;
  Windows d, h, w;
  int64_t in_plane() const { return d.in * h.in * w.in; }
  int64_t out_plane() const { return d.out * h.out * w.out; }
  static Geometry regular(const PoolProblem& p) {
    return {p.planes, Windows::regular(p.d), Windows::regular(p.h), Windows::regular(p.w)};
  }
  static Geometry adaptive(const PoolProblem& p) {
    return {p.planes, Windows::adaptive(p.d), Windows::adaptive(p.h), Windows::adaptive(p.w)};
  }
};

// Whole rows of a plane and the outputs that go with them.
struct Box {
  Range in_d, in_h, out_d, out_h;
};

// Cuts a plane along outputs (forward) or inputs (backward). Boxes are so large that the rows which two of
// them share are an eighth at most, if the caches allow it, and so many that each thread finds some.
template <class T>
std::vector<Box> boxes_of(const Geometry& g, bool forward) {
  constexpr int64_t w = kWidth<T>, most = kMostBytes / int64_t(sizeof(T)) / w, enough = 512;
  const auto steps = [](const Windows& a, int64_t size) {  // outputs of a box whose positions have this size
    const int64_t shared = std::max<int64_t>(0, a.reach - a.step);
    const int64_t want = std::max(ceil_div(8 * shared, a.step), ceil_div(enough, a.step * size));
    const int64_t room = (most / size - shared) / a.step;
    return std::clamp<int64_t>(std::min(want, room), 1, std::max<int64_t>(1, a.out));
  };
  const int64_t blocks = ceil_div(g.planes, w), slice = g.h.in * g.w.in;
  int64_t depth = 1, height = std::max<int64_t>(1, g.h.out);
  if (slice * g.d.reach <= most)
    depth = steps(g.d, slice);
  else
    height = steps(g.h, g.w.in * g.d.reach);
  for (int64_t* size : {&depth, &height})
    while (*size > 1 && depth * height * g.w.out > 64 &&
           blocks * ceil_div(g.d.out, depth) * ceil_div(g.h.out, height) < 2 * num_threads())
      *size = ceil_div(*size, 2);

  const auto cut = [](int64_t n, int64_t size) {
    std::vector<Range> parts;
    for (int64_t i = 0, count = ceil_div(n, size); i < count; ++i)
      parts.push_back({n * i / count, n * (i + 1) / count});
    return parts;
  };
  std::vector<Box> boxes;
  for (const Range d : forward ? cut(g.d.out, depth) : cut(g.d.in, depth * g.d.step))
    for (const Range h : forward ? cut(g.h.out, height) : cut(g.h.in, height * g.h.step))
      boxes.push_back(forward ? Box{g.d.inputs(d), g.h.inputs(h), d, h}
                              : Box{d, h, g.d.outputs(d), g.h.outputs(h)});
  return boxes;
}

// f(first row in memory order, number of rows, elements before it in the box) for runs of a box's rows that
// follow each other in a plane.
template <class F>
void for_runs(Range d, Range h, int64_t height, int64_t width, F&& f) {
  if (h.size() == height) return f(d.first * height * width, d.size() * height * width, int64_t{0});
  for (int64_t i = d.first; i < d.end; ++i)
    f((i * height + h.first) * width, h.size() * width, (i - d.first) * h.size() * width);
}

}  // namespace
}  // namespace fastdl::side_by_side
