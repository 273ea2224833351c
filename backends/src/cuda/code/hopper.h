#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC_RTC__)
// Products on Hopper: a warp group that loads, two that multiply.

// Tiles of 128×COLUMNS sums by blocks of 384 threads, which take one tile after the other. T is bf16
// or f16; `a` and `b` are matrices of m and n rows of k elements, and every sum goes to a function of
// (row, column, sum). The stages of a ring are filled by the first thread of the last warp group and
// emptied by the others.
template <class T, int COLUMNS, int STAGES, class End>
__device__ inline void product_of_groups(const TensorMap& a, const TensorMap& b, Size m, Size n,
                                         Size k, Size blocks, const End& end) {
  constexpr int ROWS = 128, STEP = 64, LEFT = ROWS * STEP * 2, RIGHT = COLUMNS * STEP * 2;
  DYNAMIC_SHARED(memory, STAGES * (LEFT + RIGHT));
  SHARED(Barrier, full, STAGES);
  SHARED(Barrier, empty, STAGES);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; ++stage) {
      barrier_init(full + stage, 1);
      barrier_init(empty + stage, 256);
    }
    barrier_fence();
  }
  block_barrier();
  const Size steps = (k + STEP - 1) / STEP, down = (m + ROWS - 1) / ROWS;
  const Size tiles = down * ((n + COLUMNS - 1) / COLUMNS);
  int stage = 0;
  unsigned parity = 0;
  const auto next = [&] {
    if (++stage == STAGES) {
      stage = 0;
      parity ^= 1;
    }
  };
  if (threadIdx.x >= 256) {
    registers_down<40>();
    if (threadIdx.x > 256) return;
    for (Size tile = blockIdx.x; tile < tiles; tile += blocks)
      for (Size step = 0; step < steps; ++step, next()) {
        barrier_wait(empty + stage, parity ^ 1);
        barrier_expect(full + stage, LEFT + RIGHT);
        const auto to = memory + stage * (LEFT + RIGHT);
        load_box(to, a, step * STEP, tile % down * ROWS, full + stage);
        load_box(to + LEFT, b, step * STEP, tile / down * COLUMNS, full + stage);
      }
    return;
  }
  registers_up<232>();
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  float sums[COLUMNS / 2];
  for (Size tile = blockIdx.x; tile < tiles; tile += blocks) {
    int before = 0;
    for (Size step = 0; step < steps; ++step, next()) {
      barrier_wait(full + stage, parity);
      const auto from = memory + stage * (LEFT + RIGHT);
      const unsigned long long left = tile_of(from + group * 64 * STEP * 2);
      const unsigned long long right = tile_of(from + LEFT);
      group_fence();
      UNROLL for (int part = 0; part < STEP / 16; ++part)
          group_multiply_add<T, COLUMNS>(sums, left + 2 * part, right + 2 * part,
                                         step > 0 || part > 0);
      group_commit();
      // What the step before has read may be filled again.
      group_wait<1>(sums);
      if (step > 0) barrier_arrive(empty + before);
      before = stage;
    }
    group_wait<0>(sums);
    barrier_arrive(empty + before);
    const Size row = tile % down * ROWS + group * 64 + warp * 16 + lane / 4;
    const Size column = tile / down * COLUMNS + lane % 4 * 2;
    UNROLL for (int at = 0; at < COLUMNS / 2; ++at) {
      const Size i = row + 8 * (at / 2 % 2), j = column + at / 4 * 8 + at % 2;
      if (i < m && j < n) end(i, j, sums[at]);
    }
  }
}
#endif
