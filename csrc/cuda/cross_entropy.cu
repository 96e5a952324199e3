// Softmax cross entropy of x (outer, classes, inner) with labels or probabilities:
//   loss = -sum_c w_c q_c (x_c - m - log s),  q = (1 - e) [c == target] + e / C  (or of given probabilities)
//   grad_x_c = g (exp(x_c - m - log s) sum_k w_k q_k - w_c q_c)
//
// Forward reads the logits once, with an online maximum and sum, and stores two numbers per position;
// backward reads them once and writes the gradient. Threads load kAhead packs before they compute, which is
// what fills the memory's pipe; rows may start anywhere (a vocabulary of odd size). Nothing of the logits'
// size is stored in between. Rows go to groups of lanes or blocks (rows.h), positions of inner > 1 side by
// side. With smoothing, sum w_c x_c is taken relative to the first logit, so that it does not cancel with m.
#include "cuda/cross_entropy.h"

#include "cuda/errors.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

// Operation codes of reports; kernels/cuda/device.py names them.
constexpr uint64_t kCrossEntropy = 1, kNllLoss = 2;

template <class T>
struct Loss {
  using C = Compute<T>;
  Classes shape;
  const int64_t* target;
  const T* probabilities;
  const T* weight;
  const C* weight_total;
  int64_t ignore_index;
  C sure, even;  // 1 - e and e / C

  __device__ __forceinline__ C weight_of(int64_t c) const { return weight ? C(widen(weight[c])) : C(1); }
  __device__ __forceinline__ C total() const { return weight_total ? *weight_total : C(shape.classes); }
  // sum_k w_k q_k of a label
  __device__ __forceinline__ C mass(int64_t t) const { return sure * weight_of(t) + even * total(); }
};

template <class T>
Loss<T> loss_of(const CrossEntropy& p) {
  using C = Compute<T>;
  return {p.shape,
          p.target,
          static_cast<const T*>(p.probabilities),
          static_cast<const T*>(p.weight),
          static_cast<const C*>(p.weight_total),
          p.ignore_index,
          C(1 - p.smoothing),
          C(p.smoothing / double(p.shape.classes > 0 ? p.shape.classes : 1))};
}

// What a thread gathers of its part of a position's classes.
template <class T>
struct Gathered {
  using C = Compute<T>;
  Online<T> online;
  C weighted = 0, mass = 0;  // sum w q (x - shift) and sum w q; for labels q is the even part alone
};

template <class T, class C>
__device__ __forceinline__ void finish(const Loss<T>& loss, C* losses, C* statistics, int64_t p, C target_x,
                                       C shift, const Gathered<T>& all, const Report& report) {
  const int64_t positions = loss.shape.positions();
  const C m = all.online.m, log_s = std::log(all.online.s);
  statistics[p] = m;
  statistics[positions + p] = log_s;
  if (loss.probabilities != nullptr) {
    statistics[2 * positions + p] = all.mass;
    losses[p] = all.mass * (m - shift + log_s) - all.weighted;
    return;
  }
  const int64_t t = loss.target[p];
  if (t == loss.ignore_index || report.out_of_range(p, t, loss.shape.classes)) {
    losses[p] = 0;
    return;
  }
  C value = -loss.sure * loss.weight_of(t) * (target_x - m - log_s);
  if (loss.even != 0) value += loss.even * (loss.total() * (m - shift + log_s) - all.weighted);
  losses[p] = value;
}

// Relative to what sums of logits are taken.
template <class C>
__device__ __forceinline__ C shift_of(C first) {
  return first - first == 0 ? first : C(0);  // not of an infinity
}
template <class T>
__device__ __forceinline__ Compute<T> target_logit(const Loss<T>& loss, const T* x, int64_t p,
                                                   int64_t stride) {
  if (loss.target == nullptr) return 0;
  const int64_t t = loss.target[p];
  return t >= 0 && t < loss.shape.classes ? Compute<T>(widen(x[t * stride])) : Compute<T>(0);
}

constexpr int kAhead = 4;  // packs that a thread loads before it computes
constexpr int kMostThreads = 512;
// Packs whose maximum is found before the first exponential.
template <class T>
constexpr int kTogether = sizeof(T) == 4 ? 4 : 2;

template <class T, bool kBlock>
__global__ void __launch_bounds__(kBlock ? kMostThreads : 256, sizeof(Compute<T>) == 8 ? 1 : 2)
    cross_entropy_rows(Compute<T>* losses, Compute<T>* statistics, const T* x, Loss<T> loss, int group,
                       bool vectors, Report report) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>;
  RowTeam<kBlock> team(group);
  const int64_t rows = loss.shape.outer, length = loss.shape.classes;
  const bool sums = loss.probabilities != nullptr || loss.even != 0;
  for (; team.any_row(rows); team.row += team.step) {
    const bool mine = team.row < rows;
    const T* row = x + (mine ? team.row : 0) * length;
    Gathered<T> all;
    C shift = 0, target_x = 0;
    // The target's logit is on its way while the row is read.
    if (mine && team.index == 0) target_x = target_logit(loss, row, team.row, 1);
    if (mine) {
      if (sums) shift = shift_of(C(widen(row[0])));
      // What else element c, whose logit is v, adds to.
      const auto gather = [&](int64_t c, C v) {
        C wq = loss.weight_of(c);
        if (loss.probabilities != nullptr) {
          wq *= loss.sure * C(widen(loss.probabilities[team.row * length + c])) + loss.even;
          all.mass += wq;
        }
        all.weighted += wq * (v - shift);
      };
      const ShiftedSlice<T> slice(team, length, row, vectors);
      slice.template each<kAhead>(
          [&]<bool kAll>(std::bool_constant<kAll> whole, int64_t first, int64_t stride) {
            Loaded<T, N> loaded[kAhead];
            slice.fetch(whole, loaded, row, first, stride);
            FASTDL_UNROLL
            for (int h = 0; h < kAhead; h += kTogether<T>) {
              Values<C, N * kTogether<T>> v;
              FASTDL_UNROLL
              for (int i = 0; i < kTogether<T>; ++i) FASTDL_UNROLL
              for (int k = 0; k < N; ++k)
                v.v[i * N + k] = kAll || first + (h + i) * stride < slice.end() ? C(widen(loaded[h + i][k]))
                                                                                : -infinity<C>();
              all.online.add(v);
            }
            if (!sums) return;
            FASTDL_UNROLL
            for (int i = 0; i < kAhead; ++i) {
              const int64_t c = first + i * stride;
              if (!kAll && c >= slice.end()) break;
              FASTDL_UNROLL
              for (int k = 0; k < N; ++k) gather(c + k, C(widen(loaded[i][k])));
            }
          },
          [&](int64_t c) {
            const Values<C, 1> v{{C(widen(row[c]))}};
            all.online.add(v);
            if (sums) gather(c, v.v[0]);
          });
    }
    team.reduce(all.online);
    if (sums) {
      all.weighted = team.sum(all.weighted);
      all.mass = team.sum(all.mass);
    }
    if (mine && team.index == 0) finish(loss, losses, statistics, team.row, target_x, shift, all, report);
  }
}

template <class T>
__global__ void __launch_bounds__(kColumns* kSplit, kColumnBlocks<T>)
    cross_entropy_columns(Compute<T>* losses, Compute<T>* statistics, const T* x, Loss<T> loss,
                          Report report) {
  using C = Compute<T>;
  const Classes shape = loss.shape;
  const bool sums = loss.probabilities != nullptr || loss.even != 0;
  for_each_column(shape, [&](const Column& column) {
    Gathered<T> all;
    const C shift = column.mine && sums ? shift_of(C(widen(x[column.base]))) : C(0);
    column.each(
        [&](int64_t first, const auto& loaded) {
          Values<C, Column::kClasses<T>> v;
          FASTDL_UNROLL
          for (int i = 0; i < Column::kClasses<T>; ++i)
            v.v[i] = column.has(first, i) ? C(widen(loaded.v[i])) : -infinity<C>();
          all.online.add(v);
          if (!sums) return;
          FASTDL_UNROLL
          for (int i = 0; i < Column::kClasses<T>; ++i) {
            if (!column.has(first, i)) continue;
            C wq = loss.weight_of(column.number(first, i));
            if (loss.probabilities != nullptr)
              wq *= loss.sure * C(widen(loss.probabilities[column.place(first, i)])) + loss.even;
            all.weighted += wq * (v.v[i] - shift);
            all.mass += wq;
          }
        },
        x);
    split_reduce(all.online);
    if (sums) {
      all.weighted = split_reduce(all.weighted, Plus{});
      all.mass = split_reduce(all.mass, Plus{});
    }
    if (column.mine && threadIdx.y == 0)
      finish(loss, losses, statistics, column.position,
             target_logit(loss, x + column.base, column.position, shape.inner), shift, all, report);
  });
}

// What a position's gradients have in common.
template <class C>
struct Upstream {
  C g, m, log_s, mass;
  int64_t target;
  bool counts;
};
template <class T>
__device__ __forceinline__ Upstream<Compute<T>> upstream(const Loss<T>& loss, const T* grad_loss,
                                                         const Compute<T>* statistics,
                                                         const Compute<T>* normaliser, Reduction reduction,
                                                         int64_t p) {
  using C = Compute<T>;
  Upstream<C> u{};
  const int64_t positions = loss.shape.positions();
  u.counts = true;
  if (loss.probabilities == nullptr) {
    u.target = loss.target[p];
    u.counts = u.target != loss.ignore_index && u.target >= 0 && u.target < loss.shape.classes;
  }
  if (!u.counts) return u;
  u.g = C(widen(grad_loss[reduction == Reduction::none ? p : 0]));
  if (reduction == Reduction::mean) u.g /= normaliser != nullptr ? *normaliser : C(positions);
  if (statistics != nullptr) {
    u.m = statistics[p];
    u.log_s = statistics[positions + p];
    u.mass = loss.probabilities != nullptr ? statistics[2 * positions + p] : loss.mass(u.target);
  }
  return u;
}
template <class T, class C>
__device__ __forceinline__ C slope(const Loss<T>& loss, const Upstream<C>& u, C x, int64_t c, int64_t at) {
  if (!u.counts) return C(0);
  C q = loss.even;
  if (loss.probabilities != nullptr)
    q += loss.sure * C(widen(loss.probabilities[at]));
  else if (c == u.target)
    q += loss.sure;
  return u.g * (exponential<T>(x - u.m - u.log_s) * u.mass - (q == 0 ? C(0) : loss.weight_of(c) * q));
}

// The slopes of one pack. Of labels without smoothing (kSure) all but the target's are alike; there is no branch,
// so that the pack stays one access.
template <bool kSure, class T, class C, int N>
__device__ __forceinline__ void slopes(const Loss<T>& loss, const Upstream<C>& u, Values<C, N>& v,
                                       int64_t first, int64_t base) {
  if constexpr (kSure) {
    const int place = uint64_t(u.target - first) < N ? int(u.target - first) : -1;
    const C scale = u.g * u.mass;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k)
      v.v[k] = (exponential<T>(v.v[k] - u.m - u.log_s) - (k == place ? C(1) : C(0))) * scale;
  } else {
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) v.v[k] = slope(loss, u, v.v[k], first + k, base + first + k);
  }
}

template <class T, bool kBlock>
__global__ void __launch_bounds__(kBlock ? kMostThreads : 256, sizeof(Compute<T>) == 8 ? 1 : 2)
    cross_entropy_backward_rows(T* grad_x, const T* grad_loss, const T* x, const Compute<T>* statistics,
                                const Compute<T>* normaliser, Loss<T> loss, Reduction reduction, int group,
                                bool vectors) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>;
  RowTeam<kBlock> team(group);
  const int64_t rows = loss.shape.outer, length = loss.shape.classes;
  for (; team.row < rows; team.row += team.step) {
    const int64_t base = team.row * length;
    const ShiftedSlice<T> slice(team, length, x + base, vectors);
    const auto u = upstream(loss, grad_loss, statistics, normaliser, reduction, team.row);
    const auto write = [&]<bool kSure>(std::bool_constant<kSure>) {
      slice.template each<kAhead>(
          [&]<bool kAll>(std::bool_constant<kAll> whole, int64_t first, int64_t stride) {
            Loaded<T, N> loaded[kAhead];
            slice.fetch(whole, loaded, x + base, first, stride);
            FASTDL_UNROLL
            for (int i = 0; i < kAhead; ++i) {
              const int64_t c = first + i * stride;
              if (!kAll && c >= slice.end()) break;
              Values<C, N> v;
              FASTDL_UNROLL
              for (int k = 0; k < N; ++k) v.v[k] = C(widen(loaded[i][k]));
              slopes<kSure>(loss, u, v, c, base);
              slice.store(grad_x + base, c, v);
            }
          },
          [&](int64_t c) {
            grad_x[base + c] = narrow<T>(slope(loss, u, C(widen(x[base + c])), c, base + c));
          });
    };
    if (loss.probabilities == nullptr && loss.even == 0 && u.counts)
      write(std::true_type{});
    else
      write(std::false_type{});
  }
}

// A thread has a position and some of its classes.
template <class T>
__global__ void __launch_bounds__(kColumns* kSplit, kColumnBlocks<T>)
    cross_entropy_backward_columns(T* grad_x, const T* grad_loss, const T* x, const Compute<T>* statistics,
                                   const Compute<T>* normaliser, Loss<T> loss, Reduction reduction) {
  using C = Compute<T>;
  const Classes shape = loss.shape;
  for_each_column(shape, [&](const Column& column) {
    if (!column.mine) return;
    const auto u = upstream(loss, grad_loss, statistics, normaliser, reduction, column.position);
    column.each(
        [&](int64_t first, const auto& loaded) {
          FASTDL_UNROLL
          for (int i = 0; i < Column::kClasses<T>; ++i) {
            if (!column.has(first, i)) continue;
            const int64_t at = column.place(first, i);
            grad_x[at] = narrow<T>(slope(loss, u, C(widen(loaded.v[i])), column.number(first, i), at));
          }
        },
        x);
  });
}

template <class T>
__global__ void __launch_bounds__(256) nll_rows(Compute<T>* losses, const T* x, Loss<T> loss, Report report) {
  using C = Compute<T>;
  const Classes shape = loss.shape;
  const int64_t positions = shape.positions();
  for (int64_t p = int64_t(blockIdx.x) * 256 + threadIdx.x; p < positions; p += int64_t(gridDim.x) * 256) {
    const int64_t t = loss.target[p];
    C value = 0;
    if (t != loss.ignore_index && !report.out_of_range(p, t, shape.classes)) {
      const int64_t at = position_start(shape, p) + t * shape.inner;
      value = -loss.weight_of(t) * C(widen(x[at]));
    }
    losses[p] = value;
  }
}

// grad_x was zeroed.
template <class T>
__global__ void __launch_bounds__(256)
    nll_backward(T* grad_x, const T* grad_loss, const Compute<T>* normaliser, Loss<T> loss,
                 Reduction reduction) {
  using C = Compute<T>;
  const Classes shape = loss.shape;
  const int64_t positions = shape.positions();
  for (int64_t p = int64_t(blockIdx.x) * 256 + threadIdx.x; p < positions; p += int64_t(gridDim.x) * 256) {
    const auto u = upstream(loss, grad_loss, static_cast<const C*>(nullptr), normaliser, reduction, p);
    if (!u.counts) continue;
    const int64_t at = position_start(shape, p) + u.target * shape.inner;
    grad_x[at] = narrow<T>(-u.g * loss.weight_of(u.target));
  }
}

// Sums of losses and of the weights of their targets; one pair of doubles per block, then one block for all
// pairs.
constexpr int kSumThreads = 512, kSumBlocks = 128;

// What is wanted (not null) of a loss's sum and weights.
template <class T>
__device__ __forceinline__ void put_total(T* loss, Compute<T>* normaliser, double sum, double weights,
                                          Reduction reduction) {
  if (loss != nullptr) *loss = narrow<T>(Compute<T>(reduction == Reduction::mean ? sum / weights : sum));
  if (normaliser != nullptr) *normaliser = Compute<T>(reduction == Reduction::none ? 1.0 : weights);
}

template <class T>
__global__ void __launch_bounds__(kSumThreads)
    loss_partials(double* partials, T* total, Compute<T>* normaliser, const Compute<T>* losses, Loss<T> loss,
                  Reduction reduction) {
  const int64_t positions = loss.shape.positions();
  double sum = 0, weights = 0;
  for (int64_t p = int64_t(blockIdx.x) * kSumThreads + threadIdx.x; p < positions;
       p += int64_t(gridDim.x) * kSumThreads) {
    sum += double(losses[p]);
    if (loss.target == nullptr) {
      weights += 1;
    } else {
      const int64_t t = loss.target[p];
      if (t != loss.ignore_index && t >= 0 && t < loss.shape.classes) weights += double(loss.weight_of(t));
    }
  }
  sum = block_reduce(sum, 0.0, Plus{});
  weights = block_reduce(weights, 0.0, Plus{});
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1) {
    put_total<T>(total, normaliser, sum, weights, reduction);
  } else {
    partials[2 * blockIdx.x] = sum;
    partials[2 * blockIdx.x + 1] = weights;
  }
}
template <class T>
__global__ void __launch_bounds__(kSumBlocks)
    loss_total(T* loss, Compute<T>* normaliser, const double* partials, int blocks, Reduction reduction) {
  const bool mine = int(threadIdx.x) < blocks;
  const double sum = block_reduce(mine ? partials[2 * threadIdx.x] : 0.0, 0.0, Plus{});
  const double weights = block_reduce(mine ? partials[2 * threadIdx.x + 1] : 0.0, 0.0, Plus{});
  if (threadIdx.x == 0) put_total<T>(loss, normaliser, sum, weights, reduction);
}

unsigned sum_blocks(int64_t positions) {
  const int64_t wanted = (positions + 4 * kSumThreads - 1) / (4 * kSumThreads);
  return unsigned(wanted < 1 ? 1 : wanted < kSumBlocks ? wanted : kSumBlocks);
}

// No registers hold rows here, so a block per row pays from a few packs per lane on. Rows are dealt out as
// blocks end; where there are enough of them four share a multiprocessor, so that a row's end does not leave it
// idle.
RowPlan plan_loss(int64_t rows, int64_t length) {
  RowPlan plan = plan_rows(rows, length, 32);
  const int most = rows >= 4 * int64_t(multiprocessors()) ? kMostThreads / 2 : kMostThreads;
  if (plan.block && plan.threads > most) plan.threads = most;
  plan.grid = grid_for(rows, plan.block ? 1 : plan.threads / plan.group, 64);
  return plan;
}

}  // namespace

void cross_entropy_forward(Dtype dtype, void* losses, void* statistics, const void* x,
                           const CrossEntropy& problem, uint64_t* report, Stream stream) {
  const Classes shape = problem.shape;
  if (shape.positions() == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const Loss<T> loss = loss_of<T>(problem);
    const Report words{report, kCrossEntropy};
    const T* from = static_cast<const T*>(x);
    C *to = static_cast<C*>(losses), *saved = static_cast<C*>(statistics);
    if (shape.inner > 1) {
      const ColumnPlan columns = plan_columns(shape);
      return launch("cross_entropy_columns", cross_entropy_columns<T>, columns.grid, columns.block, 0, stream,
                    to, saved, from, loss, words);
    }
    const RowPlan plan = plan_loss(shape.outer, shape.classes);
    const bool vectors = start_alike(x, x);
    launch("cross_entropy_rows", plan.block ? cross_entropy_rows<T, true> : cross_entropy_rows<T, false>,
           dim3(plan.grid), dim3(plan.threads), 0, stream, to, saved, from, loss, plan.group, vectors, words);
  });
}

void cross_entropy_backward(Dtype dtype, void* grad_x, const void* grad_loss, const void* x,
                            const void* statistics, const void* normaliser, const CrossEntropy& problem,
                            Reduction reduction, Stream stream) {
  const Classes shape = problem.shape;
  if (shape.positions() * shape.classes == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const Loss<T> loss = loss_of<T>(problem);
    T* to = static_cast<T*>(grad_x);
    const T *g = static_cast<const T*>(grad_loss), *from = static_cast<const T*>(x);
    const C *saved = static_cast<const C*>(statistics), *divisor = static_cast<const C*>(normaliser);
    if (shape.inner > 1) {
      const ColumnPlan columns = plan_columns(shape);
      return launch("cross_entropy_backward_columns", cross_entropy_backward_columns<T>, columns.grid,
                    columns.block, 0, stream, to, g, from, saved, divisor, loss, reduction);
    }
    const RowPlan plan = plan_loss(shape.outer, shape.classes);
    const bool vectors = start_alike(x, grad_x);
    launch("cross_entropy_backward_rows",
           plan.block ? cross_entropy_backward_rows<T, true> : cross_entropy_backward_rows<T, false>,
           dim3(plan.grid), dim3(plan.threads), 0, stream, to, g, from, saved, divisor, loss, reduction,
           plan.group, vectors);
  });
}

void nll_loss_forward(Dtype dtype, void* losses, const void* x, const CrossEntropy& problem, uint64_t* report,
                      Stream stream) {
  const int64_t positions = problem.shape.positions();
  if (positions == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch("nll_loss_forward", nll_rows<T>, dim3(grid_for(positions, 256)), dim3(256), 0, stream,
           static_cast<Compute<T>*>(losses), static_cast<const T*>(x), loss_of<T>(problem),
           Report{report, kNllLoss});
  });
}

void nll_loss_backward(Dtype dtype, void* grad_x, const void* grad_loss, const void* normaliser,
                       const CrossEntropy& problem, Reduction reduction, Stream stream) {
  const int64_t positions = problem.shape.positions();
  if (positions * problem.shape.classes == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    zero(grad_x, sizeof(T) * size_t(positions * problem.shape.classes), stream);
    launch("nll_loss_backward", nll_backward<T>, dim3(grid_for(positions, 256)), dim3(256), 0, stream,
           static_cast<T*>(grad_x), static_cast<const T*>(grad_loss),
           static_cast<const Compute<T>*>(normaliser), loss_of<T>(problem), reduction);
  });
}

int64_t loss_scratch(int64_t positions) {
  return 2 * int64_t(sum_blocks(positions));
}

void loss_reduce(Dtype dtype, void* loss, void* normaliser, const void* losses, double* scratch,
                 const CrossEntropy& problem, Reduction reduction, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const unsigned blocks = sum_blocks(problem.shape.positions());
    T* total = static_cast<T*>(loss);
    C* divisor = static_cast<C*>(normaliser);
    launch("loss_partials", loss_partials<T>, dim3(blocks), dim3(kSumThreads), 0, stream, scratch, total,
           divisor, static_cast<const C*>(losses), loss_of<T>(problem), reduction);
    if (blocks > 1)
      launch("loss_total", loss_total<T>, dim3(1), dim3(kSumBlocks), 0, stream, total, divisor,
             static_cast<const double*>(scratch), int(blocks), reduction);
  });
}

}  // namespace fastdl::cuda
