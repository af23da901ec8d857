// BpeTokenizer as tokenizer.json: the form into which Hugging Face converts Llama's SentencePiece models.

#include "rondo/text/bpe_tokenizer.h"
#include "rondo/text/tokenizer_json.h"

namespace rondo {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using text_json::part;
using text_json::TokenizerFiles;
using text_json::type_of;

constexpr const char* kSpace = "\xe2\x96\x81";  // U+2581

ordered_json replace_json(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

ordered_json normalizer_json() {
  const ordered_json prepend = {{"type", "Prepend"}, {"prepend", kSpace}};
  return {{"type", "Sequence"}, {"normalizers", ordered_json::array({prepend, replace_json(" ", kSpace)})}};
}

ordered_json decoder_json() {
  const ordered_json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  const ordered_json bytes = {{"type", "ByteFallback"}}, fuse = {{"type", "Fuse"}};
  return {{"type", "Sequence"},
          {"decoders", ordered_json::array({replace_json(kSpace, " "), bytes, fuse, strip})}};
}

/// A template that puts `bos` in front of a text, and of each text of a pair.
ordered_json template_json(std::int32_t id, const std::string& bos) {
  const auto token = [&](int type) -> ordered_json {
    return {{"SpecialToken", {{"id", bos}, {"type_id", type}}}};
  };
  const auto text = [&](const char* name, int type) -> ordered_json {
    return {{"Sequence", {{"id", name}, {"type_id", type}}}};
  };
  return {
      {"type", "TemplateProcessing"},
      {"single", ordered_json::array({token(0), text("A", 0)})},
      {"pair", ordered_json::array({token(0), text("A", 0), token(1), text("B", 1)})},
      {"special_tokens",
       {{bos, {{"id", bos}, {"ids", ordered_json::array({id})}, {"tokens", ordered_json::array({bos})}}}}}};
}

/// The special token that the post-processor puts in front of a text, if any; refuses other templates.
std::optional<std::string> token_in_front(const TokenizerFiles& files) {
  const json post = part(files.document, "post_processor");
  if (post.is_null()) return std::nullopt;
  text_json::check(type_of(post) == "TemplateProcessing", files.path,
                   "the post-processor '{}' is not supported", type_of(post));
  const json single = part(post, "single");
  const bool alone = single.is_array() && single.size() == 1 && single[0].contains("Sequence");
  const bool behind_token = single.is_array() && single.size() == 2 && single[0].contains("SpecialToken") &&
                            part(single[0]["SpecialToken"], "id").is_string() &&
                            single[1].contains("Sequence");
  text_json::check(alone || behind_token, files.path,
                   "a post-processor is supported that adds nothing or one token in front of a text, got {}",
                   single.dump());
  if (alone) return std::nullopt;
  return single[0]["SpecialToken"]["id"].get<std::string>();
}

std::vector<std::pair<std::string, std::string>> merges_of(const TokenizerFiles& files) {
  const json list = part(part(files.document, "model"), "merges");
  text_json::check(list.is_array(), files.path, "expected the model's merges to be a list");
  std::vector<std::pair<std::string, std::string>> merges;
  for (const json& merge : list) {
    if (merge.is_string()) {  // "left right"
      const auto& text = merge.get_ref<const std::string&>();
      const std::size_t space = text.find(' ');
      text_json::check(space != std::string::npos && text.find(' ', space + 1) == std::string::npos,
                       files.path, "expected merges of two pieces, got '{}'", text);
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else {  // ["left", "right"], since version 0.20 of the library
      text_json::check(merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string(),
                       files.path, "expected merges of two pieces, got {}", merge.dump());
      merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    }
  }
  return merges;
}

std::optional<std::int32_t> special_id(const std::vector<text_json::AddedToken>& added,
                                       const std::string& content) {
  for (const auto& token : added)
    if (token.content == content) return token.id;
  return std::nullopt;
}

/// The id of a configured token, which must be a special one; of `usual`, if that is one, where none is
/// configured.
std::optional<std::int32_t> configured_id(const std::vector<text_json::AddedToken>& added,
                                          const std::optional<std::string>& configured, const char* usual,
                                          const std::filesystem::path& path) {
  const auto id = special_id(added, configured.value_or(usual));
  text_json::check(id.has_value() || !configured, path, "expected '{}' among the special added tokens",
                   configured.value_or(usual));
  return id;
}

}  // namespace

std::vector<Tokenizer::File> BpeTokenizer::files() const {
  const auto content = [&](std::int32_t id) { return description_.pieces[static_cast<std::size_t>(id)]; };
  ordered_json document = text_json::bpe_document();
  for (const std::int32_t id : description_.special)
    document["added_tokens"].push_back(text_json::special_token_json(id, content(id)));
  document["normalizer"] = normalizer_json();
  document["decoder"] = decoder_json();
  if (description_.adds_bos && description_.bos)
    document["post_processor"] = template_json(*description_.bos, content(*description_.bos));
  ordered_json& model = document["model"];
  model["fuse_unk"] = true;
  model["byte_fallback"] = true;
  model["vocab"] = text_json::vocabulary_json(description_.pieces);
  for (const auto& [left, right] : description_.merges) model["merges"].push_back(left + " " + right);

  ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                         {"clean_up_tokenization_spaces", false}};
  if (description_.bos) config["bos_token"] = content(*description_.bos);
  if (description_.eos) config["eos_token"] = content(*description_.eos);
  if (description_.unknown) model["unk_token"] = config["unk_token"] = content(*description_.unknown);
  return text_json::files_of(document, config);
}

std::unique_ptr<Tokenizer> text_json::load_bpe_tokenizer(const TokenizerFiles& files) {
  const json normalizer = part(files.document, "normalizer"), pre = part(files.document, "pre_tokenizer"),
             decoder = part(files.document, "decoder");
  check(normalizer == json(normalizer_json()), files.path,
        "with byte_fallback the normalizer Prepend U+2581, Replace ' ' by U+2581 is supported, got {}: {}",
        type_of(normalizer), normalizer.dump());
  check(pre.is_null(), files.path, "with byte_fallback the pre-tokenizer '{}' is not supported",
        type_of(pre));
  check(decoder == json(decoder_json()), files.path,
        "with byte_fallback the decoder Replace, ByteFallback, Fuse, Strip is supported, got {}: {}",
        type_of(decoder), decoder.dump());
  const auto added = added_tokens(files);
  BpeDescription description{.pieces = pieces_by_id(files, added), .merges = merges_of(files)};
  for (const AddedToken& token : added) description.special.push_back(token.id);
  const std::optional<std::string> front = token_in_front(files);
  const json unknown = part(part(files.document, "model"), "unk_token");
  if (unknown.is_string()) description.unknown = special_id(added, unknown.get<std::string>());
  description.bos = configured_id(added, files.bos ? files.bos : front, "<s>", files.path);
  description.eos = configured_id(added, files.eos, "</s>", files.path);
  description.adds_bos = front.has_value();
  check(!front || special_id(added, *front) == description.bos, files.path,
        "the post-processor puts '{}' in front of texts, which is not the bos_token", front.value_or(""));
  try {
    return std::make_unique<BpeTokenizer>(std::move(description));
  } catch (const ArgumentError& error) {
    refuse(files.path, "{}", error.what());
  }
}

}  // namespace rondo
