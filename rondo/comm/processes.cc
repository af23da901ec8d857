#include "rondo/comm/processes.h"

#include <algorithm>
#include <cstdlib>

#include "rondo/comm/watchdog.h"
#include "rondo/core/error.h"

namespace rondo {

int launched_processes() {
  // Open MPI; MPICH, Intel MPI and srun --mpi=pmi2; srun. SLURM_NTASKS alone would also speak of a batch
  // script's own shell, which is one process.
  int processes = 1;
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (const char* value = std::getenv(name)) processes = std::max(processes, std::atoi(value));
  return processes;
}

Processes::Processes() = default;
Processes::~Processes() = default;

Watchdog& Processes::watchdog() {
  constexpr std::chrono::seconds kLimit(30);  // to reach all others
  if (!watchdog_) watchdog_ = std::make_unique<Watchdog>(rank(), connect_control(*this, kLimit));
  return *watchdog_;
}

bool Processes::part_in_peace(std::chrono::milliseconds limit) {
  return state_ == State::well && watchdog_ && watchdog_->part(limit);
}

int Processes::begin_ring(std::chrono::milliseconds timeout) {
  if (state_ == State::running || state_ == State::broken)
    throw CommunicationError("[ring] an earlier ring of these processes did not end well");
  state_ = State::running;
  longest_wait_ = timeout;
  return rings_++;
}

}  // namespace rondo
