// The paper's tables, derived and reported.

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/markdown_table.h"
#include "apps/plan_report.h"
#include "rondo/plan/paper.h"

namespace rondo::apps {

std::string paper_text() {
  std::string text =
      "Ring Attention (arXiv 2310.01889), thousands of tokens.\n\nTable 2, tokens whose attention takes as "
      "long as "
      "their exchange, F / B, and six times as many:\n\n";
  MarkdownTable overlap({"", "TFLOP/s", "GB/s", "block", "reported", "sequence", "reported"});
  for (const PaperOverlap& row : paper_table_2())
    overlap.add({row.name, fmt::format("{:.0f}", row.hardware.bf16_flops / 1e12),
                 fmt::format("{:.1f}", row.bytes_per_second / 1e9), fmt::format("{:.2f}", row.block / 1e3),
                 fmt::format("{:.1f}", row.reported_block), fmt::format("{:.2f}", row.sequence / 1e3),
                 fmt::format("{:.1f}", row.reported_sequence)});
  text += overlap.text();
  text += "Table 3, longest context (thousands of 1,024 tokens), derived / reported:\n\n";
  MarkdownTable contexts(
      {"", "model", "vanilla", "memory-efficient", "blockwise", "ring", "ring over blockwise"});
  for (const PaperContexts& row : paper_table_3()) {
    std::vector<std::string> cells = {row.name, row.model};
    for (std::size_t form = 0; form < row.derived.size(); ++form)
      cells.push_back(fmt::format("{:.0f} / {:.0f}", row.derived[form] / 1024, row.reported[form]));
    cells.push_back(
        fmt::format("{:.0f} / {:.0f}", row.derived[3] / row.derived[2], row.reported[3] / row.reported[2]));
    contexts.add(std::move(cells));
  }
  return text + contexts.text();
}

std::string paper_json() {
  using Json = nlohmann::ordered_json;
  Json json{{"table_2", Json::array()}, {"table_3", Json::array()}};
  for (const PaperOverlap& row : paper_table_2())
    json["table_2"].push_back({{"name", row.name},
                               {"flops", row.hardware.bf16_flops},
                               {"bytes_per_second", row.bytes_per_second},
                               {"block", row.block},
                               {"sequence", row.sequence},
                               {"reported_block", row.reported_block * 1e3},
                               {"reported_sequence", row.reported_sequence * 1e3}});
  for (const PaperContexts& row : paper_table_3()) {
    Json forms = Json::object();
    for (std::size_t form = 0; form < row.derived.size(); ++form)
      forms[name_of(static_cast<PaperForm>(form))] = {{"tokens", row.derived[form]},
                                                      {"reported", row.reported[form] * 1024}};
    json["table_3"].push_back(
        {{"name", row.name}, {"model", row.model}, {"devices", row.devices}, {"contexts", forms}});
  }
  return json.dump(2) + "\n";
}

}  // namespace rondo::apps
