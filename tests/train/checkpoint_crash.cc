// Power losses and failing disks in mid-checkpoint: the older or the newer checkpoint is there, whole.

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "rondo/io/atomic_file.h"
#include "tests/support/recording_files.h"
#include "tests/train/checkpoint_support.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;
using test::FailingFiles;
using test::Loss;
using test::newest_on;
using test::save_on;
using test::state_at;
using test::TemporaryFolder;
using test::Tensors;
using test::tiny_config;

std::vector<std::string> entries(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

class PowerLoss : public ::testing::TestWithParam<int> {
 protected:
  fs::path save(const fs::path& run, std::int64_t step, Tensors& tensors, FileSystem& files) {
    return save_on(GetParam(), {.run = run, .keep = 1, .files = &files}, tiny_config(), table_,
                   state_at(step), tensors);
  }

  /// Saves the older checkpoint and the newer one, and looks at what is left after each prefix of the calls
  /// that the newer one made. `newer_step` may be that of the older one.
  void replay(std::int64_t newer_step) {
    const TemporaryFolder base(test::memory_folder());
    test::RecordingFiles files;
    save(base / "run", 1, older_, files);
    const std::size_t begin = files.calls().size();
    save(base / "run", newer_step, newer_, files);
    const std::vector<test::FileCall> calls = files.calls();
    ASSERT_GT(calls.size(), begin + 30);
    test::ModelDisk disk(base.path());
    for (std::size_t n = 0; n <= calls.size(); ++n) {
      if (n > 0) disk.apply(calls[n - 1]);
      if (n < begin) continue;
      for (const Loss& loss : {Loss{true, true}, Loss{false, false}, Loss{true, false}, Loss{false, true},
                               Loss{.seed = 2 * n + 2}, Loss{.seed = 2 * n + 1}}) {
        SCOPED_TRACE(fmt::format("after {} of {} calls, names {}, content {}, seed {}", n, calls.size(),
                                 loss.names, loss.content, loss.seed));
        check_after(disk, loss, newer_step, n == calls.size());
        if (HasFailure()) return;
      }
    }
  }

  /// The older or the newer one is there; the newer one when its save was `complete`.
  void check_after(const test::ModelDisk& disk, const Loss& loss, std::int64_t newer_step, bool complete) {
    const auto content = disk.after(loss);
    const auto hash = std::hash<std::string>()(fmt::format("{}", fmt::join(content, "|")));
    if (!seen_.insert(hash).second && !complete) return;
    const TemporaryFolder after(test::memory_folder());
    test::ModelDisk::write(content, after.path());
    const FoundCheckpoint found = newest_on(1, after / "run");
    EXPECT_TRUE(found.passed_over.empty()) << found.passed_over[0].what;
    const Tensors tensors = test::load(found.path, table_);
    const bool newer = tensors == newer_;
    EXPECT_TRUE(newer || (tensors == older_ && !complete));
    EXPECT_EQ(found.path.filename(), checkpoint_name(newer ? newer_step : 1));
    if (seen_.size() % 8 != 0) return;
    // The next save takes away what was left.
    save(after / "run", 3, older_, system_files());
    EXPECT_EQ(entries(after / "run"), std::vector<std::string>{"step-00000003"});
    EXPECT_TRUE(test::load(after / "run/step-00000003", table_) == older_);
  }

  ParameterTable table_{tiny_config()};
  Tensors older_{table_, 11}, newer_{table_, 300};
  std::set<std::size_t> seen_;  // hashes of what was looked at
};

TEST_P(PowerLoss, LeavesTheOlderOrTheNewerCheckpointWhole) { replay(2); }
TEST_P(PowerLoss, LeavesOneOfTwoInTheSamePlace) { replay(1); }

INSTANTIATE_TEST_SUITE_P(Devices, PowerLoss, testing::Values(1, 3));

class FailingDisk : public ::testing::TestWithParam<int> {
 protected:
  /// Saves step 2 while a call fails; what each device was told, empty where nothing went wrong.
  std::vector<std::string> save(const fs::path& run, FileSystem& files) {
    std::vector<std::string> words(static_cast<std::size_t>(GetParam()));
    test::spawn(GetParam(), [&](Context&, Communicator& communicator) {
      try {
        save_checkpoint(communicator, {.run = run, .keep = 1, .files = &files}, tiny_config(), table_,
                        state_at(2),
                        checkpoint_source(table_, newer_.view(), {GetParam(), communicator.device()}));
      } catch (const IoError& error) {
        words[static_cast<std::size_t>(communicator.device())] = error.what();
      }
    });
    return words;
  }
  ParameterTable table_{tiny_config()};
  Tensors older_{table_, 11}, newer_{table_, 300};
};

TEST_P(FailingDisk, IsTheSameErrorOnAllDevicesAndLosesNothing) {
  for (const bool lasting : {false, true}) {
    for (int call = 0;; ++call) {
      SCOPED_TRACE(fmt::format("call {}, {}", call, lasting ? "and all that write after it" : "alone"));
      const TemporaryFolder folder(test::memory_folder());
      const fs::path run = folder / "run";
      save_on(1, {.run = run}, tiny_config(), table_, state_at(1), older_);
      FailingFiles files(call, ENOSPC, lasting);
      const std::vector<std::string> words = save(run, files);
      for (const std::string& each : words) EXPECT_EQ(each, words[0]);
      if (!words[0].empty()) {
        EXPECT_NE(words[0].find("[checkpoint] device "), std::string::npos) << words[0];
        EXPECT_NE(words[0].find("No space left on device"), std::string::npos) << words[0];
      }
      const FoundCheckpoint found = newest_on(1, run);
      EXPECT_TRUE(found.passed_over.empty());
      const Tensors left = test::load(found.path, table_);
      EXPECT_TRUE(left == older_ || left == newer_);
      EXPECT_TRUE(left == newer_ || !words[0].empty());
      // A disk that fails while the older one goes may keep that for the next save to remove.
      for (const std::string& name : entries(run))
        EXPECT_TRUE(is_checkpoint_name(name) || temporary_name_of(name) == "step-00000001") << name;
      if (!files.failed()) {
        EXPECT_GT(call, 40);
        EXPECT_EQ(entries(run), std::vector<std::string>{"step-00000002"});
        break;
      }
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, FailingDisk, testing::Values(1, 3));

}  // namespace
}  // namespace rondo
