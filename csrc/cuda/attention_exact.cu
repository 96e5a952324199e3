// Attention in the element type's own arithmetic, for any size; see attention.h.
//
// A block of 128 threads has 64 rows, 32 of float64, ("own": queries, for gradients of keys and values those)
// and passes over the other side in tiles of 64 ("stream"). A thread has 8 x 4 products of such a tile and 8
// x 8 numbers of the result. Operands go through shared memory, 32 elements of the sum at a time, turned so
// that a thread reads 16 bytes.
//
// Forward keeps the running maximum m and l = sum exp2(z - m) of each row and rescales the result when m
// rises. Backward recomputes weights from lse: with P the weights, K dropout's factors, D = rowsum(grad_y y),
//   grad_value = (P K)^T grad_y,  dZ = P (K (grad_y value^T) - D),  grad_query = scale dZ key,  grad_key =
//   scale dZ^T query,
// one launch for each; the mask's gradient is dZ, summed over what was broadcast in a fixed order.
// Results wider than kWide columns are cut into chunks, each of which computes the scores again.
#include "cuda/attention_scores.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 128, kTile = 64, kDepth = 32;
constexpr int kStep = kTile + 4;  // of turned operands: fewer threads write to one bank
template <class C>
constexpr int kRows = sizeof(C) == 8 ? 4 : 8;  // own rows of a thread
template <class C>
constexpr int kOwn = 8 * kRows<C>;  // own rows of a block
constexpr int kGroups = 2;
constexpr int kWide = kTile * kGroups;  // columns of a result in a block

// Operands a and b, or rows of the second product's operand in their place; then a tile of weights.
constexpr int kOperands = 2 * kDepth * kStep;
static_assert(kOperands >= kDepth * kWide);
template <class C>
constexpr int kSharedBytes = int(sizeof(C)) * (kOperands + kTile * kStep);

// A thread's rows and columns of a tile.
template <class C>
__device__ __forceinline__ int own_row() {
  return int(threadIdx.x) / 16 * kRows<C>;
}
__device__ __forceinline__ int own_column() {
  return int(threadIdx.x) % 16 * 4;
}

template <int N, class C>
__device__ __forceinline__ void load_packs(C* to, const C* from) {
  constexpr int kPack = kWidest<C>;
  FASTDL_UNROLL
  for (int n = 0; n < N; n += kPack) {
    const auto pack = *reinterpret_cast<const Pack<C, kPack>*>(from + n);
    FASTDL_UNROLL
    for (int k = 0; k < kPack; ++k) to[n + k] = pack.v[k];
  }
}

// to[e][row] = element first + e of row(row), 0 where there is none.
template <int kCount, class C, class Row>
__device__ __forceinline__ void load_turned(C* to, Row row, int first, int size) {
  for (int n = int(threadIdx.x); n < kCount * kDepth; n += kThreads) {
    const auto* from = row(n / kDepth);
    const int e = first + n % kDepth;
    to[n % kDepth * kStep + n / kDepth] = from != nullptr && e < size ? C(widen(from[e])) : C(0);
  }
}

// sum[kRows<C>][4 groups] += a[k][rows] b[k][columns], k < depth.
template <int kGroupCount, class C>
__device__ __forceinline__ void multiply(C (&sum)[kRows<C>][4 * kGroupCount], const C* a, const C* b,
                                         int b_step, int depth, int groups) {
  for (int k = 0; k < depth; ++k) {
    C x[kRows<C>];
    load_packs<kRows<C>>(x, a + k * kStep + own_row<C>());
    FASTDL_UNROLL
    for (int g = 0; g < kGroupCount; ++g) {
      if (g >= groups) break;
      C y[4];
      load_packs<4>(y, b + k * b_step + g * kTile + own_column());
      FASTDL_UNROLL
      for (int r = 0; r < kRows<C>; ++r) FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) sum[r][4 * g + c] += x[r] * y[c];
    }
  }
}

// sum[r][c] = product of own and stream rows.
template <class C, class Own, class Stream>
__device__ __forceinline__ void products(C (&sum)[kRows<C>][4], C* operands, Own own, Stream stream,
                                         int size) {
  FASTDL_UNROLL
  for (int r = 0; r < kRows<C>; ++r) FASTDL_UNROLL
  for (int c = 0; c < 4; ++c) sum[r][c] = 0;
  C* const b = operands + kDepth * kStep;
  for (int first = 0; first < size; first += kDepth) {
    sync_threads();  // the operands before have been read
    load_turned<kOwn<C>>(operands, own, first, size);
    load_turned<kTile>(b, stream, first, size);
    sync_threads();
    multiply<1>(sum, operands, b, kStep, size - first < kDepth ? size - first : kDepth, 1);
  }
}

// result[r][c] += sum over stream rows of weights[stream][own] times columns first.. of row(stream).
template <class C, class Row>
__device__ __forceinline__ void accumulate(C (&result)[kRows<C>][4 * kGroups], const C* weights, C* operands,
                                           Row row, int first, int size) {
  const int groups = (size - first + kTile - 1) / kTile;
  for (int k = 0; k < kTile; k += kDepth) {
    sync_threads();  // weights are written, the operands before have been read
    for (int n = int(threadIdx.x); n < kDepth * kWide; n += kThreads) {
      const auto* from = row(k + n / kWide);
      const int e = first + n % kWide;
      operands[n] = from != nullptr && e < size ? C(widen(from[e])) : C(0);
    }
    sync_threads();
    multiply<kGroups>(result, weights + k * kStep, operands, kWide, kDepth, groups);
  }
}

template <class C>
__device__ __forceinline__ void store_weights(C* weights, const C (&p)[kRows<C>][4]) {
  FASTDL_UNROLL
  for (int c = 0; c < 4; ++c) FASTDL_UNROLL
  for (int r = 0; r < kRows<C>; ++r) weights[(own_column() + c) * kStep + own_row<C>() + r] = p[r][c];
}

// Which weights of this thread dropout keeps, bit 4 r + c, in the tile of own rows from `own` and stream rows
// from `stream`.
template <class T>
__device__ __forceinline__ uint32_t kept_bits(const Scores<T>& scores, int64_t head, bool own_keys, int own,
                                              int stream) {
  using C = Compute<T>;
  uint32_t words[4], bits = 0;
  FASTDL_ROLLED  // the generator is long
      for (int k = 0; k < kRows<C>; ++k) {
    if (own_keys) {  // call k: four queries of row k's key
      scores.words(head, own + own_row<C>() + k, (stream + own_column()) / 4, words);
      FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) bits |= uint32_t(scores.keeps(words[c])) << (4 * k + c);
    } else {  // four rows of column k % 4's key
      scores.words(head, stream + own_column() + k % 4, (own + own_row<C>()) / 4 + k / 4, words);
      FASTDL_UNROLL
      for (int r = 0; r < 4; ++r) bits |= uint32_t(scores.keeps(words[r])) << (4 * (k / 4 * 4 + r) + k % 4);
    }
  }
  return bits;
}

// Block n of AttentionForward::place, times chunks of columns.
template <class T>
__global__ void __launch_bounds__(kThreads) exact_forward_kernel(const AttentionForward<T> f, int chunks) {
  using C = Compute<T>;
  FASTDL_DYNAMIC_SHARED(C, operands);
  C* const weights = operands + kOperands;
  const auto at = f.place(blockIdx.x / unsigned(chunks), kOwn<C>);
  const int chunk = int(blockIdx.x % unsigned(chunks)), first_column = chunk * kWide;
  const int count = f.rows.count(), group = at.head / f.ratio;
  const T *key = head_of<const T>(f.key, at.batch, group),
          *value = head_of<const T>(f.value, at.batch, group);
  const auto query_row = [&](int r) -> const T* {
    return at.row + r < count ? f.query_row(at, at.row + r) : nullptr;
  };

  C y[kRows<C>][4 * kGroups] = {}, top[kRows<C>], total[kRows<C>];
  FASTDL_UNROLL
  for (int r = 0; r < kRows<C>; ++r) top[r] = -infinity<C>(), total[r] = 0;
  const int last = f.last_key(at, kOwn<C>);
  for (int j = f.parts == 1 ? 0 : at.part * f.per_part; j < last; j += kTile) {
    const auto row_of = [&](const T* head, int64_t step) {
      return [=, &f](int r) -> const T* { return j + r < f.scores.keys ? head + (j + r) * step : nullptr; };
    };
    C z[kRows<C>][4];
    products(z, operands, query_row, row_of(key, f.key.row), f.size);
    FASTDL_UNROLL
    for (int r = 0; r < kRows<C>; ++r) {
      const int row = at.row + own_row<C>() + r;
      const int64_t mask = f.scores.mask_at(at.batch, at.head + f.rows.head(row < count ? row : 0));
      C most = top[r];
      FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) {
        z[r][c] =
            f.scores(z[r][c], mask, row < count ? f.rows.query(row) : f.scores.queries, j + own_column() + c);
        most = larger(most, z[r][c]);
      }
      most = lanes_reduce<16>(most, Larger{});
      const C base = most == -infinity<C>() ? C(0) : most;  // nothing seen yet: no difference of infinities
      const C shrink = power_of_two(top[r] - base);
      C sum = 0;
      FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) {
        z[r][c] = power_of_two(z[r][c] - base);
        sum += z[r][c];
      }
      total[r] = total[r] * shrink + lanes_reduce<16>(sum, Plus{});
      top[r] = most;
      FASTDL_UNROLL
      for (int c = 0; c < 4 * kGroups; ++c) y[r][c] *= shrink;
    }
    if (f.scores.threshold != 0) {
      const uint32_t bits =
          kept_bits(f.scores, int64_t(at.batch) * f.scores.heads + at.head, false, at.row, j);
      FASTDL_UNROLL
      for (int r = 0; r < kRows<C>; ++r) FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) z[r][c] = bits >> (4 * r + c) & 1 ? z[r][c] : C(0);
    }
    store_weights(weights, z);
    accumulate(y, weights, operands, row_of(value, f.value.row), first_column, f.value_size);
  }

  FASTDL_UNROLL
  for (int r = 0; r < kRows<C>; ++r) {
    const int row = at.row + own_row<C>() + r;
    if (row >= count) break;
    const bool empty = total[r] == 0;
    const int64_t flat = f.flat_row(at, row);
    const C inverse = empty ? C(0) : (f.scores.threshold != 0 ? f.scores.kept : C(1)) / total[r];
    const C sum = empty ? infinity<C>() : top[r] + std::log2(total[r]);
    if (own_column() == 0 && chunk == 0) {
      if (f.parts == 1)
        f.lse[flat] = sum;
      else
        f.partial.lse[at.part * f.partial.rows + flat] = empty ? -sum : sum;
    }
    FASTDL_UNROLL
    for (int c = 0; c < 4 * kGroups; ++c) {
      const int column = first_column + c / 4 * kTile + own_column() + c % 4;
      if (column >= f.value_size) continue;
      if (f.parts == 1)
        (head_of<T>(f.y, at.batch, at.head + f.rows.head(row)) + f.rows.query(row) * f.y.row)[column] =
            narrow<T>(y[r][c] * inverse);
      else
        f.partial.o[(at.part * f.partial.rows + flat) * f.value_size + column] = y[r][c] * inverse;
    }
  }
}

// Weights after dropout and dZ of a tile: own rows from `own`, stream rows from `stream`, of one head.
template <class T>
struct GradientTile {
  using C = Compute<T>;
  const AttentionBackward<T>& f;
  int batch, head;
  bool own_keys;

  // Row r of the queries' side and of the keys' side, from `from`; null beyond the last.
  __device__ __forceinline__ const T* row(const Heads& x, bool of_keys, int64_t r) const {
    if (r >= (of_keys ? f.scores.keys : f.scores.queries)) return nullptr;
    return head_of<const T>(x, batch, of_keys ? head / f.ratio : head) + r * x.row;
  }
  __device__ __forceinline__ void operator()(C (&p)[kRows<C>][4], C (&dz)[kRows<C>][4], C* operands, int own,
                                             int stream, bool need_dz) const {
    const auto rows_of = [&](const Heads& x, bool of_keys, int from) {
      return [=, this, &x](int r) { return row(x, of_keys, from + r); };
    };
    products(p, operands, rows_of(own_keys ? f.key : f.query, own_keys, own),
             rows_of(own_keys ? f.query : f.key, !own_keys, stream), f.size);
    if (need_dz)
      products(dz, operands, rows_of(own_keys ? f.value : f.grad_y, own_keys, own),
               rows_of(own_keys ? f.grad_y : f.value, !own_keys, stream), f.value_size);
    const C* const statistics = f.statistics_of(batch, head);
    const int64_t mask = f.scores.mask_at(batch, head);
    const bool drops = f.scores.threshold != 0;
    const uint32_t kept =
        drops ? kept_bits(f.scores, int64_t(batch) * f.scores.heads + head, own_keys, own, stream) : 0;
    FASTDL_UNROLL
    for (int r = 0; r < kRows<C>; ++r) FASTDL_UNROLL
    for (int c = 0; c < 4; ++c) {
      const int mine = own + own_row<C>() + r, other = stream + own_column() + c;
      const int i = own_keys ? other : mine, j = own_keys ? mine : other;
      const C weight = power_of_two(f.scores(p[r][c], mask, i, j) - statistics[2 * i]);
      const C factor = !drops ? C(1) : kept >> (4 * r + c) & 1 ? f.scores.kept : C(0);
      if (need_dz) dz[r][c] = weight * (factor * dz[r][c] - statistics[2 * i + 1]);
      p[r][c] = weight * factor;
    }
  }
};

enum class Gradient : int { query, key, value };

// Blocks: (batch, head of queries or group of keys, tile of own rows, chunk of columns).
template <class T>
__global__ void __launch_bounds__(kThreads)
    exact_backward_kernel(const AttentionBackward<T> f, Gradient which, int tiles, int chunks) {
  using C = Compute<T>;
  FASTDL_DYNAMIC_SHARED(C, operands);
  C* const weights = operands + kOperands;
  const bool own_keys = which != Gradient::query;
  const int heads = own_keys ? f.groups : f.scores.heads;
  const int64_t n = int64_t(blockIdx.x) / chunks;
  const int first_column = int(blockIdx.x % unsigned(chunks)) * kWide;
  const int own = int(n % tiles) * kOwn<C>, head = int(n / tiles % heads), batch = int(n / tiles / heads);
  const Heads& operand = which == Gradient::query ? f.key : which == Gradient::key ? f.query : f.grad_y;
  const Heads& to = which == Gradient::query ? f.grad_query
                    : which == Gradient::key ? f.grad_key
                                             : f.grad_value;
  const int size = which == Gradient::value ? f.value_size : f.size;

  C result[kRows<C>][4 * kGroups] = {};
  // Causal: keys from `own` on are seen by queries from there on, queries up to there see keys up to there.
  const int first = own_keys && f.scores.causal ? own / kTile * kTile : 0;
  int last = own_keys ? f.scores.queries : f.scores.keys;
  if (!own_keys && f.scores.causal && own + kOwn<C> < last) last = own + kOwn<C>;
  for (int h = own_keys ? head * f.ratio : head, after = own_keys ? h + f.ratio : h + 1; h < after; ++h) {
    const GradientTile<T> tile{f, batch, h, own_keys};
    for (int stream = first; stream < last; stream += kTile) {
      C p[kRows<C>][4], dz[kRows<C>][4];
      tile(p, dz, operands, own, stream, which != Gradient::value);
      if (which == Gradient::value)
        store_weights(weights, p);
      else
        store_weights(weights, dz);
      accumulate(
          result, weights, operands, [&](int r) { return tile.row(operand, !own_keys, stream + r); },
          first_column, size);
    }
  }

  const C factor = which == Gradient::value ? C(1) : f.scale;
  const int count = own_keys ? f.scores.keys : f.scores.queries;
  FASTDL_UNROLL
  for (int r = 0; r < kRows<C>; ++r) {
    const int row = own + own_row<C>() + r;
    if (row >= count) break;
    T* const out = head_of<T>(to, batch, head) + row * to.row;
    FASTDL_UNROLL
    for (int c = 0; c < 4 * kGroups; ++c) {
      const int column = first_column + c / 4 * kTile + own_column() + c % 4;
      if (column < size) out[column] = narrow<T>(result[r][c] * factor);
    }
  }
}

// A block has a tile of the mask (or, where that has one row, 64 columns of it) and goes through the heads,
// batches and rows that share it: numbers part, part + parts, .. of them.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    exact_mask_gradient(Compute<T>* partial, const AttentionBackward<T> f, MaskShape shape, int parts) {
  using C = Compute<T>;
  FASTDL_DYNAMIC_SHARED(C, operands);
  const int column_tiles = (f.scores.keys + kTile - 1) / kTile,
            row_tiles = (f.scores.queries + kOwn<C> - 1) / kOwn<C>;
  const int mask_rows = int(shape.rows), mask_tiles = mask_rows == 1 ? 1 : row_tiles;
  int64_t n = blockIdx.x;
  const int column = int(n % column_tiles) * kTile;
  n /= column_tiles;
  const int mask_tile = int(n % mask_tiles);
  n /= mask_tiles;
  const int mask_head = int(n % shape.heads);
  n /= shape.heads;
  const int mask_batch = int(n % shape.batch), part = int(n / shape.batch);

  const int batches = shape.batch == 1 ? f.batch : 1, heads = shape.heads == 1 ? f.scores.heads : 1;
  const int tiles = mask_rows == 1 ? row_tiles : 1;
  C sum[kRows<C>][4] = {};
  for (int64_t shared = part; shared < int64_t(batches) * heads * tiles; shared += parts) {
    const int row = (mask_tile + int(shared % tiles)) * kOwn<C>;
    if (f.scores.causal && column >= row + kOwn<C>) continue;
    C p[kRows<C>][4], dz[kRows<C>][4];
    const GradientTile<T> tile{f, mask_batch + int(shared / tiles / heads),
                               mask_head + int(shared / tiles % heads), false};
    tile(p, dz, operands, row, column, true);
    FASTDL_UNROLL
    for (int r = 0; r < kRows<C>; ++r) FASTDL_UNROLL
    for (int c = 0; c < 4; ++c) sum[r][c] += dz[r][c];
  }

  C* const out = partial + ((int64_t(part) * shape.batch + mask_batch) * shape.heads + mask_head) *
                               mask_rows * f.scores.keys;
  if (mask_rows > 1 || f.scores.queries == 1) {
    FASTDL_UNROLL
    for (int r = 0; r < kRows<C>; ++r) FASTDL_UNROLL
    for (int c = 0; c < 4; ++c) {
      const int i = mask_tile * kOwn<C> + own_row<C>() + r, j = column + own_column() + c;
      if (i < mask_rows && j < f.scores.keys) out[int64_t(i) * f.scores.keys + j] = sum[r][c];
    }
    return;
  }
  C* const columns = operands;  // (8, kTile): sums of a thread's rows
  sync_threads();
  FASTDL_UNROLL
  for (int c = 0; c < 4; ++c) {
    C all = 0;
    FASTDL_UNROLL
    for (int r = 0; r < kRows<C>; ++r) all += sum[r][c];
    columns[int(threadIdx.x) / 16 * kTile + own_column() + c] = all;
  }
  sync_threads();
  const int c = int(threadIdx.x);
  if (c < kTile && column + c < f.scores.keys) {
    C all = 0;
    for (int r = 0; r < 8; ++r) all += columns[r * kTile + c];
    out[column + c] = all;
  }
}

}  // namespace

template <class T>
void exact_forward(const AttentionForward<T>& f, const Attention& a, Stream stream) {
  using C = Compute<T>;
  const int chunks = f.value_size == 0 ? 1 : ceil_div(f.value_size, kWide);
  const int64_t blocks = a.batch * a.heads / f.rows.pack * f.tiles * f.parts * chunks;
  launch("attention", exact_forward_kernel<T>, dim3(unsigned(blocks)), dim3(kThreads), kSharedBytes<C>,
         stream, f, chunks);
}

template <class T>
void exact_backward(const AttentionBackward<T>& f, Stream stream) {
  using C = Compute<T>;
  for (const Gradient which : {Gradient::query, Gradient::key, Gradient::value}) {
    const bool keys = which != Gradient::query;
    const int tiles = ceil_div(keys ? f.scores.keys : f.scores.queries, kOwn<C>);
    const int chunks = ceil_div(which == Gradient::value ? f.value_size : f.size, kWide);
    const int64_t blocks = int64_t(f.batch) * (keys ? f.groups : f.scores.heads) * tiles * chunks;
    if (blocks > 0)
      launch("attention_backward", exact_backward_kernel<T>, dim3(unsigned(blocks)), dim3(kThreads),
             kSharedBytes<C>, stream, f, which, tiles, chunks);
  }
}

template <class T>
void exact_mask(void* partial, const MaskShape& shape, int parts, const AttentionBackward<T>& f,
                Stream stream) {
  using C = Compute<T>;
  const int64_t tiles = ceil_div(shape.rows, kOwn<C>) * int64_t(ceil_div(f.scores.keys, kTile));
  const int64_t blocks = parts * shape.batch * shape.heads * tiles;
  if (blocks > 0)
    launch("attention_mask_gradient", exact_mask_gradient<T>, dim3(unsigned(blocks)), dim3(kThreads),
           kSharedBytes<C>, stream, static_cast<C*>(partial), f, shape, parts);
}

#define FASTDL_INSTANTIATE(T)                                                           \
  template void exact_forward<T>(const AttentionForward<T>&, const Attention&, Stream); \
  template void exact_backward<T>(const AttentionBackward<T>&, Stream);                 \
  template void exact_mask<T>(void*, const MaskShape&, int, const AttentionBackward<T>&, Stream);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(__half)
#ifndef FASTDL_FEW_DTYPES
FASTDL_INSTANTIATE(__nv_bfloat16)
FASTDL_INSTANTIATE(double)
#endif

}  // namespace fastdl::cuda
