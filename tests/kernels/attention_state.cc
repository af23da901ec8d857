// Attention states and their merge, delta, and the building blocks that a tier offers to tests.

#include <gtest/gtest.h>

#include "tests/kernels/attention_support.h"

namespace rondo::attention_test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A state over the keys [begin, end) of a case.
struct Part {
  Part(const Case& c, const Inputs& in, Range keys) : device(c, detected_isa()) {
    if (!keys.empty()) add_tiles(device, c, in, std::vector<Tile>{{.q = {c.T / 3, c.T}, .k = keys}});
  }
  Output output(const Case& c) {
    Array out(c.dtype, c.T, c.H, c.E);
    std::vector<float> lse;
    return finish(device, c, out, lse);
  }
  Device device;
};

// The first third of the queries sees nothing at all; 70 tokens leave lanes without a token.
const Case kCase = completed({.T = 70, .S = 90, .H = 2, .G = 1, .D = 8, .E = 5});

void merge(Part& into, const Part& from) {
  kernels::attention_state_merge(into.device.stream(), into.device.state, from.device.state);
}

TEST(AttentionState, ClearedGivesNothing) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Case c = kCase;
    c.dtype = dtype;
    const Inputs in(c);
    const Output got = Part(c, in, {0, 0}).output(c);
    for (const double x : got.out) EXPECT_EQ(x, 0);
    for (const double x : got.lse) EXPECT_EQ(x, -kInfinity);
  }
}

TEST(AttentionState, HoldsEveryHeadAndToken) {
  EXPECT_EQ(kernels::attention_state_elements(0, 3, 8), 0);
  EXPECT_EQ(kernels::attention_state_elements(1, 1, 8), 64 * 10);
  EXPECT_EQ(kernels::attention_state_elements(65, 3, 8), 3 * 128 * 10);
}

TEST(AttentionState, MergeEqualsOnePass) {
  const Inputs in(kCase);
  Part low(kCase, in, {0, 31}), whole(kCase, in, {0, 90});
  merge(low, Part(kCase, in, {31, 90}));
  const Output got = low.output(kCase), expected = whole.output(kCase);
  EXPECT_LE(error_of(expected.out, got.out, 1e-3), 1e-6);
  EXPECT_LE(error_of(expected.lse, got.lse, 1), 1e-6);
}

TEST(AttentionState, MergeCommutes) {
  const Inputs in(kCase);
  Part a(kCase, in, {0, 31}), b(kCase, in, {31, 90});
  const Part a_before(kCase, in, {0, 31});
  merge(a, b);
  merge(b, a_before);
  EXPECT_LE(error_of(a.output(kCase).out, b.output(kCase).out, 1e-3), 3e-7);
  EXPECT_LE(error_of(a.output(kCase).lse, b.output(kCase).lse, 1), 3e-7);
}

TEST(AttentionState, MergeAssociates) {
  const Inputs in(kCase);
  Part left(kCase, in, {0, 30}), right(kCase, in, {30, 40}), left_again(kCase, in, {0, 30});
  const Part middle(kCase, in, {30, 40}), last(kCase, in, {40, 90});
  merge(left, middle);
  merge(left, last);
  merge(right, last);
  merge(left_again, right);
  EXPECT_LE(error_of(left.output(kCase).out, left_again.output(kCase).out, 1e-3), 1e-6);
  EXPECT_LE(error_of(left.output(kCase).lse, left_again.output(kCase).lse, 1), 1e-6);
}

TEST(AttentionState, ClearedIsNeutral) {
  const Inputs in(kCase);
  const Part some(kCase, in, {0, 31});
  Part into(kCase, in, {0, 31}), nothing(kCase, in, {0, 0});
  merge(into, nothing);
  EXPECT_EQ(into.device.memory, some.device.memory);
  merge(nothing, some);
  EXPECT_EQ(nothing.device.memory, some.device.memory);
}

TEST(AttentionState, FinishLeavesTheStateAndTakesNoLse) {
  const Inputs in(kCase);
  Part part(kCase, in, {0, 31});
  const std::vector<float> before = part.device.memory;
  const Output expected = part.output(kCase);
  Array out(DType::f32, kCase.T, kCase.H, kCase.E, 2);
  kernels::attention_state_finish(part.device.stream(), part.device.state, out.tensor, nullptr);
  EXPECT_EQ(out.doubles(), expected.out);
  EXPECT_EQ(part.device.memory, before);
}

TEST(AttentionState, ShapesAreChecked) {
  const Inputs in(kCase);
  Part part(kCase, in, {0, 0});
  kernels::AttentionState other = part.device.state;
  other.heads = 1;
  EXPECT_THROW(kernels::attention_state_merge(part.device.stream(), part.device.state, other), ArgumentError);
  Array out(DType::f32, kCase.T, kCase.H, kCase.E + 1);
  EXPECT_THROW(kernels::attention_state_finish(part.device.stream(), part.device.state, out.tensor, nullptr),
               ArgumentError);
  other.data = nullptr;
  EXPECT_THROW(kernels::attention_state_clear(part.device.stream(), other), ArgumentError);
  Context context({});
  EXPECT_THROW(kernels::attention_delta(context.stream, out.tensor, in.q.tensor, nullptr), ArgumentError);
}

TEST(AttentionDelta, SumsEachRow) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Array a(dtype, 70, 3, 17, 2), b(dtype, 70, 3, 17, 1);
    reference::fill_standard_normal(a.tensor, 1);
    reference::fill_standard_normal(b.tensor, 2);
    std::vector<float> delta(70 * 3);
    Context context({.threads = 2});
    kernels::attention_delta(context.stream, a.tensor, b.tensor, delta.data());
    const std::vector<double> x = a.doubles(), y = b.doubles();
    for (std::size_t t = 0; t < 70; ++t) {
      for (std::size_t h = 0; h < 3; ++h) {
        double sum = 0;
        for (std::size_t e = 0; e < 17; ++e) sum += x[(t * 3 + h) * 17 + e] * y[(t * 3 + h) * 17 + e];
        EXPECT_NEAR(delta[h * 70 + t], sum, 1e-6 * (1 + std::abs(sum)));
      }
    }
  }
}

TEST(Tiers, ForcingOneTakesEffect) {
  ASSERT_FALSE(tiers().empty());
  for (const Isa isa : tiers()) {
    Context context({.isa = isa});
    const kernels::Tier& got = kernels::tier(context.stream.isa());
    EXPECT_STREQ(got.name, name_of(isa));
    EXPECT_EQ(got.lanes, isa >= Isa::avx512 ? 16 : isa == Isa::avx2 ? 8 : 4);
  }
}

class AttentionTier : public testing::TestWithParam<Isa> {};

TEST_P(AttentionTier, DropoutWordsAreTheGenerators) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    const auto word = [&] { return static_cast<std::uint32_t>(random()); };
    const kernels::DropoutRule rule{.threshold = 1, .key0 = word(), .key1 = word(), .keep_scale = 1};
    const std::uint32_t sequence = word(), head = word(), k_position = word();
    std::uint32_t positions[kernels::kQueryTile], words[kernels::kQueryTile];
    for (std::uint32_t& position : positions) position = word();
    kernels::tier(GetParam()).dropout_words(rule, sequence, head, positions, k_position, words);
    for (int n = 0; n < kernels::kQueryTile; ++n)
      ASSERT_EQ(words[n], dropout_bits({rule.key0, rule.key1}, sequence, head, positions[n], k_position));
  }
}

/// Largest relative error of a tier's function on [low, high]; 0 is expected to give 0 exactly.
double relative_error(void (*function)(float*), double (*exact)(double), double low, double high) {
  double most = 0;
  constexpr int kSteps = 4000;
  for (int step = 0; step < kSteps; ++step) {
    float x[kernels::kQueryTile], y[kernels::kQueryTile];
    for (int n = 0; n < kernels::kQueryTile; ++n)
      y[n] = x[n] = static_cast<float>(low + (high - low) * (step + n / 64.0) / kSteps);
    function(y);
    for (int n = 0; n < kernels::kQueryTile; ++n) {
      const double expected = exact(x[n]);
      most = std::max(most, expected == 0 ? std::abs(y[n]) : std::abs(y[n] / expected - 1));
    }
  }
  return most;
}

TEST_P(AttentionTier, Exp2IsAccurate) {
  const auto exact = [](double x) { return std::exp2(x); };
  EXPECT_LE(relative_error(kernels::tier(GetParam()).exp2, exact, -126, 127), 2e-7);
  EXPECT_LE(relative_error(kernels::tier(GetParam()).exp2, exact, -1e-3, 1e-3), 2e-7);
  float x[kernels::kQueryTile] = {-static_cast<float>(kInfinity), std::nanf(""), 0, -1e30f, -200, 1, -1};
  kernels::tier(GetParam()).exp2(x);
  EXPECT_EQ(x[0], 0);
  EXPECT_TRUE(std::isnan(x[1]));
  EXPECT_EQ(x[2], 1);
  EXPECT_EQ(x[3], 0);
  EXPECT_EQ(x[4], 0);
  EXPECT_EQ(x[5], 2);
  EXPECT_EQ(x[6], 0.5f);
}

TEST_P(AttentionTier, TanhIsAccurate) {
  const auto exact = [](double x) { return std::tanh(x); };
  for (const double reach : {1e-3, 1.0, 30.0})
    EXPECT_LE(relative_error(kernels::tier(GetParam()).tanh, exact, -reach, reach), 3e-7) << reach;
  const float infinity = static_cast<float>(kInfinity);
  float x[kernels::kQueryTile] = {infinity, -infinity, std::nanf(""), 0};
  kernels::tier(GetParam()).tanh(x);
  EXPECT_EQ(x[0], 1);
  EXPECT_EQ(x[1], -1);
  EXPECT_TRUE(std::isnan(x[2]));
  EXPECT_EQ(x[3], 0);
}

INSTANTIATE_TEST_SUITE_P(Tiers, AttentionTier, testing::ValuesIn(tiers()),
                         [](const auto& param) { return std::string(name_of(param.param)); });

}  // namespace
}  // namespace rondo::attention_test
