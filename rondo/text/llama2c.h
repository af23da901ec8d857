#pragma once
// Tokenizer files of llama2.c.

#include <filesystem>

#include "rondo/text/bpe_tokenizer.h"

namespace rondo {

/// Reads a tokenizer file of llama2.c: int32 length of the longest piece, then for each id float32 score,
/// int32 length and bytes of a piece; ids 0 <unk>, 1 <s>, 2 </s>, 3 ... 258 the bytes. Its merges are all
/// splits of a piece into two others, ranked by the piece's score, so that encode() gives the ids of the
/// greedy algorithm (merge the adjacent pair whose concatenation has the highest score, leftmost first) for
/// every text without U+2581, provided that
/// - no two pieces have the same score (here the lower id wins, there the left one), and
/// - pieces that repeat one string three times or more are built from the left (every trained vocabulary does
/// that). Throws IoError naming the file, the id and what was expected.
BpeTokenizer import_llama2c_tokenizer(const std::filesystem::path& path);

}  // namespace rondo
