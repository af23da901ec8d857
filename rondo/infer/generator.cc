#include "rondo/infer/generator.h"

#include <array>
#include <cmath>

#include "rondo/model/rotary.h"

namespace rondo {

namespace {

AttentionShape shape_of(const ModelConfig& config, DType dtype) {
  return {.q_heads = config.q_heads,
          .kv_heads = config.kv_heads,
          .qk_dim = config.head_dim,
          .v_dim = config.head_dim,
          .dtype = dtype};
}

}  // namespace

Generator::Generator(Context& context, Communicator& communicator, const ModelConfig& config,
                     const ParameterTable& table, const void* weights, const GeneratorOptions& options)
    : context_(&context),
      communicator_(&communicator),
      config_(&config),
      table_(&table),
      weights_(weights),
      options_(options),
      model_(context, communicator, config, table, options.model),
      scratch_(context, config, options.model.dtype, 1),
      attention_(context, communicator, shape_of(config, options.model.dtype), 1),
      cos_(static_cast<std::size_t>(config.head_dim / 2)),
      sin_(static_cast<std::size_t>(config.head_dim / 2)) {
  if (!segmented())
    cache_.emplace(context, config, options.model.dtype, communicator.devices(), options.capacity);
  const auto allocate = [&](std::int64_t elements) {
    return context.arena.allocate(Entry::attention, elements * size_of(options.model.dtype), "token at work");
  };
  x_ = allocate(config.width);
  q_ = allocate(config.q_heads * config.head_dim);
  k_ = allocate(config.kv_heads * config.head_dim);
  v_ = allocate(config.kv_heads * config.head_dim);
  out_ = allocate(config.q_heads * config.head_dim);
  logits_ = context.arena.allocate(Entry::loss_block, config.vocabulary * 4, "logits of a token");
}

std::span<const float> Generator::logits_of(const ConstTensor& x_1C) {
  model_.head().logits(model_.head_weights(weights_), x_1C,
                       logits_.tensor(DType::f32, 1, 1, config_->vocabulary));
  return {logits_.as<float>(), static_cast<std::size_t>(config_->vocabulary)};
}

void Generator::enter_prompt(const SequencePlan& plan) {
  if (!segmented()) return cache_->enter_prompt(plan);
  check_argument(plan.tokens <= options_.capacity, "generate",
                 "expected a prompt of at most {} tokens, got {}", options_.capacity, plan.tokens);
  const TransformerOptions& model = options_.model;
  cache_.emplace(*context_, *config_, model.dtype, 1,
                 std::max<std::int64_t>(1, options_.capacity - plan.tokens));
  prompt_.emplace(*context_, *config_,
                  PromptCacheOptions{.dtype = model.dtype,
                                     .tokens = plan.tokens,
                                     .block_tokens = model.segment_tokens,
                                     .spill = model.spill});
}

std::span<const float> Generator::prefill(std::span<const std::int32_t> prompt) {
  check_argument(tokens() == 0, "generate", "expected prefill() once and first, got {} tokens before it",
                 tokens());
  check_argument(!prompt.empty(), "generate", "expected a prompt of at least 1 token, got none");
  const SequencePlan plan{.tokens = static_cast<std::int64_t>(prompt.size()),
                          .devices = communicator_->devices(),
                          .layout = options_.layout,
                          .document_starts = {},
                          .weights = {}};
  enter_prompt(plan);
  model_.prepare(plan, false);
  std::vector<std::int32_t> ids;
  std::int64_t last = -1;  // local index of the prompt's last token, where it is here
  for (const TokenPlace& place : model_.places()) {
    if (place.global == plan.tokens - 1) last = static_cast<std::int64_t>(ids.size());
    ids.push_back(prompt[static_cast<std::size_t>(place.global)]);
  }
  const auto keep = [this](std::int64_t layer, std::int64_t first, const ConstTensor& k,
                           const ConstTensor& v) {
    prompt_ ? prompt_->store(layer, first, k, v) : cache_->store_prompt(layer, k, v);
  };
  const ConstTensor x_TC = model_.hidden(weights_, ids, keep);
  if (segmented()) last = x_TC.tokens - 1;  // what there is is the last segment's output
  if (last >= 0) logits_of(x_TC.slice({last, last + 1}));
  // The owner follows from the plan, so that no device needs to be told.
  int owner = 0;
  for (int device = 0; device < plan.devices; ++device)
    for (const Piece& piece : make_pieces(plan, device))
      if (piece.count > 0 && piece.base + piece.stride * (piece.count - 1) == plan.tokens - 1) owner = device;
  const auto bytes = static_cast<std::size_t>(config_->vocabulary * 4);
  communicator_->broadcast(owner, {logits_.as<std::byte>(), bytes});
  return {logits_.as<float>(), static_cast<std::size_t>(config_->vocabulary)};
}

void Generator::attend(std::int64_t layer, const ConstTensor& q_1HD, const Tensor& out_1HD) {
  const kernels::AttentionParams params{.scale = 1 / std::sqrt(static_cast<float>(config_->head_dim)),
                                        .softcap = config_->attention_softcap,
                                        .dropout = {}};
  if (prompt_)
    return prompt_->attend(layer, {.position = tokens() - 1,
                                   .q_1HD = q_1HD,
                                   .later_k_SGD = cache_->keys(layer),
                                   .later_v_SGD = cache_->values(layer),
                                   .later_tiles = tiles_,
                                   .params = params,
                                   .out_1HD = out_1HD});
  attention_({.q_THD = q_1HD,
              .k_SGD = cache_->keys(layer),
              .v_SGE = cache_->values(layer),
              .tiles = tiles_,
              .params = params,
              .out_THE = out_1HD});
}

void Generator::decode_layer(std::int64_t layer, const Tensor& x_1C, bool owns) {
  const DType dtype = options_.model.dtype;
  const LayerPass pass{
      *context_, *config_, scratch_, layer_view(*table_, Placed<const void*>{weights_}, dtype, layer), {}};
  const kernels::Rotary rotary{.cos_TP = cos_.data(), .sin_TP = sin_.data(), .pairs = config_->head_dim / 2};
  const Projections qkv{q_.tensor(dtype, 1, config_->q_heads, config_->head_dim),
                        k_.tensor(dtype, 1, config_->kv_heads, config_->head_dim),
                        v_.tensor(dtype, 1, config_->kv_heads, config_->head_dim)};
  const Tensor out = out_.tensor(dtype, 1, config_->q_heads, config_->head_dim);
  project_forward(pass, x_1C, rotary, qkv);
  if (owns) cache_->store_appended(layer, qkv.k_TGD, qkv.v_TGD);
  attend(layer, qkv.q_THD, out);
  attention_output_forward(pass, x_1C, out, x_1C);
  feed_forward_forward(pass, x_1C, {});
}

std::span<const float> Generator::decode(std::int32_t token) {
  const std::int64_t position = tokens();
  check_argument(position > 0, "generate", "expected prefill() before decode(), got none");
  check_argument(position < options_.capacity, "generate",
                 "expected at most {} tokens, got one more; reserve more with --ctx-size", options_.capacity);
  const Tensor x = x_.tensor(options_.model.dtype, 1, 1, config_->width);
  // Before the append: a token that the model does not have must leave nothing behind.
  kernels::embedding_forward(context_->stream, std::span(&token, 1),
                             outer_view(*table_, weights_, options_.model.dtype).embedding, x);
  const bool owns = cache_->append() == context_->device;
  // Behind a prompt of its own the cache counts from the answer's first token.
  tiles_ = cache_->visible_tiles(position - (prompt_ ? prompt_->tokens() : 0), mask_of(*config_));
  fill_rotary_tables(*config_, std::span(&position, 1), cos_.data(), sin_.data());
  for (std::int64_t layer = 0; layer < config_->layers; ++layer) decode_layer(layer, x, owns);
  return logits_of(x);
}

}  // namespace rondo
