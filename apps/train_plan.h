#pragma once
// From what `rondo train` is told to the run that is made of it, all of it checked before anything is
// written.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>

#include "apps/train_arguments.h"
#include "rondo/train/trainer.h"

namespace rondo::apps {

struct TrainPlan {
  TrainingRun run;
  std::unique_ptr<const Corpus> corpus, held_out;  ///< held_out: null without evaluation
  std::int64_t first_step = 0;                     ///< done before: the resumed checkpoint's
  std::string note;                                ///< lines for people; empty mostly
};

/// Throws ArgumentError or IoError naming the option or file that does not fit. A resumed run takes its
/// recipe and model from the checkpoint; options that were given must agree with it, but for --steps, which
/// may grow.
TrainPlan make_train_plan(const CLI::App& command, const TrainArguments& arguments);

}  // namespace rondo::apps
