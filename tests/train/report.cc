#include "rondo/train/report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "rondo/train/report_svg.h"

namespace {

using namespace rondo;

/// What is wrong with the nesting of `page`'s elements, or ""; counts the elements. The report closes all of
/// its elements, as XML would.
std::string nesting_fault(const std::string& page, std::size_t* elements) {
  std::vector<std::string> open;
  *elements = 0;
  for (std::size_t at = page.find('<'); at != std::string::npos; at = page.find('<', at)) {
    const std::size_t end = page.find('>', at);
    if (end == std::string::npos) return "unclosed tag";
    const std::string tag = page.substr(at + 1, end - at - 1);
    at = end;
    if (tag.empty()) return "empty tag";
    if (tag[0] == '!') continue;
    if (tag.find('<') != std::string::npos) return "tag within tag: " + tag;
    if (std::count(tag.begin(), tag.end(), '"') % 2 != 0) return "odd quotes: " + tag;
    const std::string name = tag.substr(tag[0] == '/', tag.find_first_of(" /", 1) - (tag[0] == '/'));
    if (tag[0] == '/') {
      if (open.empty() || open.back() != name) return "</" + name + "> does not close an element";
      open.pop_back();
      continue;
    }
    ++*elements;
    if (tag.back() != '/') open.push_back(name);
  }
  return open.empty() ? "" : "<" + open.back() + "> is not closed";
}

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size()))
    ++count;
  return count;
}

/// Fails on faulty nesting and on numbers that no browser draws; returns the number of elements.
std::size_t check_page(const std::string& page) {
  std::size_t elements = 0;
  EXPECT_EQ(nesting_fault(page, &elements), "");
  for (const char* bad : {"nan", "inf ", "inf\"", "<script", "http://", "https://", "src="})
    EXPECT_EQ(page.find(bad == std::string("src=") ? " src=" : bad), std::string::npos) << bad;
  return elements;
}

/// Weights while loading, activations in the first step, and something that comes and goes in each step.
MemoryHistory example_history(int devices) {
  constexpr std::int64_t ms = 1'000'000, MiB = std::int64_t{1} << 20;
  MemoryHistory history;
  for (int device = 0; device < devices; ++device) {
    const auto change = [&](Entry entry, std::int64_t at_ms, std::int64_t mib) {
      history.changes.push_back({device, entry, at_ms * ms + device, mib * MiB});
    };
    change(Entry::parameters, 2, 8);
    change(Entry::gradients, 30, 8);
    change(Entry::optimizer, 60, 16);
    change(Entry::attention, 210, 5);
    change(Entry::layer_inputs, 215, 12);
    for (int n = 1; n <= 9; ++n) change(Entry::attention, 220 + 10 * n, 5 + 2 * n);
    change(Entry::exchange, 330, 3);
    for (std::int64_t step = 1; step <= 3; ++step) {
      change(Entry::library_scratch, 100 + 200 * step, 4);
      change(Entry::library_scratch, 180 + 200 * step, 0);
    }
  }
  for (std::int64_t step = 1; step <= 3; ++step)
    history.steps.push_back({step, 200 * step * ms, 200 * (step + 1) * ms});
  return history;
}

ReportData example() {
  ReportData data;
  data.title = "Novels, 4 devices";
  data.facts = {{"tokens in context", "65536"},
                {"layout", "striped"},
                {"parameters", "12.6 million"},
                {"command", "rondo train --ctx-size 65536 --devices 4"}};
  for (std::int64_t step = 0; step <= 2000; ++step) {
    const double t = static_cast<double>(step);
    data.train.push_back(
        {step, 1.6 + 6.4 * std::exp(-t / 150) + 0.12 * std::sin(t * 1.7) * std::cos(t * 0.37)});
    if (step % 100 == 0) data.held_out.push_back({step, 1.72 + 6.3 * std::exp(-t / 150)});
  }
  for (int device = 0; device < 4; ++device) {
    DeviceMemory memory{device, {}};
    for (int entry = 0; entry < static_cast<int>(Entry::count); ++entry)
      memory.entries.emplace_back(static_cast<Entry>(entry),
                                  (std::int64_t{40} << 20) / (entry + 1) + device * 100000);
    data.memory.push_back(memory);
    data.times.push_back({1.2 + 0.1 * device, 0.15, 0.45 - 0.1 * device});
    for (int layer = 0; layer < 6; ++layer)
      for (int hop = 0; hop < 4; ++hop) {
        const std::int64_t begin = (layer * 4 + hop) * 1'000'000 + device * 20'000;
        const std::string name = "layer " + std::to_string(layer) + ", hop " + std::to_string(hop);
        data.timeline.push_back({device, "compute", name, begin, begin + 850'000});
        if (hop < 3)
          data.timeline.push_back(
              {device, "exchange", name, begin + 10'000, begin + 500'000 + hop * 150'000});
        data.timeline.push_back({device, "wait", name, begin + 850'000, begin + 850'000 + hop * 40'000});
      }
  }
  data.memory_history = example_history(4);
  data.table = {{"layout", "seconds per step", "tokens per second"},
                {{"contiguous", "3.91", "16761"}, {"striped", "2.20", "29789"}, {"zigzag", "2.18", "30062"}}};
  data.sample =
      "It was late in the evening when the carriage stopped before the house, and \"no one\" <came> & "
      "went.\n";
  return data;
}

TEST(Report, HasEveryPart) {
  const std::string page = html_report(example());
  check_page(page);
  for (const char* part :
       {"Novels, 4 devices", "<dt>layout</dt><dd>striped</dd>", "bits per byte", "held out",
        "Memory per device", "device 3", "layer 5, hop 3", "<td>29789</td>", "Sample", "MiB", "ms"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  EXPECT_EQ(occurrences(page, "<svg "), 5u);
  EXPECT_NE(page.find("Device 3 computes longest, 11.1 % above the mean."), std::string::npos);
  EXPECT_NE(page.find("device 0, wait: 0.45 s, 25.0 %"), std::string::npos);
  EXPECT_NE(page.find("&quot;no one&quot; &lt;came&gt; &amp; went."), std::string::npos);
  if (const char* path = std::getenv("RONDO_TEST_REPORT")) std::ofstream(path) << page;  // to look at
}

TEST(Report, MemoryOverTimeIsDrawnByEntry) {
  ReportData data;
  data.memory_history = example_history(2);
  data.memory_history.limit = std::int64_t{80} << 20;
  const std::string page = html_report(data);
  check_page(page);
  EXPECT_EQ(occurrences(page, "<svg "), 1u);
  for (const char* part :
       {"Memory over time", "device 1: 74.00 MiB at most", "device 0, attention: at most 23.00 MiB",
        "device 1, library scratch: at most 4.00 MiB", ">loading<", ">step 1<", ">step 3<", ">limit<",
        "to the end of step 3."})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  EXPECT_EQ(page.find("nothing changes"), std::string::npos);  // scratch comes and goes
  EXPECT_EQ(occurrences(page, "class=\"limit\""), 2u);

  std::erase_if(data.memory_history.changes,
                [](const MemoryChange& change) { return change.entry == Entry::library_scratch; });
  data.memory_history.limit = std::int64_t{1} << 40;  // too far off to be drawn
  const std::string still = html_report(data);
  EXPECT_NE(still.find("After step 1 nothing changes."), std::string::npos);
  EXPECT_EQ(still.find("class=\"limit\""), std::string::npos);
}

/// The bytes and times that the corners of a drawn area stand for.
TEST(Report, AreasOfMemoryBeginAndEndWhereTheLedgerChanged) {
  ReportData data;
  constexpr std::int64_t MiB = 1 << 20;
  data.memory_history.changes = {{0, Entry::parameters, 250, 4 * MiB},
                                 {0, Entry::attention, 500, 6 * MiB},
                                 {0, Entry::attention, 750, 0},
                                 {0, Entry::data, 1000, 0}};
  const std::string page = html_report(data);
  check_page(page);
  // The plot is 790 wide from 58 and 130 high from 36, its scale ends at 10 MiB.
  EXPECT_NE(page.find("d=\"M58.0 166.0H255.5V114.0H848.0V166.0H58.0Z\""), std::string::npos);  // parameters
  EXPECT_NE(page.find("d=\"M58.0 166.0H255.5V114.0H453.0V36.0H650.5V114.0H848.0V114.0H255.5V166.0H58.0Z\""),
            std::string::npos);
  EXPECT_EQ(page.find("device 0, data"), std::string::npos);
}

TEST(Report, OfNothingIsAPage) {
  const std::string page = html_report({});
  check_page(page);
  EXPECT_EQ(page.find("<svg"), std::string::npos);
  EXPECT_EQ(page.find("<table"), std::string::npos);
  EXPECT_EQ(page.find("<h2"), std::string::npos);
}

TEST(Report, SurvivesOddNumbers) {
  const double infinity = std::numeric_limits<double>::infinity();
  ReportData data;
  data.train = {{0, std::nan("")}, {1, infinity}, {2, -infinity}};
  check_page(html_report(data));
  EXPECT_EQ(html_report(data).find("<svg"), std::string::npos);

  data.train.push_back({3, 0.0});  // one point, at zero
  data.memory = {{0, {{Entry::parameters, 0}, {Entry::data, -5}}}, {1, {}}, {2, {{Entry::data, 1}}}};
  data.timeline = {
      {0, "compute", "instant", 7, 7}, {1, "wait", "ends before it begins", 9, 3}, {2, "unknown", "x", 0, 1}};
  data.times = {{0, 0, 0}, {0, -1, 0}, {1, 0, 0}};
  data.memory_history.changes = {{0, Entry::count, 1, 5}, {1, Entry::data, -7, 5}, {1, Entry::data, 0, -5}};
  data.table = {{"a", "b"}, {{"1"}, {"1", "2", "3"}, {}}};
  const std::string page = html_report(data);
  check_page(page);
  EXPECT_EQ(occurrences(page, "<svg "), 4u);
  EXPECT_NE(page.find("3 values that are not finite"), std::string::npos);
  EXPECT_EQ(occurrences(page, "<td>"), 9u);
  EXPECT_EQ(page.find("unknown"), std::string::npos);

  data.train = {{1'000'000'000'000, 1e300}, {-5, -1e300}, {7, 1e-300}};
  check_page(html_report(data));
}

TEST(Report, StaysSmallHoweverMuchThereIs) {
  ReportData data;
  for (std::int64_t n = 0; n < 200'000; ++n) {
    data.train.push_back({n, 5.0 + std::sin(static_cast<double>(n))});
    data.held_out.push_back({n, 5.5});
    data.timeline.push_back(
        {static_cast<int>(n % 100), n % 2 == 0 ? "compute" : "wait", "event", n * 1000, n * 1000 + 10});
  }
  for (int device = 0; device < 300; ++device) {
    data.times.push_back({1, 1, 1});
    data.memory.push_back({device, {}});
    for (int entry = 0; entry < static_cast<int>(Entry::count); ++entry)
      data.memory.back().entries.emplace_back(static_cast<Entry>(entry), 1000 + entry);
  }
  for (std::int64_t n = 0; n < 200'000; ++n)
    data.memory_history.changes.push_back(
        {static_cast<int>(n % 100), static_cast<Entry>(n % 15), n * 1000, (n * 7919) % 1'000'003});
  const std::string page = html_report(data);
  EXPECT_LT(check_page(page), 4000u);
  EXPECT_LT(page.size(), 1'000'000u);
  EXPECT_NE(page.find("are drawn as one"), std::string::npos);
  EXPECT_NE(page.find("The first 40 of 100 devices"), std::string::npos);
  EXPECT_NE(page.find("The first 40 of 300 devices"), std::string::npos);
  EXPECT_NE(page.find("The first 6 of 100 devices"), std::string::npos);
}

TEST(Report, MergedEventsKeepTheTimeTheyCover) {
  ReportData data;
  // 6000 events of 10 ns, one after the other in pairs that overlap by half: 15 ns a pair.
  for (std::int64_t n = 0; n < 3000; ++n) {
    data.timeline.push_back({0, "compute", "a", n * 100, n * 100 + 10});
    data.timeline.push_back({0, "compute", "b", n * 100 + 5, n * 100 + 15});
  }
  const std::string page = html_report(data);
  check_page(page);
  EXPECT_NE(page.find("6000 events from a, 45.00 \u00b5s"), std::string::npos);
  EXPECT_EQ(occurrences(page, "<rect"), 1u);
}

TEST(ReportSvg, EscapesMarkupControlCharactersAndBrokenUtf8) {
  using report::escape;
  const std::string replacement = "\xEF\xBF\xBD";
  EXPECT_EQ(escape("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  EXPECT_EQ(escape("tab\tline\n"), "tab\tline\n");
  EXPECT_EQ(escape(std::string_view("a\0b\x1b\x7f", 5)), "a" + replacement + "b" + replacement + replacement);
  EXPECT_EQ(escape("gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x8C\x8D"),
            "gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x8C\x8D");
  EXPECT_EQ(escape("\xC3"), replacement);                                      // cut off
  EXPECT_EQ(escape("\xC0\xAF"), replacement + replacement);                    // overlong '/'
  EXPECT_EQ(escape("\xED\xA0\x80"), replacement + replacement + replacement);  // surrogate
  EXPECT_EQ(escape("\xE2\x82<"), replacement + replacement + "&lt;");          // never swallows markup
  EXPECT_EQ(escape("\xF4\x90\x80\x80").size(), 4 * replacement.size());        // above U+10FFFF
}

TEST(ReportSvg, TicksAreRoundAndInside) {
  for (const auto& [low, high] : std::vector<std::pair<double, double>>{{0, 1},
                                                                        {1.37, 8.02},
                                                                        {-3, 1e6},
                                                                        {0.0012, 0.0019},
                                                                        {99.5, 100.5},
                                                                        {5, 5},
                                                                        {0, 0},
                                                                        {1e9, 1e9 + 1}}) {
    const report::Scale scale = report::make_scale(low, high, {.from = 10, .to = 110});
    const std::vector<double> ticks = scale.ticks();
    ASSERT_GE(ticks.size(), 2u) << low << " " << high;
    EXPECT_LE(ticks.size(), 14u) << low << " " << high;
    for (const double tick : ticks) {
      EXPECT_GE(scale(tick), 10 - 1e-6);
      EXPECT_LE(scale(tick), 110 + 1e-6);
      EXPECT_NEAR(std::stod(scale.label(tick)), tick, 1e-9 * std::max(1.0, std::abs(tick)));
    }
    const double digit = scale.step / std::pow(10.0, std::floor(std::log10(scale.step) + 1e-9));
    EXPECT_TRUE(std::abs(digit - 1) < 1e-6 || std::abs(digit - 2) < 1e-6 || std::abs(digit - 5) < 1e-6)
        << digit;
  }
  const report::Scale rounded = report::make_scale(1.37, 8.02, {.round_ends = true});
  EXPECT_EQ(rounded.low, 0);
  EXPECT_EQ(rounded.high, 10);
  EXPECT_EQ(report::make_scale(0, 2, {.ticks = 8, .whole = true}).step, 1);
}

}  // namespace
