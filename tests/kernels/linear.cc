// Linear layers against the oracle: shapes, strides, dtypes, both ways of storing, threads.

#include <gtest/gtest.h>

#include "rondo/kernels/kernels.h"
#include "rondo/reference/layers.h"
#include "tests/kernels/matrices.h"

namespace rondo {
namespace {

using kernels::Store;
using test::Matrix;

struct Types {
  DType in, out;
};
constexpr Types kTypes[] = {{DType::f32, DType::f32}, {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}};

struct Shape {
  std::int64_t tokens, rows, columns;
};
// Whole tiles, one over, one under; empty; vectors; more terms than are widened at a time.
constexpr Shape kShapes[] = {{0, 5, 3},     {3, 0, 5},      {4, 5, 0},    {1, 1, 1},    {1, 130, 33},
                             {7, 9, 13},    {3, 129, 1},    {33, 1, 57},  {1, 1, 57},   {57, 1, 1},
                             {300, 70, 65}, {257, 513, 31}, {256, 32, 7}, {5, 6, 2500}, {1030, 5, 6},
                             {6, 1030, 20}, {2060, 3, 130}};

/// Rounding errors of a float32 sum of `terms` products: they add up like a random walk.
double roundings(std::int64_t terms) { return 6 + 2 * std::sqrt(static_cast<double>(terms)); }

std::vector<double> plus(std::vector<double> a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

/// One case on one device: all three products.
struct Case {
  Shape shape;
  Types types;
  Store store;
  std::int64_t gap;
  Matrix x{Matrix::random(types.in, shape.tokens, shape.columns, 1, gap)};
  Matrix w{Matrix::random(types.in, shape.rows, shape.columns, 2, 2 * gap)};
  Matrix dy{Matrix::random(types.in, shape.tokens, shape.rows, 3, gap)};
  Matrix y{Matrix::random(types.out, shape.tokens, shape.rows, 4, gap)};
  Matrix dx{Matrix::random(types.out, shape.tokens, shape.columns, 5, 3 * gap)};
  Matrix dw{Matrix::random(DType::f32, shape.rows, shape.columns, 6, gap)};

  void run(Stream& stream) {
    kernels::linear_forward(stream, x.tensor(), w.tensor(), y.tensor(), store);
    kernels::linear_backward_input(stream, dy.tensor(), w.tensor(), dx.tensor(), store);
    kernels::linear_backward_weight(stream, dy.tensor(), x.tensor(), dw.tensor());
  }
};

void expect_right(Case& got, Stream& stream) {
  const Case before = got;
  got.run(stream);
  const reference::LinearShape shape{got.shape.tokens, got.shape.rows, got.shape.columns};
  const auto x = before.x.values(), w = before.w.values(), dy = before.dy.values();
  const auto check = [&](const Matrix& result, const Matrix& old, bool added, std::vector<double> expected,
                         std::vector<double> terms, std::int64_t count) {
    if (added) expected = plus(expected, old.values()), terms = plus(terms, test::absolute(old.values()));
    EXPECT_TRUE(test::within(result.values(), expected,
                             test::rounding_bound(terms, expected, roundings(count), result.tensor().dtype)));
    EXPECT_TRUE(result.guard_intact());
  };
  const bool added = got.store == Store::accumulate;
  const auto gradients = reference::linear_backward(x, w, dy, shape);
  const auto terms =
      reference::linear_backward(test::absolute(x), test::absolute(w), test::absolute(dy), shape);
  check(got.y, before.y, added, reference::linear_forward(x, w, shape),
        reference::linear_forward(test::absolute(x), test::absolute(w), shape), shape.columns);
  check(got.dx, before.dx, added, gradients.dx_TK, terms.dx_TK, shape.rows);
  check(got.dw, before.dw, true, gradients.dw_NK, terms.dw_NK, shape.tokens);
}

class LinearTier : public ::testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Kernels, LinearTier, ::testing::ValuesIn(test::tiers()),
                         [](const auto& test_case) { return std::string(name_of(test_case.param)); });

TEST_P(LinearTier, MatchesTheOracle) {
  const auto device = test::make_device(2, GetParam());
  for (const Types& types : kTypes)
    for (const Shape& shape : kShapes)
      for (Store store : {Store::overwrite, Store::accumulate})
        for (std::int64_t gap : {0, 3}) {
          // Every combination at the best tier, half of them at the others.
          if (GetParam() != detected_isa() && (gap == 0) != (store == Store::overwrite)) continue;
          SCOPED_TRACE(fmt::format("{} to {}, [{}, {}] x {}, {}, gap {}", name_of(types.in),
                                   name_of(types.out), shape.tokens, shape.columns, shape.rows,
                                   store == Store::accumulate ? "added" : "stored", gap));
          Case one{.shape = shape, .types = types, .store = store, .gap = gap};
          expect_right(one, device->stream);
        }
}

TEST_P(LinearTier, BitsDoNotDependOnThreads) {
  for (const Types& types : kTypes)
    for (const Shape& shape : {Shape{530, 700, 65}, Shape{1, 900, 64}, Shape{40, 300, 1100}}) {
      std::vector<Case> results;
      for (int threads : {1, 2, 3}) {
        const auto device = test::make_device(threads, GetParam());
        Case one{.shape = shape, .types = types, .store = Store::accumulate, .gap = 0};
        one.run(device->stream);
        results.push_back(one);
      }
      for (const Case& other : results) {
        EXPECT_EQ(results[0].y.bytes(), other.y.bytes());
        EXPECT_EQ(results[0].dx.bytes(), other.dx.bytes());
        EXPECT_EQ(results[0].dw.bytes(), other.dw.bytes());
      }
    }
}

struct Packed {
  std::vector<std::uint32_t> words;
  kernels::PackedWeight weight;
};
/// In memory that no word beyond the promised bytes is written to, or read from unwritten.
Packed packed(Stream& stream, const Matrix& w, kernels::WeightUse use) {
  const ConstTensor view = w.tensor();
  Packed result;
  const std::int64_t bytes =
      kernels::packed_weight_bytes(stream.isa(), view.dtype, view.tokens, view.dim, use);
  result.words.assign(static_cast<std::size_t>(bytes / 4 + 1), 0xffffffffu);
  result.weight = kernels::pack_weight(stream, view, use, result.words.data());
  EXPECT_EQ(result.words.back(), 0xffffffffu);
  return result;
}

TEST_P(LinearTier, PackedWeightsGiveTheSameBits) {
  const auto device = test::make_device(2, GetParam());
  Stream& stream = device->stream;
  for (const Types& types : kTypes)
    for (const Shape& shape : {Shape{33, 64, 64}, Shape{300, 70, 65}, Shape{257, 513, 31},
                               Shape{40, 20, 1300}, Shape{0, 5, 3}, Shape{40, 5, 0}})
      for (Store store : {Store::overwrite, Store::accumulate}) {
        SCOPED_TRACE(fmt::format("{} to {}, [{}, {}] x {}", name_of(types.in), name_of(types.out),
                                 shape.tokens, shape.columns, shape.rows));
        Case plain{.shape = shape, .types = types, .store = store, .gap = 1};
        Case with = plain;
        plain.run(stream);
        const Packed forward = packed(stream, with.w, kernels::WeightUse::forward);
        const Packed backward = packed(stream, with.w, kernels::WeightUse::backward_input);
        kernels::linear_forward(stream, with.x.tensor(), forward.weight, with.y.tensor(), store);
        kernels::linear_backward_input(stream, with.dy.tensor(), backward.weight, with.dx.tensor(), store);
        EXPECT_EQ(plain.y.bytes(), with.y.bytes());
        EXPECT_EQ(plain.dx.bytes(), with.dx.bytes());
      }
}

/// Few tokens read the weight as it lies; a token's result does not depend on how many there are.
TEST_P(LinearTier, FewTokensGiveTheBitsOfOne) {
  const auto device = test::make_device(2, GetParam());
  for (const Types& types : kTypes) {
    const Matrix x = Matrix::random(types.in, 7, 77, 1), w = Matrix::random(types.in, 133, 77, 2);
    Matrix all(types.out, 7, 133), one(types.out, 1, 133);
    kernels::linear_forward(device->stream, x.tensor(), w.tensor(), all.tensor(), Store::overwrite);
    const std::vector<double> values = all.values();
    for (std::int64_t token = 0; token < 7; ++token) {
      kernels::linear_forward(device->stream, ConstTensor(x.tensor()).slice({token, token + 1}), w.tensor(),
                              one.tensor(), Store::overwrite);
      const auto first = values.begin() + token * 133;
      EXPECT_EQ(one.values(), std::vector<double>(first, first + 133));
    }
  }
}

/// 0 times infinity beside the block: padding must not reach results.
TEST_P(LinearTier, NonFiniteNumbersStayInTheirRow) {
  const auto device = test::make_device(1, GetParam());
  for (const Types& types : kTypes) {
    Case one{.shape = {45, 67, 33}, .types = types, .store = Store::overwrite, .gap = 0};
    std::vector<double> x = one.x.values();
    x[33] = std::numeric_limits<double>::infinity(), x[2 * 33 - 1] = std::nan("");  // token 1
    one.x.set(x);
    one.run(device->stream);
    const std::vector<double> y = one.y.values();
    for (std::size_t n = 0; n < y.size(); ++n) EXPECT_EQ(std::isfinite(y[n]), n / 67 != 1) << n;
  }
}

TEST(Linear, OverwriteDoesNotReadWhatWasThere) {
  const auto device = test::make_device();
  const Matrix x = Matrix::random(DType::f32, 5, 40, 1), w = Matrix::random(DType::f32, 6, 40, 2);
  Matrix y(DType::f32, 5, 6);
  y.set(std::vector<double>(30, std::nan("")));
  kernels::linear_forward(device->stream, x.tensor(), w.tensor(), y.tensor(), Store::overwrite);
  for (double value : y.values()) EXPECT_TRUE(std::isfinite(value));
}

TEST(Linear, OneRowOfAnyStride) {
  const auto device = test::make_device();
  const Matrix x = Matrix::random(DType::f32, 1, 3, 1), w = Matrix::random(DType::f32, 2, 3, 2);
  Matrix y(DType::f32, 1, 2), strange(DType::f32, 1, 2);
  kernels::linear_forward(device->stream, x.tensor(), w.tensor(), y.tensor(), Store::overwrite);
  ConstTensor row = x.tensor();
  row.token_stride = 0;
  kernels::linear_forward(device->stream, row, w.tensor(), strange.tensor(), Store::overwrite);
  EXPECT_EQ(y.bytes(), strange.bytes());
}

TEST(Linear, WarmCallsEnterNothingInTheLedger) {
  const auto device = test::make_device(2);
  Case one{.shape = {300, 200, 100}, .types = kTypes[2], .store = Store::accumulate, .gap = 0};
  one.run(device->stream);
  const auto before = device->ledger.allocations();
  one.run(device->stream);
  EXPECT_EQ(device->ledger.allocations(), before);
}

TEST(Linear, RefusesWhatDoesNotFit) {
  const auto device = test::make_device();
  const Matrix x(DType::f32, 4, 8), w(DType::f32, 5, 8), half(DType::bf16, 5, 8), narrow(DType::f32, 5, 7);
  Matrix y(DType::f32, 4, 5), half_y(DType::bf16, 4, 5), wrong(DType::f32, 4, 6), half_w(DType::bf16, 5, 8);
  const auto forward = [&](const Matrix& weight, Matrix& out) {
    kernels::linear_forward(device->stream, x.tensor(), weight.tensor(), out.tensor(), Store::overwrite);
  };
  EXPECT_THROW(forward(narrow, y), ArgumentError);
  EXPECT_THROW(forward(half, y), ArgumentError);
  EXPECT_THROW(forward(w, half_y), ArgumentError);
  EXPECT_THROW(forward(w, wrong), ArgumentError);
  EXPECT_THROW(kernels::linear_backward_weight(device->stream, y.tensor(), x.tensor(), half_w.tensor()),
               ArgumentError);
  ConstTensor overlapping = x.tensor();
  overlapping.token_stride = 7;
  EXPECT_THROW(kernels::linear_forward(device->stream, overlapping, w.tensor(), y.tensor(), Store::overwrite),
               ArgumentError);
  const Packed packed_w = packed(device->stream, w, kernels::WeightUse::forward);
  kernels::linear_forward(device->stream, x.tensor(), packed_w.weight, y.tensor(), Store::overwrite);
  EXPECT_THROW(kernels::linear_backward_input(device->stream, y.tensor(), packed_w.weight, Matrix(x).tensor(),
                                              Store::overwrite),
               ArgumentError);
  EXPECT_THROW(
      kernels::linear_forward(device->stream, x.tensor(), packed_w.weight, wrong.tensor(), Store::overwrite),
      ArgumentError);
  const auto portable = test::make_device(1, Isa::portable);
  if (detected_isa() != Isa::portable) {
    EXPECT_THROW(
        kernels::linear_forward(portable->stream, x.tensor(), packed_w.weight, y.tensor(), Store::overwrite),
        ArgumentError);
  }
  try {
    forward(narrow, y);
  } catch (const ArgumentError& error) {
    EXPECT_STREQ(error.what(), "[linear_forward] expected w_NK of shape [5, 1, 8], got [5, 1, 7]");
  }
}

}  // namespace
}  // namespace rondo
