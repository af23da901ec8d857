#pragma once
// The text of an evaluation.

#include <optional>
#include <string>
#include <vector>

#include "apps/model_source.h"
#include "rondo/comm/agreement.h"
#include "rondo/io/checksum.h"
#include "rondo/train/corpus.h"
#include "rondo/train/evaluate.h"

namespace rondo::apps {

/// A text as tokens. Bytes are read from the mapped files as they are needed; for a model with a vocabulary
/// of its own the ids are held.
class EvaluationText {
 public:
  /// The model outlives it. ArgumentError for more than one file where the tokenizer is not that of bytes.
  EvaluationText(const std::vector<std::string>& paths, const ModelSource& model);

  TokenSource source() const;
  /// For processes to compare.
  Fact fact() const;
  /// Of the whole content and where files end in it.
  FileStamp stamp() const;
  /// Bytes of `tokens`, of which `scored` were scored.
  std::int64_t bytes(Range tokens, std::int64_t scored) const;

 private:
  const Tokenizer& tokenizer_;
  std::optional<Corpus> corpus_;
  std::vector<std::int32_t> ids_;
};

}  // namespace rondo::apps
