#pragma once
// What a model is: the extents and settings that a Hugging Face config.json carries for the Llama family.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "rondo/core/dtype.h"

namespace rondo {

/// How rotary frequencies are changed to reach beyond the context a model was trained on; see model/rotary.h.
enum class RopeType { none, linear, llama3, yarn };

const char* name_of(RopeType type);  ///< as in config.json; none is "default"

struct RopeScaling {
  RopeType type = RopeType::none;
  double factor = 1;                        ///< linear, llama3, yarn: at least 1
  double low_freq_factor = 1;               ///< llama3
  double high_freq_factor = 4;              ///< llama3: above low_freq_factor
  std::int64_t original_max_positions = 0;  ///< llama3, yarn: positions before scaling
  double beta_fast = 32,
         beta_slow = 1;         ///< yarn: turns over the original context where the ramp begins and ends
  double attention_factor = 0;  ///< yarn: scales cos and sin; 0 derives it from factor (and mscale)
  double mscale = 0, mscale_all_dim = 0;  ///< yarn: both non-zero, or unused
  bool truncate = true;                   ///< yarn: whether the ramp's ends are rounded to whole pairs
  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

/// Decoder-only Transformer with RMSNorm, rotary positions, grouped-query attention and SwiGLU (Llama,
/// Mistral).
struct ModelConfig {
  std::int64_t vocabulary = 0;
  std::int64_t width = 0;   ///< hidden_size
  std::int64_t ffn = 0;     ///< intermediate_size
  std::int64_t layers = 0;  ///< num_hidden_layers
  std::int64_t q_heads = 0, kv_heads = 0;
  std::int64_t head_dim = 0;  ///< even, 4...256; q_heads * head_dim need not be the width
  std::int64_t max_positions = 2048;
  double rope_theta = 10000;
  RopeScaling rope_scaling{};
  float rms_epsilon = 1e-6f;
  bool tied_embedding = false;      ///< the output matrix is the embedding
  std::int64_t sliding_window = 0;  ///< query i sees keys j with i - j < sliding_window; 0: all of them
  std::int64_t first_k = 0;         ///< with a window: keys at positions below first_k are always seen
  float attention_softcap = 0;      ///< scores pass through c * tanh(score / c); 0: not
  float attention_dropout = 0;      ///< of the probabilities, in training
  float initializer_range = 0.02f;  ///< standard deviation of new matrices
  int bos = -1;                     ///< -1: none
  std::vector<int> eos{};           ///< any of these ends a text

  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

/// Throws ArgumentError naming the first setting that makes no sense, what was expected and what was found.
/// Keys are named as in config.json; `operation` opens the message.
void check_config(const ModelConfig& config, const char* operation);

/// Reads the text of a config.json of model_type llama or mistral, with the defaults that transformers gives
/// to absent keys, or rondo (below). A key that changes the mathematics is honoured or refused by name with
/// an ArgumentError; keys that do not are ignored. What is no JSON object is an IoError. `origin` names the
/// text in messages. Keys of our own, read whatever the model_type: rondo_first_k, rondo_attention_softcap.
ModelConfig parse_config(std::string_view text, const std::string& origin = "config.json");

/// parse_config of a file; IoError when it cannot be read.
ModelConfig read_config(const std::filesystem::path& file);

/// The text of a config.json for parameters stored as `dtype`. model_type is llama, mistral with a window, or
/// rondo when the model uses a key of our own, so that software that would ignore the key refuses the file.
/// parse_config(to_json(c)) == c.
std::string to_json(const ModelConfig& config, DType dtype);

}  // namespace rondo
