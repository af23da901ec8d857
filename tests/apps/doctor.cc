// rondo doctor, on threads and as mpirun starts it.

#include <gtest/gtest.h>
#include <sched.h>

#include <nlohmann/json.hpp>

#include "rondo/core/isa.h"
#include "tests/apps/command.h"

namespace rondo::test {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

const Words kQuick = {"doctor", "--seconds", "0.2"};

void expect_ring(const json& found, std::size_t processes, std::size_t devices) {
  EXPECT_EQ(found["processes"].size(), processes);
  for (const json& process : found["processes"]) {
    EXPECT_FALSE(process["cpus"].get<std::string>().empty());
    EXPECT_EQ(process["build"], found["processes"][0]["build"]);
    EXPECT_EQ(process["build"].get<std::string>().size(), 16u);
  }
  ASSERT_EQ(found["devices"].size(), devices);
  for (const json& device : found["devices"])
    for (const char* key : {"f32_flops_alone", "f32_flops_together", "bf16_flops_alone",
                            "bf16_flops_together", "read_bytes_per_second"})
      EXPECT_GT(device[key].get<double>(), 0) << key;
  ASSERT_EQ(found["hops"].size(), devices);
  for (const json& hop : found["hops"]) {
    EXPECT_GT(hop["latency_seconds"].get<double>(), 0);
    EXPECT_GT(hop["messages"].back()["bytes_per_second_together"].get<double>(), 0);
  }
  ASSERT_EQ(found["hiding"].size(), 4u);
  for (const json& need : found["hiding"]) EXPECT_GT(need["tokens_needed"].get<double>(), 0);
  for (const json& warning : found["warnings"])
    EXPECT_FALSE(warning["found"].get<std::string>().empty() || warning["advice"].get<std::string>().empty());
}

TEST(Doctor, SpeaksOfTheRing) {
  const CommandResult result = rondo(kQuick + Words{"--devices", "2", "--ctx-size", "4096", "--heads", "32",
                                                    "--kv-heads", "8", "--head-dim", "128"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.err, "");
  for (const char* words : {"| device |", " hop |", "within a process", "32 query heads on 8 of 128",
                            " 2048 |", "kappa F e / (2 g B)", "arning"})
    EXPECT_NE(result.out.find(words), std::string::npos) << words << " is not in:\n" << result.out;
  EXPECT_TRUE(result.out.find("enough") != std::string::npos ||
              result.out.find("too few") != std::string::npos);
}

TEST(Doctor, SpeaksToPrograms) {
  const CommandResult result = rondo(kQuick + Words{"--devices", "2", "--threads", "3", "--ctx-size", "300",
                                                    "--format", "json", "--isa", "portable"});
  ASSERT_EQ(result.status, 0) << result.err;  // warnings are no failure
  const json found = json::parse(result.out);
  expect_ring(found, 1, 2);
  EXPECT_EQ(found["processes"][0]["isa"], "portable");
  EXPECT_EQ(found["processes"][0]["threads"], 3);
  EXPECT_EQ(found["hiding"][0]["tokens"], 150);
}

bool warns_of(const CommandResult& result, const std::string& code) {
  const json found = json::parse(result.out);
  for (const json& warning : found["warnings"])
    if (warning["code"] == code) return true;
  return false;
}

TEST(Doctor, WarnsOfMoreThreadsThanItMayRun) {
  cpu_set_t before, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu)
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  const CommandResult result = rondo(kQuick + Words{"--devices", "2", "--format", "json"});
  ASSERT_EQ(::sched_setaffinity(0, sizeof(before), &before), 0);
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_TRUE(warns_of(result, "oversubscribed")) << result.out;
}

TEST(Doctor, OfOneDeviceHasNoHops) {
  const CommandResult result = rondo(kQuick);
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_NE(result.out.find("One device exchanges nothing."), std::string::npos) << result.out;
}

TEST(Doctor, RefusesByName) {
  for (const auto& [arguments, word] :
       std::vector<std::pair<Words, std::string>>{{{"--seconds", "0"}, "--seconds"},
                                                  {{"--heads", "3", "--kv-heads", "2"}, "--kv-heads"},
                                                  {{"--model", "/no/such/model"}, "/no/such/model"},
                                                  {{"--model", "x", "--heads", "2"}, "--heads"},
                                                  {{"--memory-limit", "1M"}, "memory"}}) {
    const CommandResult result = rondo(kQuick + arguments);
    EXPECT_EQ(result.status, 2) << result.err;
    EXPECT_NE(result.err.find(word), std::string::npos) << result.err;
  }
}

class DoctorUnderMpirun : public testing::Test {
 protected:
  void SetUp() override {
    if (std::string(RONDO_MPI_MISSING) != "") GTEST_SKIP() << RONDO_MPI_MISSING;
  }
  /// On two processes, of which the second has some options of its own.
  static CommandResult launch(const Words& second = {}) {
    std::map<std::string, std::string> environment;
    for (const std::string variable : {RONDO_MPI_ENVIRONMENT}) {
      const auto equals = variable.find('=');
      environment[variable.substr(0, equals)] = variable.substr(equals + 1);
    }
    const Words one = Words{"-np", "1", RONDO_COMMAND} + kQuick + Words{"--format", "json"};
    return Process::of(Words{RONDO_MPIRUN} + one + Words{":"} + one + second, "", environment).wait();
  }
};

TEST_F(DoctorUnderMpirun, MeasuresAllProcesses) {
  const CommandResult result = launch();
  ASSERT_EQ(result.status, 0) << result.err;
  const json found = json::parse(result.out);  // one object: the others are silent
  expect_ring(found, 2, 2);
  for (const json& hop : found["hops"]) EXPECT_EQ(hop["kind"], "within a host");
  for (const char* code : {"mixed-shapes", "mixed-instruction-sets"})
    EXPECT_FALSE(warns_of(result, code)) << result.out;
}

TEST_F(DoctorUnderMpirun, WarnsOfMixtures) {
  EXPECT_TRUE(warns_of(launch({"--threads", "2"}), "mixed-shapes"));
  if (detected_isa() == Isa::portable) GTEST_SKIP() << "this processor has one instruction set";
  EXPECT_TRUE(warns_of(launch({"--isa", "portable"}), "mixed-instruction-sets"));
}

}  // namespace
}  // namespace rondo::test
