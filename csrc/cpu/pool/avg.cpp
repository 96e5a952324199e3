// Average pooling.
//
//   y[o] = sum over the window's taps inside the input / divisor(o)
//   divisor: the number of positions covered, with or without padding, a product of one count per axis; or a
//   constant
//
// Nothing is saved. Forward works on output rows: the rows of a window are added up first (contiguous
// vectors), then the columns: each tap is a contiguous vector of that sum, split into as many phases as the
// stride; with long strides wide windows are added up one after the other. Backward works on input rows and runs
// the same steps transposed: the covering output rows are added up, divided, spread over the columns; an input row
// covered by the same output rows as the one before is a copy of it. Passes over memory: one read and one write
// each way.
#include "cpu/pool/pool.h"
#include "cpu/pool/side_by_side.h"
#include "cpu/rows.h"

namespace fastdl {
namespace {

// Counts along one axis for every output.
template <class T>
class Counts {
 public:
  Counts(const PoolAxis& a, bool include_pad, bool constant) : counts_(size_t(round_up<T>(a.out))) {
    fill(counts_.get(), round_up<T>(a.out), T(constant ? 1 : a.kernel));
    for (int64_t o = 0; !constant && o < a.out && a.start(o) < 0; ++o)
      counts_[o] = T(a.count(o, include_pad));
    for (int64_t o = a.out - 1; !constant && o >= 0 && a.start(o) + a.kernel > a.in; --o)
      counts_[o] = T(a.count(o, include_pad));
  }
  const T* get() const { return counts_; }
  T operator[](int64_t o) const { return counts_.get()[o]; }

 private:
  memory::Buffer<T> counts_;
};

template <class T>
struct Divisor {
  Counts<T> d, h, w;
  T constant;
  Divisor(const PoolProblem& p, bool include_pad, int64_t divisor)
      : d(p.d, include_pad, divisor != 0),
        h(p.h, include_pad, divisor != 0),
        w(p.w, include_pad, divisor != 0),
        constant(T(divisor ? divisor : 1)) {}
};

// The sum of `count` rows at one place.
template <class T>
struct RowSum {
  const T* const* rows;
  int64_t count;
  [[gnu::always_inline]] Vec<T> operator()(int64_t i) const {
    Vec<T> sum = load<T>(rows[0] + i);
    for (int64_t k = 1; k < count; ++k) sum += load<T>(rows[k] + i);
    return sum;
  }
  [[gnu::always_inline]] Vec<T> operator()(int64_t i, int n) const {
    Vec<T> sum = load_n(rows[0] + i, n);
    for (int64_t k = 1; k < count; ++k) sum += load_n(rows[k] + i, n);
    return sum;
  }
};

// A row of sums over the columns of each window, `line` having been split into padded phases.
template <int kKernel, class T>
void add_columns(const T* phases, const int64_t* starts, const PoolAxis& a, const T* counts, T rows, T* y,
                 int64_t room) {
  const int64_t kernel = kKernel ? kKernel : a.kernel;
  for (int64_t o = 0; o < a.out; o += kWidth<T>) {
    Vec<T> sum{};
#pragma GCC unroll 3
    for (int64_t j = 0; j < kernel; ++j) sum += load<T>(phases + starts[j] + o);
    store_within<T>(y + o, sum / (rows * load<T>(counts + o)), room - o);
  }
}

// Whether all windows of a row are added up at once, tap by tap, and not one after the other.
template <class T>
bool by_taps(const PoolAxis& a) {
  return a.stride <= 2 || (a.out >= 4 && a.kernel < kWidth<T>);
}

template <class T>
T sum_of(const T* x, int64_t n) {
  constexpr int64_t w = kWidth<T>;
  Vec<T> a{}, b{};
  int64_t i = 0;
  for (; i + 2 * w <= n; i += 2 * w) {
    a += load<T>(x + i);
    b += load<T>(x + i + w);
  }
  if (i + w <= n) {
    a += load<T>(x + i);
    i += w;
  }
  if (i < n) b += load_n(x + i, int(n - i));
  return reduce_add<T>(a + b);
}

template <class T>
void forward_rows(T* y, const T* x, const PoolProblem& p, const Divisor<T>& divisor, int64_t begin,
                  int64_t end) {
  const bool vectors = by_taps<T>(p.w);
  const int64_t pitch = round_up<T>(std::max(p.w.kernel + p.w.out, p.w.pad + p.w.in)) + 2 * kWidth<T>;
  memory::Buffer<T> phases(size_t(pitch * (vectors ? p.w.stride : 1)));
  memory::Buffer<T> line(
      size_t(vectors && p.w.stride > 2 ? pitch : 0));  // the sum of rows before it is split
  fill(phases.get(), pitch * (vectors ? p.w.stride : 1), T(0));
  const std::vector<int64_t> starts = tap_starts(p.w, pitch);
  std::vector<const T*> rows(size_t(p.d.kernel * p.h.kernel));

  RowCursor at(begin, p.d.out, p.h.out);
  for (int64_t row = begin; row < end; ++row, at.next()) {
    int64_t count = 0;
    for (int64_t i = p.d.first_tap(at.d); i < p.d.end_tap(at.d); ++i)
      for (int64_t j = p.h.first_tap(at.h); j < p.h.end_tap(at.h); ++j)
        rows[size_t(count++)] =
            x + ((at.plane * p.d.in + p.d.start(at.d) + i) * p.h.in + p.h.start(at.h) + j) * p.w.in;
    T* y_row = y + row * p.w.out;
    const T per_row = divisor.constant * divisor.d[at.d] * divisor.h[at.h];
    const RowSum<T> sum{rows.data(), count};
    if (vectors) {
      if (p.w.stride <= 2) {
        split_row<T>(p.w.in, p.w.stride, p.w.pad, phases, pitch, T(0), sum, sum);
      } else {
        split_row<T>(p.w.in, 1, 0, line, pitch, T(0), sum, sum);
        split_row<T>(line.get(), p.w.in, p.w.stride, p.w.pad, phases, pitch, T(0));
      }
      const int64_t room = (end - row) * p.w.out;
      if (p.w.kernel == 2)
        add_columns<2>(phases.get(), starts.data(), p.w, divisor.w.get(), per_row, y_row, room);
      else if (p.w.kernel == 3)
        add_columns<3>(phases.get(), starts.data(), p.w, divisor.w.get(), per_row, y_row, room);
      else
        add_columns<0>(phases.get(), starts.data(), p.w, divisor.w.get(), per_row, y_row, room);
    } else {
      split_row<T>(p.w.in, 1, 0, phases, pitch, T(0), sum, sum);
      for (int64_t o = 0; o < p.w.out; ++o) {
        const int64_t first = p.w.first_tap(o);
        const T total = sum_of(phases + p.w.start(o) + first, p.w.end_tap(o) - first);
        y_row[o] = total / (per_row * divisor.w[o]);
      }
    }
  }
}

template <class T>
class BackwardRows {
 public:
  BackwardRows(const T* grad_y, const PoolProblem& p, const Divisor<T>& divisor)
      : grad_y_(grad_y),
        p_(p),
        divisor_(divisor),
        hits_d_(p.d),
        hits_h_(p.h),
        vectors_(by_taps<T>(p.w)),
        left_((p.w.kernel - 1) / p.w.stride),
        columns_(ceil_div(p.w.in + p.w.pad, p.w.stride)),
        pitch_(round_up<T>(left_ + std::max(p.w.out, columns_)) + 2 * kWidth<T>),
        sums_(size_t(pitch_)),
        phases_(size_t(vectors_ ? p.w.stride * pitch_ : 0)) {
    fill(sums_.get(), pitch_, T(0));
  }

  void operator()(const RowCursor& at, T* row) {
    hits_.clear();
    for (const auto [od, i] : hits_d_[at.d])
      for (const auto [oh, j] : hits_h_[at.h]) {
        const T scale = T(1) / (divisor_.constant * divisor_.d[od] * divisor_.h[oh]);
        hits_.push_back({grad_y_ + ((at.plane * p_.d.out + od) * p_.h.out + oh) * p_.w.out, scale});
      }
    if (previous_ && hits_ == previous_hits_) {
      std::memcpy(row, previous_, size_t(p_.w.in) * sizeof(T));
    } else {
      add_rows();
      if (vectors_)
        spread(row);
      else
        spread_strided(row);
      previous_hits_.swap(hits_);
    }
    previous_ = row;
  }

 private:
  struct Hit {
    const T* row;
    T scale;
    bool operator==(const Hit&) const = default;
  };
  // sums_[left + o] = sum of the hit rows at o, divided; zeros around it.
  void add_rows() {
    T* sums = sums_ + left_;
    for (int64_t o = 0; o < p_.w.out; o += kWidth<T>) {
      const int64_t n = std::min<int64_t>(kWidth<T>, p_.w.out - o);
      Vec<T> sum{};
      for (const Hit& hit : hits_)
        sum += hit.scale * (n == kWidth<T> ? load<T>(hit.row + o) : load_n(hit.row + o, int(n)));
      store<T>(sums + o, sum / load<T>(divisor_.w.get() + o));
    }
  }
  void spread(T* row) {
    const int64_t s = p_.w.stride;
    for (int64_t r = 0; r < s; ++r)
      for (int64_t q = 0; q < columns_; q += kWidth<T>) {
        Vec<T> sum{};
        for (int64_t j = r; j < p_.w.kernel; j += s) sum += load<T>(sums_ + left_ - j / s + q);
        store<T>(phases_ + r * pitch_ + q, sum);
      }
    join_row<T>(phases_, pitch_, s, p_.w.pad, row, p_.w.in);
  }
  void spread_strided(T* row) {
    fill(row, p_.w.in, T(0));
    for (int64_t o = 0; o < p_.w.out; ++o) {
      T* to = row + p_.w.start(o);
      const T g = sums_[left_ + o];
      for (int64_t j = p_.w.first_tap(o); j < p_.w.end_tap(o); ++j) to[j] += g;
    }
  }

  const T* grad_y_;
  const PoolProblem& p_;
  const Divisor<T>& divisor_;
  Hits hits_d_, hits_h_;
  bool vectors_;
  int64_t left_, columns_, pitch_;
  memory::Buffer<T> sums_, phases_;
  std::vector<Hit> hits_, previous_hits_;
  const T* previous_ = nullptr;
};

// Pairs: each output row writes the input rows that it owns.
template <class T>
void backward_pairs(T* grad_x, const T* grad_y, const PoolProblem& p, const Pairs& pairs, T divisor,
                    int64_t begin, int64_t end) {
  constexpr int64_t w = kWidth<T>;
  RowCursor at(begin, p.d.out, p.h.out);
  for (int64_t row = begin; row < end; ++row, at.next()) {
    T* x_row = grad_x + ((at.plane * p.d.in + at.d * pairs.kd) * p.h.in + at.h * pairs.kh) * p.w.in;
    for (int64_t o = 0; o < p.w.out; o += w) {
      const int64_t left = p.w.out - o;
      const T* from = grad_y + row * p.w.out + o;
      const Vec<T> g = (left >= w ? load<T>(from) : load_n(from, int(left))) / divisor;
      for (int64_t i = 0; i < pairs.kd; ++i)
        for (int64_t j = 0; j < pairs.kh; ++j)
          store_pairs<T>(x_row + (i * p.h.in + j) * p.w.in + 2 * o, g, g, 2 * left);
    }
    clear_uncovered(grad_x, p, at);
  }
}

}  // namespace

template <class T>
void avg_pool_forward(T* y, const T* x, const PoolProblem& p, bool count_include_pad, int64_t divisor) {
  if (p.planes * p.out_plane() == 0) return;
  if (!p.global() && side_by_side::worthwhile<T>(p))
    return side_by_side::avg_pool_forward<T>(y, x, p, count_include_pad, divisor);
  if (p.global()) {
    const int64_t n = p.in_plane();
    const T by = T(divisor ? divisor : n);
    parallel_for(p.planes, rows_grain(n), [=](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) y[plane] = sum_of(x + plane * n, n) / by;
    });
    return;
  }
  const Divisor<T> table(p, count_include_pad, divisor);
  const int64_t rows = p.planes * p.d.out * p.h.out;
  parallel_for(rows, rows_grain(p.planes * p.in_plane() / rows + p.w.out),
               [&](int64_t begin, int64_t end) { forward_rows(y, x, p, table, begin, end); });
}

template <class T>
void avg_pool_backward(T* grad_x, const T* grad_y, const PoolProblem& p, bool count_include_pad,
                       int64_t divisor) {
  if (p.planes * p.in_plane() == 0) return;
  if (!p.global() && side_by_side::worthwhile<T>(p))
    return side_by_side::avg_pool_backward<T>(grad_x, grad_y, p, count_include_pad, divisor);
  if (p.global()) {
    const int64_t n = p.in_plane();
    const T by = T(divisor ? divisor : n);
    parallel_for(p.planes, rows_grain(n), [=](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        const Vec<T> g = broadcast<T>(grad_y[plane] / by);
        const int64_t stop = (end - plane) * n;
        for (int64_t i = 0; i < n; i += kWidth<T>) store_within<T>(grad_x + plane * n + i, g, stop - i);
      }
    });
    return;
  }
  if (const Pairs pairs(p); pairs.apply) {
    const T by = T(divisor ? divisor : p.taps());
    parallel_for(
        p.planes * p.d.out * p.h.out, rows_grain(p.w.in * pairs.kd * pairs.kh),
        [&](int64_t begin, int64_t end) { backward_pairs(grad_x, grad_y, p, pairs, by, begin, end); });
    return;
  }
  const Divisor<T> table(p, count_include_pad, divisor);
  parallel_for(p.planes * p.d.in * p.h.in, rows_grain(2 * p.w.in), [&](int64_t begin, int64_t end) {
    BackwardRows<T> backward(grad_y, p, table);
    RowCursor at(begin, p.d.in, p.h.in);
    for (int64_t row = begin; row < end; ++row, at.next()) backward(at, grad_x + row * p.w.in);
  });
}

#define FASTDL_INSTANTIATE(T)                                                         \
  template void avg_pool_forward<T>(T*, const T*, const PoolProblem&, bool, int64_t); \
  template void avg_pool_backward<T>(T*, const T*, const PoolProblem&, bool, int64_t);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
