#include "rondo/comm/processes.h"

#include <algorithm>
#include <cstdlib>

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

int Processes::begin_ring() {
  if (state_ == State::running || state_ == State::broken)
    throw CommunicationError("[ring] an earlier ring of these processes did not end well");
  state_ = State::running;
  return rings_++;
}

}  // namespace rondo
