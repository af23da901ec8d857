// Checks of a configuration, and reading it from a file. The JSON itself is in config_json.cc.

#include "rondo/model/config.h"

#include <cmath>

#include "rondo/core/error.h"
#include "rondo/io/file_error.h"
#include "rondo/io/mapped_file.h"

namespace rondo {
namespace {

// Bounds that keep every product of two extents inside 64 bits; far beyond any model.
constexpr std::int64_t kMaxExtent = std::int64_t{1} << 24;
constexpr std::int64_t kMaxVocabulary = (std::int64_t{1} << 31) - 1;  // ids are int32
constexpr std::int64_t kMaxLayers = 100'000;
constexpr std::int64_t kMaxPositions = std::int64_t{1} << 53;  // exact in double
constexpr std::int64_t kMaxFileBytes = 16 << 20;

void check_extent(const char* operation, const char* key, std::int64_t value, std::int64_t highest) {
  check_argument(value >= 1 && value <= highest, operation, "expected {} in 1...{}, got {}", key, highest,
                 value);
}

void check_heads(const ModelConfig& c, const char* operation) {
  check_extent(operation, "num_attention_heads", c.q_heads, 1 << 16);
  check_extent(operation, "num_key_value_heads", c.kv_heads, 1 << 16);
  check_argument(c.q_heads % c.kv_heads == 0, operation,
                 "expected num_attention_heads to be a multiple of num_key_value_heads, got {} and {}",
                 c.q_heads, c.kv_heads);
  check_argument(c.head_dim >= 4 && c.head_dim <= 256 && c.head_dim % 2 == 0, operation,
                 "expected head_dim to be even and in 4...256, got {}", c.head_dim);
}

void check_rope(const ModelConfig& c, const char* operation) {
  check_argument(std::isfinite(c.rope_theta) && c.rope_theta > 1, operation,
                 "expected rope_theta to be finite and above 1, got {}", c.rope_theta);
  const RopeScaling& s = c.rope_scaling;
  if (s.type == RopeType::none) return;
  check_argument(std::isfinite(s.factor) && s.factor >= 1, operation,
                 "expected factor of rope type {} to be finite and at least 1, got {}", name_of(s.type),
                 s.factor);
  if (s.type == RopeType::linear) return;
  check_argument(s.original_max_positions >= 1 && s.original_max_positions <= kMaxPositions, operation,
                 "expected original_max_position_embeddings of rope type {} in 1...{}, got {}",
                 name_of(s.type), kMaxPositions, s.original_max_positions);
  if (s.type == RopeType::llama3) {
    check_argument(
        s.low_freq_factor > 0 && s.low_freq_factor < s.high_freq_factor && std::isfinite(s.high_freq_factor),
        operation, "expected 0 < low_freq_factor < high_freq_factor, got {} and {}", s.low_freq_factor,
        s.high_freq_factor);
    return;
  }
  check_argument(s.beta_slow > 0 && s.beta_slow < s.beta_fast && std::isfinite(s.beta_fast), operation,
                 "expected 0 < beta_slow < beta_fast, got {} and {}", s.beta_slow, s.beta_fast);
  check_argument(s.attention_factor >= 0 && std::isfinite(s.attention_factor), operation,
                 "expected attention_factor to be positive, got {}", s.attention_factor);
  check_argument(s.mscale >= 0 && std::isfinite(s.mscale), operation,
                 "expected mscale to be at least 0, got {}", s.mscale);
  check_argument(s.mscale_all_dim >= 0 && std::isfinite(s.mscale_all_dim), operation,
                 "expected mscale_all_dim to be at least 0, got {}", s.mscale_all_dim);
}

void check_tokens(const ModelConfig& c, const char* operation) {
  check_argument(c.bos >= -1 && c.bos < c.vocabulary, operation,
                 "expected bos_token_id below vocab_size {}, or null, got {}", c.vocabulary, c.bos);
  for (const int id : c.eos)
    check_argument(id >= 0 && id < c.vocabulary, operation,
                   "expected eos_token_id below vocab_size {}, or null, got {}", c.vocabulary, id);
}

}  // namespace

const char* name_of(RopeType type) {
  switch (type) {
    case RopeType::none:
      return "default";
    case RopeType::linear:
      return "linear";
    case RopeType::llama3:
      return "llama3";
    case RopeType::yarn:
      return "yarn";
  }
  return "?";
}

void check_config(const ModelConfig& c, const char* operation) {
  check_extent(operation, "vocab_size", c.vocabulary, kMaxVocabulary);
  check_extent(operation, "hidden_size", c.width, kMaxExtent);
  check_extent(operation, "intermediate_size", c.ffn, kMaxExtent);
  check_extent(operation, "num_hidden_layers", c.layers, kMaxLayers);
  check_heads(c, operation);
  check_extent(operation, "max_position_embeddings", c.max_positions, kMaxPositions);
  check_rope(c, operation);
  check_argument(std::isfinite(c.rms_epsilon) && c.rms_epsilon > 0, operation,
                 "expected rms_norm_eps to be positive, got {}", c.rms_epsilon);
  check_argument(c.sliding_window >= 0, operation, "expected sliding_window to be positive, got {}",
                 c.sliding_window);
  check_argument(c.first_k >= 0, operation, "expected rondo_first_k to be at least 0, got {}", c.first_k);
  check_argument(c.first_k == 0 || c.sliding_window > 0, operation,
                 "expected a sliding_window beside rondo_first_k {}, got none", c.first_k);
  check_argument(c.attention_softcap >= 0 && std::isfinite(c.attention_softcap), operation,
                 "expected rondo_attention_softcap to be finite and at least 0, got {}", c.attention_softcap);
  check_argument(c.attention_dropout >= 0 && c.attention_dropout < 1, operation,
                 "expected attention_dropout in [0, 1), got {}", c.attention_dropout);
  check_argument(c.initializer_range >= 0 && std::isfinite(c.initializer_range), operation,
                 "expected initializer_range to be finite and at least 0, got {}", c.initializer_range);
  check_tokens(c, operation);
}

ModelConfig read_config(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  check_file(mapped.size() <= kMaxFileBytes, "read_config", file, "expected at most {} bytes, got {}",
             kMaxFileBytes, mapped.size());
  const std::span<const std::byte> bytes = mapped.bytes();
  return parse_config({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, file.string());
}

}  // namespace rondo
