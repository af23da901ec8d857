#include "rondo/text/utf8.h"

#include <algorithm>
#include <cstddef>

namespace rondo {
namespace {

/// Length of a character by its first byte, and the range of its second; length 0 for a byte that begins
/// none.
struct Lead {
  std::size_t length;
  unsigned char second_low = 0x80, second_high = 0xbf;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xc2 || byte > 0xf4) return {0};
  if (byte < 0xe0) return {2};
  if (byte < 0xf0)
    return {3, static_cast<unsigned char>(byte == 0xe0 ? 0xa0 : 0x80),
            static_cast<unsigned char>(byte == 0xed ? 0x9f : 0xbf)};
  return {4, static_cast<unsigned char>(byte == 0xf0 ? 0x90 : 0x80),
          static_cast<unsigned char>(byte == 0xf4 ? 0x8f : 0xbf)};
}

}  // namespace

int utf8_character_length(std::string_view text) {
  if (text.empty()) return -1;
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  for (std::size_t i = 1; i < std::min(lead.length, text.size()); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const unsigned char low = i == 1 ? lead.second_low : 0x80, high = i == 1 ? lead.second_high : 0xbf;
    if (byte < low || byte > high) return 0;
  }
  return text.size() < lead.length ? -1 : static_cast<int>(lead.length);
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const int length = utf8_character_length(text);
    if (length <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(length));
  }
  return true;
}

}  // namespace rondo
