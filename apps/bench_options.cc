#include "apps/bench_options.h"

#include <cstdio>

#include "rondo/core/error.h"

namespace rondo::apps {

void RowPrinter::print(const bench::Row& row) {
  std::string text;
  if (json_) {
    text = bench::json_line(row) + "\n";
  } else {
    if (!begun_) text = bench::table_head(row);
    text += bench::table_row(row);
  }
  begun_ = true;
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);  // a row may take minutes
}

CLI::Option* add_list(CLI::App& app, const std::string& name, std::string& text, const std::string& help) {
  return add(app, name, text, help);
}

void BenchArguments::add_to(CLI::App& app) {
  add_list(app, "--dtype", dtype_, "Storage types, f32 or bf16");
  add_list(app, "--threads", threads_, "Threads per device");
  app.add_option("--isa", isa_,
                 "Instruction sets of the kernels: portable|avx2|avx512|avx512_bf16 [the best there is]")
      ->envname("RONDO_ISA");
  add(app, "--runs", runs_, "Timed runs of a row, each between two measurements of the peak")
      ->check(between(1, 10000));
  add(app, "--least-seconds", least_seconds_, "Work that takes less is repeated within a run, in seconds")
      ->check(between(0.0, 3600.0));
  add(app, "--peak-seconds", peak_seconds_, "Length of each measurement of the peak, in seconds")
      ->check(between(0.001, 60.0));
  add(app, "--format", format_, "A Markdown table, or one JSON object a line")
      ->check(one_of({"markdown", "json"}));
}

bench::MeasureOptions BenchArguments::measure() const {
  return {.runs = runs_,
          .least_seconds = least_seconds_,
          .peak_time = std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(peak_seconds_ * 1000)))};
}

std::vector<std::int64_t> BenchArguments::threads() const {
  return bench::parse_integers("--threads", threads_, 1, 1024);
}

void HeadLists::add_to(CLI::App& app) {
  add_list(app, "--head-dim", head_dim, "Width of a head, 4 to 256");
  add_list(app, "--heads", heads, "Query heads");
  add_list(app, "--kv-heads", kv_heads, "Key/value heads, dividing --heads; 0: as many as --heads");
}

std::vector<HeadShape> HeadLists::shapes() const {
  std::vector<HeadShape> all;
  for (const std::int64_t dim : bench::parse_integers("--head-dim", head_dim, 4, 256))
    for (const std::int64_t count : bench::parse_integers("--heads", heads, 1, kMostExtent))
      for (const std::int64_t given : bench::parse_integers("--kv-heads", kv_heads, 0, kMostExtent)) {
        const std::int64_t shared = given == 0 ? count : given;
        check_argument(count % shared == 0, "bench",
                       "expected --heads to be a multiple of --kv-heads, got {} and {}", count, shared);
        all.push_back({dim, count, shared});
      }
  return all;
}

void FormLists::add_to(CLI::App& app) {
  add_list(app, "--attention", attention, std::string(kAttentionHelp) + ": vanilla or blockwise");
  add_list(app, "--feedforward", feed_forward, std::string(kFeedForwardHelp) + ": whole or blockwise");
}

std::vector<Forms> FormLists::forms() const {
  std::vector<Forms> all;
  for (const std::string& one : bench::parse_list("--attention", attention))
    for (const std::string& other : bench::parse_list("--feedforward", feed_forward))
      all.push_back({parse_attention_form(one), parse_feed_forward_form(other)});
  return all;
}

std::vector<Exchange> parse_exchanges(const std::string& text) {
  std::vector<Exchange> values;
  for (const std::string& word : bench::parse_list("--exchange", text))
    values.push_back(parse_exchange(word));
  return values;
}

std::vector<std::int64_t> parse_sizes(const std::string& option, const std::string& text) {
  std::vector<std::int64_t> sizes;
  for (const std::string& word : bench::parse_list(option, text)) {
    sizes.push_back(parse_bytes(option, word));
    check_argument(sizes.back() >= 1, "bench", "{}: expected sizes of at least 1 byte, got '{}'", option,
                   word);
  }
  return sizes;
}

}  // namespace rondo::apps
