#pragma once
// A small vocabulary with byte fallback for tests: 0 <unk>, 1 <s>, 2 </s>, 3 ... 258 bytes, then the given
// pieces.

#include "rondo/core/error.h"
#include "rondo/text/bpe_tokenizer.h"

namespace rondo::test {

inline BpeDescription small_bpe(const std::vector<std::string>& pieces,
                                const std::vector<std::pair<std::string, std::string>>& merges = {}) {
  BpeDescription description{.pieces = {"<unk>", "<s>", "</s>"},
                             .merges = merges,
                             .special = {0, 1, 2},
                             .unknown = 0,
                             .bos = 1,
                             .eos = 2};
  for (int byte = 0; byte < 256; ++byte) description.pieces.push_back(fmt::format("<0x{:02X}>", byte));
  description.pieces.insert(description.pieces.end(), pieces.begin(), pieces.end());
  return description;
}

}  // namespace rondo::test
