// Safetensors: what is written is read back; conversion; folders of shards.

#include "rondo/io/safetensors.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "rondo/core/dtype.h"
#include "rondo/core/error.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

using test::read_text;
using test::TemporaryFolder;
using test::write_text;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(Safetensors, WritesTheFormatByteForByte) {
  const TemporaryFolder folder;
  SafetensorsWriter writer(folder / "f", {{"a", "U8", {3}}});
  writer.append("a", bytes_of("xyz"));
  writer.finish();
  const std::string header = R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  const std::string length{static_cast<char>(padded.size()), 0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(read_text(folder / "f"), length + padded + "xyz");
}

TEST(Safetensors, RoundTripsInPiecesWithMetadata) {
  const TemporaryFolder folder;
  const std::vector<float> values{1.5f, -0.0f, std::numeric_limits<float>::infinity(), 3e-45f, 0.1f, 7.f};
  SafetensorsWriter writer(
      folder / "f",
      {{"z", "F32", {2, 3}}, {"empty", "I64", {4, 0}}, {"scalar", "F32", {}}, {"é", "BOOL", {2}}},
      {{"format", "pt"}});
  writer.append("z", std::span(values).first(1));
  writer.append("z", std::span(values).subspan(1));
  writer.append("scalar", std::span(values).first(1));
  writer.append("é", bytes_of("\1\1"));
  writer.finish();

  const SafetensorsFile file(folder / "f");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.tensor("z").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(file.tensor("z").dtype, "F32");
  EXPECT_EQ(text_of(file.tensor("z").bytes), text_of(std::as_bytes(std::span(values))));
  EXPECT_EQ(to_float32(file.tensor("z")), values);
  EXPECT_EQ(file.tensor("empty").elements(), 0);
  EXPECT_EQ(file.tensor("scalar").elements(), 1);
  EXPECT_EQ(text_of(file.tensor("é").bytes), "\1\1");
  EXPECT_TRUE(file.contains("z"));
  RONDO_EXPECT_ERROR(IoError, file.tensor("none"), "expected a tensor 'none'");
  EXPECT_EQ((reinterpret_cast<std::uintptr_t>(file.tensor("z").bytes.data()) % 8), 0u);
}

TEST(Safetensors, RoundTripsWhateverTablesThereAre) {
  const TemporaryFolder folder;
  EXPECT_TRUE(rc::check([&] {
    const auto shapes = *rc::gen::container<std::vector<std::vector<std::int64_t>>>(
        rc::gen::container<std::vector<std::int64_t>>(rc::gen::inRange<std::int64_t>(0, 4)));
    std::vector<SafetensorsEntry> entries;
    std::vector<std::string> contents;
    for (const auto& shape : shapes) {
      if (shape.size() > 6) continue;
      entries.push_back({fmt::format("t{}", entries.size()), "I16", shape});
      std::int64_t size = 2;
      for (const std::int64_t extent : shape) size *= extent;
      contents.push_back(
          *rc::gen::container<std::string>(static_cast<std::size_t>(size), rc::gen::arbitrary<char>()));
    }
    SafetensorsWriter writer(folder / "f", entries);
    for (std::size_t i = 0; i < entries.size(); ++i) writer.append(entries[i].name, bytes_of(contents[i]));
    writer.finish();
    const SafetensorsFile file(folder / "f");
    RC_ASSERT(file.tensors().size() == entries.size());
    for (std::size_t i = 0; i < entries.size(); ++i) {
      RC_ASSERT(file.tensor(entries[i].name).shape == entries[i].shape);
      RC_ASSERT(text_of(file.tensor(entries[i].name).bytes) == contents[i]);
    }
  }));
}

TEST(Safetensors, FileWithoutTensors) {
  const TemporaryFolder folder;
  SafetensorsWriter(folder / "f", {}).finish();
  EXPECT_TRUE(SafetensorsFile(folder / "f").tensors().empty());
}

TEST(SafetensorsWriter, RefusesWhatTheFormatCannotHold) {
  const TemporaryFolder folder;
  const auto write = [&](std::vector<SafetensorsEntry> entries) {
    SafetensorsWriter(folder / "f", std::move(entries));
  };
  RONDO_EXPECT_ERROR(ArgumentError, write({{"a", "F32", {1}}, {"a", "F32", {1}}}), "'a' twice");
  RONDO_EXPECT_ERROR(ArgumentError, write({{"__metadata__", "F32", {1}}}), "expected a name");
  RONDO_EXPECT_ERROR(ArgumentError, write({{"a", "float32", {1}}}), "'a'", "unknown dtype 'float32'");
  RONDO_EXPECT_ERROR(ArgumentError, write({{"a", "F32", {-1}}}), "'a'", "at least 0");
  RONDO_EXPECT_ERROR(ArgumentError, write({{"a", "F32", {1ll << 40, 1ll << 40}}}), "'a'", "2^63");
  RONDO_EXPECT_ERROR(ArgumentError, write({{"a", "U8", {3}}, {"b", "F32", {1}}}), "'b'", "wider types first");
  RONDO_EXPECT_ERROR(ArgumentError, write({{"\xff", "U8", {3}}}), "UTF-8");
  EXPECT_TRUE(folder.entries().empty());
}

TEST(SafetensorsWriter, RefusesDataOutOfOrderAndIncompleteFiles) {
  const TemporaryFolder folder;
  write_text(folder / "f", "old");
  {
    SafetensorsWriter writer(folder / "f", {{"a", "U8", {3}}, {"b", "U8", {1}}});
    RONDO_EXPECT_ERROR(ArgumentError, writer.append("b", bytes_of("x")), "expected data of 'a', got 'b'");
    RONDO_EXPECT_ERROR(ArgumentError, writer.append("a", bytes_of("wxyz")), "at most 3 more bytes, got 4");
    writer.append("a", bytes_of("xy"));
    RONDO_EXPECT_ERROR(ArgumentError, writer.finish(), "'a'", "expected 3 bytes, got 2");
    writer.append("a", bytes_of("z"));
    RONDO_EXPECT_ERROR(ArgumentError, writer.finish(), "'b'");
    EXPECT_EQ(read_text(folder / "f"), "old");
  }
  EXPECT_EQ(read_text(folder / "f"), "old");  // as when the writer is killed, but for the temporary file
  EXPECT_EQ(folder.entries().size(), 1u);
}

SafetensorsTensor tensor_of(const char* dtype, const std::string& bytes) {
  return {.name = "t", .dtype = dtype, .shape = {}, .bytes = bytes_of(bytes)};
}

TEST(SafetensorsConversion, HalvesAreExact) {
  // Every finite binary16 value is (-1)^s 2^(e-25) (1024 [e > 0] + f) with e at least 1.
  std::string bytes(2 * 65536, 0);
  for (std::uint32_t bits = 0; bits < 65536; ++bits) std::memcpy(&bytes[2 * bits], &bits, 2);
  const std::vector<float> values = to_float32(tensor_of("F16", bytes));
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const std::uint32_t exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const float got = values[bits];
    ASSERT_EQ(std::signbit(got), (bits & 0x8000) != 0) << bits;
    if (exponent == 31) {
      ASSERT_TRUE(fraction == 0 ? std::isinf(got) : std::isnan(got)) << bits;
    } else {
      const double expected =
          std::ldexp(fraction + (exponent > 0 ? 1024. : 0.), static_cast<int>(std::max(exponent, 1u)) - 25);
      ASSERT_EQ(std::abs(static_cast<double>(got)), expected) << bits;
    }
  }
}

TEST(SafetensorsConversion, Bfloat16IsTheUpperHalf) {
  const std::vector<std::uint16_t> bits{0x3f80, 0x8000, 0x7f80, 0x0001, 0xc2f7};
  const std::string bytes(reinterpret_cast<const char*>(bits.data()), 2 * bits.size());
  const std::vector<float> values = to_float32(tensor_of("BF16", bytes));
  for (std::size_t i = 0; i < bits.size(); ++i)
    EXPECT_EQ(std::bit_cast<std::uint32_t>(values[i]), static_cast<std::uint32_t>(bits[i]) << 16);
}

TEST(SafetensorsConversion, UnalignedAndRefused) {
  const float value = 0.3f;
  std::string bytes = "xabcd";
  std::memcpy(&bytes[1], &value, 4);
  SafetensorsTensor tensor = tensor_of("F32", bytes);
  tensor.bytes = tensor.bytes.subspan(1);
  EXPECT_EQ(to_float32(tensor), std::vector<float>{0.3f});
  std::vector<float> two(2);
  RONDO_EXPECT_ERROR(ArgumentError, to_float32(tensor, two),
                     "expected room for the 1 elements of 't', got 2");
  RONDO_EXPECT_ERROR(ArgumentError, to_float32(tensor_of("I32", "abcd")), "'t' of dtype I32");
  EXPECT_TRUE(to_float32(tensor_of("F32", "")).empty());
}

void write_shard(const std::filesystem::path& path, const std::vector<std::string>& names) {
  std::vector<SafetensorsEntry> entries;
  for (const std::string& name : names) entries.push_back({name, "U8", {1}});
  SafetensorsWriter writer(path, entries);
  for (const std::string& name : names) writer.append(name, bytes_of(name.substr(0, 1)));
  writer.finish();
}

TEST(SafetensorsFolder, OpensASingleFile) {
  const TemporaryFolder folder;
  RONDO_EXPECT_ERROR(IoError, SafetensorsFolder(folder.path()), "model.safetensors.index.json",
                     "got neither");
  write_shard(folder / "model.safetensors", {"a", "b"});
  const SafetensorsFolder weights(folder.path());
  EXPECT_EQ(weights.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(text_of(weights.tensor("b").bytes), "b");
  RONDO_EXPECT_ERROR(IoError, weights.tensor("c"), "expected a tensor 'c'");
}

TEST(SafetensorsFolder, OpensShardsAndChecksTheIndex) {
  const TemporaryFolder folder;
  write_shard(folder / "s1", {"a", "b"});
  write_shard(folder / "s2", {"c"});
  const auto open = [&](const std::string& map) {
    write_text(folder / "model.safetensors.index.json",
               R"({"metadata": {"total_size": 3}, "weight_map": )" + map + "}");
    return SafetensorsFolder(folder.path());
  };
  SafetensorsFolder weights = open(R"({"a": "s1", "b": "s1", "c": "s2"})");
  EXPECT_EQ(weights.names(), (std::vector<std::string>{"a", "b", "c"}));
  const SafetensorsFolder moved = std::move(weights);
  EXPECT_EQ(text_of(moved.tensor("a").bytes), "a");
  EXPECT_EQ(text_of(moved.tensor("c").bytes), "c");
  RONDO_EXPECT_ERROR(IoError, open(R"({"a": "s1", "c": "s2"})"), "s1", "'b'", "does not place");
  RONDO_EXPECT_ERROR(IoError, open(R"({"a": "s1", "b": "s2", "c": "s2"})"), "s1", "'b'", "does not place");
  RONDO_EXPECT_ERROR(IoError, open(R"({"a": "s1", "b": "s1", "c": "s2", "d": "s2"})"), "s2", "'d'");
  RONDO_EXPECT_ERROR(IoError, open(R"({"a": "s1", "b": "s1", "c": "s3"})"), "s3", "No such file");
  for (const char* bad : {"../s1", "/etc/passwd", "..", "", "."})
    RONDO_EXPECT_ERROR(IoError, open(R"({"a": ")" + std::string(bad) + "\"}"), "'a'",
                       "expected a file in the same folder");
  RONDO_EXPECT_ERROR(IoError, open("3"), "weight_map");
}

}  // namespace
}  // namespace rondo
