# What is computed at one step, for each kind of cell: its point-wise part, one function forward and one
# backward, V units at a time.  Included by _kernels.pyx.  The equations and their numbers are those of
# src/clstm/reference.py; the gates come in the order of src/clstm/cells.py.

cdef enum:
    LSTM
    RNN
    OPTIONS     # an LSTM with options

# The kinds by their names in cells.py, with the number of blocks of H columns that their weights have.
KINDS = {"lstm": 4, "rnn": 1}

cdef enum:
    BFLOAT16 = 1
    BYTES

# The precisions of narrow weights by their names in cells.py.
PRECISIONS = {"bfloat16": BFLOAT16, "int8": BYTES}

# The activations by their names, with the numbers that activations.h has for them.
ACTIVATIONS = {
    name: number
    for number, name in enumerate((
        "sigmoid", "tanh", "relu", "hard_sigmoid", "softsign", "softplus", "elu", "leaky_relu",
        "thresholded_relu", "scaled_tanh", "affine", "identity",
    ))
}


cdef struct Activation:
    int function
    double alpha, beta
    double clip             # of what goes in


# Weights of fewer bytes than a float; see narrow.h.
cdef struct Narrow:
    int precision           # 0 for weights that are floats
    const unsigned int *words_x     # IN the panels of W_x and of W_h
    const unsigned int *words_h
    # Of bytes.
    const float *scale_x    # IN (4H,): what 1 in a column of W_x, and of W_h, is worth
    const float *scale_h
    double range_x          # numbers of x are held within it, those of h within 1
    double levels_x, levels_h       # the integers that these become
    Py_ssize_t *held        # IN/OUT how many numbers were held
    bint dot                # whether the instruction of DOT_FEATURE is used
    int threads             # that there is room for


cdef struct Cell:
    int kind
    Py_ssize_t V            # numbers in a vector
    Py_ssize_t I, H
    Py_ssize_t R            # numbers of h: H, or those of a projection
    Py_ssize_t G            # gates: vectors of z for each of units; 1 or 4, so that panels hold whole ones
    Py_ssize_t U            # vectors of units, ceil(H / V)
    Py_ssize_t U_h          # vectors of h, ceil(R / V)
    Py_ssize_t W            # vectors of units in a panel, 4 / G
    Py_ssize_t tail         # units of the last panel, if their gates lie in it without gaps; else 0
    Py_ssize_t N            # vectors of z: G U, or with a tail fewer
    Py_ssize_t D            # numbers of z from the first to the last: G H, or without a tail N V
    Py_ssize_t Q            # panels of four of these, ceil(N / 4)
    const void *W_x         # IN (I, GH)
    const void *W_h         # IN (R, GH)
    bint W_x_by_column      # whether it lies column after column in memory, as PyTorch has it
    bint W_h_by_column
    const void *bias        # IN (GH,)
    # Of an LSTM with options; NULL for arrays that there are not.
    Activation gate, candidate, outer
    double cell_clip
    bint coupled
    double zoneout_h, zoneout_c
    const void *peepholes   # IN (3, H): i, f, o
    const void *W_r         # IN (H, R)
    const void *norm_x      # IN (4H,)
    const void *norm_h      # IN (4H,)
    const void *norm_c      # IN (2, H): gain, shift
    Narrow narrow


@cython.boundscheck(True)
cdef int read_cell(Cell *to, object cell, const floating *like) except -1:
    """Turn the record of cells.py, whose arrays the caller keeps alive, into a struct that is full of 0.

    Here and in the entries bounds are checked: None is a view without numbers.
    """
    cdef const floating[:, :] W_x
    cdef const floating[:, :] W_h
    cdef const floating[::1] bias = cell.bias
    cdef str kind = cell.kind.name
    to.V = lanes(like)
    to.G = KINDS[kind]
    to.kind = LSTM if to.G == 4 else RNN
    to.H, to.bias = bias.shape[0] // to.G, &bias[0]
    if cell.narrow is not None:
        read_narrow(to, cell, like)
    else:
        W_x, W_h = cell.W_x, cell.W_h
        to.I, to.R, to.W_x, to.W_h = W_x.shape[0], W_h.shape[0], &W_x[0, 0], &W_h[0, 0]
        to.W_x_by_column, to.W_h_by_column = lies_by_column(W_x), lies_by_column(W_h)
    to.W = 4 // to.G
    to.U, to.U_h = (to.H + to.V - 1) // to.V, (to.R + to.V - 1) // to.V
    if cell.options is not None:
        read_options(to, cell, like)
    to.N, to.D = to.G * to.U, to.G * to.U * to.V
    if to.kind == LSTM and cell.narrow is None and 4 * (to.H % to.V) <= 3 * to.V:
        to.tail = to.H % to.V
    if to.tail:
        to.N, to.D = 4 * (to.U - 1) + (4 * to.tail + to.V - 1) // to.V, 4 * to.H
    to.Q = (to.N + 3) // 4
    return 0


cdef inline Py_ssize_t gate_pitch(const Cell *cell, Py_ssize_t u) noexcept nogil:
    """Numbers from gate to gate of the units u V, u V + 1, ... in a row of panels."""
    return cell.tail if cell.tail and u == cell.U - 1 else cell.V


@cython.boundscheck(True)
cdef int read_narrow(Cell *to, object cell, const floating *like) except -1:
    """Read weights of fewer bytes than a float."""
    cdef const unsigned int[:, :, :, ::1] words_x = cell.W_x
    cdef const unsigned int[:, :, :, ::1] words_h = cell.W_h
    cdef const float[::1] scale_x
    cdef const float[::1] scale_h
    cdef Py_ssize_t[::1] held
    narrow = cell.narrow
    if sizeof(floating) != sizeof(float) or to.kind != LSTM:
        raise TypeError("cell: expected an LSTM of float32 for narrow weights, got another")
    to.I, to.R = narrow.input_size, narrow.output_size
    to.narrow.words_x, to.narrow.words_h = &words_x[0, 0, 0, 0], &words_h[0, 0, 0, 0]
    to.narrow.precision, to.narrow.threads = PRECISIONS[narrow.precision], max_threads
    if to.narrow.precision == BYTES:
        scale_x, scale_h, held = narrow.scale_x, narrow.scale_h, narrow.held.count
        to.narrow.scale_x, to.narrow.scale_h = &scale_x[0], &scale_h[0]
        to.narrow.range_x, to.narrow.held = narrow.x_range, &held[0]
        to.narrow.levels_x, to.narrow.levels_h = narrow.levels
        to.narrow.dot = dot
    return 0


cdef bint lies_by_column(const floating[:, :] W) except? True:
    """Whether a matrix lies column after column in memory, not row after row."""
    cdef Py_ssize_t rows = W.shape[0], columns = W.shape[1], size = sizeof(floating)
    if (columns == 1 or W.strides[1] == size) and (rows == 1 or W.strides[0] == columns * size):
        return False
    if (rows == 1 or W.strides[0] == size) and (columns == 1 or W.strides[1] == rows * size):
        return True
    raise ValueError("cell: expected matrices that are contiguous, or whose transpose is")


@cython.boundscheck(True)
cdef int read_options(Cell *to, object cell, const floating *like) except -1:
    """Read what an LSTM has beside its four equations."""
    cdef const floating[:, ::1] peepholes = cell.peepholes
    cdef const floating[:, ::1] W_r = cell.W_r
    cdef const floating[::1] norm_x = cell.norm_x
    cdef const floating[::1] norm_h = cell.norm_h
    cdef const floating[:, ::1] norm_c = cell.norm_c
    options = cell.options
    to.kind = OPTIONS
    gate, candidate, outer = options.activations
    to.gate = activation_of(gate, options.gate_clip)
    to.candidate = activation_of(candidate, options.gate_clip)
    to.outer = activation_of(outer, INFINITY)
    to.cell_clip, to.coupled = options.cell_clip, options.coupled
    to.zoneout_h, to.zoneout_c = options.zoneout
    if peepholes is not None:
        to.peepholes = &peepholes[0, 0]
    if W_r is not None:
        to.W_r = &W_r[0, 0]
    if norm_x is not None:
        to.norm_x, to.norm_h, to.norm_c = &norm_x[0], &norm_h[0], &norm_c[0, 0]
    return 0


cdef Activation activation_of(object activation, double clip) except *:
    cdef Activation read
    name, read.alpha, read.beta = activation
    read.function, read.clip = ACTIVATIONS[name], clip
    return read


cdef inline bint needs_rows(const Cell *cell) noexcept nogil:
    """Whether a thread must have all units of its rows."""
    return cell.norm_x != NULL or cell.W_r != NULL or (
        cell.narrow.precision != 0 and 4 * cell.V < PANEL_UNITS     # a share would end inside a panel
    )


# ------------------------------------------------------------------------------------------------------- LSTM

cdef inline void lstm_forward(int part, vec *z, vec *c, vec *h) noexcept nogil:
    """Part 0: z (IN pre-activations, OUT i f g o) and c (IN c_prev, OUT c_t), 2 and 3.  Part 1: h (OUT), 4.

    In two parts, each for several vectors of units one after the other: the processor works on more of them
    at once when each is a shorter chain.
    """
    cdef vec i, f, g, o
    if part == 0:
        i = vec_sigmoid(z[0])
        f = vec_sigmoid(z[1])
        g = vec_tanh(z[2])
        o = vec_sigmoid(z[3])
        z[0], z[1], z[2], z[3] = i, f, g, o
        c[0] = madd(f, c[0], i * g)
    else:
        h[0] = z[3] * vec_tanh(c[0])


cdef inline void lstm_backward(vec i, vec f, vec g, vec o, vec c, vec c_prev, vec dh, vec *dc_carry,
                               vec *dz) noexcept nogil:
    """4' to 2': dc_carry (IN dc_next * f_next, OUT dc * f), dz (OUT)."""
    cdef vec one = constant(1.0, i)
    cdef vec tanh_c = vec_tanh(c)
    cdef vec do = dh * tanh_c
    cdef vec dc = madd(dh * o, madd(-tanh_c, tanh_c, one), dc_carry[0])
    dz[0] = (dc * g) * (i * (one - i))
    dz[1] = (dc * c_prev) * (f * (one - f))
    dz[2] = (dc * i) * madd(-g, g, one)
    dz[3] = do * (o * (one - o))
    dc_carry[0] = dc * f


# -------------------------------------------------------------------------------------------------- plain RNN

cdef inline void rnn_forward(const vec *z, vec *h) noexcept nogil:
    """6: h (OUT)."""
    h[0] = vec_tanh(z[0])


cdef inline void rnn_backward(vec h, vec dh, vec *dz) noexcept nogil:
    """6': dz (OUT)."""
    dz[0] = dh * madd(-h, h, constant(1.0, h))


# -------------------------------------------------------------------------------------- an LSTM with options

cdef inline vec activated(const Activation *activation, vec x) noexcept nogil:
    """f(x), after the clip."""
    if activation.clip < INFINITY:
        x = vec_clamp(x, activation.clip)
    if activation.function == CLSTM_SIGMOID:
        return vec_sigmoid(x)
    if activation.function == CLSTM_TANH:
        return vec_tanh(x)
    if vec is vec_f32:
        activate_f32(activation.function, <float> activation.alpha, <float> activation.beta, &x)
    else:
        activate_f64(activation.function, activation.alpha, activation.beta, &x)
    return x


cdef inline vec times_slope(const Activation *activation, vec x, vec y, vec dy) noexcept nogil:
    """dy f'(x), where y = f(x); 0 where the clip holds x."""
    cdef vec dx = dy
    if vec is vec_f32:
        slope_f32(activation.function, <float> activation.alpha, <float> activation.beta, &x, &y, &dx)
    else:
        slope_f64(activation.function, activation.alpha, activation.beta, &x, &y, &dx)
    if activation.clip < INFINITY:
        dx = vec_let_through(x, activation.clip, dx)
    return dx


cdef inline void options_forward(int part, const Cell *cell, bint outputs, vec *z, vec *c, vec *fresh, vec *h,
                                 const vec *p_i, const vec *p_f, const vec *p_o,
                                 const vec *keep) noexcept nogil:
    """Part 0: 1p to 3z, the output gate into h.  Part 1: 4.

    z      IN pre-activations, OUT the same with the terms of the peepholes, or with `outputs` the gates
    c      IN c_prev, OUT c_t;  fresh  OUT c_t before zoneout, in part 1 IN what the outer activation sees
    keep   IN what zoneout keeps of c;  keep, p_i, p_f, p_o  NULL for what the cell has not
    """
    cdef vec one = constant(1.0, z[0])
    cdef vec i, f, g, o, new
    if part == 0:
        if p_i != NULL:
            z[0] = madd(p_i[0], c[0], z[0])
            z[1] = madd(p_f[0], c[0], z[1])
        i = activated(&cell.gate, z[0])
        f = one - i if cell.coupled else activated(&cell.gate, z[1])
        g = activated(&cell.candidate, z[2])
        new = madd(f, c[0], i * g)
        if cell.cell_clip < INFINITY:
            new = vec_clamp(new, cell.cell_clip)
        if p_o != NULL:
            z[3] = madd(p_o[0], new, z[3])
        o = activated(&cell.gate, z[3])
        if outputs:
            z[0], z[1], z[2], z[3] = i, f, g, o
        fresh[0] = new
        c[0] = new if keep == NULL else madd(keep[0], c[0], (one - keep[0]) * new)
        h[0] = o
    else:
        h[0] = h[0] * activated(&cell.outer, fresh[0])


cdef inline void options_backward(int part, const Cell *cell, const vec *z, const vec *c_prev, vec *fresh,
                                  vec *dfresh, vec *h, const vec *dh, vec *dc, const vec *p_i,
                                  const vec *p_f, const vec *p_o, const vec *keep, vec *dz) noexcept nogil:
    """Part 0: 2 and 3 again.  Part 1: 4' and dz_o.  Part 2: 3z' to 1p'.

    z, c_prev  IN, as forward left them
    fresh      part 0 OUT c_t before zoneout;  part 1 IN what the outer activation sees
    dfresh     part 1 OUT the derivative by that;  part 2 IN the derivative by c_t before zoneout, through h
    h          part 1 OUT o * act(c_t), before a projection;  dh  IN the derivative by it
    dc         part 2 IN the derivative by c_t through later steps, OUT the one by c_prev
    dz         OUT; between the parts it keeps i, f, g
    """
    cdef vec one = constant(1.0, z[0])
    cdef vec i, f, g, o, outer, d, di, df
    if part == 0:
        i = activated(&cell.gate, z[0])
        f = one - i if cell.coupled else activated(&cell.gate, z[1])
        g = activated(&cell.candidate, z[2])
        d = madd(f, c_prev[0], i * g)
        fresh[0] = vec_clamp(d, cell.cell_clip) if cell.cell_clip < INFINITY else d
        dz[0], dz[1], dz[2] = i, f, g
    elif part == 1:
        o = activated(&cell.gate, z[3])
        outer = activated(&cell.outer, fresh[0])
        dz[3] = times_slope(&cell.gate, z[3], o, dh[0] * outer)
        dfresh[0] = times_slope(&cell.outer, fresh[0], outer, dh[0] * o)
        h[0] = o * outer                # last: h may be where fresh is
    else:
        i, f, g = dz[0], dz[1], dz[2]
        d = dfresh[0]
        if p_o != NULL:
            d = madd(p_o[0], dz[3], d)
        d = d + dc[0] if keep == NULL else madd(one - keep[0], dc[0], d)
        if cell.cell_clip < INFINITY:
            d = vec_let_through(madd(f, c_prev[0], i * g), cell.cell_clip, d)
        di, df = d * g, d * c_prev[0]
        if cell.coupled:
            di, df = di - df, constant(0.0, d)
        else:
            df = times_slope(&cell.gate, z[1], f, df)
        dz[0], dz[1] = times_slope(&cell.gate, z[0], i, di), df
        dz[2] = times_slope(&cell.candidate, z[2], g, d * i)
        d = d * f
        if keep != NULL:
            d = madd(keep[0], dc[0], d)
        if p_i != NULL:
            d = madd(p_i[0], dz[0], d)
            d = madd(p_f[0], dz[1], d)
        dc[0] = d


# ------------------------------------------------------------------------------------------- of whatever kind

cdef inline void forward_units(int kind, int part, floating *z, floating *c, floating *h) noexcept nogil:
    """One part of the forward function for V units: z (G, V) and c (V,) IN/OUT, h (V,) OUT, all aligned."""
    if floating is float:
        if kind == LSTM:
            lstm_forward(part, <vec_f32 *> z, <vec_f32 *> c, <vec_f32 *> h)
        else:
            rnn_forward(<const vec_f32 *> z, <vec_f32 *> h)
    else:
        if kind == LSTM:
            lstm_forward(part, <vec_f64 *> z, <vec_f64 *> c, <vec_f64 *> h)
        else:
            rnn_forward(<const vec_f64 *> z, <vec_f64 *> h)


cdef inline void backward_units(int kind, const floating *gates, Py_ssize_t stride, const floating *c,
                                const floating *c_prev, const floating *dy, const floating *dh,
                                floating *dc_carry, floating *dz) noexcept nogil:
    """The backward function for V units.

    gates  IN  G vectors, `stride` apart, as forward left them; an RNN's one gate is its h
    c, c_prev, dy  IN; dh  IN, aligned; dc_carry  IN/OUT, dz  OUT (G, V), aligned.  A kind without c reads and
    writes none.
    """
    if floating is float:
        if kind == LSTM:
            lstm_backward(load_f32(gates), load_f32(gates + stride), load_f32(gates + 2 * stride),
                          load_f32(gates + 3 * stride), load_f32(c), load_f32(c_prev),
                          load_f32(dy) + load_f32(dh), <vec_f32 *> dc_carry, <vec_f32 *> dz)
        else:
            rnn_backward(load_f32(gates), load_f32(dy) + load_f32(dh), <vec_f32 *> dz)
    else:
        if kind == LSTM:
            lstm_backward(load_f64(gates), load_f64(gates + stride), load_f64(gates + 2 * stride),
                          load_f64(gates + 3 * stride), load_f64(c), load_f64(c_prev),
                          load_f64(dy) + load_f64(dh), <vec_f64 *> dc_carry, <vec_f64 *> dz)
        else:
            rnn_backward(load_f64(gates), load_f64(dy) + load_f64(dh), <vec_f64 *> dz)
