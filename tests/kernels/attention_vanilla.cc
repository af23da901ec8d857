// Attention with all scores in memory, of every tier, against the reference in double precision.

#include <gtest/gtest.h>

#include "tests/kernels/attention_cases.h"

namespace rondo::attention_test {
namespace {

struct Vanilla {
  std::vector<double> out;
  Gradients gradients;
  std::vector<float> p_HTS;
};

/// Forward and backward, gradients added to `before`.
Vanilla run_vanilla(const Case& c, const Inputs& in, Isa isa, double before = 0) {
  Context context({.threads = c.threads, .isa = isa});
  Stream& stream = context.stream;
  std::vector<float> p(static_cast<std::size_t>(c.H * c.T * c.S), 7.0f), ds(p.size(), 7.0f),
      widened(static_cast<std::size_t>(std::max(c.T, c.S) * std::max(c.D, c.E)));
  float* room = c.dtype == DType::f32 ? nullptr : widened.data();
  Array out(c.dtype, c.T, c.H, c.E, c.gap), dq(DType::f32, c.T, c.H, c.D, c.gap),
      dk(DType::f32, c.S, c.G, c.D, c.gap), dv(DType::f32, c.S, c.G, c.E, c.gap);
  for (Array* array : {&dq, &dk, &dv}) array->fill(before);
  kernels::attention_probabilities(
      stream,
      {.q_THD = in.q.tensor, .k_SGD = in.k.tensor, .tiles = c.tiles, .params = c.params, .p_HTS = p.data()});
  kernels::attention_vanilla_output(stream, p.data(), in.v.tensor, out.tensor, room);
  kernels::attention_vanilla_backward(stream, {.q_THD = in.q.tensor,
                                               .k_SGD = in.k.tensor,
                                               .v_SGE = in.v.tensor,
                                               .dout_THE = in.dout.tensor,
                                               .tiles = c.tiles,
                                               .params = c.params,
                                               .p_HTS = p.data(),
                                               .ds_HTS = ds.data(),
                                               .widened = room,
                                               .dq_THD = dq.tensor,
                                               .dk_SGD = dk.tensor,
                                               .dv_SGE = dv.tensor});
  return {out.doubles(), {dq.doubles(), dk.doubles(), dv.doubles()}, std::move(p)};
}

class AttentionVanillaOf : public OfATierAndDType {
 protected:
  void expect_right(const Cases& cases) const {
    for (Case c : cases) {
      c.dtype = dtype();
      check(completed(c));
    }
  }

 private:
  /// Within the bounds that the other attention kernels are held to.
  void check(const Case& c) const {
    SCOPED_TRACE(fmt::format("T {}, S {}, H {}, G {}, D {}, E {}", c.T, c.S, c.H, c.G, c.D, c.E));
    const Inputs in(c);
    const reference::AttentionProblem problem = problem_of(c, in);
    const reference::AttentionResult expected = reference::attention_forward(problem);
    const auto gradients = reference::attention_backward(problem, in.dout.doubles());
    const Vanilla got = run_vanilla(c, in, isa());
    EXPECT_LE(error_of(expected.out_THE, got.out, 1e-3), forward_bound(c.dtype));
    const double bound = gradient_bound(c.dtype), floor = cancellation(c, in, expected.out_THE) / bound;
    EXPECT_LE(error_of(gradients.dq_THD, got.gradients.dq, floor), bound);
    EXPECT_LE(error_of(gradients.dk_SGD, got.gradients.dk, floor), bound);
    EXPECT_LE(error_of(gradients.dv_SGE, got.gradients.dv, 1e-3), bound);
  }
};

TEST_P(AttentionVanillaOf, HeadSizes) { expect_right(head_sizes()); }
TEST_P(AttentionVanillaOf, Lengths) { expect_right(lengths()); }
TEST_P(AttentionVanillaOf, CausalAndWindows) { expect_right(causal_and_windows()); }
TEST_P(AttentionVanillaOf, AnyTiles) { expect_right(any_tiles()); }
TEST_P(AttentionVanillaOf, ManyTinyTiles) { expect_right(many_tiny_tiles()); }
TEST_P(AttentionVanillaOf, GroupedHeadsAndStrides) { expect_right(grouped_heads_and_strides()); }

// More queries than a product over them packs at once (512, kernels/cpu/outer_product.cc).
TEST_P(AttentionVanillaOf, ManyTokens) { expect_right({{.T = 700, .S = 600, .D = 12, .E = 9}}); }

INSTANTIATE_TEST_SUITE_P(Tiers, AttentionVanillaOf, every_tier_and_dtype(), tier_and_dtype);

TEST(AttentionVanilla, ThreadsDoNotChangeBits) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Case c = completed({.T = 300,
                        .S = 260,
                        .H = 4,
                        .G = 2,
                        .D = 8,
                        .E = 8,
                        .dtype = dtype,
                        .tiles = random_tiles(9, 300, 260, 100)});
    const Inputs in(c);
    const Vanilla one = run_vanilla(c, in, detected_isa());
    for (c.threads = 2; c.threads <= 3; ++c.threads) {
      const Vanilla more = run_vanilla(c, in, detected_isa());
      EXPECT_EQ(more.out, one.out);
      EXPECT_EQ(more.gradients.dq, one.gradients.dq);
      EXPECT_EQ(more.gradients.dk, one.gradients.dk);
      EXPECT_EQ(more.gradients.dv, one.gradients.dv);
    }
  }
}

TEST(AttentionVanilla, ProbabilitiesOfARowSumToOneOrNothing) {
  const Case c = completed({.T = 20, .S = 30, .tiles = {{.q = {2, 20}, .k = {0, 30}, .band = {.hi = 0}}}});
  const Inputs in(c);
  const Vanilla got = run_vanilla(c, in, detected_isa());
  for (std::int64_t i = 0; i < c.T; ++i) {
    double sum = 0;
    for (std::int64_t j = 0; j < c.S; ++j) {
      const float p = got.p_HTS[static_cast<std::size_t>(i * c.S + j)];
      EXPECT_EQ(p > 0, tile_of(c, i, j) != nullptr);
      sum += p;
    }
    EXPECT_NEAR(sum, i < 2 ? 0 : 1, 1e-6);
  }
  for (std::int64_t e = 0; e < 2 * c.E; ++e) EXPECT_EQ(got.out[static_cast<std::size_t>(e)], 0);
}

TEST(AttentionVanilla, AddsToGradients) {
  const Case c = completed({.T = 20, .S = 30});
  const Inputs in(c);
  const Vanilla zero = run_vanilla(c, in, detected_isa()), one = run_vanilla(c, in, detected_isa(), 1);
  const auto expect_one_more = [](const std::vector<double>& low, const std::vector<double>& high) {
    for (std::size_t n = 0; n < low.size(); ++n)
      ASSERT_NEAR(low[n] + 1, high[n], 1e-6 * (1 + std::abs(low[n])));
  };
  expect_one_more(zero.gradients.dq, one.gradients.dq);
  expect_one_more(zero.gradients.dk, one.gradients.dk);
  expect_one_more(zero.gradients.dv, one.gradients.dv);
}

TEST(AttentionVanillaArguments, AreChecked) {
  const Case good = completed({.T = 4, .S = 6, .H = 2, .G = 1, .dtype = DType::bf16});
  const Inputs in(good);
  const auto failure = [&](auto&& change) -> std::string {
    Context context({.isa = Isa::portable});
    Array dq(DType::f32, 4, 2, 8), dk(DType::f32, 6, 1, 8), dv(DType::f32, 6, 1, 8);
    std::vector<float> p(2 * 4 * 6), ds(p.size()), widened(6 * 8);
    kernels::AttentionVanillaBackward args{.q_THD = in.q.tensor,
                                           .k_SGD = in.k.tensor,
                                           .v_SGE = in.v.tensor,
                                           .dout_THE = in.dout.tensor,
                                           .tiles = good.tiles,
                                           .params = good.params,
                                           .p_HTS = p.data(),
                                           .ds_HTS = ds.data(),
                                           .widened = widened.data(),
                                           .dq_THD = dq.tensor,
                                           .dk_SGD = dk.tensor,
                                           .dv_SGE = dv.tensor};
    change(args);
    try {
      kernels::attention_vanilla_backward(context.stream, args);
    } catch (const ArgumentError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(failure([](auto&) {}), "");
  const std::pair<const char*, std::string> failures[] = {
      {"no soft-cap", failure([](auto& a) { a.params.softcap = 3; })},
      {"no dropout", failure([](auto& a) { a.params.dropout.probability = 0.5f; })},
      {"memory for scores of [2, 4, 6]", failure([](auto& a) { a.p_HTS = nullptr; })},
      {"memory for scores", failure([](auto& a) { a.ds_HTS = nullptr; })},
      {"widen", failure([](auto& a) { a.widened = nullptr; })},
      {"expected dout", failure([](auto& a) { a.dout_THE.dim = 7; })},
      {"expected dq", failure([](auto& a) { a.dq_THD.tokens = 3; })},
      {"float32", failure([](auto& a) { a.dk_SGD.dtype = DType::bf16; })}};
  for (const auto& [word, message] : failures) {
    EXPECT_NE(message.find(word), std::string::npos) << word << ": '" << message << "'";
    EXPECT_EQ(message.rfind("[attention_vanilla_backward] expected", 0), 0u) << message;
  }
}

}  // namespace
}  // namespace rondo::attention_test
