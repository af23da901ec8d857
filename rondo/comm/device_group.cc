#include "rondo/comm/device_group.h"

#include <memory>
#include <vector>

#include "rondo/comm/threads.h"
#include "rondo/core/device_threads.h"

namespace rondo {

namespace {

std::string words_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "unknown exception";
  }
}

}  // namespace

void run_ring(const RingOptions& options, const std::function<void(Context&, Communicator&)>& fn) {
  ThreadGroup group(options.devices, options.timeout);
  std::vector<std::unique_ptr<Context>> contexts;
  for (int device = 0; device < options.devices; ++device) {
    contexts.push_back(std::make_unique<Context>(ContextOptions{.device = device,
                                                                .threads = options.threads,
                                                                .isa = options.isa,
                                                                .memory_limit = options.memory_limit,
                                                                .trace = options.trace}));
  }
  std::vector<std::exception_ptr> failures(contexts.size());
  const auto body = [&](int device) {
    const auto d = static_cast<std::size_t>(device);
    try {
      const auto communicator = group.communicator(device, &contexts[d]->trace);
      fn(*contexts[d], *communicator);
      group.end(device);
    } catch (...) {
      failures[d] = std::current_exception();
      group.cancel(device, words_of(failures[d]));
      throw;
    }
  };
  try {
    run_devices(options.devices, body, [&](int device, const std::exception_ptr& failure) {
      group.cancel(device, words_of(failure));
    });
  } catch (...) {
    // The others may have seen the failure, and ended, while the device that failed was still unwinding.
    const int failed = group.failed_device();
    if (failed >= 0 && failures[static_cast<std::size_t>(failed)])
      std::rethrow_exception(failures[static_cast<std::size_t>(failed)]);
    throw;
  }
}

}  // namespace rondo
