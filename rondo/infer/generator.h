#pragma once
// One device's part of generating text: the prompt goes round the ring once (prefill), then tokens are
// decoded one by one over the sharded cache. Every device holds all weights and ends each call with the same
// logits. With segments, on one device, the prompt goes segment by segment, and its keys and values are a
// PromptCache's, which may be on the disk.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "rondo/attention/decode.h"
#include "rondo/infer/kv_cache.h"
#include "rondo/infer/prompt_cache.h"
#include "rondo/model/transformer.h"

namespace rondo {

struct GeneratorOptions {
  std::int64_t capacity = 16384;  ///< tokens of prompt and answer together
  Layout layout = Layout::zigzag;
  TransformerOptions model;
};

class Generator {
 public:
  /// `weights` is a flat buffer of table.total() elements in options.model.dtype; all outlive the generator.
  Generator(Context& context, Communicator& communicator, const ModelConfig& config,
            const ParameterTable& table, const void* weights, const GeneratorOptions& options);

  /// Reads a prompt of any length up to the capacity; once, first. Collective. Returns the logits [V] of its
  /// successor.
  std::span<const float> prefill(std::span<const std::int32_t> prompt);
  /// Appends one token and returns the logits of its successor. Collective.
  std::span<const float> decode(std::int32_t token);
  /// Tokens of prompt and answer so far.
  std::int64_t tokens() const { return (prompt_ ? prompt_->tokens() : 0) + (cache_ ? cache_->tokens() : 0); }

 private:
  std::span<const float> logits_of(const ConstTensor& x_1C);
  void decode_layer(std::int64_t layer, const Tensor& x_1C, bool owns);
  void attend(std::int64_t layer, const ConstTensor& q_1HD, const Tensor& out_1HD);
  bool segmented() const { return options_.model.segment_tokens > 0; }
  /// Makes room for a prompt, and enters it.
  void enter_prompt(const SequencePlan& plan);

  Context* context_;
  Communicator* communicator_;
  const ModelConfig* config_;
  const ParameterTable* table_;
  const void* weights_;
  GeneratorOptions options_;
  Transformer model_;
  LayerScratch scratch_;
  std::optional<PromptCache> prompt_;  ///< with segments
  std::optional<KvCache> cache_;       ///< of all tokens; with segments of the answer's, from prefill on
  DecodeAttention attention_;
  Buffer x_, q_, k_, v_, out_, logits_;
  std::vector<float> cos_, sin_;
  std::vector<Tile> tiles_;
};

}  // namespace rondo
