// Views in one call: x.view(2, 3), x[1:3], x.transpose(0, 1).
//
// A ViewCall stands in front of a Python function. For a tensor of the CPU and plain arguments (integers,
// slices with integers) it works out extents, strides and start itself and attaches the view; for all else,
// errors included, it calls the function, which has the last word: nothing is refused here.
#include "bindings/graph/plan.h"

namespace fastdl::graph {
namespace {

struct Call {
  PyObject ob_base;
  vectorcallfunc vectorcall;
  Planner plan;
  PyObject *general, *ops[2], *dict, *weak_references;
};

PyObject* call(PyObject* self, PyObject* const* args, size_t flags, PyObject* names) {
  const Call* c = reinterpret_cast<Call*>(self);
  if (!c->general) {  // the collector was here
    PyErr_SetString(PyExc_RuntimeError, "ViewCall: called while it is taken apart");
    return nullptr;
  }
  const Py_ssize_t count = PyVectorcall_NARGS(flags);
  Tensor* input = count > 0 && !names ? as_tensor(args[0]) : nullptr;
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
  return PyObject_Vectorcall(c->general, args, flags, names);
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
  Py_VISIT(c->dict);
  return 0;
}
int clear(PyObject* self) {
  Call* c = reinterpret_cast<Call*>(self);
  Py_CLEAR(c->general);
  Py_CLEAR(c->ops[0]);
  Py_CLEAR(c->ops[1]);
  Py_CLEAR(c->dict);
  return 0;
}
void deallocate(PyObject* self) {
  PyObject_GC_UnTrack(self);
  PyObject_ClearWeakRefs(self);
  clear(self);
  PyObject_GC_Del(self);
}

PyObject* new_call(Planner plan, PyObject* general, PyObject* op, PyObject* second) {
  PyObject* self = ViewCall.tp_alloc(&ViewCall, 0);
  if (!self) return nullptr;
  Call* c = reinterpret_cast<Call*>(self);
  c->vectorcall = call;
  c->plan = plan;
  set(c->general, general);
  set(c->ops[0], op);
  set(c->ops[1], second);
  return self;
}

PyObject* make(PyTypeObject*, PyObject* args, PyObject*) {
  const char* kind;
  PyObject *general, *op, *second = nullptr;
  if (!PyArg_ParseTuple(args, "sOO|O:ViewCall", &kind, &general, &op, &second)) return nullptr;
  if (const Planner plan = planner_of(kind)) return new_call(plan, general, op, second ? second : op);
  PyErr_Format(PyExc_ValueError, "ViewCall: no kind %s", kind);
  return nullptr;
}

// The same call in front of another function.
PyObject* before(PyObject* self, PyObject* general) {
  const Call* c = reinterpret_cast<Call*>(self);
  return new_call(c->plan, general, c->ops[0], c->ops[1]);
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
    {"before", before, METH_O, "before(function): the same in front of another function."},
    {nullptr, nullptr, 0, nullptr}};
PyMemberDef members[] = {{"general", T_OBJECT_EX, offsetof(Call, general), READONLY, "the function"},
                         {nullptr, 0, 0, 0, nullptr}};
PyGetSetDef dict_field[] = {{"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, nullptr, nullptr},
                            {nullptr, nullptr, nullptr, nullptr, nullptr}};

}  // namespace

PyTypeObject ViewCall = [] {
  PyTypeObject type =
      type_of("fastdl._graph.ViewCall", sizeof(Call),
              "ViewCall(kind, function, op, second_op): the function, with its plain cases in one call.");
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
