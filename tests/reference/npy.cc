#include "tests/support/npy.h"

#include <gtest/gtest.h>

namespace rondo::test {
namespace {

std::string file(int version, const std::string& header, const std::string& data) {
  std::string bytes = "\x93NUMPY";
  bytes += static_cast<char>(version);
  bytes += '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) bytes += static_cast<char>(header.size() >> (8 * i));
  return bytes + header + data;
}

TEST(Npy, ReadsShapesTypesAndBothVersions) {
  const std::string header = "{'descr': '<i8', 'fortran_order': False, 'shape': (1, 2), }";
  const std::string data("\x05\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 16);
  for (const int version : {1, 2}) {
    const NpyArray array = parse_npy(file(version, header, data), "test");
    EXPECT_EQ(array.shape, (std::vector<std::int64_t>{1, 2}));
    EXPECT_EQ(array.dtype, "int64");
    EXPECT_EQ(array.values, (std::vector<double>{5, -1}));
  }
  const std::string scalar = "{'descr': '|b1', 'fortran_order': False, 'shape': (), }";
  EXPECT_EQ(parse_npy(file(1, scalar, "\x01"), "test").values, std::vector<double>{1});
}

TEST(Npy, ConvertsHalves) {
  EXPECT_EQ(half_to_double(0x3c00), 1);
  EXPECT_EQ(half_to_double(0xc000), -2);
  EXPECT_EQ(half_to_double(0x3555), 0.333251953125);
  EXPECT_EQ(half_to_double(0x0001), 0x1p-24);
  EXPECT_EQ(half_to_double(0x7bff), 65504);
  EXPECT_EQ(half_to_double(0xfc00), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(half_to_double(0x7e00)));
}

TEST(Npy, RefusesWhatItDoesNotRead) {
  const auto header = [](const char* descr, const char* order, const char* shape) {
    return fmt::format("{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}", descr, order, shape);
  };
  EXPECT_THROW(parse_npy("short", "test"), IoError);
  EXPECT_THROW(parse_npy(file(3, header("<f4", "False", "(1,)"), "1234"), "test"), IoError);
  EXPECT_THROW(parse_npy(file(1, header("<f4", "True", "(1,)"), "1234"), "test"), IoError);
  EXPECT_THROW(parse_npy(file(1, header(">f4", "False", "(1,)"), "1234"), "test"), IoError);
  EXPECT_THROW(parse_npy(file(1, header("<f4", "False", "(2,)"), "1234"), "test"), IoError);
  EXPECT_NO_THROW(parse_npy(file(1, header("<f4", "False", "(1,)"), "1234"), "test"));
}

}  // namespace
}  // namespace rondo::test
