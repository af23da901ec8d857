#pragma once
// What the processor could do at most: the measure that rates of work are shown against.

#include <chrono>

#include "rondo/core/dtype.h"
#include "rondo/core/stream.h"

namespace rondo::kernels {

/// Float32 FLOP/s that all threads of the stream reach together with multiplications and additions in
/// registers alone, in the instructions of the stream's tier; a fused multiply-add counts as two. Takes about
/// `budget` (positive). For bfloat16 it is the same number: kernels compute in float32. oneDNN's bfloat16
/// products may exceed it.
double measure_peak_flops(Stream& stream, DType dtype, std::chrono::milliseconds budget);

}  // namespace rondo::kernels
