// y[t] = decay * y[t - 1] + (1 - decay) * x[t]: x and y are [batch, steps, channels], decay is [channels].
// Called for the batches [begin, end); the loop over channels is the one that is vectorised.
static void ema(const float* x, const int64_t* x_sizes, const float* decay, const int64_t*, float* y, const int64_t*,
                bool reverse, int64_t begin, int64_t end) {
    const int64_t steps = x_sizes[1], channels = x_sizes[2];
    for (int64_t batch = begin; batch < end; batch++) {
        const float* in = x + batch * steps * channels;
        float* out = y + batch * steps * channels;
        const float* before = nullptr;
        for (int64_t i = 0; i < steps; i++) {
            const int64_t t = reverse ? steps - 1 - i : i;
            const float* now = in + t * channels;
            float* result = out + t * channels;
            for (int64_t c = 0; c < channels; c++)
                result[c] = (before ? decay[c] * before[c] : 0.0f) + (1.0f - decay[c]) * now[c];
            before = result;
        }
    }
}
