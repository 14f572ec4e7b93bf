# What this processor, and the operating system on it, can run.

cdef extern from *:
    """
    #if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__))
    #define CLSTM_HAS(feature) (__builtin_cpu_supports(feature) != 0)
    #else
    #define CLSTM_HAS(feature) 0
    #endif
    /* One bit for each entry of FEATURES; the built-in also asks the system whether it saves the registers. */
    static int clstm_cpu_features(void) {
        return CLSTM_HAS("avx2") | CLSTM_HAS("fma") << 1 | CLSTM_HAS("bmi") << 2 | CLSTM_HAS("bmi2") << 3
             | CLSTM_HAS("avx512f") << 4 | CLSTM_HAS("avx512bw") << 5 | CLSTM_HAS("avx512cd") << 6
             | CLSTM_HAS("avx512dq") << 7 | CLSTM_HAS("avx512vl") << 8;
    }
    """
    int clstm_cpu_features()

FEATURES = ("avx2", "fma", "bmi", "bmi2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
REQUIRED = {"x86_64_v3": FEATURES[:4], "x86_64_v4": FEATURES}


def features():
    """Return the names of the instruction sets that can be used here."""
    cdef int bits = clstm_cpu_features()
    return tuple(name for n, name in enumerate(FEATURES) if bits >> n & 1)


def supports(isa):
    """Tell whether code built for a level of the x86-64 psABI runs here."""
    return set(REQUIRED[isa]) <= set(features())
