// Convolution on CUDA; the geometry is common/conv.h's. The implicit products take their operands with the
// channels last: (batch, positions, groups, padded channels of a group), in multiples of 16 bytes (*chunks*),
// or 8 bytes where a group has few, zeros behind the group's own; kernels write plain (batch, channels,
// positions).
#pragma once

#include "common/conv.h"
#include "cuda/types.h"

namespace fastdl::cuda {

int64_t conv_chunk(Dtype dtype);                     // elements
bool conv_few(Dtype dtype, int64_t channels);        // do they fit half a chunk?
int64_t conv_padded(Dtype dtype, int64_t channels);  // channels of a group in such an array
// to: (images, size, groups, padded) from x (images, groups * channels, size). tf32: rounded to TF32.
void channels_last(Dtype dtype, bool tf32, void* to, const void* x, int64_t images, int64_t channels,
                   int64_t groups, int64_t size, Stream stream);
// to: (out_channels, taps, padded inputs of a group), or transposed (in_channels, taps, padded outputs).
void conv_pack_weight(Dtype dtype, bool tf32, void* to, const void* weight, const ConvProblem& problem,
                      bool transposed, Stream stream);
// y = convolution of x, both arguments prepared; transposed: the gradient of x (y) from that of y (x).
// tensor: float32 by TF32 tensor cores; other types have one way. bias may be null. Where there are few tiles
// the sum is cut into parts, and scratch has as many times y's elements (float, for float64 double).
int64_t conv_gather_splits(Dtype dtype, const ConvProblem& problem, bool transposed);
void conv_gather(Dtype dtype, bool tensor, void* y, const void* x, const void* weight, const void* bias,
                 void* scratch, const ConvProblem& problem, bool transposed, Stream stream);
// y from the parts in scratch, of `items` elements each.
void conv_add_gather_parts(Dtype dtype, void* y, const void* scratch, const void* bias, int64_t items,
                           int splits, int64_t size, int64_t channels, Stream stream);
// The same by wgmma on devices of compute capability 9.x, for problems that fit; float32 by TF32.
bool conv_gather_fits_hopper(Dtype dtype, bool tensor, const ConvProblem& problem, bool transposed);
int64_t conv_gather_hopper_splits(Dtype dtype, const ConvProblem& problem, bool transposed);
void conv_gather_hopper(Dtype dtype, void* y, const void* x, const void* weight, const void* bias,
                        void* scratch, const ConvProblem& problem, bool transposed, Stream stream);
// Into how many parts the sum over pixels is cut; scratch has that many times
// out_channels * taps * padded(in_channels / groups) sums (float, for float64 double).
int64_t conv_weight_splits(Dtype dtype, const ConvProblem& problem);
void conv_grad_weight(Dtype dtype, bool tensor, void* grad_weight, const void* grad_y, const void* x,
                      void* scratch, const ConvProblem& problem, Stream stream);
// The same from plain arrays (batch, channels, positions): 1x1 kernels, and images that copies can take.
bool conv_pointwise_fits(Dtype dtype, const ConvProblem& problem, const void* grad_y, const void* x);
void conv_grad_weight_pointwise(Dtype dtype, bool tensor, void* grad_weight, const void* grad_y,
                                const void* x, void* scratch, const ConvProblem& problem, Stream stream);
// The same by wgmma, in 16 bits.
bool conv_weight_fits_hopper(Dtype dtype, const ConvProblem& problem);
int64_t conv_weight_hopper_splits(const ConvProblem& problem);
void conv_grad_weight_hopper(Dtype dtype, void* grad_weight, const void* grad_y, const void* x, void* scratch,
                             const ConvProblem& problem, Stream stream);
// grad_weight from the parts in scratch.
void conv_add_parts(Dtype dtype, void* grad_weight, const void* scratch, int64_t splits,
                    const ConvProblem& problem, Stream stream);
// Trials of these kernels, see cuda/hopper.h.
void conv_trial_begin();
bool conv_trial_end(Stream stream);
void conv_grad_weight_trial_begin();
bool conv_grad_weight_trial_end(Stream stream);

// Few channels in a group and kernels of usual shape, on plain arrays. exist: is there a kernel; suit: and is
// it the best way for that part. y (transposed: the gradient of x) may have a bias. The gradient of the
// weights has scratch for conv_planes_splits times the weights, in float.
enum class ConvPart { forward, grad_x, grad_weight };
bool conv_planes_exist(Dtype dtype, const ConvProblem& problem);
bool conv_planes_suit(Dtype dtype, const ConvProblem& problem, ConvPart part);
void conv_planes(Dtype dtype, void* y, const void* x, const void* weight, const void* bias,
                 const ConvProblem& problem, bool transposed, Stream stream);
int64_t conv_planes_splits(Dtype dtype, const ConvProblem& problem);
void conv_planes_grad_weight(Dtype dtype, void* grad_weight, const void* grad_y, const void* x, void* scratch,
                             const ConvProblem& problem, Stream stream);

// One input channel in each group, of any shape: plain arrays.
void depthwise_forward(Dtype dtype, void* y, const void* x, const void* weight, const void* bias,
                       const ConvProblem& problem, Stream stream);
void depthwise_grad_x(Dtype dtype, void* grad_x, const void* grad_y, const void* weight, const void* bias,
                      const ConvProblem& problem, Stream stream);
// Along one axis, stride 1, no dilation.
bool depthwise_rows_fit(const ConvProblem& problem);
void depthwise_rows(Dtype dtype, void* y, const void* x, const void* weight, const void* bias,
                    const ConvProblem& problem, bool transposed, Stream stream);
// scratch: depthwise_splits * out_channels * taps sums.
int64_t depthwise_splits(const ConvProblem& problem);
void depthwise_grad_weight(Dtype dtype, void* grad_weight, const void* grad_y, const void* x, void* scratch,
                           const ConvProblem& problem, Stream stream);

}  // namespace fastdl::cuda
