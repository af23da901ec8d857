// Writing a checkpoint. All devices write into one temporary folder; device 0 makes it, and when all have
// succeeded lists what there is in the manifest, syncs and renames it.

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>

#include "rondo/io/atomic_file.h"
#include "rondo/io/file_error.h"
#include "rondo/model/hf_folder.h"
#include "rondo/text/byte_tokenizer.h"
#include "rondo/train/agreement.h"
#include "rondo/train/checkpoint.h"

namespace rondo {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

constexpr const char* kOperation = "checkpoint";

/// Creates a folder and those above it so that they outlast a power loss.
void make_folders(FileSystem& files, const fs::path& folder) {
  std::error_code error;
  if (fs::is_directory(folder, error)) return;
  const fs::path parent = folder.has_parent_path() ? folder.parent_path() : fs::path(".");
  if (parent != folder) make_folders(files, parent);
  check_call(files.make_folder(folder) == 0 || errno == EEXIST, kOperation, folder,
             "expected to create this folder");
  sync_directory(parent, files);
}

/// What a power loss or a kill left of checkpoints that were being written or removed.
void remove_rubbish(FileSystem& files, const fs::path& run) {
  std::vector<fs::path> rubbish;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(run, error))
    if (is_checkpoint_name(temporary_name_of(entry.path().filename().string())))
      rubbish.push_back(entry.path());
  for (const fs::path& path : rubbish) remove_tree(files, path);  // too much is no reason to stop a run
}

/// Checkpoints beyond the newest `keep` up to `written` go. Later ones belong to another course of the run,
/// or are damaged: they neither count nor go.
void remove_old(const CheckpointPlace& place, const fs::path& written) {
  if (place.keep <= 0) return;
  std::vector<fs::path> all = list_checkpoints(place.run);
  std::erase_if(all, [&](const fs::path& path) { return path.filename() > written.filename(); });
  if (all.size() <= static_cast<std::size_t>(place.keep)) return;
  all.resize(all.size() - static_cast<std::size_t>(place.keep));
  for (const fs::path& old : all) {
    // Under a temporary name, which is on the disk before anything goes: half a checkpoint never has the name
    // of one.
    const fs::path going = temporary_name(old);
    if (place.files->rename(old, going) == 0 && place.files->sync_entry(place.run) == 0)
      remove_tree(*place.files, going);
  }
}

ordered_json state_json(const TrainingState& state) {
  ordered_json json;
  json["format"] = kManifestFormat;
  json["step"] = state.step;
  json["data_fingerprint"] = state.data_fingerprint;
  json["data"] = state.data;
  json["held_out"] = state.held_out;
  json["recipe"] = ordered_json::parse(to_json(state.recipe));
  return json;
}

/// A folder that device 0 made has to be there for all.
void check_seen(const fs::path& folder) {
  std::error_code error;
  check_file(
      fs::is_directory(folder, error), kOperation, folder,
      "expected the folder that device 0 made, got none; the run's folder has to lie on a file system that "
      "the hosts of all devices share");
}

/// What a device wrote, as it tells the others.
struct Written {
  std::int64_t has_model = 0, has_moments = 0;
  FileStamp model, moments;
};

class Save {
 public:
  Save(Communicator& communicator, const CheckpointPlace& place, const ModelConfig& config,
       const ParameterTable& table, const TrainingState& state, const CheckpointSource& source)
      : communicator_(communicator),
        place_(place),
        config_(config),
        table_(table),
        state_(state),
        source_(source),
        ring_{communicator.devices(), communicator.device()},
        path_(checkpoint_path(place.run, state.step)),
        shards_(model_shards(table, communicator.devices())) {}

  fs::path operator()() {
    std::string failure;
    if (leads()) failure = failure_of([&] { begin(); });
    agree(communicator_, failure, kOperation, "begin a checkpoint");
    folder_ = broadcast_path(communicator_, leads() ? atomic_->temporary_path() : fs::path());
    failure = failure_of([&] { check_seen(folder_); });
    if (const std::string model = failure_of([&] { write_model(failure.empty()); }); failure.empty())
      failure = model;
    if (failure.empty()) failure = failure_of([&] { write_moments(); });
    agree(communicator_, failure, kOperation, "write its part of a checkpoint");
    std::vector<Written> all(static_cast<std::size_t>(ring_.devices));
    communicator_.all_gather(std::as_bytes(std::span(&written_, 1)), std::as_writable_bytes(std::span(all)));
    failure.clear();
    if (leads()) failure = failure_of([&] { finish(all); });
    agree(communicator_, failure, kOperation, "complete a checkpoint");
    if (leads()) remove_old(place_, path_);
    communicator_.barrier();
    return path_;
  }

 private:
  bool leads() const { return ring_.device == 0; }
  FileSystem& files() const { return *place_.files; }

  void begin() {
    make_folders(files(), place_.run);
    // Its own name may be new too; a parent that may not be read is not ours to sync.
    files().sync_entry(place_.run.has_parent_path() ? place_.run.parent_path() : fs::path("."));
    remove_rubbish(files(), place_.run);
    atomic_.emplace(path_, files());
    const fs::path training = atomic_->temporary_path() / kStateFolder;
    check_call(files().make_folder(training) == 0, kOperation, training, "expected to create this folder");
  }

  /// Every device walks all buckets, since their source may be a collective: also one that could not write.
  void write_model(bool writes) {
    std::string failure;
    const auto own = static_cast<std::size_t>(ring_.device);
    std::optional<ModelShardWriter> writer;
    if (writes && own < shards_.size())
      failure = failure_of([&] { writer.emplace(folder_, table_, shards_[own], DType::f32, files()); });
    const std::vector<Range> buckets = table_.buckets();
    std::int64_t tensor = 0;
    for (std::size_t bucket = 0; bucket < buckets.size(); ++bucket) {
      const std::span<const float> values = source_.parameters(bucket);
      RONDO_ASSERT(static_cast<std::int64_t>(values.size()) == buckets[bucket].size());
      for (; tensor < static_cast<std::int64_t>(table_.infos().size()); ++tensor) {
        const ParameterInfo& info = table_.infos()[static_cast<std::size_t>(tensor)];
        if (info.offset >= buckets[bucket].end) break;
        if (!writer || !failure.empty()) continue;
        const Range& mine = shards_[own].tensors;
        if (tensor < mine.begin || tensor >= mine.end) continue;
        failure = failure_of([&] {
          writer->append(values.subspan(static_cast<std::size_t>(info.offset - buckets[bucket].begin),
                                        static_cast<std::size_t>(info.elements())));
        });
      }
    }
    if (!failure.empty()) throw IoError(failure);
    if (writer) written_.model = writer->finish(), written_.has_model = 1;
  }

  void write_moments() {
    const auto stamp = save_moments(folder_ / kStateFolder, table_, ring_, source_.moments, files());
    if (stamp) written_.moments = *stamp, written_.has_moments = 1;
  }

  void write(const std::string& name, std::string_view text) {
    manifest_.push_back({name, write_file_atomically(folder_ / name, text, files())});
  }

  /// What the others wrote has to be here.
  void add_file(const std::string& name, const FileStamp& stamp, std::size_t device) {
    std::error_code error;
    const auto bytes = fs::file_size(folder_ / name, error);
    check_file(
        !error && bytes == static_cast<std::uintmax_t>(stamp.bytes), kOperation, folder_ / name,
        "expected the {} bytes that device {} wrote, got {}; the run's folder has to lie on a file system "
        "that the hosts of all devices share",
        stamp.bytes, device, error ? error.message() : fmt::format("{}", bytes));
    manifest_.push_back({name, stamp});
  }

  void finish(const std::vector<Written>& all) {
    for (std::size_t device = 0; device < all.size(); ++device)
      if (all[device].has_model != 0) add_file(shards_[device].file, all[device].model, device);
    for (std::size_t device = 0; device < all.size(); ++device)
      if (all[device].has_moments != 0)
        add_file(std::string(kStateFolder) + "/" + moments_file(ring_.devices, static_cast<int>(device)),
                 all[device].moments, device);
    write("config.json", to_json(config_, DType::f32));
    for (const Tokenizer::File& file : ByteTokenizer().files()) write(file.name, file.text);
    if (shards_.size() > 1) write("model.safetensors.index.json", shard_index(table_, shards_, DType::f32));
    write(kStateFile, state_json(state_).dump(2) + "\n");
    write_file_atomically(folder_ / kManifestFile, manifest_text(manifest_), files());
    atomic_->commit();
  }

  Communicator& communicator_;
  const CheckpointPlace& place_;
  const ModelConfig& config_;
  const ParameterTable& table_;
  const TrainingState& state_;
  const CheckpointSource& source_;
  RingPlace ring_;
  fs::path path_, folder_;  // where it shall be, where it is written
  std::vector<ModelShard> shards_;
  std::optional<AtomicDirectory> atomic_;  // device 0's; removes the folder unless it was completed
  Written written_;
  std::vector<CheckpointFile> manifest_;
};

}  // namespace

CheckpointSource checkpoint_source(const ParameterTable& table, const TrainingTensors& tensors,
                                   RingPlace place) {
  const auto part = [](std::span<float> flat, const Range& range) -> std::span<const float> {
    return flat.subspan(static_cast<std::size_t>(range.begin), static_cast<std::size_t>(range.size()));
  };
  return {.parameters = [=, buckets = table.buckets()](
                            std::size_t bucket) { return part(tensors.parameters, buckets[bucket]); },
          .moments =
              [=, buckets = table.buckets()](Moment moment, std::size_t bucket) {
                return part(moment == Moment::first ? tensors.first_moment : tensors.second_moment,
                            owned_part(buckets[bucket], place.devices, place.device));
              }};
}

void check_shared_folder(Communicator& communicator, const CheckpointPlace& place) {
  std::optional<AtomicDirectory> probe;  // never completed: goes with its object
  std::string failure;
  if (communicator.device() == 0)
    failure = failure_of([&] {
      make_folders(*place.files, place.run);
      probe.emplace(checkpoint_path(place.run, 0), *place.files);
    });
  agree(communicator, failure, kOperation, "create a folder in that of the run");
  const fs::path folder = broadcast_path(communicator, probe ? probe->temporary_path() : fs::path());
  agree(communicator, failure_of([&] { check_seen(folder); }), kOperation, "see the run's folder");
}

fs::path save_checkpoint(Communicator& communicator, const CheckpointPlace& place, const ModelConfig& config,
                         const ParameterTable& table, const TrainingState& state,
                         const CheckpointSource& source) {
  return Save(communicator, place, config, table, state, source)();
}

}  // namespace rondo
