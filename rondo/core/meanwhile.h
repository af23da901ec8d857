#pragma once
// What a device does beside its computation: bring its messages forward.

namespace rondo {

/// Called by any thread of a device, often and at any place between two pieces of its work; returns soon. A
/// plain pointer, so that kernels of every instruction set can call it.
struct Meanwhile {
  void (*call)(void* self) = nullptr;  ///< null: nothing
  void* self = nullptr;

  void operator()() const {
    if (call != nullptr) call(self);
  }
};

}  // namespace rondo
