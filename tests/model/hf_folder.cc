// Hugging Face folders: what is written is read again, what does not fit is refused by name.

#include "rondo/model/hf_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rondo/core/error.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;

ModelConfig small(bool tied = false) {
  return {.vocabulary = 37,
          .width = 12,
          .ffn = 14,
          .layers = 2,
          .q_heads = 4,
          .kv_heads = 2,
          .head_dim = 6,
          .tied_embedding = tied};
}

/// One tensor of a file that a test makes up.
struct Made {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};
using Tensors = std::map<std::string, Made>;

Made f32(std::vector<std::int64_t> shape, const std::vector<float>& values) {
  std::string bytes(values.size() * 4, '\0');
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return {"F32", std::move(shape), std::move(bytes)};
}

class HfFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              (std::string("rondo_hf_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::vector<float> parameters(const ModelConfig& config) {
    const ParameterTable table(config);
    std::vector<float> flat(static_cast<std::size_t>(table.total()));
    initialise(table, config, 3, flat);
    return flat;
  }
  /// The tensors of small(tied) as a Hugging Face file has them.
  static Tensors tensors(bool tied = false) {
    const ParameterTable table(small(tied));
    const std::vector<float> flat = parameters(small(tied));
    Tensors result;
    for (const ParameterInfo& info : table.infos()) {
      const float* begin = flat.data() + info.offset;
      result[info.name] =
          f32(info.is_norm() ? std::vector{info.columns} : std::vector{info.rows, info.columns},
              {begin, begin + info.elements()});
    }
    return result;
  }
  void write(const std::string& file, const Tensors& made) const {
    std::vector<SafetensorsEntry> entries;
    std::vector<std::pair<std::string, std::string>> data;
    for (const std::int64_t bytes : {8, 4, 2, 1})  // wider types first
      for (const auto& [name, tensor] : made)
        if (safetensors_element_bytes(tensor.dtype) == bytes) {
          entries.push_back({name, tensor.dtype, tensor.shape});
          data.emplace_back(name, tensor.bytes);
        }
    SafetensorsWriter writer(folder_ / file, entries);
    for (const auto& [name, bytes] : data)
      if (!bytes.empty()) writer.append(name, std::as_bytes(std::span(bytes)));
    writer.finish();
  }
  void write_config(const ModelConfig& config) const {
    std::ofstream(folder_ / "config.json") << to_json(config, DType::f32);
  }
  /// What loading says; empty when it accepts.
  std::string complaint() const {
    try {
      const LoadedModel model = load_model_folder(folder_);
      std::vector<float> flat(static_cast<std::size_t>(model.table().total()));
      model.fill(flat);
    } catch (const IoError& error) {
      return error.what();
    }
    return "";
  }
  std::string complaint_after(const std::function<void(Tensors&)>& change, bool tied = false) const {
    Tensors made = tensors(tied);
    change(made);
    write("model.safetensors", made);
    write_config(small(tied));
    return complaint();
  }
  static void expect_words(const std::string& said, const char* words) {
    EXPECT_NE(said.find(words), std::string::npos) << "said: " << said << "\nnot:  " << words;
  }

  fs::path folder_;
};

TEST_F(HfFolder, RoundTripInFloat32IsExact) {
  for (const bool tied : {false, true}) {
    const ModelConfig config = small(tied);
    const std::vector<float> flat = parameters(config);
    save_model_files(folder_, config, ParameterTable(config), flat, DType::f32);
    const LoadedModel model = load_model_folder(folder_);
    EXPECT_EQ(model.config(), config);
    for (const int threads : {0, 3}) {
      ThreadPool pool(std::max(threads, 1));
      std::vector<float> read(flat.size(), std::nanf(""));
      model.fill(read, threads == 0 ? nullptr : &pool);
      EXPECT_EQ(read, flat);
    }
  }
}

TEST_F(HfFolder, RoundTripInBfloat16Rounds) {
  ModelConfig config = small();
  config.vocabulary = 6007;  // longer than one piece of the writer
  std::vector<float> flat = parameters(config);
  save_model_files(folder_, config, ParameterTable(config), flat, DType::bf16);
  const LoadedModel model = load_model_folder(folder_);
  std::vector<float> read(flat.size());
  model.fill(read);
  for (float& value : flat) value = to_float(to_bfloat16(value));
  EXPECT_EQ(read, flat);
}

TEST_F(HfFolder, WritesWhatTransformersLooksFor) {
  save_model_files(folder_, small(true), ParameterTable(small(true)), parameters(small(true)), DType::bf16);
  const SafetensorsFile file(folder_ / "model.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_FALSE(file.contains("lm_head.weight"));
  EXPECT_EQ(file.tensor("model.norm.weight").shape, std::vector<std::int64_t>{12});
  EXPECT_EQ(file.tensor("model.layers.1.self_attn.k_proj.weight").shape, (std::vector<std::int64_t>{12, 12}));
  EXPECT_EQ(file.tensor("model.embed_tokens.weight").dtype, "BF16");
}

TEST_F(HfFolder, MixedDtypes) {
  const std::string half("\x00\x3c\x00\xc0\xff\x7b\x01\x00", 8);  // 1, -2, 65504, 2^-24
  std::string halves;
  for (int i = 0; i < 3; ++i) halves += half;
  ASSERT_EQ(complaint_after([&](Tensors& made) { made["model.norm.weight"] = {"F16", {12}, halves}; }), "");
  const LoadedModel model = load_model_folder(folder_);
  std::vector<float> flat(static_cast<std::size_t>(model.table().total()));
  model.fill(flat);
  const float* norm = flat.data() + model.table().final_norm().offset;
  EXPECT_EQ(std::vector<float>(norm, norm + 4), (std::vector<float>{1, -2, 65504, 0x1p-24f}));
}

TEST_F(HfFolder, Shards) {
  Tensors first = tensors(), second;
  for (const char* name : {"lm_head.weight", "model.layers.1.mlp.up_proj.weight"})
    second.insert(first.extract(name));
  write("model-00001-of-00002.safetensors", first);
  write("model-00002-of-00002.safetensors", second);
  nlohmann::json map;
  for (const auto& [name, tensor] : first) map[name] = "model-00001-of-00002.safetensors";
  for (const auto& [name, tensor] : second) map[name] = "model-00002-of-00002.safetensors";
  std::ofstream(folder_ / "model.safetensors.index.json") << nlohmann::json{{"weight_map", map}};
  write_config(small());
  const LoadedModel model = load_model_folder(folder_);
  std::vector<float> flat(static_cast<std::size_t>(model.table().total()));
  model.fill(flat);
  EXPECT_EQ(flat, parameters(small()));
}

TEST_F(HfFolder, MissingTensorsAreNamed) {
  const std::string said = complaint_after([](Tensors& made) {
    made.erase("model.layers.1.self_attn.v_proj.weight");
    made.erase("lm_head.weight");
  });
  expect_words(said, "missing: model.layers.1.self_attn.v_proj.weight, lm_head.weight");
  expect_words(complaint_after([](Tensors& made) { made = {{"x", f32({1}, {1})}}; }), "and 13 more");
}

TEST_F(HfFolder, ExtraTensorsAreNamed) {
  const std::string said = complaint_after([](Tensors& made) {
    made["model.layers.0.self_attn.q_proj.bias"] = f32({24}, std::vector<float>(24));
    made["model.layers.0.self_attn.rotary_emb.inv_freq"] = f32({3}, {1, 2, 3});
    made["model.layers.2.mlp.up_proj.weight"] = made["model.layers.1.mlp.up_proj.weight"];
  });
  expect_words(
      said, "not part of the model: model.layers.0.self_attn.q_proj.bias, model.layers.2.mlp.up_proj.weight");
  EXPECT_EQ(said.find("inv_freq"), std::string::npos) << said;
  EXPECT_EQ(complaint_after([](Tensors& made) {
              made["model.layers.0.self_attn.rotary_emb.inv_freq"] = f32({3}, {1, 2, 3});
            }),
            "");
}

TEST_F(HfFolder, WrongShapesAndDtypesAreNamed) {
  const std::string said = complaint_after([](Tensors& made) {
    std::swap(made["model.layers.0.mlp.up_proj.weight"].shape[0],
              made["model.layers.0.mlp.up_proj.weight"].shape[1]);
    made["model.norm.weight"].shape = {1, 12};
    made["model.layers.0.self_attn.o_proj.weight"].dtype = "I32";
  });
  expect_words(said, "model.layers.0.mlp.up_proj.weight (expected shape [14, 12], got [12, 14])");
  expect_words(said, "model.norm.weight (expected shape [12], got [1, 12])");
  expect_words(said, "model.layers.0.self_attn.o_proj.weight (expected dtype F32, BF16 or F16, got I32)");
}

TEST_F(HfFolder, NanAndInfinityAreNamed) {
  for (const float bad :
       {std::nanf(""), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    const std::string said = complaint_after([&](Tensors& made) {
      std::memcpy(made["model.layers.1.self_attn.k_proj.weight"].bytes.data() + 4 * 143, &bad, 4);
    });
    expect_words(said, "model.layers.1.self_attn.k_proj.weight");
    expect_words(said, "element 143");
  }
}

TEST_F(HfFolder, TiedHead) {
  const auto add_head = [](Tensors& made) { made["lm_head.weight"] = made["model.embed_tokens.weight"]; };
  EXPECT_EQ(complaint_after(add_head, true), "");
  EXPECT_EQ(complaint_after([](Tensors&) {}, true), "");
  const std::string said = complaint_after(
      [&](Tensors& made) {
        add_head(made);
        made["lm_head.weight"].bytes.back() ^= 1;
      },
      true);
  expect_words(said, "expected lm_head.weight to equal model.embed_tokens.weight");
}

TEST_F(HfFolder, MissingFilesAreNamed) {
  expect_words(complaint(), "config.json");
  write_config(small());
  expect_words(complaint(), "model.safetensors");
  fs::remove_all(folder_);
  expect_words(complaint(), folder_.c_str());
}

TEST_F(HfFolder, WrongLengthsAreRefused) {
  const ParameterTable table(small());
  std::vector<float> flat(static_cast<std::size_t>(table.total()) + 1);
  EXPECT_THROW(save_model_files(folder_, small(), table, flat, DType::f32), ArgumentError);
  EXPECT_TRUE(fs::is_empty(folder_));
  flat.pop_back();
  save_model_files(folder_, small(), table, flat, DType::f32);
  EXPECT_THROW(load_model_folder(folder_).fill(std::span(flat).first(3)), ArgumentError);
}

}  // namespace
}  // namespace rondo
