#include <algorithm>
#include <array>
#include <optional>

#include "rondo/comm/trace_gathering.h"
#include "rondo/train/trainer.h"

namespace rondo {

namespace {

constexpr std::size_t kMostTracedEvents = 300'000;  // of all processes: a file of some 50 MB

/// One device's loop; device 0 also talks to the observer.
class RunLoop {
 public:
  RunLoop(const TrainingRun& run, const TrainingObserver& observer, Context& context,
          Communicator& communicator, TrainingResult& result)
      : run_(run),
        observer_(observer),
        communicator_(communicator),
        result_(result),
        leads_(context.device == 0),
        reports_(run.execution.ring.is_first_here(context.device)),
        trainer_(context, communicator, run.config, run.recipe, run.execution, *run.corpus) {}

  void operator()() {
    start();
    const std::int64_t last = run_.last_step > 0 ? run_.last_step : run_.recipe.learning_rate.total_steps;
    std::int64_t saved = run_.resume_from ? trainer_.steps_done() : -1, evaluated = -1;
    bool stopped = stop_asked();
    while (trainer_.steps_done() < last && !stopped) {
      const StepReport report = trainer_.step();
      if (leads_ && observer_.on_step) observer_.on_step(report);
      if (--steps_to_trace_ == 0) hand_over_traces();
      const std::int64_t step = report.step;
      if (step == last) break;  // a stop that comes now finds the run finished
      stopped = stop_asked();
      if (stopped) break;
      if (run_.evaluate_every > 0 && step % run_.evaluate_every == 0)
        evaluate(run_.evaluation_windows), evaluated = step;
      if (run_.checkpoint_every > 0 && step % run_.checkpoint_every == 0) save(), saved = step;
    }
    hand_over_traces();
    // After Ctrl-C the save comes first and nothing long follows it.
    if (saved != trainer_.steps_done()) save();
    if (!stopped && evaluated != trainer_.steps_done()) evaluate(run_.final_evaluation_windows);
    const std::vector<DeviceMemory> memory = trainer_.memory();
    if (!reports_) return;
    result_.steps_done = trainer_.steps_done();
    result_.stopped = stopped;
    result_.memory = memory;
  }

 private:
  void start() {
    if (run_.execution.ring.processes && !run_.out.empty())
      check_shared_folder(communicator_, {.run = run_.out, .files = run_.files});
    if (run_.resume_from) {
      if (!run_.resume_is_verified) verify_checkpoint(communicator_, *run_.resume_from);
      trainer_.resume(*run_.resume_from, read_training_state(*run_.resume_from).step);
    } else if (run_.start_from) {
      trainer_.start_from(*run_.start_from);
    } else {
      trainer_.initialise();
    }
    const RingOptions& ring = run_.execution.ring;
    if (run_.traced_steps == 0) return;
    check_argument(ring.trace != nullptr, "train", "expected a trace to hand over, got none");
    traces_.emplace(ring, communicator_, *ring.trace);
    traces_->begin();
  }

  /// Once, however often it is called.
  void hand_over_traces() {
    if (!traces_) return;
    const std::vector<ProcessTrace> all = traces_->finish(kMostTracedEvents);
    traces_.reset();
    if (leads_ && observer_.on_trace) observer_.on_trace(all);
  }

  /// Device 0's view of the flag, so that all devices stop at the same step.
  bool stop_asked() {
    std::array<std::byte, 1> flag{std::byte{run_.stop != nullptr && run_.stop->load()}};
    communicator_.broadcast(0, flag);
    return flag[0] != std::byte{0};
  }

  void evaluate(std::int64_t windows) {
    if (run_.held_out == nullptr) return;
    const Evaluation evaluation = trainer_.evaluate(
        *run_.held_out, {.context = std::min(run_.recipe.context, run_.held_out->tokens() - 1),
                         .most_windows = windows,
                         .layout = run_.execution.layout});
    if (reports_) result_.evaluation = evaluation;
    if (leads_ && observer_.on_evaluation) observer_.on_evaluation(trainer_.steps_done(), evaluation);
  }

  void save() {
    if (run_.out.empty()) return;
    const TrainingState state{trainer_.steps_done(), run_.corpus->fingerprint(), run_.data_paths,
                              run_.held_out_paths, run_.recipe};
    const auto path =
        save_checkpoint(communicator_, {.run = run_.out, .keep = run_.keep, .files = run_.files}, run_.config,
                        trainer_.table(), state, trainer_.checkpoint_source());
    if (leads_ && observer_.on_checkpoint) observer_.on_checkpoint(path);
    if (reports_) result_.checkpoint = path;
  }

  const TrainingRun& run_;
  const TrainingObserver& observer_;
  Communicator& communicator_;
  TrainingResult& result_;
  bool leads_;    ///< device 0
  bool reports_;  ///< the first device of its process fills in the result there
  Trainer trainer_;
  std::optional<TraceGathering> traces_;
  std::int64_t steps_to_trace_ = run_.traced_steps;
};

}  // namespace

TrainingResult run_training(const TrainingRun& run, const TrainingObserver& observer) {
  RONDO_ASSERT(run.corpus != nullptr);
  if (run.resume_from) {
    const TrainingState state = read_training_state(*run.resume_from);
    check_argument(
        state.data_fingerprint == run.corpus->fingerprint(), "train",
        "expected the text that the checkpoint {} was trained on (names and sizes), got another one",
        run.resume_from->string());
  }
  TrainingResult result;
  run_ring(run.execution.ring, [&](Context& context, Communicator& communicator) {
    RunLoop(run, observer, context, communicator, result)();
  });
  return result;
}

}  // namespace rondo
