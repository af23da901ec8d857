// Safetensors files that lie: each is refused with an IoError naming the file and the cause.

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstring>

#include "rondo/core/error.h"
#include "rondo/io/safetensors.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

using test::TemporaryFolder;
using test::write_text;

std::string file_with_length(std::uint64_t length, const std::string& rest) {
  std::string file(8, 0);
  std::memcpy(file.data(), &length, 8);
  return file + rest;
}
std::string file_of(const std::string& header, std::size_t data_bytes) {
  return file_with_length(header.size(), header + std::string(data_bytes, 'd'));
}

class HostileSafetensors : public ::testing::Test {
 protected:
  void expect_refused(const std::string& content, const std::string& cause) {
    write_text(folder_ / "bad.safetensors", content);
    RONDO_EXPECT_ERROR(IoError, SafetensorsFile(folder_ / "bad.safetensors"), "bad.safetensors", cause);
  }
  void expect_table_refused(const std::string& header, std::size_t data_bytes, const std::string& cause) {
    SCOPED_TRACE(header);
    expect_refused(file_of(header, data_bytes), cause);
  }
  TemporaryFolder folder_;
};

TEST_F(HostileSafetensors, HeaderLength) {
  expect_refused("", "at least 8 bytes");
  expect_refused("1234567", "at least 8 bytes");
  expect_refused(file_with_length(100, "{}"), "header of 100 bytes, got 2");
  expect_refused(file_with_length(3, "{}"), "header of 3 bytes, got 2");
  expect_refused(file_with_length(100'000'001, "{}"), "at most 100000000");
  expect_refused(file_with_length(~std::uint64_t{0}, "{}"), "at most 100000000");
  expect_refused(file_with_length(~std::uint64_t{0} - 7, "{}"), "at most 100000000");
  expect_refused(file_with_length(0, ""), "begins with '{'");
}

TEST_F(HostileSafetensors, HeaderText) {
  expect_table_refused("[]", 0, "begins with '{'");
  expect_table_refused(" {}", 0, "begins with '{'");
  expect_table_refused("{", 0, "expected JSON");
  expect_table_refused("{}x", 0, "expected JSON");
  expect_table_refused(std::string("{}\0", 3), 0, "expected JSON");
  expect_table_refused("{\"\xff\": 1}", 0, "UTF-8");
  expect_table_refused("{\"\xed\xa0\x80\": 1}", 0, "UTF-8");  // a lone surrogate
  expect_table_refused("{\"a\":" + std::string(1'000'000, '['), 0, "3 levels");
  const std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  expect_table_refused("{" + a + "," + a + "}", 1, "'a' twice");
  expect_table_refused(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1,
                       "'dtype' twice");
}

TEST_F(HostileSafetensors, Entries) {
  const char* parts = "expected exactly a dtype, a shape and two data_offsets";
  expect_table_refused(R"({"a":3})", 0, parts);
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[1]}})", 1, parts);
  expect_table_refused(R"({"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", 1, parts);
  expect_table_refused(R"({"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", 1, parts);
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1, parts);
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0}})", 1, parts);
  expect_table_refused(R"({"a":{"dtype":"u8","shape":[1],"data_offsets":[0,1]}})", 1, "unknown dtype 'u8'");
  const char* integers = "expected integers from 0";
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1, integers);
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1, integers);
  expect_table_refused(R"({"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}})", 1, integers);
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}})", 1, integers);
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,9223372036854775808]}})", 1,
                       integers);
  expect_table_refused(R"({"__metadata__":{"a":1}})", 0, "__metadata__ 'a'");
  expect_table_refused(R"({"__metadata__":"a"})", 0, "__metadata__");
}

TEST_F(HostileSafetensors, Sizes) {
  expect_table_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "expected 8 bytes");
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", 1, "expected 1 bytes");
  expect_table_refused(R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0,
                       "2^63");
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
                       "2^63");
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}})", 0,
                       "2^63");
}

TEST_F(HostileSafetensors, Offsets) {
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 1, "ends at 2 of 1");
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 3,
                       "expected 2 data bytes, got 3");
  expect_table_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2,
                       "bytes 0 to 1 before tensor 'a'");
  expect_table_refused("{}", 1, "expected 0 data bytes, got 1");
  const auto two = [](int a_begin, int a_end, int b_begin, int b_end) {
    return fmt::format(R"({{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}},)"
                       R"("b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
                       a_end - a_begin, a_begin, a_end, b_end - b_begin, b_begin, b_end);
  };
  expect_table_refused(two(0, 2, 1, 3), 3, "'b': begins at 1 and overlaps");
  expect_table_refused(two(0, 2, 0, 2), 2, "overlaps");
  expect_table_refused(two(0, 3, 1, 1), 3, "'b': begins at 1 and overlaps");
  expect_table_refused(two(0, 1, 2, 3), 3, "bytes 1 to 2 before tensor 'b'");
  write_text(folder_ / "good", file_of(two(2, 3, 0, 2), 3));  // any order of names is fine
  EXPECT_EQ(SafetensorsFile(folder_ / "good").tensor("b").bytes.size(), 2u);
  write_text(folder_ / "good", file_of(two(2, 2, 0, 2), 2));  // and so is an empty tensor between others
  EXPECT_EQ(SafetensorsFile(folder_ / "good").tensor("a").bytes.size(), 0u);
}

// Whatever single byte of a good file is changed or cut off, the file is read or refused, never worse.
TEST_F(HostileSafetensors, DamagedFilesAreReadOrRefused) {
  const std::string good = file_of(R"({"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
                                   R"("b":{"dtype":"U8","shape":[],"data_offsets":[8,9]}})",
                                   9);
  EXPECT_TRUE(rc::check([&] {
    std::string bad = good;
    bad[*rc::gen::inRange<std::size_t>(0, bad.size())] = *rc::gen::arbitrary<char>();
    bad.resize(*rc::gen::element(bad.size(), *rc::gen::inRange<std::size_t>(0, bad.size())));
    write_text(folder_ / "bad", bad);
    try {
      const SafetensorsFile file(folder_ / "bad");
      std::size_t bytes = 0;
      for (const auto& [name, tensor] : file.tensors()) bytes += tensor.bytes.size();
      RC_ASSERT(bytes <= bad.size());
    } catch (const IoError&) {
    }
  }));
}

}  // namespace
}  // namespace rondo
