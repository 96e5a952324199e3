#include "cuda/elementwise.h"

#include "bindings/cuda/arguments.h"
#include "cuda/special.h"

namespace fastdl::binding {
namespace {

constexpr const char* kUnary[] = {FASTDL_CUDA_UNARY(FASTDL_CUDA_NAME)};
constexpr const char* kFunction[] = {FASTDL_CUDA_FUNCTION(FASTDL_CUDA_NAME)};
constexpr const char* kGradient[] = {FASTDL_CUDA_GRADIENT(FASTDL_CUDA_NAME)};
constexpr const char* kBinary[] = {FASTDL_CUDA_BINARY(FASTDL_CUDA_NAME)};
constexpr const char* kBinaryFunction[] = {FASTDL_CUDA_BINARY_FUNCTION(FASTDL_CUDA_NAME)};
constexpr const char* kCompare[] = {FASTDL_CUDA_COMPARE(FASTDL_CUDA_NAME)};
constexpr const char* kTernary[] = {FASTDL_CUDA_TERNARY(FASTDL_CUDA_NAME)};
constexpr const char* kSpecial[] = {FASTDL_CUDA_SPECIAL(FASTDL_CUDA_NAME)};
constexpr const char* kSpecialGradient[] = {FASTDL_CUDA_SPECIAL_GRADIENT(FASTDL_CUDA_NAME)};
constexpr const char* kSpecialPair[] = {FASTDL_CUDA_SPECIAL_PAIR(FASTDL_CUDA_NAME)};

}  // namespace

void register_elementwise(py::module_& m) {
  using O = const py::object&;
  m.def("unary", [](std::string_view op, int dtype, const Shape& shape, O y, O x, double a, double b,
                    uintptr_t stream) {
    const Dtype t = Dtype(dtype);
    cuda::unary(named<cuda::Unary>(kUnary, op), t, shape, strided(y, t), strided(x, t), a, b,
                stream_of(stream));
  });
  m.def("function",
        [](std::string_view op, int dtype, const Shape& shape, O y, O x, double a, uintptr_t stream) {
          const Dtype t = Dtype(dtype);
          cuda::function(named<cuda::Function>(kFunction, op), t, shape, strided(y, t), strided(x, t), a,
                         stream_of(stream));
        });
  m.def("gradient", [](std::string_view op, int dtype, const Shape& shape, O grad_x, O grad_y, O saved,
                       double a, double b, uintptr_t stream) {
    const Dtype t = Dtype(dtype);
    cuda::gradient(named<cuda::Gradient>(kGradient, op), t, shape, strided(grad_x, t), strided(grad_y, t),
                   strided(saved, t), a, b, stream_of(stream));
  });
  m.def("binary", [](std::string_view op, int dtype, const Shape& shape, O z, O x, O y, uintptr_t stream) {
    const Dtype t = Dtype(dtype);
    cuda::binary(named<cuda::Binary>(kBinary, op), t, shape, strided(z, t), strided(x, t), strided(y, t),
                 stream_of(stream));
  });
  m.def("binary_function",
        [](std::string_view op, int dtype, const Shape& shape, O z, O x, O y, uintptr_t stream) {
          const Dtype t = Dtype(dtype);
          cuda::binary_function(named<cuda::BinaryFunction>(kBinaryFunction, op), t, shape, strided(z, t),
                                strided(x, t), strided(y, t), stream_of(stream));
        });
  m.def("compare", [](std::string_view op, int dtype, const Shape& shape, O z, O x, O y, uintptr_t stream) {
    const Dtype t = Dtype(dtype);
    cuda::compare(named<cuda::Compare>(kCompare, op), t, shape, strided(z, 1), strided(x, t), strided(y, t),
                  stream_of(stream));
  });
  m.def("ternary", [](std::string_view op, int dtype, const Shape& shape, O out, O x, O y, O z, double a,
                      uintptr_t stream) {
    const Dtype t = Dtype(dtype);
    cuda::ternary(named<cuda::Ternary>(kTernary, op), t, shape, strided(out, t), strided(x, t), strided(y, t),
                  strided(z, t), a, stream_of(stream));
  });
  m.def("special", [](std::string_view op, int dtype, const Shape& shape, O y, O x, uintptr_t stream) {
    const Dtype t = Dtype(dtype);
    cuda::special(named<cuda::Special>(kSpecial, op), t, shape, strided(y, t), strided(x, t),
                  stream_of(stream));
  });
  m.def("special_gradient",
        [](std::string_view op, int dtype, const Shape& shape, O grad_x, O grad_y, O x, uintptr_t stream) {
          const Dtype t = Dtype(dtype);
          cuda::special_gradient(named<cuda::SpecialGradient>(kSpecialGradient, op), t, shape,
                                 strided(grad_x, t), strided(grad_y, t), strided(x, t), stream_of(stream));
        });
  m.def("special_pair",
        [](std::string_view op, int dtype, const Shape& shape, O z, O x, O y, uintptr_t stream) {
          const Dtype t = Dtype(dtype);
          cuda::special_pair(named<cuda::SpecialPair>(kSpecialPair, op), t, shape, strided(z, t),
                             strided(x, t), strided(y, t), stream_of(stream));
        });
  m.def("where", [](int dtype, const Shape& shape, O out, O condition, O x, O y, uintptr_t stream) {
    const Dtype t = Dtype(dtype);
    cuda::where(t, shape, strided(out, t), strided(condition, 1), strided(x, t), strided(y, t),
                stream_of(stream));
  });
  m.def("copy", [](int bytes, const Shape& shape, O y, O x, uintptr_t stream) {
    cuda::copy(bytes, shape, strided(y, bytes), strided(x, bytes), stream_of(stream));
  });
  m.def("convert", [](int to, int from, const Shape& shape, O y, O x, uintptr_t stream) {
    cuda::convert(Dtype(to), Dtype(from), shape, strided(y, Dtype(to)), strided(x, Dtype(from)),
                  stream_of(stream));
  });
}

}  // namespace fastdl::binding
