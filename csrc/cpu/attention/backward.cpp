// Attention backward: weights are recomputed, P = 2^(z - lse), tile by tile; nothing of size L x S exists.
//
//   delta = rowsum(grad_y y)            (one number per query)
//   grad_V = (P K)^T grad_y             grad_P = K (grad_y V^T)           K: dropout factors, drawn again
//   grad_z = P (grad_P - delta)         grad_Q = scale grad_z K           grad_K = scale grad_z^T Q
//   grad_mask = grad_z summed over broadcast axes
//
// Products, as in forward.cpp with lanes = queries: z^T = K Q^T and grad_P^T = V grad_y^T strip by strip
// (kStrip keys), each followed by its exponentials and by grad_V, grad_K (keys x size, sums over the block's
// queries); grad_Q^T (size x lanes) after each block of keys. Gradients of keys and values gather in the
// task's scratch.
//
// A task takes a range of keys of one head of keys (of several heads, where they share one mask whose
// gradient is wanted) and passes over all queries that see it. With one range per head grad_Q is written
// directly; otherwise each range has a part of its own, added up in order: the bits depend on shapes and
// thread count only. Work: 10 L S E operations per head (half if causal) and L S powers. A few queries, which
// would leave most lanes empty: few.cpp.
#include <vector>

#include "cpu/attention/block.h"
#include "cpu/runtime/memory.h"

namespace fastdl::attention {
namespace {

template <class T>
inline constexpr int kGroup =
    kKeys<T> / kStrip<T> / 2;  // strips whose products share a pass over the queries

// c (kStrip x V vectors, row stride ldc) += sum over n queries of a[key * kQueries + query] * b[query * ldb +
// ...]. The register tile of gemm/tile.h for an A that lies in rows.
template <class T, int V>
void add_product(int64_t n, const T* a, const T* b, T* c, int64_t ldc) {
  constexpr int w = kWidth<T>, R = kStrip<T>;
  Vec<T> acc[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[i][v] = Vec<T>{};
  for (int64_t k = 0; k < n; ++k) {
    Vec<T> row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) row[v] = load(b + v * w);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[i][v] += a[i * kQueries<T>] * row[v];
    ++a;
    b += kLanes<T>;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store<T>(c + i * ldc + v * w, load(c + i * ldc + v * w) + acc[i][v]);
}

template <class T>
int64_t whole(int64_t size) {  // rounded up to vectors
  return ceil_div(size, kWidth<T>) * kWidth<T>;
}

// Rows cut into panels of kLanes columns, row i of panel p at out + (p * kQueries + i) * kLanes; columns that
// are added are never used.
template <class T>
int64_t panels_size(int64_t size) {
  return ceil_div(size, kLanes<T>) * kLanes<T> * kQueries<T>;
}
template <class T>
void pack_rows(T* out, const T* rows, int64_t step, int64_t count, int64_t size) {
  for (int64_t e = 0; e < size; e += kLanes<T>, out += kQueries<T> * kLanes<T>) {
    const int64_t n = std::min<int64_t>(kLanes<T>, size - e);
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(rows + i * step + e, n, out + i * kLanes<T>);
      std::fill(out + i * kLanes<T> + n, out + (i + 1) * kLanes<T>, T(0));
    }
  }
}

// gradient rows += grad_z, given transposed (keys x lanes, row stride kQueries).
template <class T>
[[gnu::noinline]] void add_mask_gradient(T* to, int64_t row, const T* from, int64_t queries, int64_t keys) {
  constexpr int w = kWidth<T>;
  if (row == 0) {
    for (int64_t k = 0; k < keys; ++k) {
      T sum = 0;
      for (int64_t i = 0; i < queries; ++i) sum += from[k * kQueries<T> + i];
      to[k] += sum;
    }
    return;
  }
  for (int64_t i = 0; i < queries; i += w)
    for (int64_t k = 0; k < keys; k += w) {
      const int n = int(std::min<int64_t>(w, keys - k)), lanes = int(std::min<int64_t>(w, queries - i));
      Vec<T> x[w];
#pragma GCC unroll 16
      for (int j = 0; j < w; ++j) x[j] = load(from + std::min<int64_t>(k + j, keys - 1) * kQueries<T> + i);
      tile::transpose<T>(x);
#pragma GCC unroll 16
      for (int j = 0; j < w; ++j) {
        if (j >= lanes) break;
        T* at = to + (i + j) * row + k;
        store_n(at, load_n(at, n) + x[j], n);
      }
    }
}

template <class T>
struct Arrays {
  Heads<T> grad_query, grad_key, grad_value;
  MaskGradient<T> grad_mask;
  Heads<const T> grad_y, query, key, value, y;
  const Mask<T>& mask;
  const T* lse;
};

// A range of keys of one head, and the scratch for it.
template <class T>
class Backward {
 public:
  Backward(const Arrays<T>& arrays, const Problem& p, int64_t most_keys)
      : a_(arrays),
        p_(p),
        dropout_(p),
        size_(whole<T>(p.size)),
        value_size_(whole<T>(p.value_size)),
        rows_(ceil_div(most_keys, kStrip<T>) * kStrip<T>),
        key_strips_(size_t(rows_ * p.size)),
        value_strips_(size_t(rows_ * p.value_size)),
        key_columns_(size_t(rows_ * padded_size<T>(p.size))),
        grad_key_(size_t(rows_ * size_)),
        grad_value_(size_t(rows_ * value_size_)),
        grad_query_(size_t(kQueries<T> * p.size)),
        query_lanes_(size_t(kQueries<T> * p.size)),
        grad_lanes_(size_t(kQueries<T> * p.value_size)),
        query_rows_(size_t(panels_size<T>(p.size))),
        grad_rows_(size_t(panels_size<T>(p.value_size))),
        weights_(size_t(kGroup<T> * kStrip<T> * kQueries<T>)),
        grad_z_(size_t(kKeys<T> * kQueries<T>)) {
    // Rows of a last, partial strip are multiplied too, into rows nobody reads; let them hold numbers.
    std::fill_n(weights_.get(), kGroup<T> * kStrip<T> * kQueries<T>, T(0));
    std::fill_n(grad_z_.get(), kKeys<T> * kQueries<T>, T(0));
  }

  // Keys first .. last of head g; grad_query of its queries goes to `grad_query`.
  void run(int64_t b, int64_t g, int64_t first, int64_t last, Heads<T> grad_query) {
    const int64_t n = last - first, heads = p_.heads / p_.groups;
    keys_ = n;
    const T *key = a_.key.at(b, g) + first * a_.key.row, *value = a_.value.at(b, g) + first * a_.value.row;
    pack_strips<T>(key_strips_, key, a_.key.row, n, p_.size);
    pack_strips<T>(value_strips_, value, a_.value.row, n, p_.value_size);
    pack_columns<T>(key_columns_, key, a_.key.row, n, p_.size);
    std::fill_n(grad_key_.get(), rows_ * size_, T(0));
    std::fill_n(grad_value_.get(), rows_ * value_size_, T(0));
    for (int64_t h = g * heads; h < (g + 1) * heads; ++h)
      for (int64_t q0 = 0; q0 < p_.queries; q0 += kQueries<T>) {
        const int64_t end = std::min(p_.queries, q0 + kQueries<T>);
        // Causal: up to the last query, in whole strips, because sums over queries are taken for whole
        // strips.
        const int64_t whole_strips = ceil_div(std::max<int64_t>(end - first, 0), kStrip<T>) * kStrip<T>;
        const int64_t seen = p_.causal ? std::min(n, whole_strips) : n;
        block(b, h, q0, end, first, seen, grad_query);
      }
    write(a_.grad_key.at(b, g) + first * a_.grad_key.row, a_.grad_key.row, grad_key_, n, p_.size, size_,
          T(p_.scale));
    write(a_.grad_value.at(b, g) + first * a_.grad_value.row, a_.grad_value.row, grad_value_, n,
          p_.value_size, value_size_, dropout_ ? dropout_.scale() : T(1));
  }

 private:
  void write(T* to, int64_t row, const T* from, int64_t n, int64_t size, int64_t padded, T factor) const {
    for (int64_t i = 0; i < n; ++i) scale_row<T>(to + i * row, from + i * padded, size, factor);
  }

  // Queries q0 .. end of head h against keys key0 .. key0 + seen.
  void block(int64_t b, int64_t h, int64_t q0, int64_t end, int64_t key0, int64_t seen, Heads<T> grad_query) {
    constexpr int ld = kQueries<T>;
    const int64_t count = end - q0;
    const T* query = a_.query.at(b, h) + q0 * a_.query.row;
    const T* grad_y = a_.grad_y.at(b, h) + q0 * a_.grad_y.row;
    const T* y = a_.y.at(b, h) + q0 * a_.y.row;
    std::fill_n(grad_query_.get(), kQueries<T> * p_.size, T(0));
    const int tiles = int(ceil_div(count, kLanes<T>));
    if (seen > 0) {
      for (int t = 0; t < tiles; ++t) {
        const int lanes = int(std::min<int64_t>(kLanes<T>, count - t * kLanes<T>));
        pack_lanes<T>(query_lanes_ + t * kLanes<T> * p_.size, query + t * kLanes<T> * a_.query.row,
                      a_.query.row, lanes, p_.size, T(p_.scale * kLog2E));
        pack_lanes<T>(grad_lanes_ + t * kLanes<T> * p_.value_size, grad_y + t * kLanes<T> * a_.grad_y.row,
                      a_.grad_y.row, lanes, p_.value_size, T(1));
      }
      pack_rows<T>(query_rows_, query, a_.query.row, count, p_.size);
      pack_rows<T>(grad_rows_, grad_y, a_.grad_y.row, count, p_.value_size);
      std::fill_n(lse_, kQueries<T>, detail::kInfinity<T>);  // lanes past the last query: weights of 0
      std::copy_n(a_.lse + (b * p_.heads + h) * p_.queries + q0, count, lse_);
      std::fill_n(delta_, kQueries<T>, T(0));
      for (int64_t i = 0; i < count; ++i)
        delta_[i] = dot<T>(grad_y + i * a_.grad_y.row, y + i * a_.y.row, p_.value_size);
    }
    const MaskRows<T> mask(a_.mask, b, h, p_.keys);
    for (int64_t k0 = 0; k0 < seen; k0 += kKeys<T>) {
      const int64_t in_block = std::min<int64_t>(kKeys<T>, keys_ - k0);
      const int64_t keys = std::min<int64_t>(kKeys<T>, seen - k0);
      for (int64_t k = 0; k < keys; k += kGroup<T> * kStrip<T>)
        group(b, h, mask, q0, count, key0, k0, k, keys);
      const T* columns = key_columns_ + k0 * padded_size<T>(p_.size);
      for (int t = 0; t < tiles; ++t) {
        const int64_t lanes = std::min<int64_t>(kLanes<T>, count - t * kLanes<T>);
        const int64_t visible = p_.causal ? std::min(keys, q0 + t * kLanes<T> + lanes - key0 - k0) : keys;
        if (visible <= 0) continue;
        const T* panel = columns;
        for (int64_t c = 0; c < p_.size; c += kStrip<T>, panel += kStrip<T> * in_block)
          product<T>(visible, panel, int(std::min<int64_t>(kStrip<T>, p_.size - c)), grad_z_ + t * kLanes<T>,
                     ld, whole_vectors<T>(lanes), grad_query_ + (t * p_.size + c) * kLanes<T>, kLanes<T>,
                     true);
      }
    }
    alignas(64) T factor[kLanes<T>];
    std::fill_n(factor, kLanes<T>, T(p_.scale));
    for (int t = 0; t < tiles; ++t)
      store_lanes<T>(grad_query.at(b, h) + (q0 + t * kLanes<T>)*grad_query.row, grad_query.row,
                     grad_query_ + t * kLanes<T> * p_.size, p_.size,
                     int(std::min<int64_t>(kLanes<T>, count - t * kLanes<T>)), factor);
  }

  struct Strip {
    int rows;
    int64_t at, key;  // first key: in the range, and of all keys
    int first;        // causal: tiles before it lie wholly before the first key
    Region region;
    T *z, *d;  // weights and gradients of scores
  };

  // Scores, weights and their gradients for a group of strips from key0 + k0 + k; grad_value and grad_key.
  void group(int64_t b, int64_t h, const MaskRows<T>& mask, int64_t q0, int64_t count, int64_t key0,
             int64_t k0, int64_t k, int64_t keys) {
    constexpr int ld = kQueries<T>;
    Strip strips[kGroup<T>];
    int n = 0;
    for (int64_t i = 0; i < kGroup<T> && k + i * kStrip<T> < keys; ++i) {
      Strip s;
      const int64_t start = k + i * kStrip<T>;
      s.rows = int(std::min<int64_t>(kStrip<T>, keys - start));
      s.at = k0 + start, s.key = key0 + s.at;
      s.first = p_.causal ? int(std::max<int64_t>(0, (s.key - q0) / kLanes<T>)) : 0;
      s.z = weights_ + i * kStrip<T> * ld, s.d = grad_z_ + start * ld;
      const int64_t lane = s.first * kLanes<T>;
      s.region = mask ? mask.region(q0 + lane, count - lane, s.key, s.rows) : Region::open;
      if (s.region == Region::hidden)
        std::fill_n(s.d, s.rows * ld, T(0));
      else
        strips[n++] = s;
    }
    for (int t = 0; t * kLanes<T> < count; ++t) {
      const int vectors = whole_vectors<T>(std::min<int64_t>(kLanes<T>, count - t * kLanes<T>));
      const auto products = [&](const T* packed, const T* lanes, int64_t size, T* Strip::* to) {
        for (int i = 0; i < n; ++i)
          if (t >= strips[i].first)
            product<T>(size, packed + strips[i].at * size, strips[i].rows, lanes + t * kLanes<T> * size,
                       kLanes<T>, vectors, strips[i].*to + t * kLanes<T>, ld, false);
      };
      products(key_strips_, query_lanes_, p_.size, &Strip::z);
      products(value_strips_, grad_lanes_, p_.value_size, &Strip::d);
    }
    for (int i = 0; i < n; ++i) weigh(b, h, mask, q0, count, strips[i]);
    const auto add = [&](T* to, int64_t padded, const T* panels, T* Strip::* from) {
      for (int64_t e = 0; e < padded; e += kLanes<T>, panels += kQueries<T> * kLanes<T>)
        for (int i = 0; i < n; ++i) {
          const int64_t lane = strips[i].first * kLanes<T>;
          T* c = to + strips[i].at * padded + e;
          if (padded - e > kWidth<T>)
            add_product<T, 2>(count - lane, strips[i].*from + lane, panels + lane * kLanes<T>, c, padded);
          else
            add_product<T, 1>(count - lane, strips[i].*from + lane, panels + lane * kLanes<T>, c, padded);
        }
    };
    add(grad_value_, value_size_, grad_rows_, &Strip::z);
    add(grad_key_, size_, query_rows_, &Strip::d);
  }

  // From scores and gradients of weights to weights and gradients of scores.
  void weigh(int64_t b, int64_t h, const MaskRows<T>& mask, int64_t q0, int64_t count, const Strip& s) {
    constexpr int w = kWidth<T>, ld = kQueries<T>;
    const int64_t lane = s.first * kLanes<T>, lanes = count - lane;
    const int v0 = int(lane / w), v1 = whole_vectors<T>(count);
    if (s.region == Region::mixed) add_mask<T>(s.z + lane, ld, mask, q0 + lane, lanes, s.key, s.rows);
    if (p_.causal && s.key + s.rows > q0 + lane + 1)
      hide_future<T>(s.z + lane, ld, v1 - v0, q0 + lane, s.key, s.rows);
    for (int i = 0; i < s.rows; ++i) {
      T *z = s.z + i * ld, *d = s.d + i * ld;
      if (dropout_) {
        const Vec<T> scale = broadcast<T>(dropout_.scale());
        dropout_.row(b * p_.heads + h, s.key + i, q0 + lane, v1 - v0, [&](int v, VecInt<T> kept) {
          const int64_t j = lane + v * w;
          const Vec<T> p = power_of_two<T>(load(z + j) - load(lse_ + j));
          const Vec<T> grad = kept ? load(d + j) * scale : Vec<T>{};
          store<T>(z + j, kept ? p : Vec<T>{});
          store<T>(d + j, p * (grad - load(delta_ + j)));
        });
      } else {
        for (int v = v0; v < v1; ++v) {
          const Vec<T> p = power_of_two<T>(load(z + v * w) - load(lse_ + v * w));
          store<T>(z + v * w, p);
          store<T>(d + v * w, p * (load(d + v * w) - load(delta_ + v * w)));
        }
      }
    }
    if (a_.grad_mask.data)
      add_mask_gradient<T>(a_.grad_mask.data + b * a_.grad_mask.batch + h * a_.grad_mask.head +
                               (q0 + lane) * a_.grad_mask.row + s.key,
                           a_.grad_mask.row, s.d + lane, lanes, s.rows);
  }

  const Arrays<T>& a_;
  const Problem& p_;
  Dropout<T> dropout_;
  int64_t size_, value_size_, rows_, keys_ = 0;
  memory::Buffer<T> key_strips_, value_strips_, key_columns_, grad_key_, grad_value_;  // of the range of keys
  memory::Buffer<T> grad_query_, query_lanes_, grad_lanes_, query_rows_, grad_rows_;  // of a block of queries
  memory::Buffer<T> weights_, grad_z_;  // (keys x kQueries) of a group of strips, of a block of keys
  alignas(64) T lse_[kQueries<T>], delta_[kQueries<T>];
};

// Where part number `part` of the keys begins: parts of equal work. Key j is seen by queries j .. L if
// causal.
int64_t boundary(const Problem& p, int64_t part, int64_t parts) {
  if (!p.causal || part == 0 || part == parts) return p.keys * part / parts;
  const double n = double(std::min(p.keys, p.queries)), most = double(p.queries);
  const double rest =
      double(parts - part) / double(parts) * n * (2 * most - n);  // work after key x: (L-x)^2 - (L-n)^2
  const double x = most - std::sqrt(rest + (most - n) * (most - n));
  return std::clamp<int64_t>(int64_t(x), 0, p.keys);
}

// The fewest parts with which all threads are busy nearly all the time, in so far as parts stay long enough.
template <class T>
int64_t parts_of(int64_t owners, const Problem& p) {
  const int64_t threads = num_threads(), most = std::max<int64_t>(1, p.keys / (8 * kStrip<T>));
  if (threads == 1) return 1;
  int64_t best = 1;
  double least = 1e9;
  for (int64_t parts = 1; parts <= std::min(most, 4 * threads); ++parts) {
    const int64_t tasks = owners * parts;
    const double idle = double(ceil_div(tasks, threads) * threads) / double(tasks);
    if (idle < least - 0.05) best = parts, least = idle;
    if (least < 1.1) break;
  }
  return best;
}

}  // namespace

template <class T>
void backward(Heads<T> grad_query, Heads<T> grad_key, Heads<T> grad_value, const MaskGradient<T>& grad_mask,
              Heads<const T> grad_y, Heads<const T> query, Heads<const T> key, Heads<const T> value,
              const Mask<T>& mask, Heads<const T> y, const T* lse, const Problem& p) {
  if (p.batch * p.groups == 0) return;
  if (is_few<T>(p) && !grad_mask.data)
    return backward_few<T>(grad_query, grad_key, grad_value, grad_y, query, key, value, mask, y, lse, p);
  // Heads that share the gradient of a mask belong to one owner, which adds to it head by head.
  const int64_t shared_batch = grad_mask.data && grad_mask.batch == 0 ? p.batch : 1;
  const int64_t shared_groups = grad_mask.data && grad_mask.head == 0 ? p.groups : 1;
  const int64_t owners = p.batch / shared_batch * (p.groups / shared_groups);
  const int64_t parts = parts_of<T>(owners, p);
  const int64_t rows = p.batch * p.heads * p.queries, partial_size = rows * p.size;
  memory::Buffer<T> partial(parts > 1 ? size_t(parts * partial_size) : 0);
  const auto part_of = [&](int64_t part) -> Heads<T> {
    if (parts == 1) return grad_query;
    return {partial + part * partial_size, p.heads * p.queries * p.size, p.queries * p.size, p.size};
  };
  int64_t most_keys = 0;
  for (int64_t i = 0; i < parts; ++i)
    most_keys = std::max(most_keys, boundary(p, i + 1, parts) - boundary(p, i, parts));
  const Arrays<T> arrays{grad_query, grad_key, grad_value, grad_mask, grad_y, query,
                         key,        value,    y,          mask,      lse};
  const double microseconds =
      double(p.batch * p.heads) * head_microseconds<T>(p, 3 * p.size + 2 * p.value_size, 0.8);
  tile::share(owners * parts, microseconds, [&](int64_t begin, int64_t end) {
    Backward<T> kernel(arrays, p, most_keys);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t owner = task / parts, part = task % parts;
      const int64_t groups = p.groups / shared_groups;
      for (int64_t i = 0; i < shared_batch; ++i)
        for (int64_t j = 0; j < shared_groups; ++j)
          kernel.run(owner / groups + i, owner % groups + j, boundary(p, part, parts),
                     boundary(p, part + 1, parts), part_of(part));
    }
  });
  if (parts == 1) return;
  parallel_for(rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, p.size * parts)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r) {
                   const int64_t head = r / p.queries;
                   T* to = grad_query.at(head / p.heads, head % p.heads) + r % p.queries * grad_query.row;
                   const T* from = partial + r * p.size;
                   for (int64_t e = 0; e < p.size; e += kWidth<T>) {
                     const int n = int(std::min<int64_t>(kWidth<T>, p.size - e));
                     Vec<T> sum = load_n(from + e, n);
                     for (int64_t i = 1; i < parts; ++i) sum += load_n(from + i * partial_size + e, n);
                     store_n(to + e, sum, n);
                   }
                 }
               });
}

#define FASTDL_INSTANTIATE(T)                                                                               \
  template void backward<T>(Heads<T>, Heads<T>, Heads<T>, const MaskGradient<T>&, Heads<const T>,           \
                            Heads<const T>, Heads<const T>, Heads<const T>, const Mask<T>&, Heads<const T>, \
                            const T*, const Problem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::attention
