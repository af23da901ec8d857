// The report's charts of memory by ledger entry: the most that stood there, and over time.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>
#include <string_view>
#include <vector>

#include "rondo/train/report_charts.h"
#include "rondo/train/report_svg.h"
#include "rondo/train/report_units.h"

namespace rondo::report {
namespace {

constexpr std::size_t kMostDevices = 40;
constexpr double kWidth = 860;

/// By entry; neighbours in a stack differ in hue as well as in lightness.
constexpr std::array<std::string_view, static_cast<std::size_t>(Entry::count)> kEntryColours = {
    "#3d6fb4", "#7fc4e8", "#5b4bb0", "#2f8f4e", "#9ed36a", "#a8469a", "#d8b93a", "#e0707f",
    "#e07b2a", "#1fa08c", "#8d3b6b", "#c8402f", "#9a9a3a", "#6f7b87", "#b4bcc4"};

constexpr std::size_t kEntries = kEntryColours.size();
using Shown = std::array<bool, kEntries>;

std::vector<LegendItem> legend_of(const Shown& shown) {
  std::vector<LegendItem> legend;
  for (std::size_t n = 0; n < kEntries; ++n)
    if (shown[n]) legend.push_back({kEntryColours[n], name_of(static_cast<Entry>(n))});
  return legend;
}

// ---- The most of each entry ----

double total_bytes(const DeviceMemory& device) {
  double total = 0;
  for (const auto& [entry, bytes] : device.entries)
    total += static_cast<double>(std::max<std::int64_t>(bytes, 0));
  return total;
}

/// The device's bar; marks the entries it shows.
std::string memory_bar(const DeviceMemory& device, const Scale& x, double y, double height, Shown& shown) {
  std::string out = label(x.from - 8, y + height / 2 + 4, "end", fmt::format("device {}", device.device));
  double sum = 0;
  for (const auto& [entry, bytes] : device.entries) {
    const auto index = static_cast<std::size_t>(entry);
    if (bytes <= 0 || index >= kEntryColours.size()) continue;
    shown[index] = true;
    const double begin = x(sum), size = static_cast<double>(bytes);
    sum += size;
    const std::string tooltip =
        fmt::format("device {}, {}: {}", device.device, name_of(entry), bytes_text(size));
    out += rect({begin, y, x(sum) - begin, height, kEntryColours[index], tooltip});
  }
  return out + label(x(sum) + 6, y + height / 2 + 4, "start", bytes_text(sum));
}

}  // namespace

std::string memory_chart(std::span<const DeviceMemory> memory) {
  double most = 0;
  for (const DeviceMemory& device : memory) most = std::max(most, total_bytes(device));
  if (most <= 0) return "";

  const auto shown_devices = memory.first(std::min(memory.size(), kMostDevices));
  constexpr double kBar = 20, kPitch = 27;
  const double bottom = 8 + kPitch * static_cast<double>(shown_devices.size());
  const Frame frame{kWidth, bottom + 44, 84, kWidth - 84, 4, bottom};
  const Unit unit = byte_unit(most);
  const Scale axis = make_scale(0, most / unit.size, {.from = frame.left, .to = frame.right, .ticks = 8});
  const Scale x{0, most, frame.left, frame.right, 1};

  std::string drawing = horizontal_axis(axis, frame, unit.name);
  Shown shown{};
  for (std::size_t n = 0; n < shown_devices.size(); ++n)
    drawing += memory_bar(shown_devices[n], x, 8 + kPitch * static_cast<double>(n), kBar, shown);
  const std::string caption =
      shown_devices.size() == memory.size()
          ? ""
          : fmt::format("The first {} of {} devices.", shown_devices.size(), memory.size());
  return figure({"Memory per device", caption, legend_of(shown), frame, drawing});
}

// ---- Over time ----

namespace {

constexpr std::size_t kMostHistories = 6;
/// Of a device's picture: lines of text above, the plot, its axis below.
constexpr double kTitle = 36, kPlot = 130, kAxis = 26, kPitch = kTitle + kPlot + kAxis;
constexpr double kColumn = 3;  // pixels in which no more than the fullest and the last moment are drawn

/// What a ledger held from a moment on, in bytes by entry.
struct Holding {
  std::int64_t at_ns = 0;
  std::array<double, kEntries> bytes{};

  double total() const { return std::accumulate(bytes.begin(), bytes.end(), 0.0); }
};

/// By device, in order of time.
std::map<int, std::vector<Holding>> histories(const MemoryHistory& memory, std::int64_t end_ns) {
  std::map<int, std::vector<Holding>> devices;
  for (const MemoryChange& change : memory.changes) {
    const auto entry = static_cast<std::size_t>(change.entry);
    if (entry >= kEntries || change.at_ns > end_ns) continue;
    std::vector<Holding>& history = devices[change.device];
    if (history.empty()) history.push_back({});
    if (history.back().at_ns < change.at_ns) {
      history.push_back(history.back());
      history.back().at_ns = change.at_ns;
    }
    history.back().bytes[entry] = static_cast<double>(std::max<std::int64_t>(change.bytes, 0));
  }
  return devices;
}

std::vector<Holding> thin_out(const std::vector<Holding>& history, const Scale& x) {
  const auto column = [&](const Holding& holding) {
    return std::floor(x(static_cast<double>(holding.at_ns)) / kColumn);
  };
  std::vector<Holding> kept;
  for (std::size_t begin = 0, end = 0; begin < history.size(); begin = end) {
    std::size_t fullest = begin;
    for (end = begin; end < history.size() && column(history[end]) == column(history[begin]); ++end)
      if (history[end].total() > history[fullest].total()) fullest = end;
    kept.push_back(history[fullest]);
    if (fullest + 1 < end) kept.push_back(history[end - 1]);
  }
  return kept;
}

struct Plot {
  Frame frame;
  Scale x, y;  ///< of nanoseconds and bytes
};

/// The area between two lines of stairs: what stood under an entry, on top of those before it.
std::string stairs(const std::vector<Holding>& history, const std::vector<double>& below,
                   const std::vector<double>& above, const Plot& plot) {
  const auto x = [&](std::size_t n) { return plot.x(static_cast<double>(history[n].at_ns)); };
  std::string path = fmt::format("M{:.1f} {:.1f}", x(0), plot.y(above[0]));
  const auto go = [&path](double to_x, double to_y) {
    fmt::format_to(std::back_inserter(path), "H{:.1f}V{:.1f}", to_x, to_y);
  };
  for (std::size_t n = 1; n < history.size(); ++n)
    if (above[n] != above[n - 1]) go(x(n), plot.y(above[n]));
  go(plot.frame.right, plot.y(below.back()));
  for (std::size_t n = history.size() - 1; n > 0; --n)
    if (below[n] != below[n - 1]) go(x(n), plot.y(below[n - 1]));
  return path + fmt::format("H{:.1f}Z", x(0));
}

std::string areas(int device, const std::vector<Holding>& history, const Plot& plot, Shown& shown) {
  std::string out;
  std::vector<double> below(history.size(), 0.0), above;
  for (std::size_t entry = 0; entry < kEntries; ++entry) {
    above = below;
    double most = 0;
    for (std::size_t n = 0; n < history.size(); ++n) {
      above[n] += history[n].bytes[entry];
      most = std::max(most, history[n].bytes[entry]);
    }
    if (most <= 0) continue;
    shown[entry] = true;
    fmt::format_to(std::back_inserter(out),
                   "<path fill=\"{}\" d=\"{}\"><title>device {}, {}: at most {}</title></path>\n",
                   kEntryColours[entry], stairs(history, below, above, plot), device,
                   name_of(static_cast<Entry>(entry)), bytes_text(most));
    below = above;
  }
  return out;
}

/// Lines where steps begin and end, and the words for what lies between where there is room.
std::string step_marks(const std::vector<StepTime>& steps, const Plot& plot) {
  constexpr double kLetter = 6.5;
  const Frame& frame = plot.frame;
  std::string out;
  double from = frame.left;
  const auto mark = [&](double until, const std::string& what) {
    until = std::clamp(until, from, frame.right);
    if (until - from > kLetter * static_cast<double>(what.size()))
      out += label((from + until) / 2, frame.top - 6, "middle", what);
    if (until < frame.right)
      fmt::format_to(std::back_inserter(out), "<path class=\"mark\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>\n", until,
                     frame.top - 16, frame.bottom);
    from = until;
  };
  if (steps.empty()) return out;
  mark(plot.x(static_cast<double>(steps.front().begin_ns)), "loading");
  for (const StepTime& step : steps)
    mark(plot.x(static_cast<double>(step.end_ns)), fmt::format("step {}", step.step));
  return out;
}

std::string limit_line(std::int64_t limit, const Plot& plot) {
  const auto bytes = static_cast<double>(limit);
  if (limit <= 0 || bytes > plot.y.high) return "";
  return fmt::format("<path class=\"limit\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>\n", plot.frame.left, plot.y(bytes),
                     plot.frame.right) +
         label(plot.frame.left + 4, plot.y(bytes) - 4, "start", "limit");
}

/// The picture of device `place` of those that are drawn, in one column or two.
Plot plot_at(std::size_t place, std::size_t devices, double end_ns, double most_bytes) {
  const bool two = devices > 1;
  constexpr double kLeft = 58, kGap = 44, kRight = kWidth - 12;
  const double width = two ? (kRight - kLeft - kGap) / 2 : kRight - kLeft;
  const double left = kLeft + static_cast<double>(two ? place % 2 : 0) * (width + kGap);
  const double top = kPitch * static_cast<double>(two ? place / 2 : place) + kTitle;
  const Frame frame{kWidth, 0, left, left + width, top, top + kPlot};
  return {frame, {0, end_ns, frame.left, frame.right, 1}, {0, most_bytes, frame.bottom, frame.top, 1}};
}

double most_held(const std::vector<Holding>& history) {
  double most = 0;
  for (const Holding& holding : history) most = std::max(most, holding.total());
  return most;
}

std::string history_caption(const MemoryHistory& memory, std::int64_t end_ns) {
  std::string caption = "Every change of the devices' ledgers since the run began";
  if (memory.steps.empty()) return caption + ".";
  caption += fmt::format(", to the end of step {}.", memory.steps.back().step);
  const StepTime& first = memory.steps.front();
  const bool still = std::all_of(
      memory.changes.begin(), memory.changes.end(),
      [&](const MemoryChange& change) { return change.at_ns <= first.end_ns || change.at_ns > end_ns; });
  return caption + (still ? fmt::format(" After step {} nothing changes.", first.step) : "");
}

}  // namespace

std::string memory_history_chart(const MemoryHistory& memory) {
  std::int64_t end_ns = 0;
  for (const MemoryChange& change : memory.changes) end_ns = std::max(end_ns, change.at_ns);
  if (!memory.steps.empty()) end_ns = memory.steps.back().end_ns;
  std::map<int, std::vector<Holding>> devices = histories(memory, end_ns);
  const std::size_t all_devices = devices.size();
  while (devices.size() > kMostHistories) devices.erase(std::prev(devices.end()));
  double most = 0;
  for (const auto& [device, history] : devices) most = std::max(most, most_held(history));
  if (most <= 0 || end_ns <= 0) return "";

  const auto limit = static_cast<double>(memory.limit);
  if (limit > most && limit < 1.5 * most) most = limit;
  const auto end = static_cast<double>(end_ns);
  const Unit bytes = byte_unit(most), time = time_unit(end);
  const double top = make_scale(0, most / bytes.size, {.ticks = 4, .round_ends = true}).high * bytes.size;
  std::string drawing;
  Shown shown{};
  std::size_t place = 0;
  const std::size_t rows = devices.size() > 1 ? (devices.size() + 1) / 2 : 1;
  for (const auto& [device, history] : devices) {
    const Plot plot = plot_at(place, devices.size(), end, top);
    const Frame& frame = plot.frame;
    const bool first_column = devices.size() == 1 || place % 2 == 0, last_row = place + 2 >= devices.size();
    const ScaleOptions down{.from = frame.bottom, .to = frame.top, .ticks = 4, .round_ends = true};
    drawing += horizontal_axis(make_scale(0, end / time.size, {.from = frame.left, .to = frame.right}), frame,
                               last_row ? time.name : "");
    drawing += vertical_axis(make_scale(0, most / bytes.size, down), frame, first_column ? bytes.name : "");
    drawing += areas(device, thin_out(history, plot.x), plot, shown);
    drawing += step_marks(memory.steps, plot) + limit_line(memory.limit, plot);
    drawing += label(frame.left, frame.top - 22, "start",
                     fmt::format("device {}: {} at most", device, bytes_text(most_held(history))));
    ++place;
  }
  std::string caption = history_caption(memory, end_ns);
  if (all_devices > devices.size())
    caption += fmt::format(" The first {} of {} devices.", devices.size(), all_devices);
  const Frame whole{kWidth, kPitch * static_cast<double>(rows) + 18, 0, kWidth, 0, 0};
  return figure({"Memory over time", caption, legend_of(shown), whole, drawing});
}

}  // namespace rondo::report
