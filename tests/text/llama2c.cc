// Import of llama2.c's tokenizer: the ids are those of its greedy algorithm, written down here once more.

#include "rondo/text/llama2c.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "rondo/core/error.h"
#include "tests/support/data.h"
#include "tests/support/npy.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

using Ids = std::vector<std::int32_t>;
using test::read_text;
using test::TemporaryFolder;
using test::write_text;

struct Scored {
  std::string piece;
  float score;
};

std::vector<Scored> read_vocabulary(const std::string& file) {
  std::vector<Scored> vocabulary;
  for (std::size_t at = 4; at < file.size();) {
    float score = 0;
    std::int32_t length = 0;
    std::memcpy(&score, &file[at], 4);
    std::memcpy(&length, &file[at + 4], 4);
    vocabulary.push_back({file.substr(at + 8, static_cast<std::size_t>(length)), score});
    at += 8 + static_cast<std::size_t>(length);
  }
  return vocabulary;
}

/// A space in front; characters, unknown ones as bytes + 3; then, until nothing changes, the adjacent pair
/// whose concatenation has the highest score is merged, the leftmost of equals.
Ids encode_greedily(const std::vector<Scored>& vocabulary, const std::string& text) {
  std::map<std::string, std::int32_t> id_of;
  for (std::size_t id = 0; id < vocabulary.size(); ++id)
    id_of[vocabulary[id].piece] = static_cast<std::int32_t>(id);
  Ids ids;
  if (!text.empty()) ids.push_back(id_of.at(" "));
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at + 1;
    while (end < text.size() && (text[end] & 0xc0) == 0x80) ++end;
    const auto found = id_of.find(text.substr(at, end - at));
    if (found != id_of.end()) ids.push_back(found->second);
    for (; at < end; ++at)
      if (found == id_of.end()) ids.push_back(3 + static_cast<unsigned char>(text[at]));
  }
  std::map<std::pair<std::int32_t, std::int32_t>, std::int32_t> known;  // merged id of a pair, -1 for none
  const auto merged = [&](std::int32_t left, std::int32_t right) {
    const auto [entry, is_new] = known.try_emplace({left, right}, -1);
    if (is_new) {
      const auto found = id_of.find(vocabulary[static_cast<std::size_t>(left)].piece +
                                    vocabulary[static_cast<std::size_t>(right)].piece);
      if (found != id_of.end()) entry->second = found->second;
    }
    return entry->second;
  };
  while (true) {
    std::size_t best = ids.size();
    float best_score = -1e10f;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const std::int32_t id = merged(ids[i], ids[i + 1]);
      if (id < 0 || vocabulary[static_cast<std::size_t>(id)].score <= best_score) continue;
      best = i;
      best_score = vocabulary[static_cast<std::size_t>(id)].score;
    }
    if (best == ids.size()) return ids;
    ids[best] = merged(ids[best], ids[best + 1]);
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

std::string file_of(const std::vector<Scored>& vocabulary) {
  std::string file;
  const auto put = [&](const auto& value) {
    file.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  put(std::int32_t{64});
  for (const Scored& scored : vocabulary) {
    put(scored.score);
    put(static_cast<std::int32_t>(scored.piece.size()));
    file += scored.piece;
  }
  return file;
}

std::vector<Scored> small_vocabulary() {
  std::vector<Scored> vocabulary{{"<unk>", 0}, {"\n<s>\n", 0}, {"\n</s>\n", 0}};
  for (int byte = 0; byte < 256; ++byte) vocabulary.push_back({fmt::format("<0x{:02X}>", byte), 0});
  return vocabulary;
}

TEST(Llama2cTokenizer, EqualsTheGreedyAlgorithmForAnyVocabulary) {
  const TemporaryFolder folder;
  EXPECT_TRUE(rc::check([&] {
    const auto letters = rc::gen::element(' ', 'a', 'b');
    const auto strings = *rc::gen::container<std::set<std::string>>(
        rc::gen::resize(6, rc::gen::container<std::string>(letters)));
    std::vector<Scored> vocabulary = small_vocabulary();
    for (const char* letter : {" ", "a", "b"}) vocabulary.push_back({letter, -1000});
    std::vector<std::string> pieces(strings.begin(), strings.end());
    for (std::size_t i = pieces.size(); i > 1; --i)
      std::swap(pieces[i - 1], pieces[*rc::gen::inRange<std::size_t>(0, i)]);
    for (const std::string& piece : pieces)
      if (piece.size() > 1) vocabulary.push_back({piece, -static_cast<float>(vocabulary.size())});
    write_text(folder / "tok", file_of(vocabulary));
    const BpeTokenizer tokenizer = import_llama2c_tokenizer(folder / "tok");
    for (int i = 0; i < 5; ++i) {
      const auto text = *rc::gen::scale(3.0, rc::gen::container<std::string>(letters));
      RC_ASSERT(tokenizer.encode(text) == encode_greedily(vocabulary, text));
      RC_ASSERT(tokenizer.decode(tokenizer.encode(text)) == text);
    }
  }));
}

// "aba" can be made of ab|a and of a|ba; in "ab" "a" "ba" both fit and the left one must win.
TEST(Llama2cTokenizer, OverlappingSplitsOfAPieceMergeFromTheLeft) {
  const TemporaryFolder folder;
  std::vector<Scored> vocabulary = small_vocabulary();
  for (const char* piece : {" ", "a", "b", "c", "ba", "bac", "ab", "aba"})
    vocabulary.push_back({piece, 259 - static_cast<float>(vocabulary.size())});
  std::swap(vocabulary[263].score, vocabulary[265].score);  // ab before ba
  write_text(folder / "tok", file_of(vocabulary));
  const BpeTokenizer tokenizer = import_llama2c_tokenizer(folder / "tok");
  for (const char* text : {"ababa", "abaaba", "ababab", "aababac", "baba"})
    EXPECT_EQ(tokenizer.encode(text), encode_greedily(vocabulary, text)) << text;
}

TEST(Llama2cTokenizer, RefusesOtherFiles) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& file, const std::string& cause) {
    write_text(folder / "tok", file);
    RONDO_EXPECT_ERROR(IoError, import_llama2c_tokenizer(folder / "tok"), (folder / "tok").string(), cause);
  };
  RONDO_EXPECT_ERROR(IoError, import_llama2c_tokenizer(folder / "absent"), "absent", "readable");
  refused("", "expected 4 more bytes");
  refused(file_of({}), "at least 259 pieces, got 0");
  const std::string good = file_of(small_vocabulary());
  refused(good.substr(0, good.size() - 1), "id 258");
  refused(good + "abc", "expected 4 more bytes, got 3");
  const auto changed = [&](std::size_t id, const Scored& scored, const std::string& cause) {
    std::vector<Scored> vocabulary = small_vocabulary();
    vocabulary.resize(std::max(vocabulary.size(), id + 1));
    vocabulary[id] = scored;
    refused(file_of(vocabulary), cause);
  };
  changed(1, {"<bos>", 0}, "id 1: expected <s>, got '<bos>'");
  changed(3, {"<0x01>", 0}, "id 3: expected <0x00>");
  changed(259, {"", 0}, "id 259: expected 1 to 64 bytes");
  changed(259, {std::string(65, 'x'), 0}, "got a length of 65");
  changed(259, {"\xff", 0}, "id 259: expected UTF-8");
  changed(259, {"▁", 0}, "without U+2581");
  changed(259, {"a", std::nanf("")}, "finite score");
  changed(259, {"<0x41>", 0}, "'<0x41>' twice");
  std::vector<Scored> vocabulary = small_vocabulary();
  vocabulary.push_back({"a", 0});
  vocabulary.push_back({"a", 0});
  refused(file_of(vocabulary), "id 260: the piece 'a' is there twice");
}

class Stories260K : public ::testing::Test {
 protected:
  std::filesystem::path data(const std::string& name) const { return test::data_dir() / "tinyllama" / name; }
};

TEST_F(Stories260K, SampleGivesTheGreedyIdsAndComesBack) {
  RONDO_NEEDS_DATA("tinyllama/tok512.bin");
  const BpeTokenizer tokenizer = import_llama2c_tokenizer(data("tok512.bin"));
  EXPECT_EQ(tokenizer.vocabulary_size(), 512);
  const std::vector<Scored> vocabulary = read_vocabulary(read_text(data("tok512.bin")));
  const std::string sample = read_text(data("tinystories_sample.cs336.txt"));
  ASSERT_FALSE(sample.empty());
  const Ids ids = tokenizer.encode(sample);
  EXPECT_EQ(ids, encode_greedily(vocabulary, sample));
  EXPECT_EQ(tokenizer.decode(ids), sample);
}

TEST_F(Stories260K, GoldenTextGivesTheGoldenIds) {
  RONDO_NEEDS_DATA("tinyllama/golden.json");
  const BpeTokenizer tokenizer = import_llama2c_tokenizer(data("tok512.bin"));
  const auto text = nlohmann::json::parse(read_text(data("golden.json")))["greedy_text"].get<std::string>();
  const test::NpyArray golden = test::parse_npy(read_text(data("golden_greedy_tokens.npy")), "golden tokens");
  const Ids ids(golden.values.begin(), golden.values.end());
  ASSERT_EQ(ids.front(), tokenizer.bos());
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_EQ(tokenizer.encode_with_bos(text), ids);
}

TEST_F(Stories260K, SavedAndLoadedGivesTheSameIds) {
  RONDO_NEEDS_DATA("tinyllama/tok512.bin");
  const TemporaryFolder folder;
  const BpeTokenizer tokenizer = import_llama2c_tokenizer(data("tok512.bin"));
  tokenizer.save(folder.path());
  const auto loaded = load_tokenizer(folder.path());
  EXPECT_EQ(loaded->bos(), 1);
  EXPECT_EQ(loaded->eos(), 2);
  EXPECT_TRUE(loaded->adds_bos());
  const std::string sample = read_text(data("tinystories_sample.cs336.txt")) + " ña\xf0\x9f\x98\x80\t\xff";
  EXPECT_EQ(loaded->encode(sample), tokenizer.encode(sample));
  EXPECT_EQ(loaded->decode(loaded->encode(sample)), sample);
}

}  // namespace
}  // namespace rondo
