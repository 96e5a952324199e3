// Op.apply: run an operation on the arrays of its inputs and enter it in the graph; and the same for views.
#include <vector>

#include "bindings/graph/fields.h"

namespace fastdl::graph {
namespace {

PyTypeObject* tensor_type;  // fastdl.Tensor
PyObject* otherwise;        // apply_otherwise(cls, inputs, options, error), for what forward refused
PyObject* recorded;         // recorded(op), called with whatever has entered the graph; null: nobody asks
PyObject *no_grad_path, *multiple_path, *yes;  // what is known of a view instead of its path; (True,)
PyObject* nothing_needed[8];                   // (False,) * n
PyObject *minus_one, *never;  // the edge's index of a leaf; the version of an input that was not given
int64_t last_order = 1;

PyObject *name_forward, *name_saves, *name_saves_output, *name_dtype, *name_shape, *name_data;

void set(PyObject*& field, PyObject* borrowed) {
  Py_INCREF(borrowed);
  Py_XSETREF(field, borrowed);
}
void set(PyObject*& field, Ref value) {
  Py_XSETREF(field, value.release());
}

Ref next_order() {
  return Ref(PyLong_FromLongLong(--last_order));
}

// Where the gradient of `t` goes: (the leaf itself, -1), or (node that made it, which of its outputs).
Ref edge_of(Tensor* t) {
  if (absent(t->node)) return Ref(PyTuple_Pack(2, reinterpret_cast<PyObject*>(t), minus_one));
  if (t->index) return Ref(PyTuple_Pack(2, t->node, t->index));
  PyErr_SetString(PyExc_AttributeError, "_index");
  return {};
}

// The tensor whose memory `t` looks at: itself, unless it is a view.
Ref base_of(Tensor* t) {
  if (absent(t->base)) return Ref::to(reinterpret_cast<PyObject*>(t));
  if (as_tensor(t->base)) return Ref::to(t->base);
  PyErr_SetString(PyExc_TypeError, "_base: must be a tensor or None");
  return {};
}

// The counter of in-place changes of `t`: a list of one number.
PyObject* counter_of(Tensor* t) {
  if (absent(t->counter)) {
    Ref cell(PyList_New(1));
    if (!cell) return nullptr;
    PyList_SET_ITEM(cell.get(), 0, PyLong_FromLong(0));
    set(t->counter, std::move(cell));
  }
  if (PyList_CheckExact(t->counter) && PyList_GET_SIZE(t->counter) == 1) return t->counter;
  PyErr_SetString(PyExc_TypeError, "_counter: must be a list of one number or None");
  return nullptr;
}

// (counter, its value now)
Ref version_now(Tensor* t) {
  PyObject* cell = counter_of(t);
  return cell ? Ref(PyTuple_Pack(2, cell, PyList_GET_ITEM(cell, 0))) : Ref();
}

Ref new_node(PyObject* cls) {
  Ref op(PyObject_CallNoArgs(cls));
  if (!op || PyObject_TypeCheck(op.get(), &NodeFields)) return op;
  PyErr_SetString(PyExc_TypeError, "Op: the class made something that is no Op");
  return {};
}

// Weak references to living views; dead ones are swept when the length reaches a power of two: constant cost
// per view, on average.
bool register_view(Tensor* base, PyObject* view) {
  const Ref reference(PyWeakref_NewRef(view, nullptr));
  if (!reference) return false;
  if (absent(base->views)) {
    Ref views(PyList_New(1));
    if (!views) return false;
    Py_INCREF(reference.get());
    PyList_SET_ITEM(views.get(), 0, reference.get());
    set(base->views, std::move(views));
    return true;
  }
  PyObject* views = base->views;
  if (!PyList_CheckExact(views)) {
    PyErr_SetString(PyExc_TypeError, "_views: must be a list or None");
    return false;
  }
  const Py_ssize_t count = PyList_GET_SIZE(views);
  if (count >= 8 && (count & (count - 1)) == 0) {
    const Ref living(PyList_New(0));
    if (!living) return false;
    for (Py_ssize_t i = 0; i < count; ++i) {
      PyObject* each = PyList_GET_ITEM(views, i);
      if (PyWeakref_Check(each) && PyWeakref_GetObject(each) != Py_None &&
          PyList_Append(living.get(), each) != 0)
        return false;
    }
    if (PyList_SetSlice(views, 0, count, living.get()) != 0) return false;
  }
  return PyList_Append(views, reference.get()) == 0;
}

// The inputs of an operation: tensors or None.
struct Inputs {
  PyObject* const* objects;
  Py_ssize_t count;
  Tensor* tensor(Py_ssize_t i) const { return reinterpret_cast<Tensor*>(objects[i]); }
  bool needs_grad(Py_ssize_t i) const { return objects[i] != Py_None && tensor(i)->needs_grad(); }
};

// Appends the version of an output that is kept for backward.
bool keep_output(PyObject* op, PyObject* output) {
  Node* node = reinterpret_cast<Node*>(op);
  const Ref now = version_now(reinterpret_cast<Tensor*>(output));
  if (!now) return false;
  if (absent(node->versions)) set(node->versions, Ref(PyList_New(0)));
  if (node->versions && !PyList_CheckExact(node->versions)) {
    PyErr_SetString(PyExc_TypeError, "Op: versions must be a list or None");
    return false;
  }
  return node->versions && PyList_Append(node->versions, now.get()) == 0;
}

// An output of a recorded operation.
Ref output_of(PyObject* op, PyObject* array, Py_ssize_t index, bool kept) {
  Ref output = wrap(array);
  const char kind = output ? kind_of(array) : char(0);
  if (!kind) return {};
  if (is_floating(kind)) {  // indices and masks carry no gradient
    Tensor* t = reinterpret_cast<Tensor*>(output.get());
    set(t->requires_grad, Py_True);
    set(t->node, op);
    if (index) set(t->index, Ref(PyLong_FromSsize_t(index)));
  }
  if (kept && !keep_output(op, output.get())) return {};
  return output;
}

// Edges to the inputs' makers, output tensors that point to `op`.
Ref link(PyObject* op, const Inputs& inputs, PyObject* result) {
  Node* node = reinterpret_cast<Node*>(op);
  Ref order = next_order(), edges(PyTuple_New(inputs.count));
  if (!order || !edges) return {};
  set(node->order, std::move(order));
  for (Py_ssize_t i = 0; i < inputs.count; ++i) {
    Ref edge = inputs.needs_grad(i) ? edge_of(inputs.tensor(i)) : Ref::to(Py_None);
    if (!edge) return {};
    PyTuple_SET_ITEM(edges.get(), i, edge.release());
  }
  set(node->edges, std::move(edges));
  const Ref saves(PyObject_GetAttr(op, name_saves));
  if (!saves) return {};
  if (!PyTuple_Check(saves.get())) {
    PyErr_SetString(PyExc_TypeError, "Op: saves must be a tuple of indices");
    return {};
  }
  const Py_ssize_t saved = PyTuple_GET_SIZE(saves.get());
  if (saved) {
    Ref versions(PyList_New(saved));  // versions[k] is that of saves[k]
    if (!versions) return {};
    for (Py_ssize_t k = 0; k < saved; ++k) {
      const Py_ssize_t i = PyLong_AsSsize_t(PyTuple_GET_ITEM(saves.get(), k));
      if (i < 0 || i >= inputs.count) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_IndexError, "Op: saves names no input");
        return {};
      }
      Ref now = inputs.objects[i] == Py_None ? Ref::to(never) : version_now(inputs.tensor(i));
      if (!now) return {};
      PyList_SET_ITEM(versions.get(), k, now.release());
    }
    set(node->versions, std::move(versions));
  }
  const Ref saves_output(PyObject_GetAttr(op, name_saves_output));
  const int kept = saves_output ? PyObject_IsTrue(saves_output.get()) : -1;
  if (kept < 0) return {};
  if (!PyTuple_CheckExact(result)) return output_of(op, result, 0, kept);
  const Py_ssize_t count = PyTuple_GET_SIZE(result);
  Ref shapes(PyTuple_New(count)), outputs(PyTuple_New(count)), number(PyLong_FromSsize_t(count));
  if (!shapes || !outputs || !number) return {};
  set(node->outputs, std::move(number));
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* array = PyTuple_GET_ITEM(result, i);
    const Ref shape(PyObject_GetAttr(array, name_shape));
    const Ref dtype(shape ? PyObject_GetAttr(array, name_dtype) : nullptr);
    Ref both(dtype ? PyTuple_Pack(2, shape.get(), dtype.get()) : nullptr);
    Ref output = both ? output_of(op, array, i, kept) : Ref();
    if (!output) return {};
    PyTuple_SET_ITEM(shapes.get(), i, both.release());
    PyTuple_SET_ITEM(outputs.get(), i, output.release());
  }
  set(node->shapes, std::move(shapes));
  return outputs;
}

// Enter the graph.
Ref record(PyObject* op, const Inputs& inputs, PyObject* result) {
  Ref outputs = link(op, inputs, result);
  if (!outputs || !recorded) return outputs;
  const Ref function = Ref::to(recorded);  // it may be taken out by its own call
  return Ref(PyObject_CallOneArg(function.get(), op)) ? std::move(outputs) : Ref();
}

// References to arrays: forward may set another one in an input that is written in place.
struct Held {
  PyObject** arrays;
  Py_ssize_t count = 0;
  void add(PyObject* array) {
    Py_INCREF(array);
    arrays[count++] = array;
  }
  ~Held() {
    while (count > 0) Py_DECREF(arrays[--count]);
  }
};

// A forward that raised what kernels, NumPy and CuPy say to arrays they cannot take: computed in another way.
Ref try_otherwise(PyObject* cls, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  if (!otherwise ||
      !(PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_AttributeError) ||
        PyErr_ExceptionMatches(PyExc_NotImplementedError)))
    return {};
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  if (trace) PyException_SetTraceback(value, trace);
  const Ref owned_type(type), error(value), owned_trace(trace);
  const Ref inputs(PyTuple_New(count)), options(PyDict_New());
  if (!inputs || !options) return {};
  for (Py_ssize_t i = 0; i < count; ++i) {
    Py_INCREF(args[i]);
    PyTuple_SET_ITEM(inputs.get(), i, args[i]);
  }
  for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); ++i)
    if (PyDict_SetItem(options.get(), PyTuple_GET_ITEM(names, i), args[count + i]) != 0) return {};
  return Ref(PyObject_CallFunctionObjArgs(otherwise, cls, inputs.get(), options.get(), error.get(), nullptr));
}

Ref apply_or_raise(PyObject* cls, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  const Ref op = new_node(cls);
  if (!op) return {};
  const Py_ssize_t options = names ? PyTuple_GET_SIZE(names) : 0;
  PyObject* few[12];
  std::vector<PyObject*> many;
  PyObject** call = few;
  if (count + options + 1 > 12) {
    many.resize(size_t(count + options + 1));
    call = many.data();
  }
  call[0] = op.get();
  Held held{call + 1};
  bool any = false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    Tensor* t = args[i] == Py_None ? nullptr : as_tensor(args[i]);
    if (!t && args[i] != Py_None) {  // its AttributeError names it
      if (Ref(PyObject_GetAttr(args[i], name_data)))
        PyErr_SetString(PyExc_TypeError, "Op.apply: an input is no tensor");
      return {};
    }
    if (t && !t->data) {
      PyErr_SetString(PyExc_AttributeError, "_data");
      return {};
    }
    held.add(t ? t->data : Py_None);
    any |= t && t->needs_grad();
  }
  for (Py_ssize_t i = 0; i < options; ++i) call[count + 1 + i] = args[count + i];
  const bool recorded = any && recording();
  Ref needs;
  if (recorded || count >= 8) {
    needs = Ref(PyTuple_New(count));
    if (!needs) return {};
    for (Py_ssize_t i = 0; i < count; ++i) {
      const bool need = recorded && args[i] != Py_None && reinterpret_cast<Tensor*>(args[i])->needs_grad();
      PyTuple_SET_ITEM(needs.get(), i, PyBool_FromLong(need));
    }
  } else {
    needs = Ref::to(nothing_needed[count]);
  }
  set(reinterpret_cast<Node*>(op.get())->needs, std::move(needs));
  const Ref result(PyObject_VectorcallMethod(name_forward, call, size_t(count + 1), names));
  if (!result) return {};
  if (recorded) return record(op.get(), {args, count}, result.get());
  if (!PyTuple_CheckExact(result.get())) return wrap(result.get());
  Ref outputs(PyTuple_New(PyTuple_GET_SIZE(result.get())));
  for (Py_ssize_t i = 0; outputs && i < PyTuple_GET_SIZE(result.get()); ++i) {
    Ref output = wrap(PyTuple_GET_ITEM(result.get(), i));
    if (!output) return {};
    PyTuple_SET_ITEM(outputs.get(), i, output.release());
  }
  return outputs;
}

PyObject* bound_apply(PyObject* cls, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  Ref result = apply_or_raise(cls, args, count, names);
  if (!result) result = try_otherwise(cls, args, count, names);
  return result.release();
}

PyObject* bound_record(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  if (count != 2 || !PyTuple_Check(args[0])) {
    PyErr_SetString(PyExc_TypeError, "Op.record: takes a tuple of inputs and a result");
    return nullptr;
  }
  const Inputs inputs{&PyTuple_GET_ITEM(args[0], 0), PyTuple_GET_SIZE(args[0])};
  for (Py_ssize_t i = 0; i < inputs.count; ++i)
    if (inputs.objects[i] != Py_None && !as_tensor(inputs.objects[i])) {
      PyErr_SetString(PyExc_TypeError, "Op.record: an input is no tensor");
      return nullptr;
    }
  return record(self, inputs, args[1]).release();
}

PyObject* bound_keep_output(PyObject* self, PyObject* output) {
  if (!as_tensor(output)) {
    PyErr_SetString(PyExc_TypeError, "Op.keep_output: takes a tensor");
    return nullptr;
  }
  if (!keep_output(self, output)) return nullptr;
  Py_RETURN_NONE;
}

PyObject* bound_attach(PyObject* cls, PyObject* const* args, Py_ssize_t count) {
  Tensor* input = count == 3 ? as_tensor(args[0]) : nullptr;
  if (!input || !PyDict_Check(args[2])) {
    PyErr_SetString(PyExc_TypeError, "View.attach: takes a tensor, an array and a dict of options");
    return nullptr;
  }
  if (!input->data) {
    PyErr_SetString(PyExc_AttributeError, "_data");
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
  const Ref cell = Ref::to(counter_of(base));
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

PyObject* bound_wrap(PyObject*, PyObject* array) {
  return wrap(array).release();
}
PyObject* bound_next_order(PyObject*, PyObject*) {
  return next_order().release();
}
PyObject* bound_set_tensor(PyObject*, PyObject* type) {
  if (!PyType_Check(type) || !PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(type), &TensorFields)) {
    PyErr_SetString(PyExc_TypeError, "set_tensor: not a class with a tensor's fields");
    return nullptr;
  }
  Py_INCREF(type);
  tensor_type = reinterpret_cast<PyTypeObject*>(type);
  Py_RETURN_NONE;
}
PyObject* bound_set_recorded(PyObject*, PyObject* function) {
  Py_INCREF(function);
  Py_XSETREF(recorded, function == Py_None ? nullptr : function);
  Py_RETURN_NONE;
}
PyObject* bound_set_otherwise(PyObject*, PyObject* function) {
  set(otherwise, function);
  Py_RETURN_NONE;
}

// A method's entry from a function of the vectorcall family.
template <class F>
PyCFunction entry(F* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef functions[] = {
    {"wrap", bound_wrap, METH_O, "wrap(array: object) -> object\n\nA Tensor around the array itself."},
    {"register_view", entry(bound_register_view), METH_FASTCALL,
     "register_view(base: object, view: object) -> None\n\nThe base remembers the view, weakly."},
    {"share", entry(bound_share), METH_FASTCALL,
     "share(input: object, outputs: tuple) -> tuple\n\nThe outputs, as views of the input's memory."},
    {"parts", entry(bound_parts), METH_FASTCALL,
     "parts(array: object, dim: int, bounds: object) -> object\n\n"
     "Views between neighbouring bounds along dim, or (None) of each entry; None if the array is not "
     "NumPy's."},
    {"plainly_writable", bound_plainly_writable, METH_O,
     "plainly_writable(tensor: object) -> bool\n\n"
     "May its memory be written to, with nothing to say about autograd?"},
    {"next_order", bound_next_order, METH_NOARGS,
     "next_order() -> int\n\nThe number of a new node: later ones compare lower."},
    {"set_tensor", bound_set_tensor, METH_O,
     "set_tensor(type: object) -> None\n\nThe class that wrap() makes."},
    {"set_recorded", bound_set_recorded, METH_O,
     "set_recorded(function: object) -> None\n\nWhat is called with every node that enters the graph; None: "
     "nothing."},
    {"set_otherwise", bound_set_otherwise, METH_O,
     "set_otherwise(function: object) -> None\n\nWhat becomes of an operation whose forward refused its "
     "arrays."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

PyMethodDef node_methods[] = {
    {"apply", entry(bound_apply), METH_CLASS | METH_FASTCALL | METH_KEYWORDS,
     "Run the operation on tensors (None: not given) and enter it in the graph."},
    {"record", entry(bound_record), METH_FASTCALL,
     "record(inputs, result): enter the graph, with edges to the inputs' makers; output tensors that point "
     "here."},
    {"keep_output", bound_keep_output, METH_O,
     "keep_output(output): it may not be changed in place before backward."},
    {"attach", entry(bound_attach), METH_CLASS | METH_FASTCALL,
     "attach(input, array, options): the tensor of ``array``, which is what ``of(input, **options)`` gives."},
    {nullptr, nullptr, 0, nullptr}};

Ref wrap(PyObject* array) {
  if (!tensor_type) {
    PyErr_SetString(PyExc_RuntimeError, "wrap: fastdl.Tensor is not there yet");
    return {};
  }
  Ref tensor(TensorFields.tp_new(tensor_type, nullptr, nullptr));
  if (tensor) set(reinterpret_cast<Tensor*>(tensor.get())->data, array);
  return tensor;
}

Ref attach(PyObject* cls, Tensor* input, PyObject* array, PyObject* options) {
  Ref output = wrap(array);
  if (!output) return {};
  Tensor* view = reinterpret_cast<Tensor*>(output.get());
  const Ref owner = base_of(input);
  if (!owner) return {};
  Tensor* base = reinterpret_cast<Tensor*>(owner.get());
  PyObject* path = base == input || !input->path ? Py_None : input->path;
  PyObject* cell = counter_of(base);
  if (!cell) return {};
  set(view->base, owner.get());
  set(view->counter, cell);
  if (!recording()) {
    set(view->path, no_grad_path);
    return output;
  }
  Ref step = PyUnicode_Check(path) ? Ref::to(path) : Ref(PyTuple_Pack(3, path, cls, options));
  if (!step) return {};
  set(view->path, std::move(step));
  if (!register_view(base, output.get())) return {};
  if (input->needs_grad()) {
    Ref op = new_node(cls);
    Ref order = next_order(), edge = edge_of(input);
    Ref edges(edge ? PyTuple_Pack(1, edge.get()) : nullptr);
    Ref shape(PyObject_GetAttr(input->data, name_shape));
    if (!op || !order || !edges || !shape) return {};
    Node* node = reinterpret_cast<Node*>(op.get());
    set(node->needs, yes);
    set(node->order, std::move(order));
    set(node->edges, std::move(edges));
    set(node->shape, std::move(shape));
    set(node->options, options);
    set(view->requires_grad, Py_True);
    set(view->node, std::move(op));
  }
  return output;
}

namespace {

PyObject* intern(const char* text) {
  return PyUnicode_InternFromString(text);
}

// The classes and what is known of them are the process's: a second interpreter must not share them.
int execute(PyObject* module) {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    PyErr_SetString(PyExc_ImportError, "fastdl: runs in the main interpreter only");
    return -1;
  }
  name_forward = intern("forward"), name_saves = intern("saves"), name_saves_output = intern("saves_output");
  name_dtype = intern("dtype"), name_shape = intern("shape"), name_data = intern("_data");
  no_grad_path = intern("was made under no_grad()");
  multiple_path = intern("is one of several views that one call returned");
  minus_one = PyLong_FromLong(-1);
  yes = PyTuple_Pack(1, Py_True);
  never = Py_BuildValue("([i]i)", 0, 0);
  for (Py_ssize_t n = 0; n < 8; ++n) {
    nothing_needed[n] = PyTuple_New(n);
    for (Py_ssize_t i = 0; i < n && nothing_needed[n]; ++i)
      PyTuple_SET_ITEM(nothing_needed[n], i, PyBool_FromLong(0));
  }
  return !PyErr_Occurred() && load_numpy() && add_types(module) ? 0 : -1;
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(execute)}, {0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "_graph",
                      "Fields of tensors and nodes, and the calls that make them.",
                      0,
                      functions,
                      slots,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace
}  // namespace fastdl::graph

PyMODINIT_FUNC PyInit__graph() {
  return PyModuleDef_Init(&fastdl::graph::module);
}
