// What holds for a ring beyond being right: equal bits however it is run, counted hops, named errors.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <thread>

#include "rondo/attention/gradient_lane.h"
#include "rondo/comm/device_group.h"
#include "tests/support/memory_processes.h"
#include "tests/support/ring_case.h"

namespace rondo::test {
namespace {

RingProblem small_problem() {
  RingProblem problem{.tokens = 150, .mask = {.causal = true}};
  problem.shape = {.q_heads = 4, .kv_heads = 2, .qk_dim = 16, .v_dim = 8};
  return problem;
}

void expect_same_bits(const RingResult& a, const RingResult& b) {
  EXPECT_EQ(a.out, b.out);
  EXPECT_EQ(a.dq, b.dq);
  EXPECT_EQ(a.dk, b.dk);
  EXPECT_EQ(a.dv, b.dv);
}

TEST(Ring, AgreesWithTheReferenceOnASample) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    RingProblem problem = small_problem();
    problem.shape.dtype = dtype;
    const RingResult expected = run_reference(problem);
    for (const int devices : {1, 2, 5}) {
      for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
        SCOPED_TRACE(testing::Message() << devices << " " << name_of(layout) << " " << name_of(dtype));
        const RingResult ring = run_on_ring(problem, {.devices = devices, .layout = layout});
        EXPECT_LE(relative_to_largest(ring.out, expected.out), dtype == DType::f32 ? 2e-6 : 0x1p-8);
        EXPECT_LE(relative_to_largest(ring.dq, expected.dq), dtype == DType::f32 ? 1e-5 : 0x1p-7);
        EXPECT_LE(relative_to_largest(ring.dk, expected.dk), dtype == DType::f32 ? 1e-5 : 0x1p-7);
        EXPECT_LE(relative_to_largest(ring.dv, expected.dv), dtype == DType::f32 ? 1e-5 : 0x1p-7);
      }
    }
  }
}

TEST(Ring, BitsDoNotDependOnExchangeThreadsOrMemory) {
  RingProblem problem = small_problem();
  problem.mask = {.causal = true, .window = 31, .first_k = 2};
  problem.document_starts = {0, 40};
  for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
    const RingResult base = run_on_ring(problem, {.devices = 4, .layout = layout});
    expect_same_bits(base, run_on_ring(problem, {.devices = 4, .layout = layout}));
    expect_same_bits(base,
                     run_on_ring(problem, {.devices = 4, .layout = layout, .exchange = Exchange::share}));
    expect_same_bits(base, run_on_ring(problem, {.devices = 4, .layout = layout, .lend_memory = true}));
    expect_same_bits(base, run_on_ring(problem, {.devices = 4, .layout = layout, .reuse_memory = true}));
    expect_same_bits(base, run_on_ring(problem, {.devices = 4, .layout = layout, .strided = true}));
    for (const int threads : {2, 3})
      expect_same_bits(base, run_on_ring(problem, {.devices = 4, .layout = layout, .threads = threads}));
  }
}

/// The ring's devices divided over processes.
RingResult run_on_processes(const RingProblem& problem, const RingRun& run, int processes) {
  MemoryNetwork network;
  std::vector<RingResult> parts(static_cast<std::size_t>(processes));
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < processes; ++rank)
      threads.emplace_back([&, rank, part = run]() mutable {
        part.processes = std::make_shared<MemoryProcesses>(network, rank, processes);
        parts[static_cast<std::size_t>(rank)] = run_on_ring(problem, part);
      });
  }
  const auto add = [](std::vector<double>& sum, const std::vector<double>& term) {
    std::transform(sum.begin(), sum.end(), term.begin(), sum.begin(), std::plus());
  };
  for (std::size_t p = 1; p < parts.size(); ++p) {
    add(parts[0].out, parts[p].out);
    add(parts[0].dq, parts[p].dq);
    add(parts[0].dk, parts[p].dk);
    add(parts[0].dv, parts[p].dv);
    std::transform(parts[0].exchange_bytes.begin(), parts[0].exchange_bytes.end(),
                   parts[p].exchange_bytes.begin(), parts[0].exchange_bytes.begin(), std::plus());
    parts[0].kv_hops += parts[p].kv_hops;
    parts[0].gradient_hops += parts[p].gradient_hops;
  }
  return parts[0];
}

TEST(Ring, LargeBlocksGradientsGoHomeInParts) {
  // Shards of more than one part; a window that ends in the second shard, where blocks travel both ways and
  // not equally far, and a full ring.
  ASSERT_EQ(gradient_parts(1100).size(), 2u);
  for (const std::int64_t window : {std::int64_t{0}, std::int64_t{1300}}) {
    RingProblem problem{.tokens = 3300, .mask = {.causal = true, .window = window}};
    problem.shape = {.q_heads = 2, .kv_heads = 1, .qk_dim = 4, .v_dim = 4};
    const RingResult one = run_on_ring(problem, {.devices = 1});
    for (const Layout layout : {Layout::contiguous, Layout::zigzag}) {
      const RingRun run{.devices = 3, .layout = layout};
      const RingResult ring = run_on_ring(problem, run);
      EXPECT_LE(relative_to_largest(ring.dq, one.dq), 1e-5);
      EXPECT_LE(relative_to_largest(ring.dk, one.dk), 1e-5);
      EXPECT_LE(relative_to_largest(ring.dv, one.dv), 1e-5);
      expect_same_bits(ring, run_on_processes(problem, run, 3));
      RingRun shared = run;
      shared.exchange = Exchange::share;
      expect_same_bits(ring, run_on_ring(problem, shared));
    }
  }
}

/// Exchange::share where some neighbours are of one process and others are not.
TEST(Ring, ViewsWithinProcessesHaveTheBitsOfCopies) {
  struct Division {
    int processes, devices;
  };
  RingProblem full = small_problem(), local = small_problem(), both_ways = small_problem();
  local.mask = {.causal = true, .window = 31, .first_k = 2};
  local.document_starts = {0, 40};
  both_ways.mask = {.causal = false, .window = 40};
  for (const Division& division : {Division{2, 2}, {3, 2}, {2, 3}, {2, 1}}) {
    for (const RingProblem* problem : {&full, &local, &both_ways}) {
      for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
        SCOPED_TRACE(testing::Message() << division.processes << "x" << division.devices << " "
                                        << name_of(layout) << " " << problem->mask.window);
        RingRun run{.devices = division.processes * division.devices, .layout = layout};
        const RingResult base = run_on_ring(*problem, run);
        run.exchange = Exchange::share;
        for (const auto& [lends, reuses] : {std::pair(false, false), {true, false}, {false, true}}) {
          run.lend_memory = lends, run.reuse_memory = reuses;
          const RingResult shared = run_on_processes(*problem, run, division.processes);
          expect_same_bits(base, shared);
          EXPECT_EQ(base.kv_hops, shared.kv_hops);
          EXPECT_EQ(base.gradient_hops, shared.gradient_hops);
        }
      }
    }
  }
}

/// Only what comes from another process takes memory: the first device of a process holds a block until the
/// last one has read it, and the others, which read it there, hold none. Likewise the sums of gradients.
TEST(Ring, MemoryToArriveInIsWhereAProcessBegins) {
  RingProblem problem{.tokens = 6 * 64, .mask = {.causal = true}};
  problem.shape = {.q_heads = 2, .kv_heads = 2, .qk_dim = 16, .v_dim = 16};  // none of it fits into the state
  const std::int64_t block = 2 * 64 * 2 * 16 * 4, gradients = block;
  for (const int processes : {1, 2, 3, 6}) {
    for (const Exchange exchange : {Exchange::copy, Exchange::share}) {
      RingRun run{.devices = 6, .layout = Layout::striped, .exchange = exchange, .lend_memory = true};
      const RingResult result =
          processes == 1 ? run_on_ring(problem, run) : run_on_processes(problem, run, processes);
      const int own = run.devices / processes;
      for (int device = 0; device < run.devices; ++device) {
        const bool arrives = processes > 1 && device % own == 0;
        const int blocks = exchange == Exchange::copy ? 1 : arrives ? own : 0;
        EXPECT_EQ(result.exchange_bytes[static_cast<std::size_t>(device)],
                  blocks * block + (arrives ? 3 : 2) * gradients)
            << name_of(exchange) << ", device " << device << ", " << processes << " processes";
      }
    }
  }
}

/// Keys and values arrive in the memory of the device's own, gradients in what backward has no more use for:
/// the same for every ring.
TEST(Ring, WhatTravelsTakesIdleMemoryFirst) {
  for (const int devices : {2, 3, 4, 8}) {
    for (const std::int64_t group : {1, 2}) {
      RingProblem problem{.tokens = devices * 64, .mask = {.causal = true}};
      problem.shape = {.q_heads = 4 * group, .kv_heads = 4, .qk_dim = 16, .v_dim = 16};
      const std::int64_t half = 64 * 4 * 16 * 4;  // keys, or values
      for (const int processes : {1, devices}) {
        const RingRun run{.devices = devices, .layout = Layout::striped, .reuse_memory = true};
        const RingResult result =
            processes == 1 ? run_on_ring(problem, run) : run_on_processes(problem, run, processes);
        // For each query head's worth of keys the state and the output have one half; the wide tensor has
        // two.
        const std::int64_t halves = 2 * group + 2,
                           pairs = std::max<std::int64_t>(0, (processes == 1 ? 2 : 3) - halves / 2);
        for (const std::int64_t bytes : result.exchange_bytes)
          EXPECT_EQ(bytes, 2 * half + pairs * 2 * half) << devices << " in " << processes << ", " << group;
      }
    }
  }
}

TEST(Ring, BitsDoNotDependOnProcesses) {
  RingProblem problem = small_problem();
  problem.mask = {.causal = true, .window = 31, .first_k = 2};
  problem.document_starts = {0, 40};
  for (const bool masked : {false, true}) {
    for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
      const RingProblem& asked = masked ? problem : small_problem();
      const RingRun run{.devices = 4, .layout = layout};
      const RingResult base = run_on_ring(asked, run);
      for (const int processes : {2, 4})
        for (const bool reuses : {false, true}) {
          RingRun divided_run = run;
          divided_run.reuse_memory = reuses;
          const RingResult divided = run_on_processes(asked, divided_run, processes);
          expect_same_bits(base, divided);
          EXPECT_EQ(base.kv_hops, divided.kv_hops);
          EXPECT_EQ(base.gradient_hops, divided.gradient_hops);
        }
    }
  }
}

/// Sums that come home from both directions, from one of them a distance later: whichever arrives first, the
/// order in which they are added is one.
TEST(Ring, BitsDoNotDependOnWhichSumComesHomeFirst) {
  RingProblem problem = small_problem();
  problem.mask = {.causal = false, .window = 40};
  const RingRun run{.devices = 6, .layout = Layout::contiguous};
  const SequencePlan plan{.tokens = problem.tokens, .devices = run.devices, .layout = run.layout};
  const Schedule::Reach reach = make_schedule(plan, problem.mask, 0).reach[1];
  ASSERT_EQ(reach.down, 2);
  ASSERT_EQ(reach.up, 1);
  const RingResult base = run_on_ring(problem, run);
  for (const int processes : {2, 3, 6}) expect_same_bits(base, run_on_processes(problem, run, processes));
}

TEST(Ring, SoftcapAndDropoutAreTheSameOnEveryRing) {
  RingProblem problem = small_problem();
  problem.softcap = 2;
  problem.dropout = 0.3f;
  problem.document_starts = {0, 70};
  const RingResult expected = run_reference(problem);
  for (const int devices : {1, 3, 4}) {
    for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
      SCOPED_TRACE(testing::Message() << devices << " " << name_of(layout));
      const RingResult ring = run_on_ring(problem, {.devices = devices, .layout = layout});
      EXPECT_LE(relative_to_largest(ring.out, expected.out), 2e-6);
      EXPECT_LE(relative_to_largest(ring.dq, expected.dq), 1e-5);
      EXPECT_LE(relative_to_largest(ring.dk, expected.dk), 1e-5);
      EXPECT_LE(relative_to_largest(ring.dv, expected.dv), 1e-5);
    }
  }
}

TEST(Ring, HeadSizesAndGroups) {
  for (const AttentionShape& shape : {AttentionShape{.q_heads = 8, .kv_heads = 1, .qk_dim = 4, .v_dim = 4},
                                      {.q_heads = 3, .kv_heads = 3, .qk_dim = 33, .v_dim = 65},
                                      {.q_heads = 2, .kv_heads = 1, .qk_dim = 256, .v_dim = 128}}) {
    RingProblem problem{.tokens = 70, .mask = {.causal = true}, .shape = shape};
    const RingResult expected = run_reference(problem);
    const RingResult ring = run_on_ring(problem, {.devices = 3, .layout = Layout::zigzag});
    EXPECT_LE(relative_to_largest(ring.out, expected.out), 2e-6);
    EXPECT_LE(relative_to_largest(ring.dq, expected.dq), 1e-5);
    EXPECT_LE(relative_to_largest(ring.dk, expected.dk), 1e-5);
    EXPECT_LE(relative_to_largest(ring.dv, expected.dv), 1e-5);
  }
}

TEST(Ring, FullRingMakesTheLeastHops) {
  RingProblem problem = small_problem();
  problem.mask = {.causal = false};
  for (const int devices : {1, 2, 3, 6}) {
    const RingResult ring = run_on_ring(problem, {.devices = devices, .layout = Layout::striped});
    // Each device receives P-1 blocks forward and P-1 backward, and P-1 gradient sums (its own, from the last
    // device, among them; a device's own share never leaves it, which saves the P-th exchange).
    EXPECT_EQ(ring.kv_hops, 2 * devices * (devices - 1));
    EXPECT_EQ(ring.gradient_hops, devices * (devices - 1));
  }
}

TEST(Ring, HopsThatNobodyNeedsAreNotMade) {
  RingProblem problem = small_problem();
  problem.tokens = 160;
  // Contiguous causal: block b is needed by the devices after it alone: 3 + 2 + 1 hops on four devices.
  RingResult ring = run_on_ring(problem, {.devices = 4, .layout = Layout::contiguous});
  EXPECT_EQ(ring.kv_hops, 2 * 6);
  EXPECT_EQ(ring.gradient_hops, 6);  // 2 + 1 on the way, and one home for each of three blocks
  // A window within a shard: a halo of one neighbour.
  problem.mask = {.causal = true, .window = 20};
  ring = run_on_ring(problem, {.devices = 4, .layout = Layout::contiguous});
  EXPECT_EQ(ring.kv_hops, 2 * 3);
  EXPECT_EQ(ring.gradient_hops, 3);
  // Zigzag uses both directions, one hop each.
  ring = run_on_ring(problem, {.devices = 4, .layout = Layout::zigzag});
  EXPECT_LE(ring.kv_hops, 2 * 8);
  // Documents that live on one device travel nowhere.
  problem.mask = {.causal = true};
  problem.document_starts = {0, 40, 80, 120};
  ring = run_on_ring(problem, {.devices = 4, .layout = Layout::contiguous});
  EXPECT_EQ(ring.kv_hops, 0);
  EXPECT_EQ(ring.gradient_hops, 0);
}

TEST(Ring, WrongShapesAreNamed) {
  EXPECT_THROW(run_ring({.devices = 1},
                        [](Context& context, Communicator& communicator) {
                          RingAttention(context, communicator,
                                        {.q_heads = 3, .kv_heads = 2, .qk_dim = 8, .v_dim = 8},
                                        Exchange::copy);
                        }),
               ArgumentError);
  EXPECT_THROW(run_ring({.devices = 2},
                        [](Context& context, Communicator& communicator) {
                          RingAttention ring(context, communicator,
                                             {.q_heads = 2, .kv_heads = 2, .qk_dim = 8, .v_dim = 8},
                                             Exchange::copy);
                          ring.prepare({.tokens = 8, .devices = 2}, {});
                          ring.forward({});
                        }),
               ArgumentError);
}

/// Two pairs of gradients travel; what fits of them into the attention state costs no memory of its own.
TEST(Ring, GradientsTravelInTheStateAsFarAsItHoldsThem) {
  constexpr std::int64_t tokens = 512, devices = 4, shard = tokens / devices, dim = 16;
  for (const std::int64_t group : {1, 2, 3, 4}) {
    const AttentionShape shape{.q_heads = 2 * group, .kv_heads = 2, .qk_dim = dim, .v_dim = dim};
    run_ring({.devices = devices}, [&](Context& context, Communicator& communicator) {
      RingAttention ring(context, communicator, shape, Exchange::share);
      ring.prepare({.tokens = tokens, .devices = devices, .layout = Layout::striped}, {.causal = true});
      EXPECT_EQ(context.ledger.peak(Entry::exchange), 0) << "before anything goes backward";
      std::vector<float> q(shard * 2 * group * dim), k(shard * 2 * dim), dq(q), dk(k), dv(k),
          lse(shard * 2 * group);
      const Tensor queries = view(q.data(), DType::f32, shard, 2 * group, dim);
      const Tensor keys = view(k.data(), DType::f32, shard, 2, dim);
      ring.backward({.q_THD = queries,
                     .k_TGD = keys,
                     .v_TGE = keys,
                     .out_THE = queries,
                     .dout_THE = queries,
                     .lse_HT = lse.data(),
                     .dq_THD = view(dq.data(), DType::f32, shard, 2 * group, dim),
                     .dk_TGD = view(dk.data(), DType::f32, shard, 2, dim),
                     .dv_TGE = view(dv.data(), DType::f32, shard, 2, dim)});
      const std::int64_t in_state = std::min<std::int64_t>(group / 2, 2);
      EXPECT_EQ(context.ledger.peak(Entry::exchange), (2 - in_state) * shard * 2 * 2 * dim * 4) << group;
    });
  }
}

/// A sequence whose documents stay where they are makes room for the next one's, which may not.
TEST(Ring, LongerDocumentsTakeNoMoreMemory) {
  constexpr int devices = 4;
  for (const Exchange exchange : {Exchange::copy, Exchange::share}) {
    run_ring({.devices = devices}, [&](Context& context, Communicator& communicator) {
      RingAttention ring(context, communicator, {.q_heads = 2, .kv_heads = 2, .qk_dim = 16, .v_dim = 16},
                         exchange);
      SequencePlan plan{.tokens = 512,
                        .devices = devices,
                        .layout = Layout::contiguous,
                        .document_starts = {0, 128, 256, 384}};
      ring.prepare(plan, {.causal = true});
      const std::int64_t allocations = context.ledger.allocations();
      plan.document_starts = {};
      ring.prepare(plan, {.causal = true});
      EXPECT_EQ(context.ledger.allocations(), allocations) << name_of(exchange);
    });
  }
}

/// Shards, and with them the pool and the state, that grew and shrank; a device whose shard is too small for
/// the others' gradients, and one with none.
TEST(Ring, BitsDoNotDependOnWhatWasPreparedBefore) {
  for (const Mask& mask : {Mask{.causal = true}, {.causal = false, .window = 60}}) {
    for (const std::int64_t group : {1, 2, 4}) {
      RingProblem problem{.tokens = 240, .mask = mask};
      problem.shape = {.q_heads = 2 * group, .kv_heads = 2, .qk_dim = 12, .v_dim = 20};
      for (const std::vector<double>& weights : {std::vector<double>{}, {5, 1, 0, 2}}) {
        RingRun run{.devices = 4, .layout = Layout::zigzag, .weights = weights};
        const RingResult fresh = run_on_ring(problem, run);
        const RingResult expected = run_reference(problem);
        EXPECT_LE(relative_to_largest(fresh.dk, expected.dk), 1e-5);
        EXPECT_LE(relative_to_largest(fresh.dv, expected.dv), 1e-5);
        for (const auto& earlier : {std::vector<std::int64_t>{30}, {500}, {0, 500, 30}}) {
          run.earlier_tokens = earlier;
          expect_same_bits(fresh, run_on_ring(problem, run));
        }
      }
    }
  }
}

TEST(Ring, RepeatedCallsAllocateNothing) {
  run_ring({.devices = 4}, [](Context& context, Communicator& communicator) {
    const AttentionShape shape{.q_heads = 2, .kv_heads = 1, .qk_dim = 16, .v_dim = 16};
    RingAttention ring(context, communicator, shape, Exchange::copy);
    ring.prepare({.tokens = 256, .devices = 4, .layout = Layout::zigzag}, {.causal = true});
    const Buffer memory = context.arena.allocate(Entry::attention, 64 * 16 * 4 * 8, "test");
    const Tensor q = memory.tensor(DType::f32, 64, 2, 16), k = memory.tensor(DType::f32, 64, 1, 16);
    std::int64_t after_first = 0;
    for (int call = 0; call < 4; ++call) {
      std::vector<float> lse(128);
      Tensor out = q;
      out.data = memory.as<float>() + 64 * 32;
      ring.forward({.q_THD = q, .k_TGD = k, .v_TGE = k, .out_THE = out, .lse_HT = lse.data()});
      if (call == 0) after_first = context.ledger.allocations();
      EXPECT_EQ(context.ledger.allocations(), after_first);
    }
  });
}

}  // namespace
}  // namespace rondo::test
