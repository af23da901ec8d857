// The report's chart of how each device spent its steps.

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "rondo/train/report_charts.h"
#include "rondo/train/report_svg.h"

namespace rondo::report {
namespace {

constexpr std::size_t kMostDevices = 40;
constexpr double kTop = 8, kBar = 20, kPitch = 27;

struct Part {
  double DeviceTimes::*seconds;
  LegendItem item;
};
/// In the colours of the timeline.
constexpr std::array<Part, 3> kParts = {{{&DeviceTimes::compute, {"#3d7fd0", "compute"}},
                                         {&DeviceTimes::exchange, {"#dd9a1c", "exchange"}},
                                         {&DeviceTimes::wait, {"#c0455e", "wait"}}}};

double total(const DeviceTimes& times) { return times.compute + times.exchange + times.wait; }

std::string bar(std::size_t device, const DeviceTimes& times, const Scale& x) {
  const double y = kTop + kPitch * static_cast<double>(device);
  std::string out = label(x.from - 8, y + kBar / 2 + 4, "end", fmt::format("device {}", device));
  double sum = 0;
  for (const Part& part : kParts) {
    const double seconds = times.*part.seconds, begin = x(sum);
    if (!(seconds > 0)) continue;
    sum += seconds;
    const std::string tooltip = fmt::format("device {}, {}: {:.4g} s, {:.1f} %", device, part.item.name,
                                            seconds, 100 * seconds / total(times));
    out += rect({begin, y, x(sum) - begin, kBar, part.item.colour, tooltip});
  }
  return out;
}

}  // namespace

std::string times_chart(std::span<const DeviceTimes> times) {
  double most = 0;
  for (const DeviceTimes& device : times) most = std::max(most, total(device));
  if (most <= 0) return "";
  const auto shown = times.first(std::min(times.size(), kMostDevices));
  const double bottom = kTop + kPitch * static_cast<double>(shown.size());
  constexpr double kWidth = 860;
  const Frame frame{kWidth, bottom + 44, 84, kWidth - 20, 4, bottom};
  const Scale axis = make_scale(0, most, {.from = frame.left, .to = frame.right, .ticks = 8});
  std::string drawing = horizontal_axis(axis, frame, "seconds of a step");
  for (std::size_t device = 0; device < shown.size(); ++device)
    drawing += bar(device, shown[device], {0, most, frame.left, frame.right, 1});
  const std::vector<DeviceTimes> all(times.begin(), times.end());
  std::string caption =
      fmt::format("The mean of the steps. Device {} computes longest, {:.1f} % above the mean.",
                  slowest_device(all), 100 * imbalance(all));
  if (shown.size() < times.size())
    caption += fmt::format(" The first {} of {} devices.", shown.size(), times.size());
  return figure(
      {"Where the time goes", caption, {kParts[0].item, kParts[1].item, kParts[2].item}, frame, drawing});
}

}  // namespace rondo::report
