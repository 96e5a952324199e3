// Interpolation, padding, unfold/fold and pixel shuffling, as Python sees them. Geometry arrives validated
// with messages for people; here it is checked again so far that no call can read or write outside its
// arrays.
#include "cpu/resample/resample.h"

#include "bindings/cpu/array.h"
#include "cpu/copy_rows.h"

namespace fastdl::binding {
namespace {

using Sizes = std::vector<int64_t>;
using Pairs = std::vector<std::pair<int64_t, int64_t>>;

Resampling resampling_mode(const char* op, const std::string& mode) {
  if (mode == "nearest") return Resampling::nearest;
  if (mode == "nearest-exact") return Resampling::nearest_exact;
  if (mode == "linear") return Resampling::linear;
  if (mode == "cubic") return Resampling::cubic;
  if (mode == "lanczos") return Resampling::lanczos;
  raise(op, "mode must be nearest, nearest-exact, linear, cubic or lanczos, got " + mode);
}

// `x` has the spatial shape `from` of the table's (`forward`) or of its transposed's input.
py::array interpolate(const char* op, const py::array& x, const Sizes& other,
                      const std::vector<double>& scale, const std::string& mode_name, bool align_corners,
                      bool antialias, bool forward) {
  const size_t rank = other.size();
  const Shape shape = shape_of(x);
  if (rank < 1 || rank > 3 || shape.size() < rank || scale.size() != rank)
    raise(op, "needs 1 to 3 spatial axes and one scale for each");
  const Resampling mode = resampling_mode(op, mode_name);
  if (antialias ? mode < Resampling::linear : mode == Resampling::lanczos)
    raise(op, "antialias goes with linear, cubic and lanczos, and lanczos with nothing else");
  const Sizes spatial(shape.end() - std::ptrdiff_t(rank), shape.end());
  Shape y_shape(shape.begin(), shape.end() - std::ptrdiff_t(rank));
  const int64_t planes = size_of(y_shape);
  for (size_t a = 0; a < rank; ++a) {
    if (spatial[a] < 1 || other[a] < 1 || spatial[a] >= kLargest || other[a] >= kLargest)
      raise(op, "spatial sizes must lie in [1, 2^31)");
    if (scale[a] != 0 && !(scale[a] >= 1e-9 && scale[a] <= 1e9))
      raise(op, "scale must be 0 or lie in [1e-9, 1e9]");
    y_shape.push_back(other[a]);
  }
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, forward ? "x" : "grad_y");
    py::array y = empty<T>(y_shape);
    KernelScope scope(std::max<int64_t>(in.size(), size_of(y_shape)));
    ResampleProblem<T> p;
    p.planes = planes;
    ResampleAxis<T>* axes[3] = {&p.d, &p.h, &p.w};
    for (size_t a = 0; a < rank; ++a) {
      const int64_t from = forward ? spatial[a] : other[a], to = forward ? other[a] : spatial[a];
      ResampleAxis<T> table = resample_axis<T>(mode, from, to, scale[a], align_corners, antialias);
      *axes[3 - rank + a] = forward ? std::move(table) : table.transposed();
    }
    resample<T>(data<T>(y), in, p);
    return y;
  });
}

py::array bind_interpolate_forward(const py::array& x, const Sizes& output, const std::vector<double>& scale,
                                   const std::string& mode, bool align_corners, bool antialias) {
  return interpolate("interpolate_forward", x, output, scale, mode, align_corners, antialias, true);
}
py::array bind_interpolate_backward(const py::array& grad_y, const Sizes& size,
                                    const std::vector<double>& scale, const std::string& mode,
                                    bool align_corners, bool antialias) {
  return interpolate("interpolate_backward", grad_y, size, scale, mode, align_corners, antialias, false);
}

PadAxis pad_axis(const char* op, const std::string& mode, int64_t in, int64_t before, int64_t after) {
  if (before <= -kLargest || before >= kLargest || after <= -kLargest || after >= kLargest)
    raise(op, "padding must lie between -2^31 and 2^31");
  const int64_t out = in + before + after;
  if (out < 0) raise(op, "padding cuts off more than there is");
  PadAxis axis;
  axis.in = in;
  axis.out = out;
  axis.before = before;
  const bool circular = mode == "circular", rolled = mode == "roll";
  if (rolled && (before < 0 || before > in || out != in)) raise(op, "mode roll takes (n, -n) of an axis");
  const int64_t cut_begin = circular ? std::max<int64_t>(0, -before) : 0;
  const int64_t cut_end = circular ? in - std::max<int64_t>(0, -after) : in;
  axis.copy_begin = std::clamp<int64_t>(before, 0, out);
  axis.copy_end = std::max(axis.copy_begin, std::min(out, cut_end + before));
  axis.constant = mode == "constant";
  if (axis.constant) return axis;
  const auto source = [&](int64_t o) {
    int64_t i = o - before;
    if (mode == "reflect")
      i = i < 0 ? -i : 2 * (in - 1) - i;
    else if (mode == "replicate")
      i = i < 0 ? 0 : in - 1;
    else  // around what negative padding leaves: [cut_begin, cut_end)
      i = i < cut_begin ? i + cut_end - cut_begin : i - cut_end + cut_begin;
    if (i < 0 || i >= in) raise(op, "the input is too small for padding of mode " + mode);
    return i;
  };
  for (int64_t o = 0; o < axis.copy_begin && !rolled; ++o) axis.head.push_back(source(o));
  for (int64_t o = axis.copy_end; o < out; ++o) axis.tail.push_back(source(o));
  return axis;
}

// One axis per padded axis; others are merged into their neighbours.
std::vector<PadAxis> pad_axes(const char* op, const Shape& shape, const Pairs& padding,
                              const std::string& mode) {
  if (mode != "constant" && mode != "reflect" && mode != "replicate" && mode != "circular" && mode != "roll")
    raise(op, "mode must be constant, reflect, replicate, circular or roll, got " + mode);
  if (padding.size() != shape.size()) raise(op, "needs one pair of paddings for each axis");
  struct Merged {
    int64_t in, before, after;
  };
  std::vector<Merged> merged{{1, 0, 0}};
  for (size_t a = 0; a < shape.size(); ++a) {
    const auto [before, after] = padding[a];
    Merged& last = merged.back();
    if (before == 0 && after == 0 && last.before == 0 && last.after == 0)
      last.in *= shape[a];
    else if (before == 0 && after == 0 && mode == "constant")
      last = {last.in * shape[a], last.before * shape[a], last.after * shape[a]};
    else if (merged.size() == 1 && last.in == 1 && last.before == 0 && last.after == 0)
      last = {shape[a], before, after};
    else
      merged.push_back({shape[a], before, after});
  }
  std::vector<PadAxis> axes;
  for (const Merged& m : merged) axes.push_back(pad_axis(op, mode, m.in, m.before, m.after));
  return axes;
}

Shape padded_shape(const char* op, Shape shape, const Pairs& padding) {
  if (padding.size() != shape.size()) raise(op, "needs one pair of paddings for each axis");
  for (size_t a = 0; a < shape.size(); ++a) {
    const auto [before, after] = padding[a];
    if (before <= -kLargest || before >= kLargest || after <= -kLargest || after >= kLargest)
      raise(op, "padding must lie between -2^31 and 2^31");
    shape[a] += before + after;
    if (shape[a] < 0) raise(op, "padding cuts off more than there is");
  }
  return shape;
}

py::array bind_pad_forward(const py::array& x, const Pairs& padding, const std::string& mode, double value) {
  constexpr const char* op = "pad_forward";
  const Shape y_shape = padded_shape(op, shape_of(x), padding);
  return by_stored(op, x, [&]<class T>(T, Half half) {
    const In<T> in(x, op, "x", half);
    py::array y = empty_array(stored_dtype<T>(half), y_shape);
    if (y.size() == 0) return y;
    const std::vector<PadAxis> axes = pad_axes(op, in.shape(), padding, mode);
    KernelScope scope(int64_t(y.size()));
    T constant{};
    if constexpr (std::is_same_v<T, uint16_t>) {
      const auto wide = float(value);
      narrow(&constant, &wide, 1, half);
    } else {
      constant = T(value);
    }
    pad_forward(reinterpret_cast<char*>(data<T>(y)), reinterpret_cast<const char*>(static_cast<const T*>(in)),
                axes, sizeof(T), eight_bytes_of(reinterpret_cast<const char*>(&constant), sizeof(T)));
    return y;
  });
}

py::array bind_pad_backward(const py::array& grad_y, const Sizes& size, const Pairs& padding,
                            const std::string& mode) {
  constexpr const char* op = "pad_backward";
  if (mode == "constant") raise(op, "constant padding is undone by padding with the negative amounts");
  for (int64_t extent : size)
    if (extent < 0) raise(op, "sizes must not be negative");
  if (padded_shape(op, size, padding) != shape_of(grad_y)) raise(op, "grad_y does not have the padded shape");
  return by_stored(op, grad_y, [&]<class T>(T, Half half) {
    const In<T> g(grad_y, op, "grad_y", half);
    py::array grad_x = empty_array(stored_dtype<T>(half), size);
    if (grad_x.size() == 0) return grad_x;
    const std::vector<PadAxis> axes = pad_axes(op, size, padding, mode);
    KernelScope scope(g.size());
    if constexpr (std::is_same_v<T, uint16_t>) {
      const memory::Buffer<float> sums(size_t(grad_x.size())), wide(size_t(g.size()));
      widen_all(wide.get(), g, g.size(), half);
      pad_backward<float>(sums.get(), wide.get(), axes);
      narrow_all(data<T>(grad_x), sums.get(), grad_x.size(), half);
    } else {
      pad_backward<T>(data<T>(grad_x), g, axes);
    }
    return grad_x;
  });
}

PoolProblem window_problem(const char* op, int64_t planes, const Sizes& in, const Sizes& kernel,
                           const Sizes& dilation, const Sizes& padding, const Sizes& stride) {
  if (in.size() != 2 || kernel.size() != 2 || dilation.size() != 2 || padding.size() != 2 ||
      stride.size() != 2)
    raise(op, "needs two spatial axes and two numbers for each option");
  PoolProblem p;
  p.planes = planes;
  PoolAxis* axes[2] = {&p.h, &p.w};
  for (size_t i = 0; i < 2; ++i) {
    PoolAxis& a = *axes[i];
    a = {in[i], 0, kernel[i], stride[i], padding[i], dilation[i]};
    for (int64_t value : {a.kernel, a.stride, a.dilation})
      if (value < 1 || value >= kLargest) raise(op, "kernel, stride and dilation must lie in [1, 2^31)");
    if (a.in < 1 || a.in >= kLargest || a.pad < 0 || a.pad >= kLargest)
      raise(op, "sizes must lie in [1, 2^31)");
    const int64_t room = a.in + 2 * a.pad - (a.kernel - 1) * a.dilation - 1;
    if (room < 0) raise(op, "the window is larger than the padded image");
    a.out = room / a.stride + 1;
  }
  return p;
}

py::array bind_unfold_forward(const py::array& x, const Sizes& kernel, const Sizes& dilation,
                              const Sizes& padding, const Sizes& stride) {
  constexpr const char* op = "unfold_forward";
  const Shape shape = shape_of(x);
  if (shape.size() != 3 && shape.size() != 4) raise(op, "input must have 3 or 4 axes");
  const size_t lead = shape.size() - 3;
  const int64_t batch = lead ? shape[0] : 1, channels = shape[lead];
  const PoolProblem p = window_problem(op, batch * channels, {shape[lead + 1], shape[lead + 2]}, kernel,
                                       dilation, padding, stride);
  Shape y_shape{channels * p.taps(), p.h.out * p.w.out};
  if (lead) y_shape.insert(y_shape.begin(), batch);
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    py::array y = empty<T>(y_shape);
    KernelScope scope(size_of(y_shape));
    unfold_forward<T>(data<T>(y), in, p);
    return y;
  });
}

py::array bind_fold_forward(const py::array& x, const Sizes& output, const Sizes& kernel,
                            const Sizes& dilation, const Sizes& padding, const Sizes& stride) {
  constexpr const char* op = "fold_forward";
  const Shape shape = shape_of(x);
  if (shape.size() != 2 && shape.size() != 3) raise(op, "input must have 2 or 3 axes");
  const size_t lead = shape.size() - 2;
  const int64_t batch = lead ? shape[0] : 1;
  PoolProblem p = window_problem(op, 0, output, kernel, dilation, padding, stride);
  if (shape[lead] % p.taps() != 0 || shape[lead + 1] != p.h.out * p.w.out)
    raise(op, "input must have channels * kernel taps rows and one column for each window");
  const int64_t channels = shape[lead] / p.taps();
  p.planes = batch * channels;
  Shape y_shape{channels, output[0], output[1]};
  if (lead) y_shape.insert(y_shape.begin(), batch);
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    py::array y = empty<T>(y_shape);
    KernelScope scope(in.size());
    fold_forward<T>(data<T>(y), in, p);
    return y;
  });
}

py::array bind_pixel_shuffle_forward(const py::array& x, int64_t r) {
  constexpr const char* op = "pixel_shuffle_forward";
  Shape shape = shape_of(x);
  const size_t n = shape.size();
  if (n < 3 || r < 1 || r >= 1 << 15 || shape[n - 3] % (r * r) != 0)
    raise(op, "input needs 3 axes and channels divisible by the factor squared");
  const int64_t h = shape[n - 2], w = shape[n - 1];
  shape[n - 3] /= r * r;
  shape[n - 2] *= r;
  shape[n - 1] *= r;
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    py::array y = empty<T>(shape);
    KernelScope scope(in.size());
    pixel_shuffle_forward<T>(data<T>(y), in, size_of({shape.data(), n - 2}), r, h, w);
    return y;
  });
}

py::array bind_pixel_unshuffle_forward(const py::array& x, int64_t r) {
  constexpr const char* op = "pixel_unshuffle_forward";
  Shape shape = shape_of(x);
  const size_t n = shape.size();
  if (n < 3 || r < 1 || r >= 1 << 15 || shape[n - 2] % r != 0 || shape[n - 1] % r != 0)
    raise(op, "input needs 3 axes, height and width divisible by the factor");
  const int64_t planes = size_of({shape.data(), n - 2});
  shape[n - 3] *= r * r;
  shape[n - 2] /= r;
  shape[n - 1] /= r;
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x");
    py::array y = empty<T>(shape);
    KernelScope scope(in.size());
    pixel_unshuffle_forward<T>(data<T>(y), in, planes, r, shape[n - 2], shape[n - 1]);
    return y;
  });
}

GridProblem grid_problem(const char* op, const py::array& x, const py::array& grid, const std::string& mode,
                         const std::string& padding, bool align_corners) {
  const Shape image = shape_of(x), places = shape_of(grid);
  const size_t rank = image.size() - 2;
  if ((image.size() != 4 && image.size() != 5) || places.size() != image.size() ||
      places.back() != int64_t(rank) || places[0] != image[0])
    raise(op, "x must be (N, C, H, W) with grid (N, H_out, W_out, 2), or each with one axis more");
  GridProblem p;
  p.rank = int(rank);
  p.batch = image[0];
  p.channels = image[1];
  p.points = size_of({places.data() + 1, rank});
  p.align_corners = align_corners;
  for (size_t a = 0; a < rank; ++a) p.extent[a] = image[2 + a];
  for (int64_t extent : {p.extent[0], p.extent[1], rank == 3 ? p.extent[2] : 1})
    if (extent < 1 || extent >= kLargest) raise(op, "spatial sizes of x must lie in [1, 2^31)");
  if (p.extent[0] * p.extent[1] >= kLargest || p.plane() >= kLargest)
    raise(op, "a plane of x may have less than 2^31 pixels");
  if (mode != "bilinear" && mode != "nearest" && (mode != "bicubic" || rank == 3))
    raise(op, "mode must be bilinear, nearest or, for images, bicubic, got " + mode);
  p.mode = mode == "bilinear"  ? GridMode::bilinear
           : mode == "nearest" ? GridMode::nearest
                               : GridMode::bicubic;
  if (padding != "zeros" && padding != "border" && padding != "reflection")
    raise(op, "padding must be zeros, border or reflection, got " + padding);
  p.padding = padding == "zeros"    ? GridPadding::zeros
              : padding == "border" ? GridPadding::border
                                    : GridPadding::reflection;
  return p;
}
// Of y: (N, C, places...).
Shape sampled_shape(const py::array& x, const py::array& grid) {
  Shape shape = shape_of(grid);
  shape.pop_back();
  shape.insert(shape.begin() + 1, int64_t(x.shape(1)));
  return shape;
}

py::array bind_grid_sample_forward(const py::array& x, const py::array& grid, const std::string& mode,
                                   const std::string& padding, bool align_corners) {
  constexpr const char* op = "grid_sample_forward";
  const GridProblem p = grid_problem(op, x, grid, mode, padding, align_corners);
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> in(x, op, "x"), places(grid, op, "grid");
    py::array y = empty<T>(sampled_shape(x, grid));
    KernelScope scope(int64_t(y.size()) * p.rank);
    grid_sample_forward<T>(data<T>(y), in, places, p);
    return y;
  });
}

py::tuple bind_grid_sample_backward(const py::array& grad_y, const py::array& x, const py::array& grid,
                                    const std::string& mode, const std::string& padding, bool align_corners,
                                    bool want_x, bool want_grid) {
  constexpr const char* op = "grid_sample_backward";
  const GridProblem p = grid_problem(op, x, grid, mode, padding, align_corners);
  if (shape_of(grad_y) != sampled_shape(x, grid)) raise(op, "grad_y must have the result's shape");
  return by_dtype(op, x, [&]<class T>(T) {
    const In<T> g(grad_y, op, "grad_y"), in(x, op, "x"), places(grid, op, "grid");
    py::object grad_x = py::none(), grad_grid = py::none();
    T *to_x = nullptr, *to_grid = nullptr;
    const auto make = [](py::object& object, T*& to, const Shape& shape) {
      py::array array = empty<T>(shape);
      to = data<T>(array);
      object = std::move(array);
    };
    if (want_x) make(grad_x, to_x, in.shape());
    if (want_grid) make(grad_grid, to_grid, places.shape());
    {
      KernelScope scope(g.size() * p.rank);
      grid_sample_backward<T>(to_x, to_grid, g, in, places, p);
    }
    return py::make_tuple(std::move(grad_x), std::move(grad_grid));
  });
}

}  // namespace

void register_resample(py::module_& m) {
  using py::arg;
  m.def("interpolate_forward", &bind_interpolate_forward, arg("x"), arg("output"), arg("scale"), arg("mode"),
        arg("align_corners"), arg("antialias"));
  m.def("interpolate_backward", &bind_interpolate_backward, arg("grad_y"), arg("size"), arg("scale"),
        arg("mode"), arg("align_corners"), arg("antialias"));
  m.def("grid_sample_forward", &bind_grid_sample_forward, arg("x"), arg("grid"), arg("mode"), arg("padding"),
        arg("align_corners"));
  m.def("grid_sample_backward", &bind_grid_sample_backward, arg("grad_y"), arg("x"), arg("grid"), arg("mode"),
        arg("padding"), arg("align_corners"), arg("want_x"), arg("want_grid"));
  m.def("pad_forward", &bind_pad_forward, arg("x"), arg("padding"), arg("mode"), arg("value"));
  m.def("pad_backward", &bind_pad_backward, arg("grad_y"), arg("size"), arg("padding"), arg("mode"));
  m.def("unfold_forward", &bind_unfold_forward, arg("x"), arg("kernel"), arg("dilation"), arg("padding"),
        arg("stride"));
  m.def("fold_forward", &bind_fold_forward, arg("x"), arg("output"), arg("kernel"), arg("dilation"),
        arg("padding"), arg("stride"));
  m.def("pixel_shuffle_forward", &bind_pixel_shuffle_forward, arg("x"), arg("factor"));
  m.def("pixel_unshuffle_forward", &bind_pixel_unshuffle_forward, arg("x"), arg("factor"));
}

}  // namespace fastdl::binding
