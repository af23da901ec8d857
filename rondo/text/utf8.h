#pragma once
// UTF-8, strictly (RFC 3629, section 4): no overlong forms, no surrogates, nothing above U+10FFFF.

#include <string_view>

namespace rondo {

/// Bytes (1 to 4) of the well-formed character that `text` begins with; 0 when it begins with none and cannot
/// come to; -1 when it is empty or ends inside a character that is well-formed so far.
int utf8_character_length(std::string_view text);

/// Whether all of `text` is well-formed.
bool is_utf8(std::string_view text);

}  // namespace rondo
