#pragma once
// Parts of tokenizer.json that kinds of tokenizers share. Not for users of the library.

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "rondo/core/error.h"
#include "rondo/text/tokenizer.h"

namespace rondo::text_json {

/// A tokenizer.json and what its tokenizer_config.json says about special tokens.
struct TokenizerFiles {
  std::filesystem::path path;  ///< of tokenizer.json
  nlohmann::json document;
  std::optional<std::string> bos, eos;
};

struct AddedToken {
  std::int32_t id;
  std::string content;
};

/// Throws IoError("[load_tokenizer] PATH: message").
template <class... Args>
[[noreturn]] void refuse(const std::filesystem::path& path, fmt::format_string<Args...> format,
                         Args&&... args) {
  throw IoError(fmt::format("[load_tokenizer] {}: {}", path.string(),
                            fmt::format(format, std::forward<Args>(args)...)));
}
template <class... Args>
void check(bool condition, const std::filesystem::path& path, fmt::format_string<Args...> format,
           Args&&... args) {
  if (!condition) refuse(path, format, std::forward<Args>(args)...);
}

/// document[key], or null when it has no such key.
nlohmann::json part(const nlohmann::json& document, const char* key);
/// The "type" of a part of the document, for messages; "null" for null.
std::string type_of(const nlohmann::json& part);

/// The added tokens by id; refuses any that is not special: those would have to be found in texts.
std::vector<AddedToken> added_tokens(const TokenizerFiles& files);
/// The vocabulary of the model with the added tokens: each id from 0 upward has one piece.
std::vector<std::string> pieces_by_id(const TokenizerFiles& files, const std::vector<AddedToken>& added);

nlohmann::ordered_json special_token_json(std::int32_t id, const std::string& content);
/// Pieces as an object {piece: id}.
nlohmann::ordered_json vocabulary_json(std::span<const std::string> pieces);
/// The frame of a BPE tokenizer.json; the caller fills in what is null.
nlohmann::ordered_json bpe_document();
/// tokenizer.json and tokenizer_config.json.
std::vector<Tokenizer::File> files_of(const nlohmann::ordered_json& tokenizer,
                                      const nlohmann::ordered_json& config);

std::unique_ptr<Tokenizer> load_byte_tokenizer(const TokenizerFiles& files);
std::unique_ptr<Tokenizer> load_bpe_tokenizer(const TokenizerFiles& files);

}  // namespace rondo::text_json
