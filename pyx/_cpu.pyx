# What this processor, and the operating system on it, can run.

cdef extern from *:
    """
    #if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__))
    #include <cpuid.h>
    /* One bit for each entry of FEATURES: what the processor has, as far as the system saves the registers
     * that it needs.  __builtin_cpu_supports would do, but answers 0 to everything where the compiler comes
     * without its run-time part. */
    static int clstm_cpu_features(void)
    {
        unsigned a, b, c, d, state, high;
        int ymm, zmm, has;
        if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) /* OSXSAVE: xgetbv may be asked */
            return 0;
        __asm__ volatile("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
        ymm = (state & 0x06) == 0x06 && c >> 28 & 1; /* xmm, ymm; AVX itself */
        zmm = ymm && (state & 0xe0) == 0xe0;         /* mask registers, both halves of zmm */
        const int fma = ymm && c >> 12 & 1;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
            return 0;
    #define HAS(bit, place) ((int)(b >> (bit) & 1) << (place))
        has = (ymm ? HAS(5, 0) : 0) | fma << 1 | HAS(3, 2) | HAS(8, 3)
            | (zmm ? HAS(16, 4) | HAS(30, 5) | HAS(28, 6) | HAS(17, 7) | HAS(31, 8)
                   | (int)(c >> 11 & 1) << 9 : 0);
    #undef HAS
        if (ymm && __get_cpuid_count(7, 1, &a, &b, &c, &d))
            has |= (int)(a >> 4 & 1) << 10;
        return has;
    }
    #else
    static int clstm_cpu_features(void) { return 0; }
    #endif
    """
    int clstm_cpu_features()

FEATURES = (
    "avx2", "fma", "bmi", "bmi2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni",
    "avx_vnni",
)
REQUIRED = {"x86_64_v3": FEATURES[:4], "x86_64_v4": FEATURES[:9]}


def features():
    """Return the names of the instruction sets that can be used here."""
    cdef int bits = clstm_cpu_features()
    return tuple(name for n, name in enumerate(FEATURES) if bits >> n & 1)


def supports(isa):
    """Tell whether code built for a level of the x86-64 psABI runs here."""
    return set(REQUIRED[isa]) <= set(features())
