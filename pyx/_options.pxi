# What only an LSTM with options goes through: normalise, project, zone out; and its gates, row by row.
# Included by _kernels.pyx after _walk.pxi, whose stages call what stands here.  The point-wise parts are in
# _cells.pxi.
#
# Rows of the workspace are padded to whole vectors.  What pads a row of gains, weights or derivatives is 0;
# what pads c, fresh and h may be anything, and is not read by a sum.

cdef double EPSILON = 1e-5          # under the root of a layer norm


# --------------------------------------------------------------------------------------------- layer norms

cdef inline floating normalise(floating *a, Py_ssize_t G, Py_ssize_t pitch, const Cell *cell) noexcept nogil:
    """Turn a row into N(row) and return one over the root: 1n, 4n.

    a   IN/OUT (U, G V): vectors of G gates, `pitch` numbers from one of units to the next; padding is 0
    """
    if floating is float:
        return normalise_vectors(<vec_f32 *> a, G, pitch // cell.V, cell, a)
    else:
        return normalise_vectors(<vec_f64 *> a, G, pitch // cell.V, cell, a)


cdef inline floating normalise_vectors(vec *a, Py_ssize_t G, Py_ssize_t pitch, const Cell *cell,
                                       floating *numbers) noexcept nogil:
    cdef Py_ssize_t U = cell.U, V = cell.V, u, g, lane
    cdef floating count = <floating> (G * cell.H), mean, scale
    cdef vec sums[4]
    for g in range(4):
        sums[g] = constant(0.0, a[0])
    for u in range(U):
        for g in range(G):
            sums[g] += a[u * pitch + g]
    mean = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]), numbers) / count
    for g in range(4):
        sums[g] = constant(0.0, a[0])
    for u in range(U):
        for g in range(G):
            a[u * pitch + g] -= constant(mean, a[0])
            if u == U - 1:                      # padding is no part of the row
                for lane in range(cell.H - u * V, V):
                    numbers[(u * pitch + g) * V + lane] = 0
            sums[g] = madd(a[u * pitch + g], a[u * pitch + g], sums[g])
    scale = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]), numbers) / count + <floating> EPSILON
    scale = 1 / (root_f32(scale) if floating is float else root_f64(scale))
    for u in range(U):
        for g in range(G):
            a[u * pitch + g] *= constant(scale, a[0])
    return scale


cdef inline void normalise_back(const floating *dn, const floating *n, floating scale, Py_ssize_t G,
                                const Cell *cell, floating *da) noexcept nogil:
    """1n', 4n': da (OUT) for n = N(a), with `scale` one over the root; all (U, G V).

    Padding is 0 in dn and n; in da it is not.
    """
    if floating is float:
        normalise_vectors_back(<const vec_f32 *> dn, <const vec_f32 *> n, scale, G, cell, <vec_f32 *> da)
    else:
        normalise_vectors_back(<const vec_f64 *> dn, <const vec_f64 *> n, scale, G, cell, <vec_f64 *> da)


cdef inline void normalise_vectors_back(const vec *dn, const vec *n, floating scale, Py_ssize_t G,
                                        const Cell *cell, vec *da) noexcept nogil:
    cdef Py_ssize_t count = cell.U * G, k
    cdef vec first[2]
    cdef vec second[2]
    cdef floating mean, product
    for k in range(2):
        first[k] = second[k] = constant(0.0, dn[0])
    for k in range(count):
        first[k % 2] += dn[k]
        second[k % 2] = madd(dn[k], n[k], second[k % 2])
    mean = sum_of(first[0] + first[1], &scale) / <floating> (G * cell.H)
    product = sum_of(second[0] + second[1], &scale) / <floating> (G * cell.H)
    for k in range(count):
        da[k] = constant(scale, dn[0]) * madd(-n[k], constant(product, dn[0]), dn[k] - constant(mean, dn[0]))


cdef inline floating sum_of(vec x, const floating *like) noexcept nogil:
    """Add the lanes of a vector, in order."""
    if vec is vec_f32:
        return sum_f32(x)
    else:
        return sum_f64(x)


cdef inline void add_product(const floating *a, const floating *b, floating *to, Py_ssize_t n) noexcept nogil:
    """to += a * b, n numbers of aligned rows."""
    cdef Py_ssize_t k
    for k in range(n):
        to[k] += a[k] * b[k]


# -------------------------------------------------------------------------------------- rows of the caller

cdef inline void pad_row(const floating *row, Py_ssize_t n, Py_ssize_t whole, floating *to) noexcept nogil:
    """Copy a row of n numbers and fill it up with 0."""
    memcpy(to, row, n * sizeof(floating))
    memset(to + n, 0, (whole - n) * sizeof(floating))


cdef inline void pad_units(const Cell *cell, const floating *row, Py_ssize_t u, Py_ssize_t u_end,
                           floating *to) noexcept nogil:
    """Regroup units u V .. u_end V of a row (4H) of gates, vectors of the four side by side; padding is 0."""
    cdef Py_ssize_t V = cell.V, H = cell.H, g
    for u in range(u, u_end):
        for g in range(4):
            if H - u * V < V:
                memset(to + (4 * u + g) * V, 0, V * sizeof(floating))
            copy_lanes(to + (4 * u + g) * V, row + g * H + u * V, H - u * V)


cdef inline void into_panels(const floating *row, Py_ssize_t vectors, Py_ssize_t k, Py_ssize_t depth,
                             floating *panels) noexcept nogil:
    """A row of whole vectors as row k of panels `depth` deep."""
    cdef Py_ssize_t V = lanes(row), v, width
    for v in range(0, vectors, 4):
        width = min(4, vectors - v)
        memcpy(panels + (v * depth + k * width) * V, row + v * V, width * V * sizeof(floating))


cdef inline const floating *part_of(const void *rows, Py_ssize_t offset, const floating *like) noexcept nogil:
    """Where something lies in an array that a cell may not have."""
    return <const floating *> rows + offset if rows != NULL else NULL


cdef Padded take_padded(const Cell *cell, Workspace *workspace, const floating *like) noexcept nogil:
    """Take memory for the arrays of the cell in whole vectors."""
    cdef Py_ssize_t row = cell.U * cell.V * sizeof(floating)
    cdef Padded padded
    memset(&padded, 0, sizeof(Padded))
    if cell.peepholes != NULL:
        padded.peepholes = take(workspace, 3 * row)
    if cell.norm_x != NULL:
        padded.gain_x, padded.gain_h = take(workspace, 4 * row), take(workspace, 4 * row)
        padded.norm_c = take(workspace, 2 * row)
    return padded


cdef void fill_padded(const Cell *cell, const Padded *padded, const floating *like) noexcept nogil:
    """Take over the arrays of the cell."""
    cdef Py_ssize_t H = cell.H, whole = cell.U * cell.V, k
    if cell.peepholes != NULL:
        for k in range(3):
            pad_row(<const floating *> cell.peepholes + k * H, H, whole,
                    <floating *> padded.peepholes + k * whole)
    if cell.norm_x != NULL:
        pad_units(cell, <const floating *> cell.norm_x, 0, cell.U, <floating *> padded.gain_x)
        pad_units(cell, <const floating *> cell.norm_h, 0, cell.U, <floating *> padded.gain_h)
        for k in range(2):
            pad_row(<const floating *> cell.norm_c + k * H, H, whole, <floating *> padded.norm_c + k * whole)


cdef Cell projection_of(const Cell *cell) noexcept nogil:
    """The projection as the weights of one gate: (H, R)."""
    cdef Cell side
    memset(&side, 0, sizeof(Cell))
    side.V, side.G, side.W = cell.V, 1, 4
    side.I, side.H, side.R, side.U, side.N = cell.H, cell.R, cell.R, cell.U_h, cell.U_h
    side.Q, side.D = (side.N + 3) // 4, side.N * side.V
    side.W_x = cell.W_r
    return side


# ---------------------------------------------------------------------------------------------------- forward

cdef void prepare_options(Forward *job, Py_ssize_t B, Workspace *workspace,
                          const floating *like) noexcept nogil:
    """Take memory for what the cell has."""
    cdef const Cell *cell = &job.cell
    cdef ForwardOptions *options = &job.options
    cdef Py_ssize_t V = cell.V, row = cell.U * V * sizeof(floating), row_h = cell.U_h * V * sizeof(floating)
    memset(options, 0, sizeof(ForwardOptions))
    options.zeros = take_zeros(workspace, 4 * V * sizeof(floating))
    options.fresh = take_zeros(workspace, B * row)
    options.padded = take_padded(cell, workspace, like)
    if cell.norm_x != NULL:
        options.sums_h = take(workspace, B * 4 * row)
    if cell.W_r != NULL:
        options.panels_r = take(workspace, cell.H * row_h)
        options.lifted = take_zeros(workspace, B * row)
    if cell.zoneout_c > 0:
        options.keep_c = take_zeros(workspace, B * row)
    if cell.zoneout_h > 0:
        options.keep_h = take_zeros(workspace, B * row_h)
        if job.recurrent.start != NULL:
            options.h_prev = take_zeros(workspace, B * row_h)


cdef void pack_options(Forward *job, const floating *like) noexcept nogil:
    """Take over the arrays and numbers of the cell."""
    cdef const Cell *cell = &job.cell
    cdef ForwardOptions *options = &job.options
    cdef Py_ssize_t H = cell.H, whole = cell.U * cell.V, whole_h = cell.U_h * cell.V, B = job.schedule.B, k
    cdef Cell side
    fill_padded(cell, &options.padded, like)
    if cell.W_r != NULL:
        side = projection_of(cell)
        pack(&side, <const floating *> cell.W_r, False, H, 0, H, 0, H, <floating *> options.panels_r)
    if options.keep_c != NULL:
        for k in range(B * whole):
            (<floating *> options.keep_c)[k] = <floating> cell.zoneout_c
    if options.keep_h != NULL:
        for k in range(B * whole_h):
            (<floating *> options.keep_h)[k] = <floating> cell.zoneout_h


cdef void normalise_inputs(Forward *job, Py_ssize_t start, Py_ssize_t end, Py_ssize_t rows, Py_ssize_t row,
                           Py_ssize_t row_end, const floating *like) noexcept nogil:
    """1n, the part of x, of rows row .. row_end of a chunk: z = gain_x * N(x W_x) + bias."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t n = 0, panel = 4 * job.cell.V, s, r
    cdef floating *z
    for s in range(start, end):
        for r in range(max(0, row - n), min(schedule.active[s], row_end - n)):
            z = <floating *> job.chunk_z + (n + r) * panel
            normalise_part(job, schedule.order[r], time_of(schedule, r, s), 0, z, rows * panel,
                           <const floating *> job.options.padded.gain_x, <const floating *> job.bias_z, panel,
                           z, rows * panel)
        n += schedule.active[s]


cdef void normalise_part(Forward *job, Py_ssize_t b, Py_ssize_t t, Py_ssize_t part, floating *sums,
                         Py_ssize_t sums_panel, const floating *gain, const floating *start,
                         Py_ssize_t start_panel, floating *z, Py_ssize_t z_panel) noexcept nogil:
    """z = start + gain * N(sums) of one row, and N and one over the root to the tape, as its part 0 or 1.

    sums, start, z  IN/OUT, IN, OUT in panels of four vectors, so much apart
    """
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t V = cell.V, u, k
    cdef floating scale = normalise(sums, 4, sums_panel, cell)
    cdef floating *left
    if job.norms.start != NULL:
        left = <floating *> at(&job.norms, t, b)
        unpack_row(cell, <const floating *> sums, sums_panel, V, 0, cell.U, left + part * 4 * cell.H)
        left[8 * cell.H + part] = scale
    for u in range(cell.U):
        for k in range(4 * V):
            z[u * z_panel + k] = start[u * start_panel + k] + gain[u * 4 * V + k] * sums[u * sums_panel + k]


cdef void gates_forward_options(Forward *job, const Share *share, Py_ssize_t s, Py_ssize_t first,
                                Py_ssize_t last, floating *z, Py_ssize_t z_panel, floating *h) noexcept nogil:
    """1n and 2 to 4, panels first .. last of a thread's rows: z IN/OUT, h OUT, and the rest of the state."""
    cdef const Schedule *schedule = &job.schedule
    cdef const Cell *cell = &job.cell
    cdef const ForwardOptions *options = &job.options
    cdef Py_ssize_t V = cell.V, whole = cell.U * cell.V, r = share.row, q, t, b, u, k
    cdef Py_ssize_t unit = first * V, unit_end = min(last * V, cell.H)
    cdef Py_ssize_t pitch = whole if options.lifted != NULL else job.pitch
    cdef floating *sums = <floating *> options.sums_h
    cdef const floating *gain = <const floating *> options.padded.norm_c
    cdef floating *fresh
    if options.lifted != NULL:
        h = <floating *> options.lifted
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            b, t = schedule.order[q], time_of(schedule, q, s)
            fresh = <floating *> options.fresh + q * whole
            if sums != NULL:
                normalise_part(job, b, t, 1, sums + q * 4 * V, schedule.B * 4 * V,
                               <const floating *> options.padded.gain_h,
                               <const floating *> z + q * 4 * V, z_panel, z + q * 4 * V, z_panel)
            if job.keep_c.start != NULL:
                memcpy(<floating *> options.keep_c + q * whole + unit,
                       <const floating *> at(&job.keep_c, t, b) + unit, (unit_end - unit) * sizeof(floating))
            for u in range(first, last):
                options_units(0, job, q, u, z + u * z_panel + q * 4 * V, h + q * pitch + u * V)
            if gain != NULL:
                for k in range(cell.H, whole):
                    fresh[k] = 0
                normalise(fresh, 1, V, cell)
                for k in range(whole):
                    fresh[k] = gain[k] * fresh[k] + gain[whole + k]
            for u in range(first, last):
                options_units(1, job, q, u, z + u * z_panel + q * 4 * V, h + q * pitch + u * V)
        r += share.row_stride


cdef inline void options_units(int part, Forward *job, Py_ssize_t q, Py_ssize_t u, floating *z,
                               floating *h) noexcept nogil:
    """One part of the forward function for V units of workspace row q."""
    cdef const ForwardOptions *options = &job.options
    cdef Py_ssize_t V = job.cell.V, whole = job.cell.U * job.cell.V
    cdef floating *c = <floating *> job.c_t + q * whole + u * V
    cdef floating *fresh = <floating *> options.fresh + q * whole + u * V
    cdef const floating *p = part_of(options.padded.peepholes, u * V, <const floating *> z)
    cdef const floating *p_f = part_of(options.padded.peepholes, whole + u * V, <const floating *> z)
    cdef const floating *p_o = part_of(options.padded.peepholes, 2 * whole + u * V, <const floating *> z)
    cdef const floating *keep = part_of(options.keep_c, q * whole + u * V, <const floating *> z)
    if floating is float:
        options_forward(part, &job.cell, job.outputs, <vec_f32 *> z, <vec_f32 *> c, <vec_f32 *> fresh,
                        <vec_f32 *> h, <const vec_f32 *> p, <const vec_f32 *> p_f, <const vec_f32 *> p_o,
                        <const vec_f32 *> keep)
    else:
        options_forward(part, &job.cell, job.outputs, <vec_f64 *> z, <vec_f64 *> c, <vec_f64 *> fresh,
                        <vec_f64 *> h, <const vec_f64 *> p, <const vec_f64 *> p_f, <const vec_f64 *> p_o,
                        <const vec_f64 *> keep)


cdef void finish_h(Forward *job, const Share *share, Py_ssize_t s, const floating *h_prev,
                   floating *h) noexcept nogil:
    """4r and 4z for a thread's rows and numbers of h (IN/OUT); h_prev is what the product has seen."""
    cdef const Schedule *schedule = &job.schedule
    cdef const Cell *cell = &job.cell
    cdef const ForwardOptions *options = &job.options
    cdef Py_ssize_t V = cell.V, whole = cell.U * V, whole_h = cell.U_h * V, pitch = job.pitch
    cdef Py_ssize_t r = share.row, q, k
    cdef floating *keep
    cdef const floating *before
    cdef const floating *drawn
    cdef floating one = 1
    if options.lifted != NULL:
        multiply(<const floating *> options.lifted, schedule.active[s], whole,
                 <const floating *> options.panels_r, cell.U_h, cell.H,
                 <const floating *> options.zeros, 0, 0, h, pitch, 4 * V, share.row, share.row_stride)
    if options.keep_h == NULL:
        return
    if options.h_prev != NULL:
        h_prev, pitch = <const floating *> options.h_prev, whole_h
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            keep = <floating *> options.keep_h + q * whole_h
            before = h_prev + q * pitch
            if job.keep_h.start != NULL:
                drawn = <const floating *> at(&job.keep_h, time_of(schedule, q, s), schedule.order[q])
                memcpy(keep + share.h, drawn + share.h, (share.h_end - share.h) * sizeof(floating))
            for k in range(share.h, share.h_end):
                h[q * job.pitch + k] = keep[k] * before[k] + (one - keep[k]) * h[q * job.pitch + k]
        r += share.row_stride


# --------------------------------------------------------------------------------------------------- backward

cdef void prepare_options_back(Backward *job, Py_ssize_t rows, int threads, Workspace *workspace,
                               const floating *like) noexcept nogil:
    """Take memory for what the cell has, and take over its arrays."""
    cdef const Cell *cell = &job.cell
    cdef BackwardOptions *options = &job.options
    cdef Py_ssize_t H = cell.H, row = cell.U * cell.V * sizeof(floating), B = job.schedule.B
    cdef Py_ssize_t row_h = cell.U_h * cell.V * sizeof(floating)
    cdef Cell side
    options.keep, options.dfresh = take_zeros(workspace, threads * row), take_zeros(workspace, threads * row)
    options.lifted, options.z = take(workspace, threads * row), take(workspace, threads * 4 * row)
    options.c_prev, options.fresh = take_zeros(workspace, rows * row), take_zeros(workspace, rows * row)
    options.padded = take_padded(cell, workspace, like)
    if cell.zoneout_h > 0:
        options.kept = take_zeros(workspace, B * row_h)
    if cell.peepholes != NULL:
        options.dpeepholes = take_zeros(workspace, 3 * row)
    if cell.norm_x != NULL:
        options.n_c, options.dm = take(workspace, rows * row), take_zeros(workspace, rows * row)
        options.n_x, options.n_h = take(workspace, rows * 4 * row), take(workspace, rows * 4 * row)
        options.chunk_dx, options.chunk_dh = take(workspace, rows * 4 * row), take(workspace, rows * 4 * row)
        options.panels_dx = take(workspace, rows * 4 * row)
        options.panels_dh = take(workspace, rows * 4 * row)
        options.dnorm_x, options.dnorm_h = take_zeros(workspace, 4 * row), take_zeros(workspace, 4 * row)
        options.dnorm_c = take_zeros(workspace, 2 * row)
    if cell.W_r != NULL:
        options.panels_r = take(workspace, cell.U * cell.V * row_h)
        options.dlifted = take_zeros(workspace, B * row)
        options.tiles_lifted = take(workspace, rows * (H + tile_rows(4)) * sizeof(floating))
        options.panels_dr = take(workspace, rows * row_h)
        options.dW_r = take_zeros(workspace, (cell.U_h + 3) // 4 * H * 4 * cell.V * sizeof(floating))
    if not workspace.failed:
        fill_padded(cell, &options.padded, like)
        if cell.W_r != NULL:
            side = projection_of(cell)
            pack_transposed(&side, <const floating *> cell.W_r, False, H, 0, side.U,
                            <floating *> options.panels_r)


cdef void step_backward_options(Backward *job, const Share *share, int thread, Py_ssize_t s, Py_ssize_t n,
                                Py_ssize_t rows, const floating *like) noexcept nogil:
    """4z' to 1n' for the rows and units of one thread; the step's rows begin at row n of the chunk."""
    cdef const Schedule *schedule = &job.schedule
    cdef const Cell *cell = &job.cell
    cdef const BackwardOptions *options = &job.options
    cdef Py_ssize_t V = cell.V, H = cell.H, whole = cell.U * V, whole_h = cell.U_h * V
    cdef Py_ssize_t r = share.row, q, b, t
    cdef floating *dh
    cdef const floating *c_prev
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            dh = <floating *> job.dh + q * whole_h
            zone_out_back(job, share, s, q, dh)
            if options.panels_dr != NULL:
                into_panels(<const floating *> dh, cell.U_h, n + q, rows, <floating *> options.panels_dr)
        r += share.row_stride
    if options.dlifted != NULL:                                                                       # 4r'
        multiply(<const floating *> job.dh, schedule.active[s], whole_h, <const floating *> options.panels_r,
                 cell.U, whole_h, <const floating *> job.zeros, 0, 4 * V, <floating *> options.dlifted, whole,
                 4 * V, share.row, share.row_stride)
    r = share.row
    while r < schedule.active[s]:
        for q in range(r, min(r + tile_rows(4), schedule.active[s])):
            b, t = schedule.order[q], time_of(schedule, q, s)
            c_prev = state_before(schedule, &job.c, <const floating *> job.c_0, H,
                                  <const floating *> job.zeros, q, s)
            memcpy(<floating *> options.c_prev + (n + q) * whole + share.unit, c_prev + share.unit,
                   (share.unit_end - share.unit) * sizeof(floating))
            gates_backward_options(job, share, thread, q, b, t, n + q, rows, like)
        r += share.row_stride


cdef inline void zone_out_back(Backward *job, const Share *share, Py_ssize_t s, Py_ssize_t q,
                               floating *dh) noexcept nogil:
    """dh + dy, of workspace row q, and of that what zoneout lets through: 4z'."""
    cdef const Schedule *schedule = &job.schedule
    cdef Py_ssize_t b = schedule.order[q], t = time_of(schedule, q, s), k
    cdef const floating *dy = <const floating *> at(&job.dy, t, b)
    cdef const floating *mask = NULL
    cdef floating keep = <floating> job.cell.zoneout_h, one = 1
    cdef floating *kept
    for k in range(share.h, share.h_end):
        dh[k] += dy[k]
    if job.options.kept == NULL:
        return
    kept = <floating *> job.options.kept + q * job.cell.U_h * job.cell.V
    if job.keep_h.start != NULL:
        mask = <const floating *> at(&job.keep_h, t, b)
    for k in range(share.h, share.h_end):
        if mask != NULL:
            keep = mask[k]
        kept[k] = keep * dh[k]
        dh[k] *= one - keep


cdef void gates_backward_options(Backward *job, const Share *share, int thread, Py_ssize_t q, Py_ssize_t b,
                                 Py_ssize_t t, Py_ssize_t n, Py_ssize_t rows,
                                 const floating *like) noexcept nogil:
    """4' to 1n' of one row, which is row q of the workspace and row n of the chunk of `rows`."""
    cdef const Cell *cell = &job.cell
    cdef const BackwardOptions *options = &job.options
    cdef Py_ssize_t V = cell.V, N = cell.N, H = cell.H, whole = cell.U * cell.V, u, k
    cdef floating *z = <floating *> options.z + thread * 4 * whole
    cdef floating *keep = <floating *> options.keep + thread * whole
    cdef floating *lifted = <floating *> options.lifted + thread * whole
    cdef floating *dfresh = <floating *> options.dfresh + thread * whole
    cdef floating *fresh = <floating *> options.fresh + n * whole
    cdef floating *dz = <floating *> job.chunk_dz + n * N * V
    cdef const floating *gain = <const floating *> options.padded.norm_c
    cdef const floating *norms
    cdef floating *n_c
    cdef floating *dm
    cdef floating scale = 0
    pad_units(cell, <const floating *> at(&job.gates, t, b), share.u, share.u_end, z)
    if cell.zoneout_c > 0:
        for k in range(share.unit, share.unit_end):
            keep[k] = <floating> cell.zoneout_c
        if job.keep_c.start != NULL:
            memcpy(keep + share.unit, <const floating *> at(&job.keep_c, t, b) + share.unit,
                   (share.unit_end - share.unit) * sizeof(floating))
    for u in range(share.u, share.u_end):
        options_units_back(0, job, q, n, u, z, fresh, dfresh, lifted, keep, dz)
    if gain != NULL:                                                                                  # 4n
        n_c = <floating *> options.n_c + n * whole
        pad_row(<const floating *> fresh, H, whole, n_c)
        scale = normalise(n_c, 1, V, cell)
        for k in range(whole):
            lifted[k] = gain[k] * n_c[k] + gain[whole + k]
        for u in range(cell.U):
            options_units_back(1, job, q, n, u, z, lifted, dfresh, lifted, keep, dz)
        dm = <floating *> options.dm + n * whole
        memcpy(dm, dfresh, H * sizeof(floating))
        for k in range(whole):
            dfresh[k] = gain[k] * dm[k]
        normalise_back(<const floating *> dfresh, <const floating *> n_c, scale, 1, cell, dfresh)
        memset(dfresh + H, 0, (whole - H) * sizeof(floating))       # or it would go on to dc, and grow there
    else:
        for u in range(share.u, share.u_end):
            options_units_back(1, job, q, n, u, z, fresh, dfresh, lifted, keep, dz)
    for u in range(share.u, share.u_end):
        options_units_back(2, job, q, n, u, z, fresh, dfresh, lifted, keep, dz)
        memcpy(<floating *> job.panels_dz + (u * rows + n) * 4 * V, dz + u * 4 * V, 4 * V * sizeof(floating))
    if options.tiles_lifted != NULL:
        into_tiles(<const floating *> lifted, H, 0, n, rows, <floating *> options.tiles_lifted)
    if cell.norm_x != NULL:                                                                           # 1n'
        norms = <const floating *> at(&job.norms, t, b)
        normalise_part_back(cell, norms, norms[8 * H], <const floating *> options.padded.gain_x,
                            <const floating *> dz, n, rows, <floating *> options.n_x,
                            <floating *> options.chunk_dx, <floating *> options.panels_dx)
        normalise_part_back(cell, norms + 4 * H, norms[8 * H + 1], <const floating *> options.padded.gain_h,
                            <const floating *> dz, n, rows, <floating *> options.n_h,
                            <floating *> options.chunk_dh, <floating *> options.panels_dh)


cdef void normalise_part_back(const Cell *cell, const floating *norms, floating scale, const floating *gain,
                              const floating *dz, Py_ssize_t n, Py_ssize_t rows, floating *n_rows,
                              floating *rows_da, floating *panels_da) noexcept nogil:
    """1n' of one row: N(a) into its row of n_rows, da for dz into a row and into panels."""
    cdef Py_ssize_t width = cell.N * cell.V, k
    cdef floating *n_row = n_rows + n * width
    cdef floating *da = rows_da + n * width
    pad_units(cell, norms, 0, cell.U, n_row)
    for k in range(width):
        da[k] = gain[k] * dz[k]
    normalise_back(<const floating *> da, <const floating *> n_row, scale, 4, cell, da)
    into_panels(<const floating *> da, cell.N, n, rows, panels_da)


cdef inline void options_units_back(int part, Backward *job, Py_ssize_t q, Py_ssize_t n, Py_ssize_t u,
                                    const floating *z, floating *fresh, floating *dfresh, floating *lifted,
                                    const floating *keep, floating *dz) noexcept nogil:
    """One part of the backward function for V units of row q of the workspace, row n of the chunk."""
    cdef const Cell *cell = &job.cell
    cdef const BackwardOptions *options = &job.options
    cdef Py_ssize_t V = cell.V, whole = cell.U * cell.V, unit = u * cell.V
    cdef const floating *c_prev = <const floating *> options.c_prev + n * whole + unit
    cdef const floating *dh = <const floating *> (job.dh if options.dlifted == NULL else options.dlifted)
    cdef floating *dc = <floating *> job.dc + q * whole + unit
    cdef const floating *p_i = part_of(options.padded.peepholes, unit, z)
    cdef const floating *p_f = part_of(options.padded.peepholes, whole + unit, z)
    cdef const floating *p_o = part_of(options.padded.peepholes, 2 * whole + unit, z)
    dh += q * whole + unit
    keep = keep + unit if cell.zoneout_c > 0 else NULL
    z, dz, fresh, dfresh, lifted = z + 4 * unit, dz + 4 * unit, fresh + unit, dfresh + unit, lifted + unit
    if floating is float:
        options_backward(part, cell, <const vec_f32 *> z, <const vec_f32 *> c_prev, <vec_f32 *> fresh,
                         <vec_f32 *> dfresh, <vec_f32 *> lifted, <const vec_f32 *> dh, <vec_f32 *> dc,
                         <const vec_f32 *> p_i, <const vec_f32 *> p_f, <const vec_f32 *> p_o,
                         <const vec_f32 *> keep, <vec_f32 *> dz)
    else:
        options_backward(part, cell, <const vec_f64 *> z, <const vec_f64 *> c_prev, <vec_f64 *> fresh,
                         <vec_f64 *> dfresh, <vec_f64 *> lifted, <const vec_f64 *> dh, <vec_f64 *> dc,
                         <const vec_f64 *> p_i, <const vec_f64 *> p_f, <const vec_f64 *> p_o,
                         <const vec_f64 *> keep, <vec_f64 *> dz)


cdef void sum_chunk_options(Backward *job, Py_ssize_t rows, int thread, int size,
                            const floating *like) noexcept nogil:
    """Add a chunk's part to the gradients by peepholes, gains, shifts and projection: a thread's columns."""
    cdef const Cell *cell = &job.cell
    cdef const BackwardOptions *options = &job.options
    cdef Py_ssize_t V = cell.V, N = cell.N, whole = cell.U * V, Q_h = (cell.U_h + 3) // 4
    cdef Py_ssize_t u = cell.U * thread // size, u_end = cell.U * (thread + 1) // size
    cdef Py_ssize_t first = Q_h * thread // size, last = Q_h * (thread + 1) // size      # panels of h
    cdef Py_ssize_t unit = u * V, count = (u_end - u) * V, n, k
    cdef const floating *dz
    cdef const floating *c_prev
    cdef const floating *fresh
    cdef floating *sums
    for n in range(rows):
        dz = <const floating *> job.chunk_dz + n * N * V
        if options.dpeepholes != NULL:
            c_prev = <const floating *> options.c_prev + n * whole
            fresh = <const floating *> options.fresh + n * whole
            sums = <floating *> options.dpeepholes
            for k in range(u, u_end):
                add_product(dz + 4 * k * V, c_prev + k * V, sums + k * V, V)
                add_product(dz + (4 * k + 1) * V, c_prev + k * V, sums + whole + k * V, V)
                add_product(dz + (4 * k + 3) * V, fresh + k * V, sums + 2 * whole + k * V, V)
        if options.dnorm_x != NULL:
            add_product(dz + 4 * unit, <const floating *> options.n_x + n * N * V + 4 * unit,
                        <floating *> options.dnorm_x + 4 * unit, 4 * count)
            add_product(dz + 4 * unit, <const floating *> options.n_h + n * N * V + 4 * unit,
                        <floating *> options.dnorm_h + 4 * unit, 4 * count)
            sums = <floating *> options.dnorm_c
            dz = <const floating *> options.dm + n * whole
            add_product(dz + unit, <const floating *> options.n_c + n * whole + unit, sums + unit, count)
            for k in range(unit, unit + count):
                sums[whole + k] += dz[k]
    if options.dW_r != NULL and last > first:
        sums = <floating *> options.dW_r + first * cell.H * 4 * V
        multiply(<const floating *> options.tiles_lifted, cell.H, 0,
                 <const floating *> options.panels_dr + first * rows * 4 * V,
                 min(4 * last, cell.U_h) - 4 * first, rows, <const floating *> sums, 4 * V, cell.H * 4 * V,
                 sums, 4 * V, cell.H * 4 * V)


cdef void hand_out_gradients(Backward *job, const floating *like) noexcept nogil:
    """Copy the sums to the caller's arrays."""
    cdef const Cell *cell = &job.cell
    cdef const BackwardOptions *options = &job.options
    cdef Py_ssize_t V = cell.V, H = cell.H, R = cell.R, whole = cell.U * V, size = H * sizeof(floating), k
    cdef Cell side
    if cell.peepholes != NULL:
        for k in range(3):
            memcpy(<floating *> job.dpeepholes + k * H, <floating *> options.dpeepholes + k * whole, size)
    if cell.norm_x != NULL:
        unpack_row(cell, <const floating *> options.dnorm_x, 4 * V, V, 0, cell.U, <floating *> job.dnorm_x)
        unpack_row(cell, <const floating *> options.dnorm_h, 4 * V, V, 0, cell.U, <floating *> job.dnorm_h)
        for k in range(2):
            memcpy(<floating *> job.dnorm_c + k * H, <floating *> options.dnorm_c + k * whole, size)
    if cell.W_r != NULL:
        side = projection_of(cell)
        for k in range(H):
            unpack_row(&side, <const floating *> options.dW_r + k * 4 * V, H * 4 * V, V, 0, side.U,
                       <floating *> job.dW_r + k * R)
