#pragma once
// The small drawing vocabulary of the report's charts.

#include <string>
#include <string_view>
#include <vector>

namespace rondo::report {

/// Text for HTML content and attribute values: markup escaped, control characters and bytes that are not
/// UTF-8 replaced.
std::string escape(std::string_view text);

/// Maps data to pixels on a straight line and knows round numbers to label.
struct Scale {
  double low = 0, high = 1;  ///< data at the two ends
  double from = 0, to = 1;   ///< pixels at the two ends
  double step = 1;           ///< between ticks: 1, 2 or 5 times a power of ten

  double operator()(double value) const { return from + (value - low) / (high - low) * (to - from); }
  std::vector<double> ticks() const;
  std::string label(double tick) const;
};

struct ScaleOptions {
  double from = 0, to = 1;  ///< pixels
  int ticks = 6;            ///< about how many
  bool round_ends = false;  ///< widen the data's range to the ticks around it
  bool whole = false;       ///< no ticks between whole numbers
};
/// For finite numbers of ordinary size; an empty range (low == high) is widened.
Scale make_scale(double low, double high, const ScaleOptions& options);

/// Where a chart's data is drawn, in pixels.
struct Frame {
  double width = 0, height = 0;  ///< of the whole picture
  double left = 0, right = 0, top = 0, bottom = 0;
};

/// Grid lines with labels below, and the axis title, if any, under them.
std::string horizontal_axis(const Scale& scale, const Frame& frame, std::string_view title);
/// Grid lines with labels to the left, and the axis title, if any, along them.
std::string vertical_axis(const Scale& scale, const Frame& frame, std::string_view title);

struct Rect {
  double x = 0, y = 0, width = 0, height = 0;
  std::string_view fill;     ///< a CSS colour
  std::string_view tooltip;  ///< shown while pointed at; escaped here
};
std::string rect(const Rect& rect);
/// `anchor` is start, middle or end.
std::string label(double x, double y, const char* anchor, std::string_view text);

struct LegendItem {
  std::string_view colour, name;
};
struct Figure {
  std::string_view title, caption;
  std::vector<LegendItem> legend;
  Frame frame;
  std::string_view drawing;
};
/// An HTML figure around an SVG drawing.
std::string figure(const Figure& figure);

}  // namespace rondo::report
