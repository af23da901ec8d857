// rondo bench attention, rondo bench ring.

#include "bench/attention.h"

#include "apps/bench_options.h"
#include "rondo/core/error.h"

namespace rondo::apps {

namespace {

struct Arguments {
  BenchArguments common;
  HeadLists heads;
  std::string pass = "forward", ctx = "4096", mask = "none", layout = "contiguous", devices = "1",
              exchange = "copy";
  int cpus = 0;

  void add_to(CLI::App& app) {
    add_list(app, "--pass", pass, "Passes to time: forward, backward, or both as one");
    add_list(app, "--ctx", ctx, "Tokens of the whole sequence");
    add_list(app, "--mask", mask, "none, causal, or window:N for N tokens back, the token itself included");
    heads.add_to(app);
    add_list(app, "--devices", devices, "Devices of the ring");
    add_list(app, "--layout", layout, "Which token lives on which device: contiguous, striped or zigzag");
    add_list(app, "--exchange", exchange, "How devices hand over keys and values: copy or share");
    common.add_to(app);
  }
};

/// One row to be: what to run, and the pass.
struct Planned {
  bench::AttentionCase what;
  bench::Pass pass;
};

/// All rings: each number of devices with each of threads, layouts, exchanges and instruction sets.
std::vector<bench::AttentionCase> rings(const Arguments& a) {
  std::vector<bench::AttentionCase> cases;
  for (const Isa isa : a.common.isas())
    for (const std::int64_t devices : bench::parse_integers("--devices", a.devices, 1, 1024))
      for (const std::int64_t threads : a.common.threads())
        for (const Layout layout : bench::parse_layouts("--layout", a.layout))
          for (const Exchange exchange : parse_exchanges(a.exchange))
            cases.push_back({.layout = layout,
                             .exchange = exchange,
                             .ring = {.devices = static_cast<int>(devices),
                                      .threads = static_cast<int>(threads),
                                      .isa = isa}});
  return cases;
}

/// Every combination of the lists.
std::vector<Planned> plan(const Arguments& a) {
  std::vector<Planned> planned;
  const auto dtypes = a.common.dtypes();
  const auto contexts = bench::parse_integers("--ctx", a.ctx, 1, kMostContext);
  const auto masks = bench::parse_masks("--mask", a.mask);
  const auto passes = bench::parse_passes("--pass", a.pass);
  const auto shapes = a.heads.shapes();
  const auto all_rings = rings(a);
  for (const bench::AttentionCase& ring : all_rings)
    for (const DType dtype : dtypes)
      for (const HeadShape& shape : shapes)
        for (const std::int64_t ctx : contexts)
          for (const Mask& mask : masks)
            for (const bench::Pass pass : passes) {
              bench::AttentionCase what = ring;
              what.head_dim = shape.head_dim;
              what.heads = shape.heads;
              what.kv_heads = shape.kv_heads;
              what.dtype = dtype;
              what.ctx = ctx;
              what.mask = mask;
              planned.push_back({what, pass});
            }
  return planned;
}

int run_attention(const Arguments& arguments) {
  const std::vector<Planned> planned = plan(arguments);
  RowPrinter printer = arguments.common.printer();
  for (const auto& [what, pass] : planned)
    printer.print(bench::bench_attention(what, pass, arguments.common.measure()));
  return 0;
}

int run_ring(const Arguments& arguments) {
  const std::vector<Planned> planned = plan(arguments);
  const int available = bench::available_cpus();
  check_argument(arguments.cpus <= available, "bench",
                 "--cpus: expected at most the {} processors that this process may use, got {}", available,
                 arguments.cpus);
  RowPrinter printer = arguments.common.printer();
  for (const auto& [what, pass] : planned)
    for (const bench::Row& row : bench::bench_ring(
             what, pass, arguments.cpus == 0 ? available : arguments.cpus, arguments.common.measure()))
      printer.print(row);
  return 0;
}

}  // namespace

Benchmark add_attention_benchmark(CLI::App& bench) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* parser = bench.add_subcommand("attention", "Attention over one sequence, a share of the peak");
  arguments->add_to(*parser);
  return {parser, [arguments] { return run_attention(*arguments); }};
}

Benchmark add_ring_benchmark(CLI::App& bench) {
  auto arguments = std::make_shared<Arguments>();
  arguments->pass = "both";
  arguments->ctx = "16384";
  arguments->mask = "causal";
  arguments->layout = "zigzag";
  arguments->devices = "4";
  CLI::App* parser = bench.add_subcommand(
      "ring", "The same attention on one device and on a ring, over the same processors");
  arguments->add_to(*parser);
  add(*parser, "--cpus", arguments->cpus,
      "Processors that both are kept on; the one device has a thread for each; 0: all")
      ->check(between(0, 1024));
  return {parser, [arguments] { return run_ring(*arguments); }};
}

}  // namespace rondo::apps
