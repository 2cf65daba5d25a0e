// c10d's process groups behind a C interface: handles and tensors by pointer, a status and a message, no exception across the border.

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <chrono>
#include <string>
#include <vector>

static thread_local std::string last_error;

#define PROTECT(failure, ...)                                         \
  try {                                                               \
    __VA_ARGS__                                                       \
  } catch (const c10::Error &e) {                                     \
    last_error = e.what_without_backtrace();                          \
    return failure;                                                   \
  } catch (const std::exception &e) {                                 \
    last_error = e.what();                                            \
    return failure;                                                   \
  } catch (...) {                                                     \
    last_error = "an exception that is no std::exception";            \
    return failure;                                                   \
  }

struct Group {
  c10::intrusive_ptr<c10d::Store> store; // outlives what uses it
  c10::intrusive_ptr<c10d::Backend> backend;
};

extern "C" const char *poselift_c10d_last_error() { return last_error.c_str(); }

// Joins the processes that meet at host:port. `serve`: this one keeps the meeting place (rank 0, unless torchrun's agent does). `prefix`
// keeps attempts of an elastic job apart. The first timeout is for all to come, the second for each collective afterwards.
extern "C" Group *poselift_c10d_join(int nccl, const char *host, uint16_t port, int serve, const char *prefix, int rank, int world_size,
                                     int64_t join_timeout_ms, int64_t timeout_ms) {
  PROTECT(nullptr,
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serve != 0;
    options.numWorkers = size_t(world_size);
    options.timeout = std::chrono::milliseconds(join_timeout_ms);
    auto meeting_place = c10::make_intrusive<c10d::TCPStore>(std::string(host), options);
    auto store = c10::make_intrusive<c10d::PrefixStore>(std::string(prefix), meeting_place);
    c10::intrusive_ptr<c10d::Backend> backend;
    if (nccl) {
#ifdef USE_C10D_NCCL
      auto nccl_options = c10d::ProcessGroupNCCL::Options::create();
      nccl_options->timeout = std::chrono::milliseconds(timeout_ms);
      backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, world_size, nccl_options);
#else
      last_error = "this build has no NCCL: build it with --features nccl";
      return nullptr;
#endif
    } else {
      // The interfaces of GLOO_SOCKET_IFNAME, else the one that this machine's name resolves to. They are made with the timeout for
      // joining, since the first thing that they do is to connect everybody.
      auto gloo = c10d::ProcessGroupGloo::Options::create_default(std::chrono::milliseconds(join_timeout_ms));
      backend = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, world_size, gloo);
      backend->setTimeout(std::chrono::milliseconds(timeout_ms));
    }
    return new Group{store, backend};
  )
}

extern "C" void poselift_c10d_leave(Group *group) {
  try {
    delete group;
  } catch (...) { // a connection that is gone already
  }
}

// Sums each tensor over all processes, in place. All are under way at the same time.
extern "C" int poselift_c10d_all_reduce_sum(Group *group, at::Tensor **tensors, size_t count, int64_t timeout_ms) {
  PROTECT(-1,
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    for (size_t i = 0; i < count; ++i) {
      std::vector<at::Tensor> one{*tensors[i]};
      c10d::AllreduceOptions options;
      options.reduceOp = c10d::ReduceOp::SUM;
      options.timeout = std::chrono::milliseconds(timeout_ms);
      works.push_back(group->backend->allreduce(one, options));
    }
    for (auto &work : works) work->wait();
    return 0;
  )
}

// Overwrites each tensor with that of process `root`.
extern "C" int poselift_c10d_broadcast(Group *group, at::Tensor **tensors, size_t count, int root, int64_t timeout_ms) {
  PROTECT(-1,
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    for (size_t i = 0; i < count; ++i) {
      std::vector<at::Tensor> one{*tensors[i]};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      options.timeout = std::chrono::milliseconds(timeout_ms);
      works.push_back(group->backend->broadcast(one, options));
    }
    for (auto &work : works) work->wait();
    return 0;
  )
}
