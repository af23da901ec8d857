#pragma once
// Training over a ring: one device's part (Trainer) and the whole run (run_training).

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "rondo/comm/communicator_part.h"
#include "rondo/comm/device_group.h"
#include "rondo/model/transformer.h"
#include "rondo/train/checkpoint.h"
#include "rondo/train/corpus.h"
#include "rondo/train/device_times.h"
#include "rondo/train/evaluate.h"
#include "rondo/train/gradient_store.h"
#include "rondo/train/optimizer.h"
#include "rondo/train/recipe.h"
#include "rondo/train/report.h"
#include "rondo/train/sharding.h"
#include "rondo/train/weight_store.h"

namespace rondo {

/// How a recipe is carried out; changes speed and memory, not what is computed (but for rounding with another
/// number of devices, another layout or other forms).
struct ExecutionOptions {
  RingOptions ring;
  Layout layout = Layout::zigzag;
  Remat remat = Remat::attention;
  Exchange exchange = Exchange::copy;
  AttentionForm attention = AttentionForm::blockwise;  ///< the forms are those of TransformerOptions
  FeedForwardForm feed_forward = FeedForwardForm::blockwise;
  std::int64_t block_tokens = 512;
  /// What is divided over the devices of all replicas. One device alone divides nothing.
  Shard shard = Shard::none;
  /// Rings that each train on sequences of their own, with the same weights: devices r * (devices / replicas)
  /// and on are replica r. Divides the devices, and the recipe's sequences of a step.
  int replicas = 1;
  /// Tokens of segments, and where those are that are not worked on (TransformerOptions); for rings of one
  /// device.
  std::int64_t segment_tokens = 0;
  std::filesystem::path spill = {};
  FileSystem* spill_files = &system_files();
};

/// What a step did; but for seconds and times the same numbers on every device.
struct StepReport {
  std::int64_t step = 0, tokens = 0;
  double loss = 0;  ///< nats per scored token
  double learning_rate = 0, gradient_norm = 0;
  double seconds = 0;
  double flops = 0;                  ///< useful floating-point operations, all devices
  std::vector<std::int64_t> memory;  ///< peak of each device's ledger in bytes
  std::vector<DeviceTimes> times;    ///< of each device; they add up to this step's seconds
};

/// One device's part of a training run. All devices make the same calls.
class Trainer {
 public:
  Trainer(Context& context, Communicator& communicator, const ModelConfig& config,
          const TrainingRecipe& recipe, const ExecutionOptions& execution, const Corpus& corpus);

  /// New parameters from the recipe's seed, step 0.
  void initialise();
  /// Parameters of a model folder, step 0.
  void start_from(const std::filesystem::path& folder);
  /// A checkpoint's parameters, optimizer and step. It was verified.
  void resume(const std::filesystem::path& checkpoint, std::int64_t step);

  StepReport step();
  std::int64_t steps_done() const { return step_; }
  Evaluation evaluate(const Corpus& held_out, EvaluationOptions options);

  WeightStore& weights() { return weights_; }
  GradientStore& gradients() { return gradients_; }
  const ParameterTable& table() const { return table_; }
  /// What save_checkpoint() takes from this device. Valid until the next step.
  CheckpointSource checkpoint_source();
  /// Every device's ledger, by entry: collective.
  std::vector<DeviceMemory> memory();

 private:
  /// Where attention is cut in the sequence that begins at token `first` of the text, at the step at work.
  std::vector<std::int64_t> document_starts(std::int64_t first) const;
  /// The end of a step: sums over the devices what each knows of its own part.
  void gather(double loss, std::chrono::steady_clock::time_point begin, StepReport& report);
  /// Runs one of this replica's sequences of the step forward and backward; returns this device's loss in
  /// nats.
  double run_sequence(std::int64_t micro_step);
  /// Fills this device's part of all master weights: fill(bucket, elements of the flat buffer, values).
  void fill_weights(const std::function<void(std::size_t, const Range&, std::span<float>)>& fill);
  int replica() const { return communicator_->device() / ring_.devices(); }

  Context* context_;
  Communicator* communicator_;
  const ModelConfig* config_;
  TrainingRecipe recipe_;
  ExecutionOptions execution_;
  const Corpus* corpus_;
  ParameterTable table_;
  std::vector<Range> buckets_;
  ModelFlops flops_;
  CommunicatorPart part_;  ///< this device's replica
  Communicator& ring_;     ///< part_, or the communicator itself where there is one replica
  WeightStore weights_;
  GradientStore gradients_;
  Optimizer optimizer_;
  Transformer model_;
  SequenceOrder order_;
  std::int64_t step_ = 0;
  double pairs_ = 0;  // visible query-key pairs of the step, this device
};

/// A whole run.
struct TrainingRun {
  ModelConfig config;
  TrainingRecipe recipe;
  ExecutionOptions execution;
  const Corpus* corpus = nullptr;
  const Corpus* held_out = nullptr;  ///< null: no evaluation
  std::optional<std::filesystem::path> start_from, resume_from;
  bool resume_is_verified =
      false;                  ///< resume_from is what newest_checkpoint() found: not to be verified again
  std::filesystem::path out;  ///< where checkpoints go; empty: nowhere
  std::vector<std::string> data_paths, held_out_paths;  ///< recorded in checkpoints
  std::int64_t last_step = 0;  ///< stop after this step; 0: recipe.learning_rate.total_steps
  std::int64_t evaluate_every = 0, checkpoint_every = 0;  ///< steps; 0: at the end alone
  std::int64_t evaluation_windows = 4;                    ///< of an evaluation on the way; 0: all of the text
  std::int64_t final_evaluation_windows = 4;              ///< of the one at the end
  int keep = 2;                                           ///< checkpoints
  FileSystem* files = &system_files();                    ///< that checkpoints are written to
  /// Hands the observer the traces of all processes after so many steps, or at the end of a shorter run; 0:
  /// never. The same on all processes, which each have a trace in execution.ring.
  std::int64_t traced_steps = 0;
  /// Set from anywhere (a signal handler) to save and stop after the step at work.
  const std::atomic<bool>* stop = nullptr;
};

/// Called on device 0's thread, one at a time; in other processes than device 0's never. Empty functions are
/// left out.
struct TrainingObserver {
  std::function<void(const StepReport&)> on_step;
  std::function<void(std::int64_t step, const Evaluation&)> on_evaluation;
  std::function<void(const std::filesystem::path&)> on_checkpoint;
  std::function<void(const std::vector<ProcessTrace>&)> on_trace;
};

struct TrainingResult {
  std::int64_t steps_done = 0;
  bool stopped = false;  ///< by TrainingRun::stop
  std::vector<DeviceMemory> memory;
  std::optional<Evaluation> evaluation;  ///< the last one
  std::filesystem::path checkpoint;      ///< the last one written
};

/// Runs to the last step (or the stop), evaluating and saving on the way and at the end.
TrainingResult run_training(const TrainingRun& run, const TrainingObserver& observer);

/// The corpus' tokens as evaluate() takes them.
TokenSource token_source(const Corpus& corpus);

}  // namespace rondo
