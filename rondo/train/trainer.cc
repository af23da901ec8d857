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
          .attention = execution.attention,
          .feed_forward = execution.feed_forward,
          .block_tokens = execution.block_tokens,
          .segment_tokens = execution.segment_tokens,
          .spill = execution.spill,
          .spill_files = execution.spill_files};
}

/// Of one device there is nothing to divide.
Shard shard_of(const Communicator& communicator, const ExecutionOptions& execution) {
  return communicator.devices() == 1 ? Shard::none : execution.shard;
}

CommunicatorPart replica_of(Communicator& communicator, int replicas) {
  check_argument(replicas >= 1 && communicator.devices() % replicas == 0, "train",
                 "expected replicas that divide the {} devices, got {}", communicator.devices(), replicas);
  const int devices = communicator.devices() / replicas;
  return {communicator, communicator.device() / devices * devices, devices};
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
      buckets_(table_.buckets()),
      flops_(model_flops(config)),
      part_(replica_of(communicator, execution.replicas)),
      ring_(execution.replicas == 1 ? communicator : part_),
      weights_(context, communicator, table_, recipe.dtype, shard_of(communicator, execution)),
      gradients_(context, communicator, table_, shard_of(communicator, execution)),
      optimizer_(context, communicator, table_, weights_, gradients_, recipe.optimizer),
      model_(context, ring_, config, table_, transformer_options(recipe, execution)),
      order_(sequences_in(corpus, recipe.context), recipe.seed) {
  check_argument(recipe.sequences_per_step >= 1 && recipe.sequences_per_step % execution.replicas == 0,
                 "train", "expected a multiple of {} sequences a step, one for each replica, got {}",
                 execution.replicas, recipe.sequences_per_step);
  check_argument(recipe.context_warmup >= 0 && recipe.context_warmup <= 1, "train",
                 "expected a context warm-up of 0 to 1 of the steps, got {}", recipe.context_warmup);
}

void Trainer::fill_weights(const std::function<void(std::size_t, const Range&, std::span<float>)>& fill) {
  weights_.begin_change();
  for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    fill(bucket, weights_.owned().flat(bucket), weights_.master(bucket));
    weights_.changed(bucket);
  }
  weights_.end_change();
}

void Trainer::initialise() {
  fill_weights([&](std::size_t, const Range& elements, std::span<float> values) {
    initialise_part(table_, *config_, recipe_.seed, elements, values);
  });
  step_ = 0;
}

void Trainer::start_from(const std::filesystem::path& folder) {
  const LoadedModel model = load_model_folder(folder);
  fill_weights(
      [&](std::size_t, const Range& elements, std::span<float> values) { model.read(elements, values); });
  step_ = 0;
}

void Trainer::resume(const std::filesystem::path& checkpoint, std::int64_t step) {
  const SavedTensors saved(checkpoint, table_);
  fill_weights([&](std::size_t bucket, const Range& elements, std::span<float> values) {
    saved.read(elements, {.parameters = values,
                          .first_moment = optimizer_.moment(Moment::first, bucket),
                          .second_moment = optimizer_.moment(Moment::second, bucket)});
  });
  step_ = step;
}

CheckpointSource Trainer::checkpoint_source() {
  return {.parameters =
              [this](std::size_t bucket) { return weights_.gather_master(bucket, gradients_.idle(bucket)); },
          .moments = [this](Moment moment, std::size_t bucket) -> std::span<const float> {
            const Range part =
                owned_part(buckets_[bucket], communicator_->devices(), communicator_->device());
            const Range held = weights_.owned().flat(bucket);  // part, or all of the bucket
            return optimizer_.moment(moment, bucket)
                .subspan(static_cast<std::size_t>(part.begin - held.begin),
                         static_cast<std::size_t>(part.size()));
          }};
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

double Trainer::run_sequence(std::int64_t micro_step) {
  const std::int64_t context = recipe_.context, in_step = recipe_.sequences_per_step;
  const std::int64_t own = in_step / execution_.replicas, place = own * replica() + micro_step;
  const std::int64_t first = order_.at(step_ * in_step + place) * context;
  SequencePlan plan{.tokens = context,
                    .devices = ring_.devices(),
                    .layout = execution_.layout,
                    .document_starts = {},
                    .weights = {}};
  plan.document_starts = document_starts(first);
  model_.prepare(plan, true);
  const auto [ids, labels, losses] = model_.token_memory();
  read_shard(token_source(*corpus_), first, model_.places(), ids, labels);
  pairs_ += static_cast<double>(count_pairs(model_.schedule()));
  return model_.forward_backward(
      {.weights = weights_.reader(),
       .gradients = gradients_.writer(micro_step == own - 1),
       .ids = ids,
       .labels = labels,
       .gradient_scale = 1.0f / static_cast<float>(in_step * context),
       .dropout_seed = mix64(recipe_.seed ^ mix64(static_cast<std::uint64_t>(place))),
       .optimizer_step = static_cast<std::uint64_t>(step_)});
}

StepReport Trainer::step() {
  const auto begin = Clock::now();
  context_->times.take();  // what was waited for before this step
  communicator_->begin_step(step_ + 1);
  gradients_.clear();
  pairs_ = 0;
  double loss = 0;
  for (std::int64_t micro = 0; micro < recipe_.sequences_per_step / execution_.replicas; ++micro)
    loss += run_sequence(micro);
  gradients_.finish();

  StepReport report{.step = step_ + 1, .tokens = recipe_.sequences_per_step * recipe_.context};
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

Evaluation Trainer::evaluate(const Corpus& held_out, EvaluationOptions options) {
  options.replicas = execution_.replicas;
  options.replica = replica();
  const Evaluation result =
      rondo::evaluate(*communicator_, model_, weights_.reader(), token_source(held_out), options);
  weights_.end_passes();
  return result;
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
