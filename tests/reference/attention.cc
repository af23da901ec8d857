#include "rondo/reference/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "rondo/core/error.h"
#include "rondo/reference/convert.h"
#include "tests/reference/finite_difference.h"

namespace rondo::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

AttentionProblem random_problem(std::int64_t q_tokens, std::int64_t k_tokens, std::int64_t q_heads,
                                std::int64_t kv_heads) {
  AttentionProblem p{.q_tokens = q_tokens,
                     .k_tokens = k_tokens,
                     .q_heads = q_heads,
                     .kv_heads = kv_heads,
                     .qk_dim = 5,
                     .v_dim = 3,
                     .scale = 0.7,
                     .softcap = 0,
                     .q_THD = {},
                     .k_SGD = {},
                     .v_SGE = {},
                     .visible = {},
                     .keep = {},
                     .bias = {}};
  p.q_THD = standard_normal(q_tokens * q_heads * p.qk_dim, 1, 0);
  p.k_SGD = standard_normal(k_tokens * kv_heads * p.qk_dim, 1, 1);
  p.v_SGE = standard_normal(k_tokens * kv_heads * p.v_dim, 1, 2);
  return p;
}

void expect_gradients(AttentionProblem p) {
  const auto dout = standard_normal(p.q_tokens * p.q_heads * p.v_dim, 2);
  const AttentionGradients g = attention_backward(p, dout);
  const auto loss = [&] { return test::weighted_sum(dout, attention_forward(p).out_THE); };
  test::expect_gradient(p.q_THD, g.dq_THD, loss, "dq");
  test::expect_gradient(p.k_SGD, g.dk_SGD, loss, "dk");
  test::expect_gradient(p.v_SGE, g.dv_SGE, loss, "dv");
}

TEST(ReferenceAttention, MatchesAHandComputedExample) {
  AttentionProblem p;
  p.q_tokens = 1, p.k_tokens = 2, p.qk_dim = 1, p.v_dim = 1;
  p.q_THD = {1}, p.k_SGD = {0, std::log(3.0)}, p.v_SGE = {4, 8};
  const AttentionResult result = attention_forward(p);  // weights 1/4 and 3/4
  EXPECT_NEAR(result.out_THE[0], 7, 1e-14);
  EXPECT_NEAR(result.lse_HT[0], std::log(4.0), 1e-15);
}

TEST(ReferenceAttention, SurvivesScoresFarOutsideTheRangeOfExp) {
  AttentionProblem p;
  p.q_tokens = 1, p.k_tokens = 2, p.qk_dim = 1, p.v_dim = 1;
  p.q_THD = {1e4}, p.k_SGD = {1, 1}, p.v_SGE = {4, 8};
  const AttentionResult result = attention_forward(p);
  EXPECT_NEAR(result.out_THE[0], 6, 1e-14);
  EXPECT_NEAR(result.lse_HT[0], 1e4 + std::log(2.0), 1e-11);
}

TEST(ReferenceAttention, AppliesTheSoftcapBeforeTheMask) {
  AttentionProblem p;
  p.q_tokens = 1, p.k_tokens = 2, p.qk_dim = 1, p.v_dim = 1, p.softcap = 2;
  p.q_THD = {1}, p.k_SGD = {100, 100}, p.v_SGE = {4, 8};
  p.bias = {0, -kInfinity};  // capped after the mask, the hidden key would keep a weight of exp(-4)
  const AttentionResult result = attention_forward(p);
  EXPECT_EQ(result.out_THE[0], 4);
  EXPECT_NEAR(result.lse_HT[0], 2, 1e-15);
}

TEST(ReferenceAttention, RowsThatSeeNothingAreZero) {
  AttentionProblem p = random_problem(3, 4, 2, 1);
  p.visible = [](std::int64_t i, std::int64_t) { return i != 1; };
  const AttentionResult result = attention_forward(p);
  const AttentionGradients g = attention_backward(p, standard_normal(3 * 2 * 3, 2));
  for (std::size_t e = 0; e < 6; ++e) EXPECT_EQ(result.out_THE[6 + e], 0);
  for (std::size_t d = 0; d < 10; ++d) EXPECT_EQ(g.dq_THD[10 + d], 0);
  for (std::size_t h = 0; h < 2; ++h) EXPECT_EQ(result.lse_HT[h * 3 + 1], -kInfinity);
}

TEST(ReferenceAttention, PassesNaNOn) {
  AttentionProblem p = random_problem(2, 1, 1, 1);
  p.q_THD[0] = std::numeric_limits<double>::quiet_NaN();
  const AttentionResult result = attention_forward(p);
  EXPECT_TRUE(std::isnan(result.out_THE[0]));
  EXPECT_TRUE(std::isnan(result.lse_HT[0]));
  EXPECT_FALSE(std::isnan(result.out_THE[3]));
}

TEST(ReferenceAttention, AcceptsNoKeysAndNoQueries) {
  const AttentionResult no_keys = attention_forward(random_problem(2, 0, 1, 1));
  EXPECT_EQ(no_keys.out_THE, std::vector<double>(6, 0));
  EXPECT_EQ(no_keys.lse_HT, std::vector<double>(2, -kInfinity));
  EXPECT_TRUE(attention_forward(random_problem(0, 2, 1, 1)).out_THE.empty());
  EXPECT_EQ(attention_backward(random_problem(0, 2, 1, 1), {}).dk_SGD, std::vector<double>(10, 0));
}

TEST(ReferenceAttention, GroupedHeadsEqualReplicatedHeads) {
  AttentionProblem grouped = random_problem(3, 4, 6, 2), full = grouped;
  full.kv_heads = 6;
  full.k_SGD.clear(), full.v_SGE.clear();
  for (std::int64_t j = 0; j < 4; ++j)
    for (std::int64_t head = 0; head < 6; ++head) {
      const auto kv = j * 2 + head / 3;
      for (std::int64_t d = 0; d < 5; ++d)
        full.k_SGD.push_back(grouped.k_SGD[static_cast<std::size_t>(kv * 5 + d)]);
      for (std::int64_t e = 0; e < 3; ++e)
        full.v_SGE.push_back(grouped.v_SGE[static_cast<std::size_t>(kv * 3 + e)]);
    }
  EXPECT_EQ(attention_forward(grouped).out_THE, attention_forward(full).out_THE);
}

TEST(ReferenceAttention, RowStagesAgreeWithTheForwardPass) {
  AttentionProblem p = random_problem(3, 4, 2, 2);
  p.softcap = 1.5;
  p.visible = [](std::int64_t i, std::int64_t j) { return j <= i; };
  const AttentionRow row = attention_row(p, 1, 2);
  EXPECT_EQ(row.lse, attention_forward(p).lse_HT[1 * 3 + 2]);
  EXPECT_EQ(row.masked[3], -kInfinity);
  for (std::size_t j = 0; j < 3; ++j) {
    EXPECT_EQ(row.masked[j], 1.5 * std::tanh(row.scaled[j] / 1.5));
    EXPECT_NEAR(row.probability[j], std::exp(row.masked[j] - row.lse), 1e-15);
  }
}

TEST(ReferenceAttention, RefusesSizesThatDoNotFit) {
  AttentionProblem p = random_problem(3, 4, 2, 2);
  p.kv_heads = 3;
  EXPECT_THROW(attention_forward(p), ArgumentError);
  p = random_problem(3, 4, 2, 2);
  p.q_THD.pop_back();
  EXPECT_THROW(attention_forward(p), ArgumentError);
  p = random_problem(3, 4, 2, 2);
  p.bias.assign(13, 0);
  EXPECT_THROW(attention_forward(p), ArgumentError);
}

TEST(ReferenceAttentionGradient, Full) { expect_gradients(random_problem(3, 4, 2, 2)); }

TEST(ReferenceAttentionGradient, CausalGroupedHeadsWithAnUnseeingRow) {
  AttentionProblem p = random_problem(5, 5, 4, 2);
  p.visible = [](std::int64_t i, std::int64_t j) { return j < i; };
  expect_gradients(p);
}

TEST(ReferenceAttentionGradient, SoftcapBiasAndDropout) {
  AttentionProblem p = random_problem(4, 6, 2, 1);
  p.softcap = 1.2;
  p.bias = standard_normal(2 * 4 * 6, 3);
  p.bias[7] = -kInfinity;
  p.keep = [](std::int64_t h, std::int64_t i, std::int64_t j) { return (h + i + j) % 3 == 0 ? 0 : 1.5; };
  expect_gradients(p);
}

}  // namespace
}  // namespace rondo::reference
