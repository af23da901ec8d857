// Row loops, compiled once per tier. Everything here is static and calls no inline function of another
// header, so that no code of a higher tier can be taken for that of a lower one by the linker.

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "rondo/kernels/cpu/rows.h"

#define RONDO_ALWAYS_INLINE static inline __attribute__((always_inline))

namespace rondo::kernels::RONDO_TIER {

namespace {

// Sums of this many float32 terms are carried on in double.
constexpr std::int64_t kFloatTerms = 512;

RONDO_ALWAYS_INLINE float widen_one(bfloat16 x) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(x.bits) << 16);
}

/// to_bfloat16 without branches.
RONDO_ALWAYS_INLINE std::uint16_t narrow_one(float x) {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40u;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

/// exp to about 1e-7 relative: x = n ln 2 + r with |r| <= ln 2 / 2, and Taylor's polynomial of degree 7 of r
/// (remainder 5e-9). 0 below -87 (there float32 runs out of normal numbers), exp(88) above 88; NaN stays NaN.
RONDO_ALWAYS_INLINE float exp_one(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  constexpr float kLn2High = 0.693359375f,
                  kLn2Low = -2.12194440e-4f;  // the high part has 10 bits: n times it is exact
  const float top = x > 88.0f ? 88.0f : x;
  const float within = top < -87.0f ? -87.0f : top;
  const float shifted = within * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (within - n * kLn2High) - n * kLn2Low;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const float power =
      __builtin_bit_cast(float, (__builtin_bit_cast(std::uint32_t, shifted) << 23) + 0x3f800000u);
  return x < -87.0f ? 0.0f : p * power;
}

RONDO_ALWAYS_INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_one(-x)); }

RONDO_ALWAYS_INLINE std::int64_t end_of(std::int64_t begin, std::int64_t n) {
  return begin + kFloatTerms < n ? begin + kFloatTerms : n;
}

void widen(const bfloat16* x, float* y, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i] = widen_one(x[i]);
}

void narrow(const float* x, bfloat16* y, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i].bits = narrow_one(x[i]);
}

void add(const float* x, float* y, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i] += x[i];
}

RONDO_ALWAYS_INLINE float number(float x) { return x; }
RONDO_ALWAYS_INLINE float number(bfloat16 x) { return widen_one(x); }
RONDO_ALWAYS_INLINE void put(float& to, float x) { to = x; }
RONDO_ALWAYS_INLINE void put(bfloat16& to, float x) { to.bits = narrow_one(x); }

// Sums run over four quarters at once: one sum alone would wait for each of its additions.
template <class T>
double sum_of_squares(const T* x, std::int64_t n) {
  const std::int64_t quarter = n / 4;
  const T *second = x + quarter, *third = second + quarter, *fourth = third + quarter;
  const auto square = [](float value) __attribute__((always_inline)) {
    return static_cast<double>(value) * static_cast<double>(value);
  };
  double a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
  for (std::int64_t i = 0; i < quarter; ++i) {
    a += square(number(x[i])), b += square(number(second[i]));
    c += square(number(third[i])), d += square(number(fourth[i]));
  }
  for (std::int64_t i = 4 * quarter; i < n; ++i) a += square(number(x[i]));
  return (a + b) + (c + d);
}

template <class T>
double dot3(const T* x, const T* w, const float* dy, std::int64_t n) {
  double sum = 0;
  for (std::int64_t begin = 0; begin < n; begin += kFloatTerms) {
    const std::int64_t end = end_of(begin, n), half = begin + (end - begin) / 2, other = half - begin;
    float a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (std::int64_t i = begin; i < half; ++i) {
      a += number(x[i]) * number(w[i]) * dy[i];
      b += number(x[i + other]) * number(w[i + other]) * dy[i + other];
    }
    for (std::int64_t i = half + other; i < end; ++i) a += number(x[i]) * number(w[i]) * dy[i];
    sum += static_cast<double>(a + b);
  }
  return sum;
}

template <class T>
void rms_forward(const T* x, const T* w, float s, T* y, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) put(y[i], number(x[i]) * s * number(w[i]));
}

template <class T, bool kAdd>
void rms_backward(const T* x, const T* w, const float* dy, const float s_c[2], float* dx, float* dw,
                  std::int64_t n) {
  const float s = s_c[0], c = s_c[1];
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float gradient = dy[i] * s, value = number(x[i]);
    dw[i] += gradient * value;
    const float result = gradient * number(w[i]) - value * c;
    dx[i] = kAdd ? dx[i] + result : result;
  }
}

template <class T>
void rotate_halves(T* a, T* b, const float* cos_sin[2], float sign, std::int64_t n) {
  const float *cos = cos_sin[0], *sin = cos_sin[1];
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float s = sign * sin[i], c = cos[i], left = number(a[i]), right = number(b[i]);
    put(a[i], left * c - right * s);
    put(b[i], right * c + left * s);
  }
}

template <class T>
void rotate_interleaved(T* x, const float* cos_sin[2], float sign, std::int64_t n) {
  const float *cos = cos_sin[0], *sin = cos_sin[1];
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float s = sign * sin[i], c = cos[i], left = number(x[2 * i]), right = number(x[2 * i + 1]);
    put(x[2 * i], left * c - right * s);
    put(x[2 * i + 1], right * c + left * s);
  }
}

template <class T>
void swiglu_forward(const T* gate, const T* up, T* y, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = number(gate[i]);
    put(y[i], g * sigmoid(g) * number(up[i]));
  }
}

template <class T>
void swiglu_backward(const T* gate, const T* up, const T* dy, T* const dgate_dup_y[3], std::int64_t n) {
  T *dgate = dgate_dup_y[0], *dup = dgate_dup_y[1], *y = dgate_dup_y[2];
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = number(gate[i]), u = number(up[i]), d = number(dy[i]), s = sigmoid(g);
    put(y[i], g * s * u);
    put(dup[i], d * g * s);
    put(dgate[i], d * u * s * (1.0f + g * (1.0f - s)));
  }
}

template <class T>
constexpr StoredRows<T> kStoredRows = {.sum_of_squares = sum_of_squares<T>,
                                       .dot3 = dot3<T>,
                                       .rms_forward = rms_forward<T>,
                                       .rms_backward = rms_backward<T, false>,
                                       .rms_backward_add = rms_backward<T, true>,
                                       .rotate_halves = rotate_halves<T>,
                                       .rotate_interleaved = rotate_interleaved<T>,
                                       .swiglu_forward = swiglu_forward<T>,
                                       .swiglu_backward = swiglu_backward<T>};

float maximum(const float* x, std::int64_t n) {
  float most = -__builtin_inff();
#pragma omp simd reduction(max : most)
  for (std::int64_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

template <bool in_place, class Float>
RONDO_ALWAYS_INLINE double sum_of_exp(Float* x, float most, std::int64_t n) {
  double sum = 0;
  for (std::int64_t begin = 0; begin < n; begin += kFloatTerms) {
    const std::int64_t end = end_of(begin, n);
    float part = 0;
#pragma omp simd reduction(+ : part)
    for (std::int64_t i = begin; i < end; ++i) {
      const float e = exp_one(x[i] - most);
      if constexpr (in_place) x[i] = e;
      part += e;
    }
    sum += static_cast<double>(part);
  }
  return sum;
}
double sum_exp(const float* x, float most, std::int64_t n) { return sum_of_exp<false>(x, most, n); }
double exp_in_place(float* x, float most, std::int64_t n) { return sum_of_exp<true>(x, most, n); }

void scale(float* x, float s, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) x[i] *= s;
}

double dot(const float* x, const float* y, std::int64_t n) {
  double sum = 0;
  for (std::int64_t begin = 0; begin < n; begin += kFloatTerms) {
    const std::int64_t end = end_of(begin, n);
    float part = 0;
#pragma omp simd reduction(+ : part)
    for (std::int64_t i = begin; i < end; ++i) part += x[i] * y[i];
    sum += static_cast<double>(part);
  }
  return sum;
}

void softmax_backward(const float* p, float delta, float s, float* dp, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) dp[i] = p[i] * (dp[i] - delta) * s;
}

void adamw(const AdamWRow& step, float* parameters, const float* gradients, float* first, float* second,
           std::int64_t n) {
  const AdamWRow k = step;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = gradients[i] * k.gradient_scale;
    const float m = k.beta1 * first[i] + k.one_minus_beta1 * g;
    const float v = k.beta2 * second[i] + k.one_minus_beta2 * g * g;
    const float root = __builtin_sqrtf(v) * k.inverse_root_correction;
    first[i] = m;
    second[i] = v;
    parameters[i] = parameters[i] * k.keep - k.step_size * m / (root + k.epsilon);
  }
}

#if defined(__AVX512F__)
typedef float Vector __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef float Vector __attribute__((vector_size(32)));
#else
typedef float Vector __attribute__((vector_size(16)));
#endif
constexpr std::int64_t kLanes = sizeof(Vector) / sizeof(float);

/// Twelve sums, enough to hide the latency of one. Single variables: an array of them is kept in memory by
/// g++ 12.
float multiply_add(std::int64_t rounds) {
  const Vector factor = Vector{} + 0.5f, term = Vector{} + 0.25f;
  Vector a = Vector{} + 1.0f, b = a + 1.0f, c = b + 1.0f, d = c + 1.0f, e = d + 1.0f, f = e + 1.0f,
         g = f + 1.0f, h = g + 1.0f, i = h + 1.0f, j = i + 1.0f, k = j + 1.0f, l = k + 1.0f;
  for (std::int64_t round = 0; round < rounds; ++round) {
    a = a * factor + term, b = b * factor + term, c = c * factor + term, d = d * factor + term;
    e = e * factor + term, f = f * factor + term, g = g * factor + term, h = h * factor + term;
    i = i * factor + term, j = j * factor + term, k = k * factor + term, l = l * factor + term;
  }
  const Vector total = ((a + b) + (c + d)) + ((e + f) + (g + h)) + ((i + j) + (k + l));
  return total[0];
}

#if defined(__AVX512BF16__)
/// The same with products of bfloat16 pairs, four operations a lane. Sixteen sums: its latency is longer.
float multiply_add_pairs(std::int64_t rounds) {
  const auto factor = (__m512bh)_mm512_set1_epi32(0x3f003f00);  // pairs of 0.5
  // All different: equal chains would be computed once.
  __m512 a = _mm512_set1_ps(1.0f), b = a + 1.0f, c = b + 1.0f, d = c + 1.0f, e = d + 1.0f, f = e + 1.0f,
         g = f + 1.0f, h = g + 1.0f, i = h + 1.0f, j = i + 1.0f, k = j + 1.0f, l = k + 1.0f, m = l + 1.0f,
         n = m + 1.0f, o = n + 1.0f, p = o + 1.0f;
  for (std::int64_t round = 0; round < rounds; ++round) {
    const auto dot = [factor](__m512& sum) { sum = _mm512_dpbf16_ps(sum, factor, factor); };
    dot(a), dot(b), dot(c), dot(d), dot(e), dot(f), dot(g), dot(h);
    dot(i), dot(j), dot(k), dot(l), dot(m), dot(n), dot(o), dot(p);
  }
  const __m512 total =
      (((a + b) + (c + d)) + ((e + f) + (g + h))) + (((i + j) + (k + l)) + ((m + n) + (o + p)));
  return total[0];
}
constexpr std::int64_t kPairFlops = 16 * kLanes * 4;
#else
constexpr auto multiply_add_pairs = multiply_add;
constexpr std::int64_t kPairFlops = 12 * kLanes * 2;
#endif

/// Whole numbers: reading must not depend on what the bits would mean as floating point.
typedef std::uint32_t Words __attribute__((vector_size(sizeof(Vector)), aligned(4), may_alias));

/// Four places are read in turn: one after the other alone does not keep enough reads under way.
std::uint32_t read_sum(const std::byte* x, std::int64_t bytes) {
  constexpr std::int64_t size = sizeof(Words);
  const std::int64_t part = bytes / 4 / (2 * size) * (2 * size);
  const std::byte *p0 = x, *p1 = x + part, *p2 = p1 + part, *p3 = p2 + part;
  const auto at = [](const std::byte* from) { return *reinterpret_cast<const Words*>(from); };
  Words a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{};
  for (std::int64_t i = 0; i < part; i += 2 * size) {
    a += at(p0 + i), b += at(p1 + i), c += at(p2 + i), d += at(p3 + i);
    e += at(p0 + i + size), f += at(p1 + i + size), g += at(p2 + i + size), h += at(p3 + i + size);
  }
  const Words total = ((a + b) + (c + d)) + ((e + f) + (g + h));
  std::uint32_t sum = 0;
  for (std::int64_t lane = 0; lane < size / 4; ++lane) sum += total[lane];
  for (std::int64_t i = 4 * part; i + 4 <= bytes; i += 4) {
    std::uint32_t word;
    __builtin_memcpy(&word, x + i, sizeof(word));
    sum += word;
  }
  return sum;
}

}  // namespace

extern const ProductKernels kProductKernels;

const RowKernels& row_kernels();
const RowKernels& row_kernels() {
  static constexpr RowKernels kTable = {
      .widen = widen,
      .narrow = narrow,
      .add = add,
      .f32 = kStoredRows<float>,
      .bf16 = kStoredRows<bfloat16>,
      .maximum = maximum,
      .sum_exp = sum_exp,
      .exp_in_place = exp_in_place,
      .scale = scale,
      .dot = dot,
      .softmax_backward = softmax_backward,
      .adamw = adamw,
      .multiply_add = multiply_add,
      .multiply_add_flops = 12 * kLanes * 2,
      .multiply_add_pairs = multiply_add_pairs,
      .multiply_add_pairs_flops = kPairFlops,
      .products = &kProductKernels,
      .read_sum = read_sum,
  };
  return kTable;
}

}  // namespace rondo::kernels::RONDO_TIER
