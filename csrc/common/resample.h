// Resampling tables: each output of an axis is a weighted sum of a few inputs. Which inputs and what weights
// is all that distinguishes nearest, linear, cubic and antialiased interpolation, and a gradient is the
// transposed table.
//
// Source positions and weights are computed in the data's own precision, as PyTorch does: rounding decides
// which pixel is the nearest. Only level-free code may call resample_axis (no contraction to FMA), so that
// all instruction-set levels use the same tables.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace fastdl {

template <class T>
struct ResampleAxis {
  int64_t in = 1, out = 1;
  std::vector<int64_t> begin{0, 1};  // output o sums entries [begin[o], begin[o + 1])
  std::vector<int64_t> index{0};
  std::vector<T> weight{T(1)};

  ResampleAxis transposed() const {
    ResampleAxis t;
    t.in = out;
    t.out = in;
    t.begin.assign(size_t(in) + 1, 0);
    for (int64_t i : index) ++t.begin[size_t(i) + 1];
    for (int64_t i = 0; i < in; ++i) t.begin[size_t(i) + 1] += t.begin[size_t(i)];
    t.index.resize(index.size());
    t.weight.resize(weight.size());
    std::vector<int64_t> next(t.begin.begin(), t.begin.end() - 1);
    for (int64_t o = 0; o < out; ++o)
      for (int64_t k = begin[size_t(o)]; k < begin[size_t(o) + 1]; ++k) {
        const auto to = size_t(next[size_t(index[size_t(k)])]++);
        t.index[to] = o;
        t.weight[to] = weight[size_t(k)];
      }
    return t;
  }
};

template <class T>
struct ResampleProblem {
  int64_t planes = 0;
  ResampleAxis<T> d, h, w;
};

enum class Resampling { nearest, nearest_exact, linear, cubic, lanczos };

namespace resampling {  // constexpr: device code may call them, too

template <class T>
constexpr T cubic_near(T x, T a) {
  return ((a + 2) * x - (a + 3)) * x * x + 1;
}
template <class T>
constexpr T cubic_far(T x, T a) {
  return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
}
template <class T>
constexpr T sinc(T x) {
  if (x == 0) return T(1);
  x *= T(3.14159265358979323846);
  return std::sin(x) / x;
}
// The antialiasing filters: a triangle, Keys' cubic with a = -1/2, Lanczos with three lobes.
template <class T>
constexpr T filter(Resampling mode, T x) {
  x = std::abs(x);
  if (mode == Resampling::linear) return x < 1 ? 1 - x : T(0);
  if (mode == Resampling::cubic)
    return x < 1 ? cubic_near(x, T(-0.5)) : (x < 2 ? cubic_far(x, T(-0.5)) : T(0));
  return x < 3 ? sinc(x) * sinc(x / 3) : T(0);
}

}  // namespace resampling

// scale: outputs per input as given by the user, or 0 to derive it from the sizes.
template <class T>
ResampleAxis<T> resample_axis(Resampling mode, int64_t in, int64_t out, double scale, bool align_corners,
                              bool antialias) {
  ResampleAxis<T> axis;
  axis.in = in;
  axis.out = out;
  axis.begin.assign(1, 0);
  axis.index.clear();
  axis.weight.clear();
  const auto add = [&](int64_t i, T weight) {
    axis.index.push_back(std::clamp<int64_t>(i, 0, in - 1));
    axis.weight.push_back(weight);
  };
  T step;  // inputs per output
  if (align_corners)
    step = out > 1 ? T(in - 1) / T(out - 1) : T(0);
  else
    step = scale > 0 ? T(1.0 / scale) : T(in) / T(out);
  const auto center = [&](int64_t o) {
    return align_corners ? step * T(o) : step * (T(o) + T(0.5)) - T(0.5);
  };

  for (int64_t o = 0; o < out; ++o) {
    if (antialias && in == out) {  // nothing to resample, whatever the scale
      add(o, T(1));
    } else if (antialias) {
      const T lobes = mode == Resampling::linear ? 1 : (mode == Resampling::cubic ? 2 : 3);
      const T support = step >= 1 ? lobes * step : lobes, inverse = step >= 1 ? T(1) / step : T(1);
      const T middle = step * (T(o) + T(0.5));
      const auto most = int64_t(std::ceil(support)) * 2 + 1;
      const int64_t first = std::max<int64_t>(int64_t(middle - support + T(0.5)), 0);
      const int64_t count =
          std::clamp<int64_t>(std::min(int64_t(middle + support + T(0.5)), in) - first, 0, most);
      T total = 0;
      for (int64_t j = 0; j < count; ++j) {
        add(first + j, resampling::filter(mode, (T(j + first) - middle + T(0.5)) * inverse));
        total += axis.weight.back();
      }
      if (total != 0)
        for (auto k = size_t(axis.begin.back()); k < axis.weight.size(); ++k) axis.weight[k] /= total;
    } else if (mode == Resampling::nearest) {
      add(int64_t(std::floor(float(T(o) * step))), T(1));
    } else if (mode == Resampling::nearest_exact) {
      add(int64_t(std::floor(float(std::max(center(o), T(0)) + T(0.5)))), T(1));
    } else if (mode == Resampling::linear) {
      const T x = in == out ? T(o) : std::max(center(o), T(0));
      const int64_t i = std::min(int64_t(x), in - 1);
      const T right = std::clamp(x - T(i), T(0), T(1));
      add(i, T(1) - right);
      add(i + 1, right);
    } else {
      const T x = center(o), low = std::floor(x);
      const int64_t i = std::min(int64_t(low), in - 1);
      const T t = std::clamp(x - T(i), T(0), T(1)), a = T(-0.75);
      add(i - 1, resampling::cubic_far(t + 1, a));
      add(i, resampling::cubic_near(t, a));
      add(i + 1, resampling::cubic_near(1 - t, a));
      add(i + 2, resampling::cubic_far(2 - t, a));
    }
    axis.begin.push_back(int64_t(axis.index.size()));
  }
  return axis;
}

}  // namespace fastdl
