// The instruction-set level in use: which library's kernels the bindings call.
//
// open_level maps a level's library (csrc/levels/seam.py writes how the two call each other); use_level
// chooses one of those opened, for the whole process. Where an architecture has one level only, its kernels
// are in this module and there is nothing to open.
#include <map>
#include <string>

#include "bindings/cpu/array.h"

#ifndef FASTDL_ONLY_LEVEL
#include <dlfcn.h>

#include "levels/seam.h"

extern "C" [[gnu::visibility("hidden")]] const fastdl::Side fastdl_cpu;
#endif

namespace fastdl::binding {

#ifdef FASTDL_ONLY_LEVEL

void register_levels(py::module_& m) {
  m.attr("level") = FASTDL_ONLY_LEVEL;
}

#else
namespace {

std::map<std::string, const Side*>& opened() {
  static std::map<std::string, const Side*> levels;
  return levels;
}

// Libraries stay open: kernels may be running, and arrays may outlive any choice.
void open_level(const std::string& level, const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library)
    throw py::import_error("fastdl: the kernels of level " + level + " cannot be loaded: " + dlerror());
  const auto* side = static_cast<const Side*>(dlsym(library, "fastdl_level"));
  if (!side || side->names_hash != fastdl_cpu.names_hash)
    throw py::import_error("fastdl: " + path +
                           " belongs to another build than the extension module _cpu; install again");
  *side->calls = fastdl_cpu.offers;
  opened()[level] = side;
}

}  // namespace

void register_levels(py::module_& m) {
  m.attr("level") = py::none();
  m.attr("names_hash") = fastdl_cpu.names_hash;
  m.def("open_level", open_level, py::arg("level"), py::arg("path"),
        "Load the library with a level's kernels.");
  m.def(
      "use_level",
      [module = py::handle(m)](
          const std::string& level) {  // a handle: the function would keep its own module alive
        const auto found = opened().find(level);
        if (found == opened().end())
          throw py::value_error("use_level: level '" + level + "' has not been opened");
        *fastdl_cpu.calls = found->second->offers;
        module.attr("level") = level;
      },
      py::arg("level"), "From the next call on every thread runs this level's kernels.");
}

#endif

}  // namespace fastdl::binding
