// Attention forward for a few queries, as in step-by-step decoding with a cache of keys and values: lanes are
// keys here, because queries would leave most lanes empty.
//
//   z = scale log2(e) Q K^T + mask,   y = 2^(z - m) V / l     (m, l: as in forward.cpp)
//
// A task takes a range of the keys of one head; all queries that share the head (its group) are rows of one
// short product, so keys and values pass through once, at memory speed. Where there are fewer heads than
// threads the keys are split, and partial results (y, m, l) are merged in the order of the ranges.
#include "cpu/attention/block.h"
#include "cpu/runtime/memory.h"

namespace fastdl::attention {
namespace {

constexpr int64_t kChunk = 2048;  // keys whose scores exist at a time
constexpr int64_t kLeast = 4096;  // elements of keys that are worth a task of their own

// Powers of n scores in place: raises the maximum, scales y and the sum accordingly.
template <class T>
void softmax_row(T* z, int64_t n, T& top, T& sum, T* y, int64_t size) {
  constexpr int w = kWidth<T>;
  Vec<T> m = broadcast<T>(top);
  int64_t j = 0;
  for (; j + w <= n; j += w) m = max(load(z + j), m);
  T now = reduce_max<T>(m);
  for (; j < n; ++j) now = z[j] > now ? z[j] : now;
  const T base = now == -detail::kInfinity<T> ? T(0) : now;
  Vec<T> s{};
  for (j = 0; j < n; j += w) {
    const int here = int(std::min<int64_t>(w, n - j));
    if (here == w) {
      const Vec<T> p = power_of_two<T>(load(z + j) - base);
      store<T>(z + j, p);
      s += p;
    } else {
      T rest[w];
      std::fill_n(rest, w, -detail::kInfinity<T>);
      std::copy_n(z + j, here, rest);
      const Vec<T> p = power_of_two<T>(load(rest) - base);
      store_n(z + j, p, here);
      s += p;
    }
  }
  const T factor = power_of_two<T>(broadcast<T>(top - base))[0];
  sum = sum * factor + reduce_add<T>(s);
  top = now;
  if (factor != T(1)) scale_row<T>(y, y, size, factor);
}

template <class T>
class Few {
 public:
  Few(Heads<const T> query, Heads<const T> key, Heads<const T> value, const Mask<T>& mask, const Problem& p)
      : query_(query), key_(key), value_(value), mask_(mask), p_(p), rows_(p.heads / p.groups * p.queries) {}

  int64_t rows() const { return rows_; }

  // Keys first .. last of head g: y (rows x value_size) and, per row, top and sum.
  void run(int64_t b, int64_t g, int64_t first, int64_t last, T* y, T* top, T* sum) const {
    const int64_t size = p_.size, heads = p_.heads / p_.groups;
    memory::Buffer<T> q(size_t(rows_ * size)), z(size_t(rows_ * kChunk));
    for (int64_t r = 0; r < rows_; ++r) {
      const T* from = query_.at(b, g * heads + r / p_.queries) + r % p_.queries * query_.row;
      scale_row<T>(q + r * size, from, size, T(p_.scale * kLog2E));
    }
    std::fill_n(top, rows_, -detail::kInfinity<T>);
    std::fill_n(sum, rows_, T(0));
    std::fill_n(y, rows_ * p_.value_size, T(0));
    for (int64_t j = first; j < last; j += kChunk) {
      const int64_t n = std::min(kChunk, last - j);
      gemm<T>(rows_, n, size, T(1), {q, size, 1}, {key_.at(b, g) + j * key_.row, 1, key_.row}, T(0), z, n);
      for (int64_t r = 0; r < rows_; ++r) {
        const MaskRows<T> mask(mask_, b, g * heads + r / p_.queries, p_.keys);
        if (mask)
          for (int64_t k = 0; k < n; k += kWidth<T>) {
            const int here = int(std::min<int64_t>(kWidth<T>, n - k));
            T* at = z + r * n + k;
            store_n(at, load_n(at, here) + mask.part(r % p_.queries, j + k, here), here);
          }
        softmax_row<T>(z + r * n, n, top[r], sum[r], y + r * p_.value_size, p_.value_size);
      }
      gemm<T>(rows_, p_.value_size, n, T(1), {z, n, 1}, {value_.at(b, g) + j * value_.row, value_.row, 1},
              T(1), y, p_.value_size);
    }
  }

 private:
  Heads<const T> query_, key_, value_;
  const Mask<T>& mask_;
  const Problem& p_;
  int64_t rows_;
};

}  // namespace

template <class T>
bool is_few(const Problem& p) {
  return p.groups > 0 && p.heads / p.groups * p.queries <= kWidth<T> / 2 && !p.causal && p.p == 0 &&
         p.size > 0;
}

template <class T>
void forward_few(Heads<T> y, T* lse, Heads<const T> query, Heads<const T> key, Heads<const T> value,
                 const Mask<T>& mask, const Problem& p) {
  const Few<T> kernel(query, key, value, mask, p);
  const int64_t units = p.batch * p.groups, rows = kernel.rows(), heads = p.heads / p.groups;
  const int64_t most = std::max<int64_t>(1, p.keys * (p.size + p.value_size) / kLeast);
  const int64_t parts =
      units == 0 || units >= 4 * num_threads() ? 1 : std::min(ceil_div(4 * num_threads(), units), most);
  const int64_t step = rows * p.value_size;
  memory::Buffer<T> partial(size_t(units * parts * step)), top(size_t(units * parts * rows)),
      sum(size_t(units * parts * rows));
  // Elements of keys and values at 10 per ns.
  const double microseconds = double(units) * double(p.keys) * double(p.size + p.value_size) * 1e-4;
  tile::share(units * parts, microseconds, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t unit = task / parts, part = task % parts;
      kernel.run(unit / p.groups, unit % p.groups, p.keys * part / parts, p.keys * (part + 1) / parts,
                 partial + task * step, top + task * rows, sum + task * rows);
    }
  });
  for (int64_t unit = 0; unit < units; ++unit)
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t b = unit / p.groups, h = unit % p.groups * heads + r / p.queries, i = r % p.queries;
      const T *tops = top + unit * parts * rows + r, *sums = sum + unit * parts * rows + r;
      T highest = -detail::kInfinity<T>, total = 0;
      for (int64_t s = 0; s < parts; ++s) highest = std::max(highest, tops[s * rows]);
      const T base = highest == -detail::kInfinity<T> ? T(0) : highest;
      T* to = y.at(b, h) + i * y.row;
      std::fill_n(to, p.value_size, T(0));
      for (int64_t s = 0; s < parts; ++s) {
        const T factor = power_of_two<T>(broadcast<T>(tops[s * rows] - base))[0];
        const T* from = partial + (unit * parts + s) * step + r * p.value_size;
        total += sums[s * rows] * factor;
        for (int64_t e = 0; e < p.value_size; ++e) to[e] += from[e] * factor;
      }
      const bool nothing = total == T(0);
      for (int64_t e = 0; e < p.value_size; ++e) to[e] = nothing ? T(0) : to[e] / total;
      lse[(b * p.heads + h) * p.queries + i] = nothing ? detail::kInfinity<T> : std::log2(total) + highest;
    }
}

#define FASTDL_INSTANTIATE(T)                                                                                \
  template bool is_few<T>(const Problem&);                                                                   \
  template void forward_few<T>(Heads<T>, T*, Heads<const T>, Heads<const T>, Heads<const T>, const Mask<T>&, \
                               const Problem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::attention
