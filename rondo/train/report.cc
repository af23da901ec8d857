#include "rondo/train/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "rondo/train/report_charts.h"
#include "rondo/train/report_svg.h"

namespace rondo {
namespace {

using report::escape;

constexpr std::string_view kStyle = R"css(
:root { color-scheme: light dark; --page: #ffffff; --ink: #1c2128; --soft: #5b6572; --line: #dfe3e8; --panel: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --ink: #e4e8ec; --soft: #9aa5b1; --line: #2c333b; --panel: #1c2127; }
}
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1.25rem 3rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .85rem; }
.scroll, .chart { overflow-x: auto; }
svg { display: block; width: 100%; min-width: 40rem; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg rect { stroke: var(--page); stroke-width: .5; }
.thin { stroke: none; }
.grid { stroke: var(--line); stroke-width: 1; }
.mark { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; }
.limit { stroke: #c8402f; stroke-width: 1.5; stroke-dasharray: 6 3; }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .85rem; margin-bottom: .3rem; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: .15em; margin-right: .4em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.5rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
pre { background: var(--panel); padding: .9rem 1rem; border-radius: .4rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, monospace; }
)css";

std::string facts_list(const ReportData& data) {
  if (data.facts.empty()) return "";
  std::string out = "<dl>\n";
  for (const auto& [name, value] : data.facts)
    fmt::format_to(std::back_inserter(out), "<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value));
  return out + "</dl>\n";
}

std::string table_row(const std::vector<std::string>& cells, std::size_t columns, const char* tag) {
  std::string out = "<tr>";
  for (std::size_t n = 0; n < columns; ++n)
    fmt::format_to(std::back_inserter(out), "<{0}>{1}</{0}>", tag, n < cells.size() ? escape(cells[n]) : "");
  return out + "</tr>\n";
}

std::string table(const ReportTable& data) {
  std::size_t columns = data.header.size();
  for (const auto& row : data.rows) columns = std::max(columns, row.size());
  if (columns == 0) return "";
  std::string out = "<h2>Figures</h2>\n<div class=\"scroll\"><table>\n";
  if (!data.header.empty()) out += "<thead>" + table_row(data.header, columns, "th") + "</thead>\n";
  out += "<tbody>\n";
  for (const auto& row : data.rows) out += table_row(row, columns, "td");
  return out + "</tbody></table></div>\n";
}

}  // namespace

std::string html_report(const ReportData& data) {
  std::string page = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n";
  page += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n";
  // Makes the browser hold the page to its promise: no scripts, nothing from elsewhere.
  page +=
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\"/>\n";
  page += fmt::format("<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n", escape(data.title), kStyle);
  page += fmt::format("<h1>{}</h1>\n", escape(data.title));
  page += facts_list(data);
  page += report::loss_chart(data.train, data.held_out);
  page += report::memory_chart(data.memory);
  page += report::memory_history_chart(data.memory_history);
  page += report::times_chart(data.times);
  page += report::timeline_chart(data.timeline);
  page += table(data.table);
  // HTML drops the first line break after <pre>: one of ours, so that none of the sample's is lost.
  if (!data.sample.empty()) page += "<h2>Sample</h2>\n<pre>\n" + escape(data.sample) + "</pre>\n";
  return page + "</body>\n</html>\n";
}

}  // namespace rondo
