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
#include <cstring>

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

constexpr int64_t kPiece = 1 << 18;  // bytes, of a long row

// Vectors: memcpy takes several times as long where both are not aligned alike.
void copy(char* to, const char* from, int64_t bytes) {
  constexpr int64_t kHalf = 16;
  int64_t i = 0;
  if (bytes >= kBytes) {
    for (; i + kBytes <= bytes; i += kBytes) simd::store(to + i, simd::load(from + i));
    simd::store(to + bytes - kBytes, simd::load(from + bytes - kBytes));  // overlaps
  } else if (bytes >= kHalf) {
    for (; i + kHalf <= bytes; i += kHalf) std::memcpy(to + i, from + i, kHalf);
    std::memcpy(to + bytes - kHalf, from + bytes - kHalf, kHalf);
  } else {
    copy_rows(to, 0, from, 0, bytes, 1);
  }
}
void fill(char* to, int64_t bytes, uint64_t pattern) {
  const auto all = (Vec<char>)broadcast(pattern);
  int64_t i = 0;
  for (; i + kBytes <= bytes; i += kBytes) simd::store(to + i, all);
  std::memcpy(to + i, &all, size_t(bytes - i));
}

// A row of outputs: stretches of consecutive inputs, or (from < 0) of the constant, whose bytes repeat `pattern`.
// Places are in bytes.
class Row {
 public:
  Row(const PadAxis& axis, int64_t item, uint64_t pattern)
      : bytes_(axis.out * item), item_(item), pattern_(pattern) {
    append_border(axis, 0, axis.copy_begin);
    if (axis.copy_begin < axis.copy_end) append(axis.copy_begin, axis.copy_end, axis.source(axis.copy_begin));
    append_border(axis, axis.copy_end, axis.out);
    for (const Stretch& s : stretches_) {
      has_constants_ |= s.from < 0;
      const bool by_element = s.last - s.first <= kMostElements * item;
      if (!by_element) long_.push_back(s);
      for (int64_t at = 0; by_element && at < s.last - s.first; at += item)
        (s.from < 0 ? constants_ : elements_).push_back({s.first + at, s.last, s.from + at});
    }
  }

  // `count` rows from consecutive rows of x, `step` bytes apart. Short rows have more beginnings than elements:
  // the constant is written all over them, and one stretch after the other copied over it.
  void write(char* to, const char* x, int64_t count, int64_t step) const {
    if (bytes_ <= kShortRow && count > 1) return write_block(to, x, count, step);
    if (item_ == 8) return write_rows<uint64_t>(to, x, count, step);
    if (item_ == 4) return write_rows<uint32_t>(to, x, count, step);
    write_rows<uint16_t>(to, x, count, step);
  }
  // Its bytes [first, last).
  void write_part(char* to, const char* x, int64_t first, int64_t last) const {
    for (const Stretch& s : stretches_) {
      const int64_t begin = std::max(first, s.first), end = std::min(last, s.last);
      if (begin < end) write_stretch(to, x, {begin, end, s.from < 0 ? s.from : s.from + begin - s.first});
    }
  }

 private:
  static constexpr int64_t kBlock = 4096, kMostElements = 8;
  static constexpr int64_t kShortRow = std::min(128, 4 * kBytes);
  struct Stretch {
    int64_t first, last, from;
  };
  void write_stretch(char* to, const char* x, const Stretch& s) const {
    if (s.from < 0)
      fill(to + s.first, s.last - s.first, pattern_);
    else
      copy(to + s.first, x + s.from, s.last - s.first);
  }
  void write_block(char* to, const char* x, int64_t count, int64_t step) const {
    const int64_t block = kBlock / bytes_;
    for (int64_t row = 0; row < count; row += block) {
      const int64_t rows = std::min(block, count - row);
      char* here = to + row * bytes_;
      if (has_constants_) fill(here, rows * bytes_, pattern_);
      for (const Stretch& s : stretches_)
        if (s.from >= 0)
          copy_rows(here + s.first, bytes_, x + row * step + s.from, step, s.last - s.first, rows);
    }
  }
  // Long stretches, then the elements of short ones, such as borders, one by one. The constant takes whole vectors
  // where rows follow: what these cover too much is written afterwards.
  template <class Item>
  void write_rows(char* to, const char* x, int64_t count, int64_t step) const {
    const auto constant = Item(pattern_);
    const auto all = (Vec<char>)broadcast(pattern_);
    for (; has_constants_ && count > 1; --count, to += bytes_, x += step)
      for (const Stretch& s : stretches_) {
        if (s.from >= 0) copy(to + s.first, x + s.from, s.last - s.first);
        for (int64_t at = s.first; s.from < 0 && at < s.last; at += kBytes) simd::store(to + at, all);
      }
    for (int64_t row = 0; row < count; ++row, to += bytes_, x += step) {
      for (const Stretch& s : long_) write_stretch(to, x, s);
      for (const Stretch& s : elements_) std::memcpy(to + s.first, x + s.from, sizeof(Item));
      for (const Stretch& s : constants_) std::memcpy(to + s.first, &constant, sizeof(Item));
    }
  }
  // Sources go up by one at most, so the ends tell whether all outputs in between are from one stretch. (Rolling may
  // take nearly the whole row for a border.)
  void append_border(const PadAxis& axis, int64_t first, int64_t last) {
    if (first >= last) return;
    const int64_t low = axis.source(first), high = axis.source(last - 1);
    if (high - low == last - 1 - first || (low < 0 && high < 0)) return append(first, last, low);
    for (int64_t o = first; o < last; ++o) append(o, o + 1, axis.source(o));
  }
  // Outputs [first, last) from inputs `from` on.
  void append(int64_t first, int64_t last, int64_t from) {
    first *= item_, last *= item_, from *= item_;
    if (!stretches_.empty()) {
      Stretch& s = stretches_.back();
      if (from < 0 ? s.from < 0 : s.from >= 0 && s.from + s.last - s.first == from) {
        s.last = last;
        return;
      }
    }
    stretches_.push_back({first, last, from});
  }
  int64_t bytes_, item_;
  uint64_t pattern_;
  bool has_constants_ = false;
  std::vector<Stretch> stretches_;                    // all
  std::vector<Stretch> long_, elements_, constants_;  // once more, short ones by element
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

void pad_forward(char* y, const char* x, const std::vector<PadAxis>& axes, int64_t item, uint64_t pattern) {
  const PadAxis& inner = axes.back();
  const int64_t bytes = inner.out * item, from_bytes = inner.in * item, rows = rows_of(axes, true);
  if (rows * bytes == 0) return;
  const Row row_of(inner, item, pattern);
  // Which row of x the one at this position is from, -1: none.
  const auto source_of = [&](const std::vector<int64_t>& at, size_t count) {
    int64_t from = 0;
    for (size_t a = 0; a < count && from >= 0; ++a) {
      const int64_t source = axes[a].source(at[a]);
      from = source < 0 ? -1 : from * axes[a].in + source;
    }
    return from;
  };
  if (rows < 4 * num_threads() && bytes > kPiece) {
    const int64_t pieces = ceil_div(bytes, kPiece);
    return parallel_for(rows * pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row = task / pieces, first = task % pieces * kPiece,
                      stop = std::min(bytes, first + kPiece);
        const int64_t from = source_of(position(row, axes, true), axes.size() - 1);
        if (from < 0)
          fill(y + row * bytes + first, stop - first, pattern);
        else
          row_of.write_part(y + row * bytes, x + from * from_bytes, first, stop);
      }
    });
  }
  if (axes.size() == 1) return row_of.write(y, x, 1, 0);
  const size_t last = axes.size() - 2;  // of the rows' axes; the others change seldom
  const PadAxis& axis = axes[last];
  parallel_for(rows, rows_grain(bytes / 4 + 16), [&](int64_t begin, int64_t end) {
    std::vector<int64_t> at = position(begin, axes, true);
    for (int64_t row = begin; row < end;) {
      const int64_t outer = source_of(at, last), stop = std::min(axis.out, at[last] + end - row);
      for (int64_t h = at[last]; h < stop;) {
        const int64_t source = outer < 0 ? -1 : axis.source(h);
        const bool copied = outer >= 0 && h >= axis.copy_begin && h < axis.copy_end;
        // Those that follow are made like this one as far as
        const int64_t alike = copied                ? axis.copy_end
                              : outer < 0           ? stop
                              : !axis.constant      ? h + 1
                              : h < axis.copy_begin ? axis.copy_begin
                                                    : stop;
        const int64_t count = std::min(alike, stop) - h;
        char* to = y + (row + h - at[last]) * bytes;
        if (source < 0)
          fill(to, count * bytes, pattern);
        else
          row_of.write(to, x + (outer * axis.in + source) * from_bytes, count, from_bytes);
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

template void pad_backward<float>(float*, const float*, const std::vector<PadAxis>&);
template void pad_backward<double>(double*, const double*, const std::vector<PadAxis>&);

}  // namespace fastdl
