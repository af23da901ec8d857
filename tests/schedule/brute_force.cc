#include "tests/schedule/brute_force.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace rondo::test {
namespace {

struct Fault {
  std::string words;
};

template <class... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw Fault{fmt::format(format, std::forward<Args>(args)...)};
}

std::size_t index(std::int64_t n) { return static_cast<std::size_t>(n); }

class Check {
 public:
  Check(const SequencePlan& plan, const Mask& mask) : plan_(plan), mask_(mask) {
    for (int r = 0; r < plan.devices; ++r) {
      places_.push_back(shard_places(plan, r));
      schedules_.push_back(make_schedule(plan, mask, r));
    }
  }

  void run() {
    tokens();
    global_block();
    pairs();
    steps();
    hops();
    for (int owner = 0; owner < plan_.devices; ++owner) reach(owner);
  }

 private:
  TokenPlace place(std::int64_t global) const {
    std::int64_t document = 0, start = 0;
    for (std::size_t n = 0; n < plan_.document_starts.size(); ++n)
      if (plan_.document_starts[n] <= global)
        document = static_cast<std::int64_t>(n), start = plan_.document_starts[n];
    return {global, global - start, document};
  }

  bool visible(std::int64_t q, std::int64_t k) const {
    const TokenPlace at_q = place(q), at_k = place(k);
    if (at_q.document != at_k.document || (mask_.causal && k > q)) return false;
    return mask_.window == 0 || std::abs(q - k) < mask_.window || at_k.position < mask_.first_k;
  }

  void tokens() const {
    std::vector<int> seen(index(plan_.tokens));
    for (int r = 0; r < plan_.devices; ++r) {
      std::int64_t local = 0;
      require(make_pieces(plan_, r) == schedules_[index(r)].pieces, "pieces of {} differ", r);
      for (const Piece& piece : schedules_[index(r)].pieces) {
        require(piece.local == local && piece.count > 0, "piece of {} does not follow the last", r);
        for (std::int64_t n = 0; n < piece.count; ++n, ++local) {
          const std::int64_t global = piece.base + n * piece.stride;
          const TokenPlace want = place(global), got = places_[index(r)].at(index(local));
          require(got.global == want.global && got.position == want.position && got.document == want.document,
                  "token {} of device {} is misplaced", local, r);
          ++seen.at(index(global));
        }
      }
      require(local == shard_tokens(plan_, r) && index(local) == places_[index(r)].size(),
              "tokens of {} miscounted", r);
    }
    require(std::ranges::all_of(seen, [](int n) { return n == 1; }), "a token does not live exactly once");
  }

  void global_block() const {
    const auto& tokens = schedules_[0].global_tokens;
    require(std::ranges::is_sorted(tokens), "global tokens are not ascending");
    std::vector<int> given(tokens.size());
    for (const Schedule& schedule : schedules_) {
      require(schedule.global_tokens == tokens, "device {} has another global block", schedule.device);
      for (const auto& own : schedule.own_global_tokens) {
        require(places_[index(schedule.device)].at(index(own.local)).global == tokens.at(index(own.index)),
                "device {} gives a wrong token to the global block", schedule.device);
        ++given[index(own.index)];
      }
    }
    require(std::ranges::all_of(given, [](int n) { return n == 1; }), "a global token is not given once");
    bool needed = false;
    for (std::int64_t q = 0; q < plan_.tokens; ++q)
      for (std::int64_t k = 0; k < plan_.tokens; ++k)
        needed |= visible(q, k) && mask_.window > 0 && std::abs(q - k) >= mask_.window;
    require(needed || tokens.empty(), "a global block that nobody needs");
  }

  void pairs() const {
    std::vector<int> computed(index(plan_.tokens * plan_.tokens));
    for (const Schedule& schedule : schedules_) {
      std::int64_t pairs = 0;
      for (const Step& step : schedule.steps)
        for (const Tile& tile : step.tiles) pairs += count(schedule, step, tile, computed);
      require(pairs == count_pairs(schedule), "count_pairs says {}, not {}", count_pairs(schedule), pairs);
    }
    for (std::int64_t q = 0; q < plan_.tokens; ++q)
      for (std::int64_t k = 0; k < plan_.tokens; ++k) {
        const int times = computed[index(q * plan_.tokens + k)];
        require(times == visible(q, k), "query {} and key {} are computed {} times", q, k, times);
      }
  }

  TokenPlace key_place(const Step& step, std::int64_t n) const {
    return step.kv.is_global() ? place(schedules_[0].global_tokens.at(index(n)))
                               : places_[index(step.kv.owner)].at(index(n));
  }

  std::int64_t count(const Schedule& schedule, const Step& step, const Tile& tile,
                     std::vector<int>& computed) const {
    const auto& queries = places_[index(schedule.device)];
    std::int64_t pairs = 0;
    bool cut_low = false, cut_high = false;
    std::vector<int> seen(index(tile.k.size()));
    for (std::int64_t i = 0; i < tile.q.size(); ++i) {
      const TokenPlace q = queries.at(index(tile.q.begin + i));
      require(q.position == tile.q_position + i * tile.stride && q.document == tile.sequence,
              "a query's position is wrong");
      std::int64_t sees = 0;
      for (std::int64_t j = 0; j < tile.k.size(); ++j) {
        const TokenPlace k = key_place(step, tile.k.begin + j);
        require(k.position == tile.k_position + j * tile.stride && k.document == tile.sequence,
                "a key's position is wrong");
        cut_low |= j - i < tile.band.lo;
        cut_high |= j - i > tile.band.hi;
        if (!tile.band.allows(i, j)) continue;
        ++computed[index(q.global * plan_.tokens + k.global)];
        ++sees, ++seen[index(j)];
      }
      require(sees > 0, "a tile of device {} has an idle row", schedule.device);
      pairs += sees;
    }
    require(std::ranges::all_of(seen, [](int n) { return n > 0; }), "a tile of device {} has an idle key",
            schedule.device);
    require(cut_low == (tile.band.lo != -Band::unbounded) && cut_high == (tile.band.hi != Band::unbounded),
            "a bound that cuts nothing is written");
    require(pairs > 0 && pairs == count_pairs(std::vector<Tile>{tile}), "a tile's pairs are miscounted");
    return pairs;
  }

  void steps() const {
    for (const Schedule& schedule : schedules_) {
      const bool global = !schedule.global_tokens.empty();
      require(schedule.steps.at(0) == Identity{schedule.device, Direction::none, 0}, "step 0 is not its own");
      if (global)
        require(schedule.steps.at(1) == Identity{BlockId::global_tokens, Direction::none, 0},
                "step 1 is not global");
      std::size_t n = global ? 2 : 1;
      for (const Hop& hop : schedule.hops)
        if (hop.receive_block >= 0)
          require(schedule.steps.at(n++) == Identity{hop.receive_block, hop.direction, hop.distance},
                  "a block that arrives at {} has no step of its own", schedule.device);
      require(n == schedule.steps.size(), "device {} has a step without arrival", schedule.device);
    }
  }

  struct Identity {
    int owner;
    Direction arrives;
    int distance;
    friend bool operator==(const Step& step, const Identity& id) {
      return step.kv.owner == id.owner && step.arrives == id.arrives && step.distance == id.distance;
    }
  };

  int neighbour(int device, Direction direction) const {
    return (device + (direction == Direction::down ? 1 : plan_.devices - 1)) % plan_.devices;
  }
  const Hop* find(int device, Direction direction, int distance) const {
    for (const Hop& hop : schedules_[index(device)].hops)
      if (hop.direction == direction && hop.distance == distance) return &hop;
    return nullptr;
  }

  void hops() const {
    for (const Schedule& schedule : schedules_) {
      for (std::size_t n = 1; n < schedule.hops.size(); ++n) {
        const Hop &a = schedule.hops[n - 1], &b = schedule.hops[n];
        require(a.distance < b.distance || (a.distance == b.distance && a.direction < b.direction),
                "hops out of order");
      }
      for (const Hop& hop : schedule.hops) {
        require(hop.send_block >= 0 || hop.receive_block >= 0, "a hop without a block");
        if (hop.send_block < 0) continue;
        const Hop* before = find(schedule.device, hop.direction, hop.distance - 1);
        require(hop.distance == 1 ? hop.send_block == schedule.device
                                  : before != nullptr && before->receive_block == hop.send_block,
                "device {} sends a block that it does not hold", schedule.device);
      }
      for (const Direction direction : {Direction::down, Direction::up})
        for (int n = 1; n < plan_.devices; ++n) {
          const Hop* sent = find(schedule.device, direction, n);
          const Hop* received = find(neighbour(schedule.device, direction), direction, n);
          require((sent ? sent->send_block : -1) == (received ? received->receive_block : -1),
                  "hop {} from device {} is not what its neighbour expects", n, schedule.device);
        }
    }
  }

  void reach(int owner) const {
    const Schedule::Reach got = schedules_[0].reach.at(index(owner));
    std::vector<bool> needed(index(plan_.devices));
    for (const Schedule& schedule : schedules_) {
      const auto other = schedule.reach.at(index(owner));
      require(other.down == got.down && other.up == got.up, "device {} has another reach", schedule.device);
      for (const Step& step : schedule.steps)
        if (step.kv.owner == owner && !step.tiles.empty())
          needed[index((schedule.device - owner + plan_.devices) % plan_.devices)] = true;
    }
    Schedule::Reach best{plan_.devices - 1, 0};
    for (int up = 0; up < plan_.devices; ++up)
      for (int down = 0; down < plan_.devices; ++down) {
        bool enough = true;
        for (int d = 1; d < plan_.devices; ++d)
          enough &= !needed[index(d)] || d <= down || d >= plan_.devices - up;
        if (enough && down + up < best.down + best.up) best = {down, up};
      }
    require(got.down == best.down && got.up == best.up, "block {} goes {} down, {} up instead of {}, {}",
            owner, got.down, got.up, best.down, best.up);
  }

  const SequencePlan& plan_;
  const Mask& mask_;
  std::vector<std::vector<TokenPlace>> places_;
  std::vector<Schedule> schedules_;
};

}  // namespace

std::string describe(const SequencePlan& plan, const Mask& mask) {
  return fmt::format(
      "{} tokens on {} devices, {}, documents at [{}], weights [{}], causal {}, window {}, first_k {}",
      plan.tokens, plan.devices, name_of(plan.layout), fmt::join(plan.document_starts, ", "),
      fmt::join(plan.weights, ", "), mask.causal, mask.window, mask.first_k);
}

std::string find_fault(const SequencePlan& plan, const Mask& mask) {
  try {
    Check(plan, mask).run();
  } catch (const Fault& fault) {
    return fault.words + ": " + describe(plan, mask);
  }
  return "";
}

}  // namespace rondo::test
