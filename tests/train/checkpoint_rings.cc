// Checkpoints of rings: shards that other software reads, any other number of devices, and damage of every
// kind.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "rondo/model/hf_folder.h"
#include "tests/train/checkpoint_support.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;
using test::load;
using test::newest_on;
using test::read_text;
using test::save_on;
using test::small_config;
using test::state_at;
using test::TemporaryFolder;
using test::Tensors;
using test::tiny_config;
using test::write_text;

class CheckpointRings : public ::testing::Test {
 protected:
  fs::path save(std::int64_t step, int devices, Tensors& tensors, int own = 0) {
    return save_on(devices, {.run = folder_ / "run"}, small_config(), table_, state_at(step), tensors, own);
  }
  TemporaryFolder folder_;
  ParameterTable table_{small_config()};
  Tensors tensors_{table_, 11};
};

TEST_F(CheckpointRings, AnyNumberOfDevicesGoesOnFromAnyOther) {
  const Tensors original = tensors_;
  Tensors now = original;
  std::int64_t step = 0;
  for (const int devices : {1, 3, 2, 7, 1, 40, 5}) {  // 40: more than there are tensors
    const fs::path path = save(++step, devices, now);
    now = load(path, table_);
    EXPECT_TRUE(now == original) << devices;
    EXPECT_EQ(newest_on(3, folder_ / "run").path, path);
  }
}

TEST_F(CheckpointRings, ShardsAreThoseOfOtherSoftware) {
  const fs::path path = save(1, 3, tensors_);
  const auto index = nlohmann::json::parse(read_text(path / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], 4 * table_.parameters());
  EXPECT_EQ(index["weight_map"].size(), table_.infos().size());
  EXPECT_EQ(index["weight_map"]["model.embed_tokens.weight"], "model-00001-of-00003.safetensors");
  EXPECT_EQ(index["weight_map"]["lm_head.weight"], "model-00003-of-00003.safetensors");
  EXPECT_FALSE(fs::exists(path / "model.safetensors"));
  std::vector<float> parameters(static_cast<std::size_t>(table_.total()));
  load_model_folder(path).fill(parameters);
  EXPECT_EQ(parameters, tensors_.parameters);
  // Each device wrote its parts of the moments, and nearly as much as the others.
  for (int device = 0; device < 3; ++device) {
    const SafetensorsFile file(path / kStateFolder / moments_file(3, device));
    std::int64_t elements = 0;
    for (const auto& [name, tensor] : file.tensors()) elements += tensor.elements();
    EXPECT_NEAR(static_cast<double>(elements), 2.0 / 3 * static_cast<double>(table_.parameters()), 200);
  }
}

TEST_F(CheckpointRings, ProcessesWriteTheSameFilesAsThreads) {
  const auto files_of = [](const fs::path& checkpoint) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(checkpoint))
      if (entry.is_regular_file())
        files[entry.path().lexically_relative(checkpoint).string()] = read_text(entry.path());
    return files;
  };
  const auto threads = files_of(save(1, 4, tensors_));
  EXPECT_EQ(threads.size(), 4u + 4 + 6);
  for (const int own : {1, 2}) {
    fs::remove_all(folder_ / "run");
    EXPECT_TRUE(files_of(save(1, 4, tensors_, own)) == threads) << own << " devices in each process";
  }
}

TEST_F(CheckpointRings, AreReadInAnyRanges) {
  const fs::path path = save(1, 3, tensors_);
  const MomentFiles moments(path / kStateFolder, table_);
  const LoadedModel model = load_model_folder(path);
  for (const Range& bucket : table_.buckets())
    for (const int devices : {1, 2, 5})
      for (int device = 0; device < devices; ++device) {
        const Range part = owned_part(bucket, devices, device);
        std::vector<float> values(static_cast<std::size_t>(part.size()), 7);
        moments.read(Moment::second, part, values);
        EXPECT_TRUE(std::equal(values.begin(), values.end(), tensors_.second.begin() + part.begin));
        model.read(part, values);
        EXPECT_TRUE(std::equal(values.begin(), values.end(), tensors_.parameters.begin() + part.begin));
      }
}

TEST_F(CheckpointRings, FilesOfTwoRingsAreNotMixed) {
  const fs::path two = save(2, 2, tensors_), three = save(3, 3, tensors_);
  const std::string extra = moments_file(2, 1);
  fs::copy_file(two / kStateFolder / extra, three / kStateFolder / extra);
  RONDO_EXPECT_ERROR(IoError, load(three, table_), "one too many", "first_moment.");
  fs::remove(three / kStateFolder / extra);
  fs::remove(three / kStateFolder / moments_file(3, 2));
  RONDO_EXPECT_ERROR(IoError, load(three, table_), "expected", "first_moment.");
}

/// Another host's disk.
class OtherDisk final : public FileSystem {
 public:
  OtherDisk(const fs::path& from, const fs::path& to) : from_(from), to_(to) {}
  int create(const fs::path& path) override { return FileSystem::create(there(path)); }
  int make_folder(const fs::path& path) override { return FileSystem::make_folder(there(path)); }
  int sync_entry(const fs::path& path) override { return FileSystem::sync_entry(there(path)); }
  int rename(const fs::path& from, const fs::path& to) override {
    return FileSystem::rename(there(from), there(to));
  }
  int remove(const fs::path& path) override { return FileSystem::remove(there(path)); }

 private:
  fs::path there(const fs::path& path) const { return to_ / path.lexically_relative(from_); }
  fs::path from_, to_;
};

TEST_F(CheckpointRings, FoldersThatAreNotSharedAreNamed) {
  const fs::path here = folder_ / "here", there = folder_ / "there";
  fs::create_directory(here), fs::create_directory(there);
  // Device `elsewhere` has a folder of the same name on another disk.
  const auto each = [&](int elsewhere, const auto& work) {
    OtherDisk other(here, there);
    std::vector<std::string> words(3);
    test::spawn(3, [&](Context&, Communicator& communicator) {
      CheckpointPlace place{.run = here};
      if (communicator.device() == elsewhere) place.files = &other;
      words[static_cast<std::size_t>(communicator.device())] =
          test::message_of<IoError>([&] { work(communicator, place); });
    });
    for (const std::string& each_words : words) EXPECT_EQ(each_words, words[0]);
    return words[0];
  };
  const auto save = [&](Communicator& communicator, const CheckpointPlace& place) {
    save_checkpoint(communicator, place, small_config(), table_, state_at(1),
                    checkpoint_source(table_, tensors_.view(), {3, communicator.device()}));
  };
  const auto see = [](Communicator& communicator, const CheckpointPlace& place) {
    check_shared_folder(communicator, place);
  };
  EXPECT_NE(each(0, see).find("that the hosts of all devices share"), std::string::npos);
  EXPECT_NE(each(0, save).find("that the hosts of all devices share"), std::string::npos);
  EXPECT_NE(each(2, save).find("device 2 could not write its part"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(here));
  test::spawn(3, [&](Context&, Communicator& communicator) { see(communicator, {.run = here}); });
  EXPECT_TRUE(fs::is_empty(here));
}

TEST_F(CheckpointRings, CheckpointsOfTheFirstFormatLoad) {
  const fs::path path = save(5, 1, tensors_);
  auto state = nlohmann::json::parse(read_text(path / kStateFile));
  state["format"] = 1;
  write_text(path / kStateFile, state.dump());
  fs::remove(path / kManifestFile);
  const FoundCheckpoint found = newest_on(2, folder_ / "run");
  EXPECT_EQ(found.path, path);
  EXPECT_TRUE(load(path, table_) == tensors_);
  EXPECT_EQ(read_training_state(path).format, kFirstFormat);
  // They have no checksums, but one that was cut short is found.
  fs::resize_file(path / "model.safetensors", fs::file_size(path / "model.safetensors") - 1);
  RONDO_EXPECT_ERROR(IoError, newest_on(2, path), "model.safetensors");
}

/// Two checkpoints of three devices, of which the newer one will be damaged.
class Damage : public ::testing::Test {
 protected:
  void SetUp() override {
    save_on(3, {.run = run()}, tiny_config(), table_, state_at(1), older_);
    save_on(3, {.run = run()}, tiny_config(), table_, state_at(2), newer_);
  }
  fs::path run() const { return folder_ / "run"; }
  fs::path newer() const { return run() / "step-00000002"; }
  /// The newer one is passed over with words that name `file`, and refused when it is named.
  void expect_noticed(const std::string& file) {
    const FoundCheckpoint found = newest_on(2, run());
    EXPECT_EQ(found.path, run() / "step-00000001");
    ASSERT_EQ(found.passed_over.size(), 1u);
    EXPECT_NE(found.passed_over[0].what.find(file), std::string::npos) << found.passed_over[0].what;
    EXPECT_TRUE(load(found.path, table_) == older_);
    RONDO_EXPECT_ERROR(IoError, newest_on(2, newer()), file);
  }
  TemporaryFolder folder_;
  ParameterTable table_{tiny_config()};
  Tensors older_{table_, 11}, newer_{table_, 300};
};

TEST_F(Damage, OfAnyFileIsNoticed) {
  const std::vector<CheckpointFile> files = read_manifest(newer());
  EXPECT_EQ(files.size(), 3u + 3 + 5);
  std::uint64_t draw = 1;
  for (const CheckpointFile& file : files) {
    SCOPED_TRACE(file.name);
    const fs::path path = newer() / file.name;
    const std::string whole = read_text(path);
    std::string flipped = whole;
    draw = mix64(draw);
    flipped[draw % flipped.size()] ^= static_cast<char>(1 << (draw >> 61));
    for (const std::string& changed :
         {flipped, whole.substr(0, whole.size() - 1), whole + "x", std::string()}) {
      write_text(path, changed);
      expect_noticed(file.name);
    }
    fs::remove(path);
    expect_noticed(file.name);
    write_text(path, whole);
    EXPECT_EQ(newest_on(1, run()).path, newer());
  }
}

// One thread does it all, slowly where each of its accesses is watched for another's.
#ifdef __SANITIZE_THREAD__
constexpr std::size_t kBytesApart = 16;
#else
constexpr std::size_t kBytesApart = 1;
#endif

TEST_F(Damage, OfTheManifestIsNoticedOrMeansNothing) {
  const fs::path path = newer() / kManifestFile;
  const std::string whole = read_text(path);
  int noticed = 0;
  for (std::size_t n = 0; n < whole.size(); n += kBytesApart) {
    std::string flipped = whole;
    flipped[n] ^= static_cast<char>(1 << (n / kBytesApart % 7));
    write_text(path, flipped);
    const FoundCheckpoint found = newest_on(1, run());
    const bool passed_over = !found.passed_over.empty();
    EXPECT_TRUE(load(found.path, table_) == (passed_over ? older_ : newer_)) << n;
    noticed += passed_over ? 1 : 0;
    if (HasFailure()) return;
  }
  EXPECT_GT(noticed, static_cast<int>(whole.size() / kBytesApart) / 3);  // the rest is space between words
  write_text(path, whole.substr(0, whole.size() / 2));
  expect_noticed("manifest.json");
  fs::remove(path);
  expect_noticed("manifest.json");
}

TEST_F(Damage, OfAllCheckpointsIsAnErrorThatNamesEach) {
  for (const char* name : {"step-00000001", "step-00000002"})
    fs::resize_file(run() / name / "config.json", 3);
  RONDO_EXPECT_ERROR(IoError, newest_on(2, run()), "2 damaged",
                     "step-00000001:", "step-00000002:", "config.json of 3 bytes instead of");
}

TEST_F(Damage, OfTheStateAloneLeavesTheModelReadable) {
  write_text(newer() / kStateFile, "{}");
  EXPECT_NO_THROW(verify_checkpoint(newer(), CheckpointPart::model));
  EXPECT_THROW(verify_checkpoint(newer()), IoError);
  const fs::path shard = newer() / "model-00002-of-00003.safetensors";
  std::string bytes = read_text(shard);
  bytes.back() ^= 1;
  write_text(shard, bytes);
  RONDO_EXPECT_ERROR(IoError, verify_checkpoint(newer(), CheckpointPart::model), "model-00002-of-00003",
                     "with the checksum", "use another checkpoint");
}

TEST_F(Damage, ManifestsThatPointElsewhereAreRefused) {
  for (const char* name : {"/etc/passwd", "../step-00000001/config.json", "a/../../b", ""}) {
    write_text(newer() / kManifestFile, manifest_text({{name, {3, 4}}}));
    RONDO_EXPECT_ERROR(IoError, verify_checkpoint(newer()), "expected names of files in its checkpoint",
                       name);
  }
  write_text(newer() / kManifestFile, manifest_text({}));
  EXPECT_THROW(verify_checkpoint(newer()), IoError);
}

}  // namespace
}  // namespace rondo
