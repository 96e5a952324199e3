// Padding with constants, reflections, edge values or the other end; negative padding cuts off.
//
//   y[o0, o1, ...] = x[source0[o0], source1[o1], ...], or the constant where one of the sources is none
//   backward: grad_x[i] = sum of grad_y over the outputs whose source is i (constant padding is undone by
//   cutting)
//
// Any number of axes; work is split over rows (the last axis), whose middle is one contiguous copy, and over
// pieces of long rows. Backward gathers, so each input row has one owner. Passes over memory: one read and
// one write.
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
void copy(T* to, const T* from, int64_t n) {
  constexpr int w = simd::kWidth<T>;
  int64_t i = 0;
  for (; i + w <= n; i += w) simd::store(to + i, simd::load(from + i));
  if constexpr (sizeof(T) == 2) {  // no masks for half precision: a last vector that overlaps, or one by one
    if (i < n && n >= w) return simd::store(to + n - w, simd::load(from + n - w));
    for (; i < n; ++i) to[i] = from[i];
  } else if (i < n) {
    simd::store_n(to + i, simd::load_n(from + i, int(n - i)), int(n - i));
  }
}

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
  // Where the row of x is from which row `at` comes, -1: none. All axes but the last of them change seldom.
  const auto source_of = [&](const std::vector<int64_t>& at, size_t count) {
    int64_t from = 0;
    for (size_t a = 0; a < count && from >= 0; ++a) {
      const int64_t source = axes[a].source(at[a]);
      from = source < 0 ? -1 : from * axes[a].in + source;
    }
    return from;
  };
  const int64_t pieces = rows < 4 * num_threads() ? ceil_div(n, kPiece) : 1;  // of a long row
  parallel_for(rows * pieces, rows_grain(n / pieces + 16), [&](int64_t begin, int64_t end) {
    std::vector<int64_t> at = position(begin / pieces, axes, true);
    const size_t last = at.empty() ? 0 : at.size() - 1;
    int64_t outer = source_of(at, last);
    for (int64_t task = begin; task < end; ++task) {
      int64_t row = task, first = 0, stop = n;
      if (pieces > 1) {
        const int64_t piece = task % pieces;
        row = task / pieces, first = n * piece / pieces, stop = n * (piece + 1) / pieces;
      }
      T* to = y + row * n;
      int64_t from = outer;
      if (!at.empty() && outer >= 0) {
        const int64_t source = axes[last].source(at[last]);
        from = source < 0 ? -1 : outer * axes[last].in + source;
      }
      if (from < 0) {
        fill(to + first, stop - first, value);
      } else {
        const T* x_row = x + from * inner.in;
        const int64_t copy_begin = std::clamp(inner.copy_begin, first, stop),
                      copy_end = std::clamp(inner.copy_end, copy_begin, stop);
        for (int64_t o = first; o < copy_begin; ++o) {
          const int64_t source = inner.head[size_t(o)];
          to[o] = source < 0 ? value : x_row[source];
        }
        copy(to + copy_begin, x_row + copy_begin - inner.before, copy_end - copy_begin);
        for (int64_t o = copy_end; o < stop; ++o) {
          const int64_t source = inner.tail[size_t(o - inner.copy_end)];
          to[o] = source < 0 ? value : x_row[source];
        }
      }
      if (stop < n || at.empty()) continue;
      advance(at, axes, true);
      if (at[last] == 0) outer = source_of(at, last);
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
