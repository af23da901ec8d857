#pragma once
// Tables for people, as Markdown.

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace rondo::apps {

/// A Markdown table of cells that are as wide as the widest of their column.
class MarkdownTable {
 public:
  explicit MarkdownTable(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const {
    std::vector<std::size_t> widths(rows_.front().size());
    for (const auto& row : rows_)
      for (std::size_t n = 0; n < row.size(); ++n) widths[n] = std::max(widths[n], row[n].size());
    std::string out;
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      for (std::size_t n = 0; n < widths.size(); ++n) out += fmt::format("| {:>{}} ", rows_[r][n], widths[n]);
      out += "|\n";
      if (r > 0) continue;
      for (const std::size_t width : widths) out += fmt::format("|{:->{}}:", "", width + 1);
      out += "|\n";
    }
    return out + "\n";
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace rondo::apps
