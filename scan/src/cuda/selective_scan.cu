// The selective scan on CUDA: forward, one step (a forward of one frame), backward. Formulas: src/lib.rs and src/backward.rs.
//
// NVRTC compiles this file for one element type and one number of states, so that both are constants and states live in
// registers. It includes nothing, and scan/tests/cuda compiles it as C++ and runs it on a CPU.
//
//   SCAN_STATES    N, 1 to 128
//   SCAN_ELEMENT   u, delta, B, C, z, y and their gradients: 0 f32, 1 f16, 2 bf16. Everything else is f32.
//
// A channel of a sequence is shared by LANES neighbouring threads of a warp, each with up to MOST of its N states. A block
// takes THREADS / LANES channels of one sequence; a sequence's channels may take several blocks. Time is a loop, so that
// a sequence may be of any length; the parallel work is in sequences, channels and states.
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

// Frames between two states that a forward pass keeps for the backward pass, which recomputes those between.
constexpr int CHUNK = N <= 64 ? 8 : 4;

// Threads that share a channel: a power of two.
__device__ constexpr int lanes(int most) {
  int lanes = 1;
  while (lanes * most < N) lanes *= 2;
  return lanes;
}
// States of a thread. The last lanes may have fewer, or none.
__device__ constexpr int states(int most) { return (N + lanes(most) - 1) / lanes(most); }
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
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
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

// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|), the logarithm as 2 atanh(s) with s = e / (2 + e): see src/lanes.rs.
__device__ __forceinline__ float softplus(float x) {
  float e = exp2_approx(-fabsf(x) * LOG2_E);
  float s = e * reciprocal(2.0f + e), square = s * s;
  float series = 2.0f / 13.0f;
  series = fused(series, square, 2.0f / 11.0f);
  series = fused(series, square, 2.0f / 9.0f);
  series = fused(series, square, 2.0f / 7.0f);
  series = fused(series, square, 2.0f / 5.0f);
  series = fused(series, square, 2.0f / 3.0f);
  series = fused(series, square, 2.0f);
  return fused(series, s, fmaxf(x, 0.0f));
}

// The sum over the lanes of a channel, in all of them.
template <int LANES>
__device__ __forceinline__ float sum_lanes(float value) {
#pragma unroll
  for (int offset = LANES / 2; offset > 0; offset /= 2) value += exchange(value, offset);
  return value;
}

// Sums COUNT values (a power of two) over the channels of a warp, the threads that differ in the bits FROM, 2 FROM .. 16.
// A thread gives half of its values away at each step and keeps the other half, so that the whole costs COUNT exchanges
// instead of COUNT for each step. The sums end in values[0 .. COUNT / channels), of which this thread's first is number
// `first_sum` of all.
template <int COUNT, int FROM, int OFFSET = WARP / 2>
struct SumChannels {
  static constexpr int KEPT = COUNT > 1 ? COUNT / 2 : 1;
  typedef SumChannels<KEPT, FROM, OFFSET / 2> Next;
  static constexpr int SUMS = OFFSET >= FROM ? Next::SUMS : COUNT;

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
struct SumChannels<COUNT, FROM, FROM / 2> {
  static constexpr int SUMS = COUNT;
  static __device__ __forceinline__ void run(float (&values)[COUNT], int, float (&sums)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) sums[i] = values[i];
  }
  static __device__ __forceinline__ int first_sum(int) { return 0; }
  static __device__ __forceinline__ bool writes(int) { return true; }
};

// Which part of the work a thread has.
template <int MOST>
struct Place {
  static constexpr int LANES = lanes(MOST), STATES = states(MOST), CHANNELS = THREADS / LANES;
  long long sequence;
  int block;      // of the sequence's channels
  int first;      // channel of the block
  int lane;       // of the channel
  int channel;    // of the sequence; may lie behind the last one
  bool present;   // whether it does not
  int state;      // first of this thread's

  __device__ __forceinline__ Place(int channels) {
    const int blocks = (channels + CHANNELS - 1) / CHANNELS;
    sequence = blockIdx.x / blocks;
    block = blockIdx.x % blocks;
    first = block * CHANNELS;
    lane = threadIdx.x % LANES;
    channel = first + threadIdx.x / LANES;
    present = channel < channels;
    state = lane * STATES;
  }
  // Whether this thread has a k-th state.
  __device__ __forceinline__ bool has(int k) const { return present && state + k < N; }
  // Its B or C out of a frame's row; 0 where the last lanes have no such state, which then stays 0 and changes nothing.
  __device__ __forceinline__ float of_state(const float (&row)[N], int k) const {
    if (LANES * STATES == N) return row[state + k];
    return state + k < N ? row[state + k] : 0.0f;
  }
  // Where it lies in (S, rows, D, N), with `row` counted over all sequences.
  __device__ __forceinline__ long long at(long long row, int channels, int k) const { return (row * channels + channel) * N + state + k; }
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

// Frames whose values are fetched together, ahead of their use.
constexpr int AHEAD = 4;
// Frames of B and C that are in shared memory at a time.
constexpr int TILE = N <= 64 ? 32 : 16;
static_assert(TILE % CHUNK == 0 && CHUNK % AHEAD == 0, "a chunk starts where frames are fetched");

struct ForwardShared {
  float b[TILE][N], c[TILE][N];
};

// One channel's values in AHEAD frames.
struct Frames {
  float u[AHEAD], delta[AHEAD], z[AHEAD];

  __device__ __forceinline__ void fetch(const Forward &x, long long at, int frame, bool present) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
      const bool there = present && frame + i < x.frames;
      const long long where = at + (long long)i * x.channels;
      u[i] = there ? widen(x.u[where]) : 0.0f;
      delta[i] = there ? widen(x.delta[where]) : 0.0f;
      z[i] = there && x.z ? widen(x.z[where]) : 0.0f;
    }
  }
};

template <int MOST>
__device__ __forceinline__ void forward(const Forward &x, ForwardShared &shared) {
  typedef Place<MOST> P;
  const P place(x.channels);
  const int chunks = (x.frames + CHUNK - 1) / CHUNK;
  float h[P::STATES], a[P::STATES];
#pragma unroll
  for (int k = 0; k < P::STATES; ++k) {
    a[k] = place.has(k) ? x.a[place.at(0, x.channels, k)] * LOG2_E : 0.0f;
    h[k] = place.has(k) && x.initial_state ? x.initial_state[place.at(place.sequence, x.channels, k)] : 0.0f;
  }
  const float skip = x.d && place.present ? x.d[place.channel] : 0.0f;
  const float bias = x.delta_bias && place.present ? x.delta_bias[place.channel] : 0.0f;
  const long long first_row = place.sequence * x.frames; // of (S, L, ..)
  long long at = first_row * x.channels + place.channel; // in (S, L, D)
  Frames next;
  next.fetch(x, at, 0, place.present);

  for (int tile = 0; tile < x.frames; tile += TILE) {
    const int rows = min(TILE, x.frames - tile);
    __syncthreads(); // nobody still reads the tile before
    for (int i = threadIdx.x; i < rows * N; i += THREADS) {
      const long long from = (first_row + tile) * N + i;
      shared.b[i / N][i % N] = widen(x.b[from]);
      shared.c[i / N][i % N] = x.y ? widen(x.c[from]) : 0.0f;
    }
    __syncthreads();
    for (int row = 0; row < rows; row += AHEAD) {
      const Frames now = next;
      next.fetch(x, at + (long long)AHEAD * x.channels, tile + row + AHEAD, place.present);
      if (x.kept && (tile + row) % CHUNK == 0) {
        const long long chunk = place.sequence * chunks + (tile + row) / CHUNK;
#pragma unroll
        for (int k = 0; k < P::STATES; ++k)
          if (place.has(k)) x.kept[place.at(chunk, x.channels, k)] = h[k];
      }
#pragma unroll
      for (int i = 0; i < AHEAD; ++i) {
        if (row + i < rows) { // the same for the whole block
          float delta = now.delta[i] + bias;
          if (x.delta_softplus) delta = softplus(delta);
          const float delta_u = delta * now.u[i];
          float y = 0.0f;
#pragma unroll
          for (int k = 0; k < P::STATES; ++k) {
            h[k] = fused(exp2_approx(delta * a[k]), h[k], delta_u * place.of_state(shared.b[row + i], k));
            y = fused(h[k], place.of_state(shared.c[row + i], k), y);
          }
          y = sum_lanes<P::LANES>(y);
          if (x.y && place.present && place.lane == 0) {
            if (x.d) y = fused(skip, now.u[i], y);
            if (x.z) y *= now.z[i] * sigmoid(now.z[i]);
            x.y[at + (long long)i * x.channels] = narrow(y);
          }
        }
      }
      at += (long long)AHEAD * x.channels;
    }
  }
  if (x.last_state) {
#pragma unroll
    for (int k = 0; k < P::STATES; ++k)
      if (place.has(k)) x.last_state[place.at(place.sequence, x.channels, k)] = h[k];
  }
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

struct BackwardShared {
  typedef Place<NARROW> P;
  float b[CHUNK][N], c[CHUNK][N];
  // Of the chunk's frames: delta after softplus and the slope of that, u, the gradient of y before the gate, and the
  // gradient of y times the slope of the gate.
  float delta[CHUNK][P::CHANNELS], slope[CHUNK][P::CHANNELS], u[CHUNK][P::CHANNELS], grad_y[CHUNK][P::CHANNELS], grad_gate[CHUNK][P::CHANNELS];
  float before[CHUNK][P::STATES][THREADS]; // the state before each frame
  float grad_b[THREADS / WARP][CHUNK][N], grad_c[THREADS / WARP][CHUNK][N];
};

// Everything of a frame and a channel that does not need the state, for the chunk from `begin` on.
__device__ __forceinline__ void prepare(const Backward &x, const Place<NARROW> &place, int begin, int rows, BackwardShared &shared) {
  typedef Place<NARROW> P;
  const long long first_row = place.sequence * x.frames + begin;
  for (int i = threadIdx.x; i < rows * N; i += THREADS) {
    shared.b[i / N][i % N] = widen(x.b[first_row * N + i]);
    shared.c[i / N][i % N] = widen(x.c[first_row * N + i]);
  }
  for (int i = threadIdx.x; i < rows * P::CHANNELS; i += THREADS) {
    const int row = i / P::CHANNELS, column = i % P::CHANNELS, channel = place.first + column;
    float delta = 0.0f, slope = 1.0f, u = 0.0f, grad_y = 0.0f, grad_gate = 0.0f;
    if (channel < x.channels) {
      const long long at = (first_row + row) * x.channels + channel;
      u = widen(x.u[at]);
      delta = widen(x.delta[at]) + (x.delta_bias ? x.delta_bias[channel] : 0.0f);
      if (x.delta_softplus) {
        slope = sigmoid(delta);
        delta = softplus(delta);
      }
      grad_y = widen(x.grad_y[at]);
      if (x.z) {
        const float z = widen(x.z[at]), gate = sigmoid(z);
        grad_gate = grad_y * (gate * fused(z, 1.0f - gate, 1.0f));
        grad_y *= z * gate;
      }
    }
    shared.delta[row][column] = delta;
    shared.slope[row][column] = slope;
    shared.u[row][column] = u;
    shared.grad_y[row][column] = grad_y;
    shared.grad_gate[row][column] = grad_gate;
  }
}

__device__ __forceinline__ void backward(const Backward &x, BackwardShared &shared) {
  typedef Place<NARROW> P;
  constexpr int K = P::STATES, VALUES = power_of_two(2 * K);
  typedef SumChannels<VALUES, P::LANES> Sum;
  const P place(x.channels);
  const int chunks = (x.frames + CHUNK - 1) / CHUNK;
  const int column = threadIdx.x / P::LANES, warp = threadIdx.x / WARP;
  const int first_sum = Sum::first_sum(threadIdx.x);
  const bool writes = Sum::writes(threadIdx.x);
  float a[K], carry[K], grad_a[K]; // carry: the gradient of the state after a frame, as later frames give it
#pragma unroll
  for (int k = 0; k < K; ++k) {
    a[k] = place.has(k) ? x.a[place.at(0, x.channels, k)] * LOG2_E : 0.0f;
    carry[k] = place.has(k) && x.grad_last_state ? x.grad_last_state[place.at(place.sequence, x.channels, k)] : 0.0f;
    grad_a[k] = 0.0f;
  }
  const float skip = x.d && place.present ? x.d[place.channel] : 0.0f;
  float grad_d = 0.0f, grad_bias = 0.0f;

  for (int chunk = chunks - 1; chunk >= 0; --chunk) {
    const int begin = chunk * CHUNK, rows = min(CHUNK, x.frames - begin);
    const long long first_row = place.sequence * x.frames + begin; // of (S, L, ..)
    // Nobody still reads what is written here: the chunk behind ended with a barrier, after which only its sums were read, and
    // they are written after the next one.
    prepare(x, place, begin, rows, shared);
    __syncthreads();

    // The states again.
    float h[K];
#pragma unroll
    for (int k = 0; k < K; ++k) h[k] = place.has(k) ? x.kept[place.at(place.sequence * chunks + chunk, x.channels, k)] : 0.0f;
    for (int row = 0; row < rows; ++row) {
      const float delta = shared.delta[row][column], delta_u = delta * shared.u[row][column];
#pragma unroll
      for (int k = 0; k < K; ++k) {
        shared.before[row][k][threadIdx.x] = h[k];
        h[k] = fused(exp2_approx(delta * a[k]), h[k], delta_u * place.of_state(shared.b[row], k));
      }
    }

    // From the last frame to the first. No other thread reads `before`, so nobody waits.
    for (int row = rows - 1; row >= 0; --row) {
      const float delta = shared.delta[row][column], u = shared.u[row][column], grad_y = shared.grad_y[row][column];
      const float delta_u = delta * u;
      float through_a = 0.0f, through_b = 0.0f, y = 0.0f;
      float values[VALUES]; // the channel's part of the gradients of B, then of C
#pragma unroll
      for (int i = 0; i < VALUES; ++i) values[i] = 0.0f;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const float b = place.of_state(shared.b[row], k), c = place.of_state(shared.c[row], k);
        const float decay = exp2_approx(delta * a[k]), before = shared.before[row][k][threadIdx.x];
        const float after = fused(decay, before, delta_u * b);
        const float g = fused(grad_y, c, carry[k]);
        carry[k] = g * decay;
        const float along = carry[k] * before;
        through_a = fused(along, a[k], through_a);
        through_b = fused(g, b, through_b);
        y = fused(after, c, y);
        grad_a[k] = fused(along, delta, grad_a[k]);
        values[k] = g * delta_u;
        values[K + k] = grad_y * after;
      }
      float sums[Sum::SUMS];
      Sum::run(values, threadIdx.x, sums);
      if (writes) {
#pragma unroll
        for (int i = 0; i < Sum::SUMS; ++i) {
          const int value = first_sum + i, n = place.state + (value < K ? value : value - K);
          if (value < 2 * K && n < N) (value < K ? shared.grad_b : shared.grad_c)[warp][row][n] = sums[i];
        }
      }
      through_a = sum_lanes<P::LANES>(through_a);
      through_b = sum_lanes<P::LANES>(through_b);
      if (x.grad_z) y = sum_lanes<P::LANES>(y);
      const float grad_delta = fused(u, through_b, through_a * LN_2) * shared.slope[row][column];
      grad_d = fused(grad_y, u, grad_d);
      grad_bias += grad_delta;
      if (place.present && place.lane == 0) {
        const long long at = (first_row + row) * x.channels + place.channel;
        x.grad_u[at] = narrow(fused(delta, through_b, x.d ? skip * grad_y : 0.0f));
        x.grad_delta[at] = narrow(grad_delta);
        if (x.grad_z) x.grad_z[at] = narrow(shared.grad_gate[row][column] * (x.d ? fused(skip, u, y) : y));
      }
    }
    __syncthreads(); // every warp's sums are there
    const long long sums_at = ((long long)place.block * x.sequences * x.frames + first_row) * N; // in (blocks, S, L, N)
    for (int i = threadIdx.x; i < rows * N; i += THREADS) {
      float grad_b = 0.0f, grad_c = 0.0f;
#pragma unroll
      for (int w = 0; w < THREADS / WARP; ++w) {
        grad_b += shared.grad_b[w][i / N][i % N];
        grad_c += shared.grad_c[w][i / N][i % N];
      }
      x.sums_b[sums_at + i] = grad_b;
      x.sums_c[sums_at + i] = grad_c;
    }
  }
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (place.has(k)) {
      const long long at = place.at(place.sequence, x.channels, k);
      x.sums_a[at] = grad_a[k];
      if (x.grad_initial_state) x.grad_initial_state[at] = carry[k];
    }
  }
  if (place.present && place.lane == 0) {
    const long long at = place.sequence * x.channels + place.channel;
    if (x.sums_d) x.sums_d[at] = grad_d;
    if (x.sums_delta_bias) x.sums_delta_bias[at] = grad_bias;
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
// Five blocks on a multiprocessor are room for 96 registers. Without the number the compiler spills for some N, to fit more.
extern "C" {
__global__ void __launch_bounds__(THREADS, 5) scan_forward_wide(const Forward x) {
  __shared__ ForwardShared shared;
  forward<WIDE>(x, shared);
}
__global__ void __launch_bounds__(THREADS, 5) scan_forward_narrow(const Forward x) {
  __shared__ ForwardShared shared;
  forward<NARROW>(x, shared);
}
__global__ void __launch_bounds__(THREADS) scan_backward(const Backward x) {
  __shared__ BackwardShared shared;
  backward(x, shared);
}
__global__ void __launch_bounds__(THREADS) scan_sum_few(const Sum x) { sum_few(x); }
__global__ void __launch_bounds__(THREADS) scan_sum_many(const Sum x) {
  __shared__ SumShared shared;
  sum_many(x, shared);
}
}
