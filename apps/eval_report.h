#pragma once
// What `rondo eval` says of a text.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/eval_text.h"
#include "rondo/train/evaluate.h"

namespace rondo::apps {

/// Tokens of the text whose losses --blocks tells apart.
inline constexpr std::int64_t kBlockTokens = 4096;

struct EvaluationSummary {
  Evaluation evaluation;
  EvaluationOptions options;
  std::int64_t bytes = 0;
  std::vector<std::int64_t> block_bytes;  ///< scored bytes of each block

  double nats_per_token() const;
  double bits_per_byte() const;
};

/// Fills in what the numbers of tokens, of a text of so many, come to in bytes.
void count_bytes(const EvaluationText& text, std::int64_t tokens, EvaluationSummary& summary);

/// A table for people, an object for programs.
std::string text_of(const EvaluationSummary& summary);
std::string json_of(const EvaluationSummary& summary, const std::filesystem::path& model);
/// What `rondo compare` reads: the result and its blocks.
void write_blocks(const EvaluationSummary& summary, const std::filesystem::path& model,
                  const std::filesystem::path& file);

}  // namespace rondo::apps
