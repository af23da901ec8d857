// Mapped, atomic and JSON files.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "rondo/core/error.h"
#include "rondo/io/atomic_file.h"
#include "rondo/io/json_file.h"
#include "rondo/io/mapped_file.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;
using test::read_text;
using test::TemporaryFolder;
using test::write_text;
using Names = std::vector<std::string>;

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, ShowsTheBytesUnderEveryPattern) {
  const TemporaryFolder folder;
  const std::string text = std::string("a\0b", 3) + std::string(10000, 'x');
  write_text(folder / "f", text);
  for (const auto pattern : {AccessPattern::normal, AccessPattern::sequential, AccessPattern::random}) {
    const MappedFile file(folder / "f", pattern);
    EXPECT_EQ(file.size(), 10003);
    EXPECT_EQ(text_of(file), text);
  }
}

TEST(MappedFile, EmptyFileIsAnEmptySpan) {
  const TemporaryFolder folder;
  write_text(folder / "f", "");
  const MappedFile file(folder / "f", AccessPattern::random);
  EXPECT_EQ(file.size(), 0);
  EXPECT_TRUE(file.bytes().empty());
}

TEST(MappedFile, MovesKeepTheMapping) {
  const TemporaryFolder folder;
  write_text(folder / "f", "first");
  write_text(folder / "g", "second");
  MappedFile a(folder / "f"), b(folder / "g");
  const auto* before = b.bytes().data();
  a = std::move(b);
  EXPECT_EQ(a.bytes().data(), before);
  EXPECT_EQ(text_of(a), "second");
  const MappedFile c(std::move(a));
  EXPECT_EQ(text_of(c), "second");
}

TEST(MappedFile, NamesWhatItCannotMap) {
  const TemporaryFolder folder;
  RONDO_EXPECT_ERROR(IoError, MappedFile(folder / "absent"), "absent", "expected a readable file",
                     "No such file");
  RONDO_EXPECT_ERROR(IoError, MappedFile(folder.path()), folder.path().string(), "expected a regular file",
                     "folder");
  RONDO_EXPECT_ERROR(IoError, MappedFile("/dev/null"), "/dev/null", "expected a regular file");
}

TEST(AtomicFile, AppearsAtCommitAndReplaces) {
  const TemporaryFolder folder;
  {
    AtomicFile file(folder / "f");
    file.write("new");
    EXPECT_FALSE(fs::exists(folder / "f"));
    file.commit();
  }
  EXPECT_EQ(read_text(folder / "f"), "new");
  write_file_atomically(folder / "f", "newer");
  EXPECT_EQ(read_text(folder / "f"), "newer");
  EXPECT_EQ(folder.entries(), Names{"f"});
}

TEST(AtomicFile, WithoutCommitTheOldContentStays) {
  const TemporaryFolder folder;
  write_text(folder / "f", "old");
  {
    AtomicFile file(folder / "f");
    file.write("half of");
    EXPECT_EQ(file.stamp().bytes, 7);
    EXPECT_EQ(read_text(folder / "f"), "old");
    EXPECT_EQ(folder.entries().size(), 2u);
  }
  EXPECT_EQ(read_text(folder / "f"), "old");
  EXPECT_EQ(folder.entries(), Names{"f"});
}

TEST(AtomicFile, RefusesASecondCommitAndLaterWrites) {
  const TemporaryFolder folder;
  AtomicFile file(folder / "f");
  file.commit();
  EXPECT_THROW(file.commit(), ArgumentError);
  EXPECT_THROW(file.write("x"), ArgumentError);
  EXPECT_EQ(read_text(folder / "f"), "");
}

TEST(AtomicFile, NamesWhatItCannotWrite) {
  const TemporaryFolder folder;
  RONDO_EXPECT_ERROR(IoError, AtomicFile(folder / "no/f"), "no/.tmp-f-", "No such file");
  RONDO_EXPECT_ERROR(ArgumentError, AtomicFile(folder / ""), "expected the path of a file");
  fs::create_directory(folder / "d");
  AtomicFile file(folder / "d");
  RONDO_EXPECT_ERROR(IoError, file.commit(), "expected to rename", "directory");
}

TEST(OutputFile, FullDiskIsAnErrorNamingPathAndCause) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  OutputFile file("/dev/full", OutputFile::Mode::existing);
  RONDO_EXPECT_ERROR(IoError, file.write("x"), "/dev/full", "expected to write 1 bytes, got 0",
                     "No space left");
}

// The system refuses to let the file grow: the first write is short, the next one fails.
TEST(AtomicFile, ShortWriteLeavesTheOldFile) {
  const TemporaryFolder folder;
  write_text(folder / "f", "old");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 1000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message =
      test::message_of<IoError>([&] { write_file_atomically(folder / "f", std::string(5000, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_NE(message.find("expected to write 5000 bytes, got 1000 written: File too large"), std::string::npos)
      << message;
  EXPECT_EQ(read_text(folder / "f"), "old");
  EXPECT_EQ(folder.entries(), Names{"f"});
}

TEST(Checksum, IsThatOfTheContent) {
  const TemporaryFolder folder;
  EXPECT_EQ(Checksum().stamp(), (FileStamp{0, 0x2d06800538d394c2}));  // XXH3's own value for nothing
  const std::string text(3'000'000, 'x');
  AtomicFile file(folder / "f");
  for (std::size_t at = 0; at < text.size(); at += 70'001)
    file.write(std::string_view(text).substr(at, 70'001));
  file.commit();
  EXPECT_EQ(file.stamp().bytes, 3'000'000);
  EXPECT_EQ(read_stamp(folder / "f"), file.stamp());
  write_text(folder / "f", text.substr(1) + "y");
  EXPECT_EQ(read_stamp(folder / "f").bytes, 3'000'000);
  EXPECT_NE(read_stamp(folder / "f"), file.stamp());
  RONDO_EXPECT_ERROR(IoError, read_stamp(folder / "absent"), "absent", "No such file");
  RONDO_EXPECT_ERROR(IoError, read_stamp(folder.path()), folder.path().string(), "directory");
}

TEST(TemporaryName, IsKnownAgain) {
  const std::string name = temporary_name("a/step-7").filename().string();
  EXPECT_EQ(temporary_name_of(name), "step-7");
  for (const char* other : {"step-7", ".tmp-step-7", ".tmp-step-7-0123456789abcdeg", ".tmp--0123456789abcdef",
                            ".tmp-0123456789abcdef", "x.tmp-step-7-0123456789abcdef", ""})
    EXPECT_EQ(temporary_name_of(other), "") << other;
}

TEST(RemoveTree, RemovesAllAndFollowsNoLinks) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "t/a/b");
  write_text(folder / "t/a/f", "x");
  write_text(folder / "kept", "x");
  fs::create_symlink(folder.path(), folder / "t/link");
  EXPECT_EQ(remove_tree(system_files(), folder / "t"), 0);
  EXPECT_EQ(folder.entries(), Names{"kept"});
  EXPECT_EQ(remove_tree(system_files(), folder / "t"), 0);  // nothing there
}

TEST(AtomicDirectory, AppearsAtCommitWithFoldersInside) {
  const TemporaryFolder folder;
  AtomicDirectory directory(folder / "checkpoint/");
  write_text(directory.temporary_path() / "a", "1");
  fs::create_directories(directory.temporary_path() / "state/deep");
  write_text(directory.temporary_path() / "state/deep/b", "2");
  EXPECT_FALSE(fs::exists(folder / "checkpoint"));
  directory.commit();
  EXPECT_EQ(read_text(folder / "checkpoint/a"), "1");
  EXPECT_EQ(read_text(folder / "checkpoint/state/deep/b"), "2");
  EXPECT_EQ(folder.entries(), Names{"checkpoint"});
  EXPECT_THROW(directory.commit(), ArgumentError);
}

TEST(AtomicDirectory, ReplacesAnExistingOneAsAWhole) {
  const TemporaryFolder folder;
  fs::create_directory(folder / "c");
  write_text(folder / "c/old", "old");
  AtomicDirectory directory(folder / "c");
  write_text(directory.temporary_path() / "new", "new");
  EXPECT_TRUE(fs::exists(folder / "c/old"));
  directory.commit();
  EXPECT_EQ(folder.entries(), Names{"c"});
  EXPECT_FALSE(fs::exists(folder / "c/old"));
  EXPECT_EQ(read_text(folder / "c/new"), "new");
}

TEST(AtomicDirectory, WithoutCommitTheOldOneStays) {
  const TemporaryFolder folder;
  fs::create_directory(folder / "c");
  write_text(folder / "c/old", "old");
  {
    const AtomicDirectory directory(folder / "c");
    write_text(directory.temporary_path() / "new", "new");
  }
  EXPECT_EQ(folder.entries(), Names{"c"});
  EXPECT_EQ(read_text(folder / "c/old"), "old");
}

TEST(AtomicDirectory, NamesWhatItCannotReplace) {
  const TemporaryFolder folder;
  write_text(folder / "f", "a file");
  RONDO_EXPECT_ERROR(IoError, AtomicDirectory(folder / "f"), "f", "expected a folder or nothing there");
  RONDO_EXPECT_ERROR(IoError, AtomicDirectory(folder / "no/c"), "no/.tmp-c-", "No such file");
  EXPECT_EQ(read_text(folder / "f"), "a file");
}

TEST(JsonFile, RoundTrips) {
  const TemporaryFolder folder;
  const nlohmann::json document = {{"a", {1, 2.5, "é"}}, {"b", nullptr}};
  write_json_file(folder / "j", document);
  EXPECT_EQ(read_json_file(folder / "j"), document);
  EXPECT_THROW(write_json_file(folder / "j", {{"a", "\xff"}}), IoError);
  EXPECT_EQ(read_json_file(folder / "j"), document);
}

TEST(JsonFile, NamesPathAndPlace) {
  const TemporaryFolder folder;
  const auto expect = [&](const std::string& text, const std::vector<std::string>& parts) {
    write_text(folder / "j.json", text);
    const std::string message = test::message_of<IoError>([&] { read_json_file(folder / "j.json"); });
    for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect("{\n  \"a\": 1,\n  oops\n}", {"j.json", "line 3, column 3"});
  expect("", {"j.json", "line 1, column 1"});
  expect("{\"a\": 1} x", {"line 1, column 10"});
  expect("{\"a\": {\"b\": 1, \"b\": 2}}", {"'b' twice"});
  expect("[\"\xff\"]", {"line 1", "UTF-8"});
  expect(std::string(100000, '['), {"64 levels"});
  expect(std::string("{}\n\0{", 5), {"line 2, column 1", "NUL"});
  expect("[1e999]", {"overflow", "1e999"});
  write_text(folder / "j.json", R"([{"a": 1}, {"a": [2]}, {"b": {"a": 1}, "a": 3}])");
  EXPECT_NO_THROW(read_json_file(folder / "j.json"));
}

}  // namespace
}  // namespace rondo
