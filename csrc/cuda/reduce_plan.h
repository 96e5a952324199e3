// Which kernel reduces an array, and with what blocks: decided on the host from the extents and strides alone.
#pragma once

#include <algorithm>
#include <numeric>

#include "cuda/map.h"
#include "cuda/reduce.h"

namespace fastdl::cuda {
namespace {

constexpr int kAxes = 5;

// Offsets of a numbering of some axes.
struct Axes {
  int others = 0;             // axes beside the first one
  Divisor extent[kAxes - 1];  // of these, the last axis first; the first one's nobody needs
  int64_t stride[kAxes - 1] = {}, first_stride = 0;

  __device__ __forceinline__ int64_t offset(uint32_t i) const {
    int64_t at = 0;  // mostly there is one axis, and every load has this code: no unrolling
    FASTDL_ROLLED
    for (int d = 0; d < others; ++d) {
      const uint32_t q = extent[d].quotient(i);
      at += (i - q * extent[d].divisor) * stride[d];
      i = q;
    }
    return at + i * first_stride;
  }
};

struct Axis {
  int64_t extent, stride;
};
using AxisList = std::vector<Axis>;

inline AxisList merged(const Shape& extents, const Shape& strides, bool sort) {
  AxisList axes, result;
  for (size_t d = 0; d < extents.size(); ++d)
    if (extents[d] != 1) axes.push_back({extents[d], strides[d]});
  if (sort)
    std::stable_sort(axes.begin(), axes.end(),
                     [](Axis a, Axis b) { return std::abs(a.stride) > std::abs(b.stride); });
  for (const Axis& a : axes) {
    if (!result.empty() && result.back().stride == a.stride * a.extent)
      result.back() = {result.back().extent * a.extent, a.stride};
    else
      result.push_back(a);
  }
  return result;
}
inline int64_t count(const AxisList& axes) {
  int64_t n = 1;
  for (const Axis& a : axes) n *= a.extent;
  return n;
}
inline Axes numbered(const AxisList& axes) {
  if (axes.size() > kAxes)
    throw std::invalid_argument("a reduction on CUDA supports at most " + std::to_string(kAxes) +
                                " axes that cannot be merged, of either kind; make the array contiguous");
  Axes r;
  for (size_t i = axes.size(); i-- > 1; ++r.others) {
    r.extent[r.others] = Divisor(uint32_t(axes[i].extent > 0 ? axes[i].extent : 1));
    r.stride[r.others] = axes[i].stride;
  }
  if (!axes.empty()) r.first_stride = axes[0].stride;
  return r;
}

// Tiles, lanes and blocks: the innermost axis is reduced. Columns and matrices: it stays.
enum class Way { tiles, lanes, blocks, columns, matrix };

constexpr int64_t kTile = 36 << 10, kSmallTile = 12 << 10;  // bytes of rows in shared memory
constexpr int64_t kNarrow = 1024;                           // bytes, or elements, of a matrix's row
constexpr int64_t kBlocks = 4;     // of slices, for a multiprocessor: all run at once
constexpr int64_t kMatrix = 4096;  // elements that a block is worth

struct Plan {
  AxisList kept, reduced;
  int64_t outputs, length;
  Way way;
  int pack = 1;             // elements moved by one access
  int64_t slices = 1;       // parts of every output, merged by a second launch
  int64_t per_slice;        // packs, or a column's elements
  unsigned x = 256, y = 1;  // threads of a block
  int group = 1;            // lanes of an output
  int64_t rows = 0;         // of a tile
};

inline int64_t power_of_two_below(int64_t n) {
  int64_t p = 1;
  while (2 * p <= n) p *= 2;
  return p;
}

inline void plan_rows_of(Plan& p, bool on_16_bytes, int wide, int64_t item) {
  const int64_t multi = multiprocessors();
  // Packs need aligned rows: every other stride a multiple of the pack.
  bool packed = on_16_bytes && p.length > 0 && !p.reduced.empty() && p.reduced.back().stride == 1 &&
                p.reduced.back().extent % wide == 0;
  for (const Axis& a : p.kept) packed = packed && a.stride % wide == 0;
  for (size_t i = 0; packed && i + 1 < p.reduced.size(); ++i) packed = p.reduced[i].stride % wide == 0;
  const bool dense = on_16_bytes && p.reduced.size() == 1 && p.reduced[0].stride == 1 && p.kept.size() == 1 &&
                     p.kept[0].stride == p.length;
  p.pack = packed ? wide : 1;
  const int64_t bytes = p.length * item, packs = p.length / p.pack;
  if (dense && !packed && bytes <= 8 * kTile / 256) {
    p.way = Way::tiles;
    while (256 / p.group * bytes > kTile) p.group *= 2;
    p.rows = 256 / p.group;
    while (p.group == 1 && p.rows < 1024 && p.rows * bytes * 2 <= kSmallTile) p.rows *= 2;
  } else if (packs <= 256 || (packs <= 2048 && p.outputs >= 16 * multi)) {
    p.way = Way::lanes;
    while (p.group < 32 && (p.group * 4 < packs || (p.group == 1 && packs > 1))) p.group *= 2;
  } else {
    p.way = Way::blocks;
    if (p.outputs < 2 * multi && p.length >= 8192)
      p.slices = std::min(kBlocks * multi / std::max<int64_t>(1, p.outputs), p.length / 2048);
  }
  p.per_slice = ceil_div(packs, std::max<int64_t>(1, p.slices));
}

// The rows of a narrow matrix, one behind the other, are packs: every thread takes those that are a multiple
// of the row apart, so that its columns stay the same.
inline bool plan_matrix(Plan& p, bool on_16_bytes, int wide, int64_t item) {
  if (!on_16_bytes || p.reduced.size() != 1 || p.kept.empty() || p.kept.back().stride != 1) return false;
  const int64_t n = p.kept.back().extent, size = n * p.length;
  if (p.reduced[0].stride != n || size < kMatrix || size / wide >= int64_t(1) << 31) return false;
  if (n * item > kNarrow && (n % wide == 0 || n > kNarrow)) return false;
  for (size_t i = 0; i + 1 < p.kept.size(); ++i)
    if (p.kept[i].stride % wide != 0) return false;
  const int64_t packs_of_rows = n / std::gcd(n, int64_t(wide));  // of the fewest rows that are whole packs
  if (packs_of_rows > 256) return false;
  p.way = Way::matrix;
  p.pack = wide;
  p.group = int(256 / packs_of_rows * packs_of_rows);  // threads at work
  const int64_t packs = size / wide, steps = ceil_div(packs, p.group), matrices = p.outputs / n;
  const int64_t slices =
      std::clamp<int64_t>(kBlocks * multiprocessors() / matrices, 1, std::max<int64_t>(1, steps / 8));
  p.per_slice = ceil_div(steps, slices) * p.group;
  p.slices = ceil_div(packs, p.per_slice);
  return true;
}

inline void plan_columns(Plan& p, bool on_16_bytes, int wide) {
  p.way = Way::columns;
  bool packed =
      on_16_bytes && !p.kept.empty() && p.kept.back().stride == 1 && p.kept.back().extent % wide == 0;
  for (size_t i = 0; packed && i + 1 < p.kept.size(); ++i) packed = p.kept[i].stride % wide == 0;
  for (const Axis& a : p.reduced) packed = packed && a.stride % wide == 0;
  p.pack = packed ? wide : 1;
  const int64_t multi = multiprocessors(), packs = p.outputs / p.pack;
  const int64_t split = power_of_two_below(
      std::min(1024 * multi / std::max<int64_t>(1, packs), std::max<int64_t>(1, p.length / 4)));
  const unsigned few = packed ? 8 : 32;
  if (split > 8 && p.length <= 40 * int64_t(512 / few)) {  // one launch of few, high blocks
    p.x = few;
    p.y = unsigned(std::min<int64_t>(split, 512 / few));
  } else if (split > 1) {
    p.x = unsigned(std::min<int64_t>(32, power_of_two_below(2 * packs - 1)));
    p.y = unsigned(std::min<int64_t>(split, 256 / p.x));
    if (split > 8)
      p.slices = std::clamp<int64_t>(kBlocks * multi / ceil_div(packs, p.x), 1,
                                     std::max<int64_t>(1, p.length / (8 * p.y)));
  }
  p.y = std::max(p.y, 32 / p.x);
  p.per_slice = ceil_div(p.length, p.slices);
}

inline Plan plan_of(const Reduce& problem, bool ordered) {
  Plan p;
  p.kept = merged(problem.kept, problem.kept_strides, false);
  p.reduced = merged(problem.reduced, problem.reduced_strides, !ordered);
  p.outputs = count(p.kept);
  p.length = count(p.reduced);
  if (p.outputs >= int64_t(1) << 31 || p.length >= int64_t(1) << 31)
    throw std::invalid_argument("a reduction on CUDA is limited to 2^31 elements, of either kind");
  const bool on_16_bytes = aligned(problem.x, 16);
  const int wide = int(16 / problem.item);
  const int64_t inner = p.reduced.empty() ? 0 : std::abs(p.reduced.back().stride);
  if (p.outputs == 0)
    p.way = Way::lanes;
  else if (p.kept.empty() || (!p.reduced.empty() && inner <= std::abs(p.kept.back().stride)))
    plan_rows_of(p, on_16_bytes, wide, problem.item);
  else if (!plan_matrix(p, on_16_bytes, wide, problem.item))
    plan_columns(p, on_16_bytes, wide);
  return p;
}

}  // namespace
}  // namespace fastdl::cuda
