#include "cpu/segments.h"

#include <cmath>

#include "bindings/cpu/array.h"

namespace fastdl::binding {
namespace {

Segment segment_of(std::string_view name, const char* op) {
  if (name == "sum") return Segment::sum;
  if (name == "mean") return Segment::mean;
  if (name == "max") return Segment::largest;
  if (name == "min") return Segment::smallest;
  require(name == "prod", op, "reduce must be 'sum', 'mean', 'max', 'min' or 'prod'");
  return Segment::product;
}

// x around its axis, and offsets, which have x's axes before that and one more.
SegmentProblem problem_of(const char* op, const Shape& x, const In<int64_t>& offsets) {
  const Shape at = offsets.shape();
  const size_t axis = at.size() - 1;
  require(!at.empty() && at.back() > 0 && axis < x.size() && std::equal(at.begin(), at.end() - 1, x.begin()),
          op, "offsets must have x's axes before the one of the segments, and at least one entry along it");
  const std::span<const int64_t> all(x);
  const SegmentProblem p{size_of(all.first(axis)), x[axis], size_of(all.subspan(axis + 1)), at.back() - 1,
                         offsets.get()};
  bool rising = true;
  for (int64_t o = 0; o < p.outer; ++o) {
    const int64_t* row = p.offsets + o * (p.segments + 1);
    rising = rising && row[0] >= 0 && row[p.segments] <= p.n;
    for (int64_t s = 0; s < p.segments; ++s) rising = rising && row[s] <= row[s + 1];
  }
  require(rising, op, "offsets must rise and stay within x");
  return p;
}

py::array bind_segment_forward(const py::array& x, const py::array& offsets, std::string_view reduce,
                               double start, bool begun) {
  constexpr const char* op = "segment_reduce";
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    const In<int64_t> at(offsets, op, "offsets");
    Shape shape = in.shape();
    const SegmentProblem p = problem_of(op, shape, at);
    shape[size_t(at.ndim()) - 1] = p.segments;
    py::array y = empty<T>(shape);
    T* out = data<T>(y);
    const Segment how = segment_of(reduce, op);
    KernelScope scope(in.size());
    segment_forward<T>(how, out, in, T(start), begun, p);
    return y;
  });
}

py::array bind_segment_backward(const py::array& grad_y, const py::array& x, const py::array& y,
                                const py::array& offsets, std::string_view reduce, double start) {
  constexpr const char* op = "segment_reduce_backward";
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> g(grad_y, op, "grad_y"), in(x, op, "x"), found(y, op, "y");
    const In<int64_t> at(offsets, op, "offsets");
    Shape shape = in.shape();
    const SegmentProblem p = problem_of(op, shape, at);
    py::array grad_x = empty<T>(shape);
    shape[size_t(at.ndim()) - 1] = p.segments;
    require(g.shape() == shape && found.shape() == shape, op, "grad_y and y must have the result's shape");
    T* out = data<T>(grad_x);
    const Segment how = segment_of(reduce, op);
    KernelScope scope(in.size());
    segment_backward<T>(how, out, g, in, found, T(start), p);
    return grad_x;
  });
}

py::array bind_count_in_bins(const py::array& x, double low, double high, int64_t bins,
                             const std::optional<py::array>& edges) {
  constexpr const char* op = "count_in_bins";
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    const OptionalIn<T> borders(edges, op, "edges");
    const bool finite = std::isfinite(T(low)) && std::isfinite(T(high));
    require(bins > 0 && finite && T(low) < T(high), op,
            "bins must be positive, low and high finite, and low below high");
    require(!edges || int64_t(edges->size()) == bins + 1, op, "edges must be one more than bins");
    py::array counts = empty<int64_t>({bins});
    int64_t* out = data<int64_t>(counts);
    KernelScope scope(in.size());
    count_in_bins<T>(out, in, in.size(), T(low), T(high), bins, borders);
    return counts;
  });
}

}  // namespace

void register_segments(py::module_& m) {
  m.def("segment_forward", &bind_segment_forward, py::arg("x"), py::arg("offsets"), py::arg("reduce"),
        py::arg("start"), py::arg("begun"));
  m.def("segment_backward", &bind_segment_backward, py::arg("grad_y"), py::arg("x"), py::arg("y"),
        py::arg("offsets"), py::arg("reduce"), py::arg("start"));
  m.def("count_in_bins", &bind_count_in_bins, py::arg("x"), py::arg("low"), py::arg("high"), py::arg("bins"),
        py::arg("edges"));
}

}  // namespace fastdl::binding
