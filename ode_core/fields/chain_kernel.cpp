// Chains of dense layers, evaluated and solved on a uniform grid, a block of samples at a time; see chain_kernel.py.
//
// A sample's numbers do not depend on its place: every row of a block is computed by the same instructions in the same
// order, and a block that is not full is computed as if it were. Widths of layers are multiples of 16.
// C++17 with the vectors of GCC and Clang; no library but the language's own.

#include <cstdint>
#include <cstring>
#include <new>

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 8, TILE = 32;
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 4, TILE = 16;
#else
constexpr int BYTES = 16, ROWS = 2, TILE = 16;
#endif
constexpr int BLOCK = 16, LANES = BYTES / sizeof(float);

typedef float Vector __attribute__((vector_size(BYTES), aligned(4), may_alias));

struct Layer {
    const float *weight;       // (inputs, outputs)
    const float *bias;         // (outputs)
    const float *time_weight;  // (outputs) or null
    int64_t inputs, outputs;
};

struct Chain {
    const Layer *layers;
    int64_t count, features, widest, activation;
};

double exponential(double x) {
    // 2^n e^r with |r| <= log(2)/2 and Taylor's polynomial, to a few units of 1e-16; NaN stays NaN.
    x = x < -700.0 ? -700.0 : x;
    x = x > 700.0 ? 700.0 : x;
    const double shifted = x * 1.4426950408889634 + 6755399441055744.0;
    int64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    const double n = shifted - 6755399441055744.0;
    const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    double sum = 1.0 / 6227020800.0;
    sum = sum * r + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    bits = static_cast<int64_t>(static_cast<uint64_t>(bits + 1023) << 52);
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return sum * power;
}

struct Relu {
    static float of(float x) { return x < 0.0f ? 0.0f : x; }
};
struct Tanh {
    static float of(float x) {
        const double size = x < 0.0f ? -static_cast<double>(x) : static_cast<double>(x);
        const double e = exponential(-2.0 * size), large = (1.0 - e) / (1.0 + e);
        const double value = size < 1e-4 ? size * (1.0 - size * size / 3.0) : large;  // where digits would cancel
        return static_cast<float>(x < 0.0f ? -value : value);
    }
};
struct Silu {
    static float of(float x) { return static_cast<float>(x / (1.0 + exponential(-static_cast<double>(x)))); }
};
struct Elu {
    static float of(float x) {
        const double wide = x, far = exponential(wide) - 1.0, near = wide * (1.0 + 0.5 * wide);
        return x > 0.0f ? x : static_cast<float>(wide > -1e-5 ? near : far);
    }
};

// Sixteen or thirty-two outputs of a block of rows.
template <int WIDTH>
inline void tile(const Layer &layer, int64_t first, const float *t, const float *in, int64_t in_stride, float *out,
                 int64_t out_stride) {
    constexpr int VECTORS = WIDTH / LANES;
    Vector sum[ROWS][VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
        const Vector bias = *reinterpret_cast<const Vector *>(layer.bias + first + v * LANES);
        for (int row = 0; row < ROWS; ++row) sum[row][v] = bias;
    }
    if (layer.time_weight != nullptr)
        for (int v = 0; v < VECTORS; ++v) {
            const Vector weight = *reinterpret_cast<const Vector *>(layer.time_weight + first + v * LANES);
            for (int row = 0; row < ROWS; ++row) sum[row][v] += weight * t[row];
        }
    const float *weights = layer.weight + first;
    for (int64_t k = 0; k < layer.inputs; ++k, weights += layer.outputs) {
        Vector weight[VECTORS];
        for (int v = 0; v < VECTORS; ++v) weight[v] = *reinterpret_cast<const Vector *>(weights + v * LANES);
        for (int row = 0; row < ROWS; ++row) {
            const float value = in[row * in_stride + k];
            for (int v = 0; v < VECTORS; ++v) sum[row][v] += weight[v] * value;
        }
    }
    for (int row = 0; row < ROWS; ++row)
        for (int v = 0; v < VECTORS; ++v)
            *reinterpret_cast<Vector *>(out + row * out_stride + first + v * LANES) = sum[row][v];
}

template <class Activation>
void apply(float *values, int64_t stride, int64_t width) {
    for (int row = 0; row < ROWS; ++row)
        for (int64_t i = 0; i < width; ++i) values[row * stride + i] = Activation::of(values[row * stride + i]);
}

// The slopes of a block of states; rows of `states` and `slopes` are `stride` apart.
template <class Activation>
void evaluate_block(const Chain &chain, const float *t, const float *states, float *slopes, int64_t stride,
                    float *hidden) {
    const float *in = states;
    int64_t in_stride = stride;
    for (int64_t i = 0; i < chain.count; ++i) {
        const Layer &layer = chain.layers[i];
        const bool last = i + 1 == chain.count;
        float *out = last ? slopes : hidden + (i % 2) * ROWS * chain.widest;
        const int64_t out_stride = last ? stride : chain.widest;
        int64_t first = 0;
        for (; first + TILE <= layer.outputs; first += TILE) tile<TILE>(layer, first, t, in, in_stride, out, out_stride);
        if (first < layer.outputs) tile<BLOCK>(layer, first, t, in, in_stride, out, out_stride);
        if (!last) apply<Activation>(out, out_stride, layer.outputs);
        in = out;
        in_stride = out_stride;
    }
}

struct Memory {
    explicit Memory(int64_t numbers)
        : values(static_cast<float *>(::operator new(numbers * sizeof(float), std::align_val_t(64)))) {
        std::memset(values, 0, numbers * sizeof(float));
    }
    ~Memory() { ::operator delete(values, std::align_val_t(64)); }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    float *values;
};

void copy_rows(const float *from, int64_t from_stride, float *to, int64_t to_stride, int64_t rows, int64_t width) {
    for (int64_t row = 0; row < rows; ++row)
        std::memcpy(to + row * to_stride, from + row * from_stride, width * sizeof(float));
}

int64_t rows_from(int64_t first, int64_t rows) { return rows - first < ROWS ? rows - first : ROWS; }

template <class Activation>
void evaluate(const Chain &chain, int64_t rows, const float *t, bool by_row, const float *z, float *out) {
    const int64_t stride = (chain.features + BLOCK - 1) / BLOCK * BLOCK;
    const Memory memory(2 * ROWS * (stride + chain.widest));
    float *states = memory.values, *slopes = states + ROWS * stride, *hidden = slopes + ROWS * stride;
    float times[ROWS] = {};
    for (int64_t first = 0; first < rows; first += ROWS) {
        const int64_t here = rows_from(first, rows);
        for (int row = 0; row < here; ++row) times[row] = by_row ? t[first + row] : t[0];
        copy_rows(z + first * chain.features, chain.features, states, stride, here, chain.features);
        evaluate_block<Activation>(chain, times, states, slopes, stride, hidden);
        copy_rows(slopes, stride, out + first * chain.features, chain.features, here, chain.features);
    }
}

void add_up(const float *z, const float *slopes, const float *weights, int64_t count, int64_t size, float *out) {
    for (int64_t i = 0; i < size; ++i) {
        float sum = z[i];
        for (int64_t j = 0; j < count; ++j)
            if (weights[j] != 0.0f) sum += weights[j] * slopes[j * size + i];
        out[i] = sum;
    }
}

template <class Activation>
void walk(const Chain &chain, int64_t rows, int64_t steps, int64_t stages, const float *a, const float *b,
          const float *times, float *z) {
    const int64_t stride = (chain.features + BLOCK - 1) / BLOCK * BLOCK, size = ROWS * stride;
    const Memory memory((2 + stages) * size + 2 * ROWS * chain.widest);
    float *state = memory.values, *stage = state + size, *slopes = stage + size, *hidden = slopes + stages * size;
    float t[ROWS];
    for (int64_t first = 0; first < rows; first += ROWS) {
        const int64_t here = rows_from(first, rows);
        copy_rows(z + first * chain.features, chain.features, state, stride, here, chain.features);
        for (int64_t step = 0; step < steps; ++step) {
            for (int64_t i = 0; i < stages; ++i) {
                for (int row = 0; row < ROWS; ++row) t[row] = times[step * stages + i];
                if (i > 0) add_up(state, slopes, a + i * stages, i, size, stage);
                evaluate_block<Activation>(chain, t, i > 0 ? stage : state, slopes + i * size, stride, hidden);
            }
            add_up(state, slopes, b, stages, size, state);
        }
        copy_rows(state, stride, z + first * chain.features, chain.features, here, chain.features);
    }
}

}  // namespace

extern "C" {

// `t` is one time, or one for each row where `by_row`.
void odeness_evaluate(const Chain *chain, int64_t rows, const float *t, int64_t by_row, const float *z, float *out) {
    switch (chain->activation) {
        case 0: return evaluate<Relu>(*chain, rows, t, by_row != 0, z, out);
        case 1: return evaluate<Tanh>(*chain, rows, t, by_row != 0, z, out);
        case 2: return evaluate<Silu>(*chain, rows, t, by_row != 0, z, out);
        case 3: return evaluate<Elu>(*chain, rows, t, by_row != 0, z, out);
    }
}

// Move `z` on by steps; `a` is (stages, stages) and `b` (stages), times the step's length, `times` (steps, stages).
void odeness_walk(const Chain *chain, int64_t rows, int64_t steps, int64_t stages, const float *a, const float *b,
                  const float *times, float *z) {
    switch (chain->activation) {
        case 0: return walk<Relu>(*chain, rows, steps, stages, a, b, times, z);
        case 1: return walk<Tanh>(*chain, rows, steps, stages, a, b, times, z);
        case 2: return walk<Silu>(*chain, rows, steps, stages, a, b, times, z);
        case 3: return walk<Elu>(*chain, rows, steps, stages, a, b, times, z);
    }
}
}
