#include "bench/peak_meter.h"

#include <algorithm>

#include "bench/measure.h"
#include "rondo/kernels/peak.h"

namespace rondo::bench {

PeakMeter::PeakMeter(Team& team, DType dtype, std::chrono::milliseconds time)
    : team_(&team), dtype_(dtype), time_(time) {
  if (team.devices() == 1) return;
  all_ = std::make_shared<Context>(ContextOptions{.threads = std::min(team.threads(), available_cpus()),
                                                  .isa = team.context(0).stream.isa()});
}

double PeakMeter::operator()() const {
  if (all_) return kernels::measure_peak_flops(all_->stream, dtype_, time_);
  double peak = 0;
  team_->run([&](Context& context, Communicator&) {
    peak = kernels::measure_peak_flops(context.stream, dtype_, time_);
  });
  return peak;
}

}  // namespace rondo::bench
