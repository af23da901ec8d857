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
  ThreadGroup group({options.devices, options.timeout, options.processes, options.overlap});
  const int first = group.first_device();
  std::vector<std::unique_ptr<Context>> contexts;
  for (int device = 0; device < options.devices; ++device) {
    contexts.push_back(std::make_unique<Context>(ContextOptions{.device = first + device,
                                                                .threads = options.threads,
                                                                .isa = options.isa,
                                                                .memory_limit = options.memory_limit,
                                                                .trace = options.trace}));
    if (options.overlap && options.processes)
      contexts.back()->pool.set_meanwhile(
          {[](void* self) { static_cast<ThreadGroup*>(self)->progress(); }, &group});
  }
  std::vector<std::exception_ptr> failures(contexts.size());
  const auto body = [&](int device) {
    const auto d = static_cast<std::size_t>(device);
    try {
      const auto communicator = group.communicator(first + device, &contexts[d]->trace);
      fn(*contexts[d], *communicator);
      group.end(first + device);
    } catch (...) {
      failures[d] = std::current_exception();
      group.cancel(first + device, words_of(failures[d]));
      throw;
    }
  };
  std::exception_ptr failure;
  try {
    group.meet();
    run_devices(options.devices, body, [&](int device, const std::exception_ptr& thrown) {
      group.cancel(first + device, words_of(thrown));
    });
  } catch (...) {
    failure = std::current_exception();
    // The others may have seen the failure, and ended, while the device that failed was still unwinding.
    const int failed = group.failed_device() - first;
    if (failed >= 0 && failed < options.devices && failures[static_cast<std::size_t>(failed)])
      failure = failures[static_cast<std::size_t>(failed)];
  }
  try {
    group.leave();
  } catch (...) {  // says no more than what this process knows already
    if (!failure) throw;
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace rondo
