// What im2col.cpp costs, in products of vectors of the direct algorithms (those of the engine's tiles are a
// little quicker). Patches are gathered vector by vector, each row of an output's neighbours with a start.
#include <algorithm>

#include "cpu/conv/algorithm.h"
#include "cpu/conv/tap_tile.h"

namespace fastdl {
namespace {

constexpr double kProduct = 0.92;
constexpr double kBegin = 9500;                   // of a product
constexpr double kPatch = 9, kStridedPatch = 17;  // of a vector
constexpr double kGatheredPatch = 22, kTransposedPatch = 48;
constexpr double kAdd = 36, kAddPairs = 19;  // of a vector of patches to the image; of neighbours together
constexpr double kRow = 8, kTransposedRow = 3, kAddedRow = 37;  // of a row of one tap and channel
constexpr double kListedRow = 25;                               // of a row of one tap
constexpr double kResult = 10;                                  // of a vector that comes and goes

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
  // Windows that do not overlap are read once and in order.
  const double patch = gathered                             ? kGatheredPatch
                       : stride > 1 && stride < p.kernel[2] ? kStridedPatch
                                                            : kPatch;
  const double row = gathered ? kListedRow * double(p.taps()) : kRow * double(k);
  const double products =
      kProduct * tiles(out, k) / 2 + patch * double(k) + kResult * double(out * ceil_div(k, 512));
  return double(p.groups) *
         (items * (kBegin + vectors * products) + row * rows + 2 * kPackCost * double(out * k) / double(w));
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
    return double(p.groups) * (kProduct * tiles(p.group_out(), 1) * pairs * all +
                               (kTransposedPatch * double(k) + kPatch * double(p.group_out())) * all / w +
                               kTransposedRow * double(p.batch * rows * k));
  }
  if (is_turned(p)) return correlate_cost(p, p.group_out(), p.group_in(), p.in, 1, w);
  const double add = p.stride[2] == 2 && p.dilation[2] == 1 ? kAddPairs : kAdd;
  return double(p.batch * p.groups) *
         (kProduct * tiles(k, p.group_out()) * double(ceil_div(positions, 2 * w)) +
          add * double(k * positions) / w + kAddedRow * double(k * rows));
}

}  // namespace fastdl
