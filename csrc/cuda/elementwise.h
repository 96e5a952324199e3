// Elementwise arithmetic on CUDA. The operation is a number that all threads branch on alike: one kernel per
// element type and kind serves many operations, at the price of a uniform branch per pack (measured in
// instructions, not in memory accesses, which are the limit).
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// clang-format off
// y = f(x), where a pack of 16 bytes is computed in a few instructions ...
#define FASTDL_CUDA_UNARY(X) \
  X(copy) X(neg) X(abs) X(sign) X(floor) X(ceil) X(round) X(trunc) X(frac) X(square) X(sqrt) X(rsqrt) X(reciprocal) X(exp) \
  X(log) X(clamp)
// ... and where it is not.
#define FASTDL_CUDA_FUNCTION(X) \
  X(expm1) X(log1p) X(log2) X(log10) X(sin) X(cos) X(tan) X(asin) X(acos) X(atan) X(sinh) X(cosh) X(asinh) \
  X(acosh) X(atanh) X(erf) X(exp2) X(pow_scalar)
// grad_x = f(grad_y, saved); saved is x or y, as the reference says.
#define FASTDL_CUDA_GRADIENT(X) \
  X(abs) X(square) X(sqrt) X(rsqrt) X(reciprocal) X(exp) X(expm1) X(log) X(log1p) X(log2) X(log10) X(tan) X(asin) \
  X(acos) X(atan) X(asinh) X(acosh) X(atanh) X(clamp) X(sin) X(cos) X(sinh) X(cosh) X(erf) X(exp2) X(pow_scalar)
#define FASTDL_CUDA_BINARY(X) X(add) X(sub) X(mul) X(div) X(maximum) X(minimum)
#define FASTDL_CUDA_BINARY_FUNCTION(X) \
  X(fmod) X(pow) X(atan2) X(hypot) X(floor_divide) X(remainder) X(logaddexp) X(copysign) X(nextafter) \
  X(fmax) X(fmin) X(xlogy) X(xlog1py) X(heaviside)
#define FASTDL_CUDA_COMPARE(X) X(eq) X(ne) X(lt) X(le) X(gt) X(ge)
// Three inputs; the last four are pieces of gradients: of z = x / y for y from (grad, y, z), of the larger or smaller
// of x and y, and of logaddexp, for x from (grad, x, y).
#define FASTDL_CUDA_TERNARY(X) X(addcmul) X(addcdiv) X(lerp) X(div_y) X(maximum_x) X(minimum_x) X(logaddexp_x)
// clang-format on

#define FASTDL_CUDA_ENUMERATOR(name) name,
#define FASTDL_CUDA_NAME(name) #name,
enum class Unary : int { FASTDL_CUDA_UNARY(FASTDL_CUDA_ENUMERATOR) };
enum class Function : int { FASTDL_CUDA_FUNCTION(FASTDL_CUDA_ENUMERATOR) };
enum class Gradient : int { FASTDL_CUDA_GRADIENT(FASTDL_CUDA_ENUMERATOR) };
enum class Binary : int { FASTDL_CUDA_BINARY(FASTDL_CUDA_ENUMERATOR) };
enum class BinaryFunction : int { FASTDL_CUDA_BINARY_FUNCTION(FASTDL_CUDA_ENUMERATOR) };
enum class Compare : int { FASTDL_CUDA_COMPARE(FASTDL_CUDA_ENUMERATOR) };
enum class Ternary : int { FASTDL_CUDA_TERNARY(FASTDL_CUDA_ENUMERATOR) };

// a and b are the operation's numbers: clamp's bounds, an exponent, addcmul's value.
void unary(Unary op, Dtype dtype, const Shape& shape, const Strided& y, const Strided& x, double a, double b,
           Stream stream);
void function(Function op, Dtype dtype, const Shape& shape, const Strided& y, const Strided& x, double a,
              Stream stream);
void gradient(Gradient op, Dtype dtype, const Shape& shape, const Strided& grad_x, const Strided& grad_y,
              const Strided& saved, double a, double b, Stream stream);
void binary(Binary op, Dtype dtype, const Shape& shape, const Strided& z, const Strided& x, const Strided& y,
            Stream stream);
void binary_function(BinaryFunction op, Dtype dtype, const Shape& shape, const Strided& z, const Strided& x,
                     const Strided& y, Stream stream);
// z: one byte per element, 0 or 1
void compare(Compare op, Dtype dtype, const Shape& shape, const Strided& z, const Strided& x,
             const Strided& y, Stream stream);
void ternary(Ternary op, Dtype dtype, const Shape& shape, const Strided& out, const Strided& x,
             const Strided& y, const Strided& z, double a, Stream stream);
// condition: one byte per element
void where(Dtype dtype, const Shape& shape, const Strided& out, const Strided& condition, const Strided& x,
           const Strided& y, Stream stream);
// y = x, elements of 1, 2, 4 or 8 bytes
void copy(int bytes, const Shape& shape, const Strided& y, const Strided& x, Stream stream);
// y = x in another element type
void convert(Dtype to, Dtype from, const Shape& shape, const Strided& y, const Strided& x, Stream stream);

}  // namespace fastdl::cuda
