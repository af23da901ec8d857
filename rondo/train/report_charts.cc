#include "rondo/train/report_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <string_view>
#include <vector>

#include "rondo/train/report_svg.h"
#include "rondo/train/report_units.h"

namespace rondo::report {
namespace {

// Together these keep a page below about 4000 elements.
constexpr std::size_t kMostDevices = 40;
constexpr std::size_t kMostMarkers = 60;
constexpr std::size_t kMostSpans = 1000;

constexpr double kWidth = 860;

// ---- Loss ----

struct Curve {
  std::vector<LossPoint> points;  ///< by step
  std::size_t left_out = 0;       ///< not finite
};

Curve finite_by_step(std::span<const LossPoint> points) {
  Curve curve;
  for (const LossPoint& point : points) {
    if (std::isfinite(point.loss_bits)) curve.points.push_back(point);
  }
  curve.left_out = points.size() - curve.points.size();
  std::stable_sort(curve.points.begin(), curve.points.end(),
                   [](const LossPoint& a, const LossPoint& b) { return a.step < b.step; });
  return curve;
}

/// Lowest and highest point of each pixel column, in order of step: looks like all of them drawn over each
/// other.
std::vector<LossPoint> thin_out(const std::vector<LossPoint>& points, const Scale& x) {
  const auto column = [&](const LossPoint& point) { return std::floor(x(static_cast<double>(point.step))); };
  std::vector<LossPoint> kept;
  for (std::size_t begin = 0, end = 0; begin < points.size(); begin = end) {
    std::size_t lowest = begin, highest = begin;
    for (end = begin; end < points.size() && column(points[end]) == column(points[begin]); ++end) {
      if (points[end].loss_bits < points[lowest].loss_bits) lowest = end;
      if (points[end].loss_bits > points[highest].loss_bits) highest = end;
    }
    kept.push_back(points[std::min(lowest, highest)]);
    if (lowest != highest) kept.push_back(points[std::max(lowest, highest)]);
  }
  return kept;
}

std::string polyline(const std::vector<LossPoint>& points, const Scale& x, const Scale& y,
                     std::string_view colour) {
  std::string path;
  for (const LossPoint& point : points)
    fmt::format_to(std::back_inserter(path), "{}{:.1f} {:.1f}", path.empty() ? 'M' : 'L',
                   x(static_cast<double>(point.step)), y(point.loss_bits));
  if (points.size() == 1) path += "h0.01";  // a line of no length still shows its round ends
  return fmt::format("<path class=\"curve\" stroke=\"{}\" d=\"{}\"/>\n", colour, path);
}

std::string markers(const std::vector<LossPoint>& points, const Scale& x, const Scale& y,
                    std::string_view colour) {
  std::string out;
  const std::size_t stride = (points.size() + kMostMarkers - 1) / kMostMarkers;
  for (std::size_t n = 0; n < points.size(); n += stride)
    fmt::format_to(
        std::back_inserter(out),
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"><title>step {}: {:.4f}</title></circle>\n",
        x(static_cast<double>(points[n].step)), y(points[n].loss_bits), colour, points[n].step,
        points[n].loss_bits);
  return out;
}

}  // namespace

std::string loss_chart(std::span<const LossPoint> train, std::span<const LossPoint> held_out) {
  constexpr std::string_view kTrainColour = "#3d7fd0", kHeldOutColour = "#dd7a1c";
  const Curve seen = finite_by_step(train), unseen = finite_by_step(held_out);
  double first = std::numeric_limits<double>::infinity(), last = -first, low = first, high = -first;
  for (const Curve* curve : {&seen, &unseen}) {
    for (const LossPoint& point : curve->points) {
      first = std::min(first, static_cast<double>(point.step));
      last = std::max(last, static_cast<double>(point.step));
      low = std::min(low, point.loss_bits);
      high = std::max(high, point.loss_bits);
    }
  }
  if (first > last) return "";

  const Frame frame{kWidth, 330, 64, kWidth - 20, 10, 286};
  const Scale x = make_scale(first, last, {.from = frame.left, .to = frame.right, .ticks = 8, .whole = true});
  const Scale y =
      make_scale(low, high, {.from = frame.bottom, .to = frame.top, .ticks = 6, .round_ends = true});
  std::string drawing = horizontal_axis(x, frame, "step") + vertical_axis(y, frame, "bits per byte");
  std::vector<LegendItem> legend;
  if (!seen.points.empty()) {
    drawing += polyline(thin_out(seen.points, x), x, y, kTrainColour);
    legend.push_back({kTrainColour, "training"});
  }
  if (!unseen.points.empty()) {
    drawing += polyline(thin_out(unseen.points, x), x, y, kHeldOutColour);
    drawing += markers(unseen.points, x, y, kHeldOutColour);
    legend.push_back({kHeldOutColour, "held out"});
  }
  const std::size_t left_out = seen.left_out + unseen.left_out;
  const std::string caption =
      left_out == 0 ? "" : fmt::format("{} values that are not finite are left out.", left_out);
  return figure({"Loss", caption, legend, frame, drawing});
}

// ---- Timeline ----

namespace {

struct Lane {
  const char* category;
  std::string_view colour;
};
constexpr std::array<Lane, 3> kLanes = {
    {{"compute", "#3d7fd0"}, {"exchange", "#dd9a1c"}, {"wait", "#c0455e"}}};
constexpr double kLanesTop = 8, kLaneHeight = 9, kLanePitch = 3 * kLaneHeight + 10;

/// One or more neighbouring events of a lane, in nanoseconds; `busy` is the time that they cover.
struct Span {
  std::int64_t begin = 0, end = 0, busy = 0, events = 0;
  const std::string* name = nullptr;
};

/// Events of one lane in order of time, those closer than `gap` as one.
std::vector<Span> merge_spans(std::vector<const TraceEvent*> events, std::int64_t gap) {
  std::stable_sort(events.begin(), events.end(),
                   [](const TraceEvent* a, const TraceEvent* b) { return a->begin_ns < b->begin_ns; });
  std::vector<Span> spans;
  for (const TraceEvent* event : events) {
    const std::int64_t begin = event->begin_ns, end = std::max(begin, event->end_ns);
    if (!spans.empty() && begin - spans.back().end < gap) {
      Span& last = spans.back();
      last.busy += std::max<std::int64_t>(end - std::max(begin, last.end), 0);
      last.end = std::max(last.end, end);
      ++last.events;
    } else {
      spans.push_back({begin, end, end - begin, 1, &event->name});
    }
  }
  return spans;
}

std::string span_tooltip(int device, const char* category, const Span& span) {
  const std::string what =
      span.events == 1 ? *span.name : fmt::format("{} events from {}", span.events, *span.name);
  return fmt::format("device {}, {}: {}, {}", device, category, what,
                     time_text(static_cast<double>(span.busy)));
}

using DeviceLanes = std::array<std::vector<const TraceEvent*>, kLanes.size()>;

using DeviceSpans = std::array<std::vector<Span>, kLanes.size()>;
struct Timeline {
  std::map<int, DeviceSpans> devices;
  std::int64_t gap = 0;  ///< events closer than this became one span
};

/// Draws events together only as far as it takes to have at most kMostSpans.
Timeline merge_timeline(const std::map<int, DeviceLanes>& devices, std::int64_t length) {
  Timeline timeline;
  for (std::int64_t gap = 0;; gap = std::max<std::int64_t>(2 * gap, length / 4000 + 1)) {
    timeline.gap = gap;
    std::size_t spans = 0;
    for (const auto& [device, lanes] : devices)
      for (std::size_t lane = 0; lane < kLanes.size(); ++lane) {
        timeline.devices[device][lane] = merge_spans(lanes[lane], gap);
        spans += timeline.devices[device][lane].size();
      }
    if (spans <= kMostSpans) return timeline;
  }
}

/// One rectangle per span, three lanes per device.
std::string draw_lanes(const Timeline& timeline, const Scale& x, std::int64_t origin) {
  std::string out;
  double y = kLanesTop;
  for (const auto& [device, lanes] : timeline.devices) {
    out += label(x.from - 8, y + 1.5 * kLaneHeight + 4, "end", fmt::format("device {}", device));
    for (std::size_t lane = 0; lane < kLanes.size(); ++lane)
      for (const Span& span : lanes[lane]) {
        const double from = x(static_cast<double>(span.begin - origin)),
                     to = x(static_cast<double>(span.end - origin));
        out +=
            rect({from, y + kLaneHeight * static_cast<double>(lane), std::max(to - from, 0.6),
                  kLaneHeight - 1, kLanes[lane].colour, span_tooltip(device, kLanes[lane].category, span)});
      }
    y += kLanePitch;
  }
  return out;
}

/// Events by device and lane; those of other categories are not drawn.
std::map<int, DeviceLanes> sort_into_lanes(std::span<const TraceEvent> events) {
  std::map<int, DeviceLanes> devices;
  for (const TraceEvent& event : events)
    for (std::size_t lane = 0; lane < kLanes.size(); ++lane)
      if (std::string_view(event.category) == kLanes[lane].category)
        devices[event.device][lane].push_back(&event);
  return devices;
}

}  // namespace

std::string timeline_chart(std::span<const TraceEvent> events) {
  std::map<int, DeviceLanes> devices = sort_into_lanes(events);
  const std::size_t all_devices = devices.size();
  if (all_devices == 0) return "";
  while (devices.size() > kMostDevices) devices.erase(std::prev(devices.end()));

  std::int64_t begin = std::numeric_limits<std::int64_t>::max(),
               end = std::numeric_limits<std::int64_t>::min();
  for (const auto& [device, lanes] : devices)
    for (const auto& lane : lanes)
      for (const TraceEvent* event : lane) {
        begin = std::min(begin, event->begin_ns);
        end = std::max({end, event->begin_ns, event->end_ns});
      }
  const double length = std::max(static_cast<double>(end - begin), 1.0);
  const double bottom = kLanesTop + kLanePitch * static_cast<double>(devices.size());
  const Frame frame{kWidth, bottom + 44, 84, kWidth - 20, 4, bottom};
  const Unit unit = time_unit(length);
  const Scale axis = make_scale(0, length / unit.size, {.from = frame.left, .to = frame.right, .ticks = 8});
  const Scale x{0, length, frame.left, frame.right, 1};
  const Timeline timeline = merge_timeline(devices, end - begin);
  const std::string drawing = horizontal_axis(axis, frame, unit.name) + draw_lanes(timeline, x, begin);
  std::vector<LegendItem> legend;
  for (const Lane& lane : kLanes) legend.push_back({lane.colour, lane.category});
  std::string caption;
  if (timeline.gap > 0)
    caption = fmt::format("Events of a lane that are less than {} apart are drawn as one.",
                          time_text(static_cast<double>(timeline.gap)));
  if (all_devices > devices.size())
    caption += fmt::format(" The first {} of {} devices.", devices.size(), all_devices);
  return figure({"One step over the ring", caption, legend, frame, drawing});
}

}  // namespace rondo::report
