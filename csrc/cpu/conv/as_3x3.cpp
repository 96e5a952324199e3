// Other convolutions as 3x3 ones, for which Winograd's algorithm needs a quarter of the multiplications: 5x5
// and larger kernels, dilated ones, and those with a depth axis; stride 1 in height and width.
//
//   dilation    output positions with the same remainder (q_h, q_w) by the dilation see only inputs of one
//               remainder: an undilated convolution of a smaller image. Remainders become images.
//   depth       the slices that an output slice sees become channels, output slices become images.
//   kernel      is cut into blocks of 3x3 taps (the last padded with zeros), which become channels: those of
//               the image shifted by three rows and columns per block.
//
// With h and w alike:
//
//   x'[(n, o_d, q)][(c, r_d, b)][i] = x[n][c][o_d s_d + r_d d_d - p_d][q + d (i + 3 b) - p]
//   w'[k][(c, r_d, b)][r]           = w[k][c][r_d][3 b + r]
//   y'[(n, o_d, q)][k][o]           = y[n][k][o_d][q + d o]
//
// x' is written once and read by the 3x3 convolution; y' is y itself where no axis is split. grad_x adds up
// what x' has more than once. Images are taken in batches that bound the memory for x'.
//
// Work: copies over images and channels, the rest by the 3x3 convolution.
#include <algorithm>
#include <vector>

#include "cpu/conv/algorithm.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/copy_row.h"

namespace fastdl {
namespace {

using namespace simd;

constexpr int64_t kBlock = 3;
constexpr double kBatchBytes = 64 << 20;  // of x'

class As3x3 {
 public:
  explicit As3x3(const ConvProblem& p)
      : p_(p),
        blocks_h_(ceil_div(p.kernel[1], kBlock)),
        blocks_w_(ceil_div(p.kernel[2], kBlock)),
        copies_(p.kernel[0] * blocks_h_ * blocks_w_),
        parts_(p.out[0] * p.dilation[1] * p.dilation[2]) {}

  int64_t copies() const { return copies_; }                  // channels of x' per channel of x
  int64_t taps() const { return copies_ * kBlock * kBlock; }  // of w' per channel of w

  // The 3x3 convolution for `images` images.
  ConvProblem problem(int64_t images) const {
    ConvProblem q;
    q.batch = images * parts_;
    q.in_channels = p_.in_channels * copies_;
    q.out_channels = p_.out_channels;
    q.groups = p_.groups;
    q.kernel = {1, kBlock, kBlock};
    for (size_t a = 1; a < kSpatial; ++a) {
      q.out[a] = ceil_div(p_.out[a], p_.dilation[a]);
      q.in[a] = q.out[a] + kBlock - 1;
    }
    return q;
  }
  int64_t images_at_once() const {
    const ConvProblem q = problem(1);
    const double bytes = 8.0 * double(q.batch) * double(q.in_channels) * double(q.in_size());
    return std::clamp<int64_t>(int64_t(kBatchBytes / bytes), 1, p_.batch);
  }
  bool same_result() const { return parts_ == 1; }  // y' is y

  // f(row of x', row of x, first, count) for the rows of channel c of x: elements first + j of the one are
  // elements j * dilation of the other; where x has no row, count is 0. Channel c of image n only meets its
  // own rows.
  template <class F>
  void input_rows(const ConvProblem& q, int64_t n, int64_t c, F&& f) const {
    for (int64_t part = 0; part < parts_; ++part) {
      const int64_t od = part / (p_.dilation[1] * p_.dilation[2]);
      const int64_t qh = part / p_.dilation[2] % p_.dilation[1], qw = part % p_.dilation[2];
      for (int64_t copy = 0; copy < copies_; ++copy) {
        const int64_t d = od * p_.stride[0] + copy / (blocks_h_ * blocks_w_) * p_.dilation[0] - p_.pad[0];
        const int64_t block_h = copy / blocks_w_ % blocks_h_, block_w = copy % blocks_w_;
        const int64_t w = qw + p_.dilation[2] * kBlock * block_w - p_.pad[2];  // what element 0 meets
        const int64_t first = std::min(q.in[2], w < 0 ? ceil_div(-w, p_.dilation[2]) : 0);
        const int64_t last = w < p_.in[2] ? std::min(q.in[2], (p_.in[2] - 1 - w) / p_.dilation[2] + 1) : 0;
        const int64_t to = ((n * parts_ + part) * q.in_channels + c * copies_ + copy) * q.in_size();
        for (int64_t i = 0; i < q.in[1]; ++i) {
          const int64_t h = qh + p_.dilation[1] * (i + kBlock * block_h) - p_.pad[1];
          const bool exists = d >= 0 && d < p_.in[0] && h >= 0 && h < p_.in[1] && first < last;
          const int64_t from = (((n * p_.in_channels + c) * p_.in[0] + d) * p_.in[1] + h) * p_.in[2] + w +
                               first * p_.dilation[2];
          f(to + i * q.in[2], exists ? from : 0, first, exists ? last - first : 0);
        }
      }
    }
  }

  // f(row of y', row of y, count) for channel k of image n, in the same way.
  template <class F>
  void output_rows(const ConvProblem& q, int64_t n, int64_t k, F&& f) const {
    for (int64_t part = 0; part < parts_; ++part) {
      const int64_t od = part / (p_.dilation[1] * p_.dilation[2]);
      const int64_t qh = part / p_.dilation[2] % p_.dilation[1], qw = part % p_.dilation[2];
      const int64_t count = qw < p_.out[2] ? (p_.out[2] - 1 - qw) / p_.dilation[2] + 1 : 0;
      for (int64_t o = 0; o < q.out[1]; ++o) {
        const int64_t h = qh + p_.dilation[1] * o;
        const int64_t to = (((n * parts_ + part) * q.out_channels + k) * q.out[1] + o) * q.out[2];
        f(to, (((n * p_.out_channels + k) * p_.out[0] + od) * p_.out[1] + h) * p_.out[2] + qw,
          h < p_.out[1] ? count : 0);
      }
    }
  }

  // Where the taps of w lie among those of w'.
  std::vector<int64_t> tap_places() const {
    std::vector<int64_t> places(size_t(p_.taps()));
    for (int64_t r = 0; r < p_.taps(); ++r) {
      const int64_t d = r / (p_.kernel[1] * p_.kernel[2]), h = r / p_.kernel[2] % p_.kernel[1];
      const int64_t w = r % p_.kernel[2];
      const int64_t copy = (d * blocks_h_ + h / kBlock) * blocks_w_ + w / kBlock;
      places[size_t(r)] = (copy * kBlock + h % kBlock) * kBlock + w % kBlock;
    }
    return places;
  }

 private:
  const ConvProblem& p_;
  int64_t blocks_h_, blocks_w_, copies_, parts_;
};

int64_t grain(int64_t elements) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(elements, 1));
}

template <class T>
void gather_input(const As3x3& form, const ConvProblem& p, const ConvProblem& q, int64_t images, T* to,
                  const T* x) {
  parallel_for(images * p.in_channels, grain(q.batch / images * form.copies() * q.in_size()),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i)
                   form.input_rows(q, i / p.in_channels, i % p.in_channels,
                                   [&](int64_t row, int64_t source, int64_t first, int64_t count) {
                                     std::fill_n(to + row, first, T(0));
                                     copy_row(to + row + first, x + source, count, p.dilation[2]);
                                     std::fill_n(to + row + first + count, q.in[2] - first - count, T(0));
                                   });
               });
}

template <class T>
void gather_output(const As3x3& form, const ConvProblem& p, const ConvProblem& q, int64_t images, T* to,
                   const T* y) {
  parallel_for(images * p.out_channels, grain(p.out_size()), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      form.output_rows(q, i / p.out_channels, i % p.out_channels,
                       [&](int64_t row, int64_t source, int64_t count) {
                         copy_row(to + row, y + source, count, p.dilation[2]);
                         std::fill_n(to + row + count, q.out[2] - count, T(0));
                       });
  });
}

template <class T>
class Weights3x3 {
 public:
  Weights3x3(const As3x3& form, const ConvProblem& p, const T* w)
      : buffer_(size_t(p.out_channels * p.group_in() * form.taps())) {
    const std::vector<int64_t> places = form.tap_places();
    parallel_for(p.out_channels * p.group_in(), grain(form.taps()), [&](int64_t begin, int64_t end) {
      std::fill_n(buffer_ + begin * form.taps(), (end - begin) * form.taps(), T(0));
      for (int64_t i = begin; i < end; ++i)
        for (size_t r = 0; r < places.size(); ++r)
          buffer_[i * form.taps() + places[r]] = w[i * p.taps() + int64_t(r)];
    });
  }
  operator const T*() const { return buffer_.get(); }

 private:
  memory::Buffer<T> buffer_;
};

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  const As3x3 form(p);
  const Weights3x3<T> weights(form, p, w);
  const int64_t step = form.images_at_once();
  for (int64_t n = 0; n < p.batch; n += step) {
    const int64_t images = std::min(step, p.batch - n);
    const ConvProblem q = form.problem(images);
    memory::Buffer<T> in(size_t(q.batch * q.in_channels * q.in_size()));
    gather_input<T>(form, p, q, images, in, x + n * p.in_channels * p.in_size());
    T* to = y + n * p.out_channels * p.out_size();
    if (form.same_result()) {
      conv_winograd<T>().forward(q, to, in, weights, bias);
      continue;
    }
    memory::Buffer<T> out(size_t(q.batch * q.out_channels * q.out_size()));
    conv_winograd<T>().forward(q, out, in, weights, bias);
    parallel_for(images * p.out_channels, grain(p.out_size()), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        form.output_rows(q, i / p.out_channels, i % p.out_channels,
                         [&](int64_t row, int64_t target, int64_t count) {
                           if (p.dilation[2] == 1) return copy_row(to + target, out + row, count);
                           for (int64_t j = 0; j < count; ++j) to[target + j * p.dilation[2]] = out[row + j];
                         });
    });
  }
}

// y' of some images of gy: gy itself where it can be.
template <class T>
class Grad {
 public:
  Grad(const As3x3& form, const ConvProblem& p, const ConvProblem& q, int64_t images, const T* gy)
      : buffer_(form.same_result() ? 0 : size_t(q.batch * q.out_channels * q.out_size())), gy_(gy) {
    if (buffer_.get()) gather_output<T>(form, p, q, images, buffer_, gy);
  }
  operator const T*() const { return buffer_.get() ? buffer_.get() : gy_; }

 private:
  memory::Buffer<T> buffer_;
  const T* gy_;
};

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  const As3x3 form(p);
  const Weights3x3<T> weights(form, p, w);
  const int64_t step = form.images_at_once(), size = p.in_size();
  for (int64_t n = 0; n < p.batch; n += step) {
    const int64_t images = std::min(step, p.batch - n);
    const ConvProblem q = form.problem(images);
    const Grad<T> grad(form, p, q, images, gy + n * p.out_channels * p.out_size());
    memory::Buffer<T> in(size_t(q.batch * q.in_channels * q.in_size()));
    conv_winograd<T>().grad_x(q, in, grad, weights, nullptr);
    T* to = gx + n * p.in_channels * size;
    parallel_for(images * p.in_channels, grain(q.batch / images * form.copies() * q.in_size()),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     std::fill_n(to + i * size, size, bias ? bias[i % p.in_channels] : T(0));
                     form.input_rows(q, i / p.in_channels, i % p.in_channels,
                                     [&](int64_t row, int64_t target, int64_t first, int64_t count) {
                                       const T* from = in + row + first;
                                       for (int64_t j = 0; j < count; ++j)
                                         to[target + j * p.dilation[2]] += from[j];
                                     });
                   }
                 });
  }
}

template <class T>
void grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const As3x3 form(p);
  const int64_t step = form.images_at_once();
  const int64_t pairs = p.out_channels * p.group_in(), taps = form.taps();
  const std::vector<int64_t> places = form.tap_places();
  memory::Buffer<T> sum(size_t(pairs * taps));
  for (int64_t n = 0; n < p.batch; n += step) {
    const int64_t images = std::min(step, p.batch - n);
    const ConvProblem q = form.problem(images);
    const Grad<T> grad(form, p, q, images, gy + n * p.out_channels * p.out_size());
    memory::Buffer<T> in(size_t(q.batch * q.in_channels * q.in_size()));
    gather_input<T>(form, p, q, images, in, x + n * p.in_channels * p.in_size());
    conv_winograd<T>().grad_w(q, sum, grad, in);
    parallel_for(pairs, grain(form.taps()), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (size_t r = 0; r < places.size(); ++r) {
          T& to = gw[i * p.taps() + int64_t(r)];
          to = (n == 0 ? T(0) : to) + sum[i * taps + places[r]];
        }
    });
  }
}

const char* refusal(const ConvProblem& p) {
  if (p.stride[1] != 1 || p.stride[2] != 1) return "it needs stride 1 in height and width";
  if (p.dilation[1] > p.out[1] || p.dilation[2] > p.out[2]) return "its dilation is larger than the result";
  return conv_winograd<float>().refusal(As3x3(p).problem(1));
}

// Of a vector of x' or y' (of columns that lie apart, three times that), and of a vector of w'. Its weight
// gradients take longer than Winograd's of images that lie in cache; an x' beyond kFar bytes does in none, which costs
// by its bytes.
constexpr double kCopyCost = 25, kWeightCost = 40, kGradW = 1.1, kFarCost = 1.5, kFar = 5e6;

[[gnu::noinline]] double total_cost(const ConvProblem& p, ConvPass pass, int64_t w) {
  const As3x3 form(p);
  const ConvProblem q = form.problem(p.batch);
  const auto vectors = [&](int64_t channels, const Extent& plane) {
    return double(q.batch * channels * plane[1] * ceil_div(plane[2], w));
  };
  const double copies =
      vectors(q.in_channels, q.in) + (form.same_result() ? 0 : vectors(q.out_channels, q.out));
  const double elements = double(q.batch * q.in_channels * q.in_size());
  const double copy = kCopyCost + (4 * elements > kFar ? kFarCost * double(w) : 0);
  return (pass == ConvPass::grad_w ? kGradW : 1) * winograd_cost(q, pass, w) +
         copy * (p.dilation[2] > 1 ? 3 : 1) * copies +
         kWeightCost * double(q.out_channels * q.patch()) / double(w);
}
template <class T>
double cost(const ConvProblem& p, ConvPass pass) {
  return total_cost(p, pass, kWidth<T>);
}

}  // namespace

template <class T>
const ConvAlgorithm<T>& conv_as_3x3() {
  static constexpr ConvAlgorithm<T> algorithm{"as_3x3",   refusal,   nullptr,  cost<T>,
                                              forward<T>, grad_x<T>, grad_w<T>};
  return algorithm;
}
template const ConvAlgorithm<float>& conv_as_3x3<float>();

}  // namespace fastdl
