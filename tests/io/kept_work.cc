// A folder of work that another process goes on with: what is committed is there, and nobody else's is taken.

#include "rondo/io/kept_work.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "rondo/core/error.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;
const KeptWork::Facts kFacts{{"model", "12 bytes"}, {"--ctx-size", "4096"}};

TEST(KeptWork, WhatWasCommittedIsThereForTheNext) {
  const test::TemporaryFolder folder;
  const fs::path path = folder / "work";
  {
    KeptWork work(path, kFacts);
    EXPECT_TRUE(work.entry("pass").is_null());
    EXPECT_FALSE(work.due());
    work.commit_every(std::chrono::milliseconds(0));
    EXPECT_TRUE(work.due());
    work.set("pass", {{"parts", 7}});
    EXPECT_FALSE(work.committed("pass"));
    work.commit();
    EXPECT_TRUE(work.committed("pass"));
    work.set("pass", {{"parts", 9}});
    work.set("other", 1);
  }
  KeptWork work(path, kFacts);
  EXPECT_EQ(work.entry("pass"), (nlohmann::json{{"parts", 7}}));
  EXPECT_TRUE(work.entry("other").is_null());
  EXPECT_GT(work.seconds(), 0);
  work.erase("pass");
  EXPECT_TRUE(work.committed("pass"));
  test::write_text(path / KeptWork::blocks_name("keys"), "blocks");
  work.finish();
  EXPECT_FALSE(fs::exists(path));
}

TEST(KeptWork, OfOthersIsRefusedByName) {
  const test::TemporaryFolder folder;
  KeptWork(folder.path(), kFacts).commit();
  const KeptWork::Facts model{{"model", "13 bytes"}, {"--ctx-size", "4096"}};
  RONDO_EXPECT_ERROR(ArgumentError, KeptWork(folder.path(), model), "[kept work] expected the model that",
                     folder.path().string(), "12 bytes, got 13 bytes");
  const KeptWork::Facts more{{"model", "12 bytes"}, {"--ctx-size", "4096"}, {"--skip", "3"}};
  RONDO_EXPECT_ERROR(ArgumentError, KeptWork(folder.path(), more), "expected the --skip that", "none, got 3");
  {
    const KeptWork first(folder.path(), kFacts);
    RONDO_EXPECT_ERROR(IoError, KeptWork(folder.path(), kFacts), folder.path().string(),
                       "no other process works");
  }
  test::write_text(folder / "mine.txt", "not to be removed");
  RONDO_EXPECT_ERROR(IoError, KeptWork(folder.path(), kFacts), "expected an empty folder", "got 'mine.txt'");
  RONDO_EXPECT_ERROR(IoError, KeptWork(folder / "none/work", kFacts), "none/work", "No such file");
}

TEST(KeptWork, ADamagedJournalIsNamed) {
  const test::TemporaryFolder folder;
  {
    KeptWork work(folder.path(), kFacts);
    work.set("windows", 17);
    work.commit();
  }
  const std::string whole = test::read_text(folder / "journal.json");
  std::size_t refused = 0;
  for (std::size_t n = 0; n < whole.size(); ++n) {
    std::string damaged = whole;
    damaged[n] = static_cast<char>(damaged[n] ^ 1);
    test::write_text(folder / "journal.json", damaged);
    try {
      // Where nothing is said of it (the line's end), a change changes nothing.
      EXPECT_EQ(KeptWork(folder.path(), kFacts).entry("windows"), 17) << n << " " << damaged;
    } catch (const IoError& error) {
      ++refused;
      EXPECT_NE(std::string(error.what()).find("journal.json"), std::string::npos) << error.what();
    }
  }
  EXPECT_GE(refused, whole.size() - 2);
}

/// A commit that was cut short leaves the one before.
TEST(KeptWork, AnUnfinishedCommitIsNone) {
  const test::TemporaryFolder folder;
  {
    KeptWork work(folder.path(), kFacts);
    work.set("windows", 1);
    work.commit();
  }
  test::write_text(folder / ".tmp-journal.json-0123456789abcdef", "{");
  EXPECT_EQ(KeptWork(folder.path(), kFacts).entry("windows"), 1);
  EXPECT_FALSE(fs::exists(folder / ".tmp-journal.json-0123456789abcdef"));
}

}  // namespace
}  // namespace rondo
