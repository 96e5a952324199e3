// What stands in front of Python functions: public ones, and views in one call (x.view(2, 3), x[1:3]).
//
// A Call of a view works out extents, strides and start itself, for a tensor of the CPU and plain arguments
// (integers, slices with integers), and attaches the view; for all else, errors included, it calls the
// function, which has the last word: nothing is refused here. A Call of a method that changes its tensor does so
// at once where nothing is recorded. A public one passes everything on, a call with out= to another function, and
// has errors explained: without a frame of Python's around every call.
#include <algorithm>
#include <cstring>

#include "bindings/graph/plan.h"

namespace fastdl::graph {
namespace {

// explain(call, args, options, error) may raise a better error, or give a result after all (else None); which
// errors it sees.
PyObject *explain, *refused;
PyObject *out_name, *only_out;  // "out", ("out",)

struct Call {
  PyObject ob_base;
  vectorcallfunc vectorcall;
  Planner plan;   // null: no view
  bool in_place;  // ops[0] is the function, ops[1] None if that takes out=, or store(tensor, result)
  PyObject *general, *ops[2], *into, *dict, *weak_references;
};

// The error that is set, explained: a better one, or a result after all.
PyObject* explained(PyObject* self, PyObject* const* args, size_t flags, PyObject* names) {
  if (!explain || !PyErr_ExceptionMatches(refused)) return nullptr;
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  if (trace) PyException_SetTraceback(value, trace);
  Ref owned_type(type), error(value), owned_trace(trace);
  Ref answer = call_instead(explain, self, args, PyVectorcall_NARGS(flags), names, value);
  if (answer && answer.get() == Py_None) {
    PyErr_Restore(owned_type.release(), error.release(), owned_trace.release());
    return nullptr;
  }
  return answer.release();
}

// The change in place of a tensor that plainly may be written to, where nothing is recorded. Null without an
// error: it is not that plain.
PyObject* change(const Call* c, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  constexpr Py_ssize_t kMost = 12;
  const Py_ssize_t given = count + (names ? PyTuple_GET_SIZE(names) : 0);
  Tensor* input = count > 0 && given < kMost ? as_tensor(args[0]) : nullptr;
  const Array* array = input ? as_array(input->data) : nullptr;
  if (!array || !array->writable() || array->size() == 0) return nullptr;
  for (Py_ssize_t i = 0; recording() && i < given; ++i)
    if (const Tensor* each = as_tensor(args[i]); each && each->needs_grad()) return nullptr;
  const Ref function = Ref::to(c->ops[0]), store = Ref::to(c->ops[1]);
  if (store.get() != Py_None) {
    const Ref result(PyObject_Vectorcall(function.get(), args, size_t(count), names));
    PyObject* both[] = {args[0], result.get()};
    return result ? PyObject_Vectorcall(store.get(), both, 2, nullptr) : nullptr;
  }
  PyObject* all[kMost];
  std::copy(args, args + given, all);
  all[given] = args[0];
  const Ref keys(names ? PySequence_Concat(names, only_out) : Ref::to(only_out).release());
  if (!keys) return nullptr;
  const Ref result(PyObject_Vectorcall(function.get(), all, size_t(count), keys.get()));
  return result ? Ref::to(args[0]).release() : nullptr;
}

PyObject* call(PyObject* self, PyObject* const* args, size_t flags, PyObject* names) {
  const Call* c = reinterpret_cast<Call*>(self);
  if (!c->general) {  // the collector was here
    PyErr_SetString(PyExc_RuntimeError, "FunctionCall: called while it is taken apart");
    return nullptr;
  }
  const Py_ssize_t count = PyVectorcall_NARGS(flags);
  Tensor* input = c->plan && count > 0 && !names ? as_tensor(args[0]) : nullptr;
  const Array* array = input ? as_array(input->data) : nullptr;
  if (array && array->ndim <= kMaxAxes) {
    const Ref alive = Ref::to(input->data);
    Plan plan;
    plan.array = array;
    plan.data = array->data;
    if (c->plan(plan, {args + 1, count - 1})) {
      const Ref view = view_of(array, plan.ndim, plan.shape, plan.strides, plan.data, plan.writable);
      const Ref options(view ? PyDict_New() : nullptr);
      if (!options) return nullptr;
      for (int i = 0; i < 3 && plan.option[i]; ++i)
        if (PyDict_SetItem(options.get(), plan.names->object[i], plan.option[i].get()) != 0) return nullptr;
      return attach(c->ops[plan.op], input, view.get(), options.get()).release();
    }
    if (PyErr_Occurred()) return nullptr;
  }
  Ref function = Ref::to(c->general);
  const bool is_public = c->into;
  if (is_public && c->into != Py_None && names) {
    const int has_out = PySequence_Contains(names, out_name);
    if (has_out < 0) return nullptr;
    if (has_out) function = Ref::to(c->into);
  }
  PyObject* result = c->in_place ? change(c, args, count, names) : nullptr;
  if (!result && !PyErr_Occurred()) result = PyObject_Vectorcall(function.get(), args, flags, names);
  return result || !is_public ? result : explained(self, args, flags, names);
}

PyObject* get(PyObject* self, PyObject* object, PyObject*) {
  if (!object || object == Py_None) return Ref::to(self).release();
  return PyMethod_New(self, object);
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  const Call* c = reinterpret_cast<Call*>(self);
  Py_VISIT(c->general);
  Py_VISIT(c->ops[0]);
  Py_VISIT(c->ops[1]);
  Py_VISIT(c->into);
  Py_VISIT(c->dict);
  return 0;
}
int clear(PyObject* self) {
  Call* c = reinterpret_cast<Call*>(self);
  Py_CLEAR(c->general);
  Py_CLEAR(c->ops[0]);
  Py_CLEAR(c->ops[1]);
  Py_CLEAR(c->into);
  Py_CLEAR(c->dict);
  return 0;
}
void deallocate(PyObject* self) {
  PyObject_GC_UnTrack(self);
  PyObject_ClearWeakRefs(self);
  clear(self);
  PyObject_GC_Del(self);
}

PyObject* new_call(Planner plan, bool in_place, PyObject* general, PyObject* op, PyObject* second,
                   PyObject* into) {
  PyObject* self = FunctionCall.tp_alloc(&FunctionCall, 0);
  if (!self) return nullptr;
  Call* c = reinterpret_cast<Call*>(self);
  c->vectorcall = call;
  c->plan = plan;
  c->in_place = in_place;
  set(c->general, general);
  set(c->ops[0], op);
  set(c->ops[1], second);
  set(c->into, into);
  return self;
}

PyObject* make(PyTypeObject*, PyObject* args, PyObject*) {
  const char* kind = nullptr;
  PyObject *general, *op = nullptr, *second = nullptr;
  if (!PyArg_ParseTuple(args, "O|sOO:FunctionCall", &general, &kind, &op, &second)) return nullptr;
  const Planner plan = kind ? planner_of(kind) : nullptr;
  const bool in_place = kind && std::strcmp(kind, "in_place") == 0;
  if (!kind || ((plan || in_place) && op))
    return new_call(plan, in_place, general, op, second ? second : op, nullptr);
  PyErr_Format(PyExc_ValueError, "FunctionCall: no kind %s, or nothing that it is made of", kind);
  return nullptr;
}

// The same call as a public one.
PyObject* published(PyObject* self, PyObject* into) {
  const Call* c = reinterpret_cast<Call*>(self);
  return new_call(c->plan, c->in_place, c->general, c->ops[0], c->ops[1], into);
}

// As a function: pickled by its name, copied as itself.
PyObject* reduce(PyObject* self, PyObject*) {
  return PyObject_GetAttrString(self, "__qualname__");
}
PyObject* represent(PyObject* self) {
  return PyObject_Repr(reinterpret_cast<Call*>(self)->general);  // of null: "<NULL>"
}

PyMethodDef methods[] = {
    {"__reduce__", reduce, METH_NOARGS, "Its name, as of a function."},
    {"published", published, METH_O,
     "published(into): the same with errors explained, calls with out= passed to into (None: they are not)."},
    {nullptr, nullptr, 0, nullptr}};
PyMemberDef members[] = {{"general", T_OBJECT_EX, offsetof(Call, general), READONLY, "the function"},
                         {nullptr, 0, 0, 0, nullptr}};
PyGetSetDef dict_field[] = {{"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, nullptr, nullptr},
                            {nullptr, nullptr, nullptr, nullptr, nullptr}};

}  // namespace

PyObject* bound_set_explain(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 2 || !PyTuple_Check(args[1])) {
    PyErr_SetString(PyExc_TypeError, "set_explain: takes a function and a tuple of exceptions");
    return nullptr;
  }
  set(explain, args[0]);
  set(refused, args[1]);
  Py_RETURN_NONE;
}

bool load_calls() {
  out_name = PyUnicode_InternFromString("out");
  only_out = out_name ? PyTuple_Pack(1, out_name) : nullptr;
  return only_out != nullptr;
}

PyTypeObject FunctionCall = [] {
  PyTypeObject type = type_of("fastdl._graph.FunctionCall", sizeof(Call),
                              "FunctionCall(function, kind, op, second_op): the function, with plain cases "
                              "of views and of changes in "
                              "place in one call.");
  type.tp_flags |= Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR;
  type.tp_dealloc = deallocate;
  type.tp_vectorcall_offset = offsetof(Call, vectorcall);
  type.tp_call = PyVectorcall_Call;
  type.tp_traverse = traverse;
  type.tp_clear = clear;
  type.tp_getset = dict_field;
  type.tp_methods = methods;
  type.tp_members = members;
  type.tp_descr_get = get;
  type.tp_dictoffset = offsetof(Call, dict);
  type.tp_weaklistoffset = offsetof(Call, weak_references);
  type.tp_repr = represent;
  type.tp_new = make;
  return type;
}();

}  // namespace fastdl::graph
