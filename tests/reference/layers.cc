#include "rondo/reference/layers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "rondo/core/error.h"
#include "rondo/reference/convert.h"
#include "tests/reference/finite_difference.h"

namespace rondo::reference {
namespace {

using test::expect_gradient;
using test::weighted_sum;
using Values = std::vector<double>;

TEST(ReferenceLinear, MatchesAHandComputedExample) {
  EXPECT_EQ(linear_forward({1, 2, 3, 4, 5, 6}, {1, 0, -1, 2, 2, 2}, {2, 2, 3}), (Values{-2, 12, -2, 30}));
  EXPECT_TRUE(linear_forward({}, {1, 2}, {0, 1, 2}).empty());
  EXPECT_THROW(linear_forward({1}, {1, 2}, {1, 1, 2}), ArgumentError);
}

TEST(ReferenceLinear, Gradient) {
  const LinearShape shape{3, 2, 7};
  Values x = standard_normal(21, 1), w = standard_normal(14, 2);
  const Values dy = standard_normal(6, 3);
  const LinearGradients g = linear_backward(x, w, dy, shape);
  const auto loss = [&] { return weighted_sum(dy, linear_forward(x, w, shape)); };
  expect_gradient(x, g.dx_TK, loss, "dx");
  expect_gradient(w, g.dw_NK, loss, "dw");
}

TEST(ReferenceRmsNorm, MatchesAHandComputedExample) {
  const Values y =
      rms_norm_forward({3, 4, 0, 0}, {1, 2}, 0.0);  // mean square 12.5; a zero row would divide by 0
  EXPECT_NEAR(y[0], 3 / std::sqrt(12.5), 1e-15);
  EXPECT_NEAR(y[1], 8 / std::sqrt(12.5), 1e-15);
  EXPECT_EQ(rms_norm_forward({0, 0}, {1, 2}, 1e-5), (Values{0, 0}));
  EXPECT_THROW(rms_norm_forward({1, 2, 3}, {1, 2}, 1e-5), ArgumentError);
}

TEST(ReferenceRmsNorm, Gradient) {
  Values x = standard_normal(15, 1), w = standard_normal(5, 2);
  const Values dy = standard_normal(15, 3);
  for (const double epsilon : {1e-5, 0.5}) {
    const RmsNormGradients g = rms_norm_backward(x, w, epsilon, dy);
    const auto loss = [&] { return weighted_sum(dy, rms_norm_forward(x, w, epsilon)); };
    expect_gradient(x, g.dx_TK, loss, "dx");
    expect_gradient(w, g.dw_K, loss, "dw");
  }
}

TEST(ReferenceRotary, TurnsThePairsOfEachLayout) {
  const RotaryTable quarter{{0, 1}, {1, 0}};  // pair 0 by 90 degrees, pair 1 not at all
  const Values x{1, 2, 3, 4, 5};
  EXPECT_EQ(rotary_forward(x, quarter, {1, 1, 5, 2, true}), (Values{-2, 1, 3, 4, 5}));
  EXPECT_EQ(rotary_forward(x, quarter, {1, 1, 5, 2, false}), (Values{-3, 2, 1, 4, 5}));
  EXPECT_THROW(rotary_forward({1, 2, 3}, quarter, {1, 1, 3, 2, false}), ArgumentError);
}

TEST(ReferenceRotary, FrequenciesAndTable) {
  const Values frequencies = rotary_frequencies(4, 10000);
  EXPECT_EQ(frequencies.size(), 2u);
  EXPECT_EQ(frequencies[0], 1);
  EXPECT_NEAR(frequencies[1], 0.01, 1e-16);
  const std::int64_t positions[] = {0, 3};
  const RotaryTable table = rotary_table(positions, frequencies, 2);
  EXPECT_EQ(table.cos_TP[0], 2);
  EXPECT_EQ(table.sin_TP[1], 0);
  EXPECT_NEAR(table.cos_TP[2], 2 * std::cos(3.0), 1e-15);
  EXPECT_NEAR(table.sin_TP[3], 2 * std::sin(0.03), 1e-15);
}

TEST(ReferenceRotary, ScoresDependOnTheDistanceAlone) {
  const Values frequencies = rotary_frequencies(6, 100);
  const Values q = standard_normal(6, 1), k = standard_normal(6, 2);
  const auto score = [&](std::int64_t q_position, std::int64_t k_position) {
    const auto turned = [&](const Values& x, std::int64_t position) {
      return rotary_forward(x, rotary_table({&position, 1}, frequencies), {1, 1, 6, 3, false});
    };
    return weighted_sum(turned(q, q_position), turned(k, k_position));
  };
  EXPECT_NEAR(score(5, 2), score(1005, 1002), 1e-12);
  EXPECT_GT(std::abs(score(5, 2) - score(5, 3)), 1e-3);
}

TEST(ReferenceRotary, Gradient) {
  const std::int64_t positions[] = {7, 1000};
  for (const bool interleaved : {false, true}) {
    const RotaryShape shape{2, 3, 7, 2, interleaved};
    const RotaryTable table = rotary_table(positions, {1.0, 0.1}, 1.3);
    Values x = standard_normal(42, 1);
    const Values dy = standard_normal(42, 2);
    const auto loss = [&] { return weighted_sum(dy, rotary_forward(x, table, shape)); };
    expect_gradient(x, rotary_backward(dy, table, shape), loss, "dx");
  }
}

TEST(ReferenceSwiglu, MatchesAHandComputedExampleAndItsLimits) {
  const Values y = swiglu_forward({std::log(3.0), -800, 800, 0}, {4, 1, 2, 9});  // sigmoid(ln 3) = 3/4
  EXPECT_NEAR(y[0], 3 * std::log(3.0), 1e-14);
  EXPECT_EQ(y[1], 0);
  EXPECT_EQ(y[2], 1600);
  EXPECT_EQ(y[3], 0);
}

TEST(ReferenceSwiglu, Gradient) {
  Values gate = standard_normal(9, 1), up = standard_normal(9, 2);
  const Values dy = standard_normal(9, 3);
  const SwigluGradients g = swiglu_backward(gate, up, dy);
  const auto loss = [&] { return weighted_sum(dy, swiglu_forward(gate, up)); };
  expect_gradient(gate, g.dgate, loss, "dgate");
  expect_gradient(up, g.dup, loss, "dup");
}

TEST(ReferenceEmbedding, ForwardAndGradientWithARepeatedToken) {
  Values table = standard_normal(8, 1);
  const std::int32_t ids[] = {3, 0, 3};
  EXPECT_EQ(embedding_forward(ids, table, 2),
            (Values{table[6], table[7], table[0], table[1], table[6], table[7]}));
  const Values dy = standard_normal(6, 2);
  const auto loss = [&] { return weighted_sum(dy, embedding_forward(ids, table, 2)); };
  expect_gradient(table, embedding_backward(ids, dy, 4), loss, "dtable");
  const std::int32_t outside[] = {4};
  EXPECT_THROW(embedding_forward(outside, table, 2), ArgumentError);
}

TEST(ReferenceCrossEntropy, MatchesAHandComputedExample) {
  const std::int32_t labels[] = {1, -1, 0};
  const Values losses = cross_entropy_forward({0, std::log(3.0), 5, 6, 1e4, 0}, labels);
  EXPECT_NEAR(losses[0], std::log(4.0 / 3), 1e-15);
  EXPECT_EQ(losses[1], 0);
  EXPECT_EQ(losses[2], 0);
  EXPECT_TRUE(cross_entropy_forward({}, {}).empty());
}

TEST(ReferenceCrossEntropy, Gradient) {
  Values logits = standard_normal(20, 1);
  const std::int32_t labels[] = {4, -1, 0, 2};
  const Values gradient = cross_entropy_backward(logits, labels, 0.7);
  const auto loss = [&] { return weighted_sum({0.7, 0.7, 0.7, 0.7}, cross_entropy_forward(logits, labels)); };
  expect_gradient(logits, gradient, loss, "dlogits");
  for (std::size_t v = 5; v < 10; ++v) EXPECT_EQ(gradient[v], 0);
}

// After step 1 the bias corrections cancel: the direction is gradient / (|gradient| + epsilon).
TEST(ReferenceAdamW, FirstStepMovesByTheLearningRate) {
  Values p{1, -2, 3}, m(3, 0), v(3, 0);
  adamw({.learning_rate = 0.1, .epsilon = 0, .weight_decay = 0.5, .gradient_scale = 2}, {4, -1e-3, 7}, p, m,
        v);
  EXPECT_NEAR(p[0], 1 - 0.1 * (1 + 0.5), 1e-15);
  EXPECT_NEAR(p[1], -2 - 0.1 * (-1 - 1), 1e-15);
  EXPECT_NEAR(m[0], 0.1 * 8, 1e-15);
  EXPECT_NEAR(v[0], 0.05 * 64, 1e-14);
}

TEST(ReferenceAdamW, SecondStepMatchesTheClosedForm) {
  Values p{1}, m{0}, v{0};
  AdamW s{.learning_rate = 0.1, .beta1 = 0.5, .beta2 = 0.75, .epsilon = 0.25};
  adamw(s, {2}, p, m, v);
  s.step = 2;
  adamw(s, {-4}, p, m, v);
  const double m2 = 0.25 * 2 - 0.5 * 4, v2 = 0.75 * 0.25 * 4 + 0.25 * 16;
  const double expected =
      1 - 0.1 * 2 / (2 + 0.25) - 0.1 * (m2 / 0.75) / (std::sqrt(v2 / (1 - 0.5625)) + 0.25);
  EXPECT_NEAR(p[0], expected, 1e-15);
}

}  // namespace
}  // namespace rondo::reference
