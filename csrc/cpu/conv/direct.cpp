// Direct convolution: no patches, no packing of the image beyond one padded copy (planes.h), in which every
// tap is a constant shift.
//
//   forward   y[k][o]      = sum over c, r of  w[k][c][r] * plane_r[c][shift_r + o]
//   grad_x    the same from grad_y: inputs whose position has the same remainder by the stride form a
//             lattice, on which the taps that meet it are constant shifts; every lattice is a stride-1
//             convolution with its own taps
//   grad_w    direct_grad_w.cpp
//
// Register tiles (tap_tile.h) in one of two layouts, whichever wastes less of them:
//
//   channel lanes   up to kTileRows neighbouring pixels of a row, broadcast, x vectors of output channels. No
//                   column is superfluous, and rows outside the image are skipped; tiles are transposed when
//                   stored. Wastes lanes where a group has few output channels.
//   pixel lanes     output channels, broadcast, x vectors of flat positions. For few channels. Wastes the
//                   columns between the rows (planes.h).
//
// Images whose padded copy would leave L2 are taken in bands (bands.h). Weights that leave it are read from L3
// once per task: bands are thicker then, and small images pass together. Work: over images and bands if they
// can be shared out evenly, else over tiles inside each. Weights are packed once per call in panels
// [panel][channel][tap][lane or row].
#include "cpu/conv/direct.h"

#include <cmath>
#include <vector>

#include "cpu/conv/bands.h"
#include "cpu/conv/lanes.h"
#include "cpu/conv/pass_size.h"
#include "cpu/conv/plane_copy.h"
#include "cpu/conv/tap_tile.h"
#include "cpu/gemm/pack.h"
#include "cpu/gemm/share.h"
#include "cpu/runtime/memory.h"

namespace fastdl {
namespace {

using namespace simd;

// ------------------------------------------------------------------------------------------ channel lanes

template <class T>
constexpr int kLanes = kTileVectors * kWidth<T>;
constexpr int64_t kTilesPerTask = 8, kTilesPerFarTask = 32;  // the latter where weights are far
constexpr int64_t kPieceBytes = 1 << 17;                     // of weights
constexpr int64_t kStoreCost = 4;  // of a vector of pixels that goes through the cache, in products
// Of a row's end within a vector: masked stores are quick where masks are registers.
constexpr int64_t kRowEndCost = kBytes == 64 ? 4 : 24;
constexpr int64_t kTileStart = 24;  // of a tile, in products
constexpr int64_t kStrip = 8;       // tiles of a strip
// Of a vector of the padded copy; of one whose elements are stored one by one, and for each step from one to the next.
constexpr double kCopyCost = 14, kApartCost = 22, kStepCost = 2.5;
// Of a number of the copy whose neighbours lie more than four apart; of a row of a channel of the result.
constexpr double kFarNumberCost = kWide ? 1.5 : 2.5, kResultRowCost = kWide ? 8 : 12;
// Of a product whose weights leave the pixels no room in L2, and their bytes.
constexpr double kFarProduct = kWide ? 1.05 : 1.2, kFarWeights = kWide ? 1e6 : 2.4e5;
constexpr double kFarLineCost = kWide ? 6.3 : 0;                        // of 64 bytes from L2 into a tile
constexpr int64_t kFarBandBytes = kWide ? 4 * kBandBytes : kBandBytes;  // of images beside such weights
constexpr double kPieceProduct = kWide ? 1.05 : 1.12;                   // where panels pass in pieces
constexpr double kBegin = 18000, kLatticeCost = 1000;  // of laying out a pass, of beginning a lattice

// to[j * step] = x[j] for j < count. What lies between stays as it is: it belongs to other lattices, and
// nobody changes it meanwhile.
template <class T, int... L>
[[gnu::always_inline]] inline void store_every_second(T* to, Vec<T> x, int count,
                                                      std::integer_sequence<int, L...>) {
  constexpr int w = kWidth<T>;
#if defined(__AVX512F__)
  constexpr unsigned even = 0x55555555;
  Lanes<T>(even & ((1u << std::min(2 * count, w)) - 1)).store(to, __builtin_shufflevector(x, x, (L / 2)...));
  if (2 * count > w)
    Lanes<T>(even & ((1u << (2 * count - w)) - 1))
        .store(to + w, __builtin_shufflevector(x, x, (w / 2 + L / 2)...));
#else
  // Masked stores are slow: vectors with what was there, as far as the last element.
  if (count == w) {
    const Vec<T> low = load(to), high = load(to + w - 1);
    store<T>(to, __builtin_shufflevector(x, low, (L % 2 ? w + L : L / 2)...));
    store<T>(to + w - 1, __builtin_shufflevector(x, high, (L % 2 ? (w - 1 + L) / 2 : w + L)...));
    return;
  }
  T line[w];
  store<T>(line, x);
  int j = 0;
  if (2 * count > w) {
    const Vec<T> low = load(to);
    store<T>(to, __builtin_shufflevector(x, low, (L % 2 ? w + L : L / 2)...));
    j = w / 2;
  }
  for (; j < count; ++j) to[2 * j] = line[j];
#endif
}
template <class T>
[[gnu::always_inline]] inline void store_steps(T* to, int64_t step, Vec<T> x, int count) {
  constexpr int w = kWidth<T>;
  if (step == 1) return count == w ? store<T>(to, x) : store_n(to, x, count);
  if (step == 2) return store_every_second<T>(to, x, count, std::make_integer_sequence<int, w>{});
  T line[w];
  store<T>(line, x);
  for (int j = 0; j < count; ++j) to[j * step] = line[j];
}

// y[channel][pixel * step] = bias[channel] + sums[pixel][channel].
template <class T>
void store_transposed(T* y, int64_t size, int64_t step, const T* sums, int pixels, int channels,
                      const T* bias) {
  constexpr int w = kWidth<T>;
  const int ld = int(ceil_div(channels, w)) * w;
  for (int c0 = 0; c0 < channels; c0 += w)
    for (int p0 = 0; p0 < pixels; p0 += w) {
      const int count = std::min(w, pixels - p0);
      Vec<T> x[w];
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i) x[i] = load(sums + (p0 + std::min(i, count - 1)) * ld + c0);
      tile::transpose<T>(x);
      T* to = y + c0 * size + p0 * step;
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i) {
        if (c0 + i >= channels) break;
        if (bias) x[i] += bias[c0 + i];
        store_steps(to + i * size, step, x[i], count);
      }
    }
}

// sums += some.
template <class T>
[[gnu::noinline]] void add_sums(T* sums, const T* some, int64_t count) {
  for (int64_t j = 0; j < count; j += kWidth<T>) store<T>(sums + j, load(sums + j) + load(some + j));
}

// Whether the weights of a group, from `depth` products a result, leave L2.
template <class T>
bool far_weights(int64_t out, int64_t depth) {
  return double(out) * double(depth) * sizeof(T) > kFarWeights;
}

// Of images whose copies and results follow each other.
template <class T>
void channel_lanes(const Pass<T>& pass, const Lattice& lattice, int64_t images, const T* image,
                   const T* weights, T* y, const T* bias) {
  constexpr int lanes = kLanes<T>;
  const Pieces columns(lattice.count[2], kTileRows);
  const int64_t rows = lattice.count[0] * lattice.count[1], tiles = images * rows * columns.pieces;
  const int64_t size = pass.size, step = pass.weights.taps * lanes;
  // A task: some neighbouring tiles, whose pixels stay in L2, with some panels of weights, each of which is
  // read once per task.
  const bool far = far_weights<T>(pass.out, pass.in * pass.weights.taps);
  const Pieces groups(tiles, far ? kTilesPerFarTask : kTilesPerTask);
  const int64_t all_panels = ceil_div(pass.out, lanes);
  const Pieces panels(all_panels, std::max<int64_t>(1, all_panels * groups.pieces / (4 * num_threads())));
  // A panel's weights in pieces of channels, each for all tiles of the task, so that L2 has room for pixels.
  const auto used = std::max<int64_t>(1, int64_t(lattice.taps.size() * lanes * sizeof(T)));
  const Pieces depth(pass.in, std::max<int64_t>(1, kPieceBytes / used));
  struct Place {  // of a tile of the task
    TapList::View taps;
    alignas(64) T sums[kTileRows * lanes];
  };
  const auto one_tile = [&](TapList& list, int64_t tile, int64_t panel, int64_t piece, int64_t index,
                            Place& place, T* some) {
    const int64_t all = tile / columns.pieces, i = tile % columns.pieces, n = all / rows, row = all % rows;
    const int64_t d = row / lattice.count[1], h = row % lattice.count[1], w = columns.begin(i);
    const int pixels = int(columns.size(i)),
              channels = int(std::min<int64_t>(lanes, pass.out - panel * lanes));
    // Asking every tap takes as long as one or two channels' products.
    if (piece == 0)
      place.taps = pass.in > 2 ? list.meeting({d, h, w}, {d + 1, h + 1, w + pixels}, index) : list.all();
    T* to = y + (n * pass.out + panel * lanes) * size + lattice.element(pass.extent, d, h, w);
    for (int k = 0; k < channels; ++k) __builtin_prefetch(to + k * size, 1);
    const int vectors = int(ceil_div(channels, kWidth<T>));
    // (Asked for one piece as well, begin() and size() divide: 2 % of a small tile.)
    const int64_t c = piece > 0 ? depth.begin(piece) : 0, in = depth.pieces > 1 ? depth.size(piece) : pass.in;
    tap_tile<T>(pixels, vectors)(piece > 0 ? some : place.sums, vectors * kWidth<T>, nullptr, in,
                                 place.taps.count, place.taps.first,
                                 image + n * pass.planes.size() + lattice.base + pass.planes.at(d, h, w) +
                                     c * pass.planes.channel_size(),
                                 pass.planes.channel_size(), weights + (panel * pass.in + c) * step, step);
    if (piece > 0) add_sums(place.sums, some, pixels * vectors * kWidth<T>);
    if (piece < depth.pieces - 1) return;
    store_transposed(to, size, lattice.step[2], place.sums, pixels, channels,
                     bias ? bias + panel * lanes : nullptr);
  };
  tile::share(groups.pieces * panels.pieces,
              tile::product_microseconds<T>(columns.largest() * tiles, all_panels * lanes,
                                            pass.in * int64_t(lattice.taps.size())),
              [&](int64_t begin, int64_t end) {
                Place places[kTilesPerFarTask];
                alignas(64) T some[kTileRows * lanes];
                const bool together = depth.pieces > 1;
                TapList list(
                    lattice, [=](int64_t offset, int64_t tap) { return Tap{offset, tap * lanes}; },
                    together ? groups.largest() : 1);
                for (int64_t task = begin; task < end; ++task) {
                  const int64_t group = task / panels.pieces, part = task % panels.pieces;
                  for (int64_t panel = panels.begin(part); panel < panels.begin(part + 1); ++panel)
                    for (int64_t piece = 0; piece < depth.pieces; ++piece)
                      for (int64_t tile = groups.begin(group); tile < groups.begin(group + 1); ++tile) {
                        const int64_t index = together ? tile - groups.begin(group) : 0;
                        one_tile(list, tile, panel, piece, index, places[index], some);
                      }
                }
              });
}

// -------------------------------------------------------------------------------------------- pixel lanes

// Flat positions [f0, f1) of depth d, without the columns between the rows, from sums[channel][position], of
// which up to a vector behind the last one is read.
template <class T>
void store_rows(const Pass<T>& pass, const Lattice& lattice, T* y, int64_t d, int64_t f0, int64_t f1,
                const T* sums, int64_t ld, int channels, const T* bias) {
  const int64_t size = pass.size, width = pass.planes.width(), step = lattice.step[2];
  for (int64_t h = f0 / width; h * width < f1; ++h) {
    const int64_t w0 = std::max<int64_t>(f0 - h * width, 0), w1 = std::min(f1 - h * width, lattice.count[2]);
    if (w0 >= w1) continue;
    for (int64_t j = w0; j < w1; j += kWidth<T>) {
      const int count = int(std::min<int64_t>(kWidth<T>, w1 - j));
      const T* sum = sums + h * width + j - f0;
      T* to = y + lattice.element(pass.extent, d, h, j);
      for (int i = 0; i < channels; ++i, to += size, sum += ld)
        store_steps(to, step, load(sum) + (bias ? bias[i] : T(0)), count);
    }
  }
}

// The flat positions of a depth in strips: of the whole plane, or of each row. Where nothing lies between a
// strip's positions in the result, tiles write it from their registers; else they leave their sums in cache.
struct Strips {
  int64_t count, per_row, width, row, flat;
  bool lies;    // in the result as in the plane
  double cost;  // of all tiles of one panel, in products
  Strips(const Extent& positions, const Extent& step, int64_t plane_width, int64_t rows, int64_t lanes,
         int64_t steps)
      : width(plane_width), row(positions[2]), flat((positions[1] - 1) * width + row) {
    const int64_t most = tile_vectors(rows), length = most * lanes;
    const bool unit = step[2] == 1;
    // One run of positions, without columns between the rows here or other rows between them in the result.
    const bool single = positions[1] == 1 || (width == row && step[1] == 1);
    // Of a run of positions: tiles, each with its start, and what leaves them.
    const auto cost_of = [&](int64_t run, bool contiguous, int64_t ends) {
      const int64_t whole = run / length, left = ceil_div(run % length, lanes);
      const int64_t rest = left > 2 ? most : left, vectors = ceil_div(run, lanes);
      const int64_t products = whole * tile_cost(rows, most) + (rest ? tile_cost(rows, rest) : 0);
      const bool direct = contiguous && rest * lanes <= run;
      return double(steps * products + kTileStart * (whole + (rest > 0)) +
                    rows * (direct ? vectors : kStoreCost * vectors + ends));
    };
    const int64_t ends = unit && row % lanes ? kRowEndCost : 0;
    const double by_row = double(positions[1]) * cost_of(row, unit, ends);
    // (Tiles of a whole plane cut most rows once more.)
    cost = cost_of(flat, unit && single, single ? 0 : positions[1] * (kStoreCost + ends));
    const bool rows_apart = !single && by_row < cost;
    if (rows_apart) cost = by_row;
    lies = unit && (single || rows_apart);
    per_row = rows_apart ? ceil_div(row, kStrip * length) : 0;
    count = rows_apart ? positions[1] * per_row : ceil_div(flat, kStrip * length);
  }
  struct Part {
    int64_t first, last, h;  // positions, counted from row 0 on, of row h (0 where there is one run)
  };
  Part part(int64_t i) const {
    const int64_t h = per_row > 1 ? i / per_row : per_row * i, start = h * width, end = per_row ? row : flat;
    const int64_t parts = per_row ? per_row : count, j = i - h * per_row;
    if (parts == 1) return {start, start + end, h};
    return {start + end * j / parts, start + end * (j + 1) / parts, h};
  }
};

template <class T>
void pixel_lanes(const Pass<T>& pass, const Lattice& lattice, const T* image, const T* weights, T* y,
                 const T* bias) {
  const Pieces rows(pass.out, kTileRows);
  const int most = tile_vectors(rows.largest());
  const int64_t steps = pass.in * int64_t(lattice.taps.size());
  const Strips strips(lattice.count, lattice.step, pass.planes.width(), rows.largest(), kWidth<T>, steps);
  const int64_t tiles = lattice.count[0] * strips.count;
  const int64_t size = pass.size, step = pass.weights.taps * rows.largest();
  tile::share(rows.pieces * tiles, tile::product_microseconds<T>(pass.out, volume(lattice.count), steps),
              [&](int64_t begin, int64_t end) {
                alignas(64) T sums[kTileRows * kLanes<T> + kWidth<T>];
                TapList list(lattice,
                             [&](int64_t offset, int64_t tap) { return Tap{tap * rows.largest(), offset}; });
                const auto taps = list.all();
                for (int64_t task = begin; task < end; ++task) {
                  const int64_t panel = task / tiles, d = task % tiles / strips.count;
                  const int channels = int(std::min(rows.largest(), pass.out - panel * rows.largest()));
                  const int64_t k = panel * rows.largest();
                  const T* part_bias = bias ? bias + k : nullptr;
                  const auto [first, last, h] = strips.part(task % strips.count);
                  T* const row = y + k * size + lattice.element(pass.extent, d, h, 0) - h * strips.width;
                  for (int64_t f = first; f < last;) {
                    const int64_t left = ceil_div(last - f, kWidth<T>);
                    const int vectors = left >= most ? most : left >= 2 ? 2 : 1;
                    const int64_t lanes = vectors * kWidth<T>;
                    // A strip's last tile begins early enough to be whole, and computes some positions again.
                    const bool whole = strips.lies && last - first >= lanes;
                    if (whole) f = std::min(f, last - lanes);
                    T* to = whole ? row + f : sums;
                    const int64_t ld = whole ? size : lanes;
                    if (whole)
                      for (int i = 0; i < channels; ++i) __builtin_prefetch(to + i * size, 1);
                    tap_tile<T>(channels, vectors)(to, ld, whole ? part_bias : nullptr, pass.in, taps.count,
                                                   taps.first, weights + panel * pass.in * step, step,
                                                   image + lattice.base + pass.planes.at(d, 0, 0) + f,
                                                   pass.planes.channel_size());
                    const int64_t next = std::min(last, f + lanes);
                    if (!whole)
                      store_rows(pass, lattice, y + k * size, d, f, next, sums, lanes, channels, part_bias);
                    f = next;
                  }
                }
              });
}

// ------------------------------------------------------------------------------------------------- passes

// Of an image and group, in products of vectors.
struct Costs {
  double channel_lanes = 0, pixel_lanes = 0, lattices = 0, positions = 0;
  bool by_channel() const { return channel_lanes < pixel_lanes; }
};
[[gnu::noinline]] Costs costs(const PassSize& pass, bool far, int64_t w) {  // weights beyond L2, vectors of w
  const int64_t whole = pass.out / (kTileVectors * w), rest = pass.out % (kTileVectors * w);
  const Pieces rows(pass.out, kTileRows);
  Costs sum;
  pass.for_lattices([&](const LatticeSize& lattice) {
    const int64_t steps = pass.in * lattice.taps;
    const Pieces columns(lattice.count[2], kTileRows);
    const int64_t tiles = lattice.count[0] * lattice.count[1] * columns.pieces;
    const Strips strips(lattice.count, pass.step, pass.width, rows.largest(), w, steps);
    // Tiles of short rows wait for weights, and for each channel's rows of pixels.
    const double lines = far ? kFarLineCost / std::sqrt(double(lattice.taps)) : 0;
    const auto cost = [&](int64_t v) {
      const double step =
          std::max(double(tile_cost(columns.largest(), v)), lines + (far ? kFarLineCost * double(v) : 0));
      return double(steps) * step + double(v * kTransposeCost);
    };
    sum.channel_lanes += lattice.times * double(tiles) *
                         (double(whole) * cost(kTileVectors) + (rest ? cost(ceil_div(rest, w)) : 0));
    sum.pixel_lanes += lattice.times * double(lattice.count[0] * rows.pieces) * strips.cost;
    sum.lattices += lattice.times;
    sum.positions += lattice.times * double(volume(lattice.count));
  });
  return sum;
}

// A band's pass and where its operands begin in a channel.
template <class T>
struct Part {
  Pass<T> pass;
  int64_t from, to;
};

// The bands of one image. A few more than L2 asks for where that gives every thread as many: then each copies
// what it uses.
template <class T>
std::vector<Part<T>> parts_of(const ConvProblem& p, ConvPass pass, const T* w) {
  const auto part_of = [&](const Band& band) -> Part<T> {
    if (pass == ConvPass::grad_x) return {Pass<T>::grad_x(band.problem, w, p), band.y, band.x};
    return {Pass<T>::forward(band.problem, w, p), band.x, band.y};
  };
  const auto bytes = [&](const ConvProblem& q) {
    return part_of(Band{q, 0, 0}).pass.planes.size() * int64_t(sizeof(T));
  };
  const Bands bands(p, pass);
  const int64_t length = bands.length(), images = p.batch * p.groups;
  const bool far = far_weights<T>(pass == ConvPass::forward ? p.group_out() : p.group_in(),
                                  (pass == ConvPass::forward ? p.group_in() : p.group_out()) * p.taps());
  int64_t size = bands.thickness(far ? kFarBandBytes : kBandBytes, bytes);
  if (p.macs() > 1e6 && !shares_evenly(images * ceil_div(length, size)))
    for (int64_t count = ceil_div(length, size) + 1;; ++count) {
      const int64_t thinner = bands.of_count(count);
      if (thinner < 2 * bands.thinnest()) break;  // too much would be copied twice
      if (!shares_evenly(images * ceil_div(length, thinner))) continue;
      size = thinner;
      break;
    }
  std::vector<Part<T>> parts;
  for (int64_t first = 0; first < length; first += size)
    parts.push_back(part_of(bands.band(first, std::min(first + size, length))));
  return parts;
}

template <class T>
void run(const ConvProblem& p, ConvPass direction, const std::vector<Part<T>>& parts, T* y, const T* x,
         int64_t in_size, const T* bias) {
  const Pass<T>& first = parts.front().pass;
  const bool far = far_weights<T>(first.out, first.in * first.weights.taps);
  const bool by_channel = costs(PassSize(p, direction), far, kWidth<T>).by_channel();
  const int64_t width = by_channel ? kLanes<T> : Pieces(first.out, kTileRows).largest();
  const int64_t group_weights = ceil_div(first.out, width) * width * first.in * first.weights.taps;
  memory::Buffer<T> weights(size_t(p.groups * group_weights));
  for (int64_t g = 0; g < p.groups; ++g)
    pack_weights(weights + g * group_weights, first.weights.of_group(p, g), first.in, first.out, width);
  const int64_t images = p.batch * p.groups, bands = int64_t(parts.size());
  int64_t most = 1;  // images of a task: as many as fit, and alike for all threads
  if (by_channel && bands == 1 && p.groups == 1 && far) {
    const int64_t fit = std::max<int64_t>(1, kFarBandBytes / (first.planes.size() * int64_t(sizeof(T))));
    const int64_t tasks = ceil_div(ceil_div(images, fit), int64_t{num_threads()}) * num_threads();
    most = std::max<int64_t>(1, ceil_div(images, tasks));
  }
  const Pieces together(images, most);
  int64_t largest = 0;
  std::vector<PlaneCopy<T>> copies;
  for (const Part<T>& part : parts) {
    largest = std::max(largest, part.pass.planes.size());
    copies.emplace_back(part.pass.planes);
  }

  const auto work = [&](int64_t begin, int64_t end) {
    memory::Buffer<T> buffer(size_t(together.largest() * largest + kTileRows * kLanes<T>));
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = together.begin(index / bands), count = together.size(index / bands),
                    g = image % p.groups;
      const Part<T>& part = parts[size_t(index % bands)];
      const Pass<T>& pass = part.pass;
      if (index == begin || bands > 1)  // bands differ in where their padding is
        std::fill_n(buffer.get(), together.largest() * pass.planes.size() + kTileRows * kLanes<T>, T(0));
      const T* from = x + image * pass.in * in_size + part.from;
      T* to = y + image * pass.out * pass.size + part.to;
      const T* group_bias = bias ? bias + g * pass.out : nullptr;
      if (!pass.covered())
        for (int64_t k = 0; k < count * pass.out; ++k)
          std::fill_n(to + k * pass.size, volume(pass.extent), group_bias ? group_bias[k % pass.out] : T(0));
      const int64_t plane_grain = std::max<int64_t>(1, 16384 / pass.planes.channel_size());
      for (int64_t n = 0; n < count; ++n)
        parallel_for(pass.in, plane_grain, [&](int64_t c0, int64_t c1) {
          copies[size_t(index % bands)](buffer + n * pass.planes.size(), from + n * pass.in * in_size, c0,
                                        c1);
        });
      const T* packed = weights + g * group_weights;
      for (const Lattice& lattice : pass.lattices)
        if (by_channel)
          channel_lanes<T>(pass, lattice, count, buffer, packed, to, group_bias);
        else
          pixel_lanes<T>(pass, lattice, buffer, packed, to, group_bias);
    }
  };
  share_images(together.pieces * bands, p.macs(), work);
}

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  run<T>(p, ConvPass::forward, parts_of<T>(p, ConvPass::forward, w), y, x, p.in_size(), bias);
}

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  run<T>(p, ConvPass::grad_x, parts_of<T>(p, ConvPass::grad_x, w), gx, gy, p.out_size(), bias);
}

const char* refusal(const ConvProblem&) {
  return nullptr;
}

[[gnu::noinline]] double pass_cost(const ConvProblem& p, ConvPass pass, int64_t w) {
  const PassSize size(p, pass);
  const double weights = double(size.in * p.taps()) * sizeof(float);  // of an output channel
  const bool away = weights * double(size.out) > kFarWeights;
  const Costs products = costs(size, away, w);
  const double copies =
      double(size.plane) * (kCopyCost / double(w) + (size.stride > 4 ? kFarNumberCost : 0)) +
      kCopiedRowCost * double(size.plane / size.width);
  // Weights are transposed in blocks; grad_x's of each channel lie apart.
  const int64_t runs = pass == ConvPass::grad_x ? size.in : 1, steps = size.in * p.taps() / runs;
  const double packs = kPackCost * double(p.groups * ceil_div(size.out, w) * runs * ceil_div(steps, w) * w);
  const bool apart = size.step != Extent{1, 1, 1};
  const double stores = apart ? (kApartCost + kStepCost * double(std::min<int64_t>(size.step[2], 16))) *
                                    double(size.out) * products.positions / double(w)
                              : 0;
  const double far = !away                                                                   ? 1
                     : weights / products.lattices * double(kTileVectors * w) <= kPieceBytes ? kFarProduct
                                                                                             : kPieceProduct;
  const double image = far * std::min(products.channel_lanes, products.pixel_lanes) +
                       double(size.in) * copies + stores + kLatticeCost * products.lattices +
                       kResultRowCost * double(size.out * volume(size.extent) / size.extent[2]);
  return double(p.batch * p.groups) * image + packs + kBegin;
}
template <class T>
double cost(const ConvProblem& p, ConvPass pass) {
  return pass == ConvPass::grad_w ? direct_grad_w_cost(p, kWidth<T>) : pass_cost(p, pass, kWidth<T>);
}

}  // namespace

template <class T>
const ConvAlgorithm<T>& conv_direct() {
  static constexpr ConvAlgorithm<T> algorithm{"direct",   refusal,   nullptr,         cost<T>,
                                              forward<T>, grad_x<T>, direct_grad_w<T>};
  return algorithm;
}
template const ConvAlgorithm<float>& conv_direct<float>();
template const ConvAlgorithm<double>& conv_direct<double>();

}  // namespace fastdl
