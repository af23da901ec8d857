#pragma once
// AdamW with gradient clipping, on one device: it updates the part of the weights that the device owns, of
// which it holds the moments.

#include <cstdint>
#include <span>
#include <string>

#include "rondo/core/context.h"
#include "rondo/kernels/kernels.h"
#include "rondo/train/gradient_store.h"
#include "rondo/train/moments.h"
#include "rondo/train/weight_store.h"

namespace rondo {

struct OptimizerOptions {
  float beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f;
  float weight_decay = 0.1f;  ///< of matrices; norms do not decay
  double clip = 1.0;          ///< largest norm of the whole gradient; 0 clips nothing
};

class Optimizer {
 public:
  /// All outlive it; the stores are of the same devices and Shard. Allocates the moments (float32) of what
  /// the device owns.
  Optimizer(Context& context, Communicator& communicator, const ParameterTable& table, WeightStore& weights,
            GradientStore& gradients, const OptimizerOptions& options);

  /// This device's part of a bucket, as WeightStore::master.
  std::span<float> moment(Moment moment, std::size_t bucket);

  struct StepResult {
    double gradient_norm = 0;  ///< before clipping
  };
  /// Clips the gradients, which are sums over the devices, and updates. `step` counts from 1. Collective: the
  /// same bits on every device, whatever is divided over them. Throws ArgumentError on all of them on a norm
  /// that is not finite, changing nothing: a diverged run stops with its last good state.
  StepResult step(std::int64_t step, double learning_rate);

 private:
  double gradient_norm();
  /// The last parameter in forward order whose gradient is not finite: backward comes to it first.
  std::string first_not_finite();
  void update(std::size_t bucket, kernels::AdamW settings);

  Context* context_;
  Communicator* communicator_;
  const ParameterTable* table_;
  WeightStore* weights_;
  GradientStore* gradients_;
  OptimizerOptions options_;
  std::vector<Range> buckets_;
  Buffer first_, second_;
};

}  // namespace rondo
