#include "bench/attention.h"

#include <sched.h>

#include <cstring>

#include "bench/attention_check.h"
#include "bench/peak_meter.h"
#include "rondo/core/error.h"
#include "rondo/kernels/peak.h"

namespace rondo::bench {

namespace {

double flops_of(const AttentionCase& what, Pass pass) {
  return static_cast<double>(what.heads) * attention_flops(pass, what.mask, what.ctx, what.head_dim);
}

Row row_of(const char* bench, const AttentionCase& what, Pass pass, const Runs& runs, double error) {
  return with_rates({.bench = bench,
                     .pass = name_of(pass),
                     .dtype = short_name(what.dtype),
                     .head_dim = what.head_dim,
                     .heads = what.heads,
                     .kv_heads = what.kv_heads,
                     .ctx = what.ctx,
                     .mask = name_of(what.mask),
                     .layout = rondo::name_of(what.layout),
                     .devices = what.ring.devices,
                     .threads = what.ring.threads,
                     .isa = kernels::tier_name(what.ring.isa),
                     .max_rel_error = error},
                    runs, flops_of(what, pass));
}

Work work_of(AttentionWork& work, Pass pass) {
  return [&work, pass](int repeats) { work.run(pass, repeats); };
}

}  // namespace

Row bench_attention(const AttentionCase& what, Pass pass, const MeasureOptions& options) {
  AttentionWork work(what);
  const double error = verified_error(work, pass);
  const PeakMeter peak(work.team(), what.dtype, options.peak_time);
  return row_of("attention", what, pass, measure(options, {work_of(work, pass)}, peak).front(), error);
}

PinnedCpus::PinnedCpus(int cpus) {
  cpu_set_t now, wanted;
  CPU_ZERO(&now);
  CPU_ZERO(&wanted);
  const bool known = sched_getaffinity(0, sizeof(now), &now) == 0;
  check_argument(known && cpus >= 1 && cpus <= CPU_COUNT(&now), "bench",
                 "--cpus: expected 1 to {} processors that this process may use, got {}",
                 known ? CPU_COUNT(&now) : 0, cpus);
  for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&wanted) < cpus; ++cpu)
    if (CPU_ISSET(cpu, &now)) CPU_SET(cpu, &wanted);
  check_argument(sched_setaffinity(0, sizeof(wanted), &wanted) == 0, "bench",
                 "--cpus: expected a system on which threads can be kept on {} processors, got: {}", cpus,
                 std::strerror(errno));
  before_.resize(sizeof(now) / sizeof(unsigned long));
  std::memcpy(before_.data(), &now, sizeof(now));
}

PinnedCpus::~PinnedCpus() {
  cpu_set_t before;
  std::memcpy(&before, before_.data(), sizeof(before));
  sched_setaffinity(0, sizeof(before), &before);
}

std::vector<Row> bench_ring(const AttentionCase& what, Pass pass, int cpus, const MeasureOptions& options) {
  const PinnedCpus pinned(cpus);
  AttentionCase one = what;
  one.ring.devices = 1;
  one.ring.threads = cpus;
  AttentionWork alone(one), ring(what);
  const double alone_error = verified_error(alone, pass), ring_error = verified_error(ring, pass);
  // Both are shown against what the processors do with a thread each.
  const PeakMeter peak(alone.team(), what.dtype, options.peak_time);
  const std::vector<Runs> runs = measure(options, {work_of(alone, pass), work_of(ring, pass)}, peak);
  Row first = row_of("ring", one, pass, runs[0], alone_error);
  Row second = row_of("ring", what, pass, runs[1], ring_error);
  const std::int64_t count = cpus;
  first.more = {{"cpus", count}, {"exchange", name_of(what.exchange)}, {"ratio_to_one_device", 1.0, 3}};
  second.more = {{"cpus", count},
                 {"exchange", name_of(what.exchange)},
                 {"ratio_to_one_device", median_ratio(runs[0], runs[1]), 3}};
  return {first, second};
}

}  // namespace rondo::bench
