#pragma once
// Checkpoints: a Hugging Face folder (config.json, model.safetensors or shards of it, tokenizer.json) that
// other software reads, and beside it training_state/ with what resuming needs. Each appears whole or not at
// all, whenever the power goes (docs/checkpoints.md); the devices of a ring write and verify their shares of
// it.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "rondo/comm/communicator.h"
#include "rondo/io/file_system.h"
#include "rondo/model/config.h"
#include "rondo/model/hf_folder.h"
#include "rondo/model/parameters.h"
#include "rondo/train/checkpoint_files.h"
#include "rondo/train/recipe.h"

namespace rondo {

/// training_state/state.json
struct TrainingState {
  std::int64_t step = 0;  ///< optimizer steps done; the data cursor follows from it and the recipe
  std::uint64_t data_fingerprint = 0;
  std::vector<std::string> data, held_out;  ///< the paths that were given
  TrainingRecipe recipe;
  std::uint64_t format = kManifestFormat;  ///< of the checkpoint that it was read from
};

/// Float32 flat buffers of a ParameterTable, or a part of each.
struct TrainingTensors {
  std::span<float> parameters, first_moment, second_moment;
};

/// Where a checkpoint's numbers come from, on one device. Buckets are those of ParameterTable::buckets().
struct CheckpointSource {
  /// The whole of a bucket's parameters, valid until the next call. Every device asks for every bucket, in
  /// order: it may be a collective.
  std::function<std::span<const float>(std::size_t bucket)> parameters;
  MomentParts moments;  ///< this device's part of a bucket
};
/// Of a device that holds everything.
CheckpointSource checkpoint_source(const ParameterTable& table, const TrainingTensors& tensors,
                                   RingPlace place);

struct CheckpointPlace {
  std::filesystem::path run;
  int keep = 0;  ///< checkpoints that stay, this one included; 0: all
  FileSystem* files = &system_files();
};

/// Where a run's checkpoint after `step` steps lies: `run`/step-00000042.
std::filesystem::path checkpoint_path(const std::filesystem::path& run, std::int64_t step);

/// Writes checkpoint_path(run, state.step), each device its share, and removes what is older than the newest
/// `keep` checkpoints, and temporary folders that a killed run left. Collective: returns when the checkpoint
/// is on the disk; a failure on one device is the same IoError on all, which leaves the older ones untouched.
std::filesystem::path save_checkpoint(Communicator& communicator, const CheckpointPlace& place,
                                      const ModelConfig& config, const ParameterTable& table,
                                      const TrainingState& state, const CheckpointSource& source);

/// Throws the same IoError on all devices when one of them does not see what device 0 creates in the run's
/// folder: better now than at the first checkpoint. Collective.
void check_shared_folder(Communicator& communicator, const CheckpointPlace& place);

/// Checkpoints of a run, oldest first, by their names: not verified.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run);

struct DamagedCheckpoint {
  std::filesystem::path path;
  std::string what;  ///< is wrong with it
};
struct FoundCheckpoint {
  std::filesystem::path path;
  std::vector<DamagedCheckpoint> passed_over;  ///< newer ones
};
/// `path` itself when it is a checkpoint, else the newest one in it that is whole: verified. IoError when
/// there is none, or when the one that was named is damaged. Collective: the devices share the reading, and
/// device 0 says which folders there are.
FoundCheckpoint newest_checkpoint(Communicator& communicator, const std::filesystem::path& path);
/// verify_checkpoint of everything, shared by the devices; the same IoError on all. Collective.
void verify_checkpoint(Communicator& communicator, const std::filesystem::path& checkpoint);

TrainingState read_training_state(const std::filesystem::path& checkpoint);
/// The tensors of a checkpoint, of a ring of any number of devices. Does not verify it.
class SavedTensors {
 public:
  /// IoError naming what does not fit this table, which outlives it.
  SavedTensors(const std::filesystem::path& checkpoint, const ParameterTable& table);
  /// Fills the tensors with some elements of the flat buffers.
  void read(const Range& elements, const TrainingTensors& tensors) const;

 private:
  LoadedModel model_;
  MomentFiles moments_;
};

}  // namespace rondo
