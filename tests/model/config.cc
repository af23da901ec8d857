// config.json: files of released models, the defaults of absent keys, refusals by name, round trips.

#include "rondo/model/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "rondo/core/error.h"

namespace rondo {
namespace {

using Json = nlohmann::json;

constexpr const char* kLlama31 = R"({
  "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096,
  "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
  "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
  "pretraining_tp": 1, "rms_norm_eps": 1e-05,
  "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 8192, "rope_type": "llama3"},
  "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
  "transformers_version": "4.43.0.dev0", "use_cache": true, "vocab_size": 128256})";

constexpr const char* kMistral = R"({
  "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
  "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
  "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 32000})";

constexpr const char* kTinyLlama = R"({
  "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
  "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632, "max_position_embeddings": 2048,
  "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22, "num_key_value_heads": 4,
  "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "tie_word_embeddings": false,
  "torch_dtype": "float32", "use_cache": true, "vocab_size": 32000})";

/// The smallest file: required keys alone.
Json minimal(const char* model_type = "llama") {
  return {{"model_type", model_type}, {"vocab_size", 1000},     {"hidden_size", 64},
          {"intermediate_size", 128}, {"num_hidden_layers", 2}, {"num_attention_heads", 8}};
}

ModelConfig parse(const Json& json) { return parse_config(json.dump()); }

Json with(const char* key, Json value, const char* model_type = "llama") {
  Json json = minimal(model_type);
  json[key] = std::move(value);
  return json;
}

/// What parse_config says of `text`; empty when it accepts it.
std::string complaint(const std::string& text) {
  try {
    parse_config(text, "c.json");
  } catch (const ArgumentError& error) {
    return error.what();
  } catch (const IoError& error) {
    return error.what();
  }
  return "";
}
std::string complaint(const Json& json) { return complaint(json.dump()); }

void expect_complaint(const Json& json, const char* words) {
  const std::string said = complaint(json);
  EXPECT_NE(said.find(words), std::string::npos) << json.dump() << "\nsaid: " << said << "\nnot:  " << words;
  EXPECT_EQ(said.rfind("[c.json] expected ", 0), 0u) << said;
}

TEST(Config, Llama31) {
  const ModelConfig c = parse_config(kLlama31);
  EXPECT_EQ(c.vocabulary, 128256);
  EXPECT_EQ(c.width, 4096);
  EXPECT_EQ(c.ffn, 14336);
  EXPECT_EQ(c.layers, 32);
  EXPECT_EQ(c.q_heads, 32);
  EXPECT_EQ(c.kv_heads, 8);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.max_positions, 131072);
  EXPECT_EQ(c.rope_theta, 500000);
  EXPECT_EQ(c.rope_scaling, (RopeScaling{.type = RopeType::llama3,
                                         .factor = 8,
                                         .low_freq_factor = 1,
                                         .high_freq_factor = 4,
                                         .original_max_positions = 8192}));
  EXPECT_EQ(c.rms_epsilon, 1e-5f);
  EXPECT_FALSE(c.tied_embedding);
  EXPECT_EQ(c.sliding_window, 0);
  EXPECT_EQ(c.bos, 128000);
  EXPECT_EQ(c.eos, (std::vector<int>{128001, 128008, 128009}));
}

TEST(Config, MistralHasItsWindow) {
  const ModelConfig c = parse_config(kMistral);
  EXPECT_EQ(c.sliding_window, 4096);
  EXPECT_EQ(c.kv_heads, 8);
  EXPECT_EQ(c.eos, std::vector<int>{2});
  EXPECT_EQ(parse(with("sliding_window", nullptr, "mistral")).sliding_window, 0);
}

TEST(Config, TinyLlama) {
  const ModelConfig c = parse_config(kTinyLlama);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.rope_theta, 10000);
  EXPECT_EQ(c.rope_scaling, RopeScaling{});
}

TEST(Config, AbsentKeysHaveTransformersDefaults) {
  const ModelConfig c = parse(minimal());
  EXPECT_EQ(c.kv_heads, 8);
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.max_positions, 2048);
  EXPECT_EQ(c.rope_theta, 10000);
  EXPECT_EQ(c.rms_epsilon, 1e-6f);
  EXPECT_FALSE(c.tied_embedding);
  EXPECT_EQ(c.initializer_range, 0.02f);
  EXPECT_EQ(c.bos, -1);
  EXPECT_TRUE(c.eos.empty());

  const ModelConfig m = parse(minimal("mistral"));
  EXPECT_EQ(m.kv_heads, 8);
  EXPECT_EQ(m.max_positions, 131072);
  EXPECT_EQ(m.sliding_window, 4096);
  Json heads16 = with("num_attention_heads", 16, "mistral");  // absent: 8; null: as many as query heads
  EXPECT_EQ(parse(heads16).kv_heads, 8);
  heads16["num_key_value_heads"] = nullptr;
  EXPECT_EQ(parse(heads16).kv_heads, 16);
}

TEST(Config, NewerRopeParameters) {
  Json json = with("rope_parameters", {{"rope_theta", 5e5},
                                       {"rope_type", "llama3"},
                                       {"factor", 8},
                                       {"low_freq_factor", 1},
                                       {"high_freq_factor", 4},
                                       {"original_max_position_embeddings", 8192}});
  EXPECT_EQ(parse(json).rope_theta, 500000);
  EXPECT_EQ(parse(json).rope_scaling, parse_config(kLlama31).rope_scaling);
  json["rope_theta"] = 5e5;
  json["rope_scaling"] = json["rope_parameters"];
  EXPECT_EQ(parse(json).rope_theta, 500000);
  json["rope_scaling"]["factor"] = 4;
  expect_complaint(json, "rope_parameters and rope_scaling to agree");
  json.erase("rope_scaling");
  json["rope_theta"] = 1e4;
  expect_complaint(json, "rope_theta");
  EXPECT_EQ(parse(with("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}})).rope_theta, 1e6);
}

TEST(Config, LinearAndYarn) {
  const ModelConfig linear = parse(with("rope_scaling", {{"type", "linear"}, {"factor", 2.5}}));
  EXPECT_EQ(linear.rope_scaling, (RopeScaling{.type = RopeType::linear, .factor = 2.5}));
  Json json = with("rope_scaling", {{"type", "yarn"}, {"factor", 16}, {"finetuned", true}});
  const RopeScaling yarn = parse(json).rope_scaling;
  EXPECT_EQ(yarn.type, RopeType::yarn);
  EXPECT_EQ(yarn.original_max_positions, 2048);  // the model's, where none is given
  EXPECT_EQ(yarn.beta_fast, 32);
  EXPECT_EQ(yarn.beta_slow, 1);
  EXPECT_EQ(yarn.attention_factor, 0);
  EXPECT_TRUE(yarn.truncate);
  json["rope_scaling"] = {{"rope_type", "yarn"}, {"original_max_position_embeddings", 512}};
  EXPECT_EQ(parse(json).rope_scaling.factor, 4);  // 2048 / 512
}

TEST(Config, KeysThatChangeTheMathematicsAreRefusedByName) {
  const std::pair<const char*, Json> refused[] = {{"hidden_act", "gelu"},
                                                  {"attention_bias", true},
                                                  {"mlp_bias", true},
                                                  {"pretraining_tp", 2},
                                                  {"quantization_config", {{"bits", 4}}},
                                                  {"partial_rotary_factor", 0.5},
                                                  {"attn_logit_softcapping", 50.0},
                                                  {"final_logit_softcapping", 30.0},
                                                  {"sliding_window", 4096},  // of a llama, which has none
                                                  {"layer_types", {"sliding_attention", "full_attention"}},
                                                  {"attention_chunk_size", 8192},
                                                  {"is_causal", false}};
  for (const auto& [key, value] : refused) expect_complaint(with(key, value), key);
  for (const char* type : {"dynamic", "longrope", "su", "mrope", "LLAMA3", ""})
    expect_complaint(with("rope_scaling", {{"rope_type", type}, {"factor", 2}}), "rope_scaling.rope_type");
  expect_complaint(with("rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}),
                   "rope_parameters.full_attention");
  expect_complaint(with("rope_scaling", {{"rope_type", "default"}, {"mrope_section", {16, 24}}}),
                   "mrope_section");
  expect_complaint(
      with("rope_scaling", {{"rope_type", "linear"}, {"factor", 2}, {"partial_rotary_factor", 0.5}}),
      "rope_scaling.partial_rotary_factor");
  for (const char* type : {"gemma2", "qwen2", "mixtral", "gpt2", ""}) {
    expect_complaint(with("model_type", type), "model_type");
    expect_complaint(with("model_type", type), "\"llama\", \"mistral\"");
  }
}

TEST(Config, NeutralAndUnknownKeysAreIgnored) {
  Json json = minimal();
  json.update({{"hidden_act", "swish"},
               {"attention_bias", nullptr},
               {"quantization_config", nullptr},
               {"sliding_window", nullptr},
               {"layer_types", {"full_attention", "full_attention"}},
               {"pad_token_id", -1},
               {"use_cache", "whatever"},
               {"some_key_of_the_future", {{"a", {1, 2}}}}});
  EXPECT_EQ(parse(json), parse(minimal()));
}

TEST(Config, MissingKeysAreNamed) {
  const Json smallest = minimal();
  for (const auto& [key, value] : smallest.items()) {
    Json json = minimal();
    json.erase(key);
    expect_complaint(json, key.c_str());
    expect_complaint(json, "nothing");
    json[key] = nullptr;
    expect_complaint(json, key.c_str());
  }
  Json llama3 = Json::parse(kLlama31);
  for (const char* key :
       {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    Json json = llama3;
    json["rope_scaling"].erase(key);
    expect_complaint(json, key);
  }
}

TEST(Config, WrongTypesAreNamed) {
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings", "rondo_first_k"})
    for (const Json& value : {Json("64"), Json(64.0), Json(true), Json::array({64}), Json::object(),
                              Json(std::uint64_t{18446744073709551615u})})
      expect_complaint(with(key, value), key);
  for (const char* key :
       {"rope_theta", "rms_norm_eps", "attention_dropout", "initializer_range", "rondo_attention_softcap"})
    for (const Json& value : {Json("1"), Json(true), Json::array({1})})
      expect_complaint(with(key, value), key);
  for (const char* key : {"tie_word_embeddings", "attention_bias"})
    for (const Json& value : {Json(0), Json("false")}) expect_complaint(with(key, value), key);
  for (const char* key : {"bos_token_id", "eos_token_id"})
    for (const Json& value : {Json("1"), Json(-1), Json(1.5), Json(std::int64_t{1} << 40), Json(1000)})
      expect_complaint(with(key, value), key);
  for (const Json& value : {Json("linear"), Json::array(), Json(2)})
    expect_complaint(with("rope_scaling", value), "rope_scaling");
}

TEST(Config, NonsenseIsNamed) {
  const std::pair<const char*, Json> nonsense[] = {{"vocab_size", 0},
                                                   {"vocab_size", std::int64_t{1} << 31},
                                                   {"hidden_size", -64},
                                                   {"hidden_size", 1 << 25},
                                                   {"intermediate_size", 0},
                                                   {"num_hidden_layers", 0},
                                                   {"num_hidden_layers", 1 << 30},
                                                   {"num_attention_heads", 0},
                                                   {"num_attention_heads", -8},
                                                   {"num_attention_heads", 7},
                                                   {"num_key_value_heads", 3},
                                                   {"num_key_value_heads", 0},
                                                   {"num_key_value_heads", 16},
                                                   {"head_dim", 0},
                                                   {"head_dim", 2},
                                                   {"head_dim", 9},
                                                   {"head_dim", 258},
                                                   {"head_dim", -4},
                                                   {"max_position_embeddings", 0},
                                                   {"rms_norm_eps", 0},
                                                   {"rms_norm_eps", -1e-6},
                                                   {"rms_norm_eps", 1e-60},
                                                   {"rope_theta", 0},
                                                   {"rope_theta", -1},
                                                   {"attention_dropout", 1},
                                                   {"attention_dropout", -0.1},
                                                   {"initializer_range", -1},
                                                   {"rondo_first_k", 4},
                                                   {"rondo_attention_softcap", -1}};
  for (const auto& [key, value] : nonsense) expect_complaint(with(key, value), key);
  for (const Json& window : {Json(0), Json(-1)})
    expect_complaint(with("sliding_window", window, "mistral"), "sliding_window");
  expect_complaint(with("rope_scaling", {{"rope_type", "linear"}, {"factor", 0}}), "factor");
  expect_complaint(with("rope_scaling", {{"rope_type", "linear"}, {"factor", 0.5}}), "factor");
  expect_complaint(with("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}, {"beta_fast", 1}}),
                   "beta_fast");
  expect_complaint(with("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}, {"attention_factor", 0}}),
                   "attention_factor");
  expect_complaint(with("rope_scaling", {{"rope_type", "yarn"}, {"original_max_position_embeddings", 0}}),
                   "factor");
  Json llama3 = Json::parse(kLlama31);
  llama3["rope_scaling"]["high_freq_factor"] = 1.0;
  expect_complaint(llama3, "low_freq_factor < high_freq_factor");
}

TEST(Config, TextThatIsNoObject) {
  for (const char* text : {"", " ", "{", "{]", "nul", "{\"model_type\": NaN}", "{\"rope_theta\": 1e999}",
                           "\xff\xfe{}", "{\"a\": \"\xff\"}", "[]", "3", "\"llama\"", "null", "{} {}"})
    EXPECT_NE(complaint(std::string(text)), "") << text;
  const std::string deep(200'000, '[');
  EXPECT_NE(complaint(deep), "");
  const std::string nested = deep + std::string(200'000, ']');
  EXPECT_NE(complaint(nested), "");
  EXPECT_NE(complaint("{\"hidden_size\": " + nested + "}"), "");
  EXPECT_NE(complaint("{\"model_type\": \"llama\", \"vocab_size\": " + nested + "}"), "");
  const std::string longer = complaint(with("model_type", std::string(10'000, 'x')));
  EXPECT_LT(longer.size(), 300u);
}

TEST(Config, EveryTruncationIsRefused) {
  const std::string text = kLlama31;
  for (std::size_t size = 0; size < text.size(); ++size)
    ASSERT_NE(complaint(text.substr(0, size)), "") << "the first " << size << " bytes";
}

TEST(Config, RoundTrip) {
  std::vector<ModelConfig> configs{parse_config(kLlama31), parse_config(kMistral), parse_config(kTinyLlama)};
  ModelConfig c = parse(minimal());
  c.tied_embedding = true;
  c.rms_epsilon = 3.3e-7f;
  c.initializer_range = 0.1f;
  c.attention_dropout = 0.3f;
  configs.push_back(c);
  c.rope_scaling = {.type = RopeType::linear, .factor = 2.1};
  configs.push_back(c);
  c.rope_scaling = {.type = RopeType::yarn,
                    .factor = 40,
                    .original_max_positions = 4096,
                    .beta_fast = 33.5,
                    .beta_slow = 1.5,
                    .attention_factor = 1.1,
                    .mscale = 0.707,
                    .mscale_all_dim = 1,
                    .truncate = false};
  configs.push_back(c);
  c.head_dim = 12;  // not width / heads
  c.sliding_window = 7;
  c.first_k = 3;
  c.attention_softcap = 30.1f;
  configs.push_back(c);
  for (const ModelConfig& config : configs)
    for (const DType dtype : {DType::f32, DType::bf16})
      EXPECT_EQ(parse_config(to_json(config, dtype)), config);
}

TEST(Config, WritesWhatTransformersReads) {
  const Json llama = Json::parse(to_json(parse_config(kLlama31), DType::bf16));
  const Json source = Json::parse(kLlama31);
  for (const auto& [key, value] : source.items())
    if (key != "use_cache" && key != "transformers_version" && key != "pretraining_tp") {
      EXPECT_EQ(llama.value(key, Json()), value) << key;
    }
  EXPECT_EQ(Json::parse(to_json(parse_config(kMistral), DType::f32))["model_type"], "mistral");
  EXPECT_EQ(Json::parse(to_json(parse_config(kMistral), DType::f32))["torch_dtype"], "float32");
  // Other software would ignore these keys and compute something else: it must not take the file for its own.
  ModelConfig own = parse_config(kMistral);
  own.first_k = 4;
  EXPECT_EQ(Json::parse(to_json(own, DType::f32))["model_type"], "rondo");
}

TEST(Config, Files) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "rondo_model_config.json";
  std::ofstream(file) << kMistral;
  EXPECT_EQ(read_config(file), parse_config(kMistral));
  std::ofstream(file) << "{}";
  try {
    read_config(file);
    FAIL();
  } catch (const ArgumentError& error) {
    EXPECT_NE(std::string(error.what()).find(file.string()), std::string::npos) << error.what();
  }
  std::filesystem::remove(file);
  EXPECT_THROW(read_config(file), IoError);
  EXPECT_THROW(read_config(testing::TempDir()), IoError);
}

}  // namespace
}  // namespace rondo
