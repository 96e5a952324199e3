#include "cpu/embedding.h"

#include "bindings/cpu/index.h"

namespace fastdl::binding {
namespace {

py::array bind_embedding_forward(const py::array& weight, const py::array& index) {
  constexpr const char* op = "embedding";
  return by_stored(op, weight, [&]<class T>(T, Half half) {
    const In<T> table(weight, op, "weight", half);
    const In<int64_t> at(index, op, "index");
    require(table.ndim() == 2, op, "weight must be (rows, width)");
    check_index(op, at, table.dim(0));
    Shape shape = at.shape();
    shape.push_back(table.dim(1));
    py::array y = empty_array(stored_dtype<T>(half), shape);
    char* out = reinterpret_cast<char*>(data<T>(y));
    const IndexProblem p{1, table.dim(0), table.dim(1), at.size()};
    KernelScope scope(size_of(shape));
    if (size_of(shape) > 0)
      index_select_forward(out, reinterpret_cast<const char*>(table.get()), at, p, sizeof(T),
                           {0, p.inner * int64_t(sizeof(T))});
    return y;
  });
}

py::array bind_embedding_backward(const py::array& grad_y, const py::array& index,
                                  const std::optional<py::array>& bag, const std::optional<py::array>& scale,
                                  int64_t rows, int64_t padding_idx, bool scale_grad_by_freq) {
  constexpr const char* op = "embedding_backward";
  return by_stored(op, grad_y, [&]<class T>(T, Half half) {
    const In<T> g(grad_y, op, "grad_y", half);
    const In<int64_t> at(index, op, "index");
    const Parameter<T> factor(scale, op, "scale", half);
    require(g.ndim() == 2, op, "grad_y must be (bags, width)");
    require(at.ndim() == 1, op, "index must have one dimension");
    require(rows >= 0, op, "rows must not be negative");
    require(!scale || int64_t(scale->size()) == at.size(), op, "scale must have one entry per index");
    check_index(op, at, rows);
    std::optional<In<int64_t>> owner;
    if (bag) {
      owner.emplace(*bag, op, "bag");
      require(owner->ndim() == 1 && owner->size() == at.size(), op, "bag must have one entry per index");
      check_index(op, *owner, g.dim(0), "bag");
    } else {
      require(g.dim(0) == at.size(), op, "grad_y must have one row per index");
    }
    const int64_t width = g.dim(1), size = rows * width;
    py::array grad_weight = empty_array(stored_dtype<T>(half), Shape{rows, width});
    T* out = data<T>(grad_weight);
    const int64_t* bags = owner ? owner->get() : nullptr;
    const EmbeddingProblem p{rows, width, at.size(), padding_idx, half};
    KernelScope scope(g.size() + size);
    embedding_backward<T>(out, g, at, bags, factor, scale_grad_by_freq, p);
    return grad_weight;
  });
}

// weight (rows, width), index (entries in any shape), offsets (bags + 1): where bags begin, and the last one
// ends.
template <class T>
struct Bags {
  In<T> weight;
  In<int64_t> index, offsets;
  int64_t bags;
  EmbeddingProblem problem;

  Bags(const py::array& table, const py::array& at, const py::array& begins, int64_t padding_idx,
       const char* op)
      : weight(table, op, "weight"), index(at, op, "index"), offsets(begins, op, "offsets") {
    require(weight.ndim() == 2, op, "weight must be (rows, width)");
    require(offsets.ndim() == 1 && offsets.size() >= 1, op, "offsets must be (bags + 1,)");
    bags = offsets.size() - 1;
    require(index.size() < int64_t{1} << 31, op, "index must have fewer than 2^31 entries");
    bool rising = offsets[0] >= 0 && offsets[bags] <= index.size();
    for (int64_t b = 0; b < bags; ++b) rising = rising && offsets[b] <= offsets[b + 1];
    require(rising, op, "offsets must not decrease and stay within the index");
    check_index(op, index, weight.dim(0));
    problem = {weight.dim(0), weight.dim(1), index.size(), padding_idx};
  }
  int64_t work() const { return (index.size() + bags) * problem.width; }
};

py::array bind_embedding_bag_forward(const py::array& weight, const py::array& index,
                                     const py::array& offsets, const std::optional<py::array>& scale,
                                     int64_t padding_idx, bool mean) {
  constexpr const char* op = "embedding_bag";
  return by_dtype(op, weight, [&]<class T>(T) {
    const Bags<T> in(weight, index, offsets, padding_idx, op);
    const OptionalIn<T> factor(scale, op, "scale");
    require(!scale || int64_t(scale->size()) == in.index.size(), op, "scale must have one entry per index");
    py::array y = empty<T>({in.bags, in.problem.width});
    T* out = data<T>(y);
    KernelScope scope(in.work());
    embedding_bag_forward<T>(out, in.weight, in.index, in.offsets, factor, mean, in.bags, in.problem);
    return y;
  });
}

py::tuple bind_embedding_bag_max_forward(const py::array& weight, const py::array& index,
                                         const py::array& offsets, int64_t padding_idx) {
  constexpr const char* op = "embedding_bag";
  return by_dtype(op, weight, [&]<class T>(T) {
    const Bags<T> in(weight, index, offsets, padding_idx, op);
    py::array y = empty<T>({in.bags, in.problem.width});
    py::array chosen = empty<int64_t>({in.bags, in.problem.width});
    {
      T* out = data<T>(y);
      int64_t* which = data<int64_t>(chosen);
      KernelScope scope(in.work());
      embedding_bag_max_forward<T>(out, which, in.weight, in.index, in.offsets, in.bags, in.problem);
    }
    return py::make_tuple(y, chosen);
  });
}

}  // namespace

void register_embedding(py::module_& m) {
  m.def("embedding_forward", &bind_embedding_forward, py::arg("weight"), py::arg("index"));
  m.def("embedding_backward", &bind_embedding_backward, py::arg("grad_y"), py::arg("index"), py::arg("bag"),
        py::arg("scale"), py::arg("rows"), py::arg("padding_idx"), py::arg("scale_grad_by_freq"));
  m.def("embedding_bag_forward", &bind_embedding_bag_forward, py::arg("weight"), py::arg("index"),
        py::arg("offsets"), py::arg("scale"), py::arg("padding_idx"), py::arg("mean"));
  m.def("embedding_bag_max_forward", &bind_embedding_bag_max_forward, py::arg("weight"), py::arg("index"),
        py::arg("offsets"), py::arg("padding_idx"));
}

}  // namespace fastdl::binding
