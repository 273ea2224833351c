// Softmax attention of one head in blocks of keys, in f32.

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
