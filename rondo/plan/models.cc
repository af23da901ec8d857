#include "rondo/plan/models.h"

namespace rondo {

namespace {

struct Extents {
  std::int64_t vocabulary, width, ffn, layers, q_heads, kv_heads, head_dim;
};

ModelConfig llama(const Extents& e, bool tied = false, std::int64_t window = 0) {
  return {.vocabulary = e.vocabulary,
          .width = e.width,
          .ffn = e.ffn,
          .layers = e.layers,
          .q_heads = e.q_heads,
          .kv_heads = e.kv_heads,
          .head_dim = e.head_dim,
          .tied_embedding = tied,
          .sliding_window = window};
}

}  // namespace

const std::vector<NamedModel>& named_models() {
  static const std::vector<NamedModel> models = {
      {"llama-1b", "TinyLlama 1.1B", llama({32000, 2048, 5632, 22, 32, 4, 64})},
      {"llama-3b", "OpenLLaMA 3B", llama({32000, 3200, 8640, 26, 32, 32, 100})},
      {"llama-7b", "LLaMA 7B", llama({32000, 4096, 11008, 32, 32, 32, 128})},
      {"llama-13b", "LLaMA 13B", llama({32000, 5120, 13824, 40, 40, 40, 128})},
      {"llama-30b", "LLaMA 33B", llama({32000, 6656, 17920, 60, 52, 52, 128})},
      {"llama-33b", "LLaMA 33B", llama({32000, 6656, 17920, 60, 52, 52, 128})},
      {"llama-65b", "LLaMA 65B", llama({32000, 8192, 22016, 80, 64, 64, 128})},
      {"llama-70b", "Llama 2 70B", llama({32000, 8192, 28672, 80, 64, 8, 128})},
      {"llama3-1b", "Llama 3.2 1B", llama({128256, 2048, 8192, 16, 32, 8, 64}, true)},
      {"llama3-3b", "Llama 3.2 3B", llama({128256, 3072, 8192, 28, 24, 8, 128}, true)},
      {"llama3-8b", "Llama 3.1 8B", llama({128256, 4096, 14336, 32, 32, 8, 128})},
      {"llama3-70b", "Llama 3.1 70B", llama({128256, 8192, 28672, 80, 64, 8, 128})},
      {"mistral-7b", "Mistral 7B v0.1, window of 4,096",
       llama({32000, 4096, 14336, 32, 32, 8, 128}, false, 4096)},
  };
  return models;
}

const NamedModel* find_named_model(std::string_view name) {
  for (const NamedModel& model : named_models())
    if (model.name == name) return &model;
  return nullptr;
}

}  // namespace rondo
