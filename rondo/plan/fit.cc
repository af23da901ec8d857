#include "rondo/plan/fit.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>

#include "rondo/core/error.h"

namespace rondo {
namespace {

constexpr int kMostDevices = 1024;

std::string mib(std::int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

bool fits(const MemoryModel& memory, std::int64_t context, std::int64_t limit) {
  return memory.peak(memory.entries(context)) <= limit;
}

bool may_have_segments(const RunShape& run) {
  return run.devices == 1 && run.remat == Remat::attention && run.config.first_k == 0 &&
         run.attention == AttentionForm::blockwise && run.feed_forward == FeedForwardForm::blockwise;
}

/// The largest entries, and what the others are together.
std::string words_of(const EntryBytes& entries) {
  std::vector<std::pair<std::int64_t, Entry>> sorted;
  for (std::size_t n = 0; n < entries.size(); ++n)
    if (entries[n] > 0) sorted.push_back({entries[n], static_cast<Entry>(n)});
  std::sort(sorted.rbegin(), sorted.rend());
  constexpr std::size_t kShown = 5;
  std::vector<std::string> words;
  std::int64_t others = 0;
  for (std::size_t n = 0; n < sorted.size(); ++n)
    if (n < kShown)
      words.push_back(fmt::format("{} {}", name_of(sorted[n].second), mib(sorted[n].first)));
    else
      others += sorted[n].first;
  if (others > 0) words.push_back("others " + mib(others));
  return fmt::format("{}", fmt::join(words, ", "));
}

/// The forms that hold a block at a time, where each of them alone is enough, or both are.
void try_blockwise(const RunShape& run, std::int64_t context, std::int64_t limit,
                   std::vector<std::string>& ways) {
  const bool attention = run.attention != AttentionForm::blockwise,
             feed_forward = run.feed_forward != FeedForwardForm::blockwise;
  const auto try_with = [&](const char* option, bool of_attention, bool of_feed_forward) {
    RunShape other = run;
    if (of_attention) other.attention = AttentionForm::blockwise;
    if (of_feed_forward) other.feed_forward = FeedForwardForm::blockwise;
    if (!fits(MemoryModel(other), context, limit)) return false;
    ways.emplace_back(option);
    return true;
  };
  bool one = attention && try_with("--attention blockwise", true, false);
  one = (feed_forward && try_with("--feedforward blockwise", false, true)) || one;
  if (attention && feed_forward && !one)
    try_with("--attention blockwise with --feedforward blockwise", true, true);
}

/// Options of which each alone is enough.
std::vector<std::string> ways_to_fit(const MemoryModel& memory, std::int64_t context, std::int64_t limit) {
  std::vector<std::string> ways;
  const auto try_with = [&](const char* option, const std::function<void(RunShape&)>& change) {
    RunShape other = memory.run();
    change(other);
    if (fits(MemoryModel(other), context, limit)) ways.emplace_back(option);
  };
  const RunShape& run = memory.run();
  try_blockwise(run, context, limit, ways);
  if (const int devices = fewest_devices(memory, context, limit, kMostDevices);
      devices > 0 && run.segment_tokens == 0)
    ways.push_back(fmt::format("{} devices in all", devices));
  if (run.dtype == DType::f32) try_with("--dtype bf16", [](RunShape& r) { r.dtype = DType::bf16; });
  if (run.purpose == Purpose::train && run.segment_tokens == 0 && run.remat != Remat::layer)
    try_with("--remat layer", [](RunShape& r) { r.remat = Remat::layer; });
  if (run.purpose != Purpose::generate && run.devices_in_all() > 1 && run.shard != Shard::parameters)
    try_with("--shard parameters", [](RunShape& r) { r.shard = Shard::parameters; });
  if (const std::int64_t segment = largest_segment(memory, context, limit); segment > 0)
    ways.push_back(fmt::format("--spill DIR --segment-tokens {}", segment));
  if (const std::int64_t tokens = longest_context(memory, limit).tokens; tokens > 0)
    ways.push_back(run.purpose == Purpose::generate ? fmt::format("a prompt and answer of {} tokens", tokens)
                                                    : fmt::format("--ctx-size {}", tokens));
  return ways;
}

/// What a thread packs of a weight's gradient at most: up to 768 and 1,536 lines of 512 words, in tiles that
/// are dealt out to the threads (kernels/cpu/outer_product.cc).
std::int64_t weight_gradient_scratch(std::int64_t outputs, std::int64_t inputs, std::int64_t threads) {
  const auto share = [&](std::int64_t lines, std::int64_t tile) {
    const std::int64_t tiles = (lines + tile - 1) / tile;
    return (tiles + threads - 1) / threads * std::min(tile, (lines + 15) / 16 * 16);
  };
  return 4 * 512 *
         (share(std::min<std::int64_t>(outputs, 768), 192) +
          share(std::min<std::int64_t>(inputs, 1536), 256));
}

}  // namespace

std::int64_t without_scratch(const RunShape& run, std::int64_t limit) {
  // Attention backward takes most: 2,048 packed queries with their gradients, 256 keys, scores
  // (docs/kernels.md).
  constexpr std::int64_t kLeast = 1 << 20, kQueries = 2048, kKeys = 256, kTile = 64;
  const std::int64_t d = (run.config.head_dim + 15) / 16 * 16;
  const std::int64_t backward =
      4 * (kQueries * (5 * d + 2) + 4 * kKeys * d + 2 * kKeys * kTile + 2 * kTile * d);
  // Vanilla attention has none of it, but sums over queries, which is the product of a weight's gradient.
  constexpr std::int64_t kMostLines = 768, kLargestHead = 256;
  const std::int64_t vanilla = weight_gradient_scratch(kMostLines, kLargestHead, 1);
  std::int64_t most = std::max(kLeast, run.attention == AttentionForm::vanilla ? vanilla : backward);
  const std::int64_t C = run.config.width, Q = run.config.q_heads * run.config.head_dim;
  for (const std::int64_t other : {run.config.ffn, run.config.vocabulary, Q})
    for (const auto& [outputs, inputs] : {std::pair{other, C}, std::pair{C, other}})
      most = std::max(most, weight_gradient_scratch(outputs, inputs, run.threads));
  const std::int64_t scratch = run.purpose == Purpose::train ? most : kLeast;
  return std::max<std::int64_t>(0, limit - run.threads * scratch);
}

int fewest_devices(const MemoryModel& memory, std::int64_t context, std::int64_t limit, int most) {
  most = memory.run().may_be_a_ring() ? most / memory.run().replicas : std::min(most, 1);
  if (most < 1) return 0;
  int too_few = 0, enough = 1;
  while (enough < most && !fits(memory.on(enough), context, limit))
    too_few = enough, enough = std::min(most, 2 * enough);
  if (!fits(memory.on(enough), context, limit)) return 0;
  while (enough - too_few > 1) {
    const int middle = (too_few + enough) / 2;
    (fits(memory.on(middle), context, limit) ? enough : too_few) = middle;
  }
  return enough * memory.run().replicas;
}

std::int64_t largest_segment(const MemoryModel& memory, std::int64_t context, std::int64_t limit) {
  RunShape run = memory.run();
  if (!may_have_segments(run)) return 0;
  run.spills = true;
  constexpr std::int64_t kMost = 8192;
  for (run.segment_tokens = kMost; run.segment_tokens > 0; run.segment_tokens -= kLeastSegmentStep)
    if (fits(MemoryModel(run), context, limit)) return run.segment_tokens;
  return 0;
}

RunShape with_shortest_segments(RunShape run) {
  run.segment_tokens = kLeastSegmentStep;
  return run;
}

void fit_segments(RunShape& run, std::int64_t context, std::int64_t usable) {
  if (const std::int64_t tokens = largest_segment(MemoryModel(run), context, usable); tokens > 0)
    run.segment_tokens = tokens;
}

std::int64_t fit_context(const char* operation, const RunShape& run, bool fits_segments, std::int64_t limit,
                         std::int64_t most) {
  check_argument(limit > 0, operation, "expected a --memory-limit for --ctx-size auto, got none");
  const MemoryModel memory(fits_segments ? with_shortest_segments(run) : run);
  const std::int64_t longest =
      std::max<std::int64_t>(1, longest_context(memory, without_scratch(run, limit)).tokens);
  check_fits(operation, memory, longest, limit);
  return std::min(longest, most);
}

void check_fits(const char* operation, const MemoryModel& memory, std::int64_t context, std::int64_t limit) {
  if (limit <= 0 || fits(memory, context, limit)) return;
  const EntryBytes entries = memory.entries(context);
  std::vector<std::string> ways = ways_to_fit(memory, context, without_scratch(memory.run(), limit));
  const std::int64_t enough = memory.peak(entries) + limit - without_scratch(memory.run(), limit);
  ways.push_back("a limit of " + mib(enough));
  argument_error(operation,
                 "expected a run that fits --memory-limit, {} a device, got one of {} ({}); what would do "
                 "alone: {}",
                 mib(limit), mib(memory.peak(entries)), words_of(entries), fmt::join(ways, ", or "));
}

}  // namespace rondo
