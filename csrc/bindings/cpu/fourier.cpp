// Discrete Fourier transforms: by the kernel, and by NumPy's loops on fastdl's threads.
#include "cpu/fourier.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <complex>
#include <map>
#include <memory>
#include <tuple>

#include "bindings/cpu/array.h"
#include "cpu/runtime/memory.h"
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

// An array without its dtype: bytes from an element to the next along each axis.
struct Layout {
  Shape shape, strides;

  explicit Layout(const py::array& x) : shape(shape_of(x)), strides(x.strides(), x.strides() + x.ndim()) {}
  Layout(Shape of, int64_t item) : shape(std::move(of)), strides(shape.size()) {
    for (size_t i = shape.size(); i-- > 0; item *= shape[i]) strides[i] = item;
  }
};

// The axes of an array beside the transformed one, from the innermost to the outermost but for the first `lead`;
// those that follow each other in both arrays are one. `rows`: the one along which rows are side by side, the
// innermost that has enough of them, else the longest.
struct Walk {
  static constexpr int64_t kEnough = 8;
  Beside rows;
  std::vector<Beside> others;

  Walk(const Layout& y, const Layout& x, int64_t axis, int64_t lead = 0) {
    for (int64_t i = int64_t(x.shape.size()) - 1; i >= lead; --i) {
      const auto at = size_t(i);
      if (i == axis || y.shape[at] == 1) continue;
      const Beside own{y.shape[at], y.strides[at], x.strides[at]};
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

// exp(+-2 pi i t / n) for t < count, in pairs: kStep neighbours, times every kStep-th one.
template <class T>
std::vector<T> roots_of(int64_t n, bool positive, int64_t count) {
  constexpr int64_t kStep = 256;
  const auto root = [&](int64_t t) {
    const long double angle = 6.283185307179586476925286766559L * (long double)(t) / (long double)(n);
    return std::complex<long double>(std::cos(angle), positive ? std::sin(angle) : -std::sin(angle));
  };
  std::vector<std::complex<long double>> near;
  for (int64_t t = 0; t < std::min(count, kStep); ++t) near.push_back(root(t));
  std::vector<T> roots;
  for (int64_t far = 0; far < count; far += kStep) {
    const std::complex<long double> b = root(far);
    for (size_t i = 0; i < size_t(std::min(count - far, kStep)); ++i) {
      const auto a = near[i];
      roots.push_back(T(a.real() * b.real() - a.imag() * b.imag()));
      roots.push_back(T(a.real() * b.imag() + a.imag() * b.real()));
    }
  }
  return roots;
}

// The last ones are kept, up to kMost numbers; of more the newest; with the GIL.
template <class Kept, class Key>
auto kept_or(const Key& key, int64_t numbers, auto&& make) {
  constexpr int64_t kMost = 4 << 20;
  static auto& kept = *new std::map<Key, std::shared_ptr<const Kept>>;
  static int64_t size = 0;
  if (const auto found = kept.find(key); found != kept.end()) return found->second;
  if (size + numbers > kMost) kept.clear(), size = 0;
  auto made = std::make_shared<const Kept>(make());
  size += numbers;
  return kept[key] = std::move(made);
}
template <class T>
auto plan_of(Fourier kind, int64_t n, bool positive, bool whole) {
  const int64_t numbers = whole ? 7 * n : n / 2, roots = whole ? n : n / 4 + 1;
  return kept_or<FourierPlan<T>>(std::tuple(kind, n, positive, whole), numbers, [&] {
    return FourierPlan<T>(kind, n, roots_of<T>(n, positive, roots), whole);
  });
}
template <class T>
auto turns_of(int64_t n, bool positive) {
  return kept_or<std::vector<T>>(std::tuple(n, positive), 2 * n, [&] { return roots_of<T>(n, positive, n); });
}

// Which array a step reads and writes: the source, the result, one for what a real signal is made of, and one
// for the halves of long rows.
enum Place { source, result, spectrum, halves, kPlaces };

// A pass of the kernel: rows along one axis.
template <class T>
struct Step {
  std::shared_ptr<const FourierPlan<T>> plan;
  FourierProblem<T> problem;
  std::vector<Beside> others;
  std::shared_ptr<const std::vector<T>> turns;
  Place from, to;
  bool split = false;

  void run(char* const (&places)[kPlaces]) const {
    FourierProblem<T> p = problem;
    p.plan = plan.get(), p.from = places[from], p.to = places[to], p.others = others;
    if (split)
      fourier_split<T>(p);
    else
      fourier<T>(p, turns ? turns->data() : nullptr);
  }
};

constexpr int64_t kLong = 4096;  // where one row is worth being taken apart

// Rows beyond the kernel's limit, or so few that lanes would be idle, are n = n1 n2 entries, of which those n2
// apart are transformed and turned, and then the n2 neighbours. n1, or 0 where that does not go.
int64_t first_half(int64_t n) {
  if (n > (int64_t(1) << 24)) return 0;
  int64_t best = 0;
  for (int64_t d = Walk::kEnough; d * d <= n; ++d)
    if (n % d == 0 && n / d <= kLongestRow) best = d;
  return best;
}

// Transforms over several axes. `lead`: axes before it are not walked by the steps.
template <class T>
class Transforms {
 public:
  using Complex = std::complex<T>;

  Transforms(Fourier kind, bool positive, const py::array& x, const std::vector<int64_t>& axes, int64_t count,
             double factor, bool conjugate, double ends)
      : x_(x), y_(shape_of(x), 0), between_(shape_of(x), sizeof(Complex)) {
    const auto last = size_t(axes.back());
    Shape shape = x_.shape;
    if (kind != Fourier::complex) shape[last] = count;
    y_ = Layout(shape, kind == Fourier::inverse_real ? sizeof(T) : sizeof(Complex));
    // Between real numbers and a spectrum only the last axis has its own kernel: it comes first or last.
    const bool turned = positive != (kind != Fourier::complex && conjugate);
    const bool back = kind == Fourier::inverse_real;
    struct Pass {
      int64_t axis;
      Fourier kind;
    };
    std::vector<Pass> passes;
    for (size_t i = axes.size() - 1; i-- > 0;) passes.push_back({axes[i], Fourier::complex});
    passes.insert(back ? passes.end() : passes.begin(), {axes.back(), kind});

    const int64_t slab = lead_of(axes, std::max(size_of(x_.shape), size_of(shape)));
    Place at = source;
    for (size_t i = 0; i < passes.size(); ++i) {
      const auto [axis, own] = passes[i];
      const bool ends_it = i + 1 == passes.size();
      const Place to = back && !ends_it ? spectrum : result;
      const int64_t n = own == Fourier::inverse_real ? count : layout(at).shape[size_t(axis)];
      Along along{axis, own == Fourier::complex ? turned : positive, ends_it ? factor : 1};
      if (own != Fourier::complex) along.conjugate = conjugate, along.ends = ends;
      usable_ = usable_ && add(own, n, along, at, to, slab);
      at = to;
    }
    lead_ = slab;
    needs_spectrum_ = needs_spectrum_ || (back && axes.size() > 1);
  }

  bool usable() const { return usable_; }
  const Shape& shape() const { return y_.shape; }

  void run(const char* from, char* to) const {
    const auto rest = [&](const Layout& a) {
      return size_of(Shape(a.shape.begin() + lead_, a.shape.end())) * int64_t(sizeof(Complex));
    };
    const auto slabs = [&](int64_t begin, int64_t end) {
      const memory::Buffer<char> between(needs_spectrum_ ? size_t(rest(between_)) : 0);
      const memory::Buffer<char> half{size_t(halves_)};
      for (int64_t i = begin; i < end; ++i) {
        int64_t left = i, from_at = 0, to_at = 0;
        for (size_t axis = size_t(lead_); axis-- > 0;) {
          const int64_t index = left % x_.shape[axis];
          from_at += index * x_.strides[axis], to_at += index * y_.strides[axis];
          left /= x_.shape[axis];
        }
        char* const places[kPlaces] = {const_cast<char*>(from) + from_at, to + to_at, between.get(),
                                       half.get()};
        for (const Step<T>& step : steps_) step.run(places);
      }
    };
    if (lead_)
      parallel_for(size_of(Shape(x_.shape.begin(), x_.shape.begin() + lead_)), 1, slabs);
    else
      slabs(0, 1);
  }

 private:
  // With several axes, how many before them make up slabs that stay in a cache through all passes: enough slabs for
  // the threads, each with rows enough for the lanes. 0: pass after pass through everything.
  int64_t lead_of(const std::vector<int64_t>& axes, int64_t elements) const {
    const int64_t lead = *std::min_element(axes.begin(), axes.end());
    if (axes.size() == 1 || lead == 0) return 0;
    const int64_t count = size_of(Shape(x_.shape.begin(), x_.shape.begin() + lead));
    const int64_t slab = count ? elements / count : 0;
    if (count < 2 * num_threads() || slab * int64_t(sizeof(Complex)) > (1 << 20)) return 0;
    for (const int64_t axis : axes)
      if (slab / x_.shape[size_t(axis)] < 2 * Walk::kEnough) return 0;
    return lead;
  }

  const Layout& layout(Place place) const { return place == source ? x_ : place == result ? y_ : between_; }

  struct Along {
    int64_t axis;
    bool positive;
    double factor;
    bool conjugate = false;
    double ends = 1;
  };

  Step<T> step(Fourier kind, int64_t n, const Along& along, const Layout& x, const Layout& y, Place from,
               Place to, int64_t lead = 0, bool split = false) const {
    const auto at = size_t(along.axis);
    Walk walk(y, x, along.axis, lead);
    return {plan_of<T>(kind, n, along.positive, !split),
            {nullptr,
             along.conjugate,
             along.ends,
             along.factor,
             nullptr,
             nullptr,
             x.strides[at],
             y.strides[at],
             walk.rows,
             {}},
            std::move(walk.others),
            nullptr,
            from,
            to,
            split};
  }

  bool add(Fourier kind, int64_t n, const Along& along, Place from, Place to, int64_t lead) {
    const Layout &x = layout(from), &y = layout(to);
    const auto at = size_t(along.axis);
    const int64_t rows = size_of(x.shape) / x.shape[at];
    const int64_t few = n <= 64 ? Walk::kEnough / 2 : Walk::kEnough;  // rows: lanes would be idle
    if (n < 1 || !has_small_factors(n)) return false;
    if (n <= kLongestRow && rows >= few) {
      steps_.push_back(step(kind, n, along, x, y, from, to, lead));
      return true;
    }
    if (lead || n < kLong) return false;
    if (kind == Fourier::complex) return add_long(n, along, x, y, from, to);
    // Real numbers in pairs, as complex ones.
    const Layout& real = kind == Fourier::real ? x : y;
    if (n % 2 || real.strides[at] != sizeof(T)) return false;
    Layout pairs = real, middle = between_;
    pairs.shape[at] = middle.shape[at] = n / 2, pairs.strides[at] = sizeof(Complex);
    const Along inner{along.axis, along.positive, along.factor};
    needs_spectrum_ = true;
    if (kind == Fourier::real) {
      if (!add_long(n / 2, inner, pairs, middle, from, spectrum)) return false;
      steps_.push_back(step(kind, n, along, middle, y, spectrum, to, 0, true));
      return true;
    }
    steps_.push_back(step(kind, n, along, x, between_, from, spectrum, 0, true));
    return add_long(n / 2, inner, middle, pairs, spectrum, to);
  }

  bool add_long(int64_t n, const Along& along, const Layout& x, const Layout& y, Place from, Place to) {
    const int64_t n1 = first_half(n), n2 = n1 ? n / n1 : 0;
    if (!n1) return false;
    constexpr int64_t item = sizeof(Complex);
    const auto at = size_t(along.axis);
    Step<T> first = step(Fourier::complex, n1, along, x, y, from, halves),
            second = step(Fourier::complex, n2, along, x, y, halves, to);
    first.turns = turns_of<T>(n, along.positive);
    first.others.push_back(first.problem.side);
    int64_t apart = n * item;
    second.others = first.others;
    for (size_t i = 0; i < first.others.size(); ++i) {
      first.others[i].to = second.others[i].from = apart;
      apart *= first.others[i].extent;
    }
    FourierProblem<T>&a = first.problem, &b = second.problem;
    a.factor = 1, a.from_step = n2 * x.strides[at], a.to_step = n2 * item;
    a.side = {n2, item, x.strides[at]};
    b.from_step = item, b.to_step = n1 * y.strides[at];
    b.side = {n1, y.strides[at], n2 * item};
    halves_ = std::max(halves_, apart);
    steps_.push_back(std::move(first));
    steps_.push_back(std::move(second));
    return true;
  }

  Layout x_, y_, between_;
  std::vector<Step<T>> steps_;
  int64_t lead_ = 0, halves_ = 0;
  bool usable_ = true, needs_spectrum_ = false;
};

template <class T>
py::object transformed(Fourier kind, bool positive, const py::array& x, const std::vector<int64_t>& axes,
                       int64_t count, double factor, bool conjugate, double ends) {
  const Transforms<T> transforms(kind, positive, x, axes, count, factor, conjugate, ends);
  if (!transforms.usable()) return py::none();
  py::array y = kind == Fourier::inverse_real ? empty<T>(transforms.shape())
                                              : empty<std::complex<T>>(transforms.shape());
  if (y.size() == 0) return y;
  KernelScope scope(std::max(x.size(), y.size()));
  transforms.run(static_cast<const char*>(x.data()), static_cast<char*>(y.mutable_data()));
  return y;
}

// A transform by the kernel, of lengths and numbers of rows that are better there; None for others.
py::object bind_fourier(const std::string& name, const py::array& x, const std::vector<int64_t>& axes,
                        int64_t count, double factor, bool conjugate, double ends) {
  constexpr const char* op = "fourier";
  require(!axes.empty(), op, "axes must not be empty");
  for (size_t i = 0; i < axes.size(); ++i)
    require(axes[i] >= 0 && axes[i] < x.ndim() && std::count(axes.begin(), axes.end(), axes[i]) == 1, op,
            "axes must be different ones of x");
  const Fourier kind = name == "rfft"    ? Fourier::real
                       : name == "irfft" ? Fourier::inverse_real
                                         : Fourier::complex;
  require(kind != Fourier::complex || name == "fft" || name == "ifft", op,
          "name must be fft, ifft, rfft or irfft");
  if (x.size() == 0 || count < 1 || !is_aligned(x)) return py::none();
  const int64_t have = x.shape(axes.back());
  if (have != (kind == Fourier::inverse_real ? count / 2 + 1 : have) ||
      count != (kind == Fourier::real ? have / 2 + 1 : count) || (kind == Fourier::complex && count != have))
    return py::none();
  const bool positive = name[0] == 'i';
  const auto run = [&]<class T>(T) {
    return transformed<T>(kind, positive, x, axes, count, factor, conjugate, ends);
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

  const Walk walk{Layout(y), Layout(in), axis};
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
      const Offsets at(axes, i / pieces);
      data[0] += at.from, data[2] += at.to;
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
  m.def("fourier", &bind_fourier, py::arg("name"), py::arg("x"), py::arg("axes"), py::arg("count"),
        py::arg("factor"), py::arg("conjugate") = false, py::arg("ends") = 1.0,
        "A transform along axes; None where NumPy's is better.");
  m.def("transform", &bind_transform, py::arg("function"), py::arg("x"), py::arg("axis"), py::arg("count"),
        py::arg("factor"), "A transform of NumPy's along an axis, on all threads.");
}

}  // namespace fastdl::binding
