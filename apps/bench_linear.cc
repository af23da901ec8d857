// rondo bench linear.

#include "bench/linear.h"

#include "apps/bench_options.h"
#include "rondo/core/error.h"

namespace rondo::apps {

namespace {

struct Arguments {
  BenchArguments common;
  std::string pass = "forward,dx,dw", m = "2048", n = "2048", k = "2048", weights = "packed";
};

int run(const Arguments& a) {
  std::vector<std::pair<bench::LinearCase, bench::LinearPass>> planned;
  const auto passes = bench::parse_linear_passes("--pass", a.pass);
  const auto extents = [](const char* option, const std::string& text) {
    return bench::parse_integers(option, text, 1, kMostExtent);
  };
  std::vector<bool> packed;
  for (const std::string& word : bench::parse_list("--weights", a.weights)) {
    check_argument(word == "packed" || word == "plain", "bench",
                   "--weights: expected packed or plain, got '{}'", word);
    packed.push_back(word == "packed");
  }
  const auto threads = a.common.threads();
  const auto dtypes = a.common.dtypes();
  for (const Isa isa : a.common.isas())
    for (const std::int64_t count : threads)
      for (const DType dtype : dtypes)
        for (const std::int64_t m : extents("--m", a.m))
          for (const std::int64_t n : extents("--n", a.n))
            for (const std::int64_t k : extents("--k", a.k))
              for (const bool pack : packed)
                for (const bench::LinearPass pass : passes)
                  planned.push_back({{dtype, m, n, k, pack, static_cast<int>(count), isa}, pass});
  RowPrinter printer = a.common.printer();
  for (const auto& [what, pass] : planned) printer.print(bench::bench_linear(what, pass, a.common.measure()));
  return 0;
}

}  // namespace

Benchmark add_linear_benchmark(CLI::App& bench) {
  auto a = std::make_shared<Arguments>();
  CLI::App* parser = bench.add_subcommand("linear", "The products of a linear layer, a share of the peak");
  add_list(*parser, "--pass", a->pass,
           "Products to time: forward, dx, dw, backward for dx and dw, or both for all three");
  add_list(*parser, "--m", a->m, "Tokens");
  add_list(*parser, "--n", a->n, "Outputs of a token");
  add_list(*parser, "--k", a->k, "Inputs of a token");
  add_list(*parser, "--weights", a->weights,
           "packed once before the runs, as a training step does, or plain, as they are stored");
  a->common.add_to(*parser);
  return {parser, [a] { return run(*a); }};
}

}  // namespace rondo::apps
