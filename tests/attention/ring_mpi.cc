// Ring attention over processes that mpirun started: every kind of mask, layout and shard has the bits that
// it has over as many threads, which other tests hold against the reference.

#include "tests/support/launched.h"
#include "tests/support/ring_case.h"

namespace rondo::test {
namespace {

// GoogleTest owns it.
const auto* const launched = static_cast<Launched*>(testing::AddGlobalTestEnvironment(new Launched));

/// Each process has the results of its own tokens, and zeros: the sum has all of them.
RingResult whole(RingResult result, const RingOptions& ring) {
  run_ring({.timeout = ring.timeout, .processes = ring.processes}, [&](Context&, Communicator& comm) {
    for (std::vector<double>* values : {&result.out, &result.dq, &result.dk, &result.dv})
      comm.all_reduce_sum(std::span(*values));
    std::vector<double> hops{static_cast<double>(result.kv_hops), static_cast<double>(result.gradient_hops)};
    comm.all_reduce_sum(std::span(hops));
    result.kv_hops = static_cast<std::int64_t>(hops[0]);
    result.gradient_hops = static_cast<std::int64_t>(hops[1]);
  });
  return result;
}

/// The same problem over the launched processes, by both kinds of exchange.
void expect_bits_of_threads(const RingProblem& problem, RingRun run) {
  const RingOptions ring = launched->ring();
  run.devices = ring.devices_in_all();
  const RingResult expected = run_on_ring(problem, run);
  run.processes = ring.processes;
  for (const Exchange exchange : {Exchange::copy, Exchange::share}) {
    run.exchange = exchange;
    const RingResult result = whole(run_on_ring(problem, run), ring);
    EXPECT_EQ(result.out, expected.out);
    EXPECT_EQ(result.dq, expected.dq);
    EXPECT_EQ(result.dk, expected.dk);
    EXPECT_EQ(result.dv, expected.dv);
    EXPECT_EQ(result.kv_hops, expected.kv_hops);
    EXPECT_EQ(result.gradient_hops, expected.gradient_hops);
  }
}

RingProblem problem_of(std::int64_t tokens, const Mask& mask, DType dtype = DType::f32) {
  RingProblem problem{.tokens = tokens, .mask = mask};
  problem.shape = {.q_heads = 4, .kv_heads = 2, .qk_dim = 16, .v_dim = 8, .dtype = dtype};
  return problem;
}

constexpr Layout kLayouts[] = {Layout::contiguous, Layout::striped, Layout::zigzag};

TEST(RingOverMpi, EveryMaskHasTheBitsOfThreads) {
  const Mask masks[] = {{.causal = false},
                        {.causal = true},
                        {.causal = true, .window = 31},
                        {.causal = false, .window = 40},
                        {.causal = true, .window = 20, .first_k = 3}};
  for (const Mask& mask : masks)
    for (const bool documents : {false, true})
      for (const Layout layout : kLayouts) {
        SCOPED_TRACE(testing::Message()
                     << "causal " << mask.causal << ", window " << mask.window << ", first " << mask.first_k
                     << ", documents " << documents << ", " << name_of(layout));
        RingProblem problem = problem_of(150, mask);
        if (documents) problem.document_starts = {0, 20, 31, 92};
        expect_bits_of_threads(problem, {.layout = layout});
      }
}

/// 5 tokens leave devices empty, 0 all of them; weights give every third device none.
TEST(RingOverMpi, EveryShardAndTypeHasTheBitsOfThreads) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t tokens : {72, 61, 5, 0})
      for (const Layout layout : kLayouts) {
        SCOPED_TRACE(testing::Message()
                     << name_of(dtype) << ", " << tokens << " tokens, " << name_of(layout));
        RingRun run{.layout = layout};
        expect_bits_of_threads(problem_of(tokens, {.causal = true}, dtype), run);
        if (layout == Layout::striped) continue;
        for (int device = 0; device < launched->ring().devices_in_all(); ++device)
          run.weights.push_back(device % 3 == 1 ? 0 : 1 + device % 4);
        expect_bits_of_threads(problem_of(tokens, {.causal = true}, dtype), run);
      }
}

TEST(RingOverMpi, SoftcapAndDropoutHaveTheBitsOfThreads) {
  RingProblem problem = problem_of(150, {.causal = true, .window = 60});
  problem.softcap = 2;
  problem.dropout = 0.3f;
  for (const Layout layout : kLayouts) expect_bits_of_threads(problem, {.layout = layout, .threads = 2});
}

/// Blocks of several pieces, whose gradients go home in parts.
TEST(RingOverMpi, LargeBlocksHaveTheBitsOfThreads) {
  RingProblem problem{.tokens = 1100 * launched->ring().devices_in_all(),
                      .mask = {.causal = true, .window = 1500}};
  problem.shape = {.q_heads = 2, .kv_heads = 2, .qk_dim = 64, .v_dim = 64};
  expect_bits_of_threads(problem, {.layout = Layout::zigzag});
}

}  // namespace
}  // namespace rondo::test
