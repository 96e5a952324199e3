// Discrete Fourier transforms: by the kernel, and by NumPy's loops on fastdl's threads.
#include "cpu/fourier.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <complex>
#include <map>
#include <memory>

#include "bindings/cpu/array.h"
#include "cpu/runtime/threads.h"

namespace fastdl::binding {
namespace {

// The head of NumPy's universal functions (PyUFuncObject), as its C interface publishes it.
struct UniversalFunction {
  PyObject_HEAD int inputs, outputs, operands, identity;
  void (**functions)(char** data, const Py_intptr_t* extents, const Py_intptr_t* strides, void* context);
  void* const* contexts;
  int types_known, reserved;
  const char *name, *types;
};

// The axes of an array beside the transformed one, from the innermost to the outermost; those that follow each
// other in both arrays are one. `rows`: the one along which rows are side by side, the innermost that has
// enough of them, else the longest.
struct Walk {
  static constexpr int64_t kEnough = 8;
  Beside rows;
  std::vector<Beside> others;

  Walk(const py::array& y, const py::array& x, int64_t axis) {
    for (int i = int(x.ndim()) - 1; i >= 0; --i) {
      if (i == axis || y.shape(i) == 1) continue;
      const Beside own{y.shape(i), y.strides(i), x.strides(i)};
      Beside* inner = others.empty() ? nullptr : &others.back();
      if (inner && own.to == inner->to * inner->extent && own.from == inner->from * inner->extent)
        inner->extent *= own.extent;
      else
        others.push_back(own);
    }
    if (others.empty()) others.push_back({1, 0, 0});
    auto run =
        std::find_if(others.begin(), others.end(), [](const Beside& a) { return a.extent >= kEnough; });
    if (run == others.end())
      run = std::max_element(others.begin(), others.end(),
                             [](const Beside& a, const Beside& b) { return a.extent < b.extent; });
    rows = *run;
    others.erase(run);
  }
};

// exp(+-2 pi i t / n) for t < n, in pairs. The last lengths' are kept; with the GIL.
template <class T>
std::shared_ptr<const std::vector<T>> roots_of(int64_t n, bool positive) {
  static auto& kept = *new std::map<std::pair<int64_t, bool>, std::shared_ptr<const std::vector<T>>>;
  if (kept.size() > 64) kept.clear();
  auto& roots = kept[{n, positive}];
  if (!roots) {
    std::vector<T> made;
    for (int64_t t = 0; t < n; ++t) {
      const long double angle = 6.283185307179586476925286766559L * (long double)(t) / (long double)(n);
      made.push_back(T(std::cos(angle)));
      made.push_back(T(positive ? std::sin(angle) : -std::sin(angle)));
    }
    roots = std::make_shared<const std::vector<T>>(std::move(made));
  }
  return roots;
}

template <class T, bool kToReal>
py::array transformed(Fourier kind, bool positive, const py::array& x, int64_t axis, int64_t count, int64_t n,
                      double factor, bool conjugate, double ends) {
  using Complex = std::complex<T>;
  Shape shape = shape_of(x);
  shape[size_t(axis)] = count;
  py::array y = empty<std::conditional_t<kToReal, T, Complex>>(shape);
  if (y.size() == 0) return y;
  const Walk walk(y, x, axis);
  const auto roots = roots_of<T>(n, positive);
  const FourierProblem p{kind,
                         n,
                         conjugate,
                         ends,
                         factor,
                         static_cast<const char*>(x.data()),
                         static_cast<char*>(y.mutable_data()),
                         x.strides(axis),
                         y.strides(axis),
                         walk.rows,
                         walk.others};
  KernelScope scope(std::max(x.size(), y.size()));
  fourier<T>(p, roots->data());
  return y;
}

// A transform by the kernel, of lengths and numbers of rows that are better there; None for others.
py::object bind_fourier(const std::string& name, const py::array& x, int64_t axis, int64_t count,
                        double factor, bool conjugate, double ends) {
  constexpr const char* op = "fourier";
  require(axis >= 0 && axis < x.ndim(), op, "axis must be one of x");
  const Fourier kind = name == "rfft"    ? Fourier::real
                       : name == "irfft" ? Fourier::inverse_real
                                         : Fourier::complex;
  require(kind != Fourier::complex || name == "fft" || name == "ifft", op,
          "name must be fft, ifft, rfft or irfft");
  const int64_t have = x.shape(axis), n = kind == Fourier::inverse_real ? count : have;
  const int64_t half = n / 2 + 1;
  const int64_t few = n <= 64 ? Walk::kEnough / 2 : Walk::kEnough;  // rows: lanes would be idle
  if (n < 1 || !has_fourier(n) || !is_aligned(x) || x.size() < few * have) return py::none();
  if (have != (kind == Fourier::inverse_real ? half : n) || count != (kind == Fourier::real ? half : n))
    return py::none();
  const auto run = [&]<class T>(T) {
    const auto one = kind == Fourier::inverse_real ? transformed<T, true> : transformed<T, false>;
    return one(kind, name[0] == 'i', x, axis, count, n, factor, conjugate, ends);
  };
  if (kind == Fourier::real ? is_dtype<float>(x) : is_dtype<std::complex<float>>(x)) return run(float{});
  if (kind == Fourier::real ? is_dtype<double>(x) : is_dtype<std::complex<double>>(x)) return run(double{});
  return py::none();
}

// A transform of NumPy's (a loop over rows: of one axis of x and a factor, to one axis of the result) in
// pieces on all threads. Pieces depend on sizes alone: NumPy transforms some rows side by side and what is
// left over one by one, so other pieces could give other bits.
py::array bind_transform(const py::object& function, const py::array& x, int64_t axis, int64_t count,
                         double factor) {
  constexpr const char* op = "transform";
  constexpr int64_t kSide = Walk::kEnough;  // rows that NumPy takes side by side at most
  constexpr int64_t kPiece = 4096;          // elements: 10 us
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
  const py::array in = is_aligned(x) ? x : contiguous_copy(x);
  Shape shape = shape_of(in);
  shape[size_t(axis)] = count;
  py::array y = empty_array(py::dtype(f.types[3 * which + 2]), shape);
  if (y.size() == 0) return y;

  const Walk walk(y, in, axis);
  const Beside rows = walk.rows;
  const auto& axes = walk.others;
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

void register_fourier(py::module_& m) {
  m.def("fourier", &bind_fourier, py::arg("name"), py::arg("x"), py::arg("axis"), py::arg("count"),
        py::arg("factor"), py::arg("conjugate") = false, py::arg("ends") = 1.0,
        "A transform along an axis; None where NumPy's is better.");
  m.def("transform", &bind_transform, py::arg("function"), py::arg("x"), py::arg("axis"), py::arg("count"),
        py::arg("factor"), "A transform of NumPy's along an axis, on all threads.");
}

}  // namespace fastdl::binding
