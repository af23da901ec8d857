// rondo bench step.

#include "bench/step.h"

#include "apps/bench_options.h"
#include "rondo/core/error.h"
#include "rondo/plan/fit.h"
#include "rondo/text/byte_tokenizer.h"

namespace rondo::apps {

namespace {

struct Arguments {
  BenchArguments common;
  HeadLists heads;
  FormLists forms;
  std::string ctx = "8192", layers = "8", width = "512", ffn = "0", mask = "causal", remat = "none",
              devices = "1", layout = "zigzag", exchange = "copy", memory_limit = "0";
  std::int64_t block_tokens = 512;
  bool tied = false;

  void add_to(CLI::App& app) {
    add_list(app, "--ctx", ctx, "Tokens of the one sequence of a step");
    add_list(app, "--layers", layers, "Layers");
    add_list(app, "--width", width, "Width of the residual stream");
    add_list(app, "--ffn", ffn, "Width of the feed-forward part; 0: 8/3 of the width");
    heads.add_to(app);
    add_switch(app, "--tie-embeddings", tied, "The output matrix is the embedding");
    add_list(app, "--mask", mask, "causal, or window:N for N tokens back, the token itself included");
    add_list(app, "--remat", remat,
             "Computed again in the backward pass: all of a layer, all but attention, or none");
    forms.add_to(app);
    add(app, "--block-tokens", block_tokens, "Tokens of a feed-forward and loss block")
        ->check(between<std::int64_t>(1, kMostTokens));
    add_list(app, "--devices", devices, "Devices of the ring");
    add(app, "--memory-limit", memory_limit, "Most bytes a device may hold, such as 512M or 2G; 0: no limit");
    add_list(app, "--layout", layout, "Which token lives on which device: contiguous, striped or zigzag");
    add_list(app, "--exchange", exchange, "How devices hand over keys and values: copy or share");
    common.add_to(app);
  }
};

std::vector<std::int64_t> extents(const char* option, const std::string& text, std::int64_t low) {
  return bench::parse_integers(option, text, low, kMostExtent);
}

/// Every model that the lists describe, checked.
std::vector<ModelConfig> models(const Arguments& a) {
  std::vector<ModelConfig> all;
  const auto masks = bench::parse_masks("--mask", a.mask);
  const auto shapes = a.heads.shapes();
  for (const std::int64_t layers : extents("--layers", a.layers, 1))
    for (const std::int64_t width : extents("--width", a.width, 1))
      for (const std::int64_t ffn : extents("--ffn", a.ffn, 0))
        for (const HeadShape& heads : shapes)
          for (const Mask& mask : masks) {
            check_argument(mask.causal, "bench",
                           "--mask: expected causal or window:N in training, got 'none'");
            ModelConfig config{
                .vocabulary = ByteTokenizer::kVocabulary,
                .width = width,
                .ffn = ffn > 0 ? ffn : std::max<std::int64_t>(32, (width * 8 / 3 + 31) / 32 * 32),
                .layers = layers,
                .q_heads = heads.heads,
                .kv_heads = heads.kv_heads,
                .head_dim = heads.head_dim,
                .tied_embedding = a.tied,
                .sliding_window = mask.window};
            check_config(config, "bench");
            all.push_back(config);
          }
  return all;
}

/// Every way to carry them out.
std::vector<ExecutionOptions> executions(const Arguments& a) {
  std::vector<ExecutionOptions> all;
  const auto remats = bench::parse_list("--remat", a.remat);
  const auto forms = a.forms.forms();
  for (const Isa isa : a.common.isas())
    for (const std::int64_t devices : bench::parse_integers("--devices", a.devices, 1, 1024))
      for (const std::int64_t threads : a.common.threads())
        for (const Layout layout : bench::parse_layouts("--layout", a.layout))
          for (const Exchange exchange : parse_exchanges(a.exchange))
            for (const std::string& remat : remats)
              for (const Forms& form : forms) {
                check_argument(devices == 1 || form.attention == AttentionForm::blockwise, "bench",
                               "--attention: expected vanilla with --devices 1, got a ring of {}", devices);
                all.push_back({.ring = {.devices = static_cast<int>(devices),
                                        .threads = static_cast<int>(threads),
                                        .isa = isa},
                               .layout = layout,
                               .remat = parse_remat(remat),
                               .exchange = exchange,
                               .attention = form.attention,
                               .feed_forward = form.feed_forward,
                               .block_tokens = a.block_tokens});
              }
  return all;
}

RunShape shape_of(const bench::StepCase& what) {
  const ExecutionOptions& execution = what.execution;
  return {.config = what.model,
          .dtype = what.dtype,
          .remat = execution.remat,
          .exchange = execution.exchange,
          .layout = execution.layout,
          .block_tokens = execution.block_tokens,
          .devices = execution.ring.devices,
          .threads = execution.ring.threads,
          .isa = execution.ring.isa};
}

int run(const Arguments& a) {
  std::vector<bench::StepCase> planned;
  const auto contexts = bench::parse_integers("--ctx", a.ctx, 1, kMostContext);
  const auto dtypes = a.common.dtypes();
  const auto all_models = models(a);
  for (const ExecutionOptions& execution : executions(a))
    for (const DType dtype : dtypes)
      for (const ModelConfig& model : all_models)
        for (const std::int64_t ctx : contexts) planned.push_back({model, ctx, dtype, execution});
  RowPrinter printer = a.common.printer();
  const std::int64_t limit = parse_bytes("--memory-limit", a.memory_limit);
  for (bench::StepCase& what : planned) {
    what.execution.ring.memory_limit = limit;
    check_fits("bench", MemoryModel(shape_of(what)), what.ctx, limit);
  }
  for (const bench::StepCase& what : planned) printer.print(bench::bench_step(what, a.common.measure()));
  return 0;
}

}  // namespace

Benchmark add_step_benchmark(CLI::App& bench) {
  auto a = std::make_shared<Arguments>();
  a->heads.heads = "8";
  CLI::App* parser = bench.add_subcommand(
      "step", "Training steps: the share of the peak that the model's own work is (MFU)");
  a->add_to(*parser);
  return {parser, [a] { return run(*a); }};
}

}  // namespace rondo::apps
