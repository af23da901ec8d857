// Attention of one device whose scores are all in memory (AttentionForm::vanilla): no ring, no state, no lse.

#include <algorithm>
#include <cmath>

#include "rondo/model/activations.h"

namespace rondo {

namespace {

/// The schedule's tiles of one device, those on the global block with keys where its tokens are.
std::vector<Tile> tiles_of_one_device(const Schedule& schedule) {
  std::vector<Tile> tiles;
  for (const Step& step : schedule.steps)
    for (Tile tile : step.tiles) {
      if (step.kv.is_global()) {
        // A tile's keys are of one document, side by side here as in the sequence.
        const std::int64_t first = schedule.global_tokens[static_cast<std::size_t>(tile.k.begin)];
        tile.k = {first, first + tile.k.size()};
      }
      tiles.push_back(tile);
    }
  return tiles;
}

}  // namespace

void Transformer::check_forms() const {
  constexpr const char* op = "transformer";
  if (options_.segment_tokens > 0)
    check_argument(options_.feed_forward == FeedForwardForm::blockwise, op,
                   "expected --feedforward blockwise for segments and --spill, got {}",
                   name_of(options_.feed_forward));
  if (options_.attention == AttentionForm::blockwise) return;
  check_argument(
      communicator_->devices() == 1, op,
      "expected one device for --attention vanilla, got a ring of {}; use --attention blockwise, or "
      "--data-parallel {} for rings of one",
      communicator_->devices(), communicator_->devices());
  check_argument(
      options_.segment_tokens == 0, op,
      "expected the whole sequence at once for --attention vanilla, got segments of {} tokens; use "
      "--attention blockwise for --segment-tokens and --spill",
      options_.segment_tokens);
  check_argument(
      config_->attention_softcap == 0, op,
      "expected a model without a soft-cap for --attention vanilla, got {}; use --attention blockwise",
      config_->attention_softcap);
}

void Transformer::prepare_vanilla(const SequencePlan& plan, bool training) {
  constexpr const char* op = "transformer";
  check_argument(
      !training || config_->attention_dropout == 0, op,
      "expected training without dropout for --attention vanilla, got {}; use --attention blockwise",
      config_->attention_dropout);
  const double scores =
      4 * static_cast<double>(config_->q_heads) * std::pow(static_cast<double>(plan.tokens), 2);
  check_argument(scores < 0x1p62, op,
                 "expected a context whose scores can be counted for --attention vanilla, got {} tokens; use "
                 "--attention blockwise",
                 plan.tokens);
  whole_schedule_ = make_schedule(plan, mask_of(*config_), communicator_->device());
  whole_tiles_ = tiles_of_one_device(whole_schedule_);
}

void Transformer::vanilla_probabilities(std::int64_t layer) {
  const Projections qkv = activations_->projections(layer);
  kernels::attention_probabilities(context_->stream, {.q_THD = qkv.q_THD,
                                                      .k_SGD = qkv.k_TGD,
                                                      .tiles = whole_tiles_,
                                                      .params = attention_params(layer, nullptr),
                                                      .p_HTS = activations_->probabilities(layer)});
}

void Transformer::vanilla_forward(std::int64_t layer) {
  const auto traced = span(layer, "attention");
  vanilla_probabilities(layer);
  kernels::attention_vanilla_output(context_->stream, activations_->probabilities(layer),
                                    activations_->projections(layer).v_TGD, activations_->out(layer),
                                    activations_->widened());
}

void Transformer::vanilla_backward(std::int64_t layer) {
  const auto traced = span(layer, "attention backward");
  // With Remat::layer forward has just made them again, with Remat::none they were kept.
  if (options_.remat == Remat::attention) vanilla_probabilities(layer);
  const Projections qkv = activations_->projections(layer), gradients = activations_->gradients();
  for (const Tensor& gradient : {gradients.q_THD, gradients.k_TGD, gradients.v_TGD})
    kernels::fill_zero(context_->stream, gradient);
  kernels::attention_vanilla_backward(context_->stream, {.q_THD = qkv.q_THD,
                                                         .k_SGD = qkv.k_TGD,
                                                         .v_SGE = qkv.v_TGD,
                                                         .dout_THE = activations_->dout(),
                                                         .tiles = whole_tiles_,
                                                         .params = attention_params(layer, nullptr),
                                                         .p_HTS = activations_->probabilities(layer),
                                                         .ds_HTS = activations_->dscores(),
                                                         .widened = activations_->widened(),
                                                         .dq_THD = gradients.q_THD,
                                                         .dk_SGD = gradients.k_TGD,
                                                         .dv_SGE = gradients.v_TGD});
}

}  // namespace rondo
