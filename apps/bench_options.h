#pragma once
// What the benchmarks of `rondo bench` share: lists of values, the rows' form, how often to run.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "apps/options.h"
#include "bench/arguments.h"
#include "bench/measure.h"
#include "bench/row.h"

namespace rondo::apps {

/// Prints rows as they come: a Markdown table, or a JSON object a line.
class RowPrinter {
 public:
  explicit RowPrinter(bool json) : json_(json) {}
  void print(const bench::Row& row);

 private:
  bool json_, begun_ = false;
};

/// Options of every benchmark; those that are lists make a row for each value.
class BenchArguments {
 public:
  void add_to(CLI::App& app);
  bench::MeasureOptions measure() const;
  RowPrinter printer() const { return RowPrinter(format_ == "json"); }
  std::vector<DType> dtypes() const { return bench::parse_dtypes("--dtype", dtype_); }
  std::vector<Isa> isas() const { return bench::parse_isas(isa_); }
  std::vector<std::int64_t> threads() const;

 private:
  std::string dtype_ = "f32", threads_ = "1", isa_, format_ = "markdown";
  int runs_ = 5;
  double least_seconds_ = 0.05, peak_seconds_ = 0.04;
};

/// Largest value of an option of extents (widths, heads) and of sequences, in tokens.
inline constexpr std::int64_t kMostExtent = 1 << 20, kMostContext = 1 << 24;

/// A row's heads: --head-dim, --heads, --kv-heads.
struct HeadShape {
  std::int64_t head_dim = 0, heads = 0, kv_heads = 0;
};
/// Lists of them; each number of query heads with each of key/value heads.
struct HeadLists {
  std::string head_dim = "64", heads = "1", kv_heads = "0";
  void add_to(CLI::App& app);
  /// ArgumentError names a pair that does not divide.
  std::vector<HeadShape> shapes() const;
};

/// Forms of attention and feed-forward: --attention, --feedforward.
struct Forms {
  AttentionForm attention;
  FeedForwardForm feed_forward;
};
/// Lists of them; each form of one with each of the other.
struct FormLists {
  std::string attention = "blockwise", feed_forward = "blockwise";
  void add_to(CLI::App& app);
  std::vector<Forms> forms() const;
};

std::vector<Exchange> parse_exchanges(const std::string& text);
/// Sizes such as 512M, each at least 1 byte.
std::vector<std::int64_t> parse_sizes(const std::string& option, const std::string& text);

/// An option that takes a list, its default shown.
CLI::Option* add_list(CLI::App& app, const std::string& name, std::string& text, const std::string& help);

/// One benchmark: reads its arguments, checks all of them, then runs row by row.
struct Benchmark {
  CLI::App* parser;
  std::function<int()> run;
};
Benchmark add_attention_benchmark(CLI::App& bench);
Benchmark add_ring_benchmark(CLI::App& bench);
Benchmark add_linear_benchmark(CLI::App& bench);
Benchmark add_step_benchmark(CLI::App& bench);
Benchmark add_decode_benchmark(CLI::App& bench);
Benchmark add_exchange_benchmark(CLI::App& bench);
Benchmark add_overlap_benchmark(CLI::App& bench);

}  // namespace rondo::apps
