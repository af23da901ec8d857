#include "apps/model_source.h"

#include <fmt/format.h>

#include "rondo/core/error.h"
#include "rondo/io/file_error.h"
#include "rondo/train/checkpoint.h"

namespace rondo::apps {

namespace fs = std::filesystem;

fs::path model_folder(const fs::path& path) {
  constexpr const char* op = "model";
  std::error_code error;
  check_file(fs::exists(path, error), op, path, "expected a model folder, got nothing of that name");
  check_file(fs::is_directory(path, error), op, path, "expected a model folder, got a file");
  if (fs::is_regular_file(path / "config.json", error)) return path;
  const auto checkpoints = list_checkpoints(path);
  check_file(!checkpoints.empty(), op, path,
             "expected a config.json (a Hugging Face folder) or checkpoints (a run), got neither");
  return checkpoints.back();
}

ModelSource open_model(const fs::path& path, bool verify) {
  const fs::path folder = model_folder(path);
  if (verify) verify_checkpoint(folder, CheckpointPart::model);
  ModelSource source{folder, load_model_folder(folder), load_tokenizer(folder)};
  const std::int64_t tokens = source.tokenizer->vocabulary_size(), known = source.model.config().vocabulary;
  check_argument(tokens <= known, "model",
                 "expected a tokenizer of at most the model's {} tokens in {}, got {}", known,
                 folder.string(), tokens);
  return source;
}

std::string describe(const ModelConfig& c, std::int64_t parameters) {
  return fmt::format(
      "{:.2f} M parameters: {} layers, width {}, {} query on {} key/value heads of {}, "
      "feed-forward {}, vocabulary {}{}",
      static_cast<double>(parameters) / 1e6, c.layers, c.width, c.q_heads, c.kv_heads, c.head_dim, c.ffn,
      c.vocabulary, c.sliding_window > 0 ? fmt::format(", window {}", c.sliding_window) : "");
}

}  // namespace rondo::apps
