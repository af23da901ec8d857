#include "rondo/train/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "rondo/core/error.h"
#include "rondo/io/atomic_file.h"
#include "rondo/io/json_file.h"
#include "rondo/io/safetensors.h"
#include "rondo/model/hf_folder.h"
#include "rondo/text/byte_tokenizer.h"

namespace rondo {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

constexpr std::uint64_t kFormat = 1;
constexpr const char* kPrefix = "step-";

bool is_checkpoint(const fs::path& path) {
  return fs::is_regular_file(path / "config.json") &&
         fs::is_regular_file(path / "training_state" / "state.json");
}

/// The moments' names are the parameters' with these in front.
struct Moment {
  const char* prefix;
  std::span<float> values;
};
std::vector<Moment> moments_of(const TrainingTensors& tensors) {
  return {{"first_moment.", tensors.first_moment}, {"second_moment.", tensors.second_moment}};
}

std::span<float> values_of(const Moment& moment, const ParameterInfo& info) {
  return moment.values.subspan(static_cast<std::size_t>(info.offset),
                               static_cast<std::size_t>(info.elements()));
}

void save_moments(const fs::path& file, const ParameterTable& table, const TrainingTensors& tensors) {
  std::vector<SafetensorsEntry> entries;
  for (const Moment& moment : moments_of(tensors))
    for (const ParameterInfo& info : table.infos())
      entries.push_back({moment.prefix + info.name, "F32", {info.rows, info.columns}});
  SafetensorsWriter writer(file, entries);
  for (const Moment& moment : moments_of(tensors))
    for (const ParameterInfo& info : table.infos()) {
      const std::span<const float> values = values_of(moment, info);
      writer.append(moment.prefix + info.name, values);
    }
  writer.finish();
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

void remove_old(const fs::path& run, const fs::path& written, int keep) {
  if (keep <= 0) return;
  std::vector<fs::path> all = list_checkpoints(run);
  if (all.size() <= static_cast<std::size_t>(keep)) return;
  all.resize(all.size() - static_cast<std::size_t>(keep));
  for (const fs::path& old : all) {
    if (old == written) continue;  // a run resumed from an earlier step
    std::error_code ignored;       // a checkpoint too many is no reason to stop a run
    fs::remove_all(old, ignored);
  }
}

}  // namespace

fs::path checkpoint_path(const fs::path& run, std::int64_t step) {
  return run / fmt::format("{}{:08}", kPrefix, step);
}

fs::path save_checkpoint(const fs::path& run, const ModelConfig& config, const ParameterTable& table,
                         const TrainingState& state, const TrainingTensors& tensors, int keep) {
  std::error_code error;
  fs::create_directories(run, error);
  if (error)
    throw IoError(fmt::format("[checkpoint] expected to create {}, got: {}", run.string(), error.message()));
  const fs::path path = checkpoint_path(run, state.step);
  AtomicDirectory folder(path);
  save_model_files(folder.temporary_path(), config, table, tensors.parameters, DType::f32);
  ByteTokenizer().save(folder.temporary_path());
  const fs::path training = folder.temporary_path() / "training_state";
  fs::create_directory(training, error);
  if (error)
    throw IoError(
        fmt::format("[checkpoint] expected to create {}, got: {}", training.string(), error.message()));
  save_moments(training / "optimizer.safetensors", table, tensors);
  ordered_json json;
  json["format"] = kFormat;
  json["step"] = state.step;
  json["data_fingerprint"] = state.data_fingerprint;
  json["data"] = state.data;
  json["held_out"] = state.held_out;
  json["recipe"] = ordered_json::parse(to_json(state.recipe));
  write_file_atomically(training / "state.json", json.dump(2) + "\n");
  folder.commit();
  remove_old(run, path, keep);
  return path;
}

std::vector<fs::path> list_checkpoints(const fs::path& run) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(run, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kPrefix) && is_checkpoint(entry.path())) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

fs::path newest_checkpoint(const fs::path& path) {
  if (is_checkpoint(path)) return path;
  const std::vector<fs::path> all = list_checkpoints(path);
  if (all.empty())
    throw IoError(
        fmt::format("[checkpoint] expected a checkpoint, or a run with one, in {}, got none", path.string()));
  return all.back();
}

TrainingState read_training_state(const fs::path& checkpoint) {
  const fs::path file = checkpoint / "training_state" / "state.json";
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
    if (const std::uint64_t format = count("format", UINT64_MAX); format != kFormat)
      throw IoError(fmt::format("[checkpoint] expected training state of format {} in {}, got {}", kFormat,
                                file.string(), format));
    return {static_cast<std::int64_t>(count("step", std::uint64_t{1} << 53)),
            count("data_fingerprint", UINT64_MAX), json.at("data").get<std::vector<std::string>>(),
            json.at("held_out").get<std::vector<std::string>>(), parse_recipe(json.at("recipe").dump())};
  } catch (const nlohmann::json::exception& error) {
    throw IoError(
        fmt::format("[checkpoint] expected a training state in {}, got: {}", file.string(), error.what()));
  }
}

void load_training_tensors(const fs::path& checkpoint, const ParameterTable& table,
                           const TrainingTensors& tensors) {
  const LoadedModel model = load_model_folder(checkpoint);
  check_same_shapes(model.table(), table, checkpoint);
  model.fill(tensors.parameters);
  const SafetensorsFile file(checkpoint / "training_state" / "optimizer.safetensors");
  for (const Moment& moment : moments_of(tensors))
    for (const ParameterInfo& info : table.infos())
      to_float32(file.tensor(moment.prefix + info.name), values_of(moment, info));
}

}  // namespace rondo
