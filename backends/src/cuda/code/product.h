// Tiles of products C = A·Bᵀ. What is multiplied comes from functions of (row, k), and every sum
// goes to a function of (row, column, sum), so that convolutions and all epilogues are the same code.
// Shared memory comes from the kernel, whose parts use the same.

// Numbers of a side with so many rows or columns.
template <int LINES>
constexpr int SIDE_OF_NUMBERS = 16 * (LINES + 4);

// A tile of 64×COLUMNS sums in f32 by 256 threads; COLUMNS is 16, 32 or 64. `a` and `b` give numbers.
template <int COLUMNS, class A, class B, class End>
__device__ inline void product_of_numbers(Shared<float> left, Shared<float> right, Size m, Size n,
                                          Size k, Size row, Size column, const A& a, const B& b,
                                          const End& end) {
  constexpr int TILE = 64, STEP = 16, PITCH = TILE + 4, OTHER = COLUMNS + 4, OWN = COLUMNS / 16;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  float sums[4][OWN] = {};
  for (Size from = 0; from < k; from += STEP) {
    UNROLL for (int piece = 0; piece < 4; ++piece) {
      const int at = piece * 256 + int(threadIdx.x), own = at % STEP, line = at / STEP;
      const bool inside = from + own < k;
      left[own * PITCH + line] = inside && row + line < m ? a(row + line, from + own) : 0.0f;
      if (piece >= OWN) continue;
      right[own * OTHER + line] = inside && column + line < n ? b(column + line, from + own) : 0.0f;
    }
    block_barrier();
    // Sums of a step are short, so that those of many steps lose less.
    float parts[4][OWN] = {};
    for (int own = 0; own < STEP; ++own) {
      float factors[OWN];
      UNROLL for (int j = 0; j < OWN; ++j) factors[j] = right[own * OTHER + x + 16 * j];
      UNROLL for (int i = 0; i < 4; ++i) {
        const float factor = left[own * PITCH + y + 16 * i];
        UNROLL for (int j = 0; j < OWN; ++j) parts[i][j] += factor * factors[j];
      }
    }
    UNROLL for (int i = 0; i < 4; ++i) UNROLL for (int j = 0; j < OWN; ++j) sums[i][j] += parts[i][j];
    block_barrier();
  }
  UNROLL for (int i = 0; i < 4; ++i) UNROLL for (int j = 0; j < OWN; ++j) {
    const Size line = row + y + 16 * i, place = column + x + 16 * j;
    if (line < m && place < n) end(line, place, sums[i][j]);
  }
}

// Has eight elements loaded from where `places` says that they lie, or zeros.
template <class Places>
__device__ inline void load_piece(Shared<Bytes16> to, const Places& places, Size k, bool there) {
  const auto place = places(there ? k : 0, there);
  copy_async(to, whole<const Bytes16>(place), !there);
}

// Pieces of a side: two stages of 64 rows of 80 bytes.
constexpr int SIDE_OF_HALVES = 2 * 64 * 40 / 8;

// A tile of 64×64 sums by the tensor units, by 128 threads. T is bf16 or f16; `a` and `b` give for a row a
// function of k that gives where eight elements lie, from a multiple of eight on, and whether they are
// there.
template <class T, class A, class B, class End>
__device__ inline void product_of_halves(Shared<Bytes16> left, Shared<Bytes16> right, Size m,
                                         Size n, Size k, Size row, Size column, const A& a,
                                         const B& b, const End& end) {
  // Rows of 80 bytes: eight of them begin in different banks.
  constexpr int TILE = 64, STEP = 32, PITCH = STEP + 8;
  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
  // Every thread loads pieces of the same two rows of both sides.
  const int line = threadIdx.x / 4, own = threadIdx.x % 4 * 8;
  const auto first_a = a(row + line < m ? row + line : 0);
  const auto second_a = a(row + line + 32 < m ? row + line + 32 : 0);
  const auto first_b = b(column + line < n ? column + line : 0);
  const auto second_b = b(column + line + 32 < n ? column + line + 32 : 0);
  const auto load = [&](int stage, Size from) {
    const int to = ((stage * TILE + line) * PITCH + own) / 8, lower = to + 32 * PITCH / 8;
    const bool inside = from + own < k;
    load_piece(left + to, first_a, from + own, inside && row + line < m);
    load_piece(left + lower, second_a, from + own, inside && row + line + 32 < m);
    load_piece(right + to, first_b, from + own, inside && column + line < n);
    load_piece(right + lower, second_b, from + own, inside && column + line + 32 < n);
    copy_commit();
  };
  float sums[8][4] = {};
  load(0, 0);
  int stage = 0;
  for (Size from = 0; from < k; from += STEP, stage ^= 1) {
    if (from + STEP < k)
      load(stage ^ 1, from + STEP);
    else
      copy_commit();
    copy_wait<1>();
    block_barrier();
    const auto words = whole<const unsigned>(left + stage * TILE * PITCH / 8);
    const auto others = whole<const unsigned>(right + stage * TILE * PITCH / 8);
    UNROLL for (int own = 0; own < STEP; own += 16) {
      unsigned mine[4];
      UNROLL for (int at = 0; at < 4; ++at)
          mine[at] = words[((warp * 16 + group + 8 * (at & 1)) * PITCH + own + 8 * (at >> 1)) / 2 +
                           pair];
      UNROLL for (int j = 0; j < 8; ++j) {
        unsigned other[2];
        UNROLL for (int at = 0; at < 2; ++at)
            other[at] = others[((j * 8 + group) * PITCH + own + 8 * at) / 2 + pair];
        multiply_add<T>(sums[j], mine, other);
      }
    }
    block_barrier();
  }
  UNROLL for (int j = 0; j < 8; ++j) UNROLL for (int at = 0; at < 4; ++at) {
    const Size line = row + warp * 16 + group + 8 * (at >> 1);
    const Size place = column + j * 8 + pair * 2 + (at & 1);
    if (line < m && place < n) end(line, place, sums[j][at]);
  }
}

// Sums of up to ROWS rows, for products that read little but the right side: every warp of a block of 256
// threads has one column from `first` on, whose rows its lanes read in pieces. `a` loads elements of
// (row, k) and `b` gives where those of a row begin.
template <class T, int ROWS, class A, class B, class End>
__device__ inline void product_of_few(Size m, Size n, Size k, Size first, const A& a, const B& b,
                                      const End& end) {
  constexpr int PIECE = 16 / int(sizeof(T));
  const int lane = threadIdx.x % 32;
  const Size column = first + threadIdx.x / 32;
  if (column >= n) return;
  float sums[ROWS] = {};
  for (Size at = lane * PIECE; at < k; at += 32 * PIECE) {
    float right[PIECE];
    load_wide(right, b(column) + at);
    UNROLL for (int row = 0; row < ROWS; ++row) {
      if (row >= m) break;
      float left[PIECE];
      a(row, at, left);
      UNROLL for (int e = 0; e < PIECE; ++e) sums[row] += left[e] * right[e];
    }
  }
  UNROLL for (int row = 0; row < ROWS; ++row) {
    const float sum = sum_of_lanes<32>(sums[row]);
    if (lane == row && row < m) end(row, column, sum);
  }
}
