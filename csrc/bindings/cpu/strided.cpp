#include "bindings/cpu/strided.h"

namespace fastdl::binding {
namespace {

constexpr int64_t kTurnedRow = 16, kTurnedSize = 3072;  // from here on a copy pays

// The bytes an operand touches: [first, last).
std::pair<const char*, const char*> range(const Operand& operand, int64_t item) {
  const char *first = operand.data, *last = operand.data + item;
  for (int axis = 0; axis < operand.ndim; ++axis) {
    if (operand.shape[axis] == 0) return {operand.data, operand.data};
    const int64_t reach = int64_t(operand.shape[axis] - 1) * int64_t(operand.strides[axis]);
    (reach > 0 ? last : first) += reach;
  }
  return {first, last};
}

bool same_layout(const Operand& a, const Operand& b) {
  if (a.data != b.data || a.ndim != b.ndim) return false;
  for (int axis = 0; axis < a.ndim; ++axis)
    if (a.shape[axis] != b.shape[axis] || (a.shape[axis] > 1 && a.strides[axis] != b.strides[axis]))
      return false;
  return true;
}

// Lets an operand read a copy of its array.
void replace(Operand& input, const py::array& copy) {
  const Half half = input.half;
  input = operand_of(copy);
  input.half = half;
}

}  // namespace

Operand operand_of(const py::array& array) {
  const auto* proxy = py::detail::array_proxy(array.ptr());
  if (!is_aligned(array)) return operand_of(contiguous_copy(array));
  return {proxy->data, proxy->nd, proxy->dimensions, proxy->strides, array};
}

Operand output_of(const py::array& array, const char* op) {
  const auto* proxy = py::detail::array_proxy(array.ptr());
  if (!is_aligned(array) || !array.writeable())
    throw py::value_error(std::string(op) + ": out must be writable and aligned");
  const bool empty =
      std::find(proxy->dimensions, proxy->dimensions + proxy->nd, 0) != proxy->dimensions + proxy->nd;
  for (int axis = 0; axis < proxy->nd; ++axis)  // an empty array's strides mean nothing
    if (!empty && proxy->strides[axis] == 0 && proxy->dimensions[axis] > 1)
      throw py::value_error(std::string(op) +
                            ": several elements of out share one place in memory (an expanded "
                            "view?); write into a copy");
  return {proxy->data, proxy->nd, proxy->dimensions, proxy->strides, array};
}

std::optional<Integer> integer_of(const py::array& array) {
  if (is_dtype<int64_t>(array)) return Integer::int64;
  if (is_dtype<uint8_t>(array)) return Integer::uint8;
  if (is_dtype<int32_t>(array)) return Integer::int32;
  if (is_dtype<int16_t>(array)) return Integer::int16;
  if (is_dtype<int8_t>(array)) return Integer::int8;
  return std::nullopt;
}

const py::dtype& integer_dtype(Integer type) {
  switch (type) {
    case Integer::int8:
      return dtype_of<int8_t>();
    case Integer::uint8:
      return dtype_of<uint8_t>();
    case Integer::int16:
      return dtype_of<int16_t>();
    case Integer::int32:
      return dtype_of<int32_t>();
    default:
      return dtype_of<int64_t>();
  }
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

Shape broadcast_shape(const char* op, std::initializer_list<const Operand*> operands) {
  int ndim = 0;
  for (const Operand* operand : operands) ndim = std::max(ndim, operand->ndim);
  Shape shape(size_t(ndim), 1);
  for (int axis = 0; axis < ndim; ++axis) {
    for (const Operand* operand : operands) {
      const int64_t extent = operand->extent(axis, ndim);
      int64_t& result = shape[size_t(axis)];
      if (extent == result || extent == 1) continue;
      if (result == 1) {
        result = extent;
        continue;
      }
      std::string message = std::string(op) + ": shapes";
      for (const Operand* each : operands)
        message += (each == *operands.begin() ? " " : " and ") +
                   shape_text(Shape(each->shape, each->shape + each->ndim));
      message += " do not broadcast: axis " + std::to_string(axis - ndim) + " has " + std::to_string(result) +
                 " and " + std::to_string(extent) +
                 " (axes are matched from the right; extents must be equal or 1)";
      throw py::value_error(message);
    }
  }
  return shape;
}

bool order_of(std::initializer_list<Input> inputs, const Shape& shape, int64_t item, Shape& strides) {
  const int ndim = int(shape.size());
  const Operand* first = nullptr;
  for (const auto& [operand, bytes] : inputs) {
    if (operand->ndim != ndim || !std::equal(shape.begin(), shape.end(), operand->shape)) continue;
    if (first) {  // another one: it must lie as the first does
      for (int axis = 0; axis < ndim; ++axis)
        if (shape[size_t(axis)] > 1 && operand->strides[axis] * item != strides[size_t(axis)] * bytes)
          return false;
      continue;
    }
    first = operand;
    int64_t expected = bytes;
    bool in_order = true;
    for (int axis = ndim - 1; axis >= 0; --axis) {
      in_order &= shape[size_t(axis)] == 1 || operand->strides[axis] == expected;
      expected *= shape[size_t(axis)];
    }
    if (in_order || expected == 0) return false;
    // Dense in some order: from the smallest stride on, each is the product of the extents before it.
    strides.assign(size_t(ndim), item);
    int64_t reached = bytes;
    for (int found = 0; found < ndim; ++found) {
      int next = 0;
      while (next < ndim && (shape[size_t(next)] == 1 || operand->strides[next] != reached)) ++next;
      if (next == ndim) break;
      strides[size_t(next)] = reached / bytes * item;
      reached *= shape[size_t(next)];
    }
    if (reached != expected) return false;
  }
  if (!first) return false;
  // What stands before it and is broadcast may not lie in another order: PyTorch's results follow the first operand.
  for (const Input* input = inputs.begin(); input->first != first; ++input)
    for (int axis = 0; axis < ndim; ++axis)
      for (int inner = axis + 1; inner < ndim; ++inner) {
        const int64_t outer_stride = input->first->stride(axis, ndim),
                      stride = input->first->stride(inner, ndim);
        if (outer_stride && stride &&
            (outer_stride < stride) != (strides[size_t(axis)] < strides[size_t(inner)]))
          return false;
      }
  return true;
}

void turn(const Operand& out, Operand& input, int64_t item) {
  if (!input.owner) return;
  const int ndim = out.ndim;
  int first = -1, last = -1, inner = -1;  // axes of the result, the last that along which it is contiguous
  int64_t size = 1, whole = 1, dense = 1;
  for (int axis = 0; axis < ndim; ++axis) {
    size *= input.extent(axis, ndim);
    whole *= out.shape[axis];
    if (out.shape[axis] == 1) continue;
    if (first < 0) first = axis;
    last = axis;
    if (inner < 0 || std::abs(out.strides[axis]) < std::abs(out.strides[inner])) inner = axis;
    if (std::abs(input.stride(axis, ndim)) == item) dense = out.shape[axis];
  }
  const bool repeated = 8 * size <= whole;  // many rows of the result are beside one of these
  if (whole < kTurnedSize || out.shape[inner] < kTurnedRow || (dense < kTurnedRow && !repeated)) return;
  if (std::abs(input.stride(inner, ndim)) <= item || (inner != last && inner != first)) return;
  const auto& array = reinterpret_cast<const py::array&>(input.owner);
  // The other way round for a result in the other order.
  replace(input,
          inner == last ? contiguous_copy(array) : py::array(contiguous_copy(array.attr("T")).attr("T")));
}

void separate(const Operand& out, int64_t item, Operand& input, int64_t input_item) {
  if (!input.owner || (item == input_item && same_layout(out, input))) return;
  const auto [first, last] = range(out, item);
  const auto [input_first, input_last] = range(input, input_item);
  if (last <= input_first || input_last <= first) return;
  replace(input, contiguous_copy(reinterpret_cast<const py::array&>(input.owner)));
}

}  // namespace fastdl::binding
