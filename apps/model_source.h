#pragma once
// A model as users name it: a Hugging Face folder, a checkpoint, or a run whose newest checkpoint is meant.

#include <filesystem>
#include <memory>

#include "rondo/model/hf_folder.h"
#include "rondo/text/tokenizer.h"

namespace rondo::apps {

struct ModelSource {
  std::filesystem::path folder;
  LoadedModel model;
  std::unique_ptr<Tokenizer> tokenizer;

  bool is_bytes() const { return tokenizer->name() == "bytes"; }
};

/// The folder that has the config.json; IoError when neither `path` nor a checkpoint in it has one.
std::filesystem::path model_folder(const std::filesystem::path& path);

/// Opens model and tokenizer; ArgumentError when the tokenizer has more tokens than the model. The files of a
/// checkpoint are compared with its checksums, unless told not to `verify`.
ModelSource open_model(const std::filesystem::path& path, bool verify = true);

/// "5 layers, width 64, 8 heads on 4, feed-forward 172, vocabulary 512, 0.26 M parameters"
std::string describe(const ModelConfig& config, std::int64_t parameters);

}  // namespace rondo::apps
