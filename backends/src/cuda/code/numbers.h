// Elements in memory as numbers, and the functions of kernels, for both bodies of the intrinsics.

struct boolean {
  unsigned char bits;
};

__device__ inline float widened(bf16 half) { return float_of(unsigned(half.bits) << 16); }

// Elements as f32 or f64.
template <class Number, class T>
__device__ inline Number get(T value) {
  return Number(value);
}
template <class Number>
__device__ inline Number get(bf16 value) {
  return Number(widened(value));
}
template <class Number>
__device__ inline Number get(f16 value) {
  return Number(widened(value));
}
template <class Number>
__device__ inline Number get(boolean value) {
  return value.bits ? Number(1) : Number(0);
}

// A double as a float that a second rounding, to fewer bits, rounds in the same way: inexact ones
// are odd.
__device__ inline float rounded_to_odd(double value) {
  const float near = float(value);
  if (value != value || double(near) == value) return near;
  unsigned bits = bits_of(near);
  const double size = value < 0 ? -value : value, own = near < 0 ? -double(near) : double(near);
  if (own > size) --bits;
  return float_of(bits | 1);
}
__device__ inline float rounded_to_odd(float value) { return value; }

// A number rounded once to an element type; whole numbers are cut off and kept inside their bounds.
template <class T>
struct Put;
template <>
struct Put<float> {
  template <class Number>
  __device__ static float of(Number value) {
    return float(value);
  }
};
template <>
struct Put<double> {
  template <class Number>
  __device__ static double of(Number value) {
    return double(value);
  }
};
template <>
struct Put<bf16> {
  template <class Number>
  __device__ static bf16 of(Number value) {
    return rounded_bf16(rounded_to_odd(value));
  }
};
template <>
struct Put<f16> {
  template <class Number>
  __device__ static f16 of(Number value) {
    return rounded_f16(rounded_to_odd(value));
  }
};
template <>
struct Put<int> {
  template <class Number>
  __device__ static int of(Number value) {
    if (value != value) return 0;
    if (value >= Number(2147483647.0)) return 2147483647;
    return value <= Number(-2147483648.0) ? -2147483647 - 1 : int(value);
  }
};
template <>
struct Put<unsigned char> {
  template <class Number>
  __device__ static unsigned char of(Number value) {
    if (!(value > Number(0))) return 0;
    return value >= Number(255) ? 255 : (unsigned char)(value);
  }
};
template <>
struct Put<boolean> {
  template <class Number>
  __device__ static boolean of(Number value) {
    return {(unsigned char)(value != Number(0))};
  }
};
template <class T, class Number>
__device__ inline T put(Number value) {
  return Put<T>::of(value);
}
// Rounded to an element type and widened again.
template <class T, class Number>
__device__ inline Number through(Number value) {
  return get<Number>(put<T>(value));
}

template <class Number>
__device__ inline Number larger(Number a, Number b) {
  return a > b || a != a ? a : b;
}
template <class Number>
__device__ inline Number smaller(Number a, Number b) {
  return a < b || a != a ? a : b;
}
// Whole numbers divided, the fraction cut off; by zero 0.
__device__ inline double quotient(double a, double b) { return b == 0.0 ? 0.0 : trunc(a / b); }
// x · σ(argument), without overflow on either side.
__device__ inline float times_sigmoid(float x, float argument) {
  const float power = expf(-fabsf(argument));
  const float share = (argument < 0.0f ? power : 1.0f) / (power + 1.0f);
  // The bound keeps 0·∞ out at −∞, where the share is 0.
  return larger(-200.0f, x) * share;
}
__device__ inline float silu(float x) { return times_sigmoid(x, x); }
// In the form with a tangent, whose argument is half that of the sigmoid.
__device__ inline float gelu(float x) {
  return times_sigmoid(x, x * (1.5957691f + 0.071354814f * x * x));
}

// Elements that are read and written together.
template <class T, int COUNT>
struct alignas(sizeof(T) * COUNT < 16 ? sizeof(T) * COUNT : 16) Chunk {
  T each[COUNT];
};
template <int COUNT, class Number, class T>
__device__ inline void load_wide(Number (&to)[COUNT], Global<const T> from) {
  constexpr int PIECE = 16 / int(sizeof(T)) < COUNT ? 16 / int(sizeof(T)) : COUNT;
  UNROLL for (int at = 0; at < COUNT; at += PIECE) {
    const Chunk<T, PIECE> piece = *whole<const Chunk<T, PIECE>>(from + at);
    UNROLL for (int e = 0; e < PIECE; ++e) to[at + e] = get<Number>(piece.each[e]);
  }
}
template <int COUNT, class Number, class T>
__device__ inline void store_wide(Global<T> to, const Number (&from)[COUNT]) {
  constexpr int PIECE = 16 / int(sizeof(T)) < COUNT ? 16 / int(sizeof(T)) : COUNT;
  UNROLL for (int at = 0; at < COUNT; at += PIECE) {
    Chunk<T, PIECE> piece;
    UNROLL for (int e = 0; e < PIECE; ++e) piece.each[e] = put<T>(from[at + e]);
    *whole<Chunk<T, PIECE>>(to + at) = piece;
  }
}

// The row of a table that `index` names; one that is not there is reported, and is row 0 instead.
// Of several, that of the smallest `place` is kept.
__device__ inline Size picked(int index, int rows, Global<unsigned long long> fault, Size place) {
  if (index >= 0 && index < rows) return index;
  lower(fault, (unsigned long long)(place) << 32 | unsigned(index));
  return 0;
}

// Sum and largest element over groups of LANES neighbouring lanes, in an order that is the same for
// each of them.
template <int LANES, class Number>
__device__ inline Number sum_of_lanes(Number value) {
  UNROLL for (int step = LANES / 2; step > 0; step /= 2)
      value += from_lane(value, int(threadIdx.x % 32) ^ step);
  return value;
}
template <int LANES, class Number>
__device__ inline Number largest_of_lanes(Number value) {
  UNROLL for (int step = LANES / 2; step > 0; step /= 2)
      value = larger(value, from_lane(value, int(threadIdx.x % 32) ^ step));
  return value;
}

// The same over a block of 256 threads, through shared memory of its own.
template <class Number, class Place>
__device__ inline Number sum_of_block(Number value, Place parts) {
  value = sum_of_lanes<32>(value);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  block_barrier();
  value = parts[0];
  UNROLL for (int warp = 1; warp < 8; ++warp) value += parts[warp];
  return value;
}
template <class Number, class Place>
__device__ inline Number largest_of_block(Number value, Place parts) {
  value = largest_of_lanes<32>(value);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  block_barrier();
  value = parts[0];
  UNROLL for (int warp = 1; warp < 8; ++warp) value = larger(value, parts[warp]);
  return value;
}
