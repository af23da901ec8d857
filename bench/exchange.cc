#include "bench/exchange.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "bench/arguments.h"
#include "bench/data.h"
#include "bench/team.h"
#include "rondo/core/error.h"
#include "rondo/kernels/peak.h"

namespace rondo::bench {

namespace {

constexpr std::uint64_t kFirstStream = 31;

/// Does nothing with what arrives.
class Idle : public RingVisitor {
 public:
  void begin(int) override {}
  void compute(const rondo::Step&, const ConstKeyValues&) override {}
  void end(int) override {}
};

/// Counts blocks that are not their owner's.
class Check final : public Idle {
 public:
  Check(const ExchangeCase& what, std::atomic<int>& wrong) : what_(what), wrong_(wrong) {}
  void compute(const rondo::Step& step, const ConstKeyValues& block) override {
    const std::uint64_t stream = kFirstStream + 2 * static_cast<std::uint64_t>(step.kv.owner);
    if (!is(block.k_SGD, stream) || !is(block.v_SGE, stream + 1)) ++wrong_;
  }

 private:
  bool is(const ConstTensor& tensor, std::uint64_t stream) const {
    return tensor.tokens == what_.block_tokens &&
           reference::to_doubles(tensor) == drawn_values(stream, 0, tensor.elements(), what_.dtype);
  }
  const ExchangeCase& what_;
  std::atomic<int>& wrong_;
};

/// One device's keys and values and where those of others arrive.
struct Device {
  Device(Context& context, Communicator& given, const ExchangeCase& what)
      : communicator(given), exchange(what.exchange), pool(context, "travelling keys and values") {
    const SequencePlan plan{.tokens = what.block_tokens * communicator.devices(),
                            .devices = communicator.devices()};
    schedule = make_schedule(plan, {.causal = false}, context.device);
    shard_tokens.assign(static_cast<std::size_t>(plan.devices), what.block_tokens);
    pool.resize({what.block_tokens, what.kv_heads, what.head_dim, what.head_dim, what.dtype});
    memory = context.arena.allocate(Entry::attention, what.block_bytes(), "bench");
    const Tensor both = memory.tensor(what.dtype, 2 * what.block_tokens, what.kv_heads, what.head_dim);
    const Tensor k = both.slice({0, what.block_tokens}),
                 v = both.slice({what.block_tokens, 2 * what.block_tokens});
    const std::uint64_t stream = kFirstStream + 2 * static_cast<std::uint64_t>(context.device);
    fill_drawn(k, stream), fill_drawn(v, stream + 1);
    own = {k, v};
  }

  /// Returns the blocks that arrived.
  int run(Context& context, RingVisitor& visitor) {
    const RingLoop loop{context, communicator, schedule,        shard_tokens,
                        pool,    exchange,     CallId{++calls}, "bench"};
    return loop.run(own, {}, communicator.devices() - 1, visitor);
  }

  Communicator& communicator;
  Exchange exchange;
  BlockPool pool;
  Schedule schedule;
  std::vector<std::int64_t> shard_tokens;
  Buffer memory;
  ConstKeyValues own;
  std::int64_t calls = 0;
};

class ExchangeWork {
 public:
  explicit ExchangeWork(const ExchangeCase& what)
      : what_(what), team_(what.ring), devices_(static_cast<std::size_t>(what.ring.devices)) {
    team_.run([this](Context& context, Communicator& communicator) {
      devices_[static_cast<std::size_t>(context.device)] =
          std::make_unique<Device>(context, communicator, what_);
    });
  }

  void run(int repeats) {
    team_.run([&](Context& context, Communicator&) {
      Idle idle;
      for (int n = 0; n < repeats; ++n) device(context).run(context, idle);
    });
  }

  void verify() {
    std::atomic<int> wrong = 0, arrived = 0;
    team_.run([&](Context& context, Communicator&) {
      Check check(what_, wrong);
      arrived += device(context).run(context, check);
    });
    const int expected = team_.devices() * (team_.devices() - 1);
    if (wrong == 0 && arrived == expected) return;
    throw std::runtime_error(
        fmt::format("[bench] expected {} blocks as their owners have them, got {}, {} wrong", expected,
                    arrived.load(), wrong.load()));
  }

 private:
  Device& device(const Context& context) { return *devices_[static_cast<std::size_t>(context.device)]; }
  ExchangeCase what_;
  Team team_;
  std::vector<std::unique_ptr<Device>> devices_;
};

}  // namespace

Row bench_exchange(const ExchangeCase& what, const MeasureOptions& options) {
  check_argument(what.ring.devices >= 2, "bench",
                 "--devices: expected at least 2 to exchange between, got {}", what.ring.devices);
  check_argument(what.block_tokens >= 1, "bench", "expected blocks of at least 1 token, got {}",
                 what.block_tokens);
  ExchangeWork work(what);
  work.verify();
  const Runs runs = measure(options, {[&](int repeats) { work.run(repeats); }}, [] { return 1.0; }).front();
  Row row = with_times({.bench = "exchange",
                        .dtype = short_name(what.dtype),
                        .head_dim = what.head_dim,
                        .kv_heads = what.kv_heads,
                        .ctx = what.block_tokens * what.ring.devices,
                        .devices = what.ring.devices,
                        .threads = what.ring.threads,
                        .isa = kernels::tier_name(what.ring.isa),
                        .max_rel_error = 0.0},
                       runs);
  const std::int64_t received = (what.ring.devices - 1) * what.block_bytes();
  const double rate = static_cast<double>(received) / row.seconds_median / 1e9;
  row.more = {{"exchange", name_of(what.exchange)},
              {"block_bytes", what.block_bytes()},
              {"gbytes_per_second_device", rate},
              {"gbytes_per_second", rate * what.ring.devices}};
  return row;
}

}  // namespace rondo::bench
