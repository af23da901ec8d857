#pragma once
// Parameters, their gradients and AdamW with gradient clipping, on one device. Every device holds all of them
// and, since gradients are summed in device order, ends each step with the same bits.

#include <cstdint>
#include <span>
#include <string>

#include "rondo/core/context.h"
#include "rondo/model/parameters.h"

namespace rondo {

struct OptimizerOptions {
  float beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f;
  float weight_decay = 0.1f;  ///< of matrices; norms do not decay
  double clip = 1.0;          ///< largest norm of the whole gradient; 0 clips nothing
};

class Optimizer {
 public:
  /// Allocates master weights, gradients and moments (float32), and compute weights where `storage` is not
  /// float32.
  Optimizer(Context& context, const ParameterTable& table, DType storage, const OptimizerOptions& options);

  std::span<float> parameters() const { return flat(parameters_); }
  std::span<float> gradients() const { return flat(gradients_); }
  std::span<float> first_moment() const { return flat(first_); }
  std::span<float> second_moment() const { return flat(second_); }
  /// What forward and backward read, in the storage type.
  const void* compute_weights() const {
    return compute_.data() != nullptr ? compute_.data() : parameters_.data();
  }
  /// To be called when parameters() was written: renews the compute weights.
  void parameters_changed();

  void clear_gradients();
  struct StepResult {
    double gradient_norm = 0;  ///< before clipping
  };
  /// Clips the gradients, which are sums over the ring, and updates. `step` counts from 1. Throws
  /// ArgumentError on a norm that is not finite, changing nothing: a diverged run stops with its last good
  /// state.
  StepResult step(std::int64_t step, double learning_rate);

 private:
  /// The last parameter in forward order whose gradient is not finite: backward comes to it first.
  std::string first_not_finite() const;
  std::span<float> flat(const Buffer& buffer) const {
    return {buffer.as<float>(), static_cast<std::size_t>(table_->total())};
  }
  Context* context_;
  const ParameterTable* table_;
  DType storage_;
  OptimizerOptions options_;
  Buffer parameters_, gradients_, first_, second_, compute_;
};

}  // namespace rondo
