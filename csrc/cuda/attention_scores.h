// What both kinds of attention kernels share: what becomes of a raw product of a query and a key, which
// weights dropout keeps, and which rows a block works on.
//
// Scores are in units of log 2: exponentials are powers of two. A score is -infinity where it is hidden, by a
// mask, by causality or as a key that does not exist.
#pragma once

#include "cuda/attention.h"
#include "cuda/numeric.h"

namespace fastdl::cuda {

constexpr double kLog2E = 1.4426950408889634074;

template <class T>
struct Scores {
  using C = Compute<T>;
  const T* added;
  const uint8_t* allowed;
  int64_t mask_batch, mask_head, mask_row, mask_col;
  int heads, queries, keys;
  bool causal;
  C factor;            // scale * log2(e)
  Key key;             // its words are read where they are needed: no registers are taken
  uint32_t threshold;  // words below it are dropped; 0: no dropout
  C kept;              // what kept weights are multiplied by

  Scores(const AttentionMask& m, const Attention& a)
      : added(static_cast<const T*>(m.added)),
        allowed(static_cast<const uint8_t*>(m.allowed)),
        mask_batch(m.batch),
        mask_head(m.head),
        mask_row(m.row),
        mask_col(m.col),
        heads(int(a.heads)),
        queries(int(a.queries)),
        keys(int(a.keys)),
        causal(a.causal),
        factor(C(a.scale * kLog2E)),
        key(a.key),
        threshold(a.p < 1 ? uint32_t(a.p * 0x1p31 + 0.5) : 0x80000000u),
        kept(a.p < 1 ? C(1 / (1 - a.p)) : C(0)) {}

  __host__ __device__ __forceinline__ bool masked() const { return added != nullptr || allowed != nullptr; }
  __device__ __forceinline__ int64_t mask_at(int b, int h) const { return b * mask_batch + h * mask_head; }

  // Neither need exist.
  __device__ __forceinline__ bool hides(int i, int j) const {
    return j >= keys || i >= queries || (causal && j > i);
  }
  // What the mask adds to a score that is not hidden. `at`: mask_at of the head.
  __device__ __forceinline__ C term(int64_t at, int i, int j) const {
    const int64_t place = at + i * mask_row + j * mask_col;
    if (added != nullptr) return C(widen(added[place])) * C(kLog2E);
    return allowed[place] != 0 ? C(0) : -infinity<C>();
  }
  __device__ __forceinline__ C operator()(C raw, int64_t at, int i, int j) const {
    if (hides(i, j)) return -infinity<C>();
    return masked() ? raw * factor + term(at, i, j) : raw * factor;
  }

  // The words of queries 4 * quad .. 4 * quad + 3 and key j. `head`: b * heads + h.
  __device__ __forceinline__ void words(int64_t head, int j, int quad, uint32_t (&four)[4]) const {
    key.philox()(uint64_t((head * keys + j) * ((queries + 3) / 4) + quad), four);
  }
  __device__ __forceinline__ bool keeps(uint32_t word) const { return (word >> 1) >= threshold; }
};

// Which of the four elements that a lane has of a fragment (fragments.h) dropout keeps, as bits. Four queries
// share a call of the generator; each lane makes one call and lanes exchange words. Rows are queries row ..
// row + 15, columns keys column .. column + 7:
template <class T>
__device__ __forceinline__ uint32_t kept_by_query(const Scores<T>& scores, int64_t head, int row,
                                                  int column) {
  // Lanes with the same keys and rows 4 a .. 4 a + 3 make the calls for two keys and two quads of rows ..
  const int lane = lane_id(), mine = lane / 4 % 4;
  uint32_t w[4];
  scores.words(head, column + lane % 4 * 2 + mine % 2, row / 4 + mine / 2 * 2 + lane / 16, w);
  // .. and transpose: lane `mine` gets word `mine` of all four.
  const bool odd = mine % 2 != 0, high = mine >= 2;
  const uint32_t s0 = shuffle_xor(odd ? w[0] : w[1], 4), s1 = shuffle_xor(odd ? w[2] : w[3], 4);
  if (odd)
    w[0] = s0, w[2] = s1;
  else
    w[1] = s0, w[3] = s1;
  const uint32_t s2 = shuffle_xor(high ? w[0] : w[2], 8), s3 = shuffle_xor(high ? w[1] : w[3], 8);
  if (high)
    w[0] = s2, w[1] = s3;
  else
    w[2] = s2, w[3] = s3;
  uint32_t bits = 0;
  FASTDL_UNROLL
  for (int k = 0; k < 4; ++k) bits |= uint32_t(scores.keeps(w[k])) << k;
  return bits;
}
// Rows are keys row .. row + 15, columns queries column .. column + 7:
template <class T>
__device__ __forceinline__ uint32_t kept_by_key(const Scores<T>& scores, int64_t head, int row, int column) {
  // Two lanes share four queries of keys g and g + 8: the even one calls for the first.
  const int lane = lane_id();
  const bool odd = lane % 2 != 0;
  uint32_t w[4];
  scores.words(head, row + lane / 4 + (odd ? 8 : 0), column / 4 + lane / 2 % 2, w);
  const uint32_t s0 = shuffle_xor(odd ? w[0] : w[2], 1), s1 = shuffle_xor(odd ? w[1] : w[3], 1);
  const uint32_t mine[4] = {odd ? s0 : w[0], odd ? s1 : w[1], odd ? w[2] : s0, odd ? w[3] : s1};
  uint32_t bits = 0;
  FASTDL_UNROLL
  for (int k = 0; k < 4; ++k) bits |= uint32_t(scores.keeps(mine[k])) << k;
  return bits;
}

// Which of a warp's weights stay, four bits for each tile of eight columns. The generator is long: it is
// called in a loop.
template <bool kOwnKeys, class T, int N>
__device__ __forceinline__ uint32_t kept_weights(const Scores<T>& scores, int64_t head, int row, int column) {
  static_assert(N <= 8);
  uint32_t bits = 0;
  FASTDL_ROLLED
  for (int n = 0; n < N; ++n)
    bits |= (kOwnKeys ? kept_by_key(scores, head, row, column + 8 * n)
                      : kept_by_query(scores, head, row, column + 8 * n))
            << (4 * n);
  return bits;
}

// Rows of `pack` heads of queries that share keys are one after the other: with few queries a block serves
// all heads of a group, and reads keys and values once for them.
struct QueryRows {
  int queries, pack;
  __device__ __forceinline__ int count() const { return queries * pack; }
  __device__ __forceinline__ int head(int row) const {
    return pack == 1 ? 0 : int(unsigned(row) / unsigned(queries));
  }
  __device__ __forceinline__ int query(int row) const {
    return pack == 1 ? row : int(unsigned(row) % unsigned(queries));
  }
};

// 2^x, for weights: below the normal numbers 0 will do.
__device__ __forceinline__ float power_of_two(float x) {
  return exp2_approximate(x);
}
__device__ __forceinline__ double power_of_two(double x) {
  return std::exp2(x);
}

template <class T>
__device__ __forceinline__ T* head_of(const Heads& x, int64_t b, int64_t h) {
  return static_cast<T*>(x.data) + b * x.batch + h * x.head;
}

// Where partial results of a part of the keys go: o (parts, rows, V), then lse (parts, rows), -infinity for
// nothing.
template <class C>
struct Partial {
  C *o, *lse;
  int64_t rows;
};

// The kernels' arguments. With parts > 1 a block sees per_part keys and leaves a partial result.
template <class T>
struct AttentionForward {
  using C = Compute<T>;
  Heads y, query, key, value;
  C* lse;
  Partial<C> partial;
  Scores<T> scores;
  int groups, size, value_size, ratio;  // ratio: H / G
  QueryRows rows;
  int tiles, parts, per_part;
  bool async;  // rows are whole, aligned packs of 16 bytes

  // What block n of batch * heads / pack * tiles * parts works on: the longest rows first.
  struct Place {
    int part, row, head, batch;
  };
  __device__ __forceinline__ Place place(unsigned n, int rows_of_tile) const {
    const unsigned heads = unsigned(scores.heads / rows.pack), item = n / unsigned(parts),
                   head = item / unsigned(tiles);
    return {int(n % unsigned(parts)), (tiles - 1 - int(item % unsigned(tiles))) * rows_of_tile,
            int(head % heads) * rows.pack, int(head / heads)};
  }
  // The key after the last that rows of this tile see in this part.
  __device__ __forceinline__ int last_key(const Place& at, int rows_of_tile) const {
    const int row = at.row + rows_of_tile < rows.count() ? at.row + rows_of_tile : rows.count();
    int last = scores.keys;
    if (scores.causal) {
      const int seen = rows.pack == 1 ? row : rows.queries;
      last = seen < last ? seen : last;
    }
    return parts == 1 || last < (at.part + 1) * per_part ? last : (at.part + 1) * per_part;
  }
  __device__ __forceinline__ const T* query_row(const Place& at, int row) const {
    return head_of<const T>(query, at.batch, at.head + rows.head(row)) + rows.query(row) * query.row;
  }
  // Row number in arrays (B, H, L).
  __device__ __forceinline__ int64_t flat_row(const Place& at, int row) const {
    return (int64_t(at.batch) * scores.heads + at.head) * scores.queries + row;
  }
};

template <class T>
struct AttentionBackward {
  using C = Compute<T>;
  Heads grad_query, grad_key, grad_value, grad_y, query, key, value;
  const C* statistics;  // (B, H, padded, 2): lse and rowsum(grad_y y) of each query, infinity and 0 beyond
  Scores<T> scores;
  int batch, groups, size, value_size, ratio, padded;
  C scale;
  bool async;

  __device__ __forceinline__ const C* statistics_of(int b, int h) const {
    return statistics + (int64_t(b) * scores.heads + h) * padded * 2;
  }
};

inline bool whole_packs(const Heads& x, int64_t size, size_t item) {
  const auto pack = [&](int64_t n) { return n * int64_t(item) % 16 == 0; };
  return aligned(x.data, 16) && pack(size) && pack(x.batch) && pack(x.head) && pack(x.row);
}

// Heads whose queries share a block, and into how many parts keys may be split.
int heads_of_block(Dtype dtype, const Attention& a);
int64_t most_parts(const Attention& a);

// The kernels by file.
inline int exact_rows(Dtype dtype) {  // queries of a block
  return dtype == Dtype::float64 ? 32 : 64;
}
template <class T>
void exact_forward(const AttentionForward<T>& f, const Attention& a, Stream stream);
template <class T>
void exact_backward(const AttentionBackward<T>& f, Stream stream);
template <class T>
void exact_mask(void* partial, const MaskShape& shape, int parts, const AttentionBackward<T>& f,
                Stream stream);

bool tensor_possible(Dtype dtype, const Attention& a);
int tensor_rows(Dtype dtype, const Attention& a);  // queries of a block
template <class T>
void tensor_forward(const AttentionForward<T>& f, const Attention& a, Dtype dtype, Stream stream);
template <class T>
void tensor_backward(const AttentionBackward<T>& f, const Attention& a, Stream stream);

bool hopper_forward_wanted(Dtype dtype, const Attention& a);  // but for strides
int64_t hopper_forward_scratch(const Attention& a);           // bytes that it wants
template <class T>
bool hopper_forward(const AttentionForward<T>& f, const Attention& a, void* scratch,
                    Stream stream);  // false: not these strides
// Bytes of scratch, 0 if this is not a problem for them. T has 16 bits.
template <class T>
int64_t hopper_backward_scratch(const AttentionBackward<T>& f);
template <class T>
void hopper_backward(const AttentionBackward<T>& f, void* scratch, Stream stream);

}  // namespace fastdl::cuda
