#pragma once
// Numbers with units for the report's axes and tooltips.

#include <string>

namespace rondo::report {

struct Unit {
  double size;
  const char* name;
};

/// The largest unit in which `most` is 1 or more: bytes to TiB, ns to s.
Unit byte_unit(double most);
Unit time_unit(double most_ns);

std::string bytes_text(double bytes);
std::string time_text(double ns);

}  // namespace rondo::report
