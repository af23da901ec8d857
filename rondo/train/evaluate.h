#pragma once
// Likelihood of a text by a sliding window: each window is one sequence over the ring, and only tokens that
// no window before it has scored are scored.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "rondo/comm/communicator.h"
#include "rondo/model/transformer.h"

namespace rondo {

/// A text as tokens. Labels that are not text (a <bos> between documents) count nothing.
struct TokenSource {
  std::int64_t tokens = 0;
  /// ids[n] = token first + n.
  std::function<void(std::int64_t first, std::span<std::int32_t> ids)> read;
  /// Ids at or above this are no text; default: all are.
  std::int32_t first_special = INT32_MAX;
};

/// ids[n] = token first + places[n].global and labels[n] the token after it, for a device's own tokens alone:
/// a part of the text at a time, so that no device holds the whole sequence.
void read_shard(const TokenSource& source, std::int64_t first, std::span<const TokenPlace> places,
                std::span<std::int32_t> ids, std::span<std::int32_t> labels);

struct EvaluationOptions {
  std::int64_t context = 16384;   ///< tokens of a window
  std::int64_t stride = 0;        ///< tokens by which windows advance, 1 ... context; 0: context
  std::int64_t most_windows = 0;  ///< 0: all
  std::int64_t skipped = 0;       ///< first tokens of the text that are context alone, beside the very first
  std::int64_t block_tokens = 0;  ///< tokens of the text's blocks whose losses are told apart; 0: none are
  Layout layout = Layout::zigzag;
  int replicas = 1;  ///< rings that share the windows
  int replica = 0;   ///< this device's ring
  /// Where the model works segment by segment: called after each with the share of the window's work that is
  /// done; false stops at once, of a model with kept work alone.
  std::function<bool(std::int64_t window, double share)> within = {};
};

/// Losses of the tokens that stood at positions [begin, end) of their window: how many tokens they could look
/// back on.
struct PositionBucket {
  std::int64_t begin = 0, end = 0, tokens = 0;
  double nats = 0;
};

/// What was scored of one block of the text.
struct TextBlock {
  std::int64_t tokens = 0;
  double nats = 0;
};

struct Evaluation {
  double nats = 0;
  std::int64_t tokens = 0;  ///< scored
  std::int64_t windows = 0;
  std::vector<PositionBucket> by_position;  ///< doubling: [1, 2), [2, 4), ...; without empty ones
  std::vector<TextBlock> by_block;  ///< all blocks of the text in order, also those of no scored token
};

/// Collective; same result on every device of `communicator`, to which all replicas belong; the model's ring
/// is that of one. `progress(done, all)` is called on every device after each window and returns false to
/// stop early (all devices must agree).
///
/// A model with kept work (TransformerOptions::work) has to be one device's, and alone. The journal's entry
/// kEvaluationEntry holds the windows that were scored and the sums of their losses; a stop commits.
Evaluation evaluate(Communicator& communicator, Transformer& model, const WeightReader& weights,
                    const TokenSource& source, const EvaluationOptions& options,
                    const std::function<bool(std::int64_t done, std::int64_t all)>& progress = {});

inline constexpr const char* kEvaluationEntry = "evaluation";

/// Windows that evaluate() will run.
std::int64_t evaluation_windows(std::int64_t tokens, const EvaluationOptions& options);

}  // namespace rondo
