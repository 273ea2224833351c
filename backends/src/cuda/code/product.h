// Tiles of products C = A·Bᵀ. What is multiplied comes from functions of (row, k), and every sum
// goes to a function of (row, column, sum), so that convolutions and all epilogues are the same code.

// A tile of 64×64 sums in f32 by 256 threads. `a` and `b` give numbers.
template <class A, class B, class End>
__device__ inline void product_of_numbers(Size m, Size n, Size k, Size row, Size column, const A& a,
                                          const B& b, const End& end) {
  constexpr int TILE = 64, STEP = 16, PITCH = TILE + 4;
  SHARED(float, left, STEP * PITCH);
  SHARED(float, right, STEP * PITCH);
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  float sums[4][4] = {};
  for (Size from = 0; from < k; from += STEP) {
    UNROLL for (int piece = 0; piece < 4; ++piece) {
      const int at = piece * 256 + int(threadIdx.x), own = at % STEP, line = at / STEP;
      const bool inside = from + own < k;
      left[own * PITCH + line] = inside && row + line < m ? a(row + line, from + own) : 0.0f;
      right[own * PITCH + line] = inside && column + line < n ? b(column + line, from + own) : 0.0f;
    }
    block_barrier();
    // Sums of a step are short, so that those of many steps lose less.
    float parts[4][4] = {};
    for (int own = 0; own < STEP; ++own) {
      float factors[4];
      UNROLL for (int j = 0; j < 4; ++j) factors[j] = right[own * PITCH + x + 16 * j];
      UNROLL for (int i = 0; i < 4; ++i) {
        const float factor = left[own * PITCH + y + 16 * i];
        UNROLL for (int j = 0; j < 4; ++j) parts[i][j] += factor * factors[j];
      }
    }
    UNROLL for (int i = 0; i < 4; ++i) UNROLL for (int j = 0; j < 4; ++j) sums[i][j] += parts[i][j];
    block_barrier();
  }
  UNROLL for (int i = 0; i < 4; ++i) UNROLL for (int j = 0; j < 4; ++j) {
    const Size line = row + y + 16 * i, place = column + x + 16 * j;
    if (line < m && place < n) end(line, place, sums[i][j]);
  }
}

// A tile of 64×64 sums by the tensor units, by 128 threads. T is bf16 or f16; `a` and `b` give where
// eight elements lie, from a multiple of eight on, and `inside` whether they are there.
template <class T, class A, class B, class End>
__device__ inline void product_of_halves(Size m, Size n, Size k, Size row, Size column, const A& a,
                                         const B& b, const End& end) {
  // Rows of 80 bytes: eight of them begin in different banks.
  constexpr int TILE = 64, STEP = 32, PITCH = STEP + 8;
  SHARED(Bytes16, left, 2 * TILE * PITCH / 8);
  SHARED(Bytes16, right, 2 * TILE * PITCH / 8);
  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
  const auto load = [&](int stage, Size from) {
    UNROLL for (int piece = 0; piece < 2; ++piece) {
      const int at = piece * 128 + int(threadIdx.x), line = at / 4, own = at % 4 * 8;
      const int to = ((stage * TILE + line) * PITCH + own) / 8;
      bool there = from + own < k && row + line < m;
      auto place = a(there ? row + line : 0, there ? from + own : 0, there);
      copy_async(left + to, whole<const Bytes16>(place), !there);
      there = from + own < k && column + line < n;
      place = b(there ? column + line : 0, there ? from + own : 0, there);
      copy_async(right + to, whole<const Bytes16>(place), !there);
    }
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
