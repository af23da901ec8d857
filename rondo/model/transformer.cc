#include "rondo/model/transformer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "rondo/model/activations.h"
#include "rondo/model/rotary.h"
#include "rondo/model/segmented.h"

namespace rondo {

const char* name_of(Remat remat) {
  return remat == Remat::layer ? "layer" : remat == Remat::attention ? "attention" : "none";
}

Remat parse_remat(std::string_view name) {
  for (const Remat remat : {Remat::layer, Remat::attention, Remat::none})
    if (name == name_of(remat)) return remat;
  argument_error("remat", "expected layer, attention or none, got '{}'", name);
}

Mask mask_of(const ModelConfig& config) {
  return {.causal = true, .window = config.sliding_window, .first_k = config.first_k};
}

Transformer::Transformer(Context& context, Communicator& communicator, const ModelConfig& config,
                         const ParameterTable& table, const TransformerOptions& options)
    : context_(&context),
      communicator_(&communicator),
      config_(&config),
      table_(&table),
      buckets_(table.buckets()),
      options_(options),
      scratch_(context, config, options.dtype,
               // The whole share's extent is known when it is planned.
               options.feed_forward == FeedForwardForm::whole
                   ? std::min<std::int64_t>(1, options.block_tokens)
                   : options.block_tokens),
      packed_(context),
      head_(context, config, packed_, options.dtype, options.block_tokens),
      ring_(context, communicator,
            {.q_heads = config.q_heads,
             .kv_heads = config.kv_heads,
             .qk_dim = config.head_dim,
             .v_dim = config.head_dim,
             .dtype = options.dtype},
            options.exchange),
      activations_(std::make_unique<Activations>(context, config, options)) {
  check_forms();
  check_argument(options.work == nullptr || options.segment_tokens > 0, "transformer",
                 "expected segments of tokens for kept work, got none");
  if (options.segment_tokens > 0) segmented_ = std::make_unique<Segmented>(*this, options);
}

Transformer::~Transformer() = default;

void Transformer::prepare(const SequencePlan& plan, bool training) {
  if (training) {
    scratch_.reserve_backward();
    head_.reserve_backward();
  }
  if (segmented_) {
    whole_schedule_ = make_schedule(plan, mask_of(*config_), communicator_->device());
    activations_->resize_tokens(plan.tokens);
    shard_places(plan, communicator_->device(), activations_->places());
    return segmented_->prepare(plan, whole_schedule_, training);
  }
  if (is_vanilla()) {
    prepare_vanilla(plan, training);
    activations_->resize(plan.tokens, plan.tokens, training);
  } else {
    ring_.prepare(plan, mask_of(*config_));
    activations_->resize(ring_.tokens(), ring_.max_shard_tokens(), training);
  }
  if (options_.feed_forward == FeedForwardForm::whole)
    scratch_.resize(tokens(), activations_->keeps_all() ? LayerScratch::Products::elsewhere
                                                        : LayerScratch::Products::here);
  shard_places(plan, communicator_->device(), activations_->places());
  fill_rotary();
}

void Transformer::fill_rotary() {
  const RotaryFrequencies frequencies = rotary_frequencies(*config_);
  const std::int64_t pairs = config_->head_dim / 2;
  std::array<std::int64_t, 1024> positions;  // a part at a time: no second list of all tokens
  const std::span<const TokenPlace> all = places();
  for (std::size_t begin = 0; begin < all.size(); begin += positions.size()) {
    const std::size_t count = std::min(positions.size(), all.size() - begin);
    for (std::size_t n = 0; n < count; ++n) positions[n] = all[begin + n].position;
    const std::int64_t first = static_cast<std::int64_t>(begin) * pairs;
    fill_rotary_tables(frequencies, std::span(positions).first(count), activations_->cos.as<float>() + first,
                       activations_->sin.as<float>() + first);
  }
}

std::span<const TokenPlace> Transformer::places() const { return activations_->places(); }
std::int64_t Transformer::tokens() const { return activations_->tokens(); }
Transformer::TokenMemory Transformer::token_memory() const { return activations_->token_memory(); }

LayerPass Transformer::pass(const WeightReader& weights, std::int64_t layer, std::size_t next) {
  const std::size_t bucket = bucket_of(layer);
  return {*context_, *config_,
          scratch_,  layer_view(*table_, weights.get(bucket, buckets_[bucket], next), options_.dtype, layer),
          {},        &packed_};
}

kernels::Rotary Transformer::rotary() const {
  return {.cos_TP = activations_->cos.as<float>(),
          .sin_TP = activations_->sin.as<float>(),
          .pairs = config_->head_dim / 2,
          .layout = kernels::RotaryPairs::halves};
}

kernels::AttentionParams Transformer::attention_params(std::int64_t layer, const Step* training) const {
  kernels::AttentionParams params{.scale = 1 / std::sqrt(static_cast<float>(config_->head_dim)),
                                  .softcap = config_->attention_softcap,
                                  .dropout = {}};
  if (training != nullptr && config_->attention_dropout > 0) {
    params.dropout = {.probability = config_->attention_dropout,
                      .key = dropout_key(training->dropout_seed, training->optimizer_step,
                                         static_cast<std::uint64_t>(layer))};
  }
  return params;
}

LossHead::Weights Transformer::head_weights(const WeightReader& weights) const {
  const std::size_t bucket = head_bucket();
  const auto of = [&](const ParameterInfo& info, std::size_t place, std::size_t next) {
    return parameter_view(info, weights.get(place, buckets_[place], next), options_.dtype);
  };
  // After the head backward comes to the last layer, and another forward pass to the embedding.
  const ConstTensor final_norm = of(table_->final_norm(), bucket, table_->tied() ? 0 : bucket - 1);
  return {final_norm, of(table_->lm_head(), table_->tied() ? 0 : bucket, bucket - 1)};
}

void Transformer::check_ids(std::span<const std::int32_t> ids) const {
  check_argument(static_cast<std::int64_t>(ids.size()) == tokens(), "transformer",
                 "expected {} ids, this device's share, got {}", tokens(), ids.size());
}

DeviceTrace::Span Transformer::span(std::int64_t layer, const char* part) const {
  const bool recording = context_->trace.enabled();
  return {context_->trace, "compute", recording ? fmt::format("layer {}: {}", layer, part) : ""};
}

void Transformer::run_attention(std::int64_t layer, const Step* training, bool keys_are_read_again) {
  if (is_vanilla()) return vanilla_forward(layer);
  const Projections qkv = activations_->projections(layer);
  const std::string label = fmt::format("layer {}", layer);
  ring_.forward({.q_THD = qkv.q_THD,
                 .k_TGD = qkv.k_TGD,
                 .v_TGE = qkv.v_TGD,
                 .out_THE = activations_->out(layer),
                 .lse_HT = activations_->lse(layer),
                 .params = attention_params(layer, training),
                 .lent = keys_are_read_again ? activations_->lent() : KeyValues{},
                 .spare = keys_are_read_again ? KeyValues{} : activations_->key_value_memory(layer),
                 .label = label});
}

void Transformer::layer_forward(std::int64_t layer, const LayerPass& pass, const Step* training,
                                const KeyValueSink* sink) {
  const Tensor x = activations_->x(layer), y = activations_->x(layer + 1);
  const Projections qkv = activations_->projections(layer);
  {
    const auto traced = span(layer, "projections");
    project_forward(pass, x, rotary(), qkv);
  }
  if (sink != nullptr) (*sink)(layer, 0, qkv.k_TGD, qkv.v_TGD);
  const bool keeps_keys = training != nullptr && options_.remat == Remat::none;
  run_attention(layer, training, keeps_keys);
  const auto traced = span(layer, "feed-forward");
  attention_output_forward(pass, x, activations_->out(layer), y);
  if (training != nullptr && options_.remat == Remat::none)
    kernels::copy(context_->stream, y, activations_->mid(layer));
  feed_forward_forward(pass, y, activations_->kept_feed_forward(layer));
}

void Transformer::layer_backward(std::int64_t layer, const LayerPass& pass, const Step& training) {
  const Tensor x = activations_->x(layer), mid = activations_->mid(layer), out = activations_->out(layer);
  const Tensor dx = activations_->dx();
  if (options_.remat != Remat::none) project_forward(pass, x, rotary(), activations_->projections(layer));
  if (options_.remat == Remat::layer) run_attention(layer, &training, true);
  if (options_.remat != Remat::none) attention_output_forward(pass, x, out, mid);

  {
    const auto traced = span(layer, "feed-forward backward");
    feed_forward_backward(pass, mid, activations_->kept_feed_forward(layer), dx);
    attention_output_backward(pass, out, dx, activations_->dout());
  }
  run_attention_backward(layer, training);
  const auto traced = span(layer, "projections backward");
  project_backward(pass, x, rotary(), activations_->gradients(), dx);
}

void Transformer::run_attention_backward(std::int64_t layer, const Step& training) {
  if (is_vanilla()) return vanilla_backward(layer);
  const Projections qkv = activations_->projections(layer), gradients = activations_->gradients();
  const std::string label = fmt::format("layer {}", layer);
  ring_.backward({.q_THD = qkv.q_THD,
                  .k_TGD = qkv.k_TGD,
                  .v_TGE = qkv.v_TGD,
                  .out_THE = activations_->out(layer),
                  .dout_THE = activations_->dout(),
                  .lse_HT = activations_->lse(layer),
                  .params = attention_params(layer, &training),
                  .dq_THD = gradients.q_THD,
                  .dk_TGD = gradients.k_TGD,
                  .dv_TGE = gradients.v_TGD,
                  .spare = activations_->key_value_memory(layer),
                  .idle = activations_->idle(layer),
                  .label = label});
}

void Transformer::layers_forward(const WeightReader& weights, std::span<const std::int32_t> ids,
                                 const Step* training, const KeyValueSink* sink) {
  check_ids(ids);
  const ConstTensor embedding =
      parameter_view(table_->embedding(), weights.get(0, buckets_[0], 1), options_.dtype);
  kernels::embedding_forward(context_->stream, ids, embedding, activations_->x(0));
  for (std::int64_t layer = 0; layer < config_->layers; ++layer)
    layer_forward(layer, pass(weights, layer, bucket_of(layer) + 1), training, sink);
}

LossHead::Gradients Transformer::head_gradients(const GradientWriter& gradients) const {
  const std::size_t bucket = head_bucket(), head = table_->tied() ? 0 : bucket;
  const auto of = [&](const ParameterInfo& info, std::size_t place) {
    return parameter_view(info, gradients.get(place, buckets_[place]), DType::f32);
  };
  return {of(table_->final_norm(), bucket), of(table_->lm_head(), head)};
}

double Transformer::head_forward_backward(const Step& step) {
  const double loss = head_.forward_backward(
      head_weights(step.weights), head_gradients(step.gradients), activations_->x(config_->layers),
      {.labels = step.labels, .gradient_scale = step.gradient_scale, .dx_TC = activations_->dx()});
  step.gradients.done(head_bucket());
  return loss;
}

LayerPass Transformer::backward_pass(const Step& step, std::int64_t layer) {
  const std::size_t bucket = bucket_of(layer);
  // Nothing reads the embedding's weights again: the first layer's hint is itself.
  LayerPass work = pass(step.weights, layer, std::max<std::size_t>(1, bucket - 1));
  work.gradients = layer_view(*table_, step.gradients.get(bucket, buckets_[bucket]), DType::f32, layer);
  return work;
}

double Transformer::forward_backward(const Step& step) {
  check_ids(step.ids);
  check_ids(step.labels);
  if (segmented_) return segmented_->forward_backward(step);
  layers_forward(step.weights, step.ids, &step, nullptr);
  const double loss = head_forward_backward(step);
  for (std::int64_t layer = config_->layers - 1; layer >= 0; --layer) {
    layer_backward(layer, backward_pass(step, layer), step);
    step.gradients.done(bucket_of(layer));
  }
  const Tensor embedding =
      parameter_view(table_->embedding(), step.gradients.get(0, buckets_[0]), DType::f32);
  kernels::embedding_backward(context_->stream, step.ids, activations_->dx(), embedding);
  step.gradients.done(0);
  return loss;
}

ConstTensor Transformer::hidden(const WeightReader& weights, std::span<const std::int32_t> ids,
                                const KeyValueSink& sink) {
  if (segmented_) {
    check_ids(ids);
    return segmented_->hidden(weights, ids, sink);
  }
  layers_forward(weights, ids, nullptr, sink ? &sink : nullptr);
  return activations_->x(config_->layers);
}

bool Transformer::losses(const WeightReader& weights, std::span<const std::int32_t> ids,
                         std::span<const std::int32_t> labels, std::span<float> losses,
                         const PassWatch& watch) {
  check_ids(ids);
  check_ids(labels);
  if (segmented_) return segmented_->losses(weights, {ids, labels, losses}, watch);
  const ConstTensor x = hidden(weights, ids, {});
  head_.forward(head_weights(weights), x, labels, losses);
  return true;
}

}  // namespace rondo
