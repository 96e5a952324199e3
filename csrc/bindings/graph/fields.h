// fastdl._graph: the fields of tensors and of the graph's nodes in C structs, and the calls that make both.
//
// Tensor and Op are Python classes on the two types below. Python reads and writes the fields as ever
// (descriptors, which its interpreter specialises); what records an operation or makes a view reads and
// writes them here at a nanosecond each instead of twenty. Baseline code, Python's own C interface: the same
// for all levels, and without pybind11's hundred kilobytes.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <cstdint>
#include <utility>

namespace fastdl::graph {

// An owned reference.
class Ref {
 public:
  Ref() = default;
  explicit Ref(PyObject* owned) : object_(owned) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref&& other) noexcept {
    Py_XSETREF(object_, std::exchange(other.object_, nullptr));
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }
  static Ref to(PyObject* borrowed) {
    Py_XINCREF(borrowed);
    return Ref(borrowed);
  }
  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

// What a program deleted (`del t._node`) and what the collector has cleared is null, and so is the data of a
// tensor that no __init__ has seen; programs may also put there what they like. So nothing is followed before
// it was looked at.
struct Tensor {
  PyObject ob_base;
  PyObject *data, *requires_grad, *node, *index, *counter, *base, *path, *views, *hooks, *post_hooks, *grad;

  bool needs_grad() const { return requires_grad == Py_True; }
};
struct Node {
  PyObject ob_base;
  PyObject *needs, *order, *edges, *versions, *shapes, *hooks, *shape, *options, *outputs;
};

extern PyTypeObject TensorFields, NodeFields, GradMode, FunctionCall;
extern PyMethodDef node_methods[];
bool add_types(PyObject* module);

inline bool absent(PyObject* field) {
  return !field || field == Py_None;
}
inline Tensor* as_tensor(PyObject* object) {
  return PyObject_TypeCheck(object, &TensorFields) ? reinterpret_cast<Tensor*>(object) : nullptr;
}
// What a field held goes last: its end may run anything.
inline void set(PyObject*& field, Ref value) {
  Py_XSETREF(field, value.release());
}
inline void set(PyObject*& field, PyObject* borrowed) {
  set(field, Ref::to(borrowed));
}

// Interned strings.
extern struct Names {
  PyObject *forward, *saves, *saves_output, *takes_complex, *complex_form, *floats_only, *dtype, *shape,
      *data, *kind;
} names;

// ---------------------------------------------------------------------------------------------- op.cpp

bool load_op();

// Is the graph recorded in this thread?
bool recording();

// A new Tensor around `array`.
Ref wrap(PyObject* array);

// function(first, inputs, options, why), of a call's arguments
Ref call_instead(PyObject* function, PyObject* first, PyObject* const* args, Py_ssize_t count, PyObject* keys,
                 PyObject* why);

// An instance of the class, which must be one of nodes; its number: later ones compare lower.
Ref new_node(PyObject* cls);
Ref next_order();

// Where the gradient of `t` goes: (the leaf itself, -1), or (node that made it, which of its outputs).
Ref edge_of(Tensor* t);

// The counter of in-place changes of `t`: a list of one number.
Ref counter_of(Tensor* t);

// ------------------------------------------------------------------------------------------ attach.cpp

bool load_attach();

// The view `array` of `input`, which is what op.of(input, **options) gives, and its place in the graph. `op`
// is a class of views; the options are those from which the view can be made again.
Ref attach(PyObject* op, Tensor* input, PyObject* array, PyObject* options);

// -------------------------------------------------------------------------------------------- view.cpp

bool load_calls();

// ------------------------------------------------------------------------------------------- numpy.cpp

bool load_numpy();

// NumPy's array struct, whose first fields are its ABI.
struct Array {
  PyObject ob_base;
  char* data;
  int ndim;
  Py_ssize_t *shape, *strides;
  PyObject *base, *dtype;
  int flags;

  bool in_c_order() const { return flags & 0x0001; }
  bool writable() const { return flags & 0x0400; }
  Py_ssize_t item() const;
  Py_ssize_t size() const {
    Py_ssize_t size = 1;
    for (int axis = 0; axis < ndim; ++axis) size *= shape[axis];
    return size;
  }
};
// The array if it is exactly NumPy's, else null.
const Array* as_array(PyObject* object);
// 'f' for floats and so on; 0 with an exception set where an array on a device cannot tell.
char kind_of(PyObject* array);
bool is_differentiable(char kind);
bool is_complex(PyObject* array);
// Its dtype if that is half precision and the array on the CPU, else null.
PyObject* half_of(PyObject* array);

// A view of `array`'s memory; `writable` only if it is.
Ref view_of(const Array* array, int ndim, const Py_ssize_t* shape, const Py_ssize_t* strides, char* data,
            bool writable = true);

// ----------------------------------------------------------------------- what Python calls: see module.cpp

PyObject* bound_wrap(PyObject*, PyObject* array);
PyObject* bound_next_order(PyObject*, PyObject*);
PyObject* bound_set_tensor(PyObject*, PyObject* type);
PyObject* bound_set_size(PyObject*, PyObject* type);
PyObject* bound_add_stand_in(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* bound_set_recorded(PyObject*, PyObject* function);
PyObject* bound_set_otherwise(PyObject*, PyObject* function);
PyObject* bound_set_in_float32(PyObject*, PyObject* function);
PyObject* bound_set_explain(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* bound_attach(PyObject* cls, PyObject* const* args, Py_ssize_t count);
PyObject* bound_register_view(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* bound_share(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* bound_plainly_writable(PyObject*, PyObject* object);
PyObject* bound_plain(PyObject*, PyObject* const* args, Py_ssize_t count);
PyObject* bound_parts(PyObject*, PyObject* const* args, Py_ssize_t count);

// A method's entry from a function of the vectorcall family.
template <class F>
PyCFunction entry(F* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyTypeObject type_of(const char* name, size_t size, const char* text);  // static, to be filled in

}  // namespace fastdl::graph
