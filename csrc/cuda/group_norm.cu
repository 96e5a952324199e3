// Group norm of rows that no block's registers hold: by planes, of which a row has some, so that the whole
// device works on few rows, and x is read once for the moments and once for y; backward twice with the gradient,
// for everything.
// batch_norm.cu sums over planes and applies; here the planes of a row are joined, a warp for each row:
//   mean = average of means m_c,  var = average over the row of squares around m_c, plus those of m_c around mean
//   sums of w g and of w g h over a row, from those of g and g h over planes
// The same partial sums, added over the batch, are the gradients of weight and bias.
#include "cuda/norm_statistics.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

// Statistics of rows from `planes` = rows * of_row planes.
template <class T>
__global__ void __launch_bounds__(kThreads)
    join_moments(double* mean, double* var, const Compute<T>* partials, const T* x, int64_t rows, int of_row,
                 int64_t inner, int slices) {
  const int lane = lane_id();
  const int64_t planes = rows * of_row;
  for (int64_t row = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; row < rows;
       row += int64_t(gridDim.x) * (kThreads / 32)) {
    // The plane's mean, and its squares around it.
    const auto plane_of = [&](int c, double& squares) {
      const int64_t plane = row * of_row + c;
      double sum = 0, square = 0;
      for (int s = 0; s < slices; ++s) {
        sum += double(partials[2 * s * planes + plane]);
        square += double(partials[(2 * s + 1) * planes + plane]);
      }
      squares = larger(square - sum * sum / double(inner), 0.0);
      return double(widen(x[plane * inner])) + sum / double(inner);
    };
    double total = 0, squares = 0;
    for (int c = lane; c < of_row; c += 32) total += plane_of(c, squares);
    const double average = warp_reduce(total, Plus{}) / of_row;
    double around = 0;
    for (int c = lane; c < of_row; c += 32) {
      const double distance = plane_of(c, squares) - average;
      around += squares + double(inner) * distance * distance;
    }
    around = warp_reduce(around, Plus{});
    if (lane != 0) continue;
    mean[row] = average;
    var[row] = around / (double(of_row) * double(inner));
  }
}

// sums (2, rows) from partials (batch * slices, 2, channels).
template <class T>
__global__ void __launch_bounds__(kThreads)
    join_gradients(Compute<T>* sums, const Compute<T>* partials, const T* weight, int64_t rows, int groups,
                   int of_row, int slices) {
  using C = Compute<T>;
  const int lane = lane_id();
  const int64_t channels = int64_t(groups) * of_row;
  for (int64_t row = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; row < rows;
       row += int64_t(gridDim.x) * (kThreads / 32)) {
    const int64_t n = row / groups, first = (row - n * groups) * of_row;
    double both[2] = {0, 0};
    for (int c = lane; c < of_row; c += 32) {
      const double w = weight != nullptr ? double(widen(weight[first + c])) : 1.0;
      for (int s = 0; s < slices; ++s) FASTDL_UNROLL
      for (int which = 0; which < 2; ++which)
        both[which] += w * double(partials[(2 * (n * slices + s) + which) * channels + first + c]);
    }
    FASTDL_UNROLL
    for (int which = 0; which < 2; ++which) {
      const double sum = warp_reduce(both[which], Plus{});
      if (lane == 0) sums[which * rows + row] = C(sum);
    }
  }
}

// Rows, their planes, and where scratch has what.
template <class T>
struct Layout {
  using C = Compute<T>;
  int64_t rows, of_row, slices, partials;  // partials: how many numbers

  Layout(Dtype dtype, const ChannelNorm& p)
      : rows(p.batch * p.per_batch),
        of_row(p.per_group),
        slices(plane_slices(dtype, p)),
        partials(slices * 2 * p.batch * p.channels) {}
  // Sums of channels, partial sums behind them (finish_channel_gradients), sums of rows.
  int64_t bytes(const ChannelNorm& p) const {
    return (2 * p.channels + partials + 2 * rows) * int64_t(sizeof(C));
  }
  dim3 grid() const { return dim3(grid_for(rows, kThreads / 32)); }
};

}  // namespace

int64_t group_norm_scratch(Dtype dtype, const ChannelNorm& p) {
  int64_t bytes = 0;
  by_dtype(dtype, [&]<class T>(T) {
    const bool suits = p.inner >= 32 && p.per_group * p.inner > 1024 * kRowValues<T> &&
                       p.batch * p.channels * p.inner < int64_t(1) << 31;  // as batch_norm.cu counts places
    if (suits && p.batch * p.channels > 0) bytes = Layout<T>(dtype, p).bytes(p);
  });
  return bytes;
}

void group_norm_forward(Dtype dtype, void* y, double* mean, double* var, const void* x, const void* weight,
                        const void* bias, const ChannelNorm& p, void* scratch, Stream stream) {
  plane_moments(dtype, scratch, x, p, stream);
  by_dtype(dtype, [&]<class T>(T) {
    const Layout<T> layout(dtype, p);
    launch("group_norm", join_moments<T>, layout.grid(), dim3(kThreads), 0, stream, mean, var,
           static_cast<const Compute<T>*>(scratch), static_cast<const T*>(x), layout.rows, int(layout.of_row),
           p.inner, int(layout.slices));
  });
  norm_apply(dtype, y, x, mean, var, weight, bias, p, stream);
}

void group_norm_backward(Dtype dtype, void* grad_x, void* grad_weight, void* grad_bias, const void* grad_y,
                         const void* x, const void* weight, const double* mean, const double* var,
                         const ChannelNorm& p, void* scratch, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const Layout<T> layout(dtype, p);
    C *const partials = static_cast<C*>(scratch) + 2 * p.channels, *const sums = partials + layout.partials;
    plane_gradients(dtype, partials, grad_y, x, mean, var, p, stream);
    if (grad_weight != nullptr || grad_bias != nullptr)
      finish_channel_gradients(dtype, grad_weight, grad_bias, nullptr, scratch, p.batch * layout.slices,
                               p.channels, stream);
    if (grad_x == nullptr) return;
    launch("group_norm_backward", join_gradients<T>, layout.grid(), dim3(kThreads), 0, stream, sums,
           static_cast<const C*>(partials), static_cast<const T*>(weight), layout.rows, int(p.per_batch),
           int(layout.of_row), int(layout.slices));
    norm_apply_gradient(dtype, grad_x, grad_y, x, mean, var, weight, sums, p, stream);
  });
}

}  // namespace fastdl::cuda
