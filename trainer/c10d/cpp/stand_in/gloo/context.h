#pragma once
// What c10d/ProcessGroupGloo.hpp names of gloo, whose headers PyTorch does not ship. Declarations only: all of it lives in libtorch.
#include <chrono>
#include <memory>

namespace gloo {
class Context {
 public:
  virtual ~Context();
  void setTimeout(std::chrono::milliseconds timeout);
};
} // namespace gloo
