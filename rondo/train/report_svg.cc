#include "rondo/train/report_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>

namespace rondo::report {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// Bytes of the well-formed UTF-8 sequence at the start of `text`; 0 where there is none (Unicode 15, table
/// 3-7).
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t n) { return n < text.size() ? static_cast<std::uint8_t>(text[n]) : 0u; };
  const auto continues = [&](std::size_t n) { return (byte(n) & 0xC0u) == 0x80u; };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  if (first < 0xE0) return continues(1) ? 2 : 0;
  if (first < 0xF0) {
    const bool overlong = first == 0xE0 && second < 0xA0, surrogate = first == 0xED && second > 0x9F;
    return continues(1) && continues(2) && !overlong && !surrogate ? 3 : 0;
  }
  const bool overlong = first == 0xF0 && second < 0x90, too_large = first == 0xF4 && second > 0x8F;
  return continues(1) && continues(2) && continues(3) && !overlong && !too_large ? 4 : 0;
}

/// 1, 2 or 5 times a power of ten, nearest above `raw`.
double round_step(double raw) {
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (raw <= factor * power * (1 + 1e-9)) return factor * power;
  return 10 * power;
}

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const char c = text[0];
    const bool control = length == 1 && ((c >= 0 && c < 0x20 && c != '\n' && c != '\t') || c == 0x7f);
    if (length == 0 || control) {
      out += kReplacement;
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\'') {
      out += "&#39;";
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return out;
}

std::vector<double> Scale::ticks() const {
  std::vector<double> ticks;
  const double first = std::ceil(low / step - 1e-9), last = std::floor(high / step + 1e-9);
  for (double n = first; n <= last; ++n) ticks.push_back(n * step);
  return ticks;
}

std::string Scale::label(double tick) const {
  const int decimals = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
  return fmt::format("{:.{}f}", tick == 0 ? 0.0 : tick, decimals);
}

Scale make_scale(double low, double high, const ScaleOptions& options) {
  // Where a difference is lost in rounding, so are ticks between.
  const double least = std::max(std::abs(low), std::abs(high)) * 1e-9;
  if (high - low <= least) {
    const double margin = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= options.whole ? std::max(margin, 1.0) : margin;
    high += options.whole ? std::max(margin, 1.0) : margin;
  }
  double step = round_step((high - low) / options.ticks);
  if (options.whole) step = std::max(step, 1.0);
  if (options.round_ends) {
    low = std::floor(low / step + 1e-9) * step;
    high = std::ceil(high / step - 1e-9) * step;
  }
  return {low, high, options.from, options.to, step};
}

std::string label(double x, double y, const char* anchor, std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     escape(text));
}

std::string horizontal_axis(const Scale& scale, const Frame& frame, std::string_view title) {
  std::string out;
  for (const double tick : scale.ticks()) {
    fmt::format_to(std::back_inserter(out), "<path class=\"grid\" d=\"M{0:.1f} {1:.1f}V{2:.1f}\"/>\n",
                   scale(tick), frame.top, frame.bottom);
    out += label(scale(tick), frame.bottom + 16, "middle", scale.label(tick));
  }
  return title.empty() ? out
                       : out + label((frame.left + frame.right) / 2, frame.bottom + 34, "middle", title);
}

std::string vertical_axis(const Scale& scale, const Frame& frame, std::string_view title) {
  std::string out;
  for (const double tick : scale.ticks()) {
    fmt::format_to(std::back_inserter(out), "<path class=\"grid\" d=\"M{1:.1f} {0:.1f}H{2:.1f}\"/>\n",
                   scale(tick), frame.left, frame.right);
    out += label(frame.left - 8, scale(tick) + 4, "end", scale.label(tick));
  }
  if (title.empty()) return out;
  const double y = (frame.top + frame.bottom) / 2;
  fmt::format_to(std::back_inserter(out),
                 "<text transform=\"translate(14 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n", y,
                 escape(title));
  return out;
}

std::string rect(const Rect& rect) {
  const std::string tooltip =
      rect.tooltip.empty() ? "" : fmt::format("<title>{}</title>", escape(rect.tooltip));
  const char* kind = rect.width < 3 ? " class=\"thin\"" : "";  // an outline would cover it
  return fmt::format(
      "<rect{} x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" fill=\"{}\">{}</rect>\n", kind,
      rect.x, rect.y, rect.width, rect.height, rect.fill, tooltip);
}

std::string figure(const Figure& figure) {
  std::string out = fmt::format("<figure>\n<h2>{}</h2>\n<div class=\"legend\">", escape(figure.title));
  for (const LegendItem& item : figure.legend)
    fmt::format_to(std::back_inserter(out), "<span><i style=\"background:{}\"></i>{}</span>", item.colour,
                   escape(item.name));
  fmt::format_to(std::back_inserter(out),
                 "</div>\n<div class=\"chart\"><svg viewBox=\"0 0 {0:.0f} {1:.0f}\" role=\"img\" "
                 "aria-label=\"{2}\">\n{3}</svg></div>\n",
                 figure.frame.width, figure.frame.height, escape(figure.title), figure.drawing);
  if (!figure.caption.empty())
    fmt::format_to(std::back_inserter(out), "<figcaption>{}</figcaption>\n", escape(figure.caption));
  return out + "</figure>\n";
}

}  // namespace rondo::report
