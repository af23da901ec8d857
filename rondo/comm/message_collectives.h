#pragma once
// Collectives as messages between every two devices, for rings of several processes: they obey the timeout as
// messages do, and sums have the bits of those in shared memory. Called by all devices once they agreed on
// what is to be done. Their tags are the lowest there are.

#include <cstddef>
#include <cstdint>
#include <span>

#include "rondo/comm/communicator.h"

namespace rondo {

/// The elements of `elements` that device d of `devices` sums.
inline Range owned_part(std::int64_t elements, int devices, int d) {
  return {elements * d / devices, elements * (d + 1) / devices};
}

void send_sums(Communicator& own, std::span<float> values);
void send_sums(Communicator& own, std::span<double> values);
/// At least 2 bytes each.
void send_parts(Communicator& comm, std::span<const std::byte> own, std::span<std::byte> all);
/// At least 2 bytes.
void send_from(Communicator& own, int root, std::span<std::byte> data);

}  // namespace rondo
