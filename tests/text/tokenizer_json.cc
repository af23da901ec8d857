// Tokenizers as folders: saved and loaded, and what is refused by name.

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "rondo/text/byte_tokenizer.h"
#include "tests/support/data.h"
#include "tests/support/temporary_folder.h"
#include "tests/text/small_bpe.h"

namespace rondo {
namespace {

using nlohmann::json;
using test::read_text;
using test::small_bpe;
using test::TemporaryFolder;
using test::write_text;

class TokenizerFolder : public ::testing::Test {
 protected:
  void save_bpe() { BpeTokenizer(small_bpe({"▁", "a", "▁a"}, {{"▁", "a"}})).save(folder_.path()); }
  void edit(const std::function<void(json&)>& change, const std::string& name = "tokenizer.json") {
    json document = json::parse(read_text(folder_ / name));
    change(document);
    write_text(folder_ / name, document.dump());
  }
  /// A change of tokenizer.json that makes it unsupported; undone afterwards.
  void expect_refused(const std::function<void(json&)>& change, const std::string& cause) {
    const std::string before = read_text(folder_ / "tokenizer.json");
    edit(change);
    RONDO_EXPECT_ERROR(IoError, load_tokenizer(folder_.path()), (folder_ / "tokenizer.json").string(), cause);
    write_text(folder_ / "tokenizer.json", before);
  }
  TemporaryFolder folder_;
};

TEST_F(TokenizerFolder, BytesRoundTrip) {
  ByteTokenizer().save(folder_.path());
  const auto loaded = load_tokenizer(folder_.path());
  EXPECT_NE(dynamic_cast<ByteTokenizer*>(loaded.get()), nullptr);
  const json document = json::parse(read_text(folder_ / "tokenizer.json"));
  EXPECT_EQ(document["model"]["vocab"].size(), 256u);
  EXPECT_EQ(document["model"]["vocab"]["Ġ"], 32);
  EXPECT_TRUE(document["model"]["merges"].empty());
  EXPECT_EQ(document["added_tokens"][1]["content"], "<eos>");
  EXPECT_EQ(document["added_tokens"][1]["id"], 257);
  std::filesystem::remove(folder_ / "tokenizer_config.json");
  EXPECT_EQ(load_tokenizer(folder_.path())->eos(), 257);
}

TEST_F(TokenizerFolder, BytesInAnyOtherFormAreRefused) {
  ByteTokenizer().save(folder_.path());
  expect_refused([](json& d) { d["model"]["vocab"].erase("A"); }, "without gaps");
  expect_refused([](json& d) { std::swap(d["model"]["vocab"]["A"], d["model"]["vocab"]["B"]); },
                 "0 ... 255 for the bytes");
  expect_refused([](json& d) { d["added_tokens"].erase(1); }, "0 ... 255 for the bytes");
  expect_refused([](json& d) { d["added_tokens"][0]["content"] = "<s>"; }, "256 for <bos>");
  expect_refused([](json& d) { d["added_tokens"][0]["special"] = false; }, "'<bos>' is not special");
  expect_refused([](json& d) { d["added_tokens"][0]["id"] = -1; }, "with an id");
  expect_refused([](json& d) { d["added_tokens"][0]["id"] = 65; }, "id 65 is both");
  expect_refused([](json& d) { d["normalizer"] = {{"type", "NFC"}}; }, "'NFC'");
  expect_refused([](json& d) { d["pre_tokenizer"] = {{"type", "Whitespace"}}; }, "'Whitespace'");
  expect_refused([](json& d) { d["pre_tokenizer"]["add_prefix_space"] = true; }, "add_prefix_space");
  expect_refused([](json& d) { d["post_processor"] = {{"type", "BertProcessing"}}; }, "'BertProcessing'");
  expect_refused([](json& d) { d["decoder"] = nullptr; }, "decoder 'null'");
  expect_refused([](json& d) { d["model"]["merges"] = {"A B"}; },
                 "BPE with 1 merges, pre-tokenizer 'ByteLevel'");
  expect_refused([](json& d) { d["model"]["type"] = "Unigram"; }, "'Unigram'");
  expect_refused([](json& d) { d.erase("model"); }, "'null'");
  expect_refused([](json& d) { d["truncation"] = {{"max_length", 3}}; }, "truncation");
  expect_refused([](json& d) { d["model"]["dropout"] = 0.1; }, "dropout");
  expect_refused([](json& d) { d["model"]["ignore_merges"] = true; }, "ignore_merges");
  expect_refused([](json& d) { d["model"]["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix");
  edit([](json& d) { d["bos_token"] = "<other>"; }, "tokenizer_config.json");
  RONDO_EXPECT_ERROR(IoError, load_tokenizer(folder_.path()), "bos_token");
}

TEST_F(TokenizerFolder, BpeRoundTrips) {
  save_bpe();
  const std::string first = read_text(folder_ / "tokenizer.json");
  const auto loaded = load_tokenizer(folder_.path());
  EXPECT_EQ(loaded->vocabulary_size(), 262);
  EXPECT_EQ(loaded->bos(), 1);
  EXPECT_EQ(loaded->eos(), 2);
  EXPECT_TRUE(loaded->adds_bos());
  EXPECT_EQ(loaded->encode("a a"), (std::vector<std::int32_t>{261, 261}));
  loaded->save(folder_.path());
  EXPECT_EQ(read_text(folder_ / "tokenizer.json"), first);
  // Merges as pairs, tokens as objects, without a template: other files say the same in these forms.
  edit([](json& d) {
    d["model"]["merges"] = json::array({json::array({"▁", "a"})});
    d["post_processor"] = nullptr;
  });
  edit([](json& d) { d["eos_token"] = {{"content", "<s>"}, {"lstrip", false}}; }, "tokenizer_config.json");
  const auto other = load_tokenizer(folder_.path());
  EXPECT_EQ(other->encode("a"), std::vector<std::int32_t>{261});
  EXPECT_FALSE(other->adds_bos());
  EXPECT_EQ(other->eos(), 1);
}

TEST_F(TokenizerFolder, BpeAddedTokensMayStandBehindTheVocabulary) {
  save_bpe();
  edit([](json& d) { d["added_tokens"].push_back({{"id", 262}, {"content", "<pad>"}, {"special", true}}); });
  const auto loaded = load_tokenizer(folder_.path());
  EXPECT_EQ(loaded->vocabulary_size(), 263);
  EXPECT_EQ(loaded->piece(262), "");
}

TEST_F(TokenizerFolder, BpeInAnyOtherFormIsRefused) {
  save_bpe();
  expect_refused([](json& d) { d["normalizer"] = {{"type", "NFKC"}}; }, "NFKC");
  expect_refused([](json& d) { d["normalizer"]["normalizers"].erase(0); }, "Sequence");
  expect_refused([](json& d) { d["pre_tokenizer"] = {{"type", "Metaspace"}}; }, "'Metaspace'");
  expect_refused([](json& d) { d["decoder"]["decoders"].erase(3); }, "decoder");
  expect_refused(
      [](json& d) {
        d["post_processor"] = {{"type", "RobertaProcessing"}};
      },
      "'RobertaProcessing'");
  expect_refused(
      [](json& d) {
        d["post_processor"]["single"].push_back({{"SpecialToken", {{"id", "</s>"}}}});
      },
      "nothing or one token in front");
  expect_refused([](json& d) { d["post_processor"]["single"][0]["SpecialToken"]["id"] = "</s>"; },
                 "not the bos_token");
  expect_refused([](json& d) { d["model"]["merges"] = {"a"}; }, "merges of two pieces, got 'a'");
  expect_refused([](json& d) { d["model"]["merges"] = {"a b c"}; }, "'a b c'");
  expect_refused([](json& d) { d["model"]["merges"] = {3}; }, "merges of two pieces, got 3");
  expect_refused([](json& d) { d["model"]["merges"] = {"a x"}; }, "'ax'");
  expect_refused([](json& d) { d["model"]["merges"] = nullptr; }, "merges to be a list");
  expect_refused([](json& d) { d["model"]["vocab"] = json::array(); }, "vocab to be an object");
  expect_refused([](json& d) { d["model"]["vocab"]["a"] = 1000; }, "id 1000 of 'a'");
  expect_refused([](json& d) { d["model"]["vocab"]["a"] = -1; }, "id of 'a'");
  expect_refused([](json& d) { d["model"]["vocab"]["a"] = 259; }, "id 259 is both");
  expect_refused([](json& d) { d["added_tokens"][1]["id"] = 7; }, "'<s>' has another id");
  edit([](json& d) { d["bos_token"] = "a"; }, "tokenizer_config.json");
  RONDO_EXPECT_ERROR(IoError, load_tokenizer(folder_.path()), "'a' among the special");
}

TEST_F(TokenizerFolder, UnreadableFilesAreNamed) {
  RONDO_EXPECT_ERROR(IoError, load_tokenizer(folder_.path()), "tokenizer.json", "No such file");
  write_text(folder_ / "tokenizer.json", "{");
  RONDO_EXPECT_ERROR(IoError, load_tokenizer(folder_.path()), "tokenizer.json", "expected JSON");
  write_text(folder_ / "tokenizer.json", "[]");
  RONDO_EXPECT_ERROR(IoError, load_tokenizer(folder_.path()), "expected a JSON object");
  RONDO_EXPECT_ERROR(IoError, ByteTokenizer().save(folder_ / "absent"), "absent/tokenizer.json",
                     "writing failed");
}

// Byte-level, with a vocabulary of its own and no merges: neither of the two kinds.
TEST_F(TokenizerFolder, SomeoneElsesByteLevelVocabularyIsRefusedByName) {
  RONDO_NEEDS_DATA("tokenizers/torchtitan_test_tokenizer.json");
  std::filesystem::copy_file(test::data_dir() / "tokenizers/torchtitan_test_tokenizer.json",
                             folder_ / "tokenizer.json");
  RONDO_EXPECT_ERROR(IoError, load_tokenizer(folder_.path()), "tokenizer.json", "byte-level",
                     "supported only with");
}

}  // namespace
}  // namespace rondo
