// Extents, strides and start of the views that plain arguments ask for.
#include "bindings/graph/plan.h"

#include <algorithm>
#include <cstring>

namespace fastdl::graph {
namespace {

// False for what is no plain integer (bool is none, either).
bool integer(PyObject* object, Py_ssize_t& value) {
  if (!PyLong_CheckExact(object)) return false;
  value = PyLong_AsSsize_t(object);
  if (value != -1 || !PyErr_Occurred()) return true;
  PyErr_Clear();
  return false;
}
bool axis_of(PyObject* object, int ndim, int& axis) {
  Py_ssize_t value;
  if (!integer(object, value) || value < -ndim || value >= ndim) return false;
  axis = int(value < 0 ? value + ndim : value);
  return true;
}

// Integers given one by one or as one tuple or list.
bool integers(Arguments given, Py_ssize_t* values, int& count) {
  if (given.count == 1 && (PyTuple_Check(given.objects[0]) || PyList_CheckExact(given.objects[0]))) {
    PyObject* sequence = given.objects[0];
    given = {PySequence_Fast_ITEMS(sequence), PySequence_Fast_GET_SIZE(sequence)};
  }
  if (given.count > kMaxAxes) return false;
  count = int(given.count);
  for (int i = 0; i < count; ++i)
    if (!integer(given.objects[i], values[i])) return false;
  return true;
}

OptionNames shape_names{{"shape"}, {}}, dims_names{{"dims"}, {}}, axes_names{{"a", "b"}, {}},
    key_names{{"key"}, {}}, diagonal_names{{"offset", "a", "b"}, {}}, entry_names{{"dim", "index"}, {}};

bool shape_option(Plan& plan) {
  plan.names = &shape_names;
  plan.option[0] = plan.shape_tuple();
  return bool(plan.option[0]);
}

// Strides that show the array's elements in the plan's shape; false where only a copy can.
bool find_strides(Plan& plan) {
  const Array* x = plan.array;
  int at = plan.ndim - 1;
  if (x->in_c_order()) {
    for (Py_ssize_t stride = x->item(); at >= 0; stride *= plan.shape[at--]) plan.strides[at] = stride;
    return true;
  }
  for (int i = x->ndim - 1; i >= 0; --i) {
    // One run of axes that lie in memory like one long axis.
    Py_ssize_t step = x->strides[i], extent = x->shape[i];
    for (; i > 0 && (x->shape[i - 1] == 1 || extent == 1 || x->strides[i - 1] == extent * step); --i) {
      if (extent == 1) step = x->strides[i - 1];
      extent *= x->shape[i - 1];
    }
    Py_ssize_t covered = 1;
    for (; at >= 0 && (covered < extent || plan.shape[at] == 1); covered *= plan.shape[at--])
      plan.strides[at] = step * covered;
    if (covered != extent) return false;
  }
  return true;
}

bool reshape(Plan& plan, Arguments given) {
  const Array* x = plan.array;
  int count;
  if (!given.count || !integers(given, plan.shape, count)) return false;
  Py_ssize_t known = 1, size = x->size();
  int open = -1;
  for (int i = 0; i < count; ++i) {
    if (plan.shape[i] == -1 && open < 0)
      open = i;
    else if (plan.shape[i] <= 0 || __builtin_mul_overflow(known, plan.shape[i], &known))
      return false;
  }
  if (size == 0 || (open < 0 ? known != size : size % known != 0)) return false;
  if (open >= 0) plan.shape[open] = size / known;
  plan.ndim = count;
  return find_strides(plan) && shape_option(plan);
}

bool flatten(Plan& plan, Arguments given) {
  const Array* x = plan.array;
  if (given.count > 2 || x->ndim < 2 || x->size() == 0) return false;
  int first = 0, last = x->ndim - 1;
  if (given.count > 0 && !axis_of(given.objects[0], x->ndim, first)) return false;
  if (given.count > 1 && !axis_of(given.objects[1], x->ndim, last)) return false;
  if (first >= last) return false;
  for (int i = 0; i <= first; ++i) plan.keep(i);
  for (int i = first + 1; i <= last; ++i) plan.shape[first] *= x->shape[i];
  for (int i = last + 1; i < x->ndim; ++i) plan.keep(i);
  return find_strides(plan) && shape_option(plan);
}

// A new axis of extent 1 in front of `axis`.
void add_axis(Plan& plan, int axis) {
  const Array* x = plan.array;
  plan.add(1, axis < x->ndim ? x->shape[axis] * x->strides[axis] : x->item());
}

bool unsqueeze(Plan& plan, Arguments given) {
  const Array* x = plan.array;
  int axis;
  if (given.count != 1 || x->ndim == kMaxAxes || x->size() == 0 ||
      !axis_of(given.objects[0], x->ndim + 1, axis))
    return false;
  for (int i = 0; i < axis; ++i) plan.keep(i);
  add_axis(plan, axis);
  for (int i = axis; i < x->ndim; ++i) plan.keep(i);
  return shape_option(plan);
}

bool squeeze(Plan& plan, Arguments given) {
  const Array* x = plan.array;
  int axis = -1;
  if (given.count > 1 || x->size() == 0) return false;
  if (given.count == 1 && !axis_of(given.objects[0], x->ndim, axis)) return false;
  for (int i = 0; i < x->ndim; ++i)
    if (x->shape[i] != 1 || (axis >= 0 && i != axis)) plan.keep(i);
  return shape_option(plan);
}

bool exchange(Plan& plan, int a, int b) {
  for (int i = 0; i < plan.array->ndim; ++i) plan.keep(i == a ? b : i == b ? a : i);
  plan.names = &axes_names;
  plan.option[0] = Ref(PyLong_FromLong(a)), plan.option[1] = Ref(PyLong_FromLong(b));
  return plan.option[0] && plan.option[1];
}
bool transpose(Plan& plan, Arguments given) {
  int a, b;
  const int ndim = plan.array->ndim;
  return given.count == 2 && axis_of(given.objects[0], ndim, a) && axis_of(given.objects[1], ndim, b) &&
         exchange(plan, a, b);
}
bool transpose_last(Plan& plan, Arguments given) {
  const int ndim = plan.array->ndim;
  return given.count == 0 && ndim >= 2 && exchange(plan, ndim - 2, ndim - 1);
}
bool t(Plan& plan, Arguments given) {
  return given.count == 0 && plan.array->ndim == 2 && exchange(plan, 0, 1);
}

// The axes in this order.
bool reorder(Plan& plan, const int* axes) {
  const int ndim = plan.array->ndim;
  Ref order(PyTuple_New(ndim));
  if (!order) return false;
  for (int i = 0; i < ndim; ++i) {
    plan.keep(axes[i]);
    PyTuple_SET_ITEM(order.get(), i, PyLong_FromLong(axes[i]));
  }
  plan.names = &dims_names;
  plan.option[0] = std::move(order);
  return true;
}

bool permute(Plan& plan, Arguments given) {
  const Array* x = plan.array;
  Py_ssize_t dims[kMaxAxes];
  int count;
  if (!given.count || !integers(given, dims, count) || count != x->ndim) return false;
  uint32_t seen = 0;
  int axes[kMaxAxes];
  for (int i = 0; i < count; ++i) {
    if (dims[i] < -count || dims[i] >= count) return false;
    axes[i] = int(dims[i] < 0 ? dims[i] + count : dims[i]);
    if (seen >> axes[i] & 1) return false;
    seen |= uint32_t(1) << axes[i];
  }
  return reorder(plan, axes);
}

bool movedim(Plan& plan, Arguments given) {
  const int ndim = plan.array->ndim;
  int from, to, axes[kMaxAxes], count = 0;
  if (given.count != 2 || !axis_of(given.objects[0], ndim, from) || !axis_of(given.objects[1], ndim, to))
    return false;
  for (int axis = 0; axis < ndim; ++axis)
    if (axis != from) axes[count++] = axis;
  std::copy_backward(axes + to, axes + count, axes + ndim);
  axes[to] = from;
  return reorder(plan, axes);
}

bool expand(Plan& plan, Arguments given) {
  const Array* x = plan.array;
  Py_ssize_t sizes[kMaxAxes];
  int count;
  if (!given.count || !integers(given, sizes, count) || count < x->ndim) return false;
  for (int i = 0; i < count; ++i) {
    const int axis = i - (count - x->ndim);
    const Py_ssize_t have = axis < 0 ? 1 : x->shape[axis];
    const Py_ssize_t extent = sizes[i] == -1 && axis >= 0 ? have : sizes[i];
    if (extent < 0 || (have != 1 && extent != have)) return false;
    plan.add(extent, have == 1 ? 0 : x->strides[axis]);
    plan.writable &= extent == have;  // else several elements share one address
  }
  return shape_option(plan);
}

bool select(Plan& plan, Arguments given) {
  const Array* x = plan.array;
  int axis;
  Py_ssize_t index;
  if (given.count != 2 || !axis_of(given.objects[0], x->ndim, axis) || !integer(given.objects[1], index) ||
      index < -x->shape[axis] || index >= x->shape[axis])
    return false;
  if (index < 0) index += x->shape[axis];
  plan.data += index * x->strides[axis];
  for (int i = 0; i < x->ndim; ++i)
    if (i != axis) plan.keep(i);
  plan.names = &entry_names;
  plan.option[0] = Ref(PyLong_FromLong(axis)), plan.option[1] = Ref(PyLong_FromSsize_t(index));
  return plan.option[0] && plan.option[1];
}

bool diagonal(Plan& plan, Arguments given) {
  const Array* x = plan.array;
  Py_ssize_t offset = 0;
  int a = 0, b = 1;
  if (given.count > 3 || x->ndim < 2 || (given.count > 0 && !integer(given.objects[0], offset)) ||
      (given.count > 1 && !axis_of(given.objects[1], x->ndim, a)) ||
      (given.count > 2 && !axis_of(given.objects[2], x->ndim, b)) || a == b)
    return false;
  const Py_ssize_t rows = x->shape[a], columns = x->shape[b];
  if (offset <= -rows || offset >= columns) return false;  // an empty one
  const Py_ssize_t row = std::max<Py_ssize_t>(-offset, 0), column = std::max<Py_ssize_t>(offset, 0);
  plan.data += row * x->strides[a] + column * x->strides[b];
  for (int i = 0; i < x->ndim; ++i)
    if (i != a && i != b) plan.keep(i);
  // Strides of axes of extent 1 may be anything; their sum wraps.
  const Py_ssize_t stride = Py_ssize_t(size_t(x->strides[a]) + size_t(x->strides[b]));
  plan.add(std::min(rows - row, columns - column), stride);
  plan.names = &diagonal_names;
  plan.option[0] = Ref(PyLong_FromSsize_t(offset));
  plan.option[1] = Ref(PyLong_FromLong(a)), plan.option[2] = Ref(PyLong_FromLong(b));
  return plan.option[0] && plan.option[1] && plan.option[2];
}

// No bound with an __index__ of its own, which might change the tensor under our hands.
bool is_plain_slice(PyObject* object) {
  if (!PySlice_Check(object)) return false;
  const auto* slice = reinterpret_cast<PySliceObject*>(object);
  for (PyObject* bound : {slice->start, slice->stop, slice->step})
    if (bound != Py_None && !PyLong_CheckExact(bound)) return false;
  return true;
}

// A stride; that of a single entry may be anything, so what overflows wraps, as in NumPy.
Py_ssize_t product(Py_ssize_t stride, Py_ssize_t step) {
  return Py_ssize_t(size_t(stride) * size_t(step));
}

// A key of integers, slices, None and Ellipsis.
bool item(Plan& plan, Arguments given) {
  const Array* x = plan.array;
  PyObject* key = given.count == 1 ? given.objects[0] : nullptr;
  if (!key) return false;
  Py_ssize_t index;
  if (integer(key, index)) {
    if (x->ndim == 0 || index < -x->shape[0] || index >= x->shape[0]) return false;
    plan.data += (index < 0 ? index + x->shape[0] : index) * x->strides[0];
    for (int i = 1; i < x->ndim; ++i) plan.keep(i);
    plan.names = &entry_names;
    plan.option[0] = Ref(PyLong_FromLong(0)), plan.option[1] = Ref::to(key);
    return bool(plan.option[0]);
  }
  PyObject* const* items = &key;
  Py_ssize_t count = 1;
  if (PyTuple_CheckExact(key)) items = &PyTuple_GET_ITEM(key, 0), count = PyTuple_GET_SIZE(key);
  int used = 0, extra = 0, ellipses = 0;
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (items[i] == Py_Ellipsis)
      ++ellipses;
    else if (items[i] == Py_None)
      ++extra;
    else if (PyLong_CheckExact(items[i]) || PySlice_Check(items[i]))
      ++used;
    else
      return false;
  }
  if (used > x->ndim || x->ndim + extra > kMaxAxes || ellipses > 1) return false;
  int axis = 0;
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (items[i] == Py_Ellipsis) {
      for (int end = axis + x->ndim - used; axis < end; ++axis) plan.keep(axis);
    } else if (items[i] == Py_None) {
      add_axis(plan, axis);
    } else if (integer(items[i], index)) {
      const Py_ssize_t extent = x->shape[axis];
      if (index < -extent || index >= extent) return false;
      plan.data += (index < 0 ? index + extent : index) * x->strides[axis++];
    } else {
      Py_ssize_t start, stop, step;
      if (!is_plain_slice(items[i]) || PySlice_Unpack(items[i], &start, &stop, &step) != 0) {
        PyErr_Clear();
        return false;
      }
      if (step <= 0) return false;
      const Py_ssize_t extent = PySlice_AdjustIndices(x->shape[axis], &start, &stop, step);
      if (extent > 0) plan.data += start * x->strides[axis];
      plan.add(extent, product(x->strides[axis++], step));
    }
  }
  for (; axis < x->ndim; ++axis) plan.keep(axis);
  // To NumPy a key without Ellipsis might name an element, which is a number and no view.
  Ref full(PyTuple_New(count + !ellipses));
  if (!full) return false;
  for (Py_ssize_t i = 0; i < count + !ellipses; ++i) {
    PyObject* each = i < count ? items[i] : Py_Ellipsis;
    Py_INCREF(each);
    PyTuple_SET_ITEM(full.get(), i, each);
  }
  plan.op = 1;
  plan.names = &key_names;
  plan.option[0] = std::move(full);
  return true;
}

constexpr struct {
  const char* name;
  Planner plan;
} kinds[] = {{"reshape", reshape},
             {"flatten", flatten},
             {"unsqueeze", unsqueeze},
             {"squeeze", squeeze},
             {"t", t},
             {"transpose", transpose},
             {"mT", transpose_last},
             {"permute", permute},
             {"movedim", movedim},
             {"expand", expand},
             {"select", select},
             {"diagonal", diagonal},
             {"getitem", item}};

}  // namespace

PyObject* bound_parts(PyObject*, PyObject* const* args, Py_ssize_t count) {
  const Array* x = count == 3 ? as_array(args[0]) : nullptr;
  int dim;
  if (!x || x->ndim > kMaxAxes || !axis_of(args[1], x->ndim, dim) ||
      (args[2] != Py_None && !PyTuple_CheckExact(args[2])))
    Py_RETURN_NONE;
  const bool entries = args[2] == Py_None;
  const Py_ssize_t number = entries ? x->shape[dim] : PyTuple_GET_SIZE(args[2]) - 1;
  Ref views(PyTuple_New(std::max<Py_ssize_t>(number, 0)));
  if (!views) return nullptr;
  Plan plan;
  for (int i = 0; i < x->ndim; ++i)
    if (!entries || i != dim) plan.keep(x, i);
  for (Py_ssize_t i = 0; i < number; ++i) {
    Py_ssize_t first = i, last = i;
    if (!entries) {
      if (!integer(PyTuple_GET_ITEM(args[2], i), first) || !integer(PyTuple_GET_ITEM(args[2], i + 1), last) ||
          first < 0 || last < first || last > x->shape[dim]) {
        PyErr_SetString(PyExc_ValueError, "parts: bounds must ascend within the axis");
        return nullptr;
      }
      plan.shape[dim] = last - first;
    }
    char* start = last > first || entries ? x->data + first * x->strides[dim] : x->data;
    Ref view = view_of(x, plan.ndim, plan.shape, plan.strides, start);
    if (!view) return nullptr;
    PyTuple_SET_ITEM(views.get(), i, view.release());
  }
  return views.release();
}

Planner planner_of(const char* kind) {
  for (const auto& each : kinds)
    if (std::strcmp(each.name, kind) == 0) return each.plan;
  return nullptr;
}

bool load_plans() {
  for (OptionNames* each :
       {&shape_names, &dims_names, &axes_names, &key_names, &diagonal_names, &entry_names})
    for (int i = 0; i < 3 && each->text[i]; ++i)
      if (!(each->object[i] = PyUnicode_InternFromString(each->text[i]))) return false;
  return true;
}

}  // namespace fastdl::graph
