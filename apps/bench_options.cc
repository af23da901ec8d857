#include "apps/bench_options.h"

#include <cstdio>

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
  add(app, "--format", format_, "A Markdown table, or one JSON object a line")
      ->check(one_of({"markdown", "json"}));
}

bench::MeasureOptions BenchArguments::measure() const { return {.runs = runs_}; }

std::vector<std::int64_t> BenchArguments::threads() const {
  return bench::parse_integers("--threads", threads_, 1, 1024);
}

}  // namespace rondo::apps
