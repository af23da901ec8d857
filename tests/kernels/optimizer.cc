// AdamW, the norm of gradients and the measured peak, on every tier of this processor.

#include <gtest/gtest.h>

#include "rondo/kernels/kernels.h"
#include "rondo/kernels/peak.h"
#include "rondo/reference/layers.h"
#include "tests/kernels/matrices.h"

namespace rondo {
namespace {

class Tiers : public ::testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Optimizer, Tiers, ::testing::ValuesIn(test::tiers()),
                         [](const auto& test_case) { return std::string(name_of(test_case.param)); });

std::vector<float> floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }
std::vector<double> doubles(const std::vector<float>& values) { return {values.begin(), values.end()}; }

TEST_P(Tiers, AdamWFollowsTheOracleForManySteps) {
  const auto device = test::make_device(2, GetParam());
  for (std::int64_t n : {0, 1, 77, 40000}) {
    std::vector<float> parameters = floats(reference::standard_normal(n, 1)), first(parameters.size()),
                       second(parameters.size());
    std::vector<double> parameters_64 = doubles(parameters), first_64(parameters.size()),
                        second_64(parameters.size());
    kernels::AdamW settings{.learning_rate = 0.01f, .weight_decay = 0.1f, .gradient_scale = 0.5f};
    for (settings.step = 1; settings.step <= 10; ++settings.step) {
      const auto gradients =
          floats(reference::standard_normal(n, 2, static_cast<std::uint64_t>(settings.step)));
      kernels::adamw(device->stream, settings, parameters, gradients, first, second);
      reference::adamw({.learning_rate = settings.learning_rate,
                        .beta1 = settings.beta1,
                        .beta2 = settings.beta2,
                        .epsilon = settings.epsilon,
                        .weight_decay = settings.weight_decay,
                        .gradient_scale = settings.gradient_scale,
                        .step = settings.step},
                       doubles(gradients), parameters_64, first_64, second_64);
    }
    // Ten steps of a few roundings each, of values no larger than 6 (parameters), 4 and 16 (moments).
    EXPECT_LE(reference::max_difference(doubles(parameters), parameters_64), 10 * 3 * 0x1p-24 * 6);
    EXPECT_LE(reference::max_difference(doubles(first), first_64), 10 * 3 * 0x1p-24 * 4);
    EXPECT_LE(reference::max_difference(doubles(second), second_64), 10 * 3 * 0x1p-24 * 16);
  }
}

TEST_P(Tiers, SumOfSquares) {
  for (std::int64_t n : {0, 1, 16384, 16385, 100001}) {
    const auto values = floats(reference::standard_normal(n, 3));
    double expected = 0;
    for (float value : values) expected += static_cast<double>(value) * static_cast<double>(value);
    std::vector<double> got;
    for (int threads : {1, 2, 3}) {
      const auto device = test::make_device(threads, GetParam());
      got.push_back(kernels::sum_of_squares(device->stream, values));
    }
    EXPECT_NEAR(got[0], expected, expected * 1e-13);
    EXPECT_EQ(got[0], got[1]);
    EXPECT_EQ(got[0], got[2]);
  }
}

TEST_P(Tiers, SumOfSquaresBeyondFloat32) {
  const auto device = test::make_device(1, GetParam());
  const std::vector<float> huge(100, 1e30f);
  EXPECT_NEAR(kernels::sum_of_squares(device->stream, huge) / 1e62, 1, 1e-6);
}

TEST_P(Tiers, PeakIsPlausible) {
  const auto device = test::make_device(1, GetParam());
  const double peak = kernels::measure_peak_flops(device->stream, DType::f32, std::chrono::milliseconds(20));
  EXPECT_GT(peak, 1e6);
  EXPECT_LT(peak, 1e12);
  EXPECT_THROW(kernels::measure_peak_flops(device->stream, DType::f32, std::chrono::milliseconds(0)),
               ArgumentError);
}

TEST(Optimizer, RefusesBadSettings) {
  const auto device = test::make_device();
  std::vector<float> a(3), b(3), c(3), short_one(2);
  const auto step = [&](kernels::AdamW settings, std::span<const float> gradients) {
    kernels::adamw(device->stream, settings, a, gradients, b, c);
  };
  EXPECT_THROW(step({.step = 0}, a), ArgumentError);
  EXPECT_THROW(step({.beta1 = 1}, a), ArgumentError);
  EXPECT_THROW(step({.beta2 = -0.1f}, a), ArgumentError);
  EXPECT_THROW(step({}, short_one), ArgumentError);
}

}  // namespace
}  // namespace rondo
