#include "rondo/comm/control_peers.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

#include "rondo/comm/processes.h"
#include "rondo/core/error.h"

namespace rondo {

namespace {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;
using std::chrono::milliseconds;

/// For one address that does not answer, and for what is said on a connection.
constexpr milliseconds kConnectLimit{1500}, kHandshakeLimit{10'000};

/// As IPv6 has it; IPv4 addresses are mapped into it.
using Address = std::array<std::uint8_t, 16>;

/// What each process tells the others about itself. Of the same size for ever: the others may run another
/// version of the program.
struct Card {
  std::uint64_t program = 0;  ///< a number that differs between programs
  std::uint64_t secret = 0;   ///< a connection that does not know it is not one of ours
  std::int32_t port = 0, addresses = 0;
  std::array<char, 64> host = {};
  std::array<Address, 16> address = {};
  std::array<std::byte, 680> spare = {};
};
static_assert(sizeof(Card) == 1024);

/// FNV-1a of the running program's file, in words of 8 bytes; 0 where it cannot be read.
std::uint64_t program_hash() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  std::vector<std::uint64_t> words(1 << 13);
  std::uint64_t hash = 0;
  for (bool more = file.good(); more;) {
    std::fill(words.begin(), words.end(), 0);
    file.read(reinterpret_cast<char*>(words.data()), static_cast<std::streamsize>(words.size() * 8));
    more = file.good();
    for (const std::uint64_t word : words) hash = (hash ^ word) * 0x100000001b3;
  }
  return hash;
}

/// The first words on a connection, and the answer.
struct Hello {
  std::uint64_t secret = 0;  ///< of the one who hears it
  std::int64_t rank = 0;     ///< of the one who says it
};

void add_address(Card& card, const Address& address) {
  if (static_cast<std::size_t>(card.addresses) < card.address.size())
    card.address[static_cast<std::size_t>(card.addresses++)] = address;
}

Address mapped(const in_addr& address) {
  Address result{};
  result[10] = result[11] = 0xff;
  std::memcpy(result.data() + 12, &address, 4);
  return result;
}

/// Addresses of this host that others may reach; this host's own use comes first.
void list_addresses(Card& card) {
  add_address(card, mapped({htonl(INADDR_LOOPBACK)}));
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return;
  for (const int family : {AF_INET, AF_INET6})
    for (const ifaddrs* at = all; at != nullptr; at = at->ifa_next) {
      if (at->ifa_addr == nullptr || at->ifa_addr->sa_family != family) continue;
      if ((at->ifa_flags & IFF_UP) == 0 || (at->ifa_flags & IFF_LOOPBACK) != 0) continue;
      if (family == AF_INET) {
        sockaddr_in ip4{};
        std::memcpy(&ip4, at->ifa_addr, sizeof(ip4));
        add_address(card, mapped(ip4.sin_addr));
        continue;
      }
      sockaddr_in6 ip6{};
      std::memcpy(&ip6, at->ifa_addr, sizeof(ip6));
      Address address;
      std::memcpy(address.data(), &ip6.sin6_addr, address.size());
      if (!IN6_IS_ADDR_LINKLOCAL(&ip6.sin6_addr)) add_address(card, address);
    }
  ::freeifaddrs(all);
}

bool is_mapped(const Address& address) {
  const Address none = mapped({});
  return std::equal(none.begin(), none.begin() + 12, address.begin());
}

std::string text_of(const Address& address, int port) {
  std::array<char, INET6_ADDRSTRLEN> text = {};
  if (is_mapped(address))
    ::inet_ntop(AF_INET, address.data() + 12, text.data(), text.size());
  else
    ::inet_ntop(AF_INET6, address.data(), text.data(), text.size());
  return fmt::format("{}:{}", text.data(), port);
}

/// A socket that listens on a free port of all addresses; of IPv4 alone where the host has no IPv6.
Socket listen_anywhere(int backlog, std::int32_t& port) {
  for (const int family : {AF_INET6, AF_INET}) {
    Socket socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) continue;
    sockaddr_storage place{};
    place.ss_family = static_cast<sa_family_t>(family);
    const int both = 0;
    if (family == AF_INET6) ::setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &both, sizeof(both));
    socklen_t size = family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    auto* address = reinterpret_cast<sockaddr*>(&place);
    if (::bind(socket.fd(), address, size) != 0 || ::listen(socket.fd(), backlog) != 0) continue;
    if (::getsockname(socket.fd(), address, &size) != 0) continue;
    sockaddr_in6 bound{};  // the port stands at the same place in both kinds
    std::memcpy(&bound, &place, sizeof(bound));
    port = ntohs(bound.sin6_port);
    return socket;
  }
  throw CommunicationError(
      fmt::format("[ring] expected a TCP port to listen on for heartbeats, got: {}", std::strerror(errno)));
}

bool ready(int fd, short events, Deadline deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
    pollfd entry{fd, events, 0};
    const int count = ::poll(&entry, 1, static_cast<int>(std::max<std::int64_t>(0, left.count())));
    if (count > 0) return true;
    if (count == 0 || errno != EINTR) return false;
  }
}

/// Connected within a moment, or none.
Socket connect_to(const Address& address, int port) {
  const bool old = is_mapped(address);
  Socket socket(::socket(old ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return socket;
  sockaddr_in ip4{};
  sockaddr_in6 ip6{};
  ip4.sin_family = AF_INET;
  ip6.sin6_family = AF_INET6;
  ip4.sin_port = ip6.sin6_port = htons(static_cast<std::uint16_t>(port));
  std::memcpy(&ip4.sin_addr, address.data() + 12, 4);
  std::memcpy(&ip6.sin6_addr, address.data(), 16);
  const auto* to = old ? reinterpret_cast<const sockaddr*>(&ip4) : reinterpret_cast<const sockaddr*>(&ip6);
  if (::connect(socket.fd(), to, old ? sizeof(ip4) : sizeof(ip6)) != 0) {
    if (errno != EINPROGRESS || !ready(socket.fd(), POLLOUT, Clock::now() + kConnectLimit)) return Socket();
    int error = 0;
    socklen_t size = sizeof(error);
    if (::getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) return Socket();
  }
  return socket;
}

bool send_all(const Socket& socket, const void* data, std::size_t bytes) {
  // A few bytes on a fresh connection: there is room for them.
  return ::send(socket.fd(), data, bytes, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes);
}

bool receive_all(const Socket& socket, void* data, std::size_t bytes, Deadline deadline) {
  auto* place = static_cast<std::byte*>(data);
  while (bytes > 0) {
    if (!ready(socket.fd(), POLLIN, deadline)) return false;
    const ssize_t got = ::recv(socket.fd(), place, bytes, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return false;
    if (got < 0) continue;
    place += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

/// Connects this process with the others: it calls those before it and is called by those behind it.
class Meeting {
 public:
  Meeting(Processes& processes, Deadline deadline)
      : processes_(processes),
        deadline_(deadline),
        rank_(processes.rank()),
        cards_(static_cast<std::size_t>(processes.size())),
        peers_(cards_.size()) {
    Card& own = card(rank_);
    own.program = program_hash();
    listening_ = listen_anywhere(processes.size(), own.port);
    std::random_device random;
    own.secret = std::uint64_t{random()} << 32 | random();
    ::gethostname(own.host.data(), own.host.size() - 1);
    list_addresses(own);
  }

  std::vector<ControlPeer> run() {
    exchange_cards();
    for (int process = 1; process < processes_.size(); ++process)
      check_argument(
          card(process).program == card(0).program, "ring",
          "expected the same program on all processes, got another build on process {} (host {}) than on "
          "process 0 (host {})",
          process, card(process).host.data(), card(0).host.data());
    {
      const std::jthread answering([this] { answer(); });
      for (int process = 0; process < rank_ && problem_.empty(); ++process) call(process);
      if (!problem_.empty()) stop_ = true;
    }
    for (int process = 0; process < processes_.size(); ++process) {
      peer(process).host = card(process).host.data();
      if (problem_.empty() && process != rank_ && !peer(process).socket)
        problem_ = fmt::format("process {} on {} was not called by process {} on {} in time", rank_,
                               card(rank_).host.data(), process, card(process).host.data());
    }
    if (!problem_.empty())
      throw CommunicationError("[ring] heartbeats need TCP between all hosts: " + problem_);
    const int on = 1;
    for (const ControlPeer& peer : peers_)
      if (peer.socket) ::setsockopt(peer.socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return std::move(peers_);
  }

 private:
  Card& card(int process) { return cards_[static_cast<std::size_t>(process)]; }
  ControlPeer& peer(int process) { return peers_[static_cast<std::size_t>(process)]; }

  void exchange_cards() {
    std::vector<Processes::TransferPtr> transfers;
    std::vector<Parcel> places(cards_.size());
    const Parcel own{std::make_shared<std::byte[]>(sizeof(Card)), sizeof(Card)};
    std::memcpy(own.data.get(), &card(rank_), sizeof(Card));
    for (int process = 0; process < processes_.size(); ++process) {
      if (process == rank_) continue;
      Parcel& place = places[static_cast<std::size_t>(process)];
      place = {std::make_shared<std::byte[]>(sizeof(Card)), sizeof(Card)};
      transfers.push_back(processes_.receive(process, Processes::kControlChannel, place));
      transfers.push_back(processes_.send(process, Processes::kControlChannel, own));
    }
    while (!transfers.empty()) {
      std::erase_if(transfers, [](const auto& transfer) { return transfer->done(); });
      if (transfers.empty()) break;
      if (Clock::now() >= deadline_)
        throw CommunicationError("[ring] not all processes told their addresses in time");
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    for (std::size_t process = 0; process < cards_.size(); ++process)
      if (places[process].data) std::memcpy(&cards_[process], places[process].data.get(), sizeof(Card));
  }

  void call(int process) {
    const Card& to = card(process);
    // Only a process on this host answers where the host speaks to itself.
    const int first = std::strcmp(to.host.data(), card(rank_).host.data()) == 0 ? 0 : 1;
    std::string tried;
    do {
      for (int n = first; n < to.addresses; ++n) {
        const Address& address = to.address[static_cast<std::size_t>(n)];
        Socket socket = connect_to(address, to.port);
        const Hello hello{to.secret, rank_};
        Hello answer;
        const char agreed = 1;
        if (socket && send_all(socket, &hello, sizeof(hello)) &&
            receive_all(socket, &answer, sizeof(answer), Clock::now() + kHandshakeLimit) &&
            answer.secret == card(rank_).secret && answer.rank == process && send_all(socket, &agreed, 1)) {
          peer(process).socket = std::move(socket);
          return;
        }
        const std::string text = text_of(address, to.port);
        if (tried.find(text) == std::string::npos) tried += (tried.empty() ? "" : ", ") + text;
      }
      std::this_thread::sleep_for(milliseconds(20));
    } while (Clock::now() < deadline_);
    problem_ =
        fmt::format("process {} on {} cannot reach process {} on {} (tried {})", rank_,
                    card(rank_).host.data(), process, to.host.data(), tried.empty() ? "no address" : tried);
  }

  void answer() {
    int missing = processes_.size() - 1 - rank_;
    while (missing > 0 && !stop_ && Clock::now() < deadline_) {
      if (!ready(listening_.fd(), POLLIN, Clock::now() + milliseconds(50))) continue;
      Socket socket(::accept4(listening_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      Hello hello;
      char agreed = 0;
      const Deadline limit = Clock::now() + kHandshakeLimit;
      if (!socket || !receive_all(socket, &hello, sizeof(hello), limit)) continue;
      if (hello.secret != card(rank_).secret || hello.rank <= rank_ || hello.rank >= processes_.size())
        continue;
      const int process = static_cast<int>(hello.rank);
      const Hello words{card(process).secret, rank_};
      if (peer(process).socket || !send_all(socket, &words, sizeof(words))) continue;
      if (!receive_all(socket, &agreed, 1, limit)) continue;
      peer(process).socket = std::move(socket);
      --missing;
    }
  }

  Processes& processes_;
  const Deadline deadline_;
  const int rank_;
  std::vector<Card> cards_;
  std::vector<ControlPeer> peers_;  // `call` fills those before this process, `answer` those behind it
  Socket listening_;
  std::string problem_;
  std::atomic<bool> stop_ = false;
};

}  // namespace

std::vector<ControlPeer> connect_control(Processes& processes, std::chrono::milliseconds limit) {
  return Meeting(processes, Clock::now() + limit).run();
}

}  // namespace rondo
