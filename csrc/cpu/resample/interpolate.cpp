// Interpolation, forward and backward: y[d, h, w] = sum over the taps of each axis of wd * wh * ww * x[id,
// ih, iw].
//
// The tables of common/resample.h say which inputs and weights; a gradient is the same sum with transposed
// tables, so one kernel does both and nothing is saved. Work is split over output rows. Rows are combined by
// contiguous vectors, columns by gathering from one row in cache. Where there are fewer input rows than
// output rows, columns come first and resampled rows are kept while the window moves over them; otherwise
// rows come first. An output row made of the same input rows with the same weights as the one before is a
// copy of it. Narrow planes are done as wholes. Passes over memory: one read and one write.
#include "cpu/resample/resample.h"
#include "cpu/rows.h"

namespace fastdl {
namespace {

template <class T>
class Columns {
 public:
  // Of `rows` neighbouring rows as one.
  explicit Columns(const ResampleAxis<T>& a, int64_t rows = 1)
      : in_(rows * a.in), out_(rows * a.out), pitch_(round_up<T>(out_)) {
    bool ones = true;
    for (T weight : a.weight) ones &= weight == T(1);
    for (int64_t o = 0; o < a.out; ++o) taps_ = std::max(taps_, count(a, o));
    for (int64_t o = 0; o < a.out; ++o) ragged_ |= count(a, o) != taps_;
    bool same = in_ == out_, twice = out_ == 2 * in_;
    index_.assign(size_t(taps_ * pitch_), 0);
    weight_.assign(size_t(taps_ * pitch_), T(0));
    for (int64_t place = 0; place < out_; ++place)
      for (int64_t t = 0; t < taps_; ++t) {
        // Missing taps read the zero behind the row.
        const int64_t row = place / a.out, o = place % a.out;
        const bool present = t < count(a, o);
        const auto k = size_t(a.begin[size_t(o)] + t), at = size_t(t * pitch_ + place);
        index_[at] = Int<T>(present ? row * a.in + a.index[k] : in_);
        weight_[at] = present ? a.weight[k] : T(0);
        same &= present && a.index[k] == o;
        twice &= present && a.index[k] == o / 2;
      }
    const bool single = ones && taps_ == 1;
    copies_ = single && same;
    doubles_ = single && twice;
  }

  int64_t out_pitch() const { return pitch_; }
  // Room that a thread needs: a row and the zero behind it.
  int64_t room() const { return ragged_ ? in_ + 1 : 0; }

  // y has room for whole vectors.
  [[gnu::noinline]] void operator()(const T* x, T* y, T* room) const {
    if (copies_) {
      std::memcpy(y, x, size_t(out_) * sizeof(T));
      return;
    }
    if (doubles_) {
      int64_t i = 0;
      for (; i + kWidth<T> <= in_; i += kWidth<T>) {
        const Vec<T> v = load<T>(x + i);
        store<T>(y + 2 * i, zip_low<T>(v, v));
        store<T>(y + 2 * i + kWidth<T>, zip_high<T>(v, v));
      }
      for (; i < in_; ++i) y[2 * i] = y[2 * i + 1] = x[i];
      return;
    }
    if (ragged_) {
      std::memcpy(room, x, size_t(in_) * sizeof(T));
      room[in_] = 0;
      x = room;
    }
    switch (taps_) {
      case 1:
        return sum<1>(x, y);
      case 2:
        return sum<2>(x, y);
      case 4:
        return sum<4>(x, y);
      default:
        return sum<0>(x, y);
    }
  }

 private:
  static int64_t count(const ResampleAxis<T>& a, int64_t o) {
    return a.begin[size_t(o) + 1] - a.begin[size_t(o)];
  }

  template <int kTaps>
  void sum(const T* x, T* y) const {
    const int64_t taps = kTaps ? kTaps : taps_;
    for (int64_t o = 0; o < pitch_; o += kWidth<T>) {
      Vec<T> total{};
#pragma GCC unroll 4
      for (int64_t t = 0; t < taps; ++t) {
        const auto at = size_t(t * pitch_ + o);
        total += load<T>(weight_.data() + at) * gather<T>(x, load<Int<T>>(index_.data() + at));
      }
      store<T>(y + o, total);
    }
  }

  int64_t in_, out_, pitch_, taps_ = 0;
  bool ragged_ = false, copies_ = false, doubles_ = false;
  std::vector<Int<T>> index_;
  std::vector<T> weight_;
};

// The most rows between the first and the last input of any output.
template <class T>
int64_t span(const ResampleAxis<T>& a) {
  int64_t most = 1;
  for (int64_t o = 0; o < a.out; ++o)
    if (const int64_t begin = a.begin[size_t(o)], end = a.begin[size_t(o) + 1]; begin < end) {
      const auto [low, high] = std::minmax_element(a.index.begin() + begin, a.index.begin() + end);
      most = std::max(most, *high - *low + 1);
    }
  return most;
}

template <class T>
struct WeightedRow {
  const T* row;
  T weight;
  bool operator==(const WeightedRow&) const = default;
};

// to[0, n) = weighted sum of rows. Exact copies stay exact: 1 * x, without adding to zero.
template <class T>
void combine(const std::vector<WeightedRow<T>>& rows, T* to, int64_t n) {
  for (int64_t i = 0; i < n; i += kWidth<T>) {
    const int left = int(std::min<int64_t>(kWidth<T>, n - i));
    const auto at = [&](const T* p) { return left == kWidth<T> ? load<T>(p + i) : load_n(p + i, left); };
    Vec<T> total{};
    if (!rows.empty()) total = rows[0].weight * at(rows[0].row);
    for (size_t k = 1; k < rows.size(); ++k) total += rows[k].weight * at(rows[k].row);
    if (left == kWidth<T>)
      store<T>(to + i, total);
    else
      store_n(to + i, total, left);
  }
}

template <class T>
void resample_rows(T* y, const T* x, const ResampleProblem<T>& p, const Columns<T>& columns, int64_t begin,
                   int64_t end) {
  const bool columns_first = p.d.in * p.h.in <= p.d.out * p.h.out;
  const int64_t pitch = columns.out_pitch() + kWidth<T>;
  RowCache cache(columns_first ? span(p.d) : 0, span(p.h), p.d.in, p.h.in);
  memory::Buffer<T> kept(size_t(cache.slots() * pitch));
  memory::Buffer<T> line(static_cast<size_t>(p.w.in)), result(static_cast<size_t>(pitch)),
      room(static_cast<size_t>(columns.room()));
  std::vector<WeightedRow<T>> rows, previous;

  RowCursor at(begin, p.d.out, p.h.out);
  for (int64_t row = begin; row < end; ++row, at.next()) {
    T* y_row = y + row * p.w.out;
    rows.clear();
    for (int64_t i = p.d.begin[size_t(at.d)]; i < p.d.begin[size_t(at.d) + 1]; ++i)
      for (int64_t j = p.h.begin[size_t(at.h)]; j < p.h.begin[size_t(at.h) + 1]; ++j) {
        const int64_t d = p.d.index[size_t(i)], h = p.h.index[size_t(j)];
        rows.push_back({x + ((at.plane * p.d.in + d) * p.h.in + h) * p.w.in,
                        p.d.weight[size_t(i)] * p.h.weight[size_t(j)]});
      }
    if (row > begin && rows == previous) {
      std::memcpy(y_row, y_row - p.w.out, size_t(p.w.out) * sizeof(T));
      continue;
    }
    previous = rows;
    if (columns_first) {
      size_t k = 0;
      for (int64_t i = p.d.begin[size_t(at.d)]; i < p.d.begin[size_t(at.d) + 1]; ++i)
        for (int64_t j = p.h.begin[size_t(at.h)]; j < p.h.begin[size_t(at.h) + 1]; ++j, ++k) {
          bool fresh;
          const int64_t slot = cache.slot(at.plane, p.d.index[size_t(i)], p.h.index[size_t(j)], fresh);
          if (fresh) columns(rows[k].row, kept + slot * pitch, room);
          rows[k].row = kept + slot * pitch;
        }
      combine(rows, y_row, p.w.out);
    } else {
      const T* from = line;
      if (rows.size() == 1 && rows[0].weight == T(1))
        from = rows[0].row;
      else
        combine(rows, line.get(), p.w.in);
      columns(from, result, room);
      std::memcpy(y_row, result, size_t(p.w.out) * sizeof(T));
    }
  }
}

// Planes of short rows: columns of several rows at a time, all of a plane's rows one behind the
// other.
template <class T>
class NarrowPlanes {
 public:
  // Are rows so narrow, and planes enough for the larger tables?
  static bool worthwhile(const ResampleProblem<T>& p) {
    return p.d.in == 1 && p.d.out == 1 && std::max(p.w.in, p.w.out) <= kNarrow && p.h.out > 1 &&
           p.planes >= 8;
  }
  explicit NarrowPlanes(const ResampleProblem<T>& p)
      : p_(p),
        columns_first_(p.h.in <= p.h.out),
        rows_(columns_first_ ? p.h.in : p.h.out),
        together_(std::min(rows_, kLine / p.w.out)),
        columns_(p.w, together_) {}

  void operator()(T* y, const T* x, int64_t begin, int64_t end) const {
    const int64_t width = columns_first_ ? p_.w.out : p_.w.in;
    memory::Buffer<T> kept(size_t(rows_ * width + columns_.out_pitch())), room(size_t(columns_.room())),
        line(size_t(columns_.out_pitch()));
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* from = x + plane * p_.h.in * p_.w.in;
      T* to = y + plane * p_.h.out * p_.w.out;
      if (!columns_first_) combine_rows(from, width, kept.get(), kept.get() + rows_ * width);
      // The last rows are some that were done before.
      for (int64_t row = 0; row < rows_; row += together_) {
        const int64_t first = std::min(row, rows_ - together_);
        columns_((columns_first_ ? from : kept.get()) + first * p_.w.in, line, room);
        std::memcpy((columns_first_ ? kept.get() : to) + first * p_.w.out, line.get(),
                    size_t(together_ * p_.w.out) * sizeof(T));
      }
      if (columns_first_) combine_rows(kept.get(), width, to, to + p_.h.out * width);
    }
  }

 private:
  static constexpr int64_t kNarrow = 64, kLine = 128;  // elements

  // Weighted sums of rows, written in whole vectors that the next row covers, but none beyond `end`.
  [[gnu::noinline]] void combine_rows(const T* from, int64_t width, T* to, const T* end) const {
    constexpr int64_t w = kWidth<T>;
    for (int64_t o = 0; o < p_.h.out; ++o, to += width) {
      const int64_t first = p_.h.begin[size_t(o)], last = p_.h.begin[size_t(o) + 1];
      for (int64_t i = 0; i < width; i += w) {
        const int left = int(std::min(w, width - i));
        Vec<T> total{};
        for (int64_t k = first; k < last; ++k) {
          const Vec<T> v = p_.h.weight[size_t(k)] * load_n(from + p_.h.index[size_t(k)] * width + i, left);
          total = k == first ? v : total + v;
        }
        if (to + i + w <= end)
          store<T>(to + i, total);
        else
          store_n(to + i, total, left);
      }
    }
  }

  const ResampleProblem<T>& p_;
  bool columns_first_;
  int64_t rows_, together_;
  Columns<T> columns_;
};

}  // namespace

template <class T>
void resample(T* y, const T* x, const ResampleProblem<T>& p) {
  const int64_t rows = p.planes * p.d.out * p.h.out;
  if (rows * p.w.out == 0) return;
  if (NarrowPlanes<T>::worthwhile(p)) {
    const NarrowPlanes<T> planes(p);
    parallel_for(p.planes, rows_grain(2 * (p.h.in * p.w.in + p.h.out * p.w.out)),
                 [&](int64_t begin, int64_t end) { planes(y, x, begin, end); });
    return;
  }
  const Columns<T> columns(p.w);  // once: a range of rows may be two of them
  parallel_for(rows, rows_grain(2 * (p.planes * p.d.in * p.h.in * p.w.in / rows + p.w.out)),
               [&](int64_t begin, int64_t end) { resample_rows(y, x, p, columns, begin, end); });
}

template void resample<float>(float*, const float*, const ResampleProblem<float>&);
template void resample<double>(double*, const double*, const ResampleProblem<double>&);

}  // namespace fastdl
