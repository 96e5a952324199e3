// The choice of algorithm, the cases without work, and the bias gradient.
//
// An algorithm that is made for a problem is taken, else the cheapest that can do it. A forced algorithm
// (set_conv_algorithm, FASTDL_CONV_ALGORITHM) is taken or raises.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <type_traits>

#include "cpu/conv/algorithm.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

// Doubles have the two general algorithms: mostly gradient checks compute in them. What is made for a class of
// problems would take a half to a third of the direct one's time, which is seldom longer than PyTorch's.
template <class T, auto algorithm>
const ConvAlgorithm<T>& float32_alone() {
  if constexpr (std::is_same_v<T, float>) {
    return algorithm();
  } else {
    static const ConvAlgorithm<T> none{
        algorithm().name, [](const ConvProblem&) { return "it computes float32 alone"; }, {}, {}, {}, {}, {}};
    return none;
  }
}

template <class T>
struct Algorithms {
  const ConvAlgorithm<T>* list[7] = {&float32_alone<T, conv_depthwise<float>>(),
                                     &float32_alone<T, conv_pointwise<float>>(),
                                     &float32_alone<T, conv_winograd<float>>(),
                                     &float32_alone<T, conv_as_3x3<float>>(),
                                     &float32_alone<T, conv_interleaved<float>>(),
                                     &conv_direct<T>(),
                                     &conv_im2col<T>()};
  auto begin() const { return std::begin(list); }
  auto end() const { return std::end(list); }
};

constexpr int kUnset = -2, kAuto = -1;
std::atomic<int> g_forced{kUnset};

int index_of(const std::string& name) {
  if (name == "auto") return kAuto;
  int index = 0;
  std::string names = "auto";
  for (const auto* algorithm : Algorithms<float>()) {
    if (name == algorithm->name) return index;
    names += std::string(", ") + algorithm->name;
    ++index;
  }
  throw std::invalid_argument("conv_algorithm must be one of " + names + ", got '" + name + "'");
}

int forced() {
  int index = g_forced.load(std::memory_order_relaxed);
  if (index == kUnset) {
    const char* name = std::getenv("FASTDL_CONV_ALGORITHM");
    g_forced.store(index = index_of(name && *name ? name : "auto"), std::memory_order_relaxed);
  }
  return index;
}

// Whether the kernel is as wide as the image (text CNNs: kernels (k, d) on sentences of shape (length, d))
// and moves along the axis before. Then rows of the kernel meet rows of the image: `p` becomes the same
// convolution of the same arrays along one axis, of k * d elements in steps of d.
bool join_rows(ConvProblem& p) {
  if (p.kernel[2] == 1 || p.kernel[2] != p.in[2] || p.out[2] != 1 || p.pad[2] != 0 || p.out[1] == 1)
    return false;
  if (p.dilation[1] != 1 || p.dilation[2] != 1) return false;
  const int64_t width = p.in[2];
  p.in = {1, p.in[0], p.in[1] * width};
  p.kernel = {1, p.kernel[0], p.kernel[1] * width};
  p.stride = {1, p.stride[0], p.stride[1] * width};
  p.pad = {0, p.pad[0], p.pad[1] * width};
  p.out = {1, p.out[0], p.out[1]};
  p.dilation = {1, p.dilation[0], 1};
  return true;
}

template <class T>
const ConvAlgorithm<T>& choose(ConvProblem& p, ConvPass pass) {
  const Algorithms<T> algorithms;
  if (const int index = forced(); index != kAuto) {
    const ConvAlgorithm<T>& algorithm = *algorithms.list[index];
    if (const char* reason = algorithm.refusal(p))
      throw std::invalid_argument(std::string("convolution: the forced algorithm '") + algorithm.name +
                                  "' cannot do this: " + reason);
    return algorithm;
  }
  // Seen as a kernel over the padded gradient, all but one column of it would meet zeros.
  if (pass == ConvPass::grad_x && join_rows(p)) return conv_im2col<T>();
  const ConvAlgorithm<T>* cheapest = nullptr;
  double least = 0;
  for (const auto* algorithm : algorithms) {
    if (algorithm->refusal(p)) continue;
    if (algorithm->worthwhile) {
      if (algorithm->worthwhile(p, pass)) return *algorithm;
      continue;
    }
    const double cost = algorithm->cost(p, pass);
    if (!cheapest || cost < least) {
      cheapest = algorithm;
      least = cost;
    }
  }
  return *cheapest;
}

// y[n, c, :] = bias[c] (or zero): the whole result where nothing is summed up.
template <class T>
void fill(T* y, const T* bias, int64_t batch, int64_t channels, int64_t size) {
  for (int64_t i = 0; i < batch * channels; ++i)
    std::fill_n(y + i * size, size, bias ? bias[i % channels] : T(0));
}

}  // namespace

template <class T>
void conv_forward(ConvProblem p, T* y, const T* x, const T* w, const T* bias) {
  if (p.batch * p.out_channels * p.out_size() == 0) return;
  if (p.patch() * p.in_size() == 0) return fill(y, bias, p.batch, p.out_channels, p.out_size());
  choose<T>(p, ConvPass::forward).forward(p, y, x, w, bias);
}

template <class T>
void conv_grad_x(ConvProblem p, T* gx, const T* gy, const T* w, const T* bias) {
  if (p.batch * p.in_channels * p.in_size() == 0) return;
  if (p.out_channels * p.out_size() == 0) return fill(gx, bias, p.batch, p.in_channels, p.in_size());
  choose<T>(p, ConvPass::grad_x).grad_x(p, gx, gy, w, bias);
}

template <class T>
void conv_grad_w(ConvProblem p, T* gw, const T* gy, const T* x) {
  if (p.out_channels * p.patch() == 0) return;
  if (p.batch * p.out_size() * p.in_size() == 0) {
    std::fill_n(gw, p.out_channels * p.patch(), T(0));
    return;
  }
  choose<T>(p, ConvPass::grad_w).grad_w(p, gw, gy, x);
}

template <class T>
void conv_grad_bias(T* sums, const T* y, int64_t batch, int64_t channels, int64_t size) {
  using namespace simd;
  constexpr int w = kWidth<T>;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(batch * size, 1));
  parallel_for(channels, grain, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      T total = 0;
      for (int64_t n = 0; n < batch; ++n) {
        const T* row = y + (n * channels + c) * size;
        // One sum per stretch of 4096 elements: the error grows with the square root of the stretch, not of
        // the image.
        for (int64_t first = 0; first < size; first += 4096) {
          const int64_t last = std::min(size, first + 4096);
          Vec<T> sum[4] = {};
          int64_t i = first;
          for (; i + 4 * w <= last; i += 4 * w)
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) sum[j] += load(row + i + j * w);
          for (; i + w <= last; i += w) sum[0] += load(row + i);
          if (i < last) sum[1] += load_n(row + i, int(last - i));
          total += reduce_add<T>((sum[0] + sum[1]) + (sum[2] + sum[3]));
        }
      }
      sums[c] = total;
    }
  });
}

void set_conv_algorithm(const std::string& name) {
  g_forced.store(index_of(name), std::memory_order_relaxed);
}

std::string conv_algorithm() {
  const int index = forced();
  return index == kAuto ? "auto" : Algorithms<float>().list[index]->name;
}

template <class T>
std::string conv_choice(ConvProblem p, ConvPass pass) {
  return choose<T>(p, pass).name;
}

template <class T>
std::vector<std::pair<std::string, std::string>> conv_algorithms(const ConvProblem& p) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto* algorithm : Algorithms<T>()) {
    const char* reason = algorithm->refusal(p);
    out.emplace_back(algorithm->name, reason ? reason : "");
  }
  return out;
}

#define FASTDL_INSTANTIATE(T)                                                   \
  template void conv_forward<T>(ConvProblem, T*, const T*, const T*, const T*); \
  template void conv_grad_x<T>(ConvProblem, T*, const T*, const T*, const T*);  \
  template void conv_grad_w<T>(ConvProblem, T*, const T*, const T*);            \
  template void conv_grad_bias<T>(T*, const T*, int64_t, int64_t, int64_t);     \
  template std::string conv_choice<T>(ConvProblem, ConvPass);                   \
  template std::vector<std::pair<std::string, std::string>> conv_algorithms<T>(const ConvProblem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
