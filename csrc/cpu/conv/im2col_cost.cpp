// What im2col.cpp costs, in products of vectors of the direct algorithms (those of the engine's tiles are a
// little quicker). Patches are gathered vector by vector, each row of an output's neighbours with a start; those of
// weight gradients number by number.
#include <algorithm>

#include "cpu/conv/algorithm.h"
#include "cpu/conv/tap_tile.h"

namespace fastdl {
namespace {

constexpr double kProduct = 0.92, kGradProduct = kWide ? 1.0 : 1.07;    // of a vector; in gradients
constexpr double kBegin = 9500;                                         // of a product
constexpr double kPatch = 15, kStridedPatch = 25, kGatheredPatch = 30;  // of a vector
// Of a number of a window inside the image, of others.
constexpr double kNumber = kWide ? 2.6 : 3, kEdgeNumber = kWide ? 6 : 8;
constexpr double kGrad = 15;                 // of a vector of weight gradients' other operand
constexpr double kAdd = 30, kAddPairs = 20;  // of a vector of patches to the image; of neighbours together
constexpr double kTransposedRow = 7, kAddedRow = 95, kAddedPair = 50;  // of a row of one tap and channel
constexpr double kClear = 4;                                           // of a vector of the image
constexpr double kRow = 60;                                            // of a row of one tap
constexpr double kResult = 13;                                         // of a vector that comes and goes

// An engine's product of m rows and k steps with a pair of vectors.
double tiles(int64_t m, int64_t k) {
  return double(k * panels_cost(m));
}

// The forward pass of p as a product.
[[gnu::noinline]] double correlate_cost(const ConvProblem& p, int64_t in, int64_t out, const Extent& extent,
                                        int64_t stride, int64_t w) {
  const int64_t positions = volume(extent), k = in * p.taps();
  // Small planes are taken together, until their result leaves L2.
  const bool apart = positions >= 4 * w && 20 * (ceil_div(positions, w) * w) <= 21 * positions;
  const int64_t together =
      apart ? 1 : std::min(p.batch, std::max<int64_t>(1, kTogetherBytes / 4 / (out * positions)));
  const double items = double(ceil_div(p.batch, together)),
               vectors = double(ceil_div(together * positions, w));
  const double rows = double(p.batch * (positions / extent[2]));
  const bool gathered = gathers(extent[2], stride);
  const double patch = gathered ? kGatheredPatch : stride > 1 ? kStridedPatch : kPatch;
  // Only gathered vectors go on in the next row.
  const double patches = double(k) * (gathered ? items * vectors : rows * double(ceil_div(extent[2], w)));
  const double products = kProduct * tiles(out, k) / 2 + kResult * double(out * ceil_div(k, 512));
  return double(p.groups) * (items * (kBegin + vectors * products) + patch * patches +
                             kRow * rows * double(p.taps()) + 2 * kPackCost * double(out * k) / double(w));
}

// Of all windows, those that lie in the image.
double inside(const ConvProblem& p) {
  double part = 1;
  for (size_t a = 0; a < kSpatial; ++a) {
    const int64_t reach = p.dilation[a] * (p.kernel[a] - 1), last = p.in[a] + p.pad[a] - reach - 1;
    const int64_t first = ceil_div(p.pad[a], p.stride[a]), end = last < 0 ? 0 : last / p.stride[a] + 1;
    part *= double(std::max<int64_t>(std::min(end, p.out[a]) - first, 0)) / double(p.out[a]);
  }
  return part;
}

}  // namespace

double im2col_cost(const ConvProblem& p, ConvPass pass, int64_t w) {
  const int64_t k = p.patch(), positions = p.out_size(), rows = positions / p.out[2];
  if (pass == ConvPass::forward && has_few_positions(p)) {
    const double vectors = double(ceil_div(p.batch * positions, w));
    return double(k) * vectors * (0.9 * double(p.out_channels) + 60);
  }
  if (pass == ConvPass::forward) return correlate_cost(p, p.group_in(), p.group_out(), p.out, p.stride[2], w);
  if (pass == ConvPass::grad_w) {
    const double pairs = double(ceil_div(k, 2 * w)), all = double(p.batch * positions);
    const double in = inside(p), number = kNumber * in + kEdgeNumber * (1 - in);
    return double(p.groups) * (kBegin +
                               (kGradProduct * tiles(p.group_out(), 1) * pairs + number * double(k) +
                                kGrad * double(p.group_out()) / w) *
                                   all +
                               kTransposedRow * double(p.batch * rows * k));
  }
  if (is_turned(p)) return correlate_cost(p, p.group_out(), p.group_in(), p.in, 1, w);
  const bool paired = p.stride[2] == 2 && p.dilation[2] == 1 && p.kernel[2] > 1;
  const double vector = paired ? kAddPairs : kAdd, row = paired ? kAddedPair : kAddedRow;
  return double(p.batch * p.groups) *
         (kGradProduct * tiles(k, p.group_out()) * double(ceil_div(positions, 2 * w)) +
          (vector * double(k * positions) + kClear * double(p.group_in() * p.in_size())) / w +
          row * double(k * rows));
}

}  // namespace fastdl
