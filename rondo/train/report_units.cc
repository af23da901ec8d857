#include "rondo/train/report_units.h"

#include <fmt/format.h>

namespace rondo::report {

namespace {

std::string with_unit(double value, const Unit& unit) {
  const double scaled = value / unit.size;
  return fmt::format("{:.{}f} {}", scaled, unit.size == 1 || scaled >= 100 ? 0 : 2, unit.name);
}

}  // namespace

Unit byte_unit(double most) {
  Unit unit{1, "bytes"};
  for (const Unit larger :
       {Unit{0x1p10, "KiB"}, Unit{0x1p20, "MiB"}, Unit{0x1p30, "GiB"}, Unit{0x1p40, "TiB"}})
    if (most >= larger.size) unit = larger;
  return unit;
}

Unit time_unit(double most_ns) {
  Unit unit{1, "ns"};
  for (const Unit larger : {Unit{1e3, "\u00b5s"}, Unit{1e6, "ms"}, Unit{1e9, "s"}})
    if (most_ns >= larger.size) unit = larger;
  return unit;
}

std::string bytes_text(double bytes) { return with_unit(bytes, byte_unit(bytes)); }
std::string time_text(double ns) { return with_unit(ns, time_unit(ns)); }

}  // namespace rondo::report
