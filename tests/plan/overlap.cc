// Tokens that hide an exchange, by the formula and by trying.

#include "rondo/plan/overlap.h"

#include <gtest/gtest.h>

#include "rondo/core/error.h"

namespace rondo {
namespace {

/// Seconds of a hop's attention and of the exchange beside it, counted out.
struct Seconds {
  double work, travel;
};
Seconds of_hop(const HopModel& hop, double tokens, bool backward) {
  const double pairs = (hop.causal ? 0.5 : 1.0) * tokens * tokens;
  const double products = backward ? 5 : 2;  // of each 2 operations for each pair and element
  const auto elements = 2.0 * tokens * static_cast<double>(hop.kv_heads * hop.head_dim);
  const double bytes = elements * (static_cast<double>(size_of(hop.dtype)) + (backward ? 4 : 0));
  return {2 * products * pairs * static_cast<double>(hop.heads * hop.head_dim) / hop.flops,
          bytes / hop.bytes_per_second + hop.latency};
}

TEST(TokensToHide, AreThoseOfTheFormulaWithoutLatency) {
  HopModel hop{.flops = 100e9,
               .bytes_per_second = 0.125e9,
               .heads = 8,
               .kv_heads = 2,
               .head_dim = 64,
               .dtype = DType::f32,
               .causal = false};
  const double one = 100e9 * 4 / (2 * 4 * 0.125e9);  // F e / (2 g B) = 400
  EXPECT_NEAR(tokens_to_hide_forward(hop), one, 1e-9 * one);
  hop.causal = true;
  EXPECT_NEAR(tokens_to_hide_forward(hop), 2 * one, 1e-9 * one);
  hop.dtype = DType::bf16;
  EXPECT_NEAR(tokens_to_hide_forward(hop), one, 1e-9 * one);
  hop.kv_heads = 8;
  EXPECT_NEAR(tokens_to_hide_forward(hop), 4 * one, 1e-9 * one);
  EXPECT_NEAR(tokens_to_hide_backward(hop), 2 * 100e9 * (2 + 4) / (5 * 0.125e9), 1e-6);
}

TEST(TokensToHide, AreWhereTheTwoTakeEquallyLong) {
  for (const bool causal : {false, true})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const double latency : {0.0, 1e-5, 1e-2}) {
        const HopModel hop{.flops = 3e11,
                           .bytes_per_second = 7e9,
                           .latency = latency,
                           .heads = 12,
                           .kv_heads = 3,
                           .head_dim = 80,
                           .dtype = dtype,
                           .causal = causal};
        const double forward = tokens_to_hide_forward(hop), backward = tokens_to_hide_backward(hop);
        const Seconds there = of_hop(hop, forward, false), back = of_hop(hop, backward, true);
        EXPECT_NEAR(there.work / there.travel, 1, 1e-9);
        EXPECT_NEAR(back.work / back.travel, 1, 1e-9);
        EXPECT_GT(of_hop(hop, 2 * forward, false).work, of_hop(hop, 2 * forward, false).travel);
      }
}

TEST(TokensToHide, NeedNumbersThatMakeSense) {
  const HopModel good{.flops = 1, .bytes_per_second = 1};
  EXPECT_GT(tokens_to_hide_forward(good), 0);
  HopModel hop = good;
  hop.flops = 0;
  EXPECT_THROW(tokens_to_hide_forward(hop), ArgumentError);
  hop = good, hop.bytes_per_second = -1;
  EXPECT_THROW(tokens_to_hide_backward(hop), ArgumentError);
  hop = good, hop.heads = 3, hop.kv_heads = 2;
  EXPECT_THROW(tokens_to_hide_forward(hop), ArgumentError);
}

}  // namespace
}  // namespace rondo
