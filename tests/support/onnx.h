#pragma once
// Operator cases of the ONNX conformance suite: arrays as .npy, described by a manifest.json.

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rondo/core/error.h"
#include "tests/support/npy.h"

namespace rondo::test {

struct OnnxCase {
  std::string name, op;
  nlohmann::json attributes;
  std::map<std::string, NpyArray> inputs, outputs;

  bool has(const std::string& input) const { return inputs.contains(input); }
  bool wants(const std::string& output) const { return outputs.contains(output); }
  double number(const char* attribute, double otherwise) const {
    return attributes.value(attribute, otherwise);
  }
  std::int64_t integer(const char* attribute, std::int64_t otherwise) const {
    return attributes.value(attribute, otherwise);
  }
};

/// All cases of the manifest in `folder`, by name; throws IoError when one is missing or malformed.
inline std::vector<OnnxCase> read_onnx_cases(const std::filesystem::path& folder) {
  std::ifstream file(folder / "manifest.json");
  if (!file) throw IoError("[onnx] expected a manifest.json in " + folder.string());
  std::vector<OnnxCase> cases;
  const nlohmann::json manifest = nlohmann::json::parse(file);  // items() of a temporary would dangle
  for (const auto& [name, entry] : manifest.at("cases").items()) {
    OnnxCase onnx_case{name, entry.at("op"), entry.at("attrs"), {}, {}};
    for (const auto& [array, described] : entry.at("inputs").items())
      onnx_case.inputs[array] = read_npy(folder / name / std::string(described.at("file")));
    for (const auto& [array, described] : entry.at("outputs").items())
      onnx_case.outputs[array] = read_npy(folder / name / std::string(described.at("file")));
    cases.push_back(std::move(onnx_case));
  }
  return cases;
}

}  // namespace rondo::test
