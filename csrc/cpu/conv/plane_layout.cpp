#include "cpu/conv/plane_layout.h"

namespace fastdl {

PlaneLayout PlaneLayout::of_input(const ConvProblem& p, int64_t source_size) {
  PlaneLayout planes;
  planes.channels_ = p.group_in();
  planes.source_size_ = source_size;
  std::vector<int64_t> plane[kSpatial], shift[kSpatial];
  for (size_t a = 0; a < kSpatial; ++a) {
    Axis& axis = planes.axes_[a];
    axis = {p.in[a], p.stride[a], p.pad[a], p.out[a] + p.dilation[a] * (p.kernel[a] - 1) / p.stride[a], {}};
    for (int64_t r = 0; r < p.kernel[a]; ++r) {
      const int64_t remainder = r * p.dilation[a] % p.stride[a];
      const auto found = std::find(axis.remainders.begin(), axis.remainders.end(), remainder);
      plane[a].push_back(found - axis.remainders.begin());
      shift[a].push_back(r * p.dilation[a] / p.stride[a]);
      if (found == axis.remainders.end()) axis.remainders.push_back(remainder);
    }
  }
  const auto& axes = planes.axes_;
  for (int64_t d = 0; d < p.kernel[0]; ++d)
    for (int64_t h = 0; h < p.kernel[1]; ++h)
      for (int64_t w = 0; w < p.kernel[2]; ++w) {
        const int64_t which =
            (plane[0][size_t(d)] * axes[1].planes() + plane[1][size_t(h)]) * axes[2].planes() +
            plane[2][size_t(w)];
        planes.offsets_.push_back(which * planes.plane_size() +
                                  planes.at(shift[0][size_t(d)], shift[1][size_t(h)], shift[2][size_t(w)]));
      }
  return planes;
}

PlaneLayout PlaneLayout::of_padded_input(const ConvProblem& p, int64_t source_size) {
  PlaneLayout planes;
  planes.channels_ = p.group_in();
  planes.source_size_ = source_size;
  for (size_t a = 0; a < kSpatial; ++a)
    planes.axes_[a] = {
        p.in[a], 1, p.pad[a], (p.out[a] - 1) * p.stride[a] + p.dilation[a] * (p.kernel[a] - 1) + 1, {0}};
  for (int64_t d = 0; d < p.kernel[0]; ++d)
    for (int64_t h = 0; h < p.kernel[1]; ++h)
      for (int64_t w = 0; w < p.kernel[2]; ++w)
        planes.offsets_.push_back(planes.at(d * p.dilation[0], h * p.dilation[1], w * p.dilation[2]));
  return planes;
}

PlaneLayout PlaneLayout::of_grad(const ConvProblem& p, const Extent& before, const Extent& after,
                                 int64_t source_size) {
  PlaneLayout planes;
  planes.channels_ = p.group_out();
  planes.source_size_ = source_size;
  for (size_t a = 0; a < kSpatial; ++a)
    planes.axes_[a] = {p.out[a], 1, before[a], before[a] + p.out[a] + after[a], {0}};
  return planes;
}

template <class F>
void PlaneLayout::for_rows(F&& f) const {
  const Axis &depth = axes_[0], &height = axes_[1];
  int64_t plane = 0;
  for (int64_t rd : depth.remainders)
    for (int64_t rh : height.remainders) {
      const auto [first_d, last_d] = depth.inside(rd);
      const auto [first_h, last_h] = height.inside(rh);
      for (int64_t d = first_d; d < last_d; ++d)
        for (int64_t h = first_h; h < last_h; ++h)
          f(plane + at(d, h, 0), (depth.source(d, rd) * height.size + height.source(h, rh)) * axes_[2].size);
      plane += axes_[2].planes() * plane_size();
    }
}

std::vector<PlaneLayout::Row> PlaneLayout::list_rows() const {
  const Axis& width = axes_[2];
  std::vector<Row> rows;
  rows.reserve(size_t(planes() * axes_[0].extent * axes_[1].extent));
  for_rows([&](int64_t plane, int64_t source) {
    for (int64_t remainder : width.remainders) {
      const auto [first, last] = width.inside(remainder);
      if (first < last)
        rows.push_back({plane + first, source + width.source(first, remainder), last - first});
      plane += plane_size();
    }
  });
  return rows;
}

std::vector<PlaneLayout::Row> PlaneLayout::list_whole_rows(RowEnds& ends) const {
  const Axis& width = axes_[2];
  int64_t first = width.extent, last = 0, place = 0;
  ends.places.assign(size_t(width.stride), -1);
  for (int64_t remainder : width.remainders) {
    const auto [begin, end] = width.inside(remainder);
    if (begin < end) first = std::min(first, begin), last = std::max(last, end);
    ends.places[size_t(remainder)] = place;
    place += plane_size();
  }
  std::vector<Row> rows;
  if (first >= last) return rows;
  const int64_t source = width.source(first, 0);
  ends.count = last - first;
  ends.begin = std::max<int64_t>(-source, 0);
  ends.end = std::min(ends.count * width.stride, width.size - source);
  rows.reserve(size_t(planes() / width.planes() * axes_[0].extent * axes_[1].extent));
  for_rows([&](int64_t plane, int64_t from) { rows.push_back({plane + first, from + source, ends.count}); });
  return rows;
}

Lattice forward_lattice(const ConvProblem& p, const std::vector<int64_t>& tap_offsets) {
  Lattice lattice{p.out, {0, 0, 0}, {1, 1, 1}, 0, tap_offsets, {}, {}};
  for (int64_t r = 0; r < p.taps(); ++r) {
    const Extent tap{r / (p.kernel[1] * p.kernel[2]), r / p.kernel[2] % p.kernel[1], r % p.kernel[2]};
    Lattice::Range range;
    for (size_t a = 0; a < kSpatial; ++a) {
      const int64_t start = tap[a] * p.dilation[a] - p.pad[a];  // what position 0 meets
      range.low[a] = start < 0 ? ceil_div(-start, p.stride[a]) : 0;
      range.high[a] = start < p.in[a] ? (p.in[a] - 1 - start) / p.stride[a] + 1 : 0;
    }
    lattice.taps.push_back(r);
    lattice.inside.push_back(range);
  }
  return lattice;
}

namespace {

// One axis of a lattice: inputs i = first + step * u, u < count, meet tap taps[j] at output u + shifts[j] (if
// that exists).
struct LatticeAxis {
  int64_t first, count;
  std::vector<int64_t> taps, shifts;
};
std::vector<LatticeAxis> lattice_axes(const ConvProblem& p, size_t a) {
  const int64_t stride = p.stride[a];
  std::vector<LatticeAxis> axes;
  for (int64_t first = 0; first < std::min(stride, p.in[a]); ++first)
    axes.push_back({first, ceil_div(p.in[a] - first, stride), {}, {}});
  for (int64_t r = 0; r < p.kernel[a]; ++r) {
    const int64_t start = r * p.dilation[a] - p.pad[a];  // what output 0 meets
    const int64_t first = (start % stride + stride) % stride;
    if (first >= int64_t(axes.size())) continue;
    axes[size_t(first)].taps.push_back(r);
    axes[size_t(first)].shifts.push_back((first - start) / stride);
  }
  std::erase_if(axes, [](const LatticeAxis& axis) { return axis.taps.empty(); });
  return axes;
}

}  // namespace

std::pair<PlaneLayout, std::vector<Lattice>> grad_lattices(const ConvProblem& p, int64_t source_size) {
  std::vector<LatticeAxis> axes[kSpatial];
  Extent before{}, after{};
  for (size_t a = 0; a < kSpatial; ++a) {
    axes[a] = lattice_axes(p, a);
    for (const LatticeAxis& axis : axes[a])
      for (int64_t shift : axis.shifts) {
        before[a] = std::max(before[a], -shift);
        after[a] = std::max(after[a], axis.count + shift - p.out[a]);
      }
  }
  auto planes = PlaneLayout::of_grad(p, before, after, source_size);
  std::vector<Lattice> lattices;
  for (const LatticeAxis& d : axes[0])
    for (const LatticeAxis& h : axes[1])
      for (const LatticeAxis& v : axes[2]) {
        Lattice lattice{{d.count, h.count, v.count},
                        {d.first, h.first, v.first},
                        p.stride,
                        planes.at(before[0], before[1], before[2]),
                        {},
                        {},
                        {}};
        for (size_t i = 0; i < d.taps.size(); ++i)
          for (size_t j = 0; j < h.taps.size(); ++j)
            for (size_t k = 0; k < v.taps.size(); ++k) {
              const Extent shift{d.shifts[i], h.shifts[j], v.shifts[k]};
              Lattice::Range range;
              for (size_t a = 0; a < kSpatial; ++a) {
                range.low[a] = -shift[a];
                range.high[a] = p.out[a] - shift[a];
              }
              lattice.offsets.push_back(planes.at(shift[0], shift[1], shift[2]));
              lattice.taps.push_back((d.taps[i] * p.kernel[1] + h.taps[j]) * p.kernel[2] + v.taps[k]);
              lattice.inside.push_back(range);
            }
        lattices.push_back(std::move(lattice));
      }
  return {std::move(planes), std::move(lattices)};
}

}  // namespace fastdl
