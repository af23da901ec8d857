// The chart of `rondo plan`: longest context and step time against devices, both axes logarithmic.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "apps/options.h"
#include "apps/plan_report.h"
#include "rondo/train/report_svg.h"

namespace rondo::apps {

namespace {

using report::escape;
using report::label;

constexpr double kWidth = 880, kPanel = 260, kLeft = 90, kRight = 840;

/// Powers of ten between pixels.
struct LogAxis {
  double low, high, from, to;  ///< low and high: exponents
  double operator()(double value) const {
    return from + (std::log10(value) - low) / (high - low) * (to - from);
  }
};

LogAxis log_axis(double least, double most, double from, double to) {
  const double low = std::floor(std::log10(least) + 1e-9);
  return {low, std::max(low + 1, std::ceil(std::log10(most) - 1e-9)), from, to};
}

std::string tokens_label(double exponent) { return format_rate(std::pow(10, exponent)); }

std::string seconds_label(double exponent) {
  if (exponent < 0) return fmt::format("{:.0f} ms", std::pow(10, exponent + 3));
  const double seconds = std::pow(10, exponent);
  if (exponent < 4) return fmt::format("{:.0f} s", seconds);
  return seconds < 864000 ? fmt::format("{:.0f} h", seconds / 3600)
                          : fmt::format("{:.0f} d", seconds / 86400);
}

struct Panel {
  const char* title;
  double top;
  double PlanPoint::*number;  ///< or null: the context
  std::string (*name)(double exponent);
};

double value_of(const PlanPoint& point, const Panel& panel) {
  return panel.number != nullptr ? point.*panel.number : static_cast<double>(point.context);
}

std::string draw(const std::vector<PlanPoint>& points, const Panel& panel) {
  double least = 1e300, most = 0;
  for (const PlanPoint& point : points)
    least = std::min(least, value_of(point, panel)), most = std::max(most, value_of(point, panel));
  const double bottom = panel.top + kPanel;
  const LogAxis x = log_axis(1, points.back().devices, kLeft, kRight),
                y = log_axis(least, most, bottom, panel.top);
  std::string out = label(kLeft, panel.top - 12, "start", panel.title);
  for (double tick = x.low; tick <= x.high; ++tick) {
    const double at = x(std::pow(10, tick));
    fmt::format_to(std::back_inserter(out), "<path class=\"grid\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>\n", at,
                   panel.top, bottom);
    out += label(at, bottom + 16, "middle", fmt::format("{:.0f}", std::pow(10, tick)));
  }
  const double every = std::max(1.0, std::ceil((y.high - y.low) / 7));
  for (double tick = y.low; tick <= y.high; tick += every) {
    const double at = y(std::pow(10, tick));
    fmt::format_to(std::back_inserter(out), "<path class=\"grid\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>\n", kLeft, at,
                   kRight);
    out += label(kLeft - 8, at + 4, "end", panel.name(tick));
  }
  std::string line;
  for (const PlanPoint& point : points)
    fmt::format_to(std::back_inserter(line), "{}{:.1f} {:.1f}", line.empty() ? "M" : "L", x(point.devices),
                   y(value_of(point, panel)));
  out += fmt::format("<path class=\"line\" d=\"{}\"/>\n", line);
  for (const PlanPoint& point : points)
    fmt::format_to(std::back_inserter(out),
                   "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"><title>{} devices: {} tokens, {:.3g} "
                   "s</title></circle>\n",
                   x(point.devices), y(value_of(point, panel)), point.devices, point.context, point.seconds);
  return out + label((kLeft + kRight) / 2, bottom + 34, "middle", "devices");
}

}  // namespace

std::string plan_chart(const PlanFindings& found) {
  std::vector<PlanPoint> points;
  for (const PlanPoint& point : found.points)
    if (point.context > 0) points.push_back(point);
  const double height = 2 * kPanel + 230;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<style>.grid{{stroke:#ddd;fill:none}}.line{{stroke:#2563a8;stroke-width:2;fill:"
      "none}}"
      "circle{{fill:#2563a8}}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      kWidth, height);
  out += fmt::format(
      "<text x=\"{:.0f}\" y=\"26\" font-size=\"14\">{}</text>\n", kLeft,
      escape(fmt::format("{} on {}: {}, {}, --remat {}, --shard {}, {} a device", found.model,
                         found.hardware.name, name_of(found.run.purpose), name_of(found.run.dtype),
                         name_of(found.run.remat), name_of(found.run.shard),
                         format_bytes(static_cast<double>(found.limit)))));
  if (points.empty())
    return out + label(kLeft, 80, "start", "no context fits on any number of devices") + "</svg>\n";
  const char* time = found.run.purpose == Purpose::train ? "time of a step at that context"
                                                         : "time to go through that context";
  out += draw(points, {"longest context, tokens", 70, nullptr, tokens_label});
  out += draw(points, {time, kPanel + 150, &PlanPoint::seconds, seconds_label});
  return out + "</svg>\n";
}

}  // namespace rondo::apps
