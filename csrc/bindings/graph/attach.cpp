// Views' place in the graph: what they know of the tensor whose memory they look at, and it of them.
#include "bindings/graph/fields.h"

namespace fastdl::graph {
namespace {

PyObject *no_grad_path, *multiple_path, *yes;  // what is known of a view instead of its path; (True,)

// The tensor whose memory `t` looks at: itself, unless it is a view.
Ref base_of(Tensor* t) {
  if (absent(t->base)) return Ref::to(reinterpret_cast<PyObject*>(t));
  if (as_tensor(t->base)) return Ref::to(t->base);
  PyErr_SetString(PyExc_TypeError, "_base: must be a tensor or None");
  return {};
}

// Weak references to living views; dead ones are swept when the length reaches a power of two: constant cost
// per view, on average.
bool register_view(Tensor* base, PyObject* view) {
  const Ref reference(PyWeakref_NewRef(view, nullptr));
  if (!reference) return false;
  if (absent(base->views)) {
    Ref views(PyList_New(0));
    if (!views) return false;
    set(base->views, std::move(views));
  }
  const Ref views = Ref::to(base->views);
  if (!PyList_CheckExact(views.get())) {
    PyErr_SetString(PyExc_TypeError, "_views: must be a list or None");
    return false;
  }
  const Py_ssize_t count = PyList_GET_SIZE(views.get());
  if (count >= 8 && (count & (count - 1)) == 0) {
    const Ref living(PyList_New(0));
    if (!living) return false;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(views.get()); ++i) {
      const Ref each = Ref::to(PyList_GET_ITEM(views.get(), i));
      if (!PyWeakref_CheckRefExact(each.get())) continue;
      const Ref seen(PyObject_CallNoArgs(each.get()));
      if (!seen || (seen.get() != Py_None && PyList_Append(living.get(), each.get()) != 0)) return false;
    }
    if (PyList_SetSlice(views.get(), 0, PyList_GET_SIZE(views.get()), living.get()) != 0) return false;
  }
  return PyList_Append(views.get(), reference.get()) == 0;
}

}  // namespace

Ref attach(PyObject* cls, Tensor* input, PyObject* array, PyObject* options) {
  const Ref data = Ref::to(input->data);
  if (!data) {
    PyErr_SetString(PyExc_AttributeError, "_data");
    return {};
  }
  Ref output = wrap(array);
  if (!output) return {};
  Tensor* view = reinterpret_cast<Tensor*>(output.get());
  const Ref owner = base_of(input);
  if (!owner) return {};
  Tensor* base = reinterpret_cast<Tensor*>(owner.get());
  const Ref path = Ref::to(base == input || !input->path ? Py_None : input->path);
  const Ref cell = counter_of(base);
  if (!cell) return {};
  set(view->base, owner.get());
  set(view->counter, cell.get());
  if (!recording()) {
    set(view->path, no_grad_path);
    return output;
  }
  Ref step = Ref::to(path.get());
  if (!PyUnicode_Check(path.get())) step = Ref(PyTuple_Pack(3, path.get(), cls, options));
  if (!step) return {};
  set(view->path, std::move(step));
  if (!register_view(base, output.get())) return {};
  if (!input->needs_grad()) return output;
  Ref op = new_node(cls);
  if (!op) return {};
  Ref order = next_order(), edge = edge_of(input);
  Ref edges(edge ? PyTuple_Pack(1, edge.get()) : nullptr);
  Ref shape(edges ? PyObject_GetAttr(data.get(), names.shape) : nullptr);
  if (!order || !shape) return {};
  Node* node = reinterpret_cast<Node*>(op.get());
  set(node->needs, yes);
  set(node->order, std::move(order));
  set(node->edges, std::move(edges));
  set(node->shape, std::move(shape));
  set(node->options, options);
  set(view->requires_grad, Py_True);
  set(view->node, std::move(op));
  return output;
}

PyObject* bound_attach(PyObject* cls, PyObject* const* args, Py_ssize_t count) {
  Tensor* input = count == 3 ? as_tensor(args[0]) : nullptr;
  if (!input || !PyDict_Check(args[2])) {
    PyErr_SetString(PyExc_TypeError, "View.attach: takes a tensor, an array and a dict of options");
    return nullptr;
  }
  return attach(cls, input, args[1], args[2]).release();
}

PyObject* bound_register_view(PyObject*, PyObject* const* args, Py_ssize_t count) {
  Tensor* base = count == 2 ? as_tensor(args[0]) : nullptr;
  if (!base || !as_tensor(args[1])) {
    PyErr_SetString(PyExc_TypeError, "register_view: takes two tensors");
    return nullptr;
  }
  if (!register_view(base, args[1])) return nullptr;
  Py_RETURN_NONE;
}

// The outputs of an operation on its input's memory are views that cannot be made again one by one.
PyObject* bound_share(PyObject*, PyObject* const* args, Py_ssize_t count) {
  Tensor* input = count == 2 ? as_tensor(args[0]) : nullptr;
  if (!input || !PyTuple_CheckExact(args[1])) {
    PyErr_SetString(PyExc_TypeError, "share: takes a tensor and a tuple of tensors");
    return nullptr;
  }
  const Ref owner = base_of(input);
  if (!owner) return nullptr;
  Tensor* base = reinterpret_cast<Tensor*>(owner.get());
  const Ref cell = counter_of(base);
  if (!cell) return nullptr;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args[1]); ++i) {
    PyObject* output = PyTuple_GET_ITEM(args[1], i);
    Tensor* view = as_tensor(output);
    if (!view) {
      PyErr_SetString(PyExc_TypeError, "share: takes a tensor and a tuple of tensors");
      return nullptr;
    }
    set(view->base, owner.get());
    set(view->counter, cell.get());
    set(view->path, multiple_path);
    if (view->needs_grad() && !register_view(base, output)) return nullptr;
  }
  return Ref::to(args[1]).release();
}

// May the tensor's memory be written to, with nothing to say about autograd? False: it has to be looked at
// closely.
PyObject* bound_plainly_writable(PyObject*, PyObject* object) {
  const Tensor* t = as_tensor(object);
  const Array* array = t ? as_array(t->data) : nullptr;
  return PyBool_FromLong(array && array->writable() && !(recording() && t->needs_grad()));
}

// Are these all tensors around NumPy's arrays, and nothing recorded for them?
PyObject* bound_plain(PyObject*, PyObject* const* args, Py_ssize_t count) {
  for (Py_ssize_t i = 0; i < count; ++i) {
    const Tensor* t = as_tensor(args[i]);
    if (!t || !as_array(t->data) || (t->needs_grad() && recording())) Py_RETURN_FALSE;
  }
  Py_RETURN_TRUE;
}

bool load_attach() {
  no_grad_path = PyUnicode_InternFromString("was made under no_grad()");
  multiple_path = PyUnicode_InternFromString("is one of several views that one call returned");
  yes = PyTuple_Pack(1, Py_True);
  return no_grad_path && multiple_path && yes;
}

}  // namespace fastdl::graph
