// Element-wise kernels against the oracle, on every tier of this processor.

#include <gtest/gtest.h>

#include <limits>

#include "rondo/kernels/kernels.h"
#include "rondo/reference/layers.h"
#include "tests/kernels/matrices.h"

namespace rondo {
namespace {

using kernels::Store;
using test::Matrix;

constexpr double kU = 0x1p-24;
constexpr DType kDTypes[] = {DType::f32, DType::bf16};

/// One test for each tier.
class Tiers : public ::testing::TestWithParam<Isa> {
 protected:
  std::unique_ptr<Context> device_ = test::make_device(2, GetParam());
  Stream& stream_ = device_->stream;
};
INSTANTIATE_TEST_SUITE_P(Elementwise, Tiers, ::testing::ValuesIn(test::tiers()),
                         [](const auto& test_case) { return std::string(name_of(test_case.param)); });

std::vector<double> plus(std::vector<double> a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

TEST_P(Tiers, RmsNorm) {
  constexpr float kEpsilon = 1e-5f;
  for (DType dtype : kDTypes)
    for (std::int64_t tokens : {0, 1, 70, 131})
      for (std::int64_t columns : {1, 17, 1030}) {
        SCOPED_TRACE(fmt::format("{} [{}, {}]", name_of(dtype), tokens, columns));
        const Matrix x = Matrix::random(dtype, tokens, columns, 1, 3),
                     w = Matrix::random(dtype, 1, columns, 2);
        const Matrix dy = Matrix::random(DType::f32, tokens, columns, 3, 5);
        Matrix y(dtype, tokens, columns, 1), dx = Matrix::random(DType::f32, tokens, columns, 4, 2);
        Matrix dw = Matrix::random(DType::f32, 1, columns, 5), alone = dy;  // over its input
        const Matrix dx_before = dx, dw_before = dw;
        kernels::rms_norm_forward(stream_, x.tensor(), w.tensor(), kEpsilon, y.tensor());
        kernels::rms_norm_backward(stream_, x.tensor(), w.tensor(), kEpsilon, dy.tensor(), dx.tensor(),
                                   Store::accumulate, dw.tensor());
        Matrix unused(DType::f32, 1, columns);
        kernels::rms_norm_backward(stream_, x.tensor(), w.tensor(), kEpsilon, alone.tensor(), alone.tensor(),
                                   Store::overwrite, unused.tensor());
        const auto expected = reference::rms_norm_forward(x.values(), w.values(), kEpsilon);
        EXPECT_TRUE(test::within(y.values(), expected, test::rounding_bound(expected, expected, 4, dtype)));
        const auto gradients = reference::rms_norm_backward(x.values(), w.values(), kEpsilon, dy.values());
        // Magnitudes of the terms, from the same derivative: all of them are at most this many times 1/rms *
        // |dy w|.
        std::vector<double> terms(gradients.dx_TK.size());
        const auto xs = x.values(), ws = w.values(), dys = dy.values();
        const auto count = static_cast<std::size_t>(columns);
        for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t) {
          double squares = 0, product = 0;
          for (std::size_t i = 0; i < count; ++i) {
            squares += xs[t * count + i] * xs[t * count + i];
            product += std::abs(xs[t * count + i] * dys[t * count + i] * ws[i]);
          }
          const double s = 1 / std::sqrt(squares / static_cast<double>(columns) + kEpsilon);
          for (std::size_t i = 0; i < count; ++i)
            terms[t * count + i] =
                std::abs(dys[t * count + i] * ws[i] * s) +
                std::abs(xs[t * count + i]) * s * s * s * product / static_cast<double>(columns);
        }
        const auto sum = plus(gradients.dx_TK, dx_before.values());
        EXPECT_TRUE(test::within(
            dx.values(), sum,
            test::rounding_bound(plus(terms, test::absolute(dx_before.values())), sum, 8, DType::f32)));
        EXPECT_TRUE(test::within(alone.values(), gradients.dx_TK,
                                 test::rounding_bound(terms, gradients.dx_TK, 8, DType::f32)));
        const auto dw_sum = plus(gradients.dw_K, dw_before.values());
        const double roundings = 4 + std::sqrt(static_cast<double>(tokens));
        EXPECT_TRUE(
            test::within(dw.values(), dw_sum,
                         std::vector<double>(count, roundings * kU * (16 + static_cast<double>(tokens)))));
        EXPECT_TRUE(y.guard_intact() && dx.guard_intact());
      }
}

TEST_P(Tiers, RmsNormOfHugeAndZeroRows) {
  Matrix x(DType::f32, 2, 40), w(DType::f32, 1, 40), y(DType::f32, 2, 40);
  std::vector<double> values(80, 0.0);
  std::fill_n(values.begin(), 40, 1e30);
  x.set(values);
  w.set(std::vector<double>(40, 1.0));
  kernels::rms_norm_forward(stream_, x.tensor(), w.tensor(), 1e-5f, y.tensor());
  const auto results = y.values();
  for (std::size_t i = 0; i < 80; ++i) EXPECT_NEAR(results[i], i < 40 ? 1.0 : 0.0, 1e-6);
}

TEST_P(Tiers, RotaryTurnsAndTurnsBack) {
  for (DType dtype : kDTypes)
    for (const auto& [dim, pairs] : {std::pair{2, 1}, {10, 3}, {64, 32}, {7, 0}, {2400, 1200}})
      for (bool interleaved : {false, true}) {
        SCOPED_TRACE(
            fmt::format("{} dim {} pairs {} interleaved {}", name_of(dtype), dim, pairs, interleaved));
        constexpr std::int64_t kTokens = 9, kHeads = 3;
        Matrix x(dtype, kTokens, dim, 4, kHeads);
        reference::fill_standard_normal(x.tensor(), 1);
        const Matrix before = x;
        const auto angles = reference::standard_normal(kTokens * pairs, 2);
        reference::RotaryTable table;
        std::vector<float> cos, sin;
        for (double angle : angles) {
          cos.push_back(static_cast<float>(std::cos(angle))),
              sin.push_back(static_cast<float>(std::sin(angle)));
          table.cos_TP.push_back(cos.back()), table.sin_TP.push_back(sin.back());
        }
        const kernels::Rotary turn{
            cos.data(), sin.data(), pairs,
            interleaved ? kernels::RotaryPairs::interleaved : kernels::RotaryPairs::halves};
        const reference::RotaryShape shape{kTokens, kHeads, dim, pairs, interleaved};
        Matrix back = x;
        kernels::rotary(stream_, x.tensor(), turn, kernels::RotaryDirection::forward);
        kernels::rotary(stream_, back.tensor(), turn, kernels::RotaryDirection::backward);
        const auto check = [&](const Matrix& got, const std::vector<double>& expected) {
          const std::vector<double> terms(expected.size(), 8.0);  // two elements, no larger than 4 each
          EXPECT_TRUE(test::within(got.values(), expected, test::rounding_bound(terms, expected, 2, dtype)));
          EXPECT_TRUE(got.guard_intact());
        };
        check(x, reference::rotary_forward(before.values(), table, shape));
        check(back, reference::rotary_backward(before.values(), table, shape));
      }
}

TEST_P(Tiers, Swiglu) {
  for (DType dtype : kDTypes)
    for (std::int64_t tokens : {0, 1, 5})
      for (std::int64_t columns : {1, 33, 1500}) {
        SCOPED_TRACE(fmt::format("{} [{}, {}]", name_of(dtype), tokens, columns));
        // Gates up to about +-90, far into both tails.
        const Matrix gate = Matrix::random(dtype, tokens, columns, 1, 1, 25),
                     up = Matrix::random(dtype, tokens, columns, 2, 7);
        const Matrix dy = Matrix::random(dtype, tokens, columns, 3);
        Matrix y(dtype, tokens, columns, 2), dgate = gate, dup = up;
        kernels::swiglu_forward(stream_, gate.tensor(), up.tensor(), y.tensor());
        Matrix again(dtype, tokens, columns, 2);
        kernels::swiglu_backward(stream_, gate.tensor(), up.tensor(), dy.tensor(),
                                 {dgate.tensor(), dup.tensor(), again.tensor()});
        EXPECT_EQ(y.bytes(), again.bytes());
        Matrix over_gate = gate, over_up = up;  // over their inputs
        kernels::swiglu_backward(stream_, over_gate.tensor(), over_up.tensor(), dy.tensor(),
                                 {over_gate.tensor(), over_up.tensor(), again.tensor()});
        EXPECT_EQ(dgate.bytes(), over_gate.bytes());
        EXPECT_EQ(dup.bytes(), over_up.bytes());
        const auto expected = reference::swiglu_forward(gate.values(), up.values());
        EXPECT_TRUE(test::within(y.values(), expected,
                                 plus(test::rounding_bound(expected, expected, 8, dtype),
                                      std::vector<double>(expected.size(), 1e-35))));
        const auto gradients = reference::swiglu_backward(gate.values(), up.values(), dy.values());
        const auto gates = gate.values(), ups = up.values(), dys = dy.values();
        std::vector<double> terms(expected.size());
        for (std::size_t i = 0; i < terms.size(); ++i)
          terms[i] = std::abs(dys[i] * ups[i]) / (1 + std::exp(-gates[i])) * (1 + std::abs(gates[i]));
        EXPECT_TRUE(test::within(dgate.values(), gradients.dgate,
                                 plus(test::rounding_bound(terms, gradients.dgate, 8, dtype),
                                      std::vector<double>(terms.size(), 1e-34))));
        EXPECT_TRUE(test::within(dup.values(), gradients.dup,
                                 plus(test::rounding_bound(gradients.dup, gradients.dup, 8, dtype),
                                      std::vector<double>(terms.size(), 1e-35))));
        EXPECT_TRUE(y.guard_intact() && dgate.guard_intact() && dup.guard_intact());
      }
}

TEST_P(Tiers, EmbeddingForwardAndBackward) {
  const std::vector<std::int32_t> ids = {4, 0, 4, 2, 4, 0, 6};
  const auto tokens = static_cast<std::int64_t>(ids.size());
  for (DType dtype : kDTypes)
    for (std::int64_t columns : {1, 300, 1100}) {
      const Matrix table = Matrix::random(DType::f32, 7, columns, 1, 3);
      const Matrix dy = Matrix::random(dtype, tokens, columns, 2, 1);
      Matrix y(dtype, tokens, columns, 1), dtable = Matrix::random(DType::f32, 7, columns, 3, 5);
      const Matrix before = dtable;
      kernels::embedding_forward(stream_, ids, table.tensor(), y.tensor());
      kernels::embedding_backward(stream_, ids, dy.tensor(), dtable.tensor());
      EXPECT_EQ(y.values(),
                reference::rounded(reference::embedding_forward(ids, table.values(), columns), dtype));
      const auto expected = plus(reference::embedding_backward(ids, dy.values(), 7), before.values());
      EXPECT_TRUE(test::within(dtable.values(), expected, std::vector<double>(expected.size(), 4 * 16 * kU)));
      EXPECT_TRUE(y.guard_intact() && dtable.guard_intact());
    }
}

TEST_P(Tiers, CopyAddAndFill) {
  for (DType from : kDTypes)
    for (DType to : kDTypes)
      for (std::int64_t gap : {0, 3})
        for (std::int64_t tokens : {0, 1, 50}) {
          SCOPED_TRACE(fmt::format("{} to {}, gap {}, {} tokens", name_of(from), name_of(to), gap, tokens));
          constexpr std::int64_t kHeads = 3, kDim = 700;
          Matrix x(from, tokens, kDim, gap, kHeads), y(to, tokens, kDim, 2 * gap, kHeads);
          reference::fill_standard_normal(x.tensor(), 1);
          kernels::copy(stream_, x.tensor(), y.tensor());
          EXPECT_EQ(y.values(), reference::rounded(x.values(), to));
          reference::fill_standard_normal(y.tensor(), 2);
          const auto sum = plus(y.values(), x.values());
          kernels::add(stream_, x.tensor(), y.tensor());
          EXPECT_EQ(y.values(), reference::rounded(sum, to));
          kernels::fill_zero(stream_, y.tensor());
          EXPECT_EQ(y.values(), std::vector<double>(sum.size(), 0.0));
          EXPECT_TRUE(y.guard_intact());
        }
}

TEST_P(Tiers, CopyBetweenOrdersOfHeads) {
  constexpr std::int64_t kTokens = 4, kHeads = 3, kDim = 5;
  Matrix tokens_first(DType::f32, kTokens, kDim, 0, kHeads),
      heads_first(DType::bf16, kTokens, kDim, 0, kHeads);
  reference::fill_standard_normal(tokens_first.tensor(), 1);
  Tensor turned = heads_first.tensor();
  turned.token_stride = kDim, turned.head_stride = kTokens * kDim;
  kernels::copy(stream_, tokens_first.tensor(), turned);
  EXPECT_EQ(reference::to_doubles(turned), reference::rounded(tokens_first.values(), DType::bf16));
}

TEST_P(Tiers, NarrowingKeepsNansAndRoundsTiesToEven) {
  const std::vector<float> values = {std::numeric_limits<float>::quiet_NaN(),
                                     std::bit_cast<float>(0x7f800001u),
                                     std::numeric_limits<float>::infinity(),
                                     -std::numeric_limits<float>::infinity(),
                                     std::numeric_limits<float>::max(),
                                     std::bit_cast<float>(0x3f808000u),
                                     std::bit_cast<float>(0x3f818000u),
                                     -0.0f,
                                     1e-40f};
  std::vector<bfloat16> narrow(values.size());
  const auto n = static_cast<std::int64_t>(values.size());
  kernels::copy(stream_, view(values.data(), DType::f32, 1, 1, n), view(narrow.data(), DType::bf16, 1, 1, n));
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(narrow[i].bits, to_bfloat16(values[i]).bits) << i;
}

TEST_P(Tiers, CrossEntropyMatchesTheOracle) {
  for (std::int64_t vocabulary : {1, 2, 777, 5000}) {
    constexpr std::int64_t kTokens = 7;
    constexpr float kScale = 0.25f;
    std::vector<std::int32_t> labels = {0, -1, 0, -100, 0, 0, 0};
    for (std::size_t t = 4; t < labels.size(); ++t)
      labels[t] = static_cast<std::int32_t>(vocabulary * (t - 3) / 4);
    const Matrix before = Matrix::random(DType::f32, kTokens, vocabulary, 1, 3, 4);
    Matrix logits = before;
    std::vector<float> losses(kTokens, -1.0f), with_gradient = losses;
    kernels::cross_entropy(stream_, logits.tensor(), labels, 0, losses);
    EXPECT_EQ(logits.bytes(), before.bytes());
    kernels::cross_entropy(stream_, logits.tensor(), labels, kScale, with_gradient);
    EXPECT_EQ(losses, with_gradient);
    const auto expected = reference::cross_entropy_forward(before.values(), labels);
    const auto gradient = reference::cross_entropy_backward(before.values(), labels, kScale);
    for (std::size_t t = 0; t < losses.size(); ++t)
      EXPECT_NEAR(losses[t], expected[t], kU * (labels[t] < 0 ? 0 : 16 + 2 * expected[t])) << t;
    // Relative in the probability (its exponent is off by as many roundings as its logarithm is large), one
    // of the sum.
    std::vector<double> bound(gradient.size());
    for (std::size_t i = 0; i < bound.size(); ++i)
      bound[i] = kU * (std::abs(gradient[i]) * 48 + (gradient[i] < 0 ? 2 * kScale : 0));
    EXPECT_TRUE(test::within(logits.values(), gradient, bound));
    EXPECT_TRUE(logits.guard_intact());
  }
}

TEST_P(Tiers, CrossEntropyOfExtremeLogits) {
  constexpr float kInf = std::numeric_limits<float>::infinity(),
                  kNan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> logits = {3e38f, -3e38f, 0,       // differences beyond float32
                               -kInf, 5,      -kInf,   // one possible word
                               kNan,  0,      0,       //
                               kInf,  0,      0,       //
                               1e30f, 1e30f,  1e30f};  // equal
  const std::vector<std::int32_t> labels = {0, 1, 1, 1, 2};
  std::vector<float> losses(5);
  const Tensor all = view(logits.data(), DType::f32, 5, 1, 3);
  kernels::cross_entropy(stream_, all, labels, 1, losses);
  EXPECT_EQ(losses[0], 0);
  EXPECT_EQ(losses[1], 0);
  EXPECT_TRUE(std::isnan(losses[2]));
  EXPECT_TRUE(std::isnan(losses[3]));
  EXPECT_NEAR(losses[4], std::log(3.0), 1e-6);
  const std::vector<float> expected = {0, 0, 0, 0, 0, 0};
  EXPECT_EQ(std::vector<float>(logits.begin(), logits.begin() + 6), expected);
  EXPECT_NEAR(logits[12], 1.0 / 3, 1e-7);
  EXPECT_NEAR(logits[14], -2.0 / 3, 1e-7);

  std::vector<float> impossible = {0, -kInf, 1};
  kernels::cross_entropy(stream_, view(impossible.data(), DType::f32, 1, 1, 3), std::vector<std::int32_t>{1},
                         0, std::span(losses).first(1));
  EXPECT_EQ(losses[0], kInf);
}

TEST_P(Tiers, BitsDoNotDependOnThreads) {
  const std::vector<std::int32_t> ids = {3, 1, 3, 3, 0};
  std::vector<std::vector<std::uint8_t>> results;
  for (int threads : {1, 2, 3}) {
    const auto device = test::make_device(threads, GetParam());
    Stream& stream = device->stream;
    const Matrix x = Matrix::random(DType::bf16, 5000, 40, 1), w = Matrix::random(DType::bf16, 1, 40, 2);
    const Matrix dy = Matrix::random(DType::f32, 5, 900, 3),
                 dnormed = Matrix::random(DType::f32, 5000, 40, 4);
    Matrix dx(DType::f32, 5000, 40), dw(DType::f32, 1, 40), table(DType::f32, 4, 900);
    kernels::rms_norm_backward(stream, x.tensor(), w.tensor(), 1e-5f, dnormed.tensor(), dx.tensor(),
                               Store::overwrite, dw.tensor());
    kernels::embedding_backward(stream, ids, dy.tensor(), table.tensor());
    std::vector<std::uint8_t> all = dw.bytes();
    all.insert(all.end(), dx.bytes().begin(), dx.bytes().end());
    all.insert(all.end(), table.bytes().begin(), table.bytes().end());
    results.push_back(all);
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST(ElementwiseArguments, BadOnesAreRefusedAndChangeNothing) {
  const auto device = test::make_device();
  Stream& stream = device->stream;
  const Matrix x = Matrix::random(DType::f32, 3, 8, 1), row = Matrix::random(DType::f32, 1, 8, 2),
               half(DType::bf16, 3, 8);
  Matrix y = Matrix::random(DType::f32, 3, 8, 3), short_y(DType::f32, 2, 8), half_y(DType::bf16, 3, 8),
         dw(DType::f32, 1, 8);
  const Matrix before = y;
  const std::vector<std::int32_t> high = {0, 3, 1}, low = {0, -1, 1}, two = {0, 1}, beyond = {8, 0, 0};
  std::vector<float> losses(3);
  EXPECT_THROW(kernels::embedding_forward(stream, high, x.tensor(), y.tensor()), ArgumentError);
  EXPECT_THROW(kernels::embedding_forward(stream, low, x.tensor(), y.tensor()), ArgumentError);
  EXPECT_THROW(kernels::embedding_backward(stream, high, x.tensor(), y.tensor()), ArgumentError);
  EXPECT_THROW(kernels::embedding_forward(stream, two, x.tensor(), y.tensor()), ArgumentError);
  EXPECT_THROW(kernels::cross_entropy(stream, y.tensor(), beyond, 1, losses), ArgumentError);
  EXPECT_THROW(kernels::cross_entropy(stream, y.tensor(), two, 1, losses), ArgumentError);
  EXPECT_THROW(kernels::rms_norm_forward(stream, x.tensor(), x.tensor(), 1e-5f, y.tensor()), ArgumentError);
  EXPECT_THROW(kernels::rms_norm_forward(stream, x.tensor(), row.tensor(), -1, y.tensor()), ArgumentError);
  EXPECT_THROW(kernels::rms_norm_forward(stream, x.tensor(), row.tensor(), 1e-5f, short_y.tensor()),
               ArgumentError);
  EXPECT_THROW(kernels::rms_norm_forward(stream, half.tensor(), row.tensor(), 1e-5f, half_y.tensor()),
               ArgumentError);
  EXPECT_THROW(kernels::rms_norm_backward(stream, x.tensor(), row.tensor(), 1e-5f, half.tensor(), y.tensor(),
                                          Store::overwrite, dw.tensor()),
               ArgumentError);
  EXPECT_THROW(kernels::swiglu_forward(stream, x.tensor(), half.tensor(), y.tensor()), ArgumentError);
  EXPECT_THROW(kernels::swiglu_forward(stream, half.tensor(), half.tensor(), y.tensor()), ArgumentError);
  EXPECT_THROW(kernels::copy(stream, x.tensor(), short_y.tensor()), ArgumentError);
  EXPECT_THROW(kernels::add(stream, short_y.tensor(), y.tensor()), ArgumentError);
  const float one = 1;
  EXPECT_THROW(kernels::rotary(stream, y.tensor(), {&one, &one, 5}, kernels::RotaryDirection::forward),
               ArgumentError);
  EXPECT_THROW(kernels::rotary(stream, y.tensor(), {nullptr, &one, 4}, kernels::RotaryDirection::forward),
               ArgumentError);
  EXPECT_EQ(y.bytes(), before.bytes());
}

}  // namespace
}  // namespace rondo
