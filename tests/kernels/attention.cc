// Forward attention of every tier against the reference in double precision.

#include <gtest/gtest.h>

#include "tests/kernels/attention_cases.h"

namespace rondo::attention_test {
namespace {

class AttentionForwardOf : public OfATierAndDType {
 protected:
  void expect_right(const Cases& cases) const {
    for (Case c : cases) {
      c.dtype = dtype();
      EXPECT_EQ(forward_failure(c, isa()), "");
    }
  }
};

TEST_P(AttentionForwardOf, HeadSizes) { expect_right(head_sizes()); }
TEST_P(AttentionForwardOf, Lengths) { expect_right(lengths()); }
TEST_P(AttentionForwardOf, CausalAndWindows) { expect_right(causal_and_windows()); }
TEST_P(AttentionForwardOf, AnyTiles) { expect_right(any_tiles()); }
TEST_P(AttentionForwardOf, ManyTinyTiles) { expect_right(many_tiny_tiles()); }
TEST_P(AttentionForwardOf, GroupedHeadsAndStrides) { expect_right(grouped_heads_and_strides()); }

TEST_P(AttentionForwardOf, Softcap) {
  for (const float cap : {0.5f, 5.0f, 50.0f}) {
    Case c{.T = 70, .S = 90, .D = 16, .E = 16, .tiles = random_tiles(5, 70, 90, 60)};
    c.params = {.scale = 1.5f, .softcap = cap};
    expect_right({c});
  }
}

TEST_P(AttentionForwardOf, Dropout) {
  for (const float p : {0.1f, 0.5f, 0.9f}) {
    Case c{.T = 70, .S = 130, .H = 3, .D = 16, .E = 16, .tiles = random_tiles(6, 70, 130, 60)};
    c.params.dropout = {p, dropout_key(1, 2, 3)};
    expect_right({c});
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, AttentionForwardOf, every_tier_and_dtype(), tier_and_dtype);

class AttentionForwardOn : public testing::TestWithParam<Isa> {};

TEST_P(AttentionForwardOn, GapsAreLeftAlone) {
  const Case c = completed({.T = 9, .S = 9, .H = 2, .G = 1, .D = 6, .E = 5, .gap = 3});
  const Inputs in(c);
  Device device(c, GetParam());
  add_tiles(device, c, in, c.tiles);
  Array out(c.dtype, c.T, c.H, c.E, c.gap);
  std::vector<float> lse;
  finish(device, c, out, lse);
  EXPECT_GE(out.untouched(), c.T * 3 * c.gap * size_of(c.dtype));
}

TEST_P(AttentionForwardOn, StateCarriesOverKeyRanges) {
  const Case whole = completed({.T = 100, .S = 192, .H = 2, .G = 1, .D = 24, .E = 16});
  const Inputs in(whole);
  const Output once = forward(whole, in, GetParam());
  for (const std::int64_t cut : {1, 64, 77, 191}) {
    Device device(whole, GetParam());
    add_tiles(device, whole, in, std::vector<Tile>{{.q = {0, 100}, .k = {cut, 192}}});
    add_tiles(device, whole, in, std::vector<Tile>{{.q = {0, 100}, .k = {0, cut}}});
    Array out(whole.dtype, whole.T, whole.H, whole.E);
    std::vector<float> lse;
    const Output twice = finish(device, whole, out, lse);
    EXPECT_LE(error_of(once.out, twice.out, 1e-3), 2e-6) << cut;
    EXPECT_LE(error_of(once.lse, twice.lse, 1), 1e-6) << cut;
  }
}

TEST_P(AttentionForwardOn, ThreadsDoNotChangeBits) {
  Case c = completed({.T = 600, .S = 130, .H = 3, .D = 8, .E = 8, .tiles = random_tiles(9, 600, 130, 100)});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    c.dtype = dtype;
    c.threads = 1;
    const Inputs in(c);
    const Output one = forward(c, in, GetParam());
    for (c.threads = 2; c.threads <= 3; ++c.threads) {
      const Output more = forward(c, in, GetParam());
      EXPECT_EQ(one.out, more.out);
      EXPECT_EQ(one.lse, more.lse);
    }
  }
}

TEST_P(AttentionForwardOn, NothingToDo) {
  for (const auto& [T, S] : {std::pair{0, 5}, {5, 0}, {0, 0}})
    EXPECT_EQ(forward_failure({.T = T, .S = S}, GetParam()), "");
  EXPECT_EQ(forward_failure({.T = 5, .S = 5, .tiles = {{.q = {2, 2}, .k = {0, 5}}}}, GetParam()), "");
  const Case c = completed({.T = 5, .S = 5});
  const Inputs in(c);
  Device device(c, GetParam());
  const std::vector<float> before = device.memory;
  add_tiles(device, c, in, {});
  EXPECT_EQ(device.memory, before);
}

// Scores far from 0 in both directions: no overflow, and the largest one decides.
TEST_P(AttentionForwardOn, LargeScores) {
  Case c = completed({.T = 70, .S = 130, .D = 16, .E = 8});
  c.params.scale = 2000;
  const Inputs in(c);
  const Output got = forward(c, in, GetParam());
  const auto expected = reference::attention_forward(problem_of(c, in));
  // exp turns the absolute rounding of the scores, 2^-24 of about 40000 and a few sums, into a relative
  // error.
  EXPECT_LE(error_of(expected.lse_HT, got.lse, 1), 1e-6);
  for (const double x : got.out) EXPECT_TRUE(std::isfinite(x));
}

TEST_P(AttentionForwardOn, NaNIsNotHidden) {
  const Case c = completed({.T = 70, .S = 70, .tiles = {{.q = {0, 70}, .k = {0, 70}, .band = {.hi = 0}}}});
  Inputs in(c);
  static_cast<float*>(in.k.tensor.data)[60 * c.D] = std::numeric_limits<float>::quiet_NaN();
  const Output got = forward(c, in, GetParam());
  for (std::int64_t i = 0; i < c.T; ++i)
    EXPECT_EQ(std::isnan(got.out[static_cast<std::size_t>(i * c.E)]), i >= 60) << i;
}

TEST_P(AttentionForwardOn, BfloatHasNoBias) {
  const Case c = completed({.T = 256, .S = 512, .D = 32, .E = 64, .dtype = DType::bf16});
  const Inputs in(c);
  const auto expected = reference::attention_forward(problem_of(c, in)).out_THE;
  const Output got = forward(c, in, GetParam());
  double signed_error = 0, magnitude = 0;
  for (std::size_t n = 0; n < expected.size(); ++n) {
    signed_error += (got.out[n] - expected[n]) * (expected[n] < 0 ? -1 : 1);
    magnitude += std::abs(expected[n]);
  }
  // Independent roundings of up to 2^-9 would leave about 2^-9 / sqrt(3 * 16384) = 9e-6.
  EXPECT_LE(std::abs(signed_error) / magnitude, 5e-5);
}

INSTANTIATE_TEST_SUITE_P(Tiers, AttentionForwardOn, testing::ValuesIn(tiers()),
                         [](const auto& param) { return std::string(name_of(param.param)); });

TEST(AttentionForwardArguments, AreChecked) {
  const Case good = completed({.T = 4, .S = 6, .H = 2, .G = 1});
  const Inputs in(good);
  const auto failure = [&](auto&& change) -> std::string {
    Device device(good, Isa::portable);
    std::vector<Tile> tiles = good.tiles;
    kernels::AttentionForward args{.q_THD = in.q.tensor,
                                   .k_SGD = in.k.tensor,
                                   .v_SGE = in.v.tensor,
                                   .tiles = {},
                                   .params = good.params,
                                   .state = device.state};
    change(args, tiles);
    args.tiles = tiles;
    try {
      kernels::attention_forward(device.stream(), args);
    } catch (const ArgumentError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(failure([](auto&, auto&) {}), "");
  const std::pair<const char*, std::string> failures[] = {
      {"multiple", failure([](auto& a, auto&) { a.q_THD.heads = 3, a.k_SGD.heads = a.v_SGE.heads = 2; })},
      {"head sizes", failure([](auto& a, auto&) { a.q_THD.dim = a.k_SGD.dim = 3; })},
      {"head sizes", failure([](auto& a, auto&) { a.v_SGE.dim = 257; })},
      {"expected k", failure([](auto& a, auto&) { a.k_SGD.dim = 7; })},
      {"expected v", failure([](auto& a, auto&) { a.v_SGE.tokens = 5; })},
      {"dtype", failure([](auto& a, auto&) { a.v_SGE.dtype = DType::bf16; })},
      {"state", failure([](auto& a, auto&) { a.state.tokens = 5; })},
      {"memory", failure([](auto& a, auto&) { a.state.data = nullptr; })},
      {"softcap", failure([](auto& a, auto&) { a.params.softcap = -1; })},
      {"scale", failure([](auto& a, auto&) { a.params.scale = std::nanf(""); })},
      {"dropout", failure([](auto& a, auto&) { a.params.dropout.probability = 1; })},
      {"queries", failure([](auto&, auto& t) { t[0].q.end = 5; })},
      {"keys", failure([](auto&, auto& t) {
         t[0].k = {-1, 2};
       })}};
  for (const auto& [word, message] : failures) {
    EXPECT_NE(message.find(word), std::string::npos) << word << ": '" << message << "'";
    EXPECT_EQ(message.rfind("[attention_forward] expected", 0), 0u) << message;
  }
}

}  // namespace
}  // namespace rondo::attention_test
