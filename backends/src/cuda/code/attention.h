// Softmax attention of one head in blocks of keys: in f32, or with products by the tensor units.

// Sixteen queries from `first` on, by 128 threads. `q`, `k` and `v` give numbers by (row, channel),
// `score` makes a score of a product of (query, key), `end` takes (query, channel, result) and
// `log_sum` takes (query, logarithm of the sum of the exponentials of its scores).
template <int WIDTH, class Q, class K, class V, class Score, class End, class LogSum>
__device__ inline void attend(Size queries, Size keys, Size first, const Q& q, const K& k,
                              const V& v, const Score& score, const End& end,
                              const LogSum& log_sum) {
  constexpr int ROWS = 16, KEYS = 16, PITCH = WIDTH + 1, OWN = (WIDTH + 31) / 32;
  SHARED(float, query, ROWS * PITCH);
  SHARED(float, other, KEYS * PITCH);
  SHARED(float, weights, ROWS * KEYS);
  SHARED(float, factors, ROWS);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, key = lane % 16;
  for (int at = threadIdx.x; at < ROWS * WIDTH; at += 128) {
    const int row = at / WIDTH, channel = at % WIDTH;
    query[row * PITCH + channel] = first + row < queries ? q(first + row, channel) : 0.0f;
  }
  // A warp has four queries; their sums are spread over its lanes by channel, and scores and what
  // belongs to a query over halves of them.
  float sums[4][OWN] = {};
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
  for (Size from = 0; from < keys; from += KEYS) {
    for (int at = threadIdx.x; at < KEYS * WIDTH; at += 128) {
      const int row = at / WIDTH, channel = at % WIDTH;
      other[row * PITCH + channel] = from + row < keys ? k(from + row, channel) : 0.0f;
    }
    block_barrier();
    UNROLL for (int own = 0; own < 2; ++own) {
      const int row = warp * 4 + lane / 16 * 2 + own;
      float sum = 0.0f;
      for (int channel = 0; channel < WIDTH; ++channel)
        sum += query[row * PITCH + channel] * other[key * PITCH + channel];
      const bool there = first + row < queries && from + key < keys;
      sum = there ? score(first + row, from + key, sum) : -INFINITY;
      const float most = larger(largest[own], largest_of_lanes<16>(sum));
      // A query of nothing but −∞ has no weights.
      const float base = most == -INFINITY ? 0.0f : most;
      const float weight = expf(sum - base), factor = expf(largest[own] - base);
      total[own] = total[own] * factor + sum_of_lanes<16>(weight);
      largest[own] = most;
      weights[row * KEYS + key] = weight;
      if (key == 0) factors[row] = factor;
    }
    block_barrier();
    for (int at = threadIdx.x; at < KEYS * WIDTH; at += 128) {
      const int row = at / WIDTH, channel = at % WIDTH;
      other[row * PITCH + channel] = from + row < keys ? v(from + row, channel) : 0.0f;
    }
    block_barrier();
    UNROLL for (int own = 0; own < 4; ++own) {
      const int row = warp * 4 + own;
      const float factor = factors[row];
      UNROLL for (int part = 0; part < OWN; ++part) {
        const int channel = lane + 32 * part;
        float sum = sums[own][part] * factor;
        for (int at = 0; at < KEYS && channel < WIDTH; ++at)
          sum += weights[row * KEYS + at] * other[at * PITCH + channel];
        sums[own][part] = sum;
      }
    }
    block_barrier();
  }
  UNROLL for (int own = 0; own < 2; ++own) {
    const int row = warp * 4 + lane / 16 * 2 + own;
    // It is at least 1 but where there are no weights.
    const float all = larger(total[own], 1.0f);
    if (key == 0) factors[row] = all;
    if (key == 0 && first + row < queries) log_sum(first + row, largest[own] + logf(all));
  }
  warp_barrier();
  UNROLL for (int own = 0; own < 4; ++own) UNROLL for (int part = 0; part < OWN; ++part) {
    const int row = warp * 4 + own, channel = lane + 32 * part;
    if (first + row < queries && channel < WIDTH)
      end(first + row, channel, sums[own][part] / factors[row]);
  }
}

// Has the rows `from` to `from + KEYS` of a head loaded, zeros where there are none.
template <int WIDTH, int KEYS, class Rows>
__device__ inline void load_keys(Shared<Bytes16> to, Size from, Size keys, const Rows& rows) {
  constexpr int PITCH = WIDTH + 8, PARTS = WIDTH / 8;
  for (int at = threadIdx.x; at < KEYS * PARTS; at += 128) {
    const int row = at / PARTS, channel = at % PARTS * 8;
    const bool there = from + row < keys;
    copy_async(to + (row * PITCH + channel) / 8,
               whole<const Bytes16>(rows(there ? from + row : 0, channel)), !there);
  }
  copy_commit();
}

// Sixty-four queries from `first` on with products by the tensor units, by 128 threads, whose warps have
// sixteen queries each. T is bf16 or f16, WIDTH a multiple of 16; `q`, `k` and `v` give where eight
// elements of (row, channel) lie. Queries and sums stay in registers; keys and values of a block arrive
// while the other of the two is multiplied. Weights are rounded to T, their sums are not.
template <class T, int WIDTH, class Q, class K, class V, class Score, class End, class LogSum>
__device__ inline void attend_halves(Size queries, Size keys, Size first, const Q& q, const K& k,
                                     const V& v, const Score& score, const End& end,
                                     const LogSum& log_sum) {
  // Rows of memory begin in different banks.
  constexpr int KEYS = WIDTH <= 128 ? 64 : 32, PITCH = WIDTH + 8, PARTS = WIDTH / 8;
  SHARED(Bytes16, key_rows, KEYS * PITCH / 8);
  SHARED(Bytes16, value_rows, KEYS * PITCH / 8);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
  const Size own = first + warp * 16 + group;
  load_keys<WIDTH, KEYS>(key_rows, 0, keys, k);
  unsigned query[WIDTH / 16][4];
  UNROLL for (int step = 0; step < WIDTH / 16; ++step) UNROLL for (int at = 0; at < 4; ++at) {
    const Size row = own + 8 * (at & 1);
    const int channel = step * 16 + 8 * (at >> 1) + pair * 2;
    query[step][at] = row < queries ? *whole<const unsigned>(q(row, channel)) : 0u;
  }
  float sums[PARTS][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
  for (Size from = 0; from < keys; from += KEYS) {
    load_keys<WIDTH, KEYS>(value_rows, from, keys, v);
    copy_wait<1>();
    block_barrier();
    float scores[KEYS / 8][4] = {};
    const auto words = whole<const unsigned>(key_rows);
    UNROLL for (int step = 0; step < WIDTH / 16; ++step) UNROLL for (int j = 0; j < KEYS / 8; ++j) {
      unsigned other[2];
      UNROLL for (int at = 0; at < 2; ++at)
          other[at] = words[((j * 8 + group) * PITCH + step * 16 + 8 * at) / 2 + pair];
      multiply_add<T>(scores[j], query[step], other);
    }
    block_barrier();
    if (from + KEYS < keys)
      load_keys<WIDTH, KEYS>(key_rows, from + KEYS, keys, k);
    else
      copy_commit();
    const int there = keys - from < KEYS ? int(keys - from) : KEYS;
    UNROLL for (int half = 0; half < 2; ++half) {
      const Size row = own + 8 * half;
      const int most_keys = row < queries ? there : 0;
      float most = largest[half];
      UNROLL for (int j = 0; j < KEYS / 8; ++j) UNROLL for (int at = 0; at < 2; ++at) {
        const int key = j * 8 + pair * 2 + at;
        float& value = scores[j][half * 2 + at];
        value = key < most_keys ? score(row, from + key, value) : -INFINITY;
        most = larger(most, value);
      }
      most = largest_of_lanes<4>(most);
      // A query of nothing but −∞ has no weights.
      const float base = most == -INFINITY ? 0.0f : most, factor = expf(largest[half] - base);
      float sum = 0.0f;
      UNROLL for (int j = 0; j < KEYS / 8; ++j) UNROLL for (int at = 0; at < 2; ++at) {
        float& value = scores[j][half * 2 + at];
        value = expf(value - base);
        sum += value;
      }
      total[half] = total[half] * factor + sum_of_lanes<4>(sum);
      largest[half] = most;
      UNROLL for (int part = 0; part < PARTS; ++part) UNROLL for (int at = 0; at < 2; ++at)
          sums[part][half * 2 + at] *= factor;
    }
    copy_wait<1>();
    block_barrier();
    UNROLL for (int step = 0; step < KEYS / 16; ++step) {
      // The sums of two products are the left side of the next.
      unsigned mine[4];
      UNROLL for (int at = 0; at < 4; ++at) {
        const float(&two)[4] = scores[step * 2 + (at >> 1)];
        mine[at] = packed<T>(two[2 * (at & 1)], two[2 * (at & 1) + 1]);
      }
      UNROLL for (int part = 0; part < PARTS; ++part) {
        unsigned other[2];
        load_turned(other, value_rows + ((step * 16 + lane % 16) * PITCH + part * 8) / 8);
        multiply_add<T>(sums[part], mine, other);
      }
    }
    block_barrier();
  }
  UNROLL for (int half = 0; half < 2; ++half) {
    const Size row = own + 8 * half;
    // It is at least 1 but where there are no weights.
    const float all = larger(total[half], 1.0f);
    if (row >= queries) continue;
    if (pair == 0) log_sum(row, largest[half] + logf(all));
    UNROLL for (int part = 0; part < PARTS; ++part) UNROLL for (int at = 0; at < 2; ++at)
        end(row, part * 8 + pair * 2 + at, sums[part][half * 2 + at] / all);
  }
}
