// How much attention each of four devices computes over one causal sequence, by layout.
#include <rondo/rondo.h>

#include <cstdio>

int main() {
  for (const rondo::Layout layout :
       {rondo::Layout::contiguous, rondo::Layout::striped, rondo::Layout::zigzag}) {
    const rondo::SequencePlan plan{.tokens = 4096, .devices = 4, .layout = layout};
    std::printf("%s\n", rondo::name_of(layout));
    for (int device = 0; device < plan.devices; ++device) {
      const rondo::Schedule schedule = rondo::make_schedule(plan, rondo::Mask{.causal = true}, device);
      std::printf("  device %d: %lld pairs in %zu steps, %zu hops\n", device,
                  static_cast<long long>(rondo::count_pairs(schedule)), schedule.steps.size(),
                  schedule.hops.size());
    }
  }
}
