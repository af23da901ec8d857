// Frequencies against numbers computed with 40 digits, tables against long double.

#include "rondo/model/rotary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "rondo/core/error.h"

namespace rondo {
namespace {

ModelConfig model(std::int64_t head_dim, double theta, RopeScaling scaling = {}) {
  return {.vocabulary = 10,
          .width = head_dim,
          .ffn = 8,
          .layers = 1,
          .q_heads = 1,
          .kv_heads = 1,
          .head_dim = head_dim,
          .rope_theta = theta,
          .rope_scaling = scaling};
}

using Expected = std::vector<std::pair<std::size_t, double>>;

void expect_frequencies(const ModelConfig& config, const Expected& expected) {
  const RotaryFrequencies got = rotary_frequencies(config);
  ASSERT_EQ(got.inverse.size(), static_cast<std::size_t>(config.head_dim / 2));
  for (const auto& [pair, value] : expected)  // a dozen roundings of 2^-53
    EXPECT_NEAR(got.inverse[pair] / value, 1, 2e-15) << "pair " << pair;
}

TEST(Rotary, PlainFrequencies) {
  expect_frequencies(model(128, 500000),
                     {{0, 1}, {1, 0.8146172338565447041}, {63, 2.4551407911316088712e-6}});
  EXPECT_EQ(rotary_frequencies(model(4, 10000)).inverse, (std::vector<double>{1, 0.01}));
  EXPECT_EQ(rotary_frequencies(model(4, 10000)).attention_factor, 1);
}

TEST(Rotary, LinearDividesEveryFrequency) {
  const std::vector<double> plain = rotary_frequencies(model(64, 10000)).inverse;
  const std::vector<double> linear =
      rotary_frequencies(model(64, 10000, {.type = RopeType::linear, .factor = 2.5})).inverse;
  for (std::size_t p = 0; p < plain.size(); ++p) EXPECT_EQ(linear[p], plain[p] / 2.5);
}

TEST(Rotary, Llama3Frequencies) {  // Llama 3.1: kept up to pair 28, blended to 35, divided from 36 on
  const RopeScaling scaling{.type = RopeType::llama3,
                            .factor = 8,
                            .low_freq_factor = 1,
                            .high_freq_factor = 4,
                            .original_max_positions = 8192};
  expect_frequencies(model(128, 500000, scaling), {{0, 1},
                                                   {1, 0.8146172338565447041},
                                                   {28, 0.0032114459947525910185},
                                                   {29, 0.0021665707635033586093},
                                                   {30, 0.0013718935677611381604},
                                                   {32, 0.00052484616099295466973},
                                                   {34, 0.00017850781276799641852},
                                                   {35, 0.000095562123539646830199},
                                                   {36, 0.000077846552739324497444},
                                                   {63, 3.0689259889145110891e-7}});
  EXPECT_EQ(rotary_frequencies(model(128, 500000, scaling)).attention_factor, 1);
}

TEST(Rotary, YarnFrequencies) {  // the ramp goes from pair 20 to 46
  const RopeScaling scaling{.type = RopeType::yarn, .factor = 16, .original_max_positions = 4096};
  expect_frequencies(model(128, 10000, scaling), {{0, 1},
                                                  {20, 0.056234132519034908039},
                                                  {21, 0.046940859997959401223},
                                                  {30, 0.0085268437729674084334},
                                                  {45, 0.00015177160473182493166},
                                                  {46, 0.000083345089510207751605},
                                                  {63, 7.2173874043091136229e-6}});
}

TEST(Rotary, YarnWithoutRounding) {  // the ramp goes from 11.797974 to 19.82544
  const RopeScaling scaling{
      .type = RopeType::yarn, .factor = 4, .original_max_positions = 32768, .truncate = false};
  expect_frequencies(model(64, 1e6, scaling), {{0, 1},
                                               {12, 0.0055172704751341220651},
                                               {13, 0.0032416347362497184259},
                                               {18, 0.000177344246306840211},
                                               {20, 0.000044456985250973070031},
                                               {21, 0.000028869549617236454492},
                                               {31, 3.8498163151487299739e-7}});
}

TEST(Rotary, YarnAttentionFactor) {
  RopeScaling scaling{.type = RopeType::yarn, .factor = 16, .original_max_positions = 4096};
  const auto factor = [&] { return rotary_frequencies(model(64, 10000, scaling)).attention_factor; };
  EXPECT_DOUBLE_EQ(factor(), 1.2772588722239781238);
  scaling.mscale = 0.707;  // alone it does nothing
  EXPECT_DOUBLE_EQ(factor(), 1.2772588722239781238);
  scaling.factor = 40;
  scaling.mscale_all_dim = 1;
  EXPECT_DOUBLE_EQ(factor(), 0.92104235531633989107);
  scaling.attention_factor = 1.5;
  EXPECT_EQ(factor(), 1.5);
  scaling = {.type = RopeType::yarn, .factor = 1, .original_max_positions = 4096};
  EXPECT_EQ(factor(), 1);
  EXPECT_EQ(rotary_frequencies(model(64, 10000, scaling)).inverse,
            rotary_frequencies(model(64, 10000)).inverse);
}

TEST(Rotary, YarnRampOfNoLength) {  // both ends clamp to pair 0: pair 0 is kept, the others divided
  const RopeScaling scaling{.type = RopeType::yarn, .factor = 2, .original_max_positions = 4};
  const std::vector<double> got = rotary_frequencies(model(8, 10000, scaling)).inverse;
  const std::vector<double> plain = rotary_frequencies(model(8, 10000)).inverse;
  EXPECT_EQ(got[0], 1);
  for (std::size_t p = 1; p < got.size(); ++p) EXPECT_EQ(got[p], plain[p] / 2);
}

TEST(Rotary, TablesAreAccurateBeyondAMillionPositions) {
  const ModelConfig config = model(64, 500000);
  const std::vector<std::int64_t> positions{0,         1,         2,          511,        65'537,
                                            1'000'003, 1'048'575, 16'777'217, 100'000'007};
  const std::size_t pairs = 32;
  std::vector<float> cos_TP(positions.size() * pairs), sin_TP(cos_TP.size());
  fill_rotary_tables(config, positions, cos_TP.data(), sin_TP.data());
  for (std::size_t t = 0; t < positions.size(); ++t)
    for (std::size_t p = 0; p < pairs; ++p) {
      const auto position = static_cast<long double>(positions[t]);
      const long double angle = position * std::pow(500000.0L, -2.0L * static_cast<long double>(p) / 64);
      // Rounding to float32 (half an ulp below 1), then the frequency's and the product's rounding in double.
      const double bound = 0x1p-25 + static_cast<double>(position) * 0x1p-51;
      EXPECT_NEAR(cos_TP[t * pairs + p], static_cast<double>(std::cos(angle)), bound)
          << positions[t] << " " << p;
      EXPECT_NEAR(sin_TP[t * pairs + p], static_cast<double>(std::sin(angle)), bound)
          << positions[t] << " " << p;
    }
}

TEST(Rotary, TablesCarryTheAttentionFactor) {
  const ModelConfig config =
      model(8, 10000,
            {.type = RopeType::yarn, .factor = 4, .original_max_positions = 64, .attention_factor = 1.25});
  const std::vector<std::int64_t> positions{0, 77};
  float cos_TP[8], sin_TP[8];
  fill_rotary_tables(config, positions, cos_TP, sin_TP);
  EXPECT_EQ(cos_TP[0], 1.25f);
  EXPECT_EQ(sin_TP[0], 0.0f);
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(cos_TP[i] * cos_TP[i] + sin_TP[i] * sin_TP[i], 1.5625f, 4e-7f);
}

TEST(Rotary, TablesOfPartsAreTheParts) {
  const ModelConfig config = model(16, 10000);
  std::vector<std::int64_t> positions(100);
  std::iota(positions.begin(), positions.end(), 123'456);
  std::vector<float> cos_whole(800), sin_whole(800), cos_parts(800), sin_parts(800);
  fill_rotary_tables(config, positions, cos_whole.data(), sin_whole.data());
  fill_rotary_tables(config, std::span(positions).first(37), cos_parts.data(), sin_parts.data());
  fill_rotary_tables(config, std::span(positions).subspan(37), cos_parts.data() + 37 * 8,
                     sin_parts.data() + 37 * 8);
  EXPECT_EQ(cos_whole, cos_parts);
  EXPECT_EQ(sin_whole, sin_parts);
  fill_rotary_tables(config, {}, nullptr, nullptr);
}

TEST(Rotary, BadPositionsAreRefused) {
  float cos_TP[8], sin_TP[8];
  for (const std::int64_t bad : {std::int64_t{-1}, std::int64_t{1} << 53})
    EXPECT_THROW(fill_rotary_tables(model(16, 10000), std::vector{bad}, cos_TP, sin_TP), ArgumentError);
}

}  // namespace
}  // namespace rondo
