// Interpolation, padding, windows as columns, unpooling.
#include "bindings/cuda/arguments.h"
#include "cuda/grid_sample.h"
#include "cuda/interpolate.h"
#include "cuda/pad.h"
#include "cuda/unfold.h"
#include "cuda/unpool.h"

namespace fastdl::binding {
namespace {

constexpr const char* kModes[] = {"nearest", "nearest-exact", "linear", "cubic", "lanczos"};
constexpr const char* kGridModes[] = {"bilinear", "nearest", "bicubic"};
constexpr const char* kGridPaddings[] = {"zeros", "border", "reflection"};
constexpr const char* kPaddings[] = {"constant", "reflect", "replicate", "circular"};

// in, out, before, after for each of the four axes.
void pad_axes(cuda::PadAxis (&axes)[cuda::kPadAxes], const std::vector<int64_t>& numbers) {
  if (numbers.size() != 4 * cuda::kPadAxes) throw py::value_error("pad: 16 numbers expected");
  for (size_t i = 0; i < cuda::kPadAxes; ++i)
    axes[i] = {numbers[4 * i], numbers[4 * i + 1], numbers[4 * i + 2], numbers[4 * i + 3]};
}

int* integers(uintptr_t address) {
  return static_cast<int*>(pointer(address));
}
const int64_t* indices_at(uintptr_t address) {
  return static_cast<const int64_t*>(pointer(address));
}
uint64_t* words(uintptr_t address) {
  return static_cast<uint64_t*>(pointer(address));
}

}  // namespace

void register_resample(py::module_& m) {
  using cuda::ResamplePlan;
  m.def("unfold", [](int dtype, uintptr_t columns, uintptr_t x, const PoolProblem& p, uintptr_t stream) {
    cuda::unfold(Dtype(dtype), pointer(columns), pointer(x), p, stream_of(stream));
  });
  m.def("fold", [](int dtype, uintptr_t x, uintptr_t columns, const PoolProblem& p, uintptr_t stream) {
    cuda::fold(Dtype(dtype), pointer(x), pointer(columns), p, stream_of(stream));
  });
  m.def("pad", [](int item, uintptr_t y, uintptr_t x, const std::vector<int64_t>& axes,
                  const std::string& mode, uint64_t value, uintptr_t stream) {
    cuda::PadAxis a[cuda::kPadAxes];
    pad_axes(a, axes);
    cuda::pad(item, pointer(y), pointer(x), a, named<cuda::Padding>(kPaddings, mode), value,
              stream_of(stream));
  });
  m.def("pad_backward", [](int dtype, uintptr_t grad_x, uintptr_t grad_y, const std::vector<int64_t>& axes,
                           const std::string& mode, uintptr_t stream) {
    cuda::PadAxis a[cuda::kPadAxes];
    pad_axes(a, axes);
    cuda::pad_backward(Dtype(dtype), pointer(grad_x), pointer(grad_y), a,
                       named<cuda::Padding>(kPaddings, mode), stream_of(stream));
  });
  py::class_<ResamplePlan>(m, "ResamplePlan")
      .def(py::init([](const std::string& mode, int64_t in, int64_t out, double scale, bool align_corners,
                       bool antialias) {
        return ResamplePlan{named<Resampling>(kModes, mode), in, out, scale, align_corners, antialias};
      }));
  m.def("interpolate_bytes",
        [](int dtype, const ResamplePlan& d, const ResamplePlan& h, const ResamplePlan& w) {
          return cuda::interpolate_bytes(Dtype(dtype), {d, h, w});
        });
  m.def("interpolate",
        [](int dtype, uintptr_t to, uintptr_t from, int64_t planes, const ResamplePlan& d,
           const ResamplePlan& h, const ResamplePlan& w, bool backward, uintptr_t tables, uintptr_t stream) {
          cuda::interpolate(Dtype(dtype), pointer(to), pointer(from), planes, {d, h, w}, backward,
                            pointer(tables), stream_of(stream));
        });
  py::class_<GridProblem>(m, "GridProblem")
      .def(py::init([](int64_t batch, int64_t channels, int64_t points, const std::vector<int64_t>& extent,
                       const std::string& mode, const std::string& padding, bool align_corners) {
        GridProblem p{batch, channels, points, int(extent.size())};
        if (p.rank != 2 && p.rank != 3) throw py::value_error("grid_sample: 2 or 3 spatial axes expected");
        std::copy(extent.begin(), extent.end(), p.extent);
        p.mode = named<GridMode>(kGridModes, mode);
        p.padding = named<GridPadding>(kGridPaddings, padding);
        p.align_corners = align_corners;
        return p;
      }))
      .def_property_readonly("taps", &cuda::grid_taps);
  m.def("grid_sample",
        [](int dtype, uintptr_t y, uintptr_t x, uintptr_t grid, const GridProblem& p, uintptr_t stream) {
          cuda::grid_sample(Dtype(dtype), pointer(y), pointer(x), pointer(grid), p, stream_of(stream));
        });
  m.def("grid_sample_grad_grid", [](int dtype, uintptr_t grad_grid, uintptr_t grad_y, uintptr_t x,
                                    uintptr_t grid, const GridProblem& p, uintptr_t stream) {
    cuda::grid_sample_grad_grid(Dtype(dtype), pointer(grad_grid), pointer(grad_y), pointer(x), pointer(grid),
                                p, stream_of(stream));
  });
  m.def("grid_sample_entries", [](int dtype, uintptr_t pixel, uintptr_t point, uintptr_t weight,
                                  uintptr_t grid, const GridProblem& p, uintptr_t stream) {
    cuda::grid_sample_entries(Dtype(dtype), static_cast<int64_t*>(pointer(pixel)),
                              static_cast<int64_t*>(pointer(point)), pointer(weight), pointer(grid), p,
                              stream_of(stream));
  });
  m.def("adaptive_max_pool_forward",
        [](int dtype, uintptr_t y, uintptr_t indices, uintptr_t x, const PoolProblem& p, uintptr_t stream) {
          cuda::adaptive_max_pool_forward(Dtype(dtype), pointer(y), static_cast<int64_t*>(pointer(indices)),
                                          pointer(x), p, stream_of(stream));
        });
  m.def("adaptive_max_pool_backward", [](int dtype, uintptr_t grad_x, uintptr_t grad_y, uintptr_t indices,
                                         const PoolProblem& p, uintptr_t report, uintptr_t stream) {
    cuda::adaptive_max_pool_backward(Dtype(dtype), pointer(grad_x), pointer(grad_y), indices_at(indices), p,
                                     words(report), stream_of(stream));
  });
  m.def("max_unpool_forward", [](int dtype, uintptr_t y, uintptr_t x, uintptr_t indices, uintptr_t owners,
                                 int64_t planes, int64_t values, int64_t places, uintptr_t report,
                                 uintptr_t stream) {
    cuda::max_unpool_forward(Dtype(dtype), pointer(y), pointer(x), indices_at(indices), integers(owners),
                             planes, values, places, words(report), stream_of(stream));
  });
  m.def("max_unpool_backward",
        [](int dtype, uintptr_t grad_x, uintptr_t grad_y, uintptr_t indices, int64_t planes, int64_t values,
           int64_t places, uintptr_t report, uintptr_t stream) {
          cuda::max_unpool_backward(Dtype(dtype), pointer(grad_x), pointer(grad_y), indices_at(indices),
                                    planes, values, places, words(report), stream_of(stream));
        });
}

}  // namespace fastdl::binding
