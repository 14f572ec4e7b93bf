# What is computed at one step, for each kind of cell: its point-wise part, one function forward and one
# backward, V units at a time.  Included by _kernels.pyx.  The equations and their numbers are those of
# src/clstm/reference.py; the gates come in the order of src/clstm/cells.py.

cdef enum:
    LSTM
    RNN

# The kinds by their names in cells.py, with the number of blocks of H columns that their weights have.
KINDS = {"lstm": 4, "rnn": 1}


cdef struct Cell:
    int kind
    Py_ssize_t I, H
    Py_ssize_t G            # gates: vectors of z for each of units; 1 or 4, so that panels hold whole ones
    Py_ssize_t U            # vectors of units, ceil(H / V)
    Py_ssize_t W            # vectors of units in a panel, 4 / G
    Py_ssize_t N            # vectors of z, G U
    Py_ssize_t Q            # panels of four of these, ceil(N / 4)
    const void *W_x         # IN (I, GH)
    const void *W_h         # IN (H, GH)
    const void *bias        # IN (GH,)


@cython.boundscheck(True)
cdef int read_cell(Cell *to, object cell, const floating *like) except -1:
    """Turn the record of cells.py, whose arrays the caller keeps alive, into a struct.

    Here and in the entries bounds are checked: None is a view without numbers.
    """
    cdef const floating[:, ::1] W_x = cell.W_x
    cdef const floating[:, ::1] W_h = cell.W_h
    cdef const floating[::1] bias = cell.bias
    cdef str kind = cell.kind.name
    cdef Py_ssize_t V = lanes(like)
    to.G = KINDS[kind]
    to.kind = LSTM if to.G == 4 else RNN
    to.I, to.H = W_x.shape[0], W_h.shape[0]
    to.W = 4 // to.G
    to.U = (to.H + V - 1) // V
    to.N = to.G * to.U
    to.Q = (to.N + 3) // 4
    to.W_x, to.W_h, to.bias = &W_x[0, 0], &W_h[0, 0], &bias[0]
    return 0


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
