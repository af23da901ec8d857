#pragma once
// metrics.jsonl of a run: one JSON object a line, of a training step or of an evaluation.

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json_fwd.hpp>
#include <vector>

namespace rondo::apps {

class MetricsFile {
 public:
  /// Nothing is read or written before the first append(). Lines beyond `resumed_step`, and a line that was
  /// cut short, are then dropped; 0 drops all.
  MetricsFile(std::filesystem::path path, std::int64_t resumed_step);

  /// Writes the line at once; IoError where that fails.
  void append(const nlohmann::ordered_json& line);
  const std::filesystem::path& path() const { return path_; }

 private:
  void open();
  std::filesystem::path path_;
  std::int64_t resumed_step_;
  std::ofstream file_;
};

/// The lines of a file that are JSON objects with a step; none where there is no file.
std::vector<nlohmann::json> read_metrics(const std::filesystem::path& path);

}  // namespace rondo::apps
