#pragma once
// A model as a Hugging Face folder: config.json and model.safetensors (or shards with an index).

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "rondo/core/thread_pool.h"
#include "rondo/io/safetensors.h"
#include "rondo/model/config.h"
#include "rondo/model/parameters.h"

namespace rondo {

/// A folder that was opened and checked; its weights are mapped and read when fill() is called.
class LoadedModel {
 public:
  const ModelConfig& config() const { return config_; }
  const ParameterTable& table() const { return table_; }

  /// Writes the parameters into `flat` (table().total() elements, padding zero), converting from float32,
  /// bfloat16 or float16. Throws IoError naming the tensor that has a NaN or an infinity, or an
  /// lm_head.weight that differs from the embedding although the configuration ties them. With a pool its
  /// threads share the work.
  void fill(std::span<float> flat, ThreadPool* pool = nullptr) const;
  /// The same for some elements of a flat buffer: what a device needs that holds only a part.
  void read(const Range& elements, std::span<float> out) const;

 private:
  friend LoadedModel load_model_folder(const std::filesystem::path& folder);
  LoadedModel(ModelConfig config, SafetensorsFolder weights);
  void check_tensors() const;
  void check_tied_head() const;
  /// Elements [begin, begin + out.size()) of a parameter.
  void read_parameter(const ParameterInfo& info, std::int64_t begin, std::span<float> out) const;

  ModelConfig config_;
  ParameterTable table_;
  SafetensorsFolder weights_;
};

/// Opens a folder. IoError where files are missing or malformed, or where tensors are missing, left over, of
/// another shape or of a dtype that is not F32, BF16 or F16 (all of them are named); ArgumentError where the
/// configuration is refused. Rotary frequencies that old files carry (rotary_emb.inv_freq) are ignored: they
/// follow from the configuration.
LoadedModel load_model_folder(const std::filesystem::path& folder);

/// One of the files that a model's weights are divided over: whole tensors, in order.
struct ModelShard {
  Range tensors;     ///< places in ParameterTable::infos()
  std::string file;  ///< "model.safetensors" of one; "model-00002-of-00004.safetensors" of several
};
/// At most `files` shards of near-equal bytes.
std::vector<ModelShard> model_shards(const ParameterTable& table, int files);
/// The text of the model.safetensors.index.json that shards of more than one file need.
std::string shard_index(const ParameterTable& table, const std::vector<ModelShard>& shards, DType dtype);

/// Writes one shard into an existing folder, rounded to `dtype`.
class ModelShardWriter {
 public:
  /// The table outlives it.
  ModelShardWriter(const std::filesystem::path& folder, const ParameterTable& table, const ModelShard& shard,
                   DType dtype, FileSystem& files = system_files());
  /// The float32 values of the shard's next tensor.
  void append(std::span<const float> values);
  FileStamp finish() { return writer_.finish(); }

 private:
  std::span<const ParameterInfo> tensors_;  // that are still to come
  DType dtype_;
  SafetensorsWriter writer_;
};

/// Writes config.json and model.safetensors, which transformers reads, into an existing folder: parameters
/// from `flat` (table.total() elements), rounded to `dtype`. Each file appears whole; for both at once write
/// into the temporary_path() of an AtomicDirectory.
void save_model_files(const std::filesystem::path& folder, const ModelConfig& config,
                      const ParameterTable& table, std::span<const float> flat, DType dtype);

}  // namespace rondo
