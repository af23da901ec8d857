#pragma once
// What the kernels of this machine reach on a model's own shapes: the efficiencies of --hardware here.

#include "rondo/comm/communicator.h"
#include "rondo/core/context.h"
#include "rondo/model/config.h"
#include "rondo/plan/hardware.h"

namespace rondo {

/// FLOP/s of the slowest device while all of them work, operations counted as they are executed.
struct KernelRates {
  double attention_forward = 0, attention_backward = 0, linear = 0;
};

/// Called by all devices at once; all get the same. Takes about `seconds` (positive).
KernelRates measure_kernels(Context& context, Communicator& communicator, const ModelConfig& model,
                            DType dtype, double seconds);

/// Sets the efficiencies to what the rates are of the peak.
void apply(const KernelRates& rates, DType dtype, Hardware& hardware);

}  // namespace rondo
