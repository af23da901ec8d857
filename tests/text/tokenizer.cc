// ByteTokenizer and streaming decoding.

#include "rondo/text/tokenizer.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "rondo/core/error.h"
#include "rondo/text/byte_tokenizer.h"
#include "rondo/text/utf8.h"
#include "tests/text/small_bpe.h"

namespace rondo {
namespace {

using Ids = std::vector<std::int32_t>;

TEST(ByteTokenizer, IdsAreBytes) {
  const ByteTokenizer tokenizer;
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.encode(std::string_view("a\0\xff", 3)), (Ids{97, 0, 255}));
  EXPECT_EQ(tokenizer.encode_with_bos("a"), (Ids{256, 97}));
  EXPECT_EQ(tokenizer.decode(Ids{256, 97, 0, 255, 257}), std::string("a\0\xff", 3));
  EXPECT_EQ(tokenizer.vocabulary_size(), 258);
  EXPECT_EQ(tokenizer.bos(), 256);
  EXPECT_EQ(tokenizer.eos(), 257);
  EXPECT_THROW(tokenizer.decode(Ids{258}), ArgumentError);
  EXPECT_THROW(tokenizer.decode(Ids{-1}), ArgumentError);
}

TEST(ByteTokenizer, SpecialTokensSpelledOutAreText) {
  const ByteTokenizer tokenizer;
  EXPECT_EQ(tokenizer.encode("<bos>").size(), 5u);
}

TEST(ByteTokenizer, RoundTripsAnyBytes) {
  const ByteTokenizer tokenizer;
  EXPECT_TRUE(rc::check(
      [&](const std::string& text) { RC_ASSERT(tokenizer.decode(tokenizer.encode(text)) == text); }));
}

TEST(ByteLevelCharacters, AreGpt2s) {
  const auto characters = byte_level_characters();
  EXPECT_EQ(characters['A'], "A");
  EXPECT_EQ(characters[' '], "Ġ");
  EXPECT_EQ(characters['\n'], "Ċ");
  EXPECT_EQ(characters[0], "Ā");
  EXPECT_EQ(characters[127], "ġ");
  EXPECT_EQ(characters[160], "ł");
  EXPECT_EQ(characters[173], "Ń");  // the soft hyphen is not printable
  EXPECT_EQ(characters[161], "¡");
  EXPECT_EQ(characters[255], "ÿ");
}

TEST(StreamingDecoder, ReturnsWholeCharacters) {
  const ByteTokenizer tokenizer;
  StreamingDecoder decoder(tokenizer);
  std::vector<std::string> parts;
  for (const std::int32_t id : tokenizer.encode("aé😀")) parts.push_back(decoder.feed(id));
  EXPECT_EQ(parts, (std::vector<std::string>{"a", "", "é", "", "", "", "😀"}));
  EXPECT_EQ(decoder.flush(), "");
}

TEST(StreamingDecoder, PassesIllFormedBytesOnAsSoonAsTheyAreThat) {
  const ByteTokenizer tokenizer;
  StreamingDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.feed(0xff), "\xff");
  EXPECT_EQ(decoder.feed(0xe2), "");
  EXPECT_EQ(decoder.feed(0x82), "");
  EXPECT_EQ(decoder.feed('x'), "\xe2\x82x");
  EXPECT_EQ(decoder.feed(0xe2), "");
  EXPECT_EQ(decoder.feed(257), "");  // eos
  EXPECT_EQ(decoder.flush(), "\xe2");
  EXPECT_EQ(decoder.flush(), "");
}

TEST(StreamingDecoder, DropsTheSpaceInFrontOnlyAtTheStart) {
  const BpeTokenizer tokenizer(test::small_bpe({"▁", "a", "▁a"}));
  StreamingDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.feed(1), "");
  EXPECT_EQ(decoder.feed(261), "a");
  EXPECT_EQ(decoder.feed(261), " a");
  StreamingDecoder continuing(tokenizer, /*at_start=*/false);
  EXPECT_EQ(continuing.feed(261), " a");
  StreamingDecoder alone(tokenizer);
  EXPECT_EQ(alone.feed(259), "");
  EXPECT_EQ(alone.feed(259), " ");
}

void check_streaming(const Tokenizer& tokenizer, const Ids& ids) {
  StreamingDecoder decoder(tokenizer);
  std::string all;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    all += decoder.feed(ids[i]);
    const std::string so_far = tokenizer.decode(std::span(ids).first(i + 1));
    RC_ASSERT(so_far.starts_with(all));
    const std::string held = so_far.substr(all.size());
    RC_ASSERT(held.size() <= 3);
    RC_ASSERT(held.empty() || utf8_character_length(held) == -1);
  }
  all += decoder.flush();
  RC_ASSERT(all == tokenizer.decode(ids));
}

// Bytes that begin and continue characters come up far more often than in random ones.
rc::Gen<std::int32_t> any_byte() {
  return rc::gen::oneOf(rc::gen::inRange(0, 256), rc::gen::inRange(0x80, 0xc0), rc::gen::inRange(0xe0, 0xf5));
}

TEST(StreamingDecoder, EqualsDecodeForAnyBytes) {
  const ByteTokenizer tokenizer;
  EXPECT_TRUE(rc::check([&] { check_streaming(tokenizer, *rc::gen::container<Ids>(any_byte())); }));
}

TEST(StreamingDecoder, EqualsDecodeForAnyPieces) {
  const BpeTokenizer tokenizer(test::small_bpe({"▁", "a", "▁▁", "é▁b"}));
  const auto id = rc::gen::oneOf(rc::gen::map(any_byte(), [](std::int32_t byte) { return byte + 3; }),
                                 rc::gen::inRange(259, 263), rc::gen::inRange(0, 3));
  EXPECT_TRUE(rc::check([&] { check_streaming(tokenizer, *rc::gen::container<Ids>(id)); }));
}

}  // namespace
}  // namespace rondo
