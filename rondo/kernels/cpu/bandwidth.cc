#include "rondo/kernels/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "rondo/core/error.h"
#include "rondo/kernels/cpu/rows.h"

namespace rondo::kernels {

namespace {

using Clock = std::chrono::steady_clock;

// What a thread reads at a time: long beside the start of its streams, short beside what waits for the last.
constexpr std::int64_t kChunkBytes = 4 << 20;

/// One pass over all memory; returns its seconds.
double read_once(Stream& stream, const RowKernels& kernels, std::span<const std::byte> memory,
                 std::atomic<std::uint32_t>& sink) {
  const auto bytes = static_cast<std::int64_t>(memory.size());
  const auto begin = Clock::now();
  stream.pool().run((bytes + kChunkBytes - 1) / kChunkBytes, [&](std::int64_t chunk, int) {
    const std::int64_t first = chunk * kChunkBytes;
    sink += kernels.read_sum(memory.data() + first, std::min(kChunkBytes, bytes - first));
  });
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

double measure_read_bandwidth(Stream& stream, std::span<const std::byte> memory,
                              std::chrono::milliseconds budget) {
  constexpr const char* operation = "measure_read_bandwidth";
  check_argument(budget.count() > 0, operation, "expected a positive budget, got {} ms", budget.count());
  check_argument(!memory.empty(), operation, "expected memory to read, got none");
  const RowKernels& kernels = row_kernels(stream.isa());
  std::atomic<std::uint32_t> sink{0};  // so that no read can be left out
  double best = read_once(stream, kernels, memory, sink);
  for (const auto end = Clock::now() + budget; Clock::now() < end;)
    best = std::min(best, read_once(stream, kernels, memory, sink));
  return static_cast<double>(memory.size()) / best;
}

}  // namespace rondo::kernels
