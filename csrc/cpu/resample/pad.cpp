// Padding with constants, reflections, edge values or the other end; negative padding cuts off. Rolling is
// padding at one end with what is cut off at the other.
//
//   y[o0, o1, ...] = x[source0[o0], source1[o1], ...], or the constant where one of the sources is none
//   backward: grad_x[i] = sum of grad_y over the outputs whose source is i (constant padding is undone by
//   cutting)
//
// Any number of axes; work is split over rows (the last axis), whose middle is one contiguous copy, and over
// pieces of long rows. Backward gathers, so each input row has one owner. Passes over memory: one read and
// one write.
#include <algorithm>
#include <iterator>

#include "cpu/copy_rows.h"
#include "cpu/resample/resample.h"
#include "cpu/rows.h"

namespace fastdl {
namespace {

int64_t rows_of(const std::vector<PadAxis>& axes, bool out) {
  int64_t rows = 1;
  for (size_t a = 0; a + 1 < axes.size(); ++a) rows *= out ? axes[a].out : axes[a].in;
  return rows;
}

// The row's position on each leading axis.
std::vector<int64_t> position(int64_t row, const std::vector<PadAxis>& axes, bool out) {
  std::vector<int64_t> at(axes.size() - 1);
  for (size_t a = at.size(); a-- > 0;) {
    const int64_t extent = out ? axes[a].out : axes[a].in;
    at[a] = row % extent;
    row /= extent;
  }
  return at;
}
void advance(std::vector<int64_t>& at, const std::vector<PadAxis>& axes, bool out) {
  for (size_t a = at.size(); a-- > 0;) {
    if (++at[a] < (out ? axes[a].out : axes[a].in)) return;
    at[a] = 0;
  }
}

constexpr int64_t kPiece = 1 << 16;  // elements

// Vectors: memcpy takes several times as long where both are not aligned alike.
template <class T>
[[gnu::always_inline]] inline void copy(T* to, const T* from, int64_t n) {
  constexpr int w = simd::kWidth<T>;
  if (n < w)
    return copy_rows(reinterpret_cast<char*>(to), 0, reinterpret_cast<const char*>(from), 0,
                     n * int64_t(sizeof(T)), 1);
  int64_t i = 0;
  for (; i + w <= n; i += w) simd::store(to + i, simd::load(from + i));
  if (i < n) simd::store(to + n - w, simd::load(from + n - w));  // overlaps
}

// A row of outputs: stretches of consecutive inputs, or (from < 0) of the constant.
template <class T>
class Row {
 public:
  Row(const PadAxis& axis, T value) : out_(axis.out), value_(value) {
    for (int64_t o = 0; o < axis.copy_begin; ++o) append(o, o + 1, axis.source(o));
    if (axis.copy_begin < axis.copy_end) append(axis.copy_begin, axis.copy_end, axis.source(axis.copy_begin));
    for (int64_t o = axis.copy_end; o < axis.out; ++o) append(o, o + 1, axis.source(o));
    std::copy_if(stretches_.begin(), stretches_.end(), std::back_inserter(copies_),
                 [](const Stretch& s) { return s.from >= 0; });
  }

  // `count` rows from consecutive rows of x, `step` apart. Short rows have more beginnings than elements: the
  // constant is written all over them, and one stretch after the other copied over it.
  void write(T* to, const T* x, int64_t count, int64_t step) const {
    const int64_t block = out_ <= 4 * simd::kWidth<T> ? std::max<int64_t>(1, kBlock / out_) : 1;
    for (int64_t row = 0; row < count; row += block) {
      const int64_t rows = std::min(block, count - row);
      T* here = to + row * out_;
      const T* from = x + row * step;
      if (rows == 1) {
        write_part(here, from, 0, out_);
        continue;
      }
      if (copies_.size() < stretches_.size()) fill(here, rows * out_, value_);
      for (const Stretch& s : copies_)
        copy_rows(reinterpret_cast<char*>(here + s.first), out_ * kItem,
                  reinterpret_cast<const char*>(from + s.from), step * kItem, (s.last - s.first) * kItem,
                  rows);
    }
  }
  // Outputs [first, last) of it.
  void write_part(T* to, const T* x, int64_t first, int64_t last) const {
    for (const Stretch& s : stretches_) {
      const int64_t begin = std::max(first, s.first), end = std::min(last, s.last);
      if (begin >= end) continue;
      if (s.from < 0)
        fill(to + begin, end - begin, value_);
      else
        copy(to + begin, x + s.from + begin - s.first, end - begin);
    }
  }

 private:
  static constexpr int64_t kItem = sizeof(T), kBlock = 1024;
  struct Stretch {
    int64_t first, last, from;
  };
  void append(int64_t first, int64_t last, int64_t from) {
    if (!stretches_.empty()) {
      Stretch& s = stretches_.back();
      if (from < 0 ? s.from < 0 : s.from >= 0 && s.from + s.last - s.first == from) {
        s.last = last;
        return;
      }
    }
    stretches_.push_back({first, last, from});
  }
  int64_t out_;
  T value_;
  std::vector<Stretch> stretches_, copies_;  // all; those from x
};

// to[i] += from[i]
template <class T>
void add(T* to, const T* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// For each input of an axis the outputs that copy it.
struct Copies {
  std::vector<int64_t> begin, output;
  explicit Copies(const PadAxis& axis) : begin(size_t(axis.in) + 1, 0), output(size_t(axis.out)) {
    for (int64_t o = 0; o < axis.out; ++o) ++begin[size_t(axis.source(o)) + 1];
    for (size_t i = 1; i < begin.size(); ++i) begin[i] += begin[i - 1];
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (int64_t o = 0; o < axis.out; ++o) output[size_t(next[size_t(axis.source(o))]++)] = o;
  }
};

}  // namespace

template <class T>
void pad_forward(T* y, const T* x, const std::vector<PadAxis>& axes, T value) {
  const PadAxis& inner = axes.back();
  const int64_t n = inner.out, rows = rows_of(axes, true);
  if (rows * n == 0) return;
  const Row<T> pattern(inner, value);
  // Where the row of x is from which the row at this position comes, -1: none.
  const auto source_of = [&](const std::vector<int64_t>& at, size_t count) {
    int64_t from = 0;
    for (size_t a = 0; a < count && from >= 0; ++a) {
      const int64_t source = axes[a].source(at[a]);
      from = source < 0 ? -1 : from * axes[a].in + source;
    }
    return from;
  };
  if (rows < 4 * num_threads() && n > kPiece) {
    const int64_t pieces = ceil_div(n, kPiece);
    return parallel_for(rows * pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row = task / pieces, piece = task % pieces;
        const int64_t from = source_of(position(row, axes, true), axes.size() - 1);
        const int64_t first = n * piece / pieces, stop = n * (piece + 1) / pieces;
        if (from < 0)
          fill(y + row * n + first, stop - first, value);
        else
          pattern.write_part(y + row * n, x + from * inner.in, first, stop);
      }
    });
  }
  if (axes.size() == 1) return pattern.write(y, x, 1, 0);
  const size_t last = axes.size() - 2;  // of the rows' axes; the others change seldom
  parallel_for(rows, rows_grain(n + 16), [&](int64_t begin, int64_t end) {
    std::vector<int64_t> at = position(begin, axes, true);
    const PadAxis& axis = axes[last];
    for (int64_t row = begin; row < end;) {
      const int64_t outer = source_of(at, last), stop = std::min(axis.out, at[last] + end - row);
      for (int64_t h = at[last]; h < stop;) {
        const int64_t source = outer < 0 ? -1 : axis.source(h);
        const int64_t count =
            outer >= 0 && h >= axis.copy_begin && h < axis.copy_end ? std::min(axis.copy_end, stop) - h : 1;
        T* to = y + (row + h - at[last]) * n;
        if (source < 0)
          fill(to, n, value);
        else
          pattern.write(to, x + (outer * axis.in + source) * inner.in, count, inner.in);
        h += count;
      }
      row += stop - at[last];
      at[last] = stop - 1;
      advance(at, axes, true);
    }
  });
}

template <class T>
void pad_backward(T* grad_x, const T* grad_y, const std::vector<PadAxis>& axes) {
  const PadAxis& inner = axes.back();
  const int64_t n = inner.in, rows = rows_of(axes, false);
  if (rows * n == 0) return;
  std::vector<Copies> copies;
  for (size_t a = 0; a + 1 < axes.size(); ++a) copies.emplace_back(axes[a]);
  parallel_for(rows, rows_grain(n + inner.out + 16), [&](int64_t begin, int64_t end) {
    std::vector<int64_t> at = position(begin, axes, false), which(at.size());
    for (int64_t row = begin; row < end; ++row, advance(at, axes, false)) {
      T* to = grad_x + row * n;
      fill(to, n, T(0));
      // All combinations of the leading axes' copies, in row-major order.
      bool left = true;
      for (size_t a = 0; a < at.size(); ++a) {
        which[a] = copies[a].begin[size_t(at[a])];
        left &= which[a] < copies[a].begin[size_t(at[a]) + 1];
      }
      while (left) {
        int64_t out_row = 0;
        for (size_t a = 0; a < at.size(); ++a)
          out_row = out_row * axes[a].out + copies[a].output[size_t(which[a])];
        const T* from = grad_y + out_row * inner.out;
        for (int64_t o = 0; o < inner.copy_begin; ++o) to[inner.head[size_t(o)]] += from[o];
        if (inner.copy_begin < inner.copy_end)
          add(to + inner.copy_begin - inner.before, from + inner.copy_begin,
              inner.copy_end - inner.copy_begin);
        for (int64_t o = inner.copy_end; o < inner.out; ++o)
          to[inner.tail[size_t(o - inner.copy_end)]] += from[o];
        left = false;
        for (size_t a = at.size(); a-- > 0 && !left;) {
          left = ++which[a] < copies[a].begin[size_t(at[a]) + 1];
          if (!left) which[a] = copies[a].begin[size_t(at[a])];
        }
      }
    }
  });
}

#define FASTDL_INSTANTIATE(T)                                                       \
  template void pad_forward<T>(T*, const T*, const std::vector<PadAxis>&, T value); \
  template void pad_backward<T>(T*, const T*, const std::vector<PadAxis>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE
template void pad_forward<uint16_t>(uint16_t*, const uint16_t*, const std::vector<PadAxis>&, uint16_t value);

}  // namespace fastdl
