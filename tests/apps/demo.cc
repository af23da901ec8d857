// The demo in small: what it promises to show is there.

#include <gtest/gtest.h>

#include "tests/apps/command.h"

namespace rondo::test {
namespace {

class Demo : public testing::Test {
 protected:
  void SetUp() override { write_text(folder_ / "text", sample_text(60'000)); }
  CommandResult demo() const {
    return rondo({"demo", (folder_ / "text").string(), "--out", (folder_ / "run").string(), "--ctx-size",
                  "512", "--devices", "2", "--minutes", "0.02"});
  }
  TemporaryFolder folder_;
};

TEST_F(Demo, ComparesTrainsAndWrites) {
  const CommandResult result = demo();
  ASSERT_EQ(result.status, 0) << result.err;
  for (const char* row :
       {"loss of step 1", "memory per device", "tokens per second", "held-out bits per byte",
        "of a byte-bigram model", "It continues the held-out text", "report.html"})
    EXPECT_NE(result.out.find(row), std::string::npos) << row << "\n" << result.out;
  const std::string page = read_text(folder_ / "run" / "report.html");
  EXPECT_NE(page.find("<svg"), std::string::npos);
  // The run is a model for the other commands, and a second demo leaves it alone.
  EXPECT_EQ(rondo({"generate", (folder_ / "run").string(), "The", "-n", "5"}).status, 0);
  ASSERT_EQ(demo().status, 0);
  EXPECT_EQ(read_text(folder_ / "run" / "report.html"), page);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "run-2" / "report.html"));
}

TEST_F(Demo, NeedsTextLongerThanTheContext) {
  write_text(folder_ / "text", "short");
  const CommandResult result = demo();
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.err.find("context"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace rondo::test
