#pragma once
// What a run's folder holds.

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/apps/command.h"

namespace rondo::test {

/// The training losses of a metrics.jsonl, in order.
inline std::vector<double> losses(const std::filesystem::path& metrics) {
  std::vector<double> values;
  std::istringstream file(read_text(metrics));
  for (std::string line; std::getline(file, line);) {
    const auto parsed = nlohmann::json::parse(line);
    if (parsed.contains("loss")) values.push_back(parsed["loss"]);
  }
  return values;
}

/// Steps of the folders that have the name of a checkpoint, in order.
inline std::vector<int> checkpoint_steps(const std::filesystem::path& run) {
  std::vector<int> steps;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run, error))
    if (const std::string name = entry.path().filename().string(); name.starts_with("step-"))
      steps.push_back(std::stoi(name.substr(5)));
  std::sort(steps.begin(), steps.end());
  return steps;
}

}  // namespace rondo::test
