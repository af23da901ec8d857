// config.json <-> ModelConfig. Absent keys get the defaults of transformers' LlamaConfig and MistralConfig.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "rondo/core/error.h"
#include "rondo/io/json_file.h"
#include "rondo/model/config.h"

namespace rondo {
namespace {

using Json = nlohmann::json;

/// A value for people. Arrays and objects are only named: a hostile one may be deep enough to exhaust the
/// stack.
std::string described(const Json& value) {
  if (value.is_array()) return "an array";
  if (value.is_object()) return "an object";
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

/// The keys of one JSON object, read with checks of type. null counts as absent, as in Python.
class Keys {
 public:
  Keys(const Json& object, const char* operation, std::string inside)
      : object_(object), operation_(operation), inside_(std::move(inside)) {}

  const char* operation() const { return operation_; }
  const Json& object() const { return object_; }
  std::string name(const std::string& key) const { return inside_.empty() ? key : inside_ + "." + key; }

  const Json* find(const char* key) const {
    const auto at = object_.find(key);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }
  [[noreturn]] void refuse(const char* key, const char* expected) const {
    const Json* value = find(key);
    argument_error(operation(), "expected {} to be {}, got {}", name(key), expected,
                   value == nullptr ? "nothing" : described(*value));
  }
  template <class T>
  T required(const char* key, std::optional<T> value, const char* expected) const {
    if (!value) refuse(key, expected);
    return *value;
  }

  std::optional<std::int64_t> integer(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    const bool fits =
        value->is_number_integer() &&
        (!value->is_number_unsigned() ||
         value->get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()});
    if (!fits) refuse(key, "an integer");
    return value->get<std::int64_t>();
  }
  std::optional<double> number(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) refuse(key, "a number");
    return value->get<double>();
  }
  std::optional<bool> boolean(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) refuse(key, "true or false");
    return value->get<bool>();
  }
  std::optional<std::string> string(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) refuse(key, "a string");
    return value->get<std::string>();
  }
  std::int64_t required_integer(const char* key) const { return required(key, integer(key), "an integer"); }

 private:
  const Json& object_;
  const char* operation_;
  std::string inside_;
};

// ---- Refusals: keys that change the mathematics and that we do not compute ----

void refuse_unless(const Keys& keys, const char* key, bool neutral, const char* expected) {
  if (!neutral) keys.refuse(key, expected);
}

void refuse_other_mathematics(const Keys& keys) {
  const std::string act = keys.string("hidden_act").value_or("silu");
  refuse_unless(keys, "hidden_act", act == "silu" || act == "swish",
                "\"silu\" (the only activation supported)");
  for (const char* key : {"attention_bias", "mlp_bias", "is_encoder_decoder", "add_cross_attention"})
    refuse_unless(keys, key, !keys.boolean(key).value_or(false), "false (not supported)");
  refuse_unless(keys, "is_causal", keys.boolean("is_causal").value_or(true), "true (not supported)");
  refuse_unless(keys, "pretraining_tp", keys.integer("pretraining_tp").value_or(1) == 1, "1 (not supported)");
  refuse_unless(keys, "partial_rotary_factor", keys.number("partial_rotary_factor").value_or(1) == 1,
                "1 (not supported)");
  for (const char* key : {"quantization_config", "compression_config", "attn_logit_softcapping",
                          "final_logit_softcapping", "attention_chunk_size"})
    refuse_unless(keys, key, keys.find(key) == nullptr, "absent or null (not supported)");
}

/// Layers that differ from each other in what they attend to are not supported.
void refuse_mixed_layers(const Keys& keys, const ModelConfig& config) {
  const Json* types = keys.find("layer_types");
  if (types == nullptr) return;
  const char* only = config.sliding_window > 0 ? "sliding_attention" : "full_attention";
  const bool same = types->is_array() && std::all_of(types->begin(), types->end(), [&](const Json& type) {
                      return type.is_string() && type.get_ref<const std::string&>() == only;
                    });
  check_argument(same, keys.operation(), "expected every one of layer_types to be \"{}\", got others", only);
}

// ---- Rotary positions ----

using Rope = std::pair<double, RopeScaling>;  // theta and its scaling

RopeType parse_rope_type(const Keys& rope) {
  const char* key = rope.find("rope_type") != nullptr ? "rope_type" : "type";
  const std::string name = rope.string(key).value_or("default");
  for (const RopeType type : {RopeType::none, RopeType::linear, RopeType::llama3, RopeType::yarn})
    if (name == name_of(type)) return type;
  rope.refuse(key, "one of \"default\", \"linear\", \"llama3\", \"yarn\" (the types supported)");
}

void refuse_unknown_rope_keys(const Keys& rope) {
  static constexpr std::array known{"rope_type",
                                    "type",
                                    "rope_theta",
                                    "factor",
                                    "low_freq_factor",
                                    "high_freq_factor",
                                    "beta_fast",
                                    "beta_slow",
                                    "mscale",
                                    "mscale_all_dim",
                                    "truncate",
                                    "attention_factor",
                                    "finetuned",
                                    "original_max_position_embeddings",
                                    "partial_rotary_factor"};
  for (const auto& [key, value] : rope.object().items())
    check_argument(value.is_null() || std::find(known.begin(), known.end(), key) != known.end(),
                   rope.operation(), "expected only known keys in a rope configuration, got {} = {}",
                   rope.name(key), described(value));
  refuse_unless(rope, "partial_rotary_factor", rope.number("partial_rotary_factor").value_or(1) == 1,
                "1 (not supported)");
}

/// `model` holds the keys around the rope object; max_positions is that of the model.
Rope parse_rope(const Keys& model, const char* key, std::int64_t max_positions) {
  const double outer_theta = model.number("rope_theta").value_or(10000);
  const Json* object = model.find(key);
  if (object == nullptr) return {outer_theta, {}};
  if (!object->is_object()) model.refuse(key, "an object or null");
  const Keys rope(*object, model.operation(), key);
  refuse_unknown_rope_keys(rope);
  RopeScaling s;
  s.type = parse_rope_type(rope);
  const double theta = rope.number("rope_theta").value_or(outer_theta);
  check_argument(model.find("rope_theta") == nullptr || theta == outer_theta, model.operation(),
                 "expected rope_theta and {} to agree, got {} and {}", rope.name("rope_theta"), outer_theta,
                 theta);
  if (s.type == RopeType::none) return {theta, s};

  std::optional<std::int64_t> original = rope.integer("original_max_position_embeddings");
  if (!original) original = model.integer("original_max_position_embeddings");
  std::optional<double> factor = rope.number("factor");
  if (!factor && s.type == RopeType::yarn && original.value_or(0) > 0)
    factor = static_cast<double>(max_positions) / static_cast<double>(*original);
  s.factor = rope.required("factor", factor, "a number");
  if (s.type == RopeType::llama3) {
    s.original_max_positions = rope.required("original_max_position_embeddings", original, "an integer");
    s.low_freq_factor = rope.required("low_freq_factor", rope.number("low_freq_factor"), "a number");
    s.high_freq_factor = rope.required("high_freq_factor", rope.number("high_freq_factor"), "a number");
  } else if (s.type == RopeType::yarn) {
    s.original_max_positions = original.value_or(max_positions);
    s.beta_fast = rope.number("beta_fast").value_or(32);
    s.beta_slow = rope.number("beta_slow").value_or(1);
    const std::optional<double> attention_factor = rope.number("attention_factor");
    refuse_unless(rope, "attention_factor", attention_factor.value_or(1) > 0, "positive");
    s.attention_factor = attention_factor.value_or(0);
    s.mscale = rope.number("mscale").value_or(0);
    s.mscale_all_dim = rope.number("mscale_all_dim").value_or(0);
    s.truncate = rope.boolean("truncate").value_or(true);
  }
  return {theta, s};
}

void parse_rope_keys(const Keys& keys, ModelConfig& config) {
  const bool newer = keys.find("rope_parameters") != nullptr, older = keys.find("rope_scaling") != nullptr;
  const Rope rope = parse_rope(keys, newer ? "rope_parameters" : "rope_scaling", config.max_positions);
  if (newer && older)
    check_argument(rope == parse_rope(keys, "rope_scaling", config.max_positions), keys.operation(),
                   "expected rope_parameters and rope_scaling to agree, got different ones");
  std::tie(config.rope_theta, config.rope_scaling) = rope;
}

// ---- The rest ----

int parse_token(const Keys& keys, const char* key, const Json& value) {
  if (!value.is_number_integer() || value < 0 || value > std::numeric_limits<std::int32_t>::max())
    keys.refuse(key, "a token id or null");
  return value.get<int>();
}

void parse_special_tokens(const Keys& keys, ModelConfig& config) {
  if (const Json* bos = keys.find("bos_token_id")) config.bos = parse_token(keys, "bos_token_id", *bos);
  const Json* eos = keys.find("eos_token_id");
  if (eos == nullptr) return;
  if (!eos->is_array()) return config.eos.push_back(parse_token(keys, "eos_token_id", *eos));
  for (const Json& id : *eos) config.eos.push_back(parse_token(keys, "eos_token_id", id));
}

void parse_extents(const Keys& keys, bool mistral, ModelConfig& config) {
  config.vocabulary = keys.required_integer("vocab_size");
  config.width = keys.required_integer("hidden_size");
  config.ffn = keys.required_integer("intermediate_size");
  config.layers = keys.required_integer("num_hidden_layers");
  config.q_heads = keys.required_integer("num_attention_heads");
  const bool null_kv_heads = keys.object().contains("num_key_value_heads");
  config.kv_heads =
      keys.integer("num_key_value_heads").value_or(mistral && !null_kv_heads ? 8 : config.q_heads);
  config.max_positions = keys.integer("max_position_embeddings").value_or(mistral ? 131072 : 2048);
  if (const std::optional<std::int64_t> dim = keys.integer("head_dim")) {
    config.head_dim = *dim;
    return;
  }
  check_argument(
      config.q_heads > 0 && config.width % config.q_heads == 0, keys.operation(),
      "expected hidden_size to be a multiple of num_attention_heads (or a head_dim), got {} and {}",
      config.width, config.q_heads);
  config.head_dim = config.width / config.q_heads;
}

void parse_window(const Keys& keys, const std::string& model_type, ModelConfig& config) {
  const bool mistral = model_type == "mistral";
  std::optional<std::int64_t> window = keys.integer("sliding_window");
  if (!window && mistral && !keys.object().contains("sliding_window")) window = 4096;
  refuse_unless(keys, "sliding_window", window.value_or(1) > 0, "positive or null");
  refuse_unless(keys, "sliding_window", !window || model_type != "llama",
                "null for model_type llama (mistral and rondo have windows)");
  config.sliding_window = window.value_or(0);
}

ModelConfig parse_model(const Keys& keys) {
  const std::string model_type = keys.required("model_type", keys.string("model_type"), "a string");
  refuse_unless(keys, "model_type", model_type == "llama" || model_type == "mistral" || model_type == "rondo",
                "one of \"llama\", \"mistral\", \"rondo\" (the models supported)");
  refuse_other_mathematics(keys);
  ModelConfig config;
  parse_extents(keys, model_type == "mistral", config);
  parse_window(keys, model_type, config);
  refuse_mixed_layers(keys, config);
  parse_rope_keys(keys, config);
  config.rms_epsilon = static_cast<float>(keys.number("rms_norm_eps").value_or(1e-6));
  config.tied_embedding = keys.boolean("tie_word_embeddings").value_or(false);
  config.first_k = keys.integer("rondo_first_k").value_or(0);
  config.attention_softcap = static_cast<float>(keys.number("rondo_attention_softcap").value_or(0));
  config.attention_dropout = static_cast<float>(keys.number("attention_dropout").value_or(0));
  config.initializer_range = static_cast<float>(keys.number("initializer_range").value_or(0.02));
  parse_special_tokens(keys, config);
  check_config(config, keys.operation());
  return config;
}

// ---- Writing ----

using OrderedJson = nlohmann::ordered_json;

/// The double that prints as the shortest decimal which reads back as `value`: 1e-06,
/// not 9.999999974752427e-07.
double shortest(float value) { return std::stod(fmt::format("{}", value)); }

OrderedJson rope_json(const RopeScaling& s) {
  if (s.type == RopeType::none) return nullptr;
  OrderedJson rope;
  rope["rope_type"] = name_of(s.type);
  rope["factor"] = s.factor;
  if (s.type == RopeType::linear) return rope;
  rope["original_max_position_embeddings"] = s.original_max_positions;
  if (s.type == RopeType::llama3) {
    rope["low_freq_factor"] = s.low_freq_factor;
    rope["high_freq_factor"] = s.high_freq_factor;
    return rope;
  }
  rope["beta_fast"] = s.beta_fast;
  rope["beta_slow"] = s.beta_slow;
  if (s.attention_factor > 0) rope["attention_factor"] = s.attention_factor;
  if (s.mscale > 0) rope["mscale"] = s.mscale;
  if (s.mscale_all_dim > 0) rope["mscale_all_dim"] = s.mscale_all_dim;
  if (!s.truncate) rope["truncate"] = false;
  return rope;
}

OrderedJson eos_json(const std::vector<int>& eos) {
  if (eos.empty()) return nullptr;
  if (eos.size() == 1) return eos.front();
  return eos;
}

void put_model_type(const ModelConfig& c, OrderedJson& json) {
  const bool own = c.first_k > 0 || c.attention_softcap > 0;
  const bool mistral = !own && c.sliding_window > 0;
  json["architectures"] = {own ? "RondoForCausalLM" : mistral ? "MistralForCausalLM" : "LlamaForCausalLM"};
  json["model_type"] = own ? "rondo" : mistral ? "mistral" : "llama";
}

}  // namespace

ModelConfig parse_config(std::string_view text, const std::string& origin) {
  const Json document = parse_json(text, origin);
  check_argument(document.is_object(), origin.c_str(), "expected a JSON object, got {}", described(document));
  return parse_model(Keys(document, origin.c_str(), ""));
}

std::string to_json(const ModelConfig& c, DType dtype) {
  check_config(c, "to_json");
  OrderedJson json;
  put_model_type(c, json);
  json["vocab_size"] = c.vocabulary;
  json["hidden_size"] = c.width;
  json["intermediate_size"] = c.ffn;
  json["num_hidden_layers"] = c.layers;
  json["num_attention_heads"] = c.q_heads;
  json["num_key_value_heads"] = c.kv_heads;
  json["head_dim"] = c.head_dim;
  json["hidden_act"] = "silu";
  json["max_position_embeddings"] = c.max_positions;
  json["rms_norm_eps"] = shortest(c.rms_epsilon);
  json["rope_theta"] = c.rope_theta;
  json["rope_scaling"] = rope_json(c.rope_scaling);
  json["tie_word_embeddings"] = c.tied_embedding;
  if (c.sliding_window > 0) json["sliding_window"] = c.sliding_window;
  if (c.first_k > 0) json["rondo_first_k"] = c.first_k;
  if (c.attention_softcap > 0) json["rondo_attention_softcap"] = shortest(c.attention_softcap);
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["attention_dropout"] = shortest(c.attention_dropout);
  json["initializer_range"] = shortest(c.initializer_range);
  json["bos_token_id"] = c.bos >= 0 ? OrderedJson(c.bos) : OrderedJson(nullptr);
  json["eos_token_id"] = eos_json(c.eos);
  json["torch_dtype"] = name_of(dtype);
  return json.dump(2) + "\n";
}

}  // namespace rondo
