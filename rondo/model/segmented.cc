#include "rondo/model/segmented.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "rondo/model/rotary.h"

namespace rondo {

namespace {

std::int64_t aligned(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

Transformer::Segmented::Segmented(Transformer& model, const TransformerOptions& options)
    : model_(model), options_(options), segment_(options.segment_tokens) {
  constexpr const char* op = "segments";
  check_argument(
      model.communicator_->devices() == 1, op,
      "expected one device for segments and --spill, got a ring of {}; use --data-parallel for more",
      model.communicator_->devices());
  check_argument(segment_ > 0 && segment_ % kLeastSegmentStep == 0, op,
                 "expected --segment-tokens that are a multiple of {}, got {}", kLeastSegmentStep, segment_);
  check_argument(options.remat == Remat::attention, op,
                 "expected --remat attention for segments and --spill, got {}", name_of(options.remat));
  check_argument(model.config_->first_k == 0, op,
                 "expected no first tokens that all see (first_k) for segments and --spill, got {}",
                 model.config_->first_k);
  if (options.work != nullptr)
    disk_ = std::make_unique<SpillDisk>(options.work->folder(), options.work->files());
  else if (!options.spill.empty())
    disk_ = std::make_unique<SpillDisk>(options.spill, *options.spill_files);
}

void Transformer::Segmented::prepare(const SequencePlan& plan, const Schedule& schedule, bool training) {
  tokens_ = plan.tokens;
  const std::span<const TokenPlace> places = model_.places();
  if (tokens_ > capacity_ || (training && !training_)) {
    capacity_ = std::max(capacity_, tokens_);
    training_ = training_ || training;
    allocate(training_);
  }
  tiles_.clear();
  const std::vector<Tile> none;
  for (std::int64_t segment = 0; segment < segments(); ++segment)
    tiles_.push_back(
        tiles_on_queries(schedule.steps.empty() ? none : schedule.steps.front().tiles, range(segment)));
  count_operations();
  fill_rotary(places);
}

void Transformer::Segmented::allocate(bool training) {
  const ModelConfig& c = *model_.config_;
  const std::int64_t e = size_of(options_.dtype), m = std::min(segment_, capacity_),
                     all = (capacity_ + segment_ - 1) / segment_, q_row = c.q_heads * c.head_dim,
                     kv_row = c.kv_heads * c.head_dim;
  const bool keeps = options_.work != nullptr && !training;
  const auto store = [&](Store& place, Entry entry, std::int64_t bytes, const char* what,
                         const std::string& kept = {}) {
    place.reset();
    place = std::make_unique<SegmentStore>(
        *model_.context_, disk_.get(),
        SegmentStoreOptions{.entry = entry,
                            .segment_bytes = bytes,
                            .segments = all,
                            .what = what,
                            .name = keeps && !kept.empty() ? KeptWork::blocks_name(kept) : ""});
  };
  const auto memory = [&](Buffer& place, std::int64_t bytes, const char* what) {
    place = Buffer();
    place = model_.context_->arena.allocate(Entry::attention, bytes, what);
  };
  x_.resize(training ? static_cast<std::size_t>(c.layers + 1) : keeps ? 2 : 1);
  for (std::size_t n = 0; n < x_.size(); ++n)
    store(x_[n], Entry::layer_inputs, m * c.width * e, "layer inputs", fmt::format("layer-inputs-{}", n));
  if (keeps) store(losses_, Entry::data, m * 4, "losses", "losses");
  store(rotary_, Entry::data, m * c.head_dim * 4, "rotary tables");
  store(keys_values_, Entry::attention, 2 * m * kv_row * e, "keys and values", "keys-and-values");
  memory(q_, m * q_row * e, "queries");
  memory(state_, kernels::attention_state_elements(m, c.q_heads, c.head_dim) * 4, "attention state");
  if (!training) return memory(out_, m * q_row * e, "attention output");
  kept_.resize(static_cast<std::size_t>(c.layers));
  for (Store& kept : kept_)
    store(kept, Entry::kept, aligned(m * q_row * e) + m * c.q_heads * 4, "attention outputs");
  store(queries_, Entry::attention, m * q_row * e, "queries");
  store(dx_, Entry::attention, m * c.width * 4, "gradients of the residual");
  store(gradients_, Entry::attention, 2 * m * kv_row * 4, "gradients of keys and values");
  memory(out_, m * q_row * e, "attention output");
  memory(mid_, m * c.width * e, "residual before feed-forward");
  memory(dout_, m * q_row * e, "gradient of the attention output");
  memory(dq_, m * q_row * 4, "gradient of queries");
  memory(delta_, m * c.q_heads * 4, "delta");
}

void Transformer::Segmented::fill_rotary(std::span<const TokenPlace> places) {
  const RotaryFrequencies frequencies = rotary_frequencies(*model_.config_);
  const std::int64_t pairs = model_.config_->head_dim / 2;
  std::vector<std::int64_t> positions;
  for (std::int64_t segment = 0; segment < segments(); ++segment) {
    positions.clear();
    for (const TokenPlace& place : part(places, segment)) positions.push_back(place.position);
    auto* tables = reinterpret_cast<float*>(rotary_->write(segment));
    fill_rotary_tables(frequencies, positions, tables, tables + count(segment) * pairs);
    rotary_->written(segment);
  }
}

KeyValues Transformer::Segmented::key_values(std::byte* memory, std::int64_t segment, DType dtype) const {
  const ModelConfig& c = *model_.config_;
  const std::int64_t k_bytes = count(segment) * c.kv_heads * c.head_dim * size_of(dtype);
  return {rows(memory, segment, c.kv_heads, c.head_dim, dtype),
          rows(memory + k_bytes, segment, c.kv_heads, c.head_dim, dtype)};
}

ConstKeyValues Transformer::Segmented::key_values(const std::byte* memory, std::int64_t segment) const {
  const ModelConfig& c = *model_.config_;
  const std::int64_t k_bytes = count(segment) * c.kv_heads * c.head_dim * size_of(options_.dtype);
  return {rows(memory, segment, c.kv_heads, c.head_dim, options_.dtype),
          rows(memory + k_bytes, segment, c.kv_heads, c.head_dim, options_.dtype)};
}

kernels::Rotary Transformer::Segmented::rotary(std::int64_t segment, std::int64_t ahead) {
  const std::int64_t pairs = model_.config_->head_dim / 2;
  const auto* tables = reinterpret_cast<const float*>(rotary_->read(segment, ahead));
  return {.cos_TP = tables,
          .sin_TP = tables + count(segment) * pairs,
          .pairs = pairs,
          .layout = kernels::RotaryPairs::halves};
}

std::vector<std::int64_t> Transformer::Segmented::blocks_of(std::int64_t segment) const {
  std::vector<std::int64_t> blocks;
  for (std::int64_t block = 0; block <= segment; ++block)
    if (!tiles_on_keys(tiles_[static_cast<std::size_t>(segment)], range(block)).empty())
      blocks.push_back(block);
  return blocks;
}

// ---- Forward ----

void Transformer::Segmented::embed(const WeightReader& weights, std::span<const std::int32_t> ids) {
  const ConstTensor embedding =
      parameter_view(model_.table_->embedding(), weights.get(0, model_.buckets_[0], 1), options_.dtype);
  for (std::int64_t segment = 0; segment < segments(); ++segment) {
    const Tensor x = rows(x_[0]->write(segment), segment, 1, model_.config_->width, options_.dtype);
    kernels::embedding_forward(model_.context_->stream, part(ids, segment), embedding, x);
    x_[0]->written(segment);
  }
}

KeyValues Transformer::Segmented::project(const LayerPass& pass, const ConstTensor& x_TC, const Tensor& q_THD,
                                          std::int64_t segment) {
  const KeyValues own = key_values(keys_values_->write(segment), segment, options_.dtype);
  project_forward(pass, x_TC, rotary(segment, after(segment)), {q_THD, own.k_SGD, own.v_SGE});
  keys_values_->written(segment);
  return own;
}

void Transformer::Segmented::attend(std::int64_t layer, std::int64_t segment, const Step* training,
                                    const Tensor& out_THD, float* lse_HT) {
  const ModelConfig& c = *model_.config_;
  const kernels::AttentionState state{state_.as<float>(), count(segment), c.q_heads, c.head_dim};
  Stream& stream = model_.context_->stream;
  kernels::attention_state_clear(stream, state);
  const std::vector<std::int64_t> blocks = blocks_of(segment);
  for (std::size_t n = 0; n < blocks.size(); ++n) {
    const std::int64_t ahead = n + 1 < blocks.size() ? blocks[n + 1] : -1;
    const ConstKeyValues block = key_values(keys_values_->read(blocks[n], ahead), blocks[n]);
    const auto traced = model_.span(layer, "attention");
    kernels::attention_forward(
        stream, {.q_THD = rows(q_.as<std::byte>(), segment, c.q_heads, c.head_dim, options_.dtype),
                 .k_SGD = block.k_SGD,
                 .v_SGE = block.v_SGE,
                 .tiles = tiles_on_keys(tiles_[static_cast<std::size_t>(segment)], range(blocks[n])),
                 .params = model_.attention_params(layer, training),
                 .state = state});
  }
  kernels::attention_state_finish(stream, state, out_THD, lse_HT);
}

std::size_t Transformer::Segmented::input_of(std::int64_t layer, const Step* training) const {
  if (training != nullptr) return static_cast<std::size_t>(layer);
  return losses_ ? static_cast<std::size_t>(layer % 2) : 0;
}

void Transformer::Segmented::forward_segment(std::int64_t layer, const LayerPass& pass, std::int64_t segment,
                                             const Step* training, const KeyValueSink& sink) {
  const ModelConfig& c = *model_.config_;
  const std::int64_t ahead = after(segment);
  const std::size_t from = input_of(layer, training);
  const ConstTensor x = rows(x_[from]->read(segment, ahead), segment, 1, c.width, options_.dtype);
  const KeyValues own =
      project(pass, x, rows(q_.as<std::byte>(), segment, c.q_heads, c.head_dim, options_.dtype), segment);
  if (sink) sink(layer, range(segment).begin, own.k_SGD, own.v_SGE);
  std::byte* kept = out_.as<std::byte>();
  float* lse = nullptr;
  if (training != nullptr) {
    kept = kept_[from]->write(segment);
    lse = reinterpret_cast<float*>(
        kept + aligned(count(segment) * c.q_heads * c.head_dim * size_of(options_.dtype)));
  }
  const Tensor out = rows(kept, segment, c.q_heads, c.head_dim, options_.dtype);
  attend(layer, segment, training, out, lse);
  if (training != nullptr) kept_[from]->written(segment);
  SegmentStore& to = *x_[input_of(layer + 1, training)];
  const bool in_place = &to == x_[from].get();
  const Tensor y =
      rows(in_place ? to.change(segment, ahead) : to.write(segment), segment, 1, c.width, options_.dtype);
  attention_output_forward(pass, x, out, y);
  feed_forward_forward(pass, y, {});
  to.written(segment);
}

void Transformer::Segmented::layers_forward(const WeightReader& weights, const Step* training,
                                            const KeyValueSink& sink) {
  for (std::int64_t layer = 0; layer < model_.config_->layers; ++layer) {
    const LayerPass pass = model_.pass(weights, layer, model_.bucket_of(layer) + 1);
    for (std::int64_t segment = 0; segment < segments(); ++segment)
      forward_segment(layer, pass, segment, training, sink);
  }
}

ConstTensor Transformer::Segmented::hidden(const WeightReader& weights, std::span<const std::int32_t> ids,
                                           const KeyValueSink& sink) {
  embed(weights, ids);
  layers_forward(weights, nullptr, sink);
  const std::int64_t last = segments() - 1;
  return rows(x_[0]->read(last), last, 1, model_.config_->width, options_.dtype);
}

// ---- Backward ----

double Transformer::Segmented::head_forward_backward(const Step& step) {
  const LossHead::Weights weights = model_.head_weights(step.weights);
  const LossHead::Gradients gradients = model_.head_gradients(step.gradients);
  double loss = 0;
  for (std::int64_t segment = 0; segment < segments(); ++segment) {
    const std::int64_t width = model_.config_->width;
    const ConstTensor x = rows(x_.back()->read(segment, after(segment)), segment, 1, width, options_.dtype);
    const Tensor dx = rows(dx_->write(segment), segment, 1, width, DType::f32);
    loss += model_.head_.forward_backward(
        weights, gradients, x,
        {.labels = part(step.labels, segment), .gradient_scale = step.gradient_scale, .dx_TC = dx});
    dx_->written(segment);
  }
  step.gradients.done(model_.head_bucket());
  return loss;
}

KeyValues Transformer::Segmented::attention_backward(std::int64_t layer, std::int64_t segment,
                                                     const Step& step, const ConstTensor& q_THD,
                                                     const float* lse_HT) {
  const ModelConfig& c = *model_.config_;
  Stream& stream = model_.context_->stream;
  const Tensor dout = rows(dout_.as<std::byte>(), segment, c.q_heads, c.head_dim, options_.dtype);
  const Tensor dq = rows(dq_.as<std::byte>(), segment, c.q_heads, c.head_dim, DType::f32);
  kernels::fill_zero(stream, dq);
  const std::vector<std::int64_t> blocks = blocks_of(segment);
  for (std::size_t n = 0; n < blocks.size(); ++n) {
    const std::int64_t block = blocks[n], next = n + 1 < blocks.size() ? blocks[n + 1] : -1;
    const auto begun = [&](std::int64_t at) { return at >= 0 && summed_[static_cast<std::size_t>(at)]; };
    const ConstKeyValues own = key_values(keys_values_->read(block, next), block);
    std::byte* sums =
        begun(block) ? gradients_->change(block, begun(next) ? next : -1) : gradients_->write(block);
    const KeyValues gradients = key_values(sums, block, DType::f32);
    if (!begun(block)) {
      kernels::fill_zero(stream, gradients.k_SGD);
      kernels::fill_zero(stream, gradients.v_SGE);
      summed_[static_cast<std::size_t>(block)] = true;
    }
    const auto traced = model_.span(layer, "attention backward");
    kernels::attention_backward(
        stream, {.q_THD = q_THD,
                 .k_SGD = own.k_SGD,
                 .v_SGE = own.v_SGE,
                 .dout_THE = dout,
                 .lse_HT = lse_HT,
                 .delta_HT = delta_.as<float>(),
                 .tiles = tiles_on_keys(tiles_[static_cast<std::size_t>(segment)], range(block)),
                 .params = model_.attention_params(layer, &step),
                 .dq_THD = dq,
                 .dk_SGD = gradients.k_SGD,
                 .dv_SGE = gradients.v_SGE});
    if (block == segment) return gradients;  // nobody needs them later: they stay off the disk
    gradients_->written(block);
  }
  RONDO_ASSERT(false);  // a token sees itself
  return {};
}

void Transformer::Segmented::backward_segment(std::int64_t layer, const LayerPass& pass, std::int64_t segment,
                                              const Step& step) {
  const ModelConfig& c = *model_.config_;
  const auto l = static_cast<std::size_t>(layer);
  const std::int64_t ahead = segment - 1;  // -1 before the first
  const ConstTensor x = rows(x_[l]->read(segment, ahead), segment, 1, c.width, options_.dtype);
  const std::byte* kept = kept_[l]->read(segment, ahead);
  const ConstTensor out = rows(kept, segment, c.q_heads, c.head_dim, options_.dtype);
  const auto* lse = reinterpret_cast<const float*>(
      kept + aligned(count(segment) * c.q_heads * c.head_dim * size_of(options_.dtype)));
  const Tensor mid = rows(mid_.as<std::byte>(), segment, 1, c.width, options_.dtype);
  const Tensor dx = rows(dx_->change(segment, ahead), segment, 1, c.width, DType::f32);
  const Tensor dout = rows(dout_.as<std::byte>(), segment, c.q_heads, c.head_dim, options_.dtype);
  {
    const auto traced = model_.span(layer, "feed-forward backward");
    attention_output_forward(pass, x, out, mid);
    feed_forward_backward(pass, mid, {}, dx);
    attention_output_backward(pass, out, dx, dout);
    kernels::attention_delta(model_.context_->stream, dout, out, delta_.as<float>());
  }
  const ConstTensor q = rows(queries_->read(segment, ahead), segment, c.q_heads, c.head_dim, options_.dtype);
  const KeyValues own = attention_backward(layer, segment, step, q, lse);
  const auto traced = model_.span(layer, "projections backward");
  project_backward(
      pass, x, rotary(segment, ahead),
      {rows(dq_.as<std::byte>(), segment, c.q_heads, c.head_dim, DType::f32), own.k_SGD, own.v_SGE}, dx);
  dx_->written(segment);
}

void Transformer::Segmented::layer_backward(std::int64_t layer, const LayerPass& pass, const Step& step) {
  const ModelConfig& c = *model_.config_;
  for (std::int64_t segment = 0; segment < segments(); ++segment) {
    const ConstTensor x = rows(x_[static_cast<std::size_t>(layer)]->read(segment, after(segment)), segment, 1,
                               c.width, options_.dtype);
    project(pass, x, rows(queries_->write(segment), segment, c.q_heads, c.head_dim, options_.dtype), segment);
    queries_->written(segment);
  }
  summed_.assign(static_cast<std::size_t>(segments()), false);
  for (std::int64_t segment = segments(); segment-- > 0;) backward_segment(layer, pass, segment, step);
}

double Transformer::Segmented::forward_backward(const Step& step) {
  embed(step.weights, step.ids);
  layers_forward(step.weights, &step);
  const double loss = head_forward_backward(step);
  for (std::int64_t layer = model_.config_->layers - 1; layer >= 0; --layer) {
    const LayerPass pass = model_.backward_pass(step, layer);
    layer_backward(layer, pass, step);
    step.gradients.done(model_.bucket_of(layer));
  }
  const Tensor embedding =
      parameter_view(model_.table_->embedding(), step.gradients.get(0, model_.buckets_[0]), DType::f32);
  for (std::int64_t segment = 0; segment < segments(); ++segment) {
    const ConstTensor dx =
        rows(dx_->read(segment, after(segment)), segment, 1, model_.config_->width, DType::f32);
    kernels::embedding_backward(model_.context_->stream, part(step.ids, segment), dx, embedding);
  }
  step.gradients.done(0);
  return loss;
}

}  // namespace rondo
