# What surrounds the arithmetic of _kernels.pyx, which includes this file: rows in and out of the padded
# layouts, memory, and the order in which rows and steps are taken.

cdef inline void copy_lanes(floating *to, const floating *source, Py_ssize_t n) noexcept nogil:
    """Copy a vector, or its first n numbers at the end of a row."""
    cdef Py_ssize_t lane
    if n >= lanes(source):
        memcpy(to, source, lanes(source) * sizeof(floating))
    else:
        for lane in range(n):
            to[lane] = source[lane]


cdef inline void pack_row(const floating *row, Py_ssize_t H, Py_ssize_t p, Py_ssize_t p_end, Py_ssize_t stride,
                          floating *to) noexcept nogil:
    """Regroup panels p .. p_end of a row (4H,) of gate blocks into [i f g o] x V, `stride` apart; padding becomes 0."""
    cdef Py_ssize_t V = lanes(row)
    cdef Py_ssize_t g, n
    for p in range(p, p_end):
        n = min(V, H - p * V)
        for g in range(4):
            if n < V:
                memset(to + g * V, 0, V * sizeof(floating))
            copy_lanes(to + g * V, row + g * H + p * V, n)
        to += stride


cdef void unpack_row(const floating *z, Py_ssize_t stride, Py_ssize_t H, Py_ssize_t panel, Py_ssize_t panel_end,
                     floating *to) noexcept nogil:
    """The inverse of `pack_row`, for some of the panels; z points at the first of all."""
    cdef Py_ssize_t V = lanes(z)
    cdef Py_ssize_t p, g
    for g in range(4):
        for p in range(panel, panel_end):
            copy_lanes(to + g * H + p * V, z + p * stride + g * V, H - p * V)


cdef void pack(const floating *W, Py_ssize_t depth, Py_ssize_t H, Py_ssize_t k, Py_ssize_t k_end,
               floating *panels) noexcept nogil:
    """Rows k .. k_end of weights (depth, 4H) into panels (P, depth, 4V)."""
    cdef Py_ssize_t V = lanes(W)
    for k in range(k, k_end):
        pack_row(W + k * 4 * H, H, 0, (H + V - 1) // V, depth * 4 * V, panels + k * 4 * V)


cdef void pack_transposed(const floating *W, Py_ssize_t rows, Py_ssize_t H, Py_ssize_t p, Py_ssize_t p_end,
                          floating *panels) noexcept nogil:
    """Units p V .. p_end V of weights (rows, 4H), transposed, into panels (4Hp, up to 4V columns); padding becomes 0."""
    cdef Py_ssize_t V = lanes(W)
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef Py_ssize_t first, count, width, g, lane, u
    cdef floating *to
    for p in range(p, p_end):
        first = 0
        while first < rows:
            count = min(4 * V, rows - first)
            width = (count + V - 1) // V * V
            to = panels + first * 4 * P * V + p * 4 * V * width
            if count < width or H - p * V < V:
                memset(to, 0, 4 * V * width * sizeof(floating))
            for g in range(4):
                for lane in range(min(V, H - p * V)):
                    for u in range(count):
                        to[(g * V + lane) * width + u] = W[(first + u) * 4 * H + g * H + p * V + lane]
            first += 4 * V


cdef inline void into_tiles(const floating *source, Py_ssize_t count, Py_ssize_t r, Py_ssize_t k, Py_ssize_t depth,
                            floating *tiles) noexcept nogil:
    """Numbers that are column k of rows r, r + 1, ... of an operand in tiles of TILE rows, each (depth, TILE)."""
    cdef Py_ssize_t R = tile_rows(4), n
    cdef floating *to = tiles + (r - r % R) * depth + k * R
    r = r % R
    for n in range(count):
        to[r] = source[n]
        r += 1
        if r == R:
            r = 0
            to += depth * R


cdef struct Workspace:
    void *blocks[24]
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


cdef int release(Workspace *workspace, bint cancelled) except -1:
    """Free all blocks; raise if one could not be had, if a signal handler raised, or (debug build) on a write behind one."""
    cdef Py_ssize_t n
    cdef bint intact = True
    for n in range(workspace.count):
        if not clstm_free(workspace.blocks[n]):
            intact = False
    if cancelled:
        return -1           # the exception is set
    if workspace.failed:
        raise MemoryError("not enough memory for the workspace of a layer")
    if not intact:
        raise SystemError("a kernel wrote beyond its workspace")
    return 0


cdef struct Sequence:
    char *start             # an array (T, B, n) of the caller, rows contiguous, strides in bytes; NULL if there is none
    Py_ssize_t by_time, by_row, n


cdef Sequence sequence(const floating[:, :, :] array) noexcept nogil:
    cdef Sequence view
    view.start = NULL
    view.by_time, view.by_row, view.n = 0, 0, 0
    if array is not None:
        view.by_time, view.by_row, view.n = array.strides[0], array.strides[1], array.shape[2]
        if array.shape[0] > 0 and array.shape[1] > 0:
            view.start = <char *> &array[0, 0, 0]
    return view


cdef inline char *at(const Sequence *view, Py_ssize_t t, Py_ssize_t b) noexcept nogil:
    return view.start + t * view.by_time + b * view.by_row


cdef struct Schedule:
    Py_ssize_t B, steps     # number of rows; of steps of the longest
    Py_ssize_t total        # steps of all rows
    Py_ssize_t *length      # (B,) of each workspace row
    Py_ssize_t *order       # (B,) its batch index: longest first, equal lengths in batch order
    Py_ssize_t *active      # (steps + 1,) rows that take part in step s: the first active[s]
    Py_ssize_t chunk_rows
    bint reverse


cdef Schedule plan(const Py_ssize_t *lengths, Py_ssize_t B, bint reverse, Py_ssize_t I, Py_ssize_t H,
                   Workspace *workspace) noexcept nogil:
    """Order the rows by a counting sort; without lengths each has one step.  Nothing is written if memory ran out."""
    cdef Schedule schedule
    cdef Py_ssize_t b, s, place, length
    cdef Py_ssize_t *starts
    schedule.B = B
    schedule.reverse = reverse
    schedule.steps = 0
    schedule.total = 0
    schedule.chunk_rows = LARGE_CHUNK_ROWS if H * (I + H) >= LARGE_WEIGHTS else CHUNK_ROWS
    # Signals are looked for at each step and after each chunk: none may take more than a tenth of a second.
    schedule.chunk_rows = max(CHUNK_ROWS // 8, min(schedule.chunk_rows, <Py_ssize_t> (5e8 / (<double> H * (I + H)))))
    for b in range(schedule.B):
        length = lengths[b] if lengths != NULL else 1
        schedule.steps = max(schedule.steps, length)
        schedule.total += length
    schedule.length = <Py_ssize_t *> take(workspace, schedule.B * sizeof(Py_ssize_t))
    schedule.order = <Py_ssize_t *> take(workspace, schedule.B * sizeof(Py_ssize_t))
    schedule.active = <Py_ssize_t *> take(workspace, (schedule.steps + 1) * sizeof(Py_ssize_t))
    starts = <Py_ssize_t *> take(workspace, (schedule.steps + 1) * sizeof(Py_ssize_t))
    if workspace.failed:
        return schedule
    memset(schedule.active, 0, (schedule.steps + 1) * sizeof(Py_ssize_t))
    for b in range(schedule.B):
        length = lengths[b] if lengths != NULL else 1
        if length > 0:
            schedule.active[length - 1] += 1
    for s in range(schedule.steps - 1, -1, -1):     # rows longer than s: those that end with step s or later
        schedule.active[s] += schedule.active[s + 1]
    memcpy(starts, schedule.active, (schedule.steps + 1) * sizeof(Py_ssize_t))
    for b in range(schedule.B):                     # all longer rows come before b
        length = lengths[b] if lengths != NULL else 1
        place = starts[length]
        starts[length] += 1
        schedule.order[place] = b
        schedule.length[place] = length
    return schedule


cdef Py_ssize_t chunk_end(const Schedule *schedule, Py_ssize_t start, Py_ssize_t *rows) noexcept nogil:
    """Return the step after those that are taken together with step `start`; rows (OUT) is the number of their rows."""
    cdef Py_ssize_t s = start
    rows[0] = 0
    while s < schedule.steps and (s == start or rows[0] + schedule.active[s] <= schedule.chunk_rows):
        rows[0] += schedule.active[s]
        s += 1
    return s


cdef inline Py_ssize_t time_of(const Schedule *schedule, Py_ssize_t r, Py_ssize_t s) noexcept nogil:
    """Time index of step s of workspace row r; s = -1 is not one."""
    return schedule.length[r] - 1 - s if schedule.reverse else s


cdef void zero_padding(const Sequence *result, const Schedule *schedule, Py_ssize_t T, Py_ssize_t itemsize) noexcept nogil:
    """Set a result to 0 beyond each row's length."""
    cdef Py_ssize_t t, r
    for r in range(schedule.B):
        for t in range(schedule.length[r], T):
            memset(at(result, t, schedule.order[r]), 0, result.n * itemsize)
