// Interpolation, padding, windows as columns, unpooling.
#include "bindings/cuda/arguments.h"
#include "cuda/interpolate.h"
#include "cuda/pad.h"
#include "cuda/unfold.h"
#include "cuda/unpool.h"

namespace fastdl::binding {
namespace {

constexpr const char* kModes[] = {"nearest", "nearest-exact", "linear", "cubic", "lanczos"};
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
  using cuda::ResampleTable;
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
  py::class_<ResampleTable>(m, "ResampleTable")
      .def(py::init([](int64_t in, int64_t out, int64_t taps, uintptr_t start, uintptr_t count,
                       uintptr_t first, uintptr_t end, uintptr_t weights) {
        return ResampleTable{in,
                             out,
                             taps,
                             integers(start),
                             integers(count),
                             integers(first),
                             integers(end),
                             pointer(weights)};
      }));
  m.def("resample_taps", &cuda::resample_taps);
  m.def("resample_table",
        [](int dtype, const ResampleTable& table, const ResamplePlan& plan, uintptr_t stream) {
          cuda::resample_table(Dtype(dtype), table, plan, stream_of(stream));
        });
  m.def("interpolate", [](int dtype, uintptr_t y, uintptr_t x, int64_t planes, const ResampleTable& d,
                          const ResampleTable& h, const ResampleTable& w, bool backward, uintptr_t stream) {
    const ResampleTable tables[3] = {d, h, w};
    (backward ? cuda::interpolate_backward : cuda::interpolate)(Dtype(dtype), pointer(y), pointer(x), planes,
                                                                tables, stream_of(stream));
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
