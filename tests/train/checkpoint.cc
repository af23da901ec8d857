#include "rondo/train/checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "rondo/core/error.h"
#include "rondo/model/hf_folder.h"
#include "tests/train/checkpoint_support.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::newest_on;
using test::read_text;
using test::save_on;
using test::small_config;
using test::state_at;
using test::TemporaryFolder;
using test::Tensors;
using test::write_text;

class Checkpoint : public ::testing::Test {
 protected:
  fs::path save(std::int64_t step, int keep = 0, int devices = 1) {
    return save_on(devices, {.run = run(), .keep = keep}, small_config(), table_, state_at(step), tensors_);
  }
  fs::path run() const { return folder_ / "run"; }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const fs::path& path : list_checkpoints(run())) found.push_back(path.filename().string());
    return found;
  }
  using Names = std::vector<std::string>;

  TemporaryFolder folder_{test::memory_folder()};
  ParameterTable table_{small_config()};
  Tensors tensors_{table_, 11};
};

TEST_F(Checkpoint, BringsBackEveryBit) {
  const fs::path path = save(42);
  EXPECT_EQ(path, run() / "step-00000042");
  for (const char* file : {"config.json", "model.safetensors", "tokenizer.json", "training_state/state.json",
                           "training_state/optimizer.safetensors"})
    EXPECT_TRUE(fs::is_regular_file(path / file)) << file;
  Tensors back(table_);
  SavedTensors(path, table_).read({0, table_.total()}, back.view());
  EXPECT_EQ(back, tensors_);
  const TrainingState state = read_training_state(path), expected = state_at(42);
  EXPECT_EQ(state.step, 42);
  EXPECT_EQ(state.data_fingerprint, expected.data_fingerprint);
  EXPECT_EQ(state.data, expected.data);
  EXPECT_EQ(state.held_out, expected.held_out);
  EXPECT_EQ(to_json(state.recipe), to_json(expected.recipe));
  EXPECT_EQ(load_model_folder(path).config(), small_config());  // as any model folder
}

TEST_F(Checkpoint, KeepsTheNewest) {
  EXPECT_EQ(names(), Names{});
  for (const std::int64_t step : {1, 2, 10, 300}) save(step, 2);
  EXPECT_EQ(names(), (Names{"step-00000010", "step-00000300"}));
  save(301);  // 0 keeps all
  EXPECT_EQ(names(), (Names{"step-00000010", "step-00000300", "step-00000301"}));
  save(301, 1);  // again in the same place
  EXPECT_EQ(names(), (Names{"step-00000301"}));
  EXPECT_EQ(newest_on(1, run()).path, run() / "step-00000301");
  EXPECT_EQ(newest_on(2, run() / "step-00000301").path, run() / "step-00000301");
}

TEST_F(Checkpoint, TheOneJustWrittenStaysEvenWhereLaterStepsLie) {
  save(20, 2), save(30, 2);
  EXPECT_TRUE(fs::exists(save(12, 2)));  // resumed from an earlier step
}

TEST_F(Checkpoint, IgnoresWhatIsHalfWrittenOrNone) {
  save(5);
  fs::create_directories(run() / "step-00000009");                     // nothing in it
  fs::create_directories(run() / "step-00000008" / "training_state");  // no state
  write_text(run() / "step-00000008" / "config.json", "{}");
  write_text(run() / "step-00000007", "a file");
  fs::copy(run() / "step-00000005", run() / ".tmp-step-00000010-abc", fs::copy_options::recursive);
  EXPECT_EQ(names(), (Names{"step-00000005"}));
  const FoundCheckpoint found = newest_on(1, run());
  EXPECT_EQ(found.path, run() / "step-00000005");
  ASSERT_EQ(found.passed_over.size(), 2u);
  EXPECT_EQ(found.passed_over[0].path, run() / "step-00000009");
  EXPECT_NE(found.passed_over[0].what.find("state.json"), std::string::npos) << found.passed_over[0].what;
  fs::create_directories(folder_ / "other");
  RONDO_EXPECT_ERROR(IoError, newest_on(2, folder_ / "other"), "expected a checkpoint", "other");
  RONDO_EXPECT_ERROR(IoError, newest_on(1, folder_ / "nowhere"), "nowhere");
}

TEST_F(Checkpoint, AFailedWriteLeavesTheOlderOnes) {
  save(5);
  write_text(run() / "step-00000006", "in the way");
  EXPECT_THROW(save(6, 1), IoError);
  EXPECT_EQ(names(), (Names{"step-00000005"}));
  for (const auto& entry : fs::directory_iterator(run()))
    EXPECT_EQ(entry.path().filename().string().rfind("step-", 0), 0u) << entry.path();
}

TEST_F(Checkpoint, RefusesHostileStates) {
  const fs::path path = save(5), file = path / "training_state" / "state.json";
  const json whole = json::parse(read_text(file));
  const auto refused = [&](const std::string& text) {
    write_text(file, text);
    try {
      read_training_state(path);
    } catch (const IoError& error) {
      return std::string(error.what());
    } catch (const ArgumentError& error) {
      return std::string(error.what());
    }
    ADD_FAILURE() << "accepted: " << text;
    return std::string();
  };
  for (const char* text :
       {"", "{", "[]", "null", "7", "{}", "\"x\"", "{\"format\": 1}", "{\"format\": \"1\"}"})
    refused(text);
  for (const auto& [key, value] : whole.items()) {
    json without = whole;
    without.erase(key);
    EXPECT_NE(refused(without.dump()).find(key), std::string::npos) << key;
    for (const json& wrong :
         {json(nullptr), json(json::array({1})), json("x"), json(-1), json(1.5), json(true)}) {
      json changed = whole;
      changed[key] = wrong;
      refused(changed.dump());
    }
  }
  json changed = whole;
  changed["format"] = 3;
  EXPECT_NE(refused(changed.dump()).find("format 1 or 2"), std::string::npos);
  changed = whole;
  changed["step"] = std::uint64_t{1} << 60;
  EXPECT_NE(refused(changed.dump()).find("step from 0 to"), std::string::npos);
  refused(std::string(100000, '['));
}

TEST_F(Checkpoint, NamesWhatDoesNotFit) {
  const fs::path path = save(5);
  ModelConfig deeper = small_config();
  deeper.layers = 3;
  const ParameterTable other(deeper);
  Tensors tensors(other);
  RONDO_EXPECT_ERROR(IoError, SavedTensors(path, other).read({0, other.total()}, tensors.view()),
                     "[checkpoint]", "model.layers.2.input_layernorm.weight", path.string());
  // As many elements in other shapes.
  ModelConfig turned = small_config();
  turned.head_dim = 12, turned.ffn = 32;
  const ParameterTable turned_table(turned);
  ASSERT_EQ(turned_table.total(), table_.total());
  Tensors turned_tensors(turned_table);
  RONDO_EXPECT_ERROR(IoError,
                     SavedTensors(path, turned_table).read({0, turned_table.total()}, turned_tensors.view()),
                     "expected model.layers.0.self_attn.q_proj.weight [48, 32]", "[32, 32]");
  fs::remove(path / "training_state" / "optimizer.safetensors");
  Tensors same(table_);
  RONDO_EXPECT_ERROR(IoError, SavedTensors(path, table_).read({0, table_.total()}, same.view()),
                     "optimizer.safetensors");
}

TEST_F(Checkpoint, MomentsOfAnotherShapeAreNamed) {
  const fs::path path = save(5);
  // Moments of another model beside this model's weights.
  ModelConfig tied = small_config();
  tied.tied_embedding = true;
  const ParameterTable tied_table(tied);
  Tensors tied_tensors(tied_table, 3);
  const fs::path foreign = save_on(1, {.run = folder_ / "tied"}, tied, tied_table, state_at(5), tied_tensors);
  fs::copy_file(foreign / "training_state" / "optimizer.safetensors",
                path / "training_state" / "optimizer.safetensors", fs::copy_options::overwrite_existing);
  Tensors same(table_);
  RONDO_EXPECT_ERROR(IoError, SavedTensors(path, table_).read({0, table_.total()}, same.view()),
                     "first_moment.lm_head.weight");
}

}  // namespace
}  // namespace rondo
