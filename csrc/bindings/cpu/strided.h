// Arguments of broadcasting kernels: arrays with any strides, or Python numbers, in; a StridedLoop out.
#pragma once

#include <array>
#include <string>

#include "bindings/cpu/array.h"
#include "cpu/elementwise.h"

namespace fastdl::binding {

inline bool is_array(py::handle object) {
  return py::detail::npy_api::get().PyArray_Check_(object.ptr());
}

// Where an array's elements are. A number is an operand without axes.
struct Operand {
  char* data;
  int ndim = 0;
  const py::ssize_t* shape = nullptr;
  const py::ssize_t* strides = nullptr;
  py::object owner;  // keeps data, shape and strides alive
  Half half = Half::none;

  int64_t extent(int axis, int of) const {  // of axis `axis` in a shape of rank `of`, aligned at the right
    const int own = axis - (of - ndim);
    return own < 0 ? 1 : int64_t(shape[own]);
  }
  int64_t stride(int axis, int of) const {
    const int own = axis - (of - ndim);
    return own < 0 || shape[own] == 1 ? 0 : int64_t(strides[own]);
  }
};

// The array itself; copied first only where its elements are not aligned.
Operand operand_of(const py::array& array);
// The same for results that were made here or may be written; raises for read-only or self-overlapping
// arrays.
Operand output_of(const py::array& array, const char* op);

std::string shape_text(std::span<const int64_t> shape);

// The shape that the operands broadcast to, or a ValueError that names the axis.
Shape broadcast_shape(const char* op, std::initializer_list<const Operand*> operands);

// Replaces an input by a copy if writing `out` would change it before it is read.
void separate(const Operand& out, int64_t item, Operand& input, int64_t input_item);

// Replaces an input by a copy in the order of `out` if it lies across it (the transpose beside a matrix, a
// column beside every row): each number of a row would come from another cache line, whose others are needed
// rows later, if at all.
void turn(const Operand& out, Operand& input, int64_t item);

// How integers are stored: for these bindings all are int64_t, whose first bytes are the narrower number.
std::optional<Integer> integer_of(const py::array& array);
const py::dtype& integer_dtype(Integer type);
template <class T>
const py::dtype& stored_dtype(Integer type) {
  return integer_dtype(type);
}
template <class T>
int64_t stored_size(Integer type) {
  return int64_t(integer_dtype(type).itemsize());
}
template <class T>
void check_stored(const py::array& array, const char* op, const char* argument, Integer type) {
  if (integer_of(array) != type)
    raise_dtype(array, op, argument, py::str(integer_dtype(type)).template cast<std::string>().c_str());
}

// A T operand: an array of exactly T, or a Python number (kept in `number`). Arrays of float may be stored in
// half precision, those of int64_t as narrower integers: all of a call in the same dtype.
template <class T>
class Source : public Operand {
 public:
  int64_t item;  // bytes an element

  template <class Stored = Half>
  Source(py::handle object, const char* op, const char* argument, Stored stored = Half::none)
      : item(stored_size<T>(stored)) {
    if (is_array(object)) {
      const auto& array = reinterpret_cast<const py::array&>(object);
      check_stored<T>(array, op, argument, stored);
      static_cast<Operand&>(*this) = operand_of(array);
      if constexpr (std::is_same_v<Stored, Half>) half = stored;
    } else {
      std::conditional_t<std::is_same_v<T, int64_t>, int64_t, double> value;
      if constexpr (std::is_same_v<T, int64_t>)
        value = PyLong_AsLongLong(object.ptr());
      else
        value = PyFloat_AsDouble(object.ptr());
      if (value == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        throw py::type_error(std::string(op) + ": " + argument + " must be an array or a number, got " +
                             py::str(py::type::handle_of(object)).template cast<std::string>());
      }
      number_ = T(value);
      data = reinterpret_cast<char*>(&number_);
    }
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

 private:
  T number_;
};

// An input beside others, and the bytes of its elements.
using Input = std::pair<Operand*, int64_t>;

// Strides for a new result of `item` bytes an element, where the inputs of its shape agree on another order
// of axes than C's (the transposes of arrays in C order, say); false if they do not. Then reading and writing
// follow memory, and so will whatever reads the result beside them.
bool order_of(std::initializer_list<Input> inputs, const Shape& shape, int64_t item, Shape& strides);

template <int N>
StridedLoop<N> make_loop(std::span<const int64_t> shape, const std::array<const Operand*, N>& operands) {
  StridedLoop<N> loop;
  const int ndim = int(shape.size());
  for (int i = 0; i < N; ++i) loop.data[i] = operands[i]->data, loop.half[i] = operands[i]->half;
  // Axes from the innermost of the first output outwards: an output that is written in place may be
  // transposed.
  int order[64];
  for (int k = 0; k < ndim; ++k) {
    const int axis = ndim - 1 - k;
    const int64_t stride = std::abs(operands[0]->stride(axis, ndim));
    int place = k;
    for (; place > 0 && stride != 0 && std::abs(operands[0]->stride(order[place - 1], ndim)) > stride;
         --place)
      order[place] = order[place - 1];
    order[place] = axis;
  }
  for (int k = 0; k < ndim; ++k) {
    int64_t strides[N];
    for (int i = 0; i < N; ++i) strides[i] = operands[i]->stride(order[k], ndim);
    loop.add_axis(shape[size_t(order[k])], strides);
  }
  return loop;
}

// Runs a kernel. The scope ends here: no Python object may be touched while the GIL is released.
template <class Loop, class F>
void launch(const Loop& loop, F&& kernel) {
  KernelScope scope(loop.size);
  kernel();
}

// The result of a kernel with inputs `in`: a new array of Out, stored as said, or the caller's `out`,
// checked.
template <class Out>
class Result {
 public:
  template <class Stored = Half>
  Result(const char* op, Shape shape, py::handle out, std::initializer_list<Input> inputs,
         Stored stored = Half::none)
      : shape_(std::move(shape)) {
    const int64_t item = stored_size<Out>(stored);
    Half half = Half::none;
    if constexpr (std::is_same_v<Stored, Half>) half = stored;
    if (out.is_none() || !out) {
      Shape strides;
      const bool reordered = order_of(inputs, shape_, item, strides);
      array_ = empty_array(stored_dtype<Out>(stored), shape_, reordered ? strides.data() : nullptr);
      operand_ = operand_of(array_);
      operand_.half = half;
      turn_all(inputs);
      return;
    }
    if (!is_array(out)) throw py::type_error(std::string(op) + ": out must be an array");
    array_ = py::reinterpret_borrow<py::array>(out);
    check_stored<Out>(array_, op, "out", stored);
    const Shape have = shape_of(array_);
    if (have != shape_)
      throw py::value_error(std::string(op) + ": the result has shape " + shape_text(shape_) +
                            ", but out has shape " + shape_text(have));
    operand_ = output_of(array_, op);
    operand_.half = half;
    for (const auto& [input, input_item] : inputs) separate(operand_, item, *input, input_item);
    turn_all(inputs);
  }
  const Shape& shape() const { return shape_; }
  const Operand* operand() const { return &operand_; }
  py::array& array() { return array_; }

 private:
  void turn_all(std::initializer_list<Input> inputs) const {
    for (const auto& [input, item] : inputs) turn(operand_, *input, item);
  }

  Shape shape_;
  py::array array_{py::reinterpret_steal<py::array>(py::handle())};
  Operand operand_;
};

// f(T{}, half) for the dtype of whichever argument is an array: half precision is stored floats.
template <class F>
auto by_dtype_of(const char* op, std::initializer_list<py::handle> objects, F&& f) {
  for (py::handle object : objects)
    if (is_array(object)) {
      const auto& array = reinterpret_cast<const py::array&>(object);
      if (is_dtype<float>(array)) return f(float{}, Half::none);
      if (is_dtype<double>(array)) return f(double{}, Half::none);
      const Half half = half_of(array);
      if (half == Half::none) raise_dtype(array, op, "input", "a floating-point dtype");
      return f(float{}, half);
    }
  throw py::type_error(std::string(op) + ": at least one operand must be an array");
}

// The same with integers, for the operations that have them: f(int64_t{}, which).
template <class F>
auto by_dtype_or_integer(const char* op, std::initializer_list<py::handle> objects, F&& f) {
  for (py::handle object : objects)
    if (is_array(object))
      if (const auto type = integer_of(reinterpret_cast<const py::array&>(object)))
        return f(int64_t{}, *type);
  return by_dtype_of(op, objects, f);
}

}  // namespace fastdl::binding
