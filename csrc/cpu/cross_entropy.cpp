// Softmax cross entropy, fused: loss_i = -sum_c q_c log softmax(x_i)_c for the target distribution q of
// position i.
//
//   class indices    q_c w_c = (1 - s) w_t [c == t] + (s / C) w_c       (smoothing s, class weights w)
//   probabilities    q_c w_c = w_c ((1 - s) p_c + s / C)
//   loss_i           = Q ((m - a) + L) - sum_c q_c w_c (x_c - a)
//   grad_x_c         = g_i (Q exp((x_c - m) - L) - q_c w_c)
//                    with Q = sum_c q_c w_c, m = max x, L = log sum exp(x - m)
//
// The anchor a is the position's first logit (0 if that is not finite): sums of differences lose nothing when
// all logits share a large offset, and for the same reason m and L are kept apart. Kept for backward: m and L
// (and Q with probabilities), nothing of the size of the logits. "mean" over indices divides by the weights
// of the counted targets, over probabilities by the number of positions.
//
// Work: rows, short ones side by side, or groups of columns over threads (classes.h); reduced losses are
// summed per chunk in double. Passes: forward reads the logits once, backward reads them once and writes the gradient once, around the
// caches if large.
#include "cpu/cross_entropy.h"

#include "cpu/classes.h"
#include "cpu/loss_sum.h"

namespace fastdl {
namespace {

using namespace classes;

template <class T>
T anchor_of(T x) {
  return std::abs(x) < kInfinity<T> ? x : T(0);
}

// The class weights, or as many ones: for the sums over all classes.
template <class T>
class Weights {
 public:
  Weights(const T* weight, int64_t classes)
      : ones_(weight ? 0 : size_t(classes)), data_(weight ? weight : ones_.get()) {
    if (!weight) std::fill_n(ones_.get(), classes, T(1));
  }
  operator const T*() const { return data_; }

 private:
  memory::Buffer<T> ones_;
  const T* data_;
};

template <class T>
double sum_of(const T* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(x[i]);
  return sum;
}

template <class T>
T reduced(double sum, double count, Reduction reduction) {
  return T(reduction == Reduction::mean ? sum / count : sum);
}

// The gradient of the loss of a position.
template <class T>
struct Upstream {
  const T* grad;
  T shared;
  bool each;
  Upstream(const T* grad_loss, Reduction reduction, T normaliser)
      : grad(grad_loss),
        shared(reduction == Reduction::mean ? *grad_loss / normaliser : T(0)),
        each(reduction == Reduction::none) {
    if (reduction == Reduction::sum) shared = *grad_loss;
  }
  T operator()(int64_t position) const { return each ? grad[position] : shared; }
};

// Loss of one position from its class index, the position's statistics and the smoothing sum of w_c (x_c -
// anchor).
template <class T>
struct IndexLoss {
  const ClassTargets<T>& target;
  double all_weights;  // sum over the classes
  int64_t classes;

  double operator()(T x_t, T w_t, T maximum, T log_sum, T anchor, double smooth_sum) const {
    const double picked = double(w_t) * double(log_sum - (x_t - maximum));
    if (target.smoothing == T(0)) return picked;
    const double s = double(target.smoothing);
    const double smooth = all_weights * (double(maximum - anchor) + double(log_sum)) - smooth_sum;
    return (1 - s) * picked + s / double(classes) * smooth;
  }
};

enum class Position { counted, ignored, invalid };

template <class T>
Position classify(const ClassTargets<T>& target, int64_t t, int64_t classes) {
  if (t == target.ignore_index) return Position::ignored;
  return uint64_t(t) < uint64_t(classes) ? Position::counted : Position::invalid;
}

struct Sums {  // of some positions
  double loss = 0, weight = 0;
};
template <class T>
struct Sink {  // where the losses of positions go
  T* each;     // without reduction
  ChunkSums losses, weights;
  Sink(T* loss, Reduction reduction, int64_t chunks)
      : each(reduction == Reduction::none ? loss : nullptr), losses(chunks), weights(chunks) {}
  void add(Sums& sums, int64_t position, double loss, double weight) const {
    if (each) {
      each[position] = T(loss);
    } else {
      sums.loss += loss;
      sums.weight += weight;
    }
  }
  void add(int64_t chunk, const Sums& sums) {
    losses[chunk] += sums.loss;
    weights[chunk] += sums.weight;
  }
  void add(int64_t chunk, int64_t position, double loss, double weight) {
    Sums sums;
    add(sums, position, loss, weight);
    add(chunk, sums);
  }
};

}  // namespace

template <class T>
int64_t cross_entropy_forward(T* loss, T* statistics, T* normaliser, const T* x, ClassTargets<T> target,
                              ClassShape s) {
  const int64_t C = s.classes, positions = s.positions();
  T *const maxima = statistics, *const log_sums = statistics + positions;
  const bool smooth = target.smoothing != T(0);
  const Weights<T> weight(target.weight, smooth ? C : 0);
  const IndexLoss<T> position_loss{target, smooth ? sum_of<T>(weight, C) : 0, C};
  Sink<T> sink(loss, target.reduction, s.inner == 1 ? row_chunks(s) : column_chunks<T>(s));
  FirstPosition invalid;

  // Positions [first, ...), whose logits of class c lie at in + c * g.inner.
  const auto group = [&](int64_t chunk, int64_t first, const T* in, ClassShape g, auto lanes) {
    constexpr int V = decltype(lanes)::kVectors;
    Vec<T> maximum[V], log_sum[V], smooth_sum[V];
    alignas(kBytes) T anchor[V * kWidth<T>] = {}, sums[V * kWidth<T>] = {};
    if (smooth) {
      for (int p = 0; p < lanes.positions; ++p) anchor[p] = anchor_of(in[p]);
      for (int k = 0; k < V; ++k) smooth_sum[k] = broadcast<T>(0);
      column_statistics(lanes, in, g, maximum, log_sum, [&](int64_t c, int k, Vec<T> v) {
        smooth_sum[k] += weight[c] * (v - load(anchor + k * kWidth<T>));
      });
      for (int k = 0; k < V; ++k) store<T>(sums + k * kWidth<T>, smooth_sum[k]);
    } else {
      column_statistics(lanes, in, g, maximum, log_sum, [](int64_t, int, Vec<T>) {});
    }
    for (int k = 0; k < V; ++k) {
      lanes.store(maxima + first, k, maximum[k]);
      lanes.store(log_sums + first, k, log_sum[k]);
    }
    Sums sum;  // not added to memory one by one: each addition would wait for the one before to get there
    for (int p = 0; p < lanes.positions; ++p) {
      const int64_t i = first + p, t = target.index[i];
      const Position kind = classify(target, t, C);
      if (kind != Position::counted) {
        if (kind == Position::invalid) invalid.note(i);
        sink.add(sum, i, 0, 0);
        continue;
      }
      const T w_t = target.weight ? target.weight[t] : T(1);
      sink.add(sum, i,
               position_loss(in[t * g.inner + p], w_t, maxima[i], log_sums[i], anchor[p], double(sums[p])),
               double(w_t));
    }
    sink.add(chunk, sum);
  };

  if (few_classes<T>(s)) {
    for_short_rows<T>(s, x, [&](int64_t chunk, int64_t row, const T* in, auto lanes) {
      group(chunk, row, in, {1, C, kWidth<T>}, lanes);
    });
  } else if (s.inner == 1) {
    for_rows<T>(s, [&](int64_t chunk, int64_t i) {
      const int64_t t = target.index[i];
      const Position kind = classify(target, t, C);
      if (kind != Position::counted) {
        if (kind == Position::invalid) invalid.note(i);
        maxima[i] = log_sums[i] = 0;
        sink.add(chunk, i, 0, 0);
        return;
      }
      const T* row = x + i * C;
      const T anchor = anchor_of(row[0]);
      double smooth_sum = 0;
      const auto [maximum, log_sum] = row_statistics(row, C, [&](int64_t begin, int64_t count) {
        if (smooth)
          smooth_sum += double(row_sum<T>(
              count, [=](Vec<T> w, Vec<T> v) { return w * (v - anchor); }, weight + begin, row + begin));
      });
      maxima[i] = maximum;
      log_sums[i] = log_sum;
      const T w_t = target.weight ? target.weight[t] : T(1);
      sink.add(chunk, i, position_loss(row[t], w_t, maximum, log_sum, anchor, smooth_sum), double(w_t));
    });
  } else {
    for_columns<T>(s, [&](int64_t chunk, int64_t o, int64_t j, auto lanes) {
      group(chunk, o * s.inner + j, x + o * C * s.inner + j, s, lanes);
    });
  }
  if (!sink.each) {
    const double count = sink.weights.total();
    *loss = reduced<T>(sink.losses.total(), count, target.reduction);
    *normaliser = T(count);
  } else {
    *normaliser = T(1);
  }
  return invalid.get();
}

template <class T>
int64_t cross_entropy_backward(T* grad_x, const T* grad_loss, const T* x, const T* statistics,
                               const T* normaliser, ClassTargets<T> target, ClassShape s) {
  const int64_t C = s.classes, positions = s.positions();
  const T *const maxima = statistics, *const log_sums = statistics + positions;
  const bool smooth = target.smoothing != T(0);
  const Weights<T> weight(target.weight, smooth ? C : 0);
  const T all_weights = smooth ? T(sum_of<T>(weight, C)) : T(0);
  const T per_class = target.smoothing / T(C), kept = T(1) - target.smoothing;
  const Upstream<T> upstream(grad_loss, target.reduction, *normaliser);
  FirstPosition invalid;

  // grad_x_c = a exp((x_c - m) - L) - b w_c - d [c == t]
  struct Coefficients {
    T a, b, d;
  };
  auto coefficients = [&](int64_t i, int64_t t) -> Coefficients {
    const T g = upstream(i), w_t = target.weight ? target.weight[t] : T(1);
    return {g * (kept * w_t + per_class * all_weights), g * per_class, g * kept * w_t};
  };

  // As in forward; the gradient goes to out in the logits' layout.
  const auto group = [&](int64_t first, const T* in, T* out, ClassShape g, auto lanes) {
    constexpr int V = decltype(lanes)::kVectors, w = kWidth<T>;
    alignas(kBytes) T a[V * w] = {}, b[V * w] = {}, d[V * w] = {};
    alignas(kBytes) Int<T> t[V * w] = {};
    for (int p = 0; p < lanes.positions; ++p) {
      const int64_t index = target.index[first + p];
      const Position kind = classify(target, index, C);
      t[p] = -1;
      if (kind == Position::invalid) invalid.note(first + p);
      if (kind != Position::counted) continue;
      const Coefficients one = coefficients(first + p, index);
      a[p] = one.a;
      b[p] = one.b;
      d[p] = one.d;
      t[p] = Int<T>(index);
    }
    Vec<T> maximum[V], log_sum[V], factor[V];
    for (int k = 0; k < V; ++k) {
      maximum[k] = lanes.load(maxima + first, k);
      log_sum[k] = lanes.load(log_sums + first, k);
      factor[k] = load(a + k * w);
    }
    for (int64_t c = 0; c < C; ++c) {
      const int64_t row = c * g.inner;
#pragma GCC unroll 4
      for (int k = 0; k < V; ++k) {
        Vec<T> grad = factor[k] * exp_bounded<T>((lanes.load(in + row, k) - maximum[k]) - log_sum[k]);
        // An ignored position has t == -1 and zero factors; its statistics may be NaN, its gradient is zero.
        const auto position = *reinterpret_cast<const VecInt<T>*>(t + k * w);
        if (smooth) grad -= weight[c] * load(b + k * w);
        grad -= position == Int<T>(c) ? load(d + k * w) : broadcast<T>(0);
        lanes.store(out + row, k, position < Int<T>(0) ? broadcast<T>(0) : grad);
      }
    }
  };

  if (few_classes<T>(s)) {
    for_short_rows<T>(s, x, [&](int64_t, int64_t row, T* copy, auto lanes) {
      group(row, copy, copy, {1, C, kWidth<T>}, lanes);
      deinterleave<T>(grad_x + row * C, C, copy, lanes.positions, C);
    });
    return invalid.get();
  }
  if (s.inner == 1) {
    const bool streaming = C >= 8 * kWidth<T> && worth_streaming(s.size() * int64_t(sizeof(T)));
    for_rows<T>(s, [&](int64_t, int64_t i) {
      const int64_t t = target.index[i];
      T* out = grad_x + i * C;
      const Position kind = classify(target, t, C);
      if (kind != Position::counted) {
        if (kind == Position::invalid) invalid.note(i);
        write_row(out, C, streaming, [] { return Vec<T>{}; });
        return;
      }
      const T* row = x + i * C;
      const T maximum = maxima[i], log_sum = log_sums[i];
      const auto [a, b, d] = coefficients(i, t);
      // The target's entry once more on its own: smoothing and the common case share what is written there.
      const T at_target = a * exp_bounded<T>(broadcast<T>((row[t] - maximum) - log_sum))[0] - d;
      if (smooth) {
        write_row(
            out, C, streaming,
            [=, a = a, b = b](Vec<T> v, Vec<T> w) {
              return a * exp_bounded<T>((v - maximum) - log_sum) - b * w;
            },
            row, static_cast<const T*>(weight));
        out[t] = at_target - b * weight[t];
      } else {
        write_row(
            out, C, streaming, [=, a = a](Vec<T> v) { return a * exp_bounded<T>((v - maximum) - log_sum); },
            row);
        out[t] = at_target;
      }
    });
    return invalid.get();
  }
  for_columns<T>(s, [&](int64_t, int64_t o, int64_t j, auto lanes) {
    const int64_t at = o * C * s.inner + j;
    group(o * s.inner + j, x + at, grad_x + at, s, lanes);
  });
  return invalid.get();
}

template <class T>
void cross_entropy_probabilities_forward(T* loss, T* statistics, const T* x, ProbabilityTargets<T> target,
                                         ClassShape s) {
  const int64_t C = s.classes, positions = s.positions();
  T *const maxima = statistics, *const log_sums = maxima + positions, *const totals = log_sums + positions;
  const Weights<T> weight(target.weight, C);
  const T kept = T(1) - target.smoothing, per_class = target.smoothing / T(C);
  const T* q = target.probability;
  Sink<T> sink(loss, target.reduction, s.inner == 1 ? row_chunks(s) : column_chunks<T>(s));

  auto finish = [&](int64_t chunk, int64_t i, T anchor, double total, double sum) {
    totals[i] = T(total);
    sink.add(chunk, i, total * (double(maxima[i] - anchor) + double(log_sums[i])) - sum, 1);
  };
  // Positions from `first` on as lanes, a class every `pitch` elements. Out of line: rows and columns share
  // it.
  auto group = [&](int64_t chunk, int64_t first, const T* in, const T* given, int64_t pitch,
                   auto lanes) __attribute__((noinline)) {
    constexpr int V = decltype(lanes)::kVectors, w = kWidth<T>;
    Vec<T> maximum[V], log_sum[V], total[V], sum[V];
    alignas(kBytes) T anchor[V * w] = {}, total_of[V * w], sum_of_position[V * w];
    for (int p = 0; p < lanes.positions; ++p) anchor[p] = anchor_of(in[p]);
    for (int k = 0; k < V; ++k) total[k] = sum[k] = broadcast<T>(0);
    column_statistics(lanes, in, {1, C, pitch}, maximum, log_sum, [&](int64_t c, int k, Vec<T> v) {
      const Vec<T> mass = weight[c] * (lanes.load(given + c * pitch, k) * kept + per_class);
      total[k] += mass;
      sum[k] += mass * (v - load(anchor + k * w));
    });
    for (int k = 0; k < V; ++k) {
      lanes.store(maxima + first, k, maximum[k]);
      lanes.store(log_sums + first, k, log_sum[k]);
      store<T>(total_of + k * w, total[k]);
      store<T>(sum_of_position + k * w, sum[k]);
    }
    for (int p = 0; p < lanes.positions; ++p)
      finish(chunk, first + p, anchor[p], double(total_of[p]), double(sum_of_position[p]));
  };

  if (few_classes<T>(s)) {
    for_short_rows<T>(s, x, [&](int64_t chunk, int64_t row, const T* copy, auto lanes) {
      alignas(kBytes) T given[kFewClasses * kWidth<T>];
      interleave<T>(given, q + row * C, C, lanes.positions, C);
      group(chunk, row, copy, given, kWidth<T>, lanes);
    });
  } else if (s.inner == 1) {
    for_rows<T>(s, [&](int64_t chunk, int64_t i) {
      const T *row = x + i * C, *p = q + i * C;
      const T anchor = C > 0 ? anchor_of(row[0]) : T(0);
      double total = 0, sum = 0;
      const auto [maximum, log_sum] = row_statistics(row, C, [&](int64_t begin, int64_t count) {
        auto mass = [=](Vec<T> w, Vec<T> v) { return w * (v * kept + per_class); };
        total += double(row_sum<T>(count, mass, weight + begin, p + begin));
        sum += double(row_sum<T>(
            count, [=](Vec<T> w, Vec<T> v, Vec<T> in) { return mass(w, v) * (in - anchor); }, weight + begin,
            p + begin, row + begin));
      });
      maxima[i] = maximum;
      log_sums[i] = log_sum;
      finish(chunk, i, anchor, total, sum);
    });
  } else {
    for_columns<T>(s, [&](int64_t chunk, int64_t o, int64_t j, auto lanes) {
      const int64_t at = o * C * s.inner + j;
      group(chunk, o * s.inner + j, x + at, q + at, s.inner, lanes);
    });
  }
  if (!sink.each) *loss = reduced<T>(sink.losses.total(), double(positions), target.reduction);
}

template <class T>
void cross_entropy_probabilities_backward(T* grad_x, const T* grad_loss, const T* x, const T* statistics,
                                          ProbabilityTargets<T> target, ClassShape s) {
  const int64_t C = s.classes, positions = s.positions();
  const T *const maxima = statistics, *const log_sums = maxima + positions,
                 *const totals = log_sums + positions;
  const Weights<T> weight(target.weight, C);
  const T kept = T(1) - target.smoothing, per_class = target.smoothing / T(C);
  const T* q = target.probability;
  const Upstream<T> upstream(grad_loss, target.reduction, T(positions));

  auto group = [&](int64_t first, T* out, const T* in, const T* given, int64_t pitch, auto lanes)
                   __attribute__((noinline)) {
                     constexpr int V = decltype(lanes)::kVectors, w = kWidth<T>;
                     alignas(kBytes) T g[V * w] = {};
                     for (int p = 0; p < lanes.positions; ++p) g[p] = upstream(first + p);
                     Vec<T> maximum[V], log_sum[V], a[V];
                     for (int k = 0; k < V; ++k) {
                       maximum[k] = lanes.load(maxima + first, k);
                       log_sum[k] = lanes.load(log_sums + first, k);
                       a[k] = load(g + k * w) * lanes.load(totals + first, k);
                     }
                     for (int64_t c = 0, row = 0; c < C; ++c, row += pitch)
#pragma GCC unroll 4
                       for (int k = 0; k < V; ++k) {
                         const Vec<T> mass = weight[c] * (lanes.load(given + row, k) * kept + per_class);
                         const Vec<T> p = exp_bounded<T>((lanes.load(in + row, k) - maximum[k]) - log_sum[k]);
                         lanes.store(out + row, k, a[k] * p - load(g + k * w) * mass);
                       }
                   };
  if (few_classes<T>(s)) {
    for_short_rows<T>(s, x, [&](int64_t, int64_t row, T* copy, auto lanes) {
      alignas(kBytes) T given[kFewClasses * kWidth<T>];
      interleave<T>(given, q + row * C, C, lanes.positions, C);
      group(row, copy, copy, given, kWidth<T>, lanes);
      deinterleave<T>(grad_x + row * C, C, copy, lanes.positions, C);
    });
    return;
  }
  if (s.inner == 1) {
    const bool streaming = C >= 8 * kWidth<T> && worth_streaming(s.size() * int64_t(sizeof(T)));
    for_rows<T>(s, [&](int64_t, int64_t i) {
      const T maximum = maxima[i], log_sum = log_sums[i], g = upstream(i), a = g * totals[i];
      write_row(
          grad_x + i * C, C, streaming,
          [=](Vec<T> v, Vec<T> p, Vec<T> w) {
            return a * exp_bounded<T>((v - maximum) - log_sum) - g * w * (p * kept + per_class);
          },
          x + i * C, q + i * C, static_cast<const T*>(weight));
    });
    return;
  }
  for_columns<T>(s, [&](int64_t, int64_t o, int64_t j, auto lanes) {
    const int64_t at = o * C * s.inner + j;
    group(o * s.inner + j, grad_x + at, x + at, q + at, s.inner, lanes);
  });
}

#define FASTDL_INSTANTIATE(T)                                                                                \
  template int64_t cross_entropy_forward<T>(T*, T*, T*, const T*, ClassTargets<T>, ClassShape);              \
  template int64_t cross_entropy_backward<T>(T*, const T*, const T*, const T*, const T*, ClassTargets<T>,    \
                                             ClassShape);                                                    \
  template void cross_entropy_probabilities_forward<T>(T*, T*, const T*, ProbabilityTargets<T>, ClassShape); \
  template void cross_entropy_probabilities_backward<T>(T*, const T*, const T*, const T*,                    \
                                                        ProbabilityTargets<T>, ClassShape);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
