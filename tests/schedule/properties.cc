// Random plans and masks against the definitions.

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "tests/schedule/brute_force.h"

namespace rondo::test {
namespace {

SequencePlan random_plan() {
  SequencePlan plan;
  plan.tokens = *rc::gen::inRange<std::int64_t>(0, 60);
  plan.devices = *rc::gen::inRange(1, 10);
  plan.layout = *rc::gen::element(Layout::contiguous, Layout::striped, Layout::zigzag);
  if (plan.tokens > 0 && *rc::gen::arbitrary<bool>()) {
    auto starts = *rc::gen::container<std::set<std::int64_t>>(rc::gen::inRange<std::int64_t>(0, plan.tokens));
    starts.insert(0);
    plan.document_starts.assign(starts.begin(), starts.end());
  }
  if (plan.layout != Layout::striped && *rc::gen::arbitrary<bool>()) {
    for (int r = 0; r < plan.devices; ++r) plan.weights.push_back(*rc::gen::inRange(0, 8) / 3.0);
    plan.weights[static_cast<std::size_t>(*rc::gen::inRange(0, plan.devices))] += 1;
  }
  return plan;
}

Mask random_mask() {
  return {.causal = *rc::gen::arbitrary<bool>(),
          .window = *rc::gen::inRange<std::int64_t>(0, 30),
          .first_k = *rc::gen::inRange<std::int64_t>(0, 12)};
}

RC_GTEST_PROP(Schedule, ComputesEveryVisiblePairOnce, ()) {
  const SequencePlan plan = random_plan();
  for (int n = 0; n < 5; ++n) RC_ASSERT(find_fault(plan, random_mask()) == "");
}

}  // namespace
}  // namespace rondo::test
