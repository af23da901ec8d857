#include "rondo/reference/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "rondo/core/error.h"

namespace rondo::reference {
namespace {

TEST(ReferenceConvert, ReadsAndWritesStridedViews) {
  std::vector<float> memory(24, -1);
  Tensor odd = view(memory.data(), DType::f32, 3, 2, 4).slice_heads({1, 2}).slice({1, 3});
  from_doubles({1, 2, 3, 4, 5, 6, 7, 8}, odd);
  EXPECT_EQ(memory[12], 1);
  EXPECT_EQ(memory[23], 8);
  EXPECT_EQ(memory[11], -1);
  EXPECT_EQ(to_doubles(odd), (std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_THROW(from_doubles({1}, odd), ArgumentError);
}

TEST(ReferenceConvert, RoundsToTheStorageType) {
  bfloat16 half;
  from_doubles({1 + 0x1p-9}, view(&half, DType::bf16, 1, 1, 1));  // below half a unit in the last place
  EXPECT_EQ(to_doubles(view(&half, DType::bf16, 1, 1, 1)), std::vector<double>{1});
  EXPECT_EQ(rounded({1 + 0x1p-8 + 0x1p-20, 1e300}, DType::bf16),
            (std::vector<double>{1 + 0x1p-7, std::numeric_limits<double>::infinity()}));
  EXPECT_EQ(rounded({0.1}, DType::f32), std::vector<double>{0.1f});
}

TEST(ReferenceConvert, StandardNormalIsSeededAndNormal) {
  const auto values = standard_normal(40001, 7);
  double mean = 0, square = 0, fourth = 0;
  for (const double value : values) {
    mean += value / 40001, square += value * value / 40001, fourth += std::pow(value, 4) / 40001;
  }
  // Four standard errors: 1, sqrt(2) and sqrt(96) over sqrt(40001).
  EXPECT_NEAR(mean, 0, 0.02);
  EXPECT_NEAR(square, 1, 0.03);
  EXPECT_NEAR(fourth, 3, 0.2);
  EXPECT_EQ(standard_normal(5, 7), std::vector<double>(values.begin(), values.begin() + 5));
  EXPECT_NE(standard_normal(5, 8), standard_normal(5, 7));
  EXPECT_NE(standard_normal(5, 7, 1), standard_normal(5, 7));
}

TEST(ReferenceConvert, MaxDifferenceSeesNaNAndInfinity) {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  EXPECT_EQ(max_difference({1, -infinity}, {1.5, -infinity}), 0.5);
  EXPECT_EQ(max_difference({nan}, {nan}), infinity);
  EXPECT_EQ(max_difference({1}, {infinity}), infinity);
  EXPECT_EQ(max_difference({1, 2}, {1}), infinity);
  EXPECT_EQ(max_difference({}, {}), 0);
}

}  // namespace
}  // namespace rondo::reference
