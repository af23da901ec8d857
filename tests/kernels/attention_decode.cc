// Decode attention of every tier against the reference in double precision.

#include <gtest/gtest.h>

#include "tests/kernels/attention_cases.h"

namespace rondo::attention_test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Runs the kernel; `out_dtype` is float32 or the case's.
Output decode(const Case& c, const Inputs& in, Isa isa, DType out_dtype) {
  Context context({.threads = c.threads, .isa = isa});
  Array out(out_dtype, c.T, c.H, c.E, c.gap);
  std::vector<float> lse(static_cast<std::size_t>(c.T * c.H), 7.0f);
  kernels::attention_decode(context.stream, {.q_THD = in.q.tensor,
                                             .k_SGD = in.k.tensor,
                                             .v_SGE = in.v.tensor,
                                             .tiles = c.tiles,
                                             .params = c.params,
                                             .out_THE = out.tensor,
                                             .lse_HT = lse.data()});
  return {out.doubles(), {lse.begin(), lse.end()}};
}
Output decode(const Case& c, const Inputs& in, Isa isa) { return decode(c, in, isa, DType::f32); }

struct Bounds {
  double out, lse;
};
/// Where only storage rounds, float32 results of bfloat16 keep float32's bounds. Dot products of pairs round
/// the probabilities too, by up to 2^-9 of each, and the sums are over what was rounded.
Bounds decode_bounds(Isa isa, DType stored, DType out) {
  if (stored == DType::bf16 && isa == Isa::avx512_bf16) return {forward_bound(stored), 0x1p-9};
  return {forward_bound(out), 2e-6};
}

/// Empty when decoding agrees with the reference, else what differs.
std::string decode_failure(const Case& incomplete, Isa isa) {
  const Case c = completed(incomplete);
  const Inputs in(c);
  const reference::AttentionResult expected = reference::attention_forward(problem_of(c, in));
  for (const DType dtype : {DType::f32, c.dtype}) {
    const Output got = decode(c, in, isa, dtype);
    const double out = error_of(expected.out_THE, got.out, 1e-3), lse = error_of(expected.lse_HT, got.lse, 1);
    const Bounds bounds = decode_bounds(isa, c.dtype, dtype);
    if (out <= bounds.out && lse <= bounds.lse) continue;
    return fmt::format("{} T {} S {} H {} G {} D {} E {} {} to {}: out {:.3g}, lse {:.3g}", name_of(isa), c.T,
                       c.S, c.H, c.G, c.D, c.E, name_of(c.dtype), name_of(dtype), out, lse);
  }
  return "";
}

class AttentionDecodeOf : public OfATierAndDType {
 protected:
  void expect_right(Case c) {
    c.dtype = dtype();
    EXPECT_EQ(decode_failure(c, isa()), "");
  }
};

TEST_P(AttentionDecodeOf, HeadSizes) {
  for (const auto& [D, E] : {std::pair{4, 4},
                             {5, 7},
                             {8, 32},
                             {31, 33},
                             {64, 64},
                             {96, 17},
                             {16, 48},
                             {127, 129},
                             {128, 128},
                             {256, 256}})
    for (const std::int64_t S : {50, 64}) expect_right({.T = 2, .S = S, .D = D, .E = E});
}

TEST_P(AttentionDecodeOf, Lengths) {
  for (const std::int64_t S : {1, 2, 15, 16, 17, 31, 33, 500, 1500})
    for (const std::int64_t T : {1, 3}) expect_right({.T = T, .S = S, .D = 32, .E = 9});
}

// Tokens of 0.2 to 16 KiB: short ones are taken eight at a time, long ones one by one; heads with one, two
// and four rows are taken together, as many as fill a vector, and the rest one by one.
TEST_P(AttentionDecodeOf, ManyHeads) {
  for (const auto& [H, G] :
       {std::pair{32, 32}, {19, 19}, {18, 9}, {10, 5}, {12, 3}, {40, 10}, {24, 8}, {16, 2}, {11, 1}})
    for (const std::int64_t D : {32, 64, 128})
      expect_right({.T = 1, .S = 37, .H = H, .G = G, .D = D, .E = D});
  expect_right({.T = 1, .S = 1100, .H = 32, .G = 32, .D = 64, .E = 64});
}

// Rows are taken eight, four, two and one at a time; more than eight queries of a tile take more than one
// pass.
TEST_P(AttentionDecodeOf, Rows) {
  for (const std::int64_t T : {1, 2, 4, 5, 7, 8, 9, 20})
    for (const auto& [H, G] : {std::pair{1, 1}, {3, 1}, {4, 2}})
      expect_right({.T = T, .S = 70, .H = H, .G = G, .D = 64, .E = 32});
}

TEST_P(AttentionDecodeOf, CausalAndWindows) {
  const Range q{0, 12}, k{0, 150};
  for (const Band band : {Band{.hi = 130}, Band{100, 130}, Band{-3, 3}, Band{.hi = -1}, Band{.lo = 145},
                          Band{70, 71}, Band{0, 0}, Band{-1000, 1000}, Band{5, 4}, Band{16, 47}})
    expect_right({.T = 12, .S = 150, .H = 2, .D = 16, .E = 16, .tiles = {{.q = q, .k = k, .band = band}}});
}

TEST_P(AttentionDecodeOf, AnyTiles) {
  for (std::uint64_t seed = 0; seed < 12; ++seed)
    expect_right(
        {.T = 30, .S = 180, .H = 2, .D = 8, .E = 12, .tiles = random_tiles(seed, 30, 180, 6u << (seed % 5))});
}

// One cache, a range of keys for each sequence, two new tokens each: the second sees one key more.
TEST_P(AttentionDecodeOf, BatchOfSequences) {
  Case c{.T = 6, .S = 900, .H = 8, .G = 2, .D = 64, .E = 64};
  for (const auto& [n, k] : {std::pair{0, Range{0, 37}}, {1, Range{37, 800}}, {2, Range{850, 900}}})
    c.tiles.push_back({.q = {2 * n, 2 * n + 2}, .k = k, .band = {.hi = k.size() - 2}});
  expect_right(c);
}

TEST_P(AttentionDecodeOf, GroupedHeadsAndStrides) {
  for (const auto& [H, G] : {std::pair{4, 4}, {4, 2}, {6, 1}, {7, 1}})
    for (const std::int64_t gap : {0, 3})
      expect_right({.T = 3, .S = 70, .H = H, .G = G, .D = 64, .E = 32, .gap = gap});
}

TEST_P(AttentionDecodeOf, Softcap) {
  for (const float cap : {0.5f, 5.0f, 50.0f}) {
    Case c{.T = 9, .S = 90, .D = 16, .E = 16, .tiles = random_tiles(5, 9, 90, 30)};
    c.params = {.scale = 1.5f, .softcap = cap};
    expect_right(c);
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, AttentionDecodeOf, every_tier_and_dtype(), tier_and_dtype);

class AttentionDecodeOn : public testing::TestWithParam<Isa> {};

TEST_P(AttentionDecodeOn, GapsAreLeftAlone) {
  const Case c = completed({.T = 3, .S = 40, .H = 2, .G = 1, .D = 6, .E = 5, .gap = 3});
  const Inputs in(c);
  Context context({.isa = GetParam()});
  Array out(c.dtype, c.T, c.H, c.E, c.gap);
  kernels::attention_decode(context.stream, {.q_THD = in.q.tensor,
                                             .k_SGD = in.k.tensor,
                                             .v_SGE = in.v.tensor,
                                             .tiles = c.tiles,
                                             .params = c.params,
                                             .out_THE = out.tensor});
  EXPECT_GE(out.untouched(), c.T * 3 * c.gap * size_of(c.dtype));
}

// Keys enough for many spans; some queries in several tiles.
TEST_P(AttentionDecodeOn, ThreadsDoNotChangeBits) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Case c = completed({.T = 4, .S = 3000, .H = 4, .G = 2, .D = 128, .E = 128, .dtype = dtype});
    c.tiles = {{.q = {0, 3}, .k = {0, 1700}, .band = {.hi = 1650}}, {.q = {1, 4}, .k = {1700, 3000}}};
    const Inputs in(c);
    const Output one = decode(c, in, GetParam());
    for (c.threads = 2; c.threads <= 3; ++c.threads) {
      const Output more = decode(c, in, GetParam());
      EXPECT_EQ(one.out, more.out);
      EXPECT_EQ(one.lse, more.lse);
    }
  }
}

// The result of a call does not depend on what the scratch memory held before.
TEST_P(AttentionDecodeOn, CallsAreIndependent) {
  Case c = completed({.T = 2, .S = 1000, .H = 2, .G = 1, .D = 64, .E = 64});
  const Inputs in(c);
  const Output once = decode(c, in, GetParam());
  Context context({.isa = GetParam()});
  Array out(DType::f32, c.T, c.H, c.E);
  kernels::AttentionDecode args{.q_THD = in.q.tensor,
                                .k_SGD = in.k.tensor,
                                .v_SGE = in.v.tensor,
                                .tiles = c.tiles,
                                .params = c.params,
                                .out_THE = out.tensor};
  args.params.scale = 1e6f;
  kernels::attention_decode(context.stream, args);
  args.params = c.params;
  kernels::attention_decode(context.stream, args);
  EXPECT_EQ(out.doubles(), once.out);
}

// A growing cache asks for no more memory than at first.
TEST_P(AttentionDecodeOn, AllocatesOnce) {
  Case c = completed({.T = 1, .S = 4000, .H = 8, .G = 8, .D = 64, .E = 64});
  const Inputs in(c);
  Context context({.isa = GetParam()});
  Array out(DType::f32, c.T, c.H, c.E);
  std::int64_t before = 0;
  for (const std::int64_t keys : {1, 50, 700, 4000}) {
    const std::vector<Tile> tiles{{.q = {0, 1}, .k = {0, keys}}};
    kernels::attention_decode(context.stream, {.q_THD = in.q.tensor,
                                               .k_SGD = in.k.tensor,
                                               .v_SGE = in.v.tensor,
                                               .tiles = tiles,
                                               .params = c.params,
                                               .out_THE = out.tensor});
    const std::int64_t after = context.ledger.allocations();
    EXPECT_EQ(after, before == 0 ? after : before) << keys;
    before = after;
  }
}

TEST_P(AttentionDecodeOn, NothingToSee) {
  for (const auto& [T, S] : {std::pair{0, 5}, {5, 0}, {0, 0}})
    EXPECT_EQ(decode_failure({.T = T, .S = S}, GetParam()), "");
  Case c = completed({.T = 5, .S = 40, .H = 2});
  for (const Tile& tile : {Tile{.q = {2, 2}, .k = {0, 5}}, Tile{.q = {0, 5}, .k = {3, 3}},
                           Tile{.q = {0, 5}, .k = {0, 40}, .band = {5, 4}},
                           Tile{.q = {0, 5}, .k = {0, 40}, .band = {.lo = 40}}}) {
    c.tiles = {tile};
    const Output got = decode(c, Inputs(c), GetParam());
    EXPECT_EQ(got.out, std::vector<double>(got.out.size(), 0.0));
    EXPECT_EQ(got.lse, std::vector<double>(got.lse.size(), -kInfinity));
  }
  // The first two rows see nothing, among others that do.
  c.tiles = {{.q = {0, 5}, .k = {0, 40}, .band = {.hi = -2}}};
  EXPECT_EQ(decode_failure(c, GetParam()), "");
}

// Scores far from 0 in both directions: no overflow, and the largest one decides.
TEST_P(AttentionDecodeOn, LargeScores) {
  Case c = completed({.T = 3, .S = 1300, .D = 64, .E = 64});
  c.params.scale = 2000;
  const Inputs in(c);
  const Output got = decode(c, in, GetParam());
  const auto expected = reference::attention_forward(problem_of(c, in));
  EXPECT_LE(error_of(expected.lse_HT, got.lse, 1), 1e-6);
  for (const double x : got.out) EXPECT_TRUE(std::isfinite(x));
}

TEST_P(AttentionDecodeOn, NaNIsNotHidden) {
  const Case c = completed({.T = 4, .S = 70, .tiles = {{.q = {0, 4}, .k = {0, 70}, .band = {.hi = 66}}}});
  Inputs in(c);
  static_cast<float*>(in.k.tensor.data)[68 * c.D] = std::numeric_limits<float>::quiet_NaN();
  const Output got = decode(c, in, GetParam());
  for (std::int64_t i = 0; i < c.T; ++i) {
    EXPECT_EQ(std::isnan(got.out[static_cast<std::size_t>(i * c.E)]), i >= 2) << i;
    EXPECT_EQ(std::isnan(got.lse[static_cast<std::size_t>(i)]), i >= 2) << i;
  }
}

// What lies behind the last key of a tile may be anything.
TEST_P(AttentionDecodeOn, KeysBehindATileAreNotRead) {
  Case c = completed({.T = 1, .S = 64, .D = 64, .E = 64, .tiles = {{.q = {0, 1}, .k = {3, 41}}}});
  Inputs in(c);
  const Output clean = decode(c, in, GetParam());
  for (Array* x : {&in.k, &in.v})
    for (std::int64_t n = 0; n < 64; ++n)
      if (n < 3 || n >= 41) static_cast<float*>(x->tensor.data)[n * 64 + 5] = std::nanf("");
  EXPECT_EQ(decode(c, in, GetParam()).out, clean.out);
}

INSTANTIATE_TEST_SUITE_P(Tiers, AttentionDecodeOn, testing::ValuesIn(tiers()),
                         [](const auto& param) { return std::string(name_of(param.param)); });

TEST(AttentionDecodeArguments, AreChecked) {
  const Case good = completed({.T = 4, .S = 6, .H = 2, .G = 1});
  const Inputs in(good);
  const auto failure = [&](auto&& change) -> std::string {
    Context context({.isa = Isa::portable});
    Array out(DType::f32, good.T, good.H, good.E);
    std::vector<Tile> tiles = good.tiles;
    kernels::AttentionDecode args{.q_THD = in.q.tensor,
                                  .k_SGD = in.k.tensor,
                                  .v_SGE = in.v.tensor,
                                  .tiles = {},
                                  .params = good.params,
                                  .out_THE = out.tensor};
    change(args, tiles);
    args.tiles = tiles;
    try {
      kernels::attention_decode(context.stream, args);
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
      {"one dtype", failure([](auto& a, auto&) { a.v_SGE.dtype = DType::bf16; })},
      {"expected out", failure([](auto& a, auto&) { a.out_THE.heads = 1; })},
      {"memory", failure([](auto& a, auto&) { a.out_THE.data = nullptr; })},
      {"float32", failure([](auto& a, auto&) { a.out_THE.dtype = DType::bf16; })},
      {"softcap", failure([](auto& a, auto&) { a.params.softcap = -1; })},
      {"scale", failure([](auto& a, auto&) { a.params.scale = std::nanf(""); })},
      {"no dropout", failure([](auto& a, auto&) { a.params.dropout.probability = 0.1f; })},
      {"queries", failure([](auto&, auto& t) { t[0].q.end = 5; })},
      {"keys", failure([](auto&, auto& t) {
         t[0].k = {-1, 2};
       })}};
  for (const auto& [word, message] : failures) {
    EXPECT_NE(message.find(word), std::string::npos) << word << ": '" << message << "'";
    EXPECT_EQ(message.rfind("[attention_decode] expected", 0), 0u) << message;
  }
}

}  // namespace
}  // namespace rondo::attention_test
