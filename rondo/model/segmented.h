#pragma once
// Passes of one device over a sequence that is worked on segment by segment, so that little more than one of
// them has to be in memory at a time: layer inputs, queries, keys and values, attention outputs and
// gradients are kept in SegmentStores, which may be on the disk (docs/memory.md, "Out of core").
//
// Legend: T tokens of a segment, C width, H query heads, G key/value heads, D head size.

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "rondo/io/kept_work.h"
#include "rondo/model/segment_store.h"
#include "rondo/model/transformer.h"

namespace rondo {

/// The mathematics is that of Transformer's passes, cut at the bounds of segments: bits depend on the cut,
/// not on where the segments are. A causal mask lets backward go from the last segment to the first: when a
/// segment's queries are done, nothing adds to its keys' and values' gradients any more.
class Transformer::Segmented {
 public:
  /// All outlive it.
  Segmented(Transformer& model, const TransformerOptions& options);

  void prepare(const SequencePlan& plan, const Schedule& schedule, bool training);
  double forward_backward(const Step& step);
  /// What a pass reads and writes of each token.
  struct Tokens {
    std::span<const std::int32_t> ids, labels;
    std::span<float> losses;
  };
  bool losses(const WeightReader& weights, const Tokens& tokens, const PassWatch& watch);
  ConstTensor hidden(const WeightReader& weights, std::span<const std::int32_t> ids,
                     const KeyValueSink& sink);

 private:
  using Store = std::unique_ptr<SegmentStore>;

  std::int64_t segments() const { return (tokens_ + segment_ - 1) / segment_; }
  Range range(std::int64_t segment) const {
    return {segment * segment_, std::min(tokens_, (segment + 1) * segment_)};
  }
  std::int64_t count(std::int64_t segment) const { return range(segment).size(); }
  template <class T>
  std::span<T> part(std::span<T> all, std::int64_t segment) const {
    return all.subspan(static_cast<std::size_t>(range(segment).begin),
                       static_cast<std::size_t>(count(segment)));
  }
  void allocate(bool training);
  void fill_rotary(std::span<const TokenPlace> places);

  // Views of a segment's memory.
  template <class Byte>
  auto rows(Byte* memory, std::int64_t segment, std::int64_t heads, std::int64_t dim, DType dtype) const {
    using Void = std::conditional_t<std::is_const_v<Byte>, const void, void>;
    return view(static_cast<Void*>(memory), dtype, count(segment), heads, dim);
  }
  KeyValues key_values(std::byte* memory, std::int64_t segment, DType dtype) const;
  ConstKeyValues key_values(const std::byte* memory, std::int64_t segment) const;
  kernels::Rotary rotary(std::int64_t segment, std::int64_t ahead);

  void embed(const WeightReader& weights, std::span<const std::int32_t> ids);
  void layers_forward(const WeightReader& weights, const Step* training, const KeyValueSink& sink = {});
  /// The layer's projections of a segment: queries into memory, keys and values, which it returns, into their
  /// store.
  KeyValues project(const LayerPass& pass, const ConstTensor& x_TC, const Tensor& q_THD,
                    std::int64_t segment);
  /// Where a layer's input is; of layer `layers` the last output. Kept work has two that take turns, so that
  /// a layer can be begun again anywhere; other passes without training have one.
  std::size_t input_of(std::int64_t layer, const Step* training) const;
  std::int64_t after(std::int64_t segment) const { return segment + 1 < segments() ? segment + 1 : -1; }
  void attend(std::int64_t layer, std::int64_t segment, const Step* training, const Tensor& out_THD,
              float* lse_HT);
  void forward_segment(std::int64_t layer, const LayerPass& pass, std::int64_t segment, const Step* training,
                       const KeyValueSink& sink);

  // Losses. Their parts in order: each segment of each layer, then each segment's loss.
  std::int64_t parts() const { return (model_.config_->layers + 1) * segments(); }
  void count_operations();
  /// Of the pass, when so many parts are done.
  double share_done(std::int64_t parts) const;
  void head_forward(const LossHead::Weights& weights, const Tokens& tokens, std::int64_t segment);
  /// Stores whose files another process goes on with.
  struct KeptStore {
    std::string name;
    SegmentStore* store;
  };
  std::vector<KeptStore> kept_stores();
  /// Parts that are done by the journal; their losses are there again.
  std::int64_t resume(const Tokens& tokens);
  /// So many parts are done: commits when it is time to. Whether the pass goes on.
  bool ended(std::int64_t parts, const PassWatch& watch);
  void commit(std::int64_t parts);

  double head_forward_backward(const Step& step);
  void layer_backward(std::int64_t layer, const LayerPass& pass, const Step& step);
  void backward_segment(std::int64_t layer, const LayerPass& pass, std::int64_t segment, const Step& step);
  /// Gradients of this segment's queries, of which delta is made, and its shares of those of all keys and
  /// values that it sees. Returns those of its own, complete.
  KeyValues attention_backward(std::int64_t layer, std::int64_t segment, const Step& step,
                               const ConstTensor& q_THD, const float* lse_HT);
  /// Blocks of keys and values that a segment's queries see, ascending.
  std::vector<std::int64_t> blocks_of(std::int64_t segment) const;

  Transformer& model_;
  TransformerOptions options_;
  std::unique_ptr<SpillDisk> disk_;
  std::int64_t segment_, tokens_ = 0, capacity_ = 0;
  bool training_ = false;
  std::vector<std::vector<Tile>> tiles_;  ///< of each segment's queries on all keys
  std::vector<bool> summed_;              ///< segments whose key and value gradients have begun
  std::vector<Store> x_, kept_;           ///< layer inputs and the last output; attention output and lse
  Store losses_;                          ///< with kept work: of its segments, float32
  std::vector<double> operations_;        ///< of the segments up to each one, in one layer; the head's last
  Store rotary_, keys_values_, queries_, dx_, gradients_;
  Buffer q_, out_, state_, mid_, dout_, dq_, delta_;
};

}  // namespace rondo
