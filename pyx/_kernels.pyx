# The kernels: forward, backward and step of one layer in one direction, a whole sequence a call.  The equations and their
# numbers are those of src/clstm/reference.py, which has the same functions with the same arguments.
#
# Arguments are checked by the caller (_check.py); sizes are read from the views.  The last axis of every array is contiguous.
# Each entry gathers rows into dense, aligned, zero-padded workspaces, computes there without the GIL, and scatters the results.
#
# Notation
#   V            numbers in a vector; P = ceil(H / V) panels cover the hidden units, Hp = P V of them with padding
#   panel        the weights of V units, all four gates side by side: rows (k) of [i f g o] x V numbers
#   z            pre-activations, later gates, of one row: P x [i f g o] x V
#   row          place in a workspace: sequences ordered by length, longest first, so that those still running are a prefix
#   s, t         step in the order of computation; time index (they differ in the reverse direction)
#   IN, OUT      what a pointer argument is read or written for

from libc.string cimport memcpy, memset

cdef extern from "simd.h" nogil:
    # Vectors are declared as numbers, so that formulas can be written; C then works on all lanes at once.
    ctypedef float vec_f32 "clstm_vec_f32"
    ctypedef double vec_f64 "clstm_vec_f64"
    enum:
        CLSTM_VECTOR_BYTES
        LANES_F32 "clstm_LANES_f32"
        LANES_F64 "clstm_LANES_f64"
    vec_f32 broadcast_f32 "clstm_broadcast_f32"(float x)
    vec_f64 broadcast_f64 "clstm_broadcast_f64"(double x)
    vec_f32 madd_f32 "clstm_madd_f32"(vec_f32 a, vec_f32 b, vec_f32 c)
    vec_f64 madd_f64 "clstm_madd_f64"(vec_f64 a, vec_f64 b, vec_f64 c)
    vec_f32 tanh_f32 "clstm_tanh_f32"(vec_f32 x)
    vec_f64 tanh_f64 "clstm_tanh_f64"(vec_f64 x)
    vec_f32 sigmoid_f32 "clstm_sigmoid_f32"(vec_f32 x)
    vec_f64 sigmoid_f64 "clstm_sigmoid_f64"(vec_f64 x)
    Py_ssize_t tile_rows "clstm_tile_rows"(Py_ssize_t width)
    void tile_f32 "clstm_tile_f32"(Py_ssize_t rows, Py_ssize_t width, const float *a, Py_ssize_t a_row, Py_ssize_t a_step,
                                   const float *panel, Py_ssize_t next_panel, Py_ssize_t depth,
                                   float *sums, Py_ssize_t sums_row)
    void tile_f64 "clstm_tile_f64"(Py_ssize_t rows, Py_ssize_t width, const double *a, Py_ssize_t a_row, Py_ssize_t a_step,
                                   const double *panel, Py_ssize_t next_panel, Py_ssize_t depth,
                                   double *sums, Py_ssize_t sums_row)
    void accumulate_f32 "clstm_accumulate_f32"(const float *a, const float *rows, Py_ssize_t depth, Py_ssize_t n, float *z)
    void accumulate_f64 "clstm_accumulate_f64"(const double *a, const double *rows, Py_ssize_t depth, Py_ssize_t n, double *z)
    void *clstm_alloc(size_t size)
    bint clstm_free(void *block)

ctypedef fused floating:
    float
    double

ctypedef fused vec:
    vec_f32
    vec_f64

VECTOR_BYTES = CLSTM_VECTOR_BYTES

# Rows that are projected, or whose gradients are accumulated, at once: enough to reuse each weight that is loaded, few enough
# to stay in the caches.
cdef enum:
    CHUNK_ROWS = 192


# ------------------------------------------------------------------------------------------- one name for both types

cdef inline vec constant(double x, vec like) noexcept nogil:
    if vec is vec_f32:
        return broadcast_f32(<float> x)
    else:
        return broadcast_f64(x)


cdef inline vec madd(vec a, vec b, vec c) noexcept nogil:
    if vec is vec_f32:
        return madd_f32(a, b, c)
    else:
        return madd_f64(a, b, c)


cdef inline vec vec_tanh(vec x) noexcept nogil:
    if vec is vec_f32:
        return tanh_f32(x)
    else:
        return tanh_f64(x)


cdef inline vec vec_sigmoid(vec x) noexcept nogil:
    if vec is vec_f32:
        return sigmoid_f32(x)
    else:
        return sigmoid_f64(x)


cdef inline Py_ssize_t lanes(const floating *like) noexcept nogil:
    return LANES_F32 if floating is float else LANES_F64


# ------------------------------------------------------------------------------- the point-wise part, V units at a time

cdef inline void cell_forward(vec *z, vec *c, vec *h) noexcept nogil:
    """Steps 2 to 4: z (IN pre-activations, OUT gates), c (IN c_prev, OUT c_t), h (OUT)."""
    cdef vec i = vec_sigmoid(z[0])
    cdef vec f = vec_sigmoid(z[1])
    cdef vec g = vec_tanh(z[2])
    cdef vec o = vec_sigmoid(z[3])
    cdef vec c_t = madd(f, c[0], i * g)
    z[0], z[1], z[2], z[3] = i, f, g, o
    c[0] = c_t
    h[0] = o * vec_tanh(c_t)


cdef inline void cell_backward(const vec *gates, const vec *c, const vec *c_prev, const vec *dh,
                               vec *dc_carry, vec *dz) noexcept nogil:
    """Steps 4' to 2': dc_carry (IN dc_next * f_next, OUT dc * f), dz (OUT)."""
    cdef vec i = gates[0]
    cdef vec f = gates[1]
    cdef vec g = gates[2]
    cdef vec o = gates[3]
    cdef vec one = constant(1.0, i)
    cdef vec tanh_c = vec_tanh(c[0])
    cdef vec do = dh[0] * tanh_c
    cdef vec dc = madd(dh[0] * o, one - tanh_c * tanh_c, dc_carry[0])
    dz[0] = (dc * g) * (i * (one - i))
    dz[1] = (dc * c_prev[0]) * (f * (one - f))
    dz[2] = (dc * i) * (one - g * g)
    dz[3] = do * (o * (one - o))
    dc_carry[0] = dc * f


cdef inline void forward_units(floating *z, floating *c, floating *h) noexcept nogil:
    if floating is float:
        cell_forward(<vec_f32 *> z, <vec_f32 *> c, <vec_f32 *> h)
    else:
        cell_forward(<vec_f64 *> z, <vec_f64 *> c, <vec_f64 *> h)


cdef inline void backward_units(const floating *gates, const floating *c, const floating *c_prev, const floating *dh,
                                floating *dc_carry, floating *dz) noexcept nogil:
    if floating is float:
        cell_backward(<const vec_f32 *> gates, <const vec_f32 *> c, <const vec_f32 *> c_prev, <const vec_f32 *> dh,
                      <vec_f32 *> dc_carry, <vec_f32 *> dz)
    else:
        cell_backward(<const vec_f64 *> gates, <const vec_f64 *> c, <const vec_f64 *> c_prev, <const vec_f64 *> dh,
                      <vec_f64 *> dc_carry, <vec_f64 *> dz)


# ------------------------------------------------------------------------------------------------------- the products

cdef void multiply(const floating *a, Py_ssize_t rows, Py_ssize_t a_row, Py_ssize_t a_step, const floating *panels,
                   Py_ssize_t vectors, Py_ssize_t depth, floating *sums, Py_ssize_t sums_row) noexcept nogil:
    """sums[r, v] += sum over k of a[r, k] * panels[k, v], k in order.

    a       IN      (rows, depth), element (r, k) at a[r * a_row + k * a_step]
    panels  IN      `vectors` columns of vectors in panels of four (the last may be narrower), each (depth, width)
    sums    IN/OUT  (rows, vectors), rows sums_row apart
    """
    cdef Py_ssize_t V = lanes(a)
    cdef Py_ssize_t v = 0, r, width, height
    while v < vectors:
        width = 8 if rows == 1 and vectors - v >= 8 else min(4, vectors - v)
        height = 1 if width == 8 else tile_rows(width)
        r = 0
        while r < rows:
            if floating is float:
                tile_f32(min(height, rows - r), width, a + r * a_row, a_row, a_step, panels + v * V * depth,
                         4 * V * depth, depth, sums + r * sums_row + v * V, sums_row)
            else:
                tile_f64(min(height, rows - r), width, a + r * a_row, a_row, a_step, panels + v * V * depth,
                         4 * V * depth, depth, sums + r * sums_row + v * V, sums_row)
            r += height
        v += width


cdef void recur(const floating *h_prev, const floating *panels, Py_ssize_t rows, Py_ssize_t H, Py_ssize_t P, bint descending,
                floating *z, floating *c, floating *h) noexcept nogil:
    """One forward step of the running rows: the recurrent product of 1, and 2 to 4 while its tile is in the nearest cache.

    Walking the panels up and down on alternate steps re-uses what the last step left in the cache.
    h_prev IN (rows, Hp); panels IN (P, H, 4V); z IN projection of x, OUT gates (rows, P, 4, V); c IN/OUT, h OUT (rows, Hp)
    """
    cdef Py_ssize_t V = lanes(h_prev)
    cdef Py_ssize_t group = 2 if rows == 1 else 1
    cdef Py_ssize_t groups = (P + group - 1) // group
    cdef Py_ssize_t height = tile_rows(4)
    cdef Py_ssize_t n, p, r, q, first, count
    for n in range(groups):
        first = group * (groups - 1 - n if descending else n)
        count = min(group, P - first)
        r = 0
        while r < rows:
            multiply(h_prev + r * P * V, min(height, rows - r), P * V, 1, panels + first * H * 4 * V, 4 * count, H,
                     z + (r * P + first) * 4 * V, P * 4 * V)
            for q in range(r, min(r + height, rows)):
                for p in range(first, first + count):
                    forward_units(z + (q * P + p) * 4 * V, c + (q * P + p) * V, h + (q * P + p) * V)
            r += height


# ------------------------------------------------------------------------------------------- layouts, gather and scatter

cdef inline void copy_lanes(floating *to, const floating *source, Py_ssize_t n) noexcept nogil:
    """Copy a vector, or its first n numbers at the end of a row."""
    cdef Py_ssize_t lane
    if n >= lanes(source):
        memcpy(to, source, lanes(source) * sizeof(floating))
    else:
        for lane in range(n):
            to[lane] = source[lane]


cdef void pack_row(const floating *row, Py_ssize_t H, Py_ssize_t stride, floating *to) noexcept nogil:
    """Regroup a row (4H,) of gate blocks into P x [i f g o] x V, `stride` apart; padding becomes 0."""
    cdef Py_ssize_t V = lanes(row)
    cdef Py_ssize_t p, g, n
    for p in range((H + V - 1) // V):
        n = min(V, H - p * V)
        for g in range(4):
            if n < V:
                memset(to + p * stride + g * V, 0, V * sizeof(floating))
            copy_lanes(to + p * stride + g * V, row + g * H + p * V, n)


cdef void unpack_row(const floating *z, Py_ssize_t H, floating *to) noexcept nogil:
    """The inverse of `pack_row` with stride 4V."""
    cdef Py_ssize_t V = lanes(z)
    cdef Py_ssize_t p, g
    for g in range(4):
        for p in range((H + V - 1) // V):
            copy_lanes(to + g * H + p * V, z + (p * 4 + g) * V, H - p * V)


cdef void pack(const floating *W, Py_ssize_t depth, Py_ssize_t H, floating *panels) noexcept nogil:
    """Weights (depth, 4H) into panels (P, depth, 4V)."""
    cdef Py_ssize_t k
    for k in range(depth):
        pack_row(W + k * 4 * H, H, depth * 4 * lanes(W), panels + k * 4 * lanes(W))


cdef void pack_transposed(const floating *W, Py_ssize_t rows, Py_ssize_t H, floating *panels) noexcept nogil:
    """Weights (rows, 4H) transposed into panels of up to 4 V columns, (4Hp, width); padding becomes 0."""
    cdef Py_ssize_t V = lanes(W)
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef Py_ssize_t first, count, width, p, g, lane, u
    cdef floating *to
    memset(panels, 0, (rows + V - 1) // V * V * 4 * P * V * sizeof(floating))
    first = 0
    while first < rows:
        count = min(4 * V, rows - first)
        width = (count + V - 1) // V * V
        to = panels + first * 4 * P * V
        for p in range(P):
            for g in range(4):
                for lane in range(min(V, H - p * V)):
                    for u in range(count):
                        to[((p * 4 + g) * V + lane) * width + u] = W[(first + u) * 4 * H + g * H + p * V + lane]
        first += 4 * V


# ------------------------------------------------------------------------------------------------- memory and schedule

cdef struct Workspace:
    void *blocks[16]
    Py_ssize_t count
    bint failed


cdef void *take(Workspace *workspace, Py_ssize_t size) noexcept nogil:
    """Return an aligned block of `size` bytes that `release` frees; on failure NULL, and workspace.failed."""
    cdef void *block = clstm_alloc(size)
    if block == NULL:
        workspace.failed = True
    workspace.blocks[workspace.count] = block
    workspace.count += 1
    return block


cdef int release(Workspace *workspace) except -1:
    """Free all blocks; raise if one could not be had or (debug build) if something was written behind one."""
    cdef Py_ssize_t n
    cdef bint intact = True
    for n in range(workspace.count):
        if not clstm_free(workspace.blocks[n]):
            intact = False
    if workspace.failed:
        raise MemoryError("not enough memory for the workspace of an LSTM layer")
    if not intact:
        raise SystemError("a kernel wrote beyond its workspace")
    return 0


cdef struct Schedule:
    Py_ssize_t steps        # of the longest row
    Py_ssize_t *order       # (B,) batch index of each workspace row, longest first, equal lengths in batch order
    Py_ssize_t *active      # (steps + 1,) rows that take part in step s: the first active[s]


cdef Schedule plan(const Py_ssize_t[::1] lengths, Workspace *workspace) noexcept nogil:
    """Order the rows by a counting sort.  Nothing is written if memory ran out."""
    cdef Schedule schedule
    cdef Py_ssize_t B = lengths.shape[0]
    cdef Py_ssize_t b, s, place
    cdef Py_ssize_t *starts
    schedule.steps = 0
    for b in range(B):
        schedule.steps = max(schedule.steps, lengths[b])
    schedule.order = <Py_ssize_t *> take(workspace, B * sizeof(Py_ssize_t))
    schedule.active = <Py_ssize_t *> take(workspace, (schedule.steps + 1) * sizeof(Py_ssize_t))
    starts = <Py_ssize_t *> take(workspace, (schedule.steps + 1) * sizeof(Py_ssize_t))
    if workspace.failed:
        return schedule
    memset(schedule.active, 0, (schedule.steps + 1) * sizeof(Py_ssize_t))
    for b in range(B):
        if lengths[b] > 0:
            schedule.active[lengths[b] - 1] += 1
    for s in range(schedule.steps - 1, -1, -1):     # rows longer than s: those that end at s or later
        schedule.active[s] += schedule.active[s + 1]
    memcpy(starts, schedule.active, (schedule.steps + 1) * sizeof(Py_ssize_t))
    for b in range(B):                              # rows longer than lengths[b] come before b
        place = starts[lengths[b]]
        starts[lengths[b]] += 1
        schedule.order[place] = b
    return schedule


cdef Py_ssize_t chunk_end(const Schedule *schedule, Py_ssize_t start, Py_ssize_t *rows) noexcept nogil:
    """Return the step after those that are taken together with step `start`; rows (OUT) is the number of their rows."""
    cdef Py_ssize_t s = start
    rows[0] = 0
    while s < schedule.steps and (s == start or rows[0] + schedule.active[s] <= CHUNK_ROWS):
        rows[0] += schedule.active[s]
        s += 1
    return s


cdef inline Py_ssize_t time_index(Py_ssize_t length, Py_ssize_t s, bint reverse) noexcept nogil:
    return length - 1 - s if reverse else s


cdef void zero_padding(floating[:, :, :] sequence, const Py_ssize_t[::1] lengths) noexcept nogil:
    """Set a result (T, B, n) to 0 beyond each row's length."""
    cdef Py_ssize_t t, b
    for t in range(sequence.shape[0]):
        for b in range(sequence.shape[1]):
            if t >= lengths[b]:
                memset(&sequence[t, b, 0], 0, sequence.shape[2] * sizeof(floating))


# ------------------------------------------------------------------------------------------------------------ the entries

def forward(
    const floating[:, :, :] x not None,             # IN   (T, B, I)
    const floating[:, ::1] W_x not None,            # IN   (I, 4H)
    const floating[:, ::1] W_h not None,            # IN   (H, 4H)
    const floating[::1] bias not None,              # IN   (4H,)
    const floating[:, ::1] h_0 not None,            # IN   (B, H)
    const floating[:, ::1] c_0 not None,            # IN   (B, H)
    const Py_ssize_t[::1] lengths not None,         # IN   (B,)
    bint reverse,
    floating[:, :, :] y not None,                   # OUT  (T, B, H)
    floating[:, :, ::1] gates,                      # OUT  (T, B, 4H) or None
    floating[:, :, ::1] c,                          # OUT  (T, B, H) or None
    floating[:, ::1] h_n not None,                  # OUT  (B, H)
    floating[:, ::1] c_n not None,                  # OUT  (B, H)
):
    """Run one layer in one direction over whole sequences; see `clstm.reference.forward`."""
    cdef Py_ssize_t B = x.shape[1], I = x.shape[2], H = W_h.shape[0]
    cdef Workspace workspace
    workspace.count = 0
    workspace.failed = False
    with nogil:
        zero_padding(y, lengths)
        if B > 0:
            forward_rows(x, W_x, W_h, bias, h_0, c_0, lengths, reverse, y, gates, c, h_n, c_n, B, I, H, &workspace)
    release(&workspace)


cdef void forward_rows(
    const floating[:, :, :] x, const floating[:, ::1] W_x, const floating[:, ::1] W_h, const floating[::1] bias,
    const floating[:, ::1] h_0, const floating[:, ::1] c_0, const Py_ssize_t[::1] lengths, bint reverse,
    floating[:, :, :] y, floating[:, :, ::1] gates, floating[:, :, ::1] c, floating[:, ::1] h_n, floating[:, ::1] c_n,
    Py_ssize_t B, Py_ssize_t I, Py_ssize_t H, Workspace *workspace,
) noexcept nogil:
    cdef Py_ssize_t V = lanes(&bias[0])
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef Py_ssize_t Hp = P * V
    cdef Py_ssize_t most = max(B, CHUNK_ROWS)
    cdef bint keep = gates is not None and c is not None
    cdef Schedule schedule = plan(lengths, workspace)
    cdef floating *panels_x = <floating *> take(workspace, I * 4 * Hp * sizeof(floating))
    cdef floating *panels_h = <floating *> take(workspace, H * 4 * Hp * sizeof(floating))
    cdef floating *bias_z = <floating *> take(workspace, 4 * Hp * sizeof(floating))
    cdef floating *chunk_x = <floating *> take(workspace, most * I * sizeof(floating))
    cdef floating *chunk_z = <floating *> take(workspace, most * 4 * Hp * sizeof(floating))
    cdef floating *states = <floating *> take(workspace, 3 * B * Hp * sizeof(floating))
    cdef floating *cell = states
    cdef floating *hidden[2]
    cdef floating *h
    cdef floating *z
    cdef Py_ssize_t start, end, rows, row, r, b, s, t
    if workspace.failed:
        return
    hidden[0] = states + B * Hp
    hidden[1] = states + 2 * B * Hp

    pack(&W_x[0, 0], I, H, panels_x)
    pack(&W_h[0, 0], H, H, panels_h)
    pack_row(&bias[0], H, 4 * V, bias_z)
    memset(states, 0, 3 * B * Hp * sizeof(floating))
    for r in range(B):
        b = schedule.order[r]
        memcpy(hidden[0] + r * Hp, &h_0[b, 0], H * sizeof(floating))
        memcpy(cell + r * Hp, &c_0[b, 0], H * sizeof(floating))
        if lengths[b] == 0:
            memcpy(&h_n[b, 0], &h_0[b, 0], H * sizeof(floating))
            memcpy(&c_n[b, 0], &c_0[b, 0], H * sizeof(floating))

    start = 0
    while start < schedule.steps:
        # 1, the part of x: for all steps of the chunk at once.
        end = chunk_end(&schedule, start, &rows)
        row = 0
        for s in range(start, end):
            for r in range(schedule.active[s]):
                b = schedule.order[r]
                memcpy(chunk_x + row * I, &x[time_index(lengths[b], s, reverse), b, 0], I * sizeof(floating))
                memcpy(chunk_z + row * 4 * Hp, bias_z, 4 * Hp * sizeof(floating))
                row += 1
        multiply(chunk_x, rows, I, 1, panels_x, 4 * P, I, chunk_z, 4 * Hp)

        # 1, the part of h, and 2 to 4: step by step.
        z = chunk_z
        for s in range(start, end):
            h = hidden[(s + 1) % 2]
            recur(hidden[s % 2], panels_h, schedule.active[s], H, P, s % 2, z, cell, h)
            for r in range(schedule.active[s]):
                b = schedule.order[r]
                t = time_index(lengths[b], s, reverse)
                memcpy(&y[t, b, 0], h + r * Hp, H * sizeof(floating))
                if keep:
                    unpack_row(z + r * 4 * Hp, H, &gates[t, b, 0])
                    memcpy(&c[t, b, 0], cell + r * Hp, H * sizeof(floating))
                if r >= schedule.active[s + 1]:     # the row's last step
                    memcpy(&h_n[b, 0], h + r * Hp, H * sizeof(floating))
                    memcpy(&c_n[b, 0], cell + r * Hp, H * sizeof(floating))
            z += schedule.active[s] * 4 * Hp
        start = end


def backward(
    const floating[:, :, :] dy not None,            # IN   (T, B, H)
    const floating[:, ::1] dh_n not None,           # IN   (B, H)
    const floating[:, ::1] dc_n not None,           # IN   (B, H)
    const floating[:, :, :] x not None,             # IN   (T, B, I)
    const floating[:, ::1] W_x not None,            # IN   (I, 4H)
    const floating[:, ::1] W_h not None,            # IN   (H, 4H)
    const floating[:, ::1] h_0 not None,            # IN   (B, H)
    const floating[:, ::1] c_0 not None,            # IN   (B, H)
    const Py_ssize_t[::1] lengths not None,         # IN   (B,)
    bint reverse,
    const floating[:, :, :] y not None,             # IN   (T, B, H)
    const floating[:, :, ::1] gates not None,       # IN   (T, B, 4H)
    const floating[:, :, ::1] c not None,           # IN   (T, B, H)
    floating[:, :, :] dx not None,                  # OUT  (T, B, I)
    floating[:, ::1] dW_x not None,                 # OUT  (I, 4H)
    floating[:, ::1] dW_h not None,                 # OUT  (H, 4H)
    floating[::1] dbias not None,                   # OUT  (4H,)
    floating[:, ::1] dh_0 not None,                 # OUT  (B, H)
    floating[:, ::1] dc_0 not None,                 # OUT  (B, H)
):
    """Walk `forward` back; see `clstm.reference.backward`."""
    cdef Py_ssize_t B = x.shape[1], I = x.shape[2], H = W_h.shape[0]
    cdef Workspace workspace
    workspace.count = 0
    workspace.failed = False
    with nogil:
        zero_padding(dx, lengths)
        backward_rows(dy, dh_n, dc_n, x, W_x, W_h, h_0, c_0, lengths, reverse, y, gates, c,
                      dx, dW_x, dW_h, dbias, dh_0, dc_0, B, I, H, &workspace)
    release(&workspace)


cdef void backward_rows(
    const floating[:, :, :] dy, const floating[:, ::1] dh_n, const floating[:, ::1] dc_n, const floating[:, :, :] x,
    const floating[:, ::1] W_x, const floating[:, ::1] W_h, const floating[:, ::1] h_0, const floating[:, ::1] c_0,
    const Py_ssize_t[::1] lengths, bint reverse, const floating[:, :, :] y, const floating[:, :, ::1] gates,
    const floating[:, :, ::1] c, floating[:, :, :] dx, floating[:, ::1] dW_x, floating[:, ::1] dW_h, floating[::1] dbias,
    floating[:, ::1] dh_0, floating[:, ::1] dc_0, Py_ssize_t B, Py_ssize_t I, Py_ssize_t H, Workspace *workspace,
) noexcept nogil:
    cdef Py_ssize_t V = lanes(&W_h[0, 0])
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef Py_ssize_t Hp = P * V
    cdef Py_ssize_t Ip = (I + V - 1) // V * V
    cdef Py_ssize_t K = I + H + 1                   # rows of the block of weights: inputs, hidden units, bias
    cdef Py_ssize_t most = max(B, CHUNK_ROWS)
    cdef Schedule schedule = plan(lengths, workspace)
    cdef floating *panels_x = <floating *> take(workspace, Ip * 4 * Hp * sizeof(floating))
    cdef floating *panels_h = <floating *> take(workspace, Hp * 4 * Hp * sizeof(floating))
    cdef floating *chunk_a = <floating *> take(workspace, most * K * sizeof(floating))              # [x; h_prev; 1]
    cdef floating *chunk_dz = <floating *> take(workspace, most * 4 * Hp * sizeof(floating))        # row after row
    cdef floating *panels_dz = <floating *> take(workspace, most * 4 * Hp * sizeof(floating))       # (P, rows, 4V)
    cdef floating *chunk_dx = <floating *> take(workspace, most * Ip * sizeof(floating))
    cdef floating *dW = <floating *> take(workspace, K * 4 * Hp * sizeof(floating))
    cdef floating *dh = <floating *> take(workspace, max(B, 1) * Hp * sizeof(floating))     # of each row, from later steps
    cdef floating *dc = <floating *> take(workspace, max(B, 1) * Hp * sizeof(floating))
    cdef floating *padded = <floating *> take(workspace, 6 * Hp * sizeof(floating))
    cdef Py_ssize_t *ends = <Py_ssize_t *> take(workspace, (schedule.steps + 1) * sizeof(Py_ssize_t))
    cdef Py_ssize_t chunks, start, rows, row, r, b, s, t, t_prev, k
    if workspace.failed:
        return

    pack_transposed(&W_x[0, 0], I, H, panels_x)
    pack_transposed(&W_h[0, 0], H, H, panels_h)
    memset(dW, 0, K * 4 * Hp * sizeof(floating))
    memset(dh, 0, B * Hp * sizeof(floating))
    memset(dc, 0, B * Hp * sizeof(floating))
    memset(padded, 0, 6 * Hp * sizeof(floating))
    for r in range(B):
        memcpy(dh + r * Hp, &dh_n[schedule.order[r], 0], H * sizeof(floating))
        memcpy(dc + r * Hp, &dc_n[schedule.order[r], 0], H * sizeof(floating))

    # The chunks of the forward pass, the last one first.
    chunks = 0
    s = 0
    while s < schedule.steps:
        s = chunk_end(&schedule, s, &rows)
        ends[chunks] = s
        chunks += 1
    while chunks > 0:
        chunks -= 1
        start = ends[chunks - 1] if chunks else 0
        chunk_end(&schedule, start, &rows)

        # 4' to 2', and the carry to the step before.
        row = rows
        for s in range(ends[chunks] - 1, start - 1, -1):
            row -= schedule.active[s]
            for r in range(schedule.active[s]):
                b = schedule.order[r]
                t = time_index(lengths[b], s, reverse)
                t_prev = t + 1 if reverse else t - 1
                backward_row(&dy[t, b, 0], &gates[t, b, 0], &c[t, b, 0], &c_0[b, 0] if s == 0 else &c[t_prev, b, 0], H, P,
                             padded, dh + r * Hp, dc + r * Hp,
                             chunk_dz + (row + r) * 4 * Hp, panels_dz + (row + r) * 4 * V, rows * 4 * V)
            memset(dh, 0, schedule.active[s] * Hp * sizeof(floating))
            multiply(chunk_dz + row * 4 * Hp, schedule.active[s], 4 * Hp, 1, panels_h, P, 4 * Hp, dh, Hp)

        # 1': the sums over all rows of the chunk are two products.
        row = 0
        for s in range(start, ends[chunks]):
            for r in range(schedule.active[s]):
                b = schedule.order[r]
                t = time_index(lengths[b], s, reverse)
                memcpy(chunk_a + row * K, &x[t, b, 0], I * sizeof(floating))
                t_prev = t + 1 if reverse else t - 1
                memcpy(chunk_a + row * K + I, &h_0[b, 0] if s == 0 else &y[t_prev, b, 0], H * sizeof(floating))
                chunk_a[row * K + I + H] = 1
                row += 1
        multiply(chunk_a, K, 1, K, panels_dz, 4 * P, rows, dW, 4 * Hp)
        memset(chunk_dx, 0, rows * Ip * sizeof(floating))
        multiply(chunk_dz, rows, 4 * Hp, 1, panels_x, Ip // V, 4 * Hp, chunk_dx, Ip)
        row = 0
        for s in range(start, ends[chunks]):
            for r in range(schedule.active[s]):
                b = schedule.order[r]
                memcpy(&dx[time_index(lengths[b], s, reverse), b, 0], chunk_dx + row * Ip, I * sizeof(floating))
                row += 1

    for k in range(I):
        unpack_row(dW + k * 4 * Hp, H, &dW_x[k, 0])
    for k in range(H):
        unpack_row(dW + (I + k) * 4 * Hp, H, &dW_h[k, 0])
    unpack_row(dW + (I + H) * 4 * Hp, H, &dbias[0])
    for r in range(B):
        memcpy(&dh_0[schedule.order[r], 0], dh + r * Hp, H * sizeof(floating))
        memcpy(&dc_0[schedule.order[r], 0], dc + r * Hp, H * sizeof(floating))


cdef void backward_row(
    const floating *dy, const floating *gates, const floating *c, const floating *c_prev, Py_ssize_t H, Py_ssize_t P,
    floating *padded, floating *dh, floating *dc, floating *dz, floating *panels_dz, Py_ssize_t panel_stride,
) noexcept nogil:
    """Steps 4' to 2' of one row.

    dy, c, c_prev IN (H,); gates IN (4H,); padded: 6 Hp numbers of scratch whose padding is 0; dh IN from later steps, OUT its sum
    with dy; dc IN from later steps, OUT for the step before; dz OUT as a row, and once more into panels panel_stride apart
    """
    cdef Py_ssize_t V = lanes(dy)
    cdef floating *c_t = padded + 4 * P * V
    cdef floating *c_before = padded + 5 * P * V
    cdef Py_ssize_t p, j
    pack_row(gates, H, 4 * V, padded)
    memcpy(c_t, c, H * sizeof(floating))
    memcpy(c_before, c_prev, H * sizeof(floating))
    for j in range(H):
        dh[j] += dy[j]
    for p in range(P):
        backward_units(padded + p * 4 * V, c_t + p * V, c_before + p * V, dh + p * V, dc + p * V, dz + p * 4 * V)
        memcpy(panels_dz + p * panel_stride, dz + p * 4 * V, 4 * V * sizeof(floating))


def step(
    const floating[:, ::1] x not None,              # IN   (B, I)
    const floating[:, ::1] W_x not None,            # IN   (I, 4H)
    const floating[:, ::1] W_h not None,            # IN   (H, 4H)
    const floating[::1] bias not None,              # IN   (4H,)
    const floating[:, ::1] h_prev not None,         # IN   (B, H)
    const floating[:, ::1] c_prev not None,         # IN   (B, H)
    floating[:, ::1] h not None,                    # OUT  (B, H)
    floating[:, ::1] c not None,                    # OUT  (B, H)
):
    """Run one layer over one time step, reading the weights as they lie; see `clstm.reference.step`."""
    cdef Py_ssize_t B = x.shape[0], I = x.shape[1], H = W_h.shape[0]
    cdef Workspace workspace
    workspace.count = 0
    workspace.failed = False
    with nogil:
        if B > 0:
            step_rows(x, W_x, W_h, bias, h_prev, c_prev, h, c, B, I, H, &workspace)
    release(&workspace)


cdef void step_rows(
    const floating[:, ::1] x, const floating[:, ::1] W_x, const floating[:, ::1] W_h, const floating[::1] bias,
    const floating[:, ::1] h_prev, const floating[:, ::1] c_prev, floating[:, ::1] h, floating[:, ::1] c,
    Py_ssize_t B, Py_ssize_t I, Py_ssize_t H, Workspace *workspace,
) noexcept nogil:
    cdef Py_ssize_t V = lanes(&bias[0])
    cdef floating *z = <floating *> take(workspace, 4 * H * sizeof(floating))
    cdef floating *units = <floating *> take(workspace, 6 * V * sizeof(floating))       # i f g o c h of V units
    cdef Py_ssize_t b, j, g, n
    if workspace.failed:
        return
    memset(units, 0, 6 * V * sizeof(floating))
    for b in range(B):
        memcpy(z, &bias[0], 4 * H * sizeof(floating))
        if floating is float:
            accumulate_f32(&x[b, 0], &W_x[0, 0], I, 4 * H, z)
            accumulate_f32(&h_prev[b, 0], &W_h[0, 0], H, 4 * H, z)
        else:
            accumulate_f64(&x[b, 0], &W_x[0, 0], I, 4 * H, z)
            accumulate_f64(&h_prev[b, 0], &W_h[0, 0], H, 4 * H, z)
        j = 0
        while j < H:
            n = min(V, H - j)
            for g in range(4):
                copy_lanes(units + g * V, z + g * H + j, n)
            copy_lanes(units + 4 * V, &c_prev[b, j], n)
            forward_units(units, units + 4 * V, units + 5 * V)
            copy_lanes(&c[b, j], units + 4 * V, n)
            copy_lanes(&h[b, j], units + 5 * V, n)
            j += V


def sigmoid(const floating[::1] x not None, floating[::1] out not None):
    """Write 1 / (1 + exp(-x)) to out, with the vector function that the gates use."""
    activate(x, out, True)


def tanh(const floating[::1] x not None, floating[::1] out not None):
    """Write tanh(x) to out, with the vector function that the gates use."""
    activate(x, out, False)


cdef int activate(const floating[::1] x, floating[::1] out, bint logistic) except -1:
    cdef Workspace workspace
    cdef Py_ssize_t n = x.shape[0], j
    cdef floating *units
    workspace.count = 0
    workspace.failed = False
    units = <floating *> take(&workspace, CLSTM_VECTOR_BYTES)
    if not workspace.failed:
        memset(units, 0, lanes(units) * sizeof(floating))
        for j in range(0, n, lanes(units)):
            copy_lanes(units, &x[j], n - j)
            if floating is float:
                (<vec_f32 *> units)[0] = sigmoid_f32((<vec_f32 *> units)[0]) if logistic else tanh_f32((<vec_f32 *> units)[0])
            else:
                (<vec_f64 *> units)[0] = sigmoid_f64((<vec_f64 *> units)[0]) if logistic else tanh_f64((<vec_f64 *> units)[0])
            copy_lanes(&out[j], units, n - j)
    return release(&workspace)
