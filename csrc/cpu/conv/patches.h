// The patch matrix of a convolution, which never exists: where its rows (input channel and tap) meet its
// columns (output positions), and its panels for the matrix engine (cpu/gemm/panels.h), gathered from the
// image.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "cpu/conv/algorithm.h"
#include "cpu/conv/lanes.h"
#include "cpu/gemm/pack.h"
#include "cpu/gemm/tile.h"
#include "cpu/simd/copy_row.h"
#include "cpu/simd/interleave.h"

namespace fastdl {
namespace {

// Part of one output row of an image: `count` positions from `column` on, the first of which has its tap 0 at
// input position (d, h, w), maybe outside.
struct Segment {
  int64_t lane, count, image, column, d, h, w;
};

// Calls f(segment) for the rows that make up output positions [first, first + count), counted through all
// images.
template <class F>
void for_segments(const ConvProblem& p, int64_t first, int64_t count, F&& f) {
  for (int64_t lane = 0; lane < count;) {
    const int64_t position = first + lane, row = position / p.out[2], depth = row / p.out[1];
    const int64_t od = depth % p.out[0], oh = row % p.out[1], ow = position % p.out[2];
    const int64_t length = std::min(count - lane, p.out[2] - ow);
    f(Segment{lane, length, depth / p.out[0], ow, od * p.stride[0] - p.pad[0], oh * p.stride[1] - p.pad[1],
              ow * p.stride[2] - p.pad[2]});
    lane += length;
  }
}

// One row of the patch matrix: input channel and tap.
struct Row {
  int64_t channel;
  Extent tap;
  Row(const ConvProblem& p, int64_t index) : channel(index / p.taps()) {
    const int64_t r = index % p.taps();
    tap = {r / (p.kernel[1] * p.kernel[2]), r / p.kernel[2] % p.kernel[1], r % p.kernel[2]};
  }
  void next(const ConvProblem& p) {
    for (int axis = 2; axis >= 0; --axis) {
      if (++tap[size_t(axis)] < p.kernel[size_t(axis)]) return;
      tap[size_t(axis)] = 0;
    }
    ++channel;
  }
};

// A vector of a row whose elements are S apart in the source: n lanes are written, of which [begin, end)
// exist there and the others are zero. Masks are made once for the same part of many rows.
template <class T, int S>
class RowPart {
 public:
  static constexpr int w = simd::kWidth<T>;
  RowPart() = default;
  RowPart(int64_t begin, int64_t end, int n) : n_(n) {
    for (int v = 0; v < S; ++v) in_[v] = Lanes<T>(S * begin - v * w, S * (end - 1) + 1 - v * w);
  }
  [[gnu::always_inline]] void copy(T* to, const T* from) const {
    if constexpr (S == 1)
      simd::store_n(to, in_[0].load(from), n_);
    else
      simd::store_n(to, even_lanes<T>(in_[0].load(from), in_[1].load(from + w)), n_);
  }

 private:
  Lanes<T> in_[S];
  int n_ = 0;
};

// Where a segment meets a row of the patch matrix: x[source + j * stride] for j in [begin, end), zeros
// elsewhere.
struct Span {
  int64_t source, begin, end;
};

// The spans of a problem. Which outputs of a row meet the image depends on the tap's column alone, and is
// found once for each: a division takes as long as some vectors.
class Spans {
 public:
  explicit Spans(const ConvProblem& p) : p_(p) {
    for (int64_t r = 0; r < p.kernel[2]; ++r) {
      const int64_t start = r * p.dilation[2] - p.pad[2];  // what output 0 meets
      const int64_t low = start < 0 ? ceil_div(-start, p.stride[2]) : 0;
      const int64_t high = start < p.in[2] ? (p.in[2] - 1 - start) / p.stride[2] + 1 : 0;
      columns_.push_back({low, std::max(low, high)});
    }
  }
  // Is the image's row there?
  bool meet(const Segment& s, const Row& row) const {
    const int64_t d = s.d + row.tap[0] * p_.dilation[0], h = s.h + row.tap[1] * p_.dilation[1];
    return d >= 0 && d < p_.in[0] && h >= 0 && h < p_.in[1];
  }
  Span of(const Segment& s, const Row& row) const {
    if (!meet(s, row)) return {0, 0, 0};
    const int64_t d = s.d + row.tap[0] * p_.dilation[0], h = s.h + row.tap[1] * p_.dilation[1];
    const auto [low, high] = columns_[size_t(row.tap[2])];
    return {((row.channel * p_.in[0] + d) * p_.in[1] + h) * p_.in[2] + s.w + row.tap[2] * p_.dilation[2],
            std::clamp<int64_t>(low - s.column, 0, s.count),
            std::clamp<int64_t>(high - s.column, 0, s.count)};
  }

 private:
  const ConvProblem& p_;
  std::vector<std::pair<int64_t, int64_t>> columns_;
};

// B panels of the patch matrix: lanes are positions of one or more images. Tap by tap, so that where a tap
// meets the image is found once for all channels; with long strides a row of the kernel at a time, whose taps
// are neighbours in the image.
template <class T>
struct PackPatches {
  static constexpr int w = simd::kWidth<T>, lanes = tile::kNR<T>;
  const ConvProblem& p;
  const T* x;      // the group's channels of the first image
  int64_t origin;  // the position that is lane 0
  Spans spans{p};

  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    Segment segments[lanes];
    int n = 0;
    for_segments(p, origin + first, count, [&](const Segment& s) { segments[n++] = s; });
    if (gathers(p.out[2], p.stride[2]) &&
        p.batch * p.in_channels * p.in_size() <= std::numeric_limits<int>::max())
      return gather(panel, segments, n, Row(p, k0), kc);
    Row row(p, k0);
    const bool turned = w >= 4 && p.stride[2] > 2 && p.dilation[2] == 1 && p.kernel[2] >= 4;
    const int64_t taps = std::min(p.taps(), kc);
    for (int64_t i = 0, run; i < taps; i += run) {
      run = turned ? std::min(p.kernel[2] - row.tap[2], taps - i) : 1;
      Row last = row;
      last.tap[2] += run - 1;
      for (int j = 0; j < n; ++j) {
        const Segment& s = segments[j];
        Span span = spans.of(s, row);
        span.source += s.image * p.in_channels * p.in_size();
        T* to = panel + i * lanes + s.lane;
        const int64_t room = lanes - s.lane;
        if (turned) {
          const int64_t column = spans.meet(s, row) ? s.w + row.tap[2] : p.in[2];
          copy_turned(to, {span.source, span.begin, spans.of(s, last).end}, column, s.count, room, run,
                      kc - i);
          continue;
        }
        const auto copy = p.stride[2] == 1   ? &PackPatches::copy_vectors<1>
                          : p.stride[2] == 2 ? &PackPatches::copy_vectors<2>
                                             : &PackPatches::copy_rows;
        (this->*copy)(to, span, s.count, room, ceil_div(kc - i, p.taps()));
      }
      row = last;
      row.next(p);
    }
  }

  // Rows of a few positions: the places that a tap meets are listed once, and gathered in each channel. To
  // begin and end such a row would take longer than to copy it.
  [[gnu::noinline]] void gather(T* panel, const Segment* segments, int n, Row row, int64_t kc) const {
    using Ints = simd::Vec<simd::Int<T>>;
    constexpr int vectors = lanes / w;
    const int64_t taps = std::min(p.taps(), kc);
    for (int64_t i = 0; i < taps; ++i, row.next(p)) {
      alignas(64) simd::Int<T> places[lanes] = {}, met[lanes] = {};
      for (int j = 0; j < n; ++j) {
        const Segment& s = segments[j];
        const Span span = spans.of(s, row);
        const int64_t source = span.source + s.image * p.in_channels * p.in_size();
        for (int64_t k = span.begin; k < span.end; ++k) {
          places[s.lane + k] = simd::Int<T>(source + k * p.stride[2]);
          met[s.lane + k] = -1;
        }
      }
      T* to = panel + i * lanes;
      const T* from = x;
      for (int64_t k = i; k < kc; k += p.taps(), to += p.taps() * lanes, from += p.in_size())
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
          const Ints place = simd::load(places + v * w), keep = simd::load(met + v * w);
          simd::store<T>(to + v * w, (simd::Vec<T>)((Ints)simd::gather<T>(from, place) & keep));
        }
    }
  }

  // One segment and tap in `channels` channels; `room`: lanes from its first one on. Whole vectors where they
  // fit: what they have too much the next segment replaces, or nobody reads.
  template <int S>
  void copy_vectors(T* to, const Span& span, int64_t count, int64_t room, int64_t channels) const {
    for (int64_t v = 0; v < count; v += w) {
      const T* from = x + span.source + S * v;
      T* out = to + v;
      if (span.begin <= v && v + w <= span.end) {
        for (int64_t c = 0; c < channels; ++c, out += p.taps() * lanes, from += p.in_size())
          simd::store<T>(out, every<T, S>(from));
        continue;
      }
      const RowPart<T, S> part(span.begin - v, span.end - v, room - v >= w ? w : int(count - v));
      for (int64_t c = 0; c < channels; ++c, out += p.taps() * lanes, from += p.in_size())
        part.copy(out, from);
    }
  }
  void copy_rows(T* to, const Span& span, int64_t count, int64_t, int64_t channels) const {
    const T* from = x + span.source + span.begin * p.stride[2];
    for (int64_t c = 0; c < channels; ++c, to += p.taps() * lanes, from += p.in_size()) {
      std::fill_n(to, span.begin, T(0));
      copy_row(to + span.begin, from, span.end - span.begin, p.stride[2]);
      std::fill_n(to + span.end, count - span.end, T(0));
    }
  }

  // One segment and `run` neighbouring taps in all channels of `steps` steps: what a position meets lies
  // together and becomes a column, four taps at a time. All taps of positions [span.begin, span.end) meet the
  // image; position 0's first tap is the image's `column`.
  [[gnu::noinline]] void copy_turned(T* to, const Span& span, int64_t column, int64_t count, int64_t room,
                                     int64_t run, int64_t steps) const {
    const int64_t stride = p.stride[2], end = span.end, begin = std::min(span.begin, end);
    const auto each = [&](auto&& f) {  // channel
      T* out = to;
      const T* from = x + span.source;
      for (int64_t left = steps; left > 0; left -= p.taps(), out += p.taps() * lanes, from += p.in_size())
        f(out, from, std::min(run, left));
    };
    for (int64_t v = begin; v < end; v += w) {
      int64_t at[w];
      for (int i = 0; i < w; ++i) at[i] = std::min(v + i, end - 1) * stride;
      const int n = int(std::min<int64_t>(w, end - v));
      const bool whole = room - v >= w;
      each([&](T* out, const T* from, int64_t taps) {
        for (int64_t t = 0; t < taps && taps >= 4; t += 4) {  // the last four overlap those before
          const int64_t first = std::min(t, taps - 4);
          turn(out + first * lanes + v, from + first, at, n, whole);
        }
      });
    }
    const auto rest = [&](int64_t v0, int64_t v1, int64_t most) {
      if (v0 >= v1) return;
      each([&](T* out, const T* from, int64_t taps) {
        for (int64_t v = v0; v < v1 && taps <= most; ++v)
          for (int64_t t = 0; t < taps; ++t) {
            const int64_t i = v * stride + t;
            out[t * lanes + v] = column + i >= 0 && column + i < p.in[2] ? from[i] : T(0);
          }
      });
    };
    rest(0, begin, run);
    rest(begin, end, 3);  // blocks of k may end within a row of taps
    rest(end, count, run);
  }
  // Four numbers at each of w places become four vectors. Places 4 j + i make up vector i, quarter by
  // quarter, so that only quarters are left to transpose.
  [[gnu::always_inline]] void turn(T* to, const T* from, const int64_t* at, int count, bool whole) const {
    if constexpr (w >= 4) {
      constexpr auto all = std::make_integer_sequence<int, w>{};
      simd::Vec<T> a[4], b[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) a[i] = fours<w>(from, at + i);
#pragma GCC unroll 2
      for (int round = 0; round < 2; ++round) {
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          b[2 * i] = tile::zip_low<T, 4>(a[i], a[i + 2], all);
          b[2 * i + 1] = tile::zip_high<T, 4>(a[i], a[i + 2], all);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) a[i] = b[i];
      }
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t)
        whole ? simd::store<T>(to + t * lanes, a[t]) : simd::store_n(to + t * lanes, a[t], count);
    }
  }
  template <int N>
  using Numbers [[gnu::vector_size(N * sizeof(T))]] = T;
  template <int N>
  [[gnu::always_inline]] static Numbers<N> fours(const T* from, const int64_t* at) {
    if constexpr (N == 4) {
      Numbers<4> four;
      std::memcpy(&four, from + *at, sizeof(four));
      return four;
    } else {
      return join(fours<N / 2>(from, at), fours<N / 2>(from, at + N / 2),
                  std::make_integer_sequence<int, N>{});
    }
  }
  template <class V, int... I>
  [[gnu::always_inline]] static auto join(V a, V b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, I...);
  }
};

// B panels of its transpose over all images: lanes are (channel, tap), steps are (image, position). Step by
// step, so that lanes are written in order, and rows of any length take the same time.
template <class T>
struct PackPatchesTransposed {
  const ConvProblem& p;
  const T* x;  // the group's channels of the first image

  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    constexpr int lanes = tile::kNR<T>;
    int64_t from[3][lanes],
        ahead[lanes];  // lanes' places from what tap 0 of channel 0 meets: per axis; in all
    Row row(p, first);
    for (int lane = 0; lane < count; ++lane, row.next(p)) {
      for (size_t a = 0; a < kSpatial; ++a) from[a][lane] = row.tap[a] * p.dilation[a];
      ahead[lane] = place(row.channel * p.in[0] + from[0][lane], from[1][lane], from[2][lane]);
    }
    for_segments(p, k0, kc, [&](const Segment& s) {
      const bool rows_inside = inside(s.d, 0) && inside(s.h, 1);
      const T* image = x + s.image * p.in_channels * p.in_size();
      for (int64_t j = 0; j < s.count; ++j) {
        const int64_t column = s.w + j * p.stride[2], start = place(s.d, s.h, column);
        T* to = panel + (s.lane + j) * lanes;
        if (rows_inside && inside(column, 2))
          for (int lane = 0; lane < count; ++lane) to[lane] = image[start + ahead[lane]];
        else
          for (int lane = 0; lane < count; ++lane) {
            const bool met = within(s.d + from[0][lane], 0) && within(s.h + from[1][lane], 1) &&
                             within(column + from[2][lane], 2);
            to[lane] = met ? image[start + ahead[lane]] : T(0);
          }
      }
    });
  }

 private:
  int64_t place(int64_t d, int64_t h, int64_t w) const { return (d * p.in[1] + h) * p.in[2] + w; }
  bool within(int64_t i, size_t axis) const { return i >= 0 && i < p.in[axis]; }
  // Do all taps of a window that begins at `start` meet the image?
  bool inside(int64_t start, size_t axis) const {
    return start >= 0 && start + (p.kernel[axis] - 1) * p.dilation[axis] < p.in[axis];
  }
};

}  // namespace
}  // namespace fastdl
