#include "rondo/train/recipe.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "rondo/core/error.h"

namespace rondo {

using nlohmann::ordered_json;

namespace {

/// Visits every field with its name: the one list that writing and reading share.
template <class Recipe, class Visit>
void for_each_field(Recipe& recipe, const Visit& visit) {
  visit("context", recipe.context);
  visit("sequences_per_step", recipe.sequences_per_step);
  visit("seed", recipe.seed);
  visit("separate_documents", recipe.separate_documents);
  visit("context_warmup", recipe.context_warmup);
  visit("held_out", recipe.held_out);
  visit("learning_rate", recipe.learning_rate.peak);
  visit("final_learning_rate_share", recipe.learning_rate.final_share);
  visit("warmup", recipe.learning_rate.warmup);
  visit("decay_share", recipe.learning_rate.decay_share);
  visit("steps", recipe.learning_rate.total_steps);
  visit("beta1", recipe.optimizer.beta1);
  visit("beta2", recipe.optimizer.beta2);
  visit("epsilon", recipe.optimizer.epsilon);
  visit("weight_decay", recipe.optimizer.weight_decay);
  visit("clip", recipe.optimizer.clip);
}

/// The library would turn 1.5 into 1 and -1 into a huge number.
template <class Value>
bool fits(const ordered_json& json) {
  if constexpr (std::is_same_v<Value, bool>) return json.is_boolean();
  if constexpr (std::is_unsigned_v<Value>) return json.is_number_unsigned();
  if constexpr (std::is_integral_v<Value>) {
    // Counts, none of them negative.
    return json.is_number_unsigned() &&
           json.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<Value>::max());
  }
  return json.is_number();
}

}  // namespace

std::int64_t reach_at(const TrainingRecipe& recipe, std::int64_t step) {
  const double warmup = recipe.context_warmup * static_cast<double>(recipe.learning_rate.total_steps);
  const auto done = static_cast<double>(step - 1);
  if (done >= warmup) return recipe.context;
  int doublings = 0;
  while ((kWarmupContext << doublings) < recipe.context) ++doublings;
  // Each length has the same number of steps.
  const auto stage = static_cast<int>(done / warmup * doublings);
  return std::min(recipe.context, kWarmupContext << stage);
}

std::string to_json(const TrainingRecipe& recipe) {
  ordered_json json;
  for_each_field(recipe, [&](const char* name, const auto& value) { json[name] = value; });
  json["schedule"] = name_of(recipe.learning_rate.shape);
  json["dtype"] = name_of(recipe.dtype);
  return json.dump(2);
}

TrainingRecipe parse_recipe(const std::string& text) {
  constexpr const char* op = "training recipe";
  TrainingRecipe recipe;
  try {
    ordered_json json = ordered_json::parse(text);
    const auto take = [&](const char* name) {
      const auto found = json.find(name);
      check_argument(found != json.end(), op, "expected a key '{}', got none", name);
      ordered_json value = *found;
      json.erase(found);
      return value;
    };
    for_each_field(recipe, [&](const char* name, auto& value) {
      using Value = std::remove_reference_t<decltype(value)>;
      const ordered_json found = take(name);
      check_argument(fits<Value>(found), op, "expected another kind of value for '{}', got {}", name,
                     found.dump());
      value = found.template get<Value>();
    });
    recipe.learning_rate.shape = parse_learning_rate_shape(take("schedule").get<std::string>());
    const auto dtype = take("dtype").get<std::string>();
    check_argument(dtype == "float32" || dtype == "bfloat16", op,
                   "expected dtype float32 or bfloat16, got '{}'", dtype);
    recipe.dtype = dtype == "float32" ? DType::f32 : DType::bf16;
    check_argument(json.empty(), op, "expected no further key, got '{}'",
                   json.empty() ? "" : json.begin().key());
  } catch (const nlohmann::json::exception& error) {
    argument_error(op, "expected the JSON of a recipe, got: {}", error.what());
  }
  return recipe;
}

}  // namespace rondo
