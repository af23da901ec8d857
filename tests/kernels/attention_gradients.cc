// Backward attention of every tier against the gradients of the reference in double precision.

#include <gtest/gtest.h>

#include <atomic>

#include "tests/kernels/attention_cases.h"

namespace rondo::attention_test {
namespace {

class AttentionBackwardOf : public OfATierAndDType {
 protected:
  void expect_right(const Cases& cases) const {
    for (Case c : cases) {
      c.dtype = dtype();
      EXPECT_EQ(gradient_failure(c, isa()), "");
    }
  }
};

TEST_P(AttentionBackwardOf, HeadSizes) { expect_right(head_sizes()); }
TEST_P(AttentionBackwardOf, Lengths) { expect_right(lengths()); }
TEST_P(AttentionBackwardOf, CausalAndWindows) { expect_right(causal_and_windows()); }
TEST_P(AttentionBackwardOf, AnyTiles) { expect_right(any_tiles()); }
TEST_P(AttentionBackwardOf, ManyTinyTiles) { expect_right(many_tiny_tiles()); }
TEST_P(AttentionBackwardOf, GroupedHeadsAndStrides) { expect_right(grouped_heads_and_strides()); }

// More queries than a chunk and more keys than a macro-block.
TEST_P(AttentionBackwardOf, SeveralChunks) {
  expect_right({{.T = kernels::kBackwardQueries + 70, .S = kernels::kBackwardKeys + 30, .D = 6, .E = 5}});
}

TEST_P(AttentionBackwardOf, Softcap) {
  for (const float cap : {0.5f, 5.0f, 50.0f}) {
    Case c{.T = 70, .S = 90, .D = 16, .E = 16, .tiles = random_tiles(5, 70, 90, 60)};
    c.params = {.scale = 0.5f, .softcap = cap};
    expect_right({c});
  }
}

TEST_P(AttentionBackwardOf, Dropout) {
  for (const float p : {0.1f, 0.5f}) {
    Case c{.T = 70, .S = 130, .H = 4, .G = 2, .D = 16, .E = 16, .tiles = random_tiles(6, 70, 130, 60)};
    c.params.dropout = {p, dropout_key(1, 2, 3)};
    expect_right({c});
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, AttentionBackwardOf, every_tier_and_dtype(), tier_and_dtype);

void expect_equal(const Gradients& one, const Gradients& other) {
  EXPECT_EQ(one.dq, other.dq);
  EXPECT_EQ(one.dk, other.dk);
  EXPECT_EQ(one.dv, other.dv);
}

class AttentionBackwardOn : public testing::TestWithParam<Isa> {};

TEST_P(AttentionBackwardOn, ThreadsDoNotChangeBits) {
  Case c = completed(
      {.T = 300, .S = 130, .H = 6, .G = 3, .D = 8, .E = 8, .tiles = random_tiles(9, 300, 130, 100)});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    c.dtype = dtype;
    c.threads = 1;
    const Inputs in(c);
    const Gradients one = backward(c, in, GetParam());
    for (c.threads = 2; c.threads <= 3; ++c.threads) {
      expect_equal(one, backward(c, in, GetParam()));
    }
  }
}

// Several chunks of queries, each of two heads, take turns at keys that they share.
TEST_P(AttentionBackwardOn, ManyRows) {
  Case c = completed({.T = 2 * kernels::kBackwardQueries + 9, .S = 1101, .H = 2, .G = 1, .D = 4, .E = 6});
  c.tiles = {{.q = {0, c.T}, .k = {0, c.S}, .band = {.lo = -3900, .hi = 3}}};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    c.dtype = dtype;
    c.threads = 1;
    EXPECT_EQ(gradient_failure(c, GetParam()), "");
    const Inputs in(c);
    const Gradients one = backward(c, in, GetParam());
    c.threads = 3;
    expect_equal(one, backward(c, in, GetParam()));
  }
}

// Tiles that come back to the same keys: none adds to them before those who are first have done with them.
TEST_P(AttentionBackwardOn, TurnsAreKeptInAnyTiles) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const std::int64_t most = 40 << (seed % 5);
    for (const bool chunks : {false, true}) {
      Case c = completed(
          chunks ? Case{.T = 1500, .S = 900, .D = 4, .E = 4, .tiles = random_tiles(seed, 1500, 900, 3 * most)}
                 : Case{.T = 150,
                        .S = 700,
                        .H = 6,
                        .G = 2,
                        .D = 4,
                        .E = 4,
                        .tiles = random_tiles(seed, 150, 700, most)});
      c.dtype = seed % 2 == 0 ? DType::f32 : DType::bf16;
      const Inputs in(c);
      const Gradients one = backward(c, in, GetParam());
      for (c.threads = 2; c.threads <= 6; c.threads += 2) expect_equal(one, backward(c, in, GetParam()));
    }
  }
}

TEST_P(AttentionBackwardOn, NothingToDo) {
  for (const auto& [T, S] : {std::pair{0, 5}, {5, 0}, {0, 0}})
    EXPECT_EQ(gradient_failure({.T = T, .S = S}, GetParam()), "");
}

/// Runs backward with the given lse and delta on gradients that hold `before`.
struct Backward {
  Backward(const Case& c, const Inputs& in, Isa isa, std::vector<float> lse, double before,
           Meanwhile meanwhile = {})
      : context({.threads = c.threads, .isa = isa}),
        dq(DType::f32, c.T, c.H, c.D),
        dk(DType::f32, c.S, c.G, c.D),
        dv(DType::f32, c.S, c.G, c.E) {
    for (Array* array : {&dq, &dk, &dv}) array->fill(before);
    context.pool.set_meanwhile(meanwhile);
    const std::vector<float> delta(lse.size(), 0.5f);
    kernels::attention_backward(context.stream, {.q_THD = in.q.tensor,
                                                 .k_SGD = in.k.tensor,
                                                 .v_SGE = in.v.tensor,
                                                 .dout_THE = in.dout.tensor,
                                                 .lse_HT = lse.data(),
                                                 .delta_HT = delta.data(),
                                                 .tiles = c.tiles,
                                                 .params = c.params,
                                                 .dq_THD = dq.tensor,
                                                 .dk_SGD = dk.tensor,
                                                 .dv_SGE = dv.tensor});
  }
  Context context;
  Array dq, dk, dv;
};

// A failure in the middle of a row ends the pass: nobody waits for that row's turn.
TEST_P(AttentionBackwardOn, AFailureIsRethrown) {
  const Case c = completed({.T = 64, .S = 3000, .H = 8, .G = 1, .D = 4, .E = 4, .threads = 3});
  const Inputs in(c);
  const std::vector<float> lse(static_cast<std::size_t>(c.T * c.H), 9.0f);
  std::atomic<int> calls = 0;
  const Meanwhile fails{[](void* self) {
                          if (++*static_cast<std::atomic<int>*>(self) == 12)
                            throw CommunicationError("the other end is gone");
                        },
                        &calls};
  EXPECT_THROW(Backward(c, in, GetParam(), lse, 0, fails), CommunicationError);
}

TEST_P(AttentionBackwardOn, AddsToGradients) {
  const Case c = completed({.T = 20, .S = 30, .D = 8, .E = 8});
  const Inputs in(c);
  const std::vector<float> lse(20, 3.0f);
  const Backward from_zero(c, in, GetParam(), lse, 0), from_one(c, in, GetParam(), lse, 1);
  const auto expect_one_more = [](const std::vector<double>& low, const std::vector<double>& high) {
    for (std::size_t n = 0; n < low.size(); ++n)
      ASSERT_NEAR(low[n] + 1, high[n], 1e-6 * (1 + std::abs(low[n])));
  };
  expect_one_more(from_zero.dq.doubles(), from_one.dq.doubles());
  expect_one_more(from_zero.dk.doubles(), from_one.dk.doubles());
  expect_one_more(from_zero.dv.doubles(), from_one.dv.doubles());
}

// Whatever stands in a row that saw nothing, even a NaN, it gives nothing.
TEST_P(AttentionBackwardOn, RowsWithoutLseGiveNothing) {
  const Case c = completed({.T = 3, .S = 30, .D = 8, .E = 8});
  Inputs in(c);
  in.q.fill(std::numeric_limits<double>::quiet_NaN());
  in.dout.fill(std::numeric_limits<double>::quiet_NaN());
  const std::vector<float> lse(3, -std::numeric_limits<float>::infinity());
  const Backward got(c, in, GetParam(), lse, 0);
  EXPECT_EQ(largest(got.dq.doubles()) + largest(got.dk.doubles()) + largest(got.dv.doubles()), 0);
  for (const Array* array : {&got.dq, &got.dk, &got.dv})
    for (const double x : array->doubles()) EXPECT_EQ(x, 0);
}

TEST_P(AttentionBackwardOn, TilesMaySplitInAnyWay) {
  Case c = completed({.T = 100, .S = 192, .H = 2, .G = 1, .D = 24, .E = 16});
  const Inputs in(c);
  const Gradients once = backward(c, in, GetParam());
  c.tiles = {{.q = {40, 100}, .k = {70, 192}}, {.q = {0, 40}, .k = {70, 192}}, {.q = {0, 100}, .k = {0, 70}}};
  const Gradients split = backward(c, in, GetParam());
  EXPECT_LE(error_of(once.dq, split.dq, 0.5), 2e-6);
  EXPECT_LE(error_of(once.dk, split.dk, 0.5), 2e-6);
  EXPECT_LE(error_of(once.dv, split.dv, 0.5), 2e-6);
}

INSTANTIATE_TEST_SUITE_P(Tiers, AttentionBackwardOn, testing::ValuesIn(tiers()),
                         [](const auto& param) { return std::string(name_of(param.param)); });

TEST(AttentionBackwardArguments, AreChecked) {
  const Case good = completed({.T = 4, .S = 6, .H = 2, .G = 1});
  const Inputs in(good);
  const auto failure = [&](auto&& change) -> std::string {
    Context context({.isa = Isa::portable});
    Array dq(DType::f32, 4, 2, 8), dk(DType::f32, 6, 1, 8), dv(DType::f32, 6, 1, 8);
    const std::vector<float> zeros(8);
    kernels::AttentionBackward args{.q_THD = in.q.tensor,
                                    .k_SGD = in.k.tensor,
                                    .v_SGE = in.v.tensor,
                                    .dout_THE = in.dout.tensor,
                                    .lse_HT = zeros.data(),
                                    .delta_HT = zeros.data(),
                                    .tiles = good.tiles,
                                    .params = good.params,
                                    .dq_THD = dq.tensor,
                                    .dk_SGD = dk.tensor,
                                    .dv_SGE = dv.tensor};
    change(args);
    try {
      kernels::attention_backward(context.stream, args);
    } catch (const ArgumentError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(failure([](auto&) {}), "");
  const std::pair<const char*, std::string> failures[] = {
      {"expected dout", failure([](auto& a) { a.dout_THE.dim = 7; })},
      {"dout of q's dtype", failure([](auto& a) { a.dout_THE.dtype = DType::bf16; })},
      {"expected dq", failure([](auto& a) { a.dq_THD.tokens = 3; })},
      {"expected dk", failure([](auto& a) { a.dk_SGD.heads = 2; })},
      {"expected dv", failure([](auto& a) { a.dv_SGE.data = nullptr; })},
      {"float32", failure([](auto& a) { a.dk_SGD.dtype = DType::bf16; })},
      {"lse", failure([](auto& a) { a.lse_HT = nullptr; })}};
  for (const auto& [word, message] : failures) {
    EXPECT_NE(message.find(word), std::string::npos) << word << ": '" << message << "'";
    EXPECT_EQ(message.rfind("[attention_backward] expected", 0), 0u) << message;
  }
}

}  // namespace
}  // namespace rondo::attention_test
