// What the direct algorithms share: packed weights, the taps that a tile needs, and images over threads.
#pragma once

#include <vector>

#include "cpu/conv/algorithm.h"
#include "cpu/conv/planes.h"
#include "cpu/conv/tap_tile.h"
#include "cpu/runtime/threads.h"

namespace fastdl {

// Weights as a pass sees them: element (output channel k, input channel c, tap r) at data[k * row_stride + c
// * depth_stride + r], for one group.
template <class T>
struct Weights {
  const T* data;
  int64_t row_stride, depth_stride, taps;
  Weights of_group(const ConvProblem& p, int64_t g) const {
    return {data + g * p.group_out() * p.patch(), row_stride, depth_stride, taps};
  }
};

// A pass over one group: `in` channels of planes through lattices to `out` channels of `extent`, which lie
// `size` elements apart. p may be a band of the problem `whole` (bands.h).
template <class T>
struct Pass {
  int64_t in, out;
  Extent extent;
  int64_t size;
  Planes<T> planes;
  std::vector<Lattice> lattices;
  Weights<T> weights;

  static Pass forward(const ConvProblem& p, const T* w) { return forward(p, w, p); }
  static Pass forward(const ConvProblem& p, const T* w, const ConvProblem& whole) {
    const auto planes = PlaneLayout::of_input(p, whole.in_size());
    return {p.group_in(),
            p.group_out(),
            p.out,
            whole.out_size(),
            planes,
            {forward_lattice(p, planes.tap_offsets())},
            {w, p.patch(), p.taps(), p.taps()}};
  }
  static Pass grad_x(const ConvProblem& p, const T* w) { return grad_x(p, w, p); }
  static Pass grad_x(const ConvProblem& p, const T* w, const ConvProblem& whole) {
    const auto [planes, lattices] = grad_lattices(p, whole.out_size());
    return {p.group_out(),
            p.group_in(),
            p.in,
            whole.in_size(),
            planes,
            lattices,
            {w, p.taps(), p.patch(), p.taps()}};
  }
  // Where no tap meets a lattice it is left out, and the result is the bias.
  bool covered() const {
    int64_t sum = 0;
    for (const Lattice& lattice : lattices) sum += volume(lattice.count);
    return sum == volume(extent);
  }
};

double direct_grad_w_cost(const ConvProblem& p, int64_t w);  // vectors of w

// In panels of `width` output channels: out[((panel * depth + c) * taps + r) * width + k % width]; missing
// channels of the last panel are zero.
template <class T>
void pack_weights(T* out, const Weights<T>& w, int64_t depth, int64_t rows, int64_t width);

// The taps of a lattice as tiles read them: all of them, or those that meet the image, in as many places as
// lists are wanted at a time.
class TapList {
 public:
  struct View {
    const Tap* first;
    int64_t count;
  };

  // tap(offset in the planes, tap) makes the entry.
  template <class F>
  TapList(const Lattice& lattice, F&& tap, int64_t places = 1) : lattice_(lattice) {
    const size_t taps = lattice.taps.size();
    all_.resize(taps);
    some_.resize(taps * size_t(places));
    for (size_t r = 0; r < taps; ++r) all_[r] = tap(lattice.offsets[r], lattice.taps[r]);
    for (size_t a = 0; a < kSpatial; ++a) {
      int64_t low = 0, high = lattice.count[a];
      for (const Lattice::Range& range : lattice.inside)
        low = std::max(low, range.low[a]), high = std::min(high, range.high[a]);
      inner_.low[a] = low, inner_.high[a] = high;
    }
  }

  View all() const { return {all_.data(), int64_t(all_.size())}; }

  // Those that some position of the box [first, last) meets inside the image; valid until the next call for that
  // place.
  View meeting(const Extent& first, const Extent& last, int64_t place = 0) {
    bool every = true;  // tap meets some position along each axis
    for (size_t a = 0; a < kSpatial; ++a) every &= inner_.low[a] < last[a] && first[a] < inner_.high[a];
    if (every) return all();
    Tap* const some = some_.data() + place * int64_t(all_.size());
    int64_t count = 0;
    for (size_t r = 0; r < all_.size(); ++r) {  // without branches: which taps meet is hard to predict
      const Lattice::Range& range = lattice_.inside[r];
      bool meets = true;
      for (size_t a = 0; a < kSpatial; ++a) meets &= (first[a] < range.high[a]) & (range.low[a] < last[a]);
      some[count] = all_[r];
      count += meets;
    }
    return {some, count};
  }

 private:
  const Lattice& lattice_;
  Lattice::Range inner_;  // the largest low and the smallest high of all taps
  std::vector<Tap> all_, some_;
};

// Whether so many images give all threads nearly as much.
inline bool shares_evenly(int64_t images) {
  const int64_t threads = num_threads();
  return 10 * images >= 9 * ceil_div(images, threads) * threads;
}

// f(begin, end) over images: shared out, or all on this thread, so that f's own parallel loops have all of
// them.
template <class F>
void share_images(int64_t images, double macs, F&& f) {
  if (one_by_one(images, macs)) return f(int64_t{0}, images);
  if (images <= num_threads() && macs >= 5e6)  // few long tasks
    return parallel_tasks(images, [&](int64_t i) { f(i, i + 1); });
  parallel_for(images, std::max<int64_t>(1, int64_t(400000 * double(images) / macs)), f);
}

template <class T>
void direct_grad_w(const ConvProblem& p, T* grad_w, const T* grad_y, const T* x);

}  // namespace fastdl
