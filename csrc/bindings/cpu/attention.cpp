#include "cpu/attention/attention.h"

#include <utility>

#include "bindings/cpu/array.h"

namespace fastdl::binding {
namespace {

using attention::Heads;

std::string text(const py::array& array) {
  return py::str(array.attr("shape")).cast<std::string>();
}

// (B, heads, rows, size), read in place if the last axis is contiguous: what a linear layer wrote as (B,
// rows, heads * size) needs no copy.
template <class T>
class HeadsIn {
 public:
  HeadsIn(const py::array& array, const char* op, const char* argument) : array_(array) {
    if (!is_dtype<T>(array))
      raise_dtype(array, op, argument, py::str(dtype_of<T>()).template cast<std::string>().c_str());
    if (array.ndim() != 4)
      throw py::value_error(std::string(op) + ": " + argument + " must have 4 dimensions, got shape " +
                            text(array));
    if (!usable()) array_ = contiguous_copy(array);
  }
  int64_t dim(int axis) const { return int64_t(array_.shape(axis)); }
  int64_t stride(int axis) const { return int64_t(array_.strides(axis)) / int64_t(sizeof(T)); }
  operator Heads<const T>() const {
    return {reinterpret_cast<const T*>(py::detail::array_proxy(array_.ptr())->data), stride(0), stride(1),
            stride(2)};
  }
  const py::array& array() const { return array_; }

 private:
  bool usable() const {
    return has_whole_strides(array_, sizeof(T)) && (array_.shape(3) <= 1 || stride(3) == 1);
  }
  py::array array_;
};

// A new (B, heads, rows, size) whose axes lie in memory in the order in which those of `like` do: reshaping
// it back to, say, (B, rows, heads * size) is free where it was free for `like`.
template <class T>
py::array empty_like(const HeadsIn<T>& like, int64_t size) {
  int order[] = {0, 1, 2};  // outermost first; axes that do not matter stay where they are
  const auto step = [&](int axis) { return like.dim(axis) > 1 ? like.stride(axis) : 0; };
  for (int i = 1; i < 3; ++i)
    for (int j = i; j > 0 && step(order[j - 1]) > 0 && step(order[j]) > step(order[j - 1]); --j)
      std::swap(order[j - 1], order[j]);
  int place[3];
  for (int i = 0; i < 3; ++i) place[order[i]] = i;
  if (order[0] == 0 && order[1] == 1) return empty<T>({like.dim(0), like.dim(1), like.dim(2), size});
  const py::array array = empty<T>({like.dim(order[0]), like.dim(order[1]), like.dim(order[2]), size});
  return py::array(array.attr("transpose")(place[0], place[1], place[2], 3));
}

template <class T>
Heads<T> writable(py::array& array) {
  const auto stride = [&](int axis) { return int64_t(array.strides(axis)) / int64_t(sizeof(T)); };
  return {data<T>(array), stride(0), stride(1), stride(2)};
}

// The mask and its strides, 0 where it is broadcast.
template <class T>
class MaskIn {
 public:
  MaskIn(const std::optional<py::array>& array, const char* op, const attention::Problem& p) : array_(array) {
    if (!array) return;
    const bool allowed = is_dtype<bool>(*array);
    if (!allowed && !is_dtype<T>(*array)) raise_dtype(*array, op, "mask", "bool or of query's dtype");
    const int64_t wanted[] = {p.batch, p.heads, p.queries, p.keys};
    bool fits = array->ndim() == 4;
    for (int i = 0; fits && i < 4; ++i) fits = array->shape(i) == wanted[i] || array->shape(i) == 1;
    if (!fits)
      throw py::value_error(std::string(op) + ": mask " + text(*array) + " does not broadcast to (" +
                            std::to_string(p.batch) + ", " + std::to_string(p.heads) + ", " +
                            std::to_string(p.queries) + ", " + std::to_string(p.keys) + ")");
    const int64_t item = allowed ? 1 : int64_t(sizeof(T));
    if (!has_whole_strides(*array, item)) array_ = contiguous_copy(*array);
    const auto stride = [&](int axis) {
      return array_->shape(axis) == 1 ? int64_t{0} : int64_t(array_->strides(axis)) / item;
    };
    const void* at = py::detail::array_proxy(array_->ptr())->data;
    mask_ = {allowed ? nullptr : static_cast<const T*>(at),
             allowed ? static_cast<const uint8_t*>(at) : nullptr,
             stride(0),
             stride(1),
             stride(2),
             stride(3)};
  }
  operator const attention::Mask<T>&() const { return mask_; }

 private:
  std::optional<py::array> array_;
  attention::Mask<T> mask_{};
};

template <class T>
attention::Problem problem_of(const char* op, const HeadsIn<T>& query, const HeadsIn<T>& key,
                              const HeadsIn<T>& value, bool is_causal, double scale, double p, uint64_t seed,
                              uint64_t offset) {
  if (!(p >= 0 && p <= 1)) throw py::value_error(std::string(op) + ": p must be between 0 and 1");
  const int64_t batch = query.dim(0), heads = query.dim(1), groups = key.dim(1);
  const bool fits = key.dim(0) == batch && value.dim(0) == batch && value.dim(1) == groups &&
                    key.dim(2) == value.dim(2) && key.dim(3) == query.dim(3) &&
                    (groups == 0 ? heads == 0 : heads % groups == 0);
  if (!fits)
    throw py::value_error(std::string(op) + ": query is " + text(query.array()) + ", key " +
                          text(key.array()) + ", value " + text(value.array()));
  return {batch,     heads, groups, query.dim(2),  key.dim(2), query.dim(3), value.dim(3),
          is_causal, scale, p,      {seed, offset}};
}

py::tuple bind_attention_forward(const py::array& query, const py::array& key, const py::array& value,
                                 const std::optional<py::array>& mask, bool is_causal, double scale, double p,
                                 uint64_t seed, uint64_t offset) {
  const char* op = "attention_forward";
  return by_dtype(op, query, [&]<class T>(T) {
    const HeadsIn<T> q(query, op, "query"), k(key, op, "key"), v(value, op, "value");
    const attention::Problem problem = problem_of(op, q, k, v, is_causal, scale, p, seed, offset);
    const MaskIn<T> m(mask, op, problem);
    py::array y = empty_like(q, v.dim(3)), lse = empty<T>({q.dim(0), q.dim(1), q.dim(2)});
    {
      KernelScope scope(problem.batch * problem.heads * problem.queries * (problem.keys + 1));
      attention::forward<T>(writable<T>(y), data<T>(lse), q, k, v, m, problem);
    }
    return py::make_tuple(y, lse);
  });
}

py::tuple bind_attention_backward(const py::array& grad_y, const py::array& query, const py::array& key,
                                  const py::array& value, const std::optional<py::array>& mask,
                                  const py::array& y, const py::array& lse, bool is_causal, double scale,
                                  double p, uint64_t seed, uint64_t offset, bool need_mask) {
  const char* op = "attention_backward";
  return by_dtype(op, query, [&]<class T>(T) {
    const HeadsIn<T> q(query, op, "query"), k(key, op, "key"), v(value, op, "value"), out(y, op, "y"),
        g(grad_y, op, "grad_y");
    const In<T> sums(lse, op, "lse");
    const attention::Problem problem = problem_of(op, q, k, v, is_causal, scale, p, seed, offset);
    const MaskIn<T> m(mask, op, problem);
    for (const HeadsIn<T>* x : {&out, &g})
      if (x->dim(0) != q.dim(0) || x->dim(1) != q.dim(1) || x->dim(2) != q.dim(2) || x->dim(3) != v.dim(3))
        throw py::value_error(std::string(op) + ": y is " + text(out.array()) + ", grad_y " +
                              text(g.array()) + ", query " + text(q.array()) + ", value " + text(v.array()));
    if (sums.size() != q.dim(0) * q.dim(1) * q.dim(2))
      throw py::value_error(std::string(op) + ": lse is " + text(lse) + ", query " + text(q.array()));
    py::array grad_query = empty_like(q, q.dim(3)), grad_key = empty_like(k, k.dim(3)),
              grad_value = empty_like(v, v.dim(3));
    py::object grad_mask = py::none();
    attention::MaskGradient<T> mask_gradient{};
    if (need_mask && mask) {
      if (is_dtype<bool>(*mask)) throw py::value_error(std::string(op) + ": a bool mask has no gradient");
      const Shape shape{mask->shape(0), mask->shape(1), mask->shape(2), problem.keys};
      py::array zero = zeros<T>(shape);
      const auto stride = [&](int axis) {
        return shape[size_t(axis)] == 1 ? 0 : int64_t(zero.strides(axis)) / int64_t(sizeof(T));
      };
      mask_gradient = {data<T>(zero), stride(0), stride(1), stride(2)};
      grad_mask = zero;
    }
    {
      KernelScope scope(problem.batch * problem.heads * problem.queries * (problem.keys + 1));
      attention::backward<T>(writable<T>(grad_query), writable<T>(grad_key), writable<T>(grad_value),
                             mask_gradient, g, q, k, v, m, out, sums, problem);
    }
    if (mask_gradient.data && mask->shape(3) == 1)  // the same for all keys: a sum over them
      grad_mask = grad_mask.attr("sum")(py::arg("axis") = 3, py::arg("keepdims") = true);
    return py::make_tuple(grad_query, grad_key, grad_value, grad_mask);
  });
}

}  // namespace

void register_attention(py::module_& m) {
  m.def("attention_forward", &bind_attention_forward, py::arg("query"), py::arg("key"), py::arg("value"),
        py::arg("mask"), py::arg("is_causal"), py::arg("scale"), py::arg("p"), py::arg("seed"),
        py::arg("offset"));
  m.def("attention_backward", &bind_attention_backward, py::arg("grad_y"), py::arg("query"), py::arg("key"),
        py::arg("value"), py::arg("mask"), py::arg("y"), py::arg("lse"), py::arg("is_causal"),
        py::arg("scale"), py::arg("p"), py::arg("seed"), py::arg("offset"), py::arg("need_mask"));
}

}  // namespace fastdl::binding
