// Decoding over keys and values that are spread over the devices, against attention over all of them.

#include "rondo/attention/decode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "rondo/reference/attention.h"
#include "rondo/reference/convert.h"
#include "tests/support/spawn.h"

namespace rondo::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Problem {
  std::vector<std::int64_t> parts;  ///< keys of each device; half of them, in two runs, are seen
  std::int64_t tokens = 1;
  AttentionShape shape{.q_heads = 4, .kv_heads = 2, .qk_dim = 16, .v_dim = 8, .dtype = DType::f32};
  float softcap = 0;
  double key_scale = 1;  ///< large: sharp probabilities and lse far from each other
  int threads = 1;
  bool batch = false;  ///< each query is a sequence of its own, with its share of each device's keys
};

std::int64_t all_keys(const Problem& problem) {
  return std::accumulate(problem.parts.begin(), problem.parts.end(), std::int64_t{0});
}

/// What of a part of n keys the queries see: two runs with a hole between them.
std::vector<Tile> tiles_of(const Problem& problem, std::int64_t n) {
  std::vector<Tile> tiles;
  const std::int64_t sequences = problem.batch ? problem.tokens : 1;
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t begin = s * n / sequences, end = (s + 1) * n / sequences, size = end - begin;
    const Range q = problem.batch ? Range{s, s + 1} : Range{0, problem.tokens};
    for (const Range k : {Range{begin, begin + size / 4}, Range{begin + size / 2, end}})
      if (!k.empty()) tiles.push_back({.q = q, .k = k});
  }
  return tiles;
}

reference::AttentionProblem reference_of(const Problem& problem) {
  const AttentionShape& s = problem.shape;
  const std::int64_t S = all_keys(problem), T = problem.tokens;
  std::vector<double> k = reference::standard_normal(S * s.kv_heads * s.qk_dim, 1, 1);
  for (double& x : k) x *= problem.key_scale;
  std::vector<bool> seen(static_cast<std::size_t>(T * S));
  std::int64_t first = 0;
  for (const std::int64_t part : problem.parts) {
    for (const Tile& tile : tiles_of(problem, part))
      for (std::int64_t i = tile.q.begin; i < tile.q.end; ++i)
        for (std::int64_t j = tile.k.begin; j < tile.k.end; ++j)
          seen[static_cast<std::size_t>(i * S + first + j)] = true;
    first += part;
  }
  return {.q_tokens = T,
          .k_tokens = S,
          .q_heads = s.q_heads,
          .kv_heads = s.kv_heads,
          .qk_dim = s.qk_dim,
          .v_dim = s.v_dim,
          .scale = 0.25,
          .softcap = problem.softcap,
          .q_THD = reference::rounded(reference::standard_normal(T * s.q_heads * s.qk_dim, 1, 0), s.dtype),
          .k_SGD = reference::rounded(k, s.dtype),
          .v_SGE = reference::rounded(reference::standard_normal(S * s.kv_heads * s.v_dim, 1, 2), s.dtype),
          .visible = [seen, S](std::int64_t i,
                               std::int64_t j) { return seen[static_cast<std::size_t>(i * S + j)]; },
          .keep = {},
          .bias = {}};
}

/// The output on each device.
std::vector<std::vector<double>> decode(const Problem& problem) {
  const AttentionShape& s = problem.shape;
  const reference::AttentionProblem whole = reference_of(problem);
  const int devices = static_cast<int>(problem.parts.size());
  std::vector<std::vector<double>> outputs(problem.parts.size());
  spawn(devices,
        [&](Context& context, Communicator& communicator) {
          const auto self = static_cast<std::size_t>(context.device);
          const std::int64_t T = problem.tokens, part = problem.parts[self];
          const std::int64_t first =
              std::accumulate(problem.parts.begin(), problem.parts.begin() + context.device, std::int64_t{0});
          const auto filled = [&](const std::vector<double>& all, std::int64_t begin, std::int64_t tokens,
                                  std::int64_t heads, std::int64_t dim) {
            Buffer buffer = context.arena.allocate(
                Entry::data, std::max<std::int64_t>(tokens * heads * dim, 1) * size_of(s.dtype), "test");
            const auto from = all.begin() + begin * heads * dim;
            reference::from_doubles({from, from + tokens * heads * dim},
                                    buffer.tensor(s.dtype, tokens, heads, dim));
            return buffer;
          };
          const Buffer q = filled(whole.q_THD, 0, T, s.q_heads, s.qk_dim);
          const Buffer k = filled(whole.k_SGD, first, part, s.kv_heads, s.qk_dim);
          const Buffer v = filled(whole.v_SGE, first, part, s.kv_heads, s.v_dim);
          const Buffer out =
              context.arena.allocate(Entry::data, T * s.q_heads * s.v_dim * size_of(s.dtype), "test");
          const std::vector<Tile> tiles = tiles_of(problem, part);
          DecodeAttention attention(context, communicator, s, T + 1);  // room for more than there is
          const std::int64_t allocations = context.ledger.allocations();
          for (int n = 0; n < 2; ++n) {  // the second call finds the first one's leavings
            attention({.q_THD = q.tensor(s.dtype, T, s.q_heads, s.qk_dim),
                       .k_SGD = k.tensor(s.dtype, part, s.kv_heads, s.qk_dim),
                       .v_SGE = v.tensor(s.dtype, part, s.kv_heads, s.v_dim),
                       .tiles = tiles,
                       .params = {.scale = 0.25f, .softcap = problem.softcap, .dropout = {}},
                       .out_THE = out.tensor(s.dtype, T, s.q_heads, s.v_dim)});
          }
          // Nothing large is allocated but the kernels' scratch, once for each thread.
          EXPECT_LE(context.ledger.allocations() - allocations, problem.threads);
          outputs[self] = reference::to_doubles(out.tensor(s.dtype, T, s.q_heads, s.v_dim));
        },
        {.threads = problem.threads, .timeout = std::chrono::seconds(60)});
  return outputs;
}

// An output is a mean of values (standard normal, below 5) under weights whose exponents err by 2^-24 of
// scores below 2^4 or so: 2^-20 of a value at worst. In bfloat16 the probabilities and the output are
// rounded: 2^-9 each.
void expect_reference(const Problem& problem) {
  const std::vector<double> expected = reference::attention_forward(reference_of(problem)).out_THE;
  const auto outputs = decode(problem);
  const double bound = problem.shape.dtype == DType::f32 ? 5 * 0x1p-20 : 2.5 * 0x1p-8;
  for (const auto& output : outputs) {
    EXPECT_LE(reference::max_difference(output, expected), bound);
    EXPECT_EQ(output, outputs.front());  // bits
  }
}

TEST(DecodeAttention, EqualsAttentionOverAllKeys) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::vector<std::int64_t>& parts :
         {std::vector<std::int64_t>{301}, {1}, {40, 261}, {7, 100, 33}, {64, 64, 64, 64}, {1, 2, 3, 4, 5}}) {
      for (const std::int64_t tokens : {1, 3}) {
        SCOPED_TRACE(testing::Message()
                     << parts.size() << " devices, " << tokens << " tokens, " << name_of(dtype));
        Problem problem{.parts = parts, .tokens = tokens};
        problem.shape.dtype = dtype;
        expect_reference(problem);
        problem.softcap = 1.5f;
        expect_reference(problem);
      }
    }
  }
}

TEST(DecodeAttention, SequencesOfABatchSeeTheirOwnKeys) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::vector<std::int64_t>& parts : {std::vector<std::int64_t>{301}, {40, 261}, {3, 0, 130}}) {
      Problem problem{.parts = parts, .tokens = 5, .batch = true};
      problem.shape.dtype = dtype;
      expect_reference(problem);
    }
  }
}

TEST(DecodeAttention, DevicesWithoutKeysChangeNothing) {
  for (const std::vector<std::int64_t>& parts :
       {std::vector<std::int64_t>{0, 50}, {50, 0}, {0, 0, 9, 0}, {1, 0, 1, 0, 1}, {0}, {0, 0, 0}})
    expect_reference({.parts = parts, .tokens = 2});
  for (const auto& output : decode({.parts = {0, 0, 0}})) EXPECT_EQ(output, std::vector<double>(4 * 8, 0.0));
}

TEST(DecodeAttention, BitsDoNotDependOnThreads) {
  const auto base = decode({.parts = {300, 20, 120}, .tokens = 2});
  for (const int threads : {2, 3})
    EXPECT_EQ(decode({.parts = {300, 20, 120}, .tokens = 2, .threads = threads}), base);
}

// Scores of some hundreds: a merge by plain exponentials would overflow.
TEST(DecodeAttention, LargeScores) {
  const Problem problem{.parts = {30, 60, 30}, .key_scale = 300};
  const std::vector<double> expected = reference::attention_forward(reference_of(problem)).out_THE;
  // Scores up to 2^10 err by some 2^-24 of themselves: 2^-12 of a value below 5.
  for (const auto& output : decode(problem))
    EXPECT_LE(reference::max_difference(output, expected), 5 * 0x1p-12);
}

TEST(DecodeAttention, MoreTokensThanThereIsRoomForAreRefused) {
  spawn(1, [](Context& context, Communicator& communicator) {
    const AttentionShape shape{.q_heads = 1, .kv_heads = 1, .qk_dim = 4, .v_dim = 4};
    DecodeAttention attention(context, communicator, shape, 1);
    std::vector<float> memory(8);
    const Tensor two = view(memory.data(), DType::f32, 2, 1, 4);
    EXPECT_THROW(
        attention({.q_THD = two, .k_SGD = two, .v_SGE = two, .tiles = {}, .params = {}, .out_THE = two}),
        ArgumentError);
  });
}

/// attention_merge_finished of parts [N, 1, 1, 2] with one lse each.
std::vector<double> merged(const std::vector<float>& outputs, const std::vector<float>& lse,
                           DType dtype = DType::f32) {
  Context context({});
  std::vector<float> memory(2, 99);
  const Tensor out = view(memory.data(), dtype, 1, 1, 2);
  kernels::attention_merge_finished(context.stream, static_cast<std::int64_t>(lse.size()), outputs.data(),
                                    lse.data(), out);
  return reference::to_doubles(out);
}

TEST(MergeFinished, PartsWithoutKeysHaveNoWeight) {
  EXPECT_EQ(merged({0, 0, 3, -5}, {-kInfinity, 2}), (std::vector<double>{3, -5}));
  EXPECT_EQ(merged({3, -5, 0, 0}, {-700, -kInfinity}), (std::vector<double>{3, -5}));
  EXPECT_EQ(merged({0, 0, 0, 0}, {-kInfinity, -kInfinity}), (std::vector<double>{0, 0}));
  EXPECT_EQ(merged({0, 0}, {-kInfinity}, DType::bf16), (std::vector<double>{0, 0}));
}

TEST(MergeFinished, WeightsAreShiftedByTheLargest) {
  EXPECT_EQ(merged({2, 4, 4, 8}, {1e30f, 1e30f}), (std::vector<double>{3, 6}));
  EXPECT_EQ(merged({2, 4, 4, 8}, {-1e30f, 1e30f}), (std::vector<double>{4, 8}));
  EXPECT_EQ(merged({2, 4, 4, 8}, {-1000, -1000}, DType::bf16), (std::vector<double>{3, 6}));
  const std::vector<double> uneven = merged({1, 0, 0, 1}, {0, std::log(3.0f)});
  EXPECT_NEAR(uneven[0], 0.25, 0x1p-24);
  EXPECT_NEAR(uneven[1], 0.75, 0x1p-23);
}

TEST(MergeFinished, ANaNStaysOne) {
  const float nan = std::nanf("");
  for (const double x : merged({1, 1, nan, nan}, {0, nan})) EXPECT_TRUE(std::isnan(x));
  for (const double x : merged({nan, nan}, {nan})) EXPECT_TRUE(std::isnan(x));
  for (const double x : merged({nan, nan, 0, 0}, {nan, -kInfinity})) EXPECT_TRUE(std::isnan(x));
}

// Parts [N,T,H,E], lse [N,H,T]: three tokens and two heads tell the orders apart; the output has gaps.
TEST(MergeFinished, ShapesAndStrides) {
  constexpr std::int64_t N = 3, T = 3, H = 2, E = 4;
  const auto outputs = reference::standard_normal(N * T * H * E, 1),
             lses = reference::standard_normal(N * H * T, 2);
  const std::vector<float> out_NTHE(outputs.begin(), outputs.end()), lse_NHT(lses.begin(), lses.end());
  std::vector<float> memory(T * 20, 99);
  Tensor out{memory.data(), DType::f32, T, H, E, 20, 10};
  Context context({});
  kernels::attention_merge_finished(context.stream, N, out_NTHE.data(), lse_NHT.data(), out);
  for (std::int64_t t = 0; t < T; ++t) {
    for (std::int64_t h = 0; h < H; ++h) {
      for (std::int64_t e = 0; e < 10; ++e) {
        double sum = 0, total = 0;
        for (std::int64_t n = 0; n < N && e < E; ++n) {
          const double weight =
              std::exp(static_cast<double>(lse_NHT[static_cast<std::size_t>((n * H + h) * T + t)]));
          sum += weight * out_NTHE[static_cast<std::size_t>(((n * T + t) * H + h) * E + e)];
          total += weight;
        }
        // Three weights and three products below 3, each rounded once or twice.
        EXPECT_NEAR(memory[static_cast<std::size_t>(t * 20 + h * 10 + e)], e < E ? sum / total : 99,
                    8 * 0x1p-23);
      }
    }
  }
}

}  // namespace
}  // namespace rondo::test
