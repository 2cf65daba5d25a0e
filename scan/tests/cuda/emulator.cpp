// Runs the CUDA kernels of src/cuda/selective_scan.cu on a CPU: the same source, compiled as C++.
//
// Each thread of a block is a fiber. A fiber runs until it waits: at __syncthreads for its block, in a shuffle for its warp.
// Which of those that may run goes next is random, so that a missing barrier shows as a wrong result under some seed. Blocks
// run one after the other, in random order; shared memory is full of NaN when a block starts, as is what nobody wrote.
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#define SCAN_EMULATED
#define __device__
#define __global__
#define __constant__
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
// In one section, which is filled before each block.
#define __shared__ static __attribute__((section("scan_shared")))

using std::min;

namespace {

struct Index {
  unsigned x;
};
thread_local Index threadIdx, blockIdx;

struct __align__(16) float4 {
  float x, y, z, w;
};

struct Barrier {
  unsigned size = 0, arrived = 0;
  std::vector<unsigned> waiting;
};

// The block that runs.
struct Block {
  // A fiber starts with a context and goes on with a jump: switching contexts asks the kernel about signals each time.
  std::vector<ucontext_t> starts;
  std::vector<std::vector<char>> stacks;
  struct Place {
    jmp_buf at;
  };
  std::vector<Place> places;
  std::vector<bool> started;
  jmp_buf scheduler;
  std::vector<unsigned> ready;
  unsigned current = 0, finished = 0;
  Barrier all;
  std::vector<Barrier> warps;
  std::vector<float> exchanged;
  uint64_t random = 1;
  void (*kernel)(const void *) = nullptr;
  const void *argument = nullptr;

  unsigned below(unsigned end) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return unsigned(random % end);
  }
};
thread_local Block block;

void wait(Barrier &barrier) {
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    block.ready.insert(block.ready.end(), barrier.waiting.begin(), barrier.waiting.end());
    barrier.waiting.clear();
    return;
  }
  barrier.waiting.push_back(block.current);
  if (_setjmp(block.places[block.current].at) == 0) _longjmp(block.scheduler, 1);
}

void __syncthreads() { wait(block.all); }

float exchange(float value, int offset) {
  const unsigned self = threadIdx.x;
  Barrier &warp = block.warps[self / 32];
  block.exchanged[self] = value;
  wait(warp);
  const float other = block.exchanged[(self & ~31u) | ((self % 32) ^ unsigned(offset))];
  wait(warp); // nobody overwrites what others still read
  return other;
}

float from_lane(float value, int lane, int width) {
  const unsigned self = threadIdx.x;
  Barrier &warp = block.warps[self / 32];
  block.exchanged[self] = value;
  wait(warp);
  const float other = block.exchanged[(self & ~31u) | (self % 32 / unsigned(width) * unsigned(width) + unsigned(lane))];
  wait(warp);
  return other;
}

float exp2_approx(float x) {
  const float y = std::exp2(x);
  return std::fpclassify(y) == FP_SUBNORMAL ? 0.0f : y;
}
float reciprocal(float x) { return 1.0f / x; }
float fused(float a, float b, float c) { return std::fma(a, b, c); }

} // namespace

#if SCAN_ELEMENT != 0
struct Element;
float widen(Element x);
Element narrow(float x);
#endif

#include "../../src/cuda/selective_scan.cu"

#if SCAN_ELEMENT == 1
float widen(Element x) {
  _Float16 half;
  std::memcpy(&half, &x, 2);
  return float(half);
}
Element narrow(float x) {
  const _Float16 half = _Float16(x);
  Element element;
  std::memcpy(&element, &half, 2);
  return element;
}
#elif SCAN_ELEMENT == 2
float widen(Element x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}
Element narrow(float x) { // to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return Element{uint16_t(bits >> 16 | 0x40)};
  return Element{uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
#endif

namespace {

// Runs the current fiber's part of the kernel.
void fiber() {
  threadIdx.x = block.current;
  block.kernel(block.argument);
  ++block.finished;
  _longjmp(block.scheduler, 1);
}

// Runs all fibers until none can go on. What it needs after a jump is in `block`, not in its own variables.
void schedule() {
  while (true) {
    if (_setjmp(block.scheduler) != 0) continue;
    if (block.ready.empty()) return;
    std::swap(block.ready[block.below(unsigned(block.ready.size()))], block.ready.back());
    block.current = block.ready.back();
    block.ready.pop_back();
    threadIdx.x = block.current;
    if (block.started[block.current]) _longjmp(block.places[block.current].at, 1);
    block.started[block.current] = true;
    setcontext(&block.starts[block.current]);
  }
}

template <typename Argument, void (*KERNEL)(Argument)>
void run(const void *argument) {
  KERNEL(*static_cast<const Argument *>(argument));
}

const std::map<std::string, void (*)(const void *)> KERNELS = {
    {"scan_forward_wide", run<const Forward, scan_forward_wide>},
    {"scan_forward_narrow", run<const Forward, scan_forward_narrow>},
    {"scan_backward_wide", run<const Backward, scan_backward_wide>},
    {"scan_backward_narrow", run<const Backward, scan_backward_narrow>},
    {"scan_sum_few", run<const Sum, scan_sum_few>},
    {"scan_sum_many", run<const Sum, scan_sum_many>},
};

struct Layout {
  unsigned bytes, pointers;
};
const Layout FORWARD = {sizeof(Forward), offsetof(Forward, frames) / 8}, BACKWARD = {sizeof(Backward), offsetof(Backward, sequences) / 8};
const Layout SUM = {sizeof(Sum), offsetof(Sum, rows) / 8};
const std::map<std::string, Layout> LAYOUTS = {
    {"scan_forward_wide", FORWARD}, {"scan_forward_narrow", FORWARD}, {"scan_backward_wide", BACKWARD}, {"scan_backward_narrow", BACKWARD},
    {"scan_sum_few", SUM},          {"scan_sum_many", SUM},
};

} // namespace

// Of a kernel's argument: its bytes, and how many addresses it starts with. 0 when the kernel is known.
extern "C" int layout(const char *kernel, unsigned *bytes, unsigned *pointers) {
  const auto found = LAYOUTS.find(kernel);
  if (found == LAYOUTS.end()) return 1;
  *bytes = found->second.bytes, *pointers = found->second.pointers;
  return 0;
}

extern "C" float __start_scan_shared[], __stop_scan_shared[];

// 0 when done, 1 for an unknown kernel, 2 when threads of a block wait for each other for ever.
extern "C" int emulate(const char *kernel, unsigned blocks, unsigned threads, const void *argument, uint64_t seed) {
  const auto found = KERNELS.find(kernel);
  if (found == KERNELS.end() || threads % 32 != 0) return 1;
  block.random = seed * 0x9e3779b97f4a7c15u | 1;
  block.kernel = found->second;
  block.argument = argument;
  block.starts.resize(threads);
  block.stacks.resize(threads);
  block.places.resize(threads);
  block.exchanged.resize(threads);
  std::vector<unsigned> order(blocks);
  for (unsigned i = 0; i < blocks; ++i) order[i] = i;
  for (unsigned i = blocks; i > 1; --i) std::swap(order[i - 1], order[block.below(i)]);
  for (unsigned index : order) {
    blockIdx.x = index;
    std::fill(__start_scan_shared, __stop_scan_shared, NAN);
    block.all = Barrier{threads};
    block.warps.assign(threads / 32, Barrier{32});
    block.finished = 0;
    block.ready.clear();
    block.started.assign(threads, false);
    for (unsigned i = 0; i < threads; ++i) {
      block.stacks[i].resize(128 << 10);
      getcontext(&block.starts[i]);
      block.starts[i].uc_stack.ss_sp = block.stacks[i].data();
      block.starts[i].uc_stack.ss_size = block.stacks[i].size();
      block.starts[i].uc_link = nullptr;
      makecontext(&block.starts[i], fiber, 0);
      block.ready.push_back(i);
    }
    schedule();
    if (block.finished != threads) return 2;
  }
  return 0;
}
