# The plain RNN: forward and backward of one layer on the calling thread, a whole sequence a call; included by
# _kernels.pyx. The equations and their numbers are those of src/clstm/reference.py.  Products, schedule and
# memory are the LSTM's; here a panel is up to four vectors of units side by side, (depth, width), and z lies
# row after row, (rows, Hp).

cdef inline void tanh_units(floating *z) noexcept nogil:
    """Step 6 of V units: z (IN pre-activations, OUT h_t)."""
    if floating is float:
        (<vec_f32 *> z)[0] = tanh_f32((<vec_f32 *> z)[0])
    else:
        (<vec_f64 *> z)[0] = tanh_f64((<vec_f64 *> z)[0])


cdef inline void tanh_backward(vec h, vec dh, vec *dz) noexcept nogil:
    """Step 6': dz (IN dy, OUT)."""
    dz[0] = (dz[0] + dh) * madd(-h, h, constant(1.0, h))


cdef inline void tanh_backward_units(const floating *h, const floating *dh, floating *dz) noexcept nogil:
    if floating is float:
        tanh_backward(load_f32(h), load_f32(dh), <vec_f32 *> dz)
    else:
        tanh_backward(load_f64(h), load_f64(dh), <vec_f64 *> dz)


cdef void pack_matrix(const floating *W, Py_ssize_t depth, Py_ssize_t columns, Py_ssize_t by_k, Py_ssize_t by_column,
                      floating *panels) noexcept nogil:
    """A matrix (depth, columns), its elements (k, j) at W[k * by_k + j * by_column], into panels; padding becomes 0."""
    cdef Py_ssize_t V = lanes(W), first = 0, count, width, k, j
    while first < columns:
        count = min(4 * V, columns - first)
        width = (count + V - 1) // V * V
        for k in range(depth):
            if by_column == 1:
                memcpy(panels, W + k * by_k + first, count * sizeof(floating))
            else:
                for j in range(count):
                    panels[j] = W[k * by_k + (first + j) * by_column]
            for j in range(count, width):
                panels[j] = 0
            panels += width
        first += 4 * V


def rnn_forward(
    const floating[:, :, :] x not None,             # IN   (T, B, I)
    const floating[:, ::1] W_x not None,            # IN   (I, H)
    const floating[:, ::1] W_h not None,            # IN   (H, H)
    const floating[::1] bias not None,              # IN   (H,)
    const floating[:, ::1] h_0 not None,            # IN   (B, H)
    const Py_ssize_t[::1] lengths not None,         # IN   (B,)
    floating[:, :, :] y not None,                   # OUT  (T, B, H)
    floating[:, ::1] h_n not None,                  # OUT  (B, H)
):
    """Run a plain RNN over whole sequences; see `clstm.reference.rnn_forward`."""
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], I = x.shape[2], H = W_h.shape[0]
    cdef Py_ssize_t V = lanes(&bias[0])
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef Py_ssize_t Hp = P * V
    cdef Py_ssize_t start = 0, end, rows, most, n, s, r, b, j
    cdef Sequence inputs = sequence(x)
    cdef Sequence outputs = sequence(y)
    cdef Workspace workspace
    cdef Schedule schedule
    cdef Team team
    cdef fp_state caller
    cdef floating *panels_x
    cdef floating *panels_h
    cdef floating *bias_z       # (Hp,)
    cdef floating *chunk_x      # (rows, I)
    cdef floating *chunk_z      # (rows, Hp), in the end the hidden states
    cdef floating *hidden       # (B, Hp) before a chunk
    cdef const floating *h_prev
    cdef floating *z
    workspace.count = 0
    workspace.failed = False
    begin(&team, polls(<double> T * B * H * (I + H)))
    with nogil:
        schedule = plan(&lengths[0] if B > 0 else NULL, B, False, I, H, &workspace)
        most = max(B, schedule.chunk_rows)
        panels_x = <floating *> take(&workspace, I * Hp * sizeof(floating))
        panels_h = <floating *> take(&workspace, H * Hp * sizeof(floating))
        bias_z = <floating *> take(&workspace, Hp * sizeof(floating))
        chunk_x = <floating *> take(&workspace, most * I * sizeof(floating))
        chunk_z = <floating *> take(&workspace, most * Hp * sizeof(floating))
        hidden = <floating *> take(&workspace, B * Hp * sizeof(floating))
        if not workspace.failed:
            caller = flush_denormals()
            pack_matrix(&W_x[0, 0], I, H, H, 1, panels_x)
            pack_matrix(&W_h[0, 0], H, H, H, 1, panels_h)
            memset(bias_z, 0, Hp * sizeof(floating))
            memcpy(bias_z, &bias[0], H * sizeof(floating))
            zero_padding(&outputs, &schedule, T, sizeof(floating))
            for r in range(B):
                b = schedule.order[r]
                memcpy(hidden + r * Hp, &h_0[b, 0], H * sizeof(floating))
                if schedule.length[r] == 0:
                    memcpy(&h_n[b, 0], &h_0[b, 0], H * sizeof(floating))

            while start < schedule.steps and not stopped(&team):
                # 5, the part of x: for all steps of the chunk at once.
                end = chunk_end(&schedule, start, &rows)
                n = 0
                for s in range(start, end):
                    for r in range(schedule.active[s]):
                        memcpy(chunk_x + (n + r) * I, at(&inputs, s, schedule.order[r]), I * sizeof(floating))
                    n += schedule.active[s]
                multiply(<const floating *> chunk_x, rows, I, panels_x, P, I, bias_z, 0, 4 * V, chunk_z, Hp, 4 * V)

                # 5, the part of h, and 6: step by step; z becomes the h_prev of the step after.
                h_prev, z = hidden, chunk_z
                for s in range(start, end):
                    multiply(h_prev, schedule.active[s], Hp, panels_h, P, H, z, Hp, 4 * V, z, Hp, 4 * V)
                    for j in range(schedule.active[s] * P):
                        tanh_units(z + j * V)
                    for r in range(schedule.active[s]):
                        b = schedule.order[r]
                        memcpy(at(&outputs, s, b), z + r * Hp, H * sizeof(floating))
                        if r >= schedule.active[s + 1]:     # the row's last step
                            memcpy(&h_n[b, 0], z + r * Hp, H * sizeof(floating))
                    h_prev = z
                    z += schedule.active[s] * Hp
                    poll(&team, 0, <double> schedule.active[s] * H * (I + H), caller)
                    if stopped(&team):
                        break
                memcpy(hidden, h_prev, schedule.active[end - 1] * Hp * sizeof(floating))
                start = end
            restore_denormals(caller)
    release(&workspace, team.cancelled)


def rnn_backward(
    const floating[:, :, :] dy not None,            # IN   (T, B, H)
    const floating[:, ::1] dh_n not None,           # IN   (B, H)
    const floating[:, :, :] x not None,             # IN   (T, B, I)
    const floating[:, ::1] W_x not None,            # IN   (I, H)
    const floating[:, ::1] W_h not None,            # IN   (H, H)
    const floating[:, ::1] h_0 not None,            # IN   (B, H)
    const Py_ssize_t[::1] lengths not None,         # IN   (B,)
    const floating[:, :, :] y not None,             # IN   (T, B, H)
    floating[:, :, :] dx not None,                  # OUT  (T, B, I)
    floating[:, ::1] dW_x not None,                 # OUT  (I, H)
    floating[:, ::1] dW_h not None,                 # OUT  (H, H)
    floating[::1] dbias not None,                   # OUT  (H,)
    floating[:, ::1] dh_0 not None,                 # OUT  (B, H)
):
    """Walk `rnn_forward` back; see `clstm.reference.rnn_backward`."""
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1], I = x.shape[2], H = W_h.shape[0]
    cdef Py_ssize_t V = lanes(&dbias[0])
    cdef Py_ssize_t P = (H + V - 1) // V
    cdef Py_ssize_t Hp = P * V
    cdef Py_ssize_t Ip = (I + V - 1) // V * V
    cdef Py_ssize_t K = I + H + 1
    cdef Py_ssize_t chunks = 0, start = 0, end, rows, most, n, s, r, b, j, k
    cdef Sequence inputs = sequence(x)
    cdef Sequence outputs = sequence(y)
    cdef Sequence d_inputs = sequence(dx)
    cdef Sequence d_outputs = sequence(dy)
    cdef Workspace workspace
    cdef Schedule schedule
    cdef Team team
    cdef fp_state caller
    cdef floating one = 1
    cdef floating *panels_x     # W_x transposed, (H, I)
    cdef floating *panels_h     # W_h transposed, (H, H)
    cdef floating *chunk_a      # [x; h_prev; 1], so that the bias is one more weight: (K, rows) in tiles
    cdef floating *chunk_h      # (rows, Hp)
    cdef floating *chunk_dz     # (rows, Hp), at first dy
    cdef floating *panels_dz    # the same, packed
    cdef floating *chunk_dx     # (rows, Ip)
    cdef floating *dW           # (K, Hp)
    cdef floating *dh           # (B, Hp) from later steps
    cdef floating *zeros        # a panel's width of them
    cdef Py_ssize_t *ends       # of the chunks
    cdef const floating *h_prev
    workspace.count = 0
    workspace.failed = False
    begin(&team, polls(<double> T * B * H * (I + H)))
    with nogil:
        schedule = plan(&lengths[0] if B > 0 else NULL, B, False, I, H, &workspace)
        most = max(B, schedule.chunk_rows)
        panels_x = <floating *> take(&workspace, H * Ip * sizeof(floating))
        panels_h = <floating *> take(&workspace, H * Hp * sizeof(floating))
        chunk_a = <floating *> take(&workspace, most * (K + tile_rows(4)) * sizeof(floating))
        chunk_h = <floating *> take(&workspace, most * Hp * sizeof(floating))
        chunk_dz = <floating *> take(&workspace, most * Hp * sizeof(floating))
        panels_dz = <floating *> take(&workspace, most * Hp * sizeof(floating))
        chunk_dx = <floating *> take(&workspace, most * Ip * sizeof(floating))
        dW = <floating *> take(&workspace, K * Hp * sizeof(floating))
        dh = <floating *> take(&workspace, B * Hp * sizeof(floating))
        zeros = <floating *> take(&workspace, 4 * V * sizeof(floating))
        ends = <Py_ssize_t *> take(&workspace, schedule.steps * sizeof(Py_ssize_t))
        if not workspace.failed:
            caller = flush_denormals()
            pack_matrix(&W_x[0, 0], H, I, 1, H, panels_x)
            pack_matrix(&W_h[0, 0], H, H, 1, H, panels_h)
            memset(chunk_h, 0, most * Hp * sizeof(floating))        # for the padding
            memset(chunk_dz, 0, most * Hp * sizeof(floating))
            memset(dW, 0, K * Hp * sizeof(floating))
            memset(dh, 0, B * Hp * sizeof(floating))
            memset(zeros, 0, 4 * V * sizeof(floating))
            zero_padding(&d_inputs, &schedule, T, sizeof(floating))
            for r in range(B):
                memcpy(dh + r * Hp, &dh_n[schedule.order[r], 0], H * sizeof(floating))
            while start < schedule.steps:
                start = chunk_end(&schedule, start, &rows)
                ends[chunks] = start
                chunks += 1

            # The chunks of the forward pass, the last one first.
            while chunks > 0 and not stopped(&team):
                chunks -= 1
                start, end = ends[chunks - 1] if chunks else 0, ends[chunks]
                chunk_end(&schedule, start, &rows)
                n = 0
                for s in range(start, end):
                    for r in range(schedule.active[s]):
                        b = schedule.order[r]
                        h_prev = <const floating *> at(&outputs, s - 1, b) if s else &h_0[b, 0]
                        into_tiles(<const floating *> at(&inputs, s, b), I, 0, n, rows, chunk_a)
                        into_tiles(h_prev, H, I, n, rows, chunk_a)
                        into_tiles(<const floating *> &one, 1, I + H, n, rows, chunk_a)
                        memcpy(chunk_h + n * Hp, at(&outputs, s, b), H * sizeof(floating))
                        memcpy(chunk_dz + n * Hp, at(&d_outputs, s, b), H * sizeof(floating))
                        n += 1

                # 6', and what it hands to the step before.
                for s in range(end - 1, start - 1, -1):
                    n -= schedule.active[s]
                    for j in range(schedule.active[s] * P):
                        tanh_backward_units(<const floating *> chunk_h + n * Hp + j * V, dh + j * V, chunk_dz + n * Hp + j * V)
                    multiply(<const floating *> chunk_dz + n * Hp, schedule.active[s], Hp, panels_h, P, H, zeros, 0, 0,
                             dh, Hp, 4 * V)
                    poll(&team, 0, <double> schedule.active[s] * H * (I + H), caller)
                    if stopped(&team):
                        break

                # 5': the sums over all rows of the chunk are products.
                pack_matrix(<const floating *> chunk_dz, rows, H, Hp, 1, panels_dz)
                multiply(<const floating *> chunk_a, K, 0, panels_dz, P, rows, dW, Hp, 4 * V, dW, Hp, 4 * V)
                multiply(<const floating *> chunk_dz, rows, Hp, panels_x, Ip // V, H, zeros, 0, 0, chunk_dx, Ip, 4 * V)
                n = 0
                for s in range(start, end):
                    for r in range(schedule.active[s]):
                        memcpy(at(&d_inputs, s, schedule.order[r]), chunk_dx + n * Ip, I * sizeof(floating))
                        n += 1

            for k in range(K):
                memcpy(&dW_x[k, 0] if k < I else &dW_h[k - I, 0] if k < I + H else &dbias[0], dW + k * Hp, H * sizeof(floating))
            for r in range(B):
                memcpy(&dh_0[schedule.order[r], 0], dh + r * Hp, H * sizeof(floating))
            restore_denormals(caller)
    release(&workspace, team.cancelled)
