#include "bench/row.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace rondo::bench {

namespace {

std::vector<Column> columns_of(const Row& row) {
  std::vector<Column> columns = {{"bench", row.bench},
                                 {"pass", row.pass},
                                 {"dtype", row.dtype},
                                 {"head_dim", row.head_dim},
                                 {"heads", row.heads},
                                 {"kv_heads", row.kv_heads},
                                 {"ctx", row.ctx},
                                 {"mask", row.mask},
                                 {"layout", row.layout},
                                 {"devices", row.devices},
                                 {"threads", row.threads},
                                 {"isa", row.isa},
                                 {"seconds_median", row.seconds_median},
                                 {"seconds_min", row.seconds_min},
                                 {"runs", row.runs},
                                 {"gflops", row.gflops},
                                 {"peak_gflops", row.peak_gflops},
                                 {"fraction_of_peak", row.fraction_of_peak, 3},
                                 {"max_rel_error", row.max_rel_error, 2},
                                 {"cpu_share", row.cpu_share, 2}};
  columns.insert(columns.end(), row.more.begin(), row.more.end());
  return columns;
}

bool is_empty(const Value& value) { return std::holds_alternative<std::monostate>(value); }

/// `digits` significant ones; powers of ten only where there would be many zeros.
std::string text_of(double number, int digits) {
  if (!std::isfinite(number)) return "-";
  const double size = std::abs(number);
  if (size != 0 && (size < 0.001 || size >= 1e6)) return fmt::format("{:.{}e}", number, digits - 1);
  const int before = size == 0 ? 1 : static_cast<int>(std::floor(std::log10(size))) + 1;
  return fmt::format("{:.{}f}", number, std::max(0, digits - before));
}

std::string text_of(const Column& column) {
  if (const auto* number = std::get_if<std::int64_t>(&column.value)) return fmt::format("{}", *number);
  if (const auto* number = std::get_if<double>(&column.value)) return text_of(*number, column.digits);
  if (const auto* word = std::get_if<std::string>(&column.value)) return *word;
  return "";
}

/// Rows are printed as they come, so that a cell's width cannot depend on those that follow.
std::size_t width_of(const Column& column) {
  const bool word = std::holds_alternative<std::string>(column.value);
  return std::max<std::size_t>(column.name.size(), word ? 11 : 6);
}

std::string line_of(const Row& row, const auto& cell) {
  std::string line = "|";
  for (const Column& column : columns_of(row))
    if (!is_empty(column.value)) line += cell(column) + "|";
  return line + "\n";
}

}  // namespace

std::string json_line(const Row& row) {
  nlohmann::ordered_json json;
  for (const Column& column : columns_of(row)) {
    auto& entry = json[column.name];
    if (const auto* whole = std::get_if<std::int64_t>(&column.value)) entry = *whole;
    if (const auto* number = std::get_if<double>(&column.value); number && std::isfinite(*number))
      entry = *number;
    if (const auto* word = std::get_if<std::string>(&column.value)) entry = *word;
  }
  return json.dump();
}

std::string table_head(const Row& row) {
  const std::string names = line_of(
      row, [](const Column& column) { return fmt::format(" {:>{}} ", column.name, width_of(column)); });
  const std::string rule =
      line_of(row, [](const Column& column) { return std::string(width_of(column) + 1, '-') + ":"; });
  return names + rule;
}

std::string table_row(const Row& row) {
  return line_of(
      row, [](const Column& column) { return fmt::format(" {:>{}} ", text_of(column), width_of(column)); });
}

}  // namespace rondo::bench
