// The planner's bytes against the ledgers of training steps of models, masks and rings drawn at random.

#include "rondo/plan/memory.h"

#include "rondo/core/random.h"
#include "rondo/io/kept_work.h"
#include "tests/support/spawn.h"
#include "tests/train/training_support.h"

namespace rondo {
namespace {

/// Draws from small sets of values.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : state_(mix64(seed)) {}
  template <class T>
  T of(std::initializer_list<T> values) {
    state_ = mix64(state_ + 1);
    return values.begin()[state_ % values.size()];
  }

 private:
  std::uint64_t state_;
};

struct RandomRun {
  RunShape shape;
  std::int64_t context = 0;
  int processes = 1;
  std::string spill = {};
};

RandomRun random_run(std::uint64_t seed) {
  Draw draw(seed);
  ModelConfig model = test::small_config();
  model.layers = draw.of({1, 2, 3});
  model.width = draw.of({32, 48, 64});
  model.ffn = draw.of({40, 96, 160});
  model.kv_heads = draw.of({1, 2});
  model.q_heads = model.kv_heads * draw.of({1, 2, 4});
  model.head_dim = draw.of({8, 16});
  model.vocabulary = draw.of({258, 1000});
  model.tied_embedding = draw.of({false, true});
  if (draw.of({0, 0, 1}) == 1) {
    model.sliding_window = draw.of({100, 300});
    model.first_k = draw.of({0, 4});
  }
  RandomRun run{.shape = {.config = model,
                          .dtype = draw.of({DType::f32, DType::bf16}),
                          .remat = draw.of({Remat::layer, Remat::attention, Remat::none}),
                          .layout = draw.of({Layout::contiguous, Layout::striped, Layout::zigzag}),
                          .shard = draw.of({Shard::none, Shard::optimizer, Shard::parameters}),
                          .block_tokens = draw.of({16, 64, 512}),
                          .devices = draw.of({1, 2, 3, 4, 6}),
                          .replicas = draw.of({1, 1, 2})},
                .context = draw.of({700, 1200, 1999})};
  const int devices = run.shape.devices_in_all();
  run.processes = draw.of({1, devices});
  run.shape.between_processes = run.processes > 1;
  if (run.processes == 1) run.shape.exchange = draw.of({Exchange::copy, Exchange::share});
  run.shape.feed_forward = draw.of({FeedForwardForm::blockwise, FeedForwardForm::whole});
  if (run.shape.devices == 1)
    run.shape.attention = draw.of({AttentionForm::vanilla, AttentionForm::blockwise});
  return run;
}

/// The most that any device's ledger held, scratch apart.
std::int64_t most_held(const RandomRun& run, const Corpus& corpus) {
  const RunShape& shape = run.shape;
  const int devices = shape.devices_in_all();
  TrainingRecipe recipe = test::small_recipe(run.context, 1);
  recipe.dtype = shape.dtype;
  recipe.sequences_per_step = shape.replicas;
  const ExecutionOptions execution{
      .ring = {.devices = devices / run.processes, .timeout = std::chrono::seconds(60)},
      .layout = shape.layout,
      .remat = shape.remat,
      .exchange = shape.exchange,
      .attention = shape.attention,
      .feed_forward = shape.feed_forward,
      .block_tokens = shape.block_tokens,
      .shard = shape.shard,
      .replicas = shape.replicas,
      .segment_tokens = shape.segment_tokens,
      .spill = run.spill};
  std::vector<std::int64_t> held(static_cast<std::size_t>(devices));
  const auto step = [&](Context& context, Communicator& communicator) {
    Trainer trainer(context, communicator, shape.config, recipe, execution, corpus);
    trainer.initialise();
    trainer.step();
    held[static_cast<std::size_t>(communicator.device())] =
        context.ledger.peak_total() - context.ledger.peak(Entry::library_scratch);
  };
  test::spawn_divided(devices, devices / run.processes, step);
  return *std::max_element(held.begin(), held.end());
}

TEST(PlannedMemory, IsWithin3PercentOfTheLedgersOfRandomRuns) {
  const Corpus corpus = test::text().corpus();
  double worst = 0;
  int vanilla = 0, whole = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    const RandomRun run = random_run(seed);
    const RunShape& shape = run.shape;
    SCOPED_TRACE(fmt::format(
        "seed {}: {} x {} devices, {} processes, {}, {}, {}, {}, {}, attention {}, feed-forward {}, "
        "window {}, {} tokens",
        seed, shape.replicas, shape.devices, run.processes, name_of(shape.layout), name_of(shape.remat),
        name_of(shape.shard), name_of(shape.dtype), name_of(shape.exchange), name_of(shape.attention),
        name_of(shape.feed_forward), shape.config.sliding_window, run.context));
    vanilla += shape.attention == AttentionForm::vanilla ? 1 : 0;
    whole += shape.feed_forward == FeedForwardForm::whole ? 1 : 0;
    const MemoryModel model(shape);
    const double ratio = static_cast<double>(model.peak(model.entries(run.context))) /
                         static_cast<double>(most_held(run, corpus));
    EXPECT_NEAR(ratio, 1, 0.03);
    worst = std::max(worst, std::abs(ratio - 1));
  }
  EXPECT_GE(vanilla, 2);
  EXPECT_GE(whole, 10);
  fmt::print("worst of 40: {:.4f}; {} with vanilla attention, {} with the feed-forward whole\n", worst,
             vanilla, whole);
}

/// Of evaluation, to the byte, in every form.
TEST(PlannedMemory, IsThatOfEveryFormsEvaluation) {
  for (const AttentionForm attention : {AttentionForm::vanilla, AttentionForm::blockwise})
    for (const FeedForwardForm feed_forward : {FeedForwardForm::whole, FeedForwardForm::blockwise})
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const RunShape shape{.config = test::small_config(),
                             .purpose = Purpose::evaluate,
                             .dtype = dtype,
                             .attention = attention,
                             .feed_forward = feed_forward,
                             .block_tokens = 64};
        const EntryBytes entries = MemoryModel(shape).entries(700);
        test::spawn(1, [&](Context& device, Communicator& communicator) {
          const ParameterTable table(shape.config);
          Transformer model(
              device, communicator, shape.config, table,
              {.dtype = dtype, .attention = attention, .feed_forward = feed_forward, .block_tokens = 64});
          model.prepare({.tokens = 700}, false);
          for (const Entry entry : {Entry::layer_inputs, Entry::attention, Entry::feed_forward_block,
                                    Entry::data, Entry::kept, Entry::loss_block})
            EXPECT_EQ(device.ledger.peak(entry), entries[static_cast<std::size_t>(entry)])
                << name_of(attention) << ", " << name_of(feed_forward) << ", " << name_of(entry);
        });
      }
}

void expect_evaluation(const RandomRun& run, KeptWork* work) {
  const RunShape& shape = run.shape;
  const MemoryModel evaluation(shape);
  const EntryBytes entries = evaluation.entries(run.context);
  test::spawn(1, [&](Context& device, Communicator& communicator) {
    const ParameterTable table(shape.config);
    Transformer model(device, communicator, shape.config, table,
                      {.dtype = shape.dtype,
                       .block_tokens = shape.block_tokens,
                       .segment_tokens = shape.segment_tokens,
                       .spill = run.spill,
                       .work = work});
    model.prepare({.tokens = run.context}, false);
    for (const Entry entry : {Entry::layer_inputs, Entry::attention, Entry::data, Entry::kept})
      EXPECT_EQ(device.ledger.peak(entry), entries[static_cast<std::size_t>(entry)]) << name_of(entry);
  });
}

/// To the byte, in memory, on the disk and with kept work, for training and evaluation.
TEST(PlannedMemory, IsThatOfSegments) {
  const Corpus corpus = test::text().corpus();
  const test::TemporaryFolder folder;
  for (const bool spills : {false, true})
    for (const std::int64_t context : {400, 1024, 3000})
      for (const DType dtype : {DType::f32, DType::bf16}) {
        SCOPED_TRACE(fmt::format("{}, {} tokens, {}", spills, context, name_of(dtype)));
        RandomRun run{.shape = {.config = test::small_config(),
                                .dtype = dtype,
                                .block_tokens = 64,
                                .segment_tokens = 512,
                                .spills = spills},
                      .context = context,
                      .spill = spills ? folder.path().string() : ""};
        const MemoryModel training(run.shape);
        EXPECT_EQ(training.peak(training.entries(context)), most_held(run, corpus));
        run.shape.purpose = Purpose::evaluate;
        expect_evaluation(run, nullptr);
        if (!spills) continue;
        run.shape.keeps_work = true;
        KeptWork work(folder / "work", {});
        expect_evaluation(run, &work);
      }
}

}  // namespace
}  // namespace rondo
