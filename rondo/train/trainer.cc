#include "rondo/train/trainer.h"

#include <algorithm>
#include <chrono>

#include "rondo/model/hf_folder.h"
#include "rondo/text/byte_tokenizer.h"

namespace rondo {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Sequences of a stream: each needs its successor token as the last label.
std::int64_t sequences_in(const Corpus& corpus, std::int64_t context) {
  check_argument(
      corpus.tokens() > context, "train",
      "expected a text longer than the context of {} tokens, got {} tokens; use a smaller --ctx-size",
      context, corpus.tokens());
  return (corpus.tokens() - 1) / context;
}

TransformerOptions transformer_options(const TrainingRecipe& recipe, const ExecutionOptions& execution) {
  return {.dtype = recipe.dtype,
          .remat = execution.remat,
          .exchange = execution.exchange,
          .block_tokens = execution.block_tokens};
}

}  // namespace

TokenSource token_source(const Corpus& corpus) {
  return {.tokens = corpus.tokens(),
          .read = [&corpus](std::int64_t first, std::span<std::int32_t> ids) { corpus.read(first, ids); },
          .first_special = ByteTokenizer::kBos};
}

Trainer::Trainer(Context& context, Communicator& communicator, const ModelConfig& config,
                 const TrainingRecipe& recipe, const ExecutionOptions& execution, const Corpus& corpus)
    : context_(&context),
      communicator_(&communicator),
      config_(&config),
      recipe_(recipe),
      execution_(execution),
      corpus_(&corpus),
      table_(config),
      flops_(model_flops(config)),
      optimizer_(context, table_, recipe.dtype, recipe.optimizer),
      gradient_sum_(context, communicator, table_, optimizer_.gradients()),
      model_(context, communicator, config, table_, transformer_options(recipe, execution)),
      order_(sequences_in(corpus, recipe.context), recipe.seed) {
  check_argument(recipe.sequences_per_step >= 1, "train", "expected at least 1 sequence a step, got {}",
                 recipe.sequences_per_step);
  check_argument(recipe.context_warmup >= 0 && recipe.context_warmup <= 1, "train",
                 "expected a context warm-up of 0 to 1 of the steps, got {}", recipe.context_warmup);
}

void Trainer::initialise() {
  rondo::initialise(table_, *config_, recipe_.seed, optimizer_.parameters());
  optimizer_.parameters_changed();
  step_ = 0;
}

void Trainer::start_from(const std::filesystem::path& folder) {
  load_model_folder(folder).fill(optimizer_.parameters());
  optimizer_.parameters_changed();
  step_ = 0;
}

void Trainer::resume(const std::filesystem::path& checkpoint, std::int64_t step) {
  load_training_tensors(checkpoint, table_, tensors());
  optimizer_.parameters_changed();
  step_ = step;
}

CheckpointSource Trainer::checkpoint_source() const {
  return rondo::checkpoint_source(table_, tensors(), {communicator_->devices(), communicator_->device()});
}

std::vector<std::int64_t> Trainer::document_starts(std::int64_t first) const {
  std::vector<std::int64_t> starts;
  if (recipe_.separate_documents) starts = corpus_->document_starts(first, recipe_.context);
  const std::int64_t reach = reach_at(recipe_, step_ + 1);
  if (reach == recipe_.context) return starts;
  for (std::int64_t start = 0; start < recipe_.context; start += reach) starts.push_back(start);
  std::sort(starts.begin(), starts.end());
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
  return starts;
}

double Trainer::run_sequence(std::int64_t sequence, std::int64_t micro_step) {
  const std::int64_t context = recipe_.context, first = sequence * context;
  SequencePlan plan{.tokens = context,
                    .devices = communicator_->devices(),
                    .layout = execution_.layout,
                    .document_starts = {},
                    .weights = {}};
  plan.document_starts = document_starts(first);
  model_.prepare(plan, true);
  const auto [ids, labels, losses] = model_.token_memory();
  read_shard(token_source(*corpus_), first, model_.places(), ids, labels);
  pairs_ += static_cast<double>(count_pairs(model_.ring().schedule()));
  std::function<void(Range)> ready;
  if (micro_step == recipe_.sequences_per_step - 1)
    ready = [this](Range bucket) { gradient_sum_.ready(bucket); };
  return model_.forward_backward(
      {.weights = optimizer_.compute_weights(),
       .gradients = optimizer_.gradients().data(),
       .ids = ids,
       .labels = labels,
       .gradient_scale = 1.0f / static_cast<float>(recipe_.sequences_per_step * context),
       .dropout_seed = mix64(recipe_.seed ^ mix64(static_cast<std::uint64_t>(micro_step))),
       .optimizer_step = static_cast<std::uint64_t>(step_),
       .gradients_ready = std::move(ready)});
}

StepReport Trainer::step() {
  const auto begin = Clock::now();
  context_->times.take();  // what was waited for before this step
  communicator_->begin_step(step_ + 1);
  const std::int64_t micro_steps = recipe_.sequences_per_step, tokens = micro_steps * recipe_.context;
  optimizer_.clear_gradients();
  pairs_ = 0;
  double loss = 0;
  for (std::int64_t micro = 0; micro < micro_steps; ++micro)
    loss += run_sequence(order_.at(step_ * micro_steps + micro), micro);
  gradient_sum_.finish();

  StepReport report{.step = step_ + 1, .tokens = tokens};
  report.learning_rate = recipe_.learning_rate.at(report.step);
  report.gradient_norm = optimizer_.step(report.step, report.learning_rate).gradient_norm;
  step_ = report.step;

  gather(loss, begin, report);
  return report;
}

void Trainer::gather(double loss, Clock::time_point begin, StepReport& report) {
  // All travels in one sum, into which each device puts its own numbers at its own place.
  enum Own : std::size_t { kMemory, kCompute, kExchange, kOwn };
  constexpr std::size_t kCommon = 2;
  const auto devices = static_cast<std::size_t>(communicator_->devices());
  std::vector<double> sums(kCommon + kOwn * devices);
  const auto of = [&](std::size_t device, Own what) -> double& {
    return sums[kCommon + kOwn * device + what];
  };
  const auto me = static_cast<std::size_t>(context_->device);
  const TimeAccount::Times times = context_->times.take();
  sums[0] = loss;
  sums[1] = pairs_;
  of(me, kMemory) = static_cast<double>(context_->ledger.peak_total());
  of(me, kExchange) = static_cast<double>(times.exchange_ns) / 1e9;
  of(me, kCompute) = seconds_since(begin) - static_cast<double>(times.exchange_ns + times.wait_ns) / 1e9;
  communicator_->all_reduce_sum(std::span<double>(sums));
  report.loss = sums[0] / static_cast<double>(report.tokens);
  report.flops = flops_.training(static_cast<double>(report.tokens), sums[1]);
  report.seconds = seconds_since(begin);
  for (std::size_t device = 0; device < devices; ++device) {
    report.memory.push_back(static_cast<std::int64_t>(of(device, kMemory)));
    // Waiting is what remains: so it holds the wait for this very sum, of which nobody could tell in it.
    const double compute = of(device, kCompute), exchange = of(device, kExchange);
    report.times.push_back({compute, exchange, std::max(0.0, report.seconds - compute - exchange)});
  }
}

Evaluation Trainer::evaluate(const Corpus& held_out, const EvaluationOptions& options) {
  return rondo::evaluate(*communicator_, model_, optimizer_.compute_weights(), token_source(held_out),
                         options);
}

std::vector<DeviceMemory> Trainer::memory() {
  constexpr auto entries = static_cast<std::size_t>(Entry::count);
  const auto devices = static_cast<std::size_t>(communicator_->devices());
  std::vector<double> peaks(entries * devices);
  for (std::size_t e = 0; e < entries; ++e)
    peaks[static_cast<std::size_t>(context_->device) * entries + e] =
        static_cast<double>(context_->ledger.peak(static_cast<Entry>(e)));
  communicator_->all_reduce_sum(std::span<double>(peaks));
  std::vector<DeviceMemory> all;
  for (std::size_t device = 0; device < devices; ++device) {
    DeviceMemory memory{.device = static_cast<int>(device), .entries = {}};
    for (std::size_t e = 0; e < entries; ++e) {
      const auto bytes = static_cast<std::int64_t>(peaks[device * entries + e]);
      if (bytes > 0) memory.entries.emplace_back(static_cast<Entry>(e), bytes);
    }
    all.push_back(std::move(memory));
  }
  return all;
}

}  // namespace rondo
