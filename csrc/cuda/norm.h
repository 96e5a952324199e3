// Normalisation on CUDA: rows (layer, RMS, group) and channels (batch), and local response. Statistics are
// float64 whatever x is, as on the CPU. weight and bias may be null, gradients that are not wanted as well.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

// Rows of `length` elements, each normalised by itself. Element i of row r has weight number
// (r % groups) * (length / inner) + i / inner: layer norm has groups = inner = 1.
struct RowNorm {
  int64_t rows, length, groups, inner;
  double eps;
};
// mean == null: RMS norm, var is the mean square then.
void row_norm_forward(Dtype dtype, void* y, double* mean, double* var, const void* x, const void* weight,
                      const void* bias, const RowNorm& problem, Stream stream);
// Bytes of scratch with which row_norm_backward also makes the gradients of weight and bias (in the same pass
// over memory); 0: channel_gradients has to.
int64_t row_norm_scratch(Dtype dtype, const RowNorm& problem);
void row_norm_backward(Dtype dtype, void* grad_x, void* grad_weight, void* grad_bias, const void* grad_y,
                       const void* x, const void* weight, const double* mean, const double* var,
                       const RowNorm& problem, void* scratch, Stream stream);

// x (batch, channels, inner). The statistics of element (n, c, i) are number n * per_batch + c / per_group.
struct ChannelNorm {
  int64_t batch, channels, inner, per_batch, per_group;
  double eps;
};
// Bytes of scratch for what follows.
int64_t channel_scratch(Dtype dtype, const ChannelNorm& problem);
// Sums over batch and inner of grad_y and grad_y * h, h the normalised x (mean == null: RMS): gradients of
// bias and weight, in x's type, and both times the weight in the computing type at the start of scratch.
void channel_gradients(Dtype dtype, void* grad_weight, void* grad_bias, const void* grad_y, const void* x,
                       const void* weight, const double* mean, const double* var, const ChannelNorm& problem,
                       void* scratch, Stream stream);
// Its second half: scratch has 2 * channels numbers, then `slabs` partial sums (2, channels).
void finish_channel_gradients(Dtype dtype, void* grad_weight, void* grad_bias, const void* weight,
                              void* scratch, int64_t slabs, int64_t channels, Stream stream);
// Partial sums of single planes, of which each is cut into plane_slices: (slices, 2, planes) of x minus the plane's
// first element and its square; (batch * slices, 2, channels) of grad_y and grad_y * h.
int64_t plane_slices(Dtype dtype, const ChannelNorm& problem);
void plane_moments(Dtype dtype, void* partials, const void* x, const ChannelNorm& problem, Stream stream);
void plane_gradients(Dtype dtype, void* partials, const void* grad_y, const void* x, const double* mean,
                     const double* var, const ChannelNorm& problem, Stream stream);
// y from given statistics; grad_x from sums (2, statistics) of w grad_y and w grad_y * h (null: they were given).
void norm_apply(Dtype dtype, void* y, const void* x, const double* mean, const double* var,
                const void* weight, const void* bias, const ChannelNorm& problem, Stream stream);
void norm_apply_gradient(Dtype dtype, void* grad_x, const void* grad_y, const void* x, const double* mean,
                         const double* var, const void* weight, const void* sums, const ChannelNorm& problem,
                         Stream stream);
// Group norm of long rows: what is above, and what joins planes to rows. Bytes of scratch; 0: row_norm's kernels are
// better.
int64_t group_norm_scratch(Dtype dtype, const ChannelNorm& problem);
void group_norm_forward(Dtype dtype, void* y, double* mean, double* var, const void* x, const void* weight,
                        const void* bias, const ChannelNorm& problem, void* scratch, Stream stream);
void group_norm_backward(Dtype dtype, void* grad_x, void* grad_weight, void* grad_bias, const void* grad_y,
                         const void* x, const void* weight, const double* mean, const double* var,
                         const ChannelNorm& problem, void* scratch, Stream stream);
// running = (1 - momentum) * running + momentum * statistic * factor, for up to two of them (null: left out).
struct Running {
  void *mean, *var;
  const double *batch_mean, *batch_var;
  int64_t channels;
  double momentum, unbias;  // the variance's factor
};
// batches (null: not counted) goes up by one.
void update_running(Dtype dtype, const Running& running, int64_t* batches, Stream stream);
// Batch norm: statistics per channel, and y from them; gradients, of which each may be null
// (training: statistics were the batch's own, gradients flow through them). Bytes of scratch: 0 where channels fit.
int64_t batch_norm_scratch(Dtype dtype, const ChannelNorm& problem);
void batch_norm_forward(Dtype dtype, void* y, double* mean, double* var, const void* x, const void* weight,
                        const void* bias, const ChannelNorm& problem, void* scratch, Stream stream);
void batch_norm_backward(Dtype dtype, void* grad_x, void* grad_weight, void* grad_bias, const void* grad_y,
                         const void* x, const void* weight, const double* mean, const double* var,
                         bool training, const ChannelNorm& problem, void* scratch, Stream stream);
// Do a block's registers hold a channel? Then both are one launch (batch_norm_whole.cu).
bool channels_fit(Dtype dtype, const ChannelNorm& problem);
void whole_batch_norm(Dtype dtype, void* y, double* mean, double* var, const void* x, const void* weight,
                      const void* bias, const ChannelNorm& problem, Stream stream);
void whole_batch_norm_backward(Dtype dtype, void* grad_x, void* grad_weight, void* grad_bias,
                               const void* grad_y, const void* x, const void* weight, const double* mean,
                               const double* var, bool training, const ChannelNorm& problem, Stream stream);

// d = k + alpha / size * sum of x^2 over the window of channels; y = x d^-beta.
struct LocalResponse {
  int64_t batch, channels, inner, size;
  double alpha, beta, k;
};
void local_response_forward(Dtype dtype, void* y, const void* x, const LocalResponse& problem, Stream stream);
// scratch: twice x's size in the computing type
void local_response_backward(Dtype dtype, void* grad_x, const void* grad_y, const void* x, void* scratch,
                             const LocalResponse& problem, Stream stream);

}  // namespace fastdl::cuda
