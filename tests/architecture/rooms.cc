// Rules that the compiler does not check: who may include whom, and what a source file may look like.
// docs/architecture.md gives the reasons.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

struct Source {
  std::string path;  ///< from the top of the repository, with '/'
  std::vector<std::string> lines;
  bool header() const { return path.ends_with(".h"); }
};

/// What tests and benchmarks compare with: used by none that others use in turn, never passed on.
const std::string kOracle = "reference";

/// The rooms that each room may include besides itself.
const std::map<std::string, Names>& allowed_rooms() {
  static const auto allowed = [] {
    const Names leaves = {"reference", "kernels", "comm", "schedule", "io", "text"};
    std::map<std::string, Names> table = {{"core", {}}};
    for (const std::string& leaf : leaves) table[leaf] = {"core"};
    table["attention"] = {"core", "kernels", "comm", "schedule"};
    table["model"] = table["attention"];
    table["model"].insert({"attention", "io"});
    table["plan"] = table["model"];
    table["plan"].insert("model");
    table["train"] = table["plan"];
    table["train"].insert({"plan", "text"});
    table["infer"] = table["train"];
    table["bench"] = table["train"];
    table["bench"].insert({"train", "infer"});
    table["apps"] = table["bench"];
    table["apps"].insert("bench");
    table["bench"].insert(kOracle);
    return table;
  }();
  return allowed;
}

/// "kernels" of "rondo/kernels/cpu/linear.cc", "apps" of "apps/train.cc"; "" for what is in no room.
std::string room_of(std::string_view path) {
  for (const std::string_view top : {"apps", "bench"})
    if (path.starts_with(top) && path.substr(top.size()).starts_with("/")) return std::string(top);
  if (!path.starts_with("rondo/")) return "";
  path.remove_prefix(6);
  const auto slash = path.find('/');
  return slash == std::string_view::npos ? "" : std::string(path.substr(0, slash));
}

/// The path between the quotes or brackets of an include line; "" when the line is none.
std::string included_path(const std::string& line) {
  std::size_t at = line.find_first_not_of(" \t");
  if (at == std::string::npos || line[at] != '#') return "";
  at = line.find_first_not_of(" \t", at + 1);
  if (at == std::string::npos || line.compare(at, 7, "include") != 0) return "";
  const auto open = line.find_first_of("\"<", at);
  const auto close = line.find_first_of("\">", open == std::string::npos ? open : open + 1);
  return close == std::string::npos ? "" : line.substr(open + 1, close - open - 1);
}

bool is_conditional(const std::string& line) {
  const std::size_t at = line.find_first_not_of(" \t");
  if (at == std::string::npos || line[at] != '#') return false;
  const std::size_t word = line.find_first_not_of(" \t", at + 1);
  if (word == std::string::npos) return false;
  return line.compare(word, 2, "if") == 0 || line.compare(word, 4, "elif") == 0;
}

using Findings = std::vector<std::string>;

Findings forbidden_includes(const Source& source) {
  Findings findings;
  const std::string room = room_of(source.path);
  if (room.empty()) return findings;
  const auto allowed = allowed_rooms().find(room);
  if (allowed == allowed_rooms().end()) return {source.path + ": room '" + room + "' has no rule here"};
  for (std::size_t n = 0; n < source.lines.size(); ++n) {
    const std::string path = included_path(source.lines[n]);
    const auto within = [&path](const char* top) { return path.starts_with(top); };
    if (!within("rondo/") && !within("apps/") && !within("bench/") && !within("tests/")) continue;
    const std::string other = room_of(path);
    if (other != room && !allowed->second.contains(other))
      findings.push_back(fmt::format("{}:{}: {} may not include {}", source.path, n + 1, room, path));
  }
  return findings;
}

Findings layout_faults(const Source& source) {
  Findings findings;
  const std::size_t most = source.path.starts_with("tests/") ? 500 : 400;
  if (source.lines.size() > most)
    findings.push_back(fmt::format("{}: {} lines, at most {}", source.path, source.lines.size(), most));
  bool pragma_once = false;
  for (std::size_t n = 0; n < source.lines.size(); ++n) {
    if (source.lines[n].find('\t') != std::string::npos)
      findings.push_back(fmt::format("{}:{}: tab", source.path, n + 1));
    pragma_once = pragma_once || source.lines[n] == "#pragma once";
  }
  if (source.header() && !pragma_once) findings.push_back(source.path + ": no #pragma once");
  return findings;
}

std::size_t conditionals(const Source& source) {
  std::size_t count = 0;
  for (const std::string& line : source.lines) count += is_conditional(line) ? 1 : 0;
  return count;
}

std::vector<Source> read_sources(const std::vector<std::string>& folders) {
  const fs::path top = RONDO_SOURCE_DIR;
  std::vector<Source> sources;
  for (const std::string& folder : folders) {
    if (!fs::exists(top / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(top / folder)) {
      const auto extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc") continue;
      Source source{fs::relative(entry.path(), top).generic_string(), {}};
      std::ifstream file(entry.path());
      for (std::string line; std::getline(file, line);) source.lines.push_back(line);
      sources.push_back(std::move(source));
    }
  }
  return sources;
}

void append(Findings& all, const Findings& more) { all.insert(all.end(), more.begin(), more.end()); }

TEST(Architecture, RoomsIncludeOnlyTheRoomsBelowThem) {
  const auto sources = read_sources({"rondo", "apps", "bench"});
  ASSERT_GT(sources.size(), 20u);
  Findings findings;
  for (const Source& source : sources) append(findings, forbidden_includes(source));
  EXPECT_TRUE(findings.empty()) << fmt::format("{}", fmt::join(findings, "\n"));
}

TEST(Architecture, NoCycles) {
  // A room's own list holds everything its lists' rooms may include, so that the relation is transitive and
  // acyclic.
  for (const auto& [room, allowed] : allowed_rooms()) {
    EXPECT_FALSE(allowed.contains(room));
    for (const std::string& lower : allowed)
      for (const std::string& lowest : allowed_rooms().at(lower))
        EXPECT_TRUE(allowed.contains(lowest) || lowest == kOracle)
            << room << " -> " << lower << " -> " << lowest;
  }
}

TEST(Architecture, FilesAreShortAndHeadersGuarded) {
  Findings findings;
  for (const Source& source : read_sources({"rondo", "apps", "tests", "bench"}))
    append(findings, layout_faults(source));
  EXPECT_TRUE(findings.empty()) << fmt::format("{}", fmt::join(findings, "\n"));
}

TEST(Architecture, BackendsAreFilesNotConditionals) {
  std::size_t count = 0, lines = 0;
  Findings where;
  for (const Source& source : read_sources({"rondo", "apps", "bench"})) {
    const std::size_t here = conditionals(source);
    count += here;
    lines += source.lines.size();
    if (here > 0) where.push_back(fmt::format("{}: {}", source.path, here));
    // The wrapper of intrinsics is the one place that tells instruction sets apart; who picks a tier needs
    // two lines for each of the four.
    EXPECT_LE(here, source.path == "rondo/kernels/cpu/vec.tier.h" ? 12u : 8u) << source.path;
  }
  EXPECT_LE(static_cast<double>(count), 2.0 * static_cast<double>(lines) / 1000.0)
      << "more than two #if in a thousand lines:\n"
      << fmt::format("{}", fmt::join(where, "\n"));
}

TEST(Architecture, TheRulesFindWhatBreaksThem) {
  EXPECT_EQ(forbidden_includes({"rondo/core/x.h", {"#include \"rondo/comm/y.h\""}}).size(), 1u);
  EXPECT_EQ(forbidden_includes({"rondo/comm/x.h", {"#  include <rondo/schedule/y.h>"}}).size(), 1u);
  EXPECT_EQ(forbidden_includes({"rondo/train/x.cc", {"#include \"rondo/infer/y.h\""}}).size(), 1u);
  EXPECT_EQ(forbidden_includes({"rondo/train/x.cc", {"#include \"rondo/rondo.h\""}}).size(), 1u);
  EXPECT_EQ(forbidden_includes({"apps/x.cc", {"#include \"rondo/reference/y.h\""}}).size(), 1u);
  EXPECT_EQ(forbidden_includes({"rondo/train/x.cc", {"#include \"bench/y.h\""}}).size(), 1u);
  EXPECT_TRUE(forbidden_includes({"bench/x.cc", {"#include \"rondo/reference/y.h\""}}).empty());
  EXPECT_EQ(forbidden_includes({"bench/x.cc", {"#include \"apps/y.h\""}}).size(), 1u);
  EXPECT_EQ(forbidden_includes({"rondo/text/x.cc", {"#include \"tests/support/data.h\""}}).size(), 1u);
  EXPECT_EQ(forbidden_includes({"rondo/newroom/x.cc", {}}).size(), 1u);
  EXPECT_TRUE(
      forbidden_includes({"rondo/model/x.cc", {"#include \"rondo/io/y.h\"", "#include <vector>"}}).empty());
  EXPECT_TRUE(
      forbidden_includes({"rondo/kernels/cpu/x.cc", {"#include \"rondo/kernels/kernels.h\""}}).empty());
  EXPECT_TRUE(forbidden_includes({"rondo/text/x.cc", {"// #include \"rondo/io/y.h\""}}).empty());

  EXPECT_EQ(layout_faults({"rondo/core/x.h", {"int x;"}}).size(), 1u);
  EXPECT_EQ(layout_faults({"rondo/core/x.cc", {"\tint x;"}}).size(), 1u);
  EXPECT_EQ(layout_faults({"rondo/core/x.cc", std::vector<std::string>(401)}).size(), 1u);
  EXPECT_TRUE(layout_faults({"tests/core/x.cc", std::vector<std::string>(500)}).empty());
  EXPECT_EQ(
      conditionals({"rondo/core/x.cc", {"#if A", " # ifdef B", "#elif C", "#endif", "// #if", "if (x)"}}),
      3u);
}

}  // namespace
