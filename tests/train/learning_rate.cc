#include "rondo/train/learning_rate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "rondo/core/error.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

TEST(LearningRate, ClimbsInEqualStepsToThePeak) {
  for (const auto shape : {LearningRateShape::constant, LearningRateShape::cosine, LearningRateShape::wsd}) {
    const LearningRate rate{.shape = shape, .peak = 0.5, .warmup = 4, .total_steps = 20};
    for (std::int64_t step = 1; step <= 4; ++step)
      EXPECT_DOUBLE_EQ(rate.at(step), 0.125 * static_cast<double>(step));
  }
  const LearningRate at_once{
      .shape = LearningRateShape::constant, .peak = 0.5, .warmup = 0, .total_steps = 9};
  EXPECT_EQ(at_once.at(1), 0.5);
}

TEST(LearningRate, CosineFallsToItsShareOfThePeak) {
  const LearningRate rate{
      .shape = LearningRateShape::cosine, .peak = 1, .final_share = 0.1, .warmup = 10, .total_steps = 110};
  EXPECT_NEAR(rate.at(60), 0.55, 1e-15);                                  // half way
  EXPECT_NEAR(rate.at(35), 0.1 + 0.9 * (1 + std::sqrt(0.5)) / 2, 1e-15);  // a quarter
  EXPECT_NEAR(rate.at(110), 0.1, 1e-15);
  EXPECT_NEAR(rate.at(500), 0.1, 1e-15);
  for (std::int64_t step = 11; step <= 110; ++step) EXPECT_LT(rate.at(step), rate.at(step - 1));
}

TEST(LearningRate, WsdStaysAndThenFallsLinearly) {
  const LearningRate rate{.shape = LearningRateShape::wsd,
                          .peak = 1,
                          .final_share = 0,
                          .warmup = 5,
                          .decay_share = 0.2,
                          .total_steps = 100};
  EXPECT_EQ(rate.at(6), 1);
  EXPECT_EQ(rate.at(80), 1);
  EXPECT_NEAR(rate.at(85), 0.75, 1e-15);
  EXPECT_NEAR(rate.at(99), 0.05, 1e-15);
  EXPECT_NEAR(rate.at(100), 0, 1e-15);
  const LearningRate short_run{.shape = LearningRateShape::wsd,
                               .peak = 1,
                               .final_share = 0,
                               .warmup = 9,
                               .decay_share = 1,
                               .total_steps = 10};
  EXPECT_EQ(short_run.at(9), 1);  // the decay never begins before the peak
  EXPECT_NEAR(short_run.at(10), 0, 1e-15);
}

TEST(LearningRate, ShapesHaveNames) {
  for (const auto shape : {LearningRateShape::constant, LearningRateShape::cosine, LearningRateShape::wsd})
    EXPECT_EQ(parse_learning_rate_shape(name_of(shape)), shape);
  RONDO_EXPECT_ERROR(ArgumentError, parse_learning_rate_shape("linear"), "cosine", "'linear'");
}

}  // namespace
}  // namespace rondo
