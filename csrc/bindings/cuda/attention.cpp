#include "cuda/attention.h"

#include "bindings/cuda/key.h"

namespace fastdl::binding {
namespace {

using cuda::Attention;
using cuda::AttentionMask;
using cuda::Heads;
using cuda::MaskShape;

// (address, strides in bytes) of four axes; nothing for no array.
Heads heads(const py::object& array, int dtype) {
  if (array.is_none()) return {};
  const Strided s = strided(array, Dtype(dtype));
  return {s.data, s.strides[0], s.strides[1], s.strides[2]};
}
AttentionMask mask_of(const py::object& mask, bool allowed, int dtype) {
  if (mask.is_none()) return {};
  const Strided s = strided(mask, allowed ? 1 : item_size(Dtype(dtype)));
  return {allowed ? nullptr : s.data,
          allowed ? s.data : nullptr,
          s.strides[0],
          s.strides[1],
          s.strides[2],
          s.strides[3]};
}

}  // namespace

void register_attention(py::module_& m) {
  py::class_<Attention>(m, "Attention")
      .def(py::init([](int64_t batch, int64_t heads, int64_t groups, int64_t queries, int64_t keys,
                       int64_t size, int64_t value_size, bool causal, double scale, double p, uint64_t seed,
                       uint64_t offset, uintptr_t state, bool tf32, bool hopper) {
        return Attention{batch,
                         heads,
                         groups,
                         queries,
                         keys,
                         size,
                         value_size,
                         causal,
                         scale,
                         p,
                         key_of(seed, offset, state),
                         tf32,
                         hopper};
      }));
  m.def("attention_parts", [](int dtype, const Attention& a) {
    const int parts = cuda::attention_parts(Dtype(dtype), a);
    return std::make_pair(parts, cuda::attention_forward_scratch(Dtype(dtype), a, parts));
  });
  m.def("attention_forward_trial_begin", cuda::hopper_forward_trial_begin);
  m.def("attention_forward_trial_end",
        [](uintptr_t stream) { return cuda::hopper_forward_trial_end(stream_of(stream)); });
  m.def("attention_backward_trial_begin", cuda::hopper_backward_trial_begin);
  m.def("attention_backward_trial_end",
        [](uintptr_t stream) { return cuda::hopper_backward_trial_end(stream_of(stream)); });
  m.def("attention_padded", cuda::attention_padded);
  m.def("attention_forward",
        [](int dtype, const py::object& y, uintptr_t lse, const py::object& query, const py::object& key,
           const py::object& value, const py::object& mask, bool allowed, const Attention& a, int parts,
           uintptr_t scratch, uintptr_t stream) {
          cuda::attention_forward(Dtype(dtype), heads(y, dtype), pointer(lse), heads(query, dtype),
                                  heads(key, dtype), heads(value, dtype), mask_of(mask, allowed, dtype), a,
                                  parts, pointer(scratch), stream_of(stream));
        });
  m.def("attention_backward_prefers_hopper", cuda::attention_backward_prefers_hopper);
  m.def("attention_backward_scratch",
        [](int dtype, const py::object& grad_query, const py::object& grad_key, const py::object& grad_value,
           const py::object& grad_y, const py::object& query, const py::object& key, const py::object& value,
           const py::object& mask, bool allowed, const Attention& a) {
          return cuda::attention_backward_scratch(
              Dtype(dtype), heads(grad_query, dtype), heads(grad_key, dtype), heads(grad_value, dtype),
              heads(grad_y, dtype), heads(query, dtype), heads(key, dtype), heads(value, dtype),
              mask_of(mask, allowed, dtype), a);
        });
  m.def("attention_backward",
        [](int dtype, const py::object& grad_query, const py::object& grad_key, const py::object& grad_value,
           const py::object& grad_y, const py::object& query, const py::object& key, const py::object& value,
           const py::object& mask, bool allowed, const py::object& y, uintptr_t lse, uintptr_t statistics,
           uintptr_t scratch, const Attention& a, uintptr_t stream) {
          cuda::attention_backward(Dtype(dtype), heads(grad_query, dtype), heads(grad_key, dtype),
                                   heads(grad_value, dtype), heads(grad_y, dtype), heads(query, dtype),
                                   heads(key, dtype), heads(value, dtype), mask_of(mask, allowed, dtype),
                                   heads(y, dtype), pointer(lse), pointer(statistics), pointer(scratch), a,
                                   stream_of(stream));
        });
  m.def("attention_mask_parts", [](const Attention& a, int64_t batch, int64_t heads, int64_t rows) {
    return cuda::attention_mask_parts(a, {batch, heads, rows});
  });
  m.def("attention_mask_gradient",
        [](int dtype, uintptr_t partial, int64_t batch, int64_t mask_heads, int64_t rows, int parts,
           const py::object& grad_y, const py::object& query, const py::object& key, const py::object& value,
           const py::object& mask, uintptr_t statistics, const Attention& a, uintptr_t stream) {
          cuda::attention_mask_gradient(Dtype(dtype), pointer(partial), {batch, mask_heads, rows}, parts,
                                        heads(grad_y, dtype), heads(query, dtype), heads(key, dtype),
                                        heads(value, dtype), mask_of(mask, false, dtype), pointer(statistics),
                                        a, stream_of(stream));
        });
}

}  // namespace fastdl::binding
