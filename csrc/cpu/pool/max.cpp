// Max pooling.
//
//   y[o] = max over the window's taps inside the input
//   grad_x[x] = sum of grad_y[o] over windows whose winner is x
//
// Among equal values the first tap in row-major order wins; a NaN beats every number, the last NaN wins
// (torch's rule). Saved for backward: the winner's tap number in its window, one byte where the window has at
// most 256 taps.
//
// Short rows, large strides and overlapping windows of many planes are side_by_side.cpp's; wide windows that
// hardly overlap are read one after the other (wide_max.h).
//
// Forward works on output rows, separably: each input row is reduced to one best value and tap per output
// column (kept in a cache of rows while overlapping windows need it), then the rows of a window are compared.
// Horizontally first keeps row-major order among ties. With strides 1 and 2 every tap is one contiguous
// vector of a row that was padded with -inf and, for stride 2, split into even and odd positions. The 2x2
// window with stride 2 has a fused body. Backward works on input rows: each gathers from the output rows that
// cover it, so no two threads write one place and no plane needs clearing first. Passes over memory: one read
// and one write each way.
#include "cpu/pool/pool.h"
#include "cpu/pool/side_by_side.h"
#include "cpu/pool/wide_max.h"
#include "cpu/rows.h"
#include "cpu/simd/mixed.h"

namespace fastdl {
namespace {

template <class T>
constexpr T kLowest = -std::numeric_limits<T>::infinity();

// A NaN or a greater value replaces the best so far.
template <class V>
[[gnu::always_inline]] inline auto better(V v, V best) {
  return (v > best) | (v != v);
}
template <class T>
inline bool better_scalar(T v, T best) {
  return (v > best) | (v != v);  // no branch to mispredict
}

// One input row -> best value and its tap for each output column; both results are padded to whole vectors.
// Without kTaps the values alone.
template <class T, bool kTaps>
class RowMax {
 public:
  explicit RowMax(const PoolAxis& a)
      : a_(a),
        vectors_(a.stride <= 2 || a.out >= 4),
        pitch_(vectors_
                   ? round_up<T>(std::max((a.kernel - 1) * a.dilation + a.out, a.pad + a.in)) + 2 * kWidth<T>
                   : 0),
        phases_(size_t(pitch_ * a.stride)),
        first_(size_t(kTaps && vectors_ ? round_up<T>(a.out) : 0)) {
    if (!vectors_) return;
    if (kTaps) fill(first_.get(), round_up<T>(a.out), Int<T>(0));
    for (int64_t o = 0; kTaps && o < a.out && a.start(o) < 0; ++o) first_[o] = Int<T>(a.first_tap(o));
    fill(phases_.get(), pitch_ * a.stride, kLowest<T>);
    starts_ = tap_starts(a, pitch_);
  }

  void operator()(const T* row, T* best, Int<T>* tap) {
    if (!vectors_) return strided(row, best, tap);
    split_row<T>(row, a_.in, a_.stride, a_.pad, phases_, pitch_, kLowest<T>);
    if constexpr (kTaps) {
      if (a_.kernel == 2) return contiguous<2>(best, tap);
      if (a_.kernel == 3) return contiguous<3>(best, tap);
    }
    contiguous<0>(best, tap);
  }

 private:
  template <int kKernel>
  void contiguous(T* best, Int<T>* tap) {
    const int64_t kernel = kKernel ? kKernel : a_.kernel;
    const T* phases = phases_;
    const int64_t* starts = starts_.data();
    for (int64_t o = 0; o < a_.out; o += kWidth<T>) {
      // A window of nothing but -inf reports its first tap inside the input; taps in the padding never win.
      Vec<T> b = broadcast<T>(kLowest<T>);
      Vec<Int<T>> t{};
      if (kTaps) t = load<Int<T>>(first_ + o);
#pragma GCC unroll 3
      for (int64_t j = 0; j < kernel; ++j) {
        const Vec<T> v = load<T>(phases + starts[j] + o);
        const auto take = better(v, b);
        b = take ? v : b;
        if (kTaps) t = take ? broadcast<Int<T>>(Int<T>(j)) : t;
      }
      store<T>(best + o, b);
      if (kTaps) store<Int<T>>(tap + o, t);
    }
  }
  void strided(const T* row, T* best, Int<T>* tap) {
    for (int64_t o = 0; o < a_.out; ++o) {
      T b = kLowest<T>;
      int64_t t = a_.first_tap(o);
      const T* at = row + a_.start(o);
      for (int64_t j = t, end = a_.end_tap(o); j < end; ++j) {
        const T v = at[j * a_.dilation];
        const bool take = better_scalar(v, b);
        b = take ? v : b;
        t = take ? j : t;
      }
      best[o] = b;
      if (kTaps) tap[o] = Int<T>(t);
    }
  }

  PoolAxis a_;
  bool vectors_;
  int64_t pitch_;
  memory::Buffer<T> phases_;
  memory::Buffer<Int<T>> first_;
  std::vector<int64_t> starts_;
};

template <class T, class Offset, bool kTaps>
void forward_rows(T* y, Offset* offsets, const T* x, const PoolProblem& p, int64_t begin, int64_t end) {
  const int64_t pitch = round_up<T>(p.w.out);
  RowMax<T, kTaps> row_max(p.w);
  RowCache cache((p.d.kernel - 1) * p.d.dilation + 1, (p.h.kernel - 1) * p.h.dilation + 1, p.d.in, p.h.in);
  memory::Buffer<T> best(size_t(cache.slots() * pitch));
  memory::Buffer<Int<T>> tap(size_t(kTaps ? cache.slots() * pitch : 0));
  if (kTaps) fill(tap.get(), cache.slots() * pitch, Int<T>(0));  // the lanes behind a row are added to, too
  struct Row {
    const T* best;
    const Int<T>* tap;
    Int<T> base;
  };
  std::vector<Row> rows(size_t(p.d.kernel * p.h.kernel));

  std::vector<int64_t> empty;  // dilated windows whose taps all fall outside: they report tap 0
  for (int64_t o = 0; kTaps && p.w.dilation > 1 && o < p.w.out; ++o)
    if (p.w.first_tap(o) >= p.w.end_tap(o)) empty.push_back(o);

  RowCursor at(begin, p.d.out, p.h.out);
  for (int64_t row = begin; row < end; ++row, at.next()) {
    int64_t count = 0;
    for (int64_t i = p.d.first_tap(at.d); i < p.d.end_tap(at.d); ++i) {
      for (int64_t j = p.h.first_tap(at.h); j < p.h.end_tap(at.h); ++j) {
        const int64_t d = p.d.start(at.d) + i * p.d.dilation, h = p.h.start(at.h) + j * p.h.dilation;
        bool fresh;
        const int64_t slot = cache.slot(at.plane, d, h, fresh) * pitch;
        Int<T>* const row_tap = kTaps ? tap + slot : nullptr;
        if (fresh) row_max(x + ((at.plane * p.d.in + d) * p.h.in + h) * p.w.in, best + slot, row_tap);
        rows[size_t(count++)] = {best + slot, row_tap, Int<T>((i * p.h.kernel + j) * p.w.kernel)};
      }
    }
    T* y_row = y + row * p.w.out;
    for (int64_t o = 0; o < p.w.out; o += kWidth<T>) {
      Vec<T> b = broadcast<T>(kLowest<T>);
      Vec<Int<T>> t{};
      for (int64_t k = 0; k < count; ++k) {
        const Vec<T> v = load<T>(rows[size_t(k)].best + o);
        const auto take = better(v, b);
        b = take ? v : b;
        if (!kTaps) continue;
        const Vec<Int<T>> tv = load<Int<T>>(rows[size_t(k)].tap + o) + rows[size_t(k)].base;
        t = take ? tv : (k == 0 ? tv : t);
      }
      const int64_t room = (end - row) * p.w.out - o;
      store_within<T>(y_row + o, b, room);
      if (kTaps) simd::store_small<T>(offsets + row * p.w.out + o, t, room);
    }
    for (int64_t o : empty) offsets[row * p.w.out + o] = 0;
  }
}

// All rows of a window of Pairs at once, nothing kept in between.
template <class T, class Offset, bool kTaps>
void forward_pairs(T* y, Offset* offsets, const T* x, const PoolProblem& p, const Pairs& pairs, int64_t begin,
                   int64_t end) {
  constexpr int64_t w = kWidth<T>;
  RowCursor at(begin, p.d.out, p.h.out);
  for (int64_t row = begin; row < end; ++row, at.next()) {
    const T* x_row = x + ((at.plane * p.d.in + at.d * pairs.kd) * p.h.in + at.h * pairs.kh) * p.w.in;
    for (int64_t o = 0; o < p.w.out; o += w) {
      Vec<T> b = broadcast<T>(kLowest<T>);
      Vec<Int<T>> t{};
      const int64_t left = 2 * (p.w.out - o);
      Int<T> tap = 0;
      for (int64_t i = 0; i < pairs.kd; ++i)
        for (int64_t j = 0; j < pairs.kh; ++j, tap += 2) {
          const T* from = x_row + (i * p.h.in + j) * p.w.in + 2 * o;
          const Vec<T> low = left >= w ? load<T>(from) : load_n(from, int(left));
          const Vec<T> high =
              left >= 2 * w ? load<T>(from + w) : (left > w ? load_n(from + w, int(left - w)) : Vec<T>{});
          const Vec<T> v0 = even_mixed<T>(low, high), v1 = odd_mixed<T>(low, high);
          const auto take0 = better(v0, b);
          b = take0 ? v0 : b;
          if (kTaps) t = take0 ? broadcast<Int<T>>(tap) : t;
          const auto take1 = better(v1, b);
          b = take1 ? v1 : b;
          if (kTaps) t = take1 ? broadcast<Int<T>>(Int<T>(tap + 1)) : t;
        }
      const int64_t room = (end - row) * p.w.out - o;
      store_within<T>(y + row * p.w.out + o, in_order<T>(b), room);
      if (kTaps) simd::store_small<T>(offsets + row * p.w.out + o, in_order<Int<T>>(t), room);
    }
  }
}

template <class T>
bool has_wide_windows(const PoolProblem& p) {
  return p.d.dilation == 1 && p.h.dilation == 1 && p.w.dilation == 1 &&
         WideMax<T>::worthwhile(p.w.kernel, p.taps(),
                                double(p.taps() * p.out_plane()) / double(p.in_plane()));
}

template <class T, class Offset>
void forward_wide(T* y, Offset* offsets, const T* x, const PoolProblem& p, int64_t begin, int64_t end) {
  RowCursor at(begin, p.d.out, p.h.out);
  for (int64_t row = begin; row < end; ++row, at.next()) {
    const int64_t d0 = p.d.first_tap(at.d), depth = p.d.end_tap(at.d) - d0;
    const int64_t h0 = p.h.first_tap(at.h), height = p.h.end_tap(at.h) - h0;
    const int64_t corner = (at.plane * p.d.in + p.d.start(at.d) + d0) * p.h.in + p.h.start(at.h) + h0;
    for (int64_t o = 0; o < p.w.out; ++o) {
      const int64_t w0 = p.w.first_tap(o);
      int64_t tap;
      y[row * p.w.out + o] =
          wide_max(x + corner * p.w.in + p.w.start(o) + w0, depth, height, p.w.end_tap(o) - w0,
                   {p.h.in * p.w.in, p.w.in}, (d0 * p.h.kernel + h0) * p.w.kernel + w0,
                   {p.h.kernel * p.w.kernel, p.w.kernel}, tap);
      if (offsets) offsets[row * p.w.out + o] = Offset(tap);
    }
  }
}

// One window that is the whole plane: the maximum first, then where it stands.
template <class T, class Offset>
void forward_global(T* y, Offset* offsets, const T* x, const PoolProblem& p) {
  const int64_t n = p.in_plane();
  parallel_for(p.planes, rows_grain(n), [=](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* from = x + plane * n;
      Vec<T> b = broadcast<T>(kLowest<T>), nan = b;
      int64_t i = 0;
      for (; i + kWidth<T> <= n; i += kWidth<T>) {
        const Vec<T> v = load<T>(from + i);
        b = max(v, b);
        nan = v != v ? v : nan;
      }
      T best = reduce_max<T>(b);
      bool has_nan = false;
      for (int k = 0; k < kWidth<T>; ++k) has_nan |= nan[k] != nan[k];
      for (; i < n; ++i) {
        best = from[i] > best ? from[i] : best;
        has_nan |= from[i] != from[i];
      }
      int64_t where = 0;
      if (has_nan) {
        for (where = n - 1; from[where] == from[where]; --where) {
        }
        best = from[where];
      } else if (offsets) {
        while (from[where] != best) ++where;
      }
      y[plane] = best;
      if (offsets) offsets[plane] = Offset(where);
    }
  });
}

template <class T, class Offset>
void backward_global(T* grad_x, const T* grad_y, const Offset* offsets, const PoolProblem& p) {
  const int64_t n = p.in_plane();
  parallel_for(p.planes, rows_grain(n), [=](int64_t begin, int64_t end) {
    std::memset(grad_x + begin * n, 0, size_t((end - begin) * n) * sizeof(T));
    for (int64_t plane = begin; plane < end; ++plane)
      if (const auto at = uint64_t(int64_t(offsets[plane])); at < uint64_t(n))
        grad_x[plane * n + int64_t(at)] = grad_y[plane];
  });
}

// One input row's gradient, gathered from the output rows that cover it.
template <class T, class Offset>
class BackwardRows {
 public:
  BackwardRows(const T* grad_y, const Offset* offsets, const PoolProblem& p)
      : grad_y_(grad_y),
        offsets_(offsets),
        p_(p),
        vectors_((p.w.stride <= 2 || p.w.out >= 4) && p.taps() <= 4 * kWidth<T>),
        left_((p.w.kernel - 1) * p.w.dilation / p.w.stride),
        columns_(ceil_div(p.w.in + p.w.pad, p.w.stride)),
        pitch_(round_up<T>(left_ + std::max(p.w.out, columns_)) + 2 * kWidth<T>),
        cache_(vectors_ ? (p.d.kernel - 1) * p.d.dilation / p.d.stride + 1 : 0,
               (p.h.kernel - 1) * p.h.dilation / p.h.stride + 1, p.d.out, p.h.out),
        grads_(size_t(cache_.slots() * pitch_)),
        taps_(size_t(cache_.slots() * pitch_)),
        phases_(size_t(vectors_ ? p.w.stride * pitch_ : 0)),
        steps_(size_t(vectors_ ? p.w.stride : 0)),
        hits_d_(p.d),
        hits_h_(p.h),
        hits_(size_t(p.d.kernel * p.h.kernel)) {
    if (!vectors_) return;
    fill(grads_.get(), cache_.slots() * pitch_, T(0));
    fill(taps_.get(), cache_.slots() * pitch_, Int<T>(-1));
    for (int64_t r = 0; r < p.w.stride; ++r)
      for (int64_t j = 0; j < p.w.kernel; ++j)
        if (j * p.w.dilation % p.w.stride == r)
          steps_[size_t(r)].push_back({left_ - j * p.w.dilation / p.w.stride, j});
  }

  void operator()(const RowCursor& at, T* row) {
    count_ = 0;
    for (const auto [od, i] : hits_d_[at.d])
      for (const auto [oh, j] : hits_h_[at.h]) {
        const int64_t base = (i * p_.h.kernel + j) * p_.w.kernel;
        hits_[size_t(count_++)] = {vectors_ ? prepared(at.plane, od, oh) : out_row(at.plane, od, oh), base};
      }
    if (vectors_)
      gather(row);
    else
      scatter(row);
  }

 private:
  struct Hit {
    int64_t at, base;
  };
  struct Step {
    int64_t shift, tap;
  };
  int64_t out_row(int64_t plane, int64_t od, int64_t oh) const {
    return ((plane * p_.d.out + od) * p_.h.out + oh) * p_.w.out;
  }
  // A padded copy of an output row's gradients and its offsets, widened. What stands behind the row has
  // gradient 0.
  int64_t prepared(int64_t plane, int64_t od, int64_t oh) {
    bool fresh;
    const int64_t slot = cache_.slot(plane, od, oh, fresh) * pitch_;
    if (fresh) {
      const int64_t from = out_row(plane, od, oh), room = p_.planes * p_.out_plane() - from;
      std::memcpy(grads_ + slot + left_, grad_y_ + from, size_t(p_.w.out) * sizeof(T));
      for (int64_t o = 0; o < p_.w.out; o += kWidth<T>)
        store<Int<T>>(taps_ + slot + left_ + o, simd::load_small<T>(offsets_ + from + o, room - o));
    }
    return slot;
  }
  void gather(T* row) {
    for (int64_t r = 0; r < p_.w.stride; ++r) {
      const Step* steps = steps_[size_t(r)].data();
      const int64_t step_count = int64_t(steps_[size_t(r)].size());
      for (int64_t q = 0; q < columns_; q += kWidth<T>) {
        Vec<T> sum{};
        for (int64_t k = 0; k < count_; ++k) {
          const T* grads = grads_ + hits_[size_t(k)].at + q;
          const Int<T>* taps = taps_ + hits_[size_t(k)].at + q;
          for (int64_t s = 0; s < step_count; ++s) {
            const Int<T> tap = Int<T>(hits_[size_t(k)].base + steps[s].tap);
            const Vec<T> g = load<T>(grads + steps[s].shift);
            sum += load<Int<T>>(taps + steps[s].shift) == tap ? g : Vec<T>{};
          }
        }
        store<T>(phases_ + r * pitch_ + q, sum);
      }
    }
    join_row<T>(phases_, pitch_, p_.w.stride, p_.w.pad, row, p_.w.in);
  }
  void scatter(T* row) {
    fill(row, p_.w.in, T(0));
    for (int64_t k = 0; k < count_; ++k) {
      const T* grads = grad_y_ + hits_[size_t(k)].at;
      const Offset* offsets = offsets_ + hits_[size_t(k)].at;
      for (int64_t o = 0; o < p_.w.out; ++o) {
        const int64_t tap = int64_t(offsets[o]) - hits_[size_t(k)].base;
        if (uint64_t(tap) >= uint64_t(p_.w.kernel)) continue;
        const int64_t to = p_.w.start(o) + tap * p_.w.dilation;
        if (uint64_t(to) < uint64_t(p_.w.in)) row[to] += grads[o];
      }
    }
  }

  const T* grad_y_;
  const Offset* offsets_;
  const PoolProblem& p_;
  bool vectors_;  // many taps: comparing each output once per row beats comparing it with every tap
  int64_t left_, columns_, pitch_;
  RowCache cache_;
  memory::Buffer<T> grads_;
  memory::Buffer<Int<T>> taps_;
  memory::Buffer<T> phases_;
  std::vector<std::vector<Step>> steps_;  // by remainder of the column modulo the stride
  Hits hits_d_, hits_h_;
  std::vector<Hit> hits_;
  int64_t count_ = 0;
};

// Pairs: each output row writes the input rows that it owns.
template <class T, class Offset>
void backward_pairs(T* grad_x, const T* grad_y, const Offset* offsets, const PoolProblem& p,
                    const Pairs& pairs, int64_t begin, int64_t end) {
  constexpr int64_t w = kWidth<T>;
  const int64_t total = p.planes * p.out_plane();
  RowCursor at(begin, p.d.out, p.h.out);
  for (int64_t row = begin; row < end; ++row, at.next()) {
    T* x_row = grad_x + ((at.plane * p.d.in + at.d * pairs.kd) * p.h.in + at.h * pairs.kh) * p.w.in;
    for (int64_t o = 0; o < p.w.out; o += w) {
      const int64_t left = p.w.out - o, from = row * p.w.out + o;
      const Vec<T> g = left >= w ? load<T>(grad_y + from) : load_n(grad_y + from, int(left));
      const Vec<Int<T>> t = simd::load_small<T>(offsets + from, total - from);
      Int<T> tap = 0;
      for (int64_t i = 0; i < pairs.kd; ++i)
        for (int64_t j = 0; j < pairs.kh; ++j, tap += 2) {
          const Vec<T> v0 = t == tap ? g : Vec<T>{}, v1 = t == Int<T>(tap + 1) ? g : Vec<T>{};
          store_pairs<T>(x_row + (i * p.h.in + j) * p.w.in + 2 * o, v0, v1, 2 * left);
        }
    }
    clear_uncovered(grad_x, p, at);
  }
}

}  // namespace

template <class T, class Offset>
void max_pool_forward(T* y, Offset* offsets, const T* x, const PoolProblem& p) {
  if (p.planes * p.out_plane() == 0) return;
  const int64_t rows = p.planes * p.d.out * p.h.out;
  const int64_t grain = rows_grain(p.planes * p.in_plane() / rows + p.w.out);
  if (p.global()) return forward_global(y, offsets, x, p);
  if (has_wide_windows<T>(p))
    return parallel_for(rows, grain,
                        [&](int64_t begin, int64_t end) { forward_wide(y, offsets, x, p, begin, end); });
  if constexpr (sizeof(Offset) == 1)
    if (side_by_side::worthwhile<T>(p)) return side_by_side::max_pool_forward<T>(y, offsets, x, p);
  const Pairs pairs(p);
  parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    if (pairs.apply && offsets)
      forward_pairs<T, Offset, true>(y, offsets, x, p, pairs, begin, end);
    else if (pairs.apply)
      forward_pairs<T, uint8_t, false>(y, nullptr, x, p, pairs, begin, end);
    else if (offsets)
      forward_rows<T, Offset, true>(y, offsets, x, p, begin, end);
    else
      forward_rows<T, uint8_t, false>(y, nullptr, x, p, begin, end);
  });
}

template <class T, class Offset>
void max_pool_backward(T* grad_x, const T* grad_y, const Offset* offsets, const PoolProblem& p) {
  const int64_t out_rows = p.planes * p.d.out * p.h.out, in_rows = p.planes * p.d.in * p.h.in;
  if (p.planes * p.in_plane() == 0) return;
  if constexpr (sizeof(Offset) == 1)
    if (side_by_side::worthwhile<T>(p, 2))
      return side_by_side::max_pool_backward<T>(grad_x, grad_y, offsets, p);
  if (p.global()) return backward_global(grad_x, grad_y, offsets, p);
  if (const Pairs pairs(p); pairs.apply) {
    parallel_for(out_rows, rows_grain(p.w.in * pairs.kd * pairs.kh), [&](int64_t begin, int64_t end) {
      backward_pairs(grad_x, grad_y, offsets, p, pairs, begin, end);
    });
    return;
  }
  parallel_for(in_rows, rows_grain(2 * p.w.in), [&](int64_t begin, int64_t end) {
    BackwardRows<T, Offset> backward(grad_y, offsets, p);
    RowCursor at(begin, p.d.in, p.h.in);
    for (int64_t row = begin; row < end; ++row, at.next()) backward(at, grad_x + row * p.w.in);
  });
}

template <class Offset>
void max_pool_indices(int64_t* indices, const Offset* offsets, const PoolProblem& p) {
  const int64_t rows = p.planes * p.d.out * p.h.out;
  parallel_for(rows, rows_grain(4 * p.w.out), [&](int64_t begin, int64_t end) {
    // The distance of each tap from its window's first position.
    std::vector<int64_t> distance(size_t(p.taps()));
    for (size_t t = 0; t < distance.size(); ++t) {
      const int64_t j = int64_t(t) % p.w.kernel, i = int64_t(t) / p.w.kernel % p.h.kernel,
                    k = int64_t(t) / p.w.kernel / p.h.kernel;
      distance[t] = (k * p.d.dilation * p.h.in + i * p.h.dilation) * p.w.in + j * p.w.dilation;
    }
    RowCursor at(begin, p.d.out, p.h.out);
    for (int64_t row = begin; row < end; ++row, at.next()) {
      const int64_t start = (p.d.start(at.d) * p.h.in + p.h.start(at.h)) * p.w.in - p.w.pad;
      for (int64_t o = 0; o < p.w.out; ++o) {
        const auto tap = std::min(size_t(offsets[row * p.w.out + o]), distance.size() - 1);
        indices[row * p.w.out + o] = start + o * p.w.stride + distance[tap];
      }
    }
  });
}

#define FASTDL_INSTANTIATE(T, Offset)                                                   \
  template void max_pool_forward<T, Offset>(T*, Offset*, const T*, const PoolProblem&); \
  template void max_pool_backward<T, Offset>(T*, const T*, const Offset*, const PoolProblem&);
FASTDL_INSTANTIATE(float, uint8_t)
FASTDL_INSTANTIATE(float, int32_t)
FASTDL_INSTANTIATE(double, uint8_t)
FASTDL_INSTANTIATE(double, int32_t)
#undef FASTDL_INSTANTIATE
template void max_pool_indices<uint8_t>(int64_t*, const uint8_t*, const PoolProblem&);
template void max_pool_indices<int32_t>(int64_t*, const int32_t*, const PoolProblem&);

}  // namespace fastdl
