// The first body of the intrinsics: NVIDIA GPUs through NVRTC, which has no headers of its own. This
// file alone holds PTX.
#define UNROLL _Pragma("unroll")

typedef long long Size;

template <class T>
using Global = T*;
template <class T>
using Shared = T*;
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]

#define INFINITY float_of(0x7f800000u)
#define NAN float_of(0x7fc00000u)
__device__ inline float float_of(unsigned bits) { return __uint_as_float(bits); }
__device__ inline unsigned bits_of(float value) { return __float_as_uint(value); }

// The same memory as elements of another type.
template <class U, class T>
__device__ inline U* whole(T* from) {
  return (U*)from;
}

__device__ inline void block_barrier() { __syncthreads(); }
__device__ inline void warp_barrier() { __syncwarp(); }
template <class T>
__device__ inline T from_lane(T mine, int other) {
  return __shfl_sync(0xffffffffu, mine, other);
}
__device__ inline void lower(unsigned long long* place, unsigned long long value) {
  atomicMin(place, value);
}

// The larger of two numbers, or NaN if one is.
__device__ inline float fast_larger(float a, float b) {
  float out;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}
// 2 to the power of `value`, to about two units of the last place.
__device__ inline float fast_exp2(float value) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(value));
  return out;
}

struct bf16 {
  unsigned short bits;
};
struct f16 {
  unsigned short bits;
};
__device__ inline float widened(f16 half) {
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(half.bits));
  return out;
}
__device__ inline bf16 rounded_bf16(float value) {
  bf16 out;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
  return out;
}
__device__ inline f16 rounded_f16(float value) {
  f16 out;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
  return out;
}

// Sixteen bytes that move together.
struct alignas(16) Bytes16 {
  unsigned words[4];
};

// Copies sixteen bytes to shared memory without waiting, or zeros.
__device__ inline void copy_async(Bytes16* to, const Bytes16* from, bool zeros) {
  const unsigned place = unsigned(__cvta_generic_to_shared(to));
  const int bytes = zeros ? 0 : 16;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(bytes)
               : "memory");
}
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `OPEN` groups are under way.
template <int OPEN>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
}

// Two numbers rounded to T, the first in the lower half.
template <class T>
__device__ unsigned packed(float low, float high);
template <>
__device__ inline unsigned packed<bf16>(float low, float high) {
  unsigned out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
template <>
__device__ inline unsigned packed<f16>(float low, float high) {
  unsigned out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

// Two blocks of 8×8 elements of two bytes, turned: lanes name where rows lie, the first eight those of
// the first block and the next eight those of the second, and get two elements of a column each.
__device__ inline void load_turned(unsigned (&to)[2], const Bytes16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(unsigned(__cvta_generic_to_shared(row)))
               : "memory");
}

// 16×8 sums += 16×16 · (8×16)ᵀ by a warp; the lanes hold them as the PTX manual lays out
// `mma.m16n8k16`.
template <class T>
__device__ void multiply_add(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]);
template <>
__device__ inline void multiply_add<bf16>(float (&sums)[4], const unsigned (&a)[4],
                                          const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ inline void multiply_add<f16>(float (&sums)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// Hopper: loads by the tensor memory unit, barriers that count bytes, products of warp groups. Only
// kernels for sm_90a call these.
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};
using Barrier = unsigned long long;
#define GRID_CONSTANT const __grid_constant__
#define DYNAMIC_SHARED(name, bytes) extern __shared__ __align__(1024) unsigned char name[]

__device__ inline unsigned shared_place(const void* place) {
  return unsigned(__cvta_generic_to_shared(place));
}
__device__ inline void barrier_init(Barrier* place, unsigned count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_place(place)), "r"(count)
               : "memory");
}
__device__ inline void barrier_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void barrier_arrive(Barrier* place) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_place(place)) : "memory");
}
__device__ inline void barrier_expect(Barrier* place, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_place(place)),
               "r"(bytes)
               : "memory");
}
__device__ inline void barrier_wait(Barrier* place, unsigned parity) {
  asm volatile(
      "{ .reg .pred over; again: mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1; "
      "@over bra done; bra again; done: }" ::"r"(shared_place(place)),
      "r"(parity)
      : "memory");
}
__device__ inline void load_box(unsigned char* to, const TensorMap& map, Size column, Size row,
                                Barrier* place) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4}], [%2];" ::"r"(shared_place(to)),
      "l"(&map), "r"(shared_place(place)), "r"(int(column)), "r"(int(row))
      : "memory");
}
template <int REGISTERS>
__device__ inline void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ inline void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
// Where a tile of rows of 128 bytes lies, for products of warp groups.
__device__ inline unsigned long long tile_of(const unsigned char* tile) {
  return (unsigned long long)((shared_place(tile) & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 |
         1ull << 62;
}
// Where tiles of 64 columns lie, `bytes` of each, that are read turned.
__device__ inline unsigned long long turned_tile_of(const unsigned char* tile, int bytes) {
  return (tile_of(tile) & ~(0x3fffull << 16)) | (unsigned long long)(bytes >> 4) << 16;
}
__device__ inline void group_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void group_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most `OPEN` groups of products are under way.
template <int OPEN, int COUNT>
__device__ inline void group_wait(float (&sums)[COUNT]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(OPEN) : "memory");
  UNROLL for (int at = 0; at < COUNT; ++at) asm volatile("" : "+f"(sums[at])::"memory");
}
// Operands of products of warp groups, by number and as constraints.
#define NUMBERS_32                                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "               \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NUMBERS_64                                                                       \
  NUMBERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "  \
  "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NUMBERS_128                                                                      \
  NUMBERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, "  \
  "%78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, "     \
  "%94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, " \
  "%109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, " \
  "%123, %124, %125, %126, %127"
#define SUMS_8(at)                                                                       \
  "+f"(sums[at]), "+f"(sums[at + 1]), "+f"(sums[at + 2]), "+f"(sums[at + 3]),            \
      "+f"(sums[at + 4]), "+f"(sums[at + 5]), "+f"(sums[at + 6]), "+f"(sums[at + 7])
#define SUMS_32(at) SUMS_8(at), SUMS_8(at + 8), SUMS_8(at + 16), SUMS_8(at + 24)
#define SUMS_64(at) SUMS_32(at), SUMS_32(at + 32)
#define SUMS_128(at) SUMS_64(at), SUMS_64(at + 64)

// 64×COLUMNS sums of a warp group += 64×16 · (COLUMNS×16)ᵀ of shared memory; without `keep` the
// sums begin at 0. They lie as the PTX manual lays out `wgmma`.
template <class T, int COLUMNS>
__device__ void group_multiply_add(float (&sums)[COLUMNS / 2], unsigned long long a,
                                   unsigned long long b, bool keep);
#define GROUP_PRODUCT(type, columns, count, a_at, b_at, keep_at)                           \
  template <>                                                                              \
  __device__ inline void group_multiply_add<type, columns>(                                \
      float(&sums)[count], unsigned long long a, unsigned long long b, bool keep) {        \
    asm volatile("{ .reg .pred keep; setp.ne.b32 keep, %" #keep_at ", 0; "                  \
                 "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." #type "." #type    \
                 " {" NUMBERS_##count "}, %" #a_at ", %" #b_at ", keep, 1, 1, 0, 0; }"      \
                 : SUMS_##count(0)                                                         \
                 : "l"(a), "l"(b), "r"(int(keep)));                                        \
  }
GROUP_PRODUCT(bf16, 64, 32, 32, 33, 34)
GROUP_PRODUCT(bf16, 128, 64, 64, 65, 66)
GROUP_PRODUCT(bf16, 256, 128, 128, 129, 130)
GROUP_PRODUCT(f16, 64, 32, 32, 33, 34)
GROUP_PRODUCT(f16, 128, 64, 64, 65, 66)
GROUP_PRODUCT(f16, 256, 128, 128, 129, 130)

// 64×COLUMNS sums of a warp group += 64×16 · 16×COLUMNS, the left side in registers, which are read
// until the products are waited for, and the right side in tiles that are read turned. The left side
// lies as that of `multiply_add`.
template <class T, int COLUMNS>
__device__ void group_multiply_add_turned(float (&sums)[COLUMNS / 2], const unsigned (&a)[4],
                                          unsigned long long b);
#define GROUP_PRODUCT_TURNED(type, columns, count, a0, a1, a2, a3, b_at, keep_at)           \
  template <>                                                                              \
  __device__ inline void group_multiply_add_turned<type, columns>(                         \
      float(&sums)[count], const unsigned(&a)[4], unsigned long long b) {                  \
    asm volatile("{ .reg .pred keep; setp.ne.b32 keep, %" #keep_at ", 0; "                  \
                 "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." #type "." #type    \
                 " {" NUMBERS_##count "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3             \
                 "}, %" #b_at ", keep, 1, 1, 1; }"                                         \
                 : SUMS_##count(0)                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));            \
  }
GROUP_PRODUCT_TURNED(bf16, 64, 32, 32, 33, 34, 35, 36, 37)
GROUP_PRODUCT_TURNED(bf16, 128, 64, 64, 65, 66, 67, 68, 69)
GROUP_PRODUCT_TURNED(f16, 64, 32, 32, 33, 34, 35, 36, 37)
GROUP_PRODUCT_TURNED(f16, 128, 64, 64, 65, 66, 67, 68, 69)
#endif
