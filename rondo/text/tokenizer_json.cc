#include "rondo/text/tokenizer_json.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <system_error>

namespace rondo::text_json {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
namespace fs = std::filesystem;

std::string errno_text() { return std::generic_category().message(errno); }

json read_json(const fs::path& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  check(file.is_open() && !file.bad(), path, "expected a readable file, got: {}", errno_text());
  try {
    json document = json::parse(text);
    check(document.is_object(), path, "expected a JSON object");
    return document;
  } catch (const json::exception& error) {
    refuse(path, "expected JSON, got: {}", error.what());
  }
}

/// A token of tokenizer_config.json: a string, or an object with a content.
std::optional<std::string> configured_token(const json& config, const char* key, const fs::path& path) {
  json token = part(config, key);
  if (token.is_object()) token = part(token, "content");
  if (token.is_null()) return std::nullopt;
  check(token.is_string(), path, "expected '{}' to be a token", key);
  return token.get<std::string>();
}

}  // namespace

json part(const json& document, const char* key) {
  const auto found = document.find(key);
  return found == document.end() ? json() : *found;
}

std::string type_of(const json& value) {
  if (!value.is_object()) return value.type_name();
  const json type = part(value, "type");
  return type.is_string() ? type.get<std::string>() : "object without a type";
}

std::vector<AddedToken> added_tokens(const TokenizerFiles& files) {
  const json list = part(files.document, "added_tokens");
  if (list.is_null()) return {};
  check(list.is_array(), files.path, "expected added_tokens to be a list");
  std::vector<AddedToken> tokens;
  for (const json& token : list) {
    const json id = part(token, "id"), content = part(token, "content");
    check(id.is_number_unsigned() && id.get<std::uint64_t>() < (1u << 31) && content.is_string(), files.path,
          "expected added tokens with an id and a content, got {}", token.dump());
    check(part(token, "special") == json(true), files.path,
          "the added token '{}' is not special; such tokens are not supported", content.get<std::string>());
    tokens.push_back({id.get<std::int32_t>(), content.get<std::string>()});
  }
  std::sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return tokens;
}

std::vector<std::string> pieces_by_id(const TokenizerFiles& files, const std::vector<AddedToken>& added) {
  const json vocabulary = part(part(files.document, "model"), "vocab");
  check(vocabulary.is_object(), files.path, "expected the model's vocab to be an object");
  std::vector<std::optional<std::string>> pieces(vocabulary.size() + added.size());
  const auto place = [&](std::uint64_t id, const std::string& piece) {
    check(id < pieces.size(), files.path, "expected ids without gaps, got id {} of '{}' among {} pieces", id,
          piece, pieces.size());
    check(!pieces[id] || *pieces[id] == piece, files.path, "id {} is both '{}' and '{}'", id,
          pieces[id].value_or(std::string()), piece);
    pieces[id] = piece;
  };
  for (const auto& [piece, id] : vocabulary.items()) {
    check(id.is_number_unsigned(), files.path, "expected the id of '{}' to be a number", piece);
    place(id.get<std::uint64_t>(), piece);
  }
  for (const AddedToken& token : added) {
    // Usually the vocabulary has them as well.
    check(!vocabulary.contains(token.content) || vocabulary[token.content] == token.id, files.path,
          "the added token '{}' has another id in the vocabulary", token.content);
    place(static_cast<std::uint64_t>(token.id), token.content);
  }
  while (!pieces.empty() && !pieces.back()) pieces.pop_back();
  std::vector<std::string> result;
  for (auto& piece : pieces) {
    check(piece.has_value(), files.path, "expected ids without gaps, got none with id {}", result.size());
    result.push_back(std::move(*piece));
  }
  return result;
}

ordered_json special_token_json(std::int32_t id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

ordered_json vocabulary_json(std::span<const std::string> pieces) {
  // Filled as the pairs it is made of: ordered_json looks up each new key among all before it.
  ordered_json vocabulary = ordered_json::object();
  auto& pairs = vocabulary.get_ref<ordered_json::object_t&>();
  pairs.reserve(pieces.size());
  for (std::size_t id = 0; id < pieces.size(); ++id)
    static_cast<std::vector<std::pair<const std::string, ordered_json>>&>(pairs).emplace_back(pieces[id], id);
  return vocabulary;
}

ordered_json bpe_document() {
  const ordered_json model = {{"type", "BPE"},
                              {"dropout", nullptr},
                              {"unk_token", nullptr},
                              {"continuing_subword_prefix", nullptr},
                              {"end_of_word_suffix", nullptr},
                              {"fuse_unk", false},
                              {"byte_fallback", false},
                              {"ignore_merges", false},
                              {"vocab", ordered_json::object()},
                              {"merges", ordered_json::array()}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", ordered_json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", nullptr},
          {"model", model}};
}

std::vector<Tokenizer::File> files_of(const ordered_json& tokenizer, const ordered_json& config) {
  return {{"tokenizer.json", tokenizer.dump(2) + "\n"}, {"tokenizer_config.json", config.dump(2) + "\n"}};
}

}  // namespace rondo::text_json

namespace rondo {

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder) {
  using namespace text_json;  // NOLINT: the two namespaces are one room
  TokenizerFiles files{folder / "tokenizer.json", {}, {}, {}};
  files.document = read_json(files.path);
  const auto config_path = folder / "tokenizer_config.json";
  if (std::filesystem::exists(config_path)) {
    const nlohmann::json config = read_json(config_path);
    files.bos = configured_token(config, "bos_token", config_path);
    files.eos = configured_token(config, "eos_token", config_path);
  }
  const nlohmann::json model = part(files.document, "model");
  check(type_of(model) == "BPE", files.path, "expected a model of type BPE, got '{}', which is not supported",
        type_of(model));
  check(part(files.document, "truncation").is_null(), files.path, "truncation is not supported");
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const nlohmann::json value = part(model, key);
    check(value.is_null() || value == "" || value == 0.0, files.path, "the model's {} is not supported", key);
  }
  check(part(model, "ignore_merges") != nlohmann::json(true), files.path,
        "the model's ignore_merges is not supported");
  if (part(model, "byte_fallback") == nlohmann::json(true)) return load_bpe_tokenizer(files);
  const std::string pre_tokenizer = type_of(part(files.document, "pre_tokenizer"));
  check(part(model, "merges").empty() && pre_tokenizer == "ByteLevel", files.path,
        "expected BPE with byte_fallback (Llama) or bytes without merges; BPE with {} merges, pre-tokenizer "
        "'{}' (GPT-2 is "
        "one with ByteLevel) is not supported",
        part(model, "merges").size(), pre_tokenizer);
  return load_byte_tokenizer(files);
}

}  // namespace rondo
