#include "rondo/model/activations.h"

#include <algorithm>

namespace rondo {

void Transformer::Activations::grow(Buffer& buffer, Entry entry, std::int64_t bytes, const char* what) {
  if (buffer.bytes() >= bytes) return;
  buffer = Buffer();
  buffer = context_.arena.allocate(entry, bytes, what);
}

void Transformer::Activations::resize_tokens(std::int64_t tokens) {
  tokens_ = tokens;
  grow(places_, Entry::data, tokens * static_cast<std::int64_t>(sizeof(TokenPlace)), "token positions");
  grow(ids_, Entry::data, tokens * 4, "token ids");
  grow(labels_, Entry::data, tokens * 4, "labels");
  grow(losses_, Entry::data, tokens * 4, "losses");
}

void Transformer::Activations::resize(std::int64_t tokens, std::int64_t capacity, bool training) {
  training_ = training_ || training;
  tokens_ = tokens;
  capacity_ = std::max(capacity_, capacity);
  const ModelConfig& c = config_;
  const std::int64_t element = size_of(options_.dtype), q_row = c.q_heads * c.head_dim,
                     kv_row = c.kv_heads * c.head_dim;
  const auto grow_layers = [&](std::vector<Buffer>& buffers, bool kept, Entry entry, std::int64_t bytes,
                               const char* what) {
    buffers.resize(kept ? static_cast<std::size_t>(c.layers) : std::max<std::size_t>(buffers.size(), 1));
    for (Buffer& buffer : buffers) grow(buffer, kept ? entry : Entry::attention, bytes, what);
  };
  x_.resize(training_ ? static_cast<std::size_t>(c.layers + 1) : 1);
  for (Buffer& buffer : x_) grow(buffer, Entry::layer_inputs, capacity_ * c.width * element, "layer input");
  grow_layers(q_, keeps_all(), Entry::kept, tokens * q_row * element, "queries");
  grow_layers(k_, keeps_all(), Entry::kept, capacity_ * kv_row * element, "keys");
  grow_layers(v_, keeps_all(), Entry::kept, capacity_ * kv_row * element, "values");
  const bool vanilla = options_.attention == AttentionForm::vanilla;
  const std::int64_t scores = vanilla ? 4 * c.q_heads * tokens * tokens : 0;
  if (vanilla) {
    grow_layers(p_, keeps_all(), Entry::kept, scores, "attention probabilities");
    if (options_.dtype != DType::f32)
      grow(widened_, Entry::attention, tokens * c.head_dim * 4, "head in float32");
  }
  resize_tokens(tokens);
  grow(cos, Entry::data, tokens * c.head_dim / 2 * 4, "rotary cosines");
  grow(sin, Entry::data, tokens * c.head_dim / 2 * 4, "rotary sines");
  if (!training_) return;

  grow_layers(out_, keeps_attention(), Entry::kept, capacity_ * q_row * element, "attention output");
  if (!vanilla) grow_layers(lse_, keeps_attention(), Entry::kept, tokens * c.q_heads * 4, "lse");
  grow_layers(mid_, keeps_all(), Entry::kept, capacity_ * c.width * element, "residual before feed-forward");
  if (keeps_all()) {
    grow_layers(gate_, true, Entry::kept, tokens * c.ffn * element, "gate products");
    grow_layers(up_, true, Entry::kept, tokens * c.ffn * element, "up products");
  }
  grow(dx_, Entry::attention, tokens * c.width * 4, "gradient of the residual");
  grow(dout_, Entry::attention, tokens * q_row * element, "gradient of the attention output");
  grow(dq_, Entry::attention, tokens * q_row * 4, "gradient of queries");
  grow(dscores_, Entry::attention, scores, "gradient of the scores");
  grow(dk_, Entry::attention, capacity_ * kv_row * 4, "gradient of keys");
  grow(dv_, Entry::attention, capacity_ * kv_row * 4, "gradient of values");
}

Tensor Transformer::Activations::x(std::int64_t layer) const {
  return x_[training_ ? static_cast<std::size_t>(layer) : 0].tensor(options_.dtype, tokens_, 1,
                                                                    config_.width);
}

Tensor Transformer::Activations::mid(std::int64_t layer) const {
  return mid_[slot(layer, keeps_all())].tensor(options_.dtype, tokens_, 1, config_.width);
}

Projections Transformer::Activations::projections(std::int64_t layer) const {
  const std::size_t s = slot(layer, keeps_all());
  return {heads(q_[s], options_.dtype, config_.q_heads, tokens_),
          heads(k_[s], options_.dtype, config_.kv_heads, tokens_),
          heads(v_[s], options_.dtype, config_.kv_heads, tokens_)};
}

Tensor Transformer::Activations::out(std::int64_t layer) const {
  if (!training_) return projections(layer).q_THD;
  return heads(out_[slot(layer, keeps_attention())], options_.dtype, config_.q_heads, tokens_);
}

float* Transformer::Activations::lse(std::int64_t layer) const {
  if (!training_) return nullptr;
  return lse_[slot(layer, keeps_attention())].as<float>();
}

KeptFeedForward Transformer::Activations::kept_feed_forward(std::int64_t layer) const {
  if (!keeps_all()) return {};
  const auto l = static_cast<std::size_t>(layer);
  return {gate_[l].tensor(options_.dtype, tokens_, 1, config_.ffn),
          up_[l].tensor(options_.dtype, tokens_, 1, config_.ffn)};
}

Projections Transformer::Activations::gradients() const {
  return {heads(dq_, DType::f32, config_.q_heads, tokens_), heads(dk_, DType::f32, config_.kv_heads, tokens_),
          heads(dv_, DType::f32, config_.kv_heads, tokens_)};
}

KeyValues Transformer::Activations::lent() const {
  if (!training_) return {};
  return {heads(dk_, options_.dtype, config_.kv_heads, capacity_),
          heads(dv_, options_.dtype, config_.kv_heads, capacity_)};
}

std::vector<IdleMemory> Transformer::Activations::idle(std::int64_t layer) const {
  // The layer's output was read by the layer behind it, or by the loss, which are done.
  const Buffer &output = x_[static_cast<std::size_t>(layer) + 1], &mid = mid_[slot(layer, keeps_all())],
               &out = out_[slot(layer, keeps_attention())];
  std::vector<IdleMemory> idle;
  for (const Buffer* buffer : {&output, &mid, &out})
    idle.emplace_back(buffer->as<std::byte>(), static_cast<std::size_t>(buffer->bytes()));
  return idle;
}

KeyValues Transformer::Activations::key_value_memory(std::int64_t layer) const {
  const std::size_t s = slot(layer, keeps_all());
  return {heads(k_[s], options_.dtype, config_.kv_heads, capacity_),
          heads(v_[s], options_.dtype, config_.kv_heads, capacity_)};
}

}  // namespace rondo
