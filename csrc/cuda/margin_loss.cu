// Losses that compare scores of classes with a margin: a warp has a row of scores, and its lanes' parts are added in a
// fixed order. A gap that is no number counts as closed.
//
// One target: the row is read once for its loss, and once for its gradient, in which the target's own is the
// negative sum of the others'. Several labels: lanes have the classes and meet all labels (classes * labels
// steps), of which some may name them; backward that is kept, and labels go once more, one after the other, for
// their own gradients.
#include "cuda/margin_loss.h"

#include "cuda/errors.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr uint64_t kMultiMargin = 9, kMultilabelMargin = 10;  // device.py: OPERATIONS
constexpr int kThreads = 256, kRows = kThreads / 32;

// Calls f(row, lane) for the rows of a warp.
template <class F>
__device__ __forceinline__ void for_each_row(const MarginLoss& p, F&& f) {
  for (int64_t row = int64_t(blockIdx.x) * kRows + threadIdx.x / 32; row < p.rows;
       row += int64_t(gridDim.x) * kRows)
    f(row, int(threadIdx.x) % 32);
}

template <class C>
struct Gaps {
  C own, margin;
  bool squared;

  // max(0, gap)^p of a class with score x, and its derivative.
  __device__ __forceinline__ C open(C x) const {
    const C gap = x - own + margin;
    return gap > 0 ? gap : C(0);
  }
  __device__ __forceinline__ C loss(C x) const { return squared ? open(x) * open(x) : open(x); }
  __device__ __forceinline__ C slope(C x) const { return squared ? 2 * open(x) : open(x) > 0 ? C(1) : C(0); }
};

// kBackward: `out` are the rows' gradients and grad_losses given, else their losses.
template <class T, bool kBackward>
__global__ void __launch_bounds__(kThreads)
    multi_margin(T* out, const T* grad_losses, const T* x, const T* weight, bool squared, Compute<T> margin,
                 MarginLoss p) {
  using C = Compute<T>;
  for_each_row(p, [&](int64_t row, int lane) {
    const int64_t target = p.target[row];
    const bool valid = !Report{p.report, kMultiMargin}.out_of_range(row, target, p.classes);
    const T* const scores = x + row * p.classes;
    C scale = valid ? 1 / C(p.classes) : C(0);
    if (valid && weight != nullptr) scale *= C(widen(weight[target]));
    if constexpr (kBackward) scale *= C(widen(grad_losses[row]));
    const Gaps<C> gaps{valid ? C(widen(scores[target])) : C(0), margin, squared};
    C sum = 0;
    FASTDL_UNROLL_BY(4)
    for (int64_t i = lane; i < p.classes; i += 32) {
      const C score = C(widen(scores[i]));
      if constexpr (kBackward) {
        const C g = i == target || !valid ? C(0) : gaps.slope(score) * scale;
        sum += g;
        if (i != target) out[row * p.classes + i] = narrow<T>(g);
      } else if (i != target) {
        sum += gaps.loss(score);
      }
    }
    sum = warp_reduce(sum, Plus{});
    if (lane != 0) return;
    if constexpr (!kBackward)
      out[row] = narrow<T>(valid ? sum * scale : C(0));
    else if (valid)
      out[row * p.classes + target] = narrow<T>(-sum);
  });
}

// How many labels a row has.
__device__ __forceinline__ int64_t count_labels(const int64_t* labels, int64_t row, int lane,
                                                const MarginLoss& p) {
  const Report report{p.report, kMultilabelMargin};
  for (int64_t first = 0; first < p.classes; first += 32) {
    const int64_t j = first + lane, label = j < p.classes ? labels[j] : -1;
    const uint32_t ends = ballot(label < 0 || label >= p.classes);
    if (ends == 0) continue;
    int before = 0;
    while ((ends >> before & 1) == 0) ++before;
    if (lane == before && label != -1) report.out_of_range(row * p.classes + j, label, p.classes);
    return std::min(p.classes, first + before);
  }
  return p.classes;
}

template <class T, bool kBackward>
__global__ void __launch_bounds__(kThreads)
    multilabel_margin(T* out, const T* grad_losses, const T* x, uint8_t* marks, MarginLoss p) {
  using C = Compute<T>;
  for_each_row(p, [&](int64_t row, int lane) {
    const int64_t start = row * p.classes;
    const int64_t* const labels = p.target + start;
    const T* const scores = x + start;
    const int64_t count = count_labels(labels, row, lane, p);
    const auto gap = [&](int64_t label, int64_t other) {
      const C value = 1 - C(widen(scores[label])) + C(widen(scores[other]));
      return value > 0 ? value : C(0);
    };
    C scale = 1 / C(p.classes), sum = 0;
    if constexpr (kBackward) scale *= C(widen(grad_losses[row]));
    for (int64_t i = lane; i < p.classes; i += 32) {
      C of_class = 0;
      bool named = false;
      for (int64_t j = 0; j < count; ++j) {
        const int64_t label = labels[j];
        named = named || label == i;
        of_class += kBackward ? C(gap(label, i) > 0) : gap(label, i);
      }
      if (named) of_class = 0;
      sum += of_class;
      if constexpr (kBackward) {
        marks[start + i] = named;
        out[start + i] = narrow<T>(of_class * scale);
      }
    }
    if constexpr (!kBackward) {
      sum = warp_reduce(sum, Plus{});
      if (lane == 0) out[row] = narrow<T>(sum * scale);
      return;
    }
    sync_warp();
    for (int64_t j = 0; j < count; ++j) {
      C open = 0;
      for (int64_t i = lane; i < p.classes; i += 32)
        if (marks[start + i] == 0 && gap(labels[j], i) > 0) open += 1;
      open = warp_reduce(open, Plus{});
      if (lane == 0) {
        T& to = out[start + labels[j]];
        to = narrow<T>(C(widen(to)) - open * scale);
      }
    }
  });
}

template <class T>
void launch_rows(const char* op, auto kernel, const MarginLoss& p, Stream stream, auto... arguments) {
  launch(op, kernel, dim3(grid_for(p.rows, kRows)), dim3(kThreads), 0, stream, arguments..., p);
}

}  // namespace

void multi_margin_forward(Dtype dtype, void* losses, const void* x, const void* weight, int p, double margin,
                          const MarginLoss& problem, Stream stream) {
  if (problem.rows == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch_rows<T>("multi_margin_loss", multi_margin<T, false>, problem, stream, static_cast<T*>(losses),
                   static_cast<const T*>(nullptr), static_cast<const T*>(x), static_cast<const T*>(weight),
                   p == 2, Compute<T>(margin));
  });
}

void multi_margin_backward(Dtype dtype, void* grad_x, const void* grad_losses, const void* x,
                           const void* weight, int p, double margin, const MarginLoss& problem,
                           Stream stream) {
  if (problem.rows == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch_rows<T>("multi_margin_loss_backward", multi_margin<T, true>, problem, stream,
                   static_cast<T*>(grad_x), static_cast<const T*>(grad_losses), static_cast<const T*>(x),
                   static_cast<const T*>(weight), p == 2, Compute<T>(margin));
  });
}

void multilabel_margin_forward(Dtype dtype, void* losses, const void* x, const MarginLoss& problem,
                               Stream stream) {
  if (problem.rows == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch_rows<T>("multilabel_margin_loss", multilabel_margin<T, false>, problem, stream,
                   static_cast<T*>(losses), static_cast<const T*>(nullptr), static_cast<const T*>(x),
                   static_cast<uint8_t*>(nullptr));
  });
}

void multilabel_margin_backward(Dtype dtype, void* grad_x, const void* grad_losses, const void* x,
                                uint8_t* named, const MarginLoss& problem, Stream stream) {
  if (problem.rows == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch_rows<T>("multilabel_margin_loss_backward", multilabel_margin<T, true>, problem, stream,
                   static_cast<T*>(grad_x), static_cast<const T*>(grad_losses), static_cast<const T*>(x),
                   named);
  });
}

}  // namespace fastdl::cuda
