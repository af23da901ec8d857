#include "rondo/text/byte_tokenizer.h"

#include "rondo/text/tokenizer_json.h"

namespace rondo {
namespace {

constexpr const char* kBosName = "<bos>";
constexpr const char* kEosName = "<eos>";

bool stands_for_itself(int byte) { return (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173); }

}  // namespace

std::array<std::string, 256> byte_level_characters() {
  std::array<std::string, 256> characters;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const int code = stands_for_itself(byte) ? byte : next++;
    std::string& character = characters[static_cast<std::size_t>(byte)];
    if (code < 128) {
      character = std::string(1, static_cast<char>(code));
    } else {
      character = {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 63))};
    }
  }
  return characters;
}

ByteTokenizer::ByteTokenizer() {
  for (std::size_t byte = 0; byte < bytes_.size(); ++byte) bytes_[byte] = static_cast<char>(byte);
}

std::vector<std::int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  ids.reserve(text.size());
  for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
  return ids;
}

std::string_view ByteTokenizer::piece(std::int32_t id) const {
  check_argument(id >= 0 && id < kVocabulary, "ByteTokenizer", "expected an id below {}, got {}", kVocabulary,
                 id);
  if (id >= 256) return {};
  return {&bytes_[static_cast<std::size_t>(id)], 1};
}

std::vector<Tokenizer::File> ByteTokenizer::files() const {
  const auto byte_level = [](bool trim_offsets) -> nlohmann::ordered_json {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", trim_offsets},
            {"use_regex", false}};
  };
  nlohmann::ordered_json document = text_json::bpe_document();
  document["added_tokens"] = {text_json::special_token_json(kBos, kBosName),
                              text_json::special_token_json(kEos, kEosName)};
  document["pre_tokenizer"] = byte_level(false);
  document["decoder"] = byte_level(false);
  document["model"]["vocab"] = text_json::vocabulary_json(byte_level_characters());
  return text_json::files_of(document, {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                        {"bos_token", kBosName},
                                        {"eos_token", kEosName},
                                        {"clean_up_tokenization_spaces", false}});
}

std::unique_ptr<Tokenizer> text_json::load_byte_tokenizer(const TokenizerFiles& files) {
  using nlohmann::json;
  const json normalizer = part(files.document, "normalizer"), pre = part(files.document, "pre_tokenizer"),
             post = part(files.document, "post_processor"), decoder = part(files.document, "decoder");
  check(normalizer.is_null(), files.path, "the normalizer '{}' is not supported with bytes",
        type_of(normalizer));
  check(part(pre, "add_prefix_space") == json(false), files.path,
        "add_prefix_space is not supported with bytes");
  check(post.is_null() || type_of(post) == "ByteLevel", files.path,
        "the post-processor '{}' is not supported with bytes", type_of(post));
  check(type_of(decoder) == "ByteLevel", files.path, "the decoder '{}' is not supported with bytes",
        type_of(decoder));
  const std::vector<std::string> pieces = pieces_by_id(files, added_tokens(files));
  const auto characters = byte_level_characters();
  bool same = pieces.size() == ByteTokenizer::kVocabulary && pieces[ByteTokenizer::kBos] == kBosName &&
              pieces[ByteTokenizer::kEos] == kEosName;
  for (std::size_t byte = 0; same && byte < characters.size(); ++byte)
    same = pieces[byte] == characters[byte];
  check(same, files.path,
        "a byte-level BPE without merges is supported only with the ids 0 ... 255 for the bytes, 256 for {}, "
        "257 for {}",
        kBosName, kEosName);
  check(files.bos.value_or(kBosName) == kBosName && files.eos.value_or(kEosName) == kEosName, files.path,
        "expected {} and {} as bos_token and eos_token", kBosName, kEosName);
  return std::make_unique<ByteTokenizer>();
}

}  // namespace rondo
