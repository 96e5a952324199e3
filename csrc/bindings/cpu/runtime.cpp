// Threads and memory, as Python sees them, and NumPy's loops on these threads.
#include <algorithm>
#include <atomic>

#include "bindings/cpu/array.h"
#include "cpu/convert.h"
#include "cpu/layout.h"
#include "cpu/runtime/threads.h"

namespace fastdl::binding {
namespace {

py::array bind_zeros(const Shape& shape, const py::dtype& dtype) {
  py::array array = empty_array(dtype, shape);
  const int64_t bytes = array.nbytes();
  char* to = static_cast<char*>(array.mutable_data());
  KernelScope scope(bytes / 4);
  fill(to, bytes, 0);
  return array;
}

bool is_plain(const py::array& array) {
  constexpr int wanted =
      py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  return (py::detail::array_proxy(array.ptr())->flags & wanted) == wanted;
}

// Long rows of aligned elements, wherever the rows lie?
bool has_rows(const py::array& array) {
  const int last = int(array.ndim()) - 1;
  return (py::detail::array_proxy(array.ptr())->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0 &&
         array.size() > 0 && last > 0 && array.strides(last) == array.itemsize() && array.shape(last) >= 64;
}

// NumPy writes the first element; it knows all dtypes and how a number becomes one.
void bind_fill(const py::array& out, const py::object& value) {
  const int64_t bytes = out.nbytes(), item = out.itemsize();
  if (bytes < 4096 || !is_plain(out) || !(item == 1 || item == 2 || item == 4 || item == 8)) {
    out.attr("fill")(value);
    return;
  }
  if (!out.writeable()) throw py::value_error("fill: out is read-only");
  char* to = static_cast<char*>(const_cast<void*>(out.data()));
  py::array(out.dtype(), Shape{1}, to, out).attr("fill")(value);  // a view
  uint64_t pattern;
  for (int64_t i = 0; i < 8; i += item) std::memcpy(reinterpret_cast<char*>(&pattern) + i, to, size_t(item));
  KernelScope scope(bytes / 4);
  fill(to, bytes, pattern);
}

std::optional<Number> number_of(const py::dtype& dtype) {
  if (dtype.byteorder() != '=' && dtype.byteorder() != '|') return std::nullopt;
  const auto item = dtype.itemsize();
  const auto of = [item](auto size, Number number) {
    return item == size ? std::optional(number) : std::nullopt;
  };
  switch (dtype.kind()) {
    case 'b':
      return Number::boolean;
    case 'u':
      return of(1, Number::uint8);
    case 'i':
      return item == 4 ? Number::int32 : of(8, Number::int64);
    case 'f':
      return item == 2 ? Number::float16 : item == 4 ? Number::float32 : of(8, Number::float64);
    case 'V':  // the only dtype of this kind that a tensor can have
      return of(2, Number::bfloat16);
    default:
      return std::nullopt;
  }
}

py::object bind_convert(const py::array& array, const py::dtype& dtype) {
  const auto from = number_of(array.dtype()), to = number_of(dtype);
  if (!from || !to) return py::none();
  py::array result = empty_array(dtype, shape_of(array));
  char* y = static_cast<char*>(result.mutable_data());
  const py::array plain = is_plain(array) || has_rows(array) ? array : contiguous_copy(array);
  const char* x = static_cast<const char*>(plain.data());
  const int64_t n = plain.size();
  std::atomic<bool> known = true;
  if (is_plain(plain)) {
    KernelScope scope(n);
    known = convert(y, *to, x, *from, n);
  } else {  // the rows where they are
    const int last = int(plain.ndim()) - 1;
    const int64_t row = plain.shape(last), item = result.itemsize();
    const Shape shape = shape_of(plain), strides(plain.strides(), plain.strides() + plain.ndim());
    KernelScope scope(n);
    parallel_for(n / row, std::max<int64_t>(1, 16384 / row), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end && known; ++r) {
        int64_t rest = r, offset = 0;
        for (int axis = last - 1; axis >= 0; --axis) {
          offset += rest % shape[size_t(axis)] * strides[size_t(axis)];
          rest /= shape[size_t(axis)];
        }
        if (!convert(y + r * row * item, *to, x + offset, *from, row)) known = false;
      }
    });
  }
  return known ? py::object(result) : py::none();
}

// out[...] = array, or false where it takes more than a copy: other dtypes or shapes, memory in common.
bool bind_copy_into(py::array& out, const py::array& array) {
  if (!is_plain(out) || !out.writeable() || !array.dtype().equal(out.dtype()) || array.dtype().kind() == 'O')
    return false;
  const Shape shape = shape_of(out), strides(array.strides(), array.strides() + array.ndim());
  if (shape != shape_of(array)) return false;
  const int64_t n = out.size(), item = out.itemsize();
  if (n == 0) return true;
  char* to = static_cast<char*>(out.mutable_data());
  const char* from = static_cast<const char*>(array.data());
  const char *low = from, *high = from + item;
  for (size_t i = 0; i < shape.size(); ++i) (strides[i] < 0 ? low : high) += (shape[i] - 1) * strides[i];
  if (low < to + n * item && to < high) return false;
  KernelScope scope(n);
  copy_strided(to, from, shape.data(), strides.data(), int(shape.size()), item);
  return true;
}

// The head of NumPy's universal functions (PyUFuncObject), as its C interface publishes it.
struct UniversalFunction {
  PyObject_HEAD int inputs, outputs, operands, identity;
  void (**functions)(char** data, const Py_intptr_t* extents, const Py_intptr_t* strides, void* context);
  void* const* contexts;
  int types_known, reserved;
  const char *name, *types;
};

// One axis of an array beside the transformed one, with its strides (bytes) in the result and in the source.
struct Beside {
  int64_t extent, to, from;
};

// A transform of NumPy's (a loop over rows: of one axis of x and a factor, to one axis of the result) in
// pieces on all threads. Pieces depend on sizes alone: NumPy transforms some rows side by side and what is
// left over one by one, so other pieces could give other bits.
py::array bind_transform(const py::object& function, const py::array& x, int64_t axis, int64_t count,
                         double factor) {
  constexpr const char* op = "transform";
  constexpr int64_t kSide = 8, kPiece = 4096;  // rows that NumPy takes side by side at most; elements: 10 us
  static const py::handle ufunc = py::object(py::module_::import("numpy").attr("ufunc")).release();
  require(py::isinstance(function, ufunc), op, "function must be a universal function of NumPy's");
  const auto& f = *reinterpret_cast<const UniversalFunction*>(function.ptr());
  const auto signature = py::str(function.attr("signature")).cast<std::string>();
  require(f.inputs == 2 && f.outputs == 1 && (signature == "(n),()->(m)" || signature == "(m),()->(n)"), op,
          "function must be one of NumPy's transforms");
  require(x.dtype().byteorder() == '=', op, "x must be in the machine's byte order");
  int which = 0;
  while (which < f.types_known && f.types[3 * which] != x.dtype().num()) ++which;
  require(which < f.types_known && x.itemsize() <= 16, op, "x must be of a dtype that function knows");
  const int last = int(x.ndim()) - 1;
  require(axis >= 0 && axis <= last && count > 0 && x.shape(axis) > 0, op,
          "axis must be one of x, not empty, and count positive");
  const bool aligned =
      (py::detail::array_proxy(x.ptr())->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
  const py::array in = aligned ? x : contiguous_copy(x);
  Shape shape = shape_of(in);
  shape[size_t(axis)] = count;
  py::array y = empty_array(py::dtype(f.types[3 * which + 2]), shape);
  if (y.size() == 0) return y;

  // The rows lie along the other axes; those that follow each other in both arrays are one.
  std::vector<Beside> axes;  // from the innermost to the outermost
  for (int i = last; i >= 0; --i) {
    if (i == axis || shape[size_t(i)] == 1) continue;
    const Beside own{shape[size_t(i)], y.strides(i), in.strides(i)};
    Beside* inner = axes.empty() ? nullptr : &axes.back();
    if (inner && own.to == inner->to * inner->extent && own.from == inner->from * inner->extent)
      inner->extent *= own.extent;
    else
      axes.push_back(own);
  }
  if (axes.empty()) axes.push_back({1, 0, 0});
  // Rows are side by side along the innermost axis that has enough, else along the longest.
  auto run = std::find_if(axes.begin(), axes.end(), [](const Beside& a) { return a.extent >= kSide; });
  if (run == axes.end())
    run = std::max_element(axes.begin(), axes.end(),
                           [](const Beside& a, const Beside& b) { return a.extent < b.extent; });
  const Beside rows = *run;
  axes.erase(run);
  const int64_t length = std::max(count, int64_t(in.shape(axis)));
  const int64_t side = rows.extent < kSide / 2 ? 1 : kSide;
  const int64_t pieces =
      std::max<int64_t>(1, rows.extent / (std::max<int64_t>(1, kPiece / length / side) * side));
  int64_t total = pieces;
  for (const Beside& a : axes) total *= a.extent;

  char* const to = static_cast<char*>(y.mutable_data());
  char* const from = static_cast<char*>(const_cast<void*>(in.data()));
  const Py_intptr_t from_step = in.strides(axis), to_step = y.strides(axis);
  const int64_t item = y.itemsize();
  const float single = float(factor);
  const bool is_single = x.dtype().num() == 11 || x.dtype().num() == 14;  // NumPy's numbers
  char* const scale =
      is_single ? reinterpret_cast<char*>(const_cast<float*>(&single)) : reinterpret_cast<char*>(&factor);
  // A loop that lacks memory raises an exception in its thread, which is lost in a worker: then the last
  // number of a piece stays as it was.
  std::atomic<bool> missing = false;
  const auto transform = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto cut = [&](int64_t k) {
        return k == pieces ? rows.extent : rows.extent * k / pieces / side * side;
      };
      const int64_t first = cut(i % pieces), past = cut(i % pieces + 1);
      char* data[3] = {from + first * rows.from, scale, to + first * rows.to};
      int64_t rest = i / pieces;
      for (const Beside& a : axes) {
        data[0] += rest % a.extent * a.from;
        data[2] += rest % a.extent * a.to;
        rest /= a.extent;
      }
      const Py_intptr_t extents[3] = {past - first, in.shape(axis), count};
      const Py_intptr_t strides[5] = {rows.from, 0, rows.to, from_step, to_step};
      char* const end_of_it = data[2] + (past - first - 1) * rows.to + (count - 1) * to_step;
      std::memset(end_of_it, 0xff, size_t(item));
      f.functions[which](data, extents, strides, f.contexts ? f.contexts[which] : nullptr);
      if (std::all_of(end_of_it, end_of_it + item, [](char c) { return c == char(0xff); })) missing = true;
    }
  };
  const int64_t elements = total * (rows.extent / pieces) * length;
  if (elements < 4 * kPiece) {
    transform(0, total);
  } else {
    KernelScope scope(elements);
    parallel_for(total, std::max<int64_t>(1, total * kPiece / elements), transform);
  }
  if (missing && !PyErr_Occurred()) transform(0, total);  // (or those are the bits of a NaN)
  if (PyErr_Occurred()) throw py::error_already_set();
  return y;
}

}  // namespace

void register_runtime(py::module_& m) {
  m.def("num_threads", &num_threads, "Threads that kernels may use.");
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("workers_started", &workers_started, "Worker threads that exist now.");

  m.def(
      "empty", [](const Shape& shape, const py::dtype& dtype) { return empty_array(dtype, shape); },
      py::arg("shape"), py::arg("dtype"), "An uninitialised C-order array in pooled memory.");
  m.def("zeros", &bind_zeros, py::arg("shape"), py::arg("dtype"),
        "A C-order array of zeros in pooled memory.");
  m.def("fill", &bind_fill, py::arg("out"), py::arg("value"), "Every element of an array set to a number.");
  m.def(
      "copy_into", &bind_copy_into, py::arg("out"), py::arg("array"),
      "out[...] = array for a C-order out of the same shape and dtype; False, and nothing done, for others.");
  m.def("contiguous", &contiguous_copy, py::arg("array"), "A C-order copy in pooled memory.");
  m.def("convert", &bind_convert, py::arg("array"), py::arg("dtype"),
        "A C-order copy in another dtype in pooled memory; None for a pair of dtypes that it does not know.");

  m.def("transform", &bind_transform, py::arg("function"), py::arg("x"), py::arg("axis"), py::arg("count"),
        py::arg("factor"), "A transform of NumPy's along an axis, on all threads.");

  m.def("memory_stats", [] {
    const memory::Stats stats = memory::stats();
    py::dict out;
    out["in_use"] = stats.in_use;
    out["in_use_peak"] = stats.in_use_peak;
    out["cached"] = stats.cached;
    out["cache_limit"] = stats.cache_limit;
    out["allocations"] = stats.allocations;
    out["reused"] = stats.reused;
    out["guard_errors"] = stats.guard_errors;
    return out;
  });
  m.def("reset_peak_memory_stats", &memory::reset_peak);
  m.def("set_cache_limit", &memory::set_cache_limit, py::arg("bytes"));
  m.def("empty_cache", &memory::empty_cache);
  m.def("set_memory_guard", &memory::set_guard, py::arg("on"));
}

}  // namespace fastdl::binding
