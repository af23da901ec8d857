// Every ring of 1...9 devices x every mask x every layout x even, uneven and empty shards equals the
// double-precision reference: forward and all three gradients, float32 and bfloat16, with bounds that do not
// grow with the devices.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "tests/support/ring_case.h"

namespace rondo::test {
namespace {

struct NamedMask {
  const char* name;
  Mask mask;
  bool documents;
};

const NamedMask kMasks[] = {
    {"none", {.causal = false}, false},
    {"causal", {.causal = true}, false},
    {"window", {.causal = true, .window = 9}, false},
    {"two_sided_window", {.causal = false, .window = 7}, false},
    {"documents", {.causal = true}, true},
    {"documents_both_ways", {.causal = false}, true},
    {"window_first_k", {.causal = true, .window = 6, .first_k = 3}, false},
    {"two_sided_window_first_k", {.causal = false, .window = 5, .first_k = 2}, false},
    {"window_documents_first_k", {.causal = true, .window = 5, .first_k = 2}, true},
};

std::vector<std::int64_t> documents_in(std::int64_t tokens) {
  std::vector<std::int64_t> starts{0};
  for (const double share : {0.13, 0.2, 0.61, 0.93}) {
    const auto start = static_cast<std::int64_t>(share * static_cast<double>(tokens));
    if (start > starts.back() && start < tokens) starts.push_back(start);
  }
  return starts;
}

struct Bounds {
  double forward, gradients;
};
/// Of the largest magnitude: the same at any number of devices.
Bounds bounds_of(DType dtype) {
  return dtype == DType::f32 ? Bounds{2e-6, 1e-5} : Bounds{std::ldexp(1.0, -8), std::ldexp(1.0, -7)};
}

void expect_close(const RingResult& ring, const RingResult& expected, DType dtype) {
  const Bounds bounds = bounds_of(dtype);
  EXPECT_LE(relative_to_largest(ring.out, expected.out), bounds.forward);
  EXPECT_LE(relative_to_largest(ring.dq, expected.dq), bounds.gradients);
  EXPECT_LE(relative_to_largest(ring.dk, expected.dk), bounds.gradients);
  EXPECT_LE(relative_to_largest(ring.dv, expected.dv), bounds.gradients);
}

class RingMatrix : public testing::TestWithParam<int> {};

TEST_P(RingMatrix, EveryRingEqualsTheReference) {
  const NamedMask& named = kMasks[GetParam()];
  int runs = 0;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    // 72 divides evenly by 1...9 devices (and by 2 P for most), 61 by none, 5 leaves devices empty, 0 all of
    // them.
    for (const std::int64_t tokens : {72, 61, 5, 0}) {
      RingProblem problem{.tokens = tokens, .mask = named.mask};
      problem.shape = {.q_heads = 4, .kv_heads = 2, .qk_dim = 12, .v_dim = 8, .dtype = dtype};
      if (named.documents && tokens > 0) problem.document_starts = documents_in(tokens);
      const RingResult expected = run_reference(problem);
      for (int devices = 1; devices <= 9; ++devices) {
        for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
          SCOPED_TRACE(testing::Message() << named.name << " " << name_of(dtype) << " " << tokens
                                          << " tokens, " << devices << " devices, " << name_of(layout));
          // Alternate the exchange so that both see every mask and layout; equal bits are another test's
          // business.
          const Exchange exchange = runs++ % 2 == 0 ? Exchange::copy : Exchange::share;
          expect_close(run_on_ring(problem, {.devices = devices, .layout = layout, .exchange = exchange}),
                       expected, dtype);
          if (layout == Layout::striped) continue;
          std::vector<double> weights;  // uneven by choice, every third device without tokens
          for (int device = 0; device < devices; ++device)
            weights.push_back(device % 3 == 1 ? 0 : 1 + device % 4);
          expect_close(run_on_ring(problem, {.devices = devices, .layout = layout, .weights = weights}),
                       expected, dtype);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Masks, RingMatrix, testing::Range(0, static_cast<int>(std::size(kMasks))),
                         [](const auto& test) { return std::string(kMasks[test.param].name); });

// A sample of the matrix at length 2,048 and real head sizes.
TEST(RingLong, SampleAt2048) {
  struct Sample {
    int mask, devices;
    Layout layout;
    AttentionShape shape;
  };
  const Sample samples[] = {
      {0, 3, Layout::contiguous, {.q_heads = 2, .kv_heads = 1, .qk_dim = 64, .v_dim = 64}},
      {1, 8, Layout::zigzag, {.q_heads = 2, .kv_heads = 1, .qk_dim = 64, .v_dim = 64}},
      {1, 5, Layout::striped, {.q_heads = 1, .kv_heads = 1, .qk_dim = 128, .v_dim = 96}},
      {8, 9, Layout::zigzag, {.q_heads = 2, .kv_heads = 2, .qk_dim = 64, .v_dim = 32}},
      {6, 4, Layout::striped, {.q_heads = 2, .kv_heads = 1, .qk_dim = 256, .v_dim = 256}},
  };
  for (const Sample& sample : samples) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      RingProblem problem{.tokens = 2048, .mask = kMasks[sample.mask].mask, .shape = sample.shape};
      problem.shape.dtype = dtype;
      if (problem.mask.window > 0) problem.mask.window *= 40;
      if (kMasks[sample.mask].documents) problem.document_starts = documents_in(problem.tokens);
      const RingResult expected = run_reference(problem);
      const RingResult one = run_on_ring(problem, {.devices = 1, .layout = sample.layout});
      const RingResult ring = run_on_ring(problem, {.devices = sample.devices, .layout = sample.layout});
      SCOPED_TRACE(testing::Message() << kMasks[sample.mask].name << " " << name_of(dtype) << " "
                                      << sample.devices << " devices, " << name_of(sample.layout));
      expect_close(ring, expected, dtype);
      std::printf(
          "%-26s %-8s %d devices: forward %.2g (one device %.2g), dq %.2g (%.2g), dk %.2g (%.2g), dv %.2g\n",
          kMasks[sample.mask].name, name_of(dtype), sample.devices,
          relative_to_largest(ring.out, expected.out), relative_to_largest(one.out, expected.out),
          relative_to_largest(ring.dq, expected.dq), relative_to_largest(one.dq, expected.dq),
          relative_to_largest(ring.dk, expected.dk), relative_to_largest(one.dk, expected.dk),
          relative_to_largest(ring.dv, expected.dv));
    }
  }
}

// bfloat16 must not lean to one side: the mean error stays far below the rounding of one element.
TEST(RingLong, Bfloat16IsUnbiased) {
  RingProblem problem{.tokens = 1024, .mask = {.causal = true}};
  problem.shape = {.q_heads = 2, .kv_heads = 2, .qk_dim = 64, .v_dim = 64, .dtype = DType::bf16};
  const RingResult expected = run_reference(problem);
  const RingResult ring = run_on_ring(problem, {.devices = 4, .layout = Layout::zigzag});
  double error_along = 0, size = 0;  // a systematic factor shows as error in the direction of the result
  for (std::size_t n = 0; n < expected.out.size(); ++n) {
    error_along += (ring.out[n] - expected.out[n]) * expected.out[n];
    size += expected.out[n] * expected.out[n];
  }
  // Independent roundings of relative size 2^-9 average to about 2^-9 / sqrt(131072) = 5e-6.
  EXPECT_LE(std::abs(error_along / size), 5e-5);
}

}  // namespace
}  // namespace rondo::test
