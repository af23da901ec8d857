#include "apps/eval_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "rondo/io/atomic_file.h"

namespace rondo::apps {

namespace fs = std::filesystem;

namespace {

nlohmann::ordered_json object_of(const EvaluationSummary& s, const fs::path& folder) {
  nlohmann::ordered_json json;
  json["model"] = folder.string();
  json["bits_per_byte"] = s.bits_per_byte();
  json["perplexity"] = std::exp(s.nats_per_token());
  json["nats"] = s.evaluation.nats;
  json["tokens"] = s.evaluation.tokens;
  json["bytes"] = s.bytes;
  json["context"] = s.options.context;
  json["stride"] = s.options.stride;
  json["skipped"] = s.options.skipped;
  json["windows"] = s.evaluation.windows;
  json["by_position"] = nlohmann::ordered_json::array();
  for (const PositionBucket& bucket : s.evaluation.by_position)
    json["by_position"].push_back(
        {{"begin", bucket.begin}, {"end", bucket.end}, {"tokens", bucket.tokens}, {"nats", bucket.nats}});
  return json;
}

std::string dump(const nlohmann::ordered_json& json) {
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

/// Places of the scored tokens: behind the first and the skipped ones, up to the end of the last window.
Range scored_tokens(std::int64_t tokens, const EvaluationOptions& options, std::int64_t windows) {
  const std::int64_t begin = 1 + options.skipped;
  if (windows == 0) return {begin, begin};
  const std::int64_t end = std::min(tokens, (windows - 1) * options.stride + options.context + 1);
  return {begin, std::max(begin, end)};
}

}  // namespace

double EvaluationSummary::nats_per_token() const {
  return evaluation.nats / static_cast<double>(std::max<std::int64_t>(1, evaluation.tokens));
}

double EvaluationSummary::bits_per_byte() const {
  return evaluation.nats / std::numbers::ln2 / static_cast<double>(std::max<std::int64_t>(1, bytes));
}

void count_bytes(const EvaluationText& text, std::int64_t tokens, EvaluationSummary& s) {
  const Range scored = scored_tokens(tokens, s.options, s.evaluation.windows);
  s.bytes = text.bytes(scored, s.evaluation.tokens);
  std::int64_t begin = 0;
  for (const TextBlock& block : s.evaluation.by_block) {
    const std::int64_t end = begin + kBlockTokens;
    const std::int64_t from = std::max(begin, scored.begin), to = std::min(end, scored.end);
    s.block_bytes.push_back(text.bytes({from, std::max(from, to)}, block.tokens));
    begin = end;
  }
}

std::string text_of(const EvaluationSummary& s) {
  std::string out = fmt::format(
      "bits per byte  {:.4f}\nperplexity     {:.4f} per token\nscored         {} tokens, {} bytes\n"
      "windows        {} of {} tokens, stride {}\n\n{:>20} {:>12} {:>14}\n",
      s.bits_per_byte(), std::exp(s.nats_per_token()), s.evaluation.tokens, s.bytes, s.evaluation.windows,
      s.options.context, s.options.stride, "tokens in context", "scored", "bits per token");
  const auto last_of = [&](const PositionBucket& bucket) {
    return std::min(bucket.end - 1, s.options.context);
  };
  for (const PositionBucket& bucket : s.evaluation.by_position)
    out +=
        fmt::format("{:>20} {:>12} {:>14.4f}\n",
                    bucket.begin == last_of(bucket) ? fmt::format("{}", bucket.begin)
                                                    : fmt::format("{} ... {}", bucket.begin, last_of(bucket)),
                    bucket.tokens, bucket.nats / static_cast<double>(bucket.tokens) / std::numbers::ln2);
  return out;
}

std::string json_of(const EvaluationSummary& s, const fs::path& model) { return dump(object_of(s, model)); }

void write_blocks(const EvaluationSummary& s, const fs::path& folder, const fs::path& file) {
  nlohmann::ordered_json json = object_of(s, folder);
  json["block_tokens"] = kBlockTokens;
  json["blocks"] = nlohmann::ordered_json::array();
  for (std::size_t n = 0; n < s.block_bytes.size(); ++n)
    json["blocks"].push_back({{"bytes", s.block_bytes[n]}, {"nats", s.evaluation.by_block[n].nats}});
  AtomicFile out(file);
  out.write(dump(json));
  out.commit();
}

}  // namespace rondo::apps
