// The selective scan on CUDA: forward, one step (a forward of one frame), backward. Formulas: src/lib.rs and src/backward.rs.
//
// NVRTC compiles this file for one element type and one number of states, so that both are constants and states live in
// registers. It includes nothing, and scan/tests/cuda compiles it as C++ and runs it on a CPU.
//
//   SCAN_STATES    N, 1 to 128
//   SCAN_ELEMENT   u, delta, B, C, z, y and their gradients: 0 f32, 1 f16, 2 bf16. Everything else is f32.
//
// A channel of a sequence is shared by LANES neighbouring threads of a warp, each with up to MOST of its N states; a thread
// may have its states of COUNT neighbouring channels. A block takes COUNT * THREADS / LANES channels of one sequence; a
// sequence's channels may take several blocks. Time is a loop, so that a sequence may be of any length; the parallel work
// is in sequences, channels and states.
//
// Layouts are those of the CPU, (S, L, D) and (S, L, N): neighbouring threads read neighbouring channels.

constexpr int N = SCAN_STATES;
constexpr int THREADS = 128;
constexpr int WARP = 32;
constexpr float LOG2_E = 1.44269504f;
constexpr float LN_2 = 0.693147181f;

static_assert(N >= 1 && N <= 128, "SCAN_STATES must be in 1 to 128");

// States that a thread takes at most: many where sequences alone fill the device, few where they do not.
constexpr int WIDE = 16;
constexpr int NARROW = 4;

// Frames between two states that a forward pass keeps for the backward pass, which computes those between again: STEP
// frames at a time, whose states are in registers.
constexpr int CHUNK = N > 4 && N <= 32 ? 16 : 8;
constexpr int STEP = 4;

// Threads that share a channel: a power of two.
__device__ constexpr int lanes(int most) {
  int lanes = 1;
  while (lanes * most < N) lanes *= 2;
  return lanes;
}
// States of a thread. The last lanes may have fewer, or none.
__device__ constexpr int states(int most) { return (N + lanes(most) - 1) / lanes(most); }
__device__ constexpr int smaller(int a, int b) { return a < b ? a : b; }
__device__ constexpr int power_of_two(int least) {
  int power = 1;
  while (power < least) power *= 2;
  return power;
}

// ------------------------------------------------------------------------------------------------------------ arithmetic
#if SCAN_ELEMENT == 0
typedef float Element;
#else
struct Element { unsigned short bits; };
#endif

#ifndef SCAN_EMULATED // the emulator brings these as C++
typedef unsigned int uint32;

// 2^x, a relative error of 2^-22; what would be denormal is 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 1 / x, to one unit in the last place.
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ float exchange(float value, int offset) { return __shfl_xor_sync(0xffffffffu, value, offset); }
// The value of the thread that has this number among every `width` neighbours.
__device__ __forceinline__ float from_lane(float value, int lane, int width) { return __shfl_sync(0xffffffffu, value, lane, width); }
#if SCAN_ELEMENT == 1
__device__ __forceinline__ float widen(Element x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
__device__ __forceinline__ Element narrow(float x) {
  Element y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
#elif SCAN_ELEMENT == 2
__device__ __forceinline__ float widen(Element x) { return __uint_as_float((uint32)x.bits << 16); }
__device__ __forceinline__ Element narrow(float x) {
  Element y;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else // Turing has no such instruction: to nearest, ties to even; NaN stays NaN
  const uint32 bits = __float_as_uint(x);
  y.bits = (unsigned short)(x != x ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
  return y;
}
#endif
#endif

#if SCAN_ELEMENT == 0
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float narrow(float x) { return x; }
#endif

// 1 / (1 + e^-x)
__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.0f + exp2_approx(x * -LOG2_E)); }

// ln(1 + e^x) = max(x, 0) + ln(1 + e) with e = e^-|x|; ln(1 + e) / e as a polynomial on 0 .. 1 that errs by 5e-9, and by
// 1.3e-7 in f32. With a reciprocal it would be as long, and reciprocals share a slow unit with the exponentials.
__device__ __forceinline__ float softplus_of(float x, float e) {
  float series = -0.003244026f;
  series = fused(series, e, 0.01985147f);
  series = fused(series, e, -0.05695956f);
  series = fused(series, e, 0.10603658f);
  series = fused(series, e, -0.15305595f);
  series = fused(series, e, 0.1967594f);
  series = fused(series, e, -0.24954134f);
  series = fused(series, e, 0.33329964f);
  series = fused(series, e, -0.49999902f);
  series = fused(series, e, 1.0f);
  return fused(series, e, fmaxf(x, 0.0f));
}
__device__ __forceinline__ float softplus(float x) { return softplus_of(x, exp2_approx(-fabsf(x) * LOG2_E)); }
// The same, and its slope 1 / (1 + e^-x).
__device__ __forceinline__ float softplus(float x, float &slope) {
  const float e = exp2_approx(-fabsf(x) * LOG2_E), inverse = reciprocal(1.0f + e);
  slope = x >= 0.0f ? inverse : e * inverse;
  return softplus_of(x, e);
}

// Whether four values may be fetched together: tensors of others may start anywhere.
__device__ __forceinline__ bool aligned(const float *pointer) { return ((unsigned long long)pointer & 15) == 0; }

// The sum over the lanes of a channel, in all of them.
template <int LANES>
__device__ __forceinline__ float sum_lanes(float value) {
#pragma unroll
  for (int offset = LANES / 2; offset > 0; offset /= 2) value += exchange(value, offset);
  return value;
}

// Sums COUNT values (a power of two) over the threads of a warp that differ in the bits FROM, 2 FROM .. OFFSET of their
// numbers. A thread gives half of its values away at each step and keeps the other half, so that the whole costs COUNT
// exchanges instead of COUNT for each step. The sums end in sums[0 .. SUMS), of which this thread's first is number
// `first_sum` of all.
template <int COUNT, int FROM, int OFFSET>
struct SumThreads {
  static constexpr int KEPT = COUNT > 1 ? COUNT / 2 : 1;
  typedef SumThreads<KEPT, FROM, OFFSET / 2> Next;
  static constexpr int SUMS = Next::SUMS;

  static __device__ __forceinline__ void run(float (&values)[COUNT], int thread, float (&sums)[SUMS]) {
    float kept[KEPT];
    if constexpr (COUNT > 1) {
      const bool upper = (thread & OFFSET) != 0;
#pragma unroll
      for (int i = 0; i < KEPT; ++i) {
        const float given = upper ? values[i] : values[i + KEPT];
        kept[i] = (upper ? values[i + KEPT] : values[i]) + exchange(given, OFFSET);
      }
    } else {
      kept[0] = values[0] + exchange(values[0], OFFSET);
    }
    Next::run(kept, thread, sums);
  }
  static __device__ __forceinline__ int first_sum(int thread) {
    return (COUNT > 1 && (thread & OFFSET) ? KEPT : 0) + Next::first_sum(thread);
  }
  // Whether this thread is the one of its copies that should write the sums.
  static __device__ __forceinline__ bool writes(int thread) { return (COUNT > 1 || !(thread & OFFSET)) && Next::writes(thread); }
};
// All steps are done: OFFSET is below FROM.
template <int COUNT, int FROM>
struct SumThreads<COUNT, FROM, FROM / 2> {
  static constexpr int SUMS = COUNT;
  static __device__ __forceinline__ void run(float (&values)[COUNT], int, float (&sums)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) sums[i] = values[i];
  }
  static __device__ __forceinline__ int first_sum(int) { return 0; }
  static __device__ __forceinline__ bool writes(int) { return true; }
};

// Which part of the work a thread has.
template <int MOST, int COUNT = 1>
struct Place {
  static constexpr int LANES = lanes(MOST), STATES = states(MOST), CHANNELS = THREADS / LANES * COUNT;
  // Whether its states are whole groups of four, which lie together in (.., N).
  static constexpr bool FOURS = STATES % 4 == 0 && LANES * STATES == N;
  int channels;       // of the sequence
  long long sequence;
  int block;          // of the sequence's channels
  int first;          // channel of the block
  int lane;           // of the channel
  int column;         // this thread's first channel in the block
  int state;          // first of this thread's

  __device__ __forceinline__ Place(int channels) : channels(channels) {
    const int blocks = (channels + CHANNELS - 1) / CHANNELS;
    sequence = blockIdx.x / blocks;
    block = blockIdx.x % blocks;
    first = block * CHANNELS;
    lane = threadIdx.x % LANES;
    column = threadIdx.x / LANES * COUNT;
    state = lane * STATES;
  }
  __device__ __forceinline__ int channel(int j = 0) const { return first + column + j; }
  // Whether this thread's j-th channel is not behind the last one.
  __device__ __forceinline__ bool present(int j = 0) const { return channel(j) < channels; }
  // Whether it also has a k-th state of that.
  __device__ __forceinline__ bool has(int k, int j = 0) const { return present(j) && state + k < N; }
  // Its B or C out of a frame's row; 0 where the last lanes have no such state, which then stays 0 and changes nothing.
  __device__ __forceinline__ float of_state(const float (&row)[N], int k) const {
    if (LANES * STATES == N) return row[state + k];
    return state + k < N ? row[state + k] : 0.0f;
  }
  // This thread's states of its j-th channel in (rows, D, N), with `row` counted over all sequences; 0 where there are none.
  __device__ __forceinline__ void read(float (&to)[STATES], const float *from, long long row, int j = 0) const {
    const long long at = (row * channels + channel(j)) * N + state;
    if (FOURS && aligned(from)) {
#pragma unroll
      for (int k = 0; k < STATES / 4; ++k) {
        const float4 four = from && present(j) ? ((const float4 *)(from + at))[k] : float4{0.0f, 0.0f, 0.0f, 0.0f};
        to[4 * k] = four.x, to[4 * k + 1] = four.y, to[4 * k + 2] = four.z, to[4 * k + 3] = four.w;
      }
    } else {
#pragma unroll
      for (int k = 0; k < STATES; ++k) to[k] = from && has(k, j) ? from[at + k] : 0.0f;
    }
  }
  __device__ __forceinline__ void write(float *to, const float (&from)[STATES], long long row, int j = 0) const {
    const long long at = (row * channels + channel(j)) * N + state;
    if (FOURS && aligned(to)) {
#pragma unroll
      for (int k = 0; k < STATES / 4; ++k)
        if (present(j)) ((float4 *)(to + at))[k] = float4{from[4 * k], from[4 * k + 1], from[4 * k + 2], from[4 * k + 3]};
    } else {
#pragma unroll
      for (int k = 0; k < STATES; ++k)
        if (has(k, j)) to[at + k] = from[k];
    }
  }
};

// --------------------------------------------------------------------------------------------------------------- forward
// A null pointer: absent. Repeated in src/cuda/arguments.rs.
struct Forward {
  const Element *u, *delta;       // (S, L, D)
  const float *a;                 // (D, N)
  const Element *b, *c;           // (S, L, N)
  const float *d;                 // (D)
  const Element *z;               // (S, L, D)
  const float *delta_bias;        // (D)
  const float *initial_state;     // (S, D, N)
  Element *y;                     // (S, L, D)
  float *last_state;              // (S, D, N); may be initial_state
  float *kept;                    // (S, ceil(L / CHUNK), D, N): the states before each chunk of frames
  int frames, channels;
  int delta_softplus;
};

// Frames of B and C that are in shared memory at a time.
constexpr int TILE = N <= 64 ? 32 : 16;

struct __align__(16) ForwardShared {
  float b[TILE][N], c[TILE][N];
};

// A thread's part of a tile of B and C, on its way to shared memory.
struct Tile {
  static constexpr int COUNT = (TILE * N + THREADS - 1) / THREADS;
  float b[COUNT], c[COUNT];

  __device__ __forceinline__ void fetch(const Forward &x, long long first_row, int rows) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const int at = threadIdx.x + i * THREADS;
      b[i] = at < rows * N ? widen(x.b[first_row * N + at]) : 0.0f;
      c[i] = at < rows * N && x.y ? widen(x.c[first_row * N + at]) : 0.0f;
    }
  }
  __device__ __forceinline__ void store(ForwardShared &shared) const {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const int at = threadIdx.x + i * THREADS;
      if (TILE * N % THREADS == 0 || at < TILE * N) {
        shared.b[at / N][at % N] = b[i];
        shared.c[at / N][at % N] = c[i];
      }
    }
  }
};

// Some frames of a channel, of which each of its lanes has its own. What lies behind the last frame or channel is fetched
// from there and not used: without a branch, all of it is on its way at once.
template <int OWN>
struct Frames {
  float u[OWN], delta[OWN], z[OWN];

  __device__ __forceinline__ void fetch(const Forward &x, long long first_row, int frame, int channel) {
    const long long at = first_row * x.channels + min(channel, x.channels - 1);
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
      const long long where = at + (long long)min(frame + i, x.frames - 1) * x.channels;
      u[i] = widen(x.u[where]);
      delta[i] = widen(x.delta[where]);
      z[i] = x.z ? widen(x.z[where]) : 0.0f;
    }
  }
};

template <int MOST>
__device__ __forceinline__ void forward(const Forward &x, ForwardShared &shared) {
  typedef Place<MOST> P;
  // Frames that are fetched together, before those ahead of them are computed: four for each lane.
  constexpr int AHEAD = smaller(4 * P::LANES, CHUNK), OWN = AHEAD > P::LANES ? AHEAD / P::LANES : 1;
  static_assert(TILE % CHUNK == 0 && CHUNK % AHEAD == 0, "a chunk starts where frames are fetched");
  typedef SumThreads<AHEAD, 1, P::LANES / 2> OverLanes; // y of each frame; each lane ends with its own
  static_assert(OverLanes::SUMS == OWN, "a lane has y where it has u");
  // B and C of the next tile wait in registers where these are few, and threads too few to hide the time that memory takes.
  constexpr bool EARLY = MOST == NARROW && Tile::COUNT <= 4;
  const P place(x.channels);
  const int chunks = (x.frames + CHUNK - 1) / CHUNK;
  const int first_own = OverLanes::first_sum(threadIdx.x);
  float h[P::STATES], a[P::STATES];
  place.read(a, x.a, 0);
  place.read(h, x.initial_state, place.sequence);
#pragma unroll
  for (int k = 0; k < P::STATES; ++k) a[k] *= LOG2_E;
  const bool writes = place.present() && OverLanes::writes(threadIdx.x);
  const float bias = x.delta_bias && place.present() ? x.delta_bias[place.channel()] : 0.0f;
  const long long first_row = place.sequence * x.frames; // of (S, L, ..)
  Frames<OWN> next;
  Tile tile_ahead;
  if (x.frames > 0) next.fetch(x, first_row, first_own, place.channel());
  if (EARLY) tile_ahead.fetch(x, first_row, min(TILE, x.frames));

  for (int tile = 0; tile < x.frames; tile += TILE) {
    const int rows = min(TILE, x.frames - tile);
    if (!EARLY) tile_ahead.fetch(x, first_row + tile, rows);
    __syncthreads(); // nobody still reads the tile before
    tile_ahead.store(shared);
    __syncthreads();
    if (EARLY) tile_ahead.fetch(x, first_row + tile + TILE, min(TILE, x.frames - tile - TILE));
    for (int row = 0; row < rows; row += AHEAD) {
      const Frames<OWN> now = next;
      next.fetch(x, first_row, tile + row + AHEAD + first_own, place.channel());
      if (x.kept && (tile + row) % CHUNK == 0) place.write(x.kept, h, place.sequence * chunks + (tile + row) / CHUNK);
      float delta[OWN], delta_u[OWN];
#pragma unroll
      for (int i = 0; i < OWN; ++i) {
        delta[i] = now.delta[i] + bias;
        if (x.delta_softplus) delta[i] = softplus(delta[i]);
        delta_u[i] = delta[i] * now.u[i];
      }
      float y[AHEAD];
#pragma unroll
      for (int i = 0; i < AHEAD; ++i) {
        y[i] = 0.0f;
        if (row + i < rows) { // the same for the whole block
          constexpr int APART = P::LANES > AHEAD ? P::LANES / AHEAD : 1; // from a lane to the next with other frames
          const float of_frame = P::LANES == 1 ? delta[i % OWN] : from_lane(delta[i % OWN], i / OWN * APART, P::LANES);
          const float times_u = P::LANES == 1 ? delta_u[i % OWN] : from_lane(delta_u[i % OWN], i / OWN * APART, P::LANES);
#pragma unroll
          for (int k = 0; k < P::STATES; ++k) {
            h[k] = fused(exp2_approx(of_frame * a[k]), h[k], times_u * place.of_state(shared.b[row + i], k));
            y[i] = fused(h[k], place.of_state(shared.c[row + i], k), y[i]);
          }
        }
      }
      if (!x.y) continue;
      float own_y[OWN];
      OverLanes::run(y, threadIdx.x, own_y);
      const int own_row = row + first_own;
      const long long at = (first_row + tile + own_row) * x.channels + place.channel();
      const float skip = x.d && writes ? x.d[place.channel()] : 0.0f; // here and not before the loop: a register less in it
#pragma unroll
      for (int i = 0; i < OWN; ++i) {
        if (writes && own_row + i < rows) {
          if (x.d) own_y[i] = fused(skip, now.u[i], own_y[i]);
          if (x.z) own_y[i] *= now.z[i] * sigmoid(now.z[i]);
          x.y[at + (long long)i * x.channels] = narrow(own_y[i]);
        }
      }
    }
  }
  if (x.last_state) place.write(x.last_state, h, place.sequence);
}

// -------------------------------------------------------------------------------------------------------------- backward
// A null pointer: absent, or not asked for. Repeated in src/cuda/arguments.rs.
struct Backward {
  const Element *u, *delta;
  const float *a;
  const Element *b, *c;
  const float *d;
  const Element *z;
  const float *delta_bias;
  const float *kept;              // of a forward pass
  const Element *grad_y;          // (S, L, D)
  const float *grad_last_state;   // (S, D, N)
  Element *grad_u, *grad_delta, *grad_z; // (S, L, D)
  float *grad_initial_state;      // (S, D, N)
  float *sums_b, *sums_c;         // (blocks of channels, S, L, N)
  float *sums_a;                  // (S, D, N)
  float *sums_d, *sums_delta_bias; // (S, D)
  long long sequences;
  int frames, channels;
  int delta_softplus;
};

// States of two channels in a thread share what is fetched of B and C, and most of the work of adding up their gradients; where
// that fits into 48 KiB of shared memory and 128 registers.
constexpr int PAIR = N == 16 || N == 32 || N == 64 ? 2 : 1;

template <int COUNT>
struct __align__(16) BackwardShared {
  typedef Place<NARROW, COUNT> P;
  float b[CHUNK][N], c[CHUNK][N];
  // Of the chunk's frames: delta after softplus and the slope of that, u, the gradient of y before the gate, and the
  // gradient of y times the slope of the gate.
  float delta[CHUNK][P::CHANNELS], slope[CHUNK][P::CHANNELS], u[CHUNK][P::CHANNELS], grad_y[CHUNK][P::CHANNELS], grad_gate[CHUNK][P::CHANNELS];
  float starts[CHUNK / STEP][COUNT][P::STATES][THREADS]; // the state before each step
  float grads[2][THREADS / WARP][CHUNK][N]; // of B and of C, by one warp's channels
};

// Everything of a frame and a channel that does not need the state, for the chunk from `begin` on. Frames behind the last
// one are 0: they leave a state, and its gradient, as it is.
template <int COUNT>
__device__ __forceinline__ void prepare(const Backward &x, const Place<NARROW, COUNT> &place, int begin, int rows, BackwardShared<COUNT> &shared) {
  typedef Place<NARROW, COUNT> P;
  const long long first_row = place.sequence * x.frames + begin;
  for (int i = threadIdx.x; i < CHUNK * N; i += THREADS) {
    const bool there = i / N < rows;
    shared.b[i / N][i % N] = there ? widen(x.b[first_row * N + i]) : 0.0f;
    shared.c[i / N][i % N] = there ? widen(x.c[first_row * N + i]) : 0.0f;
  }
  static_assert(THREADS % P::CHANNELS == 0, "a thread prepares one channel");
  constexpr int APART = THREADS / P::CHANNELS, GROUP = APART < CHUNK ? smaller(4, CHUNK / APART) : 1;
  const int column = threadIdx.x % P::CHANNELS, channel = min(place.first + column, x.channels - 1);
  const long long start = first_row * x.channels + channel;
  const bool present = place.first + column < x.channels;
  const float bias = x.delta_bias ? x.delta_bias[channel] : 0.0f;
#pragma unroll 1
  for (int first = threadIdx.x / P::CHANNELS; first < CHUNK; first += GROUP * APART) {
    float of_u[GROUP], of_delta[GROUP], of_z[GROUP], of_grad_y[GROUP];
#pragma unroll
    for (int i = 0; i < GROUP; ++i) { // as in `Frames`
      const long long at = start + (long long)min(first + i * APART, rows - 1) * x.channels;
      of_u[i] = widen(x.u[at]);
      of_delta[i] = widen(x.delta[at]);
      of_grad_y[i] = widen(x.grad_y[at]);
      of_z[i] = x.z ? widen(x.z[at]) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
      const int row = first + i * APART;
      const bool there = present && row < rows;
      float delta = of_delta[i] + bias, slope = 1.0f, grad_y = of_grad_y[i], grad_gate = 0.0f;
      if (x.delta_softplus) {
        delta = softplus(delta, slope);
      }
      if (x.z) {
        const float z = of_z[i], gate = sigmoid(z);
        grad_gate = grad_y * (gate * fused(z, 1.0f - gate, 1.0f));
        grad_y *= z * gate;
      }
      shared.delta[row][column] = there ? delta : 0.0f;
      shared.slope[row][column] = slope;
      shared.u[row][column] = there ? of_u[i] : 0.0f;
      shared.grad_y[row][column] = there ? grad_y : 0.0f;
      shared.grad_gate[row][column] = grad_gate;
    }
  }
}

template <int COUNT>
__device__ __forceinline__ void backward(const Backward &x, BackwardShared<COUNT> &shared) {
  typedef Place<NARROW, COUNT> P;
  constexpr int K = P::STATES, HALF = power_of_two(K);
  const P place(x.channels);
  const int chunks = (x.frames + CHUNK - 1) / CHUNK;
  // Sums over the warp's channels, of one frame: HALF for B, then HALF for C.
  typedef SumThreads<2 * HALF, P::LANES, WARP / 2> OverChannels;
  const int first_sum = OverChannels::first_sum(threadIdx.x), state = place.state + first_sum % HALF;
  const bool writes_sums = OverChannels::writes(threadIdx.x);
  float *const sums_to = &shared.grads[first_sum / HALF][threadIdx.x / WARP][0][0] + state;
  // Sums over a channel's lanes, of as many frames as it has lanes: each lane ends with those of a frame, and of a channel.
  constexpr int ROWS = smaller(STEP, P::LANES / COUNT);
  typedef SumThreads<ROWS * COUNT, 1, P::LANES / 2> OverLanes;
  static_assert(OverLanes::SUMS == 1, "a lane writes one frame of one channel");
  const int first_own = OverLanes::first_sum(threadIdx.x), own_row = first_own / COUNT;
  const int own_column = place.column + first_own % COUNT, own_channel = place.first + own_column;
  const bool writes_own = OverLanes::writes(threadIdx.x) && own_channel < x.channels;
  const float skip = x.d && writes_own ? x.d[own_channel] : 0.0f;
  float a[COUNT][K], carry[COUNT][K], grad_a[COUNT][K]; // carry: the gradient of the state after a frame, as later frames give it
#pragma unroll
  for (int j = 0; j < COUNT; ++j) {
    place.read(a[j], x.a, 0, j);
    place.read(carry[j], x.grad_last_state, place.sequence, j);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      a[j][k] *= LOG2_E;
      grad_a[j][k] = 0.0f;
    }
  }
  float grad_d = 0.0f, grad_bias = 0.0f; // of the channel and the frames whose sums this lane gets

  for (int chunk = chunks - 1; chunk >= 0; --chunk) {
    const int begin = chunk * CHUNK, rows = min(CHUNK, x.frames - begin);
    const long long first_row = place.sequence * x.frames + begin; // of (S, L, ..)
    const long long own_start = first_row * x.channels + own_channel;
    float h[COUNT][K];
#pragma unroll
    for (int j = 0; j < COUNT; ++j) place.read(h[j], x.kept, place.sequence * chunks + chunk, j);
    // Nobody still reads what is written here: the chunk behind ended with a barrier, after which only its sums were read, and
    // they are written after the next one.
    prepare<COUNT>(x, place, begin, rows, shared);
    __syncthreads();

    auto advance = [&](int row) {
#pragma unroll
      for (int j = 0; j < COUNT; ++j) {
        const float delta = shared.delta[row][place.column + j], delta_u = delta * shared.u[row][place.column + j];
#pragma unroll
        for (int k = 0; k < K; ++k) h[j][k] = fused(exp2_approx(delta * a[j][k]), h[j][k], delta_u * place.of_state(shared.b[row], k));
      }
    };
    // The state before each step. No other thread reads these, so nobody waits.
    const int steps = (rows + STEP - 1) / STEP;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int j = 0; j < COUNT; ++j)
#pragma unroll
        for (int k = 0; k < K; ++k) shared.starts[step][j][k][threadIdx.x] = h[j][k];
      if (step + 1 < steps) {
#pragma unroll
        for (int r = 0; r < STEP; ++r) advance(step * STEP + r);
      }
    }

#pragma unroll 1
    for (int step = steps - 1; step >= 0; --step) {
      float before[STEP][COUNT][K];
#pragma unroll
      for (int j = 0; j < COUNT; ++j)
#pragma unroll
        for (int k = 0; k < K; ++k) h[j][k] = shared.starts[step][j][k][threadIdx.x];
#pragma unroll
      for (int r = 0; r < STEP; ++r) {
#pragma unroll
        for (int j = 0; j < COUNT; ++j)
#pragma unroll
          for (int k = 0; k < K; ++k) before[r][j][k] = h[j][k];
        advance(step * STEP + r);
      }
      // From the last frame to the first; h is the state after the frame.
      float through_a[ROWS * COUNT], through_b[ROWS * COUNT], y[ROWS * COUNT];
#pragma unroll
      for (int r = STEP - 1; r >= 0; --r) {
        const int row = step * STEP + r;
        float values[2 * HALF]; // the channels' part of the gradients of B, then of C
#pragma unroll
        for (int i = 0; i < 2 * HALF; ++i) values[i] = 0.0f;
#pragma unroll
        for (int j = 0; j < COUNT; ++j) {
          const float delta = shared.delta[row][place.column + j], grad_y = shared.grad_y[row][place.column + j];
          const float delta_u = delta * shared.u[row][place.column + j];
          const int own = r % ROWS * COUNT + j;
          through_a[own] = through_b[own] = y[own] = 0.0f;
#pragma unroll
          for (int k = 0; k < K; ++k) {
            const float b = place.of_state(shared.b[row], k), c = place.of_state(shared.c[row], k);
            const float g = fused(grad_y, c, carry[j][k]);
            carry[j][k] = g * exp2_approx(delta * a[j][k]);
            const float along = carry[j][k] * before[r][j][k];
            through_a[own] = fused(along, a[j][k], through_a[own]);
            through_b[own] = fused(g, b, through_b[own]);
            y[own] = fused(h[j][k], c, y[own]);
            grad_a[j][k] = fused(along, delta, grad_a[j][k]);
            values[k] = fused(g, delta_u, values[k]);
            values[HALF + k] = fused(grad_y, h[j][k], values[HALF + k]);
            h[j][k] = before[r][j][k];
          }
        }
        float sums[OverChannels::SUMS];
        OverChannels::run(values, threadIdx.x, sums);
        if (writes_sums) {
#pragma unroll
          for (int i = 0; i < OverChannels::SUMS; ++i) { // from HALF on: those of C, behind all of B
            constexpr int TO_C = (THREADS / WARP) * CHUNK * N;
            if (state + i % HALF < N && first_sum % HALF + i % HALF < K) sums_to[i / HALF * TO_C + row * N + i % HALF] = sums[i];
          }
        }
        if (r % ROWS == 0) {
          float own_a[1], own_b[1], own_y[1] = {0.0f};
          OverLanes::run(through_a, threadIdx.x, own_a);
          OverLanes::run(through_b, threadIdx.x, own_b);
          if (x.grad_z) OverLanes::run(y, threadIdx.x, own_y);
          const int of = row + own_row;
          if (writes_own && of < rows) {
            const float delta = shared.delta[of][own_column], u = shared.u[of][own_column], grad_y = shared.grad_y[of][own_column];
            const float grad_delta = fused(u, own_b[0], own_a[0] * LN_2) * shared.slope[of][own_column];
            const long long at = own_start + (long long)of * x.channels;
            x.grad_u[at] = narrow(fused(delta, own_b[0], skip * grad_y));
            x.grad_delta[at] = narrow(grad_delta);
            if (x.grad_z) x.grad_z[at] = narrow(shared.grad_gate[of][own_column] * fused(skip, u, own_y[0]));
            grad_d = fused(grad_y, u, grad_d);
            grad_bias += grad_delta;
          }
        }
      }
    }
    __syncthreads(); // every warp's sums are there
    const long long sums_at = ((long long)place.block * x.sequences * x.frames + first_row) * N; // in (blocks, S, L, N)
    for (int i = threadIdx.x; i < rows * N; i += THREADS) {
      float grad_b = 0.0f, grad_c = 0.0f;
#pragma unroll
      for (int w = 0; w < THREADS / WARP; ++w) {
        grad_b += shared.grads[0][w][i / N][i % N];
        grad_c += shared.grads[1][w][i / N][i % N];
      }
      x.sums_b[sums_at + i] = grad_b;
      x.sums_c[sums_at + i] = grad_c;
    }
  }
#pragma unroll
  for (int j = 0; j < COUNT; ++j) {
    place.write(x.sums_a, grad_a[j], place.sequence, j);
    if (x.grad_initial_state) place.write(x.grad_initial_state, carry[j], place.sequence, j);
    // A channel's frames are spread over its lanes.
    const bool own = first_own % COUNT == j;
    const float of_d = sum_lanes<P::LANES>(own ? grad_d : 0.0f), of_bias = sum_lanes<P::LANES>(own ? grad_bias : 0.0f);
    if (place.present(j) && place.lane == 0) {
      const long long at = place.sequence * x.channels + place.channel(j);
      if (x.sums_d) x.sums_d[at] = of_d;
      if (x.sums_delta_bias) x.sums_delta_bias[at] = of_bias;
    }
  }
}

// ------------------------------------------------------------------------------------------------------------------ sums
// `to[column] = sum over rows of from[row][column]`, always in the same order. Repeated in src/cuda/arguments.rs.
struct Sum {
  const float *from; // (rows, columns)
  void *to;          // (columns): f32 or Element, as the kernel says
  long long rows, columns;
};

// Few rows (blocks of channels), many columns: a thread for each column.
__device__ __forceinline__ void sum_few(const Sum &x) {
  const long long column = (long long)blockIdx.x * THREADS + threadIdx.x;
  if (column >= x.columns) return;
  float sum = 0.0f;
  for (long long row = 0; row < x.rows; ++row) sum += x.from[row * x.columns + column];
  ((Element *)x.to)[column] = narrow(sum);
}

// Many rows (sequences), few columns: a block for 32 columns, whose warps share the rows.
constexpr int COLUMNS = 32;
struct SumShared {
  float sums[THREADS / COLUMNS][COLUMNS];
};
__device__ __forceinline__ void sum_many(const Sum &x, SumShared &shared) {
  const int part = threadIdx.x / COLUMNS;
  const long long column = (long long)blockIdx.x * COLUMNS + threadIdx.x % COLUMNS;
  float sum = 0.0f;
  if (column < x.columns) {
#pragma unroll 8
    for (long long row = part; row < x.rows; row += THREADS / COLUMNS) sum += x.from[row * x.columns + column];
  }
  shared.sums[part][threadIdx.x % COLUMNS] = sum;
  __syncthreads();
  if (part == 0 && column < x.columns) {
    sum = 0.0f;
    for (int i = 0; i < THREADS / COLUMNS; ++i) sum += shared.sums[i][threadIdx.x];
    ((float *)x.to)[column] = sum;
  }
}

// --------------------------------------------------------------------------------------------------------------- kernels
// Five blocks on a multiprocessor are room for 96 registers, four for 128. Without the number the compiler spills for some
// N, to fit more.
constexpr int FORWARD_BLOCKS = N <= 16 ? 5 : 4, BACKWARD_BLOCKS = Place<NARROW>::FOURS ? 4 : 3;
extern "C" {
// What this was compiled for, for whoever has nothing but the image: the stand-in for a driver in scan/tests.
[[maybe_unused]] __constant__ const int scan_program[2] = {SCAN_STATES, SCAN_ELEMENT};

__global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) scan_forward_wide(const Forward x) {
  __shared__ ForwardShared shared;
  forward<WIDE>(x, shared);
}
__global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) scan_forward_narrow(const Forward x) {
  __shared__ ForwardShared shared;
  forward<NARROW>(x, shared);
}
__global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS) scan_backward_wide(const Backward x) {
  __shared__ BackwardShared<PAIR> shared;
  backward<PAIR>(x, shared);
}
__global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS) scan_backward_narrow(const Backward x) {
  __shared__ BackwardShared<1> shared;
  backward<1>(x, shared);
}
__global__ void __launch_bounds__(THREADS) scan_sum_few(const Sum x) { sum_few(x); }
__global__ void __launch_bounds__(THREADS) scan_sum_many(const Sum x) {
  __shared__ SumShared shared;
  sum_many(x, shared);
}
}
