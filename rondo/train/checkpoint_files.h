#pragma once
// What the files of a checkpoint are called, and training_state/manifest.json, which says how long each is
// and its checksum. It is written last: a checkpoint that has it was complete.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "rondo/io/checksum.h"
#include "rondo/train/moments.h"

namespace rondo {

/// "step-00000042" after 42 steps.
std::string checkpoint_name(std::int64_t step);
/// Whether a folder's name is that of a checkpoint.
bool is_checkpoint_name(std::string_view name);

inline constexpr const char* kStateFolder = "training_state";
inline constexpr const char* kStateFile = "training_state/state.json";
inline constexpr const char* kManifestFile = "training_state/manifest.json";
inline constexpr std::uint64_t kFirstFormat = 1;     ///< has no manifest
inline constexpr std::uint64_t kManifestFormat = 2;  ///< what is written now

struct CheckpointFile {
  std::string name;  ///< within the checkpoint, with '/'
  FileStamp stamp;
};

std::string manifest_text(const std::vector<CheckpointFile>& files);
/// IoError when it is missing or makes no sense.
std::vector<CheckpointFile> read_manifest(const std::filesystem::path& checkpoint);

enum class CheckpointPart {
  model,  ///< what `rondo eval` and other software read
  all,    ///< and training_state/
};

/// Compares sizes, then checksums, with the manifest. Of several devices that share the work each reads some
/// of the files. IoError names the file that is missing, shorter or changed, and what can be done. The model
/// of a folder without a manifest (of other software, or of format 1) passes.
void verify_checkpoint(const std::filesystem::path& checkpoint, CheckpointPart part = CheckpointPart::all,
                       RingPlace place = {});

}  // namespace rondo
