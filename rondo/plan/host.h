#pragma once
// What the operating system says about the CPUs that this process may use.

#include <bitset>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace rondo {

using CpuSet = std::bitset<1024>;

struct HostFacts {
  std::string host, processor;  ///< empty where not known
  CpuSet cpus;                  ///< that this process may run on
  CpuSet cores;                 ///< of each core of `cpus` its first CPU: smaller where cores have siblings
  int host_cpus = 0;            ///< of the whole host; 0: not known
  int numa_domains = 0;         ///< that `cpus` has part of
  double quota_cpus = 0;        ///< processor time over time that a control group allows; 0: no limit
};

/// "0-3,8" -> {0, 1, 2, 3, 8}. What is no number, or beyond the set, is left out.
CpuSet parse_cpu_list(std::string_view text);
/// {0, 1, 2, 3, 8} -> "0-3,8"
std::string format_cpu_list(const CpuSet& cpus);

/// CPUs that the calling thread may run on; empty where the system does not say.
CpuSet allowed_cpus();
/// Facts about `cpus` from the files below `root`; what cannot be read stays at its default.
HostFacts read_host_facts(const CpuSet& cpus, const std::filesystem::path& root = "/");

/// A number that differs between builds of the running program; 0 where it cannot be read.
std::uint64_t program_fingerprint(const std::filesystem::path& program = "/proc/self/exe");

}  // namespace rondo
