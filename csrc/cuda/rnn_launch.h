// How a direction's steps are computed, by the problem and the device alone: by one launch of clusters that
// do not wait for each other, with the weights in registers (rnn_resident_plan.h), or by one of blocks that meet
// in each step, with the weights in all blocks' shared memory (rnn_grid.h), where they fit and as estimates
// of a step's cycles have it; else, and for very many sequences, by a launch for each product (rnn_step.h).
#pragma once

#include <algorithm>
#include <optional>

#include "cuda/rnn_grid.h"
#include "cuda/rnn_resident_plan.h"
#include "cuda/rnn_step.h"

namespace fastdl::cuda {

// Sizes of `scratch`: each direction's exchange buffers, then the counters of all.
struct RnnScratch {
  int64_t item, batch, size[2];
  int products;

  RnnScratch(int64_t item, const RnnProblem& p, bool backward) : item(item), batch(p.batch()) {
    const bool before = p.cell == RnnCell::gru_before;
    products = before || p.projected() ? 2 : 1;
    size[0] = !backward ? p.output : (before ? 2 : p.gates()) * p.hidden;
    size[1] = backward && !before ? p.output : p.hidden;
  }
  // Elements, and bytes, of a product's rows.
  int64_t pitch(int phase) const {
    return (size[phase] * item + kGridStep - 1) / kGridStep * kGridStep / item;
  }
  int64_t exchange(int phase) const { return 2 * batch * pitch(phase) * item; }
  int64_t counters() const { return (batch + kGridRows - 1) / kGridRows * kCounterStep; }
  int64_t bytes(int directions) const {
    int64_t all = counters() * int64_t(sizeof(uint32_t));
    for (int phase = 0; phase < products; ++phase) all += exchange(phase);
    return directions * all;
  }
};

inline std::optional<StepTable> step_table(const RnnProblem& p) {
  StepTable table{};
  table.steps = int(p.steps());
  for (int t = 0; t < table.steps; ++t) {
    const int rows = int(p.batch_sizes[size_t(t)]);
    if (table.runs == 0 || table.rows[table.runs - 1] != rows) {
      if (table.runs == StepTable::kRuns) return std::nullopt;
      table.rows[table.runs] = rows;
      table.start[table.runs++] = p.starts[size_t(t)] - int64_t(t) * rows;
    }
    table.end[table.runs - 1] = t + 1;
  }
  return table;
}

// The same for any number of runs.
struct StepList {
  const RnnProblem& p;
  int steps;
  RnnStep at(int n, bool reverse) const {
    if (n < 0 || n >= steps) return {0, 0};
    const auto t = size_t(reverse ? steps - 1 - n : n);
    return {int(p.batch_sizes[t]), p.starts[t]};
  }
};

// Estimated cycles of a step with a launch for each product.
template <class T, bool kTensor, class Body>
double step_cycles(const Body& body) {
  constexpr double kLaunch = 10000, kLatency = 60;  // of an element of the sum, as an H200 took them
  constexpr double kOfElement =
      std::max(kRows * kColumns / kMultiplyAdds<T, kTensor>, (kRows + kColumns) * sizeof(T) / kFromCache);
  double cycles = 0;
  for (int phase = 0; phase < body.products(); ++phase) {
    const StepProduct<T>& product = body.product[phase];
    const int units = kColumns / product.gates, all = multiprocessors();
    const int64_t blocks = int64_t((product.units + units - 1) / units) * ((body.batch + kRows - 1) / kRows);
    cycles +=
        kLaunch + product.size * kLatency + double((blocks + all - 1) / all) * product.size * kOfElement;
  }
  return cycles;
}

template <class T, bool kTensor, class Body>
void run_steps(const char* name, const Body& body, const RnnProblem& p, Stream stream) {
  const StepList list{p, int(p.steps())};
  for (int k = 0; k < Body::iterations(list.steps); ++k) {
    const int n = Body::step(list.steps, k);
    const RnnSteps steps{list.at(n - 1, body.reverse), list.at(n, body.reverse),
                         list.at(n + 1, body.reverse)};
    for (int phase = 0; phase < body.products(); ++phase) {
      const int rows = body.rows(steps, phase), units = kColumns / body.product[phase].gates;
      if (rows == 0) continue;
      launch(name, rnn_step<T, kTensor, Body>,
             dim3(unsigned((body.product[phase].units + units - 1) / units),
                  unsigned((rows + kRows - 1) / kRows)),
             dim3(kStepThreads), kStepBytes, stream, body, steps, phase, k, units);
    }
  }
}

// The plan that keeps the weights in registers, if that is the way to go.
template <class T, bool kTensor, class Body>
std::optional<ResidentPlan> resident_way(const Body& body, const RnnProblem& p, RnnLaunches launches) {
  if (launches > RnnLaunches::resident || !step_table(p)) return std::nullopt;
  const bool forced = launches == RnnLaunches::resident;
  const auto plan = resident_plan_of<T>(body, p.directions);
  if (!plan || forced || plan->cycles <= body.products() * kMeeting) return plan;
  if (plan->cycles > p.directions * step_cycles<T, kTensor>(body)) return std::nullopt;
  if (p.steps() == 1) return plan;
  const auto other = grid_choice<T, kTensor>(body, p.directions);
  return other && other->cycles < plan->cycles ? std::nullopt : plan;
}

template <class T, bool kTensor, class Body>
void run_layer(const char* name, const RnnProblem& p, Directions<Body>& layer, bool backward, void* scratch,
               const std::optional<ResidentPlan>& resident, RnnLaunches launches, bool specialised,
               Stream stream) {
  const auto table = step_table(p);
  if (resident) return run_resident<T>(name, layer, *table, *resident, specialised, stream);
  const RnnScratch sizes(sizeof(T), p, backward);
  auto* at = static_cast<unsigned char*>(scratch);
  for (int d = 0; d < layer.count; ++d)
    for (int phase = 0; phase < layer.of[d].products(); ++phase) {
      layer.of[d].product[phase].state = reinterpret_cast<T*>(at);
      layer.of[d].product[phase].pitch = int(sizes.pitch(phase));
      at += sizes.exchange(phase);
    }
  auto* const counters = reinterpret_cast<uint32_t*>(at);
  constexpr unsigned kThreads = 256;
  const int64_t elements = 2 * p.batch() * sizes.pitch(0);
  launch(name, rnn_begin<T, Body>,
         dim3(unsigned(std::min<int64_t>((elements + kThreads - 1) / kThreads, 4 * multiprocessors())),
              unsigned(layer.count)),
         dim3(kThreads), 0, stream, layer, counters, int(layer.count * sizes.counters()));
  if (table && p.steps() > 1 && launches <= RnnLaunches::grid) {
    bool done = false;
    by_kind(layer, [&](const auto& known) {
      const auto choice = grid_choice<T, kTensor>(known.of[0], known.count);
      done = choice && (launches == RnnLaunches::grid ||
                        choice->cycles <= known.count * step_cycles<T, kTensor>(known.of[0]));
      if (done) run_grid<T, kTensor>(name, known, *table, counters, *choice, stream);
    });
    if (done) return;
  }
  for (int d = 0; d < layer.count; ++d) run_steps<T, kTensor>(name, layer.of[d], p, stream);
}

// f(T{}, whether by tensor cores)
template <class F>
void by_dtype_and_unit(Dtype dtype, bool tf32, F&& f) {
  by_dtype(dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) == 2) {
      f(T{}, std::true_type{});
    } else {
      if constexpr (sizeof(T) == 4)
        if (tf32) return f(T{}, std::true_type{});
      f(T{}, std::false_type{});
    }
  });
}

}  // namespace fastdl::cuda
