// What the bindings of losses share.
#pragma once

#include <string_view>

#include "bindings/cpu/array.h"
#include "common/classes.h"

namespace fastdl::binding {

inline Reduction reduction_of(std::string_view name, const char* op) {
  if (name == "mean") return Reduction::mean;
  if (name == "sum") return Reduction::sum;
  if (name == "none") return Reduction::none;
  throw py::value_error(std::string(op) + ": reduction must be 'none', 'mean' or 'sum', got '" +
                        std::string(name) + "'");
}

// The gradient of a loss: one number when reduced, else of the losses' shape.
template <class T>
In<T> upstream(const py::array& grad_loss, Reduction reduction, std::span<const int64_t> shape,
               const char* op, Half half = Half::none) {
  In<T> grad(grad_loss, op, "grad_loss", half);
  if (reduction == Reduction::none) {
    const Shape got = grad.shape();
    require(std::equal(got.begin(), got.end(), shape.begin(), shape.end()), op,
            "grad_loss must have the losses' shape");
  } else {
    require(grad.size() == 1, op, "grad_loss must be one number");
  }
  return grad;
}

}  // namespace fastdl::binding
