#pragma once
// Tokenizer files of llama2.c.

#include <filesystem>

#include "rondo/text/bpe_tokenizer.h"

namespace rondo {

/// Reads a tokenizer file of llama2.c: int32 length of the longest piece, then for each id float32 score,
/// int32 length and bytes of a piece; ids 0 <unk>, 1 <s>, 2 </s>, 3 ... 258 the bytes. Its merges are all
/// splits of a piece into two others, ranked by the piece's score, so that encode() gives the ids of the
/// greedy algorithm (merge the adjacent pair whose concatenation has the highest score, leftmost first) for
/// UTF-8 without U+2581. Pieces of equal score rank by id; the greedy algorithm takes the leftmost instead,
/// so there the ids may differ (trained vocabularies have no such pieces). Throws IoError naming the file,
/// the id and what was expected.
BpeTokenizer import_llama2c_tokenizer(const std::filesystem::path& path);

}  // namespace rondo
