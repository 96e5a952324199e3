// Op.apply: run an operation on the arrays of its inputs and enter it in the graph.
#include <iterator>
#include <vector>

#include "bindings/graph/fields.h"

namespace fastdl::graph {
namespace {

PyTypeObject* tensor_type;  // fastdl.Tensor
// What some tensors hold in an array's place, and their classes: sparse ones, and slices that are computed at once.
struct StandIn {
  PyTypeObject *array, *tensor;
} stand_ins[2];
int stand_in_count;
PyObject* otherwise;          // apply_otherwise(cls, inputs, options, error), for what forward refused
PyObject* in_float32;         // compute(cls, inputs, options, dtype), for half precision
PyObject* recorded;           // recorded(op), called with whatever has entered the graph; null: nobody asks
PyObject* nothing_needed[8];  // (False,) * n
PyObject *minus_one, *never;  // the edge's index of a leaf; the version of an input that was not given
int64_t last_order = 1;

const StandIn* stand_in(PyObject* array) {
  for (int i = 0; i < stand_in_count; ++i)
    if (Py_TYPE(array) == stand_ins[i].array) return &stand_ins[i];
  return nullptr;
}

// A tuple of two. (PyTuple_Pack makes the tuple before it takes its borrowed arguments into custody, and a
// collection that the new tuple sets off may run programs' finalizers.)
Ref pair(Ref a, Ref b) {
  Ref both(a && b ? PyTuple_New(2) : nullptr);
  if (!both) return {};
  PyTuple_SET_ITEM(both.get(), 0, a.release());
  PyTuple_SET_ITEM(both.get(), 1, b.release());
  return both;
}

// (counter, its value now)
Ref version_now(Tensor* t) {
  Ref cell = counter_of(t);
  if (!cell) return {};
  Ref value = Ref::to(PyList_GET_ITEM(cell.get(), 0));
  return pair(std::move(cell), std::move(value));
}

// The inputs of an operation: tensors or None.
struct Inputs {
  PyObject* const* objects;
  Py_ssize_t count;
  Tensor* tensor(Py_ssize_t i) const { return reinterpret_cast<Tensor*>(objects[i]); }
  bool needs_grad(Py_ssize_t i) const { return objects[i] != Py_None && tensor(i)->needs_grad(); }
};

// Have all floating-point inputs this dtype? (Others and arrays on devices are forward's to refuse.)
bool all_have(PyObject* dtype, const Inputs& inputs) {
  for (Py_ssize_t i = 0; i < inputs.count; ++i) {
    if (inputs.objects[i] == Py_None) continue;
    const Array* a = as_array(inputs.tensor(i)->data);
    if (!a || (a->dtype != dtype && is_differentiable(kind_of(inputs.tensor(i)->data)))) return false;
  }
  return true;
}

// Appends the version of a tensor that is kept for backward and is no input among `saves`.
bool keep(PyObject* op, PyObject* tensor) {
  Node* node = reinterpret_cast<Node*>(op);
  const Ref now = version_now(reinterpret_cast<Tensor*>(tensor));
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
  if (is_differentiable(kind)) {
    Tensor* t = reinterpret_cast<Tensor*>(output.get());
    set(t->requires_grad, Py_True);
    set(t->node, op);
    if (index) set(t->index, Ref(PyLong_FromSsize_t(index)));
  } else {  // indices and masks carry no gradient, but say where that of the other outputs goes
    kept = true;
  }
  if (kept && !keep(op, output.get())) return {};
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
  const Ref saves(PyObject_GetAttr(op, names.saves));
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
  const Ref saves_output(PyObject_GetAttr(op, names.saves_output));
  const int kept = saves_output ? PyObject_IsTrue(saves_output.get()) : -1;
  if (kept < 0) return {};
  if (!PyTuple_CheckExact(result)) return output_of(op, result, 0, kept);
  const Py_ssize_t count = PyTuple_GET_SIZE(result);
  Ref shapes(PyTuple_New(count)), outputs(PyTuple_New(count)), number(PyLong_FromSsize_t(count));
  if (!shapes || !outputs || !number) return {};
  set(node->outputs, std::move(number));
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* array = PyTuple_GET_ITEM(result, i);
    Ref shape(PyObject_GetAttr(array, names.shape));
    Ref dtype(shape ? PyObject_GetAttr(array, names.dtype) : nullptr);
    Ref both = pair(std::move(shape), std::move(dtype));
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
Ref try_otherwise(PyObject* cls, PyObject* const* args, Py_ssize_t count, PyObject* keys) {
  if (!otherwise ||
      !(PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_AttributeError) ||
        PyErr_ExceptionMatches(PyExc_NotImplementedError)))
    return {};
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  if (trace) PyException_SetTraceback(value, trace);
  const Ref owned_type(type), error(value), owned_trace(trace);
  return call_instead(otherwise, cls, args, count, keys, error.get());
}

// Is the attribute of a class true? -1 with an exception set where it cannot be told.
int flag_of(PyObject* cls, PyObject* name) {
  const Ref flag(PyObject_GetAttr(cls, name));
  return flag ? PyObject_IsTrue(flag.get()) : -1;
}

PyObject* bound_apply(PyObject* cls, PyObject* const* args, Py_ssize_t count, PyObject* keys);

// `passed_on`: it was left to another function, whose error is the last word.
Ref apply_or_raise(PyObject* cls, PyObject* const* args, Py_ssize_t count, PyObject* keys, bool& passed_on) {
  const Ref op = new_node(cls);
  if (!op) return {};
  const Py_ssize_t options = keys ? PyTuple_GET_SIZE(keys) : 0;
  PyObject* few[12];
  std::vector<PyObject*> many;
  PyObject** call = few;
  if (count + options + 1 > 12) {
    many.resize(size_t(count + options + 1));
    call = many.data();
  }
  call[0] = op.get();
  Held held{call + 1};
  bool any = false, complex = false, stands_in = false;
  PyObject* half = nullptr;
  for (Py_ssize_t i = 0; i < count; ++i) {
    Tensor* t = args[i] == Py_None ? nullptr : as_tensor(args[i]);
    if (!t && args[i] != Py_None) {  // its AttributeError names it
      if (Ref(PyObject_GetAttr(args[i], names.data)))
        PyErr_SetString(PyExc_TypeError, "Op.apply: an input is no tensor");
      return {};
    }
    if (t && !t->data) {
      PyErr_SetString(PyExc_AttributeError, "_data");
      return {};
    }
    held.add(t ? t->data : Py_None);
    any |= t && t->needs_grad();
    complex |= t && is_complex(t->data);
    stands_in |= t && stand_in(t->data);
    if (t && !half) half = half_of(t->data);
  }
  passed_on = stands_in && otherwise;
  if (passed_on) return call_instead(otherwise, cls, args, count, keys, Py_None);
  if (complex &&
      otherwise) {  // no kernel sees complex numbers: they are an operation's own business, or another's
    const int takes = flag_of(cls, names.takes_complex);
    if (takes < 0) return {};
    passed_on = !takes;
    if (passed_on) {
      const Ref form(PyObject_GetAttr(cls, names.complex_form));
      if (!form) return {};
      if (form.get() != Py_None) return Ref(bound_apply(form.get(), args, count, keys));
      return call_instead(otherwise, cls, args, count, keys, Py_None);
    }
  }
  if (half && in_float32) {
    const int only = flag_of(cls, names.floats_only);
    if (only < 0) return {};
    passed_on = only && all_have(half, {args, count});
    if (passed_on) return call_instead(in_float32, cls, args, count, keys, half);
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
  const Ref result(PyObject_VectorcallMethod(names.forward, call, size_t(count + 1), keys));
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

PyObject* bound_apply(PyObject* cls, PyObject* const* args, Py_ssize_t count, PyObject* keys) {
  bool passed_on = false;
  Ref result = apply_or_raise(cls, args, count, keys, passed_on);
  if (!result && !passed_on) result = try_otherwise(cls, args, count, keys);
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

PyObject* bound_keep(PyObject* self, PyObject* tensor) {
  if (!as_tensor(tensor)) {
    PyErr_SetString(PyExc_TypeError, "Op.keep_tensor: takes a tensor");
    return nullptr;
  }
  if (!keep(self, tensor)) return nullptr;
  Py_RETURN_NONE;
}

}  // namespace

PyMethodDef node_methods[] = {
    {"apply", entry(bound_apply), METH_CLASS | METH_FASTCALL | METH_KEYWORDS,
     "Run the operation on tensors (None: not given) and enter it in the graph."},
    {"record", entry(bound_record), METH_FASTCALL,
     "record(inputs, result): enter the graph, with edges to the inputs' makers; output tensors that point "
     "here."},
    {"keep_tensor", bound_keep, METH_O,
     "keep_tensor(tensor): it may not be changed in place before backward."},
    {"attach", entry(bound_attach), METH_CLASS | METH_FASTCALL,
     "attach(input, array, options): the tensor of ``array``, which is what ``of(input, **options)`` gives."},
    {nullptr, nullptr, 0, nullptr}};

Ref call_instead(PyObject* function, PyObject* first, PyObject* const* args, Py_ssize_t count, PyObject* keys,
                 PyObject* why) {
  const Ref inputs(PyTuple_New(count)), options(PyDict_New());
  if (!inputs || !options) return {};
  for (Py_ssize_t i = 0; i < count; ++i) {
    Py_INCREF(args[i]);
    PyTuple_SET_ITEM(inputs.get(), i, args[i]);
  }
  for (Py_ssize_t i = 0; keys && i < PyTuple_GET_SIZE(keys); ++i)
    if (PyDict_SetItem(options.get(), PyTuple_GET_ITEM(keys, i), args[count + i]) != 0) return {};
  return Ref(PyObject_CallFunctionObjArgs(function, first, inputs.get(), options.get(), why, nullptr));
}

Ref wrap(PyObject* array) {
  if (!tensor_type) {
    PyErr_SetString(PyExc_RuntimeError, "wrap: fastdl.Tensor is not there yet");
    return {};
  }
  const StandIn* other = stand_in(array);
  PyTypeObject* type = other ? other->tensor : tensor_type;
  Ref tensor(TensorFields.tp_new(type, nullptr, nullptr));
  if (tensor) set(reinterpret_cast<Tensor*>(tensor.get())->data, array);
  return tensor;
}

Ref new_node(PyObject* cls) {
  Ref op(PyObject_CallNoArgs(cls));
  if (!op || PyObject_TypeCheck(op.get(), &NodeFields)) return op;
  PyErr_SetString(PyExc_TypeError, "Op: the class made something that is no Op");
  return {};
}

Ref next_order() {
  return Ref(PyLong_FromLongLong(--last_order));
}

Ref edge_of(Tensor* t) {
  if (absent(t->node)) return pair(Ref::to(reinterpret_cast<PyObject*>(t)), Ref::to(minus_one));
  if (t->index) return pair(Ref::to(t->node), Ref::to(t->index));
  PyErr_SetString(PyExc_AttributeError, "_index");
  return {};
}

Ref counter_of(Tensor* t) {
  if (absent(t->counter)) {
    Ref cell(PyList_New(1));
    if (!cell) return {};
    PyList_SET_ITEM(cell.get(), 0, PyLong_FromLong(0));
    set(t->counter, std::move(cell));
  }
  if (PyList_CheckExact(t->counter) && PyList_GET_SIZE(t->counter) == 1) return Ref::to(t->counter);
  PyErr_SetString(PyExc_TypeError, "_counter: must be a list of one number or None");
  return {};
}

PyObject* bound_wrap(PyObject*, PyObject* array) {
  return wrap(array).release();
}
PyObject* bound_next_order(PyObject*, PyObject*) {
  return next_order().release();
}
namespace {
bool has_tensor_fields(PyObject* type, const char* op) {
  if (PyType_Check(type) && PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(type), &TensorFields))
    return true;
  PyErr_Format(PyExc_TypeError, "%s: not a class with a tensor's fields", op);
  return false;
}
}  // namespace

PyObject* bound_set_tensor(PyObject*, PyObject* type) {
  if (!has_tensor_fields(type, "set_tensor")) return nullptr;
  Py_INCREF(type);
  tensor_type = reinterpret_cast<PyTypeObject*>(type);
  Py_RETURN_NONE;
}
PyObject* bound_add_stand_in(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 2 || !PyType_Check(args[0]) || stand_in_count == std::size(stand_ins)) {
    PyErr_SetString(PyExc_TypeError, "add_stand_in: takes two classes, twice");
    return nullptr;
  }
  if (!has_tensor_fields(args[1], "add_stand_in")) return nullptr;
  Py_INCREF(args[0]);
  Py_INCREF(args[1]);
  stand_ins[stand_in_count++] = {reinterpret_cast<PyTypeObject*>(args[0]),
                                 reinterpret_cast<PyTypeObject*>(args[1])};
  Py_RETURN_NONE;
}
PyObject* bound_set_recorded(PyObject*, PyObject* function) {
  set(recorded, function == Py_None ? nullptr : function);
  Py_RETURN_NONE;
}
PyObject* bound_set_otherwise(PyObject*, PyObject* function) {
  set(otherwise, function);
  Py_RETURN_NONE;
}

PyObject* bound_set_in_float32(PyObject*, PyObject* function) {
  set(in_float32, function);
  Py_RETURN_NONE;
}

bool load_op() {
  minus_one = PyLong_FromLong(-1);
  never = Py_BuildValue("([i]i)", 0, 0);
  for (Py_ssize_t n = 0; n < 8; ++n) {
    nothing_needed[n] = PyTuple_New(n);
    for (Py_ssize_t i = 0; i < n && nothing_needed[n]; ++i)
      PyTuple_SET_ITEM(nothing_needed[n], i, PyBool_FromLong(0));
  }
  return !PyErr_Occurred();
}

}  // namespace fastdl::graph
