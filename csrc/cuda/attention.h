// Scaled dot-product attention on CUDA: y = dropout(softmax(scale * Q K^T + mask)) V. B batch, H heads of
// queries, G heads of keys and values (each serves H / G heads of queries in a row), L queries, S keys, E and
// V the sizes of a query and of a value.
//
//   attention_hopper_*.cu  16-bit types on compute capability 9.0, sizes 64 and 128; without masks and dropout
//                          forward, 256 too
//   attention_tensor_*.cu  16-bit types and float32: tensor cores, sizes up to 256 (float32: 128)
//   attention_exact.cu     everything else in the type's own arithmetic, any size; the gradient of masks
#pragma once

#include "cuda/random.h"

namespace fastdl::cuda {

// (batch, head, row, size) at these strides, the last axis contiguous.
struct Heads {
  void* data;
  int64_t batch, head, row;
};

// Element (b, h, i, j) at the given strides, 0 along axes that are broadcast. At most one pointer is there:
// what is added to scores, of the element type, or bytes, 0 where key j is invisible to query i.
struct AttentionMask {
  const void *added, *allowed;
  int64_t batch, head, row, col;
};

struct Attention {
  int64_t batch, heads, groups, queries, keys, size, value_size;
  bool causal;  // query i sees keys 0 .. i
  double scale, p;
  Key key;      // of dropout
  bool tf32;    // may float32 be rounded to TF32?
  bool hopper;  // may the kernels for compute capability 9.0 be used?

  int64_t rows() const { return batch * heads * queries; }
};

// Into how many parts the keys are split, so that few queries fill the device, and bytes of scratch for that.
int attention_parts(Dtype dtype, const Attention& a);
int64_t attention_forward_scratch(Dtype dtype, const Attention& a, int parts);

// lse (B, H, L), in the type computed in: base-2 logarithm of sum_j exp(score_ij), infinite for a row that
// sees nothing, whose y is 0.
void attention_forward(Dtype dtype, const Heads& y, void* lse, const Heads& query, const Heads& key,
                       const Heads& value, const AttentionMask& mask, const Attention& a, int parts,
                       void* scratch, Stream stream);

// A trial of the kernels for compute capability 9.0 (hopper.h): did every wait end? Waits for the stream.
void hopper_forward_trial_begin();
bool hopper_forward_trial_end(Stream stream);
void hopper_backward_trial_begin();
bool hopper_backward_trial_end(Stream stream);

// Rows of a head in `statistics`, an array (B, H, that, 2) of the type computed in that backward needs.
int64_t attention_padded(int64_t queries);

// Few tasks leave multiprocessors idle, and tasks of a head wait for each other's additions; then the blocks of 64
// rows of attention_tensor_backward.cu, four times as many, are sooner done, though they compute seven products.
bool attention_backward_prefers_hopper(const Attention& a);

// Bytes of scratch with which backward uses the kernels for compute capability 9.0; 0: they cannot do this.
int64_t attention_backward_scratch(Dtype dtype, const Heads& grad_query, const Heads& grad_key,
                                   const Heads& grad_value, const Heads& grad_y, const Heads& query,
                                   const Heads& key, const Heads& value, const AttentionMask& mask,
                                   const Attention& a);

void attention_backward(Dtype dtype, const Heads& grad_query, const Heads& grad_key, const Heads& grad_value,
                        const Heads& grad_y, const Heads& query, const Heads& key, const Heads& value,
                        const AttentionMask& mask, const Heads& y, const void* lse, void* statistics,
                        void* scratch, const Attention& a, Stream stream);

// After backward, which left `statistics`: the gradient of an added mask of shape (b, h, l, S), each of the
// first three either the problem's or 1, as partial sums (parts, b, h, l, S) in the type computed in.
struct MaskShape {
  int64_t batch, heads, rows;
};
int attention_mask_parts(const Attention& a, const MaskShape& shape);
void attention_mask_gradient(Dtype dtype, void* partial, const MaskShape& shape, int parts,
                             const Heads& grad_y, const Heads& query, const Heads& key, const Heads& value,
                             const AttentionMask& mask, const void* statistics, const Attention& a,
                             Stream stream);

}  // namespace fastdl::cuda
