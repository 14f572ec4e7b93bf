# The products of narrow weights: what narrow.h computes, in the place of `multiply`.  Included by
# _kernels.pyx after _walk.pxi, whose stages call what stands here.  The weights are read as they lie, so that
# nothing is packed but a few rows; an entry that gets them is one of float32.

# What rounding may add to a number that is as large as its range.
cdef double ROUNDING = 1.000001


cdef void prepare_narrow(Forward *job, Py_ssize_t most, Py_ssize_t B, Workspace *workspace,
                         const floating *like) noexcept nogil:
    """Take memory for what a cell with such weights needs, `most` rows in a chunk."""
    cdef const Cell *cell = &job.cell
    cdef Py_ssize_t row = cell.Q * 4 * cell.V * sizeof(floating)
    job.bias_z = take(workspace, row)
    job.chunk_x = take(workspace, most * cell.I * sizeof(floating))
    if cell.narrow.precision == BYTES:
        job.narrow.scale_x, job.narrow.scale_h = take(workspace, row), take(workspace, row)
        job.narrow.x = take(workspace, most * narrow_row_bytes(cell.I))
        job.narrow.h = take(workspace, cell.narrow.threads * B * narrow_row_bytes(cell.R))


cdef void pack_narrow(Forward *job, const floating *like) noexcept nogil:
    """Take over what 1 in the sums is worth."""
    cdef const Narrow *narrow = &job.cell.narrow
    if narrow.precision == BYTES:
        pack_scale(&job.cell, narrow.scale_x, narrow.range_x / narrow.levels_x, <float *> job.narrow.scale_x)
        pack_scale(&job.cell, narrow.scale_h, 1 / narrow.levels_h, <float *> job.narrow.scale_h)


cdef void pack_scale(const Cell *cell, const float *scale, double unit, float *panels) noexcept nogil:
    """What 1 of a weight is worth, times what 1 of a number is worth."""
    cdef Py_ssize_t k
    pack_row(cell, scale, 0, 1, panels)
    for k in range(cell.N * cell.V):
        panels[k] *= <float> unit


cdef void project_narrow(Forward *job, Py_ssize_t rows, Py_ssize_t row, Py_ssize_t row_end,
                         const floating *start, Py_ssize_t start_panel) noexcept nogil:
    """The part of x of rows row .. row_end of a chunk of `rows`: chunk_z = start + x W_x."""
    cdef const Narrow *narrow = &job.cell.narrow
    cdef Py_ssize_t I = job.cell.I, V = job.cell.V, bytes = narrow_row_bytes(I), held = 0, r
    cdef const float *x = <const float *> job.chunk_x
    cdef NarrowProduct product
    memset(&product, 0, sizeof(NarrowProduct))
    product.words, product.depth, product.last = narrow.words_x, I, job.cell.U
    product.rows = row_end - row
    product.start, product.start_panel = <const float *> start, start_panel
    product.sums = <float *> job.chunk_z + row * 4 * V
    product.sums_row, product.sums_panel = 4 * V, rows * 4 * V
    if narrow.precision == BYTES:
        for r in range(row, row_end):
            held += quantise(x + r * I, I, <float> (narrow.levels_x / narrow.range_x),
                             <float> narrow.levels_x, <float> (narrow.range_x * ROUNDING), narrow.dot,
                             <char *> job.narrow.x + r * bytes)
        count_held(narrow, held)
        product.a, product.a_row = <char *> job.narrow.x + row * bytes, bytes
        product.scale = <const float *> job.narrow.scale_x
    else:
        product.a, product.a_row = x + row * I, I * sizeof(float)
    multiply_as(narrow, &product)


cdef void quantise_h(Forward *job, const Share *share, Py_ssize_t running,
                     const floating *h_prev) noexcept nogil:
    """Turn h_prev of a thread's rows into integers, if the product takes these."""
    cdef const Narrow *narrow = &job.cell.narrow
    cdef Py_ssize_t held = 0, r = share.row, q
    cdef char *rows = integers_of(job, share)
    if narrow.precision != BYTES:
        return
    while r < running:
        for q in range(r, min(r + tile_rows(4), running)):
            held += quantise(<const float *> (h_prev + q * job.pitch), job.cell.R, <float> narrow.levels_h,
                             <float> narrow.levels_h, <float> ROUNDING, narrow.dot,
                             rows + q * narrow_row_bytes(job.cell.R))
        r += share.row_stride
    if share.u == 0:                    # of threads that share units, each has all of h
        count_held(narrow, held)


cdef inline char *integers_of(const Forward *job, const Share *share) noexcept nogil:
    """Where a thread's own copy of h begins."""
    return <char *> job.narrow.h + share.thread * job.schedule.B * narrow_row_bytes(job.cell.R)


cdef inline void count_held(const Narrow *narrow, Py_ssize_t held) noexcept nogil:
    if held:
        add_atomically(narrow.held, held)


cdef void multiply_narrow(Forward *job, const Share *share, Py_ssize_t running, const floating *h_prev,
                          Py_ssize_t first, Py_ssize_t last, const floating *start, Py_ssize_t start_row,
                          Py_ssize_t start_panel, floating *sums, Py_ssize_t sums_panel,
                          bint descending) noexcept nogil:
    """The part of h of a step: panels first .. last of sums = start + h_prev W_h, for a thread's rows."""
    cdef const Narrow *narrow = &job.cell.narrow
    cdef NarrowProduct product
    product.words, product.depth = narrow.words_h, job.cell.R
    product.first, product.last, product.descending = first, last, descending
    product.rows, product.row, product.row_stride = running, share.row, share.row_stride
    product.start, product.start_row, product.start_panel = <const float *> start, start_row, start_panel
    product.sums, product.sums_row, product.sums_panel = <float *> sums, 4 * job.cell.V, sums_panel
    product.scale = <const float *> job.narrow.scale_h
    if narrow.precision == BYTES:
        product.a, product.a_row = integers_of(job, share), narrow_row_bytes(job.cell.R)
    else:
        product.a, product.a_row = h_prev, job.pitch * sizeof(float)
    multiply_as(narrow, &product)


cdef inline void multiply_as(const Narrow *narrow, const NarrowProduct *product) noexcept nogil:
    if product.row >= product.rows:
        pass                            # nothing of this thread's
    elif narrow.precision == BFLOAT16:
        multiply_bfloat16(product)
    elif narrow.dot:
        multiply_dot(product)
    else:
        multiply_bytes(product)
