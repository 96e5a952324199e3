// Attention forward: tiles with online softmax; scores exist for one tile and one block of keys only.
//
//   z = scale log2(e) Q K^T + mask     m = max_j z_j     l = sum_j 2^(z_j - m)     y = sum_j 2^(z_j - m) v_j
//   / l saved for backward: lse = m + log2(l)
//
// A task takes a part of the blocks of queries that share one head of keys and values, and packs those once:
// K as strips of keys, V as panels of columns. For each block of keys, tile by tile (kLanes queries):
//
//   z^T (keys x lanes) = K Q^T      then in L1: mask, maximum, powers, sum      y^T (V x lanes) += V^T P^T
//
// with y^T and the sum rescaled when the maximum rises. Causal tiles stop at their last query; only the block
// of keys on the diagonal compares positions. Work: 4 L S E operations per head (half if causal) and L S
// powers. Memory: K and V are read once per kTiles * kLanes queries, packed copies of a head are all the
// scratch there is.
#include "cpu/attention/block.h"
#include "cpu/runtime/memory.h"

namespace fastdl::attention {
namespace {

// One tile's running maximum and sum over keys, and y^T.
template <class T>
struct Running {
  alignas(64) T top[kLanes<T>], sum[kLanes<T>];
};

// Powers of `keys` rows of z in place; top, sum and y^T follow.
template <class T, int V>
void softmax_block(T* z, int64_t keys, Running<T>& r, T* y, int64_t value_size) {
  constexpr int w = kWidth<T>, ld = kLanes<T>;
  Vec<T> a[V], b[V];
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) a[v] = b[v] = load(r.top + v * w);
  int64_t k = 0;
  for (; k + 4 <= keys; k += 4)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const T* at = z + k * ld + v * w;
      a[v] = max(load(at), max(load(at + ld), a[v]));
      b[v] = max(load(at + 2 * ld), max(load(at + 3 * ld), b[v]));
    }
  for (; k < keys; ++k)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) a[v] = max(load(z + k * ld + v * w), a[v]);

  Vec<T> base[V], factor[V], sum[V];
  bool rose = false;
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) {
    const Vec<T> old = load(r.top + v * w), top = max(a[v], b[v]);
    // Nothing visible so far: any base gives powers of -infinity, 0.
    base[v] = top == -detail::kInfinity<T> ? Vec<T>{} : top;
    factor[v] = power_of_two<T>(old - base[v]);
    store<T>(r.top + v * w, top);
    sum[v] = Vec<T>{};
    const VecInt<T> changed = factor[v] != T(1);
    for (int i = 0; i < w; ++i) rose |= changed[i] != 0;
  }
  for (k = 0; k + 2 <= keys; k += 2)
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        T* at = z + (k + i) * ld + v * w;
        const Vec<T> p = power_of_two<T>(load(at) - base[v]);
        store<T>(at, p);
        sum[v] += p;
      }
  if (k < keys)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* at = z + k * ld + v * w;
      const Vec<T> p = power_of_two<T>(load(at) - base[v]);
      store<T>(at, p);
      sum[v] += p;
    }
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) store<T>(r.sum + v * w, load(r.sum + v * w) * factor[v] + sum[v]);
  if (rose)
    for (int64_t e = 0; e < value_size; ++e)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) store<T>(y + e * ld + v * w, load(y + e * ld + v * w) * factor[v]);
}

template <class T>
class Forward {
 public:
  Forward(Heads<T> y, T* lse, Heads<const T> query, Heads<const T> key, Heads<const T> value,
          const Mask<T>& mask, const Problem& problem)
      : y_(y),
        lse_(lse),
        query_(query),
        key_(key),
        value_(value),
        mask_(mask),
        p_(problem),
        dropout_(problem) {}

  // Elements of scratch for `run`: packed keys and values, a block of queries with its results and scores.
  int64_t scratch() const {
    return ceil_div(p_.keys, kStrip<T>) * kStrip<T> * p_.size + p_.keys * padded_size<T>(p_.value_size) +
           kQueries<T> * (p_.size + p_.value_size) + kKeys<T> * kLanes<T>;
  }

  // Blocks first .. last of the heads of queries that use head g of keys.
  void run(T* scratch, int64_t b, int64_t g, int64_t first, int64_t last) const {
    const int64_t per_head = ceil_div(p_.queries, kQueries<T>), heads = p_.heads / p_.groups;
    // Causal parts see no key beyond their last query; a part of several heads sees what the longest sees.
    const int64_t last_block =
        first / per_head == (last - 1) / per_head ? (last - 1) % per_head : per_head - 1;
    const int64_t seen = visible((last_block + 1) * kQueries<T>);
    T* lanes = scratch;  // first: whole vectors, and so aligned
    T* strips = lanes + kQueries<T> * (p_.size + p_.value_size) + kKeys<T> * kLanes<T>;
    T* columns = strips + ceil_div(seen, kStrip<T>) * kStrip<T> * p_.size;
    pack_strips<T>(strips, key_.at(b, g), key_.row, seen, p_.size);
    pack_columns<T>(columns, value_.at(b, g), value_.row, seen, p_.value_size);
    for (int64_t i = first; i < last; ++i)
      block(b, g * heads + i / per_head, i % per_head * kQueries<T>, strips, columns, seen, lanes);
  }

 private:
  int64_t visible(int64_t end) const { return p_.causal ? std::min(p_.keys, end) : p_.keys; }

  void block(int64_t b, int64_t h, int64_t q0, const T* strips, const T* columns, int64_t packed,
             T* lanes) const {
    const int64_t end = std::min(p_.queries, q0 + kQueries<T>), seen = visible(end);
    T* q = lanes;
    T* y = q + kQueries<T> * p_.size;
    T* z = y + kQueries<T> * p_.value_size;
    Running<T> running[kTiles];
    const int tiles = int(ceil_div(end - q0, kLanes<T>));
    for (int t = 0; t < tiles; ++t) {
      const int64_t first = q0 + t * kLanes<T>;
      pack_lanes<T>(q + t * kLanes<T> * p_.size, query_.at(b, h) + first * query_.row, query_.row,
                    int(std::min<int64_t>(kLanes<T>, end - first)), p_.size, T(p_.scale * kLog2E));
      std::fill_n(running[t].top, kLanes<T>, -detail::kInfinity<T>);
      std::fill_n(running[t].sum, kLanes<T>, T(0));
    }
    std::fill_n(y, kQueries<T> * p_.value_size, T(0));
    const MaskRows<T> mask(mask_, b, h, p_.keys);
    const int64_t head = b * p_.heads + h;
    for (int64_t key0 = 0; key0 < seen; key0 += kKeys<T>)
      for (int t = 0; t < tiles; ++t) {
        const int64_t first = q0 + t * kLanes<T>, count = std::min<int64_t>(kLanes<T>, end - first);
        const int64_t keys = std::min<int64_t>(kKeys<T>, visible(first + count) - key0);
        if (keys <= 0) continue;
        const Region region = mask ? mask.region(first, count, key0, keys) : Region::open;
        if (region == Region::hidden) continue;
        const int vectors = whole_vectors<T>(count);
        T* yt = y + t * kLanes<T> * p_.value_size;
        for (int64_t k = 0; k < keys; k += kStrip<T>)
          product<T>(p_.size, strips + (key0 + k) * p_.size, int(std::min<int64_t>(kStrip<T>, keys - k)),
                     q + t * kLanes<T> * p_.size, kLanes<T>, vectors, z + k * kLanes<T>, kLanes<T>, false);
        if (region == Region::mixed) add_mask<T>(z, kLanes<T>, mask, first, count, key0, keys);
        if (p_.causal && key0 + keys > first + 1) hide_future<T>(z, kLanes<T>, vectors, first, key0, keys);
        if (vectors == 1)
          softmax_block<T, 1>(z, keys, running[t], yt, p_.value_size);
        else
          softmax_block<T, kVectors<T>>(z, keys, running[t], yt, p_.value_size);
        if (dropout_)
          for (int64_t k = 0; k < keys; ++k)
            dropout_.row(head, key0 + k, first, vectors, [&](int v, VecInt<T> kept) {
              T* at = z + k * kLanes<T> + v * kWidth<T>;
              store<T>(at, kept ? load(at) : Vec<T>{});
            });
        const T* panel = columns + key0 * padded_size<T>(p_.value_size);
        const int64_t in_block = std::min<int64_t>(kKeys<T>, packed - key0);
        for (int64_t c = 0; c < p_.value_size; c += kStrip<T>, panel += kStrip<T> * in_block)
          product<T>(keys, panel, int(std::min<int64_t>(kStrip<T>, p_.value_size - c)), z, kLanes<T>, vectors,
                     yt + c * kLanes<T>, kLanes<T>, true);
      }
    for (int t = 0; t < tiles; ++t) {
      const int64_t first = q0 + t * kLanes<T>, count = std::min<int64_t>(kLanes<T>, end - first);
      finish(b, h, first, count, running[t], y + t * kLanes<T> * p_.value_size);
    }
  }

  void finish(int64_t b, int64_t h, int64_t first, int64_t count, Running<T>& r, const T* y) const {
    const T kept = dropout_ ? dropout_.scale() : T(1);
    T* lse = lse_ + (b * p_.heads + h) * p_.queries + first;
    alignas(64) T factor[kLanes<T>] = {};
    for (int v = 0; v < whole_vectors<T>(count); ++v) {
      const Vec<T> sum = load(r.sum + v * kWidth<T>), top = load(r.top + v * kWidth<T>);
      const VecInt<T> nothing = sum == T(0);
      store<T>(factor + v * kWidth<T>, nothing ? Vec<T>{} : kept / sum);
      const Vec<T> log2 = log<T>(sum) * T(kLog2E) + top;
      const int n = int(std::min<int64_t>(kWidth<T>, count - v * kWidth<T>));
      store_n(lse + v * kWidth<T>, nothing ? broadcast<T>(detail::kInfinity<T>) : log2, n);
    }
    store_lanes<T>(y_.at(b, h) + first * y_.row, y_.row, y, p_.value_size, int(count), factor);
  }

  Heads<T> y_;
  T* lse_;
  Heads<const T> query_, key_, value_;
  const Mask<T>& mask_;
  const Problem& p_;
  Dropout<T> dropout_;
};

}  // namespace

template <class T>
void forward(Heads<T> y, T* lse, Heads<const T> query, Heads<const T> key, Heads<const T> value,
             const Mask<T>& mask, const Problem& p) {
  if (is_few<T>(p)) return forward_few<T>(y, lse, query, key, value, mask, p);
  const int64_t units = p.batch * p.groups, heads = p.heads / std::max<int64_t>(p.groups, 1);
  const Blocks blocks{heads, ceil_div(p.queries, kQueries<T>), ceil_div(p.keys, kQueries<T>), p.causal};
  const int64_t all = blocks.heads * blocks.per_head;
  if (units * all == 0) return;
  // Four tasks per thread where units are few, but no task so small that packing the keys tells, unless a
  // thread would have nothing at all to do.
  const int64_t threads = num_threads();
  const int64_t parts = threads == 1 ? 1
                                     : std::clamp<int64_t>(std::min(ceil_div(4 * threads, units), all / 4),
                                                           std::min(all, ceil_div(threads, units)), all);
  const double microseconds = double(units * heads) * head_microseconds<T>(p, p.size + p.value_size, 0.3);
  const Forward<T> kernel(y, lse, query, key, value, mask, p);
  tile::share(units * parts, microseconds, [&](int64_t begin, int64_t end) {
    const memory::Buffer<T> scratch{size_t(kernel.scratch())};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t unit = task / parts, part = task % parts;
      const int64_t first = blocks.boundary(part, parts), last = blocks.boundary(part + 1, parts);
      if (first < last) kernel.run(scratch, unit / p.groups, unit % p.groups, first, last);
    }
  });
}

#define FASTDL_INSTANTIATE(T)                                                                            \
  template void forward<T>(Heads<T>, T*, Heads<const T>, Heads<const T>, Heads<const T>, const Mask<T>&, \
                           const Problem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::attention
