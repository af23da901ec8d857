#pragma once
// What the operating system counts of a training run: anonymous resident memory of a process that does
// nothing else.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "tests/train/training_support.h"

namespace rondo::test {

/// Bytes of RssAnon in /proc/self/status.
inline std::int64_t resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("RssAnon:", 0) == 0) return std::stoll(line.substr(8)) * 1024;
  return -1;
}

/// Of all devices together.
struct ResidentFigures {
  double ledgers = 0, resident = 0;
};

/// In a process of its own, so that neither other tests nor what they left behind count.
inline ResidentFigures measure_resident(const ModelConfig& config, const TrainingRecipe& recipe,
                                        const ExecutionOptions& execution) {
  int ends[2];
  if (::pipe(ends) != 0) throw std::runtime_error("no pipe");
  const pid_t child = ::fork();
  if (child == 0) {
    ResidentFigures figures;
    try {
      const Text files({recipe.context + 1000});
      const Corpus corpus = files.corpus();
      const std::int64_t before = resident_bytes();
      run_ring(execution.ring, [&](Context& context, Communicator& communicator) {
        Trainer trainer(context, communicator, config, recipe, execution, corpus);
        trainer.initialise();
        trainer.step();
        trainer.step();
        std::array<double, 1> total{static_cast<double>(context.ledger.total())};
        communicator.all_reduce_sum(std::span<double>(total));
        if (context.device == 0) figures = {total[0], static_cast<double>(resident_bytes() - before)};
        communicator.barrier();
      });
    } catch (const std::exception& error) {
      fmt::print(stderr, "{}\n", error.what());
    }
    [[maybe_unused]] const auto written = ::write(ends[1], &figures, sizeof figures);
    ::_exit(0);
  }
  ResidentFigures figures;
  ::close(ends[1]);
  EXPECT_EQ(::read(ends[0], &figures, sizeof figures), static_cast<ssize_t>(sizeof figures));
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return figures;
}

}  // namespace rondo::test
