#pragma once
// What `rondo plan` says: a table for people, one JSON object, a chart.

#include <cstdint>
#include <string>
#include <vector>

#include "rondo/plan/step_time.h"

namespace rondo::apps {

/// What a ring of so many devices reaches.
struct PlanPoint {
  int devices = 1;
  std::int64_t context = 0;  ///< longest that fits; 0: none
  double seconds = 0;        ///< of a step at that context, in closed form
  double mfu = 0;
};

struct PlanFindings {
  std::string model;  ///< as the user named it
  RunShape run;
  Hardware hardware;
  std::int64_t parameters = 0, limit = 0;
  LongestContext longest;
  bool asked = false;        ///< whether the context was asked for, else it is the longest
  std::int64_t context = 0;  ///< 0: nothing fits
  EntryBytes entries{};      ///< of the device that holds most, at that context
  std::int64_t peak = 0;
  double disk_bytes = 0;   ///< that --spill takes
  int fewest_devices = 0;  ///< with which the context fits; 0: not found
  StepTime time;           ///< where context > 0
  bool simulated = true;   ///< else in closed form
  std::vector<PlanPoint> points;

  bool fits() const { return context > 0 && peak <= limit; }
};

std::string plan_text(const PlanFindings& found);
std::string plan_json(const PlanFindings& found);
/// Longest context and step time against devices: an SVG picture.
std::string plan_chart(const PlanFindings& found);

/// Tables 2 and 3 of the Ring Attention paper, derived and reported.
std::string paper_text();
std::string paper_json();

}  // namespace rondo::apps
