// Convolution in bfloat16 as a product of pairs (gemm/pairs.h), where the processor has that instruction.
//
// Some images at a time are copied with their padding and without strides (planes.h), in two bytes a number;
// images without padding and strides are taken as they lie. There every tap of every channel is a shift, so
//
//   forward  y (K x lanes) = w (K x CR) * patches, lanes: output positions of all those images, a step: two
//            neighbours of (channel, tap), whose numbers are joined when a panel is packed
//   grad_x   the same of grad_y, once for each lattice of inputs that share their taps; a step: two channels
//   grad_w   grad_w (K x CR) = grad_y (K x steps) * patches^T, a step: two neighbours of an image's flat
//            positions. What lies behind the rows of outputs is masked where both operands are packed.
//
// Sums are floats and are rounded once. Work: groups of images where there are many, else tiles of one group
// that is as large as fits the last cache; grad_w over its tiles or, where they are few, over images with
// partial sums.
#include "cpu/conv/pairs.h"

#include "cpu/gemm/pairs.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)

#include <cstring>
#include <span>

#include "cpu/conv/algorithm.h"
#include "cpu/conv/planes.h"
#include "cpu/layout.h"
#include "cpu/parts.h"

namespace fastdl {
namespace {

using pairs::kColumns, pairs::Run;

constexpr int64_t kOwnNumbers = 256 << 10;   // of the images of one thread: 512 KB, a part of L2
constexpr int64_t kSharedNumbers = 2 << 20;  // of the images of all threads
constexpr int64_t kLanes = 512;              // as many at least, if there are so many images

__mmask16 first(int64_t n) {
  return n >= 16 ? __mmask16(0xffff) : __mmask16((1u << n) - 1);
}

// The images of one side of the problem, and how a group's channels are copied for the product.
struct Images {
  const uint16_t* data;
  int64_t channels, group;  // all of an image; those of a group
  Planes<uint16_t> planes;
  bool as_they_lie;
  std::vector<PlaneLayout::Row> rows = planes.list_rows();

  int64_t pitch() const { return as_they_lie ? planes.source_size() : planes.channel_size(); }
  int64_t image() const { return (as_they_lie ? channels : group) * pitch(); }
  const uint16_t* at(int64_t n, int64_t g) const {
    return data + (n * channels + g * group) * planes.source_size();
  }
  int64_t copied() const { return as_they_lie ? 0 : image(); }

  // Images [n, n + count) of a group, in `to` (count * copied() numbers) or where they lie.
  const uint16_t* take(uint16_t* to, int64_t n, int64_t g, int64_t count) const {
    if (as_they_lie) return at(n, g);
    const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, pitch()));
    parallel_for(count * group, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        copy(to + i * pitch(), at(n + i / group, g) + i % group * planes.source_size());
    });
    return to;
  }

 private:
  void copy(uint16_t* to, const uint16_t* channel) const {
    std::memset(to, 0, size_t(pitch()) * sizeof(uint16_t));
    for (const auto& [plane, source, count] : rows) {
      uint16_t* row = to + plane;
      const uint16_t* from = channel + source;
      if (planes.stride() == 1) {
        for (int64_t i = 0; i < count; i += 32) {
          const __mmask32 lanes = count - i >= 32 ? ~__mmask32{0} : __mmask32((1u << (count - i)) - 1);
          _mm512_mask_storeu_epi16(row + i, lanes, _mm512_maskz_loadu_epi16(lanes, from + i));
        }
      } else if (planes.stride() == 2) {  // the lower halves of pairs; the last one may lack its upper half
        for (int64_t i = 0; i < count; i += 16) {
          const int64_t left = 2 * (count - i) - 1;
          const __mmask32 there = left >= 32 ? ~__mmask32{0} : __mmask32((1u << left) - 1);
          _mm512_mask_cvtepi32_storeu_epi16(row + i, first(count - i),
                                            _mm512_maskz_loadu_epi16(there, from + 2 * i));
        }
      } else {
        for (int64_t i = 0; i < count; ++i) row[i] = from[planes.stride() * i];
      }
    }
  }
};

// Whether outputs and taps cover the images exactly, so that there is nothing to pad.
bool is_dense(const ConvProblem& p) {
  for (size_t a = 0; a < kSpatial; ++a)
    if (p.stride[a] != 1 || p.pad[a] != 0 || p.in[a] != p.out[a] + p.dilation[a] * (p.kernel[a] - 1))
      return false;
  return true;
}

// One step: where its two numbers lie behind a position. No second one: negative.
struct Step {
  int64_t low, high;
};

// Outputs that share their taps, for `images` images: lanes in panels of columns.
struct Part {
  std::vector<Run> runs;
  std::vector<int64_t> starts;  // of each panel's runs, and their end
  std::vector<Step> steps;
  int64_t lanes_of_image, apart;  // apart: from one result of a run to the next

  Part(const Images& from, const Lattice& lattice, const Extent& extent, int64_t result_image, int64_t images)
      : lanes_of_image(volume(lattice.count)), apart(lattice.step[2]) {
    std::vector<std::array<int64_t, 3>> rows;  // count, from, to
    for (int64_t n = 0; n < images; ++n)
      for (int64_t d = 0; d < lattice.count[0]; ++d)
        for (int64_t h = 0; h < lattice.count[1]; ++h) {
          const int64_t at = n * from.image() + lattice.base + from.planes.at(d, h, 0);
          const int64_t to = n * result_image + lattice.element(extent, d, h, 0), count = lattice.count[2];
          if (!rows.empty() && rows.back()[1] + rows.back()[0] == at && apart == 1 &&
              rows.back()[2] + rows.back()[0] == to)
            rows.back()[0] += count;
          else
            rows.push_back({count, at, to});
        }
    starts.push_back(0);
    int lane = 0;
    for (const auto& [count, at, to] : rows)
      for (int64_t i = 0; i < count;) {
        const int n = int(std::min<int64_t>(kColumns - lane, count - i));
        runs.push_back({lane, n, at + i, to + apart * i});
        i += n, lane += n;
        if (lane == kColumns) starts.push_back(int64_t(runs.size())), lane = 0;
      }
    if (lane > 0) starts.push_back(int64_t(runs.size()));
  }

  // The runs of the panel of columns q: those of the first `images` images.
  std::span<const Run> runs_of(int64_t q, int64_t images) const {
    const int64_t begin = starts[size_t(q)];
    int64_t end = starts[size_t(q) + 1];
    while (end > begin && q * kColumns + runs[size_t(end) - 1].lane >= images * lanes_of_image) --end;
    return {runs.data() + begin, size_t(end - begin)};
  }

  // Steps [s0, s0 + here) of a panel with these runs.
  void pack(uint32_t* out, const uint16_t* x, std::span<const Run> runs_here, int64_t s0,
            int64_t here) const {
    for (const Run& run : runs_here)
      for (int v = 0; v < run.count; v += 16) {
        // A whole vector where it fits: the next run replaces what it has too much.
        const __mmask16 there = first(run.count - v), room = first(kColumns - run.lane - v);
        const uint16_t* from = x + run.from + v;
        uint32_t* to = out + run.lane + v;
        for (const Step *s = steps.data() + s0, *end = s + here; s < end; ++s, to += kColumns) {
          const __m256i low = _mm256_maskz_loadu_epi16(there, from + s->low),
                        high = _mm256_maskz_loadu_epi16(s->high < 0 ? __mmask16(0) : there, from + s->high);
          _mm512_mask_storeu_epi32(to, room,
                                   _mm512_or_si512(_mm512_cvtepu16_epi32(low),
                                                   _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16)));
        }
      }
  }
};

// result (rows of a group x positions) = weights * patches + bias, for all images and groups.
// pack(out, group, part, first row, rows, first step, steps) makes a panel of weights.
template <class Pack>
void correlate(const Images& from, const ConvProblem& p, const std::vector<Part>& parts, int64_t together,
               uint16_t* result, int64_t rows, int64_t size, const float* bias, const Pack& pack) {
  std::vector<int64_t> packed_at{0};
  for (const Part& part : parts)
    packed_at.push_back(packed_at.back() + pairs::packed_size(rows, int64_t(part.steps.size())));
  memory::Buffer<uint32_t> packed(size_t(packed_at.back() * p.groups));
  const auto weights = [&](int64_t g, size_t i) { return packed + g * packed_at.back() + packed_at[i]; };
  for (int64_t g = 0; g < p.groups; ++g)
    for (size_t i = 0; i < parts.size(); ++i)
      pairs::pack_all(weights(g, i), rows, int64_t(parts[i].steps.size()),
                      [&](uint32_t* out, int64_t row, int count, int64_t s, int64_t here) {
                        pack(out, g, i, row, count, s, here);
                      });
  const auto work = [&](int64_t index) {
    const int64_t n = index / p.groups * together, g = index % p.groups;
    const int64_t images = std::min(together, p.batch - n);
    const memory::Buffer<uint16_t> copies(size_t(images * from.copied()));
    const uint16_t* const x = from.take(copies.get(), n, g, images);
    uint16_t* const y = result + (n * p.groups + g) * rows * size;
    for (size_t i = 0; i < parts.size(); ++i) {
      const Part& part = parts[i];
      pairs::multiply(
          weights(g, i), rows, images * part.lanes_of_image, int64_t(part.steps.size()),
          [&](uint32_t* out, int64_t q, int64_t s, int64_t here) {
            part.pack(out, x, part.runs_of(q, images), s, here);
          },
          [&](float* sums, int64_t row, int64_t q, int count) {
            const auto runs = part.runs_of(q, images);
            pairs::leave(y + row * size, size, part.apart, sums, count, runs.data(), int(runs.size()),
                         bias ? bias + g * rows + row : nullptr);
          });
    }
  };
  const int64_t count = ceil_div(p.batch, together) * p.groups;
  if (count >= 2 * num_threads())
    parallel_tasks(count, work);
  else
    for (int64_t i = 0; i < count; ++i) work(i);
}

// How many images are taken at once: enough for some panels of columns, few enough for a thread's cache; or
// all that fit the last one, where there are too few for every thread to have its own.
int64_t images_together(const ConvProblem& p, int64_t positions, int64_t numbers) {
  const int64_t own = std::clamp<int64_t>(ceil_div(kLanes, positions), 1,
                                          std::max<int64_t>(1, kOwnNumbers / std::max<int64_t>(1, numbers)));
  if (ceil_div(p.batch, own) * p.groups >= 2 * num_threads()) return std::min(own, p.batch);
  return std::clamp<int64_t>(kSharedNumbers / std::max<int64_t>(1, numbers), 1, p.batch);
}

}  // namespace

void conv_forward_pairs(const ConvProblem& p, uint16_t* y, const uint16_t* x, const uint16_t* w,
                        const float* bias) {
  const Images from{x, p.in_channels, p.group_in(), Planes<uint16_t>::of_input(p), is_dense(p)};
  const auto& taps = from.planes.tap_offsets();
  const int64_t k = p.patch();
  const int64_t together = images_together(p, p.out_size(), from.group * from.pitch());
  std::vector<Part> parts;
  parts.emplace_back(from, forward_lattice(p, taps), p.out, p.out_channels * p.out_size(), together);
  const auto offset = [&](int64_t i) { return i / p.taps() * from.pitch() + taps[size_t(i % p.taps())]; };
  for (int64_t i = 0; i < k; i += 2) parts[0].steps.push_back({offset(i), i + 1 < k ? offset(i + 1) : -1});
  const int64_t rows = p.group_out();
  const int height = pairs::height_of(rows);
  correlate(from, p, parts, together, y, rows, p.out_size(), bias,
            [&](uint32_t* out, int64_t g, size_t, int64_t row, int count, int64_t s, int64_t here) {
              pairs::pack(out, height, w + (g * rows + row) * k + 2 * s, k, 1, count,
                          std::min(2 * here, k - 2 * s));
            });
}

void conv_grad_x_pairs(const ConvProblem& p, uint16_t* gx, const uint16_t* gy, const uint16_t* w,
                       const float* bias) {
  const auto [planes, lattices] = grad_lattices(p, p.out_size());
  const Images from{gy, p.out_channels, p.group_out(), planes, p.taps() == 1 && is_dense(p)};
  const int64_t together = images_together(p, p.in_size(), from.group * from.pitch());
  const int64_t rows = p.group_in(), deep = p.group_out(), taps = p.taps(), size = p.in_size();
  const int64_t steps_of_tap = ceil_div(deep, 2);
  std::vector<Part> parts;
  int64_t met = 0;
  for (const Lattice& lattice : lattices) {
    if (volume(lattice.count) == 0) continue;
    Part& part = parts.emplace_back(from, lattice, p.in, p.in_channels * size, together);
    met += part.lanes_of_image;
    for (int64_t offset : lattice.offsets)
      for (int64_t c = 0; c < deep; c += 2)
        part.steps.push_back(
            {offset + c * from.pitch(), c + 1 < deep ? offset + (c + 1) * from.pitch() : -1});
  }
  if (met < size)  // some inputs meet no tap
    for (int64_t i = 0; i < p.batch * p.in_channels; ++i) {
      uint16_t value = 0;
      const Run run{0, 1, 0, 0};
      const float zero[kColumns] = {};
      pairs::leave(&value, 1, 1, zero, 1, &run, 1, bias ? bias + i % p.in_channels : nullptr);
      std::fill_n(gx + i * size, size, value);
    }
  // Of each group: (channel, tap) by outputs, so that neighbours along the sum lie together.
  memory::Buffer<uint16_t> turned(size_t(p.out_channels * p.patch()));
  for (int64_t g = 0; g < p.groups; ++g) {
    const int64_t shape[] = {p.patch(), deep}, strides[] = {2, 2 * p.patch()}, part = g * deep * p.patch();
    copy_strided(reinterpret_cast<char*>(turned + part), reinterpret_cast<const char*>(w + part), shape,
                 strides, 2, sizeof(uint16_t));
  }
  std::vector<const Lattice*> used;
  for (const Lattice& lattice : lattices)
    if (volume(lattice.count) > 0) used.push_back(&lattice);
  const int height = pairs::height_of(rows);
  correlate(from, p, parts, together, gx, rows, size, bias,
            [&](uint32_t* out, int64_t g, size_t i, int64_t row, int count, int64_t s, int64_t here) {
              while (here > 0) {
                const int64_t tap = used[i]->taps[size_t(s / steps_of_tap)], at = s % steps_of_tap;
                const int64_t run = std::min(here, steps_of_tap - at);
                pairs::pack(out, height, turned + g * deep * p.patch() + (row * taps + tap) * deep + 2 * at,
                            taps * deep, 1, count, std::min(2 * run, deep - 2 * at));
                out += run * height, s += run, here -= run;
              }
            });
}

namespace {

// One operand of grad_w: numbers along the flat positions of images, one line for each lane.
struct Lines {
  const Images& from;
  std::vector<int64_t> offsets;  // of each lane in an image
  int64_t steps_of_image;
  const uint32_t* there;

  void pack(uint32_t* out, int width, const uint16_t* x, int64_t lane, int count, int64_t s,
            int64_t here) const {
    while (here > 0) {
      const int64_t n = s / steps_of_image, at = s % steps_of_image,
                    run = std::min(here, steps_of_image - at);
      pairs::pack_lines(out, width, x + n * from.image() + 2 * at, offsets.data() + lane, count,
                        there + at / 16, run);
      out += run * width, s += run, here -= run;
    }
  }
};

// The tiles of a product that would be computed: with what missing lanes cost.
int64_t lanes_of(int64_t m, int64_t n) {
  const int64_t height = pairs::height_of(m);
  return ceil_div(m, height) * height * ceil_div(n, kColumns) * kColumns;
}

void grad_w_of_group(const ConvProblem& p, int64_t g, uint16_t* gw, const Images& gradients,
                     const Images& inputs, const std::vector<uint32_t>& there) {
  const int64_t k = p.patch(), steps = int64_t(there.size()) * 16;
  Lines rows{gradients, {}, steps, there.data()}, columns{inputs, {}, steps, there.data()};
  for (int64_t i = 0; i < p.group_out(); ++i) rows.offsets.push_back(i * gradients.pitch());
  for (int64_t i = 0; i < k; ++i)
    columns.offsets.push_back(i / p.taps() * inputs.pitch() +
                              inputs.planes.tap_offsets()[size_t(i % p.taps())]);
  const bool turned = lanes_of(k, p.group_out()) < lanes_of(p.group_out(), k);
  if (turned) std::swap(rows.offsets, columns.offsets);
  const Images &left = turned ? inputs : gradients, &right = turned ? gradients : inputs;
  const Lines a{left, rows.offsets, steps, there.data()}, b{right, columns.offsets, steps, there.data()};
  const int64_t m = int64_t(a.offsets.size()), n = int64_t(b.offsets.size());
  const int height = pairs::height_of(m);
  const int64_t panels = ceil_div(m, height), tiles = panels * ceil_div(n, kColumns);
  const int64_t tile = height * kColumns;

  // Sums over images [n0, n1) in `kept`.
  const auto sum_images = [&](int64_t n0, int64_t n1, int64_t most, float* kept) {
    const int64_t numbers = inputs.image() + gradients.image() + m * 2 * steps;
    const int64_t together = std::clamp<int64_t>(most / numbers, 1, n1 - n0);
    const memory::Buffer<uint16_t> copies(size_t(together * left.copied())),
        others(size_t(together * right.copied()));
    memory::Buffer<uint32_t> packed(size_t(pairs::packed_size(m, together * steps)));
    for (int64_t i = n0; i < n1; i += together) {
      const int64_t images = std::min(together, n1 - i);
      const uint16_t* const x = left.take(copies.get(), i, g, images);
      const uint16_t* const y = right.take(others.get(), i, g, images);
      pairs::pack_all(packed.get(), m, images * steps,
                      [&](uint32_t* out, int64_t lane, int count, int64_t s, int64_t here) {
                        a.pack(out, height, x, lane, count, s, here);
                      });
      pairs::multiply(
          packed.get(), m, n, images * steps,
          [&](uint32_t* out, int64_t q, int64_t s, int64_t here) {
            b.pack(out, kColumns, y, q * kColumns, int(std::min<int64_t>(kColumns, n - q * kColumns)), s,
                   here);
          },
          [](float*, int64_t, int64_t, int) {}, kept, i > n0);
    }
  };
  const int64_t threads = detail::in_parallel() ? 1 : num_threads();
  const int64_t shares = tiles >= 2 * threads ? 1 : std::min(p.batch, threads);
  memory::Buffer<float> sums(size_t(shares * tiles * tile));
  if (shares == 1)
    sum_images(0, p.batch, kSharedNumbers, sums.get());
  else
    parallel_tasks(shares, [&](int64_t i) {
      sum_images(p.batch * i / shares, p.batch * (i + 1) / shares, kOwnNumbers, sums + i * tiles * tile);
    });
  if (shares > 1) add_parts<float>(sums.get(), sums.get(), tiles * tile, shares);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t row = t / ceil_div(n, kColumns) * height, column = t % ceil_div(n, kColumns) * kColumns;
    const int count = int(std::min<int64_t>(height, m - row));
    const Run run{0, int(std::min<int64_t>(kColumns, n - column)), 0, turned ? column * k : column};
    pairs::leave(gw + (turned ? row : row * k), turned ? 1 : k, turned ? k : 1, sums + t * tile, count, &run,
                 1, nullptr);
  }
}

}  // namespace

void conv_grad_w_pairs(const ConvProblem& p, uint16_t* gw, const uint16_t* gy, const uint16_t* x) {
  const Images inputs{x, p.in_channels, p.group_in(), Planes<uint16_t>::of_input(p), is_dense(p)};
  // grad_y in rows as long as those of the images, so that flat positions are the same.
  Extent after{};
  const Planes<uint16_t>& planes = inputs.planes;
  after[2] = planes.width() - p.out[2];
  if (p.out[0] > 1) after[1] = planes.at(1, 0, 0) / planes.width() - p.out[1];
  const auto as_wide = PlaneLayout::of_grad(p, {}, after, p.out_size());
  const Images gradients{gy, p.out_channels, p.group_out(), as_wide, after == Extent{}};
  // Which flat positions are outputs.
  const int64_t flat = planes.at(p.out[0] - 1, p.out[1] - 1, p.out[2] - 1) + 1;
  std::vector<uint32_t> there(size_t(ceil_div(flat, 32)));
  for (int64_t d = 0; d < p.out[0]; ++d)
    for (int64_t h = 0; h < p.out[1]; ++h)
      for (int64_t v = 0; v < p.out[2]; ++v) {
        const int64_t f = planes.at(d, h, v);
        there[size_t(f / 32)] |= 1u << (f % 32);
      }
  for_groups<float>(p, [&](int64_t g) {
    grad_w_of_group(p, g, gw + g * p.group_out() * p.patch(), gradients, inputs, there);
  });
}

}  // namespace fastdl

#else

namespace fastdl {

void conv_forward_pairs(const ConvProblem&, uint16_t*, const uint16_t*, const uint16_t*, const float*) {}
void conv_grad_x_pairs(const ConvProblem&, uint16_t*, const uint16_t*, const uint16_t*, const float*) {}
void conv_grad_w_pairs(const ConvProblem&, uint16_t*, const uint16_t*, const uint16_t*) {}

}  // namespace fastdl

#endif
