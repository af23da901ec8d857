#include "rondo/text/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace rondo {
namespace {

std::string encoded(unsigned code) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((code >> shift) & 63)); };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xc0 | (code >> 6)), tail(0)};
  if (code < 0x10000) return {static_cast<char>(0xe0 | (code >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | (code >> 18)), tail(12), tail(6), tail(0)};
}

TEST(Utf8, EveryCharacterAndEveryBeginningOfOne) {
  for (unsigned code = 0; code < 0x120000; code += code < 0x10000 ? 1 : 37) {
    const std::string character = encoded(code);
    const bool valid = code < 0x110000 && (code < 0xd800 || code > 0xdfff);
    ASSERT_EQ(utf8_character_length(character + "x"), valid ? static_cast<int>(character.size()) : 0) << code;
    if (!valid) continue;
    for (std::size_t size = 1; size < character.size(); ++size)
      ASSERT_EQ(utf8_character_length(character.substr(0, size)), -1) << code;
  }
}

TEST(Utf8, IllFormed) {
  EXPECT_EQ(utf8_character_length(""), -1);
  for (const char* bad : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x9f", "\xe0\x80\x80", "\xed\xa0",
                          "\xf0\x8f", "\xf4\x90", "\xf5", "\xff", "\xc3x", "\xe2\x82x", "\xf0\x9f\x98x"})
    EXPECT_EQ(utf8_character_length(bad), 0) << bad;
  EXPECT_TRUE(is_utf8(""));
  EXPECT_TRUE(is_utf8("a\xc3\xa9\xf0\x9f\x98\x80"));
  EXPECT_FALSE(is_utf8("a\xc3"));
  EXPECT_FALSE(is_utf8("a\xc3\xa9\xff"));
}

}  // namespace
}  // namespace rondo
