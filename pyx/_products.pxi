# The matrix products: rows in and out of the padded layouts, panels, tiles.  Included by _kernels.pyx.

cdef enum:
    # Depth of a product that is done at once for many rows: so much of it stays in the L1 cache.
    SPAN_DEPTH = 256


cdef inline void copy_lanes(floating *to, const floating *source, Py_ssize_t n) noexcept nogil:
    """Copy a vector, or its first n numbers at the end of a row."""
    cdef Py_ssize_t lane
    if n >= lanes(source):
        memcpy(to, source, lanes(source) * sizeof(floating))
    else:
        for lane in range(n):
            to[lane] = source[lane]


cdef inline void pack_row(const Cell *cell, const floating *row, Py_ssize_t k, Py_ssize_t depth,
                          floating *panels) noexcept nogil:
    """Regroup a row (GH,) of gate blocks as row k of panels `depth` deep; padding becomes 0."""
    cdef Py_ssize_t V = lanes(row), G = cell.G, H = cell.H, W = cell.W, q, g, unit, n, width, pitch
    cdef floating *to
    for q in range(cell.Q):
        unit = q * W * V                        # the first of the panel
        n = min(W * V, H - unit)
        width = min(4, cell.N - 4 * q)
        to = panels + (4 * q * depth + k * width) * V
        if n < W * V:
            memset(to, 0, width * V * sizeof(floating))
        if G == 1:
            memcpy(to, row + unit, n * sizeof(floating))
        else:
            pitch = gate_pitch(cell, q)
            for g in range(4):
                copy_lanes(to + g * pitch, row + g * H + unit, n)


cdef void unpack_row(const Cell *cell, const floating *z, Py_ssize_t z_panel, Py_ssize_t last_pitch,
                     Py_ssize_t u_first, Py_ssize_t u_end, floating *to) noexcept nogil:
    """Gather units u_first V .. u_end V of a row (GH,) from panels z_panel apart.

    last_pitch: numbers from gate to gate of the last units; V where a tail has been spread.
    """
    cdef Py_ssize_t V = lanes(z), H = cell.H, u, g
    if cell.G == 4:
        for g in range(4):
            for u in range(u_first, u_end):
                copy_lanes(to + g * H + u * V, z + u * z_panel + g * (last_pitch if u == cell.U - 1 else V),
                           H - u * V)
    else:
        for u in range(u_first, u_end):
            copy_lanes(to + u * V, z + u // 4 * z_panel + u % 4 * V, H - u * V)


cdef void pack(const Cell *cell, const floating *W, bint by_column, Py_ssize_t rows, Py_ssize_t k,
               Py_ssize_t k_end, Py_ssize_t above, Py_ssize_t depth, floating *panels) noexcept nogil:
    """Rows k .. k_end of weights (rows, GH) into panels `depth` deep, in which `above` rows come first."""
    cdef Py_ssize_t V = lanes(W), H = cell.H, v, unit, width
    cdef floating *to
    if not by_column:
        for k in range(k, k_end):
            pack_row(cell, W + k * cell.G * H, above + k, depth, panels)
        return
    for v in range(cell.G * cell.U):    # vectors of columns: unit after unit, each with its gates
        unit, width = v // cell.G * V, min(4, cell.N - v // 4 * 4)
        to = panels + (v // 4 * 4 * depth + (above + k) * width) * V
        if cell.tail and v == 4 * cell.U - 4:
            memset(to, 0, (k_end - k) * width * V * sizeof(floating))
        transpose(W + (v % cell.G * H + unit) * rows + k, rows, min(V, H - unit), k_end - k,
                  to + v % 4 * gate_pitch(cell, v // cell.G), width * V, not cell.tail)


cdef void pack_transposed(const Cell *cell, const floating *W, bint by_column, Py_ssize_t rows, Py_ssize_t u,
                          Py_ssize_t u_end, floating *panels) noexcept nogil:
    """Units u V .. u_end V of weights (rows, GH), transposed, into panels (D, rows); padding becomes 0."""
    cdef Py_ssize_t V = lanes(W), H = cell.H, G = cell.G, pitch = cell.G * cell.H
    cdef Py_ssize_t first, count, width, height, g, lane, j
    cdef const floating *column
    cdef floating *to
    for u in range(u, u_end):
        first, height = 0, gate_pitch(cell, u)
        while first < rows:
            count = min(4 * V, rows - first)
            width = (count + V - 1) // V * V
            to = panels + first * cell.D + G * u * V * width
            if count < width or H - u * V < height:
                memset(to, 0, G * height * width * sizeof(floating))
            for g in range(G):
                if by_column:
                    for lane in range(min(V, H - u * V)):
                        memcpy(to + lane * width, W + (g * H + u * V + lane) * rows + first,
                               count * sizeof(floating))
                else:
                    column = W + first * pitch + g * H + u * V
                    for j in range(count):      # outside: rows a power of two apart do not fit the L1 cache
                        for lane in range(min(V, H - u * V)):
                            to[lane * width + j] = column[j * pitch + lane]
                to += height * width
            first += 4 * V


cdef void unpack(const Cell *cell, const floating *panels, Py_ssize_t k, Py_ssize_t k_end, Py_ssize_t above,
                 Py_ssize_t depth, floating *W, bint by_column, Py_ssize_t rows) noexcept nogil:
    """Rows k .. k_end of weights (rows, GH), OUT, from panels (depth, 4 V) where `above` rows come first."""
    cdef Py_ssize_t V = lanes(panels), H = cell.H, v, unit, n
    if not by_column:
        for k in range(k, k_end):
            unpack_row(cell, panels + (above + k) * 4 * V, depth * 4 * V, gate_pitch(cell, cell.U - 1), 0,
                       cell.U, W + k * cell.G * H)
        return
    for v in range(cell.G * cell.U):    # as in `pack`
        unit = v // cell.G * V
        n = k
        while n < k_end:
            transpose(panels + (v // 4 * depth + above + n) * 4 * V + v % 4 * gate_pitch(cell, v // cell.G),
                      4 * V, min(V, k_end - n), min(V, H - unit),
                      W + (v % cell.G * H + unit) * rows + n, rows, False)
            n += V


cdef inline void into_tiles(const floating *source, Py_ssize_t count, Py_ssize_t r, Py_ssize_t k,
                            Py_ssize_t depth, floating *tiles) noexcept nogil:
    """Numbers that are column k of rows r, r + 1, ... of an operand in tiles, each (depth, R)."""
    cdef Py_ssize_t R = tile_rows(4), n = 0
    cdef floating *to = tiles + (r - r % R) * depth + k * R
    r = r % R
    while n < count:
        if r == 0 and n + R <= count:   # a whole row of a tile
            memcpy(to, source + n, R * sizeof(floating))
            n += R
        else:
            to[r] = source[n]
            n += 1
            r += 1
            if r < R:
                continue
            r = 0
        to += depth * R


cdef void multiply(const floating *a, Py_ssize_t rows, Py_ssize_t a_row, const floating *panels,
                   Py_ssize_t vectors, Py_ssize_t depth, const floating *start, Py_ssize_t start_row,
                   Py_ssize_t start_panel, floating *sums, Py_ssize_t sums_row, Py_ssize_t sums_panel,
                   Py_ssize_t first=0, Py_ssize_t stride=0, bint descending=False) noexcept nogil:
    """sums[r, v] = start[r, v] + sum over k of a[r, k] * panels[k, v], k in order.

    a       IN      (rows, depth): rows a_row apart, or with a_row = 0 in tiles, each (depth, R)
    panels  IN      (depth, vectors)
    start   IN      (rows, vectors): rows start_row apart, 0 if all are one, panels start_panel; may be sums
    sums    OUT     (rows, vectors): rows sums_row apart, panels sums_panel
    first, stride   with a stride only the tiles that begin at rows first, first + stride, ...
    descending      take the panels from the last to the first
    """
    cdef Py_ssize_t V = lanes(a)
    cdef bint tiled = a_row == 0
    cdef Py_ssize_t a_first = depth if tiled else a_row     # times r: the first row of a tile
    cdef Py_ssize_t a_step = tile_rows(4) if tiled else 1   # from k to k + 1
    cdef Py_ssize_t count = (vectors + 3) // 4, done = 0    # panels
    cdef Py_ssize_t p, r, k, width, height, span, next_tile, from_row, from_panel
    cdef const floating *panel
    cdef const floating *from_
    cdef floating *to
    if tiled:
        a_row = 1
    while done < count:
        # One row alone takes two panels at once: eight sums hide the latency of an addition, four do not.
        p = count - 1 - done if descending else done
        if rows == 1 and done + 2 <= count:
            p -= descending
            width, height, next_tile = min(8, vectors - 4 * p), 1, 1
            done += 2
        else:
            width = min(4, vectors - 4 * p)
            height = tile_rows(4 if stride or tiled else width)
            next_tile = stride if stride else height
            done += 1
        panel = panels + 4 * p * depth * V
        from_, from_row, from_panel = start + p * start_panel, start_row, start_panel
        to = sums + p * sums_panel
        span = SPAN_DEPTH if rows > next_tile else depth
        k = 0
        while True:
            span = min(span, depth - k)
            r = first
            while r < rows:
                if floating is float:
                    tile_f32(min(height, rows - r), width, a + r * a_first + k * a_step, a_row, a_step,
                             panel, 4 * V * depth, span, from_ + r * from_row, from_row, from_panel,
                             to + r * sums_row, sums_row, sums_panel)
                else:
                    tile_f64(min(height, rows - r), width, a + r * a_first + k * a_step, a_row, a_step,
                             panel, 4 * V * depth, span, from_ + r * from_row, from_row, from_panel,
                             to + r * sums_row, sums_row, sums_panel)
                r += next_tile
            k += span
            if k >= depth:
                break
            panel += span * min(width, 4) * V
            from_, from_row, from_panel = <const floating *> to, sums_row, sums_panel


cdef void accumulate_rows(const floating *a, Py_ssize_t rows, Py_ssize_t a_row, const floating *W,
                          bint by_column, Py_ssize_t pitch, Py_ssize_t depth, Py_ssize_t n, floating *z,
                          Py_ssize_t z_row) noexcept nogil:
    """z[r, j] += sum over k of a[r, k] * W[k, j], k in order, with W as it lies.

    a       IN      (rows, depth): at most COLUMNS_ROWS rows, a_row apart
    W       IN      (depth, n): rows, or by column columns, pitch apart
    z       IN/OUT  (rows, n): rows z_row apart
    """
    cdef Py_ssize_t r
    if by_column:
        accumulate_columns(rows, a, a_row, W, pitch, depth, n, z, z_row)
    else:
        for r in range(rows):
            accumulate(a + r * a_row, W, pitch, depth, n, z + r * z_row)


cdef void multiply_in_place(const Cell *cell, const floating *x, const floating *h_prev, floating *flat,
                            Py_ssize_t depth, floating *z) noexcept nogil:
    """Equation 1 of one row with the weights as they lie: z (OUT), a row of panels `depth` deep.

    flat (GH,) is for the sums.
    """
    cdef Py_ssize_t n = cell.G * cell.H
    memcpy(flat, cell.bias, n * sizeof(floating))
    accumulate_rows(x, 1, 0, <const floating *> cell.W_x, cell.W_x_by_column,
                    cell.I if cell.W_x_by_column else n, cell.I, n, flat, 0)
    accumulate_rows(h_prev, 1, 0, <const floating *> cell.W_h, cell.W_h_by_column,
                    cell.R if cell.W_h_by_column else n, cell.R, n, flat, 0)
    pack_row(cell, <const floating *> flat, 0, depth, z)
