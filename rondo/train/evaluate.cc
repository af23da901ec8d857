#include "rondo/train/evaluate.h"

#include <algorithm>
#include <array>
#include <bit>
#include <nlohmann/json.hpp>

#include "rondo/io/kept_work.h"

namespace rondo {

namespace {

std::int64_t stride_of(const EvaluationOptions& options) {
  return options.stride > 0 ? options.stride : options.context;
}

/// Adds up losses by position and by block of the text: bucket b holds positions [2^b, 2^(b+1)); a token's
/// own position is the number of tokens before it in its window.
class Tally {
 public:
  Tally(std::int64_t tokens, std::int64_t block_tokens)
      : block_tokens_(block_tokens),
        blocks_(block_tokens > 0 ? static_cast<std::size_t>(2 * ((tokens + block_tokens - 1) / block_tokens))
                                 : 0) {}

  /// `token`: its place in the text.
  void add(std::int64_t token, std::int64_t position, float nats) {
    const auto bucket = static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(position)) - 1);
    sums_[2 * bucket] += nats;
    sums_[2 * bucket + 1] += 1;
    if (block_tokens_ == 0) return;
    const auto block = static_cast<std::size_t>(token / block_tokens_);
    blocks_[2 * block] += nats;
    blocks_[2 * block + 1] += 1;
  }
  /// The sums so far, bit by bit: JSON has no words for all of them.
  nlohmann::json kept() const { return {{"sums", bits_of(sums_)}, {"blocks", bits_of(blocks_)}}; }
  void restore(const nlohmann::json& kept) {
    restore(kept.at("sums"), sums_);
    restore(kept.at("blocks"), blocks_);
  }
  Evaluation finish(Communicator& communicator) {
    communicator.all_reduce_sum(std::span<double>(sums_));
    communicator.all_reduce_sum(std::span<double>(blocks_));
    Evaluation result;
    for (std::size_t n = 0; n < blocks_.size(); n += 2)
      result.by_block.push_back({static_cast<std::int64_t>(blocks_[n + 1]), blocks_[n]});
    for (std::size_t bucket = 0; bucket < sums_.size() / 2; ++bucket) {
      const auto tokens = static_cast<std::int64_t>(sums_[2 * bucket + 1]);
      if (tokens == 0) continue;
      result.by_position.push_back(
          {std::int64_t{1} << bucket, std::int64_t{2} << bucket, tokens, sums_[2 * bucket]});
      result.nats += sums_[2 * bucket];
      result.tokens += tokens;
    }
    return result;
  }

 private:
  static std::vector<std::uint64_t> bits_of(const std::vector<double>& values) {
    std::vector<std::uint64_t> bits;
    for (const double value : values) bits.push_back(std::bit_cast<std::uint64_t>(value));
    return bits;
  }
  static void restore(const nlohmann::json& kept, std::vector<double>& values) {
    const std::vector<std::uint64_t> bits = kept;
    check_argument(bits.size() == values.size(), "evaluate", "expected kept work of {} sums, got {}",
                   values.size(), bits.size());
    for (std::size_t n = 0; n < values.size(); ++n) values[n] = std::bit_cast<double>(bits[n]);
  }

  std::int64_t block_tokens_;
  std::vector<double> sums_ = std::vector<double>(2 * 48), blocks_;  // nats, tokens
};

/// Labels that are not scored: of tokens of the window before `scored`, and of no text.
void ignore_before(std::int64_t scored, std::int32_t first_special, std::span<const TokenPlace> places,
                   std::span<std::int32_t> labels) {
  for (std::size_t n = 0; n < labels.size(); ++n)
    if (places[n].global + 1 < scored || labels[n] >= first_special) labels[n] = kernels::kIgnoreLabel;
}

/// Windows that are done by the journal of kept work.
std::int64_t resume(KeptWork& work, Tally& tally) {
  const nlohmann::json& entry = work.entry(kEvaluationEntry);
  if (entry.is_null()) return 0;
  tally.restore(entry.at("tally"));
  return entry.at("windows");
}

/// One more window is done: what the pass kept of it is of no use any more.
void keep(KeptWork& work, const Tally& tally, std::int64_t windows, bool now) {
  work.erase(Transformer::kPassEntry);
  work.set(kEvaluationEntry, {{"windows", windows}, {"tally", tally.kept()}});
  // The next window writes over blocks that the journal on the disk may speak of.
  if (now || work.due() || work.committed(Transformer::kPassEntry)) work.commit();
}

}  // namespace

void read_shard(const TokenSource& source, std::int64_t first, std::span<const TokenPlace> places,
                std::span<std::int32_t> ids, std::span<std::int32_t> labels) {
  constexpr std::int64_t kPart = 4096;
  std::array<std::int32_t, kPart + 1> part;
  std::int64_t begin = 0, end = 0;  // places [begin, end) and their labels are in `part`
  for (std::size_t n = 0; n < places.size(); ++n) {
    const std::int64_t global = places[n].global;
    if (global < begin || global >= end) {
      begin = global;
      end = std::min(global + kPart, source.tokens - 1 - first);
      source.read(first + begin, std::span(part).first(static_cast<std::size_t>(end - begin + 1)));
    }
    const auto at = static_cast<std::size_t>(global - begin);
    ids[n] = part[at];
    labels[n] = part[at + 1];
  }
}

std::int64_t evaluation_windows(std::int64_t tokens, const EvaluationOptions& options) {
  if (tokens < 2) return 0;
  const std::int64_t stride = stride_of(options);
  // Window w scores the tokens (after the first) up to w * stride + context; the last one ends with the text.
  const std::int64_t beyond = std::max<std::int64_t>(0, tokens - 1 - options.context);
  const std::int64_t windows = 1 + (beyond + stride - 1) / stride;
  return options.most_windows > 0 ? std::min(windows, options.most_windows) : windows;
}

Evaluation evaluate(Communicator& communicator, Transformer& model, const WeightReader& weights,
                    const TokenSource& source, const EvaluationOptions& options,
                    const std::function<bool(std::int64_t, std::int64_t)>& progress) {
  constexpr const char* op = "evaluate";
  check_argument(source.tokens >= 2, op, "expected a text of at least 2 tokens, got {}", source.tokens);
  check_argument(options.context >= 1, op, "expected a context of at least 1 token, got {}", options.context);
  const std::int64_t stride = stride_of(options);
  check_argument(stride <= options.context, op, "expected a stride up to the context of {}, got {}",
                 options.context, stride);
  const std::int64_t windows = evaluation_windows(source.tokens, options);
  check_argument(options.skipped >= 0 && options.block_tokens >= 0, op,
                 "expected skipped tokens and blocks of 0 or more, got {} and {}", options.skipped,
                 options.block_tokens);
  Tally tally(source.tokens, options.block_tokens);
  std::int64_t prepared = -1, done = 0;
  // Inputs are all but the last token read, labels all but the first.
  const auto end = [&](std::int64_t begin) { return std::min(begin + options.context, source.tokens - 1); };
  KeptWork* work = model.work();
  const auto prepare = [&](std::int64_t length) {
    if (length != prepared)
      model.prepare({.tokens = length, .devices = model.devices(), .layout = options.layout}, false);
    prepared = length;
  };
  if (work != nullptr) {
    check_argument(communicator.devices() == 1, op, "expected one device for kept work, got {}",
                   communicator.devices());
    done = resume(*work, tally);
    prepare(end(0));  // files have the size that the longest window needs
  }
  while (done < windows) {
    // All rings run as many windows, because passes may be collectives of all: one that has none left scores
    // nothing of the last one.
    const std::int64_t turn = done + options.replica, window = std::min(turn, windows - 1);
    const std::int64_t first = window * stride;
    prepare(end(first) - first);
    std::int64_t scored_until = 1 + options.skipped;
    if (window > 0) scored_until = std::max(scored_until, end(first - stride) + 1);
    if (turn != window) scored_until = source.tokens;
    const std::span<const TokenPlace> places = model.places();
    const auto [ids, labels, losses] = model.token_memory();
    read_shard(source, first, places, ids, labels);
    ignore_before(scored_until - first, source.first_special, places, labels);
    const auto watch = [&](double share) {
      return !options.within || options.within(window, share) || work == nullptr;
    };
    if (!model.losses(weights, ids, labels, losses, watch)) break;
    for (std::size_t n = 0; n < labels.size(); ++n)
      if (labels[n] != kernels::kIgnoreLabel)
        tally.add(first + places[n].global + 1, places[n].global + 1, losses[n]);
    done = std::min(windows, done + options.replicas);
    const bool stops = progress && !progress(done, windows);
    if (work != nullptr) keep(*work, tally, done, stops || done == windows);
    if (stops) break;
  }
  Evaluation result = tally.finish(communicator);
  result.windows = done;
  return result;
}

}  // namespace rondo
