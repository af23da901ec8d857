#include "rondo/model/hf_folder.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "rondo/core/error.h"
#include "rondo/io/atomic_file.h"
#include "rondo/io/file_error.h"

namespace rondo {
namespace {

constexpr const char* kHead = "lm_head.weight";

std::vector<std::int64_t> shape_of(const ParameterInfo& info) {
  if (info.is_norm()) return {info.columns};
  return {info.rows, info.columns};
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
  return text + "]";
}

/// The first few of `names`, then how many more.
std::string listed(const std::vector<std::string>& names) {
  constexpr std::size_t shown = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), shown); ++i) text += (i == 0 ? "" : ", ") + names[i];
  return names.size() > shown ? text + fmt::format(" and {} more", names.size() - shown) : text;
}

bool is_derived(const std::string& name) { return name.ends_with("rotary_emb.inv_freq"); }

bool readable(const std::string& dtype) { return dtype == "F32" || dtype == "BF16" || dtype == "F16"; }

/// What is wrong with a tensor's form; empty when nothing is.
std::string misfit(const SafetensorsTensor& tensor, const ParameterInfo& info) {
  if (tensor.shape != shape_of(info))
    return fmt::format("{} (expected shape {}, got {})", tensor.name, shape_text(shape_of(info)),
                       shape_text(tensor.shape));
  if (!readable(tensor.dtype))
    return fmt::format("{} (expected dtype F32, BF16 or F16, got {})", tensor.name, tensor.dtype);
  return "";
}

/// `begin` is the place of the first value in its tensor.
void check_finite(const std::filesystem::path& folder, const std::string& name, std::int64_t begin,
                  std::span<const float> values) {
  const auto at =
      std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  check_file(at == values.end(), "load_model_folder", folder,
             "expected finite numbers in {}, got {} at element {}", name, *at, begin + (at - values.begin()));
}

void append_bfloat16(SafetensorsWriter& writer, const std::string& name, std::span<const float> values) {
  std::vector<bfloat16> rounded(std::min<std::size_t>(values.size(), 1 << 16));
  while (!values.empty()) {
    const std::size_t count = std::min(values.size(), rounded.size());
    std::transform(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(count), rounded.begin(),
                   to_bfloat16);
    writer.append(name, std::as_bytes(std::span(rounded).first(count)));
    values = values.subspan(count);
  }
}

std::span<const ParameterInfo> tensors_of(const ParameterTable& table, const ModelShard& shard) {
  return std::span(table.infos())
      .subspan(static_cast<std::size_t>(shard.tensors.begin), static_cast<std::size_t>(shard.tensors.size()));
}

std::vector<SafetensorsEntry> entries_of(std::span<const ParameterInfo> tensors, DType dtype) {
  std::vector<SafetensorsEntry> entries;
  for (const ParameterInfo& info : tensors)
    entries.push_back({info.name, dtype == DType::f32 ? "F32" : "BF16", shape_of(info)});
  return entries;
}

}  // namespace

LoadedModel::LoadedModel(ModelConfig config, SafetensorsFolder weights)
    : config_(std::move(config)), table_(config_), weights_(std::move(weights)) {
  check_tensors();
}

void LoadedModel::check_tensors() const {
  std::vector<std::string> missing, misfits, extra;
  for (const ParameterInfo& info : table_.infos()) {
    if (!weights_.contains(info.name)) {
      missing.push_back(info.name);
    } else if (std::string text = misfit(weights_.tensor(info.name), info); !text.empty()) {
      misfits.push_back(std::move(text));
    }
  }
  for (const std::string& name : weights_.names())
    if (table_.find(name) == nullptr && !is_derived(name) && !(table_.tied() && name == kHead))
      extra.push_back(name);
  std::string problems;
  const auto add = [&](const char* what, const std::vector<std::string>& names) {
    if (!names.empty())
      problems += fmt::format("{}{}: {}", problems.empty() ? "" : "; ", what, listed(names));
  };
  add("missing", missing);
  add("wrong form", misfits);
  add("not part of the model", extra);
  check_file(problems.empty(), "load_model_folder", weights_.path(),
             "expected the {} tensors of its config.json, got others; {}", table_.infos().size(), problems);
}

void LoadedModel::check_tied_head() const {
  if (!table_.tied() || !weights_.contains(kHead)) return;
  const SafetensorsTensor& head = weights_.tensor(kHead);
  const SafetensorsTensor& embedding = weights_.tensor(table_.embedding().name);
  check_file(
      head.dtype == embedding.dtype && head.shape == embedding.shape &&
          std::equal(head.bytes.begin(), head.bytes.end(), embedding.bytes.begin(), embedding.bytes.end()),
      "load_model_folder", weights_.path(),
      "expected {} to equal {}, to which config.json ties it (tie_word_embeddings), got another", kHead,
      embedding.name);
}

void LoadedModel::read_parameter(const ParameterInfo& info, std::int64_t begin, std::span<float> out) const {
  SafetensorsTensor part = weights_.tensor(info.name);
  const auto element = static_cast<std::size_t>(safetensors_element_bytes(part.dtype));
  part.bytes = part.bytes.subspan(static_cast<std::size_t>(begin) * element, out.size() * element);
  to_float32(part, out);
  check_finite(weights_.path(), info.name, begin, out);
}

void LoadedModel::read(const Range& elements, std::span<float> out) const {
  check_argument(elements.begin >= 0 && elements.end <= table_.total() &&
                     static_cast<std::int64_t>(out.size()) == elements.size(),
                 "LoadedModel::read",
                 "expected a range of {} elements and room for it, got {} to {} and room for {}",
                 table_.total(), elements.begin, elements.end, out.size());
  check_tied_head();
  std::fill(out.begin(), out.end(), 0.0f);
  for (const ParameterInfo& info : table_.infos()) {
    const std::int64_t begin = std::max(info.offset, elements.begin),
                       end = std::min(info.offset + info.elements(), elements.end);
    if (begin < end)
      read_parameter(info, begin - info.offset,
                     out.subspan(static_cast<std::size_t>(begin - elements.begin),
                                 static_cast<std::size_t>(end - begin)));
  }
}

void LoadedModel::fill(std::span<float> flat, ThreadPool* pool) const {
  check_argument(static_cast<std::int64_t>(flat.size()) == table_.total(), "LoadedModel::fill",
                 "expected {} elements, got {}", table_.total(), flat.size());
  check_tied_head();
  const std::vector<ParameterInfo>& infos = table_.infos();
  const auto fill_one = [&](std::int64_t index, int) {
    const auto i = static_cast<std::size_t>(index);
    const std::int64_t end = i + 1 < infos.size() ? infos[i + 1].offset : table_.total();
    const std::span<float> place = flat.subspan(static_cast<std::size_t>(infos[i].offset),
                                                static_cast<std::size_t>(end - infos[i].offset));
    const std::span<float> values = place.first(static_cast<std::size_t>(infos[i].elements()));
    read_parameter(infos[i], 0, values);
    std::fill(place.begin() + static_cast<std::ptrdiff_t>(values.size()), place.end(), 0.0f);
  };
  const auto tasks = static_cast<std::int64_t>(infos.size());
  if (pool != nullptr) return pool->run(tasks, fill_one);
  for (std::int64_t i = 0; i < tasks; ++i) fill_one(i, 0);
}

LoadedModel load_model_folder(const std::filesystem::path& folder) {
  ModelConfig config = read_config(folder / "config.json");
  return {std::move(config), SafetensorsFolder(folder)};
}

std::vector<ModelShard> model_shards(const ParameterTable& table, int files) {
  const std::vector<Range> groups = parameter_groups(table, files);
  if (groups.size() == 1) return {{groups[0], "model.safetensors"}};
  std::vector<ModelShard> shards;
  for (std::size_t n = 0; n < groups.size(); ++n)
    shards.push_back({groups[n], fmt::format("model-{:05}-of-{:05}.safetensors", n + 1, groups.size())});
  return shards;
}

std::string shard_index(const ParameterTable& table, const std::vector<ModelShard>& shards, DType dtype) {
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = table.parameters() * size_of(dtype);
  for (const ModelShard& shard : shards)
    for (const ParameterInfo& info : tensors_of(table, shard)) index["weight_map"][info.name] = shard.file;
  return index.dump(2) + "\n";
}

ModelShardWriter::ModelShardWriter(const std::filesystem::path& folder, const ParameterTable& table,
                                   const ModelShard& shard, DType dtype, FileSystem& files)
    : tensors_(tensors_of(table, shard)),
      dtype_(dtype),
      // transformers refuses a file that does not say which library's layout it has.
      writer_(folder / shard.file, entries_of(tensors_, dtype), {{"format", "pt"}}, files) {}

void ModelShardWriter::append(std::span<const float> values) {
  check_argument(!tensors_.empty(), "ModelShardWriter", "expected no more tensors, got one of {} elements",
                 values.size());
  const ParameterInfo& info = tensors_.front();
  check_argument(static_cast<std::int64_t>(values.size()) == info.elements(), "ModelShardWriter",
                 "expected {} elements of {}, got {}", info.elements(), info.name, values.size());
  if (dtype_ == DType::f32) {
    writer_.append(info.name, values);
  } else {
    append_bfloat16(writer_, info.name, values);
  }
  tensors_ = tensors_.subspan(1);
}

void save_model_files(const std::filesystem::path& folder, const ModelConfig& config,
                      const ParameterTable& table, std::span<const float> flat, DType dtype) {
  check_argument(static_cast<std::int64_t>(flat.size()) == table.total(), "save_model_files",
                 "expected {} elements, got {}", table.total(), flat.size());
  ModelShardWriter writer(folder, table, model_shards(table, 1).front(), dtype);
  for (const ParameterInfo& info : table.infos())
    writer.append(
        flat.subspan(static_cast<std::size_t>(info.offset), static_cast<std::size_t>(info.elements())));
  writer.finish();
  write_file_atomically(folder / "config.json", to_json(config, dtype));
}

}  // namespace rondo
