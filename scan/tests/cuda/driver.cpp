// A stand-in for NVIDIA's driver (libcuda.so.1), for tests: the functions that src/cuda/driver.rs loads, and a few that engines use
// (streams, capture). It keeps what the real one keeps: contexts and which one is current on a thread, modules that belong to a context,
// work that runs later than it was asked for. Kernels are those of emulator.cpp. It is stricter than a GPU:
//
// - Device memory can be touched by nobody but kernels and copies while they run, ends at a page that nobody can touch, and is full of NaN.
// - An image must be a cubin for the device's architecture; a kernel must be in it, with an argument of the size that the emulator knows.
// - An argument's addresses must be 0 or lie in memory of the stream's device.
// - While a stream is captured, whatever is not allowed then fails, as in the global mode of capture.
//
// STAND_IN_EMULATORS   the folder with emulator-N-TYPE.so
// STAND_IN_DEVICES     architectures, one for each device: "90" without it
// STAND_IN_MEMORY      bytes of each device
// STAND_IN_VERSION     of the driver: 13000 for 13.0
// STAND_IN_INIT        what cuInit returns
// STAND_IN_IMAGES      what cuModuleLoadData returns
// STAND_IN_HOST        if 1, kernels work on the host's memory, at once: for engines that have no device
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

typedef int Status;
typedef uint64_t Address;
enum : Status {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY_FOR_GPU = 209,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  ILLEGAL_ADDRESS = 700,
  OUT_OF_RESOURCES = 701,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901,
};
const std::map<Status, const char *> WORDS = {
    {SUCCESS, "no error"},
    {INVALID_VALUE, "invalid argument"},
    {OUT_OF_MEMORY, "out of memory"},
    {NOT_INITIALIZED, "initialization error"},
    {100, "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "invalid device ordinal"},
    {INVALID_IMAGE, "device kernel image is invalid"},
    {INVALID_CONTEXT, "invalid device context"},
    {NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"},
    {INVALID_HANDLE, "invalid resource handle"},
    {NOT_FOUND, "named symbol not found"},
    {ILLEGAL_ADDRESS, "an illegal memory access was encountered"},
    {OUT_OF_RESOURCES, "too many resources requested for launch"},
    {803, "system has unsupported display driver / cuda driver combination"},
    {CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"},
};

[[noreturn]] void defect(const std::string &what) {
  std::fprintf(stderr, "stand-in driver: %s\n", what.c_str());
  std::_Exit(86);
}

std::string environment(const char *name, const char *otherwise) {
  const char *value = std::getenv(name);
  return value && *value ? value : otherwise;
}

struct Context {
  int device;
  uint64_t number;
};
typedef int (*Emulate)(const char *, unsigned, unsigned, const void *, uint64_t);
typedef int (*LayoutOf)(const char *, unsigned *, unsigned *);
struct Function {
  Context *context;
  std::string name;
  unsigned bytes, pointers, most_threads;
  Emulate emulate;
};
struct Module {
  Context *context;
  std::map<std::string, std::unique_ptr<Function>> functions;
};
struct Event {
  Context *context;
  uint64_t at = 0; // of all work
};
struct Work {
  uint64_t number;
  struct Stream *stream;
  Function *function; // null: a copy, or nothing
  unsigned blocks, threads;
  std::vector<char> argument;
  Address to, from;
  size_t bytes;
};
struct Stream {
  Context *context;
  bool waits_for_default; // as all do that are not "non-blocking"
  bool is_default = false;
  bool capturing = false, invalidated = false;
  std::vector<Work> captured;
};
struct Graph {
  std::vector<Work> works;
};
struct Memory {
  char *pages;
  size_t mapped, bytes;
  int device;
};

struct Device {
  int architecture;
  std::unique_ptr<Context> primary;
  size_t used = 0;
};

struct Driver {
  std::recursive_mutex lock;
  bool started = false;
  std::vector<Device> devices;
  std::list<std::unique_ptr<Context>> contexts;
  std::set<Context *> alive;
  std::map<Context *, std::unique_ptr<Stream>> default_streams;
  std::set<Stream *> streams;
  std::list<std::unique_ptr<Module>> modules;
  std::set<Function *> functions;
  std::map<Address, Memory> memory; // by where it starts
  std::list<Work> queue;
  uint64_t next_context = 1, next_work = 1, random = 88172645463325252u;
  Status sticky = SUCCESS; // a context is of no more use after a kernel went astray
  std::map<std::string, uint64_t> calls;
  std::map<std::string, std::pair<unsigned, Status>> failures; // after so many calls

  unsigned below(size_t end) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return unsigned(random % end);
  }
};
Driver &driver() {
  static Driver *driver = new Driver; // never destroyed: threads may still call while the process ends
  return *driver;
}
thread_local std::vector<Context *> stack;

// Counts a call, and lets it fail where a test asked for that.
#define CALL(name)                                                      \
  Driver &d = driver();                                                 \
  std::lock_guard<std::recursive_mutex> locked(d.lock);                 \
  if (Status status = called(d, name)) return status

Status called(Driver &d, const char *name) {
  ++d.calls[name];
  const auto failure = d.failures.find(name);
  if (failure != d.failures.end()) {
    if (failure->second.first == 0) {
      const Status status = failure->second.second;
      d.failures.erase(failure);
      return status;
    }
    --failure->second.first;
  }
  if (!d.started && std::strcmp(name, "cuInit") != 0 && std::strcmp(name, "cuDriverGetVersion") != 0) return NOT_INITIALIZED;
  return SUCCESS;
}

Context *current() { return stack.empty() ? nullptr : stack.back(); }

// What may not happen while any stream is captured.
Status not_while_capturing(Driver &d) {
  Status status = SUCCESS;
  for (Stream *stream : d.streams)
    if (stream->capturing) stream->invalidated = true, status = CAPTURE_UNSUPPORTED;
  return status;
}

Stream *stream_of(Driver &d, void *handle) {
  if (handle) return d.streams.count(static_cast<Stream *>(handle)) ? static_cast<Stream *>(handle) : nullptr;
  auto &made = d.default_streams[current()];
  if (!made) {
    made.reset(new Stream{current(), true});
    made->is_default = true;
    d.streams.insert(made.get());
  }
  return made.get();
}

const std::pair<const Address, Memory> *memory_at(Driver &d, Address address) {
  auto after = d.memory.upper_bound(address);
  if (after == d.memory.begin()) return nullptr;
  --after;
  return address < after->first + std::max<size_t>(after->second.bytes, 1) ? &*after : nullptr;
}

void protect(Driver &d, int protection) {
  for (auto &[start, memory] : d.memory) mprotect(memory.pages, memory.mapped, protection);
}

void run(Driver &d, const Work &work) {
  if (d.sticky) return;
  protect(d, PROT_READ | PROT_WRITE);
  const bool on_host = environment("STAND_IN_HOST", "0") == "1";
  if (work.function) {
    const uint64_t *addresses = reinterpret_cast<const uint64_t *>(work.argument.data());
    for (unsigned i = 0; i < work.function->pointers && !on_host; ++i) {
      const auto *memory = addresses[i] ? memory_at(d, addresses[i]) : nullptr;
      if (addresses[i] && (!memory || memory->second.device != work.stream->context->device)) d.sticky = ILLEGAL_ADDRESS;
    }
    if (!d.sticky) {
      const int status = work.function->emulate(work.function->name.c_str(), work.blocks, work.threads, work.argument.data(), d.below(1u << 30));
      if (status != 0) defect(work.function->name + ": the emulator says " + std::to_string(status));
    }
  } else if (work.bytes > 0) {
    std::memmove(reinterpret_cast<void *>(work.to), reinterpret_cast<void *>(work.from), work.bytes);
  }
  protect(d, PROT_NONE);
}

// Runs all work, in any order that streams allow.
void finish(Driver &d) {
  while (!d.queue.empty()) {
    std::vector<std::list<Work>::iterator> possible;
    for (auto work = d.queue.begin(); work != d.queue.end(); ++work) {
      const bool waits = std::any_of(d.queue.begin(), work, [&](const Work &earlier) {
        const bool by_default = (earlier.stream->is_default || work->stream->is_default) && earlier.stream->waits_for_default &&
                                work->stream->waits_for_default && earlier.stream->context == work->stream->context;
        return earlier.stream == work->stream || by_default;
      });
      if (!waits) possible.push_back(work);
    }
    const auto next = possible[d.below(possible.size())];
    run(d, *next);
    d.queue.erase(next);
  }
}

Status enqueue(Driver &d, Work work) {
  work.number = d.next_work++;
  if (work.stream->capturing) {
    work.stream->captured.push_back(std::move(work));
  } else {
    // Work of the default stream waits for streams that are captured, which cannot be.
    if (work.stream->is_default)
      if (Status status = not_while_capturing(d)) return status;
    d.queue.push_back(std::move(work));
    if (environment("STAND_IN_HOST", "0") == "1") finish(d);
  }
  return SUCCESS;
}

// ------------------------------------------------------------------------------------------------------------------ images
struct Image {
  const char *bytes;
  const Elf64_Ehdr &header() const { return *reinterpret_cast<const Elf64_Ehdr *>(bytes); }
  const Elf64_Shdr &section(unsigned i) const { return reinterpret_cast<const Elf64_Shdr *>(bytes + header().e_shoff)[i]; }
  std::string name(const Elf64_Shdr &section) const { return bytes + this->section(header().e_shstrndx).sh_offset + section.sh_name; }
  const Elf64_Shdr *find(const std::string &wanted) const {
    for (unsigned i = 0; i < header().e_shnum; ++i)
      if (name(section(i)) == wanted) return &section(i);
    return nullptr;
  }
};

// A number of an attribute of .nv.info: tag, then its place among the numbers behind it.
bool attribute(const Image &image, const Elf64_Shdr &info, unsigned char tag, unsigned offset, unsigned bytes, uint32_t &value) {
  const unsigned char *at = reinterpret_cast<const unsigned char *>(image.bytes + info.sh_offset), *end = at + info.sh_size;
  while (at + 4 <= end) {
    const unsigned size = at[0] == 4 ? at[2] | at[3] << 8 : 0; // others carry their value in themselves
    if (at[0] == 4 && at[1] == tag) {
      value = 0;
      std::memcpy(&value, at + 4 + offset, bytes);
      return true;
    }
    at += 4 + size;
  }
  return false;
}

Status load(Driver &d, const char *bytes, Module &module) {
  const Image image{bytes};
  if (std::memcmp(bytes, ELFMAG, SELFMAG) != 0) return INVALID_IMAGE;
  if (image.header().e_machine != 190) return INVALID_IMAGE; // EM_CUDA
  const int architecture = image.header().e_flags >> 8 & 0xff, device = d.devices[module.context->device].architecture;
  if (architecture / 10 != device / 10 || architecture > device) return NO_BINARY_FOR_GPU;
  // scan_program, the one constant of the source.
  const Elf64_Shdr *constants = image.find(".nv.constant3");
  if (!constants || constants->sh_size < 8) return INVALID_IMAGE;
  int program[2];
  std::memcpy(program, bytes + constants->sh_offset, sizeof program);
  if (program[0] < 1 || program[0] > 128 || program[1] < 0 || program[1] > 2) return INVALID_IMAGE;
  const char *TYPES[] = {"F32", "F16", "BF16"};
  const std::string path = environment("STAND_IN_EMULATORS", ".") + "/emulator-" + std::to_string(program[0]) + "-" + TYPES[program[1]] + ".so";
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) defect(std::string("no emulator: ") + dlerror());
  const auto emulate = reinterpret_cast<Emulate>(dlsym(library, "emulate"));
  const auto layout = reinterpret_cast<LayoutOf>(dlsym(library, "layout"));
  if (!emulate || !layout) defect(path + " is no emulator");
  for (unsigned i = 0; i < image.header().e_shnum; ++i) {
    const std::string name = image.name(image.section(i)), prefix = ".text.";
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    std::unique_ptr<Function> function(new Function{module.context, name.substr(prefix.size()), 0, 0, 0, emulate});
    const Elf64_Shdr *info = image.find(".nv.info." + function->name);
    uint32_t bytes_in_image = 0;
    if (!info || !attribute(image, *info, 0x0a, 6, 2, bytes_in_image)) defect(function->name + ": the image does not say how large its argument is");
    if (!attribute(image, *info, 0x05, 0, 4, function->most_threads)) defect(function->name + ": the image does not say how many threads it takes");
    if (layout(function->name.c_str(), &function->bytes, &function->pointers) != 0) defect(function->name + " is unknown to the emulator");
    if (function->bytes != bytes_in_image)
      defect(function->name + ": an argument of " + std::to_string(bytes_in_image) + " bytes in the image, of " + std::to_string(function->bytes) + " as C++");
    d.functions.insert(function.get());
    module.functions[function->name] = std::move(function);
  }
  return SUCCESS;
}

} // namespace

// ------------------------------------------------------------------------------------------------------- as cuda.h says
API Status cuInit(unsigned) {
  CALL("cuInit");
  if (const int status = std::atoi(environment("STAND_IN_INIT", "0").c_str())) return status;
  if (d.started) return SUCCESS;
  const std::string list = environment("STAND_IN_DEVICES", "90");
  for (size_t at = 0; at <= list.size(); at = list.find(',', at) == std::string::npos ? list.size() + 1 : list.find(',', at) + 1) {
    d.devices.emplace_back();
    d.devices.back().architecture = std::atoi(list.c_str() + at);
  }
  d.started = true;
  return SUCCESS;
}
API Status cuDriverGetVersion(int *version) {
  CALL("cuDriverGetVersion");
  *version = std::atoi(environment("STAND_IN_VERSION", "13000").c_str());
  return SUCCESS;
}
API Status cuGetErrorString(Status status, const char **words) {
  const auto found = WORDS.find(status);
  *words = found == WORDS.end() ? nullptr : found->second;
  return found == WORDS.end() ? INVALID_VALUE : SUCCESS;
}
API Status cuDeviceGetCount(int *count) {
  CALL("cuDeviceGetCount");
  *count = int(d.devices.size());
  return SUCCESS;
}
API Status cuDeviceGet(int *device, int index) {
  CALL("cuDeviceGet");
  if (index < 0 || size_t(index) >= d.devices.size()) return INVALID_DEVICE;
  *device = index;
  return SUCCESS;
}
API Status cuDeviceGetName(char *name, int room, int device) {
  CALL("cuDeviceGetName");
  if (device < 0 || size_t(device) >= d.devices.size()) return INVALID_DEVICE;
  std::snprintf(name, size_t(room), "stand-in %d", device);
  return SUCCESS;
}
API Status cuDeviceGetAttribute(int *value, int attribute, int device) {
  CALL("cuDeviceGetAttribute");
  if (device < 0 || size_t(device) >= d.devices.size()) return INVALID_DEVICE;
  const int architecture = d.devices[size_t(device)].architecture;
  switch (attribute) {
    case 16: *value = 132; return SUCCESS;
    case 75: *value = architecture / 10; return SUCCESS;
    case 76: *value = architecture % 10; return SUCCESS;
  }
  return INVALID_VALUE;
}

// NVRTC asks for the driver's own compiler, and does without.
API Status cuGetExportTable(const void **table, const void *) {
  *table = nullptr;
  return NOT_FOUND;
}

// Contexts.
API Status cuDevicePrimaryCtxRetain(Context **context, int device) {
  CALL("cuDevicePrimaryCtxRetain");
  if (device < 0 || size_t(device) >= d.devices.size()) return INVALID_DEVICE;
  auto &primary = d.devices[size_t(device)].primary;
  if (!primary) {
    if (Status status = not_while_capturing(d)) return status;
    primary.reset(new Context{device, d.next_context++});
    d.alive.insert(primary.get());
  }
  *context = primary.get();
  return SUCCESS;
}
// cudaDeviceReset: the context stays where it was and is another.
API Status cuDevicePrimaryCtxReset_v2(int device) {
  CALL("cuDevicePrimaryCtxReset_v2");
  Context *context = d.devices[size_t(device)].primary.get();
  finish(d);
  for (auto function = d.functions.begin(); function != d.functions.end();)
    function = (*function)->context == context ? d.functions.erase(function) : std::next(function);
  context->number = d.next_context++;
  return SUCCESS;
}
API Status cuCtxCreate_v2(Context **context, unsigned, int device) {
  CALL("cuCtxCreate_v2");
  if (device < 0 || size_t(device) >= d.devices.size()) return INVALID_DEVICE;
  d.contexts.emplace_back(new Context{device, d.next_context++});
  *context = d.contexts.back().get();
  d.alive.insert(*context);
  stack.push_back(*context);
  return SUCCESS;
}
API Status cuCtxSetCurrent(Context *context) {
  CALL("cuCtxSetCurrent");
  if (context && !d.alive.count(context)) return INVALID_CONTEXT;
  if (!stack.empty()) stack.pop_back();
  if (context) stack.push_back(context);
  return SUCCESS;
}
API Status cuCtxGetCurrent(Context **context) {
  CALL("cuCtxGetCurrent");
  *context = current();
  return SUCCESS;
}
API Status cuCtxPushCurrent_v2(Context *context) {
  CALL("cuCtxPushCurrent_v2");
  if (!d.alive.count(context)) return INVALID_CONTEXT;
  stack.push_back(context);
  return SUCCESS;
}
API Status cuCtxPopCurrent_v2(Context **context) {
  CALL("cuCtxPopCurrent_v2");
  if (stack.empty()) return INVALID_CONTEXT;
  *context = stack.back();
  stack.pop_back();
  return SUCCESS;
}
#ifndef STAND_IN_OLD // of CUDA 11
API Status cuCtxGetId(Context *context, unsigned long long *number) {
  CALL("cuCtxGetId");
  if (!d.alive.count(context)) return INVALID_CONTEXT;
  *number = context->number;
  return SUCCESS;
}
#endif
API Status cuCtxGetDevice(int *device) {
  CALL("cuCtxGetDevice");
  if (!current()) return INVALID_CONTEXT;
  *device = current()->device;
  return SUCCESS;
}
API Status cuCtxSynchronize() {
  CALL("cuCtxSynchronize");
  if (!current()) return INVALID_CONTEXT;
  if (Status status = not_while_capturing(d)) return status;
  finish(d);
  return d.sticky;
}

// Streams and graphs.
API Status cuStreamCreate(Stream **stream, unsigned flags) {
  CALL("cuStreamCreate");
  if (!current()) return INVALID_CONTEXT;
  *stream = new Stream{current(), (flags & 1) == 0};
  d.streams.insert(*stream);
  return SUCCESS;
}
API Status cuStreamGetCtx(void *handle, Context **context) {
  CALL("cuStreamGetCtx");
  Stream *stream = stream_of(d, handle);
  if (!stream) return INVALID_HANDLE;
  *context = stream->context;
  return SUCCESS;
}
API Status cuStreamSynchronize(void *handle) {
  CALL("cuStreamSynchronize");
  if (!stream_of(d, handle)) return INVALID_HANDLE;
  if (Status status = not_while_capturing(d)) return status;
  finish(d);
  return d.sticky;
}
API Status cuStreamBeginCapture_v2(void *handle, int) {
  CALL("cuStreamBeginCapture_v2");
  Stream *stream = stream_of(d, handle);
  if (!stream || stream->is_default) return CAPTURE_UNSUPPORTED;
  stream->capturing = true, stream->invalidated = false;
  stream->captured.clear();
  return SUCCESS;
}
API Status cuStreamEndCapture(void *handle, Graph **graph) {
  CALL("cuStreamEndCapture");
  Stream *stream = stream_of(d, handle);
  if (!stream || !stream->capturing) return INVALID_VALUE;
  stream->capturing = false;
  if (stream->invalidated) return CAPTURE_INVALIDATED;
  *graph = new Graph{stream->captured};
  return SUCCESS;
}
// A graph is its own executable here.
API Status cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long) {
  CALL("cuGraphInstantiateWithFlags");
  *executable = graph;
  return SUCCESS;
}
API Status cuGraphLaunch(Graph *graph, void *handle) {
  CALL("cuGraphLaunch");
  Stream *stream = stream_of(d, handle);
  if (!stream) return INVALID_HANDLE;
  for (Work work : graph->works) {
    work.stream = stream;
    if (Status status = enqueue(d, std::move(work))) return status;
  }
  return SUCCESS;
}

// Modules and launches.
API Status cuModuleLoadData(Module **module, const void *image) {
  CALL("cuModuleLoadData");
  if (!current()) return INVALID_CONTEXT;
  if (Status status = not_while_capturing(d)) return status;
  if (const int status = std::atoi(environment("STAND_IN_IMAGES", "0").c_str())) return status;
  std::unique_ptr<Module> made(new Module{current(), {}});
  if (Status status = load(d, static_cast<const char *>(image), *made)) return status;
  *module = made.get();
  d.modules.push_back(std::move(made));
  return SUCCESS;
}
API Status cuModuleGetFunction(Function **function, Module *module, const char *name) {
  CALL("cuModuleGetFunction");
  if (Status status = not_while_capturing(d)) return status; // it puts the kernel on the device
  const auto found = module->functions.find(name);
  if (found == module->functions.end()) return NOT_FOUND;
  *function = found->second.get();
  return SUCCESS;
}
API Status cuFuncSetAttribute(Function *function, int attribute, int value) {
  CALL("cuFuncSetAttribute");
  if (!d.functions.count(function)) return INVALID_HANDLE;
  return attribute == 9 && value >= -1 && value <= 100 ? SUCCESS : INVALID_VALUE; // shared memory's share
}
API Status cuLaunchKernel(Function *function, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y, unsigned threads_z,
                          unsigned shared_bytes, void *handle, void **parameters, void **extra) {
  CALL("cuLaunchKernel");
  if (!d.functions.count(function)) return INVALID_HANDLE;
  if (!current() || function->context != current()) return INVALID_CONTEXT;
  Stream *stream = stream_of(d, handle);
  if (!stream || stream->context != function->context) return INVALID_HANDLE;
  if (x == 0 || x > 0x7fffffffu || y != 1 || z != 1 || threads_x == 0 || threads_y != 1 || threads_z != 1 || extra) return INVALID_VALUE;
  if (threads_x > function->most_threads || shared_bytes != 0) return OUT_OF_RESOURCES;
  if (d.sticky) return d.sticky;
  const char *argument = static_cast<const char *>(parameters[0]);
  return enqueue(d, Work{0, stream, function, x, threads_x, std::vector<char>(argument, argument + function->bytes), 0, 0, 0});
}

// Memory.
API Status cuMemAlloc_v2(Address *address, size_t bytes) {
  CALL("cuMemAlloc_v2");
  if (!current()) return INVALID_CONTEXT;
  if (bytes == 0) return INVALID_VALUE;
  if (Status status = not_while_capturing(d)) return status;
  Device &device = d.devices[size_t(current()->device)];
  const size_t limit = std::stoull(environment("STAND_IN_MEMORY", "1073741824"));
  if (bytes > limit || device.used + bytes > limit) return OUT_OF_MEMORY;
  // It ends, to 16 bytes, where a page begins that nobody may touch.
  const size_t page = 4096, room = (bytes + 15) / 16 * 16, mapped = (room + page - 1) / page * page;
  char *pages = static_cast<char *>(mmap(nullptr, mapped + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (pages == MAP_FAILED) return OUT_OF_MEMORY;
  pages += page;
  mprotect(pages, mapped, PROT_READ | PROT_WRITE);
  std::memset(pages, 0xff, mapped);
  mprotect(pages, mapped, PROT_NONE);
  device.used += bytes;
  *address = reinterpret_cast<Address>(pages + mapped - room);
  d.memory[*address] = Memory{pages, mapped, bytes, current()->device};
  return SUCCESS;
}
API Status cuMemFree_v2(Address address) {
  CALL("cuMemFree_v2");
  const auto found = d.memory.find(address);
  if (found == d.memory.end()) return INVALID_VALUE;
  if (Status status = not_while_capturing(d)) return status;
  finish(d);
  Memory &memory = found->second;
  mprotect(memory.pages, memory.mapped, PROT_READ);
  for (const char *at = memory.pages; at < memory.pages + memory.mapped; ++at) {
    const char *start = reinterpret_cast<const char *>(address);
    if ((at < start || at >= start + memory.bytes) && *at != char(0xff)) defect("somebody wrote beside memory of " + std::to_string(memory.bytes) + " bytes");
  }
  munmap(memory.pages - 4096, memory.mapped + 2 * 4096);
  d.devices[size_t(memory.device)].used -= memory.bytes;
  d.memory.erase(found);
  return SUCCESS;
}
namespace {
// Whether all of that is one piece of device memory.
bool is_memory(Driver &d, Address address, size_t bytes) {
  const auto *memory = memory_at(d, address);
  return memory && address + bytes <= memory->first + memory->second.bytes;
}
} // namespace
API Status cuMemcpyHtoD_v2(Address to, const void *from, size_t bytes) {
  CALL("cuMemcpyHtoD_v2");
  if (bytes > 0 && (!is_memory(d, to, bytes) || memory_at(d, reinterpret_cast<Address>(from)))) return INVALID_VALUE;
  if (Status status = not_while_capturing(d)) return status;
  finish(d);
  run(d, Work{0, stream_of(d, nullptr), nullptr, 0, 0, {}, to, reinterpret_cast<Address>(from), bytes});
  return d.sticky;
}
API Status cuMemcpyDtoH_v2(void *to, Address from, size_t bytes) {
  CALL("cuMemcpyDtoH_v2");
  if (bytes > 0 && (!is_memory(d, from, bytes) || memory_at(d, reinterpret_cast<Address>(to)))) return INVALID_VALUE;
  if (Status status = not_while_capturing(d)) return status;
  finish(d);
  run(d, Work{0, stream_of(d, nullptr), nullptr, 0, 0, {}, reinterpret_cast<Address>(to), from, bytes});
  return d.sticky;
}
API Status cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *handle) {
  CALL("cuMemcpyDtoDAsync_v2");
  Stream *stream = stream_of(d, handle);
  if (!stream) return INVALID_HANDLE;
  if (!is_memory(d, to, bytes) || !is_memory(d, from, bytes)) return INVALID_VALUE;
  return enqueue(d, Work{0, stream, nullptr, 0, 0, {}, to, from, bytes});
}

// Events: a clock that goes on by a millisecond with each piece of work.
API Status cuEventCreate(Event **event, unsigned) {
  CALL("cuEventCreate");
  if (!current()) return INVALID_CONTEXT;
  *event = new Event{current()};
  return SUCCESS;
}
API Status cuEventDestroy_v2(Event *event) {
  CALL("cuEventDestroy_v2");
  delete event;
  return SUCCESS;
}
API Status cuEventRecord(Event *event, void *handle) {
  CALL("cuEventRecord");
  Stream *stream = stream_of(d, handle);
  if (!stream || stream->context != event->context) return INVALID_HANDLE;
  event->at = d.next_work++;
  return SUCCESS;
}
API Status cuEventElapsedTime(float *ms, Event *from, Event *to) {
  CALL("cuEventElapsedTime");
  *ms = float(to->at - from->at);
  return SUCCESS;
}

// ------------------------------------------------------------------------------------------------------------- for tests
// How often a function was called.
API uint64_t stand_in_calls(const char *name) {
  Driver &d = driver();
  std::lock_guard<std::recursive_mutex> locked(d.lock);
  return d.calls[name];
}
// Of all functions together.
API uint64_t stand_in_all_calls() {
  Driver &d = driver();
  std::lock_guard<std::recursive_mutex> locked(d.lock);
  uint64_t all = 0;
  for (const auto &[name, calls] : d.calls) all += calls;
  return all;
}
// Makes the call of a function after so many others fail.
API void stand_in_fail(const char *name, unsigned after, Status status) {
  Driver &d = driver();
  std::lock_guard<std::recursive_mutex> locked(d.lock);
  d.failures[name] = {after, status};
}
