// rondo bench: how near the kernels come to what the processor can do.

#include "apps/bench_options.h"
#include "apps/commands.h"

namespace rondo::apps {

Run add_bench_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "Verify and time the kernels against the machine's peak");
  command->require_subcommand(1);
  std::vector<Benchmark> benchmarks;
  for (const auto add_benchmark :
       {add_attention_benchmark, add_linear_benchmark, add_step_benchmark, add_ring_benchmark,
        add_decode_benchmark, add_exchange_benchmark, add_overlap_benchmark})
    benchmarks.push_back(add_benchmark(*command));
  return [benchmarks] {
    for (const Benchmark& benchmark : benchmarks)
      if (benchmark.parser->parsed()) return benchmark.run();
    return 2;
  };
}

}  // namespace rondo::apps
