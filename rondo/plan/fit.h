#pragma once
// Whether a run fits a memory limit, and what would make it fit.

#include <cstdint>
#include <string>
#include <vector>

#include "rondo/plan/memory.h"

namespace rondo {

/// What of a limit is left beside the most that the kernels' scratch of all threads may take: what to choose
/// sizes by.
std::int64_t without_scratch(const RunShape& run, std::int64_t limit);

/// Devices in all with which no device passes the limit, rings as many as there are; 0: none up to `most`.
int fewest_devices(const MemoryModel& memory, std::int64_t context, std::int64_t limit, int most);

/// The largest segments, of 8,192 tokens at most, with which the run fits if it spills; 0: none, or segments
/// are not for it.
std::int64_t largest_segment(const MemoryModel& memory, std::int64_t context, std::int64_t limit);

/// `run` with the shortest segments there are: what does not fit with these fits with none.
RunShape with_shortest_segments(RunShape run);

/// Segments that were left to the memory: the largest that fit `usable` bytes, or as they were where none do.
void fit_segments(RunShape& run, std::int64_t context, std::int64_t usable);

/// A context that was left to the memory (--ctx-size auto): the longest, up to `most`, that leaves room for
/// the kernels' scratch (without_scratch) under `limit`, and at least a token; `fits_segments` where segments
/// are left to the memory too. Throws ArgumentError where there is no limit (0), or as check_fits() does.
std::int64_t fit_context(const char* operation, const RunShape& run, bool fits_segments, std::int64_t limit,
                         std::int64_t most);

/// Throws ArgumentError when a device would pass the limit (0: there is none) even without any scratch: with
/// the ledger's numbers, and each option that alone would make the run fit.
void check_fits(const char* operation, const MemoryModel& memory, std::int64_t context, std::int64_t limit);

}  // namespace rondo
