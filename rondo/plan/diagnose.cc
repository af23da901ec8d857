#include "rondo/plan/diagnose.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <span>

namespace rondo {

namespace {

using Warnings = std::vector<Warning>;
using Processes = std::vector<std::size_t>;  // of one host, rising

int threads_of(const ProcessFacts& process) { return process.devices * process.threads; }

/// "process 3", "processes 0, 1, 2 and 9 others"
std::string list(const char* one, const char* several, const std::vector<std::size_t>& numbers) {
  constexpr std::size_t kMost = 8;
  if (numbers.size() == 1) return fmt::format("{} {}", one, numbers.front());
  const auto shown = std::vector<std::size_t>(
      numbers.begin(), numbers.begin() + static_cast<std::ptrdiff_t>(std::min(numbers.size(), kMost)));
  const std::string more =
      numbers.size() > kMost ? fmt::format(" and {} others", numbers.size() - kMost) : "";
  return fmt::format("{} {}{}", several, fmt::join(shown, ", "), more);
}
std::string processes_words(const Processes& numbers) { return list("process", "processes", numbers); }
std::string devices_words(const std::vector<std::size_t>& numbers) {
  return list("device", "devices", numbers);
}

std::map<std::string, Processes> by_host(const RingFindings& found) {
  std::map<std::string, Processes> hosts;
  for (std::size_t p = 0; p < found.processes.size(); ++p) hosts[found.processes[p].host.host].push_back(p);
  return hosts;
}

/// Of two, the greater: the slower is then the odd one.
double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Why a thing costs, and what to do about it.
struct Words {
  const char* why;
  const char* advice;
};

/// One warning of everything that was found of its kind; none where nothing was.
void add(Warnings& warnings, const char* code, const std::vector<std::string>& found, const Words& words) {
  constexpr std::size_t kMost = 4;
  if (found.empty()) return;
  const auto shown = std::span(found).first(std::min(found.size(), kMost));
  const std::string more = found.size() > kMost ? fmt::format("; and {} more", found.size() - kMost) : "";
  warnings.push_back({code, fmt::format("{}{}", fmt::join(shown, "; "), more), words.why, words.advice});
}

/// Processes that have to share what their sets hold, with more threads than there is for them.
struct Crowd {
  Processes processes;
  int threads = 0;
  CpuSet set;
};

/// The smallest crowds of a host: sets (of CPUs, or of cores) in which lie those of processes with more
/// threads than the set has members.
std::vector<Crowd> crowds(const RingFindings& found, const Processes& host, CpuSet HostFacts::*set) {
  std::vector<Crowd> all;
  for (const std::size_t p : host) {
    Crowd crowd{.set = found.processes[p].host.*set};
    for (const std::size_t other : host) {
      if ((found.processes[other].host.*set & ~crowd.set).any()) continue;
      crowd.processes.push_back(other);
      crowd.threads += threads_of(found.processes[other]);
    }
    const bool known = crowd.set.any() && std::any_of(all.begin(), all.end(), [&](const Crowd& seen) {
                         return seen.set == crowd.set;
                       });
    if (crowd.set.any() && !known && crowd.threads > static_cast<int>(crowd.set.count()))
      all.push_back(std::move(crowd));
  }
  const std::vector<Crowd> every = all;
  std::erase_if(all, [&](const Crowd& crowd) {
    return std::any_of(every.begin(), every.end(), [&](const Crowd& other) {
      return other.set != crowd.set && (other.set & ~crowd.set).none();
    });
  });
  return all;
}

std::string words_of(const std::string& host, const Crowd& crowd, const char* places) {
  return fmt::format("{} on {}: {} threads on {} {} ({})", processes_words(crowd.processes), host,
                     crowd.threads, crowd.set.count(), places, format_cpu_list(crowd.set));
}

constexpr const char* kTurns =
    "threads that take turns on a CPU halve its speed for each, and a device that has to answer another one "
    "waits for its turn first";

void find_crowds(const RingFindings& found, Warnings& warnings) {
  std::vector<std::string> alone, together, siblings;
  for (const auto& [host, processes] : by_host(found)) {
    const std::vector<Crowd> on_cpus = crowds(found, processes, &HostFacts::cpus);
    for (const Crowd& crowd : on_cpus)
      (crowd.processes.size() == 1 ? alone : together).push_back(words_of(host, crowd, "of the CPUs"));
    if (!on_cpus.empty()) continue;
    for (const Crowd& crowd : crowds(found, processes, &HostFacts::cores))
      siblings.push_back(words_of(host, crowd, "of the cores, whose CPUs come in siblings"));
  }
  add(warnings, "oversubscribed", alone,
      {kTurns,
       "fewer --devices or --threads, or more CPUs for each process: mpirun --bind-to none or --map-by "
       "slot:PE=N, srun --cpus-per-task=N, with N = devices x threads"});
  add(warnings, "same-cpus", together,
      {kTurns,
       "CPUs of its own for each process: mpirun --map-by slot:PE=N --bind-to core, srun --cpus-per-task=N "
       "--cpu-bind=cores, with N = devices x threads; or fewer processes on that host"});
  add(warnings, "shared-cores", siblings,
      {"siblings share the arithmetic units of a core: two threads on them are hardly faster than one",
       "one thread for each core (fewer --threads), bound with mpirun --bind-to core or srun "
       "--threads-per-core=1"});
}

void find_domains(const RingFindings& found, Warnings& warnings) {
  Processes spread;
  for (std::size_t p = 0; p < found.processes.size(); ++p)
    if (found.processes[p].host.numa_domains > 1) spread.push_back(p);
  if (spread.empty()) return;
  warnings.push_back(
      {"numa", fmt::format("{} may run on the CPUs of several NUMA domains", processes_words(spread)),
       "memory is slower from another domain's CPUs, and threads that wander take the bandwidth of both",
       "at least one process for each domain, bound to it: mpirun --map-by numa --bind-to numa, srun "
       "--ntasks-per-socket=1 --cpu-bind=sockets"});
}

void find_quotas(const RingFindings& found, Warnings& warnings) {
  std::vector<std::string> short_of;
  for (const auto& [host, processes] : by_host(found)) {
    double quota = 0;
    int threads = 0;
    for (const std::size_t p : processes) {
      const double own = found.processes[p].host.quota_cpus;
      if (own > 0) quota = quota > 0 ? std::min(quota, own) : own;
      threads += threads_of(found.processes[p]);
    }
    if (quota > 0 && quota < threads)
      short_of.push_back(fmt::format("a control group allows {:g} CPUs of time on {}, for {} threads", quota,
                                     host, threads));
  }
  add(warnings, "quota", short_of,
      {"all threads are stopped together for the rest of each period once the time is used up",
       "a higher limit (docker --cpus, Kubernetes limits.cpu), or fewer threads"});
}

/// The processes by what `of` says of them, where that is not the same of all: "X on processes 0, 1; Y on
/// ...".
std::string differences(const RingFindings& found,
                        const std::function<std::string(const ProcessFacts&)>& of) {
  std::map<std::string, Processes> groups;
  for (std::size_t p = 0; p < found.processes.size(); ++p) groups[of(found.processes[p])].push_back(p);
  if (groups.size() < 2) return "";
  std::string words;
  for (const auto& [what, processes] : groups)
    words += fmt::format("{}{} on {}", words.empty() ? "" : "; ", what, processes_words(processes));
  return words;
}

/// Different builds never come as far: processes refuse them when they meet (rondo/comm/control_peers.cc).
void find_mixtures(const RingFindings& found, Warnings& warnings) {
  const auto isa = [](const ProcessFacts& p) { return p.instruction_set; };
  if (const std::string words = differences(found, isa); !words.empty())
    warnings.push_back({"mixed-instruction-sets", "different instruction sets: " + words,
                        "training refuses that, as results would depend on which device computed what; the "
                        "slower ones would hold "
                        "up the ring",
                        "the same --isa (or RONDO_ISA) for all, one that every host has; or like hosts"});
  const auto shape = [](const ProcessFacts& p) {
    return fmt::format("{} devices of {} threads", p.devices, p.threads);
  };
  if (const std::string words = differences(found, shape); !words.empty())
    warnings.push_back({"mixed-shapes", "different rings: " + words,
                        "devices with fewer threads hold up the others",
                        "the same arguments for all processes"});
}

void find_slow_devices(const RingFindings& found, Warnings& warnings) {
  std::vector<std::size_t> crowded, slow;
  std::vector<double> rates;
  for (const DeviceRates& device : found.devices) rates.push_back(device.f32_together);
  const double usual = median(rates);
  std::string loss, lag;
  for (std::size_t d = 0; d < found.devices.size(); ++d) {
    const DeviceRates& rate = found.devices[d];
    if (rate.f32_together < kSlowDevice * rate.f32_alone) {
      crowded.push_back(d);
      loss += fmt::format("{}{:.0f} %", loss.empty() ? "" : ", ", 100 * rate.f32_together / rate.f32_alone);
    }
    if (rates[d] < kSlowDevice * usual) {
      slow.push_back(d);
      lag += fmt::format("{}{:.0f} %", lag.empty() ? "" : ", ", 100 * rates[d] / usual);
    }
  }
  if (!slow.empty())
    warnings.push_back(
        {"slow-device", fmt::format("{}: {} of the FLOP/s of the median device", devices_words(slow), lag),
         "all others wait for the slowest device at every hop",
         "look for other work on that host, its power limit and its cooling; leave the host out, "
         "or give its devices more threads"});
  if (!crowded.empty())
    warnings.push_back(
        {"slower-together",
         fmt::format("{}: with all devices at work {} of the FLOP/s of each alone", devices_words(crowded),
                     loss),
         "devices take something from each other: CPUs, siblings of a core, a quota, or the clock "
         "that falls when all cores work",
         "look at the binding first (warnings above); what then remains is the machine's own"});
}

void find_slow_hops(const RingFindings& found, Warnings& warnings) {
  std::map<HopKind, std::vector<std::size_t>> kinds;
  for (std::size_t hop = 0; hop < found.hops.size(); ++hop)
    kinds[kind_of_hop(found, static_cast<int>(hop))].push_back(hop);
  std::vector<std::string> slow;
  for (const auto& [kind, hops] : kinds) {
    std::vector<double> rates;
    for (const std::size_t hop : hops) rates.push_back(found.hops[hop].largest().together);
    const double usual = median(rates);
    for (std::size_t n = 0; n < hops.size(); ++n) {
      if (rates[n] >= kSlowHop * usual) continue;
      slow.push_back(fmt::format("device {} to {}: {:.3g} GB/s, where the median of hops {} is {:.3g} GB/s",
                                 hops[n], (hops[n] + 1) % found.hops.size(), rates[n] / 1e9, name_of(kind),
                                 usual / 1e9));
    }
  }
  add(warnings, "slow-hop", slow,
      {"a ring turns as fast as its slowest hop",
       "look at that pair's cable, switch port and network interface, and at which one the MPI takes (Open "
       "MPI: --mca btl_tcp_if_include); place neighbours in the ring near each other"});
}

}  // namespace

const char* name_of(HopKind kind) {
  switch (kind) {
    case HopKind::process:
      return "within a process";
    case HopKind::host:
      return "within a host";
    case HopKind::network:
      return "between hosts";
  }
  return "unknown";
}

HopKind kind_of_hop(const RingFindings& found, int from) {
  const auto process = [&](int device) { return static_cast<std::size_t>(found.process_of(device)); };
  const std::size_t a = process(from), b = process((from + 1) % static_cast<int>(found.hops.size()));
  if (a == b) return HopKind::process;
  return found.processes[a].host.host == found.processes[b].host.host ? HopKind::host : HopKind::network;
}

std::vector<Warning> diagnose(const RingFindings& found) {
  Warnings warnings;
  find_crowds(found, warnings);
  find_quotas(found, warnings);
  find_mixtures(found, warnings);
  find_slow_devices(found, warnings);
  find_slow_hops(found, warnings);
  find_domains(found, warnings);
  return warnings;
}

}  // namespace rondo
