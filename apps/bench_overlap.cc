// rondo bench overlap.

#include "bench/overlap.h"

#include "apps/bench_options.h"
#include "rondo/core/error.h"

namespace rondo::apps {

namespace {

struct Arguments {
  BenchArguments common;
  HeadLists heads;
  std::string pass = "forward,backward", tokens = "4096", mask = "none", layout = "zigzag";
  int devices = 1;
};

int run(const Arguments& a) {
  const auto tokens = bench::parse_integers("--tokens", a.tokens, 1, kMostContext);
  const auto masks = bench::parse_masks("--mask", a.mask);
  const auto passes = bench::parse_passes("--pass", a.pass);
  const auto layouts = bench::parse_layouts("--layout", a.layout);
  const auto shapes = a.heads.shapes();
  const auto threads = a.common.threads();
  const auto isas = a.common.isas();
  const auto dtypes = a.common.dtypes();
  const std::shared_ptr<Processes> processes = join_processes();
  RowPrinter printer = a.common.printer();
  for (const Isa isa : isas)
    for (const std::int64_t threads_of_device : threads)
      for (const DType dtype : dtypes)
        for (const HeadShape& shape : shapes)
          for (const Layout layout : layouts)
            for (const Mask& mask : masks)
              for (const std::int64_t count : tokens)
                for (const bench::Pass pass : passes) {
                  bench::AttentionCase what{.dtype = dtype,
                                            .head_dim = shape.head_dim,
                                            .heads = shape.heads,
                                            .kv_heads = shape.kv_heads,
                                            .mask = mask,
                                            .layout = layout,
                                            .ring = {.devices = a.devices,
                                                     .threads = static_cast<int>(threads_of_device),
                                                     .isa = isa,
                                                     .processes = processes}};
                  what.ctx = count * what.ring.devices_in_all();
                  const bench::Row row = bench::bench_overlap(what, pass, a.common.measure());
                  if (what.ring.leads()) printer.print(row);
                }
  return 0;
}

}  // namespace

Benchmark add_overlap_benchmark(CLI::App& bench) {
  auto a = std::make_shared<Arguments>();
  CLI::App* parser = bench.add_subcommand(
      "overlap", "How much of the exchange between processes hides behind attention; under mpirun or srun");
  add_list(*parser, "--pass", a->pass, "Passes to time: forward, backward");
  add_list(*parser, "--tokens", a->tokens, "Tokens of each device");
  add_list(*parser, "--mask", a->mask,
           "none, causal, or window:N for N tokens back, the token itself included");
  add_list(*parser, "--layout", a->layout,
           "Which token lives on which device: contiguous, striped or zigzag");
  add(*parser, "--devices", a->devices, "Devices of each process")->check(between(1, 1024));
  a->heads.add_to(*parser);
  a->common.add_to(*parser);
  return {parser, [a] { return run(*a); }};
}

}  // namespace rondo::apps
