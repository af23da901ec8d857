#pragma once
// One device's part of a decoder over a sequence that is cut over the ring: loss, its gradient, and per-token
// losses.
//
// Legend: T this device's tokens, C width, H query heads, G key/value heads, D head size.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "rondo/attention/ring_attention.h"
#include "rondo/io/file_system.h"
#include "rondo/model/config.h"
#include "rondo/model/forms.h"
#include "rondo/model/layer.h"
#include "rondo/model/loss_head.h"
#include "rondo/model/parameters.h"
#include "rondo/model/weights.h"

namespace rondo {

class KeptWork;

/// What is kept from forward to backward beside each layer's input. All give the same bits.
enum class Remat {
  layer,      ///< nothing: a layer is computed again, its ring forward included
  attention,  ///< attention output and lse: no second ring forward
  none,       ///< every matrix product's result: only norms and activation functions are computed again
};
const char* name_of(Remat remat);
Remat parse_remat(std::string_view name);

struct TransformerOptions {
  DType dtype = DType::f32;  ///< of activations and compute weights
  Remat remat = Remat::attention;
  Exchange exchange = Exchange::copy;
  AttentionForm attention = AttentionForm::blockwise;  ///< vanilla: of one device, all of its share at once
  FeedForwardForm feed_forward = FeedForwardForm::blockwise;  ///< whole: all of the share at once
  std::int64_t block_tokens = 512;                            ///< tokens of a feed-forward and loss block
  /// Tokens of the segments that a device works on one after the other, a multiple of kLeastSegmentStep; 0:
  /// its whole share at once, as rings need it. The cut decides the rounding.
  std::int64_t segment_tokens = 0;
  /// The folder in whose files segments are that are not worked on; empty: they are in memory.
  std::filesystem::path spill = {};
  FileSystem* spill_files = &system_files();  ///< by which it gets there
  /// Where losses() keeps what it has done, so that another process goes on with it: segments are in files of
  /// its folder, in place of `spill`. Outlives the model; null: nowhere.
  KeptWork* work = nullptr;
};
inline constexpr std::int64_t kLeastSegmentStep = 512;

class Transformer {
 public:
  /// All four outlive it. Allocates the block scratch. Throws ArgumentError for options that exclude each
  /// other.
  Transformer(Context& context, Communicator& communicator, const ModelConfig& config,
              const ParameterTable& table, const TransformerOptions& options);
  ~Transformer();

  /// Plans the passes that follow over a sequence of this plan; every device calls it. Allocates only when
  /// this device's share is larger than any before. `training` makes room for the backward pass.
  void prepare(const SequencePlan& plan, bool training);
  /// This device's tokens of the sequence, in local order: where to take ids and labels from.
  std::span<const TokenPlace> places() const;
  std::int64_t tokens() const;
  /// Memory for what a pass is told of each token and says of it, [T] each: for the caller to fill and to
  /// hand to the calls below, so that it stands in the ledger.
  struct TokenMemory {
    std::span<std::int32_t> ids, labels;
    std::span<float> losses;
  };
  TokenMemory token_memory() const;
  /// What this device does in each attention.
  const Schedule& schedule() const { return segmented_ || is_vanilla() ? whole_schedule_ : ring_.schedule(); }
  /// Of the ring that its sequences are cut over.
  int devices() const { return communicator_->devices(); }

  struct Step {
    WeightReader weights;
    GradientWriter gradients;
    std::span<const std::int32_t> ids;     ///< [T]
    std::span<const std::int32_t> labels;  ///< [T], each token's successor; kIgnoreLabel where there is none
    float gradient_scale = 1;              ///< 1 / scored tokens of the whole step over all devices
    std::uint64_t dropout_seed = 0, optimizer_step = 0;
  };
  /// Returns the sum of this device's losses in nats and adds the gradients of gradient_scale * (sum over
  /// devices), as far as this device's tokens make them: the caller sums them over the devices.
  double forward_backward(const Step& step);

  /// With segments: called after each with the share of the pass's operations that is done; false ends the
  /// pass.
  using PassWatch = std::function<bool(double share)>;
  /// Per-token losses in nats, nothing kept in memory. losses has T entries. Returns whether the pass came to
  /// its end. With kept work it begins where the journal's entry kPassEntry says, and commits now and then;
  /// the entry stays until the caller, who has the losses, erases it.
  bool losses(const WeightReader& weights, std::span<const std::int32_t> ids,
              std::span<const std::int32_t> labels, std::span<float> losses, const PassWatch& watch = {});
  static constexpr const char* kPassEntry = "pass";
  KeptWork* work() const { return options_.work; }

  /// Called with each layer's keys (rotated) and values of this device's tokens from `first` on: of all at
  /// once, or segment by segment.
  using KeyValueSink = std::function<void(std::int64_t layer, std::int64_t first, const ConstTensor& k_TGD,
                                          const ConstTensor& v_TGD)>;
  /// Forward through the layers; `sink` gets what decoding needs. Returns the last layer's output [T, C],
  /// with segments that of the last one's tokens; valid until the next call.
  ConstTensor hidden(const WeightReader& weights, std::span<const std::int32_t> ids,
                     const KeyValueSink& sink);
  LossHead& head() { return head_; }
  LossHead::Weights head_weights(const WeightReader& weights) const;

 private:
  struct Activations;
  class Segmented;

  void check_forms() const;
  bool is_vanilla() const { return options_.attention == AttentionForm::vanilla; }
  void fill_rotary();
  /// What the functions of a layer work with; `next` is the bucket that will be needed after it.
  LayerPass pass(const WeightReader& weights, std::int64_t layer, std::size_t next);
  /// The embedding of the tokens, then the layers up to the last one's output.
  void layers_forward(const WeightReader& weights, std::span<const std::int32_t> ids, const Step* training,
                      const KeyValueSink* sink);
  double head_forward_backward(const Step& step);
  LossHead::Gradients head_gradients(const GradientWriter& gradients) const;
  LayerPass backward_pass(const Step& step, std::int64_t layer);
  std::size_t bucket_of(std::int64_t layer) const { return static_cast<std::size_t>(layer) + 1; }
  std::size_t head_bucket() const { return buckets_.size() - 1; }
  kernels::AttentionParams attention_params(std::int64_t layer, const Step* training) const;
  kernels::Rotary rotary() const;
  void check_ids(std::span<const std::int32_t> ids) const;
  /// Records a part of a layer in the trace as long as it lives; attention records its own hops.
  DeviceTrace::Span span(std::int64_t layer, const char* part) const;
  /// Keys and values that nobody reads again become memory for those that arrive.
  void run_attention(std::int64_t layer, const Step* training, bool keys_are_read_again);
  /// Gradients of the layer's queries, keys and values.
  void run_attention_backward(std::int64_t layer, const Step& training);
  // In vanilla.cc: the attention of AttentionForm::vanilla.
  void prepare_vanilla(const SequencePlan& plan, bool training);
  void vanilla_probabilities(std::int64_t layer);
  void vanilla_forward(std::int64_t layer);
  void vanilla_backward(std::int64_t layer);
  void layer_forward(std::int64_t layer, const LayerPass& pass, const Step* training,
                     const KeyValueSink* sink);
  void layer_backward(std::int64_t layer, const LayerPass& pass, const Step& training);

  Context* context_;
  Communicator* communicator_;
  const ModelConfig* config_;
  const ParameterTable* table_;
  std::vector<Range> buckets_;
  TransformerOptions options_;
  LayerScratch scratch_;
  PackedWeights packed_;
  LossHead head_;
  RingAttention ring_;
  std::unique_ptr<Activations> activations_;
  std::unique_ptr<Segmented> segmented_;  ///< null: all of the share at once
  Schedule whole_schedule_;               ///< where the ring has none: with segments, and vanilla attention
  std::vector<Tile> whole_tiles_;         ///< of vanilla attention
};

/// The mask that a configuration asks for.
Mask mask_of(const ModelConfig& config);

}  // namespace rondo
