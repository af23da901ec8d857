// Processes that are killed, stopped, cut off or told something else than the others: all others end in time
// with a line that names the one, and the run goes on from its newest checkpoint as if nothing had been.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/apps/command.h"
#include "tests/apps/hosts.h"

namespace rondo::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Words = std::vector<std::string>;

std::vector<double> losses(const fs::path& run) {
  std::vector<double> values;
  std::istringstream file(read_text(run / "metrics.jsonl"));
  for (std::string line; std::getline(file, line);) {
    const auto parsed = nlohmann::json::parse(line);
    if (parsed.contains("loss")) values.push_back(parsed["loss"]);
  }
  return values;
}

int count(const std::string& text, const std::string& words) {
  int found = 0;
  for (auto at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++found;
  return found;
}

/// The process of this rank with `word` on its command line, on whichever host of this machine; 0 when there
/// is none.
pid_t process_of_rank(const std::string& word, int rank) {
  const std::string wanted = "OMPI_COMM_WORLD_RANK=" + std::to_string(rank);
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const pid_t id = std::atoi(entry.path().filename().c_str());
    if (id <= 0) continue;
    std::ifstream line(entry.path() / "cmdline"), environment(entry.path() / "environ");
    bool ours = false;
    for (std::string argument; std::getline(line, argument, '\0');) ours = ours || argument == word;
    if (!ours) continue;
    for (std::string variable; std::getline(environment, variable, '\0');)
      if (variable == wanted) return id;
  }
  return 0;
}

class Faults : public testing::Test {
 protected:
  void SetUp() override {
    if (std::string(RONDO_MPI_MISSING) != "") GTEST_SKIP() << RONDO_MPI_MISSING;
    write_text(folder_ / "text", sample_text(40'000));
    for (const std::string variable : {RONDO_MPI_ENVIRONMENT}) {
      const auto equals = variable.find('=');
      environment_[variable.substr(0, equals)] = variable.substr(equals + 1);
    }
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  /// Silent for a second is lost.
  Words train(const std::string& out) const {
    return {"train",        path("text"), "--out",      path(out), "--steps",    "100000",
            "--schedule",   "constant",   "--layers",   "2",       "--width",    "32",
            "--heads",      "4",          "--kv-heads", "2",       "--ctx-size", "320",
            "--save-every", "4",          "--timeout",  "4"};
  }
  /// Three processes of which mpirun does not kill the others when one dies.
  Process launch(const Words& arguments) const {
    return Process::of(Words{RONDO_MPIRUN, "--enable-recovery", "-np", "3", RONDO_COMMAND} + arguments, "",
                       environment_);
  }
  /// Waits until `ready`, a minute at most.
  template <class Ready>
  static void await(Process& process, const Ready& ready) {
    const auto end = Clock::now() + 60s;
    while (!ready() && process.running() && Clock::now() < end) std::this_thread::sleep_for(20ms);
    if (!ready()) throw std::runtime_error("waited in vain: " + process.err());
  }
  bool has_checkpoint(const std::string& out) const { return fs::exists(folder_ / out / "step-00000004"); }
  /// The process of the run in `out`; 0 when it is gone.
  pid_t process_of(const std::string& out, int rank) const { return process_of_rank(path(out), rank); }
  /// A process gets the signal while it trains; returns it.
  pid_t disturb(Process& process, const std::string& out, int signal, int rank = 1) const {
    await(process, [&] { return has_checkpoint(out); });
    const pid_t victim = process_of(out, rank);
    EXPECT_GT(victim, 0);
    if (victim > 0) ::kill(victim, signal);
    return victim;
  }
  /// The run in `out` goes on from its newest checkpoint to the losses of one that was never disturbed.
  void expect_that_it_continues(const std::string& out) const {
    fs::path newest;
    for (const auto& entry : fs::directory_iterator(folder_ / out))
      if (entry.path().filename().string().starts_with("step-")) newest = std::max(newest, entry.path());
    const int step = std::stoi(newest.filename().string().substr(5));
    const Words until{"--devices", "3", "--stop-after", std::to_string(step + 4)};
    const CommandResult resumed = rondo(Words{"train", "--resume", path(out)} + until);
    ASSERT_EQ(resumed.status, 0) << resumed.err;
    ASSERT_EQ(rondo(train("whole") + until).status, 0);
    EXPECT_EQ(losses(folder_ / out).size(), static_cast<std::size_t>(step + 4));
    EXPECT_EQ(losses(folder_ / out), losses(folder_ / "whole"));
  }

  TemporaryFolder folder_;
  std::map<std::string, std::string> environment_;
};

TEST_F(Faults, AProcessIsKilled) {
  Process process = launch(train("run"));
  disturb(process, "run", SIGKILL);
  const auto begin = Clock::now();
  const std::string err = process.wait().err;
  EXPECT_LT(Clock::now() - begin, 15s) << err;
  EXPECT_EQ(count(err, "rondo: [communicator] device 1 failed: process 1 (device 1, host "), 2) << err;
  EXPECT_EQ(count(err, ") died at "), 2) << err;
  EXPECT_GE(count(err, "last heard of "), 2) << err;
  EXPECT_EQ(count(err, "; the last checkpoint is " + path("run/step-")), 2) << err;
  expect_that_it_continues("run");
}

// The one that prints, and that writes all but the others' parts of checkpoints.
TEST_F(Faults, TheFirstProcessIsKilled) {
  Process process = launch(train("run"));
  disturb(process, "run", SIGKILL, 0);
  const auto begin = Clock::now();
  const std::string err = process.wait().err;
  EXPECT_LT(Clock::now() - begin, 15s) << err;
  EXPECT_EQ(count(err, "rondo: [communicator] device 0 failed: process 0 (device 0, host "), 2) << err;
  EXPECT_EQ(count(err, ") died at "), 2) << err;
  EXPECT_EQ(count(err, "; the last checkpoint is " + path("run/step-")), 2) << err;
  expect_that_it_continues("run");
}

TEST_F(Faults, AProcessIsStopped) {
  Process process = launch(train("run"));
  const pid_t victim = disturb(process, "run", SIGSTOP);
  const auto begin = Clock::now();
  await(process, [&] { return count(process.err(), ") is silent since ") == 2; });
  EXPECT_LT(Clock::now() - begin, 15s);
  for (const int rank : {0, 2}) await(process, [&] { return process_of("run", rank) == 0; });
  EXPECT_LT(Clock::now() - begin, 15s);
  // When it goes on it finds that the others are gone, and ends as well.
  ::kill(victim, SIGCONT);
  await(process, [&] { return !process.running(); });
  const std::string err = process.wait().err;
  EXPECT_LT(Clock::now() - begin, 45s);
  EXPECT_GE(count(err, "rondo: [communicator] device 1 failed: process 1 (device 1, host "), 2) << err;
  expect_that_it_continues("run");
}

// What plain mpirun does: it kills the survivors, who are faster.
TEST_F(Faults, AProcessIsKilledUnderPlainMpirun) {
  Process process =
      Process::of(Words{RONDO_MPIRUN, "-np", "3", RONDO_COMMAND} + train("run"), "", environment_);
  disturb(process, "run", SIGKILL);
  const auto begin = Clock::now();
  const CommandResult result = process.wait();
  EXPECT_NE(result.status, 0);
  EXPECT_LT(Clock::now() - begin, 15s) << result.err;
  EXPECT_GE(count(result.err, "process 1 (device 1, host ") + count(result.err, "signal 9"), 1) << result.err;
  expect_that_it_continues("run");
}

TEST_F(Faults, AProcessHasAnotherConfiguration) {
  const auto launch = [&](const Words& two, const Words& one) {
    return Process::of(
               Words{RONDO_MPIRUN, "--enable-recovery", "-np", "2"} + two + Words{":", "-np", "1"} + one, "",
               environment_)
        .wait();
  };
  const Words own = Words{RONDO_COMMAND} + train("run");
  const auto with = [&](const Words& more) { return launch(own, own + more); };
  const CommandResult rate = with({"--lr", "0.5"});
  EXPECT_EQ(count(rate.err,
                  "rondo: [start] expected the same --lr on all processes, got '0.001' on process 0 and "
                  "'0.5' on process 2"),
            3)
      << rate.err;
  write_text(folder_ / "other", sample_text(30'000));
  const CommandResult text = with({path("other")});
  EXPECT_EQ(count(text.err, "rondo: [start] expected the same training text on all processes, got "), 3)
      << text.err;
  // Another program, and another text of the same name and size.
  Words other = own;
  other[0] = path("rondo");
  fs::copy_file(RONDO_COMMAND, other[0]);
  std::ofstream(other[0], std::ios::app) << "!";
  const CommandResult program = launch(own, other);
  EXPECT_EQ(
      count(program.err,
            "rondo: [ring] expected the same program on all processes, got another build on process 2 "),
      3)
      << program.err;
  fs::create_directory(folder_ / "elsewhere");
  write_text(folder_ / "elsewhere" / "text", sample_text(40'000, 2));
  other = own;
  *std::find(other.begin(), other.end(), path("text")) = path("elsewhere/text");
  const CommandResult content = launch(own, other);
  EXPECT_EQ(count(content.err, "rondo: [start] expected the same training text on all processes, got "), 3)
      << content.err;
  const CommandResult tier = with({"--isa", "portable"});
  EXPECT_TRUE(count(tier.err, "rondo: [start] expected the same --isa on all processes") == 3 ||
              tier.status == 0)
      << tier.err;
  EXPECT_FALSE(fs::exists(folder_ / "run" / "metrics.jsonl"));
  const CommandResult missing = with({path("nothing")});
  EXPECT_EQ(count(missing.err, "nothing: expected a"), 1) << missing.err;
  EXPECT_GE(count(missing.err, "process 2 (device 2, host "), 1) << missing.err;
}

// Two hosts go on without the third: they name it. It is alone, and says that. At this rate exchanging is
// nearly all that a step does.
TEST_F(Faults, ALinkIsCutInMidExchange) {
  if (Hosts::run("check") != 0) GTEST_SKIP() << "scripts/hosts check: no network namespaces here";
  const Hosts hosts(3, "20mbit");
  if (!hosts.made()) GTEST_SKIP() << "scripts/hosts up: others use hosts here";
  Process process = Process::of(
      Words{RONDO_SOURCE_DIR "/scripts/hosts", "mpirun", "--enable-recovery", RONDO_COMMAND} + train("run"),
      "", environment_);
  await(process, [&] { return has_checkpoint("run"); });
  ASSERT_NE(process_of("run", 2), 0);
  const auto begin = Clock::now();
  ASSERT_EQ(Hosts::run("cut 2"), 0);
  const std::string words =
      "rondo: [communicator] device 2 failed: process 2 (device 2, host rondo-2) is silent since ";
  await(process, [&] { return count(process.err(), words) == 2; });
  for (const int rank : {0, 1, 2}) await(process, [&] { return process_of("run", rank) == 0; });
  EXPECT_LT(Clock::now() - begin, 15s);
  EXPECT_EQ(count(process.err(), "; the last checkpoint is " + path("run/step-")), 2) << process.err();
  expect_that_it_continues("run");
}

// Each process says which device could not write and why; the checkpoints before that one are whole.
TEST_F(Faults, ADiskIsFullInMidCheckpoint) {
  // A disk of a few megabytes that only these processes see.
  fs::create_directory(folder_ / "disk");
  const std::string disk = "mount -t tmpfs -o size=3m tmpfs \"" + path("disk") + "\"";
  const Words own_disk{"/usr/bin/unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c"};
  if (Process::of(own_disk + Words{disk}, "", {}).wait().status != 0)
    GTEST_SKIP() << "no file system can be mounted here";
  std::string line = disk + " && ";
  for (const std::string& word : Words{RONDO_MPIRUN, "--enable-recovery", "-np", "3", RONDO_COMMAND} +
                                     train("disk/run") + Words{"--keep", "0"})
    line += "\"" + word + "\" ";
  line += "; cp -a \"" + path("disk/run") + "\" \"" + path("run") + "\"";
  Process process = Process::of(own_disk + Words{line}, "", environment_);
  await(process, [&] { return count(process.err(), "No space left on device") > 0; });
  const auto begin = Clock::now();
  const CommandResult result = process.wait();
  ASSERT_EQ(result.status, 0) << result.err;  // of the copy
  EXPECT_LT(Clock::now() - begin, 15s);
  EXPECT_EQ(count(result.err, "No space left on device"), 3) << result.err;
  EXPECT_EQ(count(result.err, "[checkpoint] device "), 3) << result.err;
  EXPECT_GE(count(result.err, "; the last checkpoint is " + path("disk/run/step-")), 1) << result.err;
  for (const auto& entry : fs::directory_iterator(folder_ / "run"))
    EXPECT_FALSE(entry.path().filename().string().starts_with(".tmp-step-")) << entry.path() << " is left";
  EXPECT_EQ(rondo({"inspect", path("run"), "--verify"}).status, 0);
  expect_that_it_continues("run");
}

}  // namespace
}  // namespace rondo::test
