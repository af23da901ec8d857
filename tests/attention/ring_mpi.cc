// Ring attention over processes that mpirun started.

#include "tests/support/launched.h"
#include "tests/support/ring_case.h"

namespace rondo::test {
namespace {

// GoogleTest owns it.
const auto* const launched = static_cast<Launched*>(testing::AddGlobalTestEnvironment(new Launched));

TEST(RingOverMpi, HasTheBitsOfThreads) {
  const RingOptions ring = launched->ring();
  RingProblem problem{.tokens = 150, .mask = {.causal = true}};
  problem.shape = {.q_heads = 4, .kv_heads = 2, .qk_dim = 16, .v_dim = 8};
  for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
    RingRun run{.devices = ring.devices_in_all(), .layout = layout};
    const RingResult expected = run_on_ring(problem, run);
    run.processes = ring.processes;
    for (const Exchange exchange : {Exchange::copy, Exchange::share}) {
      run.exchange = exchange;
      RingResult result = run_on_ring(problem, run);
      // Each process has the results of its tokens, and zeros.
      run_ring({.timeout = ring.timeout, .processes = ring.processes}, [&](Context&, Communicator& comm) {
        for (std::vector<double>* values : {&result.out, &result.dq, &result.dk, &result.dv})
          comm.all_reduce_sum(std::span(*values));
      });
      EXPECT_EQ(result.out, expected.out);
      EXPECT_EQ(result.dq, expected.dq);
      EXPECT_EQ(result.dk, expected.dk);
      EXPECT_EQ(result.dv, expected.dv);
    }
  }
}

}  // namespace
}  // namespace rondo::test
