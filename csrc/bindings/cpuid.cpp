// fastdl._cpuid: what this CPU, and its operating system, can run. Baseline code, imported before any kernel.
#include <pybind11/pybind11.h>

#include <string>
#include <vector>
#if defined(__x86_64__)
#include <cpuid.h>
#include <cstring>
#endif

namespace py = pybind11;

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

PYBIND11_MODULE(_cpuid, m, py::mod_gil_not_used()) {
  m.doc() = "Instruction-set levels of this machine.";
  m.def(
      "levels",
      [] {
        std::vector<const char*> names;
        if (has_baseline()) names.push_back("baseline");
        if (has_avx2()) names.push_back("avx2");
        if (has_avx512()) names.push_back("avx512");
        py::list out;
        for (const char* name : names) out.append(name);
        return out;
      },
      "Levels that CPU and operating system support, lowest first.");
  m.def("brand", &brand, "The CPU's own name.");
}
