# The product of two matrices as the caller has them, for layers without time.  Included by _kernels.pyx.
#
# b is packed into panels and the rows of a go through them, as everywhere.  Few rows read b as it lies.
# Where b has so few columns that most lanes of a panel would be empty, the transposed product is computed,
# out' = b' a'.  No sum is ever split, and each runs over k in order: neither any of this, nor the number of
# threads, nor the layout of a and b changes a bit.

cdef enum:
    # Rows that go through all panels together, and the depth of the panels that are there at once where all
    # of b would be more than the result.
    PRODUCT_ROWS = 96
    PRODUCT_DEPTH = 384
    # Panels of a block, which one thread packs and multiplies, or reads as it lies.
    BLOCK_PANELS = 4
    IN_PLACE_PANELS = 16


cdef struct Matrix:
    const void *start
    Py_ssize_t pitch        # from a row to the next, or by column from a column to the next
    bint by_column


cdef struct Product:
    Team team
    Py_ssize_t place        # by rows: where k is when thread 0 lets others in; -1 before
    Cell cell               # as which b is packed: one gate of M units
    Py_ssize_t N, K, M
    Matrix a                # IN (N, K)
    Matrix b                # IN (K, M)
    const void *start       # IN (M,), with `swapped` (N,); NULL for zeros
    void *out               # OUT (N, M), with `swapped` transposed
    Py_ssize_t out_pitch
    bint swapped            # whether a and b are those of the transposed product
    bint in_place           # whether b is read as it lies
    bint by_rows            # whether threads share panels and have rows of a each; or have blocks of panels
    Py_ssize_t depth        # of the panels that are there at once
    Py_ssize_t rows         # that go through them together
    Py_ssize_t block        # panels of a block: all, if by rows
    void *row               # (1, M) in panels: what the sums start from
    # One for each thread; of the panels one, if by rows, and then one of the sums for all rows, if depth < K.
    void *panels            # (depth, block)
    void *sums              # (rows, block): rows are contiguous
    void *columns           # (rows, depth): rows of a that lies by column


cdef Matrix matrix_of(const floating[:, :] view) except *:
    """Find out how a matrix that is not empty lies."""
    cdef Matrix matrix
    cdef Py_ssize_t size = sizeof(floating)
    matrix.by_column = view.shape[1] > 1 and view.strides[1] != size
    if matrix.by_column and view.shape[0] > 1 and view.strides[0] != size:
        raise ValueError("product: expected matrices whose rows or whose columns are contiguous")
    matrix.start = &view[0, 0]
    matrix.pitch = view.strides[1 if matrix.by_column else 0] // size
    return matrix


cdef Matrix transposed(const Matrix *matrix) noexcept nogil:
    cdef Matrix other = matrix[0]
    other.by_column = not matrix.by_column
    return other


cdef void copy_transposed(const floating *source, Py_ssize_t pitch, Py_ssize_t n, Py_ssize_t count,
                          floating *to, Py_ssize_t step) noexcept nogil:
    """to[j, r] = source[r, j] for r < n and j < count; rows are `pitch` and `step` apart."""
    cdef Py_ssize_t V = lanes(source), r, j
    if min(n, count) < PACK_ROWS:
        for r in range(n):
            for j in range(count):
                to[j * step + r] = source[r * pitch + j]
        return
    r = 0
    while r < n:
        transpose(source + r * pitch, pitch, min(V, n - r), count, to + r, step, False)
        r += V


cdef bint pays_to_swap(const Product *job, Py_ssize_t V) noexcept nogil:
    """Whether out' = b' a' takes less time.

    Vectors that are multiplied for each k, and numbers that are transposed on the way, at two a vector: rows
    that lie by column, and panels that do not lie by row.
    """
    cdef Py_ssize_t own = job.N * ((job.M + V - 1) // V) + (
        (job.N if job.a.by_column else 0) + (job.M if job.b.by_column else 0)) // 2
    cdef Py_ssize_t swapped = job.M * ((job.N + V - 1) // V) + (
        (job.M if not job.b.by_column else 0) + (job.N if not job.a.by_column else 0)) // 2
    return job.M <= 2 * V and swapped < own


cdef int run_product(Product *job, const floating *like) except -1:
    """Run a job that has its sizes and arrays, none of them empty."""
    cdef Cell *cell = &job.cell
    cdef Py_ssize_t V = lanes(like), tiles
    cdef double work = <double> job.N * job.K * job.M
    cdef int threads = max_threads if work >= TEAM_WORK else 1      # read with the GIL
    cdef Matrix a = job.a
    cdef Workspace workspace
    workspace.count = 0
    workspace.failed = False
    begin(&job.team, polls(work))
    job.place = -1
    with nogil:
        job.swapped = pays_to_swap(job, V)
        if job.swapped:
            job.a, job.b = transposed(&job.b), transposed(&a)
            job.N, job.M = job.M, job.N
        cell.V, cell.G, cell.W, cell.H = V, 1, 4, job.M
        cell.U = cell.N = (job.M + V - 1) // V
        cell.Q = (cell.N + 3) // 4
        tiles = (job.N + tile_rows(4) - 1) // tile_rows(4)
        job.in_place = job.N <= COLUMNS_ROWS if job.b.by_column else job.N < PACK_ROWS
        job.by_rows = not (job.in_place or job.swapped or (tiles < 4 * threads and cell.Q >= threads))
        job.depth = job.K if job.K <= job.N else min(job.K, PRODUCT_DEPTH)
        if job.by_rows:
            threads = <int> min(threads, tiles)
            job.block = cell.Q
            job.rows = max(PRODUCT_ROWS // 8, min(
                PRODUCT_ROWS, <Py_ssize_t> (CHUNK_WORK / (<double> job.depth * job.M))))
            job.rows = min(job.rows, (tiles + threads - 1) // threads * tile_rows(4))
        else:
            threads = <int> min(threads, cell.Q)
            job.block = min(IN_PLACE_PANELS if job.in_place else BLOCK_PANELS,
                            (cell.Q + threads - 1) // threads)
            job.rows = job.N
        take_for_product(job, threads, &workspace, like)
        if not workspace.failed:
            if job.row != NULL and job.start != NULL:
                pack_row(cell, <const floating *> job.start, 0, 1, <floating *> job.row)
            if floating is float:
                run_team(threads, product_f32, job, sizeof(Product), &job.team)
            else:
                run_team(threads, product_f64, job, sizeof(Product), &job.team)
    return release(&workspace, job.team.cancelled)


cdef void take_for_product(Product *job, int threads, Workspace *workspace,
                           const floating *like) noexcept nogil:
    cdef Py_ssize_t width = job.block * 4 * lanes(like), size = sizeof(floating)
    if not job.in_place:
        job.panels = take(workspace, (1 if job.by_rows else threads) * job.depth * width * size)
    if not job.swapped:
        job.row = take_zeros(workspace, job.cell.Q * 4 * lanes(like) * size)
    if job.by_rows and job.depth < job.K:
        job.sums = take(workspace, job.N * width * size)
    elif job.swapped or not job.in_place:
        job.sums = take(workspace, threads * job.rows * width * size)
    if job.a.by_column:
        job.columns = take(workspace, threads * job.rows * job.depth * size)


cdef void product_f32(void *job, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    walk_product(<Product *> job, thread, caller, <float *> NULL)
    restore_denormals(caller)


cdef void product_f64(void *job, int thread) noexcept nogil:
    cdef fp_state caller = flush_denormals()
    walk_product(<Product *> job, thread, caller, <double *> NULL)
    restore_denormals(caller)


cdef void walk_product(Product *job, int thread, fp_state caller, const floating *like) noexcept nogil:
    """What one thread does of a product."""
    if job.by_rows:
        multiply_rows(job, thread, caller, like)
    else:
        multiply_blocks(job, thread, caller, like)


cdef void multiply_rows(Product *job, int thread, fp_state caller, const floating *like) noexcept nogil:
    """The share of a thread where all rows of a go through the same panels."""
    cdef Team *team = &job.team
    cdef Py_ssize_t width = job.block * 4 * lanes(like), pieces = (job.N + job.rows - 1) // job.rows
    cdef Py_ssize_t k = max(0, job.place), depth, row, rows, piece
    cdef bint packed = job.place >= 0   # who comes later finds the panels of its first round
    cdef floating *panels = <floating *> job.panels
    cdef floating *sums
    while True:
        depth = min(job.depth, job.K - k)
        if not packed:
            if thread == 0:
                restart(team)
            pack_block(job, k, depth, depth * thread // team.size, depth * (thread + 1) // team.size, 0,
                       panels)
            if not barrier(team, thread):
                return
        packed = False
        piece = take_piece(team)
        while piece < pieces and not team.cancelled:
            row = piece * job.rows
            rows = min(job.rows, job.N - row)
            sums = <floating *> job.sums + (row if job.depth < job.K else thread * job.rows) * width
            multiply_block(job, thread, row, rows, k, depth, 0, <const floating *> panels, sums)
            if k + depth == job.K:
                hand_out_block(job, row, rows, 0, <const floating *> sums)
            poll(team, thread, <double> rows * depth * job.M, caller)
            piece = take_piece(team)
            if thread == 0 and team.size == 1 and piece < pieces and waiting(team):
                job.place = k
                let_in(team)
        k += depth
        if k == job.K or not barrier(team, thread):
            return


cdef void multiply_blocks(Product *job, int thread, fp_state caller, const floating *like) noexcept nogil:
    """Blocks of columns, as long as there are any; a thread has panels of its own, or none."""
    cdef Team *team = &job.team
    cdef Py_ssize_t width = job.block * 4 * lanes(like), first, k, depth
    cdef floating *panels = <floating *> job.panels + thread * job.depth * width
    cdef floating *sums = <floating *> job.sums + thread * job.rows * width
    first = take_piece(team) * job.block
    while first < job.cell.Q:
        k = 0
        while k < job.K:
            depth = min(job.depth, job.K - k)
            if job.in_place:
                accumulate_block(job, thread, k, depth, first, sums)
            else:
                pack_block(job, k, depth, 0, depth, first, panels)
                multiply_block(job, thread, 0, job.N, k, depth, first, <const floating *> panels, sums)
            poll(team, thread, <double> job.N * depth * min(width, job.M), caller)
            if team.cancelled:
                return
            k += depth
        if job.swapped or not job.in_place:
            hand_out_block(job, 0, job.N, first, <const floating *> sums)
        first = take_piece(team) * job.block
        if thread == 0 and team.size == 1 and first < job.cell.Q and waiting(team):
            let_in(team)


cdef inline Py_ssize_t columns_of(const Product *job, Py_ssize_t first,
                                  const floating *like) noexcept nogil:
    """How many columns of b there are in the block that begins with a panel."""
    return min(job.M - first * 4 * lanes(like), job.block * 4 * lanes(like))


cdef void pack_block(const Product *job, Py_ssize_t k, Py_ssize_t depth, Py_ssize_t row, Py_ssize_t row_end,
                     Py_ssize_t first, floating *panels) noexcept nogil:
    """Rows row .. row_end of the panels of a block that begin with row k of b; padding becomes 0."""
    cdef Cell cell = job.cell
    cdef Py_ssize_t V = lanes(panels), column = first * 4 * V, r
    cdef const floating *b = <const floating *> job.b.start
    cell.H = columns_of(job, first, <const floating *> panels)
    cell.U = cell.N = (cell.H + V - 1) // V
    cell.Q = (cell.N + 3) // 4
    if job.b.by_column:
        pack(&cell, b + column * job.b.pitch + k, True, job.b.pitch, row, row_end, 0, depth, panels)
    else:
        for r in range(row, row_end):
            pack_row(&cell, b + (k + r) * job.b.pitch + column, r, depth, panels)


cdef const floating *rows_of_a(const Product *job, int thread, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t k,
                               Py_ssize_t depth, Py_ssize_t *pitch, const floating *like) noexcept nogil:
    """Where columns k .. k + depth of some rows of a lie, row by row, and (OUT) how far apart."""
    cdef const floating *a = <const floating *> job.a.start
    cdef floating *columns = <floating *> job.columns + thread * job.rows * job.depth
    if not job.a.by_column:
        pitch[0] = job.a.pitch
        return a + row * job.a.pitch + k
    pitch[0] = depth
    copy_transposed(a + k * job.a.pitch + row, job.a.pitch, depth, rows, columns, depth)
    return <const floating *> columns


cdef void multiply_block(const Product *job, int thread, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t k,
                         Py_ssize_t depth, Py_ssize_t first, const floating *panels,
                         floating *sums) noexcept nogil:
    """Add the products with the panels of a block to the sums, or begin them."""
    cdef Py_ssize_t V = lanes(panels), width = job.block * 4 * V, pitch, r
    cdef const floating *a = rows_of_a(job, thread, row, rows, k, depth, &pitch, panels)
    cdef const floating *start = <const floating *> sums
    if k == 0 and job.swapped:
        for r in range(rows):
            begin_row(job, row + r, width, sums + r * width)
    elif k == 0:
        start = <const floating *> job.row + first * 4 * V
    multiply(a, rows, pitch, panels, (columns_of(job, first, panels) + V - 1) // V, depth, start,
             0 if start != sums else width, 4 * V, sums, width, 4 * V)


cdef void accumulate_block(const Product *job, int thread, Py_ssize_t k, Py_ssize_t depth, Py_ssize_t first,
                           floating *sums) noexcept nogil:
    """As `multiply_block`, for few rows, with b as it lies; in the result itself, or, swapped, in `sums`."""
    cdef Py_ssize_t V = lanes(sums), column = first * 4 * V, width = job.block * 4 * V, pitch, r
    cdef Py_ssize_t n = columns_of(job, first, <const floating *> sums)
    cdef const floating *a = rows_of_a(job, thread, 0, job.N, k, depth, &pitch, <const floating *> sums)
    cdef const floating *b = <const floating *> job.b.start
    b += column * job.b.pitch + k if job.b.by_column else k * job.b.pitch + column
    if not job.swapped:
        sums, width = <floating *> job.out + column, job.out_pitch
    if k == 0:
        for r in range(job.N):
            if job.swapped:
                begin_row(job, r, n, sums + r * width)
            else:
                memcpy(sums + r * width, <const floating *> job.row + column, n * sizeof(floating))
    accumulate_rows(a, job.N, pitch, b, job.b.by_column, job.b.pitch, depth, n, sums, width)


cdef inline void begin_row(const Product *job, Py_ssize_t r, Py_ssize_t n, floating *sums) noexcept nogil:
    """What row r of the transposed product starts from, n times."""
    cdef floating start = (<const floating *> job.start)[r] if job.start != NULL else 0
    cdef Py_ssize_t j
    for j in range(n):
        sums[j] = start


cdef void hand_out_block(const Product *job, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t first,
                         const floating *sums) noexcept nogil:
    """Copy rows of a block to the caller's array."""
    cdef Py_ssize_t V = lanes(sums), width = job.block * 4 * V, column = first * 4 * V, r
    cdef Py_ssize_t n = columns_of(job, first, sums)
    cdef floating *out = <floating *> job.out
    if job.swapped:
        copy_transposed(sums, width, rows, n, out + column * job.out_pitch + row, job.out_pitch)
        return
    for r in range(rows):
        memcpy(out + (row + r) * job.out_pitch + column, sums + r * width, n * sizeof(floating))
