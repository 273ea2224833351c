// The second body of the intrinsics: a block of threads on one processor, for tests.
//
// Every thread of a block is a fiber; blocks run one after the other. It is adversarial on purpose:
// threads run in one of several orders between barriers, shared memory holds NaN until it is written,
// asynchronous copies land at once or as late as they may, every access is compared with the bounds
// of its memory, and threads that wait for each other end the launch. It knows neither the time that
// anything takes nor conflicts of banks, and memory is always consistent between its barriers.
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __launch_bounds__(...)
#define UNROLL
#define __forceinline__

typedef long long Size;

namespace emulated {

// Memory of an operand or result, as the device describes it: bytes of rows with gaps between them,
// or of one row.
struct Range {
  char* base;
  Size bytes;
  Size width;
  Size stride;
};

// Part of a matrix in global memory that one load brings: elements of two bytes, in rows of 64.
struct Map {
  Range memory;
  Size rows, columns, stride_bytes;
  unsigned box_rows;
};

// A launch, as the device describes it.
struct Launch {
  const Range* ranges;
  const Size* sizes;
  const Map* maps;
  unsigned blocks[3];
  unsigned threads;
  int order;
  int late;
  char* message;
  Size message_bytes;
  // Memory for what a block needs beside operands and results: `emulated_bytes` of it.
  char* memory;
};

struct Index {
  unsigned x, y, z;
};

constexpr unsigned MOST_THREADS = 512;
constexpr unsigned LANES = 32;
constexpr Size STACK_BYTES = 32 << 10;
constexpr Size SHARED_BYTES = 227 << 10;
constexpr unsigned MOST_ARRAYS = 32;
constexpr unsigned MOST_COPIES = 256;
constexpr unsigned MOST_PHASES = 32;
constexpr unsigned MOST_LOADS = 64;
constexpr unsigned MOST_PRODUCTS = 32;

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, AT_PHASE, DONE };
enum Order { ASCENDING, DESCENDING, SHUFFLED, FIRST_WARP, LAST_WARP };

struct Copy {
  char* to;
  const char* from;
};

// A barrier in shared memory that counts arrivals and bytes.
struct Phase {
  const char* key;
  int count, pending;
  Size bytes;
  unsigned parity;
};

// A load that is under way.
struct Load {
  char* to;
  Map map;
  Size column, row;
  Phase* phase;
};

// A product of a warp group that is under way, as one of its threads sees it.
struct Product {
  void (*compute)(const Product&);
  float* sums;
  // The left side, if it is in registers.
  const unsigned* left;
  unsigned long long a, b;
  bool keep;
};

struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer;
#else
  ucontext_t context;
#endif
  State state;
  unsigned index;
  // What the lanes of a warp show each other, in turns of two: a lane can be ahead by one.
  unsigned turn;
  alignas(16) unsigned char shown[2][64];
  // Copies under way, oldest first, and how many of them each closed group has.
  Copy copies[MOST_COPIES];
  unsigned copies_open, copies_closed, groups[MOST_COPIES], group_count;
  // What it waits for at AT_PHASE.
  const Phase* phase;
  unsigned parity;
  Product products[MOST_PRODUCTS];
  unsigned product_count, product_groups[MOST_PRODUCTS], product_group_count;
};

struct Array {
  const void* key;
  char* at;
  Size bytes;
};

struct Machine {
  Fiber* fibers;
  char* stacks;
  char* shared;
  Size shared_used;
  Array arrays[MOST_ARRAYS];
  unsigned array_count;
  Phase phases[MOST_PHASES];
  unsigned phase_count;
  Load loads[MOST_LOADS];
  unsigned load_count;
  Fiber* me;
  const Launch* launch;
  void (*body)(const void*);
  const void* kernel;
  Index block;
  unsigned long long seed;
  bool failed;
#if defined(__x86_64__)
  void* scheduler;
#else
  ucontext_t scheduler;
#endif
};

static thread_local Machine* machine;

constexpr Size MACHINE_BYTES = (Size(sizeof(Machine)) + 1023) & ~Size(1023);
constexpr Size BYTES = 1024 + MACHINE_BYTES + SHARED_BYTES +
                       MOST_THREADS * (STACK_BYTES + Size(sizeof(Fiber)));

#if defined(__x86_64__)
extern "C" void emulated_switch(void** save, void* to) __attribute__((visibility("hidden")));
asm(R"(.text
.globl emulated_switch
.hidden emulated_switch
.type emulated_switch,@function
emulated_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulated_switch, .-emulated_switch
)");
static inline void resume(Fiber& fiber) { emulated_switch(&machine->scheduler, fiber.stack_pointer); }
static inline void leave() { emulated_switch(&machine->me->stack_pointer, machine->scheduler); }
#else
static inline void resume(Fiber& fiber) { swapcontext(&machine->scheduler, &fiber.context); }
static inline void leave() { swapcontext(&machine->me->context, &machine->scheduler); }
#endif

static inline void pause(State state) {
  machine->me->state = state;
  leave();
}

// Ends the launch. Never comes back: what waits on the stacks is given up.
__attribute__((noinline, noreturn, format(printf, 1, 2))) static void fail(const char* text, ...) {
  if (!machine->failed) {
    machine->failed = true;
    const Index& block = machine->block;
    char* to = machine->launch->message;
    const Size room = machine->launch->message_bytes;
    const int used = snprintf(to, size_t(room), "block (%u, %u, %u), thread %u: ", block.x, block.y,
                              block.z, machine->me ? machine->me->index : 0);
    va_list values;
    va_start(values, text);
    if (used > 0 && used < room) vsnprintf(to + used, size_t(room - used), text, values);
    va_end(values);
  }
  for (;;) leave();
}

static void begin() {
  machine->body(machine->kernel);
  for (;;) pause(DONE);
}

static inline void ready(Fiber& fiber, unsigned index) {
  fiber.state = READY;
  fiber.index = index;
  fiber.turn = 0;
  fiber.copies_open = fiber.copies_closed = fiber.group_count = 0;
  fiber.product_count = fiber.product_group_count = 0;
  char* stack = machine->stacks + Size(index) * STACK_BYTES;
#if defined(__x86_64__)
  void** top = (void**)((uintptr_t)(stack + STACK_BYTES) & ~uintptr_t(63));
  *--top = nullptr;
  *--top = (void*)begin;
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack_pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = size_t(STACK_BYTES);
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, begin, 0);
#endif
}

static inline unsigned long long random() {
  machine->seed = machine->seed * 6364136223846793005ull + 1442695040888963407ull;
  return machine->seed >> 33;
}

static inline void run(unsigned index) {
  if (machine->failed || machine->fibers[index].state != READY) return;
  machine->me = machine->fibers + index;
  resume(*machine->me);
}

// Lets the lanes of a warp go if all of them wait for each other. Whether they did.
static bool release_warp(unsigned from, unsigned to) {
  for (unsigned at = from; at < to; ++at)
    if (machine->fibers[at].state != AT_WARP_BARRIER) return false;
  for (unsigned at = from; at < to; ++at) machine->fibers[at].state = READY;
  return true;
}

// Lets every thread that can run do so once, in the order of the launch. Whether there was one.
static bool turn(unsigned* places) {
  const unsigned count = machine->launch->threads;
  unsigned from = 0, to = count;
  bool any = false;
  const int order = machine->launch->order;
  for (unsigned at = 0; at < count; ++at) {
    if (machine->fibers[at].state != READY) continue;
    const bool first = !any;
    any = true;
    if ((order == FIRST_WARP && first) || order == LAST_WARP) {
      from = at / LANES * LANES;
      to = from + LANES < count ? from + LANES : count;
    }
  }
  if (!any) return false;
  if (order == SHUFFLED) {
    for (unsigned at = count; at > 1; --at) {
      const unsigned other = unsigned(random() % at);
      const unsigned swapped = places[at - 1];
      places[at - 1] = places[other];
      places[other] = swapped;
    }
    for (unsigned at = 0; at < count; ++at) run(places[at]);
  } else if (order == DESCENDING || order == LAST_WARP) {
    for (unsigned at = to; at > from; --at) run(at - 1);
  } else {
    for (unsigned at = from; at < to; ++at) run(at);
  }
  // A warp that goes as far as it can waits for no other.
  if (order == FIRST_WARP || order == LAST_WARP) release_warp(from, to);
  return true;
}

static bool deliver();

// Lets go whoever has waited for all, or for a phase that is over; if there is nobody, one of the
// loads under way lands. Whether anything happened.
static bool release() {
  const unsigned count = machine->launch->threads;
  bool any = false;
  for (unsigned at = 0; at < count; ++at) {
    Fiber& fiber = machine->fibers[at];
    if (fiber.state != AT_PHASE || fiber.phase->parity == fiber.parity) continue;
    fiber.state = READY;
    any = true;
  }
  unsigned waiting = 0;
  for (unsigned warp = 0; warp < count; warp += LANES) {
    const unsigned end = warp + LANES < count ? warp + LANES : count;
    for (unsigned at = warp; at < end; ++at)
      waiting += machine->fibers[at].state == AT_BLOCK_BARRIER;
    any |= release_warp(warp, end);
  }
  if (waiting == count) {
    for (unsigned at = 0; at < count; ++at) machine->fibers[at].state = READY;
    any = true;
  }
  return any || deliver();
}

static void run_block() {
  const unsigned count = machine->launch->threads;
  static thread_local unsigned places[MOST_THREADS];
  for (unsigned at = 0; at < count; ++at) {
    ready(machine->fibers[at], at);
    places[at] = at;
  }
  memset(machine->shared, 0xff, size_t(machine->shared_used));
  machine->shared_used = machine->array_count = machine->phase_count = machine->load_count = 0;
  for (;;) {
    while (!machine->failed && turn(places)) {
    }
    if (machine->failed) return;
    unsigned done = 0;
    for (unsigned at = 0; at < count; ++at) done += machine->fibers[at].state == DONE;
    if (done == count) return;
    if (release()) continue;
    // A fiber says so, since the message has to come from one.
    machine->failed = true;
    unsigned at = 0;
    while (machine->fibers[at].state == DONE) ++at;
    const State state = machine->fibers[at].state;
    const char* where = state == AT_WARP_BARRIER ? "the rest of its warp"
                        : state == AT_PHASE      ? "a phase"
                                                 : "the rest of its block";
    snprintf(machine->launch->message, size_t(machine->launch->message_bytes),
             "block (%u, %u, %u): thread %u waits for %s, which never comes",
             machine->block.x, machine->block.y, machine->block.z, at, where);
    return;
  }
}

template <class Kernel>
static int launch(const Launch* described, const Kernel& kernel) {
  char* memory = (char*)(((uintptr_t)described->memory + 1023) & ~uintptr_t(1023));
  machine = (Machine*)memory;
  machine->shared = memory + MACHINE_BYTES;
  machine->stacks = machine->shared + SHARED_BYTES;
  machine->fibers = (Fiber*)(machine->stacks + MOST_THREADS * STACK_BYTES);
  machine->shared_used = SHARED_BYTES;
  machine->me = nullptr;
  machine->launch = described;
  machine->kernel = &kernel;
  machine->body = [](const void* kernel) { (*(const Kernel*)kernel)(); };
  machine->seed = 1;
  machine->failed = false;
  Index& block = machine->block;
  for (block.z = 0; block.z < described->blocks[2]; ++block.z)
    for (block.y = 0; block.y < described->blocks[1]; ++block.y)
      for (block.x = 0; block.x < described->blocks[0]; ++block.x) {
        run_block();
        if (machine->failed) return 1;
      }
  return 0;
}

// All lanes of the warp meet here and show `mine`; what a lane shows is there until the meeting after
// the next.
template <class T>
static inline void show(const T& mine) {
  static_assert(sizeof(T) <= sizeof(Fiber::shown[0]), "too much to show");
  Fiber* me = machine->me;
  me->turn ^= 1;
  memcpy(me->shown[me->turn], &mine, sizeof(T));
  pause(AT_WARP_BARRIER);
}

template <class T>
static inline T shown_by(unsigned lane) {
  const Fiber& other = machine->fibers[(machine->me->index & ~(LANES - 1)) + lane];
  T out;
  memcpy(&out, other.shown[machine->me->turn], sizeof(T));
  return out;
}

// Memory that every access is compared with.
static inline void check(const Range* range, const char* at, Size bytes, bool shared) {
  const Size from = at - range->base;
  const char* what = shared ? "shared memory" : "an operand or result";
  if (__builtin_expect(from < 0 || from + bytes > range->bytes, 0))
    fail("bytes %lld to %lld of %s of %lld", from, from + bytes, what, range->bytes);
  if (range->stride && __builtin_expect(from % range->stride + bytes > range->width, 0))
    fail("bytes %lld to %lld of %s are between its rows", from, from + bytes, what);
  if (__builtin_expect((uintptr_t)at % (uintptr_t)bytes != 0, 0))
    fail("an access of %lld bytes at an address that is no multiple of them", bytes);
}

template <class T, bool SHARED>
struct Pointer {
  char* at;
  const Range* range;
  Pointer operator+(Size count) const { return {at + count * Size(sizeof(T)), range}; }
  T& operator[](Size index) const {
    char* place = at + index * Size(sizeof(T));
    check(range, place, Size(sizeof(T)), SHARED);
    return *(T*)place;
  }
  T& operator*() const { return (*this)[0]; }
  // As elements of another type, such as wider ones.
  template <class U>
  Pointer<U, SHARED> as() const {
    return {at, range};
  }
};

template <class T>
static inline Pointer<T, false> argument(const Launch* described, unsigned index) {
  return {described->ranges[index].base, described->ranges + index};
}

// The shared array of a declaration: the same for all threads of a block.
template <class T>
static inline Pointer<T, true> shared_array(const void* key, Size count) {
  static thread_local Range ranges[MOST_ARRAYS];
  for (unsigned at = 0; at < machine->array_count; ++at)
    if (machine->arrays[at].key == key) return {ranges[at].base, ranges + at};
  const Size bytes = count * Size(sizeof(T));
  // Large ones begin where the pattern of swizzled rows does.
  if (bytes >= 1024) machine->shared_used = (machine->shared_used + 1023) & ~Size(1023);
  if (machine->array_count == MOST_ARRAYS || machine->shared_used + bytes > SHARED_BYTES)
    fail("more shared memory than a block has");
  const unsigned at = machine->array_count++;
  machine->arrays[at] = {key, machine->shared + machine->shared_used, bytes};
  ranges[at] = {machine->arrays[at].at, bytes, 0, 0};
  machine->shared_used += (bytes + 127) & ~Size(127);
  return {ranges[at].base, ranges + at};
}

// Elements move to other places of their rows of 128 bytes, by the row's number in eight.
static inline Size swizzled(Size at) { return at ^ (at >> 7 & 7) << 4; }

static Phase& phase_of(const char* key) {
  for (unsigned at = 0; at < machine->phase_count; ++at)
    if (machine->phases[at].key == key) return machine->phases[at];
  fail("a barrier that was not made ready");
}

static void turn_over(Phase& phase) {
  if (phase.pending < 0) fail("a barrier at which more arrive than it counts");
  if (phase.pending > 0 || phase.bytes != 0) return;
  phase.parity ^= 1;
  phase.pending = phase.count;
}

static void land(const Load& load) {
  const Map& map = load.map;
  const Size first = load.to - machine->shared;
  for (unsigned row = 0; row < map.box_rows; ++row)
    for (unsigned column = 0; column < 64; ++column) {
      const Size r = load.row + row, c = load.column + column;
      unsigned short value = 0;
      if (r >= 0 && r < map.rows && c >= 0 && c < map.columns)
        memcpy(&value, map.memory.base + r * map.stride_bytes + c * 2, 2);
      memcpy(machine->shared + swizzled(first + row * 128 + column * 2), &value, 2);
    }
  load.phase->bytes -= Size(map.box_rows) * 128;
  turn_over(*load.phase);
}

// Whether a thread waits for the phase.
static bool awaited(const Phase* phase) {
  for (unsigned at = 0; at < machine->launch->threads; ++at)
    if (machine->fibers[at].state == AT_PHASE && machine->fibers[at].phase == phase) return true;
  return false;
}

// Lands one of the loads under way; whether there was one. In one order it is the oldest, in the others
// the newest, in one of them of those that somebody waits for, so that all else is as late as it may be.
static bool deliver() {
  if (machine->load_count == 0) return false;
  const int order = machine->launch->order;
  unsigned at = order == DESCENDING ? 0 : machine->load_count - 1;
  if (order == SHUFFLED)
    while (at > 0 && !awaited(machine->loads[at].phase)) --at;
  const Load load = machine->loads[at];
  memmove(machine->loads + at, machine->loads + at + 1,
          (--machine->load_count - at) * sizeof(Load));
  machine->me = nullptr;
  land(load);
  return true;
}

}  // namespace emulated

#define threadIdx (emulated::Index{emulated::machine->me->index, 0, 0})
#define blockIdx (emulated::machine->block)

template <class T>
using Global = emulated::Pointer<T, false>;
template <class T>
using Shared = emulated::Pointer<T, true>;
#define SHARED(type, name, count)   \
  static const char name##_key = 0; \
  const Shared<type> name = emulated::shared_array<type>(&name##_key, count)

// The same memory as elements of another type.
template <class U, class T, bool SHARED>
static inline emulated::Pointer<U, SHARED> whole(emulated::Pointer<T, SHARED> from) {
  return from.template as<U>();
}

static inline void block_barrier() { emulated::pause(emulated::AT_BLOCK_BARRIER); }
static inline void warp_barrier() { emulated::pause(emulated::AT_WARP_BARRIER); }
template <class T>
static inline T from_lane(T mine, int other) {
  emulated::show(mine);
  return emulated::shown_by<T>(unsigned(other) & 31);
}
static inline void lower(Global<unsigned long long> place, unsigned long long value) {
  if (value < *place) *place = value;
}
static inline float float_of(unsigned bits) {
  float out;
  memcpy(&out, &bits, 4);
  return out;
}
static inline unsigned bits_of(float value) {
  unsigned out;
  memcpy(&out, &value, 4);
  return out;
}

// The larger of two numbers, or NaN if one is.
static inline float fast_larger(float a, float b) { return a > b || a != a ? a : b; }
// 2 to the power of `value`.
static inline float fast_exp2(float value) { return exp2f(value); }

struct bf16 {
  unsigned short bits;
};
struct f16 {
  unsigned short bits;
};
static inline float widened(f16 half) {
  const unsigned sign = unsigned(half.bits & 0x8000) << 16, rest = half.bits & 0x7fff;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  const float value = float_of(rest << 13) * 0x1p112f;
  return sign ? -value : value;
}
static inline bf16 rounded_bf16(float value) {
  const unsigned bits = bits_of(value);
  if (value != value) return {(unsigned short)(bits >> 16 | 0x40)};
  return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
static inline f16 rounded_f16(float value) {
  const unsigned bits = bits_of(value), sign = bits >> 16 & 0x8000;
  const float size = float_of(bits & 0x7fffffff);
  if (size != size) return {(unsigned short)(sign | 0x7e00)};
  if (size >= 65520.0f) return {(unsigned short)(sign | 0x7c00)};
  // Below the smallest normal number, the sum with a power of two rounds where f16 ends.
  if (size < 0x1p-14f) return {(unsigned short)(sign | (bits_of(size + 0.5f) - bits_of(0.5f)))};
  const unsigned own = bits_of(size);
  return {(unsigned short)(sign | ((own + 0xfff + (own >> 13 & 1)) - 0x38000000) >> 13)};
}

// Sixteen bytes that move together.
struct alignas(16) Bytes16 {
  unsigned words[4];
};

// Copies sixteen bytes to shared memory without waiting, or zeros.
static inline void copy_async(Shared<Bytes16> to, Global<const Bytes16> from, bool zeros) {
  Bytes16* place = &to[0];
  const Bytes16* source = zeros ? nullptr : &from[0];
  if (zeros || !emulated::machine->launch->late) {
    *place = zeros ? Bytes16{} : *source;
    return;
  }
  memset(place, 0xff, 16);
  emulated::Fiber* me = emulated::machine->me;
  if (me->copies_open == emulated::MOST_COPIES) emulated::fail("too many copies under way");
  me->copies[me->copies_open++] = {(char*)place, (const char*)source};
}
static inline void copy_commit() {
  emulated::Fiber* me = emulated::machine->me;
  if (me->group_count == emulated::MOST_COPIES) emulated::fail("too many groups of copies");
  me->groups[me->group_count++] = me->copies_open - me->copies_closed;
  me->copies_closed = me->copies_open;
}
// Waits until at most `OPEN` groups are under way.
template <int OPEN>
static inline void copy_wait() {
  emulated::Fiber* me = emulated::machine->me;
  while (me->group_count > OPEN) {
    const unsigned landed = me->groups[0];
    for (unsigned at = 0; at < landed; ++at) memcpy(me->copies[at].to, me->copies[at].from, 16);
    me->copies_open -= landed;
    me->copies_closed -= landed;
    memmove(me->copies, me->copies + landed, me->copies_open * sizeof(emulated::Copy));
    memmove(me->groups, me->groups + 1, --me->group_count * sizeof(unsigned));
  }
}

// Two numbers rounded to T, the first in the lower half.
template <class T>
static inline unsigned packed(float low, float high);
template <>
inline unsigned packed<bf16>(float low, float high) {
  return unsigned(rounded_bf16(high).bits) << 16 | rounded_bf16(low).bits;
}
template <>
inline unsigned packed<f16>(float low, float high) {
  return unsigned(rounded_f16(high).bits) << 16 | rounded_f16(low).bits;
}

// Two blocks of 8×8 elements of two bytes, turned: lanes name where rows lie, the first eight those of
// the first block and the next eight those of the second, and get two elements of a column each.
static inline void load_turned(unsigned (&to)[2], Shared<Bytes16> row) {
  const unsigned lane = emulated::machine->me->index % 32, group = lane / 4, pair = lane % 4;
  emulated::show(lane < 16 ? row[0] : Bytes16{});
  for (unsigned block = 0; block < 2; ++block) {
    unsigned short two[2];
    for (unsigned at = 0; at < 2; ++at) {
      const Bytes16 shown = emulated::shown_by<Bytes16>(block * 8 + pair * 2 + at);
      memcpy(two + at, (const char*)&shown + group * 2, 2);
    }
    to[block] = unsigned(two[1]) << 16 | two[0];
  }
}

// 16×8 sums += 16×16 · (8×16)ᵀ by a warp; the lanes hold them as the PTX manual lays out
// `mma.m16n8k16`.
static inline float half_of(unsigned word, unsigned at, bf16) {
  return float_of(word >> (16 * at) << 16);
}
static inline float half_of(unsigned word, unsigned at, f16) {
  return widened(f16{(unsigned short)(word >> (16 * at))});
}

template <class T>
static inline void multiply_add(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  struct Words {
    unsigned a[4], b[2];
  } mine;
  memcpy(mine.a, a, sizeof(a));
  memcpy(mine.b, b, sizeof(b));
  emulated::show(mine);
  const unsigned lane = emulated::machine->me->index % 32, group = lane / 4, pair = lane % 4;
  for (unsigned word = 0; word < 8; ++word) {
    // Columns 2·word and 2·word + 1 of the rows: which lane of a group holds them, and where.
    const unsigned from = word % 4, upper = word / 4;
    const Words left = emulated::shown_by<Words>(group * 4 + from);
    for (unsigned column = 0; column < 2; ++column) {
      const Words right = emulated::shown_by<Words>((pair * 2 + column) * 4 + from);
      for (unsigned row = 0; row < 2; ++row)
        for (unsigned at = 0; at < 2; ++at)
          sums[row * 2 + column] +=
              half_of(left.a[upper * 2 + row], at, T{}) * half_of(right.b[upper], at, T{});
    }
  }
}

// A part of a matrix that is loaded at once: rows of 64 elements of two bytes, which lie swizzled.
struct TensorMap {
  emulated::Map map;
};
static inline TensorMap map_of(const emulated::Launch* described, unsigned index) {
  return {described->maps[index]};
}
using Barrier = unsigned long long;
#define GRID_CONSTANT const
#define DYNAMIC_SHARED(name, bytes) SHARED(unsigned char, name, bytes)

static inline void barrier_init(Shared<Barrier> place, unsigned count) {
  emulated::Machine* machine = emulated::machine;
  if (machine->phase_count == emulated::MOST_PHASES) emulated::fail("too many barriers");
  const char* key = (const char*)&place[0];
  machine->phases[machine->phase_count++] = {key, int(count), int(count), 0, 0};
}
static inline void barrier_fence() {}
static inline void barrier_arrive(Shared<Barrier> place) {
  emulated::Phase& phase = emulated::phase_of((const char*)&place[0]);
  --phase.pending;
  emulated::turn_over(phase);
}
static inline void barrier_expect(Shared<Barrier> place, unsigned bytes) {
  emulated::Phase& phase = emulated::phase_of((const char*)&place[0]);
  phase.bytes += bytes;
  --phase.pending;
  emulated::turn_over(phase);
}
static inline void barrier_wait(Shared<Barrier> place, unsigned parity) {
  emulated::Fiber* me = emulated::machine->me;
  me->phase = &emulated::phase_of((const char*)&place[0]);
  me->parity = parity;
  if (me->phase->parity == parity) emulated::pause(emulated::AT_PHASE);
}
static inline void load_box(Shared<unsigned char> to, const TensorMap& map, Size column, Size row,
                            Shared<Barrier> place) {
  emulated::Machine* machine = emulated::machine;
  const Size bytes = Size(map.map.box_rows) * 128;
  emulated::check(to.range, to.at, 1, true);
  emulated::check(to.range, to.at + bytes - 1, 1, true);
  if ((to.at - machine->shared) % 1024 != 0) emulated::fail("a load to a place between swizzles");
  emulated::Phase& phase = emulated::phase_of((const char*)&place[0]);
  memset(to.at, 0xff, size_t(bytes));
  const emulated::Load load = {to.at, map.map, column, row, &phase};
  if (!machine->launch->late) {
    emulated::land(load);
    return;
  }
  if (machine->load_count == emulated::MOST_LOADS) emulated::fail("too many loads under way");
  machine->loads[machine->load_count++] = load;
}

template <int REGISTERS>
static inline void registers_down() {}
template <int REGISTERS>
static inline void registers_up() {}

// Where a tile of rows of 128 bytes lies, for products of warp groups.
static inline unsigned long long tile_of(Shared<unsigned char> tile) {
  const Size at = tile.at - emulated::machine->shared;
  return (unsigned long long)(at >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
// Where tiles of 64 columns lie, `bytes` of each, that are read turned.
static inline unsigned long long turned_tile_of(Shared<unsigned char> tile, int bytes) {
  return (tile_of(tile) & ~(0x3fffull << 16)) | (unsigned long long)(bytes >> 4) << 16;
}
static inline void group_fence() {}
// The element at a place of shared memory before it is swizzled.
template <class T>
static inline float element_at(Size at) {
  const Size place = emulated::swizzled(at);
  T value = {};
  if (place + 2 > emulated::SHARED_BYTES) emulated::fail("a product that leaves shared memory");
  memcpy(&value, emulated::machine->shared + place, 2);
  return half_of(value.bits, 0, T{});
}
// Where a tile of a descriptor begins, and from one to the next along each of its axes.
static inline Size first_of(unsigned long long tile) { return Size(tile & 0x3fff) << 4; }
static inline Size leading_of(unsigned long long tile) { return Size(tile >> 16 & 0x3fff) << 4; }
static inline Size stride_of(unsigned long long tile) { return Size(tile >> 32 & 0x3fff) << 4; }
template <class T>
static inline float element_of(unsigned long long tile, unsigned row, unsigned k) {
  return element_at<T>(first_of(tile) + row / 8 * stride_of(tile) + row % 8 * 128 + k * 2);
}
template <class T>
static inline float turned_element_of(unsigned long long tile, unsigned column, unsigned k) {
  return element_at<T>(first_of(tile) + column / 64 * leading_of(tile) + k / 8 * stride_of(tile) +
                       k % 8 * 128 + column % 64 * 2);
}
// Row and column of a sum of this thread.
struct Sum {
  unsigned row, column;
};
static inline Sum sum_at(int at) {
  const unsigned thread = emulated::machine->me->index % 128, lane = thread % 32;
  return {thread / 32 * 16 + lane / 4 + 8 * (at / 2 % 2), unsigned(at) / 4 * 8 + lane % 4 * 2 + at % 2};
}
static inline void begin_product(const emulated::Product& product) {
  if (!emulated::machine->launch->late) {
    product.compute(product);
    return;
  }
  emulated::Fiber* me = emulated::machine->me;
  if (me->product_count == emulated::MOST_PRODUCTS) emulated::fail("too many products under way");
  me->products[me->product_count++] = product;
}
// 64×COLUMNS sums of a warp group += 64×16 · (COLUMNS×16)ᵀ of shared memory; without `keep` the
// sums begin at 0. They lie as the PTX manual lays out `wgmma`.
template <class T, int COLUMNS>
static inline void group_multiply_add(float (&sums)[COLUMNS / 2], unsigned long long a,
                                      unsigned long long b, bool keep) {
  const auto compute = [](const emulated::Product& product) {
    for (int at = 0; at < COLUMNS / 2; ++at) {
      const Sum own = sum_at(at);
      float sum = product.keep ? product.sums[at] : 0.0f;
      for (unsigned k = 0; k < 16; ++k)
        sum += element_of<T>(product.a, own.row, k) * element_of<T>(product.b, own.column, k);
      product.sums[at] = sum;
    }
  };
  begin_product({compute, sums, nullptr, a, b, keep});
}
// 64×COLUMNS sums of a warp group += 64×16 · 16×COLUMNS, the left side in registers, which are read
// until the products are waited for, and the right side in tiles that are read turned. The left side
// lies as that of `multiply_add`.
template <class T, int COLUMNS>
static inline void group_multiply_add_turned(float (&sums)[COLUMNS / 2], const unsigned (&a)[4],
                                             unsigned long long b) {
  const auto compute = [](const emulated::Product& product) {
    struct Words {
      unsigned a[4];
    } mine;
    memcpy(mine.a, product.left, sizeof(mine.a));
    emulated::show(mine);
    const unsigned lane = emulated::machine->me->index % 32;
    Words left[4];
    for (unsigned from = 0; from < 4; ++from)
      left[from] = emulated::shown_by<Words>(lane / 4 * 4 + from);
    for (int at = 0; at < COLUMNS / 2; ++at) {
      const Sum own = sum_at(at);
      for (unsigned k = 0; k < 16; ++k) {
        const unsigned word = left[k % 8 / 2].a[k / 8 * 2 + at / 2 % 2];
        product.sums[at] +=
            half_of(word, k % 2, T{}) * turned_element_of<T>(product.b, own.column, k);
      }
    }
  };
  begin_product({compute, sums, a, 0, b, true});
}
static inline void group_commit() {
  emulated::Fiber* me = emulated::machine->me;
  if (me->product_group_count == emulated::MOST_PRODUCTS) emulated::fail("too many groups of products");
  me->product_groups[me->product_group_count++] = me->product_count;
}
// Waits until at most `OPEN` groups of products are under way.
template <int OPEN, int COUNT>
static inline void group_wait(float (&)[COUNT]) {
  emulated::Fiber* me = emulated::machine->me;
  if (me->product_group_count <= OPEN) return;
  const unsigned closed = me->product_group_count - OPEN, end = me->product_groups[closed - 1];
  for (unsigned at = 0; at < end; ++at) me->products[at].compute(me->products[at]);
  me->product_count -= end;
  memmove(me->products, me->products + end, me->product_count * sizeof(emulated::Product));
  me->product_group_count = OPEN;
  for (unsigned at = 0; at < OPEN; ++at)
    me->product_groups[at] = me->product_groups[at + closed] - end;
}
