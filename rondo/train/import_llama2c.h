#pragma once
// Models of llama2.c as Hugging Face folders.

#include <filesystem>

namespace rondo {

/// Writes config.json, model.safetensors (float32) and the tokenizer's files into the new folder `out`, which
/// appears whole or not at all: `model` in llama2.c's version-0 format (io/llama2c.h) with its tokenizer file
/// (text/llama2c.h). Rows of queries and keys are reordered to Hugging Face's rotary convention. Throws
/// IoError where a file is not what it should be or `out` is there already (an empty folder is replaced);
/// ArgumentError where model and tokenizer do not go together.
void import_llama2c(const std::filesystem::path& model, const std::filesystem::path& tokenizer,
                    const std::filesystem::path& out);

}  // namespace rondo
