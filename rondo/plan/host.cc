#include "rondo/plan/host.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <vector>

#include "rondo/core/random.h"

namespace rondo {

namespace fs = std::filesystem;

namespace {

std::string first_line(const fs::path& file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line;
}

/// The number at the front of `text`, -1 where there is none; `rest` is what follows.
long number_of(std::string_view text, std::string_view* rest = nullptr) {
  long value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) value = -1;
  if (rest != nullptr) *rest = text.substr(static_cast<std::size_t>(end - text.data()));
  return value;
}

/// CPUs of time that "QUOTA PERIOD" allows; 0: no limit ("max" or -1).
double quota_of(long quota, long period) {
  return quota > 0 && period > 0 ? static_cast<double>(quota) / static_cast<double>(period) : 0;
}

void lower(double& quota, double other) {
  if (other > 0) quota = quota > 0 ? std::min(quota, other) : other;
}

/// The least that this process' control group and those above it allow.
double read_quota(const fs::path& root) {
  const fs::path groups = root / "sys/fs/cgroup";
  double quota = quota_of(number_of(first_line(groups / "cpu/cpu.cfs_quota_us")),
                          number_of(first_line(groups / "cpu/cpu.cfs_period_us")));
  fs::path group = "/";
  std::ifstream lines(root / "proc/self/cgroup");
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("0::/")) group = line.substr(3);
  for (fs::path at = group.relative_path();; at = at.parent_path()) {
    const std::string limit = first_line(groups / at / "cpu.max");
    std::string_view period;
    const long allowed = number_of(limit, &period);
    if (period.starts_with(" ")) lower(quota, quota_of(allowed, number_of(period.substr(1))));
    if (at.empty()) return quota;
  }
}

std::string processor_name(const fs::path& root) {
  std::ifstream lines(root / "proc/cpuinfo");
  for (std::string line; std::getline(lines, line);)
    if (const auto colon = line.find(": "); line.starts_with("model name") && colon != std::string::npos)
      return line.substr(colon + 2);
  return "";
}

/// The first of the CPUs that are one core; `cpu` itself where nothing is known.
std::size_t first_sibling(const fs::path& root, std::size_t cpu) {
  const fs::path topology = root / fmt::format("sys/devices/system/cpu/cpu{}/topology", cpu);
  for (const char* name : {"core_cpus_list", "thread_siblings_list"}) {
    const CpuSet siblings = parse_cpu_list(first_line(topology / name));
    for (std::size_t first = 0; siblings.test(cpu) && first <= cpu; ++first)
      if (siblings.test(first)) return first;
  }
  return cpu;
}

int count_domains(const fs::path& root, const CpuSet& cpus) {
  int domains = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root / "sys/devices/system/node", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("node") || number_of(std::string_view(name).substr(4)) < 0) continue;
    if ((parse_cpu_list(first_line(entry.path() / "cpulist")) & cpus).any()) ++domains;
  }
  return domains;
}

}  // namespace

CpuSet parse_cpu_list(std::string_view text) {
  CpuSet cpus;
  while (!text.empty()) {
    std::string_view rest;
    const long first = number_of(text, &rest);
    long last = first;
    if (rest.starts_with("-")) last = number_of(rest.substr(1), &rest);
    for (long cpu = first; cpu >= 0 && cpu <= last && cpu < static_cast<long>(cpus.size()); ++cpu)
      cpus.set(static_cast<std::size_t>(cpu));
    const auto comma = rest.find(',');
    text = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
  }
  return cpus;
}

std::string format_cpu_list(const CpuSet& cpus) {
  std::string text;
  for (std::size_t first = 0; first < cpus.size(); ++first) {
    if (!cpus.test(first)) continue;
    std::size_t last = first;
    while (last + 1 < cpus.size() && cpus.test(last + 1)) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", first);
    if (last > first) text += fmt::format("-{}", last);
    first = last;
  }
  return text;
}

CpuSet allowed_cpus() {
  CpuSet cpus;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (::sched_getaffinity(0, sizeof(mask), &mask) != 0) return cpus;
  for (std::size_t cpu = 0; cpu < std::min<std::size_t>(cpus.size(), CPU_SETSIZE); ++cpu)
    cpus.set(cpu, CPU_ISSET(cpu, &mask));
  return cpus;
}

HostFacts read_host_facts(const CpuSet& cpus, const fs::path& root) {
  HostFacts facts{.cpus = cpus};
  std::array<char, 256> name = {};
  if (::gethostname(name.data(), name.size() - 1) == 0) facts.host = name.data();
  facts.processor = processor_name(root);
  for (std::size_t cpu = 0; cpu < cpus.size(); ++cpu)
    if (cpus.test(cpu)) facts.cores.set(first_sibling(root, cpu));
  facts.host_cpus =
      static_cast<int>(parse_cpu_list(first_line(root / "sys/devices/system/cpu/online")).count());
  facts.numa_domains = count_domains(root, cpus);
  facts.quota_cpus = read_quota(root);
  return facts;
}

std::uint64_t program_fingerprint(const fs::path& program) {
  std::ifstream file(program, std::ios::binary);
  std::vector<std::uint64_t> words(std::size_t{1} << 16);
  std::uint64_t hash = 0;
  while (file) {
    std::fill(words.begin(), words.end(), 0);
    file.read(reinterpret_cast<char*>(words.data()),
              static_cast<std::streamsize>(words.size() * sizeof(words[0])));
    const auto bytes = static_cast<std::size_t>(file.gcount());
    for (std::size_t n = 0; n < (bytes + 7) / 8; ++n) hash = mix64(hash ^ words[n]);
    hash += bytes;
  }
  return hash;
}

}  // namespace rondo
