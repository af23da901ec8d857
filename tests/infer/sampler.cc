// The sampler against probabilities worked out by hand.

#include "rondo/infer/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "rondo/core/error.h"

namespace rondo {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kDraws = 20000;

std::vector<float> logs(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + 3));  // any shift
  return logits;
}

std::map<std::int32_t, int> draw(const SamplingOptions& options, const std::vector<float>& logits) {
  Sampler sampler(options);
  std::map<std::int32_t, int> counts;
  for (std::int64_t n = 0; n < kDraws; ++n) ++counts[sampler(logits, n)];
  return counts;
}

/// Each count is binomial: five standard deviations are passed once in two million draws of a correct one.
void expect_distribution(const std::map<std::int32_t, int>& counts, std::vector<double> weights) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::size_t id = 0; id < weights.size(); ++id) {
    const double p = weights[id] / total;
    const auto found = counts.find(static_cast<std::int32_t>(id));
    const double count = found == counts.end() ? 0 : found->second;
    EXPECT_NEAR(count, kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p))) << "token " << id;
  }
}

const std::vector<double> kProbabilities{0.1, 0.4, 0.05, 0.25, 0.2};

TEST(Sampler, DrawsFromTheSoftmax) {
  expect_distribution(draw({.temperature = 1}, logs(kProbabilities)), kProbabilities);
}

TEST(Sampler, TemperatureRaisesProbabilitiesToItsInverse) {
  for (const float temperature : {0.5f, 0.8f, 2.0f}) {
    std::vector<double> weights = kProbabilities;
    for (double& weight : weights) weight = std::pow(weight, 1 / temperature);
    expect_distribution(draw({.temperature = temperature}, logs(kProbabilities)), weights);
  }
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  const auto logits = logs(kProbabilities);
  expect_distribution(draw({.temperature = 1, .top_k = 2}, logits), {0, 0.4, 0, 0.25, 0});
  expect_distribution(draw({.temperature = 1, .top_k = 1}, logits), {0, 1, 0, 0, 0});
  expect_distribution(draw({.temperature = 1, .top_k = 99}, logits), kProbabilities);
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  const auto logits = logs(kProbabilities);
  expect_distribution(draw({.temperature = 1, .top_p = 0.39f}, logits), {0, 1, 0, 0, 0});
  expect_distribution(draw({.temperature = 1, .top_p = 0.41f}, logits), {0, 0.4, 0, 0.25, 0});
  expect_distribution(draw({.temperature = 1, .top_p = 0.84f}, logits), {0, 0.4, 0, 0.25, 0.2});
  expect_distribution(draw({.temperature = 1, .top_p = 0.86f}, logits), {0.1, 0.4, 0, 0.25, 0.2});
  expect_distribution(draw({.temperature = 1, .top_p = 1e-6f}, logits), {0, 1, 0, 0, 0});
}

TEST(Sampler, MinPIsRelativeToTheLikeliest) {
  const auto logits = logs(kProbabilities);
  expect_distribution(draw({.temperature = 1, .min_p = 0.49f}, logits), {0, 0.4, 0, 0.25, 0.2});
  expect_distribution(draw({.temperature = 1, .min_p = 0.51f}, logits), {0, 0.4, 0, 0.25, 0});
  expect_distribution(draw({.temperature = 1, .min_p = 1}, logits), {0, 1, 0, 0, 0});
}

// Top-p counts within what top-k left: 0.25 of 0.85 are enough where they were not of all.
TEST(Sampler, FiltersApplyInOrderAndBeforeTheTemperature) {
  const auto logits = logs(kProbabilities);
  expect_distribution(draw({.temperature = 1, .top_k = 3, .top_p = 0.7f}, logits), {0, 0.4, 0, 0.25, 0});
  expect_distribution(draw({.temperature = 1, .top_p = 0.7f}, logits), {0, 0.4, 0, 0.25, 0.2});
  // At temperature 2 the likeliest alone would not have 0.39 of the mass.
  expect_distribution(draw({.temperature = 2, .top_p = 0.39f}, logits), {0, 1, 0, 0, 0});
  expect_distribution(draw({.temperature = 2, .min_p = 0.51f}, logits),
                      {0, std::sqrt(0.4), 0, std::sqrt(0.25), 0});
}

TEST(Sampler, TopPOfOneKeepsWhatTheTemperatureMakesLikely) {
  // exp(-60) vanishes beside 1 in double, exp(-60 / 60) does not.
  expect_distribution(draw({.temperature = 60}, {0, -60}), {1, std::exp(-1)});
}

TEST(Sampler, TiesGoToTheLowerId) {
  const std::vector<float> logits{1, 2, 2, 0, 2};
  EXPECT_EQ(Sampler({.temperature = 0})(logits, 0), 1);
  expect_distribution(draw({.temperature = 1, .top_k = 2}, logits), {0, 1, 1, 0, 0});
  expect_distribution(draw({.temperature = 1, .top_p = 0.5f}, {0, 0, 0, 0}), {1, 1, 0, 0});
  expect_distribution(draw({.temperature = 1, .min_p = 1}, logits), {0, 1, 1, 0, 1});
}

TEST(Sampler, GreedyIgnoresSeedPlaceAndFilters) {
  const std::vector<float> logits{-3, -1, -2, -1.0001f};
  for (const std::uint64_t seed : {0, 1, 2})
    for (std::int64_t n = 0; n < 20; ++n)
      EXPECT_EQ(Sampler({.temperature = 0, .top_k = 3, .top_p = 0.9f, .seed = seed})(logits, n), 1);
  EXPECT_EQ(Sampler({.temperature = 0})(std::vector<float>{-7}, 0), 0);
}

TEST(Sampler, SmallTemperaturesApproachGreedy) {
  for (const float temperature : {1e-3f, 1e-30f, 1e-45f})
    expect_distribution(draw({.temperature = temperature}, {1, 3, 2}), {0, 1, 0});
}

TEST(Sampler, AChoiceDependsOnSeedPlaceAndLogitsAlone) {
  const std::vector<float> logits(64, 0);
  const auto text = [&](std::uint64_t seed, bool backwards) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<std::int32_t> ids(50);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const std::size_t n = backwards ? ids.size() - 1 - i : i;
      sampler(std::vector<float>{0, 1, 2}, 7);  // what it did before must not matter
      ids[n] = sampler(logits, static_cast<std::int64_t>(n));
    }
    return ids;
  };
  EXPECT_EQ(text(1, false), text(1, true));
  std::set<std::vector<std::int32_t>> texts;
  for (std::uint64_t seed = 0; seed < 20; ++seed) texts.insert(text(seed, false));
  EXPECT_EQ(texts.size(), 20u);
  // Places beyond 32 bits are places of their own.
  Sampler sampler({.temperature = 1});
  int same = 0;
  for (std::int64_t n = 0; n < 64; ++n)
    same += sampler(logits, n) == sampler(logits, n + (std::int64_t{1} << 32));
  EXPECT_LT(same, 10);  // one on average
}

TEST(Sampler, MinusInfinityRulesOut) {
  const std::vector<float> logits{-kInfinity, 0, -kInfinity, 0};
  EXPECT_EQ(Sampler({.temperature = 0})(logits, 0), 1);
  for (const float temperature : {1e-3f, 1.0f, 1e30f})
    expect_distribution(draw({.temperature = temperature}, logits), {0, 1, 0, 1});
  expect_distribution(draw({.temperature = 1, .top_k = 3}, logits), {0, 1, 0, 1});
}

void expect_refused(const std::vector<float>& logits, const std::string& words) {
  for (const float temperature : {0.0f, 1.0f}) {
    Sampler sampler({.temperature = temperature});
    try {
      sampler(logits, 0);
      ADD_FAILURE() << "not refused: " << words;
    } catch (const ArgumentError& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  }
}

TEST(Sampler, LogitsThatAreNoNumbersAreRefused) {
  expect_refused({0, 1, std::nanf(""), 2}, "[sampling] expected logits below infinity, got nan for token 2");
  expect_refused({std::nanf("")}, "got nan for token 0");
  expect_refused({0, kInfinity}, "got inf for token 1");
  expect_refused({-kInfinity, -kInfinity}, "expected a finite logit among 2, got none");
  expect_refused({}, "expected a finite logit among 0, got none");
}

TEST(Sampler, OptionsOutOfRangeAreNamed) {
  const float nan = std::nanf("");
  const std::vector<std::pair<SamplingOptions, std::string>> cases{
      {{.temperature = -0.1f}, "--temp"},
      {{.temperature = nan}, "--temp"},
      {{.temperature = kInfinity}, "--temp"},
      {{.top_k = -1}, "--top-k"},
      {{.top_p = 0}, "--top-p"},
      {{.top_p = 1.01f}, "--top-p"},
      {{.top_p = nan}, "--top-p"},
      {{.min_p = -0.1f}, "--min-p"},
      {{.min_p = 1.01f}, "--min-p"},
      {{.min_p = nan}, "--min-p"},
  };
  for (const auto& [options, name] : cases) {
    try {
      Sampler sampler(options);
      ADD_FAILURE() << "not refused: " << name;
    } catch (const ArgumentError& error) {
      EXPECT_NE(std::string(error.what()).find("expected " + name), std::string::npos) << error.what();
    }
  }
  EXPECT_NO_THROW(check({.temperature = 0, .top_k = 0, .top_p = 1, .min_p = 1}));
}

}  // namespace
}  // namespace rondo
