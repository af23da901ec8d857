#include "rondo/kernels/peak.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "rondo/core/error.h"
#include "rondo/kernels/cpu/rows.h"
#include "rondo/kernels/cpu/tier.h"

namespace rondo::kernels {

namespace {

using Clock = std::chrono::steady_clock;

// Rounds between looks at the clock: some ten microseconds.
constexpr std::int64_t kRounds = 4096;

// Of so many measurements the best counts: what else the machine does can only make one smaller.
constexpr int kWindows = 8;

/// FLOP/s of all threads over one window.
double window_rate(Stream& stream, const RowKernels& kernels, DType dtype, Clock::duration length) {
  const bool pairs = dtype == DType::bf16;
  const auto multiply_add = pairs ? kernels.multiply_add_pairs : kernels.multiply_add;
  const std::int64_t flops = pairs ? kernels.multiply_add_pairs_flops : kernels.multiply_add_flops;
  std::vector<std::int64_t> calls(static_cast<std::size_t>(stream.threads()));
  // Written to by every call, so that none can be left out.
  std::vector<float> results(calls.size());
  const auto begin = Clock::now();
  const auto deadline = begin + length;
  // One task for each thread. A thread that comes too late makes the rate smaller, never larger: the time is
  // that of all together.
  stream.pool().run(stream.threads(), [&](std::int64_t index, int) {
    std::int64_t count = 0;
    float result = 0;
    do {
      result += multiply_add(kRounds);
      ++count;
    } while (Clock::now() < deadline);
    calls[static_cast<std::size_t>(index)] = count;
    results[static_cast<std::size_t>(index)] = result;
  });
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::int64_t count = 0;
  for (std::int64_t made : calls) count += made;
  return static_cast<double>(count * kRounds) * static_cast<double>(flops) / seconds;
}

}  // namespace

double measure_peak_flops(Stream& stream, DType dtype, std::chrono::milliseconds budget) {
  check_argument(budget.count() > 0, "measure_peak_flops", "expected a positive budget, got {} ms",
                 budget.count());
  const RowKernels& kernels = row_kernels(stream.isa());
  double best = 0;
  for (int window = 0; window < kWindows; ++window)
    best = std::max(best, window_rate(stream, kernels, dtype, Clock::duration(budget) / kWindows));
  return best;
}

const char* tier_name(Isa isa) { return tier(isa).name; }

}  // namespace rondo::kernels
