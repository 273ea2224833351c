// The derivative of softmax attention, in f32: weights are computed again from the logarithms of
// their sums, a tile of them at a time. Every sum has one owner and one order, so nothing is atomic.

// Tiles of queries and keys, for heads of WIDTH channels: what three or four of them need fits into
// the shared memory that every block has.
template <int WIDTH>
struct BackTile {
  static constexpr int ROWS = WIDTH <= 128 ? 16 : 8, PITCH = WIDTH + 1, OWN = (WIDTH + 31) / 32;
  // Pairs of a tile that a thread computes, and rows of a warp.
  static constexpr int PAIRS = (ROWS * ROWS + 127) / 128, LINES = ROWS / 4;
};

// Loads rows `from` to `from + COUNT` of numbers by (row, channel), zeros where there are none.
template <int WIDTH, int COUNT, class Place, class From>
__device__ inline void load_rows(Place to, Size from, Size rows, const From& number) {
  for (int at = threadIdx.x; at < COUNT * WIDTH; at += 128) {
    const int row = at / WIDTH, channel = at % WIDTH;
    const bool there = from + row >= 0 && from + row < rows;
    to[row * (WIDTH + 1) + channel] = there ? number(from + row, channel) : 0.0f;
  }
}

// The product of two rows in shared memory.
template <int WIDTH, class Place>
__device__ inline float product_of_rows(Place a, Place b) {
  float sum = 0.0f;
  for (int channel = 0; channel < WIDTH; ++channel) sum += a[channel] * b[channel];
  return sum;
}

// For each query of a tile the product of its cotangent, which lies in `slope`, with its result.
template <int WIDTH, class Place, class Out>
__device__ inline void own_products(Place to, Place slope, Size from, Size queries, const Out& out) {
  using Tile = BackTile<WIDTH>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  UNROLL for (int line = 0; line < Tile::LINES; ++line) {
    const int row = warp * Tile::LINES + line;
    float sum = 0.0f;
    for (int channel = lane; channel < WIDTH; channel += 32)
      if (from + row < queries) sum += slope[row * Tile::PITCH + channel] * out(from + row, channel);
    sum = sum_of_lanes<32>(sum);
    if (lane == 0) to[row] = sum;
  }
}

// sums += weights · rows, of weights by (own row, other row).
template <int WIDTH, class Place>
__device__ inline void add_rows(float (&sums)[BackTile<WIDTH>::LINES][BackTile<WIDTH>::OWN],
                                Place weights, int own_step, int other_step, Place rows) {
  using Tile = BackTile<WIDTH>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  UNROLL for (int line = 0; line < Tile::LINES; ++line) {
    const int own = warp * Tile::LINES + line;
    UNROLL for (int part = 0; part < Tile::OWN; ++part) {
      const int channel = lane + 32 * part;
      float sum = 0.0f;
      for (int at = 0; at < Tile::ROWS && channel < WIDTH; ++at)
        sum += weights[own * own_step + at * other_step] * rows[at * Tile::PITCH + channel];
      sums[line][part] += sum;
    }
  }
}

template <int WIDTH, class End>
__device__ inline void store_rows(const float (&sums)[BackTile<WIDTH>::LINES][BackTile<WIDTH>::OWN],
                                  Size from, Size rows, const End& end) {
  using Tile = BackTile<WIDTH>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  UNROLL for (int line = 0; line < Tile::LINES; ++line) UNROLL for (int part = 0; part < Tile::OWN; ++part) {
    const Size row = from + warp * Tile::LINES + line;
    const int channel = lane + 32 * part;
    if (row < rows && channel < WIDTH) end(row, channel, sums[line][part]);
  }
}

// The weight of a pair: none where all scores of the query are −∞.
__device__ inline float weight_of(float score, float log_sum) {
  return log_sum == -INFINITY ? 0.0f : expf(score - log_sum);
}

// What the tile of queries from `first` on gets, by 128 threads. `q`, `k`, `v`, `out` and `slope` give
// numbers by (row, channel), the last two of the result and its cotangent; `score` makes a score of
// (query, key, product), `log_sum` gives that of a query; `end` takes (query, channel, sum).
template <int WIDTH, class Place, class Q, class K, class V, class Out, class Slope, class Score,
          class LogSum, class End>
__device__ inline void attend_back_queries(Place memory, Size queries, Size keys, Size first,
                                           const Q& q, const K& k, const V& v, const Out& out,
                                           const Slope& slope, const Score& score,
                                           const LogSum& log_sum, const End& end) {
  using Tile = BackTile<WIDTH>;
  constexpr int ROWS = Tile::ROWS, PITCH = Tile::PITCH;
  const Place query = memory, given = query + ROWS * PITCH, other = given + ROWS * PITCH;
  const Place slopes = other + ROWS * PITCH, own = slopes + ROWS * ROWS;
  load_rows<WIDTH, ROWS>(query, first, queries, q);
  load_rows<WIDTH, ROWS>(given, first, queries, slope);
  block_barrier();
  own_products<WIDTH>(own, given, first, queries, out);
  float sums[Tile::LINES][Tile::OWN] = {};
  for (Size from = 0; from < keys; from += ROWS) {
    float products[Tile::PAIRS];
    load_rows<WIDTH, ROWS>(other, from, keys, v);
    block_barrier();
    UNROLL for (int pair = 0; pair < Tile::PAIRS; ++pair) {
      const int at = pair * 128 + int(threadIdx.x), row = at / ROWS, key = at % ROWS;
      products[pair] = 0.0f;
      if (row < ROWS)
        products[pair] = product_of_rows<WIDTH>(given + row * PITCH, other + key * PITCH) - own[row];
    }
    block_barrier();
    load_rows<WIDTH, ROWS>(other, from, keys, k);
    block_barrier();
    UNROLL for (int pair = 0; pair < Tile::PAIRS; ++pair) {
      const int at = pair * 128 + int(threadIdx.x), row = at / ROWS, key = at % ROWS;
      if (row >= ROWS) continue;
      float value = 0.0f;
      if (first + row < queries && from + key < keys) {
        value = product_of_rows<WIDTH>(query + row * PITCH, other + key * PITCH);
        value = weight_of(score(first + row, from + key, value), log_sum(first + row)) * products[pair];
      }
      slopes[row * ROWS + key] = value;
    }
    block_barrier();
    add_rows<WIDTH>(sums, slopes, ROWS, 1, other);
    block_barrier();
  }
  store_rows<WIDTH>(sums, first, queries, end);
}

// What the tile of keys from `first` on and their values get, by 128 threads.
template <int WIDTH, class Place, class Q, class K, class V, class Out, class Slope, class Score,
          class LogSum, class KeyEnd, class ValueEnd>
__device__ inline void attend_back_keys(Place memory, Size queries, Size keys, Size first, const Q& q,
                                        const K& k, const V& v, const Out& out, const Slope& slope,
                                        const Score& score, const LogSum& log_sum,
                                        const KeyEnd& key_end, const ValueEnd& value_end) {
  using Tile = BackTile<WIDTH>;
  constexpr int ROWS = Tile::ROWS, PITCH = Tile::PITCH;
  const Place key = memory, value = key + ROWS * PITCH, other = value + ROWS * PITCH;
  const Place weights = other + ROWS * PITCH, slopes = weights + ROWS * ROWS, own = slopes + ROWS * ROWS;
  load_rows<WIDTH, ROWS>(key, first, keys, k);
  load_rows<WIDTH, ROWS>(value, first, keys, v);
  float of_keys[Tile::LINES][Tile::OWN] = {}, of_values[Tile::LINES][Tile::OWN] = {};
  for (Size from = 0; from < queries; from += ROWS) {
    float products[Tile::PAIRS];
    load_rows<WIDTH, ROWS>(other, from, queries, slope);
    block_barrier();
    own_products<WIDTH>(own, other, from, queries, out);
    UNROLL for (int pair = 0; pair < Tile::PAIRS; ++pair) {
      const int at = pair * 128 + int(threadIdx.x), row = at / ROWS, column = at % ROWS;
      products[pair] = 0.0f;
      if (row < ROWS)
        products[pair] = product_of_rows<WIDTH>(other + row * PITCH, value + column * PITCH);
    }
    block_barrier();
    load_rows<WIDTH, ROWS>(other, from, queries, q);
    block_barrier();
    UNROLL for (int pair = 0; pair < Tile::PAIRS; ++pair) {
      const int at = pair * 128 + int(threadIdx.x), row = at / ROWS, column = at % ROWS;
      if (row >= ROWS) continue;
      float weight = 0.0f, value = 0.0f;
      if (from + row < queries && first + column < keys) {
        weight = product_of_rows<WIDTH>(other + row * PITCH, key + column * PITCH);
        weight = weight_of(score(from + row, first + column, weight), log_sum(from + row));
        value = weight * (products[pair] - own[row]);
      }
      weights[row * ROWS + column] = weight;
      slopes[row * ROWS + column] = value;
    }
    block_barrier();
    add_rows<WIDTH>(of_keys, slopes, 1, ROWS, other);
    block_barrier();
    load_rows<WIDTH, ROWS>(other, from, queries, slope);
    block_barrier();
    add_rows<WIDTH>(of_values, weights, 1, ROWS, other);
    block_barrier();
  }
  store_rows<WIDTH>(of_keys, first, keys, key_end);
  store_rows<WIDTH>(of_values, first, keys, value_end);
}

// Numbers of a page.
template <class Number>
struct OfPage {
  const Number& number;
  Size page;
  __device__ float operator()(Size row, int channel) const { return number(page, row, channel); }
};

// What the table of a bias gets for the differences from `first` on, of which the smallest, −(queries −
// 1), is number 0. Functions take a page in front; `end` takes (difference, sum).
template <int WIDTH, class Place, class Q, class K, class V, class Out, class Slope, class Score,
          class LogSum, class End>
__device__ inline void attend_back_bias(Place memory, Size pages, Size queries, Size keys, Size first,
                                        const Q& q, const K& k, const V& v, const Out& out,
                                        const Slope& slope, const Score& score,
                                        const LogSum& log_sum, const End& end) {
  using Tile = BackTile<WIDTH>;
  // Queries and differences of a tile; it looks at one key fewer than both together.
  constexpr int ROWS = Tile::ROWS, PITCH = Tile::PITCH;
  const Place own_rows = memory, other = own_rows + ROWS * PITCH, slopes = other + 2 * ROWS * PITCH;
  const Place own = slopes + ROWS * ROWS;
  float sum = 0.0f;
  for (Size page = 0; page < pages; ++page)
    for (Size from = 0; from < queries; from += ROWS) {
      const Size key = from + first - (queries - 1);
      if (key + 2 * ROWS - 1 <= 0 || key >= keys) continue;
      float products[Tile::PAIRS];
      load_rows<WIDTH, ROWS>(own_rows, from, queries, OfPage<Slope>{slope, page});
      load_rows<WIDTH, 2 * ROWS - 1>(other, key, keys, OfPage<V>{v, page});
      block_barrier();
      own_products<WIDTH>(own, own_rows, from, queries, OfPage<Out>{out, page});
      UNROLL for (int pair = 0; pair < Tile::PAIRS; ++pair) {
        const int at = pair * 128 + int(threadIdx.x), row = at / ROWS, column = row + at % ROWS;
        products[pair] = 0.0f;
        if (row < ROWS)
          products[pair] = product_of_rows<WIDTH>(own_rows + row * PITCH, other + column * PITCH);
      }
      block_barrier();
      load_rows<WIDTH, ROWS>(own_rows, from, queries, OfPage<Q>{q, page});
      load_rows<WIDTH, 2 * ROWS - 1>(other, key, keys, OfPage<K>{k, page});
      block_barrier();
      UNROLL for (int pair = 0; pair < Tile::PAIRS; ++pair) {
        const int at = pair * 128 + int(threadIdx.x), row = at / ROWS, column = row + at % ROWS;
        if (row >= ROWS) continue;
        float value = 0.0f;
        if (from + row < queries && key + column >= 0 && key + column < keys) {
          value = product_of_rows<WIDTH>(own_rows + row * PITCH, other + column * PITCH);
          value = weight_of(score(from + row, key + column, value), log_sum(page, from + row)) *
                  (products[pair] - own[row]);
        }
        slopes[at] = value;
      }
      block_barrier();
      if (threadIdx.x < ROWS) {
        float part = 0.0f;
        for (int row = 0; row < ROWS; ++row) part += slopes[row * ROWS + int(threadIdx.x)];
        sum += part;
      }
    }
  if (threadIdx.x < ROWS && first + Size(threadIdx.x) < queries + keys - 1)
    end(first + Size(threadIdx.x), sum);
}

// Shared memory of the three, in floats.
template <int WIDTH>
constexpr int BACK_FLOATS = 3 * BackTile<WIDTH>::ROWS * BackTile<WIDTH>::PITCH +
                            2 * BackTile<WIDTH>::ROWS * BackTile<WIDTH>::ROWS + BackTile<WIDTH>::ROWS;
