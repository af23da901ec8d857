#pragma once
// What the processor could do at most: the measure that rates of work are shown against.

#include <chrono>

#include "rondo/core/dtype.h"
#include "rondo/core/isa.h"
#include "rondo/core/stream.h"

namespace rondo::kernels {

/// FLOP/s that all threads of the stream reach together with multiplications and additions in registers
/// alone, in the instructions of the stream's tier; a fused multiply-add counts as two. Takes about `budget`
/// (positive). bfloat16: dot products of pairs summed in float32 where the tier has them, else the float32
/// figure, since kernels then widen.
double measure_peak_flops(Stream& stream, DType dtype, std::chrono::milliseconds budget);

/// The tier whose kernels a stream of `isa` runs: below it where that tier was not built (RONDO_CPU_TIERS).
const char* tier_name(Isa isa);

}  // namespace rondo::kernels
