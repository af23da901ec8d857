// rondo bench exchange, rondo bench decode: work that moves bytes.

#include "bench/exchange.h"

#include "apps/bench_options.h"
#include "bench/decode.h"
#include "rondo/core/error.h"

namespace rondo::apps {

namespace {

struct ExchangeArguments {
  BenchArguments common;
  std::string devices = "2", exchange = "copy,share", block = "1M,4M,16M,64M", kv_heads = "1",
              head_dim = "64";
};

int run(const ExchangeArguments& a) {
  std::vector<bench::ExchangeCase> planned;
  const auto exchanges = parse_exchanges(a.exchange);
  const auto blocks = parse_sizes("--block-bytes", a.block);
  const auto integers = [](const char* option, const std::string& text, std::int64_t low, std::int64_t high) {
    return bench::parse_integers(option, text, low, high);
  };
  for (const Isa isa : a.common.isas())
    for (const std::int64_t devices : integers("--devices", a.devices, 2, 1024))
      for (const std::int64_t threads : a.common.threads())
        for (const DType dtype : a.common.dtypes())
          for (const std::int64_t heads : integers("--kv-heads", a.kv_heads, 1, kMostExtent))
            for (const std::int64_t dim : integers("--head-dim", a.head_dim, 4, 256))
              for (const Exchange exchange : exchanges)
                for (const std::int64_t bytes : blocks) {
                  bench::ExchangeCase what{.exchange = exchange,
                                           .dtype = dtype,
                                           .head_dim = dim,
                                           .kv_heads = heads,
                                           .block_tokens = 1,
                                           .ring = {.devices = static_cast<int>(devices),
                                                    .threads = static_cast<int>(threads),
                                                    .isa = isa}};
                  // At least what was asked for, in whole tokens.
                  what.block_tokens = (bytes + what.block_bytes() - 1) / what.block_bytes();
                  planned.push_back(what);
                }
  RowPrinter printer = a.common.printer();
  for (const bench::ExchangeCase& what : planned)
    printer.print(bench::bench_exchange(what, a.common.measure()));
  return 0;
}

struct DecodeArguments {
  BenchArguments common;
  HeadLists heads;
  std::string sequences = "1", ctx = "0", cache = "0";
};

/// Tokens of each sequence: as given, or as many as fill the cache's size.
std::int64_t context_of(const bench::DecodeCase& what, std::int64_t ctx, std::int64_t bytes) {
  if (ctx > 0) return ctx;
  const std::int64_t per_token = what.sequences * what.bytes_per_token();
  return (bytes + per_token - 1) / per_token;
}

int run(const DecodeArguments& a) {
  std::vector<bench::DecodeCase> planned;
  const auto contexts = bench::parse_integers("--ctx", a.ctx, 0, kMostContext);
  const auto sequences = bench::parse_integers("--sequences", a.sequences, 1, kMostExtent);
  const auto shapes = a.heads.shapes();
  std::int64_t cache = parse_bytes("--cache", a.cache);
  if (cache == 0) cache = 4 * bench::last_level_cache_bytes();
  for (const Isa isa : a.common.isas())
    for (const std::int64_t threads : a.common.threads())
      for (const DType dtype : a.common.dtypes())
        for (const HeadShape& shape : shapes)
          for (const std::int64_t count : sequences)
            for (const std::int64_t ctx : contexts) {
              bench::DecodeCase what{.dtype = dtype,
                                     .head_dim = shape.head_dim,
                                     .heads = shape.heads,
                                     .kv_heads = shape.kv_heads,
                                     .sequences = count,
                                     .threads = static_cast<int>(threads),
                                     .isa = isa};
              what.ctx = context_of(what, ctx, cache);
              planned.push_back(what);
            }
  RowPrinter printer = a.common.printer();
  for (const bench::DecodeCase& what : planned) printer.print(bench::bench_decode(what, a.common.measure()));
  return 0;
}

}  // namespace

Benchmark add_exchange_benchmark(CLI::App& bench) {
  auto a = std::make_shared<ExchangeArguments>();
  CLI::App* parser =
      bench.add_subcommand("exchange", "Keys and values once round the ring, nothing computed");
  add_list(*parser, "--devices", a->devices, "Devices of the ring, at least 2");
  add_list(*parser, "--exchange", a->exchange, "How devices hand over keys and values: copy or share");
  add_list(*parser, "--block-bytes", a->block,
           "Bytes of a device's keys and values together, rounded up to whole tokens, such as 512K or 16M");
  add_list(*parser, "--head-dim", a->head_dim, "Width of a head, 4 to 256");
  add_list(*parser, "--kv-heads", a->kv_heads, "Key/value heads");
  a->common.add_to(*parser);
  return {parser, [a] { return run(*a); }};
}

Benchmark add_decode_benchmark(CLI::App& bench) {
  auto a = std::make_shared<DecodeArguments>();
  a->heads.heads = "8";
  CLI::App* parser = bench.add_subcommand(
      "decode", "Attention of each sequence's newest token, a share of the read bandwidth");
  add_list(*parser, "--sequences", a->sequences, "Sequences decoded together");
  add_list(*parser, "--ctx", a->ctx, "Tokens of each sequence's keys and values; 0: as --cache has room for");
  add(*parser, "--cache", a->cache,
      "Bytes of all keys and values where --ctx is 0, such as 512M; 0: four times the last-level cache");
  a->heads.add_to(*parser);
  a->common.add_to(*parser);
  return {parser, [a] { return run(*a); }};
}

}  // namespace rondo::apps
