#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC_RTC__)
// Products and attention on Hopper: a warp group that loads, two that multiply.

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

// Scores of 64 queries of a warp group and a block of keys become weights, and what belongs to a
// query follows: the largest score, this thread's part of the sum of the weights, and the factor on what
// was summed before. Scores are multiplied by `factor`, and what they are then is times log₂(e).
template <int KEYS>
__device__ __forceinline__ void soften(float (&scores)[KEYS / 2], float factor,
                                       float (&largest)[2], float (&total)[2],
                                       float (&factors)[2]) {
  UNROLL for (int half = 0; half < 2; ++half) {
    float most = -INFINITY;
    UNROLL for (int at = 0; at < KEYS / 2; at += 4) UNROLL for (int two = 0; two < 2; ++two)
        most = fast_larger(most, scores[at + 2 * half + two]);
    most = larger(largest[half], largest_of_lanes<4>(most) * factor);
    // A query of nothing but −∞ has no weights.
    const float base = most == -INFINITY ? 0.0f : most;
    factors[half] = fast_exp2(largest[half] - base);
    largest[half] = most;
    float sum = 0.0f;
    UNROLL for (int at = 0; at < KEYS / 2; at += 4) UNROLL for (int two = 0; two < 2; ++two) {
      float& value = scores[at + 2 * half + two];
      value = fast_exp2(value * factor - base);
      sum += value;
    }
    total[half] = total[half] * factors[half] + sum;
  }
}

// 128 queries from `first` on, by blocks of 384 threads, of which two warp groups have 64 queries each
// and the third loads. T is bf16 or f16, WIDTH 64 or 128; `q`, `k` and `v` are matrices in which the
// head's columns begin at `column`, and `score`, `end` and `log_sum` are as those of `attend`. Where PLAIN
// is set, `score` is a product with `factor`, which is above 0, but perhaps for the last key. The first
// product of a block of keys is under way while the one before is softened and summed.
template <class T, int WIDTH, int STAGES, bool PLAIN, class Score, class End, class LogSum>
__device__ inline void attend_by_groups(const TensorMap& q, const TensorMap& k, const TensorMap& v,
                                        Size queries, Size keys, Size first, Size column,
                                        float factor, const Score& score, const End& end,
                                        const LogSum& log_sum) {
  constexpr int KEYS = 128, PARTS = WIDTH / 64, PART = 128 * 128, TILE = PARTS * PART;
  constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;
  DYNAMIC_SHARED(memory, (STAGES + 1) * TILE);
  SHARED(Barrier, arrived, 1);
  SHARED(Barrier, full, STAGES);
  SHARED(Barrier, empty, STAGES);
  if (threadIdx.x == 0) {
    barrier_init(arrived, 1);
    for (int stage = 0; stage < STAGES; ++stage) {
      barrier_init(full + stage, 1);
      barrier_init(empty + stage, 256);
    }
    barrier_fence();
  }
  block_barrier();
  // Keys and values take turns in the stages.
  const auto stages = memory + TILE;
  const int blocks = int((keys + KEYS - 1) / KEYS);
  if (threadIdx.x >= 256) {
    registers_down<24>();
    if (threadIdx.x > 256) return;
    barrier_expect(arrived, TILE);
    for (int part = 0; part < PARTS; ++part)
      load_box(memory + part * PART, q, column + part * 64, first, arrived);
    for (int turn = 0; turn < 2 * blocks; ++turn) {
      const int stage = turn % STAGES;
      barrier_wait(empty + stage, unsigned(turn / STAGES + 1) % 2);
      barrier_expect(full + stage, TILE);
      const auto to = stages + stage * TILE;
      const Size from = Size(turn / 2) * KEYS;
      for (int part = 0; part < PARTS; ++part) {
        if (turn % 2 == 0)
          load_box(to + part * PART, k, column + part * 64, from, full + stage);
        else
          load_box(to + part * PART, v, column + part * 64, from, full + stage);
      }
    }
    return;
  }
  registers_up<240>();
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const Size own = first + group * 64 + warp * 16 + lane / 4;
  float scores[KEYS / 2], sums[WIDTH / 2] = {}, largest[2] = {-INFINITY, -INFINITY};
  float total[2] = {}, factors[2];
  unsigned weights[KEYS / 16][4];
  const auto wait_for = [&](int turn) {
    barrier_wait(full + turn % STAGES, unsigned(turn / STAGES) % 2);
  };
  const auto multiply_keys = [&](int block) {
    const auto from = stages + 2 * block % STAGES * TILE;
    UNROLL for (int part = 0; part < PARTS; ++part) UNROLL for (int step = 0; step < 4; ++step) {
      const unsigned long long left = tile_of(memory + (part * PART + group * 64 * 128));
      const unsigned long long right = tile_of(from + part * PART);
      group_multiply_add<T, KEYS>(scores, left + 2 * step, right + 2 * step, part > 0 || step > 0);
    }
    group_commit();
  };
  const auto multiply_values = [&](int block) {
    const auto from = stages + (2 * block + 1) % STAGES * TILE;
    UNROLL for (int step = 0; step < KEYS / 16; ++step)
        group_multiply_add_turned<T, WIDTH>(sums, weights[step],
                                            turned_tile_of(from, PART) + 128 * step);
    group_commit();
  };
  const auto make_weights = [&](int block) {
    if (PLAIN && block + 1 < blocks) {
      soften<KEYS>(scores, factor * LOG2_E, largest, total, factors);
      return;
    }
    const Size from = Size(block) * KEYS;
    UNROLL for (int at = 0; at < KEYS / 2; ++at) {
      const Size i = own + 8 * (at / 2 % 2), j = from + at / 4 * 8 + lane % 4 * 2 + at % 2;
      scores[at] = i < queries && j < keys ? score(i, j, scores[at]) * LOG2_E : -INFINITY;
    }
    soften<KEYS>(scores, 1.0f, largest, total, factors);
  };
  const auto pack_weights = [&] {
    UNROLL for (int step = 0; step < KEYS / 16; ++step) UNROLL for (int at = 0; at < 4; ++at)
        weights[step][at] = packed<T>(scores[step * 8 + at * 2], scores[step * 8 + at * 2 + 1]);
  };
  barrier_wait(arrived, 0);
  wait_for(0);
  group_fence();
  multiply_keys(0);
  group_wait<0>(scores);
  barrier_arrive(empty);
  make_weights(0);
  pack_weights();
  for (int block = 1; block < blocks; ++block) {
    const int keys_turn = 2 * block, values_turn = 2 * block - 1;
    wait_for(keys_turn);
    group_fence();
    multiply_keys(block);
    wait_for(values_turn);
    multiply_values(block - 1);
    group_wait<1>(scores);
    barrier_arrive(empty + keys_turn % STAGES);
    make_weights(block);
    group_wait<0>(sums);
    barrier_arrive(empty + values_turn % STAGES);
    UNROLL for (int at = 0; at < WIDTH / 2; ++at) sums[at] *= factors[at / 2 % 2];
    pack_weights();
  }
  wait_for(2 * blocks - 1);
  group_fence();
  multiply_values(blocks - 1);
  group_wait<0>(sums);
  UNROLL for (int half = 0; half < 2; ++half) {
    const Size i = own + 8 * half;
    // It is at least 1 but where there are no weights.
    const float all = larger(sum_of_lanes<4>(total[half]), 1.0f);
    if (i >= queries) continue;
    if (lane % 4 == 0) log_sum(i, largest[half] * LN_2 + logf(all));
    UNROLL for (int at = 0; at < WIDTH / 2; at += 4) UNROLL for (int two = 0; two < 2; ++two)
        end(i, at / 4 * 8 + lane % 4 * 2 + two, sums[at + 2 * half + two] / all);
  }
}
#endif
