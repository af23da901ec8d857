// Processes that MPI connects. Only non-blocking calls of MPI-3, but for starting and ending.

#include <fcntl.h>
#include <mpi.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <list>
#include <string>
#include <string_view>
#include <vector>

#include "rondo/comm/processes.h"
#include "rondo/core/error.h"

namespace rondo {

namespace {

void check_mpi(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  std::string words(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  if (MPI_Error_string(status, words.data(), &length) != MPI_SUCCESS) length = 0;
  words.resize(static_cast<std::size_t>(length));
  throw CommunicationError(fmt::format("[mpi] {} failed: {}", call, words));
}

class MpiProcesses final : public Processes {
 public:
  MpiProcesses() {
    int initialised = 0, level = MPI_THREAD_SINGLE;
    check_mpi(MPI_Initialized(&initialised), "MPI_Initialized");
    if (initialised != 0) {
      check_mpi(MPI_Query_thread(&level), "MPI_Query_thread");
    } else {
      // Where there are more processes than processors Open MPI gives the processor away whenever it finds
      // nothing: here in the middle of computing. Devices that wait rest on their own (ThreadShared::rest);
      // joining and leaving, which wait inside MPI, take longer for it.
      setenv("OMPI_MCA_mpi_yield_when_idle", "0", 0);
      check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level), "MPI_Init_thread");
      owns_ = true;
    }
    check_argument(level >= MPI_THREAD_SERIALIZED, "mpi",
                   "expected an MPI that several threads may call in turn (MPI_THREAD_SERIALIZED), got level "
                   "{}",
                   level);
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &all_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(all_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(all_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(all_, &size_), "MPI_Comm_size");
    check_mpi(MPI_Comm_split_type(all_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host_),
              "MPI_Comm_split_type");
    check_mpi(MPI_Comm_size(host_, &on_this_host_), "MPI_Comm_size");
    windows_.resize(static_cast<std::size_t>(size_));
    if (on_this_host_ > 1) share_memory();
  }
  /// Finalizing waits for all processes, without a limit. One that fails must not: it leaves, and the
  /// launcher, which sees that, ends those that are left. Nor one that cannot know that all others come.
  ~MpiProcesses() override {
    if (!owns_) return;
    // What failed here may fail on all, and each should have said so before a launcher sees the first one go.
    const bool fails = std::uncaught_exceptions() > 0;
    const bool in_peace = size_ == 1 || part_in_peace(fails ? std::chrono::seconds(1) : longest_wait());
    if (fails || !in_peace) return;
    MPI_Comm_free(&host_);
    MPI_Comm_free(&all_);
    MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int on_this_host() const override { return on_this_host_; }
  HostWindow window_of(int process) const override { return windows_[static_cast<std::size_t>(process)]; }

  TransferPtr send(int to, int channel, Parcel parcel) override {
    auto transfer = std::make_unique<MpiTransfer>(*this, std::move(parcel), false);
    check_mpi(
        MPI_Isend(transfer->data(), transfer->bytes(), MPI_BYTE, to, channel, all_, transfer->request()),
        "MPI_Isend");
    return transfer;
  }
  TransferPtr receive(int from, int channel, Parcel into) override {
    auto transfer = std::make_unique<MpiTransfer>(*this, std::move(into), true);
    check_mpi(MPI_Irecv(transfer->data(), transfer->bytes(), MPI_BYTE, from == kAny ? MPI_ANY_SOURCE : from,
                        channel, all_, transfer->request()),
              "MPI_Irecv");
    return transfer;
  }

 private:
  /// For comparison, or where there is little of such memory, RONDO_HOST_WINDOW=off sends everything through
  /// MPI.
  static bool wants_window() {
    const char* words = std::getenv("RONDO_HOST_WINDOW");
    return words == nullptr || std::string_view(words) != "off";
  }
  bool all_here(bool yes) const {
    int own = yes ? 1 : 0, all = 0;
    check_mpi(MPI_Allreduce(&own, &all, 1, MPI_INT, MPI_MIN, host_), "MPI_Allreduce");
    return all != 0;
  }
  /// Memory of each process that all of its host read in place: on all of them or, where one has or wants
  /// none, on none. It has no name, and goes with the last process that has it.
  void share_memory() {
    if (!all_here(wants_window())) return;
    const int file = memfd_create("rondo", MFD_CLOEXEC);
    const auto size = static_cast<off_t>(HostWindow::kBytes);
    const bool has = file >= 0 && ftruncate(file, size) == 0 && posix_fallocate(file, 0, size) == 0;
    struct Place {
      int process, pid, file;
    };
    const Place own{rank_, static_cast<int>(getpid()), file};
    std::vector<Place> places(static_cast<std::size_t>(on_this_host_));
    check_mpi(MPI_Allgather(&own, 3, MPI_INT, places.data(), 3, MPI_INT, host_), "MPI_Allgather");
    bool sees = has;
    for (const Place& place : places) {
      if (!sees) break;
      std::byte* memory = map_file(fmt::format("/proc/{}/fd/{}", place.pid, place.file));
      windows_[static_cast<std::size_t>(place.process)] = HostWindow(memory);
      sees = memory != nullptr;
    }
    if (!all_here(sees)) windows_.assign(windows_.size(), HostWindow());
    if (file >= 0) close(file);  // what is mapped stays
  }
  static std::byte* map_file(const std::string& name) {
    const int file = open(name.c_str(), O_RDWR | O_CLOEXEC);
    if (file < 0) return nullptr;
    void* memory = mmap(nullptr, HostWindow::kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
  }

  class MpiTransfer final : public Transfer {
   public:
    MpiTransfer(MpiProcesses& owner, Parcel parcel, bool receives)
        : owner_(owner), parcel_(std::move(parcel)), receives_(receives) {}
    ~MpiTransfer() override {
      if (request_ == MPI_REQUEST_NULL) return;
      if (receives_) MPI_Cancel(&request_);
      MPI_Request_free(&request_);
      owner_.given_up_.push_back(std::move(parcel_));
    }
    bool done() override {
      int done = 0;
      check_mpi(MPI_Test(&request_, &done, MPI_STATUS_IGNORE), "MPI_Test");
      return done != 0;
    }
    void* data() const { return parcel_.data.get(); }
    int bytes() const { return static_cast<int>(parcel_.bytes); }
    MPI_Request* request() { return &request_; }

   private:
    MpiProcesses& owner_;
    Parcel parcel_;
    bool receives_;
    MPI_Request request_ = MPI_REQUEST_NULL;
  };

  MPI_Comm all_ = MPI_COMM_NULL, host_ = MPI_COMM_NULL;
  std::vector<HostWindow> windows_;  ///< of all processes; none but on this host
  int rank_ = 0, size_ = 1, on_this_host_ = 1;
  bool owns_ = false;
  std::list<Parcel> given_up_;  ///< MPI may still touch them
};

}  // namespace

std::shared_ptr<Processes> join_processes() {
  const int launched = launched_processes();
  if (launched == 1) return nullptr;
  auto processes = std::make_shared<MpiProcesses>();
  check_argument(processes->size() > 1, "mpi",
                 "expected {} processes that see each other, got a launcher that started {} of which each is "
                 "alone: it belongs to another MPI than the one that Rondo was built with (try that MPI's "
                 "mpirun, or srun --mpi=pmix)",
                 launched, launched);
  (void)processes->watchdog();
  return processes;
}

}  // namespace rondo
