// The module: what Python sees of it.
#include "bindings/graph/plan.h"

namespace fastdl::graph {

Names names;

namespace {

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
    {"plain", entry(bound_plain), METH_FASTCALL,
     "plain(*tensors: object) -> bool\n\n"
     "Are these all tensors around NumPy's arrays, for which nothing is recorded?"},
    {"next_order", bound_next_order, METH_NOARGS,
     "next_order() -> int\n\nThe number of a new node: later ones compare lower."},
    {"set_tensor", bound_set_tensor, METH_O,
     "set_tensor(type: object) -> None\n\nThe class that wrap() makes."},
    {"set_size", bound_set_size, METH_O, "set_size(type: object) -> None\n\nThe class of tensors' shapes."},
    {"add_stand_in", entry(bound_add_stand_in), METH_FASTCALL,
     "add_stand_in(array: object, type: object) -> None\n\n"
     "The class that wrap() makes around what is of the class ``array``."},
    {"set_recorded", bound_set_recorded, METH_O,
     "set_recorded(function: object) -> None\n\nWhat is called with every node that enters the graph; None: "
     "nothing."},
    {"set_otherwise", bound_set_otherwise, METH_O,
     "set_otherwise(function: object) -> None\n\nWhat becomes of an operation whose forward refused its "
     "arrays."},
    {"set_explain", entry(bound_set_explain), METH_FASTCALL,
     "set_explain(function: object, refused: tuple) -> None\n\nWhat may raise a better error for one of "
     "these that a "
     "public function raised."},
    {"set_in_float32", bound_set_in_float32, METH_O,
     "set_in_float32(function: object) -> None\n\nHow operations that know floats only compute on half "
     "precision."},
    {nullptr, nullptr, 0, nullptr}};

bool load_names() {
  const struct {
    PyObject*& name;
    const char* text;
  } all[] = {{names.forward, "forward"},
             {names.saves, "saves"},
             {names.saves_output, "saves_output"},
             {names.takes_complex, "takes_complex"},
             {names.complex_form, "complex_form"},
             {names.floats_only, "floats_only"},
             {names.dtype, "dtype"},
             {names.shape, "shape"},
             {names.data, "_data"},
             {names.kind, "kind"}};
  for (const auto& each : all)
    if (!(each.name = PyUnicode_InternFromString(each.text))) return false;
  return true;
}

// The classes and what is known of them are the process's: a second interpreter must not share them.
int execute(PyObject* module) {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    PyErr_SetString(PyExc_ImportError, "fastdl: runs in the main interpreter only");
    return -1;
  }
  const bool loaded = load_names() && load_numpy() && load_op() && load_attach() && load_plans() &&
                      load_calls() && add_types(module);
  return loaded ? 0 : -1;
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
