// Attention: which kernels do it (attention.h), how keys are split for few queries, what backward needs of
// each row.
//
// Few blocks of queries do not fill the device; then each looks at a part of the keys, and `combine` adds the
// parts' results in their order, weighted by 2^(lse of the part). A block of few queries takes all heads of a
// group together.
#include <algorithm>

#include "cuda/attention_scores.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 128, kMostParts = 64;
constexpr int kPadding = 128;  // the largest tile of rows
constexpr int kMaskTile = 64;
constexpr int kKeyStep = 128;  // a part has whole tiles of keys of every kernel

int rows_of_block(Dtype dtype, const Attention& a) {
  return tensor_possible(dtype, a) ? tensor_rows(dtype, a) : exact_rows(dtype);
}

// One block per row: y = sum_part 2^(lse_part - lse) o_part. Lanes have two parts each of what weights are made
// of, so that all of them are on their way at once; each warp does that for itself.
template <class T>
__global__ void __launch_bounds__(kThreads) combine(const AttentionForward<T> f) {
  using C = Compute<T>;
  static_assert(kMostParts == 64);
  const int64_t row = blockIdx.x;
  const int lane = lane_id();
  C weights[2];
  FASTDL_UNROLL
  for (int k = 0; k < 2; ++k) {
    const int part = lane + 32 * k;
    weights[k] = part < f.parts ? f.partial.lse[part * f.partial.rows + row] : -infinity<C>();
  }
  const C top = warp_reduce(larger(weights[0], weights[1]), Larger{});
  const bool empty = top == -infinity<C>();
  const C base = empty ? C(0) : top;
  FASTDL_UNROLL
  for (C& weight : weights) weight = power_of_two(weight - base);
  const C total = warp_reduce(weights[0] + weights[1], Plus{});
  const C inverse = empty ? C(0) : 1 / total;
  const int i = int(row % f.scores.queries);
  const int64_t head = row / f.scores.queries;
  T* const y = head_of<T>(f.y, head / f.scores.heads, head % f.scores.heads) + i * f.y.row;
  for (int first = int(threadIdx.x) - lane; first < f.value_size; first += kThreads) {
    const int column = first + lane;
    C sum = 0;
    FASTDL_UNROLL_BY(8)
    for (int part = 0; part < f.parts; ++part) {
      const C weight = shuffle(part < 32 ? weights[0] : weights[1], part % 32);
      if (column < f.value_size)
        sum += weight * f.partial.o[(part * f.partial.rows + row) * f.value_size + column];
    }
    if (column < f.value_size) y[column] = narrow<T>(sum * inverse);
  }
  if (threadIdx.x == 0) f.lse[row] = empty ? infinity<C>() : top + std::log2(total);
}

// Groups of lanes have kRowsAhead padded rows of a head each: (lse, rowsum(grad_y y)). Rows are short, so that
// what they have in common is counted once for some of them, and all their packs are loaded before one is used.
constexpr int kRowsAhead = 4, kStatisticsThreads = 256;
template <class T>
__global__ void __launch_bounds__(kStatisticsThreads)
    row_statistics(Compute<T>* statistics, const Compute<T>* lse, Heads grad_y, Heads y, int heads,
                   int queries, int padded, int size, int64_t rows, int group, bool packed) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>;
  const int lane = int(threadIdx.x) & (group - 1), teams = kStatisticsThreads / group;
  // kPadding, and so every head, is a multiple of kRowsAhead.
  const int64_t first = (int64_t(blockIdx.x) * teams + int(threadIdx.x) / group) * kRowsAhead;
  const bool mine = first < rows;
  // 64-bit divisions take some hundred instructions
  const int64_t head = !mine                     ? 0
                       : rows < int64_t(1) << 31 ? int64_t(uint32_t(first) / uint32_t(padded))
                                                 : first / padded;
  const int i = int(first - head * padded);
  C sums[kRowsAhead] = {};
  if (mine && i < queries) {
    const int64_t batch = uint32_t(head) / uint32_t(heads);  // blocks are fewer than 2^31
    const T* g = head_of<const T>(grad_y, batch, head - batch * heads) + i * grad_y.row;
    const T* out = head_of<const T>(y, batch, head - batch * heads) + i * y.row;
    if (packed) {
      for (int e = lane * N; e < size; e += group * N) {
        Loaded<T, N> a[kRowsAhead], b[kRowsAhead];
        FASTDL_UNROLL
        for (int r = 0; r < kRowsAhead; ++r) {
          const int there =
              smaller(r, queries - 1 - i);  // the last one again, so that no load has a condition
          a[r] = Loaded<T, N>(*reinterpret_cast<const Pack<T, N>*>(g + there * grad_y.row + e));
          b[r] = Loaded<T, N>(*reinterpret_cast<const Pack<T, N>*>(out + there * y.row + e));
        }
        FASTDL_UNROLL
        for (int r = 0; r < kRowsAhead; ++r) FASTDL_UNROLL
        for (int k = 0; k < N; ++k) sums[r] += C(widen(a[r][k])) * C(widen(b[r][k]));
      }
    } else {
      for (int r = 0; r < kRowsAhead && i + r < queries; ++r)
        for (int e = lane; e < size; e += group)
          sums[r] += C(widen(g[r * grad_y.row + e])) * C(widen(out[r * y.row + e]));
    }
  }
  FASTDL_ROLLED
  for (int mask = group / 2; mask > 0; mask /= 2) FASTDL_UNROLL
  for (int r = 0; r < kRowsAhead; ++r) sums[r] += shuffle_xor(sums[r], mask);
  if (!mine || lane != 0) return;
  FASTDL_UNROLL
  for (int r = 0; r < kRowsAhead; ++r) {
    const bool there = i + r < queries;
    statistics[2 * (first + r)] = there ? lse[head * queries + i + r] : infinity<C>();
    statistics[2 * (first + r) + 1] = there ? sums[r] : C(0);
  }
}

template <class T>
AttentionBackward<T> backward_of(const Heads& grad_query, const Heads& grad_key, const Heads& grad_value,
                                 const Heads& grad_y, const Heads& query, const Heads& key,
                                 const Heads& value, const AttentionMask& mask, const void* statistics,
                                 const Attention& a) {
  using C = Compute<T>;
  const bool async = whole_packs(query, a.size, sizeof(T)) && whole_packs(key, a.size, sizeof(T)) &&
                     whole_packs(value, a.value_size, sizeof(T)) &&
                     whole_packs(grad_y, a.value_size, sizeof(T));
  return {grad_query,
          grad_key,
          grad_value,
          grad_y,
          query,
          key,
          value,
          static_cast<const C*>(statistics),
          Scores<T>(mask, a),
          int(a.batch),
          int(a.groups),
          int(a.size),
          int(a.value_size),
          int(a.heads / a.groups),
          int(attention_padded(a.queries)),
          C(a.scale),
          async};
}

}  // namespace

int64_t attention_padded(int64_t queries) {
  return (queries + kPadding - 1) / kPadding * kPadding;
}

// Dropout's words come by four queries of one head.
int heads_of_block(Dtype dtype, const Attention& a) {
  const int64_t ratio = a.heads / a.groups;
  const int most = tensor_possible(dtype, a) ? kPadding : exact_rows(dtype);
  return a.p == 0 && ratio * a.queries <= most ? int(ratio) : 1;
}

int64_t most_parts(const Attention& a) {
  const int64_t keys = a.causal && a.queries < a.keys ? a.queries : a.keys;
  const int64_t parts = keys / 256;  // less is not worth combining
  return parts < 1 ? 1 : parts < kMostParts ? parts : kMostParts;
}

int attention_parts(Dtype dtype, const Attention& a) {
  if (a.rows() == 0) return 1;
  const int pack = heads_of_block(dtype, a);
  if (pack == 1 && hopper_forward_wanted(dtype, a)) return 1;
  const int64_t blocks = a.batch * a.heads / pack * ceil_div(a.queries * pack, rows_of_block(dtype, a));
  const int64_t wanted = 2 * multiprocessors() / blocks, most = most_parts(a);
  return int(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

int64_t attention_forward_scratch(Dtype dtype, const Attention& a, int parts) {
  if (parts > 1) return parts * a.rows() * (a.value_size + 1) * (dtype == Dtype::float64 ? 8 : 4);
  return hopper_forward_wanted(dtype, a) ? hopper_forward_scratch(a) : 0;
}

void attention_forward(Dtype dtype, const Heads& y, void* lse, const Heads& query, const Heads& key,
                       const Heads& value, const AttentionMask& mask, const Attention& a, int parts,
                       void* scratch, Stream stream) {
  if (a.rows() == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const int pack = heads_of_block(dtype, a), rows = rows_of_block(dtype, a);
    C* const o = static_cast<C*>(scratch);
    const bool async = whole_packs(query, a.size, sizeof(T)) && whole_packs(key, a.size, sizeof(T)) &&
                       whole_packs(value, a.value_size, sizeof(T));
    const AttentionForward<T> f{y,
                                query,
                                key,
                                value,
                                static_cast<C*>(lse),
                                {o, parts > 1 ? o + parts * a.rows() * a.value_size : nullptr, a.rows()},
                                Scores<T>(mask, a),
                                int(a.groups),
                                int(a.size),
                                int(a.value_size),
                                int(a.heads / a.groups),
                                {int(a.queries), pack},
                                int(ceil_div(a.queries * pack, rows)),
                                parts,
                                int(ceil_div(ceil_div(a.keys, parts), kKeyStep)) * kKeyStep,
                                async};
    if constexpr (sizeof(T) == 2) {
      if (pack == 1 && parts == 1 && hopper_forward_wanted(dtype, a) &&
          hopper_forward<T>(f, a, scratch, stream))
        return;
    }
    if constexpr (!std::is_same_v<T, double>) {
      if (tensor_possible(dtype, a))
        tensor_forward<T>(f, a, dtype, stream);
      else
        exact_forward<T>(f, a, stream);
    } else {
      exact_forward<T>(f, a, stream);
    }
    if (parts > 1)
      launch("attention_combine", combine<T>, dim3(unsigned(a.rows())), dim3(kThreads), 0, stream, f);
  });
}

// Microseconds: of launches, of a step (64 queries, or 32 rows), of an addition. Those of the kernels for 9.0 agree
// with an H200 to some percent from 12 tasks to 256, the others' steps are counted. Causal problems take half of both.
bool attention_backward_prefers_hopper(const Attention& a) {
  if (a.p > 0) return true;
  const auto tiles = [](int64_t n, int64_t rows) { return double(ceil_div(n, rows)); };
  const double ratio = double(a.heads) / double(a.groups), device = multiprocessors();
  const bool wide = a.size > 64;
  const double tasks = double(a.batch * a.groups) * tiles(a.keys, 128);
  const double hopper = 9 + std::ceil(tasks / device) * tiles(a.queries, 64) * ratio * (wide ? 2.4 : 2.0) +
                        2 * (tiles(a.keys, 128) - 1);
  const double blocks =
      double(a.batch * a.groups) * tiles(a.keys, 64) + double(a.batch * a.heads) * tiles(a.queries, 64);
  const double steps = std::max(tiles(a.queries, 32) * ratio, tiles(a.keys, 32));
  const double tensor = 6 + std::max(1.0, blocks / (2 * device)) * steps * (wide ? 1.5 : 0.9);
  return hopper <= 1.2 * tensor;
}

int64_t attention_backward_scratch(Dtype dtype, const Heads& grad_query, const Heads& grad_key,
                                   const Heads& grad_value, const Heads& grad_y, const Heads& query,
                                   const Heads& key, const Heads& value, const AttentionMask& mask,
                                   const Attention& a) {
  int64_t bytes = 0;
  if (!a.hopper) return bytes;
  by_dtype(dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) == 2)
      bytes = hopper_backward_scratch<T>(
          backward_of<T>(grad_query, grad_key, grad_value, grad_y, query, key, value, mask, nullptr, a));
  });
  return bytes;
}

void attention_backward(Dtype dtype, const Heads& grad_query, const Heads& grad_key, const Heads& grad_value,
                        const Heads& grad_y, const Heads& query, const Heads& key, const Heads& value,
                        const AttentionMask& mask, const Heads& y, const void* lse, void* statistics,
                        void* scratch, const Attention& a, Stream stream) {
  if (a.batch * a.heads == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const int64_t padded = attention_padded(a.queries), rows = a.batch * a.heads * padded;
    if (rows > 0) {
      const bool packed =
          whole_packs(grad_y, a.value_size, sizeof(T)) && whole_packs(y, a.value_size, sizeof(T));
      int group = 1;  // of lanes with a pack each; 8 at least, for rows that lie apart
      while (group < 32 && (group < 8 || group * kWidest<T> < a.value_size)) group *= 2;
      const int64_t block = int64_t(kStatisticsThreads / group) * kRowsAhead;
      launch("attention_statistics", row_statistics<T>, dim3(unsigned(ceil_div(rows, block))),
             dim3(kStatisticsThreads), 0, stream, static_cast<C*>(statistics), static_cast<const C*>(lse),
             grad_y, y, int(a.heads), int(a.queries), int(padded), int(a.value_size), rows, group, packed);
    }
    const auto f =
        backward_of<T>(grad_query, grad_key, grad_value, grad_y, query, key, value, mask, statistics, a);
    if constexpr (sizeof(T) == 2) {
      if (scratch != nullptr) return hopper_backward<T>(f, scratch, stream);
    }
    if constexpr (!std::is_same_v<T, double>) {
      if (tensor_possible(dtype, a)) return tensor_backward<T>(f, a, stream);
    }
    exact_backward<T>(f, stream);
  });
}

int attention_mask_parts(const Attention& a, const MaskShape& shape) {
  const int64_t blocks =
      shape.batch * shape.heads * ceil_div(shape.rows, kMaskTile) * ceil_div(a.keys, kMaskTile);
  const int64_t shared = (shape.batch == 1 ? a.batch : 1) * (shape.heads == 1 ? a.heads : 1) *
                         (shape.rows == 1 ? ceil_div(a.queries, kMaskTile) : 1);
  const int64_t wanted = blocks == 0 ? 1 : 2 * multiprocessors() / blocks;
  return int(wanted < 1 ? 1 : wanted < shared ? wanted : shared < 1 ? 1 : shared);
}

void attention_mask_gradient(Dtype dtype, void* partial, const MaskShape& shape, int parts,
                             const Heads& grad_y, const Heads& query, const Heads& key, const Heads& value,
                             const AttentionMask& mask, const void* statistics, const Attention& a,
                             Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    exact_mask<T>(partial, shape, parts,
                  backward_of<T>({}, {}, {}, grad_y, query, key, value, mask, statistics, a), stream);
  });
}

}  // namespace fastdl::cuda
