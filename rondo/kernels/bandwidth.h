#pragma once
// How fast memory can be read: the measure for work that reads much and computes little.

#include <chrono>
#include <cstddef>
#include <span>

#include "rondo/core/stream.h"

namespace rondo::kernels {

/// Bytes per second at which all threads of the stream together read `memory` from end to end: the best pass
/// within about `budget` (positive; one pass at least). Memory larger than the caches gives the rate of main
/// memory. ArgumentError when it is empty.
double measure_read_bandwidth(Stream& stream, std::span<const std::byte> memory,
                              std::chrono::milliseconds budget);

}  // namespace rondo::kernels
