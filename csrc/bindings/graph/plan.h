// What a view is to be, and how it can be made again: shared by the plans (plan.cpp) and the call (view.cpp).
#pragma once

#include "bindings/graph/fields.h"

namespace fastdl::graph {

constexpr int kMaxAxes = 32;

// The names of a view's options.
struct OptionNames {
  const char* text[3];
  PyObject* object[3];
};

// op.of(array, **{name[0]: option[0], ...})
struct Plan {
  const Array* array;
  int ndim = 0;
  Py_ssize_t shape[kMaxAxes], strides[kMaxAxes];
  char* data;
  bool writable = true;
  int op = 0;  // which of the call's classes
  const OptionNames* names;
  Ref option[3];

  void add(Py_ssize_t extent, Py_ssize_t stride) { shape[ndim] = extent, strides[ndim++] = stride; }
  void keep(const Array* x, int axis) { add(x->shape[axis], x->strides[axis]); }
  void keep(int axis) { keep(array, axis); }
  Ref shape_tuple() const {
    Ref tuple(PyTuple_New(ndim));
    for (int i = 0; tuple && i < ndim; ++i) {
      PyObject* extent = PyLong_FromSsize_t(shape[i]);
      if (!extent) return {};
      PyTuple_SET_ITEM(tuple.get(), i, extent);
    }
    return tuple;
  }
};

// The arguments behind the tensor.
struct Arguments {
  PyObject* const* objects;
  Py_ssize_t count;
};

// By its name: how the arguments of a view function become a plan. False for all that is not plain.
using Planner = bool (*)(Plan&, Arguments);
Planner planner_of(const char* kind);
bool load_plans();

}  // namespace fastdl::graph
