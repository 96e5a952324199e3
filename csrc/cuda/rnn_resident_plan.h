// How a layer's weights fit into registers, by how many blocks, and the launch.
#pragma once

#include <algorithm>
#include <optional>

#include "cuda/rnn_resident.h"
#include "cuda/rnn_specialised.h"

namespace fastdl::cuda {

// The plan with clusters of that many blocks: one sequence each where there are enough of them.
template <class T, class Body>
std::optional<ResidentPlan> resident_plan(const Body& body, int directions, int cluster) {
  using C = Compute<T>;
  // Of a step and its product: cycles apart from the products; of a row, for each warp of a scheduler.
  constexpr double kStep = 1000, kCluster = 1000, kRow = 190;
  ResidentPlan plan{};
  plan.cluster = cluster;
  int cells = 0, row = 0, biases = 0;
  for (int phase = 0; phase < body.products(); ++phase) {
    const StepProduct<T>& product = body.product[phase];
    ResidentSlice& slice = plan.slice[phase];
    if (product.units > kCells * kCellColumns * cluster || product.size > kCells * kCellSize<T> * cluster)
      return std::nullopt;
    slice.units = ((product.units + cluster - 1) / cluster + kCellColumns - 1) / kCellColumns * kCellColumns;
    slice.tiles = product.gates * slice.units / kCellColumns;
    slice.parts = (product.size + kCellSize<T> - 1) / kCellSize<T>;
    slice.first = (cells + kWarpCells - 1) / kWarpCells * kWarpCells;
    cells = slice.first + slice.tiles * slice.parts;
    if (cells > kCells || (cluster - 1) * slice.units >= product.units) return std::nullopt;
    row += 2 * slice.parts * kCellSize<T>;
    biases += slice.tiles * kCellColumns;
    plan.partial = std::max(plan.partial, slice.parts * slice.tiles * kCellColumns);
  }
  const auto kernel = rnn_resident<T, Body, true>;
  const int clusters = cluster == 1 ? multiprocessors() : remembered(kernel, cluster, [&] {
    return resident_clusters(kernel, cluster, kResidentThreads, size_t(shared_memory() - kResidentStatic));
  });
  plan.groups = std::min(body.batch, clusters / directions);
  if (plan.groups == 0) return std::nullopt;
  plan.rows = (body.batch + plan.groups - 1) / plan.groups;
  plan.groups = (body.batch + plan.rows - 1) / plan.rows;
  plan.bytes = (int64_t(plan.rows) * (row + 2 * plan.partial) + biases) * int64_t(sizeof(C)) + 16;
  // launch() asks for more than 48 KiB by the dynamic size alone.
  if (plan.bytes + kResidentStatic > (48 << 10)) plan.bytes = std::max<int64_t>(plan.bytes, (48 << 10) + 16);
  if (plan.bytes > shared_memory() - kResidentStatic) return std::nullopt;
  int at = 0;
  for (int phase = 0; phase < body.products(); ++phase) {
    ResidentSlice& slice = plan.slice[phase];
    slice.state = at;
    at += 2 * plan.rows * slice.parts * kCellSize<T>;
    const int warps = (slice.tiles * slice.parts + kWarpCells - 1) / kWarpCells;
    plan.cycles += kStep + (cluster > 1 ? kCluster : 0) + plan.rows * ((warps + 3) / 4) * kRow;
  }
  plan.zeros = at;
  for (int phase = 0; phase < body.products(); ++phase) {
    plan.slice[phase].bias = at;
    at += plan.slice[phase].tiles * kCellColumns;
  }
  plan.inbox = at;
  plan.sums = at + int(16 / sizeof(C));
  return plan;
}

// The best plan by cycles of a step, if the weights fit.
template <class T, class Body>
std::optional<ResidentPlan> resident_plan_of(const Body& body, int directions) {
  const auto kernel = rnn_resident<T, Body, true>;
  const int largest = remembered(kernel, 0, [&] { return largest_cluster(kernel); });
  std::optional<ResidentPlan> best;
  for (int cluster = 1; cluster <= largest; cluster *= 2) {
    const auto plan = resident_plan<T>(body, directions, cluster);
    if (plan && (!best || plan->cycles < best->cycles)) best = plan;
    if (best && best->rows == 1) break;  // more blocks would only meet more slowly
  }
  return best;
}

// `specialised`: by warps of two kinds, where results are few enough.
template <class T, class Body>
void run_resident(const char* name, const Directions<Body>& layer, const StepTable& table,
                  const ResidentPlan& plan, bool specialised, Stream stream) {
  by_kind(layer, [&](const auto& known) {
    using Known = std::remove_cvref_t<decltype(known.of[0])>;
    auto kernel = plan.cluster > 1 ? rnn_resident<T, Known, true> : rnn_resident<T, Known, false>;
    int threads = kResidentThreads;
    if constexpr (Known::kOneProduct) {
      if (specialised && capability() == 90 && plan.rows * plan.slice[0].units <= kFinishers) {
        kernel = plan.cluster > 1 ? rnn_specialised<T, Known, true> : rnn_specialised<T, Known, false>;
        threads = kSpecialisedThreads, name = "rnn_specialised";
      }
    }
    launch_clusters(name, kernel, plan.cluster,
                    dim3(unsigned(plan.groups * plan.cluster), unsigned(known.count)),
                    dim3(unsigned(threads)), size_t(plan.bytes), stream, known, table, plan);
  });
}

}  // namespace fastdl::cuda
