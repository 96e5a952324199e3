#include "bindings/graph/fields.h"

namespace fastdl::graph {
namespace {

PyObject *zero, *one;     // kept for ever, as None is
PyTypeObject* size_type;  // fastdl.Size
thread_local bool enabled = true;

template <class T>
int traverse(PyObject* self, visitproc visit, void* arg) {
  PyObject** fields = reinterpret_cast<PyObject**>(self) + sizeof(PyObject) / sizeof(PyObject*);
  constexpr size_t count = (sizeof(T) - sizeof(PyObject)) / sizeof(PyObject*);
  for (size_t i = 0; i < count; ++i) Py_VISIT(fields[i]);
  return 0;
}
template <class T>
int clear(PyObject* self) {
  PyObject** fields = reinterpret_cast<PyObject**>(self) + sizeof(PyObject) / sizeof(PyObject*);
  constexpr size_t count = (sizeof(T) - sizeof(PyObject)) / sizeof(PyObject*);
  for (size_t i = 0; i < count; ++i) Py_CLEAR(fields[i]);
  return 0;
}
template <class T>
void deallocate(PyObject* self) {
  PyObject_GC_UnTrack(self);
  clear<T>(self);
  Py_TYPE(self)->tp_free(self);
}

// An instance of a class of Python's on `fields`: their ends take Python's way, which does not recurse
// however long the chain of nodes is.
PyObject* allocate(PyTypeObject* type, const PyTypeObject& fields) {
  if (type != &fields) return type->tp_alloc(type, 0);
  PyErr_Format(PyExc_TypeError, "%s: has no instances of its own, only those of derived classes",
               type->tp_name);
  return nullptr;
}

PyObject* new_tensor(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* self = allocate(type, TensorFields);
  if (!self) return nullptr;
  auto* t = reinterpret_cast<Tensor*>(self);
  for (PyObject** field :
       {&t->node, &t->counter, &t->base, &t->path, &t->views, &t->hooks, &t->post_hooks, &t->grad}) {
    Py_INCREF(Py_None);
    *field = Py_None;
  }
  Py_INCREF(Py_False);
  t->requires_grad = Py_False;
  Py_INCREF(zero);
  t->index = zero;
  return self;
}

PyObject* new_node(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* self = allocate(type, NodeFields);
  if (!self) return nullptr;
  auto* node = reinterpret_cast<Node*>(self);
  for (PyObject** field : {&node->needs, &node->order, &node->edges, &node->versions, &node->shapes,
                           &node->hooks, &node->shape, &node->options}) {
    Py_INCREF(Py_None);
    *field = Py_None;
  }
  Py_INCREF(one);
  node->outputs = one;
  return self;
}

#define FIELD(type, name, text) {"_" #name, T_OBJECT_EX, offsetof(type, name), 0, text}
PyMemberDef tensor_fields[] = {
    FIELD(Tensor, data, "the array"),
    FIELD(Tensor, requires_grad, "a bool"),
    FIELD(Tensor, node, "the Op that made this tensor, None for a leaf"),
    FIELD(Tensor, index, "which of the node's outputs"),
    FIELD(Tensor, counter, "a list: counts in-place changes; None: nobody asked yet"),
    FIELD(Tensor, base, "of a view: the tensor it looks at, itself no view"),
    FIELD(Tensor, path, "of a view: how to make it from the base"),
    FIELD(Tensor, views, "of a base: weak references to its views"),
    FIELD(Tensor, hooks, "a list, or None"),
    FIELD(Tensor, post_hooks, "a list, or None"),
    FIELD(Tensor, grad, "a tensor, or None"),
    {nullptr, 0, 0, 0, nullptr}};
#undef FIELD
#define FIELD(name, text) {#name, T_OBJECT_EX, offsetof(Node, name), 0, text}
PyMemberDef node_fields[] = {FIELD(needs, "which inputs need a gradient"),
                             FIELD(order, "later nodes compare lower"),
                             FIELD(edges, "where the gradient of each input goes"),
                             FIELD(versions, "of what backward needs, None for nothing"),
                             FIELD(shapes, "of several outputs: (shape, dtype)"),
                             FIELD(hooks, "a list, or None"),
                             FIELD(shape, "of a view: its input's; others keep here what they like"),
                             FIELD(options, "of a view: what else it was made from"),
                             FIELD(outputs, "their number"),
                             {nullptr, 0, 0, 0, nullptr}};
#undef FIELD

// Notes a change in place.
PyObject* bump_version(PyObject* self, PyObject*) {
  const Ref cell = counter_of(reinterpret_cast<Tensor*>(self));
  const Ref next(cell ? PyNumber_Add(PyList_GET_ITEM(cell.get(), 0), one) : nullptr);
  if (!next || PyList_SetItem(cell.get(), 0, Ref::to(next.get()).release()) != 0) return nullptr;
  Py_RETURN_NONE;
}
PyMethodDef tensor_methods[] = {
    {"_bump_version", bump_version, METH_NOARGS,
     "Note a change of the data in place: backward through operations that kept it becomes an error."},
    {nullptr, nullptr, 0, nullptr}};

// The extents, a tuple of a class of its own.
PyObject* get_shape(PyObject* self, void*) {
  const Ref data = Ref::to(reinterpret_cast<Tensor*>(self)->data);
  if (!data || !size_type) {
    PyErr_SetString(PyExc_AttributeError, "_data");
    return nullptr;
  }
  const Array* array = as_array(data.get());
  if (!array) {
    const Ref shape(PyObject_GetAttr(data.get(), names.shape));
    return shape ? PyObject_CallOneArg(reinterpret_cast<PyObject*>(size_type), shape.get()) : nullptr;
  }
  Ref shape(size_type->tp_alloc(size_type, array->ndim));
  for (int axis = 0; shape && axis < array->ndim; ++axis) {
    PyObject* extent = PyLong_FromSsize_t(array->shape[axis]);
    if (!extent) return nullptr;
    PyTuple_SET_ITEM(shape.get(), axis, extent);
  }
  return shape.release();
}
PyGetSetDef tensor_properties[] = {{"shape", get_shape, nullptr, "The extents of all axes.", nullptr},
                                   {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyObject* get_enabled(PyObject*, void*) {
  return PyBool_FromLong(enabled);
}
int set_enabled(PyObject*, PyObject* value, void*) {
  if (!value) {
    PyErr_SetString(PyExc_AttributeError, "enabled");
    return -1;
  }
  const int truth = PyObject_IsTrue(value);
  if (truth < 0) return -1;
  enabled = truth;
  return 0;
}
PyGetSetDef mode_fields[] = {{"enabled", get_enabled, set_enabled, "Does this thread record?", nullptr},
                             {nullptr, nullptr, nullptr, nullptr, nullptr}};

}  // namespace

PyTypeObject type_of(const char* name, size_t size, const char* text) {
  PyTypeObject type{};
  Py_SET_REFCNT(&type, 1);
  type.tp_name = name;
  type.tp_basicsize = Py_ssize_t(size);
  type.tp_doc = text;
  type.tp_flags = Py_TPFLAGS_DEFAULT;
  return type;
}

PyTypeObject TensorFields = [] {
  PyTypeObject type = type_of("fastdl._graph.TensorFields", sizeof(Tensor), "The fields of every tensor.");
  type.tp_flags |= Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC;
  type.tp_dealloc = deallocate<Tensor>;
  type.tp_traverse = traverse<Tensor>;
  type.tp_clear = clear<Tensor>;
  type.tp_members = tensor_fields;
  type.tp_methods = tensor_methods;
  type.tp_getset = tensor_properties;
  type.tp_new = new_tensor;
  return type;
}();
PyTypeObject NodeFields = [] {
  PyTypeObject type =
      type_of("fastdl._graph.NodeFields", sizeof(Node), "The fields of every node of the graph.");
  type.tp_flags |= Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC;
  type.tp_dealloc = deallocate<Node>;
  type.tp_traverse = traverse<Node>;
  type.tp_clear = clear<Node>;
  type.tp_methods = node_methods;
  type.tp_members = node_fields;
  type.tp_new = new_node;
  return type;
}();
PyTypeObject GradMode = [] {
  PyTypeObject type =
      type_of("fastdl._graph.GradMode", sizeof(PyObject), "Whether operations record a graph, per thread.");
  type.tp_flags |= Py_TPFLAGS_BASETYPE;
  type.tp_getset = mode_fields;
  return type;
}();

PyObject* bound_set_size(PyObject*, PyObject* type) {
  if (!PyType_Check(type) ||
      !PyType_FastSubclass(reinterpret_cast<PyTypeObject*>(type), Py_TPFLAGS_TUPLE_SUBCLASS)) {
    PyErr_SetString(PyExc_TypeError, "set_size: takes a class of tuples");
    return nullptr;
  }
  Py_INCREF(type);
  size_type = reinterpret_cast<PyTypeObject*>(type);
  Py_RETURN_NONE;
}

bool recording() {
  return enabled;
}

bool add_types(PyObject* module) {
  zero = PyLong_FromLong(0);
  one = PyLong_FromLong(1);
  if (!zero || !one) return false;
  for (PyTypeObject* type : {&TensorFields, &NodeFields, &GradMode, &FunctionCall})
    if (PyModule_AddType(module, type) != 0) return false;
  return true;
}

}  // namespace fastdl::graph
