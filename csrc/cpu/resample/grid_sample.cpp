// Sampling images (N, C, plane) at the places of a grid (N, points, rank).
//
//   y[n, c, p] = sum over taps k of w_k(p) x[n, c, i_k(p)]
//   grad_x[n, c, i] = sum over p, k with i_k(p) = i of w_k(p) grad_y[n, c, p]
//   grad_grid[n, p, a] = sum over k of (dw_k / da)(p) * sum over c of grad_y[n, c, p] x[n, c, i_k(p)]
//
// Along each axis a place is the weighted sum of one pixel (nearest), two or four (Keys' cubic); the weights
// of all axes multiply. Pixels outside have no part, not even if the image holds NaN. Places are the same for
// all channels: those of a block of points are found once, into tables in L1, and channels pass over the
// tables, one point per lane. Nothing is saved. Work: blocks of points for y and grad_grid, planes for
// grad_x, whose sums are in the order of the points. Passes over memory: grid, results and grad_y once,
// pixels as they come.
#include <cmath>

#include "cpu/resample/resample.h"
#include "cpu/rows.h"
#include "cpu/simd/interleave.h"

namespace fastdl {
namespace {

constexpr int64_t kBlock = 64;  // points

// To the integer below, and to the nearest (of two the even one), by the instruction for either.
constexpr int kDown = 9, kNearest = 8;
template <int kWay, class T>
[[gnu::always_inline]] inline Vec<T> rounded(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_roundscale_ps((__m512)x, kWay);
  else
    return (Vec<T>)_mm512_roundscale_pd((__m512d)x, kWay);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm256_round_ps((__m256)x, kWay);
  else
    return (Vec<T>)_mm256_round_pd((__m256d)x, kWay);
#elif defined(__SSE4_1__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm_round_ps((__m128)x, kWay);
  else
    return (Vec<T>)_mm_round_pd((__m128d)x, kWay);
#else
  for (int i = 0; i < kWidth<T>; ++i) x[i] = kWay == kDown ? std::floor(x[i]) : std::nearbyint(x[i]);
  return x;
#endif
}
template <class T>
[[gnu::always_inline]] inline Vec<T> floor_of(Vec<T> x) {
  return rounded<kDown, T>(x);
}

template <class T>
class Block {
 public:
  // `slopes`: will they be asked for?
  Block(const GridProblem& p, bool slopes)
      : p_(p),
        slopes_(slopes),
        pairs_(p.mode == GridMode::bilinear && p.extent[p.rank - 1] > 1),
        quads_(kHasQuads && p.mode == GridMode::bicubic && p.extent[p.rank - 1] > 3),
        taps_(p.taps()),
        total_(1) {
    for (int a = 0; a < p.rank; ++a) total_ *= taps_;
  }

  // Tables for points [0, count) of `grid`; lanes behind them are somewhere in the image.
  void locate(const T* grid, int64_t count) {
    const auto of_taps = [&]<int kTaps>() {
      p_.rank == 2 ? locate<kTaps, 2>(grid, count) : locate<kTaps, 3>(grid, count);
    };
    if (p_.mode == GridMode::nearest)
      of_taps.template operator()<1>();
    else if (p_.mode == GridMode::bilinear)
      of_taps.template operator()<2>();
    else
      locate<4, 2>(grid, count);
  }

  void sample(T* y, const T* x, int64_t count) const {
    for (int64_t j = 0; j < count; j += w) {
      Vec<T> sum{};
      each_pixel(x, j, [&](int k, Vec<T> pixel) { sum += load(weight_[k] + j) * pixel; });
      if (j + w <= count)
        store<T>(y + j, sum);
      else
        store_n(y + j, sum, int(count - j));
    }
  }
  // A pair at once would wait for the one before: their places overlap, which stores do not forward.
  void scatter(T* grad_x, const T* grad_y, int64_t count) const {
    alignas(64) T shares[kBlock];
    for (int k = 0; k < total_; ++k) {
      for (int64_t j = 0; j < count; j += w) {
        const Vec<T> g = load_n(grad_y + j, int(std::min<int64_t>(w, count - j)));
        store<T>(shares + j, kept(load(weight_[k] + j) * g, load<Int<T>>(inside_[k] + j)));
      }
      for (int64_t j = 0; j < count; ++j) grad_x[index_[k][j]] += shares[j];
    }
  }
  // What each tap's weight does to the loss: one channel's part of it is added.
  void clear_shares() { std::fill_n(&share_[0][0], total_ * kBlock, T(0)); }
  void add_shares(const T* grad_y, const T* x, int64_t count) {
    for (int64_t j = 0; j < count; j += w) {
      const Vec<T> g = load_n(grad_y + j, int(std::min<int64_t>(w, count - j)));
      each_pixel(x, j,
                 [&](int k, Vec<T> pixel) { store<T>(share_[k] + j, load(share_[k] + j) + g * pixel); });
    }
  }
  void slopes(T* grad_grid, int64_t count) const {
    alignas(64) T sums[kBlock];
    for (int a = 0; a < p_.rank; ++a) {
      for (int64_t j = 0; j < kBlock; j += w) {
        Vec<T> sum{};
        for (int k = 0; k < total_; ++k) {
          Vec<T> factor = load(share_[k] + j);
          for (int b = p_.rank - 1, rest = k; b >= 0; --b, rest /= taps_) {
            const int tap = rest % taps_;
            factor *= load(b == a ? axes_[b].slope[tap] + j : axes_[b].weight[tap] + j);
          }
          sum += part(factor, load<Int<T>>(inside_[k] + j));
        }
        store<T>(sums + j, sum);
      }
      for (int64_t j = 0; j < count; ++j) grad_grid[j * p_.rank + (p_.rank - 1 - a)] = sums[j];
    }
  }

 private:
  static constexpr int64_t w = kWidth<T>;
  static constexpr bool kHasQuads = sizeof(T) == 4;  // four doubles fill two loads: no quicker than gathering

  struct Axis {
    alignas(64) T weight[4][kBlock], slope[4][kBlock];  // slope: of the weight, by the grid's coordinate
  };
  // A vector of places along an axis: pixels and, as masks, whether there are any.
  template <int kTaps>
  struct Places {
    Vec<Int<T>> at[kTaps], inside[kTaps];
    Vec<T> weight[kTaps], slope[kTaps];
  };

  [[gnu::always_inline]] static Vec<T> kept(Vec<T> v, Vec<Int<T>> mask) {
    return (Vec<T>)((Vec<Int<T>>)v & mask);
  }
  // 0 where there is no pixel, but NaN stays: a place that is no number has no value.
  [[gnu::always_inline]] static Vec<T> part(Vec<T> v, Vec<Int<T>> mask) { return kept(v, mask) + (v - v); }
  // f(tap, its pixels of points j ...) for all taps.
  template <class F>
  [[gnu::always_inline]] void each_pixel(const T* x, int64_t j, F f) const {
    const auto seen = [&](int k, Vec<T> pixel) { f(k, kept(pixel, load<Int<T>>(inside_[k] + j))); };
    if (kHasQuads && quads_)
      for (int k = 0; k < total_; k += 4) {
        Vec<T> pixels[4];
        gather_quads<T>(x, index_[k] + j, pixels);
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t) seen(k + t, pixels[t]);
      }
    else if (pairs_)
      for (int k = 0; k < total_; k += 2) {
        Vec<T> first, second;
        gather_pairs<T>(x, index_[k] + j, first, second);
        seen(k, first), seen(k + 1, second);
      }
    else
      for (int k = 0; k < total_; ++k) seen(k, gather<T>(x, load<Int<T>>(index_[k] + j)));
  }

  // Places moved into the image, except for zeros; `slope` is multiplied by the derivative of that.
  [[gnu::always_inline]] static void pad(const GridProblem& p, Vec<T>& place, Vec<T>& slope, T extent) {
    if (p.padding == GridPadding::zeros) return;
    const Vec<T> zero{};
    if (p.padding == GridPadding::reflection) {
      const T low = p.align_corners ? T(0) : T(-0.5), span = p.align_corners ? extent - 1 : extent;
      if (span == 0) {
        place = slope = zero;
        return;
      }
      const Vec<T> distance = place - low, away = distance < zero ? -distance : distance;
      const Vec<T> turns = floor_of<T>(away / span), rest = away - turns * span;
      const auto back = turns - 2 * floor_of<T>(turns / 2) == T(1);
      place = (back ? span - rest : rest) + low;
      slope = ((distance < zero) ^ back) ? -slope : slope;
    }
    slope = (place > zero) & (place < extent - 1) ? slope : zero;
    place = min(max(place, zero), broadcast<T>(extent - 1));  // NaN is 0 now
  }
  // A tap's pixel, given as a number, among `extent`.
  template <int kTaps>
  [[gnu::always_inline]] static void set_tap(Places<kTaps>& places, int t, Vec<T> pixel, Vec<T> weight,
                                             Vec<T> slope, T extent) {
    places.inside[t] = (Vec<Int<T>>)((pixel >= T(0)) & (pixel <= extent - 1));
    places.at[t] = to_int<T>(kept(pixel, places.inside[t]));
    places.weight[t] = weight, places.slope[t] = slope;
  }

  // Taps become the four neighbours among which all of their pixels lie; some may share one. `doubt`: 0, or NaN.
  [[gnu::always_inline]] static void side_by_side(Places<4>& places, const Vec<T>* pixels, bool slopes,
                                                  Vec<T> doubt, T extent) {
    Vec<T> low = pixels[0];
    for (int t = 1; t < 4; ++t) low = min(pixels[t], low);
    low = min(max(low, Vec<T>{}), broadcast<T>(extent - 4));  // NaN is 0 now
    const Places<4> taps = places;
    for (int n = 0; n < 4; ++n) {
      const Vec<T> pixel = low + T(n);
      places.at[n] = to_int<T>(pixel);
      places.inside[n] = Vec<Int<T>>{};
      places.weight[n] = places.slope[n] = doubt;
      for (int t = 0; t < 4; ++t) {
        const auto here = (Vec<Int<T>>)(pixels[t] == pixel);
        places.inside[n] |= here;
        places.weight[n] += kept(taps.weight[t], here);
        if (slopes) places.slope[n] += kept(taps.slope[t], here);
      }
    }
  }

  template <int kTaps, int kRank>
  [[gnu::always_inline]] Places<kTaps> places_of(const GridProblem& p, int a, Vec<T> v) const {
    Places<kTaps> places;
    const T extent = T(p.extent[a]), far = T(1 << 30);
    Vec<T> place = p.align_corners ? (v + 1) * ((extent - 1) / 2) : ((v + 1) * extent - 1) / 2;
    Vec<T> slope = broadcast<T>(p.align_corners ? (extent - 1) / 2 : extent / 2);
    place = min(max(place, broadcast<T>(-far)), broadcast<T>(far));
    const Vec<T> doubt = v - v;  // 0, or NaN of what is not finite
    if constexpr (kRank == 2) {
      if (p.padding != GridPadding::border) place += doubt;
    } else if (p.padding != GridPadding::zeros) {  // as in PyTorch, where volumes take the end of an axis
      const auto sure = p.padding == GridPadding::border ? v == v : doubt == T(0);
      place = sure ? place : broadcast<T>(extent - 1);
    }
    if (kTaps != 4) pad(p, place, slope, extent);
    if constexpr (kTaps == 1) {
      set_tap(places, 0, rounded<kNearest, T>(place), broadcast<T>(1), Vec<T>{}, extent);
      return places;
    }
    const Vec<T> first = floor_of<T>(place) + (place - place);  // NaN of NaN, of which to_int makes anything
    const Vec<T> t = kTaps == 4 ? place - first + doubt : place - first;
    if constexpr (kTaps == 2) {
      if (pairs_ && a == p.rank - 1) {
        // Taps are the pixels of the pair that lies in the image: the second's are the first's at its end.
        const Vec<T> low = min(max(first, Vec<T>{}), broadcast<T>(extent - 2));  // NaN is 0 now
        for (int tap = 0; tap < 2; ++tap) {
          const Vec<T> pixel = low + T(tap);
          const auto left = pixel == first, right = pixel == first + 1;
          places.inside[tap] = (Vec<Int<T>>)(left | right);
          places.at[tap] = to_int<T>(pixel);
          places.weight[tap] = right ? t : 1 - t, places.slope[tap] = right ? slope : -slope;
        }
        return places;
      }
      set_tap(places, 0, first, 1 - t, -slope, extent);
      set_tap(places, 1, first + 1, t, slope, extent);
    } else if constexpr (kTaps == 4) {
      constexpr T c = T(-0.75);
      Vec<T> pixels[4];
      for (int tap = 0; tap < 4; ++tap) {
        const bool inner = tap == 1 || tap == 2, left = tap < 2;
        const Vec<T> near = left ? t : 1 - t, u = inner ? near : near + 1;
        const Vec<T> weight =
            inner ? ((c + 2) * u - (c + 3)) * u * u + 1 : ((c * u - 5 * c) * u + 8 * c) * u - 4 * c;
        Vec<T> rise{};
        if (slopes_) rise = inner ? (3 * (c + 2) * u - 2 * (c + 3)) * u : (3 * c * u - 10 * c) * u + 8 * c;
        Vec<T> pixel = first + T(tap - 1), ignored{};
        pad(p, pixel, ignored, extent);
        set_tap(places, tap, pixel, weight, left ? slope * rise : -slope * rise, extent);
        pixels[tap] = pixel;
      }
      if (kHasQuads && quads_ && a == p.rank - 1) side_by_side(places, pixels, slopes_, t - t, extent);
    }
    return places;
  }

  template <int kTaps, int kRank>
  void locate(const T* grid, int64_t count) {
    alignas(64) T coordinates[kRank][kBlock];  // of axis a: number kRank - 1 - a of a point
    int64_t n = 0;
    if constexpr (kRank == 2)
      for (; n + w <= count; n += w) {
        const Vec<T> a = load(grid + 2 * n), b = load(grid + 2 * n + w);
        store<T>(coordinates[1] + n, even<T>(a, b)), store<T>(coordinates[0] + n, odd<T>(a, b));
      }
    for (; n < count; ++n)
      for (int a = 0; a < kRank; ++a) coordinates[a][n] = grid[n * kRank + kRank - 1 - a];
    for (; n < ceil_div(count, w) * w; ++n)
      for (auto& axis : coordinates) axis[n] = T(0);
    const GridProblem p = p_;  // which stores to the tables do not change
    const bool shared = pairs_ || quads_;
    for (int64_t j = 0; j < count; j += w) {
      Places<kTaps> places[kRank];
      for (int a = 0; a < kRank; ++a) {
        places[a] = places_of<kTaps, kRank>(p, a, load(coordinates[a] + j));
        if (slopes_)
          for (int t = 0; t < kTaps; ++t) {
            store<T>(axes_[a].weight[t] + j, places[a].weight[t]);
            store<T>(axes_[a].slope[t] + j, places[a].slope[t]);
          }
      }
      // Taps of the last axis change first.
      for (int k = 0, t0 = 0; t0 < kTaps; ++t0)
        for (int t1 = 0; t1 < kTaps; ++t1)
          for (int t2 = 0; t2 < (kRank == 3 ? kTaps : 1); ++t2, ++k) {
            Vec<Int<T>> index = places[0].at[t0] * Int<T>(p.extent[1]) + places[1].at[t1];
            Vec<Int<T>> inside = places[0].inside[t0] & places[1].inside[t1];
            Vec<T> weight = places[0].weight[t0] * places[1].weight[t1];
            if constexpr (kRank == 3) {
              index = index * Int<T>(p.extent[2]) + places[2].at[t2];
              inside &= places[2].inside[t2];
              weight *= places[2].weight[t2];
            }
            // Of neighbours of which one pixel counts the others are read, too.
            store<Int<T>>(index_[k] + j, shared ? index : index & inside);
            store<Int<T>>(inside_[k] + j, inside);
            store<T>(weight_[k] + j, part(weight, inside));
          }
    }
  }

  const GridProblem& p_;
  const bool slopes_, pairs_,
      quads_;         // the last axis's taps are 2 or 4 neighbours in the image, wherever it is sampled
  int taps_, total_;  // of an axis, of all
  Axis axes_[3];
  alignas(64) Int<T> index_[16][kBlock], inside_[16][kBlock];
  alignas(64) T weight_[16][kBlock], share_[16][kBlock];
};

// f(image, first point, how many) for all blocks of points.
template <class F>
void for_blocks(const GridProblem& p, F f) {
  const int64_t per_image = ceil_div(p.points, kBlock);
  parallel_for(p.batch * per_image, rows_grain(4 * kBlock * (p.channels + 4)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t b = begin; b < end; ++b) {
                   const int64_t first = b % per_image * kBlock;
                   f(b / per_image, first, std::min(kBlock, p.points - first));
                 }
               });
}

}  // namespace

template <class T>
void grid_sample_forward(T* y, const T* x, const T* grid, const GridProblem& p) {
  for_blocks(p, [&](int64_t n, int64_t first, int64_t count) {
    Block<T> block(p, false);
    block.locate(grid + (n * p.points + first) * p.rank, count);
    for (int64_t c = n * p.channels; c < (n + 1) * p.channels; ++c)
      block.sample(y + c * p.points + first, x + c * p.plane(), count);
  });
}

template <class T>
void grid_sample_backward(T* grad_x, T* grad_grid, const T* grad_y, const T* x, const T* grid,
                          const GridProblem& p) {
  if (grad_x)
    parallel_for(p.batch * p.channels, rows_grain(8 * p.points + p.plane()), [&](int64_t begin, int64_t end) {
      std::fill_n(grad_x + begin * p.plane(), (end - begin) * p.plane(), T(0));
      Block<T> block(p, false);
      for (int64_t plane = begin, stop; plane < end; plane = stop) {
        const int64_t n = plane / p.channels;
        stop = std::min(end, (n + 1) * p.channels);
        for (int64_t first = 0; first < p.points; first += kBlock) {
          const int64_t count = std::min(kBlock, p.points - first);
          block.locate(grid + (n * p.points + first) * p.rank, count);
          for (int64_t c = plane; c < stop; ++c)
            block.scatter(grad_x + c * p.plane(), grad_y + c * p.points + first, count);
        }
      }
    });
  if (!grad_grid) return;
  if (p.mode == GridMode::nearest)  // constant between its jumps
    std::fill_n(grad_grid, p.batch * p.points * p.rank, T(0));
  else
    for_blocks(p, [&](int64_t n, int64_t first, int64_t count) {
      Block<T> block(p, true);
      const int64_t at = (n * p.points + first) * p.rank;
      block.locate(grid + at, count);
      block.clear_shares();
      for (int64_t c = n * p.channels; c < (n + 1) * p.channels; ++c)
        block.add_shares(grad_y + c * p.points + first, x + c * p.plane(), count);
      block.slopes(grad_grid + at, count);
    });
}

#define FASTDL_INSTANTIATE(T)                                                       \
  template void grid_sample_forward<T>(T*, const T*, const T*, const GridProblem&); \
  template void grid_sample_backward<T>(T*, T*, const T*, const T*, const T*, const GridProblem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
