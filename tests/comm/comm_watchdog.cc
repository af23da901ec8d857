// Watchdogs by themselves, over sockets of which the test holds ends in its own hands.

#include "rondo/comm/watchdog.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>

namespace rondo {
namespace {

using namespace std::chrono_literals;
using Clock = Watchdog::Clock;

constexpr auto kTimeout = 800ms;  // of the ring: silent for 200 ms is lost

/// What a watchdog said to its ring.
class Ring final : public Watched {
 public:
  struct Lost {
    int process;
    Loss loss;
    Clock::time_point since, told = Clock::now();
  };
  std::vector<DeviceState> own_devices() override {
    const std::lock_guard lock(mutex_);
    return {own};
  }
  void heard(int process, std::span<const DeviceState> devices) override {
    note([&] { states[process] = devices[0]; });
  }
  void told(const DeviceFailure& failure) override {
    note([&] { failures.push_back(failure); });
  }
  void lost(int process, Loss loss, Clock::time_point since) override {
    note([&] { losses.push_back({process, loss, since}); });
  }
  /// Waits until `ready`; a failure after long.
  template <class Ready>
  void await(const Ready& ready) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, 20s, ready));
  }
  /// What it heard so far.
  template <class T>
  T read(T Ring::*what) {
    const std::lock_guard lock(mutex_);
    return this->*what;
  }
  void set(const DeviceState& state) {
    const std::lock_guard lock(mutex_);
    own = state;
  }

  DeviceState own;
  std::map<int, DeviceState> states;
  std::vector<DeviceFailure> failures;
  std::vector<Lost> losses;

 private:
  template <class Change>
  void note(const Change& change) {
    const std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
};

class Watchdogs : public testing::Test {
 protected:
  /// Every two of `count` processes are joined; those in `by_hand` have no watchdog but ends that the test
  /// holds.
  void start(int count, const std::vector<int>& by_hand = {}) {
    std::vector<std::vector<ControlPeer>> peers(static_cast<std::size_t>(count));
    for (int p = 0; p < count; ++p) {
      at(peers, p).resize(static_cast<std::size_t>(count));
      for (int q = 0; q < p; ++q) {
        int ends[2];
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        at(at(peers, p), q).socket = Socket(ends[0]);
        at(at(peers, q), p).socket = Socket(ends[1]);
      }
    }
    for (int p = 0; p < count; ++p) {
      rings_.push_back(std::make_unique<Ring>());
      const bool hand = std::find(by_hand.begin(), by_hand.end(), p) != by_hand.end();
      if (hand) hands_[p] = std::move(at(peers, p));
      dogs_.push_back(hand ? nullptr : std::make_unique<Watchdog>(p, std::move(at(peers, p))));
    }
  }
  /// Those by hand say once that they will speak every 20 ms.
  void watch() {
    struct {
      std::uint32_t kind = 0x72696e67, bytes = 0;
      std::int64_t interval_ms = 20;
    } const beat;
    for (const auto& [process, peers] : hands_)
      for (const ControlPeer& peer : peers) {
        if (!peer.socket) continue;
        ASSERT_EQ(::send(peer.socket.fd(), &beat, sizeof(beat), MSG_NOSIGNAL), 16);
      }
    for (std::size_t p = 0; p < dogs_.size(); ++p)
      if (dogs_[p]) dogs_[p]->watch(rings_[p].get(), kTimeout);
  }
  Ring& ring(int process) { return *at(rings_, process); }
  Watchdog& dog(int process) { return *at(dogs_, process); }
  template <class T>
  static T& at(std::vector<T>& all, int n) {
    return all[static_cast<std::size_t>(n)];
  }

  std::vector<std::unique_ptr<Ring>> rings_;  // outlive the watchdogs
  std::map<int, std::vector<ControlPeer>> hands_;
  std::vector<std::unique_ptr<Watchdog>> dogs_;
};

TEST_F(Watchdogs, TellWhereDevicesAre) {
  start(3);
  DeviceState state{.step = 12, .waits_for = 7};
  state.begin("layer 3, hop 2", Clock::now() - 5s);
  ring(1).set(state);
  watch();
  for (const int process : {0, 2}) {
    ring(process).await([&] { return ring(process).states.contains(1); });
    const DeviceState heard = ring(process).read(&Ring::states).at(1);
    EXPECT_EQ(heard.step, 12);
    EXPECT_EQ(heard.waits_for, 7);
    EXPECT_STREQ(heard.doing.data(), "layer 3, hop 2");
    EXPECT_NEAR(std::chrono::duration<double>(Clock::now() - heard.since).count(), 5, 3);
  }
  std::this_thread::sleep_for(2 * Watchdog::silence_limit(kTimeout));
  for (int process = 0; process < 3; ++process) EXPECT_TRUE(ring(process).read(&Ring::losses).empty());
}

TEST_F(Watchdogs, NoticeADeathAtOnce) {
  start(3, {1});
  watch();
  const auto begin = Clock::now();
  hands_.clear();  // as the system does
  for (const int process : {0, 2}) {
    Ring& own = ring(process);
    own.await([&] { return !own.losses.empty(); });
    EXPECT_EQ(own.read(&Ring::losses).at(0).process, 1);
    EXPECT_EQ(own.read(&Ring::losses).at(0).loss, Loss::died);
    EXPECT_LT(own.read(&Ring::losses).at(0).told - begin, 5s);
  }
}

TEST_F(Watchdogs, NoticeSilence) {
  start(3, {1});
  watch();
  const auto begin = Clock::now();
  for (const int process : {0, 2}) {
    Ring& own = ring(process);
    own.await([&] { return !own.losses.empty(); });
    EXPECT_EQ(own.read(&Ring::losses).at(0).process, 1);
    EXPECT_EQ(own.read(&Ring::losses).at(0).loss, Loss::silent);
    EXPECT_GE(own.read(&Ring::losses).at(0).told - own.read(&Ring::losses).at(0).since,
              Watchdog::silence_limit(kTimeout));
    EXPECT_LT(own.read(&Ring::losses).at(0).told - begin, 10s);
  }
}

TEST_F(Watchdogs, KnowWhoIsCutOff) {
  start(4, {1, 2, 3});
  watch();
  ring(0).await([&] { return !ring(0).losses.empty(); });
  EXPECT_EQ(ring(0).read(&Ring::losses).at(0).process, 0);
  EXPECT_EQ(ring(0).read(&Ring::losses).at(0).loss, Loss::cut_off);
}

// It speaks with the calm of one that has no ring yet: that is not silence.
TEST_F(Watchdogs, BearWithThoseWhoHaveNotBegun) {
  start(2);
  dog(0).watch(rings_[0].get(), kTimeout);
  std::this_thread::sleep_for(3 * Watchdog::silence_limit(kTimeout));
  EXPECT_TRUE(ring(0).read(&Ring::losses).empty());
}

TEST_F(Watchdogs, PassFailuresOnBeforeTheyGo) {
  start(3);
  dog(0).watch(rings_[0].get(), kTimeout);
  const std::string reason = "the lamp went out in " + std::string(300, '.') + " the hall";
  dog(1).tell({.device = 5, .reason = reason});
  dogs_[1].reset();
  dog(2).watch(rings_[2].get(), kTimeout);  // hears of it although it came later
  for (const int process : {0, 2}) {
    Ring& own = ring(process);
    own.await([&] { return !own.failures.empty() && !own.losses.empty(); });
    EXPECT_EQ(own.read(&Ring::failures).at(0).device, 5);
    EXPECT_EQ(own.read(&Ring::failures).at(0).reason, reason);
    EXPECT_EQ(own.read(&Ring::losses).at(0).loss, Loss::left);
  }
}

// A device that unwinds says first that it failed, and then of what.
TEST_F(Watchdogs, WaitAMomentForOwnWords) {
  start(3);
  watch();
  dog(1).tell({.device = 1, .provisional = true, .reason = "unwinds"});
  dog(1).tell({.device = 1, .provisional = false, .reason = "the lamp went out"});
  dog(2).tell({.device = 2, .provisional = true, .reason = "unwinds for ever"});
  ring(0).await([&] { return !ring(0).failures.empty(); });
  EXPECT_EQ(ring(0).read(&Ring::failures).at(0).reason, "the lamp went out");
  ring(1).await([&] { return !ring(1).failures.empty(); });
  EXPECT_EQ(ring(1).read(&Ring::failures).at(0).reason, "unwinds for ever");
}

TEST_F(Watchdogs, PartTogether) {
  start(3);
  watch();
  std::vector<std::jthread> threads;
  std::atomic<int> in_peace = 0;
  for (int process = 0; process < 3; ++process)
    threads.emplace_back([&, process] { in_peace += dog(process).part(20s) ? 1 : 0; });
  threads.clear();
  EXPECT_EQ(in_peace, 3);
}

TEST_F(Watchdogs, DoNotPartFromTheLost) {
  start(3, {1, 2});
  EXPECT_FALSE(dog(0).part(50ms));  // they do not come
  hands_.clear();
  EXPECT_FALSE(dog(0).part(20s));
}

TEST_F(Watchdogs, SurviveNonsense) {
  start(2, {1});
  watch();
  const std::string nonsense(100, 'x');
  ASSERT_EQ(::send(hands_[1][0].socket.fd(), nonsense.data(), nonsense.size(), MSG_NOSIGNAL), 100);
  ring(0).await([&] { return !ring(0).losses.empty(); });
  EXPECT_EQ(ring(0).read(&Ring::losses).at(0).loss, Loss::died);
}

}  // namespace
}  // namespace rondo
