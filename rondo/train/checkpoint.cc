#include "rondo/train/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "rondo/core/error.h"
#include "rondo/io/json_file.h"
#include "rondo/model/hf_folder.h"
#include "rondo/train/agreement.h"

namespace rondo {

namespace fs = std::filesystem;

namespace {

constexpr const char* kOperation = "checkpoint";

bool is_checkpoint(const fs::path& path) {
  return fs::is_regular_file(path / "config.json") && fs::is_regular_file(path / kStateFile);
}

/// Tables of equal size may still lay other shapes out.
void check_same_shapes(const ParameterTable& found, const ParameterTable& expected,
                       const fs::path& checkpoint) {
  for (std::size_t n = 0; n < std::min(found.infos().size(), expected.infos().size()); ++n) {
    const ParameterInfo &a = expected.infos()[n], &b = found.infos()[n];
    if (a.name != b.name || a.rows != b.rows || a.columns != b.columns)
      throw IoError(fmt::format("[checkpoint] expected {} [{}, {}] in {}, got {} [{}, {}]", a.name, a.rows,
                                a.columns, checkpoint.string(), b.name, b.rows, b.columns));
  }
  if (found.infos().size() != expected.infos().size())
    throw IoError(fmt::format("[checkpoint] expected a model of {} parameters in {}, got {}",
                              expected.parameters(), checkpoint.string(), found.parameters()));
}

/// What has the name of a checkpoint in a run, oldest first.
std::vector<fs::path> folders_of(const fs::path& run) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(run, error))
    if (is_checkpoint_name(entry.path().filename().string()) && entry.is_directory(error))
      found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

fs::path checkpoint_path(const fs::path& run, std::int64_t step) { return run / checkpoint_name(step); }

std::vector<fs::path> list_checkpoints(const fs::path& run) {
  std::vector<fs::path> found = folders_of(run);
  std::erase_if(found, [](const fs::path& folder) { return !is_checkpoint(folder); });
  return found;
}

FoundCheckpoint newest_checkpoint(Communicator& communicator, const fs::path& path) {
  std::vector<fs::path> candidates;                          // oldest first; device 0's are looked at
  const bool named = fs::is_directory(path / kStateFolder);  // whatever else it lacks
  if (communicator.device() == 0) candidates = named ? std::vector<fs::path>{path} : folders_of(path);
  FoundCheckpoint found;
  while (true) {
    found.path = broadcast_path(communicator, candidates.empty() ? fs::path() : candidates.back());
    if (found.path.empty()) break;
    try {
      verify_checkpoint(communicator, found.path);
      return found;
    } catch (const IoError& error) {
      if (found.path == path) throw;  // it was named
      found.passed_over.push_back({found.path, error.what()});
    }
    if (!candidates.empty()) candidates.pop_back();
  }
  if (found.passed_over.empty())
    throw IoError(fmt::format("[{}] expected a checkpoint, or a run with one, in {}, got none", kOperation,
                              path.string()));
  std::string damage;
  for (const DamagedCheckpoint& damaged : found.passed_over) damage += "; " + damaged.what;
  throw IoError(fmt::format("[{}] expected a checkpoint that is whole in {}, got {} damaged{}", kOperation,
                            path.string(), found.passed_over.size(), damage));
}

void verify_checkpoint(Communicator& communicator, const fs::path& checkpoint) {
  const std::vector<std::string> failures = gather_words(
      communicator, failure_of([&] {
        verify_checkpoint(checkpoint, CheckpointPart::all, {communicator.devices(), communicator.device()});
      }));
  for (std::size_t device = 0; device < failures.size(); ++device)
    if (!failures[device].empty())
      throw IoError(failures[device] + (device > 0 ? fmt::format(" (says device {})", device) : ""));
}

TrainingState read_training_state(const fs::path& checkpoint) {
  const fs::path file = checkpoint / kStateFile;
  const auto json = read_json_file(file);
  try {
    // The library would turn 1.5 into 1 and -1 into a huge number.
    const auto count = [&](const char* key, std::uint64_t most) {
      const auto& value = json.at(key);
      if (!value.is_number_unsigned() || value.template get<std::uint64_t>() > most)
        throw IoError(fmt::format("[checkpoint] expected {} from 0 to {} in {}, got {}", key, most,
                                  file.string(), value.dump()));
      return value.template get<std::uint64_t>();
    };
    const std::uint64_t format = count("format", UINT64_MAX);
    if (format != kFirstFormat && format != kManifestFormat)
      throw IoError(fmt::format("[checkpoint] expected training state of format {} or {} in {}, got {}",
                                kFirstFormat, kManifestFormat, file.string(), format));
    return {static_cast<std::int64_t>(count("step", std::uint64_t{1} << 53)),
            count("data_fingerprint", UINT64_MAX),
            json.at("data").get<std::vector<std::string>>(),
            json.at("held_out").get<std::vector<std::string>>(),
            parse_recipe(json.at("recipe").dump()),
            format};
  } catch (const nlohmann::json::exception& error) {
    throw IoError(
        fmt::format("[checkpoint] expected a training state in {}, got: {}", file.string(), error.what()));
  }
}

SavedTensors::SavedTensors(const fs::path& checkpoint, const ParameterTable& table)
    : model_(load_model_folder(checkpoint)),
      moments_((check_same_shapes(model_.table(), table, checkpoint), checkpoint / kStateFolder), table) {}

void SavedTensors::read(const Range& elements, const TrainingTensors& tensors) const {
  model_.read(elements, tensors.parameters);
  moments_.read(Moment::first, elements, tensors.first_moment);
  moments_.read(Moment::second, elements, tensors.second_moment);
}

}  // namespace rondo
