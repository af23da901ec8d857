// A model trained elsewhere (stories260K): imported, it writes and scores what its own software computed.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/apps/command.h"
#include "tests/support/data.h"

namespace rondo::test {
namespace {

using nlohmann::json;

class Stories : public testing::Test {
 protected:
  void SetUp() override {
    RONDO_NEEDS_DATA("tinyllama");
    golden_ = json::parse(read_text(data() / "golden.json"));
    const CommandResult imported = rondo({"import", "llama2c", (data() / "stories260K.bin").string(),
                                          (data() / "tok512.bin").string(), model()});
    ASSERT_EQ(imported.status, 0) << imported.err;
  }
  static std::filesystem::path data() { return data_dir() / "tinyllama"; }
  std::string model() const { return (folder_ / "model").string(); }
  /// The sample's documents as the golden numbers take them: without the white space around them.
  static std::vector<std::string> documents() {
    constexpr std::string_view kEnd = "<|endoftext|>", kSpace = " \n";
    const std::string text = read_text(data() / "tinystories_sample.cs336.txt");
    std::vector<std::string> found;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find(kEnd, at), text.size());
      std::string document = text.substr(at, end - at);
      at = end + kEnd.size();
      document.erase(0, std::min(document.find_first_not_of(kSpace), document.size()));
      document.erase(document.find_last_not_of(kSpace) + 1);
      if (!document.empty()) found.push_back(document);
    }
    return found;
  }
  TemporaryFolder folder_;
  json golden_;
};

TEST_F(Stories, TheLikeliestContinuationIsTheGoldenText) {
  for (const char* devices : {"1", "3"}) {
    const CommandResult written =
        rondo({"generate", model(), "--temp", "0", "-n", "256", "--devices", devices});
    ASSERT_EQ(written.status, 0) << written.err;
    EXPECT_EQ(written.out, golden_["greedy_text"].get<std::string>() + "\n") << devices << " devices";
  }
}

TEST_F(Stories, LikelihoodOfTheSampleIsTheGoldenOne) {
  const json& golden = golden_["nll"]["tinystories_sample.cs336.txt"];
  const json& per_document = golden["per_doc(first<=512 tokens)"];
  const auto texts = documents();
  ASSERT_EQ(texts.size(), per_document.size());
  double nats = 0;
  std::int64_t tokens = 0;
  for (std::size_t n = 0; n < texts.size(); ++n) {
    write_text(folder_ / "document", texts[n]);
    const CommandResult result = rondo({"eval", model(), (folder_ / "document").string(), "--devices", "2",
                                        "--max-windows", "1", "--format", "json"});
    ASSERT_EQ(result.status, 0) << result.err;
    const json scored = json::parse(result.out);
    EXPECT_EQ(scored["tokens"].get<std::int64_t>() + 1, per_document[n][0]);  // the golden count has the bos
    EXPECT_EQ(scored["bytes"], texts[n].size());
    // Golden sums are given to 1e-6; float32 logits are good to about 1e-6 each, over some hundred tokens.
    EXPECT_NEAR(scored["nats"], per_document[n][1], 2e-4);
    nats += scored["nats"].get<double>();
    tokens += scored["tokens"].get<std::int64_t>();
  }
  EXPECT_EQ(tokens, golden["tokens"]);
  EXPECT_NEAR(nats / static_cast<double>(tokens), golden["mean_nll"], 1e-6);
}

TEST_F(Stories, ItIsNoModelOfBytes) {
  write_text(folder_ / "text", sample_text(2000));
  const CommandResult refused = rondo({"train", (folder_ / "text").string(), "--from", model(), "--ctx-size",
                                       "64", "--out", (folder_ / "run").string()});
  EXPECT_EQ(refused.status, 2);
  EXPECT_NE(refused.err.find("'bytes'"), std::string::npos) << refused.err;
  EXPECT_NE(refused.err.find("'bpe'"), std::string::npos) << refused.err;
  const CommandResult again = rondo({"import", "llama2c", (data() / "stories260K.bin").string(),
                                     (data() / "tok512.bin").string(), model()});
  EXPECT_EQ(again.status, 2);  // nothing is written over
}

}  // namespace
}  // namespace rondo::test
