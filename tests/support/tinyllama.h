#pragma once
// Reads stories260K.bin (a trained Llama of 260 thousand parameters, tied embedding, interleaved rotary
// pairs) for the reference: seven int32 and then float32 arrays, each kind over all layers.

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "rondo/core/error.h"
#include "rondo/reference/llama.h"

namespace rondo::test {

struct TinyLlama {
  reference::LlamaConfig config;
  reference::Parameters parameters;
};

inline TinyLlama read_tinyllama(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.size() < 28) throw IoError("[tinyllama] expected a file of at least 28 bytes: " + path.string());
  std::int32_t head[7];
  std::memcpy(head, bytes.data(), sizeof head);
  TinyLlama model;
  reference::LlamaConfig& c = model.config;
  c.width = head[0], c.ffn = head[1], c.layers = head[2], c.q_heads = head[3], c.kv_heads = head[4];
  c.vocabulary = head[5], c.head_dim = c.width / c.q_heads;
  c.epsilon = 1e-5, c.theta = 10000, c.rotary_interleaved = true, c.tied_embedding = true;

  std::size_t at = sizeof head;
  const auto take = [&](const std::string& name, std::int64_t rows, std::int64_t columns) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    if (at + values.size() * sizeof(float) > bytes.size())
      throw IoError("[tinyllama] truncated: " + path.string());
    std::memcpy(values.data(), bytes.data() + at, values.size() * sizeof(float));
    at += values.size() * sizeof(float);
    model.parameters[name].assign(values.begin(), values.end());
  };
  const auto take_layers = [&](const char* part, std::int64_t rows, std::int64_t columns) {
    for (std::int64_t layer = 0; layer < c.layers; ++layer)
      take("model.layers." + std::to_string(layer) + "." + part + ".weight", rows, columns);
  };
  const std::int64_t kv_width = c.kv_heads * c.head_dim;
  take("model.embed_tokens.weight", c.vocabulary, c.width);
  take_layers("input_layernorm", 1, c.width);
  take_layers("self_attn.q_proj", c.width, c.width);
  take_layers("self_attn.k_proj", kv_width, c.width);
  take_layers("self_attn.v_proj", kv_width, c.width);
  take_layers("self_attn.o_proj", c.width, c.width);
  take_layers("post_attention_layernorm", 1, c.width);
  take_layers("mlp.gate_proj", c.ffn, c.width);
  take_layers("mlp.down_proj", c.width, c.ffn);
  take_layers("mlp.up_proj", c.ffn, c.width);
  take("model.norm.weight", 1, c.width);
  return model;
}

}  // namespace rondo::test
