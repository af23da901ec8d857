#pragma once
// bench step: whole training steps as `rondo train` makes them.

#include "bench/measure.h"
#include "bench/row.h"
#include "rondo/train/trainer.h"

namespace rondo::bench {

struct StepCase {
  ModelConfig model;
  std::int64_t ctx = 0;  ///< tokens of the one sequence of a step
  DType dtype = DType::f32;
  ExecutionOptions execution{};
};

/// Loss and gradients of a step on a short sequence and at most two layers of the same widths against the
/// reference; then times steps of the whole model: forward, backward, sum over the devices, update. Counts
/// what the model needs: 6 operations for each parameter of a matrix and token, 12 d for each
/// pair of tokens that counts (bench/arguments.h), head and layer, and nothing that is computed again.
Row bench_step(const StepCase& what, const MeasureOptions& options);

/// Those operations of one step.
double step_flops(const StepCase& what);

}  // namespace rondo::bench
