#include "apps/eval_text.h"

#include <algorithm>

#include "apps/start_facts.h"
#include "rondo/core/error.h"
#include "rondo/io/mapped_file.h"
#include "rondo/train/trainer.h"

namespace rondo::apps {

EvaluationText::EvaluationText(const std::vector<std::string>& paths, const ModelSource& model)
    : tokenizer_(*model.tokenizer) {
  constexpr const char* kOperation = "eval";
  if (model.is_bytes()) {
    corpus_ = Corpus::open({paths.begin(), paths.end()});
    return;
  }
  check_argument(paths.size() == 1, kOperation,
                 "expected one text for a model with the tokenizer '{}', got {}", tokenizer_.name(),
                 paths.size());
  const MappedFile file(paths.front());
  check_argument(file.size() > 0, kOperation, "expected text in {}, got an empty file", paths.front());
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  ids_ = tokenizer_.bos() ? tokenizer_.encode_with_bos(text) : tokenizer_.encode(text);
}

TokenSource EvaluationText::source() const {
  if (corpus_) return token_source(*corpus_);
  return {.tokens = static_cast<std::int64_t>(ids_.size()),
          .read = [this](std::int64_t first, std::span<std::int32_t> ids) {
            std::copy_n(ids_.begin() + first, ids.size(), ids.begin());
          }};
}

Fact EvaluationText::fact() const {
  if (corpus_) return text_fact("text", *corpus_);
  return hash_fact("text", {reinterpret_cast<const char*>(ids_.data()), ids_.size() * sizeof(ids_[0])});
}

FileStamp EvaluationText::stamp() const {
  Checksum checksum;
  if (!corpus_) {
    checksum.add(std::as_bytes(std::span(ids_)));
    return checksum.stamp();
  }
  corpus_->for_each_document([&](std::span<const std::byte> bytes) {
    const std::uint64_t size = bytes.size();
    checksum.add(std::as_bytes(std::span(&size, 1)));
    checksum.add(bytes);
  });
  return checksum.stamp();
}

std::int64_t EvaluationText::bytes(Range tokens, std::int64_t scored) const {
  if (corpus_) return scored;
  std::int64_t bytes = 0;
  for (std::int64_t n = tokens.begin; n < tokens.end; ++n)
    bytes += static_cast<std::int64_t>(tokenizer_.piece(ids_[static_cast<std::size_t>(n)]).size());
  // The space that encoding put in front of the text is no byte of it.
  const bool first = tokens.begin <= 1 && tokens.end > 1;
  return bytes - (tokenizer_.drops_leading_space() && tokenizer_.bos() && first ? 1 : 0);
}

}  // namespace rondo::apps
