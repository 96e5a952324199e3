// fastdl._cpuid: what this CPU, and its operating system, can run. Baseline code, imported before any kernel.
// Python's own C interface: two functions without arguments are not worth pybind11's hundred kilobytes in the
// wheel.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#include <cstring>
#endif

namespace {

#if defined(__x86_64__)
// __builtin_cpu_supports asks CPUID and XGETBV: it is true only if the OS saves the registers too.
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("avx");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
bool has_baseline() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt") &&
         __builtin_cpu_supports("ssse3");
}
std::string brand() {
  unsigned words[12], highest = __get_cpuid_max(0x80000000u, nullptr);
  if (highest < 0x80000004u) return "x86-64";
  for (unsigned i = 0; i < 3; ++i)
    __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]);
  char text[49];
  std::memcpy(text, words, 48);
  text[48] = 0;
  std::string name(text);
  while (!name.empty() && name.back() == ' ') name.pop_back();
  return name;
}
#else
bool has_avx2() {
  return false;
}
bool has_avx512() {
  return false;
}
bool has_baseline() {
  return true;
}
std::string brand() {
  return "arm64";
}
#endif

}  // namespace

namespace {

PyObject* levels(PyObject*, PyObject*) {
  PyObject* list = PyList_New(0);
  const struct {
    const char* name;
    bool usable;
  } all[] = {{"baseline", has_baseline()}, {"avx2", has_avx2()}, {"avx512", has_avx512()}};
  for (const auto& level : all) {
    if (!list || !level.usable) continue;
    PyObject* name = PyUnicode_FromString(level.name);
    if (!name || PyList_Append(list, name) != 0) Py_CLEAR(list);
    Py_XDECREF(name);
  }
  return list;
}

PyObject* brand_name(PyObject*, PyObject*) {
  return PyUnicode_FromString(brand().c_str());
}

PyMethodDef methods[] = {{"levels", levels, METH_NOARGS,
                          "levels() -> list\n\nLevels that CPU and operating system support, lowest first."},
                         {"brand", brand_name, METH_NOARGS, "brand() -> str\n\nThe CPU's own name."},
                         {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "_cpuid",
                      "Instruction-set levels of this machine.",
                      0,
                      methods,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__cpuid() {
  return PyModule_Create(&module);
}
