#include "apps/metrics.h"

#include <nlohmann/json.hpp>

#include "rondo/io/atomic_file.h"
#include "rondo/io/file_error.h"

namespace rondo::apps {

namespace fs = std::filesystem;

namespace {

constexpr const char* kOperation = "metrics";

/// Calls use(line, parsed) for every whole line with a step.
template <class Use>
void for_each_line(const fs::path& path, const Use& use) {
  std::ifstream file(path, std::ios::binary);
  for (std::string line; std::getline(file, line);) {
    const auto parsed = nlohmann::json::parse(line, nullptr, false);
    if (parsed.is_object() && parsed.contains("step") && parsed["step"].is_number_integer())
      use(line, parsed);
  }
}

}  // namespace

MetricsFile::MetricsFile(fs::path path, std::int64_t resumed_step)
    : path_(std::move(path)), resumed_step_(resumed_step) {}

void MetricsFile::open() {
  std::string kept;
  for_each_line(path_, [&](const std::string& line, const nlohmann::json& parsed) {
    if (parsed["step"].get<std::int64_t>() <= resumed_step_) kept += line + "\n";
  });
  write_file_atomically(path_, kept);
  file_.open(path_, std::ios::binary | std::ios::app);
}

void MetricsFile::append(const nlohmann::ordered_json& line) {
  if (!file_.is_open()) open();
  file_ << line.dump() << "\n" << std::flush;
  check_file(file_.good(), kOperation, path_, "expected to append a line, got: {}", errno_text(errno));
}

std::vector<nlohmann::json> read_metrics(const fs::path& path) {
  std::vector<nlohmann::json> lines;
  for_each_line(path, [&](const std::string&, const nlohmann::json& parsed) { lines.push_back(parsed); });
  return lines;
}

}  // namespace rondo::apps
