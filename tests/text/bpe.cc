// BpeTokenizer: merging by rank, byte fallback, and what it refuses.

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "rondo/text/bpe_tokenizer.h"
#include "tests/support/temporary_folder.h"
#include "tests/text/small_bpe.h"

namespace rondo {
namespace {

using Ids = std::vector<std::int32_t>;
using test::small_bpe;

std::vector<std::string> pieces_of(const BpeTokenizer& tokenizer, std::string_view text) {
  std::vector<std::string> pieces;
  for (const std::int32_t id : tokenizer.encode(text))
    pieces.push_back(tokenizer.description().pieces[static_cast<std::size_t>(id)]);
  return pieces;
}
using Pieces = std::vector<std::string>;

TEST(BpeTokenizer, MergesByRankThenFromTheLeft) {
  const BpeTokenizer tokenizer(
      small_bpe({"▁", "a", "b", "ab", "ba", "aba", "aa"}, {{"b", "a"}, {"a", "b"}, {"a", "a"}, {"a", "ba"}}));
  EXPECT_EQ(pieces_of(tokenizer, "ab"), (Pieces{"▁", "ab"}));
  EXPECT_EQ(pieces_of(tokenizer, "aba"), (Pieces{"▁", "aba"}));  // b a first, then a ba
  EXPECT_EQ(pieces_of(tokenizer, "aaa"), (Pieces{"▁", "aa", "a"}));
  EXPECT_EQ(pieces_of(tokenizer, "bab"), (Pieces{"▁", "ba", "b"}));
}

TEST(BpeTokenizer, SpacesAndWords) {
  const BpeTokenizer tokenizer(small_bpe({"▁", "a", "▁a", "▁▁"}, {{"▁", "a"}, {"▁", "▁"}}));
  EXPECT_EQ(pieces_of(tokenizer, ""), Pieces{});
  EXPECT_EQ(pieces_of(tokenizer, " "), (Pieces{"▁▁"}));
  EXPECT_EQ(pieces_of(tokenizer, "a a"), (Pieces{"▁a", "▁a"}));
  EXPECT_EQ(pieces_of(tokenizer, "  a"), (Pieces{"▁▁", "▁a"}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("  a ")), "  a ");
  EXPECT_EQ(tokenizer.encode_with_bos("a"), (Ids{1, 261}));
}

TEST(BpeTokenizer, FallsBackToBytes) {
  const BpeTokenizer tokenizer(small_bpe({"▁", "a", "é"}));
  EXPECT_EQ(pieces_of(tokenizer, "aéñ\n"), (Pieces{"▁", "a", "é", "<0xC3>", "<0xB1>", "<0x0A>"}));
  EXPECT_EQ(pieces_of(tokenizer, std::string_view("\0\xff\xc3", 3)),
            (Pieces{"▁", "<0x00>", "<0xFF>", "<0xC3>"}));
  EXPECT_EQ(pieces_of(tokenizer, "<s>").size(), 4u);  // no special token comes from text
  EXPECT_EQ(tokenizer.decode(Ids{1, 259, 260, 0, 3 + 0xc3, 3 + 0xb1, 2}), "añ");
}

TEST(BpeTokenizer, SpaceWithoutAPieceIsBytesToo) {
  const BpeTokenizer tokenizer(small_bpe({"a"}));
  EXPECT_EQ(pieces_of(tokenizer, "a"), (Pieces{"<0xE2>", "<0x96>", "<0x81>", "a"}));
}

/// The definition, word for word: merge the leftmost pair of the first rank until there is none.
Ids encode_slowly(const BpeDescription& description, std::string_view text) {
  std::map<std::string, std::int32_t> id_of;
  for (std::size_t id = 0; id < description.pieces.size(); ++id)
    id_of[description.pieces[id]] = static_cast<std::int32_t>(id);
  std::vector<std::string> symbols;
  if (!text.empty()) symbols.emplace_back("▁");
  for (const char character : text) symbols.push_back(character == ' ' ? "▁" : std::string(1, character));
  for (bool merged = true; merged;) {
    merged = false;
    for (const auto& merge : description.merges) {
      for (std::size_t i = 0; i + 1 < symbols.size() && !merged; ++i) {
        if (symbols[i] != merge.first || symbols[i + 1] != merge.second) continue;
        symbols[i] += symbols[i + 1];
        symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        merged = true;
      }
      if (merged) break;
    }
  }
  Ids ids;
  for (const std::string& symbol : symbols) ids.push_back(id_of.at(symbol));
  return ids;
}

/// Random merges over the pieces that earlier merges made; some run over spaces.
BpeDescription random_bpe() {
  std::vector<std::string> pieces{"▁", "a", "b", "c"};
  std::vector<std::pair<std::string, std::string>> merges;
  const int count = *rc::gen::inRange(0, 12);
  for (int i = 0; i < count; ++i) {
    const std::string left = *rc::gen::elementOf(pieces), right = *rc::gen::elementOf(pieces);
    if (std::find(merges.begin(), merges.end(), std::pair(left, right)) != merges.end()) continue;
    merges.insert(
        merges.begin() + *rc::gen::inRange<std::ptrdiff_t>(0, static_cast<std::ptrdiff_t>(merges.size()) + 1),
        {left, right});
    if (std::find(pieces.begin(), pieces.end(), left + right) == pieces.end()) pieces.push_back(left + right);
  }
  return small_bpe(pieces, merges);
}

TEST(BpeTokenizer, EqualsTheDefinitionForAnyMerges) {
  EXPECT_TRUE(rc::check([] {
    const BpeDescription description = random_bpe();
    const BpeTokenizer tokenizer(description);
    const auto text = *rc::gen::container<std::string>(rc::gen::element(' ', 'a', 'b', 'c'));
    const Ids ids = tokenizer.encode(text);
    RC_ASSERT(ids == encode_slowly(description, text));
    RC_ASSERT(tokenizer.decode(ids) == text);
  }));
}

TEST(BpeTokenizer, RoundTripsAnyBytesWithoutTheSpaceCharacter) {
  const BpeTokenizer tokenizer(small_bpe({"▁", "a", "é", "▁a", "aé"}, {{"a", "é"}, {"▁", "a"}}));
  EXPECT_TRUE(rc::check([&] {
    const auto text = *rc::gen::container<std::string>(rc::gen::oneOf(
        rc::gen::arbitrary<char>(), rc::gen::element(' ', 'a', '\xc3', '\xa9', '\xe2', '\x96')));
    RC_PRE(text.find("▁") == std::string::npos);
    RC_ASSERT(tokenizer.decode(tokenizer.encode(text)) == text);
  }));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a▁a")), "a a");  // as documented
}

TEST(BpeTokenizer, RefusesWhatDoesNotFit) {
  const auto build = [](BpeDescription description) { BpeTokenizer tokenizer(std::move(description)); };
  RONDO_EXPECT_ERROR(ArgumentError, build(small_bpe({"a", "a"})), "'a' twice");
  RONDO_EXPECT_ERROR(ArgumentError, build(small_bpe({""})), "id 259");
  RONDO_EXPECT_ERROR(ArgumentError, build(small_bpe({"\xff"})), "pieces of UTF-8");
  RONDO_EXPECT_ERROR(ArgumentError, build(small_bpe({"a", "b"}, {{"a", "b"}})), "'ab'");
  RONDO_EXPECT_ERROR(ArgumentError, build(small_bpe({"b", "ab"}, {{"a", "b"}})), "'a'");
  RONDO_EXPECT_ERROR(ArgumentError, build(small_bpe({"a", "aa"}, {{"a", "a"}, {"a", "a"}})),
                     "'a' and 'a' twice");
  RONDO_EXPECT_ERROR(ArgumentError, build(small_bpe({"<", "s>"}, {{"<", "s>"}})), "special", "'<s>'");
  BpeDescription description = small_bpe({});
  description.pieces[3 + 0x41] = "A";
  RONDO_EXPECT_ERROR(ArgumentError, build(description), "'<0x41>'");
  description = small_bpe({});
  description.bos = 5;
  RONDO_EXPECT_ERROR(ArgumentError, build(description), "bos", "id 5");
  description.bos = 3000;
  RONDO_EXPECT_ERROR(ArgumentError, build(description), "id 3000");
  const BpeTokenizer tokenizer(small_bpe({}));
  EXPECT_THROW(tokenizer.piece(259), ArgumentError);
  EXPECT_THROW(tokenizer.piece(-1), ArgumentError);
}

}  // namespace
}  // namespace rondo
