#include "bindings/graph/fields.h"

// NumPy's C interface without its headers, as pybind11 uses it: a table of functions behind a capsule, whose
// places are part of the ABI.
namespace fastdl::graph {
namespace {

constexpr int kWriteable = 0x0400, kAligned = 0x0100;

PyTypeObject* array_type;
PyObject* (*new_from_descr)(PyTypeObject*, PyObject*, int, const Py_ssize_t*, const Py_ssize_t*, void*, int,
                            PyObject*);
int (*set_base_object)(PyObject*, PyObject*);
bool numpy2;

// The first fields of a dtype, in NumPy 1 and 2.
struct Descr1 {
  PyObject ob_base;
  PyObject* typeobj;
  char kind, type, byteorder, flags;
  int type_num, elsize;
};
struct Descr2 {
  PyObject ob_base;
  PyObject* typeobj;
  char kind, type, byteorder, former_flags;
  int type_num;
  uint64_t flags;
  Py_ssize_t elsize;
};

}  // namespace

bool load_numpy() {
  Ref numpy(PyImport_ImportModule("numpy._core._multiarray_umath"));
  if (!numpy) {  // NumPy 1
    PyErr_Clear();
    numpy = Ref(PyImport_ImportModule("numpy.core._multiarray_umath"));
  }
  if (!numpy) return false;
  const Ref capsule(PyObject_GetAttrString(numpy.get(), "_ARRAY_API"));
  if (!capsule) return false;
  void** api = static_cast<void**>(PyCapsule_GetPointer(capsule.get(), nullptr));
  if (!api) return false;
  array_type = static_cast<PyTypeObject*>(api[2]);
  new_from_descr = reinterpret_cast<decltype(new_from_descr)>(api[94]);
  set_base_object = reinterpret_cast<decltype(set_base_object)>(api[282]);
  numpy2 = reinterpret_cast<unsigned (*)()>(api[211])() >= 0x12;  // the interface's version
  return true;
}

const Array* as_array(PyObject* object) {
  return object && Py_TYPE(object) == array_type ? reinterpret_cast<const Array*>(object) : nullptr;
}

Py_ssize_t Array::item() const {
  return numpy2 ? reinterpret_cast<const Descr2*>(dtype)->elsize
                : reinterpret_cast<const Descr1*>(dtype)->elsize;
}

char kind_of(PyObject* array) {
  if (const Array* a = as_array(array)) return reinterpret_cast<const Descr1*>(a->dtype)->kind;
  const Ref dtype(PyObject_GetAttr(array, names.dtype));
  if (!dtype) return 0;
  const Ref kind(PyObject_GetAttr(dtype.get(), names.kind));
  if (!kind) return 0;
  if (PyUnicode_Check(kind.get()) && PyUnicode_GET_LENGTH(kind.get()) > 0)
    return char(PyUnicode_READ_CHAR(kind.get(), 0));
  PyErr_SetString(PyExc_TypeError, "a dtype's kind must be a letter");
  return 0;
}

bool is_differentiable(char kind) {
  return kind == 'f' || kind == 'V' || kind == 'c';  // fastdl.dtypes.DIFFERENTIABLE
}

bool is_complex(PyObject* array) {
  if (const Array* a = as_array(array)) return reinterpret_cast<const Descr1*>(a->dtype)->kind == 'c';
  if (array == Py_None) return false;
  const char kind = kind_of(array);
  if (!kind) PyErr_Clear();  // no array: forward will say so
  return kind == 'c';
}

PyObject* half_of(PyObject* array) {
  const Array* a = as_array(array);
  if (!a) return nullptr;
  const char kind = reinterpret_cast<const Descr1*>(a->dtype)->kind;
  return kind == 'V' || (kind == 'f' && a->item() == 2) ? a->dtype : nullptr;
}

Ref view_of(const Array* array, int ndim, const Py_ssize_t* shape, const Py_ssize_t* strides, char* data,
            bool writable) {
  Py_INCREF(array->dtype);
  Ref view(new_from_descr(array_type, array->dtype, ndim, shape, strides, data,
                          array->flags & (kAligned | (writable ? kWriteable : 0)), nullptr));
  PyObject* base = reinterpret_cast<PyObject*>(const_cast<Array*>(array));
  Py_INCREF(base);
  if (!view) {
    Py_DECREF(base);
    return view;
  }
  if (set_base_object(view.get(), base) != 0) return {};
  return view;
}

}  // namespace fastdl::graph
