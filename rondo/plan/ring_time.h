#pragma once
// How long one layer's attention takes on a ring: the schedule that the engine runs, priced step by step.
// What each device does at each distance, what it posts and waits for, is as in attention/ring_loop.cc and
// attention/gradient_lane.cc.

#include <cstdint>
#include <vector>

#include "rondo/plan/hardware.h"
#include "rondo/schedule/schedule.h"

namespace rondo {

/// Prices of attention on one device.
struct AttentionPrice {
  double forward_per_pair = 0, backward_per_pair = 0;  ///< seconds, all heads
  double kv_bytes_per_token = 0;                       ///< of keys and values as they travel
  double gradient_bytes_per_token = 0;                 ///< of their gradients, float32
  double adding_per_byte =
      0;  ///< seconds to add an arrived gradient to what it belongs to; 0: done on arrival
};

/// Visible pairs by device and distance, and what travels, of a whole ring.
class RingWork {
 public:
  /// Needs memory for a number for each two devices. ArgumentError as from make_schedule.
  RingWork(const SequencePlan& plan, const Mask& mask);

  int devices() const { return devices_; }
  /// Farthest that any block travels.
  int last_distance() const { return last_distance_; }
  double pairs(int device) const;
  double pairs_in_all() const;
  /// Of the block that arrived in this direction after so many hops; Direction::none at distance 0.
  double pairs(int device, Direction direction, int distance) const;
  std::int64_t tokens(int device) const { return tokens_[static_cast<std::size_t>(device)]; }
  /// How far the device's block travels.
  int reach(int device, Direction direction) const;
  /// Whose block is here after so many hops in this direction, or -1.
  int owner_at(int device, Direction direction, int distance) const;
  /// Of the last device that a block comes to: its gradients go home in parts.
  struct Part {
    double keys = 0, pairs = 0;
  };
  const std::vector<Part>& parts(int device, Direction direction) const {
    return parts_[direction == Direction::up][static_cast<std::size_t>(device)];
  }

 private:
  std::size_t index(int device, int distance) const {
    return static_cast<std::size_t>(device) * static_cast<std::size_t>(devices_) +
           static_cast<std::size_t>(distance);
  }
  void add(const Step& step, int device);

  int devices_, last_distance_ = 0;
  std::vector<double> pairs_[2];  // down and own, up (empty where nothing travels up)
  std::vector<std::int64_t> tokens_;
  std::vector<Schedule::Reach> reach_;
  std::vector<std::vector<Part>> parts_[2];
};

/// A ring whose devices each have a clock.
class RingClock {
 public:
  /// Work and hardware outlive it.
  RingClock(const RingWork& work, const Hardware& hardware, const AttentionPrice& price);

  /// All devices compute for so long.
  void compute(double seconds);
  /// Each link is taken for so long by what travels beside computation (sums of gradients, gathers).
  void occupy_links(double seconds);
  /// Nobody goes on before all links are free.
  void drain_links();
  /// As if a stretch of so long had been simulated once more.
  void advance(double seconds, double computed);
  /// One layer's attention.
  void forward();
  void backward();

  double now() const;       ///< of the latest device
  double computed() const;  ///< by the device that computed most

 private:
  /// What arrives at a device and what it has sent, at one distance.
  struct Exchange {
    std::vector<double> arrives, bytes, sent;
    explicit Exchange(int devices)
        : arrives(static_cast<std::size_t>(devices), -1), bytes(arrives.size()), sent(arrives.size(), -1) {}
  };
  int neighbour(int device, Direction direction) const;
  const Link& link(int from, Direction direction) const;
  /// When `bytes` have arrived that both ends know of since `posted`; takes the link.
  double travel(int from, Direction direction, double bytes, double posted);
  void compute(int device, double seconds);
  void post(int distance, bool gradients, const std::vector<double>& begin, Exchange& exchange);
  void receive(int device, const Exchange& exchange);
  void backward_step(int device, int distance, const std::vector<double>& begin, const Exchange& passing,
                     Exchange& home);

  const RingWork& work_;
  const Hardware& hardware_;
  AttentionPrice price_;
  int devices_;
  std::vector<double> clock_, busy_, free_[2];  // free_: when the link down, up is
};

/// One layer's attention where all devices see as many pairs at each distance and all links are alike: what
/// the clocks of a balanced ring show, for any number of devices.
struct AttentionTime {
  double forward = 0, backward = 0;  ///< seconds
  double forward_computing = 0, backward_computing = 0;
  double forward_link = 0, backward_link = 0;  ///< in which a link is taken
};
struct EvenRing {
  double tokens = 0, pairs = 0;  ///< of a device
  double distance = 0;           ///< that blocks travel: devices - 1 without a window
};
AttentionTime even_ring_time(const EvenRing& ring, const Link& link, const AttentionPrice& price);

}  // namespace rondo
