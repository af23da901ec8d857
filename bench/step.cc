#include "bench/step.h"

#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>

#include "bench/arguments.h"
#include "bench/peak_meter.h"
#include "bench/team.h"
#include "bench/verify.h"
#include "rondo/core/random.h"
#include "rondo/io/file_error.h"
#include "rondo/kernels/peak.h"
#include "rondo/reference/convert.h"
#include "rondo/reference/llama.h"

namespace rondo::bench {

namespace {

namespace fs = std::filesystem;

constexpr double kBudget = 2e9;  // operations of the comparison

/// A text of bytes without any meaning, long enough for one sequence; its file is gone once it is open.
Corpus made_up_text(std::int64_t tokens) {
  std::string folder = (fs::temp_directory_path() / "rondo-bench-XXXXXX").string();
  check_file(::mkdtemp(folder.data()) != nullptr, "bench", folder,
             "expected a folder for temporary files, got: {}", errno_text(errno));
  const fs::path file = fs::path(folder) / "text";
  std::string text;
  for (std::int64_t n = 0; n < tokens; ++n)
    text += static_cast<char>(' ' + mix64(static_cast<std::uint64_t>(n)) % 95);
  std::ofstream(file, std::ios::binary) << text;
  try {
    Corpus corpus = Corpus::open({file});
    fs::remove_all(folder);
    return corpus;
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    throw;
  }
}

TrainingRecipe recipe_of(const StepCase& what) {
  TrainingRecipe recipe{.context = what.ctx, .dtype = what.dtype};
  recipe.learning_rate.peak = 1e-4;
  recipe.learning_rate.total_steps = std::int64_t{1} << 40;
  return recipe;
}

/// A trainer on every device of a ring that waits between steps.
class StepWork {
 public:
  explicit StepWork(const StepCase& what)
      : what_(what),
        corpus_(made_up_text(what.ctx)),
        team_(what.execution.ring),
        trainers_(static_cast<std::size_t>(what.execution.ring.devices)) {
    team_.run([this](Context& context, Communicator& communicator) {
      auto& trainer = trainers_[static_cast<std::size_t>(context.device)];
      trainer = std::make_unique<Trainer>(context, communicator, what_.model, recipe_of(what_),
                                          what_.execution, corpus_);
      trainer->initialise();
    });
  }

  void run(int repeats) {
    team_.run([&](Context& context, Communicator&) {
      Trainer& trainer = *trainers_[static_cast<std::size_t>(context.device)];
      for (int n = 0; n < repeats; ++n) {
        const StepReport report = trainer.step();
        if (context.device == 0) loss_ = report.loss;
      }
    });
  }

  /// One step against the reference of what it began with.
  double error_of_first_step();
  const ParameterTable& table() const { return trainers_.front()->table(); }
  Team& team() { return team_; }

 private:
  std::vector<double> values_of(const ParameterInfo& info, std::span<const float> flat) const {
    const auto begin = flat.begin() + info.offset;
    return {begin, begin + info.elements()};
  }
  reference::LlamaInput input() const {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(what_.ctx + 1));
    corpus_.read(0, ids);
    return {.tokens = {ids.begin(), ids.end() - 1},
            .labels = {ids.begin() + 1, ids.end()},
            .document_starts = {}};
  }

  StepCase what_;
  Corpus corpus_;
  Team team_;
  std::vector<std::unique_ptr<Trainer>> trainers_;
  double loss_ = 0;
};

reference::LlamaConfig reference_config(const ModelConfig& model) {
  return {.vocabulary = model.vocabulary,
          .width = model.width,
          .ffn = model.ffn,
          .layers = model.layers,
          .q_heads = model.q_heads,
          .kv_heads = model.kv_heads,
          .head_dim = model.head_dim,
          .epsilon = model.rms_epsilon,
          .frequencies = {},
          .theta = model.rope_theta,
          .tied_embedding = model.tied_embedding,
          .window = model.sliding_window};
}

double StepWork::error_of_first_step() {
  Trainer& trainer = *trainers_.front();
  reference::Parameters parameters;
  for (const ParameterInfo& info : table().infos())
    parameters[info.name] = reference::rounded(values_of(info, trainer.weights().flat()), what_.dtype);
  run(1);
  const auto config = reference_config(what_.model);
  const double tokens = static_cast<double>(what_.ctx);
  const double loss = reference::llama_forward(config, parameters, input()).loss_sum / tokens;
  const auto expected = reference::llama_backward(config, parameters, input(), 1 / tokens);
  Comparison of_loss, of_gradients;
  of_loss.add({loss_}, {loss});
  for (const ParameterInfo& info : table().infos())
    of_gradients.add(values_of(info, trainer.gradients().flat()), expected.at(info.name));
  return std::max(of_loss.relative(), of_gradients.relative());
}

/// The same widths in little time: two layers at most, a few tokens, several blocks of them.
StepCase short_case(StepCase what) {
  what.model.layers = std::min<std::int64_t>(what.model.layers, 2);
  const double per_token = 3 * model_flops(what.model).linear_per_token;
  what.ctx = std::clamp(static_cast<std::int64_t>(kBudget / per_token), std::min<std::int64_t>(what.ctx, 4),
                        std::min<std::int64_t>(what.ctx, 48));
  what.model.sliding_window = std::min(what.model.sliding_window, std::max<std::int64_t>(1, what.ctx / 3));
  what.execution.block_tokens = std::min<std::int64_t>(what.execution.block_tokens, 16);
  return what;
}

Mask mask_of_case(const StepCase& what) { return {.causal = true, .window = what.model.sliding_window}; }

}  // namespace

double step_flops(const StepCase& what) {
  return model_flops(what.model)
      .training(static_cast<double>(what.ctx), counted_pairs(mask_of_case(what), what.ctx));
}

Row bench_step(const StepCase& what, const MeasureOptions& options) {
  const double error = StepWork(short_case(what)).error_of_first_step();
  require_small(error, what.dtype, "a training step");
  StepWork work(what);
  const PeakMeter peak(work.team(), what.dtype, options.peak_time);
  const Runs runs = measure(options, {[&](int repeats) { work.run(repeats); }}, peak).front();
  const ModelConfig& model = what.model;
  const RingOptions& ring = what.execution.ring;
  Row row = with_rates({.bench = "step",
                        .pass = "both",
                        .dtype = short_name(what.dtype),
                        .head_dim = model.head_dim,
                        .heads = model.q_heads,
                        .kv_heads = model.kv_heads,
                        .ctx = what.ctx,
                        .mask = name_of(mask_of_case(what)),
                        .layout = rondo::name_of(what.execution.layout),
                        .devices = ring.devices,
                        .threads = ring.threads,
                        .isa = kernels::tier_name(ring.isa),
                        .max_rel_error = error},
                       runs, step_flops(what));
  row.more = {{"layers", model.layers},
              {"width", model.width},
              {"ffn", model.ffn},
              {"parameters", work.table().parameters()},
              {"remat", name_of(what.execution.remat)},
              {"exchange", name_of(what.execution.exchange)},
              {"attention", name_of(what.execution.attention)},
              {"feedforward", name_of(what.execution.feed_forward)},
              {"tokens_per_second", static_cast<double>(what.ctx) / row.seconds_median}};
  return row;
}

}  // namespace rondo::bench
