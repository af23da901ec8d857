// Properties of attention on random shapes, tiles and bands, and the accuracy contract at length 2048.

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "tests/kernels/attention_support.h"

namespace rondo::attention_test {
namespace {

Case random_case() {
  const auto pick = [](std::int64_t low, std::int64_t high) {
    return *rc::gen::inRange<std::int64_t>(low, high + 1);
  };
  Case c{.T = pick(0, 150), .S = pick(0, 150), .D = pick(4, 40), .E = pick(4, 40)};
  c.G = pick(1, 2);
  c.H = c.G * pick(1, 3);
  c.dtype = *rc::gen::element(DType::f32, DType::bf16);
  c.gap = pick(0, 2);
  c.seed = *rc::gen::arbitrary<std::uint64_t>();
  c.tiles = random_tiles(c.seed, c.T, c.S, pick(1, 150));
  c.params.scale = *rc::gen::element(1.0f, 1.0f, 0.2f, -0.4f, 0.0f);  // 1: the usual one
  c.params.softcap = *rc::gen::element(0.0f, 0.0f, 3.0f);
  c.params.dropout = {*rc::gen::element(0.0f, 0.0f, 0.3f), {3, 4}};
  return completed(c);
}

/// Runs `property` on `cases` random cases and every tier; the message names what failed.
void check(const char* what, int cases, std::string (*property)(const Case&, Isa)) {
  rc::detail::TestParams params = rc::detail::configuration().testParams;
  params.maxSuccess = cases;
  params.disableShrinking = true;  // a case is already one line
  const auto result = rc::detail::checkTestable(
      [&] {
        const Case c = random_case();
        for (const Isa isa : tiers()) {
          const std::string failure = property(c, isa);
          if (!failure.empty()) RC_FAIL(failure);
        }
      },
      rc::detail::TestMetadata{}, params);
  std::ostringstream message;
  rc::detail::printResultMessage(result, message);
  EXPECT_TRUE(result.template is<rc::detail::SuccessResult>()) << what << ": " << message.str();
}

TEST(AttentionProperties, ForwardEqualsReference) {
  check("forward", 60, [](const Case& c, Isa isa) { return forward_failure(c, isa, Measure::magnitudes); });
}
TEST(AttentionProperties, GradientsEqualReference) {
  check("gradients", 40,
        [](const Case& c, Isa isa) { return gradient_failure(c, isa, Measure::magnitudes); });
}

TEST(AttentionProperties, StatesOfPartsMergeToTheWhole) {
  check("merge", 40, [](const Case& c, Isa isa) -> std::string {
    const Inputs in(c);
    const Output whole = forward(c, in, isa);
    Device a(c, isa), b(c, isa);
    const std::size_t half = c.tiles.size() / 2;
    add_tiles(a, c, in, std::span(c.tiles).first(half));
    add_tiles(b, c, in, std::span(c.tiles).subspan(half));
    kernels::attention_state_merge(a.stream(), a.state, b.state);
    Array out(c.dtype, c.T, c.H, c.E);
    std::vector<float> lse;
    const Output merged = finish(a, c, out, lse);
    // Both are as far from the truth as bfloat16 allows, each in its own direction.
    const double apart = c.dtype == DType::bf16 ? 2 : 1;
    Inputs magnitudes(c);
    magnitudes.v.make_positive();
    const double floor =
        c.dtype == DType::bf16 ? std::max(1e-3, largest(forward(c, magnitudes, isa).out)) : 1e-3;
    const bool close = error_of(whole.out, merged.out, floor) <= apart * forward_bound(c.dtype) &&
                       error_of(whole.lse, merged.lse, 1) <= apart * lse_bound(c.dtype, isa);
    return close ? "" : "merged states differ from one pass";
  });
}

}  // namespace
}  // namespace rondo::attention_test
