#include "rondo/train/recipe.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "rondo/core/error.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

using nlohmann::json;

/// No field has its default.
TrainingRecipe unusual() {
  TrainingRecipe recipe{.context = 12345,
                        .sequences_per_step = 3,
                        .seed = 0xfedcba9876543210ull,
                        .separate_documents = true,
                        .context_warmup = 0.6789012345678901,
                        .held_out = 0.1234567890123456789,
                        .dtype = DType::bf16};
  recipe.learning_rate = {.shape = LearningRateShape::wsd,
                          .peak = 1.0 / 3,
                          .final_share = 1e-300,
                          .warmup = 17,
                          .decay_share = 0.7,
                          .total_steps = std::int64_t{1} << 53};
  recipe.optimizer = {.beta1 = 0.1f, .beta2 = 0.3f, .epsilon = 1e-11f, .weight_decay = 0.7f, .clip = 2.0 / 3};
  return recipe;
}

TEST(Recipe, ReachDoublesUpToTheContext) {
  TrainingRecipe recipe{.context = 2000};
  recipe.learning_rate.total_steps = 20;
  for (const std::int64_t step : {1, 10, 20}) EXPECT_EQ(reach_at(recipe, step), 2000);
  recipe.context_warmup = 0.6;  // 12 steps: 256, 512 and 1024 in turns of four
  for (std::int64_t step = 1; step <= 20; ++step)
    EXPECT_EQ(reach_at(recipe, step), step <= 4 ? 256 : step <= 8 ? 512 : step <= 12 ? 1024 : 2000) << step;
  recipe.context = 200;  // shorter than where the warm-up begins
  EXPECT_EQ(reach_at(recipe, 1), 200);
}

TEST(Recipe, SurvivesJsonBitForBit) {
  const TrainingRecipe before = unusual(), after = parse_recipe(to_json(before));
  EXPECT_EQ(after.context, before.context);
  EXPECT_EQ(after.sequences_per_step, before.sequences_per_step);
  EXPECT_EQ(after.seed, before.seed);
  EXPECT_EQ(after.separate_documents, before.separate_documents);
  EXPECT_EQ(after.context_warmup, before.context_warmup);
  EXPECT_EQ(after.held_out, before.held_out);
  EXPECT_EQ(after.dtype, before.dtype);
  EXPECT_EQ(after.learning_rate.shape, before.learning_rate.shape);
  EXPECT_EQ(after.learning_rate.peak, before.learning_rate.peak);
  EXPECT_EQ(after.learning_rate.final_share, before.learning_rate.final_share);
  EXPECT_EQ(after.learning_rate.warmup, before.learning_rate.warmup);
  EXPECT_EQ(after.learning_rate.decay_share, before.learning_rate.decay_share);
  EXPECT_EQ(after.learning_rate.total_steps, before.learning_rate.total_steps);
  EXPECT_EQ(after.optimizer.beta1, before.optimizer.beta1);
  EXPECT_EQ(after.optimizer.beta2, before.optimizer.beta2);
  EXPECT_EQ(after.optimizer.epsilon, before.optimizer.epsilon);
  EXPECT_EQ(after.optimizer.weight_decay, before.optimizer.weight_decay);
  EXPECT_EQ(after.optimizer.clip, before.optimizer.clip);
  EXPECT_EQ(to_json(after), to_json(before));
}

TEST(Recipe, EveryKeyIsNeededAndNoOtherIsTaken) {
  const json whole = json::parse(to_json(unusual()));
  EXPECT_EQ(whole.size(), 18u);
  for (const auto& [key, value] : whole.items()) {
    json without = whole;
    without.erase(key);
    RONDO_EXPECT_ERROR(ArgumentError, parse_recipe(without.dump()), "'" + key + "'");
  }
  json more = whole;
  more["warmpu"] = 3;
  RONDO_EXPECT_ERROR(ArgumentError, parse_recipe(more.dump()), "no further key", "'warmpu'");
}

TEST(Recipe, RefusesWhatIsNone) {
  for (const char* text : {"", "[]", "3", "{", "null", "\"context\""})
    EXPECT_THROW(parse_recipe(text), ArgumentError) << text;
  json whole = json::parse(to_json(unusual()));
  const auto with = [&](const char* key, const json& value) {
    json changed = whole;
    changed[key] = value;
    return changed.dump();
  };
  RONDO_EXPECT_ERROR(ArgumentError, parse_recipe(with("dtype", "float16")), "'float16'");
  RONDO_EXPECT_ERROR(ArgumentError, parse_recipe(with("schedule", "step")), "'step'");
  EXPECT_THROW(parse_recipe(with("context", "many")), ArgumentError);
  EXPECT_THROW(parse_recipe(with("separate_documents", 1)), ArgumentError);
  for (const json& value : {json(-1), json(1.5), json(true), json(1e300)})
    RONDO_EXPECT_ERROR(ArgumentError, parse_recipe(with("warmup", value)), "'warmup'");
  RONDO_EXPECT_ERROR(ArgumentError, parse_recipe(with("seed", -1)), "'seed'", "-1");
  RONDO_EXPECT_ERROR(ArgumentError, parse_recipe(with("clip", "1")), "'clip'");
}

}  // namespace
}  // namespace rondo
