#pragma once
// The HTML report of a finished (or stopped) run.

#include <filesystem>
#include <optional>
#include <string>

#include "apps/train_observer.h"
#include "apps/train_plan.h"

namespace rondo::apps {

/// What is known at the end beside the metrics.
struct TrainSummary {
  TrainingResult result;
  double peak_flops = 0;
  std::optional<double> bigram_bits;  ///< held-out bits per byte of the byte-bigram model
  std::string sample;
};

/// Curves are those of the whole metrics.jsonl, steps before a resumption included.
void write_train_report(const std::filesystem::path& file, const TrainPlan& plan, const TrainWatch& watch,
                        const TrainSummary& summary);

}  // namespace rondo::apps
