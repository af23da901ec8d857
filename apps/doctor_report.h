#pragma once
// What `rondo doctor` says: as Markdown for people, as JSON for programs.

#include <cstdint>
#include <string>
#include <vector>

#include "rondo/plan/diagnose.h"
#include "rondo/plan/overlap.h"

namespace rondo::apps {

/// The model whose exchange is to be hidden.
struct DoctorModel {
  std::int64_t heads = 8, kv_heads = 2, head_dim = 32;
  DType dtype = DType::f32;
  std::int64_t context = 0;  ///< tokens of the whole sequence; 0: not asked
};

/// Tokens per device from which one pass hides its exchange.
struct DoctorNeed {
  const char* pass = "";
  const char* mask = "";
  double tokens = 0;
};

struct DoctorFindings {
  RingFindings ring;
  std::vector<Warning> warnings;
  DoctorModel model;
  HopModel slowest;               ///< fastest device, slowest hop; mask left open
  std::vector<DoctorNeed> needs;  ///< none on a ring of one
};

DoctorFindings judge(RingFindings ring, const DoctorModel& model);
std::string doctor_markdown(const DoctorFindings& found);
std::string doctor_json(const DoctorFindings& found);

}  // namespace rondo::apps
