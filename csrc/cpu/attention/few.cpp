// Attention for a few queries, as in step-by-step decoding with a cache of keys and values, or where one learned
// query sums a sequence up: lanes are keys here, because queries would leave most lanes empty.
//
//   z = scale log2(e) Q K^T + mask,   y = 2^(z - m) V / l     (m, l: as in forward.cpp)
//   P = 2^(z - lse),   grad_z = P (grad_y V^T - delta)        (delta: as in backward.cpp)
//   grad_V = P^T grad_y,   grad_K = scale grad_z^T Q,   grad_Q = scale grad_z K
//
// A task takes a range of the keys of one head; all queries that share the head (its group) are rows of one
// short product, so keys and values pass through once, at memory speed. Where there are fewer heads than
// threads the keys are split, and partial results (y, m, l; grad_Q) are merged in the order of the ranges.
#include <functional>

#include "cpu/attention/block.h"
#include "cpu/runtime/memory.h"

namespace fastdl::attention {
namespace {

constexpr int64_t kChunk = 2048;  // keys whose scores exist at a time
// The tiles' path takes 1.2 to 2 times as long up to here, less than 1.3 at 24.
constexpr int64_t kMostRows = 16;
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

// How the work is cut: units (heads of keys) times parts (ranges of their keys), each `rows` queries.
struct Cut {
  int64_t units, parts, rows;
  double microseconds;  // of everything, forward

  explicit Cut(const Problem& p) : units(p.batch * p.groups), rows(p.heads / p.groups * p.queries) {
    const int64_t all = p.keys * (p.size + p.value_size);
    parts = units == 0 || units >= 4 * num_threads()
                ? 1
                : std::min(ceil_div(4 * num_threads(), units), std::max<int64_t>(1, all / kLeast));
    // Of a range: 0.2 us and 0.05 a row; elements of keys and values at 8 per ns, more slowly for several rows.
    microseconds = double(units) * (double(parts) * (0.2 + 0.05 * double(rows)) +
                                    double(all) * (1.1e-4 + 1.5e-5 * double(rows)));
  }
};

template <class T>
class Few {
 public:
  Few(Heads<const T> query, Heads<const T> key, Heads<const T> value, const Mask<T>& mask, const Problem& p)
      : query_(query), key_(key), value_(value), mask_(mask), p_(p), rows_(p.heads / p.groups * p.queries) {}

  // Elements of scratch that a range of keys needs.
  int64_t scratch() const { return rows_ * (p_.size + std::min(kChunk, p_.keys)); }
  int64_t scratch_backward() const {
    return rows_ * (p_.size + p_.value_size + 2 * std::min(kChunk, p_.keys));
  }

  // Keys first .. last of head g: y (rows x value_size) and, per row, top and sum.
  void run(T* scratch, int64_t b, int64_t g, int64_t first, int64_t last, T* y, T* top, T* sum) const {
    T *q = scratch, *z = q + rows_ * p_.size;
    gather(q, query_, b, g, p_.size, T(p_.scale * kLog2E));
    std::fill_n(top, rows_, -detail::kInfinity<T>);
    std::fill_n(sum, rows_, T(0));
    std::fill_n(y, rows_ * p_.value_size, T(0));
    for (int64_t j = first; j < last; j += kChunk) {
      const int64_t n = std::min(kChunk, last - j);
      scores(z, q, b, g, j, n);
      for (int64_t r = 0; r < rows_; ++r)
        softmax_row<T>(z + r * n, n, top[r], sum[r], y + r * p_.value_size, p_.value_size);
      gemm<T>(rows_, p_.value_size, n, T(1), {z, n, 1}, {value_.at(b, g) + j * value_.row, value_.row, 1},
              T(1), y, p_.value_size);
    }
  }

  // Keys first .. last of head g: the gradients of the keys and values, and this range's part of grad_query
  // (rows x size), not yet scaled.
  void run_backward(T* scratch, int64_t b, int64_t g, int64_t first, int64_t last, T* grad_query,
                    Heads<T> grad_key, Heads<T> grad_value, Heads<const T> grad_y, Heads<const T> y,
                    const T* lse) const {
    const int64_t size = p_.size, value_size = p_.value_size;
    T *q = scratch, *grad = q + rows_ * size, *z = grad + rows_ * value_size,
      *grad_z = z + rows_ * std::min(kChunk, p_.keys);
    T delta[kMostRows];
    gather(q, query_, b, g, size, T(p_.scale * kLog2E));
    gather(grad, grad_y, b, g, value_size, T(1));
    for (int64_t r = 0; r < rows_; ++r) delta[r] = dot<T>(grad + r * value_size, row(y, b, g, r), value_size);
    lse += (b * p_.heads + g * (p_.heads / p_.groups)) * p_.queries;
    std::fill_n(grad_query, rows_ * size, T(0));
    for (int64_t j = first; j < last; j += kChunk) {
      const int64_t n = std::min(kChunk, last - j);
      const T* keys = key_.at(b, g) + j * key_.row;
      scores(z, q, b, g, j, n);
      gemm<T>(rows_, n, value_size, T(1), {grad, value_size, 1},
              {value_.at(b, g) + j * value_.row, 1, value_.row}, T(0), grad_z, n);
      for (int64_t r = 0; r < rows_; ++r)
        for (int64_t k = 0; k < n; k += kWidth<T>) {
          const int here = int(std::min<int64_t>(kWidth<T>, n - k));
          T *weight = z + r * n + k, *to = grad_z + r * n + k;
          const Vec<T> p = power_of_two<T>(load_n(weight, here) - lse[r]);
          store_n(weight, p, here);
          store_n(to, p * (load_n(to, here) - delta[r]), here);
        }
      gemm<T>(n, value_size, rows_, T(1), {z, 1, n}, {grad, value_size, 1}, T(0),
              grad_value.at(b, g) + j * grad_value.row, grad_value.row);
      // The packed queries hold scale log2(e).
      gemm<T>(n, size, rows_, T(1 / kLog2E), {grad_z, 1, n}, {q, size, 1}, T(0),
              grad_key.at(b, g) + j * grad_key.row, grad_key.row);
      gemm<T>(rows_, size, n, T(1), {grad_z, n, 1}, {keys, key_.row, 1}, T(1), grad_query, size);
    }
  }

  // Row r of those that share head g.
  template <class U>
  U* row(const Heads<U>& x, int64_t b, int64_t g, int64_t r) const {
    return x.at(b, g * (p_.heads / p_.groups) + r / p_.queries) + r % p_.queries * x.row;
  }

 private:
  void gather(T* to, Heads<const T> from, int64_t b, int64_t g, int64_t size, T factor) const {
    for (int64_t r = 0; r < rows_; ++r) scale_row<T>(to + r * size, row(from, b, g, r), size, factor);
  }

  // z (rows x n) of keys j .. j + n.
  void scores(T* z, const T* q, int64_t b, int64_t g, int64_t j, int64_t n) const {
    gemm<T>(rows_, n, p_.size, T(1), {q, p_.size, 1}, {key_.at(b, g) + j * key_.row, 1, key_.row}, T(0), z,
            n);
    for (int64_t r = 0; r < rows_; ++r) {
      const MaskRows<T> mask(mask_, b, g * (p_.heads / p_.groups) + r / p_.queries, p_.keys);
      if (mask)
        for (int64_t k = 0; k < n; k += kWidth<T>) {
          const int here = int(std::min<int64_t>(kWidth<T>, n - k));
          T* at = z + r * n + k;
          store_n(at, load_n(at, here) + mask.part(r % p_.queries, j + k, here), here);
        }
    }
  }

  Heads<const T> query_, key_, value_;
  const Mask<T>& mask_;
  const Problem& p_;
  int64_t rows_;
};

using Range =
    std::function<void(void* scratch, int64_t slot, int64_t b, int64_t g, int64_t first, int64_t last)>;
using Merge = std::function<void(int64_t slot, int64_t b, int64_t g)>;

// `range` for all ranges of keys, then `merge` for each head, whose parts have slots in a row. Heads in one part are
// merged at once, in a slot that stays in its thread's cache. (Functions, not templates: one body for all.)
void share_parts(const Cut& cut, const Problem& p, double microseconds, size_t scratch_bytes,
                 const Range& range, const Merge& merge) {
  const int64_t parts = cut.parts;
  tile::share(cut.units * parts, microseconds, [&](int64_t begin, int64_t end) {
    const memory::Buffer<char> scratch{scratch_bytes};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t unit = task / parts, part = task % parts, b = unit / p.groups, g = unit % p.groups;
      const int64_t slot = parts == 1 ? begin : task;
      range(scratch, slot, b, g, p.keys * part / parts, p.keys * (part + 1) / parts);
      if (parts == 1) merge(slot, b, g);
    }
  });
  if (parts > 1)
    for (int64_t unit = 0; unit < cut.units; ++unit) merge(unit * parts, unit / p.groups, unit % p.groups);
}

}  // namespace

template <class T>
bool is_few(const Problem& p) {
  return p.groups > 0 && p.heads / p.groups * p.queries <= kMostRows && !p.causal && p.p == 0 && p.size > 0;
}

template <class T>
void forward_few(Heads<T> y, T* lse, Heads<const T> query, Heads<const T> key, Heads<const T> value,
                 const Mask<T>& mask, const Problem& p) {
  const Few<T> kernel(query, key, value, mask, p);
  const Cut cut(p);
  const int64_t parts = cut.parts, rows = cut.rows, step = rows * p.value_size;
  memory::Buffer<T> partial(size_t(cut.units * parts * step)), top(size_t(cut.units * parts * rows)),
      sum(size_t(cut.units * parts * rows));
  const auto range = [&](void* scratch, int64_t slot, int64_t b, int64_t g, int64_t first, int64_t last) {
    kernel.run(static_cast<T*>(scratch), b, g, first, last, partial + slot * step, top + slot * rows,
               sum + slot * rows);
  };
  const auto merge = [&](int64_t slot, int64_t b, int64_t g) {
    for (int64_t r = 0; r < rows; ++r) {
      const T *tops = top + slot * rows + r, *sums = sum + slot * rows + r;
      T highest = -detail::kInfinity<T>, total = 0;
      for (int64_t s = 0; s < parts; ++s) highest = std::max(highest, tops[s * rows]);
      const T base = highest == -detail::kInfinity<T> ? T(0) : highest;
      T* to = kernel.row(y, b, g, r);
      std::fill_n(to, p.value_size, T(0));
      for (int64_t s = 0; s < parts; ++s) {
        const T factor = power_of_two<T>(broadcast<T>(tops[s * rows] - base))[0];
        const T* from = partial + (slot + s) * step + r * p.value_size;
        total += sums[s * rows] * factor;
        for (int64_t e = 0; e < p.value_size; ++e) to[e] += from[e] * factor;
      }
      const bool nothing = total == T(0);
      for (int64_t e = 0; e < p.value_size; ++e) to[e] = nothing ? T(0) : to[e] / total;
      lse[(b * p.groups + g) * rows + r] = nothing ? detail::kInfinity<T> : std::log2(total) + highest;
    }
  };
  share_parts(cut, p, cut.microseconds, size_t(kernel.scratch()) * sizeof(T), range, merge);
}

template <class T>
void backward_few(Heads<T> grad_query, Heads<T> grad_key, Heads<T> grad_value, Heads<const T> grad_y,
                  Heads<const T> query, Heads<const T> key, Heads<const T> value, const Mask<T>& mask,
                  Heads<const T> y, const T* lse, const Problem& p) {
  const Few<T> kernel(query, key, value, mask, p);
  const Cut cut(p);
  const int64_t step = cut.rows * p.size;
  memory::Buffer<T> partial(size_t(cut.units * cut.parts * step));
  const auto range = [&](void* scratch, int64_t slot, int64_t b, int64_t g, int64_t first, int64_t last) {
    kernel.run_backward(static_cast<T*>(scratch), b, g, first, last, partial + slot * step, grad_key,
                        grad_value, grad_y, y, lse);
  };
  const auto merge = [&](int64_t slot, int64_t b, int64_t g) {
    for (int64_t r = 0; r < cut.rows; ++r) {
      T *to = kernel.row(grad_query, b, g, r), *from = partial + slot * step + r * p.size;
      for (int64_t part = 1; part < cut.parts; ++part)
        for (int64_t e = 0; e < p.size; ++e) from[e] += from[part * step + e];
      scale_row<T>(to, from, p.size, T(p.scale));
    }
  };
  // Five products instead of two, and gradients of keys and values are written.
  share_parts(cut, p, 2.5 * cut.microseconds, size_t(kernel.scratch_backward()) * sizeof(T), range, merge);
}

#define FASTDL_INSTANTIATE(T)                                                                                \
  template bool is_few<T>(const Problem&);                                                                   \
  template void forward_few<T>(Heads<T>, T*, Heads<const T>, Heads<const T>, Heads<const T>, const Mask<T>&, \
                               const Problem&);                                                              \
  template void backward_few<T>(Heads<T>, Heads<T>, Heads<T>, Heads<const T>, Heads<const T>,                \
                                Heads<const T>, Heads<const T>, const Mask<T>&, Heads<const T>, const T*,    \
                                const Problem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::attention
