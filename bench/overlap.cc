#include "bench/overlap.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <mutex>
#include <stdexcept>

#include "rondo/comm/threads.h"
#include "rondo/core/error.h"
#include "rondo/core/random.h"
#include "rondo/kernels/peak.h"
#include "rondo/plan/overlap.h"

namespace rondo::bench {

namespace {

using Clock = std::chrono::steady_clock;
using Part = AttentionDevice::Part;

enum class Mode { overlap, plain, exchange };

/// What one ring saw.
struct Seen {
  double seconds = 0;             ///< of the pass, slowest device
  std::uint64_t results = 0;      ///< hash of what this process' devices computed
  std::int64_t received = 0;      ///< bytes that came to one device
  std::int64_t device_pairs = 0;  ///< query-key pairs of the device that has most
};

std::uint64_t hash(const Tensor& tensor) {
  const auto* words = static_cast<const std::uint32_t*>(tensor.data);
  std::uint64_t sum = 0;
  for (std::int64_t n = 0; n < tensor.bytes() / 4; ++n) sum = mix64(sum ^ words[n]);
  return sum;
}

double slowest(Communicator& communicator, double seconds) {
  std::vector<double> all(static_cast<std::size_t>(communicator.devices()));
  communicator.all_gather(std::as_bytes(std::span(&seconds, 1)), std::as_writable_bytes(std::span(all)));
  return *std::max_element(all.begin(), all.end());
}

/// Bytes that a device receives in a pass: keys and values as they are, gradients in float32.
std::int64_t received(const AttentionCase& what, const RingAttention::Counters& before,
                      const RingAttention::Counters& after, std::int64_t tokens) {
  const std::int64_t elements = 2 * tokens * what.kv_heads * what.head_dim;
  return elements * ((after.kv_hops - before.kv_hops) * size_of(what.dtype) +
                     (after.gradient_hops - before.gradient_hops) * size_of(DType::f32));
}

/// Seconds of the pass' computation without any exchange, while all processes are at it: as many passes over
/// a sequence of one device's own tokens as there are devices have the same tiles.
double computation(const AttentionCase& what, Pass pass) {
  const int devices = what.ring.devices_in_all();
  double seconds = 0;
  std::mutex mutex;
  run_ring(what.ring, [&](Context&, Communicator& communicator) {
    AttentionCase own = what;
    own.ctx /= devices;
    own.ring = {.threads = what.ring.threads, .isa = what.ring.isa};
    Context alone({.threads = what.ring.threads, .isa = what.ring.isa});
    ThreadGroup group({.devices = 1});
    const auto itself = group.communicator(0);
    AttentionDevice device(alone, *itself, own);
    device.forward();
    const auto once = [&] { pass == Pass::forward ? device.forward() : device.backward(); };
    once();
    communicator.barrier();
    const auto begin = Clock::now();
    for (int n = 0; n < devices; ++n) once();
    const double took = slowest(communicator, std::chrono::duration<double>(Clock::now() - begin).count());
    const std::lock_guard lock(mutex);
    seconds = took;
  });
  return seconds;
}

Seen run(const AttentionCase& what, Pass pass, Mode mode) {
  RingOptions options = what.ring;
  options.overlap = mode != Mode::plain;
  Seen seen;
  std::mutex mutex;
  run_ring(options, [&](Context& context, Communicator& communicator) {
    AttentionDevice device(context, communicator, what);
    const std::int64_t pairs = count_pairs(device.ring().schedule());
    if (mode == Mode::exchange) device.exchange_only();
    const auto once = [&] { pass == Pass::forward ? device.forward() : device.backward(); };
    if (pass != Pass::forward) device.forward();
    once();
    communicator.barrier();
    const RingAttention::Counters before = device.ring().counters();
    const auto begin = Clock::now();
    once();
    const double own = std::chrono::duration<double>(Clock::now() - begin).count();
    const double seconds = slowest(communicator, own);
    const std::lock_guard lock(mutex);
    seen.seconds = seconds;
    seen.received =
        std::max(seen.received, received(what, before, device.ring().counters(), device.tokens()));
    seen.device_pairs = std::max(seen.device_pairs, pairs);
    if (pass == Pass::forward) {
      seen.results += mix64(static_cast<std::uint64_t>(context.device)) ^ hash(device.part(Part::out));
    } else {
      for (const Part part : {Part::dq, Part::dk, Part::dv})
        seen.results += mix64(static_cast<std::uint64_t>(context.device)) ^ hash(device.part(part));
    }
  });
  return seen;
}

/// What the formula asks for at the rates that were measured.
double needed_tokens(const AttentionCase& what, Pass pass, double pairs_per_second, double bytes_per_second) {
  const double products = pass == Pass::forward ? 4 : 10;
  const HopModel hop{.flops = pairs_per_second * static_cast<double>(what.heads * what.head_dim) * products,
                     .bytes_per_second = bytes_per_second,
                     .heads = what.heads,
                     .kv_heads = what.kv_heads,
                     .head_dim = what.head_dim,
                     .dtype = what.dtype,
                     .causal = what.mask.causal};
  return pass == Pass::forward ? tokens_to_hide_forward(hop) : tokens_to_hide_backward(hop);
}

}  // namespace

Row bench_overlap(const AttentionCase& what, Pass pass, const MeasureOptions& options) {
  const int devices = what.ring.devices_in_all();
  check_argument(devices > what.ring.devices, "bench",
                 "expected several processes, as exchanges between devices of one hide nothing, got one; use "
                 "mpirun");
  check_argument(pass != Pass::both, "bench", "--pass: expected forward or backward, got both");
  check_argument(what.mask.window == 0, "bench", "--mask: expected none or causal, got a window");
  std::vector<double> overlap, plain, alone, compute;
  Seen seen;
  for (int round = 0; round < options.runs; ++round) {
    const Seen with = run(what, pass, Mode::overlap), without = run(what, pass, Mode::plain);
    if (with.results != without.results)
      throw std::runtime_error("[bench] expected the same bits with and without overlap, got others");
    overlap.push_back(with.seconds);
    plain.push_back(without.seconds);
    alone.push_back(run(what, pass, Mode::exchange).seconds);
    compute.push_back(computation(what, pass));
    seen = with;
  }
  const double computing = median(compute), exchanging = median(plain) - computing;
  const double tokens = static_cast<double>(what.ctx) / devices;
  Row row{.bench = "overlap",
          .pass = name_of(pass),
          .dtype = short_name(what.dtype),
          .head_dim = what.head_dim,
          .heads = what.heads,
          .kv_heads = what.kv_heads,
          .ctx = what.ctx,
          .mask = name_of(what.mask),
          .layout = rondo::name_of(what.layout),
          .devices = devices,
          .threads = what.ring.threads,
          .isa = kernels::tier_name(what.ring.isa),
          .seconds_median = median(overlap),
          .seconds_min = least(overlap),
          .runs = options.runs};  // verified by equal bits, not by an error
  // An exchange that takes no time to speak of may measure as less than none: then nothing follows from it.
  constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  double needed = kUnknown, share = kUnknown, hidden = kUnknown, rate = kUnknown;
  if (exchanging > 0) {
    const double bytes = static_cast<double>(seen.received) / exchanging;
    const double asked = needed_tokens(what, pass, static_cast<double>(seen.device_pairs) / computing, bytes);
    needed = asked, share = tokens / asked, rate = bytes / 1e9;
    hidden = (median(plain) - median(overlap)) / exchanging;
  }
  row.more = {{"tokens_device", tokens},
              {"needed_tokens", needed},
              {"tokens_share", share, 3},
              {"seconds_no_overlap", median(plain)},
              {"seconds_compute", computing},
              {"seconds_exchange", exchanging},
              {"seconds_exchange_alone", median(alone)},
              {"hidden", hidden, 3},
              {"gbytes_per_second", rate, 3}};
  return row;
}

}  // namespace rondo::bench
